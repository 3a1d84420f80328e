"""BLEU, SacreBLEU, TER, chrF and ROUGE against the libraries that define them, METEOR against NLTK."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import TreebankWordTokenizer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp
from text_pairs import batch_of, pieced_pairs, text_pairs

from rl4lms.metrics import TextBatch, build_metric, overlap
from rl4lms.metrics import meteor as meteor_module
from rl4lms.metrics.words import words

BATCH = text_pairs(120)
# TER takes seconds for long texts that hardly agree; of an empty one it is ours.
SHORT = batch_of(
    [
        (t, r)
        for t, r in zip(BATCH.generated, BATCH.references, strict=True)
        if len("".join([t, *r])) < 400 and t.split()
    ]
)
SACREBLEU = {
    "sacre_bleu": ("sacrebleu", sacrebleu.BLEU),
    "ter": ("ter", sacrebleu.TER),
    "chrf": ("chrf", sacrebleu.CHRF),
}


def by_sacrebleu(scorer: Any, batch: TextBatch) -> tuple[list[float], float]:
    """Each text is a corpus of one; the corpus is split by the number of references, weighted by size."""

    def score(texts: list[str], references: list[list[str]]) -> float:
        streams = [list(stream) for stream in zip(*references, strict=True)]
        return float(scorer.corpus_score(texts, streams).score) / 100

    pairs = list(zip(batch.generated, batch.references, strict=True))
    weighted = 0.0
    for number in {len(references) for references in batch.references}:
        group = [(text, references) for text, references in pairs if len(references) == number]
        weighted += len(group) * score(*map(list, zip(*group, strict=True)))
    return [score([text], [references]) for text, references in pairs], weighted / len(batch)


@pytest.mark.parametrize("metric", list(SACREBLEU))
def test_sacrebleu_metrics(metric: str) -> None:
    batch = SHORT if metric == "ter" else BATCH
    assert len(batch) >= 60 and {len(references) for references in batch.references} == {1, 2, 3}
    name, scorer = SACREBLEU[metric]
    score = build_metric(metric)(batch)[f"lexical/{name}"]
    alone, corpus = by_sacrebleu(scorer(), batch)
    assert score.per_sample == pytest.approx(alone, abs=1e-12)
    assert score.corpus == pytest.approx(corpus, abs=1e-12)


@pytest.mark.parametrize(
    ("tokenize", "count"), [("13a", 1500), ("intl", 300), ("char", 150), ("zh", 150), ("none", 200)]
)
def test_sacre_bleu_equals_sacrebleu_to_the_last_bit(tokenize: str, count: int) -> None:
    batch = pieced_pairs(count)
    alone, corpus = by_sacrebleu(sacrebleu.BLEU(tokenize=tokenize), batch)
    score = build_metric("sacre_bleu", {"tokenize": tokenize})(batch)["lexical/sacrebleu"]
    assert score.per_sample == alone and sum(0 < value < 1 for value in alone) > count / 3
    assert score.corpus == pytest.approx(corpus, abs=1e-12)


def test_tokens_of_13a_are_sacrebleus() -> None:
    """For all short texts of the characters that its rules are about."""
    tokenizer = sacrebleu.BLEU(tokenize="13a").tokenizer
    for length in range(6):
        for characters in itertools.product("a1.,-! ", repeat=length):
            text = "".join(characters)
            assert overlap.split_tokens(text, "13a") == tokenizer(text.rstrip()).split(), repr(text)


def test_no_text_stays_in_sacrebleus_caches() -> None:
    for tokenize in ("13a", "intl", "none"):
        build_metric("sacre_bleu", {"tokenize": tokenize})(batch_of([("a ...5", ["b &amp; c"])]))
        kinds = (Tokenizer13a, TokenizerV14International, TokenizerRegexp)
        assert [kind.__call__.cache_info().currsize for kind in kinds] == [0, 0, 0]


def test_sacre_bleu_of_a_short_text_is_zero() -> None:
    """There is no effective order: it has no 4-gram."""
    scores = build_metric("sacre_bleu")(
        batch_of([("the cat", ["the cat"]), ("the cat sat down", ["the cat sat down"])])
    )
    assert scores["lexical/sacrebleu"].per_sample == pytest.approx([0, 1])


@pytest.mark.parametrize("use_single_ref", [True, False])
def test_rouge(use_single_ref: bool) -> None:
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    scores = build_metric("rouge", {"use_single_ref": use_single_ref})(BATCH)
    assert list(scores) == [f"lexical/rouge_{kind}" for kind in kinds]
    for kind in kinds:
        expected = [
            max(
                scorer.score(reference, text)[kind].fmeasure
                for reference in references[: 1 if use_single_ref else None]
            )
            for text, references in zip(BATCH.generated, BATCH.references, strict=True)
        ]
        assert scores[f"lexical/rouge_{kind}"].per_sample == pytest.approx(expected, abs=1e-12)
        assert scores[f"lexical/rouge_{kind}"].corpus == pytest.approx(math.fsum(expected) / len(BATCH))


def bleu(*pairs: tuple[str, list[str]]) -> list[float]:
    score = build_metric("bleu")(batch_of(list(pairs)))["lexical/bleu"]
    assert score.per_sample is not None
    return [*score.per_sample, score.corpus]


def test_bleu_by_hand() -> None:
    # 5/6 unigrams, 3/5 bigrams, 2/4 trigrams, 1/3 4-grams; as long as the reference.
    assert bleu(("a b c d x f", ["a b c d e f"]))[0] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # A word counts as often as in the reference with most of it; the shortest reference sets the length.
    values = bleu(("a a a a a", ["a a a a b b b b", "b b b b b b"]))
    assert values[0] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * math.exp(1 - 6 / 5))
    # The corpus value pools the counts.
    pooled = bleu(("a b c d", ["a b c d"]), ("x y z", ["x y z w v"]))
    assert pooled[:2] == [pytest.approx(1), 0]
    assert pooled[2] == pytest.approx(math.exp(1 - 9 / 7))


@pytest.mark.parametrize("pair", [("", ["a b"]), ("a b c", ["a b c"]), ("a b c d", [""]), ("", [""])])
def test_bleu_without_any_4_gram_in_common_is_zero(pair: tuple[str, list[str]]) -> None:
    assert bleu(pair) == [0, 0]


def nltk_meteor(batch: TextBatch, synsets: Any, as_released: bool) -> list[float]:
    wordnet = SimpleNamespace(synsets=synsets)
    values = []
    for text, references in zip(batch.generated, batch.references, strict=True):
        against = [str(references)] if as_released else references
        tokens = [words(reference) for reference in against]
        values.append(meteor_score(tokens, words(text), stemmer=PorterStemmer(), wordnet=wordnet))
    return values


@pytest.mark.parametrize("as_released", [False, True])
def test_meteor_without_synonyms(as_released: bool) -> None:
    scores = build_metric("meteor", {"wordnet": False, "as_released": as_released})(BATCH)
    assert list(scores) == ["lexical/meteor_no_wordnet"]
    expected = nltk_meteor(BATCH, lambda word: [], as_released)
    assert scores["lexical/meteor_no_wordnet"].per_sample == pytest.approx(expected, abs=1e-12)


class SmallWordNet:
    """A WordNet of a few synsets, with NLTK's interface, that counts how often a word is looked up."""

    _SETS = (
        ("child", "kid"),
        ("cat", "true_cat", "tom"),
        ("dog", "domestic_dog"),
        ("better", "amend", "good"),
    )

    def __init__(self) -> None:
        self.looked_up: dict[str, int] = {}

    def synsets(self, word: str) -> list[Any]:
        self.looked_up[word] = self.looked_up.get(word, 0) + 1
        return [self._synset(names) for names in self._SETS if word in names]

    def synonyms(self, word: str) -> set[str]:
        return {name for synset in self.synsets(word) for name in synset.lemma_names()}

    @staticmethod
    def _synset(names: tuple[str, ...]) -> Any:
        lemmas = [SimpleNamespace(name=lambda name=name: name) for name in names]
        return SimpleNamespace(lemmas=lambda: lemmas, lemma_names=lambda: list(names))


def test_meteor_with_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallWordNet()
    monkeypatch.setattr(meteor_module, "open_wordnet", lambda: small)
    meteor_module._wordnet.cache_clear()
    batch = batch_of(
        [
            ("the kid saw a tom", ["the child saw a cat"]),
            ("a dog", ["some domestic dog", "a cat"]),
            ("kid", ["kid"]),
        ]
        * 40
    )
    try:
        scores = build_metric("meteor")(batch)
    finally:
        meteor_module._wordnet.cache_clear()
    assert max(small.looked_up.values()) == 1, "synonyms are remembered"
    expected = nltk_meteor(batch, SmallWordNet().synsets, as_released=False)
    assert scores["lexical/meteor"].per_sample == pytest.approx(expected, abs=1e-12)
    # All five words in one chunk: 1 - 0.5 x (1/5)^3.
    assert expected[0] == pytest.approx(1 - 0.5 / 125)


def test_meteor_takes_the_best_reference_and_the_released_one_the_printed_list() -> None:
    batch = batch_of([("a cat", ["a dog", "a cat"])])
    best = build_metric("meteor", {"wordnet": False})(batch)["lexical/meteor_no_wordnet"].corpus
    assert best == pytest.approx(1 - 0.5 * (1 / 2) ** 3)
    args = {"wordnet": False, "as_released": True}
    released = build_metric("meteor", args)(batch)["lexical/meteor_no_wordnet"].corpus
    printed = build_metric("meteor", {"wordnet": False})(batch_of([("a cat", ["['a dog', 'a cat']"])]))
    assert released == printed["lexical/meteor_no_wordnet"].corpus < 0.5


def test_words_are_treebank_tokens_of_the_whole_text() -> None:
    assert words("He said. They'll go, don't they? (Yes.)") == tuple(
        TreebankWordTokenizer().tokenize("He said. They'll go, don't they? (Yes.)")
    )
    # An opening quote stays with its word unless that is a single letter, as in NLTK up to 3.10.0.
    assert words("'hello there' 'b'") == ("'hello", "there", "'", "'", "b", "'")


def test_common_gen_repeat_penalty() -> None:
    prefix = "generate a sentence with: "
    prompts = [
        prefix + concepts
        for concepts in ("dog run park.", "dog run park.", "dog run park.", "a b.", "a b.", "x.")
    ]
    texts = ["the dog runs", "Dog RUN park", "a SENTENCE", "I generate a b", "a, b", "it is odd"]
    batch = TextBatch(prompts, texts, [[text] for text in texts], [{} for _ in texts])
    plain = build_metric("meteor", {"wordnet": False})(batch)["lexical/meteor_no_wordnet"].per_sample
    key = "lexical/meteor_common_gen_repeat_penalty_no_wordnet"
    score = build_metric("meteor_common_gen_repeat_penalty", {"wordnet": False})(batch)[key]
    assert score.per_sample is not None and plain is not None
    assert [round(a - b, 9) for a, b in zip(plain, score.per_sample, strict=True)] == [0, 1, 1, 1, 0, 0]
    other = build_metric("meteor_common_gen_repeat_penalty", {"wordnet": False, "prefix": "it is "})(batch)[
        key
    ]
    assert other.corpus == pytest.approx(sum(plain) / 6 - 3 / 6)

"""Tokenizers made from text: the same text gives the same tokenizer, in every process."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from paper.small_models.config import ModelType
from rl4lms.text_tasks import SENTINELS, sentinel

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # T5's, ids 0, 1, 2
START = "<s>"  # a classifier's, id 3
END_OF_TEXT = "<|endoftext|>"  # GPT-2's
# How many times more pieces than wanted there are at first, and after the first look at which are used.
_FIRST, _SECOND = 2.0, 1.5
_MAX_CHARACTERS = 200  # kinds of; rarer ones are unknown


def build_tokenizer(
    kind: ModelType, texts: Sequence[str], size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a T5 ("seq2seq"), GPT-2 ("causal") or classifier, made of these texts.

    size: tokens at most.
    """
    if kind == "causal":
        return byte_tokenizer(texts, size, max_length)
    return unigram_tokenizer(texts, size, max_length, classifier=kind == "classifier")


def byte_tokenizer(texts: Sequence[str], size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's; id 0 is <|endoftext|>, there is no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=max_length,
    )


def unigram_tokenizer(
    texts: Sequence[str], size: int, max_length: int, *, classifier: bool = False
) -> PreTrainedTokenizerFast:
    """Lower-cased Unigram as T5's: ids 0, 1, 2 are <pad>, </s>, <unk>, the last ones sentinels.

    classifier: a text begins with <s> (id 3), where BERT has its summary; no sentinels.
    UnigramTrainer is not used: it breaks ties of pieces in the order of a hash table, so that its vocabulary
    differs from process to process.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    words = Counter(
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    )
    special = [PAD, END, UNKNOWN, *([START] if classifier else [])]
    sentinels = [] if classifier else [sentinel(number) for number in range(SENTINELS)]
    scores = unigram_scores(words, size - len(special) - len(sentinels))
    tokenizer.model = models.Unigram([*((token, 0.0) for token in special), *scores], unk_id=2)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}" if classifier else f"$A {END}",
        pair=f"{START} $A {END} $B {END}" if classifier else f"$A {END} $B {END}",
        special_tokens=[(token, number) for number, token in enumerate(special)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        cls_token=START if classifier else None,
        extra_special_tokens=sentinels,
        model_max_length=max_length,
    )


def unigram_scores(words: Counter[str], size: int) -> list[tuple[str, float]]:
    """Pieces and their log-probabilities, likeliest first, of a Unigram model of words that occur so often.

    As in Kudo (2018) there are first more pieces than wanted, of which those stay that the model of all uses
    most. Counts are of each word's likeliest segmentation, not expected ones; the first pieces are BPE's.
    """
    candidates = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=round(_FIRST * size), limit_alphabet=_MAX_CHARACTERS, show_progress=False
    )
    candidates.train_from_iterator((word for word, n in sorted(words.items()) for _ in range(n)), trainer)
    pieces = sorted(candidates.get_vocab())
    characters = [piece for piece in pieces if len(piece) == 1]
    counts = _piece_counts(candidates, words)
    for target_size in (round(_SECOND * size), size):
        counts = _piece_counts(Tokenizer(_unigram(pieces, counts)), words)
        longer = sorted(
            (piece for piece in pieces if len(piece) > 1), key=lambda piece: (-counts[piece], piece)
        )
        pieces = sorted(characters + longer[: max(0, target_size - len(characters))])
    counts = _piece_counts(Tokenizer(_unigram(pieces, counts)), words)
    return _scores(pieces, counts)


def _piece_counts(tokenizer: Tokenizer, words: Counter[str]) -> Counter[str]:
    """Count how often each piece occurs in the segmented words."""
    counts: Counter[str] = Counter()
    distinct = list(words)
    for word, encoding in zip(distinct, tokenizer.encode_batch(distinct), strict=True):
        for piece in encoding.tokens:
            counts[piece] += words[word]
    return counts


def _unigram(pieces: Sequence[str], counts: Counter[str]) -> models.Unigram:
    return models.Unigram([(UNKNOWN, 0.0), *_scores(pieces, counts)], unk_id=0)


def _scores(pieces: Sequence[str], counts: Counter[str]) -> list[tuple[str, float]]:
    """Log of each piece's share, one that is never used counted as a tenth, likeliest first."""
    total = sum(counts[piece] for piece in pieces)
    scores = [(piece, math.log((counts[piece] or 0.1) / total)) for piece in pieces]
    return sorted(scores, key=lambda scored: (-scored[1], scored[0]))

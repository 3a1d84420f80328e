"""WordNet's synonyms are those that NLTK finds."""

import json
from pathlib import Path

import pytest
from tiny_wordnet import write_wordnet

from rl4lms.wordnet import DETACHMENT, PARTS_OF_SPEECH, SHARED, read_wordnet

GOLDEN = Path(__file__).parents[1] / "golden" / "wordnet_synonyms.json"


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("child", {"child", "kid"}),
        ("Children", {"child", "kid"}),  # irregular; case does not matter
        ("kids", {"child", "kid", "young_goat"}),
        ("cats", {"cat", "true_cat"}),
        ("pities", {"pity"}),
        ("better", {"better", "amend", "good", "well", "fine"}),
        ("finer", {"fine", "good"}),
        ("looked", {"seem", "look"}),  # "(a)" is no part of a name
        ("bests", set()),  # adverbs have no endings, and what is irregular is not looked up by rule
        ("dog", set()),
        ("", set()),
        ("\u00e9t\u00e9", set()),
    ],
)
def test_synonyms_by_hand(tmp_path: Path, word: str, synonyms: set[str]) -> None:
    assert read_wordnet(write_wordnet(tmp_path / "wordnet")).synonyms(word) == synonyms


def test_endings_are_nltks() -> None:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    rules = WordNetCorpusReader.MORPHOLOGICAL_SUBSTITUTIONS
    letters = dict(zip(PARTS_OF_SPEECH, "nvar", strict=True))
    assert {part: list(DETACHMENT[part]) for part in letters} == {
        part: rules[letter] for part, letter in letters.items()
    }


def test_synonyms_of_wordnet_3() -> None:
    """The words of the golden METEOR values, whose synonyms NLTK found."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not there: apt-get install wordnet-base")
    wordnet = read_wordnet(SHARED)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["synonyms"]
    assert len(golden) == 77
    for word, synonyms in golden.items():
        assert {name for name in wordnet.synonyms(word) if "_" not in name} == set(synonyms), word

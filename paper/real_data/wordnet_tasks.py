"""Two text generation tasks of WordNet's own text: sentences from words, and the category of a noun.

Both are natural English that no package's docstrings hold. The form of the files: wndb(5WN), lexnames(5WN).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.files import atomic_write_text
from rl4lms.datapools.jsonl import JsonlArgs, read_samples
from rl4lms.samples import Sample, Split

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
CATEGORIES = {
    **{"04": "act", "05": "animal", "06": "artifact", "07": "attribute", "08": "body", "09": "cognition"},
    **{"10": "communication", "11": "event", "12": "feeling", "13": "food", "14": "group", "15": "location"},
    **{"16": "motive", "17": "object", "18": "person", "19": "phenomenon", "20": "plant"},
    **{"21": "possession", "22": "process", "23": "quantity", "24": "relation", "25": "shape"},
    **{"26": "state", "27": "substance", "28": "time"},
}
SENTENCE_WORDS, DEFINITION_WORDS = range(5, 13), range(3, 13)  # lengths that are taken
FEWEST_CONTENT_WORDS = 3
# Words that say little of what a sentence is about.
STOP_WORDS = frozenset(
    "a about all an and any are as at be because been but by can could did do does down for from had has "
    "have he her him his how i if in into is it its just may me more most must my no nor not of off on one "
    "only or our out over own shall she should so some such than that the their them then there these they "
    "this those to too under until up us very was we were what when where which while who whom will with "
    "would you your".split()
)
_QUOTED = re.compile(r'"([^"]+)"')
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
# Of a hundred texts, by the hash of each: the first go to test, the next to val, the rest to train.
_TEST, _VAL = 20, 30


class Synset(NamedTuple):
    """A line of a data file: its first word, number of its lexicographer file, definition, examples."""

    word: str
    category: str
    definition: str
    examples: list[str]


def write_tasks(folder: Path) -> None:
    """Write sentences/ and categories/ for the datapool `jsonl` beside the data files in `folder`."""
    synsets = {part: list(read_synsets(folder / f"data.{part}")) for part in PARTS_OF_SPEECH}
    sentences = [text for part in synsets.values() for synset in part for text in synset.examples]
    _write(folder / "sentences", filter(None, map(sentence_row, dict.fromkeys(sentences))))
    _write(folder / "categories", filter(None, map(category_row, synsets["noun"])))


def load_part(split: Split, *, data_path: str, num_train: int, num_val: int, num_test: int) -> list[Sample]:
    """Load the first rows of each split of a task, which are as good as random ones. Raises DataError."""
    sizes: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
    return read_samples(split, JsonlArgs(data_path=data_path), sizes[split])


def read_synsets(file: Path) -> Iterator[Synset]:
    """Every synset of a data file."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        _, category, _, _, word = fields.split()[:5]
        definition = gloss.split('; "')[0].split(";")[0].strip()
        yield Synset(word, category, definition, [text.strip() for text in _QUOTED.findall(gloss)])


def sentence_row(text: str) -> dict[str, str] | None:
    """The task of an example: to write it, given its content words in alphabetical order; None: not taken."""
    words = _WORD.findall(text)
    content = sorted({word.lower() for word in words} - STOP_WORDS)
    if len(words) not in SENTENCE_WORDS or len(content) < FEWEST_CONTENT_WORDS:
        return None
    return {"prompt": f"Words: {', '.join(content)}\nSentence:", "references": f" {text}"}


def category_row(synset: Synset) -> dict[str, str] | None:
    """The task of a noun: to name its category, given its definition; None: not taken."""
    is_plain = synset.word.isalpha() and synset.word.islower()
    if not is_plain or len(synset.definition.split()) not in DEFINITION_WORDS:
        return None
    if synset.category not in CATEGORIES:
        return None
    prompt = f"{synset.word}: {synset.definition}\nCategory:"
    return {"prompt": prompt, "references": f" {CATEGORIES[synset.category]}"}


def _write(folder: Path, rows: Iterator[dict[str, str]]) -> None:
    """The rows of each split in the order of the hashes of their prompts, each prompt once."""
    hashed = {hashlib.sha256(row["prompt"].encode()).hexdigest(): row for row in rows}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for digest in sorted(hashed):
        share = int(digest[-8:], 16) % 100
        split = "test" if share < _TEST else "val" if share < _VAL else "train"
        splits[split].append(json.dumps(hashed[digest], ensure_ascii=False) + "\n")
    folder.mkdir()
    for split, lines in splits.items():
        atomic_write_text(folder / f"{split}.jsonl", "".join(lines))

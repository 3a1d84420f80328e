"""Tasks that need no download, made of the docstrings of the standard library and of this project's packages.

Everything hangs on a record's first sentence (case, punctuation and space aside). By its hash it belongs to
the half for pretraining or to the half for tasks, and there to train, val or test; the hash also gives the
order, so that the first n samples are a random choice and those of a smaller n are among those of a larger.
Records that share their first sentence become one prompt with several references.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Literal

from pydantic import Field

from common import python_docs
from common.config import Config, Problem
from common.hub import DataError
from common.python_docs import (
    DEFAULT_PACKAGES,
    STDLIB,
    DocRecord,
    default_cache_dir,
    harvest,
    package_root,
    paragraphs,
    source_key,
    write_cache,
)
from rl4lms.datapools import docstring_forms
from rl4lms.datapools.docstring_forms import FORMS, MIN_WORDS, Form, FormName, Pair, is_plain
from rl4lms.datapools.sources import PromptSuffix, Size
from rl4lms.samples import Sample, Split


class PythonDocsArgs(Config):
    form: FormName = Field("summary", description="which task is made of the docstrings")
    packages: list[str] = Field(
        list(DEFAULT_PACKAGES), min_length=1, description="packages whose docstrings are read"
    )
    num_train: Size = None
    num_val: Size = None
    num_test: Size = None
    prompt_prefix: str | None = Field(None, description="text before each input; null: the form's own")
    prompt_suffix: PromptSuffix = ""
    reference_prefix: str = Field(
        "", description="text before each reference; causal models need a space: they train on prompt + it"
    )

    def check(self) -> list[Problem]:
        problems = []
        for number, package in enumerate(self.packages):
            try:
                package_root(package)
            except LookupError as error:
                problems.append(Problem(f"packages[{number}]", str(error)))
        return problems


logger = logging.getLogger(__name__)

Part = Literal["pretraining", "train", "val", "test"]
# The smaller ones first: what would be in two splits is left out of train.
_SPLITS: tuple[Split, ...] = ("test", "val", "train")
# Shares of all sentences: half for pretraining; of the rest 80% train, 10% val, 10% test.
_SHARES: dict[Part, float] = {"pretraining": 0.5, "train": 0.4, "val": 0.05, "test": 0.05}


def load(
    split: Split,
    *,
    form: FormName,
    packages: Sequence[str],
    num_train: int | None,
    num_val: int | None,
    num_test: int | None,
    prompt_prefix: str | None,
    prompt_suffix: str,
    reference_prefix: str,
) -> list[Sample]:
    """Load the first samples of a split; no prompt and no sentence asked for is also in another split.

    Raises DataError: a package is not installed.
    """
    samples = [
        _add_affixes(sample, FORMS[form], prompt_prefix, prompt_suffix, reference_prefix)
        for sample in _task_samples(form, tuple(packages))[split]
    ]
    size = {"train": num_train, "val": num_val, "test": num_test}[split]
    if size is not None and size > len(samples):
        logger.warning("%s %s samples asked for, there are %s", f"{size:,}", split, f"{len(samples):,}")
    return samples[:size]


def pretraining_text(packages: Sequence[str] = DEFAULT_PACKAGES) -> list[str]:
    """Distinct paragraphs of the pretraining half, in hash order; none contains a sentence of a task."""
    sentences = _task_sentences(tuple(packages))
    return [text for text in text_with_origins("pretraining", packages) if not _contains(text, sentences)]


def text_with_origins(part: Part, packages: Sequence[str] = DEFAULT_PACKAGES) -> dict[str, set[str]]:
    """Distinct paragraphs of a part, in hash order, with the packages whose docstrings have them."""
    origins: dict[str, set[str]] = {}
    for _, records in _sentences_by_part(tuple(packages))[part]:
        for record in records:
            top = record.module.partition(".")[0]
            for text in paragraphs(record.docstring):
                origins.setdefault(text, set()).add(top if top in packages else STDLIB)
    return origins


def pretraining_samples(
    form: FormName,
    packages: Sequence[str] = DEFAULT_PACKAGES,
    prompt_prefix: str | None = None,
    prompt_suffix: str = "",
) -> list[Sample]:
    """Samples of a form made of the pretraining half, none of which contains a sentence of a task."""
    sentences = _task_sentences(tuple(packages))
    groups = _sentences_by_part(tuple(packages))["pretraining"]
    return [
        _add_affixes(sample, FORMS[form], prompt_prefix, prompt_suffix)
        for sample in _make_samples(form, "pretraining", groups, set())
        if not any(_contains(text, sentences) for text in (sample.prompt_or_input_text, *sample.references))
    ]


@lru_cache(maxsize=2)
def _sentences_by_part(packages: tuple[str, ...]) -> dict[Part, list[tuple[str, list[DocRecord]]]]:
    """The first sentences of each part, as first written, with all their records, in hash order."""
    try:
        records = harvest(packages)
    except LookupError as error:
        raise DataError(f"datapool.args.packages: {error}") from error
    groups: dict[str, list[DocRecord]] = {}
    for record in records:
        groups.setdefault(_key(record.sentence), []).append(record)
    parts: dict[Part, list[tuple[str, list[DocRecord]]]] = {part: [] for part in _SHARES}
    for key in sorted(filter(None, groups), key=_fraction):
        parts[_part(_fraction(key))].append((groups[key][0].sentence, groups[key]))
    return parts


@lru_cache(maxsize=len(FORMS))
def _task_samples(form: FormName, packages: tuple[str, ...]) -> dict[Split, list[Sample]]:
    """All samples of a form, prompts without prefix; none repeats a prompt, or a sentence asked for.

    Kept in the cache's folder: making them takes longer than all else that a short run does before it begins.
    """
    cached = default_cache_dir() / "docstring_tasks" / f"{form}-{_code_and_sources(packages)}.json"
    try:
        splits = json.loads(cached.read_text(encoding="utf-8"))
        return {split: [Sample(*row) for row in splits[split]] for split in _SPLITS}
    except (OSError, ValueError, TypeError, KeyError):
        pass  # none there, or a broken one: made anew
    seen: set[str] = set()
    parts = _sentences_by_part(packages)
    samples = {split: _make_samples(form, split, parts[split], seen) for split in _SPLITS}
    write_cache(
        cached, json.dumps({split: [astuple(row) for row in rows] for split, rows in samples.items()})
    )
    return samples


@lru_cache(maxsize=2)
def _code_and_sources(packages: tuple[str, ...]) -> str:
    """What the samples depend on, hexadecimal: this code and the packages. Raises DataError."""
    try:
        digest = hashlib.sha256(source_key(packages).encode())
    except LookupError as error:
        raise DataError(f"datapool.args.packages: {error}") from error
    for file in (__file__, docstring_forms.__file__, python_docs.__file__):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _make_samples(
    form: FormName, part: Part, groups: Iterable[tuple[str, list[DocRecord]]], seen: set[str]
) -> list[Sample]:
    """Make a part's samples, by their prompts' hash; they repeat nothing `seen`, which grows by them."""
    pairs: list[tuple[float, Pair]] = []
    for sentence, records in groups:
        if not is_plain(sentence):
            continue
        for pair in FORMS[form].pairs(sentence, records):
            prompt, references, _ = pair
            answers = references if FORMS[form].distinct_references else []
            keys = {_key(text) for text in [prompt, *answers]}
            if "" not in keys and not keys & seen:
                seen |= keys
                pairs.append((_fraction(_key(prompt)), pair))
    pairs.sort(key=itemgetter(0))
    return [Sample(f"{part}_{number}", *pair) for number, (_, pair) in enumerate(pairs)]


@lru_cache(maxsize=2)
def _task_sentences(packages: tuple[str, ...]) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Every sentence that a task shows or asks for, as words, by its first words."""
    parts = _sentences_by_part(packages)
    texts = {sentence for split in _SPLITS for sentence, _ in parts[split]}
    for form in FORMS:
        for samples in _task_samples(form, packages).values():
            texts.update(text for sample in samples for text in sample.references)
    sentences: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for words in {tuple(_words(text)) for text in texts}:
        if len(words) >= MIN_WORDS:
            sentences.setdefault(words[:MIN_WORDS], []).append(words)
    return sentences


def _contains(text: str, sentences: dict[tuple[str, ...], list[tuple[str, ...]]]) -> bool:
    words = tuple(_words(text))
    return any(
        words[start : start + len(sentence)] == sentence
        for start in range(len(words) - MIN_WORDS + 1)
        for sentence in sentences.get(words[start : start + MIN_WORDS], ())
    )


def _add_affixes(
    sample: Sample, form: Form, prefix: str | None, suffix: str, reference_prefix: str = ""
) -> Sample:
    prompt = (form.prefix if prefix is None else prefix) + sample.prompt_or_input_text + suffix
    references = [reference_prefix + text for text in sample.references]
    return Sample(sample.id, prompt, references, dict(sample.meta_data))


def _key(text: str) -> str:
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _fraction(key: str) -> float:
    """Hash a text to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def _part(fraction: float) -> Part:
    for part, share in _SHARES.items():
        if fraction < share:
            return part
        fraction -= share
    return "test"

"""What models are pretrained on: texts and pairs of the pretraining half, and batches drawn by number.

A batch follows from the seed and its number alone, so that a resumed run needs no state of the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, cast, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.hub import DataError
from common.seeding import derive_seed
from paper.small_models.config import NEXT_TOKEN, PretrainConfig
from rl4lms.datapools import load_datapool
from rl4lms.datapools.docstring_forms import FormName
from rl4lms.datapools.python_docs import (
    Part,
    pretraining_samples,
    pretraining_text,
    text_with_origins,
)
from rl4lms.model.packing import IGNORED, pad_rows
from rl4lms.samples import Sample
from rl4lms.text_tasks import MIN_WORDS, TEXT_TASKS, Example, TextTask, passage

# CHUNK x CHUNK batches are drawn together and sorted by length: a third of what is computed is padding, in
# batches of any lengths three quarters.
CHUNK = 8


@dataclass(frozen=True)
class Corpus:
    """texts: distinct paragraphs; pairs: task made of docstrings -> (input, target) pairs.

    A classifier's pairs are class -> (paragraph, nothing), and it has no other texts.
    """

    texts: list[str]
    pairs: dict[str, list[Example]]

    def all_texts(self) -> list[str]:
        """The paragraphs, and both sides of the pairs."""
        return self.texts + [part for pairs in self.pairs.values() for pair in pairs for part in pair if part]

    def digest(self) -> str:
        """Hash all of it: SHA-256, hexadecimal."""
        return hashlib.sha256(json.dumps([self.texts, self.pairs]).encode()).hexdigest()


class Batch(NamedTuple):
    """Encoded examples. ids, mask: [B, P], None for a causal model; labels: [B, T], IGNORED at padding."""

    ids: Tensor | None
    mask: Tensor | None
    labels: Tensor

    def tokens(self) -> int:
        """Count the real tokens of inputs and targets."""
        inputs = 0 if self.mask is None else int(self.mask.sum())
        return inputs + int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        return Batch(
            ids=None if self.ids is None else self.ids.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            labels=self.labels.to(device),
        )


def training_corpus(config: PretrainConfig) -> Corpus:
    """The pretraining half; none of it contains a sentence of a task. Raises DataError."""
    packages = config.data.packages
    if config.model_type == "classifier":
        return _class_corpus(config, pretraining_text(packages), "pretraining")
    pairs: dict[str, list[Example]] = {
        form: _pairs(pretraining_samples(form, packages)) for form in _forms(config)
    }
    return Corpus(_long_enough(pretraining_text(packages)), pairs)


def held_out_corpus(config: PretrainConfig) -> Corpus:
    """The tasks' validation split, of which the pretraining half has nothing: texts, and the same pairs."""
    if config.model_type == "classifier":
        # Later paragraphs of a docstring may be those of another one, which is in the other half.
        known = text_with_origins("pretraining", config.data.packages)
        texts = [text for text in text_with_origins("val", config.data.packages) if text not in known]
        return _class_corpus(config, texts, "val")

    def samples(form: FormName) -> list[Sample]:
        return load_datapool("python_docs", "val", {"form": form, "packages": config.data.packages})

    pairs: dict[str, list[Example]] = {form: _pairs(samples(form)) for form in _forms(config)}
    return Corpus(_long_enough([sample.meta_data["reference"] for sample in samples("continuation")]), pairs)


def draw(config: PretrainConfig, corpus: Corpus, number: int, rng: Random) -> list[tuple[str, Example]]:
    """Draw `number` examples with the names of their tasks, which are the classes of a classifier."""
    if config.model_type == "classifier":
        labels = rng.choices(list(config.data.classes), k=number)
        return [(label, (passage(rng.choice(corpus.pairs[label])[0], rng), label)) for label in labels]
    mixture = config.alg.mixture
    tasks = rng.choices(list(mixture), list(mixture.values()), k=number) if mixture else [NEXT_TOKEN] * number
    return [(task, _example(corpus, task, rng)) for task in tasks]


def batches(
    config: PretrainConfig, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, first: int
) -> Iterator[Batch]:
    """Yield the run's batches from number `first` (from 0) on, without end."""
    number, size = first, config.alg.batch_size
    while True:
        group, place = divmod(number, CHUNK**2)
        rng = Random(derive_seed(config.runtime.seed, "pretraining", "batches", group))
        examples = [example for _, example in draw(config, corpus, CHUNK**2 * size, rng)]
        rows = encode(examples, tokenizer, config)
        parts = group_by_length(rows, size)
        rng.shuffle(parts)
        for part in parts[place:]:
            yield collate([rows[i] for i in part])
            number += 1


def group_by_length(rows: Sequence[tuple[Sequence[int], Sequence[int]]], size: int) -> list[list[int]]:
    """Group positions of rows (input, target) into batches of `size` in which both lengths are similar."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    chunks = [order[start : start + CHUNK * size] for start in range(0, len(order), CHUNK * size)]
    order = [i for chunk in chunks for i in sorted(chunk, key=lambda i: len(rows[i][0]))]
    return [order[start : start + size] for start in range(0, len(order), size)]


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, config: PretrainConfig
) -> list[tuple[list[int], list[int]]]:
    """Encode inputs and targets as token ids, cut to `data.max_length`.

    Causal models have no ids of inputs: one text of both, which ends with the end token. A classifier's
    target is the number of a class.
    """
    longest = config.data.max_length
    targets = [target for _, target in examples]
    if config.model_type == "causal":
        texts = [f"{source} {target}" if source else target for source, target in examples]
        rows = tokenizer(texts, verbose=False)["input_ids"]
        return [([], [*row, tokenizer.eos_token_id][:longest]) for row in rows]
    inputs = tokenizer([source for source, _ in examples], truncation=True, max_length=longest)["input_ids"]
    if config.model_type == "classifier":
        numbers = {label: number for number, label in enumerate(config.data.classes)}
        return [(row, [numbers[target]]) for row, target in zip(inputs, targets, strict=True)]
    labels = tokenizer(targets, truncation=True, max_length=longest)["input_ids"]
    return list(zip(inputs, labels, strict=True))


def collate(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    """Pad rows of token ids into tensors."""
    labels = pad_rows([row for _, row in rows], IGNORED)
    if not rows[0][0]:
        return Batch(None, None, labels)
    ids = pad_rows([row for row, _ in rows], IGNORED)
    mask = ids != IGNORED
    return Batch(ids.where(mask, 0), mask, labels)


def _class_corpus(config: PretrainConfig, texts: Iterable[str], part: Part) -> Corpus:
    """Keep the texts of packages of one class alone. Raises DataError: a class has none."""
    origins = text_with_origins(part, config.data.packages)
    pairs: dict[str, list[Example]] = {
        label: [(text, "") for text in _long_enough(texts) if origins[text] <= set(packages)]
        for label, packages in config.data.classes.items()
    }
    for label, examples in pairs.items():
        if not examples:
            raise DataError(f"data.classes.{label}: its packages have no texts of their own ({part})")
    return Corpus([], pairs)


def _example(corpus: Corpus, task: str, rng: Random) -> Example:
    if task == NEXT_TOKEN:
        return "", rng.choice(corpus.texts)
    if task in get_args(TextTask):
        return TEXT_TASKS[cast(TextTask, task)](rng.choice(corpus.texts), rng)
    return rng.choice(corpus.pairs[task])


def _forms(config: PretrainConfig) -> list[FormName]:
    return [cast(FormName, task) for task in config.alg.mixture if task not in (*TEXT_TASKS, NEXT_TOKEN)]


def _pairs(samples: Sequence[Sample]) -> list[Example]:
    return [(sample.prompt_or_input_text, sample.references[0]) for sample in samples]


def _long_enough(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if len(text.split()) >= MIN_WORDS]

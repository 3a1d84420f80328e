"""Pretraining text that finetuning mixes in: examples drawn by number, and their loss.

A causal model learns the next token of a text that ends with the end token, an encoder-decoder the mixture of
tasks that a T5 is pretrained on. Examples follow from a seed alone, so that a resumed run needs no state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.hub import DataError
from rl4lms.config.parts import max_positions
from rl4lms.config.pretraining import PYTHON_DOCS, TEXT_TASKS, PretrainingConfig
from rl4lms.datapools import load_datapool
from rl4lms.datapools.docstring_forms import FormName
from rl4lms.datapools.jsonl import read_texts
from rl4lms.datapools.python_docs import pretraining_samples, pretraining_text
from rl4lms.model.forward import Sequences, compute_logits, shortest_pass
from rl4lms.model.packing import pad_rows
from rl4lms.model.source import Kind
from rl4lms.text_tasks import MIN_WORDS, SENTINELS, TextTask, sentinel
from rl4lms.text_tasks import TEXT_TASKS as TASK_FUNCTIONS
from rl4lms.text_tasks import Example as TextPair

_LOGITS_AT_A_TIME = 2**25  # of a pass with gradient: 128 MiB, and as much again for their gradient


@dataclass(frozen=True)
class Example:
    """What is read, and the tokens [T] that are learnt after it; of a causal model its first token."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True, kw_only=True)
class PretrainingText:
    """texts; pairs: task that is made of docstrings -> (input, target); mixture: task -> share, {}: causal.

    limit: tokens of an example's source, and of its target; of a causal model of both together.
    """

    texts: list[str]
    pairs: dict[str, list[TextPair]]
    mixture: dict[str, float]
    tokenizer: PreTrainedTokenizerBase
    limit: int | None

    def draw(self, number: int, seed: int) -> list[Example]:
        """Draw so many examples, each from a text that is drawn with replacement."""
        rng = Random(seed)
        if not self.mixture:
            return self._encode_texts([rng.choice(self.texts) for _ in range(number)])
        tasks = rng.choices(list(self.mixture), list(self.mixture.values()), k=number)
        return self._encode_pairs([self._make_pair(task, rng) for task in tasks])

    def digest(self) -> str:
        """Hash all that examples are drawn from: SHA-256, hexadecimal."""
        content = [self.texts, self.pairs, self.mixture]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _make_pair(self, task: str, rng: Random) -> TextPair:
        if task in TEXT_TASKS:
            return TASK_FUNCTIONS[cast(TextTask, task)](rng.choice(self.texts), rng)
        return rng.choice(self.pairs[task])

    def _encode_texts(self, texts: list[str]) -> list[Example]:
        rows = self._tokenize(texts)
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        rows = [[*row, *end][: self.limit] for row in rows]
        return [Example(row[:1], row[1:]) for row in rows]

    def _encode_pairs(self, pairs: list[TextPair]) -> list[Example]:
        sources, targets = (self._tokenize([pair[side] for pair in pairs]) for side in (0, 1))
        return [
            Example(self._ended(source), self._ended(target))
            for source, target in zip(sources, targets, strict=True)
        ]

    def _ended(self, ids: list[int]) -> list[int]:
        """Cut ids to the limit; an end token ends them, whether or not the tokenizer adds one."""
        end = self.tokenizer.eos_token_id
        ids = ids[:-1] if ids[-1:] == [end] else ids
        return [*ids[: None if self.limit is None else self.limit - 1], end]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, verbose=False)["input_ids"] if texts else []


def load_pretraining(
    config: PretrainingConfig, model_name: str, kind: Kind, tokenizer: PreTrainedTokenizerBase
) -> PretrainingText:
    """Load the text of an `alg.pretraining` block. model_name: what is finetuned, for its positions.

    Raises DataError: there is none, or the tokenizer lacks tokens that a task needs; DatapoolError.
    """
    mixture = {} if kind == "causal" else config.mixture
    lacking = [sentinel(i) for i in range(SENTINELS) if sentinel(i) not in tokenizer.get_vocab()]
    if "span_corruption" in mixture and lacking:
        raise DataError(
            f"alg.pretraining.task: span_corruption needs the token {lacking[0]!r}, which the tokenizer "
            f"{tokenizer.name_or_path!r} has not; leave the task out of alg.pretraining.task"
        )
    forms = [cast(FormName, task) for task in mixture if task not in TEXT_TASKS]
    limits = (config.max_length, tokenizer.model_max_length, max_positions(model_name))
    text = PretrainingText(
        texts=[text for text in _read(config, tokenizer.name_or_path) if len(text.split()) >= MIN_WORDS],
        pairs={
            form: [(sample.prompt_or_input_text, sample.references[0]) for sample in samples]
            for form in forms
            if (samples := pretraining_samples(form))
        },
        mixture=mixture,
        tokenizer=tokenizer,
        limit=min((limit for limit in limits if limit is not None and limit < 2**31), default=None),
    )
    if not text.texts:
        raise DataError(f"alg.pretraining: {_describe(config)} has no text of at least {MIN_WORDS} words")
    if missing := sorted(set(forms) - text.pairs.keys()):
        raise DataError(f"alg.pretraining.task: no example of {missing[0]} can be made of the docstrings")
    return text


def _read(config: PretrainingConfig, tokenizer_name: str) -> list[str]:
    if config.datapool is not None:
        samples = load_datapool(config.datapool.id, "train", config.datapool.args, tokenizer_name)
        return [sample.prompt_or_input_text + "".join(sample.references[:1]) for sample in samples]
    if config.texts == PYTHON_DOCS:
        return pretraining_text()
    return read_texts(Path(str(config.texts)).expanduser())


def _describe(config: PretrainingConfig) -> str:
    return repr(config.texts) if config.datapool is None else f"datapool {config.datapool.id!r}"


def sum_token_losses(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Sum -log p over the target tokens of examples, in nats: a pass of the model, dropout as it is set."""
    device = model.device
    sources, targets = ([getattr(e, side) for e in examples] for side in ("source", "target"))
    source_mask, mask = (pad_rows([[1] * len(row) for row in rows], 0) for rows in (sources, targets))
    sequences = Sequences(
        pad_rows(sources, 0).to(device),
        source_mask.bool().to(device),
        pad_rows(targets, 0).to(device),
        mask.bool().to(device),
    )
    rows, columns = sequences.response_mask.nonzero(as_tuple=True)
    logits = compute_logits(model, shortest_pass(model, sequences, rows, columns))
    return cross_entropy(logits, sequences.response_ids[rows, columns], reduction="sum")


def passes(model: PreTrainedModel, examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Share examples out to passes that fit into memory, similar lengths together."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    ordered = sorted(examples, key=lambda e: len(e.source) + len(e.target), reverse=True)
    while ordered:
        longest = max(len(example.target) for example in ordered)
        size = max(1, _LOGITS_AT_A_TIME // (vocabulary * max(1, longest)))
        yield ordered[:size]
        ordered = ordered[size:]


@torch.no_grad()
def mean_token_loss(model: PreTrainedModel, examples: Sequence[Example]) -> float:
    """The mean of -log p over the target tokens of examples, in nats."""
    total = sum(float(sum_token_losses(model, part)) for part in passes(model, examples))
    return total / sum(len(example.target) for example in examples)

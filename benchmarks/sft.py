"""What an update of supervised finetuning costs, against the floor: the same update as a plain loop.

Random models without dropout, prompts and references of `python_docs`, batches of 32. The project is a whole
training run by transformers.Trainer, with its log. The floor tokenizes a random batch, pads it, and makes one
forward and backward pass and one step of AdamW. Both take turns in one process. First both train on the same
32 pairs and must come to the same losses. Times are CPU seconds of one thread; with --device cuda, seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from setting import (
    MODELS,
    Enough,
    RandomModel,
    StepCounter,
    checked_config,
    compare_numbers,
    load_samples,
    median_ratio,
    now,
    save_model,
    train,
    write_data,
)
from torch import nn

from common import process
from rl4lms.config import TrainConfig
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.samples import Sample

BATCH_SIZE, LEARNING_RATE, MAX_NORM = 32, 1e-4, 1.0
UPDATES = {"t5-medium": 10, "gpt2-medium": 10}  # of a turn; of the others 40
CHECKED_UPDATES = 5
TOLERANCE = 1e-3  # of the largest loss or gradient norm: float32 rounding, after AdamW's steps


def make_config(
    model: RandomModel, path: Path, samples: Sequence[Sample], device: str, updates: int
) -> TrainConfig:
    """The project's config."""
    content = {
        "tokenizer": {"model_name": str(path), "truncation_side": "right"},
        "datapool": write_data(path / "data.jsonl", samples),
        "alg": {
            "id": "supervised",
            "model_type": model.kind,
            "model_name": str(path),
            "training_args": {
                "per_device_train_batch_size": BATCH_SIZE,
                "max_steps": updates,
                "learning_rate": LEARNING_RATE,
                "lr_scheduler_type": "constant",
                "weight_decay": 0.0,
                "max_grad_norm": MAX_NORM,
                "logging_steps": updates,
                "save_strategy": "no",
            },
            "generation_kwargs": {"max_new_tokens": 1},
        },
        "train_evaluation": {"eval_batch_size": 1, "max_eval_samples": 1, "metrics": []},
        "runtime": {"seed": 0, "device": device},
    }
    return checked_config(TrainConfig, content)


class Floor:
    """Model, optimiser and shuffled pairs of a plain loop."""

    def __init__(self, model: RandomModel, path: Path, samples: Sequence[Sample], device: str) -> None:
        self.is_seq2seq, self.device = model.kind == "seq2seq", device
        self.model: Any = load_model(str(path), model.kind, torch.float32, device).train()
        self.tokenizer = load_tokenizer(str(path), padding_side="right", truncation_side="right")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True
        )
        pairs = [(sample.prompt_or_input_text, text) for sample in samples for text in sample.references]
        self.batches = self._shuffled(pairs)

    def update(self) -> tuple[float, float]:
        """Forward, backward and a step on the next batch; returns loss and gradient norm."""
        pairs = next(self.batches)
        prompts = [prompt for prompt, _ in pairs]
        references = [reference for _, reference in pairs]
        if self.is_seq2seq:
            batch, labels = self._padded(prompts), self._padded(references)
        else:
            batch = labels = self._padded([a + b for a, b in zip(prompts, references, strict=True)])
        targets = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        loss = self.model(**batch, labels=targets, use_cache=False).loss
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        return loss.item(), norm.item()

    def _padded(self, texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer(
            texts, padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False
        )
        return dict(encoded.to(self.device))

    @staticmethod
    def _shuffled(pairs: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
        """Full batches, all pairs in a new random order every epoch."""
        while True:
            for chunk in torch.randperm(len(pairs)).split(BATCH_SIZE):
                if len(chunk) == BATCH_SIZE:
                    yield [pairs[i] for i in chunk.tolist()]


def check(model: RandomModel, path: Path, samples: Sequence[Sample], device: str) -> float:
    """The largest relative difference of losses and norms. Raises ValueError: it is above the tolerance."""
    same = [Sample(sample.id, sample.prompt_or_input_text, sample.references[:1]) for sample in samples]
    same = same[:BATCH_SIZE]
    rows = train(make_config(model, path, same, device, CHECKED_UPDATES))
    floor = Floor(model, path, same, device)
    losses, norms = zip(*(floor.update() for _ in range(CHECKED_UPDATES)), strict=True)
    return max(
        compare_numbers(f"{model.name}: loss", [row["loss"] for row in rows], losses, TOLERANCE),
        compare_numbers(f"{model.name}: norm", [row["grad_norm"] for row in rows], norms, TOLERANCE),
    )


def measure(
    model: RandomModel, path: Path, samples: Sequence[Sample], device: str, updates: int, turns: int
) -> tuple[list[float], list[float]]:
    """Seconds an update of project and floor, turn by turn, after a turn of each that is not counted."""
    config = make_config(model, path, samples, device, 10**6)
    floor = Floor(model, path, samples, device)
    project_times: list[float] = []
    floor_times: list[float] = []
    started, steps_before = 0.0, 0

    # A training asks after each update whether to stop; after `updates` of them the floor has its turn.
    def take_turns(steps: StepCounter) -> bool:
        nonlocal started, steps_before
        if floor_times and steps.steps - steps_before < updates:
            return False
        if floor_times:
            project_times.append((now() - started) / updates)
        if len(project_times) > turns:
            raise Enough
        started = now()
        for _ in range(updates):
            floor.update()
        floor_times.append((now() - started) / updates)
        started, steps_before = now(), steps.steps
        return False

    with StepCounter() as steps:
        train(config, lambda: take_turns(steps))
    return project_times[1:], floor_times[1:]


ROW = "{:<12}|{:>10}{:>10}{:>20}{:>14}"


def main(argv: Sequence[str] | None = None) -> int:
    """Check and measure the models asked for and print their rows; returns the exit status."""
    process.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = list(MODELS)
    small = ["t5-tiny", "gpt2-tiny", *UPDATES]
    parser.add_argument("--models", nargs="+", choices=names, default=small, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="measured turns (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    torch.set_num_threads(1)
    samples = load_samples()
    print(
        f"{args.device}, torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}, {args.repeats} turns"
    )
    print(f"milliseconds an update of {BATCH_SIZE} pairs; difference: of losses and gradient norms, relative")
    print(ROW.format(*"model project floor project/floor difference".split()))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            model = MODELS[name]
            path = save_model(model, Path(folder), samples)
            difference = check(model, path, samples, args.device)
            updates = UPDATES.get(name, 40)
            project, floor = measure(model, path, samples, args.device, updates, args.repeats)
            times = [f"{1000 * median(side):.1f}" for side in (project, floor)]
            print(ROW.format(name, *times, median_ratio(project, floor), f"{difference:.0e}"), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

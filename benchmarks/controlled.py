"""What an epoch of the controlled experiments costs, against the floor: the same training as a plain loop.

The project is `sft_vs_rft.train.train`: `expected_reinforce` with a tenth of the inputs modified, every
tracked value of all inputs and of the two groups, and the epoch's row written to metrics.jsonl. The floor
tracks nothing: the same data in memory, one forward and backward pass and one step of Adam a batch (text: in
micro-batches of similar lengths). Neither evaluates on test inputs or writes checkpoints. Both take turns in
one process, in CPU seconds; with --device cuda, seconds. First both train on the same batches and must come
to the same rewards.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import process
from common.run_dir import RunDir
from common.tracking import Tracker
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, Inputs, TokenizedPairs
from sft_vs_rft.models import BERT_VOCABULARY, build_model
from sft_vs_rft.train import TrainingInterrupted, train

CHECKED_EPOCHS = 5
TOLERANCE = 1e-3  # of rewards between -1 and 1: float32 rounding, after Adam's steps


@dataclass(frozen=True)
class Case:
    """One model and the sizes it is measured at.

    image_shape: None = text. epochs: of a turn. turns: how many, by default. most: target of the ratio.
    """

    model_type: Literal["mlp", "resnet18", "bert-mini"]
    dataset: Literal["mnist", "cifar10", "stsb"]
    image_shape: tuple[int, int, int] | None
    inputs: int
    batch_size: int
    epochs: int
    turns: int
    most: float


CASES = [
    Case("mlp", "mnist", (1, 28, 28), 1000, 512, 10, 15, most=1.3),
    Case("resnet18", "cifar10", (3, 32, 32), 512, 512, 1, 7, most=2.0),
    Case("bert-mini", "stsb", None, 512, 512, 1, 7, most=1.3),
]


@dataclass(frozen=True)
class Timing:
    """Seconds an epoch of each side, turn by turn."""

    project: list[float]
    floor: list[float]


def make_config(case: Case, epochs: int) -> ExperimentConfig:
    """A finetuning experiment of the paper, without evaluation."""
    return ExperimentConfig(
        dataset=case.dataset,
        model_type=case.model_type,
        experiment_name="benchmark",
        epochs=epochs,
        validate_every=10**9,
        epoch_log_interval=-1,
        batch_size=case.batch_size,
        opt_method="expected_reinforce",
        frac_samples_to_modify_labels=0.1,
        random_seed=0,
        init_rnd_seed=0,
    )


def make_data(case: Case) -> ControlledData:
    """Random inputs of the case's shape with random labels, a tenth of them modified."""
    generator = torch.Generator().manual_seed(0)
    num_classes = 6 if case.image_shape is None else 10
    labels = torch.randint(num_classes, (case.inputs,), generator=generator)
    modified = torch.arange(case.inputs) % 10 == 0
    inputs: Inputs = random_pairs(case.inputs, generator)
    if case.image_shape is not None:
        inputs = torch.randn((case.inputs, *case.image_shape), generator=generator)
    test = torch.arange(1)
    return ControlledData(inputs, labels, modified, inputs[test], labels[test], None, num_classes)


def random_pairs(size: int, generator: torch.Generator) -> TokenizedPairs:
    """Sentence pairs of random tokens, long as those of STS-B: about 30 tokens, few several times as long."""
    lengths = (27 * (0.45 * torch.randn(size, generator=generator)).exp()).long().clamp(9, 128)
    positions = torch.arange(int(lengths.max()))
    is_token, is_second = positions < lengths[:, None], positions >= lengths[:, None] // 2
    ids = torch.randint(1000, BERT_VOCABULARY, is_token.shape, generator=generator)
    return TokenizedPairs((ids * is_token).int(), (is_second & is_token).int(), lengths)


class Floor:
    """A plain loop over the data: no groups, nothing tracked."""

    def __init__(self, config: ExperimentConfig, data: ControlledData, model: nn.Module) -> None:
        self.inputs, self.model, self.micro_batch_size = data.train_inputs, model, config.micro_batch_size
        self.rewards = 2.0 * F.one_hot(data.train_labels, data.num_classes) - 1
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )

    def epoch(self, batches: Iterable[Tensor]) -> list[Tensor]:
        """A step for each batch of positions; returns the mean expected reward of each, before its step."""
        self.model.train()
        means = []
        for batch in batches:
            self.optimizer.zero_grad()
            mean = torch.zeros((), device=self.rewards.device)
            for index in self._micro_batches(batch):
                probs = self.model(self.inputs[index]).softmax(-1)
                part = (probs * self.rewards[index]).sum() / len(batch)
                (-part).backward()
                mean += part.detach()
            self.optimizer.step()
            means.append(mean)
        return means

    def _micro_batches(self, batch: Tensor) -> Iterator[Tensor]:
        if isinstance(self.inputs, Tensor):
            yield batch
        else:
            yield from batch[self.inputs.lengths[batch].argsort()].split(self.micro_batch_size)


def check(case: Case, device: torch.device) -> float:
    """The largest difference of the mean rewards of some epochs. Raises ValueError: above the tolerance."""
    config, data = make_config(case, CHECKED_EPOCHS), make_data(case).to(device)
    model = build_model(config, data).to(device)
    floor = Floor(config, data, copy.deepcopy(model))
    generator = torch.Generator().manual_seed(0)
    orders = [
        torch.randperm(case.inputs, generator=generator).split(case.batch_size) for _ in range(CHECKED_EPOCHS)
    ]
    rows = train(config, data, model, lambda epoch: orders[epoch]).rows
    project = [row["train"]["reward"] for row in rows]
    plain = [torch.stack(floor.epoch(order)).mean().item() for order in orders]
    difference = max(abs(a - b) for a, b in zip(project, plain, strict=True))
    if not difference <= TOLERANCE:
        raise ValueError(f"{case.model_type}: rewards of the project {project}, of the floor {plain}")
    return difference


def measure(case: Case, turns: int, device: torch.device) -> Timing:
    """`turns` turns of each side, after one of each that is not counted."""
    config, data = make_config(case, 10**9), make_data(case).to(device)
    model = build_model(config, data).to(device)
    floor = Floor(config, data, copy.deepcopy(model))
    timing = Timing([], [])
    started, epochs = 0.0, 0

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    # `train` asks for the order of an epoch's inputs before the epoch, and whether to stop after it: the
    # floor has its turn before the first epoch of a turn of the project.
    def batch_order(epoch: int) -> Sequence[Tensor]:
        nonlocal started
        if epoch % case.epochs == 0:
            started = now()
            for _ in range(case.epochs):
                floor.epoch(torch.randperm(case.inputs).split(case.batch_size))
            timing.floor.append((now() - started) / case.epochs)
            started = now()
        return torch.randperm(case.inputs).split(case.batch_size)

    def should_stop() -> bool:
        nonlocal epochs
        epochs += 1
        if epochs % case.epochs == 0:
            timing.project.append((now() - started) / case.epochs)
        return len(timing.project) > turns

    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.create(Path(folder), "benchmark", config.model_dump(), {}) as run,
        Tracker(run) as tracker,
    ):
        try:
            train(config, data, model, batch_order, tracker=tracker, should_stop=should_stop)
        except TrainingInterrupted:
            pass
    return Timing(timing.project[1:], timing.floor[1:])


ROW = "{:<10}{:>7}{:>6}{:>10}{:>10}{:>15}{:>12}  {:<8}{:<5}{:>10}"
TITLES = "model inputs batch project floor project/floor least-most target met difference".split()


def report(case: Case, timing: Timing, difference: float) -> str:
    """A row of the table: median times, median of the turns' ratios, target."""
    ratios = [a / b for a, b in zip(timing.project, timing.floor, strict=True)]
    times = [f"{1000 * median(t):,.1f}" for t in (timing.project, timing.floor)]
    shown = [f"{median(ratios):.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}", f"<= {case.most:g}"]
    met = "yes" if median(ratios) <= case.most else "NO"
    return ROW.format(case.model_type, case.inputs, case.batch_size, *times, *shown, met, f"{difference:.0e}")


def main(argv: Sequence[str] | None = None) -> int:
    """Check and measure the models asked for and print a row for each; returns the exit status."""
    process.prepare()
    names = [case.model_type for case in CASES]
    turns = ", ".join(str(case.turns) for case in CASES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--repeats", type=int, help=f"measured turns of each side (default: {turns})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.threads < 1 or (args.repeats is not None and args.repeats < 1):
        parser.error("--threads and --repeats must be at least 1")
    torch.set_num_threads(args.threads)

    print("milliseconds an epoch; difference: of the rewards of the same training")
    print(f"{args.device}, torch {torch.__version__}, threads: {args.threads}, cores: {os.cpu_count()}\n")
    print(ROW.format(*TITLES))
    for case in CASES:
        if case.model_type in args.models:
            device = torch.device(args.device)
            difference = check(case, device)
            timing = measure(case, args.repeats or case.turns, device)
            print(report(case, timing, difference), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What an epoch of the controlled experiments costs, against a bare and against a straightforward loop.

Three loops train on the same random data and take short turns, so that a busy machine slows all:
  ours    `sft_vs_rft.train.train` itself: `expected_reinforce`, every tracked value of all inputs and of the
          two groups, and the epoch's row written to metrics.jsonl;
  plain   nothing tracked: the same data in memory, one forward, one backward and one step of the same
          optimiser per batch (text: the same length-sorted micro-batches);
  loop    the values tracked in the obvious way: a DataLoader over single inputs (images kept as bytes and
          normalised one by one, text padded to 512 tokens), per batch a forward and backward over each group
          and over all inputs, norms and metrics read with .item(), torch's default Adam.
None evaluates on test inputs or writes checkpoints.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common import process
from common.run_dir import RunDir
from common.tracking import Tracker
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, Inputs, TokenizedPairs
from sft_vs_rft.gradients import length_sorted, select
from sft_vs_rft.models import BERT_VOCABULARY, build_model
from sft_vs_rft.train import TrainingInterrupted, build_optimizer, train

PADDED_TOKENS = 512
Epoch = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One model and the sizes it is measured at.

    image_shape: None = text. loop_inputs: how many of the inputs an epoch of `loop` sees; its time is scaled
    up in proportion. epochs: of a turn. turns: how many, by default. most_of_plain: target for ours / plain;
    least_of_loop: target for loop / ours.
    """

    model_type: Literal["mlp", "resnet18", "bert-mini"]
    dataset: Literal["mnist", "cifar10", "stsb"]
    image_shape: tuple[int, int, int] | None
    inputs: int
    batch_size: int
    loop_inputs: int
    epochs: int
    turns: int
    most_of_plain: float
    least_of_loop: float | None


CASES = [
    Case("mlp", "mnist", (1, 28, 28), 1000, 512, 1000, 10, 15, most_of_plain=1.3, least_of_loop=2.5),
    Case("resnet18", "cifar10", (3, 32, 32), 512, 512, 512, 1, 7, most_of_plain=2.0, least_of_loop=None),
    Case("bert-mini", "stsb", None, 512, 512, 16, 1, 7, most_of_plain=1.3, least_of_loop=10.0),
]


@dataclass(frozen=True)
class Timing:
    """Seconds an epoch of each loop, turn by turn."""

    ours: list[float]
    plain: list[float]
    loop: list[float]


def measure(case: Case, turns: int, device: torch.device) -> Timing:
    """`turns` turns of each loop, after an unmeasured one of each."""
    config, data = make_config(case), make_data(case)
    on_device = data.to(device)
    model = build_model(config, data).to(device)
    plain = plain_epoch(config, on_device, copy.deepcopy(model))
    loop = loop_epoch(config, data, copy.deepcopy(model), case.loop_inputs, device)
    timing = Timing([], [], [])
    started, epochs = 0.0, 0

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    # `train` asks for the order of an epoch's inputs before the epoch, and whether to stop after it: the
    # others have their turn before the first epoch of a turn of ours.
    def batch_order(epoch: int) -> Sequence[Tensor]:
        nonlocal started
        if epoch % case.epochs == 0:
            for run_epoch, seconds in ((plain, timing.plain), (loop, timing.loop)):
                started = now()
                for _ in range(case.epochs):
                    run_epoch()
                seconds.append((now() - started) / case.epochs)
            started = now()
        return torch.randperm(case.inputs).split(case.batch_size)

    def should_stop() -> bool:
        nonlocal epochs
        epochs += 1
        if epochs % case.epochs == 0:
            timing.ours.append((now() - started) / case.epochs)
        return len(timing.ours) > turns

    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.create(Path(folder), "benchmark", config.model_dump(), {}) as run,
        Tracker(run) as tracker,
    ):
        try:
            train(config, on_device, model, batch_order, tracker=tracker, should_stop=should_stop)
        except TrainingInterrupted:
            pass
    scale = case.inputs / case.loop_inputs
    return Timing(timing.ours[1:], timing.plain[1:], [scale * seconds for seconds in timing.loop[1:]])


def make_config(case: Case) -> ExperimentConfig:
    """A finetuning experiment of the paper, without evaluation, that `measure` stops."""
    return ExperimentConfig(
        dataset=case.dataset,
        model_type=case.model_type,
        experiment_name="benchmark",
        epochs=10**9,
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
        pixels = torch.randint(256, (case.inputs, *case.image_shape), generator=generator)
        inputs = normalised(pixels.byte())
    test = torch.arange(1)
    return ControlledData(inputs, labels, modified, inputs[test], labels[test], None, num_classes)


def random_pairs(size: int, generator: torch.Generator) -> TokenizedPairs:
    """Sentence pairs of random tokens, long as those of STS-B: about 30 tokens, few several times as long."""
    lengths = (27 * (0.45 * torch.randn(size, generator=generator)).exp()).long().clamp(9, 128)
    positions = torch.arange(int(lengths.max()))
    is_token, is_second = positions < lengths[:, None], positions >= lengths[:, None] // 2
    ids = torch.randint(1000, BERT_VOCABULARY, is_token.shape, generator=generator)
    return TokenizedPairs((ids * is_token).int(), (is_second & is_token).int(), lengths)


def normalised(pixels: Tensor) -> Tensor:
    """Bytes as numbers around 0."""
    return (pixels.float() / 255 - 0.5) / 0.25


def rewards_of(labels: Tensor, num_classes: int) -> Tensor:
    """1 for the label, -1 for the others. labels: [N]. Returns [N, num_classes]."""
    return 2.0 * F.one_hot(labels, num_classes) - 1


def plain_epoch(config: ExperimentConfig, data: ControlledData, model: nn.Module) -> Epoch:
    """Training without tracking."""
    optimizer = build_optimizer(config, model)
    rewards = rewards_of(data.train_labels, data.num_classes)

    def parts(batch: Tensor) -> Iterator[Tensor]:
        if isinstance(data.train_inputs, Tensor):
            return iter([batch])
        return (batch[i] for i in length_sorted(data.train_inputs[batch], config.micro_batch_size))

    def epoch() -> None:
        model.train()
        for batch in torch.randperm(len(rewards), device=rewards.device).split(config.batch_size):
            optimizer.zero_grad()
            for index in parts(batch):
                probs = model(select(data.train_inputs, index)).softmax(-1)
                (-(probs * rewards[index]).sum() / len(batch)).backward()
            optimizer.step()

    return epoch


class Items(Dataset[tuple[Tensor, ...]]):
    """The first `size` items of some columns, `transform` applied to the first column, one item at a time."""

    def __init__(self, size: int, columns: Sequence[Tensor], transform: Callable[[Tensor], Tensor]) -> None:
        self.size, self.columns, self.transform = size, columns, transform

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        first, *rest = (column[index] for column in self.columns)
        return self.transform(first), *rest


def loop_epoch(
    config: ExperimentConfig, data: ControlledData, model: nn.Module, size: int, device: torch.device
) -> Epoch:
    """Training on `size` inputs that tracks by one pass over each group and one over all inputs."""
    targets = (data.train_labels, data.modified)
    if isinstance(data.train_inputs, Tensor):
        pixels = ((data.train_inputs * 0.25 + 0.5) * 255).round().byte()
        items = Items(size, (pixels, *targets), normalised)
    else:
        pairs = data.train_inputs
        width = (0, PADDED_TOKENS - pairs.input_ids.shape[1])
        ids, types = F.pad(pairs.input_ids, width), F.pad(pairs.token_type_ids, width)
        items = Items(size, (ids, types, pairs.lengths, *targets), lambda tokens: tokens)
    loader = DataLoader(items, batch_size=config.batch_size, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)

    def pass_over(inputs: list[Tensor], labels: Tensor) -> dict[str, float]:
        optimizer.zero_grad()
        logits = model(TokenizedPairs(*inputs) if len(inputs) > 1 else inputs[0])
        probs, rewards = logits.softmax(-1), rewards_of(labels, data.num_classes)
        reward = (probs * rewards).sum(-1)
        (-reward.mean()).backward()
        std = (probs * (rewards - reward[:, None]).square()).sum(-1).sqrt()
        grad_norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        params_norm = torch.stack([p.detach().norm() for p in model.parameters()]).norm()
        return {
            "loss": F.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(-1) == labels).float().mean().item(),
            "reward": reward.mean().item(),
            "reward std": std.mean().item(),
            "params norm": params_norm.item(),
            "grad norm": grad_norm.item(),
            "normalized grad norm": (grad_norm / params_norm).item(),
        }

    def epoch() -> None:
        model.train()
        rows = []
        for batch in loader:
            *inputs, labels, modified = (column.to(device) for column in batch)
            for group in (modified, ~modified):
                rows.append(pass_over([column[group] for column in inputs], labels[group]))
            rows.append(pass_over(inputs, labels))
            optimizer.step()

    return epoch


ROW = "{:<10}{:>7}{:>6}{:>10}{:>10}{:>12}{:>12}  {:<7}{:>10}  {:<7}{:<4}"
TITLES = "model inputs batch ours plain loop ours/plain target loop/ours target met".split()


def report(case: Case, timing: Timing) -> str:
    """A row of the table: median times, medians of the turns' ratios, targets."""
    of_plain = statistics.median(a / b for a, b in zip(timing.ours, timing.plain, strict=True))
    of_loop = statistics.median(a / b for a, b in zip(timing.loop, timing.ours, strict=True))
    most, least = case.most_of_plain, case.least_of_loop
    met = of_plain <= most and (least is None or of_loop >= least)
    times = [f"{1000 * statistics.median(t):,.1f}" for t in (timing.ours, timing.plain, timing.loop)]
    ratios = [f"{of_plain:.2f}", f"<= {most:g}", f"{of_loop:.1f}", f">= {least:g}" if least else "-"]
    return ROW.format(case.model_type, case.inputs, case.batch_size, *times, *ratios, "yes" if met else "NO")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models asked for and print a row for each; returns the exit status."""
    process.prepare()
    names = [case.model_type for case in CASES]
    turns = ", ".join(str(case.turns) for case in CASES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--repeats", type=int, help=f"measured turns of each loop (default: {turns})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.threads < 1 or (args.repeats is not None and args.repeats < 1):
        parser.error("--threads and --repeats must be at least 1")
    torch.set_num_threads(args.threads)

    print("ms an epoch and ratios: medians over interleaved turns, without evaluation and checkpoints")
    print(f"{args.device}, torch {torch.__version__}, threads: {args.threads}, cores: {os.cpu_count()}\n")
    print(ROW.format(*TITLES))
    for case in CASES:
        if case.model_type in args.models:
            timing = measure(case, args.repeats or case.turns, torch.device(args.device))
            print(report(case, timing), flush=True)
            if case.loop_inputs < case.inputs:
                print(f"(loop: measured on {case.loop_inputs} inputs, scaled to {case.inputs})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

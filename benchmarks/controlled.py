"""What an epoch of the controlled experiments costs, against a bare and against a straightforward loop.

Three loops train on the same random data, taking turns epoch by epoch, so that a busy machine slows all three:
  ours    `sft_vs_rft.train.train` itself: `expected_reinforce`, all tracked values of all inputs and of the
          two groups, and the epoch's row written to metrics.jsonl;
  plain   tracks nothing: the same data in memory, one forward, one backward and one step of the same
          optimiser per batch (text: the same length-sorted micro-batches);
  loop    tracks the same values in the obvious way: a DataLoader over single inputs, per batch a forward and
          backward over all its inputs and over each group, norms and metrics read with .item(), torch's
          default Adam; text padded to 512 tokens.
No loop evaluates on test inputs or writes checkpoints.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.run_dir import RunDir
from common.tracking import Tracker
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, Inputs, TokenizedPairs
from sft_vs_rft.models import BERT_VOCABULARY, build_model
from sft_vs_rft.statistics import length_sorted
from sft_vs_rft.train import TrainingInterrupted, build_optimizer, train

OURS, PLAIN, LOOP = "ours", "plain", "loop"
PADDED_TOKENS = 512
Epoch = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One model and the sizes it is measured at.

    loop_inputs: how many of the inputs an epoch of `loop` sees; its time is scaled up by the input.
    turns: default number of measured epochs of each loop.
    most_of_plain: target, ours / plain; least_of_loop: target, loop / ours.
    """

    model_type: str
    dataset: str
    inputs: int
    batch_size: int
    loop_inputs: int
    turns: int
    most_of_plain: float
    least_of_loop: float | None


CASES = {
    case.model_type: case
    for case in (
        Case("mlp", "mnist", 1000, 512, 1000, 60, most_of_plain=1.3, least_of_loop=2.5),
        Case("resnet18", "cifar10", 512, 512, 512, 5, most_of_plain=2.0, least_of_loop=None),
        Case("bert-mini", "stsb", 512, 512, 16, 5, most_of_plain=1.3, least_of_loop=10.0),
    )
}


def make_data(case: Case) -> ControlledData:
    """Random inputs of the case's shape and random labels, a tenth of the inputs modified."""
    generator = torch.Generator().manual_seed(0)
    inputs: Inputs
    num_classes = 10
    if case.dataset == "stsb":
        num_classes = 6
        # Sentence pairs are about 30 tokens, few of them several times as long.
        spread = torch.randn(case.inputs, generator=generator) * 0.45
        lengths = (27 * spread.exp()).long().clamp(9, 128)
        positions = torch.arange(int(lengths.max()))
        shape = (case.inputs, len(positions))
        ids = torch.randint(1000, BERT_VOCABULARY, shape, generator=generator, dtype=torch.int32)
        is_token, is_second = positions < lengths[:, None], positions >= lengths[:, None] // 2
        inputs = TokenizedPairs(ids * is_token, (is_second & is_token).int(), lengths)
    else:
        shape = (case.inputs, 784) if case.model_type == "mlp" else (case.inputs, 3, 32, 32)
        inputs = torch.randn(shape, generator=generator)
    labels = torch.randint(num_classes, (case.inputs,), generator=generator)
    modified = torch.arange(case.inputs) % 10 == 0
    first = torch.arange(1)
    return ControlledData(inputs, labels, modified, inputs[first], labels[first], None, num_classes)


def make_config(case: Case) -> ExperimentConfig:
    """A finetuning experiment of the paper that never validates."""
    return ExperimentConfig.model_validate(
        {
            "dataset": case.dataset,
            "model_type": case.model_type,
            "experiment_name": "benchmark",
            "epochs": sys.maxsize,
            "validate_every": sys.maxsize,
            "epoch_log_interval": -1,
            "batch_size": case.batch_size,
            "opt_method": "expected_reinforce",
            "frac_samples_to_modify_labels": 0.1,
            "random_seed": 0,
            "init_rnd_seed": 0,
        }
    )


def measure(case: Case, turns: int, device: torch.device) -> dict[str, float]:
    """Seconds an epoch of each loop: medians over `turns` epochs, after one unmeasured epoch of each."""
    config, data = make_config(case), make_data(case)
    data = data.to(device)
    model = build_model(config, data).to(device)
    others = {
        PLAIN: plain_epoch(config, data, copy.deepcopy(model)),
        LOOP: loop_epoch(config, data, copy.deepcopy(model), case.loop_inputs, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (OURS, PLAIN, LOOP)}
    started = 0.0

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    # `train` asks for the order of an epoch's inputs before the epoch, and whether to stop after it: in
    # between runs nothing but the epoch, and before it the others have their turn.
    def batch_order(epoch: int) -> Sequence[Tensor]:
        nonlocal started
        for name, run_epoch in others.items():
            started = clock()
            run_epoch()
            seconds[name].append(clock() - started)
        started = clock()
        return torch.randperm(case.inputs).split(case.batch_size)

    def should_stop() -> bool:
        seconds[OURS].append(clock() - started)
        return len(seconds[OURS]) > turns

    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.create(Path(folder), "benchmark", config.model_dump(), {}) as run,
        Tracker(run) as tracker,
    ):
        try:
            train(config, data, model, batch_order, tracker=tracker, should_stop=should_stop)
        except TrainingInterrupted:
            pass
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    medians[LOOP] *= case.inputs / case.loop_inputs
    return medians


def plain_epoch(config: ExperimentConfig, data: ControlledData, model: nn.Module) -> Epoch:
    """Training without tracking, on data in memory."""
    optimizer = build_optimizer(config, model)
    rewards = _rewards(data.train_labels, data.num_classes)

    def parts(batch: Tensor) -> Iterator[Tensor]:
        if isinstance(data.train_inputs, Tensor):
            yield batch
        else:
            for micro_batch in length_sorted(data.train_inputs[batch], config.micro_batch_size):
                yield batch[micro_batch]

    def epoch() -> None:
        model.train()
        for batch in torch.randperm(len(rewards), device=rewards.device).split(config.batch_size):
            optimizer.zero_grad()
            for index in parts(batch):
                probs = model(data.train_inputs[index]).softmax(-1)
                (-(probs * rewards[index]).sum() / len(batch)).backward()
            optimizer.step()

    return epoch


class _SingleInputs(Dataset[tuple[Any, Tensor, Tensor]]):
    """Input, label and whether it is modified, one by one, as the DataLoader wants them."""

    def __init__(self, data: ControlledData, size: int) -> None:
        self.inputs, self.size = data.train_inputs, size
        self.labels, self.modified = data.train_labels, data.modified
        if not isinstance(self.inputs, Tensor):
            self.inputs = _padded(self.inputs)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Any, Tensor, Tensor]:
        inputs: Any = self.inputs
        if isinstance(inputs, TokenizedPairs):
            one = (inputs.input_ids[index], inputs.token_type_ids[index], inputs.lengths[index])
        else:
            one = inputs[index]
        return one, self.labels[index], self.modified[index]


def loop_epoch(
    config: ExperimentConfig, data: ControlledData, model: nn.Module, size: int, device: torch.device
) -> Epoch:
    """Training on the first `size` inputs that tracks with a pass over all inputs and one over each group."""
    dataset = _SingleInputs(data.to("cpu"), size)
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def backward(inputs: Any, labels: Tensor) -> dict[str, float]:
        optimizer.zero_grad()
        logits = model(TokenizedPairs(*inputs) if isinstance(inputs, list) else inputs)
        probs, rewards = logits.softmax(-1), _rewards(labels, data.num_classes)
        reward = (probs * rewards).sum(-1)
        (-reward.mean()).backward()
        centred = rewards - reward[:, None]
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        params_norm = torch.stack([p.detach().norm() for p in model.parameters()]).norm()
        return {
            "loss": nn.functional.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(-1) == labels).float().mean().item(),
            "reward": reward.mean().item(),
            "reward std": (probs * centred.square()).sum(-1).sqrt().mean().item(),
            "grad norm": norm.item(),
            "normalized grad norm": (norm / params_norm).item(),
        }

    def epoch() -> None:
        model.train()
        rows = []
        for inputs, labels, modified in loader:
            inputs = [part.to(device) for part in inputs] if isinstance(inputs, list) else inputs.to(device)
            labels, modified = labels.to(device), modified.to(device)
            groups = {"small": modified, "large": ~modified}
            row = {
                name: backward(
                    [part[g] for part in inputs] if isinstance(inputs, list) else inputs[g], labels[g]
                )
                for name, g in groups.items()
            }
            rows.append(row | {"all": backward(inputs, labels)})
            optimizer.step()

    return epoch


def _rewards(labels: Tensor, num_classes: int) -> Tensor:
    """1 for the label, -1 for the others. labels: [N]. Returns [N, num_classes]."""
    return 2.0 * nn.functional.one_hot(labels, num_classes) - 1


def _padded(pairs: TokenizedPairs) -> TokenizedPairs:
    width = (0, PADDED_TOKENS - pairs.input_ids.shape[1])
    pad = nn.functional.pad
    return replace(
        pairs, input_ids=pad(pairs.input_ids, width), token_type_ids=pad(pairs.token_type_ids, width)
    )


def report(case: Case, seconds: dict[str, float]) -> str:
    """One row of the table."""
    of_plain, of_loop = seconds[OURS] / seconds[PLAIN], seconds[LOOP] / seconds[OURS]
    met = of_plain <= case.most_of_plain
    loop_target = "-"
    if case.least_of_loop is not None:
        met = met and of_loop >= case.least_of_loop
        loop_target = f">= {case.least_of_loop:g}"
    scaled = "*" if case.loop_inputs < case.inputs else " "
    return (
        f"{case.model_type:<10}{case.inputs:>7}{case.batch_size:>6}"
        + "".join(f"{1000 * seconds[name]:>11,.1f}" for name in (OURS, PLAIN, LOOP))
        + f"{scaled}{of_plain:>11.2f}  <= {case.most_of_plain:g}{of_loop:>13.1f}  {loop_target:<6}"
        + f"  {'yes' if met else 'NO'}"
    )


HEADER = (
    f"{'model':<10}{'inputs':>7}{'batch':>6}{'ours ms':>11}{'plain ms':>11}{'loop ms':>11} "
    f"{'ours/plain':>11}  target{'loop/ours':>12}  target  met"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models asked for and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--repeats", type=int, help="measured epochs of each loop (60 mlp, 5 the others)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (%(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    print(f"An epoch with all tracking ({OURS}) against the same without tracking ({PLAIN}) and against a")
    print(
        f"DataLoader and three passes ({LOOP}); medians of interleaved epochs, no validation, no checkpoints."
    )
    print(f"{args.device}, {args.threads} of {os.cpu_count()} threads, torch {torch.__version__}\n")
    print(HEADER)
    for name in args.models:
        case = CASES[name]
        seconds = measure(case, args.repeats or case.turns, torch.device(args.device))
        print(report(case, seconds), flush=True)
    for case in (CASES[name] for name in args.models):
        if case.loop_inputs < case.inputs:
            print(
                f"* {case.model_type}: measured on {case.loop_inputs} inputs padded to {PADDED_TOKENS} tokens, "
                f"times {case.inputs // case.loop_inputs}."
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

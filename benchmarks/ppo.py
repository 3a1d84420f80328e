"""What an iteration of PPO costs, against a straightforward re-creation of the old way.

Random models, real prompts (`python_docs`), 1,280 tokens an iteration in texts of at most 20, minibatches of
64 tokens, 5 epochs, `rouge_l_max`:
  token     rollouts and update of the project, minibatches of random tokens (the default);
  sequence  likewise, with `minibatch_unit: sequence`;
  old       benchmarks/old_ppo.py: one token after the other in the rollouts, a row per token in the update.
First token and old must compute the same numbers of the same texts, from log-probabilities to gradients. Then
each runs in a process of its own, and they take turns. Times are CPU seconds of one thread. Of the old update
a few of the 100 minibatches are timed, of medium models also a part of its rollouts and one epoch of ours;
the rest is extrapolated.
With --device cuda: T5-base and GPT-2 sizes, ours alone, in float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import old_extraction
import torch
import yaml
from ppo_check import TOLERANCE, check_same_numbers
from ppo_device import DEVICE_CASES, DEVICE_TITLES, device_report
from ppo_sides import (
    Case,
    OldSide,
    OurSide,
    Turn,
    config_data,
    long_samples,
    make_config,
    memory,
    save_model,
    write_data,
)

from common import process
from rl4lms.datapools import load_datapool
from rl4lms.samples import Sample

CASES = [
    Case(name="t5-tiny", kind="seq2seq", width=64, layers=2, old_minibatches=20),
    Case(name="gpt2-tiny", kind="causal", width=64, layers=2, old_minibatches=20),
    Case(
        name="t5-tiny-32k", kind="seq2seq", width=64, layers=2, vocabulary=32128, epochs=2, old_minibatches=5
    ),
    Case(name="t5-medium", kind="seq2seq", width=256, layers=6, epochs=1, old_tokens=192, old_minibatches=2),
    Case(name="gpt2-medium", kind="causal", width=256, layers=6, epochs=1, old_tokens=192, old_minibatches=2),
]
SIDES = ("token", "sequence", "old")
LEAST_TOTAL = {"token": 3.0, "sequence": 10.0}
LEAST_ROLLOUT = {"seq2seq": 6.0, "causal": 2.5}
MOST_SECONDS = 10.0  # of the start-up
CHECKED_STEPS = 16  # per environment, when the numbers of the two sides are compared
CLOCK = """
import time
from pathlib import Path


def reward(batch, file):
    if not Path(file).exists():
        Path(file).write_text(f"{time.time()} {time.process_time()}")
    return [float(len(text)) for text in batch.generated]
"""


@dataclass(frozen=True)
class Measured:
    """A side's turns, and the MiB it held with everything loaded, and at most."""

    turns: list[Turn]
    before: float
    peak: float


_side: OurSide | OldSide  # of a process that measures


def open_side(name: str, case: Case, model: Path, samples: Sequence[Sample]) -> None:
    """Load a side in this process."""
    global _side
    torch.set_num_threads(1)
    if name == "old":
        _side = OldSide(case, model, samples)
    else:
        _side = OurSide(make_config(case, model, samples, name), samples)


def take_turn() -> Turn:
    """An iteration of this process's side."""
    return _side.turn()


def measure(case: Case, model: Path, samples: Sequence[Sample], repeats: int) -> dict[str, Measured]:
    """The turns of the three sides, after a first one of ours that warms up the libraries."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, spawn, open_side, (name, case, model, samples)))
            for name in SIDES
        }
        before = {name: pool.submit(memory).result()[0] for name, pool in pools.items()}
        for name in LEAST_TOTAL:
            pools[name].submit(take_turn).result()
        turns: dict[str, list[Turn]] = {name: [] for name in SIDES}
        for _ in range(repeats):
            for name, pool in pools.items():
                turns[name].append(pool.submit(take_turn).result())
        return {
            name: Measured(turns[name], before[name], pool.submit(memory).result()[1])
            for name, pool in pools.items()
        }


ROW = "{:<12}{:<9}|{:>8}{:>8}{:>8}{:>7} |{:>18}{:>18}{:>18}{:>4} |{:>6}{:>6}"
TITLES = (
    f"{'':<21}|{'CPU seconds':>24}{'tokens':>7} |{'old / this (least - most)':>54}{'':>4} |{'MiB':>12}",
    ROW.format(*"model side rollout update all /s rollout update all ok peak rise".split()),
)


def report(case: Case, measured: dict[str, Measured], judged: bool) -> str:
    """A row of the table for each side: medians of the turns, and of their ratios to the old way's."""
    rows = []
    for name, side in measured.items():
        seconds = {part: [getattr(turn, part) for turn in side.turns] for part in Turn.PARTS}
        shown, met = ["", "", ""], ""
        if name in LEAST_TOTAL:
            old = {part: [getattr(turn, part) for turn in measured["old"].turns] for part in Turn.PARTS}
            ratios = {
                part: [theirs / ours for theirs, ours in zip(old[part], seconds[part], strict=True)]
                for part in Turn.PARTS
            }
            shown = [f"{median(r):.1f} ({min(r):.1f} - {max(r):.1f})" for r in ratios.values()]
            reached = median(ratios["total"]) >= LEAST_TOTAL[name]
            reached &= median(ratios["rollout"]) >= LEAST_ROLLOUT[case.kind]
            met = "" if not judged else "yes" if reached else "NO"
        middle = {part: median(values) for part, values in seconds.items()}
        times = [f"{value:.2f}" for value in middle.values()]
        memories = (f"{side.peak:,.0f}", f"{side.peak - side.before:,.0f}")
        speed = f"{case.tokens / middle['total']:,.0f}"
        rows.append(ROW.format(case.name, name, *times, speed, *shown, met, *memories))
    return "\n".join(rows)


def start_up(case: Case, model: Path, samples: Sequence[Sample], folder: Path) -> tuple[float, float]:
    """Seconds and CPU seconds from the start of the real runner to its first call of the reward.

    Before it: imports, data, models, an evaluation of one text of each split, the first generation.
    """
    clock = folder / "clock.txt"
    clock.unlink(missing_ok=True)
    content = config_data(case, model, write_data(model, samples), "sequence", 0)
    content["reward_fn"] = {"id": "clock:reward", "args": {"file": str(clock)}}
    content["train_evaluation"]["max_eval_samples"] = 1
    (folder / "clock.py").write_text(CLOCK)
    (folder / "config.yml").write_text(yaml.safe_dump(content))
    runner = Path(__file__).resolve().parents[1] / "rl4lms_train_text_generation.py"
    flags = ["--config_path", "config.yml", "--base_path_to_store_results", "runs"]
    start = time.time()
    done = subprocess.run(
        [sys.executable, str(runner), *flags],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{runner.name} failed:\n{done.stderr}")
    called, cpu = map(float, clock.read_text().split())
    return called - start, cpu


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models asked for and print their rows; returns the exit status."""
    process.prepare()
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny models, one turn of few tokens: a smoke test"
    )
    parser.add_argument("--device", default="cpu", help="cuda: the sizes of the paper's models, ours alone")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    samples = load_datapool("python_docs", "train", {"form": "sentence_from_words", "packages": ["stdlib"]})
    with tempfile.TemporaryDirectory() as folder:
        if args.device == "cpu":
            cases = [case for case in CASES if case.name in args.models]
            if args.quick:
                tiny = [case for case in cases if case.name in ("t5-tiny", "gpt2-tiny")]
                cases = [replace(case, n_steps=CHECKED_STEPS, old_minibatches=1) for case in tiny]
            compare(cases, samples, 1 if args.quick else args.repeats, not args.quick, Path(folder))
        else:
            print(f"torch {torch.__version__}, {torch.cuda.get_device_name(args.device)}")
            print(*DEVICE_TITLES, sep="\n")
            for case in DEVICE_CASES:
                of_case = long_samples(samples, case.sentences)
                model = save_model(case, Path(folder), of_case)
                for row in device_report(case, model, of_case, args.device, args.repeats):
                    print(row, flush=True)
    return 0


def compare(
    cases: Sequence[Case], samples: Sequence[Sample], repeats: int, judged: bool, folder: Path
) -> None:
    """Check and measure the models on the CPU, and print what was found. judged: with targets."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}, medians of {repeats} turns")
    if judged:
        print("ok: all 3 times (sequence: 10 times) faster than old, rollouts 6 times for T5, 2.5 for GPT-2")
    print("peak: MiB that the process held at most; rise: over what it held with everything loaded")
    if not old_extraction.has_py_rouge():
        print("py-rouge is not installed: the old way's reward is a plain ROUGE-L")
    print(*TITLES, sep="\n")
    differences: dict[str, float] = {}
    for case in cases:
        model = save_model(case, folder, samples)
        short = replace(case, n_steps=CHECKED_STEPS)
        found = check_same_numbers(make_config(short, model, samples, "token"), short, samples)
        differences = {name: max(value, differences.get(name, 0.0)) for name, value in found.items()}
        print(report(case, measure(case, model, samples, repeats), judged), flush=True)
    shown = ", ".join(f"{name} {value:.0e}" for name, value in differences.items())
    print(f"\nlargest differences between token and old (allowed: {TOLERANCE:.0e}): {shown}")
    for case in cases:
        if case.name in ("t5-tiny", "gpt2-tiny"):
            seconds = [start_up(case, folder / case.name, samples, folder) for _ in range(min(repeats, 3))]
            met = "yes" if min(seconds)[0] < MOST_SECONDS else "NO"
            every = ", ".join(f"{wall:.1f} (CPU: {cpu:.1f})" for wall, cpu in seconds)
            print(f"{case.name}: first rollout after {every} s; < {MOST_SECONDS:g} s: {met}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

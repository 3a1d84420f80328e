"""What training a reward model costs with all comparisons of a prompt in one element, against pairs.

Random models, rankings of 9 completions of prompts of `python_docs`. Both sides are the project: `batching:
prompt`, the paper's way, passes each completion once; `batching: pair` passes it once for each of the 8
comparisons that it is in. An update has the comparisons of 16 prompts on both sides, so that there are as
many updates. First both sides take one update on the same prompts, and must agree on its loss and gradient
norm. Then they take turns in one process. Times are CPU seconds of one thread; with --device cuda, seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from setting import (
    MODELS,
    RandomModel,
    checked_config,
    compare_numbers,
    load_samples,
    median_ratio,
    now,
    save_model,
)

from common import process
from common.files import read_rows
from common.run_dir import RunDir
from rl4lms.config import TrainConfig, resolved
from rl4lms.model.parallel import World
from rl4lms.reward_model.setup import prepare
from rl4lms.reward_model.train import train
from rl4lms.samples import Sample

COMPLETIONS, PROMPTS = 9, 16  # of a prompt; of an update
PAIRS = PROMPTS * COMPLETIONS * (COMPLETIONS - 1) // 2
TOLERANCE = 1e-3  # of loss and gradient norm
ROW = "{:<12} {:>10} {:>10} {:>12} {:>24} {:>11}"
Row = dict[str, Any]


def write_rankings(file: Path, samples: Sequence[Sample], prompts: int) -> dict[str, Any]:
    """Rankings in a random order, and one of val; returns the `datapool` block that reads them."""
    rng = random.Random(0)
    texts = sorted({text for sample in samples for text in sample.references})
    rows = [
        {
            "split": "train" if number else "val",
            "prompt": f"{number} {samples[number].prompt_or_input_text}",
            "completions": [f" {text}" for text in rng.sample(texts, COMPLETIONS)],
            "order": rng.sample(range(COMPLETIONS), COMPLETIONS),
        }
        for number in range(prompts + 1)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return {"id": "preferences", "args": {"data_path": str(file)}}


def make_config(model: RandomModel, path: Path, data: dict[str, Any], device: str, side: str) -> TrainConfig:
    """The project's config with one epoch; side: prompt or pair."""
    size = {"pairs_per_batch": PAIRS} if side == "pair" else {"prompts_per_batch": PROMPTS}
    args = {"learning_rate": 1e-5, "normalize": "none", "micro_batch_size": 36, "batching": side}
    content = {
        "tokenizer": {"model_name": str(path)},
        "datapool": data,
        "alg": {
            "id": "reward_model",
            "model_type": model.kind,
            "model_name": str(path),
            "args": args | size,
        },
        "train_evaluation": {"eval_batch_size": 36, "metrics": [], "eval_every": 10**6, "save_every": 10**6},
        "runtime": {"seed": 0, "device": device},
    }
    return checked_config(TrainConfig, content)


def run(config: TrainConfig) -> tuple[list[Row], list[float]]:
    """A training; returns what it logged of its updates, and the seconds of all but the last."""
    times: list[float] = []

    def note_time() -> bool:
        times.append(now())
        return False

    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.create(Path(folder), "run", resolved(config), {}) as directory,
    ):
        train(prepare(config, directory.path, directory, World(), should_stop=note_time))
        rows = read_rows(directory.path / "training_info.jsonl", "epoch")
    # It asks whether to stop in the evaluation before training, before each update, and in the one after.
    return rows, [after - before for before, after in pairwise(times[1:-1])]


def check(model: RandomModel, path: Path, folder: Path, samples: Sequence[Sample], device: str) -> float:
    """The relative difference of loss and gradient norm of one update on the same prompts.

    Raises ValueError: it is above the tolerance.
    """
    data = write_rankings(folder / "check.jsonl", samples, PROMPTS)
    (prompt,), (pair,) = (run(make_config(model, path, data, device, s))[0] for s in ("prompt", "pair"))
    return max(
        compare_numbers(f"{model.name}: {name}", [prompt[name]], [pair[name]], TOLERANCE)
        for name in ("loss", "grad_norm")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options, measure and print."""
    process.prepare()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["gpt2-tiny", "t5-tiny"])
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=4, help="updates of a turn (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.updates < 2:
        parser.error("--repeats must be at least 1, --updates at least 2")
    torch.set_num_threads(1)
    samples = load_samples()
    print(
        f"{args.device}, torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}, {args.repeats} turns"
    )
    print(
        f"milliseconds an update of {PROMPTS} prompts, {COMPLETIONS} completions each; texts: passed by "
        "pairs / by prompts; difference: of loss and gradient norm, relative"
    )
    print(ROW.format(*"model prompts pairs texts pairs/prompts difference".split()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_rankings(folder / "data.jsonl", samples, args.updates * PROMPTS)
        for model in (MODELS[name] for name in args.models):
            path = save_model(model, folder, samples)
            difference = check(model, path, folder, samples, args.device)
            seconds: dict[str, list[float]] = {"prompt": [], "pair": []}
            texts = {}
            for turn in range(args.repeats + 1):
                for side, times in seconds.items():
                    rows, intervals = run(make_config(model, path, data, args.device, side))
                    texts[side] = sum(row["texts"] for row in rows)
                    if turn:  # the first is not counted
                        times.append(mean(intervals))
            shown = [f"{1000 * median(times):.0f}" for times in seconds.values()]
            ratio = median_ratio(seconds["pair"], seconds["prompt"])
            passed = f"{texts['pair'] / texts['prompt']:.1f}"
            print(ROW.format(model.name, *shown, passed, ratio, f"{difference:.0e}"), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

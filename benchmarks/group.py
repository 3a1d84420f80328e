"""What an iteration of GRPO and RLOO costs, against the floor and against TRL.

Random models, real prompts (`python_docs`): 8 prompts with 8 texts of at most 20 tokens, 1,280 tokens, one
update, and a reward that costs nothing. The project is a whole training run: its log, reward statistics and
all. The floor is benchmarks/group_floor.py, the same as a plain loop. TRL's GRPOTrainer and RLOOTrainer take
part if TRL is installed, with causal models. All take turns in one process on the same prompts:
  sample  until the reward is called: prompts drawn, texts generated and decoded;
  learn   the rest: passes, advantages, the update, and the project's log.
First the floor is given the texts of two iterations of the project, two updates each, and must come to the
same loss and gradient norm. Times are CPU seconds of one thread, per token that is generated; with --device
cuda, seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import group_floor
import torch
from floor import Episode
from setting import (
    MODELS,
    Enough,
    checked_config,
    compare_numbers,
    load_samples,
    median_ratio,
    now,
    reward_calls,
    save_model,
    train,
    unmeasured,
    write_data,
)

import rl4lms.group.collect
from common import process
from rl4lms.config import TrainConfig
from rl4lms.group.collect import prompt_at
from rl4lms.samples import Sample

PROMPTS, GROUP_SIZE, PROMPT_LENGTH, EPISODE_LENGTH = 8, 8, 64, 20
KL_COEFF = {"grpo": 0.0, "rloo": 0.05}  # the defaults, of TRL too
TOLERANCE = 1e-3  # of the larger of two iterations' numbers: float32 rounding, after AdamW's steps
# Iterations of a turn, so that it takes about a second.
CASES = {"gpt2-tiny": 5, "t5-tiny": 5, "gpt2-medium": 1, "t5-medium": 1, "gpt2": 1, "t5-base": 1}
DEFAULT_MODELS = {"cpu": ["gpt2-tiny", "gpt2-medium"], "cuda": ["gpt2"]}


@dataclass(frozen=True)
class Turn:
    """Seconds of a turn's two parts, and the tokens that it generated. sample: NaN = not known (TRL)."""

    sample: float
    learn: float
    tokens: float

    @property
    def per_token(self) -> dict[str, float]:
        total = self.sample + self.learn
        return {
            "sample": self.sample / self.tokens,
            "learn": self.learn / self.tokens,
            "all": total / self.tokens,
        }


def settings_of(algorithm: str, device: str, dtype: str) -> group_floor.Settings:
    """What the floor is told; the project's config is made of it."""
    return group_floor.Settings(
        algorithm="rloo" if algorithm == "rloo" else "grpo",
        prompts=PROMPTS,
        group_size=GROUP_SIZE,
        prompt_length=PROMPT_LENGTH,
        episode_length=EPISODE_LENGTH,
        learning_rate=1e-5,
        kl_coeff=KL_COEFF[algorithm],
        device=device,
        dtype=dtype,
    )


def make_config(
    name: str, settings: group_floor.Settings, model: Path, data: dict[str, Any], iterations: int
) -> TrainConfig:
    """The project's config for the same job."""
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": settings.episode_length}
    content = {
        "tokenizer": {"model_name": str(model), "clean_up_tokenization_spaces": True},
        "reward_fn": {"id": "setting:letter_share"},
        "datapool": data,
        "env": {
            "args": {
                "max_prompt_length": settings.prompt_length,
                "max_episode_length": settings.episode_length,
            },
        },
        "alg": {
            "id": settings.algorithm,
            "args": {
                "group_size": settings.group_size,
                "prompts_per_iteration": settings.prompts,
                "n_epochs": settings.n_epochs,
                "learning_rate": settings.learning_rate,
            },
            "kl_div": {"coeff": settings.kl_coeff},
            "policy": {
                "id": f"{MODELS[name].kind}_lm_actor_critic_policy",
                "args": {"model_name": str(model), "generation_kwargs": sampling},
            },
        },
        "train_evaluation": unmeasured(iterations),
        "runtime": {"seed": 0, "device": settings.device, "dtype": settings.dtype},
    }
    return checked_config(TrainConfig, content)


def prompts_of(samples: Sequence[Sample], iterations: range, prompts: int) -> list[str]:
    """The prompts that the project takes in these iterations, counted from 0."""
    positions = range(iterations.start * prompts, iterations.stop * prompts)
    return [samples[prompt_at(place, len(samples), 0)].prompt_or_input_text for place in positions]


def measure(
    name: str,
    settings: group_floor.Settings,
    model: Path,
    samples: Sequence[Sample],
    turns: int,
    trl: Callable[[Path, list[str], group_floor.Settings], tuple[float, int]] | None,
) -> dict[str, list[Turn]]:
    """The turns of project, floor and, if it is there, TRL, after one of each that is not counted."""
    config = make_config(name, settings, model, write_data(model / "data.jsonl", samples), 10**6)
    floor = group_floor.Models(str(model), MODELS[name].kind, settings)
    length, count = CASES[name], settings.prompts
    results: dict[str, list[Turn]] = {"floor": [], "trl": []}
    parts: list[tuple[float, float]] = []  # the project's seconds of each iteration
    started = 0.0

    def take_floor_turn(iterations: range) -> Turn:
        sample = learn = 0.0
        tokens = 0
        for iteration in iterations:
            prompts = prompts_of(samples, range(iteration, iteration + 1), count)
            begin = now()
            tokens += group_floor.iterate(floor, prompts, settings)
            called, end = reward_calls[-1].time, now()
            sample, learn = sample + called - begin, learn + end - called
        return Turn(sample, learn, tokens)

    # A training asks before each iteration whether to stop: that is when the others have their turns.
    def take_turns() -> bool:
        nonlocal started
        if started:
            called = reward_calls[-1].time
            parts.append((called - started, now() - called))
        if len(parts) == (turns + 1) * length:
            raise Enough
        if len(parts) % length == 0:
            iterations = range(len(parts), len(parts) + length)
            results["floor"].append(take_floor_turn(iterations))
            if trl is not None:
                before = range(iterations.start, iterations.start + 1)  # TRL's first step is not counted
                prompts = [text for part in (before, iterations) for text in prompts_of(samples, part, count)]
                seconds, tokens = trl(model, prompts, settings)
                results["trl"].append(Turn(0.0, seconds, tokens))
        reward_calls.clear()
        started = now()
        return False

    rows = train(config, take_turns)
    tokens = [row["group/tokens"] for row in rows]
    turn_of = [slice(first, first + length) for first in range(0, len(parts), length)]
    results["project"] = [
        Turn(
            sum(sample for sample, _ in parts[turn]),
            sum(learn for _, learn in parts[turn]),
            sum(tokens[turn]),
        )
        for turn in turn_of
    ]
    return {side: taken[1:] for side, taken in results.items() if taken}


def check(name: str, settings: group_floor.Settings, model: Path, samples: Sequence[Sample]) -> float:
    """The largest relative difference of loss and gradient norm of two iterations on the same texts.

    The floor is given the project's texts. Each iteration has two updates, since the loss of the first is 0;
    the second iteration's KL penalties are not 0. Raises ValueError: a difference above the tolerance.
    """
    same = replace(settings, prompts=4, n_epochs=2, learning_rate=1e-4, kl_coeff=10 * settings.kl_coeff)
    made: list[list[Episode]] = []
    generate = rl4lms.group.collect.generate_episodes

    def generate_and_keep(*args: Any, **options: Any) -> Any:
        episodes = generate(*args, **options)
        made.append([Episode(e.prompt.tolist(), e.response.tolist()) for e in episodes])
        return episodes

    data = write_data(model / "data.jsonl", samples)
    with patch.object(rl4lms.group.collect, "generate_episodes", generate_and_keep):
        rows = train(make_config(name, same, model, data, 2))
    floor = group_floor.Models(str(model), MODELS[name].kind, same)
    losses = [
        group_floor.update(
            floor, prompts_of(samples, range(number, number + 1), same.prompts), episodes, same
        )
        for number, episodes in enumerate(made)
    ]
    return max(
        compare_numbers(
            f"{name}: {what}",
            [row[f"group/{what}"] for row in rows],
            [each[what] for each in losses],
            TOLERANCE,
        )
        for what in ("policy_loss", "grad_norm")
    )


ROW = "{:<12}{:<6}{:<9}|{:>9}{:>9}{:>10} |{:>19}{:>19}{:>19} |{:>19}{:>12}"
TITLES = (
    f"{'':<27}|{'project, milliseconds':>28} |{'project / floor, median (least-most)':>57} |{'/ TRL':>19}",
    ROW.format(*"model alg dtype sample learn tokens/s sample learn all all difference".split()),
)


def report(
    name: str, settings: group_floor.Settings, results: dict[str, list[Turn]], difference: float
) -> str:
    """A row of the table; times are of an iteration's tokens."""
    sides = {side: [turn.per_token for turn in turns] for side, turns in results.items()}
    project = {part: [times[part] for times in sides["project"]] for part in ("sample", "learn", "all")}
    tokens = settings.prompts * settings.group_size * settings.episode_length
    ratios = [median_ratio(project[part], [times[part] for times in sides["floor"]]) for part in project]
    against = "-"
    if "trl" in sides:
        against = median_ratio(project["all"], [times["all"] for times in sides["trl"]])
    times = [f"{1000 * tokens * median(project[part]):.0f}" for part in ("sample", "learn")]
    speed = f"{1 / median(project['all']):,.0f}"
    return ROW.format(
        name, settings.algorithm, settings.dtype, *times, speed, *ratios, against, f"{difference:.0e}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Check and measure the models asked for and print their rows; returns the exit status."""
    process.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CASES, help="default: GPT-2s that suit the device")
    parser.add_argument("--algorithms", nargs="+", choices=KL_COEFF, default=list(KL_COEFF))
    parser.add_argument("--repeats", type=int, default=5, help="measured turns (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="float32, bfloat16")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of TRL's use of transformers
    trl = None
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed, so it takes no part")
    else:
        import group_trl

        trl = group_trl.iterate
    print(
        f"{args.device}, torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}, {args.repeats} turns"
    )
    print(*TITLES, sep="\n")
    samples = load_samples()
    suited = DEFAULT_MODELS["cpu" if args.device == "cpu" else "cuda"]
    for name in args.models or suited:
        with tempfile.TemporaryDirectory() as folder:
            model = save_model(MODELS[name], Path(folder), samples)
            causal = MODELS[name].kind == "causal"
            for algorithm, dtype in itertools.product(args.algorithms, args.dtypes):
                settings = settings_of(algorithm, args.device, dtype)
                difference = check(name, replace(settings, dtype="float32"), model, samples)
                results = measure(name, settings, model, samples, args.repeats, trl if causal else None)
                print(report(name, settings, results, difference), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

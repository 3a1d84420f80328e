"""What an iteration of PPO costs, against the floor: the same iteration as a plain loop.

Random models, real prompts (`python_docs`), texts of at most 20 tokens, minibatches of 64 tokens, 5 epochs,
and a reward that costs nothing. The project is a whole training run: its log, reward statistics and all. The
floor is benchmarks/ppo_floor.py. Both take turns in one process, an iteration each:
  sample  until the reward is called: prompts drawn, texts generated and decoded;
  learn   the rest: scoring passes, advantages, epochs of minibatches, and the project's log.
First both make two iterations of greedy texts of the same prompts and must come to the same losses. Times
are CPU seconds of one thread; with --device cuda, seconds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import ppo_floor
import torch
from setting import (
    MODELS,
    Enough,
    StepCounter,
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

from common import process
from rl4lms.config import TrainConfig
from rl4lms.samples import Sample

ENVIRONMENTS, BATCH_SIZE, KL_COEFF, LEARNING_RATE = 10, 64, 0.001, 1e-5
UNITS = ("token", "sequence")
TOLERANCE = 1e-3  # of the largest of two iterations' losses: float32 rounding, after AdamW's steps
CHECKED = {"policy_gradient_loss": "policy_loss", "value_loss": "value_loss"}
CHECKED |= {"entropy_loss": "entropy_loss", "grad_norm": "grad_norm"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the sizes of an iteration. n_steps: tokens, per environment. sentences: of a prompt."""

    model: str
    n_steps: int = 128
    n_epochs: int = 5
    prompt_length: int = 64
    episode_length: int = 20
    sentences: int = 1

    @property
    def tokens(self) -> int:
        """Of an iteration."""
        return self.n_steps * ENVIRONMENTS


CASES = [
    Case(model="t5-tiny"),
    Case(model="gpt2-tiny"),
    Case(model="t5-tiny-32k"),
    Case(model="t5-medium", n_steps=32, n_epochs=2),
    Case(model="gpt2-medium", n_steps=32, n_epochs=2),
]
# Lengths and n_steps of NarrativeQA and IMDB.
DEVICE_CASES = [
    Case(model="t5-base", n_steps=256, prompt_length=512, episode_length=50, sentences=40),
    Case(model="gpt2", episode_length=48, sentences=5),
]


@dataclass(frozen=True)
class Turn:
    """Seconds of an iteration's two parts, and the steps of its optimiser."""

    sample: float
    learn: float
    steps: int

    @property
    def total(self) -> float:
        return self.sample + self.learn


def settings_of(case: Case, unit: str, device: str, dtype: str) -> ppo_floor.Settings:
    """What the floor is told; the project's config is made of it."""
    return ppo_floor.Settings(
        tokens=case.tokens,
        batch_size=BATCH_SIZE,
        n_epochs=case.n_epochs,
        unit="sequence" if unit == "sequence" else "token",
        prompt_length=case.prompt_length,
        episode_length=case.episode_length,
        learning_rate=LEARNING_RATE,
        kl_coeff=KL_COEFF,
        device=device,
        dtype=dtype,
    )


def make_config(
    case: Case, settings: ppo_floor.Settings, model: Path, data: dict[str, Any], iterations: int
) -> TrainConfig:
    """The project's config for the same job."""
    sampling = {"do_sample": settings.do_sample, "top_k": settings.top_k}
    content = {
        "tokenizer": {"model_name": str(model), "clean_up_tokenization_spaces": True},
        "reward_fn": {"id": "setting:letter_share"},
        "datapool": data,
        "env": {
            "n_envs": ENVIRONMENTS,
            "args": {
                "max_prompt_length": settings.prompt_length,
                "max_episode_length": settings.episode_length,
            },
        },
        "alg": {
            "id": "ppo",
            "args": {
                "n_steps": case.n_steps,
                "batch_size": settings.batch_size,
                "n_epochs": settings.n_epochs,
                "minibatch_unit": settings.unit,
                "learning_rate": settings.learning_rate,
                "ent_coef": settings.ent_coef,
            },
            "kl_div": {"coeff": settings.kl_coeff},
            "policy": {
                "id": f"{MODELS[case.model].kind}_lm_actor_critic_policy",
                "args": {
                    "model_name": str(model),
                    "generation_kwargs": sampling | {"max_new_tokens": settings.episode_length},
                },
            },
        },
        "train_evaluation": unmeasured(iterations),
        "runtime": {"seed": 0, "device": settings.device, "dtype": settings.dtype},
    }
    return checked_config(TrainConfig, content)


def measure(
    case: Case, settings: ppo_floor.Settings, model: Path, samples: Sequence[Sample], turns: int
) -> tuple[list[Turn], list[Turn]]:
    """The turns of project and floor, after one of each that is not counted."""
    config = make_config(case, settings, model, write_data(model / "data.jsonl", samples), 10**6)
    floor = ppo_floor.Models(str(model), MODELS[case.model].kind, settings)
    rng = random.Random(0)
    prompts = (rng.choice(samples).prompt_or_input_text for _ in itertools.count())
    project_turns: list[Turn] = []
    floor_turns: list[Turn] = []
    started, steps_before = 0.0, 0

    def turn(steps: StepCounter) -> Turn:
        called, end = reward_calls[-1].time, now()
        return Turn(called - started, end - called, steps.steps - steps_before)

    # A training asks before each iteration whether to stop: that is when the floor has its turn.
    def take_turns(steps: StepCounter) -> bool:
        nonlocal started, steps_before
        if floor_turns:
            project_turns.append(turn(steps))
        if len(project_turns) > turns:
            raise Enough
        started, steps_before = now(), steps.steps
        ppo_floor.iterate(floor, prompts, settings)
        floor_turns.append(turn(steps))
        started, steps_before = now(), steps.steps
        return False

    with StepCounter() as steps:
        train(config, lambda: take_turns(steps))
    return project_turns[1:], floor_turns[1:]


def check(case: Case, settings: ppo_floor.Settings, model: Path, samples: Sequence[Sample]) -> float:
    """The largest relative difference of the losses of two iterations on the same greedy texts.

    One minibatch holds all tokens, so that their order does not matter; the second iteration's KL rewards are
    not 0. Raises ValueError: other texts, or a difference above the tolerance.
    """
    same = replace(
        settings,
        do_sample=False,
        batch_size=settings.tokens,
        n_epochs=2,
        learning_rate=1e-4,
        kl_coeff=0.5,
        ent_coef=0.01,
    )
    reward_calls.clear()
    data = write_data(model / "data.jsonl", samples)
    rows = train(make_config(case, same, model, data, 2))
    calls = list(reward_calls)
    floor = ppo_floor.Models(str(model), MODELS[case.model].kind, same)
    differences = []
    for row, call in zip(rows, calls, strict=True):
        losses = ppo_floor.iterate(floor, iter(call.prompts), same)
        texts = reward_calls[-1].texts
        if texts != call.texts[: len(texts)]:
            raise ValueError(f"{case.model}: project and floor generated different texts")
        for logged, name in CHECKED.items():
            what = f"{case.model}: {name}"
            differences.append(compare_numbers(what, [row[f"ppo/{logged}"]], [losses[name]], TOLERANCE))
    return max(differences)


ROW = "{:<12}{:<9}{:<9}|{:>8}{:>8}{:>10} |{:>20}{:>20}{:>20}{:>10}"
TITLES = (
    f"{'':<30}|{'project, seconds':>26} |{'project / floor, median (least-most)':>60}",
    ROW.format(*"model unit dtype sample learn tokens/s sample learn all updates".split()),
)


def report(case: Case, settings: ppo_floor.Settings, project: Sequence[Turn], floor: Sequence[Turn]) -> str:
    """A row of the table."""
    parts = ("sample", "learn", "total")
    seconds = {part: median(getattr(turn, part) for turn in project) for part in parts}
    ratios = [median_ratio([getattr(t, p) for t in project], [getattr(t, p) for t in floor]) for p in parts]
    updates = "/".join(f"{median(turn.steps for turn in side):g}" for side in (project, floor))
    times = (f"{seconds['sample']:.2f}", f"{seconds['learn']:.2f}", f"{case.tokens / seconds['total']:,.0f}")
    return ROW.format(case.model, settings.unit, settings.dtype, *times, *ratios, updates)


def main(argv: Sequence[str] | None = None) -> int:
    """Check and measure the models asked for and print their rows; returns the exit status."""
    process.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [case.model for case in CASES + DEVICE_CASES]
    parser.add_argument("--models", nargs="+", choices=names, help="default: all that suit the device")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="float32, bfloat16")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    torch.set_num_threads(1)
    suited = [case.model for case in (CASES if args.device == "cpu" else DEVICE_CASES)]
    print(
        f"{args.device}, torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}, {args.repeats} turns"
    )
    print(*TITLES, sep="\n")
    differences = {}
    for case in CASES + DEVICE_CASES:
        if case.model not in (args.models or suited):
            continue
        samples = load_samples(case.sentences)
        with tempfile.TemporaryDirectory() as folder:
            model = save_model(MODELS[case.model], Path(folder), samples)
            short = replace(case, n_steps=16)
            differences[case.model] = check(
                short, settings_of(short, "token", args.device, "float32"), model, samples
            )
            for unit, dtype in itertools.product(UNITS, args.dtypes):
                settings = settings_of(case, unit, args.device, dtype)
                turns = measure(case, settings, model, samples, args.repeats)
                print(report(case, settings, *turns), flush=True)
    shown = ", ".join(f"{name} {value:.0e}" for name, value in differences.items())
    print(f"\nlargest relative differences of the losses of both (allowed: {TOLERANCE:.0e}): {shown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

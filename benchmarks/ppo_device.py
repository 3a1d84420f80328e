"""PPO of T5-base and GPT-2 sizes on a GPU, for `benchmarks/ppo.py`: random weights, ours alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from ppo_sides import EPOCHS, Case, OurSide, make_config, memory
from torch.utils.flop_counter import FlopCounterMode

from rl4lms.samples import Sample

# Lengths and n_steps of NarrativeQA and IMDB.
DEVICE_CASES = [
    Case(
        name="t5-base",
        kind="seq2seq",
        width=768,
        layers=12,
        heads=12,
        vocabulary=32128,
        prompt_length=512,
        episode_length=50,
        n_steps=256,
        sentences=40,
    ),
    Case(
        name="gpt2",
        kind="causal",
        width=768,
        layers=12,
        heads=12,
        vocabulary=50257,
        prompt_length=64,
        episode_length=48,
        sentences=5,
    ),
]


def device_report(case: Case, model: Path, samples: Sequence[Sample], device: str, repeats: int) -> list[str]:
    """Rows of the table of a GPU: both units in both precisions."""
    lines = []
    for dtype in ("float32", "bfloat16"):
        peak = matrix_product_rate(device, dtype)
        for unit in ("token", "sequence"):
            side = OurSide(make_config(case, model, samples, unit), samples, device, dtype)
            with FlopCounterMode(display=False) as of_rollout:
                rollouts = side.rollout()
            with FlopCounterMode(display=False) as of_update:
                side.update(rollouts)
            if torch.device(device).type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            turns = [side.turn() for _ in range(repeats)]
            rollout, update = (
                median(getattr(turn, part) for turn in turns) for part in ("rollout", "update")
            )
            held = torch.cuda.max_memory_allocated(device) / 2**20 if "cuda" in device else memory()[1]
            shares = (
                of_rollout.get_total_flops() / rollout / peak,
                of_update.get_total_flops() / update / peak,
            )
            lines.append(
                DEVICE_ROW.format(
                    case.name,
                    dtype,
                    unit,
                    f"{rollout:.2f}",
                    f"{update:.2f}",
                    f"{case.tokens / (rollout + update):,.0f}",
                    f"{case.tokens * EPOCHS / update:,.0f}",
                    f"{shares[0]:.1%}",
                    f"{shares[1]:.1%}",
                    f"{held:,.0f}",
                )
            )
            del side, rollouts
    return lines


DEVICE_ROW = "{:<9} {:<9} {:<9}|{:>9}{:>9}{:>9}{:>9} |{:>9}{:>9} |{:>9}"
DEVICE_TITLES = (
    f"{'':<29}|{'seconds':>18}{'tokens/s':>18} |{'share of peak':>18} |{'MiB':>9}",
    DEVICE_ROW.format(*"model dtype side rollout update all update rollout update peak".split()),
)


def matrix_product_rate(device: str, dtype: str, size: int = 8192, count: int = 20) -> float:
    """Operations a second of large matrix products, the most that a model could reach here."""
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(3):
        _wait(device)
        start = time.perf_counter()
        for _ in range(count):
            a @ b
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 * count / min(seconds)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)

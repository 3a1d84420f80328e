"""What groups make of a small reward std: gradient norm, its power, time to reward, cost of a kept group.

One input with rewards of two levels, of which the better one has probability p. All algorithms have a
gradient parallel to that of log(p / (1 - p)): they differ in its weight alone (`rft_diagnose.group_signal`).
GRPO divides by the unbiased std, as libraries do. Nothing here is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.integrate import quad
from scipy.special import expit

from rft_diagnose.group_signal import INFINITE, Advantage, group_std_mean, spread_probability
from sft_vs_rft.theory import right_label_probability, time_to_zero_reward

Rows = list[dict[str, Any]]

SIZES = (2, 4, 8, 16, 64, INFINITE)
STDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
LABELS, FLOW_LABELS = 10, 5  # of the input whose gradient, and whose flow, is shown
KEPT_SIZE = 8
_STEP = 1e-4  # in log std, of the differences that give the exponent
_TOP = 0.49  # std up to which an exponent is given: at 1/2 p no longer follows the std


@dataclass(frozen=True)
class Algorithm:
    """An advantage and its group size (0: infinite; of RLOO it does not matter)."""

    advantage: Advantage
    group_size: int = INFINITE

    @property
    def name(self) -> str:
        """What it is called in figures."""
        if self.advantage == "rloo":
            return "RLOO"
        size = f"G = {self.group_size}" if self.group_size else "G infinite"
        return f"{'GRPO' if self.advantage == 'grpo' else 'Dr. GRPO'}, {size}"


RLOO = Algorithm("rloo")
ALGORITHMS = (RLOO, Algorithm("dr_grpo", 8), *(Algorithm("grpo", size) for size in SIZES))


def success_weight(algorithm: Algorithm, p: float, q: float | None = None) -> float:
    """p a(better reward) for rewards 1 and 0: the weight of grad log(p / q); q: 1 - p."""
    q = 1 - p if q is None else q
    if algorithm.advantage == "rloo":
        return p * q
    size = algorithm.group_size
    correction = 1 - 1 / size if size else 1.0
    if algorithm.advantage == "dr_grpo":
        return correction * p * q
    return math.sqrt(correction) * float(group_std_mean(p, size, q))


def gradient_norm(algorithm: Algorithm, std: float, num_labels: int = LABELS) -> float:
    """Norm of the expected gradient in the logits of an input whose other labels are all alike.

    std: of its rewards 1 (the right label) and 0, at most 1/2; p is at most 1/2.
    """
    return success_weight(algorithm, _probability(std)) * math.sqrt(1 + 1 / (num_labels - 1))


def exponent(algorithm: Algorithm, std: float) -> float:
    """Local power d log norm / d log std. std: below 1/2."""
    above, below = (gradient_norm(algorithm, std * math.exp(step)) for step in (_STEP, -_STEP))
    return math.log(above / below) / (2 * _STEP)


def amplification(algorithm: Algorithm, std: float) -> float:
    """By how much the gradient is longer than RLOO's."""
    return gradient_norm(algorithm, std) / gradient_norm(RLOO, std)


def generations_per_kept_group(group_size: int, std: float) -> float:
    """Generations drawn for each group that has spread, the others being dropped (DAPO)."""
    p = _probability(std)
    return float(group_size / spread_probability([p, 1 - p], group_size))


def time_until_zero(
    algorithm: Algorithm, std: float, num_labels: int = FLOW_LABELS, kept: bool = False
) -> tuple[float, float]:
    """Time and generations of gradient flow on the logits of one input until V = 0 (setting of Theorem 2).

    The reward is +1 for the right label and -1 for the others, std that of these; the log odds m follow
    dm/dt = k x weight of grad m, k = labels / (labels - 1), from its start to 0. kept: only groups with
    spread count, each as a step of its own; generations: group size x time, of dropped groups too.
    """
    p = right_label_probability(std)
    start = math.log(p / (1 - p))
    scale = 1.0 if algorithm.advantage == "grpo" else 2.0  # RLOO and Dr. GRPO see the rewards' size
    size = algorithm.group_size

    def time_per_odds(m: float) -> float:
        p, q = float(expit(m)), float(expit(-m))
        speed = num_labels / (num_labels - 1) * scale * success_weight(algorithm, p, q)
        return (float(spread_probability([p, q], size)) if kept else 1.0) / speed

    def generations_per_odds(m: float) -> float:
        p, q = float(expit(m)), float(expit(-m))
        return time_per_odds(m) * size / float(spread_probability([p, q], size))

    time = quad(time_per_odds, start, 0, limit=200, epsrel=1e-9)[0]
    generations = quad(generations_per_odds, start, 0, limit=200, epsrel=1e-9)[0] if kept else size * time
    return float(time), float(generations)


Panel = Literal["gradient", "exponent", "amplification", "time", "generations"]


def group_rows(stds: Sequence[float] = STDS, flow_stds: Sequence[float] = ()) -> Rows:
    """All numbers of the figure in long form: panel, series, std (x axis), value (y axis).

    stds: of rewards 1 and 0, at most 1/2; flow_stds: of rewards +1 and -1, for the times.
    """
    return [
        {"panel": panel, "series": series, "std": std, "value": value}
        for panel, series, std, value in _numbers(stds, flow_stds)
    ]


def _numbers(stds: Sequence[float], flow_stds: Sequence[float]) -> Iterator[tuple[Panel, str, float, float]]:
    for algorithm in ALGORITHMS:
        for std in stds:
            yield "gradient", algorithm.name, std, gradient_norm(algorithm, std)
            if std <= _TOP:
                yield "exponent", algorithm.name, std, exponent(algorithm, std)
            yield "amplification", algorithm.name, std, amplification(algorithm, std)
        for std in flow_stds:
            yield "time", algorithm.name, std, time_until_zero(algorithm, std)[0]
    for std in flow_stds:
        kept = time_until_zero(Algorithm("grpo", KEPT_SIZE), std, kept=True)[0]
        yield "time", f"kept groups, G = {KEPT_SIZE}", std, kept
        yield "time", "SFT", std, time_to_zero_reward("SFT", std, FLOW_LABELS)
    for size in SIZES:
        if size != INFINITE:
            for std in stds:
                name = Algorithm("grpo", size).name
                yield "generations", name, std, generations_per_kept_group(size, std)


def _probability(std: float) -> float:
    """p of the better level, at most 1/2, at which rewards 1 and 0 have this std."""
    return right_label_probability(min(1.0, 2 * std))


FLOW_STDS = tuple(np.geomspace(0.002, 0.2, 13).tolist())

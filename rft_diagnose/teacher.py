"""Is a reward model a good teacher? What its rewards of a policy's texts say before any RL.

The time that policy gradient takes grows as the reward's variance under the policy falls, whatever the
reward model's accuracy (Razin et al. 2025, "What Makes a Reward Model a Good Teacher?"). A reward model's
unit and zero are arbitrary, and the pairwise loss leaves its level at each prompt free: so rewards are
normalised over all texts first, (r - mean) / std, and their spread counts within prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rft_diagnose.errors import DiagnosisError
from rft_diagnose.groups import ROUNDING, Floats, Ints, bulk
from rft_diagnose.over_inputs import share
from rft_diagnose.statistics import (
    SMALL_STD,
    bootstrap_interval,
    dead,
    input_statistics,
    normal_quantile,
    variance_components,
)

_PAIRS_AT_A_TIME = 5_000_000


@dataclass(frozen=True)
class Teacher:
    """mean, std: [N], of each prompt's normalised rewards (std: n - 1); summary: all else, as JSON values."""

    mean: Floats
    std: Floats
    summary: dict[str, Any]


def judge_teacher(rewards: ArrayLike, gold: ArrayLike | None = None, gold_name: str | None = None) -> Teacher:
    """Judge a reward model by its rewards [N, G] of G texts of a policy for each of N prompts.

    gold: [N, G], the rewards that it stands in for, where known (NaN: not of this text). Raises
    DiagnosisError: fewer than two texts, or rewards that are no finite numbers.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise DiagnosisError(
            f"a reward model is judged by two texts or more of each prompt, got {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise DiagnosisError("a reward of the reward model is no finite number")
    normalised = normalise(values)
    prompts, each = values.shape
    mean, std = normalised.mean(1), normalised.std(1, ddof=1)
    within, between = variance_components(np.full(prompts, each), mean, normalised.var(1) * each)
    between = max(0.0, between)
    low, high = bulk(values.ravel())
    is_constant = not normalised.any()
    on_range = np.zeros_like(values) if is_constant else (values - low) / (high - low)
    range_mean, range_std = input_statistics(on_range)
    variance = float((std**2).mean())
    # The std of all rewards is an estimate, too: linearised, the ratio varies as these deviations do.
    below, above = _interval(std**2 - variance * (normalised**2).mean(1))
    summary: dict[str, Any] = {
        "prompts": prompts,
        "texts_per_prompt": each,
        "reward": {"mean": float(values.mean()), "std": float(values.std()), "low": low, "high": high},
        "std": float(std.mean()),
        "std_quantiles": dict(
            zip(("p10", "median", "p90"), np.percentile(std, (10, 50, 90)).tolist(), strict=True)
        ),
        "variance": {"value": variance, "low": _plus(variance, below), "high": _plus(variance, above)},
        "within_share": within / (within + between) if within + between > 0 else None,
        "dead": share(range_std < SMALL_STD),
        "dead_low": share(dead(range_mean, range_std)),
        "gold": None if gold is None else gold_name,
        "accuracy": None if gold is None else accuracy(values, np.asarray(gold, dtype=np.float64)),
        "best_of_n": _curve(values, normalised, None if gold is None else np.asarray(gold, dtype=np.float64)),
    }
    return Teacher(mean, std, summary)


def normalise(rewards: Floats) -> Floats:
    """Subtract the mean of all rewards and divide by their std (n); equal rewards become 0."""
    std = float(rewards.std())
    if std <= ROUNDING * float(np.abs(rewards).max()):
        return np.zeros_like(rewards)
    return np.asarray((rewards - rewards.mean()) / std)


def ordered_pairs(rewards: Floats, gold: Floats) -> tuple[Floats, Ints]:
    """Count the pairs of texts of each prompt that gold tells apart, and those that the rewards order alike.

    rewards, gold: [N, G]; NaN in gold: the text is in no pair. Equal rewards of a pair are half right.
    Returns the right ones [N] and all [N].
    """
    first, second = np.triu_indices(rewards.shape[1], 1)
    right, pairs = np.empty(len(rewards)), np.empty(len(rewards), dtype=np.int64)
    size = max(1, _PAIRS_AT_A_TIME // max(1, len(first)))
    for start in range(0, len(rewards), size):
        rows = slice(start, start + size)
        expected = np.sign(gold[rows][:, first] - gold[rows][:, second])
        told = np.sign(rewards[rows][:, first] - rewards[rows][:, second])
        known = (expected != 0) & ~np.isnan(expected)
        right[rows] = np.where(known, (1 + told * expected) / 2, 0.0).sum(1)
        pairs[rows] = known.sum(1)
    return right, pairs


def accuracy(rewards: Floats, gold: Floats) -> dict[str, Any]:
    """Compute the share of pairs that the rewards order as gold does, with its 95% interval over prompts.

    The interval is the bootstrap's over prompts: pairs of one prompt depend on each other.
    """
    right, pairs = ordered_pairs(rewards, gold)
    total = int(pairs.sum())

    def share_of(chosen: Ints) -> float:
        count = pairs[chosen].sum()
        return float(right[chosen].sum() / count) if count else math.nan

    low, high = bootstrap_interval(share_of, len(pairs)) if total else (np.full(1, math.nan),) * 2
    return {
        "share": float(right.sum() / total) if total else None,
        "low": _known(low[0]),
        "high": _known(high[0]),
        "pairs": total,
        "prompts": int((pairs > 0).sum()),
    }


def best_of_n(rewards: Floats, values: Floats) -> Floats:
    """Compute the expected value of the best by reward of n texts of each prompt, for n = 1 to G: [N, G].

    rewards, values: [N, G]. The expectation is over all subsets of n of the G texts, so unbiased for n texts
    of the policy; of texts with equal rewards any is the best.
    """
    prompts, each = rewards.shape
    order = np.argsort(rewards, axis=1, kind="stable")
    ranked, values = np.take_along_axis(rewards, order, 1), np.take_along_axis(values, order, 1)
    new = np.ones(rewards.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    ties = new.ravel().cumsum() - 1
    values = (np.bincount(ties, values.ravel()) / np.bincount(ties))[ties].reshape(prompts, each)
    # Of C(G, n) subsets C(k, n - 1) have the text of rank k, from 0, as their best.
    rank, weights = np.arange(each), np.empty((each, each))
    weights[0] = 1 / each
    for n in range(1, each):
        weights[n] = weights[n - 1] * np.maximum(rank - n + 1, 0) / n * (n + 1) / (each - n)
    return np.asarray(values @ weights.T)


def best_of_n_kl(n: ArrayLike) -> Floats:
    """Compute the KL of the best of n texts to the policy, log n - (n - 1) / n (of rewards without ties)."""
    number = np.asarray(n, dtype=np.float64)
    return np.asarray(np.log(number) - (number - 1) / number)


def _curve(rewards: Floats, normalised: Floats, gold: Floats | None) -> list[dict[str, Any]]:
    """Make a row for each n: KL, the reward model's own reward, gold with its interval, the best by gold."""
    n = np.arange(1, rewards.shape[1] + 1)
    rows: list[dict[str, Any]] = [
        {"n": int(number), "kl": float(kl), "reward": float(reward)}
        for number, kl, reward in zip(n, best_of_n_kl(n), best_of_n(rewards, normalised).mean(0), strict=True)
    ]
    known = None if gold is None else ~np.isnan(gold).any(1)
    if gold is None or known is None or not known.any():
        return rows
    by_model, by_gold = (best_of_n(source[known], gold[known]) for source in (rewards, gold))
    for place, row in enumerate(rows):
        low, high = _interval(by_model[:, place])
        row |= {"gold": float(by_model[:, place].mean()), "gold_low": low, "gold_high": high}
        row["gold_best"] = float(by_gold[:, place].mean())
    return rows


def _interval(values: Floats) -> tuple[float | None, float | None]:
    """Compute the 95% interval of a mean over prompts, by the normal distribution; None of one prompt."""
    if len(values) < 2:
        return None, None
    half = normal_quantile() * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def _plus(value: float, difference: float | None) -> float | None:
    return None if difference is None else value + difference


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def teacher_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Write what there is to say of a teacher, each number with what it is."""
    spread, quantiles = summary["variance"], summary["std_quantiles"]
    within = summary["within_share"]
    rows = [
        (
            "reward std within prompts",
            f"{summary['std']:.3g} of the std of all rewards, {quantiles['p10']:.3g} to "
            f"{quantiles['p90']:.3g} in four fifths of the prompts",
        ),
        (
            "variance within prompts",
            f"{spread['value']:.3g}{_range(spread)} of normalised rewards"
            + ("" if within is None else f", {within:.0%} of all variance"),
        ),
        (
            "dead prompts",
            f"{summary['dead']['share']:.1%}{_range(summary['dead'], True)} with a std below "
            f"{SMALL_STD:.0%} of the rewards' range, {summary['dead_low']['share']:.1%} at its lower end",
        ),
    ]
    if (right := summary["accuracy"]) is not None:
        text = f"undefined: {summary['gold']} tells no two texts of a prompt apart"
        if right["share"] is not None:
            text = (
                f"{right['share']:.1%}{_range(right, True)} of {right['pairs']:,} pairs of texts that "
                f"{summary['gold']} tells apart, in {right['prompts']:,} prompts"
            )
        rows.append(("accuracy on the policy's texts", text))
    return [*rows, _best_row(summary)]


def _best_row(summary: dict[str, Any]) -> tuple[str, str]:
    first, last = summary["best_of_n"][0], summary["best_of_n"][-1]
    name = f"best of {last['n']:,} by it"
    text = f"its reward rises by {last['reward']:.3g} stds"
    if "gold" in last:
        text += f"; {summary['gold']} {first['gold']:.4g} -> {last['gold']:.4g}"
        text += f"{_range({'low': last['gold_low'], 'high': last['gold_high']})}"
        text += f", at most {last['gold_best']:.4g}"
    return name, f"{text} (KL {last['kl']:.2f})"


def _range(row: dict[str, Any], percent: bool = False) -> str:
    """Write an interval in brackets, nothing if it is not known."""
    if row["low"] is None or row["high"] is None:
        return ""
    low, high = (f"{row[end]:.1%}" if percent else f"{row[end]:.3g}" for end in ("low", "high"))
    return f" ({low} to {high})"

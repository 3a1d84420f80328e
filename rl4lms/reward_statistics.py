"""Statistics of the rewards of N inputs, G generations each: what Figures 1 and 2 of the paper look at."""

from __future__ import annotations

from dataclasses import dataclass

from common.statistics import CONFIDENCE, LOW_MEAN, NEAR_OPTIMAL_MEAN, SMALL_STD, Floats, std_percentile


@dataclass(frozen=True)
class RewardSummary:
    """Statistics over the inputs.

    mean, std: averages over inputs of each input's mean and std; std_percentile: 10th percentile of std over
    the inputs whose mean is at most 0.9 (x axis of Figure 2), NaN if there is none; small_low: share of the
    inputs with std below `small_std` and mean below `low_mean`, with its 95% interval over inputs;
    unseen: a reward that none of G generations showed has a probability below this (95%).
    """

    inputs: int
    generations: int
    mean: float
    std: float
    std_percentile: float
    percentile_inputs: int
    small_std: float
    low_mean: float
    small_low: float
    small_low_interval: tuple[float, float]
    unseen: float


def input_statistics(rewards: Floats) -> tuple[Floats, Floats]:
    """Mean and std of each input's rewards. rewards: [N, G]. Returns two [N].

    The std divides by G, as the paper's does (ddof 0).
    """
    return rewards.mean(1), rewards.std(1)


def summarise(rewards: Floats, small_std: float = SMALL_STD, low_mean: float = LOW_MEAN) -> RewardSummary:
    """The summary of rewards [N, G]."""
    from scipy.stats import binomtest

    mean, std = input_statistics(rewards)
    percentile, kept = std_percentile(mean, std)
    count, total = int(((std < small_std) & (mean < low_mean)).sum()), len(mean)
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    generations = rewards.shape[1]
    return RewardSummary(
        inputs=total,
        generations=generations,
        mean=float(mean.mean()),
        std=float(std.mean()),
        std_percentile=percentile,
        percentile_inputs=kept,
        small_std=small_std,
        low_mean=low_mean,
        small_low=count / total,
        small_low_interval=(float(interval.low), float(interval.high)),
        unseen=1 - (1 - CONFIDENCE) ** (1 / generations),
    )


def describe(summary: RewardSummary, reward: str) -> list[str]:
    """The summary in lines for a reader."""
    low, high = summary.small_low_interval
    return [
        f"{reward}: {summary.inputs:,} inputs, {summary.generations} generations each",
        f"  mean over inputs: reward {summary.mean:.4f}, reward std {summary.std:.4f}",
        f"  10th percentile of the reward std: {summary.std_percentile:.4f} "
        f"({summary.percentile_inputs:,} inputs, without those of mean above {NEAR_OPTIMAL_MEAN})",
        f"  std below {summary.small_std:g} and mean below {summary.low_mean:g}: {summary.small_low:.1%} of "
        f"the inputs (95% interval {low:.1%} to {high:.1%})",
        f"  {summary.generations} equal rewards do not prove a std of 0: another reward may still have "
        f"a probability of up to {summary.unseen:.2f} (95%)",
    ]

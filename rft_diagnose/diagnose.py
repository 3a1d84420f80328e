"""The diagnosis of one reward: arrays in; statistics of each input and over the inputs out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft_diagnose import statistics
from rft_diagnose.classes import CLASSES, ERROR_RATE, SIGNAL, Inputs, dead_needs, describe_inputs
from rft_diagnose.groups import (
    ROUNDING,
    DiagnosisError,
    Floats,
    Groups,
    Ints,
    Scale,
    find_scale,
    group,
    inputs_text,
    most_within,
    spread_probability,
)
from rft_diagnose.intervals import clopper_pearson
from rft_diagnose.statistics import CONFIDENCE

GROUP_SIZES = (4, 8, 16, 32, 64)
SHORT_GROUPS = 0.05  # share of the inputs that may be left out for having too few generations


def share(chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """How many of the inputs are chosen, their share, and its exact 95% interval over inputs."""
    count, total = int(chosen.sum()), len(chosen)
    low, high = clopper_pearson(np.array(count), np.array(total), (1 - CONFIDENCE) / 2)
    return {"count": count, "share": count / total, "low": float(low), "high": float(high)}


def at_least(flat: NDArray[np.bool_], n: Ints, size: int) -> float:
    """Lower 95% bound on the share of the inputs that are not live, though it is not known which these are.

    flat: [N], shows no spread, where it counts; n: [N]. A live input shows none with probability
    (1 - SIGNAL)^(n / size) at most (Finner's inequality), or if n < size, with 1 - SIGNAL times the chance
    that lowest and highest of `size` generations are among n of them.
    """
    fewer = 1 - SIGNAL * n * (n - 1) / (size * (size - 1))
    chance = np.where(n < size, fewer, (1 - SIGNAL) ** (n / size))
    chance = np.where(n > 1, chance, 0.0)  # a single generation counts for neither side
    excess = (flat - chance) / (1 - chance)
    smallest = float((-chance / (1 - chance)).min())
    scaled = (excess - smallest) / (1 - smallest)
    low, _ = clopper_pearson(np.array(scaled.sum()), np.array(len(n)), 1 - CONFIDENCE)
    return max(0.0, float(smallest + (1 - smallest) * low))


def std_percentile(inputs: Inputs, scale: Scale) -> dict[str, Any]:
    """10th percentile of the std (ddof 0) over inputs with a mean of at most 0.9 of the range (Figure 2).

    The interval is that of the bootstrap over inputs with infinitely many resamples: the rank that a
    resample's percentile has among the values is a binomial number's.
    """
    from scipy.stats import binom

    several = inputs.n > 1
    mean, std = inputs.mean[several], inputs.std_ddof0[several]
    value, n = statistics.std_percentile(mean, std, near_optimal=scale.near_best)
    kept = np.sort(std[mean <= scale.near_best])
    if n == 0:
        return {"value": None, "low": None, "high": None, "inputs": 0}
    rank = int(0.1 * (n - 1))  # of the value at or below the percentile, from 0
    # P(resample's value of that rank <= value j) = P(Bin(n, (j + 1) / n) > rank).
    reached = binom.sf(rank, n, np.arange(1, n + 1) / n)
    low, high = (
        kept[np.searchsorted(reached, tail)] for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    )
    return {"value": value, "low": float(low), "high": float(high), "inputs": n}


def variances(inputs: Inputs, groups: Groups, scale: Scale) -> dict[str, Any]:
    """Std within inputs, between their expected rewards, and of all rewards; the share that is within.

    One-way random effects, by the method of moments: E r = mean of the input + what its generations vary.
    Rounding counts as 0.
    """
    n, total, several = inputs.n, int(inputs.n.sum()), len(inputs.n)
    grand = float(groups.rewards.mean())
    least = (ROUNDING * scale.width) ** 2
    batch_variance = float(groups.rewards.var())
    batch_std = math.sqrt(batch_variance) if batch_variance > least else 0.0
    if total == several:
        return {"within_std": None, "between_std": None, "batch_std": batch_std, "within_share": None}
    within = float((n * inputs.std_ddof0**2).sum()) / (total - several)
    between = 0.0
    if several > 1:
        typical = (total - float((n.astype(float) ** 2).sum()) / total) / (several - 1)
        mean_square = float((n * (inputs.mean - grand) ** 2).sum()) / (several - 1)
        between = (mean_square - within) / typical
        between = between if between > least else 0.0
    return {
        "within_std": math.sqrt(within),
        "between_std": math.sqrt(between),
        "batch_std": batch_std,
        "within_share": within / (within + between) if within + between > 0 else None,
    }


def common_size(n: Ints) -> int:
    """The group size that all but a twentieth of the inputs have generations for."""
    return int(np.percentile(n, 100 * SHORT_GROUPS, method="lower"))


def signal_shares(groups: Groups, width: float, sizes: Sequence[int] = GROUP_SIZES) -> list[dict[str, Any]]:
    """Expected share of a batch's inputs whose group of each size has spread, with 95% intervals.

    Up to the number of generations, unbiased. Beyond it `share` is None and the interval holds whatever the
    generations leave possible: with f(m) the probability that m generations show no spread, averaged over
    inputs, f(m + 1) <= f(m), and f(m + 1) / f(m) does not fall (Hausdorff; exact for discrete rewards).
    """
    largest = common_size(groups.sizes)
    rows = []
    for size in sizes:
        if size <= largest:
            spread = spread_probability(groups, width, size)
            spread = spread[~np.isnan(spread)]
            count, total = np.array(spread.sum()), np.array(len(spread))
            low, high = clopper_pearson(count, total, (1 - CONFIDENCE) / 2)
            rows.append(_row(size, float(spread.mean()), float(low), float(high)))
        elif largest < 2:
            rows.append(_row(size, None, 0.0, 1.0))
        else:
            rows.append(_beyond(groups, width, size, largest))
    return rows


def _beyond(groups: Groups, width: float, size: int, largest: int) -> dict[str, Any]:
    equal, before = (1 - spread_probability(groups, width, m) for m in (largest, largest - 1))
    before = before[~np.isnan(equal)]
    equal = equal[~np.isnan(equal)]
    total = len(equal)
    low, here = clopper_pearson(np.array((1 - equal).sum()), np.array(total), (1 - CONFIDENCE) / 2)
    steps, high = size - largest, 1.0
    if equal.mean() > 0:
        # f(size) >= f(m) (f(m) / f(m - 1))^steps; its logarithm's standard error by the delta method.
        terms = (steps + 1) * equal / equal.mean() - steps * before / before.mean()
        error = float(terms.std()) / math.sqrt(total)
        bound = (steps + 1) * math.log(equal.mean()) - steps * math.log(before.mean())
        high = max(float(here), 1 - math.exp(bound - statistics.normal_quantile() * error))
    return _row(size, None, float(low), high)


def _row(size: int, share: float | None, low: float, high: float) -> dict[str, Any]:
    return {"group_size": size, "share": share, "low": low, "high": high}


def over_time(codes: Ints, steps: Ints, rewards: Floats, scale: Scale, width: float) -> list[dict[str, Any]]:
    """For each step (or stretch of steps, at most 60): groups, how many show no spread and where, rewards.

    A group is the generations of one input at one step. codes, steps, rewards: [M].
    """
    distinct, step_numbers = np.unique(steps, return_inverse=True)
    pairs, members = np.unique(step_numbers * (int(codes.max()) + 1) + codes, return_inverse=True)
    groups = group(members, rewards)
    several = groups.sizes > 1
    flat = several & (most_within(groups, width) == groups.sizes)
    best = groups.medians >= scale.near_best
    mean = np.add.reduceat(groups.rewards, groups.starts) / groups.sizes
    squares = np.add.reduceat((groups.rewards - np.repeat(mean, groups.sizes)) ** 2, groups.starts)
    of_group = pairs // (int(codes.max()) + 1)
    stretch = np.arange(len(distinct)) * min(len(distinct), 60) // len(distinct)
    rows = []
    for i in range(int(stretch[-1]) + 1):
        inside = (stretch[of_group] == i) & several
        if inside.any():
            freedom = int((groups.sizes[inside] - 1).sum())
            rows.append(
                {
                    "first_step": int(distinct[stretch == i][0]),
                    "last_step": int(distinct[stretch == i][-1]),
                    "groups": int(inside.sum()),
                    "no_spread": float(flat[inside].mean()),
                    "no_spread_low": float((flat & ~best)[inside].mean()),
                    "no_spread_high": float((flat & best)[inside].mean()),
                    "mean": float(np.average(mean[inside], weights=groups.sizes[inside])),
                    "within_std": math.sqrt(float(squares[inside].sum()) / freedom),
                }
            )
    return rows


TOLERANCE = 0.03  # of the range; ten normal rewards span it at a std of 0.01, which the paper calls small
GROUP_SIZE = 8


@dataclass(frozen=True)
class Diagnosis:
    """What the rewards say.

    labels: of the N inputs; inputs: one value for each (see Inputs); summary: everything over inputs, as
    JSON values (docs/diagnosis.md); caveats: what a reader must know of the numbers; groups: the rewards
    that the classes are from.
    """

    labels: NDArray[np.generic]
    inputs: Inputs
    scale: Scale
    groups: Groups
    summary: dict[str, Any]
    caveats: list[str]


def diagnose(
    rewards: ArrayLike,
    inputs: ArrayLike | None = None,
    *,
    steps: ArrayLike | None = None,
    kl: ArrayLike | None = None,
    kl_coef: float = 0.0,
    reward_range: tuple[float, float] | None = None,
    tolerance: float = TOLERANCE,
    group_size: int | None = None,
    last_steps: int | None = None,
) -> Diagnosis:
    """Which inputs carry no gradient.

    rewards: [N, G], or [M] with `inputs` [M], the input (any label) that each is of; NaN = missing, left out.
    steps: [M], the training step of each; an input is then judged by its last visit, or by its visits of the
    last `last_steps` steps. kl: like rewards, log pi - log pi_ref of each generation: what is diagnosed is
    then rewards - kl_coef * kl. reward_range: worst and best reward; [0, 1] is assumed if all lie in it, else
    their own range. tolerance: rewards that differ by at most this share of the range are the same.
    group_size: generations of an input in training (8, or what most groups of a log with steps have).
    Raises DiagnosisError.
    """
    values, codes, labels = _by_input(rewards, inputs)
    if not 0 < tolerance < 0.5:
        raise DiagnosisError(
            f"the tolerance is a share of the range, above 0 and below 0.5, got {tolerance:g}"
        )
    if group_size is not None and group_size < 2:
        raise DiagnosisError(f"a group has at least 2 generations, got {group_size}")
    if last_steps is not None and (steps is None or last_steps < 1):
        raise DiagnosisError("the last steps, at least 1, are those of a log with steps")
    moments = None if steps is None else _whole_numbers(steps, len(values))
    penalty = np.zeros(len(values)) if kl is None else _floats(kl, "kl").ravel()
    if len(penalty) != len(values):
        raise DiagnosisError(f"{len(penalty):,} values of kl for {len(values):,} rewards")
    known = ~(np.isnan(values) | np.isnan(penalty))
    if not known.any():
        raise DiagnosisError("every reward is missing")
    missing = len(values) - int(known.sum())
    scale = find_scale(values[known], reward_range)
    if kl is not None and kl_coef:
        scale = Scale(scale.low, scale.high, scale.source, None)
    values = (values - kl_coef * penalty)[known]
    codes = codes[known]
    width = tolerance * scale.width

    timeline: list[dict[str, Any]] = []
    how: list[str] = []
    if moments is not None:
        moments = moments[known]
        if group_size is None:
            group_size = _usual_size(codes, moments)
        timeline = over_time(codes, moments, values, scale, width)
        latest = _latest(codes, moments, last_steps)
        codes, values = codes[latest], values[latest]
        way = "its last visit" if last_steps is None else f"its visits of the last {last_steps:,} steps"
        how = [f"the log has {len(np.unique(moments)):,} steps: an input is judged by {way}"]
    group_size = group_size or GROUP_SIZE

    kept, codes = np.unique(codes, return_inverse=True)
    groups = group(codes, values)
    if groups.sizes.max() < 2:
        raise DiagnosisError(
            f"each of the {len(kept):,} inputs has one reward, and a spread needs two: "
            "is the column that names the input the right one?"
        )
    signal = spread_probability(groups, width, group_size)
    table = describe_inputs(groups, scale, width, group_size, signal)
    needs = dead_needs(group_size, scale.values is not None)
    summary = {
        "inputs": len(kept),
        "generations": len(values),
        "missing": missing,
        "generations_per_input": dict(
            zip(("min", "median", "max"), np.percentile(table.n, (0, 50, 100)).tolist(), strict=True)
        ),
        "range": {"low": scale.low, "high": scale.high, "source": scale.source},
        "two_values": None if scale.values is None else list(scale.values),
        "kl_coef": kl_coef if kl is not None else None,
        "tolerance": tolerance,
        "group_size": group_size,
        "confidence": CONFIDENCE,
        "error_rate": ERROR_RATE,
        "dead_needs": needs,
        "mean": float(table.mean.mean()),
        "std": _mean(table.std),
        "std_ddof0": _mean(table.std_ddof0[table.n > 1]),
        "classes": {name: share(table.label == name) for name in CLASSES},
        "dead_low_at_least": at_least(table.looks == "flat_low", table.n, group_size),
        "no_spread": share(np.char.startswith(table.looks, "flat")),
        "no_spread_low": share(table.looks == "flat_low"),
        "no_spread_high": share(table.looks == "flat_high"),
        "std_percentile": std_percentile(table, scale),
        "variance": variances(table, groups, scale),
        "signal": signal_shares(groups, width, sorted({*GROUP_SIZES, group_size, 2 * group_size})),
        "settling": _settling(table),
        "over_time": timeline,
    }
    caveats = how + _caveats(table, scale, values, missing, needs)
    return Diagnosis(labels[kept], table, scale, groups, summary, caveats)


def _by_input(rewards: ArrayLike, inputs: ArrayLike | None) -> tuple[Floats, Ints, NDArray[np.generic]]:
    """Rewards [M], the number of each one's input, and the inputs' labels."""
    values = _floats(rewards, "rewards")
    if values.size == 0:
        raise DiagnosisError("there are no rewards")
    if inputs is None:
        if values.ndim != 2:
            raise DiagnosisError(
                f"rewards without inputs must be [inputs, generations], not of shape {list(values.shape)}"
            )
        number, each = values.shape
        return values.ravel(), np.repeat(np.arange(number), each), np.arange(number)
    named = np.asarray(inputs)
    if named.dtype.kind == "U":  # fixed-width text would take the room of the longest prompt for each
        named = np.asarray(inputs, dtype=object)
    if values.shape != named.shape or values.ndim != 1:
        raise DiagnosisError(f"rewards {list(values.shape)} and inputs {list(named.shape)} must be two lists")
    labels, codes = np.unique(named, return_inverse=True)
    return values, codes, labels


def _floats(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DiagnosisError(f"{name} must be numbers: {error}") from error
    if np.isinf(array).any():
        raise DiagnosisError(f"{name}: number {int(np.isinf(array).argmax()):,} (from 0) is infinite")
    return array


def _whole_numbers(steps: ArrayLike, length: int) -> Ints:
    array = _floats(steps, "steps").ravel()
    if len(array) != length or np.isnan(array).any():
        raise DiagnosisError(f"steps: expected a number for each of the {length:,} rewards")
    return array.astype(np.int64)


def _usual_size(codes: Ints, steps: Ints) -> int | None:
    """The most frequent number of generations of an input at a step, None if that is one."""
    number = np.unique(steps, return_inverse=True)[1] * (int(codes.max()) + 1) + codes
    size = int(np.bincount(np.unique(number, return_counts=True)[1]).argmax())
    return size if size > 1 else None


def _latest(codes: Ints, steps: Ints, last_steps: int | None) -> NDArray[np.bool_]:
    """Which rewards are of their input's last visit, or of the last steps."""
    if last_steps is not None:
        distinct = np.unique(steps)
        return steps >= distinct[-min(last_steps, len(distinct))]
    last = np.full(int(codes.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(last, codes, steps)
    return steps == last[codes]


def _settling(table: Inputs) -> dict[str, int]:
    """How many further generations would settle the uncertain inputs, if these go on as they are."""
    open_cases, flat = table.label == "uncertain", np.char.startswith(table.looks, "flat")
    return {
        "inputs": int((open_cases & (table.more > 0)).sum()),
        "generations": int(table.more[open_cases & (table.more > 0)].sum()),
        "at_the_border": int((open_cases & (table.more < 0)).sum()),
        "no_spread_generations": int(table.more[open_cases & flat].sum()),
    }


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _caveats(table: Inputs, scale: Scale, values: Floats, missing: int, needs: int) -> list[str]:
    """What a reader must know before using the numbers."""
    found: list[str] = []
    short = int((table.n < needs).sum())
    if 0 < short < len(table.n):
        found.append(
            f"{inputs_text(short)} with fewer than the {needs} generations that a dead verdict needs"
        )
    if scale.source != "given":
        how = "assumed" if scale.source == "assumed" else "the range of the rewards seen"
        found.append(
            f"rewards are judged on {scale.low:g} to {scale.high:g} ({how}): "
            "give the range if worst and best possible reward differ"
        )
    if math.isclose(float(values.min()), float(values.max()), abs_tol=1e-9 * scale.width):
        found.append(f"every reward is {float(values[0]):g}: check that the reward function works")
    if missing:
        found.append(f"{missing:,} rewards are missing (null or NaN) and left out")
    single = int((table.n == 1).sum())
    if single:
        found.append(f"{inputs_text(single)} with a single generation: no spread can be seen, uncertain")
    if table.n.min() != table.n.max():
        found.append(f"inputs have between {table.n.min():,} and {table.n.max():,} generations")
    return found

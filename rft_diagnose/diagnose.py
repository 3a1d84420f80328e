"""The diagnosis of one reward: arrays in; statistics of each input and over the inputs out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft_diagnose.classes import CLASSES, ERROR_RATE, Inputs, dead_needs, describe_inputs
from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.estimate import estimate_dead_low
from rft_diagnose.groups import (
    LARGEST,
    Floats,
    Groups,
    Ints,
    Scale,
    find_scale,
    group,
    inputs_text,
    number_values,
    reject_far_ends,
    spread_probability,
)
from rft_diagnose.objective import ASSUMED, Objective, judge_groups, make_objective
from rft_diagnose.over_inputs import (
    GROUP_SIZES,
    at_least,
    normalisation,
    over_time,
    share,
    signal_shares,
    std_percentile,
    variances,
)
from rft_diagnose.rows import mix
from rft_diagnose.statistics import CONFIDENCE

TOLERANCE = 0.03  # of the range; ten normal rewards span it at a std of 0.01, which the paper calls small
GROUP_SIZE = 8


@dataclass(frozen=True)
class Diagnosis:
    """What the rewards say.

    labels: of the N inputs; inputs: one value for each (see Inputs); summary: everything over inputs, as
    JSON values (docs/diagnosis.md); caveats: what a reader must know of the numbers; groups: the rewards
    that the classes are from; noise_groups: of the N inputs, how many (see `objective`).
    """

    labels: NDArray[np.generic]
    inputs: Inputs
    scale: Scale
    groups: Groups
    summary: dict[str, Any]
    caveats: list[str]
    noise_groups: Ints


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
    repeated: bool = False,
    objective: Objective | str | None = None,
    parts: Sequence[ArrayLike] | None = None,
    estimate: bool = True,
) -> Diagnosis:
    """Find out which inputs carry no gradient.

    rewards: [N, G], or [M] with `inputs` [M], the input (any label) that each is of; NaN = missing, left out.
    steps: [M], the training step of each; an input is then judged by its last visit, or by its visits of the
    last `last_steps` steps; repeated: leave out those with a single generation there. kl: like rewards,
    log pi - log pi_ref of each generation: what is diagnosed is then rewards - kl_coef * kl. reward_range:
    worst and best reward; [0, 1] is assumed if all lie in it, else their own range, without a few that lie
    far from all others. tolerance: rewards that differ by at most this share of the range are the same.
    group_size: generations of an input in training (8, or what most groups of a log with steps have).
    objective: what is optimised, by its name (`objective.OBJECTIVES`; GRPO is assumed); parts: like rewards,
    the weighted rewards that these add up from, for one that normalises each of them. estimate: estimate the
    share of dead inputs (`summary["est_dead_low"]`), which takes a tenth of a second.
    Raises DiagnosisError.
    """
    values, codes, labels = _by_input(rewards, inputs)
    optimised = make_objective(objective) if isinstance(objective, str) else objective or ASSUMED
    each = [_floats(part, "a part").ravel() for part in parts or ()]
    if not 0 < tolerance < 0.5:
        raise DiagnosisError(
            f"the tolerance is a share of the range, above 0 and below 0.5, got {tolerance:g}"
        )
    if group_size is not None and group_size < 2:
        raise DiagnosisError(f"a group has at least 2 generations, got {group_size}")
    if last_steps is not None and (steps is None or last_steps < 1):
        raise DiagnosisError("the last steps, at least 1, are those of a log with steps")
    moments = None if steps is None else _whole_numbers(steps, len(values))
    known = ~np.isnan(values)
    if kl is not None:
        penalty = _floats(kl, "kl").ravel()
        if len(penalty) != len(values):
            raise DiagnosisError(f"{len(penalty):,} values of kl for {len(values):,} rewards")
        known &= ~np.isnan(penalty)
    if not known.any():
        raise DiagnosisError("every reward is missing")
    missing = len(values) - int(known.sum())
    if missing:
        values, codes, each = values[known], codes[known], [part[known] for part in each]
    scale = find_scale(values, reward_range)
    reject_far_ends(values, scale, tolerance)
    if kl is not None:
        scale = replace(scale, values=None) if kl_coef else scale
        values = values - kl_coef * penalty[known]
    width = tolerance * scale.width

    visits = codes
    timeline: list[dict[str, Any]] = []
    how: list[str] = []
    if moments is not None:
        moments = moments[known]
        if group_size is None:
            group_size = _usual_size(codes, moments)
        timeline = over_time(codes, moments, values, scale, width)
        latest = latest_visits(codes, moments, last_steps)
        visits = mix(codes, moments)[latest].view(np.int64)
        codes, values, each = codes[latest], values[latest], [part[latest] for part in each]
        way = "its last visit" if last_steps is None else f"its visits of the last {last_steps:,} steps"
        how = [f"the log has {len(np.unique(moments)):,} steps: an input is judged by {way}"]
        several = np.bincount(codes)[codes] > 1
        if repeated and several.any() and not several.all():
            how.append(
                f"{inputs_text(len(np.unique(codes[~several])))} with a single generation in these: left out"
            )
            codes, values, visits = codes[several], values[several], visits[several]
            each = [part[several] for part in each]
    group_size = group_size or GROUP_SIZE

    kept, codes = number_values(codes)
    # PPO has no groups: what it learns from is all generations of an input.
    visits = codes if optimised.counts_as == "ppo" else number_values(visits)[1]
    groups = group(codes, values)
    if groups.sizes.max() < 2:
        raise DiagnosisError(
            f"each of the {len(kept):,} inputs has one reward, and a spread needs two: "
            "is the column that names the input the right one?"
        )
    if optimised.aggregation == "sum_then_normalize" or not each:
        each, widths = [values], [(scale.width, width)]
    else:
        reaches = [float(np.nanmax(part) - np.nanmin(part)) for part in each]
        widths = [(reach, tolerance * reach) for reach in reaches]
    facts, noise_groups = judge_groups(each, widths, codes, visits, optimised)
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
        "est_dead_low": estimate_dead_low(groups, scale, width, group_size) if estimate else None,
        "no_spread": share(np.char.startswith(table.looks, "flat")),
        "no_spread_low": share(table.looks == "flat_low"),
        "no_spread_high": share(table.looks == "flat_high"),
        "std_percentile": std_percentile(table, scale),
        "variance": variances(table, groups, scale),
        "signal": signal_shares(groups, width, sorted({*GROUP_SIZES, group_size, 2 * group_size})),
        "group_normalisation": normalisation(table, group_size),
        "objective": facts,
        "settling": _settling(table),
        "over_time": timeline,
    }
    caveats = how + _caveats(table, scale, values, missing, needs)
    return Diagnosis(labels[kept], table, scale, groups, summary, caveats, noise_groups)


def _by_input(rewards: ArrayLike, inputs: ArrayLike | None) -> tuple[Floats, Ints, NDArray[np.generic]]:
    """Read rewards [M], the number of each one's input, and the inputs' labels."""
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
    labels, codes = number_values(named)
    return values, codes, labels


def _floats(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DiagnosisError(f"{name} must be numbers: {error}") from error
    if np.isinf(array).any():
        raise DiagnosisError(f"{name}: number {int(np.isinf(array).argmax()):,} (from 0) is infinite")
    if (np.abs(array) > LARGEST).any():
        place = int((np.abs(array) > LARGEST).argmax())
        raise DiagnosisError(f"{name}: number {place:,} (from 0) is too large: {array.flat[place]:g}")
    return array


def _whole_numbers(steps: ArrayLike, length: int) -> Ints:
    array = _floats(steps, "steps").ravel()
    if len(array) != length or np.isnan(array).any():
        raise DiagnosisError(f"steps: expected a number for each of the {length:,} rewards")
    fractional = (np.round(array) != array) | (np.abs(array) >= 2**53)
    if fractional.any():
        place = int(fractional.argmax())
        raise DiagnosisError(
            f"steps: number {place:,} (from 0), {array[place]:g}, is no whole number below 2^53"
        )
    return array.astype(np.int64)


def _usual_size(codes: Ints, steps: Ints) -> int | None:
    """Find the most frequent number of generations of an input at a step, None if that is one."""
    number = np.unique(steps, return_inverse=True)[1] * (int(codes.max()) + 1) + codes
    size = int(np.bincount(np.unique(number, return_counts=True)[1]).argmax())
    return size if size > 1 else None


def latest_visits(codes: Ints, steps: Ints, last_steps: int | None) -> NDArray[np.bool_]:
    """Tell which rewards are of their input's last visit, or of the last steps."""
    if last_steps is not None:
        distinct = np.unique(steps)
        return steps >= distinct[-min(last_steps, len(distinct))]
    last = np.full(int(codes.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(last, codes, steps)
    return steps == last[codes]


def _settling(table: Inputs) -> dict[str, int]:
    """Count how many further generations would settle the uncertain inputs, if these go on as they are."""
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
    """Say what a reader must know before using the numbers."""
    caveats: list[str] = []
    short = int((table.n < needs).sum())
    if 0 < short < len(table.n):
        caveats.append(
            f"{inputs_text(short)} with fewer than the {needs} generations that a dead verdict needs"
        )
    if scale.source != "given":
        how = "assumed" if scale.source == "assumed" else "the range of the rewards seen"
        caveats.append(
            f"rewards are judged on {scale.low:g} to {scale.high:g} ({how}): "
            "give the range if worst and best possible reward differ"
        )
    if scale.outside:
        shown = listed(f"{value:g}" for value in dict.fromkeys(scale.outside))
        lie = "s lie" if len(scale.outside) > 1 else " lies"
        caveats.append(
            f"{len(scale.outside):,} reward{lie} far from all others and left out of that range: {shown}"
        )
    if math.isclose(float(values.min()), float(values.max()), abs_tol=1e-9 * scale.width):
        caveats.append(f"every reward is {float(values[0]):g}: check that the reward function works")
    if missing:
        caveats.append(f"{missing:,} rewards are missing (null or NaN) and left out")
    single = int((table.n == 1).sum())
    if single:
        caveats.append(f"{inputs_text(single)} with a single generation: no spread can be seen, uncertain")
    if table.n.min() != table.n.max():
        caveats.append(f"inputs have between {table.n.min():,} and {table.n.max():,} generations")
    return caveats

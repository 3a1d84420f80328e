"""What an objective makes of each group of rewards: what it trains on, and how much of a step is noise.

GRPO divides by the group's std: 0.5 +- 0.003 is full-size noise for it, and no signal for the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from rft_diagnose.errors import DiagnosisError, hint
from rft_diagnose.groups import ROUNDING, Floats, Ints

Scaling = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
NOISE = 0.05  # of the median std of live groups: what is below it is noise
STD_EPSILON = 1e-4  # added to a std by TRL and here
NAMED = 3  # inputs
# `alg.args.scale` of a run here
SCALES: dict[str, Scaling] = {
    "group_std": "group",
    "batch_std": "batch",
    "token_std": "batch",
    "none": "none",
}


class _Rule(NamedTuple):
    counts_as: str
    scaling: Scaling
    drops_equal: bool = False


OBJECTIVES = {
    "ppo": _Rule("ppo", "none"),
    "nlpo": _Rule("ppo", "none"),
    "a2c": _Rule("ppo", "none"),
    "rloo": _Rule("rloo", "none"),
    "dr_grpo": _Rule("dr_grpo", "none"),
    "grpo": _Rule("grpo", "group"),
    "gspo": _Rule("grpo", "group"),
    "dapo": _Rule("grpo", "group", drops_equal=True),
    "reinforce_pp": _Rule("reinforce_pp", "batch"),
}


@dataclass(frozen=True)
class Objective:
    """What is optimised.

    name: an `alg.id`; counts_as: the one that it is here like; scaling: whose std advantages are divided by;
    drops_equal: groups of equal rewards are replaced (dynamic sampling); aggregation: of several rewards;
    source: how it is known.
    """

    name: str
    counts_as: str
    scaling: Scaling
    drops_equal: bool = False
    aggregation: Aggregation = "sum_then_normalize"
    source: str = "given"


def make_objective(
    name: str, scaling: str | None = None, aggregation: str | None = None, source: str = "given"
) -> Objective:
    """Make the objective of a name, with TRL's `scale_rewards` and `multi_objective_aggregation`.

    Raises DiagnosisError: there is no such one, or it does not divide by a group's std.
    """
    for option, value, known in [
        ("--objective", name, tuple(OBJECTIVES)),
        ("--scale_rewards", scaling, get_args(Scaling)),
        ("--multi_objective_aggregation", aggregation, get_args(Aggregation)),
    ]:
        if value is not None and value not in known:
            text = f"unknown {value!r}; {hint(value, known)}known: {', '.join(known)}"
            raise DiagnosisError(f"{option}: {text}")
    rule = OBJECTIVES[name]
    if rule.scaling != "group" and (scaling is not None or aggregation == "normalize_then_sum"):
        option = "--multi_objective_aggregation" if scaling is None else "--scale_rewards"
        able = ", ".join(known for known, other in OBJECTIVES.items() if other.scaling == "group")
        raise DiagnosisError(
            f"{option} is for objectives that divide by a group's std: {able}; not for {name}"
        )
    if aggregation == "normalize_then_sum" and scaling not in (None, "group"):
        raise DiagnosisError(
            "--multi_objective_aggregation normalize_then_sum divides each reward by its group's std: give "
            f"no --scale_rewards {scaling} with it"
        )
    return Objective(
        name,
        rule.counts_as,
        scaling or rule.scaling,  # type: ignore[arg-type]
        rule.drops_equal,
        aggregation or "sum_then_normalize",  # type: ignore[arg-type]
        source,
    )


ASSUMED = make_objective("grpo", source="assumed: --objective names another")


def run_objective(rewards: Path) -> Objective | None:
    """Read what a training run here optimises from the config beside its log of rewards; None: not known."""
    config = rewards.with_name(f"{rewards.name.partition('_rollout_rewards')[0]}_config.json")
    try:
        algorithm = json.loads(config.read_text(encoding="utf-8"))["alg"]
        name, args = algorithm["id"], algorithm.get("args") or {}
        known = make_objective(name, source=f"the run's config, {config.name}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DiagnosisError):
        return None
    scaling = SCALES.get(str(args.get("scale")), known.scaling)
    sampling = args.get("dynamic_sampling")
    drops = sampling.get("enabled") is True if isinstance(sampling, dict) else known.drops_equal
    return replace(known, scaling=scaling, drops_equal=drops)


def judge_groups(
    parts: Sequence[Floats],
    widths: Sequence[tuple[float, float]],
    codes: Ints,
    visits: Ints,
    objective: Objective,
) -> tuple[dict[str, Any], Ints]:
    """Say which groups the objective learns from, and count the noise groups of each input, [N].

    parts: what is normalised, [M] each, weighted, NaN = missing: the sum of the rewards, or each of them;
    widths: of each, its range and how far rewards of a live group differ at least; codes, visits: [M], input
    and group.
    """
    rows = [_group_rows(part, visits) for part in parts]
    spread = np.zeros(int(visits.max()) + 1, dtype=bool)
    noisy = np.zeros(len(spread), dtype=bool)
    several = np.zeros(len(spread), dtype=bool)
    live_stds, limits, all_weight, noise_weight = [], [], 0.0, 0.0
    for (groups, sizes, std, width), (reach, tolerance) in zip(rows, widths, strict=True):
        several[groups] = True
        spread[groups[std > ROUNDING * reach]] = True
        live = width > tolerance
        weight = _squared_advantages(sizes, std, objective.scaling)
        all_weight += float(weight.sum())
        if live.any():
            limit = NOISE * float(np.median(std[live]))
            noise = (std > ROUNDING * reach) & (std < limit)
            noisy[groups[noise]] = True
            noise_weight += float(weight[noise].sum())
            live_stds.append(limit / NOISE)
            limits.append(limit)
    owners = np.zeros(len(spread), dtype=np.int64)
    owners[visits] = codes
    noise_groups = np.bincount(owners[noisy], minlength=int(codes.max()) + 1)
    total, equal = int(several.sum()), int((several & ~spread).sum())
    noise_count = int(noisy.sum())
    facts = {
        **asdict(objective),
        "groups": total,
        "equal": {"count": equal, "share": equal / total if total else None},
        "trained_on": total - equal if objective.drops_equal else total,
        "noise": {
            "groups": noise_count,
            "share": noise_count / total if total else None,
            "inputs": int((noise_groups > 0).sum()),
            "live_std": live_stds[0] if len(live_stds) == 1 else None,
            "step_share": noise_weight / all_weight if all_weight > 0 else None,
        },
    }
    return facts, noise_groups


def _group_rows(part: Floats, visits: Ints) -> tuple[Ints, Ints, Floats, Floats]:
    """Give number, size, std (n - 1) and largest difference of each group of at least two rewards."""
    known = ~np.isnan(part)
    values, groups = (part, visits) if known.all() else (part[known], visits[known])
    order = np.lexsort((values, groups))
    values, groups = values[order], groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.zeros(0, dtype=int)
    sizes = np.diff(starts, append=len(groups))
    means = np.add.reduceat(values, starts) / sizes if len(starts) else np.zeros(0)
    squares = np.add.reduceat((values - np.repeat(means, sizes)) ** 2, starts) if len(starts) else means
    width = values[starts + sizes - 1] - values[starts] if len(starts) else means
    several = sizes > 1
    std = np.sqrt(squares[several] / (sizes[several] - 1))
    return groups[starts][several], sizes[several], std, width[several]


def _squared_advantages(sizes: Ints, std: Floats, scaling: Scaling) -> Floats:
    """Sum the squares of a group's advantages, but for a factor that all groups have."""
    scale = std / (std + STD_EPSILON) if scaling == "group" else std
    return (sizes - 1) * scale**2

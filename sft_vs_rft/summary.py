"""What is said of a plan before it runs and after."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from common.executors import describe_executor
from common.jobs import Outcome
from common.plan_jobs import describe_outcomes, group_by_setting, mean_and_std
from common.run_dir import read_metrics
from sft_vs_rft.plan import Experiment, LoadedPlan, Plan, describe_steps
from sft_vs_rft.schedule import read_score

OBJECTIVE = re.compile(r"\b(loss|objective)\b")  # in the name of a metric that each method has its own of
GROUPS = {"small": "reward small reward std", "large": "reward large reward std"}
DRAW, MOST_RUNS = ("python", "reproduce_paper.py", "--runs"), 6


def print_check(loaded: LoadedPlan) -> None:
    """What the plan would run: resolved configs and derived sizes."""
    for notice in loaded.notices:
        print(f"note: {notice}")
    print(f"{loaded.plan.name}: {len(loaded.experiments)} experiments")
    for line in describe_executor(loaded.plan):
        print(line)
    for experiment in loaded.experiments:
        print(f"\n{experiment.name}: {describe_steps(experiment.config)}")
        print(json.dumps(experiment.config.model_dump(), indent=2))


def report(loaded: LoadedPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """All lines about a plan that has ended."""
    lines = summary(loaded.plan, loaded.experiments, outcomes, [read_score(outcome) for outcome in outcomes])
    return lines + describe_groups(loaded.experiments, outcomes)


def summary(
    plan: Plan,
    experiments: Sequence[Experiment],
    outcomes: Sequence[Outcome],
    scores: Sequence[float | None],
) -> list[str]:
    """Lines that say how each experiment ended, and which configuration was the best.

    scores: of the experiments; None: it did not run to its end. Where they are losses, each method has a best
    one of its own, if it has several configurations: what RFT and SFT minimise is not the same.
    """
    results = ["not run to its end" if score is None else f"score {score:.6g}" for score in scores]
    lines = describe_outcomes(plan, experiments, outcomes, results)
    metric = "/".join(sorted({experiment.config.score_metric_name for experiment in experiments}))
    measured: dict[str, list[tuple[str, list[float]]]] = {}
    for pairs in group_by_setting(experiments, scores):
        config, values = pairs[0][0].config, [score for _, score in pairs if score is not None]
        if values:
            method: str = config.opt_method if OBJECTIVE.search(metric) else ""
            measured.setdefault(method, []).append((config.experiment_name, values))
    choose, order = (max, "largest") if plan.largest else (min, "smallest")
    for method, settings in measured.items():
        name, values = choose(settings, key=lambda setting: statistics.fmean(setting[1]))
        mean, std = mean_and_std(values)
        spread = "" if std is None else f", std {std:.3g} over {len(values)}"
        if len(measured) == 1:
            lines.append(f"  best ({order} {metric}): {name}, {mean:.6g}{spread}")
        elif len(settings) > 1:
            lines.append(f"  best of {method} ({order} {metric}): {name}, {mean:.6g}{spread}")
    return lines


def describe_groups(experiments: Sequence[Experiment], outcomes: Sequence[Outcome]) -> list[str]:
    """Lines with the rewards of both groups of inputs at the end of each finetuning, and what draws them.

    [] where no finished experiment told the groups apart.
    """
    ends = [_read_rewards(outcome) for outcome in outcomes]
    lines = []
    for pairs in group_by_setting(experiments, ends):
        cells = []
        for group in GROUPS:
            mean, std = mean_and_std([end[group] for _, end in pairs if group in end])
            if mean is not None:
                cells.append(f"{group} {mean:.3f}" + ("" if std is None else f" (std {std:.3f})"))
        if cells:
            lines.append(f"    {pairs[0][0].config.experiment_name}: {', '.join(cells)}")
    if not lines:
        return []
    runs = [str(outcome.run) for outcome, end in zip(outcomes, ends, strict=True) if end]
    shown = runs if len(runs) <= MOST_RUNS else sorted({str(Path(run).parent) for run in runs})
    head = "  train reward at the end, inputs by their reward std under the pretrained model:"
    return [head, *lines, f"  the picture: {shlex.join([*DRAW, *shown])}"]


def _read_rewards(outcome: Outcome) -> dict[str, float]:
    """Group -> reward in the last epoch of a finished run; {} if it has no groups."""
    rows = read_metrics(outcome.run) if outcome.is_done and outcome.run is not None else []
    last = rows[-1]["train"] if rows else {}
    return {group: last[name] for group, name in GROUPS.items() if name in last}

"""What a plan's runs measured: mean and std over seeds of each setting, before and after training."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import unknown_name
from common.files import read_rows
from common.jobs import Outcome
from common.plan_jobs import group_by_setting, mean_and_std
from common.run_dir import read_run
from rl4lms.config import TrainConfig
from rl4lms.plan.schema import Experiment

SPLITS = ("train", "val", "test")
COLUMNS = [f"{split}_{when}" for split in SPLITS for when in ("before", "after")]


@dataclass(frozen=True)
class Summary:
    """What one setting came to. values: column -> one number for each finished seed, in the seeds' order."""

    setting: str
    seeds: list[int]
    unfinished: int
    values: dict[str, list[float]]
    runs: list[Path]


def summarise(
    experiments: Sequence[Experiment], outcomes: Sequence[Outcome], metric: str | None = None
) -> list[Summary]:
    """One summary for each setting, in the order of the experiments.

    metric: see `Plan.score_metric_name`. A training has a value before and after it for each split that was
    evaluated; an extraction the mean of its inputs' mean rewards as `train_after`.
    """
    summaries = []
    for pairs in group_by_setting(experiments, outcomes):
        done = [(e, o.run) for e, o in pairs if o.is_done and o.run is not None]
        measured = [measurements(experiment, run, metric) for experiment, run in done]
        values = {
            column: [row[column] for row in measured]
            for column in COLUMNS
            if all(column in row for row in measured)
        }
        setting = pairs[0][0].setting
        seeds = [experiment.config.runtime.seed for experiment, _ in done]
        summaries.append(
            Summary(setting, seeds, len(pairs) - len(done), values if done else {}, [run for _, run in done])
        )
    return summaries


def measurements(experiment: Experiment, run: Path, metric: str | None) -> dict[str, float]:
    """Column -> value of one run; NaN where the run does not have the metric."""
    if not isinstance(experiment.config, TrainConfig):
        with run.with_name(f"{run.name}.csv").open(newline="", encoding="utf-8") as file:
            return {"train_after": statistics.fmean(float(row["mean"]) for row in csv.DictReader(file))}
    prefix = read_run(run).manifest.get("prefix", "")
    values = {}
    for split in SPLITS:
        rows = read_rows(run / f"{prefix}{split}_split_metrics.jsonl", "epoch")
        for when, row in zip(("before", "after"), (rows[0], rows[-1]) if len(rows) > 1 else (), strict=False):
            name = metric or next(iter(row["metrics"]), "")
            values[f"{split}_{when}"] = row["metrics"].get(name, math.nan)
    return values


def unknown_metric(summaries: Sequence[Summary], metric: str | None) -> str | None:
    """What to say if no training has the metric of the table, None if one has."""
    files = [
        file for summary in summaries for run in summary.runs for file in run.glob("*_split_metrics.jsonl")
    ]
    known = {name for file in files for row in read_rows(file, "epoch") for name in row["metrics"]}
    if metric is None or not known or metric in known:
        return None
    return f"score_metric_name: {unknown_name('metric', metric, sorted(known))}"


def table_text(summaries: Sequence[Summary]) -> list[str]:
    """The summaries as lines of text: mean, and std over seeds where there are several."""
    columns = [column for column in COLUMNS if any(column in s.values for s in summaries)]
    rows = [["setting", "seeds", *(column.replace("_", " ") for column in columns)]]
    for summary in summaries:
        count = str(len(summary.seeds)) + (
            f" (+{summary.unfinished} unfinished)" if summary.unfinished else ""
        )
        rows.append([summary.setting, count, *(_cell(summary.values.get(column, [])) for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def table_csv(summaries: Sequence[Summary]) -> str:
    """The summaries as CSV: setting, seeds, mean and std of each column, run folders."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(
        ["setting", "seeds", *(f"{column}_{name}" for column in COLUMNS for name in ("mean", "std")), "runs"]
    )
    for summary in summaries:
        cells: list[object] = []
        for column in COLUMNS:
            mean, std = mean_and_std(summary.values.get(column, []))
            cells += ["" if mean is None else mean, "" if std is None else std]
        writer.writerow([summary.setting, len(summary.seeds), *cells, _joined(summary.runs)])
    return buffer.getvalue()


def _cell(values: Sequence[float]) -> str:
    mean, std = mean_and_std(values)
    if mean is None:
        return "-"
    return f"{mean:.4f}" + (f" +- {std:.4f}" if std is not None else "")


def _joined(paths: Iterable[Path]) -> str:
    return " ".join(map(str, paths))

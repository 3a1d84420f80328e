"""Judges each claim by the runs at hand: the number that its criterion asks for, or why there is none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from figures.controlled_measures import (
    EXACT_GRPO,
    first_gradient,
    grpo_ahead,
    grpo_left_behind,
    left_behind,
)
from figures.criteria import CRITERIA
from figures.criterion import (
    CONTRAST_TASK,
    FEWEST_TASKS,
    GROUP_EXPONENT_STD,
    HARD_TASK,
    HIGH_START_TASK,
    LOW_START_TASK,
    SWEPT_TASK,
    TASK_HAS_DEAD,
    Criterion,
)
from figures.figure2_table1 import (
    GIVEN_MEAN,
    UNDEFINED,
    figure2_numbers,
    models_by_task,
    rank_correlations,
    table1,
)
from figures.figure4_table2 import figure4_numbers
from figures.given_mean import GivenMean, given_mean, measure_given_mean
from figures.group_measures import group_cure, group_dead, group_live, group_not_better, group_scale
from figures.instructgpt_measures import INSTRUCTGPT_MEASURES
from figures.measured import Measured, NotTestedError
from figures.pairs import order_over_seeds, order_over_tasks, pair_numbers, share_of_sft
from figures.study import INPUTS, RUNS
from figures.study_measures import (
    list_intervals,
    rewards_share,
    short_against_rft,
    short_cell,
    short_gain,
    short_share,
    short_wakes,
)
from figures.table_rewards import rewards_numbers
from figures.tables import with_interval
from rft_diagnose.statistics import LOW_MEAN, dead

HOLDS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
SCALE_FREE = ("theory", "theory_group")  # items whose numbers are the same at every scale
NOT_AT_SCALE = "not tested at this scale, which is too small to show it"
Outcome = Literal["holds", "fails", "not tested"]


@dataclass
class Results:
    """All tables that claims are measured on; what was not run is empty.

    inputs, runs: see `figures.study`; swept: the task of Table 2 and Figure 4; base: RFT's settings of it;
    controlled: item -> `controlled_table`; theory: what `figures.theory` saved as meta, and its numbers;
    group_theory_numbers: those of `figures.group_theory`; groups: as inputs, of the comparison of group
    algorithms; instructgpt: name -> table, see `figures.instructgpt_tables`.
    """

    inputs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(INPUTS)))
    runs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RUNS)))
    swept: str = SWEPT_TASK
    base: Mapping[str, float] = field(default_factory=dict)
    controlled: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    theory: Mapping[str, Any] = field(default_factory=dict)
    theory_numbers: pd.DataFrame | None = None
    group_theory_numbers: pd.DataFrame | None = None
    groups: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(INPUTS)))
    instructgpt: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def figure2(self) -> pd.DataFrame:
        return figure2_numbers(self.inputs)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        return pair_numbers(self.inputs)

    @cached_property
    def given_mean(self) -> GivenMean:
        return given_mean(self.inputs)

    @cached_property
    def table1(self) -> pd.DataFrame:
        return table1(self.inputs)

    @cached_property
    def rewards(self) -> pd.DataFrame:
        return rewards_numbers(self.inputs)

    @cached_property
    def figure4(self) -> pd.DataFrame:
        return figure4_numbers(self.runs, self.swept, self.base)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one criterion; value: NaN if not tested."""

    criterion: Criterion
    outcome: Outcome
    value: float
    detail: str


def evaluate(results: Results, is_full_scale: bool = True) -> list[Verdict]:
    """Judge each criterion; where not `is_full_scale`, those alone that any scale can show.

    Of the others the numbers are given all the same.
    """
    verdicts = [judge(criterion, results) for criterion in CRITERIA]
    return [
        verdict
        if is_full_scale or verdict.outcome == "not tested" or verdict.criterion.item in SCALE_FREE
        else replace(verdict, outcome="not tested", detail=f"{verdict.detail}; {NOT_AT_SCALE}")
        for verdict in verdicts
    ]


def judge(
    criterion: Criterion,
    results: Results,
    measures: Mapping[str, Callable[[Results], Measured]] | None = None,
) -> Verdict:
    """Judge whether a claim holds in the results; measures: of the criteria, if not `MEASURES`."""
    try:
        measured = (measures or MEASURES)[criterion.name](results)
    except NotTestedError as error:
        return Verdict(criterion, "not tested", float("nan"), str(error))
    if np.isnan(measured.value):
        return Verdict(criterion, "not tested", measured.value, measured.detail)
    met = HOLDS[criterion.relation](measured.value, criterion.threshold)
    return Verdict(criterion, "holds" if met else "fails", measured.value, measured.detail)


def _worst_seed(
    results: Results, task: str, worst: Any, measure: Callable[[Mapping[str, pd.DataFrame]], float]
) -> Measured:
    """The worst seed's value of `measure(models)` of a task."""
    values = {seed: measure(models) for name, seed, models in models_by_task(results.inputs) if name == task}
    if not values:
        raise NotTestedError(f"no seed has finished extractions of pretrained, RFT and SFT model of {task}")
    shown = ", ".join(f"{value:.3f}" for value in values.values())
    return Measured(float(worst(list(values.values()))), f"seeds {', '.join(map(str, values))}: {shown}")


def _dead_share(models: Mapping[str, pd.DataFrame]) -> float:
    return float(dead(models["pretrained"]["mean"], models["pretrained"]["std"]).mean())


def _revived(method: str) -> Callable[[Mapping[str, pd.DataFrame]], float]:
    """Share of the dead inputs with a mean of 0.1 or more under `method`; NaN if none is dead."""

    def share(models: Mapping[str, pd.DataFrame]) -> float:
        start = models["pretrained"]
        means = models[method]["mean"][dead(start["mean"], start["std"])]
        return float((means >= LOW_MEAN).mean())

    return share


def _ahead(models: Mapping[str, pd.DataFrame]) -> float:
    return float(models["rft"]["mean"].mean() - models["sft"]["mean"].mean())


def _trend(name: str) -> Callable[[Results], Measured]:
    def measure(results: Results) -> Measured:
        tasks = results.figure2["data"].nunique()
        if tasks < FEWEST_TASKS:
            raise NotTestedError(f"{tasks} tasks have finished runs, {FEWEST_TASKS} are needed")
        row = rank_correlations(results.figure2).set_index("with").to_dict("index")[name]
        interval = with_interval(row["correlation"], row["low"], row["high"], lambda value: f"{value:+.2f}")
        return Measured(float(row["low"]), f"{interval} over {len(results.figure2)} rewards of {tasks} tasks")

    return measure


def _share_of_tasks(name: str) -> Callable[[Results], Measured]:
    """Share of the tasks with dead inputs whose interval of a column of Table 1 lies above 0."""

    def measure(results: Results) -> Measured:
        rows = results.table1[results.table1["dead"] >= TASK_HAS_DEAD]
        if rows.empty:
            raise NotTestedError(f"no task with finished runs has {TASK_HAS_DEAD:.0%} of dead inputs")
        undefined = rows[rows[name].isna()]["task"]
        rows = rows[rows[name].notna()]
        left_out = f"{UNDEFINED}, left out: {', '.join(undefined)}"
        if rows.empty:
            raise NotTestedError(left_out)
        shown = [list_intervals(rows, name, "{:+.2f}".format)]
        shown += [left_out] if len(undefined) else []
        shown += [] if rows["independent"].all() else ["without a second sample, biased"]
        return Measured(float((rows[f"{name}_low"] > 0).mean()), "; ".join(shown))

    return measure


def _by_split(
    name: str, measure: Callable[[Results, str], Measured]
) -> dict[str, Callable[[Results], Measured]]:
    """The measures of a claim about train and about test reward."""

    def of_split(split: str) -> Callable[[Results], Measured]:
        return lambda results: measure(results, split)

    return {f"{name}_{split}": of_split(split) for split in ("train", "test")}


def _controlled(
    item: str,
    measure_rows: Callable[[pd.DataFrame], float],
    worst: Any,
    methods: tuple[str, ...] = ("RFT", "SFT"),
    models: tuple[str, ...] = ("",),
) -> Callable[[Results], Measured]:
    """The worst environment's `measure_rows`, of those that have all `methods` and are of one of the models.

    models: how the names of environments begin.
    """

    def measure(results: Results) -> Measured:
        values = {}
        for environment, rows in _environments(results, item):
            if set(methods) <= set(rows["method"]) and environment.startswith(models):
                values[environment] = measure_rows(rows)
        if not values:
            with_model = f" with {' or '.join(models)}" if all(models) else ""
            raise NotTestedError(f"no environment{with_model} with finished runs of {_listed(methods)}")
        return Measured(worst(values.values()), "; ".join(f"{k}: {v:.3f}" for k, v in values.items()))

    return measure


def _environments(results: Results, item: str) -> list[tuple[str, pd.DataFrame]]:
    """Name and finished rows of each environment of an item."""
    table = results.controlled.get(item)
    if table is None:
        return []
    groups = table[table["finished"]].groupby("environment")
    return [(str(environment).replace("\n", ", "), rows) for environment, rows in groups]


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _grpo_ahead(results: Results) -> Measured:
    """As `grpo_ahead` on BERT-mini, with the gradients' ratio at the start."""
    methods, models = ("RFT", *EXACT_GRPO), ("BERT-mini",)
    measured = _controlled("figure3_group", grpo_ahead, max, methods, models)(results)
    for environment, rows in _environments(results, "figure3_group"):
        if environment.startswith(models):
            ratios = ", ".join(f"{method} {first_gradient(rows, method):.3f}" for method in methods)
            measured = replace(measured, detail=f"{measured.detail}; gradients small / large: {ratios}")
    return measured


def _group_exponent(infinite: bool) -> Callable[[Results], Measured]:
    """Largest distance of the gradient's local power from 2, or of infinite groups from 1."""

    def measure(results: Results) -> Measured:
        rows = results.group_theory_numbers
        if rows is None:
            raise NotTestedError("the theory was not run")
        near = np.isclose(rows["std"], GROUP_EXPONENT_STD) & (rows["panel"] == "exponent")
        powers = rows[near & rows["series"].str.startswith("GRPO")].set_index("series")["value"]
        chosen = powers[powers.index.str.endswith("infinite") == infinite]
        shown = ", ".join(f"{name}: {value:.3f}" for name, value in chosen.items())
        return Measured(float((chosen - (1 if infinite else 2)).abs().max()), shown)

    return measure


def _theory(compute: Callable[[Results], float]) -> Callable[[Results], Measured]:
    def measure(results: Results) -> Measured:
        if not results.theory or results.theory_numbers is None:
            raise NotTestedError("the theory was not run")
        return Measured(compute(results), f"{results.theory['num_models']:,} models")

    return measure


def _sft_exponent(results: Results) -> float:
    assert results.theory_numbers is not None
    rows = results.theory_numbers
    times = rows[(rows["panel"] == "time") & (rows["series"] == "SFT")].sort_values("std").head(2)
    first, second = np.log(times["value"].to_numpy()), np.log(1 / times["std"].to_numpy())
    return float((first[0] - first[1]) / (second[0] - second[1]))


def _instructgpt(
    measure: Callable[[Mapping[str, pd.DataFrame]], Measured],
) -> Callable[[Results], Measured]:
    return lambda results: measure(results.instructgpt)


MEASURES: dict[str, Callable[[Results], Measured]] = {
    "figure1_dead": lambda results: _worst_seed(results, HARD_TASK, np.min, _dead_share),
    "figure1_rft": lambda results: _worst_seed(results, HARD_TASK, np.max, _revived("rft")),
    "figure1_sft": lambda results: _worst_seed(results, HARD_TASK, np.min, _revived("sft")),
    "figure1_contrast_dead": lambda results: _worst_seed(results, CONTRAST_TASK, np.max, _dead_share),
    "figure1_contrast_rft": lambda results: _worst_seed(results, CONTRAST_TASK, np.min, _ahead),
    "figure2_trend": _trend("difference"),
    "figure2_rft_part": _trend("rft_gain"),
    "figure2_given_mean": _trend(GIVEN_MEAN),
    "figure2_pairs_rft": lambda results: order_over_tasks(results.pairs, "rft"),
    "figure2_pairs_size": lambda results: order_over_seeds(results.pairs, "rft"),
    "figure2_pairs_sft": lambda results: order_over_tasks(results.pairs, "short"),
    "figure2_pairs_beyond": lambda results: order_over_seeds(results.pairs, "rft", minus="short"),
    "figure2_high_start": lambda results: share_of_sft(results.inputs, HIGH_START_TASK, max),
    "figure2_low_start": lambda results: share_of_sft(results.inputs, LOW_START_TASK, min),
    "table1_rft": _share_of_tasks("rft"),
    "table1_order": _share_of_tasks("difference"),
    "table1_rft_given_mean": lambda results: measure_given_mean(results.given_mean, "rft"),
    "table1_order_given_mean": lambda results: measure_given_mean(results.given_mean, "difference"),
    "table_rewards_over_rft": lambda results: rewards_share(results.rewards, "over_rft", only_dead=True),
    "table_rewards_over_sft": lambda results: rewards_share(results.rewards, "over_sft"),
    "table_rewards_over_short": lambda results: rewards_share(results.rewards, "over_short"),
    "table_rewards_gain": lambda results: rewards_share(results.rewards, "gain"),
    "table_rewards_share": lambda results: short_share(results.rewards),
    "table_rewards_wakes": lambda results: short_wakes(results.inputs),
    **_by_split("table2", lambda results, split: short_against_rft(results.runs, results.base, split, True)),
    **_by_split(
        "figure4", lambda results, split: short_against_rft(results.runs, results.base, split, False)
    ),
    **_by_split("figure4_gain", lambda results, split: short_gain(results.runs, results.base, split)),
    **_by_split("figure4_share", lambda results, split: short_cell(results.figure4, split, "share")),
    **{
        f"{item}{end}": _controlled(item, measure, worst)
        for item in ("figure3", "figure3_sgd", "figure3_high_init_reward")
        for end, measure, worst in (("", left_behind, min), ("_gradient", first_gradient, max))
    },
    "group_figure3": _controlled(
        "figure3_group", grpo_left_behind, min, ("RFT", "SFT", *EXACT_GRPO), ("MLP", "ResNet18")
    ),
    "group_figure3_bert": _grpo_ahead,
    "group_exponent": _group_exponent(infinite=False),
    "group_exponent_infinite": _group_exponent(infinite=True),
    "group_dead": lambda results: group_dead(results.groups),
    "group_not_better": lambda results: group_not_better(results.groups),
    "group_live": lambda results: group_live(results.groups),
    "group_cure": lambda results: group_cure(results.groups),
    "group_scale_grpo": lambda results: group_scale("grpo", min)(results.groups),
    "group_scale_rloo": lambda results: group_scale("rloo", max)(results.groups),
    **{name: _instructgpt(measure) for name, measure in INSTRUCTGPT_MEASURES.items()},
    "theory_bounds": _theory(lambda results: round(max(results.theory["largest_ratios"].values()), 6)),
    "theory_rft": _theory(lambda results: abs(results.theory["slopes"]["RFT"] + 2)),
    "theory_sft": _theory(_sft_exponent),
}

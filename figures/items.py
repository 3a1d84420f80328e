"""Draws, saves and describes for the report each item of the study, from its runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from figures.claims import Results, evaluate
from figures.criterion import CONTRAST_TASK, HARD_TASK, SWEPT_TASK
from figures.figure1_5 import (
    SHOWN_MODELS,
    figure1_narrow,
    figure1_numbers,
    figure1_tasks,
    figure5_numbers,
    figure5_panel,
)
from figures.figure2_pairs import figure2_pairs
from figures.figure2_table1 import NEEDED, figure2, rank_correlations, table1_shown, task_looks
from figures.figure4_table2 import figure4, figure4_numbers, table2, table2_shown
from figures.opening import make_opening
from figures.report import NARROW, Item, write_report
from figures.runs import load_extraction
from figures.study import (
    METHODS,
    Source,
    describe_runs,
    extraction_file,
    finished,
    gaps,
    inputs_table,
    partial_note,
    runs_table,
)
from figures.style import save_figure, save_picture
from figures.table_rewards import rewards_shown
from figures.tables import save_table

OTHER_REWARD = "identifier_rouge"  # the inputs of SWEPT_TASK by a reward of larger std
SHOWN_TASKS = (HARD_TASK, SWEPT_TASK, OTHER_REWARD, CONTRAST_TASK)  # of Figures 1 and 5, if they are there
OPENING_MODELS = [SHOWN_MODELS[method] for method in NEEDED]  # of the page's first picture
CAPTIONS = {
    "figure1": "A marker per train input: mean (height) and std (colour) of its reward over the generations, "
    "inputs of a row in the order of their std under the pretrained model. RFT after SFT is by a task's "
    "first reward alone. Rows of one task are the same inputs, pretrained model and SFT under two rewards.",
    "figure2": "A point per task and reward: mean and, as bars, std over seeds. A line joins the rewards of "
    "a task, all else equal, from the smallest std (hollow) to the largest (filled). The axis is logarithmic "
    "above 0.002. The 10th percentile leaves out inputs whose mean under the pretrained model exceeds 0.9. "
    "Intervals: 95%, Fisher's z over points, a guide: tasks are not drawn at random, and points of one task "
    "are not independent. A marker on which others lie is larger. The difference in (a) is (b) minus (c): "
    "which of them follows the percentile, and whether the percentile is more than the reward that a task "
    "starts from (d), is part of the result. The last picture compares the rewards of smallest and of "
    "largest std of each task (percentile in brackets): the share of full SFT's gain of train reward that "
    "RFT gains by the one and by the other, and, in grey, that of the short SFT phase, which sees no reward.",
    "table1": "Pearson correlation over inputs of the reward std under the pretrained model with the "
    "input's reward "
    "gain, mean over seeds with its 95% bootstrap interval over inputs. The gain is measured against a "
    "second "
    "sample of the pretrained model, since chance alone correlates std and gain within one. Dead: share of "
    "inputs with std below 0.01 and mean below 0.1, which carry no gradient.",
    "table_rewards": "Mean reward over train and over test inputs, with its std over seeds. Dead: share of "
    "the inputs that carry no gradient under the pretrained model. Differences with their 95% interval: "
    "Student's t over seeds, of one seed over its inputs. Full SFT learns the train inputs by heart.",
    "table2": "Mean reward after training, one generation per input, and its std over seeds. One setting "
    "at a time "
    "differs from those of RFT.",
    "figure4": "Mean reward over train inputs, and over test inputs below it, one generation each; bars: "
    "std over "
    "seeds. The right axis is the share of the reward after full SFT, then RFT. (b): what RFT gains after "
    "SFT over "
    "what it gains without; a model that SFT has brought near the best reward has little left to gain. A "
    "picture per task that was swept.",
    "figure5": "The example of small std is the median by mean of the tenth of the inputs with the "
    "smallest reward "
    "std under the pretrained model, without means above 0.9, that of large std likewise of the largest.",
}
OTHER_MEANS = (
    "The means above the panels are of this seed and of the pretrained model's first sample; Figure 2 and "
    "the tables average over seeds and over both of its samples, so that theirs differ a little."
)
TITLES = {
    "figure1": "Figure 1: reward mean and std of each input before and after finetuning",
    "figure2": "Figure 2: RFT against SFT over tasks",
    "table1": "Table 1: Pretrain reward std of an input against its reward gain",
    "table_rewards": "Rewards: RFT, SFT, and RFT after SFT on all tasks",
    "table2": "Table 2: Learning rate, temperature and entropy against a short SFT phase",
    "figure4": "Figure 4: a short SFT phase on few labels, then RFT",
    "figure5": "Figure 5: an input of small and one of large reward std",
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """The runs of a study, made or not, and how its tasks are called.

    labels: task -> name and reward, in one or two lines; base: task -> RFT's own settings, see
    `select_settings`; swept: the tasks of Figure 4, the first that of Table 2 too; command: what draws it,
    for the JSON files.
    """

    extractions: Sequence[Source]
    trainings: Sequence[Source]
    labels: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    swept: tuple[str, ...] = (SWEPT_TASK,)
    command: str = ""

    def lines(self) -> dict[str, str]:
        """The labels, each in one line."""
        return {task: label.replace("\n", ", ") for task, label in self.labels.items()}


def collect_results(study: Study, **controlled: Any) -> Results:
    """Put the tables of the finished runs together; controlled: the other fields of `Results`.

    Raises NoRunsError: see `inputs_table` and `runs_table`.
    """
    if finished(study.extractions):
        controlled["inputs"] = inputs_table(study.extractions)
    if finished(study.trainings):
        controlled["runs"] = runs_table(study.trainings)
    swept = study.swept[0]
    return Results(base=study.base.get(swept, {}), swept=swept, **controlled)


def draw(name: str, study: Study, results: Results, folder: Path) -> Item:
    """Draw an item of `DRAWN` from the results of a study into `folder`, as far as its runs are finished."""
    return DRAWN[name](study, results, folder)


def write_page(
    folder: Path, intro: str, items: Sequence[Item], results: Results, is_full_scale: bool = True
) -> Path:
    """Write the page: the opening, the items, their claims and whether they hold; returns its path.

    is_full_scale: see `evaluate`.
    """
    path, verdicts = folder / "report.html", evaluate(results, is_full_scale)
    leads = make_opening(results, verdicts, items)
    write_report(path, "The paper in miniature", intro, items, verdicts, leads)
    return path


def saved_item(name: str, title: str, caption: str, stem: Path) -> Item:
    """The item of a figure that `save_figure` has left."""
    runs = json.loads(stem.with_name(f"{stem.name}.json").read_bytes())["runs"]
    return Item(name, title, caption, [stem], runs=runs)


def _item(
    name: str,
    sources: Sequence[Source],
    stems: Sequence[Path] = (),
    table: pd.DataFrame | None = None,
) -> Item:
    drawn = bool(stems) or table is not None
    runs = describe_runs(finished(sources)) if drawn else []
    return Item(name, _title(name, sources), CAPTIONS[name], stems, table, runs, gaps(sources))


def _title(name: str, sources: Sequence[Source]) -> str:
    note = partial_note(gaps(sources), len(sources))
    return TITLES[name] + (f" ({note})" if note else "")


def _caption(name: str, sources: Sequence[Source]) -> str:
    """The caption of a table that stands alone, which numbers it itself."""
    return f"{_title(name, sources).partition(': ')[2]}. {CAPTIONS[name]}"


def _meta(study: Study, sources: Sequence[Source], **fields: Any) -> dict[str, Any]:
    return {"command": study.command, "missing": gaps(sources), **fields}


def _figure1(study: Study, results: Results, folder: Path) -> Item:
    if results.inputs.empty:
        return _item("figure1", study.extractions)
    seed = int(results.inputs["seed"].min())
    sources = [s for s in study.extractions if (s.seed, s.sample, s.split) == (seed, 1, "train")]
    numbers = figure1_numbers(results.inputs, seed)
    if numbers.empty:  # no pretrained model, by which inputs are ordered
        return _item("figure1", sources)
    every = list(dict.fromkeys(numbers["task"]))
    versions = {"figure1": (_shown(every), set(numbers["panel"]))}
    if HARD_TASK in every:
        versions[f"figure1_{HARD_TASK}"] = ([HARD_TASK], set(OPENING_MODELS))
    if set(every) > set(_shown(every)):
        versions["figure1_all"] = (every, set(numbers["panel"]))
    for name, (tasks, panels) in versions.items():
        part = [s for s in sources if s.task in tasks and SHOWN_MODELS.get(s.method) in panels]
        note = partial_note(gaps(part), len(part))
        title = f"Reward of each input under each model, seed {seed}" + (f" ({note})" if note else "")
        rows = numbers[numbers["task"].isin(tasks) & numbers["panel"].isin(panels)]
        figure = figure1_tasks(rows, study.labels, title)
        runs = describe_runs(finished(part))
        save_figure(figure, folder / name, rows, runs, **_meta(study, part, seed=seed))
        if name != "figure1_all":  # which is as long as tasks are many, and not on the page
            save_picture(figure1_narrow(rows, study.labels, title), folder / f"{name}{NARROW}")
    stems = [folder / name for name in versions]
    item = replace(_item("figure1", sources, stems[:1]), linked=stems[1:])
    if (results.inputs["sample"] == 2).any() or results.inputs["seed"].nunique() > 1:
        return replace(item, caption=f"{item.caption} {OTHER_MEANS}")
    return item


def _shown(tasks: Sequence[str]) -> list[str]:
    """The tasks of Figures 1 and 5."""
    return [task for task in SHOWN_TASKS if task in tasks] or list(tasks[: len(SHOWN_TASKS)])


def _compared(study: Study) -> list[Source]:
    """The extractions that RFT and SFT are compared on."""
    return [source for source in study.extractions if source.method in NEEDED and source.split == "train"]


def _figure2(study: Study, results: Results, folder: Path) -> Item:
    sources = _compared(study)
    if results.figure2.empty:
        return _item("figure2", sources)
    correlations = rank_correlations(results.figure2).to_dict("records")
    title, runs = _title("figure2", sources), describe_runs(finished(sources))
    stems = [folder / "figure2"]
    meta = _meta(study, sources, rank_correlations=correlations)
    save_figure(figure2(results.figure2, study.labels, title), stems[0], results.figure2, runs, **meta)
    narrow = figure2(results.figure2, study.labels, title, is_narrow=True)
    save_picture(narrow, folder / f"figure2{NARROW}")
    pairs = results.pairs
    if len(pairs):
        stems.append(folder / "figure2_pairs")
        drawing = (pairs, study.labels, task_looks(results.figure2), "One task under two rewards")
        save_figure(figure2_pairs(*drawing), stems[-1], pairs, runs, **_meta(study, sources))
        save_picture(figure2_pairs(*drawing, is_narrow=True), folder / f"figure2_pairs{NARROW}")
    return _item("figure2", sources, stems)


def _save_table(
    name: str,
    study: Study,
    sources: Sequence[Source],
    shown: pd.DataFrame,
    numbers: pd.DataFrame,
    folder: Path,
    note: str = "",
) -> Item:
    """Save a table and return its item; note: ends the caption."""
    caption, runs = _caption(name, sources) + note, describe_runs(finished(sources))
    save_table(shown, numbers, folder / name, caption, runs, **_meta(study, sources))
    return _item(name, sources, [folder / name], shown)


def _table1(study: Study, results: Results, folder: Path) -> Item:
    sources = _compared(study)
    if results.table1.empty:
        return _item("table1", sources)
    shown = table1_shown(results.table1, study.lines())
    return _save_table("table1", study, sources, shown, results.table1, folder)


def _table_rewards(study: Study, results: Results, folder: Path) -> Item:
    sources = study.extractions
    if results.rewards.empty:
        return _item("table_rewards", sources)
    shown = rewards_shown(results.rewards, study.lines())
    return _save_table("table_rewards", study, sources, shown, results.rewards, folder)


def _table2(study: Study, results: Results, folder: Path) -> Item:
    task, methods = study.swept[0], ("rft", "short_rft", "sft_rft")
    sources = [s for s in study.trainings if s.task == task and s.method in methods]
    numbers = table2(results.runs, task, study.base.get(task, {}))
    if numbers.empty:
        return _item("table2", sources)
    note = f" Task: {study.lines().get(task, task)}."
    return _save_table("table2", study, sources, table2_shown(numbers), numbers, folder, note)


def _figure4(study: Study, results: Results, folder: Path) -> Item:
    sources = [source for source in study.trainings if source.task in study.swept]
    stems = []
    for task in study.swept:
        numbers = figure4_numbers(results.runs, task, study.base.get(task, {}))
        if numbers.empty:
            continue
        part = [source for source in sources if source.task == task]
        notes = [_seeds_note(numbers["seeds"]), partial_note(gaps(part), len(part))]
        name = study.lines().get(task, task)
        title = f"{name}: a short SFT phase, then RFT ({'; '.join(note for note in notes if note)})"
        stems.append(folder / ("figure4" if task == study.swept[0] else f"figure4_{task}"))
        runs = describe_runs(finished(part))
        save_figure(figure4(numbers, title), stems[-1], numbers, runs, **_meta(study, part, task=task))
        narrow = figure4(numbers, title, is_narrow=True)
        save_picture(narrow, stems[-1].with_name(f"{stems[-1].name}{NARROW}"))
    return _item("figure4", sources, stems)


def _seeds_note(seeds: pd.Series[int]) -> str:
    """Say how many seeds rows are means over."""
    low, high = int(seeds.min()), int(seeds.max())
    return f"{low} to {high} seeds" if low < high else f"{high} seeds" if high > 1 else "one seed"


def _figure5(study: Study, results: Results, folder: Path) -> Item:
    shown = _shown(list(dict.fromkeys(source.task for source in study.extractions)))
    key = ("pretrained", 1, "train")
    first = [s for s in study.extractions if (s.method, s.sample, s.split) == key and s.task in shown]
    seed = min((source.seed for source in first), default=0)
    sources = [source for source in first if source.seed == seed]
    stems = []
    for source in finished(sources):
        assert source.path is not None
        numbers = figure5_numbers(load_extraction(extraction_file(source.path)), source.reward)
        stems.append(folder / f"figure5_{source.task}")
        title = (
            f"{study.lines().get(source.task, source.task)}: two train inputs, {METHODS['pretrained']} model"
        )
        save_figure(
            figure5_panel(numbers, title), stems[-1], numbers, describe_runs([source]), command=study.command
        )
        narrow = figure5_panel(numbers, title, is_narrow=True)
        save_picture(narrow, stems[-1].with_name(f"{stems[-1].name}{NARROW}"))
    return _item("figure5", sources, stems)


DRAWN: dict[str, Callable[[Study, Results, Path], Item]] = {
    "figure1": _figure1,
    "figure2": _figure2,
    "table1": _table1,
    "table_rewards": _table_rewards,
    "table2": _table2,
    "figure4": _figure4,
    "figure5": _figure5,
}

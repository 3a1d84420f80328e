"""Draws from runs or extraction files that exist, whatever made them: `--runs`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from common.run_dir import RunError, RunInfo
from paper import controlled, text_study
from paper.given_runs import build_study

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.items import Study
    from figures.report import Item

EXTRACTION_ITEMS, EXTRACTION_SUFFIX = ("figure1", "figure5"), ".pt"
PANELS = ("pretrained", "RFT", "SFT")
EXTRACT_RUNNER = "python rl4lms_extract_samples_from_model_runner.py"
SWEEP_RUNNER = "python rl4lms_plan_runner.py"
_PRETRAINED = "a finished extraction of train inputs of a pretrained model"
_COMPARED = (
    "finished extractions of train inputs of the pretrained model, of that after RFT and of that after SFT, "
    "all of one task and seed"
)
NEEDS = {
    "figure1": _PRETRAINED,
    "figure2": _COMPARED,
    "table1": _COMPARED,
    "table_rewards": "a finished extraction of a pretrained model",
    "table2": "a finished training by RFT, or by SFT and then RFT, evaluated on train or test",
    "figure4": "finished trainings of one task by RFT, SFT, or SFT and then RFT, evaluated on train or test",
    "figure5": _PRETRAINED,
}


def draw_given_runs(args: argparse.Namespace) -> int:
    """Draw what was asked for, or all that the runs can be drawn in; returns the exit status.

    It is 2 if an item of --only could not be drawn, or none; the others are drawn all the same.
    """
    from figures.claims import Results
    from figures.runs import NoRunsError

    if "theory" in (args.only or ()):
        print("theory is computed, not drawn from runs: ask for it without --runs", file=sys.stderr)
        return 2
    results = Results()
    try:
        if any(path.suffix == EXTRACTION_SUFFIX for path in args.runs):
            items = draw_extractions(args)
        else:
            items = draw_folders(args, results)
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    say(items)
    drawn = [item for item in items if item.stems]
    if args.report and drawn:
        from figures.items import write_page

        intro = f"Drawn from runs that were there: {', '.join(map(str, args.runs))}."
        print(f"page: {write_page(args.output_dir / 'runs', intro, items, results, args.scale != 'smoke')}")
    return 2 if not drawn or (args.only and len(drawn) < len(items)) else 0


def say(items: Sequence[Item]) -> None:
    """Say where each item is, what it lacks, and how to get what is missing in it."""
    told: set[str] = set()
    for item in items:
        for stem in item.stems:
            print(f"{item.name}: {stem}.*")
        if not item.stems:
            print(f"{item.name}: not drawn: {item.lacks}", file=sys.stderr)
        for line in [_describe_gap(gap) for gap in item.missing]:
            if line not in told:  # of several items that lack the same run, the first says so
                print(f"{item.name}: {line}", file=sys.stderr)
            told.add(line)


def _describe_gap(gap: Mapping[str, str]) -> str:
    go_on = f": {gap['command']}" if gap["command"] else ""
    return f"{gap['run']} is {gap['status']}{go_on}"


def draw_extractions(args: argparse.Namespace) -> list[Item]:
    """Draw Figures 1 and 5 from extraction files: pretrained, RFT, SFT. Raises NoRunsError."""
    from figures.figure1_5 import example_inputs, figure1, figure5, figure5_numbers, figure5_panel
    from figures.items import CAPTIONS, TITLES
    from figures.report import Item
    from figures.runs import NoRunsError, extraction_table, extraction_task, load_extraction, load_rewards
    from figures.style import save_figure

    asked = args.only or EXTRACTION_ITEMS
    are_files = all(path.suffix == EXTRACTION_SUFFIX for path in args.runs)
    if set(asked) - set(EXTRACTION_ITEMS) or len(args.runs) > len(PANELS) or not are_files:
        raise NoRunsError(
            f"{' and '.join(EXTRACTION_ITEMS)} alone are drawn from extraction files, others from folders of "
            f"runs: --only {' '.join(EXTRACTION_ITEMS)} --runs PRETRAINED.pt [RFT.pt [SFT.pt]]; such a file "
            f"comes from: {EXTRACT_RUNNER} --config_path CONFIG"
        )
    panels = dict(zip(PANELS, args.runs, strict=False))
    table = extraction_table(panels)
    # The files of the paper's released code have no prompts, which Figure 5 shows.
    first = (load_extraction if "figure5" in asked else load_rewards)(args.runs[0])
    reward, values = next(iter(first["all_metric_values"].items()))
    data = extraction_task(first) or args.runs[0].stem
    used = [{"panel": panel, "path": str(path)} for panel, path in panels.items()]
    items = []
    for name in [name for name in EXTRACTION_ITEMS if name in asked]:
        stem = args.output_dir / "runs" / name
        if name == "figure1":
            title = f"{data}: {len(values):,} train inputs"
            save_figure(figure1(table, reward, title), stem, table, used)
        else:
            numbers = figure5_numbers(first, reward)
            save_figure(figure5_panel(numbers, f"{data}: two train inputs"), stem, numbers, used[:1])
            examples = example_inputs(table[table["panel"] == PANELS[0]])
            for kind, i in zip(("small std", "large std"), examples, strict=True):
                texts, rewards = first["all_generated_texts"][i], values[i].tolist()
                print(
                    figure5(first["prompts"][i], first["references"][i], texts, rewards, f"{kind}, input {i}")
                )
        items.append(Item(name, TITLES[name], CAPTIONS[name], [stem], runs=used))
    return items


def draw_folders(args: argparse.Namespace, results: Results) -> list[Item]:
    """Draw the items of both kinds of runs; their tables go into `results`. Raises NoRunsError.

    Without --only: of the kinds that are among the runs.
    """
    from figures.runs import NoRunsError, finetuning_runs, runs_in

    runs = runs_in(args.runs)
    asked = args.only or [*text_study.ITEMS, *controlled.FIGURE3_ITEMS]
    of_text = [run for run in runs if run.manifest.get("job") in ("training", "extraction")]
    of_groups = finetuning_runs(runs)
    if not args.only and not of_text and not of_groups:
        raise NoRunsError(
            f"of the {len(runs)} runs given none is a training or an extraction of a language model, and "
            "none a controlled finetuning run with modified inputs (frac_samples_to_modify_labels > 0)"
        )
    items = []
    if of_text or args.only:
        items += draw_text(args, [name for name in text_study.ITEMS if name in asked], of_text, results)
    if of_groups or args.only:
        names = [name for name in controlled.FIGURE3_ITEMS if name in asked]
        items += draw_controlled(args, names, of_groups, results)
    return items


def draw_text(
    args: argparse.Namespace, names: Sequence[str], runs: Sequence[RunInfo], results: Results
) -> list[Item]:
    """Draw items from trainings and extractions; one that none can be drawn in says what it lacks."""
    from figures.items import CAPTIONS, TITLES, collect_results, draw
    from figures.report import Item
    from figures.runs import NoRunsError
    from figures.study import gaps

    if not names:
        return []
    try:
        study = build_study(runs)
    except NoRunsError as error:
        return [Item(name, TITLES[name], CAPTIONS[name], lacks=str(error)) for name in names]
    collected = collect_results(study)
    for field in ("inputs", "runs", "swept", "base"):
        setattr(results, field, getattr(collected, field))
    items = [draw(name, study, results, args.output_dir / "runs") for name in names]
    if not args.only:
        named = [gap for item in items for gap in item.missing]
        for gap in gaps([*study.trainings, *study.extractions]):
            if gap not in named:
                print(f"left out: {_describe_gap(gap)}", file=sys.stderr)
    return [item if item.stems else replace(item, lacks=_lacking(item.name, study)) for item in items]


def _lacking(name: str, study: Study) -> str:
    """What an item needs, what there is of it, and what makes it."""
    from figures.study import METHODS, finished

    there: dict[str, dict[str, None]] = {}
    for kind, sources in (("extraction", study.extractions), ("training", study.trainings)):
        for source in finished(sources):
            split = f" on {source.split} inputs" if kind == "extraction" else ""
            there.setdefault(source.task, {})[f"{kind} of {METHODS[source.method]}{split}"] = None
    listed = "; ".join(f"{task}: {', '.join(kinds)}" for task, kinds in there.items()) or "none"
    plan = f"rl4lms_scripts/sweeps/{text_study.PAPER_PLANS[name][0]}.yml"
    return (
        f"needs {NEEDS[name]}; finished among the runs given: {listed}; "
        f"such runs come from plans like: {SWEEP_RUNNER} --plan_config_path {plan}"
    )


def draw_controlled(
    args: argparse.Namespace, names: Sequence[str], runs: Sequence[RunInfo], results: Results
) -> list[Item]:
    """Draw items of controlled runs; a run that cannot be drawn is named and left out.

    Those that were not asked for by --only and have no run are left out of the list.
    """
    from figures.report import Item
    from figures.runs import NoRunsError, controlled_table, runs_of_item

    readable: list[RunInfo] = []
    for run in runs:
        try:
            controlled_table([run])
        except (NoRunsError, RunError, KeyError) as error:
            status = run.manifest.get("status")
            reason = "has no epoch yet" if isinstance(error, NoRunsError) else f"cannot be read: {error}"
            print(f"{run.path} ({status}) {reason}: left out", file=sys.stderr)
        else:
            readable.append(run)
    by_item = {item: runs_of_item(readable, item) for item in controlled.FIGURE3_ITEMS}
    usable = {item: chosen for item, chosen in by_item.items() if chosen}
    items = []
    for name in names:
        title = f"{controlled.FIGURE_NAMES[name]}: {controlled.TITLES[name]}"
        if name in usable:
            controlled.draw_figure3(args, name, usable[name])
            items += controlled.report_items(args, [name], results)
        elif args.only or not usable:
            scale = "laptop" if name in controlled.LAPTOP_ALONE else args.scale
            mlp = next(iter(controlled.environments(scale).values()))
            plan = controlled.PLANS / f"{mlp}_{controlled.FIGURE3_ITEMS[name]}_experiments_plan.json"
            kinds = ", ".join(usable) or "none"
            lacks = (
                "needs finetuning runs of its reward and optimiser, with modified inputs "
                f"(frac_samples_to_modify_labels > 0) and an epoch; the runs given are of: {kinds}; such "
                f"runs come from: {controlled.PLAN_RUNNER} --plan_config_path {plan}"
            )
            items.append(Item(name, title, controlled.caption(name), lacks=lacks))
    return items

"""The front door's work: what is asked for, what it takes, and the page with all of it."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.workers import preload
from paper import controlled, group_run, real, text_study
from paper.gpu_hours import Stage, format_table
from paper.instructgpt import paper_scale
from paper.instructgpt import run as instructgpt

if TYPE_CHECKING:
    from figures.report import Item

DEFAULT_SEEDS = {"laptop": 3, "smoke": 1, "paper": 3, "real": 1}
_NO_DOWNLOAD = (
    "Real data that needs no download: docstrings of installed packages, and scikit-learn's digits. "
)
INTRO = {
    "laptop": f"{_NO_DOWNLOAD}Small models; what holds here need not hold at the paper's scale.",
    "smoke": f"{_NO_DOWNLOAD}Models that were trained for seconds, few inputs and updates: this page shows "
    "that everything runs. Its numbers are of no weight, and no claim but the theory's is "
    "tested at this scale.",
    "paper": "Data, models and settings of the paper.",
    "real": real.INTRO,
}
ITEMS = [*text_study.ITEMS, *controlled.FIGURE3_ITEMS, "theory", group_run.ITEM, instructgpt.ITEM]
BY_NAME = (group_run.ITEM, instructgpt.ITEM)  # drawn only where --only names them
LAPTOP_ALONE = (*controlled.LAPTOP_ALONE, group_run.ITEM)  # without plans of the paper's scale


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which items are drawn, at which scale, from what."""
    parser.add_argument("--only", nargs="+", choices=ITEMS, metavar="ITEM", help=f"of {', '.join(ITEMS)}")
    parser.add_argument(
        "--scale",
        choices=["laptop", "smoke", "paper", "real"],
        default="laptop",
        help="laptop (default): data that needs no download; smoke: the same path in two to three minutes, "
        "too small to show more than directions; paper: the plans of the paper; real: MNIST, Fashion-MNIST, "
        "WordNet and a pretrained model, which fetch_real_data.py gets",
    )
    parser.add_argument(
        "--environments",
        nargs="+",
        choices=[*controlled.ENVIRONMENTS["laptop"], *controlled.ENVIRONMENTS["real"], "all"],
        help="columns of figure 3: mlp (default; minutes), resnet, bert, or all; with --scale real mnist, "
        "fashion_mnist, or all (default)",
    )
    parser.add_argument(
        "--seeds", type=int, help="of figures 1 and 2 and table 1 (default 3, smoke: 1); the rest has one"
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="draw from these runs (or folders of runs), train nothing",
    )
    parser.add_argument("--report", action="store_true", help="also write the page with all items and claims")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/figures"), help="of figures (%(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="at a time (%(default)s)"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the stages and stop")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Fill in the scale's number of seeds; end with status 2 if a number is none."""
    if args.seeds is None:
        args.seeds = DEFAULT_SEEDS[args.scale]
    for name in ("jobs", "seeds"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: must be at least 1, got {getattr(args, name)}")
    if args.environments is None:
        args.environments = list(controlled.DEFAULT_ENVIRONMENTS[args.scale])
    known = controlled.environments(args.scale)
    if unknown := [name for name in args.environments if name not in known and name != "all"]:
        parser.error(
            f"argument --environments: {unknown[0]} is not of --scale {args.scale}: choose from "
            f"{', '.join(known)}, all"
        )
    for item in BY_NAME:
        if args.runs and item in (args.only or ()):
            parser.error(f"argument --only: {item} finds its own runs; leave --runs out")
    for item in LAPTOP_ALONE:
        if args.scale == "paper" and item in (args.only or ()) and not args.runs:
            parser.error(
                f"argument --only: {item} has no plans of the paper's scale; leave --scale paper out"
            )
    if args.scale == "real" and (others := [item for item in args.only or () if item not in real.ITEMS]):
        parser.error(
            f"argument --only: {others[0]} is not drawn at --scale real: choose from {', '.join(real.ITEMS)}"
        )


@dataclass(frozen=True)
class Asked:
    """What is to be drawn: items of the text study, controlled items, and the plans that these need.

    groups, instructgpt: whether the comparison of group algorithms and InstructGPT's pipeline are, which are
    asked for by their names.
    """

    study_items: list[str]
    controlled_items: list[str]
    plans: list[controlled.PlanOfItem]
    groups: bool
    instructgpt: bool


def choose_items(args: argparse.Namespace) -> Asked:
    """What the flags ask for."""
    every = real.ITEMS if args.scale == "real" else ITEMS
    controlled_items = [item for item in args.only or every if item in controlled.items_at(args.scale)]
    controlled_items += [item for item in args.only or every if item == "theory"]
    return Asked(
        study_items=text_study.asked_items(args.only, args.scale),
        controlled_items=controlled_items,
        plans=controlled.choose_plans(args),
        groups=group_run.ITEM in (args.only or ()),
        instructgpt=instructgpt.ITEM in (args.only or ()),
    )


def named_at_paper_scale(asked: Asked) -> list[str]:
    """The items that are only listed at the paper's scale, since they take days of a GPU."""
    return [*asked.study_items, *([instructgpt.ITEM] if asked.instructgpt else [])]


@dataclass(frozen=True)
class RunsLeft:
    """How many runs are left: of the text study, of group algorithms, of InstructGPT's pipeline."""

    study: int
    groups: int
    instructgpt: int


def print_stages(args: argparse.Namespace, asked: Asked) -> RunsLeft:
    """What would run, with sizes and times; a mistake in any of it is found here, before the first stage."""
    study_stages: list[Stage] = []
    if args.scale == "real":
        real.check_fetched(controlled.chosen_environments(args), asked.controlled_items, asked.study_items)
    stages = controlled.stages(asked.controlled_items, asked.plans)
    if args.scale == "paper":
        lines = text_study.paper_commands(asked.study_items)
        for line in [*lines, *(paper_scale.describe() if asked.instructgpt else [])]:
            print(line)
    elif asked.study_items:
        study_stages = text_study.stages(args.scale, asked.study_items, args.seeds, args.jobs)
    group_stages = group_run.stages(args.scale, args.seeds, args.jobs) if asked.groups else []
    pipeline_stages: list[Stage] = []
    if asked.instructgpt and args.scale != "paper":
        pipeline_stages = instructgpt.stages(args.scale, args.seeds, args.jobs)
    if stages := stages + study_stages + group_stages + pipeline_stages:
        print(f"{args.scale} scale, times on two cores without a GPU:", *format_table(stages), sep="\n")
    left = (sum(stage.runs for stage in part) for part in (study_stages, group_stages, pipeline_stages))
    return RunsLeft(*left)


def _list_imports(scale: str, asked: Asked) -> list[str]:
    """What the processes of the asked items import."""
    if asked.groups:
        study = group_run.study_of_groups(scale)
    elif asked.study_items:
        study = text_study.study_for(scale, asked.study_items)
    else:
        study = instructgpt.study_of_pipeline(instructgpt.pipeline_at(scale))
    modules = text_study.list_study_imports(study)
    return [*modules, *(instructgpt.IMPORTS if asked.instructgpt else ())]


def run_and_draw(args: argparse.Namespace, asked: Asked, runs_left: RunsLeft) -> int:
    """The controlled experiments first, which take minutes, then the study, then the page.

    runs_left: see `print_stages`.
    """
    folder = args.output_dir / args.scale
    if args.jobs > 1 and (asked.study_items or asked.groups or asked.instructgpt):
        modules = _list_imports(args.scale, asked)
        preload([*modules, *controlled.IMPORTS] if asked.controlled_items else modules)
    status = controlled.run_and_draw(args, asked.controlled_items, asked.plans)
    if status:
        return status
    if not (asked.study_items or asked.groups or asked.instructgpt or args.report):
        return 0
    from figures.claims import Results

    before: list[Item] = []
    drawn: list[Item] = []
    results = Results()
    if asked.study_items:
        if args.scale == "real":
            before = [real.preflight(folder, args.jobs)]
        drawn, results = text_study.run_and_draw(args, folder, runs_left.study)
    if asked.groups:
        drawn.append(group_run.run_and_draw(args, folder, runs_left.groups, results))
    if asked.instructgpt:
        drawn.append(instructgpt.run_and_draw(args, folder, runs_left.instructgpt, results))
    for item in drawn:
        for stem in item.stems:
            print(f"{item.name}: {stem}.*")
    if args.report:
        from figures.items import write_page

        every = [*before, *drawn, *controlled.report_items(args, asked.controlled_items, results)]
        intro = f"Scale: {args.scale}. {INTRO[args.scale]}"
        if args.scale == "real":
            page = real.write_page(folder, intro, every, results)
        else:
            page = write_page(folder, intro, every, results, args.scale != "smoke")
        print(f"page: {page}")
    return 0

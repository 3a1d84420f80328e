"""Job 4: the figures and tables of the paper, from saved runs, or from nothing on a laptop."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import process
from common.config import ConfigError, add_config_arguments, describe_fields
from common.console import INTERRUPTED_EXIT_CODE, setup_logging
from common.run_dir import RunError
from common.workers import preload
from paper import controlled, text_study
from paper.given_runs import EXTRACTION_SUFFIX, draw_extractions, draw_given_study
from paper.gpu_hours import table_of
from paper.study import StudyConfig
from paper.study_run import StudyError, StudyInterrupted
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.plan import Plan

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.report import Item

DEFAULT_SEEDS = {"laptop": 3, "smoke": 1, "paper": 3}
_NO_DOWNLOAD = (
    "Real data that needs no download: docstrings of installed packages, and scikit-learn's digits. "
)
INTRO = {
    "laptop": f"{_NO_DOWNLOAD}Small models; what holds here need not hold at the paper's scale.",
    "smoke": f"{_NO_DOWNLOAD}Models that were trained for seconds, few inputs and updates: this page shows "
    "that everything runs; its claims are of no weight, held or not.",
    "paper": "Data, models and settings of the paper.",
}
ITEMS = [*text_study.ITEMS, *controlled.FIGURE3_ITEMS, "theory"]


def build_parser() -> argparse.ArgumentParser:
    """Flags of the front door."""
    parser = argparse.ArgumentParser(
        description="Draws the figures and tables of the paper, running the experiments they need: finished "
        "ones are used as they are, cut ones resumed. Exit status: 0 drawn, 1 an experiment failed, 2 a "
        "mistake in the arguments, 130 interrupted."
    )
    parser.add_argument("--only", nargs="+", choices=ITEMS, metavar="ITEM", help=f"of {', '.join(ITEMS)}")
    parser.add_argument(
        "--scale",
        choices=["laptop", "smoke", "paper"],
        default="laptop",
        help="laptop (default): data that needs no download; smoke: the same path in two minutes, too small "
        "to show more than directions; paper: the plans of the paper",
    )
    parser.add_argument(
        "--environments",
        nargs="+",
        default=["mlp"],
        choices=["mlp", "resnet", "bert", "all"],
        help="columns of figure 3: mlp (default; minutes), resnet, bert, or all",
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
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check everything, run what is missing, draw; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = DEFAULT_SEEDS[args.scale]
    for name in ("jobs", "seeds"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: must be at least 1, got {getattr(args, name)}")
    if args.list_fields:
        print("\n\n".join(describe_fields(model) for model in (Plan, ExperimentConfig, StudyConfig)))
        return 0
    try:
        if args.runs:
            return draw_given_runs(args)
        of_study = text_study.asked_items(args.only)
        of_controlled = [item for item in args.only or ITEMS if item not in text_study.ITEMS]
        plans = controlled.plans_of(args)
        print_stages(args, of_study, of_controlled, plans)
        if args.check or args.dry_run:
            return 0
        if args.scale == "paper" and of_study:
            parser.error(
                f"{', '.join(of_study)} at the paper's scale take days of a GPU: run the commands above, "
                "then draw with --runs, or leave them out with --only"
            )
        with setup_logging(console=True):
            return run_and_draw(args, of_study, of_controlled, plans)
    except (KeyboardInterrupt, StudyInterrupted):
        print(f"interrupted; to go on: {again()}", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except StudyError as error:
        print(f"{error}; to go on: {again()}", file=sys.stderr)
        return 1
    except (ConfigError, RunError) as error:
        print(error, file=sys.stderr)
        return 2


def again() -> str:
    """The command that goes on."""
    return shlex.join(["python", *sys.argv])


def print_stages(
    args: argparse.Namespace,
    of_study: Sequence[str],
    of_controlled: Sequence[str],
    plans: Sequence[controlled.PlanOfItem],
) -> None:
    """What would run, with sizes and times; a mistake in any of it is found here, before the first stage."""
    stages = controlled.stages(of_controlled, plans)
    if args.scale == "paper":
        for line in text_study.paper_commands(of_study):
            print(line)
    elif of_study:
        stages += text_study.stages(args.scale, of_study, args.seeds, args.jobs)
    if stages:
        print(f"{args.scale} scale, times on two cores without a GPU:", *table_of(stages), sep="\n")


def draw_given_runs(args: argparse.Namespace) -> int:
    """Draw from what exists: extraction files, or folders of runs."""
    of_study = [item for item in text_study.ITEMS if item in (args.only or ())]
    if not of_study:
        return controlled.draw_runs(args)
    if len(of_study) < len(args.only):
        print("--runs draws items of text generation or of controlled runs, not both", file=sys.stderr)
        return 2
    if all(path.suffix == EXTRACTION_SUFFIX for path in args.runs):
        return draw_extractions(args, of_study)
    return draw_given_study(args, of_study)


def run_and_draw(
    args: argparse.Namespace,
    of_study: Sequence[str],
    of_controlled: Sequence[str],
    plans: Sequence[controlled.PlanOfItem],
) -> int:
    """The controlled experiments first, which take minutes, then the study, then the page."""
    folder = args.output_dir / args.scale
    if args.jobs > 1 and of_study:
        modules = text_study.imports_of_study(text_study.study_for(args.scale, of_study))
        preload([*modules, *controlled.IMPORTS] if of_controlled else modules)
    status = controlled.run_and_draw(args, of_controlled, plans)
    if status:
        return status
    if not of_study and not args.report:
        return 0
    from figures.claims import Results

    drawn: list[Item] = []
    results = Results()
    if of_study:
        drawn, results = text_study.run_and_draw(args, folder)
        for item in drawn:
            for stem in item.stems:
                print(f"{item.name}: {stem}.*")
    if args.report:
        write_page(args, folder, drawn, results, of_controlled)
    return 0


def write_page(
    args: argparse.Namespace, folder: Path, drawn: list[Item], results: Results, of_controlled: Sequence[str]
) -> None:
    """One page with every item, its claims, and whether they hold in these runs."""
    from figures.claims import evaluate
    from figures.report import write_report

    items = [*drawn, *controlled.report_items(args, of_controlled, results)]
    intro = f"Scale: {args.scale}. {INTRO[args.scale]}"
    path = folder / "report.html"
    write_report(path, "The paper in miniature", intro, items, evaluate(results))
    print(f"page: {path}")


if __name__ == "__main__":
    sys.exit(main())

"""Runs a plan of finetuning and extraction runs (Sections 5.1 and 5.2 of the paper)."""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from common import process
from common.config import ConfigError, Located, add_config_arguments, describe_fields
from common.console import INTERRUPTED_EXIT_CODE, setup_logging
from common.files import atomic_write_text
from common.jobs import Outcome
from common.plan_jobs import exit_code, outcome_lines
from common.schedule import run_jobs
from rl4lms.config import ExtractConfig, TrainConfig, extraction_sizes, missing_components, training_sizes
from rl4lms.plan import Experiment, LoadedPlan, Plan, load_plan
from rl4lms.plan.runs import jobs_of
from rl4lms.plan.summary import summarise, table_csv, table_text, unknown_metric

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = "stopping after the steps under way, resumable; press Ctrl-C again to stop at once"


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the experiments themselves are described by the plan file."""
    parser = argparse.ArgumentParser(
        description="Runs the finetunings and extractions of a plan file, each after those whose models it "
        "starts from: skips the finished ones, resumes the cut ones. Exit status: 0 all finished, 1 some "
        "failed, 2 a mistake in the plan, 130 interrupted."
    )
    parser.add_argument("--plan_config_path", type=Path, help="plan file, see rl4lms_scripts/sweeps")
    parser.add_argument("--disable_console_log", action="store_true", help="no log lines and progress bars")
    parser.add_argument(
        "--fresh", action="store_true", help="run everything anew, ignoring earlier runs of the plan"
    )
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the plan, run it, write the summary; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields:
        print(f"Plan file\n\n{describe_fields(Plan)}\n\nbase_config and options: fields of a training\n")
        print(f"{describe_fields(TrainConfig)}\n\nor of an extraction\n\n{describe_fields(ExtractConfig)}")
        return 0
    if args.plan_config_path is None:
        parser.error("the following arguments are required: --plan_config_path")
    try:
        loaded = load_plan(args.plan_config_path, args.overrides)
        if args.check:
            print_check(loaded)
            return 0
        if lacking := what_is_missing(loaded):
            raise ConfigError(args.plan_config_path, lacking)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    console = not args.disable_console_log
    with setup_logging(console=console):
        for notice in loaded.notices:
            logger.info("note: %s", notice)
        jobs = jobs_of(loaded.plan, loaded.experiments)
        try:
            outcomes = run_jobs(loaded.plan, jobs, args.fresh, console, INTERRUPT_MESSAGE)
        except KeyboardInterrupt:
            logger.warning("stopped at once; the same command goes on from the last checkpoints")
            return INTERRUPTED_EXIT_CODE
        report(loaded, outcomes, args.plan_config_path.stem)
    return exit_code(outcomes)


def print_check(loaded: LoadedPlan) -> None:
    """What the plan would run: each setting with what it starts from, what it changes, and its sizes."""
    for notice in loaded.notices:
        print(f"note: {notice}")
    by_setting: dict[str, list[Experiment]] = {}
    for experiment in loaded.experiments:
        by_setting.setdefault(experiment.setting, []).append(experiment)
    runs, settings = f"{len(loaded.experiments)} experiments", f"{len(by_setting)} settings"
    print(f"{loaded.plan.name}: {runs} of {settings}, in {loaded.plan.output_path}")
    for setting, experiments in by_setting.items():
        first = experiments[0]
        seeds = ", ".join(str(experiment.config.runtime.seed) for experiment in experiments)
        print(f"\n{setting}: runtime.seed {seeds}")
        print(f"  from: {first.start.setting if first.start else first.config.alg.model_name}")
        for name, value in first.changes.items():
            print(f"  {name}: {value}")
        config = first.config
        sizes = extraction_sizes(config) if isinstance(config, ExtractConfig) else training_sizes(config)
        print(textwrap.indent("\n".join(sizes), "  "))


def what_is_missing(loaded: LoadedPlan) -> list[Located]:
    """What rewards, metrics and datasets of any experiment need and this machine lacks."""
    first = {experiment.configuration: experiment for experiment in reversed(loaded.experiments)}
    return [
        Located(None, f"{name}: {problem.path}", problem.message)
        for name, experiment in reversed(first.items())
        for problem in missing_components(experiment.config)
    ]


def report(loaded: LoadedPlan, outcomes: Sequence[Outcome], stem: str) -> None:
    """Log how each experiment ended and the table over seeds, which is also written as CSV."""
    for line in outcome_lines(loaded.plan, loaded.experiments, outcomes):
        logger.info("%s", line)
    if not any(outcome.is_done for outcome in outcomes):
        return
    summaries = summarise(loaded.experiments, outcomes, loaded.plan.score_metric_name)
    for line in table_text(summaries):
        logger.info("  %s", line)
    if problem := unknown_metric(summaries, loaded.plan.score_metric_name):
        logger.warning("%s", problem)
    path = Path(loaded.plan.output_path) / f"{stem}_summary.csv"
    atomic_write_text(path, table_csv(summaries))
    logger.info("summary: %s", path)


if __name__ == "__main__":
    sys.exit(main())

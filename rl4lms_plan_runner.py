"""Runs a plan of finetuning and extraction runs (Sections 5.1 and 5.2 of the paper)."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import ConfigError, add_config_arguments
from common.console import INTERRUPTED_EXIT_CODE, setup_logging
from common.errors import UserError
from common.executors import check_executor
from common.field_list import config_section, print_fields
from common.output import check_output_folder
from common.plan_jobs import exit_code
from common.schedule import run_jobs
from rl4lms.config.fields import extraction_fields, training_fields
from rl4lms.plan import Plan, load_plan
from rl4lms.plan.report import data_problems, print_check, report, what_is_missing
from rl4lms.plan.runs import make_jobs

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
    if args.list_fields is not None:
        training = training_fields("base_config and options: fields of a training")
        sections = [config_section(Plan, "Plan file"), *training, *extraction_fields("or of an extraction")]
        print_fields(parser, args.list_fields, sections)
        return 0
    if args.plan_config_path is None:
        parser.error("the following arguments are required: --plan_config_path")
    try:
        loaded = load_plan(args.plan_config_path, args.overrides)
        if refused := data_problems(loaded):
            raise ConfigError(args.plan_config_path, refused)
        if args.check:
            print_check(loaded)
            return 0
        if lacking := what_is_missing(loaded):
            raise ConfigError(args.plan_config_path, lacking)
        check_executor(loaded.plan)
        check_output_folder(Path(loaded.plan.output_path), "output_path")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console = not args.disable_console_log
    with setup_logging(console=console):
        for notice in loaded.notices:
            logger.info("note: %s", notice)
        jobs = make_jobs(loaded.plan, loaded.experiments)
        try:
            outcomes = run_jobs(loaded.plan, jobs, args.fresh, console, INTERRUPT_MESSAGE)
        except KeyboardInterrupt:
            logger.warning("stopped at once; the same command goes on from the last checkpoints")
            return INTERRUPTED_EXIT_CODE
        report(loaded, outcomes, args.plan_config_path.stem)
    return exit_code(outcomes)


if __name__ == "__main__":
    process.run_command(main)

"""Job 3: runs a plan of controlled experiments (Section 4.2 of the paper)."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import add_config_arguments
from common.console import INTERRUPTED_EXIT_CODE, setup_logging
from common.errors import UserError
from common.executors import check_executor
from common.field_list import config_section, print_fields
from common.output import check_output_folder
from common.plan_jobs import exit_code
from common.schedule import run_jobs
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.npz_labels import check_npz_files
from sft_vs_rft.plan import Plan, load_plan
from sft_vs_rft.plan_log import add_log_arguments, choose_log_file
from sft_vs_rft.schedule import INTERRUPT_MESSAGE, make_jobs
from sft_vs_rft.summary import print_check, report

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the experiments themselves are described by the plan file."""
    parser = argparse.ArgumentParser(
        description="Runs the experiments of a plan file: skips the finished ones, resumes the cut ones. "
        "Exit status: 0 all finished, 1 some failed, 2 a mistake in the plan, 130 interrupted."
    )
    parser.add_argument("--plan_config_path", type=Path, help="plan file, see sft_vs_rft/experiment_plans")
    parser.add_argument("--disable_console_log", action="store_true", help="no log lines and progress bars")
    add_log_arguments(parser)
    parser.add_argument(
        "--fresh", action="store_true", help="run everything anew, ignoring earlier runs of the plan"
    )
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the plan, run it, print the summary; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields is not None:
        inner = config_section(ExperimentConfig, "base_config and options: fields of an experiment")
        print_fields(parser, args.list_fields, [config_section(Plan, "Plan file"), inner])
        return 0
    if args.plan_config_path is None:
        parser.error("the following arguments are required: --plan_config_path")
    log_file = choose_log_file(parser, args)
    try:
        loaded = load_plan(args.plan_config_path, args.overrides)
        check_npz_files([experiment.config for experiment in loaded.experiments], readable=args.check)
        if args.check:
            print_check(loaded)
            return 0
        check_executor(loaded.plan)
        for folder in sorted({experiment.config.outputs_dir for experiment in loaded.experiments}):
            check_output_folder(Path(folder), "outputs_dir")
        if log_file is not None:
            check_output_folder(args.log_dir, "--log_dir")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console = not args.disable_console_log
    with setup_logging(console=console, log_file=log_file):
        for notice in loaded.notices:
            logger.warning("%s", notice)
        try:
            jobs = make_jobs(loaded.experiments)
            outcomes = run_jobs(loaded.plan, jobs, args.fresh, console, INTERRUPT_MESSAGE)
        except KeyboardInterrupt:
            logger.warning("stopped at once; the same command goes on from the last checkpoints")
            return INTERRUPTED_EXIT_CODE
        for line in report(loaded, outcomes):
            logger.info("%s", line)
    return exit_code(outcomes)


if __name__ == "__main__":
    process.run_command(main)

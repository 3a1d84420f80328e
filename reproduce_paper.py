"""Job 4: the figures and tables of the paper, from saved runs, or from nothing on a laptop."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import sys
from collections.abc import Sequence

from common.arguments import this_command
from common.config import Config, add_config_arguments
from common.console import INTERRUPTED_EXIT_CODE, setup_logging
from common.errors import UserError
from common.field_list import config_section, print_fields
from paper.draw_given import draw_given_runs
from paper.instructgpt.config import PipelineConfig
from paper.reproduce import (
    add_arguments,
    check_arguments,
    choose_items,
    named_at_paper_scale,
    print_stages,
    run_and_draw,
)
from paper.study import StudyConfig
from paper.study_run import StudyError, StudyInterrupted
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.plan import Plan

CONFIGS: dict[str, type[Config]] = {
    "Plan file": Plan,
    "Controlled experiment": ExperimentConfig,
    "Study": StudyConfig,
    "InstructGPT": PipelineConfig,
}


def build_parser() -> argparse.ArgumentParser:
    """Flags of the front door."""
    parser = argparse.ArgumentParser(
        description="Draws the figures and tables of the paper, running the experiments they need: finished "
        "ones are used as they are, cut ones resumed. Exit status: 0 drawn, 1 an experiment failed, 2 a "
        "mistake in the arguments, 130 interrupted."
    )
    add_arguments(parser)
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check everything, run what is missing, draw; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, [config_section(m, title) for title, m in CONFIGS.items()])
        return 0
    try:
        if args.runs:
            return draw_given_runs(args)
        asked = choose_items(args)
        runs_left = print_stages(args, asked)
        if args.check or args.dry_run:
            return 0
        if args.scale == "paper" and (large := named_at_paper_scale(asked)):
            parser.error(
                f"{', '.join(large)} at the paper's scale take days of a GPU: run the commands "
                "above, then draw with --runs, or leave them out with --only"
            )
        with setup_logging(console=True):
            return run_and_draw(args, asked, runs_left)
    except (KeyboardInterrupt, StudyInterrupted):
        print(f"interrupted; to go on: {this_command()}", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except StudyError as error:
        print(f"{error}; to go on: {this_command()}", file=sys.stderr)
        return 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    process.run_command(main)

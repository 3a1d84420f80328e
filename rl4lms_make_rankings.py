"""Makes preference data without people: rankings of a model's own texts by a gold reward with noise."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import add_run_arguments, check_run_arguments, config_of_run, resume_command
from common.console import setup_logging
from common.errors import UserError
from common.field_list import config_section, print_fields
from common.links import link_problem
from common.output import check_output_folder
from common.run_dir import RunDir, RunError
from rl4lms.config.rankings import (
    MakeRankingsConfig,
    check_rankings_components,
    check_rankings_locally,
    load_rankings_config,
    resolved_rankings,
)


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; what is ranked is described by the config file."""
    parser = argparse.ArgumentParser(
        description="Samples texts for prompts of a dataset, scores them by a gold reward, ranks them with "
        "noise and leaves train.jsonl, val.jsonl and test.jsonl for the datapool `preferences`. They lie in "
        "BASE_PATH_TO_STORE_RESULTS/NAME (the name in the config), which leads to the newest run of that "
        "name beside it. Exit status: 0 done, 1 failed (what was computed is kept), 2 a mistake in the "
        "config, 130 interrupted."
    )
    parser.add_argument(
        "--base_path_to_store_results",
        type=Path,
        default=Path("outputs/laptop_rankings"),
        help="folder of the rankings and their runs (%(default)s); a resumed run stays where it is",
    )
    add_run_arguments(parser, "rl4lms_scripts/instructgpt/laptop/*_rankings.yml")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, make and publish the rankings; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, [config_section(MakeRankingsConfig)])
        return 0
    check_run_arguments(parser, args)
    source = args.config_path or args.resume
    folder = args.resume.resolve().parent if args.resume else args.base_path_to_store_results
    try:
        if args.resume:
            config = config_of_run(args.resume, MakeRankingsConfig)
        else:
            config = load_rankings_config(args.config_path, args.overrides)
        report = check_rankings_locally(source, config)
        if args.check:
            print(report)
            return 0
        check_rankings_components(source, config)
        if not args.resume:
            check_output_folder(folder, "--base_path_to_store_results")
        link = folder / config.name
        if problem := link_problem(link, "dataset"):
            raise RunError(problem)
        if args.resume:
            run = RunDir.open(args.resume)
        else:
            run = RunDir.create(folder, config.name, resolved_rankings(config), {"job": "rankings"})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with run, setup_logging(console=True, log_file=run.path / "log.txt"):
        from rl4lms.make_rankings import run_making  # seconds of imports, only now that the config is good

        return run_making(config, run, link, resume_command(__file__, run.path))


if __name__ == "__main__":
    process.run_command(main)

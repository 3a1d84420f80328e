"""Makes a small T5, GPT-2 or classifier from docstrings, offline, in minutes: the laptop configs use them."""

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
from paper.small_models.config import PretrainConfig, load_pretrain_config, pretrain_report
from paper.small_models.jobs import manifest, run_pretraining


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the model and its training are described by the config file."""
    parser = argparse.ArgumentParser(
        description="Builds a tokenizer and trains a small language model or classifier on the docstrings "
        "of installed packages. It lies in OUTPUT_PATH/NAME (the name in the config), which leads to the "
        "newest run of that name beside it. Exit status: 0 done, 1 failed, 2 a mistake in the config, 130 "
        "interrupted."
    )
    parser.add_argument(
        "--output_path",
        type=Path,
        default=Path("outputs/laptop_models"),
        help="folder of the models and their runs (%(default)s); a resumed run stays where it is",
    )
    add_run_arguments(parser, "rl4lms_scripts/laptop/{pretrain,train}_*.yml")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, pretrain, publish the model; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, [config_section(PretrainConfig)])
        return 0
    check_run_arguments(parser, args)
    folder = args.resume.resolve().parent if args.resume else args.output_path
    try:
        if args.resume:
            config = config_of_run(args.resume, PretrainConfig)
        else:
            config = load_pretrain_config(args.config_path, args.overrides)
        if args.check:
            print(pretrain_report(config, folder))
            return 0
        if not args.resume:
            check_output_folder(folder, "--output_path")
        link = folder / config.name
        if problem := link_problem(link):
            raise RunError(problem)
        if args.resume:
            run = RunDir.open(args.resume)
        else:
            run = RunDir.create(folder, config.name, config.model_dump(), manifest(config))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with run, setup_logging(console=True, log_file=run.path / "log.txt"):
        return run_pretraining(config, run, link, resume_command(__file__, run.path))


if __name__ == "__main__":
    process.run_command(main)

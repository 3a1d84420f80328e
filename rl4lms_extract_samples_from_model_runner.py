"""Job 1: samples texts for inputs and leaves reward mean and std of every input (Section 4.1)."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import add_run_arguments, check_run_arguments, config_of_run, resume_command
from common.console import setup_logging
from common.errors import UserError
from common.field_list import print_fields
from common.output import check_output_folder
from common.plots import optional_drawing
from common.run_dir import RunDir
from rl4lms.config import ExtractConfig, check_components, check_locally, load_extract_config, resolved
from rl4lms.config.fields import extraction_fields

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; what is extracted is described by the config file."""
    parser = argparse.ArgumentParser(
        description="Samples texts for inputs of a dataset from a language model, scores them, and "
        "leaves texts, rewards, their mean and std for every input, and Figure 1's scatter. Exit status: "
        "0 done, 1 failed (what was computed is kept), 2 a mistake in the config, 130 interrupted."
    )
    parser.add_argument(
        "--output_path",
        type=Path,
        default=Path("outputs/rl4lms_stats"),
        help="folder of the results (%(default)s)",
    )
    parser.add_argument("--output_file_suffix", default="", help="becomes part of the names of the results")
    add_run_arguments(parser, "rl4lms_scripts/extract_samples")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, extract, print and draw the statistics; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, extraction_fields())
        return 0
    check_run_arguments(parser, args)
    if not re.fullmatch(r"[\w.+-]*", args.output_file_suffix):
        parser.error(f"--output_file_suffix becomes part of a file name, got {args.output_file_suffix!r}")
    try:
        if args.resume:
            config = config_of_run(args.resume, ExtractConfig)
        else:
            config = load_extract_config(args.config_path, args.overrides)
        report = check_locally(args.config_path or args.resume, config)
        if args.check:
            print(report)
            return 0
        check_components(args.config_path or args.resume, config)
        if args.resume:
            run = RunDir.open(args.resume)
        else:  # named as the released code names its results
            name = config.run_name(args.output_file_suffix)
            check_output_folder(args.output_path, "--output_path")
            run = RunDir.create(args.output_path, name, resolved(config), {"job": "extraction"})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with run, setup_logging(console=True, log_file=run.path / "log.txt"):
        # Seconds of imports, only now that the config is known to be good.
        from figures.figure1_5 import save_scatter
        from rft_diagnose.statistics import describe, summarise
        from rl4lms.extract import run_extraction

        result = run_extraction(config, run, resume_command(__file__, run.path))
        if isinstance(result, int):
            return result
        for line in describe(summarise(result.rewards.double().numpy()), result.reward):
            logger.info("%s", line)
        files = [result.path, result.csv]
        with optional_drawing(run.path.with_name(f"{run.path.name}_scatter.png")):
            files.append(save_scatter(result.path, result.reward))
        logger.info("results: %s", ", ".join(map(str, files)))
    return 0


if __name__ == "__main__":
    process.run_command(main)

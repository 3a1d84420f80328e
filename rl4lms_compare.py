"""Compares models by their texts for the same prompts: win rates, strengths, a page to judge on."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import add_config_arguments
from common.console import setup_logging
from common.errors import UserError
from common.field_list import print_fields
from common.output import check_output_folder
from rl4lms.compare.judges import check_judges, parse_judges
from rl4lms.compare.sources import check_sampling, describe_plan, find_sources, load_sampling_config
from rl4lms.config import check_locally
from rl4lms.config.fields import extraction_fields


def build_parser() -> argparse.ArgumentParser:
    """Flags of the comparison."""
    parser = argparse.ArgumentParser(
        description="Says which of several models writes the better texts for the same prompts. Exit status: "
        "0 done, 1 making texts failed, 2 input that cannot be used, or no finite strengths, 130 interrupted."
    )
    parser.add_argument(
        "models",
        nargs="*",
        help="at least two, the first is what the others are compared with: run folders, saved predictions "
        "(.json), extractions (.pt); with --config_path models' folders and hub names too",
    )
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="JUDGE",
        help="reward or metric (chrf, '{id: meteor, args: {wordnet: false}}', package.module:function), "
        "folder of a reward model, or file of people's choices; repeatable; without it the first metric that "
        "was saved with all texts",
    )
    parser.add_argument(
        "--config_path",
        type=Path,
        help="a config of the extraction runner: prompts and sampling of texts that are made now, its "
        "model replaced by each of those given",
    )
    parser.add_argument(
        "--split", choices=("val", "test"), help="whose saved predictions of a run's folder (test)"
    )
    parser.add_argument(
        "--ridge", type=float, default=0.0, help="penalty on the strengths, which keeps them finite (0)"
    )
    parser.add_argument("--pairs", type=int, default=50, help="pairs on the page to judge (%(default)s)")
    folder = Path("outputs/comparison")
    parser.add_argument("--output_path", type=Path, default=folder, help="of the results (%(default)s)")
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, find texts and judges, check them, compare; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, extraction_fields())
        return 0
    if args.overrides and args.config_path is None:
        parser.error("--set is for --config_path")
    if args.split and args.config_path is not None:
        parser.error("--split is of saved predictions: --set datapool.split of the config")
    if not 0 <= args.ridge < float("inf") or args.pairs < 0:
        parser.error(f"--ridge and --pairs are finite numbers from 0 on, got {args.ridge:g} and {args.pairs}")
    try:
        path = args.config_path
        sources = find_sources(args.models, args.split or "test", path is not None)
        config = None if path is None else load_sampling_config(path, args.overrides, sources)
        judges = parse_judges(args.judge)
        report = "" if config is None else check_locally(path, config)
        if args.check:
            print("\n".join(filter(None, [describe_plan(sources, [judge.name for judge in judges]), report])))
            return 0
        if config is not None:
            check_sampling(path, config, sources)
        check_judges(judges)
        check_output_folder(args.output_path, "--output_path")
        with setup_logging(console=True):
            from rl4lms.compare.run import compare_models  # seconds of imports, only now that all is found

            return compare_models(
                sources, judges, config, args.output_path, ridge=args.ridge, pairs=args.pairs
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    process.run_command(main)

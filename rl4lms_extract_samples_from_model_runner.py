"""Job 1: samples texts for inputs and leaves reward mean and std of every input (Section 4.1)."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import ConfigError, Located, add_config_arguments, describe_fields, validate
from common.console import INTERRUPTED_EXIT_CODE, progress, setup_logging, stop_request
from common.errors import UserError
from common.run_dir import RunDir, read_run
from rl4lms.config import ExtractConfig, check_report, load_extract_config, missing_components, resolved

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = "stopping after the batch under way; press Ctrl-C again to stop at once"


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; what is extracted is described by the config file."""
    parser = argparse.ArgumentParser(
        description="Samples texts for inputs of a dataset from a language model, scores them, and "
        "leaves texts, rewards, their mean and std for every input, and Figure 1's scatter. Exit status: "
        "0 done, 1 failed (what was computed is kept), 2 a mistake in the config, 130 interrupted."
    )
    parser.add_argument("--config_path", type=Path, help="YAML file, see rl4lms_scripts/extract_samples")
    parser.add_argument(
        "--output_path",
        type=Path,
        default=Path("outputs/rl4lms_stats"),
        help="folder of the results (%(default)s)",
    )
    parser.add_argument("--output_file_suffix", default="", help="becomes part of the names of the results")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with a cut extraction, by its run folder"
    )
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, extract, print and draw the statistics; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields:
        print(describe_fields(ExtractConfig))
        return 0
    if (args.config_path is None) == (args.resume is None):
        parser.error("give one of --config_path and --resume")
    if args.resume is not None and args.overrides:
        parser.error("--set cannot change a run that is resumed")
    if not re.fullmatch(r"[\w.+-]*", args.output_file_suffix):
        parser.error(f"--output_file_suffix becomes part of a file name, got {args.output_file_suffix!r}")
    try:
        config = (
            load_config_of(args.resume)
            if args.resume
            else load_extract_config(args.config_path, args.overrides)
        )
        if args.check:
            print(check_report(config))
            return 0
        lacking = [Located(None, problem.path, problem.message) for problem in missing_components(config)]
        if lacking:
            raise ConfigError(args.config_path or args.resume, lacking)
        run = RunDir.open(args.resume) if args.resume else create_run(args, config)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with run, setup_logging(console=True, log_file=run.path / "log.txt"):
        return extract_and_draw(config, run)


def create_run(args: argparse.Namespace, config: ExtractConfig) -> RunDir:
    """A new run directory under --output_path, named as the released code names its results."""
    name = config.run_name(args.output_file_suffix)
    return RunDir.create(args.output_path, name, resolved(config), {"job": "extraction"})


def load_config_of(path: Path) -> ExtractConfig:
    """The config of a run that is resumed. Raises RunError, or ConfigError: not an extraction's."""
    data = read_run(path).config
    config, problems = validate(ExtractConfig, data)
    if config is None:
        raise ConfigError(path / "config.json", [Located(None, p.path, p.message) for p in problems])
    return config


def extract_and_draw(config: ExtractConfig, run: RunDir) -> int:
    """Extract into `run`, then print and draw the statistics of its first metric."""
    for notice in config.notices():
        logger.info("note: %s", notice)
    # Seconds of imports, only now that the config is known to be good.
    from figures.figure1_5 import figure1
    from figures.runs import extraction_table
    from figures.style import save_figure
    from rft_diagnose.statistics import describe, summarise
    from rl4lms.extract import ExtractionInterrupted, extract

    resume = f"python {Path(__file__).name} --resume {shlex.quote(str(run.path))}"
    logger.info("run folder: %s", run.path)
    try:
        total = config.generations or 0
        with stop_request(INTERRUPT_MESSAGE) as stop, progress(total, "extraction", unit="text") as bar:
            result = extract(config, run, bar.move_to, stop)
    except (ExtractionInterrupted, KeyboardInterrupt):
        run.update_manifest(status="interrupted")
        logger.warning("interrupted; to go on: %s", resume)
        return INTERRUPTED_EXIT_CODE
    except Exception as error:
        run.update_manifest(status="failed", error=f"{type(error).__name__}: {error}")
        expected = isinstance(error, UserError)
        logger.error("%s", error, exc_info=not expected)
        logger.error("what was computed is kept; to go on: %s", resume)
        return 1
    for line in describe(summarise(result.rewards.double().numpy()), result.reward):
        logger.info("%s", line)
    table = extraction_table({"model": result.path})
    stem = result.path.with_name(f"{result.path.stem}_scatter")
    paths = save_figure(figure1(table, result.reward), stem, table, [{"path": str(result.path)}])
    logger.info("results: %s, %s, %s", result.path, result.csv, paths[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())

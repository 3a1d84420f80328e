"""Makes a small T5, GPT-2 or classifier from docstrings, offline, in minutes: the laptop configs use them."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import ConfigError, Located, add_config_arguments, describe_fields, validate
from common.console import INTERRUPTED_EXIT_CODE, progress, setup_logging, stop_request
from common.errors import UserError
from common.run_dir import RunDir, RunError, read_run
from paper.small_models.config import PretrainConfig, load_pretrain_config, pretrain_report
from paper.small_models.jobs import manifest, publish
from rl4lms.model.source import link_problem

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = (
    "stopping after the update under way, with a checkpoint; press Ctrl-C again to stop at once"
)


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the model and its training are described by the config file."""
    parser = argparse.ArgumentParser(
        description="Builds a tokenizer and trains a small language model or classifier on the docstrings "
        "of installed packages. It lies in OUTPUT_PATH/NAME (the name in the config), which leads to the "
        "newest run of that name beside it. Exit status: 0 done, 1 failed, 2 a mistake in the config, 130 "
        "interrupted."
    )
    parser.add_argument(
        "--config_path", type=Path, help="YAML file, see rl4lms_scripts/laptop/{pretrain,train}_*.yml"
    )
    parser.add_argument(
        "--output_path",
        type=Path,
        default=Path("outputs/laptop_models"),
        help="folder of the models and their runs (%(default)s); a resumed run stays where it is",
    )
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a cut run, by its folder")
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, pretrain, publish the model; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields:
        print(describe_fields(PretrainConfig))
        return 0
    if (args.config_path is None) == (args.resume is None):
        parser.error("give one of --config_path and --resume")
    if args.resume is not None and args.overrides:
        parser.error("--set cannot change a run that is resumed")
    output_path = args.resume.resolve().parent if args.resume else args.output_path
    try:
        config = (
            load_config_of(args.resume)
            if args.resume
            else load_pretrain_config(args.config_path, args.overrides)
        )
        if args.check:
            print(pretrain_report(config, output_path))
            return 0
        if problem := link_problem(output_path / config.name):
            raise RunError(problem)
        run = (
            RunDir.open(args.resume)
            if args.resume
            else RunDir.create(output_path, config.name, config.model_dump(), manifest(config))
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with run, setup_logging(console=True, log_file=run.path / "log.txt"):
        return pretrain_and_publish(config, run, output_path / config.name)


def load_config_of(path: Path) -> PretrainConfig:
    """The config of a run that is resumed. Raises RunError, or ConfigError: not a pretraining's."""
    config, problems = validate(PretrainConfig, read_run(path).config)
    if config is None:
        raise ConfigError(path / "config.json", [Located(None, p.path, p.message) for p in problems])
    return config


def pretrain_and_publish(config: PretrainConfig, run: RunDir, link: Path) -> int:
    """Pretrain in `run`, then let `link` lead to the model."""
    # Seconds of imports, only now that the config is known to be good.
    from paper.small_models.train import TrainingInterrupted, pretrain

    resume = f"python {Path(__file__).name} --resume {shlex.quote(str(run.path))}"
    logger.info("run folder: %s", run.path)
    try:
        with (
            stop_request(INTERRUPT_MESSAGE) as stop,
            progress(config.alg.steps, f"training {config.name}", unit="update") as bar,
        ):

            def report(step: int, status: str) -> None:
                bar.show(status)
                bar.move_to(step)

            publish(pretrain(config, run, report, stop), link)
    except (TrainingInterrupted, KeyboardInterrupt):
        run.update_manifest(status="interrupted")
        logger.warning("interrupted; to go on: %s", resume)
        return INTERRUPTED_EXIT_CODE
    except Exception as error:
        run.update_manifest(status="failed", error=f"{type(error).__name__}: {error}")
        expected = isinstance(error, UserError)
        logger.error("%s", error, exc_info=not expected)
        logger.error("to go on from the last checkpoint: %s", resume)
        return 1
    logger.info("model: %s", link)
    return 0


if __name__ == "__main__":
    sys.exit(main())

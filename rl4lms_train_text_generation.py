"""Job 2: finetunes a language model by supervised learning, PPO or NLPO, or trains a reward model."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from common.arguments import add_run_arguments, config_of_run, resume_command
from common.console import setup_logging, stop_request
from common.errors import UserError
from common.field_list import print_fields
from common.jobs import ending, remove_if_refused
from rl4lms.config import TrainConfig, check_components
from rl4lms.config.fields import training_fields
from rl4lms.errors import TrainingInterrupted
from rl4lms.train import (
    add_arguments,
    check_arguments,
    check_local,
    open_run,
    read_config,
    start_tracker,
    train,
)

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = "stopping after the step under way; press Ctrl-C again to stop at once"


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the training is described by the config file."""
    parser = argparse.ArgumentParser(
        description="Finetunes a language model by supervised learning, PPO or NLPO, or trains a reward "
        "model, and evaluates it before, during and after. Exit status: 0 done, 1 failed (what was computed "
        "is kept), 2 a mistake in the config, 130 interrupted. Several processes: torchrun --nproc_per_node "
        "N FILE ..."
    )
    add_arguments(parser)
    add_run_arguments(parser, "rl4lms_scripts/training")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, then train; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, training_fields())
        return 0
    check_arguments(parser, args)
    try:
        config, options = read_config(args)
        report = check_local(args.config_path or args.resume, config, options)
        if args.check:
            print(report)
            return 0
        check_components(args.config_path or args.resume, config)
        from rl4lms.model.parallel import join_world  # seconds, only now that the config is good

        world = join_world(config.runtime.device)
        run = open_run(args, config, options) if world.is_main else None
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(error, file=sys.stderr)
        return 2
    path = world.same(run.path if run else Path())
    log, level = (path / f"{run.prefix}log.txt", logging.INFO) if run else (None, logging.ERROR)
    with run or nullcontext(), setup_logging(console=True, log_file=log, level=level):
        logger.info("run folder: %s", path)
        tracker = None
        with (
            stop_request(INTERRUPT_MESSAGE) as stop,
            ending(run, resume_command(__file__, path), TrainingInterrupted) as end,
        ):
            config = config_of_run(path, TrainConfig)  # with the seed that was drawn
            tracker = start_tracker(run, config) if run else None
            train(config, path, run, world, tracker, stop)
        if tracker is not None:
            tracker.close(failed=end.code == 1)
        remove_if_refused(run, end)
    return end.code


if __name__ == "__main__":
    process.run_command(main)

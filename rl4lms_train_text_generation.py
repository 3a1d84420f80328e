"""Job 2, so far: checks the configs of supervised finetuning, PPO and NLPO; the training is still to come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import ConfigError, add_config_arguments, describe_fields
from rl4lms.config import TrainConfig, check_report, load_train_config


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the training is described by the config file."""
    parser = argparse.ArgumentParser(
        description="Checks the config of a finetuning run (--check). Training is not in this version. "
        "Exit status: 0 the config is good, 2 it is not, or it was to be run."
    )
    parser.add_argument("--config_path", type=Path, help="YAML file, see rl4lms_scripts/training")
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields:
        print(describe_fields(TrainConfig))
        return 0
    if args.config_path is None:
        parser.error("the following arguments are required: --config_path")
    try:
        config = load_train_config(args.config_path, args.overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if not args.check:
        parser.error("training is not in this version yet; --check checks the config")
    print(check_report(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())

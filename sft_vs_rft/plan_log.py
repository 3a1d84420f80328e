"""The flags for a log file of a whole plan, and the file's name."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime
from pathlib import Path


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --save_logs, --log_dir and --log_file_name_prefix."""
    parser.add_argument(
        "--save_logs", action="store_true", help="also write the log of the whole plan to a file"
    )
    parser.add_argument(
        "--log_dir", type=Path, default=Path("outputs/plan_logs"), help="its folder (%(default)s)"
    )
    parser.add_argument(
        "--log_file_name_prefix", help="start of its file name (default: the plan file's name)"
    )


def choose_log_file(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path | None:
    """The log file of the plan, in --log_dir; None without --save_logs. Ends with status 2: no such name."""
    prefix = args.log_file_name_prefix
    if prefix and not re.fullmatch(r"\w[\w.+-]{0,150}", prefix):
        parser.error(f"--log_file_name_prefix becomes part of a file name, got {prefix!r}")
    name = f"{prefix or args.plan_config_path.stem}_{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}.log"
    return args.log_dir / name if args.save_logs else None

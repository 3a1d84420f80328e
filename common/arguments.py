"""The flags that runners share: which config, or which run to go on with."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config import ConfigError, ConfigT, Located, add_config_arguments, validate
from common.run_dir import CONFIG, read_run


def add_run_arguments(parser: argparse.ArgumentParser, configs: str) -> None:
    """Add --config_path, --resume, --set (as `overrides`), --check and --list_fields.

    configs: where shipped configs lie, for the help. See `check_run_arguments`.
    """
    parser.add_argument("--config_path", type=Path, help=f"YAML file, see {configs}")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a cut run, by its folder")
    add_config_arguments(parser)


def check_run_arguments(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    fixed: Sequence[str] = (),
    changeable: Sequence[str] = (),
) -> None:
    """End with status 2 unless one of config and run is given, and --set and `fixed` flags with a config.

    changeable: fields that --set may also change of a run.
    """
    if (args.config_path is None) == (args.resume is None):
        parser.error("give one of --config_path and --resume")
    if args.resume is not None:
        given = [f"--{name}" for name in fixed if getattr(args, name) not in (None, False)]
        others = [text for text in args.overrides if text.partition("=")[0].strip() not in changeable]
        given += ["--set"] if others else []
        if given:
            but = f"; what can be changed is {changeable[0]}" if others and changeable else ""
            parser.error(f"{', '.join(given)} cannot change a run that is resumed{but}")


def config_of_run(path: Path, model: type[ConfigT]) -> ConfigT:
    """The config that a run began with. Raises RunError: no run, ConfigError: not one of this kind."""
    run = read_run(path)
    config, problems = validate(model, run.config)
    if config is None:
        file = path / f"{run.manifest.get('prefix', '')}{CONFIG}"
        raise ConfigError(file, [Located(None, problem.path, problem.message) for problem in problems])
    return config


def resume_command(runner: str, path: Path) -> str:
    """The command that goes on with a run. runner: the file of the runner that began it."""
    return f"python {Path(runner).name} --resume {shlex.quote(str(path))}"


def this_command() -> str:
    """The command that this process was started with."""
    return shlex.join(["python", *sys.argv])

"""The pre-flight check: which inputs carry no gradient, how sure that is, and what to do.

It is `rft-diagnose` (rft_diagnose/cli.py), and what takes a model: texts sampled now, KL, policy gradients.
"""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import resume_command
from common.config import add_config_arguments
from common.console import setup_logging
from common.errors import UserError
from common.field_list import print_fields
from common.output import check_output_folder
from common.run_dir import RunDir
from rft_diagnose import cli
from rft_diagnose.advice import ConditionError, parse_condition
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.extractions import check_is_extraction, find_extraction
from rl4lms.config import check_components, check_report, load_extract_config, resolved
from rl4lms.config.fields import extraction_fields
from rl4lms.model.source import check_reward_model_source

if TYPE_CHECKING:
    from rft_diagnose import Diagnosis
    from rft_diagnose.tables import RewardTable

SCORES = "reward_model_scores.jsonl"
EXTRACT_RUNNER = "rl4lms_extract_samples_from_model_runner.py"


def build_parser() -> argparse.ArgumentParser:
    """Flags of the check."""
    parser = cli.build_parser()
    parser.description = (
        "Says which inputs reinforcement finetuning will not learn from, how sure that is, and "
        "what to do. Exit status: 0 done, 1 sampling failed, 2 input that cannot be used, 3 a --fail-if "
        "condition holds, 4 one is undefined (--undefined), 130 interrupted."
    )
    models = parser.add_argument_group("this repository's models; FILE may be the .pt file of an extraction")
    config = "instead of FILE: a config of the extraction runner, to sample from its model"
    models.add_argument("--config_path", type=Path, help=config)
    models.add_argument(
        "--reference",
        metavar="MODEL",
        help="of an extraction or a config, instead of --kl: the model that the KL penalty is to",
    )
    models.add_argument(
        "--reward_model",
        metavar="MODEL",
        help="of an extraction or a config: diagnose this reward model's rewards of the texts (a sequence "
        "classifier with one output: folder or hub name), and judge it as a teacher by --reward",
    )
    models.add_argument(
        "--gradients",
        nargs="?",
        type=int,
        const=40,
        metavar="N",
        help="estimate the policy gradients of N random inputs (40), of a config's or an extraction's model",
    )
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read or sample, diagnose, write, say; returns the exit status."""
    process.prepare()
    if (arguments := sys.argv[1:] if argv is None else list(argv))[:1] == ["sample"]:
        return cli.sample_main(arguments[1:])
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.list_fields is not None:
        print_fields(parser, args.list_fields, extraction_fields())
        return 0
    if bool(args.inputs) == (args.config_path is not None):
        parser.error("give files with rewards, or --config_path")
    if (args.kl is None and args.reference is None) != (args.kl_coef is None):
        parser.error("--kl_coef goes together with --kl (a table's column) or --reference (a model)")
    if args.kl is not None and args.reference is not None:
        parser.error("--kl is for tables, --reference for extractions and configs: give one of them")
    if args.gradients is not None and args.gradients < 1:
        parser.error(f"--gradients are of at least 1 input, got {args.gradients}")
    if args.gradients is not None and args.reward_model is not None:
        parser.error("--gradients are of an extraction's own rewards: give no --reward_model with it")
    if (args.overrides or args.check) and args.config_path is None:
        parser.error("--set and --check are for --config_path")

    try:
        conditions = [parse_condition(text) for text in args.fail_if]
        with setup_logging(console=True):
            check_reward_model(args)
            source = args.config_path or args.inputs[0]
            args.output_path = args.output_path or cli.default_folder(source, args.reward_model)
            if args.config_path is not None:
                sampled = sample(args)
                if isinstance(sampled, int):
                    return sampled
                args.inputs = [sampled]
            summary = cli.check(
                args,
                args.inputs,
                judged=[args.config_path] if args.config_path else args.inputs,
                complete=lambda path, table: with_kl(args, path, with_reward_model(args, path, table)),
                measure=None if args.gradients is None else lambda diagnoses: measure(args, diagnoses),
            )
    except (DiagnosisError, ConditionError, UserError) as error:
        print(error, file=sys.stderr)
        return 2
    return cli.exit_status(conditions, summary, args.undefined)


def check_reward_model(args: argparse.Namespace) -> None:
    """Raises DiagnosisError: --reward_model is none, or has no extraction's texts to be applied to."""
    if args.reward_model is None:
        return
    if problem := check_reward_model_source(args.reward_model):
        raise DiagnosisError(f"--reward_model: {problem}")
    args.inputs = [find_extraction(path) for path in args.inputs]
    args.before = [find_extraction(path) for path in args.before or []]


def sample(args: argparse.Namespace) -> Path | int:
    """The extraction that the config describes: its .pt file, or an exit status. Raises ConfigError."""
    config = load_extract_config(args.config_path, args.overrides)
    if args.check:
        print(check_report(config))
        return 0
    check_components(args.config_path, config)
    from rl4lms.extract import run_extraction

    check_output_folder(args.output_path, "--output_path")
    with RunDir.create(args.output_path, config.run_name(), resolved(config), {"job": "extraction"}) as run:
        resume = f"{resume_command(EXTRACT_RUNNER, run.path)}, then give its .pt to this check"
        result = run_extraction(config, run, resume)
    return result if isinstance(result, int) else result.path


def with_reward_model(args: argparse.Namespace, path: Path, table: RewardTable) -> RewardTable:
    """Put the rewards of --reward_model, if there is one, in place of an extraction's."""
    if args.reward_model is None:
        return table
    from rl4lms.extraction_diagnosis import add_reward_model

    return add_reward_model(path, table, args.reward_model, args.output_path / SCORES)


def with_kl(args: argparse.Namespace, path: Path, table: RewardTable) -> RewardTable:
    """Add the KL of each text to --reference, if there is one, to an extraction's rewards."""
    if args.reference is None:
        return table
    check_is_extraction(path, "--reference is for a config or an extraction's .pt; of a table, give --kl")
    from rl4lms.extraction_diagnosis import add_kl

    return add_kl(path, table, args.reference)


def measure(
    args: argparse.Namespace, diagnoses: dict[str, Diagnosis]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Estimate gradients of some inputs of an extraction; returns them and their summary."""
    path = args.inputs[0]
    check_is_extraction(path, "--gradients needs the model: give --config_path, or an extraction's .pt")
    from rl4lms.extraction_diagnosis import measure_extraction

    return measure_extraction(
        path, diagnoses, args.reward, args.weights, args.kl_coef, args.reference, args.gradients
    )


if __name__ == "__main__":
    process.run_command(main)

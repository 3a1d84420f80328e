"""The pre-flight check: which inputs carry no gradient, how sure that is, and what to do."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import process
from common.arguments import resume_command
from common.config import add_config_arguments, describe_fields
from common.console import progress, setup_logging
from common.errors import UserError
from common.run_dir import RunDir
from rft_diagnose.advice import NAMES, ConditionError, holds, parse_condition, value_of
from rl4lms.config import ExtractConfig, check_components, check_report, load_extract_config, resolved

if TYPE_CHECKING:
    import pandas as pd

    from rft_diagnose import Diagnosis
    from rft_diagnose.report import Picture
    from rft_diagnose.tables import RewardTable

logger = logging.getLogger(__name__)
CONDITION_EXIT_CODE = 3
EXTRACT_RUNNER = "rl4lms_extract_samples_from_model_runner.py"
SUPERVISED = "dead_low.jsonl"
MAX_EXAMPLES = 20


def build_parser() -> argparse.ArgumentParser:
    """Flags of the check."""
    parser = argparse.ArgumentParser(
        description="Says which inputs reinforcement finetuning will not learn from, how sure that is, and "
        "what to do. Exit status: 0 done, 1 sampling failed, 2 input that cannot be used, 3 a --fail-if "
        "condition holds, 130 interrupted."
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="rewards: CSV, JSON lines or parquet (a row per generation), a folder of such, or the .pt file "
        "of an extraction",
    )
    parser.add_argument(
        "--config_path",
        type=Path,
        help="instead: a config of the extraction runner, to sample from its model",
    )
    columns = parser.add_argument_group("columns of the tables")
    columns.add_argument("--prompt", metavar="NAME", help="the input (prompt_id or prompt, if there is one)")
    columns.add_argument(
        "--reward",
        nargs="+",
        default=[],
        metavar="NAME",
        help="reward (`reward`); of several their sum counts",
    )
    columns.add_argument("--weights", nargs="+", type=float, metavar="W", help="of several rewards (1 each)")
    columns.add_argument(
        "--step", metavar="NAME", help="training step (step or global_step, if there is one)"
    )
    columns.add_argument(
        "--references", metavar="NAME", help="expected text or texts, for the supervised file"
    )
    columns.add_argument(
        "--kl", metavar="NAME", help="log pi - log pi_ref of each generation, with --kl_coef"
    )
    columns.add_argument(
        "--reference",
        metavar="MODEL",
        help="of an extraction or a config, instead: the model that the KL penalty is to, with --kl_coef",
    )
    judged = parser.add_argument_group("how they are judged")
    judged.add_argument("--kl_coef", type=float, metavar="C", help="diagnose reward - C x kl")
    judged.add_argument(
        "--range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="worst and best reward ([0, 1] if all lie in it, else theirs)",
    )
    judged.add_argument(
        "--tolerance", type=float, metavar="SHARE", help="of the range: smaller differences are none (0.03)"
    )
    judged.add_argument(
        "--group_size", type=int, metavar="G", help="generations of an input in training (8, or as logged)"
    )
    judged.add_argument(
        "--last_steps", type=int, metavar="N", help="of a log pool the last N steps (each input's last visit)"
    )
    judged.add_argument(
        "--before", nargs="+", type=Path, metavar="FILE", help="rewards of the same inputs before training"
    )
    parser.add_argument(
        "--gradients",
        nargs="?",
        type=int,
        const=40,
        metavar="N",
        help="estimate the policy gradients of N random inputs (40), of a config's or an extraction's model",
    )
    parser.add_argument(
        "--fail-if",
        "--fail_if",
        action="append",
        default=[],
        metavar="CONDITION",
        help=f"exit status 3 if it holds (repeatable): NAME < NUMBER, or <= > >=, NAME of {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--output_path",
        type=Path,
        metavar="DIR",
        help="of the results (outputs/diagnosis/<name of the input>)",
    )
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read or sample, diagnose, write, say; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields:
        print(describe_fields(ExtractConfig))
        return 0
    if bool(args.inputs) == (args.config_path is not None):
        parser.error("give files with rewards, or --config_path")
    if (args.kl is None and args.reference is None) != (args.kl_coef is None):
        parser.error("--kl_coef goes together with --kl (a table's column) or --reference (a model)")
    if args.kl is not None and args.reference is not None:
        parser.error("--kl is for tables, --reference for extractions and configs: give one of them")
    if args.gradients is not None and args.gradients < 1:
        parser.error(f"--gradients are of at least 1 input, got {args.gradients}")
    if (args.overrides or args.check) and args.config_path is None:
        parser.error("--set and --check are for --config_path")
    from rft_diagnose import DiagnosisError

    try:
        conditions = [parse_condition(text) for text in args.fail_if]
        with setup_logging(console=True):
            source = args.config_path or args.inputs[0]
            args.output_path = args.output_path or Path("outputs/diagnosis") / source.stem
            if args.config_path is not None:
                sampled = sample(args)
                if isinstance(sampled, int):
                    return sampled
                args.inputs = [sampled]
            summary = check(args)
    except (DiagnosisError, ConditionError, UserError) as error:
        print(error, file=sys.stderr)
        return 2
    failed = False
    for condition in conditions:
        value = value_of(condition.name, summary)
        if value is None:
            hint = ""
            if condition.name.startswith("dead"):
                hint = f": no input has the {summary['dead_needs']} generations it takes; take no_spread_low"
            print(f"--fail-if {condition}: {condition.name} is undefined here{hint}", file=sys.stderr)
        elif holds(condition, summary):
            print(f"--fail-if {condition}: holds, it is {value:.4g}", file=sys.stderr)
            failed = True
    return CONDITION_EXIT_CODE if failed else 0


def sample(args: argparse.Namespace) -> Path | int:
    """The extraction that the config describes: its .pt file, or an exit status. Raises ConfigError."""
    config = load_extract_config(args.config_path, args.overrides)
    if args.check:
        print(check_report(config))
        return 0
    check_components(args.config_path, config)
    from rl4lms.extract import run_extraction

    args.output_path.mkdir(parents=True, exist_ok=True)
    with RunDir.create(args.output_path, config.run_name(), resolved(config), {"job": "extraction"}) as run:
        resume = f"{resume_command(EXTRACT_RUNNER, run.path)}, then give its .pt to this check"
        result = run_extraction(config, run, resume)
    return result if isinstance(result, int) else result.path


def read_and_diagnose(
    args: argparse.Namespace, paths: Sequence[Path]
) -> tuple[RewardTable, dict[str, Diagnosis]]:
    """The rewards in the files and their diagnoses, first of what is optimised. Raises DiagnosisError."""
    from rft_diagnose.diagnose import TOLERANCE
    from rft_diagnose.tables import Columns, diagnose_table, read_rewards

    columns = Columns(args.prompt, tuple(args.reward), args.step, args.kl, args.references)
    table = read_rewards(paths, columns)
    if args.reference is not None:
        table = with_kl(args, paths[0], table)
    for note in table.notes:
        logger.info("%s", note)
    return table, diagnose_table(
        table,
        args.weights,
        args.kl_coef,
        tuple(args.range) if args.range else None,
        tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
        group_size=args.group_size,
        last_steps=args.last_steps,
    )


def with_kl(args: argparse.Namespace, path: Path, table: RewardTable) -> RewardTable:
    """An extraction's rewards with the KL of each text to --reference. Raises DiagnosisError, ConfigError."""
    from rft_diagnose import DiagnosisError

    if path.suffix != ".pt":
        raise DiagnosisError(
            f"{path}: --reference is for a config or an extraction's .pt; of a table, give --kl"
        )
    from rl4lms.extraction_diagnosis import text_log_ratios
    from rl4lms.model.source import check_model_source

    if problem := check_model_source(args.reference):
        raise DiagnosisError(f"--reference: {problem}")
    with progress(len(table.labels), "KL", unit="input") as bar:
        kl = text_log_ratios(path, args.reference, bar.move_to)
    note = f"KL to {args.reference} of texts that were split into tokens anew"
    return replace(table, kl=kl, notes=(*table.notes, note))


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Diagnose, write everything under --output_path, print one screen; returns the summary."""
    from common.files import atomic_write_json, atomic_write_text
    from rft_diagnose.advice import advise
    from rft_diagnose.compare import compare, relabelled
    from rft_diagnose.report import input_frame, render, supervised_rows, write_csv
    from rft_diagnose.words import Findings, terminal_lines
    from rl4lms.input_gradients import summarise_all

    table, found = read_and_diagnose(args, args.inputs)
    (name, main_one), *rest = found.items()
    summary, others = main_one.summary, {other: diagnosis.summary for other, diagnosis in rest}
    before, comparison = None, None
    if args.before:
        earlier, found_before = read_and_diagnose(args, args.before)
        before = relabelled(next(iter(found_before.values())), earlier.labels)
        comparison = compare(before, relabelled(main_one, table.labels))
    gradients = measure(args, found) if args.gradients is not None else []
    args.output_path.mkdir(parents=True, exist_ok=True)
    frame = input_frame(table, main_one, dict(rest), before, comparison)
    write_csv(frame, args.output_path / "inputs.csv")
    supervised = supervised_rows(table, main_one)
    (args.output_path / SUPERVISED).unlink(missing_ok=True)  # of an earlier check: it may have found some
    if supervised:
        atomic_write_text(args.output_path / SUPERVISED, "\n".join(supervised) + "\n")
    findings = Findings(
        name=name,
        summary=summary,
        others=others,
        comparison=comparison.summary if comparison else None,
        gradients=summarise_all(gradients),
        advice=advise(summary, others, SUPERVISED if supervised else None),
        notes=[*table.notes, *main_one.caveats],
    )
    command = shlex.join(["python", *sys.argv])
    made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    sources = {"inputs": [str(path) for path in args.inputs]}
    atomic_write_json(args.output_path / "summary.json", {**made, **sources, **findings.content()})
    examples = frame[frame["looks"] == "flat_low"].sort_values("label", kind="stable").head(MAX_EXAMPLES)
    judged = [args.config_path] if args.config_path else args.inputs
    title = f"Vanishing gradients: {', '.join(path.name for path in judged)}"
    page = render(title, findings, draw(args, frame, summary, gradients), examples.to_dict("records"))
    atomic_write_text(args.output_path / "report.html", page)
    print("\n".join(terminal_lines(findings)))
    extra = f", {SUPERVISED}" if supervised else ""
    print(f"report: {args.output_path / 'report.html'}; also inputs.csv, summary.json, pictures{extra}")
    return summary


def measure(args: argparse.Namespace, found: dict[str, Diagnosis]) -> list[dict[str, Any]]:
    """Gradients of some inputs of an extraction, for each diagnosed reward. Raises DiagnosisError."""
    from rft_diagnose import DiagnosisError

    path = args.inputs[0]
    if path.suffix != ".pt":
        raise DiagnosisError(
            f"{path}: --gradients needs the model: give --config_path, or an extraction's .pt"
        )
    from rl4lms.extraction_diagnosis import extraction_gradients

    number = min(args.gradients, len(next(iter(found.values())).labels))
    with progress(number, "gradients", unit="input") as bar:
        return extraction_gradients(
            path, found, args.reward, args.weights, args.kl_coef, args.reference, number, bar.move_to
        )


def draw(
    args: argparse.Namespace, frame: pd.DataFrame, summary: dict[str, Any], gradients: list[dict[str, Any]]
) -> list[Picture]:
    """Write the pictures and return them for the report."""
    from figures.style import save_figure
    from rft_diagnose.pictures import pictures
    from rft_diagnose.report import Picture

    runs = [{"path": str(path)} for path in args.inputs]
    drawn = []
    for stem, title, caption, figure, numbers in pictures(frame, summary, gradients):
        png = save_figure(figure, args.output_path / stem, numbers, runs)[0]
        drawn.append(Picture(title, png.read_bytes(), caption))
    return drawn


if __name__ == "__main__":
    sys.exit(main())

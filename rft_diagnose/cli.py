"""`rft-diagnose FILE ...`: which inputs carry no gradient, how sure that is, and what to do."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np

from rft_diagnose.advice import NAMES, Condition, ConditionError, advise, holds, parse_condition, read_value
from rft_diagnose.compare import Comparison, compare, relabelled
from rft_diagnose.diagnose import TOLERANCE, Diagnosis
from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.explorer import gather
from rft_diagnose.objective import ASSUMED, OBJECTIVES, Objective, make_objective
from rft_diagnose.results import input_columns, results_together, write_inputs, write_json, write_parts
from rft_diagnose.selection import SUPERVISED, add_row_arguments, parse_keep, select_rows
from rft_diagnose.tables import (
    Columns,
    RewardTable,
    diagnose_table,
    judge_table,
    read_rewards,
    targets,
)
from rft_diagnose.text_formats import PACKED
from rft_diagnose.words import Findings, terminal_lines
from rft_diagnose.write_report import EXPLORER, REPORT, choose_examples, name_noise, write_report

logger = logging.getLogger(__name__)
CONDITION_EXIT_CODE, UNDEFINED_EXIT_CODE = 3, 4
INTERRUPTED_EXIT_CODE = 130

Complete = Callable[[Path, RewardTable], RewardTable]  # adds to the rewards of a file what it does not have
# Gradients of some inputs: from the diagnoses by name a row an input and reward, and their summary.
Measure = Callable[[dict[str, Diagnosis]], tuple[list[dict[str, Any]], dict[str, Any] | None]]


def build_parser() -> argparse.ArgumentParser:
    """Build the flags of a check of tables."""
    parser = argparse.ArgumentParser(
        description="Says which inputs reinforcement finetuning will not learn from, how sure that is, and "
        "what to do. Exit status: 0 done, 2 input that cannot be used, 3 a --fail-if condition holds, 4 one "
        "is undefined (--undefined).",
        epilog="`sample FILE --url ...` in their place samples from where the model is served: `sample -h`.",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="rewards: CSV, TSV, JSON, JSON lines, npz, npy or parquet, a library's log, an hf:// path, or a "
        "folder",
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
        "--objective",
        metavar="NAME",
        help=f"what is optimised (as the log's kind tells, else grpo): {', '.join(OBJECTIVES)}",
    )
    judged.add_argument(
        "--scale_rewards",
        metavar="STD",
        help="of grpo and its kin, as in TRL: group (default), batch or none",
    )
    judged.add_argument(
        "--multi_objective_aggregation",
        metavar="HOW",
        help="of several rewards, as in TRL: sum_then_normalize (default) or normalize_then_sum",
    )
    judged.add_argument(
        "--last_steps", type=int, metavar="N", help="of a log pool the last N steps (each input's last visit)"
    )
    judged.add_argument(
        "--before", nargs="+", type=Path, metavar="FILE", help="rewards of the same inputs before training"
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
        "--undefined",
        choices=("pass", "fail"),
        help="what a --fail-if condition counts as whose value is undefined: not holding, or holding (exit "
        "status 4)",
    )
    add_row_arguments(parser)
    parser.add_argument(
        "--output_path",
        type=Path,
        metavar="DIR",
        help="of the results (outputs/diagnosis/<name of the input>)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read or sample, diagnose, write, say; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["sample"]:
        return sample_main(arguments[1:])
    parser = build_parser()
    args = parser.parse_args(arguments)
    if not args.inputs:
        parser.error("give files with rewards")
    if (args.kl is None) != (args.kl_coef is None):
        parser.error("--kl_coef goes together with --kl")
    try:
        conditions = [parse_condition(text) for text in args.fail_if]
        with _log_on_console():
            summary = check(args, args.inputs)
    except (DiagnosisError, ConditionError) as error:
        say(str(error), sys.stderr)
        return 2
    return exit_status(conditions, summary, args.undefined)


def sample_main(arguments: Sequence[str]) -> int:
    """Sample from an endpoint, then check as `main` does; return the exit status."""
    from rft_diagnose.sample_cli import add_arguments, check_arguments, sample_as_asked

    parser = build_parser()
    add_arguments(parser)
    args = parser.parse_args(arguments)
    check_arguments(parser, args)
    source = args.inputs[0]
    args.output_path = args.output_path or default_folder(source).with_name(f"{source.stem}_sampled")
    try:
        conditions = [parse_condition(text) for text in args.fail_if]
        with _log_on_console():
            sampled = sample_as_asked(args)
            summary = check(args, [sampled.table], judged=[source], complete=sampled.add_notes)
    except KeyboardInterrupt:
        say(f"interrupted: what was sampled is in {args.output_path}; the same command goes on", sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except (DiagnosisError, ConditionError) as error:
        say(str(error), sys.stderr)
        return 2
    return exit_status(conditions, summary, args.undefined)


@contextmanager
def _log_on_console() -> Iterator[None]:
    """Send log records of this package to stderr inside the block."""
    package, handler = logging.getLogger("rft_diagnose"), logging.StreamHandler()
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def exit_status(conditions: Sequence[Condition], summary: dict[str, Any], undefined: str | None) -> int:
    """Say which conditions hold or are undefined; 3 if one holds, else 4 if one is undefined, else 0.

    undefined: what an undefined one counts as instead, pass or fail.
    """
    statuses = set()
    for condition in conditions:
        value = read_value(condition.name, summary)
        if value is None:
            statuses.add({None: UNDEFINED_EXIT_CODE, "pass": 0, "fail": CONDITION_EXIT_CODE}[undefined])
            reason = why_undefined(condition, summary)
            print(f"--fail-if {condition}: {condition.name} is undefined here{reason}", file=sys.stderr)
        elif holds(condition, summary):
            statuses.add(CONDITION_EXIT_CODE)
            print(f"--fail-if {condition}: holds, it is {value:.4g}", file=sys.stderr)
    if UNDEFINED_EXIT_CODE in statuses:
        print("(--undefined pass or fail says what that counts as)", file=sys.stderr)
    return next((code for code in (CONDITION_EXIT_CODE, UNDEFINED_EXIT_CODE) if code in statuses), 0)


def why_undefined(condition: Condition, summary: dict[str, Any]) -> str:
    """Say why a condition's value is undefined, and what to take instead, where that is known."""
    if condition.name.startswith("dead"):
        needs = summary["dead_needs"]
        return f": no input has the {needs} generations it takes; take est_dead_low or no_spread_low"
    if condition.name == "est_dead_low":
        return f": {summary[condition.name]['reason']}"
    return ""


def default_folder(source: Path, reward_model: str | None = None) -> Path:
    """Name the folder of the results after what is diagnosed, and by which reward model."""
    name = Path(source.stem).stem if source.suffix in PACKED else source.stem
    return Path("outputs/diagnosis") / (f"{name}_by_{Path(reward_model).name}" if reward_model else name)


def read_and_diagnose(
    args: argparse.Namespace, paths: Sequence[Path], complete: Complete | None
) -> tuple[RewardTable, dict[str, Diagnosis]]:
    """Read the rewards in the files and diagnose them, first what is optimised. Raises DiagnosisError."""
    columns = Columns(args.prompt, tuple(args.reward), args.step, args.kl, args.references)
    table = read_rewards(paths, columns)
    if complete is not None:
        table = complete(paths[0], table)
    for note in table.notes:
        logger.info("%s", note)
    return table, diagnose_table(
        table,
        args.weights,
        args.kl_coef,
        tuple(args.range) if args.range else None,
        choose_objective(args, table.objective),
        tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
        group_size=args.group_size,
        last_steps=args.last_steps or table.pooled,
        repeated=args.last_steps is None and table.pooled is not None,
    )


def choose_objective(args: argparse.Namespace, of_log: Objective | None) -> Objective:
    """Choose what is optimised: as asked for, else as the log's kind tells. Raises DiagnosisError."""
    changes = (args.scale_rewards, args.multi_objective_aggregation)
    if args.objective is not None:
        return make_objective(args.objective, *changes)
    known = of_log or ASSUMED
    return known if changes == (None, None) else make_objective(known.name, *changes, known.source)


def check(
    args: argparse.Namespace,
    paths: Sequence[Path],
    *,
    judged: Sequence[Path] | None = None,
    complete: Complete | None = None,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Diagnose, write everything under --output_path, print one screen; return the summary.

    judged: what the report's title names, if not the files themselves. Raises DiagnosisError.
    """
    try:
        return _check(args, paths, judged or paths, complete, measure)
    except MemoryError as error:
        names = ", ".join(str(path) for path in paths)
        raise DiagnosisError(f"{names}: there is not enough memory for the diagnosis") from error


def _check(
    args: argparse.Namespace,
    paths: Sequence[Path],
    judged: Sequence[Path],
    complete: Complete | None,
    measure: Measure | None,
) -> dict[str, Any]:
    folder = args.output_path or default_folder(judged[0])
    keep = parse_keep(args)
    table, diagnoses = read_and_diagnose(args, paths, complete)
    (name, diagnosis), *rest = diagnoses.items()
    summary, others = diagnosis.summary, {other: part.summary for other, part in rest}
    before: Diagnosis | None = None
    comparison: Comparison | None = None
    if args.before:
        earlier, diagnoses_before = read_and_diagnose(args, args.before, complete)
        before = relabelled(next(iter(diagnoses_before.values())), earlier.labels)
        comparison = compare(before, relabelled(diagnosis, table.labels))
    gradients, gradient_summary = measure(diagnoses) if measure is not None else ([], None)
    teacher = judge_table(table)

    columns = input_columns(table, diagnosis, dict(rest), before, comparison, teacher)
    generations = gather(
        table,
        columns,
        diagnosis.labels.astype(np.int64),
        targets(list(table.rewards), args.weights, args.kl_coef)[0],
        args.last_steps or table.pooled,
        [*choose_examples(columns), *name_noise(columns)],
    )
    # What follows needs names and texts of inputs alone; the rewards of a large table take much memory.
    table = replace(table, codes=np.zeros(0, dtype=np.int64), rewards={}, steps=None, kl=None)
    selection = select_rows(args, keep, table, diagnosis)
    findings = Findings(
        name=name,
        summary=summary,
        others=others,
        comparison=comparison.summary if comparison else None,
        gradients=gradient_summary,
        teacher=teacher.summary if teacher else None,
        advice=advise(summary, others, SUPERVISED if SUPERVISED in selection.files else None),
        notes=[*table.notes, *diagnosis.caveats, *noise_notes(table, diagnosis), *selection.notes],
        warnings=table.warnings,
    )
    made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "command": _command()}
    sources = {"inputs": [str(path) for path in paths]}
    title = f"Vanishing gradients: {', '.join(path.name for path in judged)}"
    with results_together(folder) as staging:
        write_inputs(columns, staging / "inputs.csv")
        for file, rows in selection.files.items():
            write_parts(staging / file, (f"{row}\n" for row in rows))
        write_json(staging / "summary.json", {**made, **sources, **findings.content()})
        reported = write_report(staging, title, findings, columns, gradients, paths, generations)
    extra = "".join(f", {file}" for file in selection.files)
    if reported:
        last = f"report: {folder / REPORT}; also {EXPLORER}, inputs.csv, summary.json, pictures{extra}"
    else:
        last = f"results in {folder}: inputs.csv, summary.json{extra}"
    say("\n".join([*terminal_lines(findings), last]), sys.stdout)
    return summary


def noise_notes(table: RewardTable, diagnosis: Diagnosis) -> list[str]:
    """Name the inputs with noise groups."""
    labels = diagnosis.labels[diagnosis.noise_groups > 0].tolist()
    names = [f"{table.labels[label]:.60}" for label in labels]
    return [f"inputs with groups of noise (std below 5% of the median): {listed(names)}"] if names else []


def say(text: str, stream: TextIO) -> None:
    """Print to the terminal, what it cannot write as escapes."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def _command() -> str:
    program, *arguments = sys.argv
    called = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*called, *arguments])


def run() -> NoReturn:
    """Run `main` as a command: a closed pipe (`| head -1`) ends it quietly, a full disk in one line."""
    try:
        try:
            status: object = main()
        except SystemExit as end:
            status = end.code
        print(end="", flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python prints the rest when it exits
        if error.errno == errno.EPIPE:
            sys.exit(141)  # as a command that the signal ends
        print(f"cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    sys.exit(status)  # type: ignore[arg-type]


if __name__ == "__main__":
    run()

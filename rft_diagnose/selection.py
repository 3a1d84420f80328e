"""The rows to train on: dead-low inputs to finetune on, inputs to keep, as many at random as a control."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.classes import CLASSES, Inputs
from rft_diagnose.dataset_rows import DatasetRows, read_dataset
from rft_diagnose.diagnose import Diagnosis
from rft_diagnose.errors import DiagnosisError, hint
from rft_diagnose.reading import RewardTable, is_data, read_messages

SUPERVISED, KEPT, CONTROL = "dead_low.jsonl", "keep.jsonl", "control.jsonl"
Places = NDArray[np.intp]


@dataclass
class Selection:
    """Files of rows by name, as lines; notes: what the reader must know of them."""

    files: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Keep:
    """What is kept: inputs of these classes, or, without any, with a mean reward from low to high."""

    classes: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        names = ", ".join(name.replace("_", "-") for name in self.classes)
        return names or f"mean reward from {self.low:g} to {self.high:g}"

    def choose(self, inputs: Inputs) -> NDArray[np.bool_]:
        """Tell which inputs are kept, [N]."""
        if self.classes:
            return np.isin(inputs.label, self.classes)
        return (inputs.mean >= self.low) & (inputs.mean <= self.high)


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is written to train on."""
    rows = parser.add_argument_group("rows to train on")
    rows.add_argument(
        "--dataset",
        type=Path,
        metavar="FILE",
        help=f"your dataset: {SUPERVISED}, {KEPT} and {CONTROL} then have its rows, unchanged (JSON lines, "
        "JSON, CSV, TSV, parquet)",
    )
    rows.add_argument(
        "--join", metavar="NAME", help="its column of ids or prompts (the one that most inputs are in)"
    )
    rows.add_argument(
        "--keep",
        nargs="+",
        metavar="WHAT",
        help=f"write {KEPT}, the inputs with a mean reward from LOW to HIGH (two numbers) or of classes "
        f"({', '.join(CLASSES)}), and {CONTROL}, as many rows at random: train on both, since a filter "
        "without a control proves nothing",
    )
    rows.add_argument("--control_seed", type=int, default=0, metavar="N", help="of the random rows (0)")


def parse_keep(args: argparse.Namespace) -> Keep | None:
    """Read --keep. Raises DiagnosisError: it is no band of the mean, nor classes; or --join is alone."""
    if args.join is not None and args.dataset is None:
        raise DiagnosisError("--join names a column of --dataset: give that, too")
    if args.keep is None:
        return None
    text = " ".join(args.keep)
    unknown = [word for word in args.keep if word not in CLASSES]
    if not unknown:
        return Keep(classes=tuple(dict.fromkeys(args.keep)))
    try:
        low, high = map(float, args.keep)
    except ValueError as error:
        raise DiagnosisError(
            f"--keep {text}: expected the lowest and the highest mean reward, two numbers, or classes; "
            f"{hint(unknown[0], CLASSES)}known: {', '.join(CLASSES)}"
        ) from error
    if not low <= high:
        raise DiagnosisError(f"--keep {text}: the lowest mean reward comes first")
    return Keep(low=low, high=high)


def select_rows(
    args: argparse.Namespace, keep: Keep | None, table: RewardTable, diagnosis: Diagnosis
) -> Selection:
    """Choose the rows of each file, of --dataset or, without it, of the table. Raises DiagnosisError."""
    inputs, selection = diagnosis.inputs, Selection()
    dead = (inputs.label == "dead_low") | (inputs.looks == "flat_low")
    kept = None if keep is None else keep.choose(inputs)
    dataset: DatasetRows | None = None
    if args.dataset is not None:
        judged = diagnosis.labels.astype(np.int64)
        dataset = read_dataset(args.dataset, args.join, table, judged)
        selection.notes += dataset.notes
        owners = np.searchsorted(judged, dataset.owners)
        if rows := dataset.write(np.flatnonzero(dead[owners])):
            selection.files[SUPERVISED] = rows
    else:
        owners = np.arange(len(dead))
        rows, selection.notes = supervised_rows(table, diagnosis, np.flatnonzero(dead), SUPERVISED)
        if rows:
            selection.files[SUPERVISED] = rows
        if kept is not None and table.prompts is None:
            selection.notes.append(f"no {KEPT}: {table.no_prompts}; or give your --dataset")
            return selection
    if kept is None:
        return selection
    places = np.flatnonzero(kept[owners])
    if not len(places):
        selection.notes.append(f"no {KEPT}: no row is of what is to be kept ({keep})")
        return selection
    rng = np.random.default_rng(args.control_seed)
    control = np.sort(rng.choice(len(owners), len(places), replace=False))
    for name, chosen in ((KEPT, places), (CONTROL, control)):
        if dataset is not None:
            selection.files[name] = dataset.write(chosen)
        else:
            selection.files[name] = supervised_rows(table, diagnosis, chosen, name)[0]
    selection.notes.append(
        f"{KEPT}: {len(places):,} of {len(owners):,} rows ({keep}); {CONTROL}: as many of all of these at "
        f"random (seed {args.control_seed}). Train on both: what helps more than the control is the filter's "
        "doing"
    )
    return selection


def supervised_rows(
    table: RewardTable, diagnosis: Diagnosis, chosen: Places, name: str
) -> tuple[list[str], list[str]]:
    """Write inputs as JSON lines for finetuning, dead-low ones first. chosen: their places.

    A conversation is written as its messages. Without known references their field is missing; without known
    prompts there is no line. Also returns what the reader of the file `name` must know of it.
    """
    inputs = diagnosis.inputs
    if not len(chosen):
        return [], []
    if table.prompts is None:
        return [], [f"no {name} to finetune on: {table.no_prompts}"] if table.no_prompts else []
    lines, without, conversations, others = [], 0, 0, 0
    for i in sorted(chosen, key=lambda i: inputs.label[i] != "dead_low"):
        place = int(diagnosis.labels[i])
        messages = read_messages(table.prompts[place])
        conversations += messages is not None
        others += messages is None and is_data(table.prompts[place])
        row: dict[str, Any] = {"id": table.labels[place], "prompt": messages or table.prompts[place]}
        if table.references is not None:
            row["references"] = table.references[place]
            without += not row["references"]
        row |= {"class": str(inputs.label[i]), "reward_mean": float(inputs.mean[i]), "n": int(inputs.n[i])}
        lines.append(json.dumps(row, ensure_ascii=False))
    notes = []
    if conversations:
        notes.append(
            f"{conversations:,} prompts in {name} are conversations, written as lists of messages: where "
            "finetuning takes texts, write what the model is to see, with the chat template of its tokenizer"
        )
    if others:
        notes.append(
            f"{others:,} prompts in {name} are neither texts nor conversations (lists of role and content), "
            "but lists or objects as they stand in the table: write texts in their place"
        )
    if table.references is None and table.no_references:
        notes.append(f"{name} lacks the expected texts that finetuning on it needs: {table.no_references}")
    if without:
        notes.append(f"{without:,} inputs in {name} have no expected text")
    return lines, notes

"""What a diagnosis leaves on disk beside the report: a row per input, and the inputs to finetune on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.files import atomic_path
from rl4lms.diagnosis.compare import Comparison
from rl4lms.diagnosis.diagnose import Diagnosis
from rl4lms.diagnosis.tables import RewardTable

if TYPE_CHECKING:
    import pandas as pd


def input_frame(
    table: RewardTable,
    diagnosis: Diagnosis,
    others: dict[str, Diagnosis],
    before: Diagnosis | None,
    comparison: Comparison | None,
) -> pd.DataFrame:
    """A row per input: label, prompt where it is not the label, and its statistics (inputs.csv).

    Of the other rewards mean, std and class; of the inputs before, where there are some, too.
    """
    import pandas as pd

    labels = [table.labels[i] for i in diagnosis.labels]
    columns: dict[str, Any] = {"input": labels}
    if table.prompts is not None and table.prompts is not table.labels:
        columns["prompt"] = [table.prompts[i] for i in diagnosis.labels]
    columns |= diagnosis.inputs.columns()
    frame = pd.DataFrame(columns, index=diagnosis.labels)
    for name, other in others.items():
        part = pd.DataFrame(other.inputs.columns(), index=other.labels)[["mean", "std", "label"]]
        frame = frame.join(part.add_prefix(f"{name}: "))
    if before is not None and comparison is not None:
        old = pd.DataFrame(before.inputs.columns()).iloc[comparison.before][["mean", "std", "label"]]
        old = old.add_suffix("_before").assign(change=comparison.change)
        frame = frame.join(old.set_axis(diagnosis.labels[comparison.after], axis=0))
    return frame


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """The frame's columns as CSV, atomically; by Arrow, which takes a tenth of pandas' time."""
    import pyarrow as pa
    import pyarrow.csv

    with atomic_path(path) as temporary:
        pa.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), temporary)


def supervised_rows(table: RewardTable, diagnosis: Diagnosis) -> list[str]:
    """The inputs that are dead-low, or look so, as JSON lines for the datapool `jsonl`, dead ones first.

    Without known references their field is missing; without known prompts there is no line.
    """
    inputs = diagnosis.inputs
    chosen = np.flatnonzero((inputs.label == "dead_low") | (inputs.looks == "flat_low"))
    if table.prompts is None:
        return []
    lines = []
    for i in sorted(chosen, key=lambda i: inputs.label[i] != "dead_low"):
        place = int(diagnosis.labels[i])
        row: dict[str, Any] = {"id": table.labels[place], "prompt": table.prompts[place]}
        if table.references is not None:
            row["references"] = table.references[place]
        row |= {"class": str(inputs.label[i]), "reward_mean": float(inputs.mean[i]), "n": int(inputs.n[i])}
        lines.append(json.dumps(row, ensure_ascii=False))
    return lines

"""All that runs of trainings and extractions computed, to be equal however often they were cut."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from common.run_dir import find_runs

TIMINGS = ("seconds", "tokens_per_second")
BYTES = (".safetensors", ".csv")


def training_numbers(run: Path) -> dict[str, str]:
    """Name of a file in a training's run directory -> its content, or a hash of it; rows without timings.

    Of the checkpoints that of the end: a run that was stopped keeps the one it was stopped at beside it.
    """
    numbers = {}
    older = {path for folder in run.glob("*_checkpoints") for path in sorted(folder.glob("epoch_*"))[:-1]}
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path not in older):
        name = str(path.relative_to(run))
        assert not path.name.startswith(".tmp-"), path
        if path.suffix == ".jsonl":
            rows = map(json.loads, path.read_text().splitlines())
            numbers[name] = json.dumps([without_timings(row) for row in rows])
        elif path.suffix in BYTES:
            numbers[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix in (".pt", ".pth"):
            numbers[name] = content_of(torch.load(path, weights_only=path.suffix == ".pt"))
        elif path.suffix == ".png":
            numbers[name] = "there"
    return numbers


def extraction_numbers(run: Path) -> dict[str, str]:
    """What an extraction has left beside its run directory: the rewards and texts, the table, the figure."""
    stem = run.name
    files = {path.name.removeprefix(stem): path for path in run.parent.glob(f"{stem}?*") if path.is_file()}
    numbers = {name: "there" for name in files}
    content = torch.load(files[".pt"], weights_only=True)
    del content["config"]  # it names the folder of the model
    numbers[".pt"] = content_of(content)
    return numbers | {".csv": files[".csv"].read_text()}


def sweep_numbers(folder: Path) -> dict[str, Any]:
    """Name of an experiment -> the numbers of its one run, which must be finished; and the summary."""
    runs = find_runs(folder)
    assert {run.manifest["status"] for run in runs} == {"finished"}
    names = [run.manifest["experiment"] for run in runs]
    assert len(set(names)) == len(names), "one run each"
    numbers: dict[str, Any] = {
        name: extraction_numbers(run.path)
        if run.manifest["job"] == "extraction"
        else training_numbers(run.path)
        for name, run in zip(names, runs, strict=True)
    }
    (summary,) = folder.glob("*_summary.csv")
    rows = csv.DictReader(io.StringIO(summary.read_text()))
    return numbers | {"summary": [{k: v for k, v in row.items() if k != "runs"} for row in rows]}


def without_timings(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key.rpartition("/")[2] not in TIMINGS}


def content_of(state: Any) -> str:
    """A text of nested values, with hashes of the bytes of its tensors; NaN equals NaN."""
    if isinstance(state, torch.Tensor):
        data = state.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return f"{state.dtype} {tuple(state.shape)} {hashlib.sha256(data).hexdigest()}"
    if isinstance(state, dict):
        return str({str(key): content_of(value) for key, value in state.items()})
    if isinstance(state, list | tuple):
        return str([content_of(value) for value in state])
    return repr(state)

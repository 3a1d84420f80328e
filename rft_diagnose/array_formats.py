"""Arrays of numpy: npz of columns, npz and npy of a matrix of rewards."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.columns import Choose, Part, Wanted, collect, reject_repeated
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.layouts import REWARDS
from rft_diagnose.logs import Log


def read_npz(path: Path, where: str, choose: Choose) -> Part:
    """Read arrays of M numbers or texts; or of [N, G], beside which arrays of N have a value a row."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kinds = {name: _array_header(file, name) for name in file.files}
            names = list(kinds)
            # Rows have no names: their places have to do.
            shapes: list[tuple[int, ...]] = [shape for shape, _ in kinds.values()]
            matrix = next((shape for shape in shapes if len(shape) == 2), None)
            if matrix is not None and "prompt" not in kinds and "prompt_id" not in kinds:
                kinds["prompt_id"] = (matrix[:1], "i")
            wanted = choose(list(kinds), lambda name: kinds[name][1] in "iuf", _matrix_alone(kinds))
            reject_repeated(names, wanted, where)
            loaded = {
                name: file[name] if name in names else np.arange(kinds[name][0][0])
                for name in kinds
                if name in wanted.names
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DiagnosisError(f"{where} cannot be read: {error}") from error
    shape: tuple[int, ...] = max((array.shape for array in loaded.values()), key=len, default=())
    if len(shape) == 2:
        rows = {
            name: np.repeat(array, shape[1]) if array.shape == shape[:1] else array
            for name, array in loaded.items()
        }
        loaded = {name: array.ravel() if array.shape == shape else array for name, array in rows.items()}
    sizes = {name: list(array.shape) for name, array in loaded.items()}
    if len({tuple(size) for size in sizes.values()}) > 1 or any(len(size) != 1 for size in sizes.values()):
        text = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DiagnosisError(f"{where}: arrays must have one length, or [inputs, generations]: {text}")
    # Floating-point numbers stay an array; the other columns are taken as those of rows are.
    floats = {name: loaded[name].astype(float) for name in wanted.values if loaded[name].dtype.kind == "f"}
    columns = {name: array.tolist() for name, array in loaded.items() if name not in floats}
    rest = replace(wanted, values=tuple(name for name in wanted.values if name not in floats))
    length = next(iter(loaded.values())).shape[0] if loaded else 0
    part = collect(range(length), rest, lambda name: columns[name].__getitem__)
    part.values.update(floats)
    return part


def _matrix_alone(kinds: dict[str, tuple[tuple[int, ...], str]]) -> Log | None:
    """The only matrix of numbers has the rewards, whatever its name."""
    names = [name for name, (shape, kind) in kinds.items() if len(shape) == 2 and kind in "iufb"]
    if len(names) != 1 or any(map(REWARDS.fullmatch, kinds)):
        return None
    return Log(rewards=tuple(names))


def _array_header(file: Any, name: str) -> tuple[tuple[int, ...], str]:
    """Read an array's shape and kind of values, and not the array: it may be an unused one of any kind."""
    stored = next(entry for entry in file.zip.namelist() if entry.removesuffix(".npy") == name)
    with file.zip.open(stored) as entry:
        version = np.lib.format.read_magic(entry)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(entry)
    return shape, dtype.kind


def read_npy(path: Path, where: str, choose: Choose) -> Part:
    """Read an array of rewards [inputs, generations]; an input is named by its row."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DiagnosisError(f"{where} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "iufb":
        shape = list(getattr(array, "shape", []))
        raise DiagnosisError(f"{where}: expected rewards [inputs, generations], got an array {shape}")
    choose(["prompt_id", "reward"], lambda name: True, Log(prompt="prompt_id", rewards=("reward",)))
    places = np.repeat(np.arange(len(array)), array.shape[1])
    part = collect(places.tolist(), Wanted(texts=("prompt_id",)), lambda name: lambda row: row)
    part.values["reward"] = array.astype(float).ravel()
    return part

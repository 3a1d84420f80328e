"""Checkpoint files: `epoch_<number>.pt`, dicts of tensors and plain values."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from common.files import RunError

_CHECKPOINT = re.compile(r"epoch_(\d+)\.pt")


class CheckpointError(RunError):
    """A checkpoint that is missing or cannot be read."""


def checkpoint_name(epoch: int) -> str:
    """The file name of the checkpoint after `epoch`."""
    return f"epoch_{epoch:06d}.pt"


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dict in a checkpoint file, read with weights_only=True.

    Raises CheckpointError if the file is missing, damaged (every checksum in it is verified) or no such
    checkpoint; of a run's checkpoint, the message names the older one to use.
    """
    import pickle

    import torch

    path = Path(path)
    if not path.is_file():
        others = ", ".join(p.name for p in checkpoints_in(path.parent))
        raise CheckpointError(f"no checkpoint {path}" + (f"; its folder holds: {others}" if others else ""))
    if damage := archive_damage(path):
        raise CheckpointError(f"corrupt checkpoint {path}: {damage}{_older_hint(path)}")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line), str(error)).strip()
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, not loaded: {reason}"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        if "PytorchStreamReader" in reason:
            raise CheckpointError(f"corrupt checkpoint {path}: {reason}{_older_hint(path)}") from None
        raise CheckpointError(f"{path} cannot be loaded: {reason}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is no checkpoint: it holds a {type(state).__name__}, not a dict")
    return state


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest epoch first."""
    found = [
        (int(match[1]), p) for p in directory.glob("epoch_*.pt") if (match := _CHECKPOINT.fullmatch(p.name))
    ]
    return [path for _, path in sorted(found)]


def archive_damage(path: Path) -> str | None:
    """What is wrong with an archive that torch.save wrote (torch.load does not verify its checksums)."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
        except Exception as error:  # zipfile answers damage with errors of many kinds.
            return f"cut off, overwritten, or not written by torch.save ({size} bytes; {error})"
    return None if bad is None else f"wrong checksum of {bad}"


def _older_hint(path: Path) -> str:
    """What to do about the damaged checkpoint `path`, if it is one of a run's."""
    siblings = checkpoints_in(path.parent)
    if path not in siblings:
        return ""
    older = siblings[: siblings.index(path)]
    intact = next((p for p in reversed(older) if archive_damage(p) is None), None)
    if intact is None:
        return ". There is no intact older checkpoint beside it: run that experiment anew"
    return f". {intact} is older and intact: delete the corrupt file to continue from there"

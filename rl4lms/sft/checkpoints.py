"""Checkpoints of transformers.Trainer: folders `checkpoint-<step>` that are there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from common.files import sync
from common.run_dir import CheckpointError, archive_damage

STATE = "trainer_state.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")
_ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest step first."""
    checkpoints = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := _FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(checkpoints)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from, None if there is none.

    Raises CheckpointError: the newest is damaged; the message names the older one to use.
    """
    checkpoints = checkpoints_in(folder)
    if not checkpoints or (damage := find_damage(checkpoints[-1])) is None:
        return checkpoints[-1] if checkpoints else None
    intact = next((path for path in reversed(checkpoints[:-1]) if find_damage(path) is None), None)
    advice = (
        "There is no intact older checkpoint beside it: delete its folder to begin again from the start"
        if intact is None
        else f"{intact} is older and intact: delete the corrupt folder to continue from there"
    )
    raise CheckpointError(f"corrupt checkpoint {checkpoints[-1]}: {damage}. {advice}")


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing."""
    from safetensors import SafetensorError, safe_open

    try:
        read_state(checkpoint)
    except CheckpointError as error:
        return str(error)
    for pattern in _ARCHIVES:
        files = sorted(checkpoint.glob(pattern))
        if not files:
            return f"{pattern} is missing"
        for file in files:
            if damage := archive_damage(file):
                return f"{file.name}: {damage}"
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        return "model.safetensors is missing"
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name}: {error}"
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What the Trainer recorded: "global_step", "epoch", "max_steps". Raises CheckpointError."""
    try:
        state = json.loads((checkpoint / STATE).read_bytes())
        if {"global_step", "epoch", "max_steps"} <= state.keys():
            return state
        reason = "no steps in it"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise CheckpointError(f"{STATE} cannot be read: {reason}")


def move_into_place(written: Path, folder: Path) -> Path:
    """Give a checkpoint that is completely written its place in `folder`, unless that step has one."""
    final = folder / written.name
    if final.exists():
        shutil.rmtree(written)
        return final
    for path in [*written.rglob("*"), written]:
        sync(path)
    os.replace(written, final)
    sync(folder)
    return final


def delete_older(folder: Path, keep: int | None) -> None:
    """Delete all but the newest `keep` checkpoints, the oldest first; None keeps all."""
    if keep is not None:
        checkpoints = checkpoints_in(folder)
        for path in checkpoints[: max(0, len(checkpoints) - max(1, keep))]:
            shutil.rmtree(path)

"""Checkpoints of transformers.Trainer: folders `checkpoint-<step>` that are there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import sync
from common.run_dir import CheckpointError, archive_damage, fitting, load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


def check_fit(checkpoint: Path, model: PreTrainedModel) -> None:
    """Raises CheckpointError: weights or optimizer are not of this model (the Trainer would warn at most)."""
    from safetensors import safe_open

    from rl4lms.model.lora import adapter_file, has_adapter

    saved: dict[str, list[int]] = {}
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            saved |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}
    state, named = model.state_dict(keep_vars=True), dict(model.named_parameters())
    if has_adapter(model):
        state = named = adapter_file(model)
    with fitting(checkpoint):
        for name, shape in saved.items():
            if name not in state or list(state[name].shape) != shape:
                wanted = f"must be {list(state[name].shape)}" if name in state else "which the model lacks"
                raise ValueError(f"it has {name} of {shape}, {wanted}")
        # Tied weights are saved once.
        known = {state[name].data_ptr() for name in saved}
        if lacking := [name for name, weight in named.items() if weight.data_ptr() not in known]:
            raise ValueError(f"it lacks {len(lacking)} weights of the model ({lacking[0]}, ...)")
        _check_moments(checkpoint / "optimizer.pt", model)


def _check_moments(file: Path, model: PreTrainedModel) -> None:
    """Raises ValueError: Adam's moments are of other weights; other optimizers load_state_dict compares."""
    state = load_checkpoint(file)["state"].values()
    moments = [list(values["exp_avg"].shape) for values in state if "exp_avg" in values]
    shapes = [list(parameter.shape) for parameter in model.parameters() if parameter.requires_grad]
    if moments and sorted(moments) != sorted(shapes):
        raise ValueError(f"{file.name} is of {len(moments)} weights of other shapes than the model's")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What the Trainer recorded: "global_step", "epoch", "max_steps". Raises CheckpointError."""
    try:
        state = json.loads((checkpoint / STATE).read_bytes())
        kinds = {"global_step": int, "epoch": int | float, "max_steps": int}
        if all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
            return state
        reason = "no steps in it"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
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


def delete_older(folder: Path, keep: int | None, best: Path | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and the `best`, the oldest first; None keeps all."""
    if keep is not None:
        checkpoints = checkpoints_in(folder)
        for path in checkpoints[: max(0, len(checkpoints) - max(1, keep))]:
            if path != best:
                shutil.rmtree(path)

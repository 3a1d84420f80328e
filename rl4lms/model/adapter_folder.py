"""Folders that hold an adapter alone (LoRA), as peft writes them, read without importing anything heavy."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HEAD = "score"  # of reward models
_INSTALL = "pip install 'peft>=0.18'"


def peft_problem() -> str | None:
    """Tell that LoRA cannot be used here, for want of peft; None if it can."""
    if importlib.util.find_spec("peft") is not None:
        return None
    return f"needs the package peft, which is not installed: {_INSTALL}"


def read_object(file: Path) -> dict[str, Any] | str:
    """Read a file of a model that holds a JSON object; else what is wrong with it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        return f"{file} cannot be read: {reason}"
    if isinstance(content, dict):
        return content
    return (
        f"{file} must hold a JSON object, holds {content!r:.60}; "
        "write the folder anew with save_pretrained(folder)"
    )


def holds_adapter(name: str) -> bool:
    """Whether `name` is a folder with an adapter and without the weights of a whole model."""
    folder = Path(name).expanduser()
    return (folder / ADAPTER).is_file() and not any((folder / file).is_file() for file in WEIGHTS)


def adapter_base(name: str) -> str | None:
    """The model, hub name or folder, whose adapter the folder `name` holds; None if it holds none.

    A folder that is named relatively is looked for from here, and from the adapter's folder.
    """
    if not holds_adapter(name):
        return None
    folder = Path(name).expanduser()
    config = read_object(folder / ADAPTER)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        return None
    beside = folder / base
    return str(beside) if not Path(base).expanduser().is_dir() and beside.is_dir() else base


def scores_texts(name: str) -> bool:
    """Whether the folder `name` holds the adapter of a sequence classifier."""
    config = read_object(Path(name).expanduser() / ADAPTER) if holds_adapter(name) else {}
    return isinstance(config, dict) and config.get("task_type") == "SEQ_CLS"


def read_model_config(name: str) -> dict[str, Any] | None:
    """The config.json of the model in a folder, of an adapter's its base's; None if it is not here.

    The base of a classifier's adapter is a language model, which the adapter makes one with one output.
    """
    file = Path(name).expanduser() / "config.json"
    if file.is_file():
        content = read_object(file)
        return content if isinstance(content, dict) else None
    base = adapter_base(name)
    config = None if base is None or holds_adapter(base) else read_model_config(base)
    if not scores_texts(name):
        return config
    kept = {key: value for key, value in (config or {}).items() if key not in ("id2label", "label2id")}
    return kept | {"architectures": ["AdapterForSequenceClassification"], "num_labels": 1}


def adapter_problem(name: str, loader: str) -> str | None:
    """Why the adapter in the folder `name` cannot be read, whatever its base; None if it can.

    loader: the class of peft that loads it.
    """
    config = read_object(Path(name).expanduser() / ADAPTER)
    if isinstance(config, str):
        return config
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        return (
            f"folder {name!r} holds an adapter that does not say of which model: set base_model_name_or_path "
            f"in its {ADAPTER}"
        )
    if config.get("peft_type") != "LORA" or _trains_more(config):
        return (
            f"folder {name!r} holds an adapter of {base!r} that is more than LoRA, or something else: merge "
            f"it and name the result: peft.{loader}.from_pretrained({name!r}).merge_and_unload()"
            ".save_pretrained(FOLDER), and save the tokenizer there too"
        )
    if not (Path(name).expanduser() / ADAPTER_WEIGHTS).is_file():
        return (
            f"folder {name!r} holds no weights of its adapter ({ADAPTER_WEIGHTS}): write them with "
            "save_pretrained(folder), or copy the missing file"
        )
    if problem := peft_problem():
        return f"folder {name!r} holds an adapter (LoRA) of {base!r}; loading it {problem}"
    return None


def _trains_more(config: dict[str, Any]) -> bool:
    """Whether an adapter has whole layers, biases or tokens of its own, other than the head of a scorer."""
    layers = set(config.get("modules_to_save") or ())
    others = (config.get(name) for name in ("trainable_token_indices", "target_parameters", "lora_bias"))
    return bool(layers - {HEAD}) or config.get("bias", "none") != "none" or any(others)

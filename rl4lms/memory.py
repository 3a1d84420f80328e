"""What a training takes in memory and on disk, by calculation."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from rl4lms.config import NlpoConfig, SupervisedConfig, TrainConfig
from rl4lms.model_source import Kind

_FLOAT = 4  # bytes; weights are float32, with bfloat16 autocast too
_ADAM = 2  # numbers that AdamW keeps for each weight


def count_parameters(model_name: str, kind: Kind) -> int:
    """The weights of a model of a hub name or folder, tied ones once; only its config.json is read."""
    folder = Path(model_name).expanduser()
    config = AutoConfig.from_pretrained(folder if folder.is_dir() else model_name)
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def memory_lines(config: TrainConfig, parameters: int) -> list[str]:
    """What a process holds besides activations, and the size of a checkpoint.

    A trained model: weights, gradients, two numbers of AdamW each; a frozen one: weights.
    """
    if isinstance(config.alg, SupervisedConfig):
        trained, frozen = ["model"], []
    else:
        trained = ["policy", "value model"]
        frozen = ["reference", *(["mask model"] if isinstance(config.alg, NlpoConfig) else [])]
    weight = parameters * _FLOAT
    held = len(trained) * (2 + _ADAM) * weight + len(frozen) * weight
    saved = len(trained) * (1 + _ADAM) * weight + ("mask model" in frozen) * weight
    parts = [f"{name} (weights, gradients, AdamW)" for name in trained] + frozen
    return [
        f"memory: {gigabytes(held)} a process without activations, of {parameters:,} weights each: "
        + ", ".join(parts),
        f"a checkpoint: {gigabytes(saved)}; while one is written, the one before it is there too",
    ]


def gigabytes(size: int) -> str:
    """Bytes in GB, or MB for less than a tenth of one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"

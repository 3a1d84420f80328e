"""What a training holds in memory and in a checkpoint, known before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from rl4lms.config import (
    GroupConfig,
    NlpoConfig,
    OnPolicyConfig,
    RewardModelConfig,
    SupervisedConfig,
    TrainConfig,
)
from rl4lms.model.adapter_folder import adapter_base
from rl4lms.model.lora import count_adapter, count_saved_adapter, has_adapter
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.source import Kind

_BYTES = {"float32": 4, "bfloat16": 2}  # of a weight, its gradient and AdamW's numbers
_ADAM = 2  # numbers that AdamW keeps for each weight


@dataclass(frozen=True)
class Sizes:
    """The weights of a model, tied ones once, and those of its adapter: None = all weights are trained."""

    weights: int
    adapter: int | None = None


def count_weights(model_name: str, kind: Kind, lora: LoraSettings | None = None) -> Sizes:
    """Count the weights of a model of a hub name or folder; only its config.json is read."""
    base = adapter_base(model_name) or model_name
    folder = Path(base).expanduser()
    config = AutoConfig.from_pretrained(folder if folder.is_dir() else base)
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    if lora is None:
        return Sizes(weights)
    is_saved = base != model_name
    return Sizes(weights, count_saved_adapter(model_name) if is_saved else count_adapter(model, lora))


def sizes_of(model: nn.Module) -> Sizes:
    """Count the weights of a model that is loaded; a head that is trained is the adapter's."""
    weights = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Sizes(weights - trained, trained) if has_adapter(model) else Sizes(weights)


def memory_lines(config: TrainConfig, sizes: Sizes, of_value_model: Sizes | None = None) -> list[str]:
    """What a process holds besides activations, and the size of a checkpoint.

    of_value_model: None = it is of the policy's. A trained model: weights, gradients, two numbers of AdamW
    each; a frozen one: weights. With adapters these are an adapter's, beside one model that is frozen.
    """
    trained, frozen = _roles(config)
    dtype = config.runtime.weights
    size = _BYTES[dtype]  # of a frozen weight, and without adapters of all
    weights, backbones = sizes.weights, 0
    if sizes.adapter is not None:
        weights, backbones, size = sizes.adapter, sizes.weights * size, _BYTES["float32"]
    more = 0
    if of_value_model is not None:
        more = (of_value_model.adapter or of_value_model.weights) - weights
        backbones += 0 if of_value_model.adapter is None else of_value_model.weights * _BYTES[dtype]
    held = (len(trained) * weights + more) * (2 + _ADAM) + len(frozen) * weights
    saved = (len(trained) * weights + more) * (1 + _ADAM)
    saved += len({"mask model", "average"} & set(frozen)) * weights
    parts = [f"{name} (weights, gradients, AdamW)" for name in trained] + frozen
    each = f"{weights:,} weights each"
    if sizes.adapter is not None:
        each = f"{sizes.weights:,} weights, frozen and shared, and adapters of {weights:,} each"
    if of_value_model is not None:
        each += f" (the value model {of_value_model.weights:,})"
    if dtype != "float32":
        each += f", {dtype}" if sizes.adapter is None else f", the frozen ones {dtype}, adapters float32"
    return [
        f"memory: {gigabytes(held * size + backbones)} a process without activations, of {each}: "
        + ", ".join(parts),
        f"a checkpoint: {gigabytes(saved * size)}; while one is written, the one before it is there too",
    ]


def _roles(config: TrainConfig) -> tuple[list[str], list[str]]:
    """What is trained, and what is kept beside it as it was."""
    alg = config.alg
    if isinstance(alg, SupervisedConfig | RewardModelConfig):
        return ["model"], []
    if isinstance(alg, GroupConfig):
        return ["policy"], ["reference"] if alg.needs_reference else []
    trained, frozen = ["policy", "value model"], ["reference"]
    if alg.lora is not None and alg.lora.value_model == "shared":
        trained = ["policy with value head"]
    if isinstance(alg, NlpoConfig):
        frozen.append("mask model")
    if isinstance(alg, OnPolicyConfig) and alg.args.ema_decay is not None:
        frozen.append("average")
    return trained, frozen


def gigabytes(size: int) -> str:
    """Bytes in GB, or MB for less than a tenth of one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"

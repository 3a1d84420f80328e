"""LoRA (Hu et al. 2022): adapters in a language model's linear layers, which alone are trained.

A model with an adapter is still a transformers model; its copies share the frozen weights of one backbone and
have adapters of their own, so that policy, value model and reference are one model in memory, and none has to
switch anything on or off for another. Made and read by peft, which is imported only where it is needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from common.seeding import derive_seed, isolated_rng
from rl4lms.model.adapter_folder import ADAPTER, ADAPTER_WEIGHTS, HEAD, adapter_base
from rl4lms.model.lora_config import ALL_LINEAR, LoraSettings
from rl4lms.model.source import ModelSourceError

Task = Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "FEATURE_EXTRACTION"]
_NAME = "default"  # of the adapter in its layers
_MARK = "lora_"  # in the names of its weights
_PREFIX = "base_model.model."  # of names in the files of peft
_HEAD_WEIGHT = f"{HEAD}.weight"


def has_adapter(model: nn.Module) -> bool:
    """Whether any layer has an adapter."""
    return any(_MARK in name for name, _ in model.named_parameters())


def add_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int, task: Task | None = None) -> None:
    """Freeze the model and put a new adapter into it, which changes nothing yet.

    seed: of its A. task: None = a language model's. Raises ModelSourceError: no such linear layers.
    """
    from peft import LoraConfig

    targets = _choose_layers(model, settings)
    names = sorted({name.rpartition(".")[2] for name in targets} if _all(settings) else targets)
    options: dict[str, Any] = {
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": names,
        "fan_in_fan_out": isinstance(model.get_submodule(targets[0]), Conv1D),
        "base_model_name_or_path": model.name_or_path,
        "task_type": task or ("SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"),
    }
    with isolated_rng(derive_seed(seed, "LoRA")):
        _inject(model, LoraConfig(**options))


def count_adapter(model: PreTrainedModel, settings: LoraSettings) -> int:
    """Count the weights of the adapter that `add_adapter` would put into a model."""
    layers = [model.get_submodule(name) for name in _choose_layers(model, settings)]
    return sum(settings.r * sum(layer.weight.shape) for layer in layers)


def count_saved_adapter(name: str) -> int:
    """Count the weights of the adapter in the folder `name`."""
    with safe_open(Path(name).expanduser() / ADAPTER_WEIGHTS, framework="pt") as weights:
        return sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())


def _all(settings: LoraSettings) -> bool:
    return settings.target_modules == ALL_LINEAR


def _choose_layers(model: PreTrainedModel, settings: LoraSettings) -> list[str]:
    """List the names of the linear layers that get an adapter. Raises ModelSourceError."""
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name != HEAD
    ]
    if _all(settings):
        return linear
    wanted = settings.target_modules
    missing = [end for end in wanted if not any(_ends(name, end) for name in linear)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ModelSourceError(
            f"lora.target_modules: model {model.name_or_path!r} ({model.config.model_type}) has no linear "
            f"layer {missing[0]!r}; it has {', '.join(known)}"
        )
    return [name for name in linear if any(_ends(name, end) for end in wanted)]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _inject(model: PreTrainedModel, config: Any) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, _NAME)
    for name, weight in model.named_parameters():
        weight.requires_grad_(_MARK in name or name == _HEAD_WEIGHT)
        if weight.requires_grad:
            weight.data = weight.data.float()  # beside weights of any type: their steps are small


def load_adapter(model: PreTrainedModel, name: str, optional: Sequence[str] = ()) -> None:
    """Freeze the model and put the adapter in the folder `name` into it, with the head of a scorer, if any.

    optional: weights that the folder need not have. Raises ModelSourceError: it is of another model.
    """
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(Path(name).expanduser()))
    config.modules_to_save, config.inference_mode = None, False
    config.base_model_name_or_path = adapter_base(name)
    try:
        _inject(model, config)
        load_adapter_weights(model, Path(name).expanduser(), optional)
    except (ValueError, RuntimeError) as error:
        raise ModelSourceError(
            f"the adapter in folder {name!r} does not fit {config.base_model_name_or_path!r}, which it says "
            f"that it was made from: {error}"
        ) from error


def load_adapter_weights(model: PreTrainedModel, folder: Path, optional: Sequence[str] = ()) -> None:
    """Take over the weights of an adapter's file, as peft writes it. Raises ValueError: of other layers."""
    mine, saved = adapter_file(model), load_file(folder / ADAPTER_WEIGHTS)
    weights = {_fit(name, model, mine): tensor for name, tensor in saved.items()}
    lacking = mine.keys() - weights.keys() - {_PREFIX + name for name in optional}
    strange, missing = sorted(weights.keys() - mine.keys()), sorted(lacking)
    if strange or missing:
        what = f"it has {strange[0]}" if strange else f"it lacks {missing[0]}"
        raise ValueError(f"{what} ({len(strange)} weights too many, {len(missing)} too few)")
    with torch.no_grad():
        for name, tensor in weights.items():
            if mine[name].shape != tensor.shape:
                raise ValueError(f"{name} is {list(tensor.shape)}, must be {list(mine[name].shape)}")
            mine[name].copy_(tensor)


def _fit(name: str, model: PreTrainedModel, mine: dict[str, Tensor]) -> str:
    """Find a weight of a language model in a model without its unembedding, or the other way round."""
    rest, inner = name.removeprefix(_PREFIX), f"{model.base_model_prefix}."
    names = [_PREFIX + other for other in (rest, rest.removeprefix(inner), inner + rest)]
    return next((other for other in names if other in mine), name)


def adapter_file(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the adapter, and of a scorer's head, by their names in a file as peft writes it."""
    return {
        _PREFIX + name.replace(f".{_NAME}.", ".").removesuffix(f".{_NAME}"): weight
        for name, weight in model.named_parameters()
        if _MARK in name or name == _HEAD_WEIGHT
    }


def save_adapter(folder: Path, model: PreTrainedModel) -> None:
    """Write a folder that plain peft loads: the adapter, and the head of a scorer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(model.peft_config[_NAME])
    weights = {name: weight.detach().cpu() for name, weight in adapter_file(model).items()}
    base = Path(config.base_model_name_or_path).expanduser()
    if base.is_dir():  # so that it is found from wherever it is loaded
        config.base_model_name_or_path = str(base.absolute())
    config.modules_to_save = [HEAD] if _PREFIX + _HEAD_WEIGHT in weights else None
    config.inference_mode = True
    if config.modules_to_save:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)  # which has the reward's normalisation
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    content = config.to_dict()
    content["target_modules"] = sorted(content["target_modules"])
    (folder / ADAPTER).write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def copy_model(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model; with an adapter only that is copied, and the frozen weights are shared."""
    shared: dict[int, Any] = {}
    if has_adapter(model):
        shared = {id(weight): weight for name, weight in model.named_parameters() if _MARK not in name}
    return copy.deepcopy(model, shared)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model as it is now, not to be trained."""
    return copy_model(model).requires_grad_(False)


def reference_of(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the start of a policy, not to be trained; an adapter that changes nothing yet is switched off."""
    reference = frozen_copy(model)
    if not any(weight.any() for name, weight in reference.named_parameters() if f"{_MARK}B" in name):
        for layer in _layers(reference):
            layer.enable_adapters(False)
    return reference


def _layers(model: nn.Module) -> list[Any]:
    """The layers with an adapter."""
    if not has_adapter(model):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapter to the weights that it stands beside, in place; returns the model, a plain one."""
    layers = set(_layers(model))
    for layer in layers:
        layer.merge()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child in layers:
                setattr(module, name, child.get_base_layer())
    if layers:
        del model.peft_config
    return model.requires_grad_(True)


def to_save(model: PreTrainedModel, settings: LoraSettings | None) -> PreTrainedModel:
    """What is left of a training: the model, or with `merge` a copy, backbone and all, without an adapter."""
    if settings is None or not settings.merge or not has_adapter(model):
        return model
    return merge_adapter(copy.deepcopy(model))


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: all of it, or with an adapter that and heads, not the backbone."""
    state = model.state_dict()
    if not has_adapter(model):
        return state
    kept = {name for name, weight in model.named_parameters() if _MARK in name or weight.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in kept}


def load_trained_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Become what `trained_state` of such a model was. Raises RuntimeError: of another model."""
    wanted = trained_state(model).keys()
    if has_adapter(model) and state.keys() != wanted:
        lacking, strange = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
        what = f"lacks {lacking[0]}" if lacking else f"has {strange[0]}"
        raise RuntimeError(f"it is of another model or adapter: it {what}")
    model.load_state_dict(state, strict=not has_adapter(model))

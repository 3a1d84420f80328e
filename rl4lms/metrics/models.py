"""Loading the models that score texts, and reading texts into them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from rl4lms.model.reward_model import ChatTemplate, RewardModel
from rl4lms.model.source import ModelSourceError
from rl4lms.requirements import RequirementError, model_problem, require

# Their position table starts behind the padding index.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")


@cache  # a reward and a metric may use the same model
def load_classifier(name: str, device: str) -> tuple[Any, Any]:
    """A sequence classifier in evaluation mode, and its tokenizer, which cuts from the left.

    Raises RequirementError if it cannot be had or is no trained classifier.
    """
    model, tokenizer = _load(name, device, AutoModelForSequenceClassification, truncation_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


@cache
def load_encoder(name: str, num_layers: int, device: str) -> tuple[Any, Any]:
    """The first layers of a text encoder in evaluation mode, and its tokenizer. Raises RequirementError."""
    return _load(name, device, AutoModel, truncation_side="right", num_hidden_layers=num_layers)


@cache
def load_reward_model(name: str, device: str, chat_template: ChatTemplate) -> RewardModel:
    """The reward model of a hub name or folder. Raises RequirementError if it is none, or cannot be had."""
    require(model_problem(name))
    try:
        return RewardModel.load(name, resolve_device(device), chat_template)
    except ModelSourceError as error:
        raise RequirementError(str(error)) from error


def _load(name: str, device: str, kind: Any, truncation_side: str, **config: Any) -> tuple[Any, Any]:
    require(model_problem(name))
    # Else transformers asks the hub, from a thread, to convert weights that it holds in the old format only.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    folder = Path(name).expanduser()
    source = folder if folder.is_dir() else name
    try:
        with _quiet_transformers():
            # Padded on the right: encoders count positions from the left end.
            tokenizer = AutoTokenizer.from_pretrained(
                source, truncation_side=truncation_side, padding_side="right"
            )
            model, info = kind.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **config
            )
    except (OSError, ValueError, KeyError) as error:
        raise RequirementError(f"model {name!r} cannot be loaded by {kind.__name__}: {error}") from error
    random = sorted(key for key in info["missing_keys"] if "pooler" not in key or kind is not AutoModel)
    if random:
        raise RequirementError(
            f"model {name!r} was not trained for this use: its weights lack {', '.join(random[:3])}"
        )
    return model.eval().to(resolve_device(device)), tokenizer


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps back the reports of weights that are left out on purpose: the layers above those asked for."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def token_rows(texts: list[str], model: Any, tokenizer: Any) -> list[list[int]]:
    """The token ids of each text, special ones included, cut to what the model reads; never none at all."""
    rows = tokenizer(texts, truncation=True, max_length=_max_length(model, tokenizer))["input_ids"]
    filler = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return [row or [filler] for row in rows]


def _max_length(model: Any, tokenizer: Any) -> int:
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length))


def run_by_length(
    rows: list[list[int]], model: Any, tokenizer: Any, batch_size: int, run: Callable[[Any], Tensor]
) -> list[Tensor]:
    """What `run` returns for each row, on the CPU; rows of similar length run together.

    run: from a padded batch {"input_ids", "attention_mask"} [B, T] on the model's device to [B, ...].
    """
    results: dict[int, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        padded = tokenizer.pad({"input_ids": [rows[i] for i in indices]}, return_tensors="pt")
        with torch.inference_mode():
            results |= zip(indices, run(padded.to(model.device)).cpu(), strict=True)
    return [results[i] for i in range(len(rows))]

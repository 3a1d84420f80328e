"""What tests of LoRA share: where they can run, and adapters as if they had been trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from rl4lms.model.load import load_model, load_tokenizer, save_model_folder
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.source import Kind

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def shake(model: nn.Module, scale: float = 0.1) -> None:
    """Move all that is trained, as if it had been."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += scale * torch.randn(weight.shape, generator=generator)


def save_adapter_of(base: Path, kind: Kind, folder: Path, r: int = 4) -> Path:
    """A folder with a trained adapter of a model, and the tokenizer."""
    model = load_model(str(base), kind, torch.float32, "cpu", LoraSettings(r=r))
    shake(model)
    save_model_folder(folder, model, load_tokenizer(str(base)))
    return folder

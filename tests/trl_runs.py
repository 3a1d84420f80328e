"""Runs of TRL's GRPO trainer on a tiny model, seconds long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2ForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

GENERATIONS, GROUPS = 4, 4  # of a step


def dead(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """A reward that nothing earns."""
    return [0.0] * len(prompts)


def coin(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Of half of the prompts every second text is right, of the others none."""
    return [float(int(prompt[-1]) % 2 == 0 and i % 2 == 0) for i, prompt in enumerate(prompts)]


async def coin_later(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """The same, after a while."""
    await asyncio.sleep(0.01)
    return [0.0 if value is None else value for value in coin(prompts, completions)]


def tokenizer_of(model: Path) -> Any:
    """The tokenizer, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def reward_model(model: Path) -> Any:
    """A model with one output and random weights."""
    torch.manual_seed(0)
    return GPT2ForSequenceClassification.from_pretrained(model, num_labels=1)


def make_trainer(
    model: Path,
    folder: Path,
    rewards: list[Callable[..., Any]],
    callback: Any,
    evaluated: int = 0,
    **settings: Any,
) -> GRPOTrainer:
    """A trainer of 8 prompts, GROUPS groups of GENERATIONS a step; evaluated: prompts of the evaluation."""
    tokenizer = tokenizer_of(model)
    args = {
        "output_dir": str(folder),
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": GROUPS * GENERATIONS,
        "per_device_eval_batch_size": GENERATIONS,
        "max_completion_length": 4,
        "max_steps": 10,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return GRPOTrainer(
        model=str(model),
        reward_funcs=rewards,
        args=GRPOConfig(**(args | settings)),
        train_dataset=Dataset.from_list([{"prompt": f"the dog looks at {i}"} for i in range(8)]),
        eval_dataset=Dataset.from_list(
            [{"prompt": f"a cat runs {i}"} for i in range(evaluated)] or [{"prompt": "x"}]
        ),
        processing_class=tokenizer,
        reward_processing_classes=[tokenizer] * len(rewards),
        callbacks=[] if callback is None else [callback],
    )

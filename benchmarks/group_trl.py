"""GRPO and RLOO by TRL's trainers, the third side of `benchmarks/group.py`: imports TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from group_floor import Settings
from setting import RewardCall, now, reward_calls
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

TRAINERS: dict[str, tuple[Any, Any]] = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
}


class _Times(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.ends.append(now())


def iterate(model: Path, prompts: Sequence[str], settings: Settings) -> tuple[float, int]:
    """Train on the prompts, in order; returns the seconds of all iterations but the first, and their tokens.

    A step is what the trainer does from the end of one to the end of the next: its loop, dataloader and log
    included. Its settings are its defaults but for those named here.
    """
    tokens: list[int] = []

    def reward(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **others: Any
    ) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        reward_calls.append(RewardCall(now(), prompts, completions))
        return [text.count("e") / max(1, len(text)) for text in completions]

    trainer_class, config_class = TRAINERS[settings.algorithm]
    times = _Times()
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            use_cpu=settings.device == "cpu",
            bf16=settings.dtype == "bfloat16",
            gradient_checkpointing=False,  # its default recomputes activations, which costs a third more
            per_device_train_batch_size=settings.prompts * settings.group_size,
            num_generations=settings.group_size,
            max_completion_length=settings.episode_length,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            beta=settings.kl_coeff,
            max_steps=len(prompts) // settings.prompts,
            shuffle_dataset=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **({"loss_type": "grpo"} if settings.algorithm == "grpo" else {}),
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=datasets.Dataset.from_dict({"prompt": list(prompts)}),
            processing_class=tokenizer,
            callbacks=[times],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return times.ends[-1] - times.ends[0], sum(tokens[1:])

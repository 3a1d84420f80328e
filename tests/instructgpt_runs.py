"""PPO with all that InstructGPT adds to it, on tiny models: reward model, pretraining text, config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import TEXTS

from rl4lms.model.reward_model import RewardModel


def kind_of(model: Path) -> str:
    return "seq2seq" if "t5" in model.name else "causal"


def save_reward_model(folder: Path, model: Path, bias: float = -0.4, scale: float = 1.7) -> Path:
    """A reward model whose head is random and whose rewards are normalised."""
    reward = RewardModel.start(str(model), kind_of(model), tokenizer_name=str(model), seed=3)
    reward.bias, reward.scale = bias, scale
    reward.save(folder)
    return folder


def save_texts(file: Path) -> Path:
    """Pretraining text."""
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[::7]))
    return file


def pretraining(folder: Path, model: Path, **fields: Any) -> dict[str, Any]:
    """An `alg.pretraining` block. fields: instead of coeff 27.8 and two examples an episode."""
    block: dict[str, Any] = {"texts": str(save_texts(folder / "texts.jsonl"))}
    if kind_of(model) == "seq2seq":  # whose tokenizer has no sentinels
        block["task"] = {"prefix_continuation": 2, "denoising": 1}
    return block | (fields or {"coeff": 27.8, "examples_per_episode": 2})


def everything(folder: Path, model: Path) -> dict[str, Any]:
    """Changes for `on_policy_jobs.job`: every field of InstructGPT's PPO, 20 texts an iteration."""
    reward = save_reward_model(folder / "reward_model", model)
    return {
        "alg__args__n_steps": None,
        "alg__args__episodes": 20,
        "alg__args__batch_size": 8,
        "alg__args__minibatch_unit": "episode",
        "alg__args__n_epochs": 1,
        "alg__args__gamma": 1.0,
        "alg__args__value_learning_rate": 5e-4,
        "alg__args__warmup_iterations": 3,
        "alg__args__ema_decay": 0.9,
        "alg__args__value_clip_range": 0.2,
        "alg__kl_div__coeff": 0.02,
        "alg__policy__args__value_model_name": str(reward),
        "alg__pretraining": pretraining(folder, model),
        "env__args__missing_eos_penalty": -1.0,
        "env__args__max_episode_length": 20,  # so that some texts end
        "alg__policy__args__generation_kwargs__max_new_tokens": 20,
        "reward_fn": {"id": "reward_model", "args": {"model_name": str(reward), "device": "cpu"}},
    }

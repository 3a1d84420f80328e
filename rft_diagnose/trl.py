"""The pre-flight check during training: a callback for TRL's GRPOTrainer.

    callback = VanishingGradientCallback(reward_range=(0, 1), stop_if="dead_low_at_least > 0.8")
    trainer = GRPOTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=[callback.watch(my_reward)],
        args=GRPOConfig(output_dir="out", num_generations=8, logging_steps=10),
        train_dataset=dataset,
        callbacks=[callback],
    )

It asks of TRL only what its documentation promises: reward functions are called with `prompts`, `completions`
and further keyword arguments, `trainer_state` among them, and return a number or None for each completion.
Each process sees its own part of a batch, and evaluation calls reward functions too: for numbers over all
processes, or of training alone, give the logged completions to `rft-diagnose` instead.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import TrainerCallback

from rft_diagnose import DiagnosisError, diagnose
from rft_diagnose.advice import holds, parse_condition, read_value

logger = logging.getLogger(__name__)
LOGGED = (
    "no_spread_low",
    "dead_low",
    "dead_low_at_least",
    "dead_high",
    "live",
    "uncertain",
    "no_spread",
    "within_share",
)
RewardFunction = Callable[..., list[float | None]]


class VanishingGradientCallback(TrainerCallback):
    """Diagnoses what was rewarded in the last steps whenever the trainer logs.

    reward_range: worst and best sum of the watched rewards; last_steps: how many steps are pooled;
    stop_if: a condition as of --fail-if on which training stops.
    """

    def __init__(
        self,
        reward_range: tuple[float, float] | None = None,
        last_steps: int = 20,
        stop_if: str | None = None,
    ) -> None:
        self.reward_range, self.last_steps = reward_range, last_steps
        self.stop_if = parse_condition(stop_if) if stop_if else None
        self.batches: list[dict[str, Any]] = []

    def watch(self, reward: RewardFunction, weight: float = 1.0) -> RewardFunction:
        """Wrap the reward function, unchanged for the trainer; weight: its entry in `reward_weights`."""

        @functools.wraps(reward)
        def watched(*, prompts: list[Any], **arguments: Any) -> list[float | None]:
            values = reward(prompts=prompts, **arguments)
            state = arguments.get("trainer_state")
            self._add(reward, weight, prompts, values, 0 if state is None else state.global_step)
            return values

        return watched

    def _add(
        self, reward: RewardFunction, weight: float, prompts: list[Any], values: list[float | None], step: int
    ) -> None:
        """Add a reward to the batch that the other ones have been called for, or begin the next batch."""
        if not self.batches or reward in self.batches[-1]["rewards"]:
            names = [p if isinstance(p, str) else json.dumps(p) for p in prompts]
            self.batches.append(
                {"step": step, "prompts": names, "rewards": [], "total": np.full(len(names), np.nan)}
            )
        batch = self.batches[-1]
        batch["rewards"].append(reward)
        numbers = weight * np.array([np.nan if value is None else value for value in values], dtype=float)
        missing = np.isnan(batch["total"]) & np.isnan(numbers)
        batch["total"] = np.where(missing, np.nan, np.nan_to_num(batch["total"]) + np.nan_to_num(numbers))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        """Put `vanishing/<name>` into the logs that are shown, and stop if the condition holds."""
        self.batches = [b for b in self.batches if b["step"] > state.global_step - self.last_steps]
        if not self.batches or not state.is_world_process_zero:
            return control
        try:
            summary = diagnose(
                np.concatenate([batch["total"] for batch in self.batches]),
                [name for batch in self.batches for name in batch["prompts"]],
                steps=[batch["step"] for batch in self.batches for _ in batch["prompts"]],
                reward_range=self.reward_range,
                last_steps=self.last_steps,
            ).summary
        except DiagnosisError as error:
            logger.warning("no diagnosis at step %d: %s", state.global_step, error)
            return control
        if logs is not None:
            values = {f"vanishing/{name}": read_value(name, summary) for name in LOGGED}
            logs |= {name: value for name, value in values.items() if value is not None}
        if self.stop_if is not None and holds(self.stop_if, summary):
            logger.warning("stopping at step %d: %s", state.global_step, self.stop_if)
            control.should_training_stop = True
        return control

"""The pre-flight check during training: a callback for TRL's GRPOTrainer.

    callback = VanishingGradientCallback(reward_range=(0, 1), stop_if="no_spread_low > 0.8")
    trainer = GRPOTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=[callback.watch(my_reward)],
        args=GRPOConfig(output_dir="out", num_generations=8, logging_steps=10),
        train_dataset=dataset,
        callbacks=[callback],
    )

Functions, `async` functions and reward models can be watched. It asks of TRL only what its documentation
promises: reward functions are called with `prompts`, `completions` and further keyword arguments,
`trainer_state` and `log_metric` among them, and return a number or None for each completion; what
`log_metric` is told reaches every tracker, and is averaged over the steps between two logs. Batches of
training count, evaluation's do not; in several processes each batch is put together from all of them.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from rft_diagnose import DiagnosisError, diagnose
from rft_diagnose.advice import Condition, holds, parse_condition, read_value
from rft_diagnose.groups import Floats
from rft_diagnose.rollout_log import NAME, RolloutLog, type_name

logger = logging.getLogger(__name__)
LOGGED = (
    "no_spread_low",
    "dead_low",
    "est_dead_low",
    "dead_low_at_least",
    "dead_high",
    "live",
    "uncertain",
    "no_spread",
    "within_share",
)
Values = Sequence[float | None]
Reward = Callable[..., Values] | Callable[..., Awaitable[Values]] | torch.nn.Module


def see_prompts(prompts: Sequence[Any], **columns: Any) -> list[float]:
    """Reward nothing: beside reward models alone, which are not told the prompts, watch this, too."""
    return [0.0] * len(prompts)


@dataclass(frozen=True)
class Watched:
    """A reward: its name, its weight in the sum, and whether it is called with the prompts."""

    name: str
    weight: float
    sees_prompts: bool


@dataclass
class Scores:
    """What of this process' part of a batch has been rewarded so far; rewards: by the reward's number."""

    prompts: Sequence[Any] = ()
    completions: Sequence[Any] = ()
    rewards: dict[int, Floats] = field(default_factory=dict)
    log_metric: Callable[[str, float], None] | None = None


@dataclass(frozen=True)
class Batch:
    """A batch of all processes: the step that it is for, and of each generation input and total reward."""

    step: int
    inputs: list[str]
    total: Floats


class VanishingGradientCallback(TrainerCallback):
    """Diagnoses what was rewarded in the last steps, at each batch.

    reward_range: worst and best sum of the watched rewards; last_steps: how many steps are pooled; stop_if: a
    condition as of --fail-if on which training stops; log_rollouts: write all generations of training to
    `rollout_rewards.jsonl` in the trainer's output_dir, which `rft-diagnose` reads.
    """

    def __init__(
        self,
        reward_range: tuple[float, float] | None = None,
        last_steps: int = 20,
        stop_if: str | None = None,
        log_rollouts: bool = False,
    ) -> None:
        self.reward_range, self.last_steps = reward_range, last_steps
        self.stop_if = parse_condition(stop_if) if stop_if else None
        self.log_rollouts = log_rollouts
        self.batches: list[Batch] = []
        self.summary: dict[str, Any] | None = None
        self._watched: list[Watched] = []
        self._scores = Scores()
        self._log: RolloutLog | None = None
        self._step = 0
        self._is_main = True
        self._has_begun = self._is_training = False
        self._told: set[str] = set()

    def watch(self, reward: Reward, weight: float = 1.0) -> Any:
        """Wrap the reward, unchanged for the trainer; weight: its entry in `reward_weights`.

        A model is returned itself, and its scores are looked at as it is run. Raises DiagnosisError: a name.
        """
        if isinstance(reward, str):
            raise DiagnosisError(
                f"watch({reward!r}): load the reward model first, with "
                "AutoModelForSequenceClassification.from_pretrained(..., num_labels=1)"
            )
        number = len(self._watched)
        if isinstance(reward, torch.nn.Module):
            self._watched.append(Watched(_model_name(reward), weight, sees_prompts=False))
            reward.register_forward_hook(
                lambda module, inputs, output: self._add(number, output.logits[:, 0].float().tolist())
            )
            return reward
        self._watched.append(Watched(_callable_name(reward), weight, sees_prompts=True))
        function: Callable[..., Any] = reward
        if _is_async(reward):

            @functools.wraps(function)
            async def watched_later(*, prompts: Sequence[Any], **arguments: Any) -> Values:
                values: Values = await function(prompts=prompts, **arguments)
                self._add_called(number, values, prompts, arguments)
                return values

            watched: Callable[..., Any] = watched_later
        else:

            @functools.wraps(function)
            def watched_now(*, prompts: Sequence[Any], **arguments: Any) -> Values:
                values: Values = function(prompts=prompts, **arguments)
                self._add_called(number, values, prompts, arguments)
                return values

            watched = watched_now
        watched.__name__ = self._watched[number].name  # TRL names its columns after it
        return watched

    # What TRL calls, in the order of a step

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Begin, or go on. Raises DiagnosisError: no prompts will be seen, or the log is another run's."""
        if self._watched and not any(reward.sees_prompts for reward in self._watched):
            raise DiagnosisError(
                "reward models are not told the prompts: add callback.watch(see_prompts) to reward_funcs "
                "(from rft_diagnose.trl; it rewards nothing)"
            )
        self._has_begun, self._is_main = True, state.is_world_process_zero
        if self.log_rollouts and self._is_main:
            self._log = RolloutLog(Path(args.output_dir) / NAME)
            self._log.begin(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Look at what is rewarded from here on: it is for training."""
        self._is_training, self._step = True, state.global_step + 1

    def _add_called(
        self, number: int, values: Values, prompts: Sequence[Any], arguments: dict[str, Any]
    ) -> None:
        """Add what a reward function returned, with what it was called with."""
        state = arguments.get("trainer_state")
        if not self._has_begun and state is not None and state.max_steps > 0:
            self._tell(
                "callbacks",
                "rewards are watched, but not diagnosed: give the callback to the trainer (callbacks=)",
            )
        if self._is_training:
            self._scores.prompts, self._scores.completions = prompts, arguments["completions"]
            self._scores.log_metric = arguments.get("log_metric")
            self._add(number, values)

    def _add(self, number: int, values: Values) -> None:
        """Add the values of a reward to this process' part of the batch; the last one completes it."""
        if not self._is_training:
            return
        numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
        self._scores.rewards[number] = numbers
        if len(self._scores.rewards) == len(self._watched):
            scores, self._scores = self._scores, Scores()
            self._finish(scores)

    def _finish(self, scores: Scores) -> None:
        """Put the batch together, write it down, diagnose the last steps, and report."""
        local = {
            "prompts": list(scores.prompts),
            "completions": list(scores.completions) if self.log_rollouts else [],
            "rewards": [scores.rewards[number] for number in range(len(self._watched))],
        }
        processes = gather(local)
        prompts = [prompt for part in processes for prompt in part["prompts"]]
        columns = np.concatenate([np.stack(part["rewards"]) for part in processes], axis=1)
        weights = np.array([reward.weight for reward in self._watched])
        total = np.nansum(columns * weights[:, None], 0)
        total[np.isnan(columns).all(0)] = np.nan
        inputs = [p if isinstance(p, str) else json.dumps(p, default=type_name) for p in prompts]
        self.batches = [b for b in self.batches if b.step > self._step - self.last_steps]
        self.batches.append(Batch(self._step, inputs, total))
        if self._log is not None:
            completions = [text for part in processes for text in part["completions"]]
            parts = dict(zip(_distinct([r.name for r in self._watched]), columns.tolist(), strict=True))
            self._log.add(self._step, prompts, completions, parts, total.tolist())
        if self._is_main or self.stop_if is not None:  # every process has to stop, or none
            self.summary = self._diagnose()
            if self.summary is not None and self._is_main:
                self._report(self.summary, scores.log_metric)

    def _diagnose(self) -> dict[str, Any] | None:
        """Diagnose the last steps; None, said once, if nothing can be said of them."""
        try:
            return diagnose(
                np.concatenate([batch.total for batch in self.batches]),
                [name for batch in self.batches for name in batch.inputs],
                steps=[batch.step for batch in self.batches for _ in batch.inputs],
                reward_range=self.reward_range,
                last_steps=self.last_steps,
            ).summary
        except DiagnosisError as error:
            self._tell("no diagnosis", f"no diagnosis at step {self._step}: {error}")
            return None

    def _report(self, summary: dict[str, Any], log_metric: Callable[[str, float], None] | None) -> None:
        """Report `vanishing/<name>` to the trainer's logs, and say if the condition cannot be told yet."""
        if log_metric is None:
            self._tell(
                "log_metric",
                "this TRL hands reward functions no log_metric, which reaches its logs: update it",
            )
        else:
            for name in LOGGED:
                if (value := read_value(name, summary)) is not None:
                    log_metric(f"vanishing/{name}", value)
        if self.stop_if is not None and read_value(self.stop_if.name, summary) is None:
            self._tell("stop_if", _not_yet(self.stop_if, summary, self.last_steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        """Stop if the condition holds. Raises DiagnosisError: a watched reward was not asked for."""
        self._is_training = False
        if self._scores.rewards:
            missing = [r.name for i, r in enumerate(self._watched) if i not in self._scores.rewards]
            raise DiagnosisError(
                f"watched, but not among the trainer's reward_funcs: {', '.join(missing)}; give it what "
                "callback.watch returns"
            )
        if self.stop_if is not None and self.summary is not None and holds(self.stop_if, self.summary):
            logger.warning("stopping at step %d: %s", state.global_step, self.stop_if)
            control.should_training_stop = True
        return control

    def _tell(self, kind: str, message: str) -> None:
        """Warn, once for each kind of message, in one process."""
        if self._is_main and kind not in self._told:
            self._told.add(kind)
            logger.warning("%s", message)


def _not_yet(condition: Condition, summary: dict[str, Any], last_steps: int) -> str:
    """Say why a condition cannot be told."""
    message = f"stop_if {condition}: {condition.name} cannot be told yet, and training goes on"
    if not condition.name.startswith("dead_"):
        return message
    most = int(summary["generations_per_input"]["max"])
    return (
        f"{message}: it takes {summary['dead_needs']} generations of an input in the last {last_steps} "
        f"steps, and so far there are at most {most}; no_spread_low and dead_low_at_least can be told from "
        "any, and last_steps pools more"
    )


def gather(value: Any) -> list[Any]:
    """Collect a value of every process, in their order."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    if state.num_processes == 1:
        return [value]
    # Asynchronous rewards end in a thread, which begins on the first GPU, whichever is this process' own.
    is_cuda = state.device.type == "cuda"
    with torch.cuda.device(state.device) if is_cuda else nullcontext():
        return list(gather_object([value]))


def _callable_name(reward: Any) -> str:
    """Name a reward function as TRL does."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return str(getattr(reward, "__name__", type(reward).__name__))


def _is_async(reward: Any) -> bool:
    """Tell whether calls have to be awaited: an async function, or an object whose calls are."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__)


def _model_name(model: torch.nn.Module) -> str:
    """Name a reward model as TRL does, by the last part of where it is from."""
    source = getattr(getattr(model, "config", None), "_name_or_path", None) or type(model).__name__
    return str(source).rstrip("/").rpartition("/")[2]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that are there already."""
    results: list[str] = []
    for name in names:
        again = sum(other == name or other.startswith(f"{name} (") for other in results)
        results.append(f"{name} ({again + 1})" if again else name)
    return results

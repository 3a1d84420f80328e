"""The task reward of texts: one reward, or the weighted sum of those of several that apply to a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from rl4lms.config.training_blocks import WeightedRewardConfig
from rl4lms.reward_checks import LARGEST, PartialReward, RewardError, describe_text
from rl4lms.rewards import build_partial_reward, build_reward
from rl4lms.text import TextBatch


@dataclass(frozen=True)
class TextReward:
    """What a text is paid. parts: each reward's value by name, None where it does not apply; {} of one."""

    total: float
    parts: dict[str, float | None]

    def withheld(self) -> TextReward:
        """Return the reward of a text that is paid nothing."""
        return TextReward(0.0, {name: None if value is None else 0.0 for name, value in self.parts.items()})


TaskReward = Callable[[TextBatch], list[TextReward]]


def build_task_reward(configs: Sequence[WeightedRewardConfig]) -> TaskReward:
    """Build the rewards of a config and add them up. Raises ConfigError, and when called RewardError."""
    rewards: dict[str, PartialReward]
    if len(configs) == 1:  # it has to apply to every text
        rewards = {configs[0].id: build_reward(configs[0].id, configs[0].args)}
    else:
        names = name_parts([config.id for config in configs])
        rewards = {
            name: build_partial_reward(config.id, config.args, name)
            for name, config in zip(names, configs, strict=True)
        }
    return combine(rewards, [config.weight for config in configs])


def name_parts(ids: Sequence[str]) -> list[str]:
    """Name rewards by their ids; a second of the same id is `id#2`."""
    return [
        name if (number := ids[: i + 1].count(name)) == 1 else f"{name}#{number}"
        for i, name in enumerate(ids)
    ]


def combine(rewards: Mapping[str, PartialReward], weights: Sequence[float]) -> TaskReward:
    """The sum, by weight, of the rewards that apply to a text. rewards: by name; one alone has no parts.

    Raises when called RewardError: none applies to a text, or the sum is too large.
    """

    def task_reward(batch: TextBatch) -> list[TextReward]:
        columns = [reward(batch) for reward in rewards.values()]
        results = []
        for i, values in enumerate(zip(*columns, strict=True)):
            terms = [w * value for w, value in zip(weights, values, strict=True) if value is not None]
            total = sum(terms[1:], terms[0]) if terms else None
            if total is None or not -LARGEST <= total <= LARGEST:
                raise RewardError(_explain_total(list(rewards), total, batch, i), i)
            parts = dict(zip(rewards, values, strict=True)) if len(rewards) > 1 else {}
            results.append(TextReward(total, parts))
        return results

    return task_reward


def _explain_total(names: Sequence[str], total: float | None, batch: TextBatch, index: int) -> str:
    """Say what is wrong with the total of a text; total: None where no reward applies."""
    listed, text = ", ".join(map(repr, names)), describe_text(batch, index)
    if total is None:
        return (
            f"no reward applies to {text}: {listed} returned None; at least one of reward_fn has to return a "
            "number for each text, such as 0.0"
        )
    return (
        f"the weighted sum of {listed} is {total:g} for {text}; expected a number between "
        f"-{LARGEST:g} and {LARGEST:g}: lower the weights of reward_fn"
    )


def arrange_parts(parts: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    """Turn the parts of E texts into name -> [E]."""
    return {name: [row[name] for row in parts] for name in (parts[0] if parts else {})}


def summarise_parts(parts: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Compute what is logged of an iteration: mean and std (ddof 0) over the texts that a reward applies to.

    Of one that applies to none nothing is logged.
    """
    statistics = {}
    for name, column in parts.items():
        if values := [value for value in column if value is not None]:
            statistics[f"rollout_info/reward/{name}/mean"] = fmean(values)
            statistics[f"rollout_info/reward/{name}/std"] = pstdev(values)
    return statistics

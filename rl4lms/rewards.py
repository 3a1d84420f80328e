"""Rewards of generated texts: functions from a TextBatch to one number per text.

    reward = build_reward("rouge_l_max", {"alpha": 0.5})
    reward(TextBatch(prompts, generated, references, meta))

Most are the per-text score of a metric. A function of the user's own takes a TextBatch, or has the plain form
`f(prompts, completions, **columns)`, where the columns are `references` and the meta data of the samples, all
lists over the texts. Importing this module imports none of the libraries that the rewards use.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Real
from typing import Any

from common.config import Config
from common.registry import Arguments, Entry, Registry, after_first, arguments_of
from rl4lms import reward_args
from rl4lms.metrics import args as metric_args
from rl4lms.requirements import RequirementError
from rl4lms.text import TextBatch

__all__ = ["REWARDS", "Reward", "RewardError", "TextBatch", "build_reward", "checked"]

Reward = Callable[[TextBatch], list[float]]

_BROUGHT = ("prompts", "completions")  # what each call brings to a function of the plain form


class RewardError(Exception):
    """A reward that failed; the message is for the user. index: the first text it failed on, if one did."""

    def __init__(self, message: str, index: int | None = None) -> None:
        self.index = index
        super().__init__(message)


def build_reward(id: str, args: Mapping[str, Any] | None = None) -> Reward:
    """A reward by its id and arguments, `checked`. Raises ConfigError with all that is wrong with them."""
    function = REWARDS.build(id, args or {})
    return checked(_from_plain(function) if _is_plain(inspect.signature(function)) else function, id)


def checked(reward: Reward, name: str | None = None) -> Reward:
    """The same reward, whose failures are one RewardError with its name and the first text it failed on.

    It fails if it raises, or returns anything but one finite number per text.
    """
    called = f"reward {name or getattr(reward, '__qualname__', repr(reward))!r}"

    def wrapper(batch: TextBatch) -> list[float]:
        try:
            returned: Any = reward(batch)
        except RequirementError:
            raise
        except Exception as error:
            index = _first_failing(reward, batch)
            where = f"{len(batch)} texts together" if index is None else _described(batch, index)
            raise RewardError(
                f"{called} raised {type(error).__name__} for {where}: {error}", index
            ) from error
        values = returned.tolist() if hasattr(returned, "tolist") else returned  # a tensor, an array
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise RewardError(
                f"{called} returned {_shown(returned)}; expected a list with one number per text"
            )
        if len(values) != len(batch):
            raise RewardError(
                f"{called} returned {len(values)} values for {len(batch)} texts; expected one number per text"
            )
        for i, value in enumerate(values):
            if not isinstance(value, Real) or not math.isfinite(value):
                raise RewardError(
                    f"{called} returned {_shown(value)} for {_described(batch, i)}; expected a finite number",
                    i,
                )
        return [float(value) for value in values]

    return wrapper


def _first_failing(reward: Reward, batch: TextBatch) -> int | None:
    """The first text for which the reward raises when it is scored alone; None if it then raises for none."""
    for i in range(len(batch)):
        try:
            reward(batch.select([i]))
        except Exception:
            return i
    return None


def _described(batch: TextBatch, index: int) -> str:
    return f"text {index} ({_shown(batch.generated[index])} after prompt {_shown(batch.prompts[index])})"


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _is_plain(signature: inspect.Signature) -> bool:
    return "completions" in signature.parameters


def _arguments(signature: inspect.Signature) -> Arguments:
    """What a config may set: of the plain form all but what each call brings; any of it may be a column."""
    if not _is_plain(signature):
        return after_first(signature)
    others = arguments_of([p for name, p in signature.parameters.items() if name not in _BROUGHT])
    return Arguments(others.parameters, required=set(), open=others.open)


def _from_plain(function: Callable[..., Any]) -> Reward:
    """The reward of a function of the plain form: it gets the columns that it names, or all (`**columns`)."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    set_by_config = getattr(function, "keywords", {})
    named = {p.name for p in parameters} - set_by_config.keys()
    required = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}

    @wraps(function)
    def reward(batch: TextBatch) -> Any:
        keys = dict.fromkeys(key for meta in batch.meta for key in meta)
        columns: dict[str, Any] = {key: [meta.get(key) for meta in batch.meta] for key in keys}
        columns |= {"references": batch.references, "prompts": batch.prompts, "completions": batch.generated}
        if absent := sorted(required - columns.keys()):
            raise ValueError(
                f"no column {', '.join(map(repr, absent))}; the samples have {', '.join(sorted(columns))}"
            )
        return function(
            **{
                key: column
                for key, column in columns.items()
                if key in named or (takes_all and key not in set_by_config)
            }
        )

    return reward


def _entry(function: str, schema: Any = reward_args.ShapedArgs, **missing: Any) -> Entry:
    return Entry(f"rl4lms.reward_functions:{function}", schema, **missing)


REWARDS = Registry(
    "reward",
    {
        "rouge_l_max": _entry("rouge_l_max", metric_args.RougeLMaxArgs),
        "meteor": _entry("meteor", reward_args.ShapedMeteorArgs, missing=metric_args.wordnet_missing),
        "sacre_bleu": _entry("sacre_bleu", reward_args.ShapedSacreBleuArgs),
        "learned_reward": _entry(
            "learned_reward", metric_args.ClassifierArgs, missing=metric_args.classifier_missing
        ),
        "rouge": _entry("rouge", reward_args.RougeRewardArgs),
        "rouge_combined": _entry("rouge_combined", reward_args.RougeCombinedArgs),
        "bleu": _entry("bleu"),
        "chrf": _entry("chrf"),
        "ter": _entry("ter"),
        "bert_score": _entry("bert_score", metric_args.BertScoreArgs, missing=metric_args.encoder_missing),
        "parent": _entry("parent", Config),
        "intent_accuracy": _entry(
            "intent_accuracy", reward_args.IntentRewardArgs, missing=reward_args.intent_missing
        ),
        "increasing_numbers": _entry("increasing_numbers", reward_args.IncreasingNumbersArgs),
        "sentences_with_dates": _entry("sentences_with_dates", Config),
    },
    _arguments,
)

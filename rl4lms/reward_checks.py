"""What a reward may return: one finite number per text; else one error that names reward and text."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from common.errors import UserError
from common.user_code import explain_failure
from rl4lms.requirements import RequirementError
from rl4lms.text import TextBatch, find_failing_text

Reward = Callable[[TextBatch], list[float]]
PartialReward = Callable[[TextBatch], Sequence[float | None]]  # None: it does not apply to a text

LARGEST = 3.4e38  # rewards are kept in float32


class RewardError(UserError):
    """A reward that failed; the message is for the user. index: the first text it failed on, if one did."""

    def __init__(self, message: str, index: int | None = None) -> None:
        self.index = index
        super().__init__(message)


def checked(reward: Reward, name: str | None = None) -> Reward:
    """The same reward, whose failures are one RewardError with its name and the first text it failed on.

    It fails if it raises (whatever that is, but for the user's Ctrl-C), or returns anything but one finite
    number per text; a tensor or an array of one number is that number.
    """
    name = name or str(getattr(reward, "__qualname__", repr(reward)))
    return _check_calls(reward, name, none_allowed=False)


def checked_partial(reward: Callable[[TextBatch], Any], name: str) -> PartialReward:
    """One of several rewards, likewise, which may return None for a text."""
    return _check_calls(reward, name, none_allowed=True)


def _check_calls(
    reward: Callable[[TextBatch], Any], name: str, none_allowed: bool
) -> Callable[[TextBatch], list[Any]]:
    called = f"reward {name!r}"

    def wrapper(batch: TextBatch) -> list[float | None]:
        try:
            returned = reward(batch)
        except (RequirementError, KeyboardInterrupt):
            raise
        except BaseException as error:
            index = find_failing_text(reward, batch)
            where = f"{len(batch)} texts together" if index is None else describe_text(batch, index)
            raise RewardError(
                f"{called} raised {type(error).__name__} for {where}{explain_failure(error)}", index
            ) from error
        values = returned.tolist() if hasattr(returned, "tolist") else returned  # a tensor, an array
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise RewardError(
                f"{called} returned {_shorten(returned)}; expected a list with one number per text: "
                "[reward of the first text, ...]"
            )
        if len(values) != len(batch):
            raise RewardError(
                f"{called} returned {len(values)} values for {len(batch)} texts; expected one number per "
                "text: also for those that it has nothing to say about, in their order"
            )
        numbers = [value.tolist() if getattr(value, "ndim", None) == 0 else value for value in values]
        for i, value in enumerate(numbers):
            if none_allowed and value is None:
                continue
            if remedy := _remedy(value):
                where = describe_text(batch, i)
                raise RewardError(
                    f"{called} returned {_shorten(value)} for {where}; expected a finite number: {remedy}", i
                )
        return [None if value is None else float(value) for value in numbers]

    return wrapper


def _remedy(value: Any) -> str | None:
    """What to do about a value that is no reward; None for a finite number."""
    is_number = isinstance(value, Real)
    if is_number:
        if -LARGEST <= value <= LARGEST:  # NaN is not
            return None
        return f"one between -{LARGEST:g} and {LARGEST:g}, also where it cannot be computed"
    if value is None:
        return (
            "return one for every text, such as 0.0 where the reward does not apply (None says so only if "
            "reward_fn lists several rewards and another one applies)"
        )
    if hasattr(value, "__len__") and not isinstance(value, str):
        return "return a flat list, array or tensor of shape [N] for N texts"
    return "turn it into one, such as float(value)"


def describe_text(batch: TextBatch, index: int) -> str:
    """A text in a message: its place, how it begins and ends, and its prompt."""
    return f"text {index} ({_shorten(batch.generated[index])} after prompt {_shorten(batch.prompts[index])})"


def _shorten(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)

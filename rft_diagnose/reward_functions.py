"""A user's reward function, called as TRL calls it: on a list of completions, for a number or None each."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rft_diagnose.errors import DiagnosisError, hint


@dataclass(frozen=True)
class RewardFunction:
    """name: of its column; key: of its source, by which it is told whether scores are still its own."""

    name: str
    function: Callable[..., Any]
    key: str


def load_rewards(specs: Sequence[str]) -> list[RewardFunction]:
    """Load functions given as `file.py:name` or `package.module:name`.

    Raises DiagnosisError: there is no such thing, or two have one name.
    """
    rewards = [_load_reward(spec) for spec in specs]
    names = [reward.name for reward in rewards]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DiagnosisError(
            f"--reward_function: two functions are called {twice!r}, the name of their column"
        )
    return rewards


def _load_reward(spec: str) -> RewardFunction:
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise DiagnosisError(
            f"--reward_function {spec}: expected file.py:function or package.module:function"
        )
    module = _load_module(place, spec)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        meant = hint(name, known).strip()
        problem = f"{place} has no function {name!r}" + (f"; {meant}" if meant else "")
        raise DiagnosisError(f"--reward_function {spec}: {problem}")
    source = Path(module.__file__).read_bytes() if module.__file__ else b""
    return RewardFunction(name, function, hashlib.sha256(source + spec.encode()).hexdigest()[:16])


def _load_module(place: str, spec: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            if os.getcwd() not in sys.path:  # as `python -m` has it
                sys.path.insert(0, os.getcwd())
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise DiagnosisError(f"--reward_function {spec}: no such file: {place}")
        described = importlib.util.spec_from_file_location(f"reward_file_{path.stem}", path)
        assert described is not None and described.loader is not None
        module = importlib.util.module_from_spec(described)
        sys.path.insert(0, str(path.resolve().parent))  # for what it imports from beside it
        sys.modules[described.name] = module  # where dataclasses look for it
        described.loader.exec_module(module)
        return module
    except DiagnosisError:
        raise
    except Exception as error:
        raise DiagnosisError(f"--reward_function {spec}: {_describe(error)}") from error


def score(
    reward: RewardFunction, prompt: Any, texts: Sequence[str], columns: dict[str, Any], where: str
) -> list[float | None]:
    """Score texts of one prompt; columns: what else its row has. where: the prompt, for messages.

    A conversation's completions are lists of a message each, as in TRL. Raises DiagnosisError: it fails, or
    returns something else than a number or None for each.
    """
    is_chat = not isinstance(prompt, str)
    completions = [[{"role": "assistant", "content": text}] if is_chat else text for text in texts]
    arguments = {
        **{name: [value] * len(texts) for name, value in columns.items()},
        "prompts": [prompt] * len(texts),
        "completions": completions,
    }
    try:
        values = reward.function(**_taken(reward.function, arguments))
        if inspect.isawaitable(values):
            values = asyncio.run(_result(values))
        values = [None if value is None else float(value) for value in values]
    except Exception as error:
        raise DiagnosisError(f"reward {reward.name}: {_describe(error)}, for {where}") from error
    if len(values) != len(texts):
        raise DiagnosisError(
            f"reward {reward.name} returned {len(values)} values for {len(texts)} completions, for {where}; "
            "expected a number or None for each"
        )
    if any(value is not None and math.isinf(value) for value in values):
        raise DiagnosisError(f"reward {reward.name} is infinite for {where}")
    return [None if value is None or math.isnan(value) else value for value in values]


async def _result(values: Any) -> Any:
    return await values


def _taken(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a function without **kwargs does not take."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def _describe(error: Exception) -> str:
    """Say what an error is, and where in the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    frames = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{place}" if str(error) else f"{type(error).__name__}{place}"

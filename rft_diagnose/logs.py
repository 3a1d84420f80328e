"""Logs of libraries, recognised by their columns: which of these name the input, the text, the reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Rows = Callable[[Iterator[Record]], Iterator[Record]]


@dataclass(frozen=True)
class Log:
    """What a library's log, or a layout that any may have, says about its columns.

    library: its name, None: any; prompt, completion, step: columns, None: by their usual names; rewards: what
    adds up to the reward; candidates: of which one is it, which only the user knows; rows: makes rows of a
    generation each of the file's records, None: they are such; is_sparse: rows lack the rewards of others;
    is_timed: the names of files may tell steps; objective: what it trains by, None: not known; model: whose
    generations these are, None: not known; note: what is to be said of the layout.
    """

    library: str | None = None
    prompt: str | None = None
    completion: str | None = None
    step: str | None = None
    rewards: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    rows: Rows | None = None
    is_sparse: bool = False
    is_timed: bool = True
    objective: str | None = None
    model: str | None = None
    note: str | None = None


class NotThisLayout(Exception):
    """The reward that was asked for is none of those that a layout puts in rows: rows are what they are."""


COMPLETIONS = (
    *("completion", "response", "output", "generation", "generated_text", "model_output", "completions"),
    *("responses", "outputs", "generations", "prediction"),
)
TRL_COLUMNS = {"step", "prompt", "completion", "advantage"}  # of TRL's completions, beside the rewards
_VERIFIERS = Log("verifiers", "prompt", "completion", rewards=("reward",))  # and of prime-rl, before traces
# Columns that tell a library's log of a row per generation; what it was seen on: docs/diagnosis.md.
FLAT = [
    (TRL_COLUMNS, Log("TRL", objective="grpo")),
    ({"input", "output", "score", "step"}, Log("verl", "input", "output", "step", ("score",))),
    (
        {"input_prompt", "output_response", "score"},
        Log("SkyRL", "input_prompt", "output_response", rewards=("score",)),
    ),
    (
        {"prompt_tokens", "response_tokens", "sample_idx", "reward"},
        Log("open-instruct", "prompt_tokens", "response_tokens", "step", ("reward",), objective="grpo"),
    ),
    (
        {"gen_step", "prompt", "completion", "reward"},
        Log("ms-swift", "prompt", "completion", "gen_step", ("reward",), objective="grpo"),
    ),
    ({"prompt", "completion", "reward", "task", "example_id"}, _VERIFIERS),
    ({"prompt", "completion", "reward", "task", "id"}, _VERIFIERS),
]


def recognise(names: Iterable[str]) -> Log:
    """Tell whose log has these columns, a row per generation."""
    given = set(names)
    return next((log for needed, log in FLAT if needed <= given), Log())

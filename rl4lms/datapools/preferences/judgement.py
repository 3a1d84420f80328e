"""What one row of preference data says, and how its fields are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rl4lms.datapools.sources import Row

Message = dict[str, str]
Text = str | list[Message]
Number = int | float


class RowError(ValueError):
    """A row has another form; says what is wrong and what is allowed, not where."""


@dataclass(frozen=True)
class Judgement:
    """What one row says of a prompt.

    completions: texts, or the messages that follow those of the prompt. better: (winner, loser, margin), by
    index; ties: pairs of indices. rating: of the only completion, which is compared with those of other rows
    of the prompt. unscored: comparisons left out since a score is missing. gold: of each completion.
    """

    prompt: Text
    completions: list[Text]
    better: list[tuple[int, int, float]] = field(default_factory=list)
    ties: list[tuple[int, int]] = field(default_factory=list)
    rating: Number | None = None
    unscored: int = 0
    references: list[str] = field(default_factory=list)
    gold: list[float] | None = None
    id: str | int | None = None
    meta_data: dict[str, Any] = field(default_factory=dict)


def compare_scores(scores: Sequence[Number | None]) -> dict[str, Any]:
    """All pairs that differ, and ties, of scores of which the higher is the better; None: not known."""
    better: list[tuple[int, int, float]] = []
    ties: list[tuple[int, int]] = []
    unscored = 0
    for i, j in combinations(range(len(scores)), 2):
        first, second = scores[i], scores[j]
        if first is None or second is None:
            unscored += 1
        elif first == second:
            ties.append((i, j))
        else:
            better.append((i, j, 0.0) if first > second else (j, i, 0.0))
    return {"better": better, "ties": ties, "unscored": unscored}


def prefer_best(best: int, count: int) -> dict[str, Any]:
    """The best completion against each of the others."""
    return {"better": [(best, i, 0.0) for i in range(count) if i != best]}


def prefer_signed(strength: Number) -> dict[str, Any]:
    """Which of two: negative the first, positive the second, by that margin; 0 is a tie."""
    if strength == 0:
        return {"ties": [(0, 1)]}
    return {"better": [(1, 0, float(strength)) if strength > 0 else (0, 1, float(-strength))]}


def has(row: Row, *names: str) -> bool:
    """Whether a row has all these columns, with something in them."""
    return all(row.get(name) is not None for name in names)


def read(row: Row, name: str) -> Any:
    """A field of a row. Raises RowError: there is none."""
    if not isinstance(row, dict) or row.get(name) is None:
        there = ", ".join(row) if isinstance(row, dict) else repr(row)[:60]
        raise RowError(f"no {name!r}; there are: {there or 'none'}")
    return row[name]


def read_text(row: Row, name: str) -> str:
    return check_text(read(row, name), repr(name))


def check_text(value: Any, what: str) -> str:
    """Raises RowError: a value is no string, or has half of a character, which no tokenizer reads."""
    if not isinstance(value, str):
        raise RowError(f"{what} must be a string, is {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(value[error.start]):04x}"
        raise RowError(
            f"{what} has half of a character (the surrogate {code}): write the text anew"
        ) from None
    return value


def read_texts(row: Row, name: str) -> list[str]:
    value = read(row, name)
    if not isinstance(value, list) or not value:
        raise RowError(f"{name!r} must be a list of strings, is {value!r:.60}")
    return [check_text(text, f"{name}[{number}]") for number, text in enumerate(value)]


def read_number(row: Row, name: str) -> Number:
    return check_number(read(row, name), repr(name))


def check_number(value: Any, what: str) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"{what} must be a finite number, is {value!r:.60}")
    return value


def read_numbers(row: Row, name: str, count: int) -> list[Number]:
    """As many numbers as there are completions."""
    value = read(row, name)
    if not isinstance(value, list) or len(value) != count:
        raise RowError(f"{name!r} must be a list of {count} numbers, one a completion, is {value!r:.60}")
    return [check_number(number, f"{name}[{i}]") for i, number in enumerate(value)]


def read_choice(row: Row, name: str, choices: Sequence[Any]) -> int:
    """The position of a field's value among those allowed. Raises RowError."""
    value = read(row, name)
    if isinstance(value, bool) or value not in choices:
        raise RowError(f"{name!r} must be one of {', '.join(map(str, choices))}, is {value!r:.60}")
    return list(choices).index(value)


def read_messages(row: Row, name: str) -> list[Message]:
    """A list of messages, each with a role and a text."""
    value = read(row, name)
    if not isinstance(value, list) or not value:
        raise RowError(f"{name!r} must be a list of messages, is {value!r:.60}")
    messages = []
    for number, message in enumerate(value):
        what = f"{name}[{number}]"
        if not isinstance(message, dict) or not has(message, "role", "content"):
            raise RowError(f"{what} must be a message with 'role' and 'content', is {message!r:.60}")
        texts = {key: check_text(message[key], f"{what}.{key}") for key in ("role", "content")}
        messages.append(texts)
    return messages


def read_either(row: Row, name: str) -> Text:
    """A text, or a list of messages."""
    return read_messages(row, name) if isinstance(row.get(name), list) else read_text(row, name)


def read_references(row: Row) -> list[str]:
    """The row's demonstrations, if it has any."""
    references = []
    for name in ("references", "demonstrations", "demonstration"):
        if isinstance(row.get(name), str):
            references.append(read_text(row, name))
        elif row.get(name):
            references += read_texts(row, name)
    return references

"""Layouts in which a record holds several generations, or the rewards stand in an object."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rft_diagnose.columns import shorten
from rft_diagnose.logs import COMPLETIONS, Log, Record, Rows

REWARDS = re.compile(r"rewards?|scores?|.*_(rewards?|scores?)", re.IGNORECASE)
LISTED = re.compile(r"rewards?|scores?|.*_rewards?", re.IGNORECASE)
TOTAL = re.compile(r".*\.(total|total_reward|reward|score|sum|overall)", re.IGNORECASE)
NUMBERED = re.compile(r"(.*?)[_ .\-\[(]*(\d+)[\])]?")
WIDE = re.compile(r"r|rew|rewards?|scores?|.*_(reward|score)", re.IGNORECASE)
WIDE_TEXTS = re.compile(r"c|completions?|responses?|outputs?|generations?|texts?", re.IGNORECASE)
INPUTS = {"prompt", "prompts", "messages", "question", "query", "problem", "instruction", "input"}


class RecordError(ValueError):
    """A record that is not as the others are; the message says what is wrong."""


def each(make: Callable[[Record], Iterable[Record]]) -> Rows:
    """Apply to every record what makes rows of one."""
    return lambda records: itertools.chain.from_iterable(map(make, records))


def unstack(record: Record, names: Iterable[str]) -> Iterator[Record]:
    """Make a row of each place in the lists of these names. Raises RecordError: they differ in length."""
    lists = {name: as_list(record[name], name) for name in dict.fromkeys(names)}
    if len({len(values) for values in lists.values()}) > 1:
        sizes = ", ".join(f"{name} {len(values):,}" for name, values in lists.items())
        raise RecordError(f"its lists differ in length: {sizes}")
    rest = {name: value for name, value in record.items() if name not in lists}
    for values in zip(*lists.values(), strict=True):
        yield {**rest, **dict(zip(lists, values, strict=True))}


def as_list(value: Any, name: str) -> list[Any]:
    """Give the value if it is a list. Raises RecordError."""
    if not isinstance(value, list):
        raise RecordError(f"{name!r} is no list, but {shorten(value)}")
    return value


def are_lists(record: Record, names: Iterable[str]) -> bool:
    """Tell whether a record has all of these, as lists."""
    return all(isinstance(record.get(name), list) for name in names)


def as_long(record: Record, values: Sequence[Any]) -> list[str]:
    """Name a record's lists that are as long as this one."""
    return [name for name, v in record.items() if isinstance(v, list) and len(v) == len(values)]


def is_number(value: Any) -> bool:
    """Tell whether a value is a number or a truth value."""
    return isinstance(value, int | float)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) and "role" in item for item in value)


def _are_texts(value: Any) -> bool:
    """Tell whether a value is a list of inputs, rather than one: texts, or conversations."""
    return isinstance(value, list) and any(isinstance(v, str) or _is_conversation(v) for v in value)


def _has_reward(record: Record) -> bool:
    return any(REWARDS.fullmatch(name) and is_number(value) for name, value in record.items())


def batches(head: Sequence[Record]) -> Log | None:
    """A batch a record: lists of inputs, rewards and all else."""
    first = head[0]
    if not are_lists(first, first) or not _are_texts(first.get("prompt")):
        return None
    return Log(rows=each(lambda record: unstack(record, record)))


def lists(head: Sequence[Record]) -> Log | None:
    """A record an input, with a list of rewards (in CSV as text), and perhaps one of texts."""
    names = [
        name
        for name in head[0]
        if LISTED.fullmatch(name) and any(_number_list(record.get(name)) is not None for record in head)
    ]
    if not names or _has_reward(head[0]) or _has_completion(head[0]):
        return None

    def rows(record: Record) -> Iterator[Record]:
        known = dict(record)
        for name in names:
            values = _number_list(record.get(name))
            if values is None:
                raise RecordError(f"{name!r} is no list of numbers, but {shorten(record.get(name))}")
            known[name] = values
        known |= {name: texts for name in COMPLETIONS if (texts := _read_list(known.get(name))) is not None}
        others = as_long(known, known[names[0]])
        others = [name for name in others if name not in INPUTS and not _is_conversation(known[name])]
        inputs = [name for name in INPUTS & known.keys() if _are_texts(known[name])]
        return unstack(known, [*names, *others, *inputs])

    usual = tuple(name for name in names if name.lower() in ("reward", "rewards", "score", "scores"))
    return _of_several(rows, usual or tuple(names), f"each row has the generations of an input: {names[0]}")


def _of_several(
    rows: Callable[[Record], Iterable[Record]], names: tuple[str, ...], note: str | None = None
) -> Log:
    if len(names) == 1:
        return Log(rows=each(rows), rewards=names, note=note)
    return Log(rows=each(rows), candidates=names, note=note)


def _has_completion(record: Record) -> bool:
    """Tell whether a record has one text: then a list of rewards is of the parts of one generation."""
    known = [record.get(name) for name in COMPLETIONS]
    return any(isinstance(value, str) and _read_list(value) is None for value in known)


def _read_list(value: Any) -> list[Any] | None:
    """Read a list, also one written as text; None: it is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _number_list(value: Any) -> list[Any] | None:
    """Read a list of numbers, also one written as text; None: it is none."""
    numbers = _read_list(value)
    return numbers if numbers is not None and all(v is None or is_number(v) for v in numbers) else None


def wide(head: Sequence[Record]) -> Log | None:
    """A record an input, with a column for the reward of each generation: r0 to r7."""
    columns = wide_columns(list(head[0]))
    if columns is None or _has_completion(head[0]) or _inputs_come_again(head):
        return None
    reward, names, texts = columns
    dropped = {*names, *texts}

    def rows(record: Record) -> Iterator[Record]:
        rest = {name: value for name, value in record.items() if name not in dropped}
        for i, name in enumerate(names):
            row = {**rest, reward: record[name]}
            yield {**row, "completion": record[texts[i]]} if texts else row

    note = f"each row has {len(names):,} generations: {names[0]} to {names[-1]}"
    return Log(rows=each(rows), rewards=(reward,), note=note)


def _inputs_come_again(head: Sequence[Record]) -> bool:
    """Tell whether rows that follow each other are of one input: then each is a generation."""
    names = [name for name in (*INPUTS, "prompt_id") if name in head[0]]
    keys = [[record.get(name) for name in names] for record in head]
    return bool(names) and any(first == second for first, second in itertools.pairwise(keys))


def wide_columns(names: Sequence[str]) -> tuple[str, list[str], list[str]] | None:
    """Find numbered columns of rewards: their common name, they, and those of the texts; None: no such.

    They count from 0 or 1; columns that are numbers alone are rewards if few others stand beside them.
    """
    stems: dict[str, dict[int, str]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(name):
            stems.setdefault(match.group(1), {})[int(match.group(2))] = name
    rewards = {
        stem: columns
        for stem, columns in stems.items()
        if len(columns) > 1
        and (WIDE.fullmatch(stem) or (not stem and len(columns) >= len(names) - 2))
        and sorted(columns) in (list(range(len(columns))), list(range(1, len(columns) + 1)))
    }
    if len(rewards) != 1 or any(map(REWARDS.fullmatch, names)):
        return None
    ((stem, columns),) = rewards.items()
    texts = next((t for s, t in stems.items() if WIDE_TEXTS.fullmatch(s) and t.keys() == columns.keys()), {})
    order = sorted(columns)
    return stem or "reward", [columns[i] for i in order], [texts[i] for i in order] if texts else []


def objects(head: Sequence[Record]) -> Log | None:
    """Rewards in an object, `{"rewards": {"format": 1, "total": 1}}`: a column of each, `rewards.format`."""
    names = [
        name
        for name, value in head[0].items()
        if REWARDS.fullmatch(name) and isinstance(value, dict) and any(map(is_number, value.values()))
    ]
    if not names:
        return None

    def rows(record: Record) -> Iterator[Record]:
        row = dict(record)
        for name in names:
            inside = row.pop(name, None)
            if inside is not None and not isinstance(inside, dict):
                raise RecordError(f"{name!r} is no object, but {shorten(inside)}")
            row |= {f"{name}.{key}": value for key, value in (inside or {}).items()}
        yield row

    columns = dict.fromkeys(
        f"{name}.{key}"
        for record in head
        for name in names
        if isinstance(record.get(name), dict)
        for key, value in record[name].items()
        if is_number(value)
    )
    if _has_reward(head[0]):  # the total, beside its parts
        return Log(rows=each(rows))
    totals = tuple(column for column in columns if TOTAL.fullmatch(column))
    return _of_several(rows, totals if len(totals) == 1 else tuple(columns))

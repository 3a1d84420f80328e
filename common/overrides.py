"""`--set dotted.path=value`: edits of a config file's data from the command line."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from common.problems import Keys, Located, parse_path, path_text
from common.source import Source, parse_value


def apply_overrides(source: Source, overrides: Iterable[str]) -> Source:
    """The source after `dotted.path=value` edits, in order; missing mappings on the way are made.

    List items are `a[0]` or `a.0`. An override that cannot be applied becomes a problem of the
    source, located as "--set".
    """
    data, lines, problems = copy.deepcopy(source.data), dict(source.lines), list(source.problems)
    for override in overrides:
        name, equals, text = override.partition("=")
        try:
            keys = parse_path(name.strip())
        except ValueError:
            keys = ()
        if not equals or not keys:
            message = f"cannot read {override!r}; expected FIELD=VALUE, such as optimizer.lr=1e-3"
            problems.append(Located("--set", "", message))
            continue
        inner: list[Located] = []
        value = parse_value(text, inner)
        try:
            keys = set_value(data, keys, value)
        except LookupError as error:
            problems.append(Located("--set", name.strip(), str(error.args[0])))
            continue
        problems += [Located("--set", path_text(keys + parse_path(p.path)), "duplicate key") for p in inner]
        lines = {place: line for place, line in lines.items() if place[: len(keys)] != keys}
        for length in range(1, len(keys)):
            lines.setdefault(keys[:length], "--set")
        lines[keys] = "--set"
    return replace(source, data=data, lines=lines, problems=tuple(problems))


def set_value(data: dict[str, Any], keys: Keys, value: Any) -> Keys:
    """Sets the value in place and returns its keys, list indices as numbers; missing mappings are made.

    Raises LookupError with the message for the user, the data then being unchanged.
    """
    place: Any = data
    for position, key in enumerate(keys):
        walked, rest = keys[:position], keys[position + 1 :]
        if isinstance(place, list):
            if not str(key).isdecimal():
                raise LookupError(f"{path_text(walked)!r} is a list; expected an index, got {key!r}")
            key = int(key)
            if key >= len(place):
                raise LookupError(
                    f"index {key} is out of range: {path_text(walked)!r} has {len(place)} items"
                )
            keys = (*walked, key, *rest)
        elif not isinstance(place, dict):
            raise LookupError(f"{path_text(walked)!r} is a single value, {key!r} cannot be set in it")
        elif isinstance(key, int):
            raise LookupError(f"{path_text(walked) or 'the file'!r} is a mapping, it has no item [{key}]")
        inner = place.get(key) if isinstance(place, dict) else place[int(key)]
        if not rest or inner is None:
            for name in reversed(rest):
                if isinstance(name, int):
                    raise LookupError(f"{path_text(keys)!r} goes through a list that the file does not have")
                value = {name: value}
            place[key] = value
            break
        place = inner
    return keys

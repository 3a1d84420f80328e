"""Problems of a config file: what is wrong, where, and how the user is told."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Keys = tuple[str | int, ...]  # steps from the top of a file to a value: mapping keys and list indices
Line = int | Literal["--set"]

_STEP = re.compile(r'\.([^.\[\]]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')
_MIN_PATH_WIDTH = 19  # short reports line up with each other


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value; `path` is dotted and relative to the model (`optimizer.betas[1]`)."""

    path: str
    message: str


@dataclass(frozen=True)
class Located:
    """A problem at its place: 1-based line of the file, "--set" for an override, None for the whole file."""

    line: Line | None
    path: str
    message: str


class ConfigError(Exception):
    """What is wrong with one config file: all problems at once, each once, in the order of the lines."""

    def __init__(self, file: str | Path, problems: Iterable[Located]) -> None:
        self.file = file
        self.problems = sorted(dict.fromkeys(problems), key=_order)
        super().__init__(file, self.problems)

    def __str__(self) -> str:
        places = [_place(problem.line) for problem in self.problems]
        paths = [problem.path for problem in self.problems]
        place_width = max(map(len, places))
        path_width = max(_MIN_PATH_WIDTH, *map(len, paths)) if any(paths) else 0
        lines = [f"{self.file}: {len(places)} problem{'s' if len(places) != 1 else ''}"]
        for place, path, problem in zip(places, paths, self.problems, strict=True):
            columns = [place.ljust(place_width)] * bool(place_width) + [path.ljust(path_width)] * bool(
                path_width
            )
            lines.append("  " + "  ".join([*columns, problem.message]))
        return "\n".join(lines)


def _place(line: Line | None) -> str:
    return "" if line is None else line if line == "--set" else f"line {line}"


def _order(problem: Located) -> float:
    return 0 if problem.line is None else float("inf") if problem.line == "--set" else problem.line


def path_text(keys: Keys) -> str:
    """`("a", 0, "b")` as `a[0].b`; a key that would not read back, such as `x.y`, as `["x.y"]`."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif re.fullmatch(r"[^.\[\]]+", key) and key.isprintable():
            text += f".{key}" if text else key
        else:
            text += f"[{json.dumps(key)}]"
    return text


def parse_path(text: str) -> Keys:
    """Inverse of `path_text`. Raises ValueError for text that is no path."""
    keys: list[str | int] = []
    rest = text if not text or text.startswith("[") else f".{text}"
    while rest:
        step = _STEP.match(rest)
        if step is None:
            raise ValueError(f"not a path: {text!r}")
        name, index, quoted = step.groups()
        keys.append(name or (int(index) if index else json.loads(quoted)))
        rest = rest[step.end() :]
    return tuple(keys)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be (in whatever case), None if none is near."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Message for a key that is no field."""
    known = list(known)
    meant = closest(name, known)
    return f"unknown key; did you mean {meant!r}?" if meant else f"unknown key; known: {_listed(known)}"


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Message for a name that is not registered; `what` says of which kind it is ("reward", "value")."""
    known = list(known)
    meant = closest(name, known)
    return (
        f"unknown {what} {name!r}; "
        + (f"did you mean {meant!r}? " if meant else "")
        + f"known: {_listed(known)}"
    )


def _listed(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "none"

"""Config files as data with positions (YAML or JSON), and how a problem in one is told to the user."""

from __future__ import annotations

import difflib
import json
import re
import stat
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from common.errors import UserError
from common.yaml_nodes import MAX_DEPTH, Loader, TooLargeError, compose

ROOT = Path(__file__).resolve().parents[1]  # of the repository

Keys = tuple[str | int, ...]  # steps from the top of a file to a value: mapping keys and list indices
Line = int | Literal["--set"]

_STEP = re.compile(r'\.([^.\[\]]+)|\[(\d+)\]|\.?\[("(?:[^"\\]|\\.)*")\]')  # `.[` where paths are put together
_MIN_PATH_WIDTH = 19  # short reports line up with each other
_MAX_PATH_WIDTH = 80  # a longer path does not push the others' messages away


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


class ConfigError(UserError):
    """What is wrong with one config file: all problems at once, each once, in the order of the lines."""

    is_refusal = True

    def __init__(self, file: str | Path, problems: Iterable[Located]) -> None:
        self.file = file
        self.problems = sorted(dict.fromkeys(problems), key=_order)
        super().__init__(file, self.problems)

    def __str__(self) -> str:
        places = [_place(problem.line) for problem in self.problems]
        paths = [problem.path for problem in self.problems]
        place_width = max(map(len, places))
        path_width = (
            max(_MIN_PATH_WIDTH, *(len(path) for path in paths if len(path) <= 80), 0) if any(paths) else 0
        )
        lines = [f"{self.file}: {len(places)} problem{'s' if len(places) != 1 else ''}"]
        for place, path, problem in zip(places, paths, self.problems, strict=True):
            line = "  "
            if place_width:
                line += place.ljust(place_width) + "  "
            if path_width:
                line += path.ljust(path_width) + "  "
            lines.append(line + problem.message)
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


class PathTooLongError(ValueError):
    """A path with more steps than any config has levels."""


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


def parse_field(text: str) -> Keys:
    """The path of a field that a user names. Raises ValueError: no path; PathTooLongError."""
    keys = parse_path(text)
    if len(keys) > MAX_DEPTH:
        raise PathTooLongError(f"a path of {len(keys):,} steps; at most {MAX_DEPTH}")
    return keys


def closest(name: str, known: Iterable[str]) -> str | None:
    """Finds the known name that was probably meant (in whatever case); None if none is near."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Says that a key is no field, and which one was probably meant."""
    known = list(known)
    meant = closest(name, known)
    return f"unknown key; did you mean {meant!r}?" if meant else f"unknown key; known: {_listed(known)}"


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Says that a name is not registered; `what` says of which kind it is ("reward", "value")."""
    known = list(known)
    meant = closest(name, known)
    return (
        f"unknown {what} {name!r}; "
        + (f"did you mean {meant!r}? " if meant else "")
        + f"known: {_listed(known)}"
    )


def _listed(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "none"


_SUFFIXES = (".json", ".yml", ".yaml")
_MAP, _SEQ, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "merge"))
MAX_BYTES = 4 << 20  # of a file


@dataclass(frozen=True)
class Source:
    """A config file as read, with the overrides applied so far.

    lines: 1-based line of every mapping key and list item, "--set" for what an override gave.
    problems: duplicate keys and failed overrides; `raise_problems` reports them along with the model's.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[Keys, Line]
    problems: tuple[Located, ...] = ()


def find_shipped(path: str | Path) -> Path:
    """The path; where there is no such file here, that of the file of this name in the repository, if any.

    So do shipped configs and plans, which name each other by paths in the repository, serve in any folder.
    """
    shipped = ROOT / path
    return shipped if not Path(path).exists() and shipped.is_file() else Path(path)


def read_source(path: str | Path) -> Source:
    """Reads a .json, .yml or .yaml file whose top level is a mapping.

    Mapping keys are always text. Raises ConfigError if the file cannot be read or parsed at all.
    """
    path = find_shipped(path)
    text = _read_text(path)
    lines: dict[Keys, Line] = {}
    problems: list[Located] = []
    if not text.strip():
        raise ConfigError(path, [Located(None, "", "the file is empty")])
    try:
        data = (_read_json if path.suffix == ".json" else _read_yaml)(text, lines, problems)
    except json.JSONDecodeError as error:
        message = f"not valid JSON (column {error.colno}): {error.msg[0].lower()}{error.msg[1:]}"
        raise ConfigError(path, [Located(error.lineno, "", message)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, f" (column {mark.column + 1})") if mark else (None, "")
        # Of two documents in one file the context says what is wrong, else it says what was being read.
        reason = (
            error.context
            if isinstance(error, yaml.composer.ComposerError) and error.context
            else error.problem
        )
        raise ConfigError(path, [Located(line, "", f"not valid YAML{column}: {reason}")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not valid YAML: character {chr(error.character)!r} is not allowed"
        raise ConfigError(path, [Located(line, "", message)]) from None
    except RecursionError:
        raise ConfigError(
            path, [Located(None, "", "nested too deeply, or an alias that holds itself")]
        ) from None
    except ValueError as error:
        raise ConfigError(path, [Located(None, "", f"a value cannot be read: {error}")]) from None
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "nothing" if data is None else "a single value"
        raise ConfigError(
            path, [Located(1, "", f"expected a mapping of fields at the top of the file, got {kind}")]
        )
    return Source(path, data, lines, tuple(problems))


def _read_text(path: Path) -> str:
    def refuse(message: str, line: Line | None = None) -> ConfigError:
        return ConfigError(path, [Located(line, "", message)])

    try:
        if path.is_dir():
            raise refuse("is a folder; expected a .json, .yml or .yaml file")
        if not path.exists():
            if not path.parent.is_dir():
                raise refuse(f"no such file: there is no folder {str(path.parent)!r}")
            meant = closest(path.name, sorted(file.name for file in path.parent.iterdir() if file.is_file()))
            raise refuse("no such file" + (f"; did you mean {meant!r}?" if meant else ""))
        if path.suffix not in _SUFFIXES:
            raise refuse(f"unknown kind of file {path.suffix!r}; expected .json, .yml or .yaml")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise refuse("is no file but a pipe, a device or a socket")
        if status.st_size > MAX_BYTES:
            size, limit = (f"{number / 2**20:,.0f} MB" for number in (status.st_size, MAX_BYTES))
            raise refuse(f"too large for a config: {size}, at most {limit}")
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("not UTF-8 text", content.count(b"\n", 0, error.start) + 1) from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from None


def _duplicate(path: Keys, line: int, first: Line) -> Located:
    return Located(line, path_text(path), f"duplicate key; first given on line {first}")


def _read_json(text: str, lines: dict[Keys, Line], problems: list[Located]) -> Any:
    """`json.loads` gives the data and refuses bad syntax; a walk over the then good text gives the lines."""
    data = json.loads(text)
    decoder = json.JSONDecoder()
    starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
    blank = re.compile(r"[ \t\r\n]*")

    def skip(at: int) -> int:
        return blank.match(text, at).end()  # type: ignore[union-attr]  # matches anywhere

    def walk(at: int, keys: Keys) -> int:
        """Walks the value that starts at `at`, returns where it ends."""
        if len(keys) > MAX_DEPTH:
            raise RecursionError
        if text[at] not in "{[":
            end = decoder.raw_decode(text, at)[1]
            if text[at:end] in ("NaN", "Infinity", "-Infinity"):
                problems.append(
                    Located(bisect_right(starts, at), path_text(keys), f"{text[at:end]} is not valid JSON")
                )
            return end
        first: dict[str, int] = {}
        is_object, index = text[at] == "{", 0
        at = skip(at + 1)
        while text[at] not in "}]":
            line = bisect_right(starts, at)
            step: str | int = index
            if is_object:
                name, at = decoder.raw_decode(text, at)
                step, at = name, skip(skip(at) + 1)  # over the colon
                if name in first:
                    problems.append(_duplicate((*keys, name), line, first[name]))
                first.setdefault(name, line)
            lines[(*keys, step)] = line
            at = skip(walk(at, (*keys, step)))
            at, index = skip(at + 1) if text[at] == "," else at, index + 1
        return at + 1

    walk(skip(0), ())
    return data


def _read_yaml(text: str, lines: dict[Keys, Line], problems: list[Located]) -> Any:
    loader, node = compose(text)
    return None if node is None else _from_node(loader, node, (), lines, problems)


def _from_node(
    loader: Loader, node: yaml.Node, keys: Keys, lines: dict[Keys, Line], problems: list[Located]
) -> Any:
    """Builds the value of a node; an aliased one anew: no two places of the data share an object."""
    if node.tag == _MAP and isinstance(node, yaml.MappingNode):
        pairs = _pairs(loader, node, keys, problems)
        lines.update({(*keys, key): line for key, (line, _) in pairs.items()})
        return {
            key: _from_node(loader, child, (*keys, key), lines, problems) for key, (_, child) in pairs.items()
        }
    if node.tag == _SEQ and isinstance(node, yaml.SequenceNode):
        lines.update({(*keys, index): loader.item_lines[id(node), index] for index in range(len(node.value))})
        return [_from_node(loader, item, (*keys, i), lines, problems) for i, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def _pairs(
    loader: Loader, node: yaml.MappingNode, keys: Keys, problems: list[Located]
) -> dict[str, tuple[int, yaml.Node]]:
    """Lists key -> (its line, its value's node); keys of `<<` merges give way to the mapping's own."""
    pairs: dict[str, tuple[int, yaml.Node]] = {}
    merged: dict[str, tuple[int, yaml.Node]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
        if key.tag == _MERGE:
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(part, yaml.MappingNode):
                    raise yaml.MarkedYAMLError(problem="'<<' needs a mapping", problem_mark=key.start_mark)
                merged = _pairs(loader, part, keys, problems) | merged
        elif key.value in pairs:
            if id(key) not in loader.repeated:
                problems.append(_duplicate((*keys, key.value), line, pairs[key.value][0]))
            loader.repeated.add(id(key))
        else:
            pairs[key.value] = line, value
    return merged | pairs


def parse_value(text: str, problems: list[Located]) -> Any:
    """Reads a YAML scalar or flow collection; gives back other text, and what would be cut or nested."""
    try:
        loader, node = compose(text)
        as_written = isinstance(node, yaml.ScalarNode) and (
            node.style in ("'", '"') or node.value == text.strip()
        )
        if node is not None and (as_written or (isinstance(node, yaml.CollectionNode) and node.flow_style)):
            return _from_node(loader, node, (), {}, problems)
    except TooLargeError as error:
        problems.append(Located("--set", "", str(error.problem)))
    except (yaml.YAMLError, ValueError, RecursionError):
        pass  # a glob such as *.bin or a name such as {dataset}_{model} is no YAML
    return text


def locate(
    problems: Iterable[Problem], source: Source, origin: Mapping[Keys, Keys] | None = None
) -> list[Located]:
    """Puts problems at their places: the line of the path or of its nearest ancestor in the source, else 1.

    origin: for a dict put together from several places of the file, where its parts came from, as
    {path in the dict: path in the file}; the longest matching beginning counts, `()` is the dict itself.
    """
    located = []
    for problem in problems:
        keys = _longest(parse_path(problem.path), origin or {(): ()})
        line = next((source.lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in source.lines), 1)
        located.append(Located(line, path_text(keys), problem.message))
    return located


def _longest(keys: Keys, origin: Mapping[Keys, Keys]) -> Keys:
    for length in range(len(keys), -1, -1):
        if keys[:length] in origin:
            return origin[keys[:length]] + keys[length:]
    return keys


def raise_problems(source: Source, problems: Iterable[Located]) -> None:
    """Raises ConfigError with the source's own problems and these, if there are any."""
    all_problems = [*source.problems, *problems]
    if all_problems:
        raise ConfigError(source.path, all_problems)

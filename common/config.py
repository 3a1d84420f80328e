"""Config schemas: load, override, validate; every mistake of the user's in one readable error.

A schema is a `Config` subclass whose fields carry their meaning as `Field(description=...)`:

    config = load_config("run.yml", TrainConfig, overrides=["optimizer.lr=1e-3"])

For files whose parts are put together before they are validated (plans), the steps are there one by one:
`read_source`, `apply_overrides`, `validate`, `locate`, `raise_problems`.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from common.source import (
    ConfigError,
    Keys,
    Located,
    PathTooLongError,
    Problem,
    Source,
    closest,
    locate,
    parse_field,
    parse_path,
    parse_value,
    path_text,
    raise_problems,
    read_source,
    unknown_key,
    unknown_name,
)
from common.validation import (
    FieldError,
    field_errors,
    field_type,
    show,
)


def apply_overrides(source: Source, overrides: Iterable[str]) -> Source:
    """The source after `dotted.path=value` edits, in order; missing mappings on the way are made.

    List items are `a[0]` or `a.0`. An override that cannot be applied becomes a problem of the
    source, located as "--set".
    """
    data, lines, problems = copy.deepcopy(source.data), dict(source.lines), list(source.problems)
    for override in overrides:
        name, equals, text = override.partition("=")
        try:
            keys = parse_field(name.strip())
        except PathTooLongError as error:
            problems.append(Located("--set", f"{name.strip():.60}...", str(error)))
            continue
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
        for problem in inner:  # on lines of the value, which it has none of
            message = problem.message.partition("; first given")[0]
            problems.append(Located("--set", path_text(keys + parse_path(problem.path)), message))
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


__all__ = [
    "Config",
    "ConfigError",
    "Keys",
    "Located",
    "Problem",
    "Source",
    "add_config_arguments",
    "apply_overrides",
    "closest",
    "field_problems",
    "load_config",
    "locate",
    "parse_field",
    "parse_path",
    "path_text",
    "raise_problems",
    "read_source",
    "unknown_key",
    "unknown_name",
    "validate",
]


class Config(BaseModel):
    """Base of all schemas: immutable, no unknown fields, no conversion but of whole numbers to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def check(self) -> list[Problem]:
        """Problems between valid fields, at the field to change; nested configs check themselves."""
        return []


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(path: str | Path, model: type[ConfigT], overrides: Iterable[str] = ()) -> ConfigT:
    """The config in a file after `dotted.path=value` overrides. Raises ConfigError with all problems."""
    source = apply_overrides(read_source(path), overrides)
    config, problems = validate(model, source.data)
    raise_problems(source, locate(problems, source))
    assert config is not None  # it is only None with problems
    return config


def validate(model: type[ConfigT], data: Mapping[str, Any]) -> tuple[ConfigT | None, list[Problem]]:
    """The model of the data, or None and all problems.

    The problems are the errors of single fields and, as far as they can be known without those, what
    `Config.check` returns.
    """
    try:
        config = model.model_validate(data)
    except ValidationError as error:
        errors = field_errors(error, model)
        problems = [Problem(path_text(e.keys), e.message) for e in errors]
        return None, list(dict.fromkeys(problems + _check_without(errors, model, data)))
    problems = list(_check(config))
    return (None if problems else config), problems


def field_problems(model: type[Config], data: Mapping[str, Any]) -> list[Problem]:
    """The errors of single fields alone."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [Problem(path_text(e.keys), e.message) for e in field_errors(error, model)]
    return []


def _check(value: Any, keys: Keys = ()) -> Iterator[Problem]:
    """Problems that `check` of this config and of all configs inside it returns."""
    if isinstance(value, Config):
        for problem in _check_fields(value):
            yield Problem(path_text(keys + parse_path(problem.path)), problem.message)
        for name in type(value).model_fields:
            yield from _check(getattr(value, name), (*keys, name))
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _check(item, (*keys, key))


def _check_fields(config: Config) -> list[Problem]:
    """What `check` returns; a path that cannot even be looked up is a problem of the field that names it."""
    try:
        return config.check()
    except (OSError, RuntimeError) as error:  # a name of 300 letters; ~nobody
        path = getattr(error, "filename", None)
        is_named = "~" if path is None else str(path)
        texts = {n: v for n in type(config).model_fields if isinstance(v := getattr(config, n), str) and v}
        fields = [name for name, text in texts.items() if text in is_named or text.startswith(is_named)]
        if not fields:
            raise
        return [Problem(fields[0], f"{show(texts[fields[0]])}: {getattr(error, 'strerror', None) or error}")]


def _check_without(errors: list[FieldError], model: type[Config], data: Mapping[str, Any]) -> list[Problem]:
    """Cross-field problems of what remains without the invalid values, whose fields take their defaults.

    A misspelt field counts under the name it was meant to have. Problems at an invalid field are left out,
    and those whose message names one: they may come from its default.
    """
    rest: dict[str, Any] = copy.deepcopy(dict(data))
    invalid: set[Keys] = set()
    problems: list[Problem] = []
    while True:
        removed = {keys: e.suggestion for e in errors if (keys := _removable(rest, e.keys))}
        invalid.update(removed, (e.keys for e in errors if e.keys))
        for keys, suggestion in removed.items():
            parent = _mapping_at(rest, keys[:-1])
            value = parent.pop(keys[-1], None)
            if suggestion and suggestion not in parent:
                parent[suggestion] = value
                invalid.add((*keys[:-1], suggestion))
        try:
            problems = list(_check(model.model_validate(rest)))
            break
        except ValidationError as error:
            errors = field_errors(error, model)
            if not any(_removable(rest, e.keys) for e in errors):  # only required fields are missing
                for name in rest.keys() & model.model_fields.keys():
                    adapter = TypeAdapter[Any](field_type(model.model_fields[name]))
                    problems += _check(adapter.validate_python(rest[name]), (name,))
                break
    names = {[key for key in keys if isinstance(key, str)][-1] for keys in invalid}
    return [
        problem
        for problem in problems
        if not any(parse_path(problem.path)[: len(keys)] == keys for keys in invalid)
        and names.isdisjoint(re.findall(r"\w+", problem.message))
    ]


def _removable(data: dict[str, Any], keys: Keys) -> Keys:
    """The innermost mapping key of the data on the way to `keys`: a list is taken as a whole."""
    while keys and keys[-1] not in _mapping_at(data, keys[:-1]):
        keys = keys[:-1]
    return keys


def _mapping_at(data: Any, keys: Keys) -> dict[str | int, Any]:
    """The mapping at `keys`, empty if there is none."""
    for key in keys:
        if isinstance(data, dict):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return {}
    return data if isinstance(data, dict) else {}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --set (as `overrides`), --check and --list_fields."""
    group = parser.add_argument_group("config")
    group.add_argument(
        "--set",
        dest="overrides",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="set a field of the config before it is checked (repeatable): its dotted path, and a value as "
        "in YAML, such as --set optimizer.lr=1e-3 --set layers[0].size=64 --set 'sizes=[1, 2]'",
    )
    group.add_argument(
        "--check",
        action="store_true",
        help="check the config, print it with all defaults and the derived sizes, exit",
    )
    group.add_argument(
        "--list_fields",
        nargs="?",
        const="",
        metavar="PART",
        help="list every field of the config with type, default, meaning, or those of a part (alg.args, or "
        "a name such as grpo), and exit",
    )

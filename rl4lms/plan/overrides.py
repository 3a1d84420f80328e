"""`--set` for a plan: a field of the config files goes to the configurations that it is meant for."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from common.config import ConfigError, Keys, Located, Source, parse_path, path_text, read_source, unknown_key
from rl4lms.plan.expand import kind_of
from rl4lms.plan.schema import FIELDS, Plan

Files = dict[str, Source | ConfigError]


def config_files(data: dict[str, Any]) -> Files:
    """The config files that a plan's data names, or why one cannot be read; each is read once."""
    files: Files = {}
    for configuration in _configurations(data):
        path = configuration.get("config_path")
        if isinstance(path, str) and path not in files:
            try:
                files[path] = read_source(path)
            except ConfigError as error:
                files[path] = error
    return files


def spread_overrides(
    source: Source, files: Files, overrides: Iterable[str]
) -> tuple[Source, list[str], list[Located]]:
    """Overrides of fields of the config files, written out for each configuration that they are meant for.

    Returns the source, from whose options overridden fields are taken, all overrides as those of the plan
    file, and the problems. A list of values becomes options.
    """
    source = replace(source, data=copy.deepcopy(source.data))
    configurations = _configurations(source.data)
    names = {str(configuration.get("name")): i for i, configuration in enumerate(configurations)}
    plain: dict[str, str] = {}  # by what they set: the last one counts
    problems: list[Located] = []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        try:
            keys = parse_path(dotted.strip())
        except ValueError:
            keys = ()
        if not equals or not keys or keys[0] in Plan.model_fields:
            plain[dotted] = override  # with what is wrong with it
            continue
        if keys[0] in names:
            targets, keys = [names[str(keys[0])]], keys[1:]
        else:
            targets = [i for i, c in enumerate(configurations) if _has_place_for(keys, _file_of(files, c))]
        if not keys or keys[0] not in FIELDS or not targets:
            problems.append(Located("--set", dotted.strip(), _not_understood(keys, names)))
            continue
        for i in targets:
            in_file = _at(_file_of(files, configurations[i]), keys)
            part = (
                "options"
                if value.strip().startswith("[") and not isinstance(in_file, list)
                else "base_config"
            )
            for other in ("base_config", "options"):
                plain.pop(_place(i, other, keys), None)
                if isinstance(values := configurations[i].get(other), dict):
                    values.pop(path_text(keys), None)
            plain[_place(i, part, keys)] = f"{_place(i, part, keys)}={value}"
    return source, list(plain.values()), problems


def _configurations(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of a plan's data, as far as they can be made out."""
    found = data.get("configurations")
    found = found if isinstance(found, list) else []
    return [configuration if isinstance(configuration, dict) else {} for configuration in found]


def _place(configuration: int, part: str, keys: Keys) -> str:
    """Path of a dotted field in the plan file."""
    return path_text(("configurations", configuration, part, path_text(keys)))


def _file_of(files: Files, configuration: dict[str, Any]) -> Source | None:
    file = files.get(str(configuration.get("config_path")))
    return file if isinstance(file, Source) else None


def _has_place_for(keys: Keys, file: Source | None) -> bool:
    """Whether a config file has the block that a field is in; `runtime` is a block of all, given or not."""
    if file is None or keys[0] not in kind_of(file).model_fields:
        return False
    if keys[0] == "runtime":
        runtime = kind_of(file).model_fields["runtime"].get_default()
        return len(keys) == 2 and keys[1] in type(runtime).model_fields
    return isinstance(_at(file, keys[:-1]), dict)


def _at(file: Source | None, keys: Keys) -> Any:
    """What a config file has at `keys`, None if nothing."""
    value: Any = None if file is None else file.data
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _not_understood(keys: Keys, names: Iterable[str]) -> str:
    """What is wrong with an override that is meant for no configuration."""
    if keys and keys[0] in FIELDS:
        field = path_text(keys)
        return f"no config file of the plan has its block; for one configuration: NAME.{field}=..."
    return unknown_key(str(keys[0]) if keys else "", [*Plan.model_fields, *names, *sorted(FIELDS)])

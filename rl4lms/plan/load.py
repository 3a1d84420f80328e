"""Reading a plan file: `--set`, experiments, and every mistake at once, before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config import (
    ConfigError,
    Keys,
    Located,
    Source,
    apply_overrides,
    locate,
    parse_path,
    path_text,
    raise_problems,
    read_source,
    unknown_key,
    validate,
)
from rl4lms.config import ExtractConfig
from rl4lms.plan.expand import Draft, Place, expand, kind_of, of_file
from rl4lms.plan.schema import FIELDS, LoadedPlan, Plan

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


def load_plan(path: str | Path, overrides: Iterable[str] = ()) -> LoadedPlan:
    """Read, override, expand and check a plan file, before anything heavy is imported.

    overrides: `field=value`, of the plan, of one configuration (`ppo.alg.args.learning_rate=1e-5`), or of all
    whose config file has the block of the field; a list of values becomes options. Raises ConfigError with
    all problems.
    """
    source = read_source(path)
    files = config_files(source.data)
    source, plain, located = spread_overrides(source, files, overrides)
    source = apply_overrides(source, plain)
    plan, problems = validate(Plan, source.data)
    located += locate(problems, source)
    if plan is None:
        raise_problems(source, located)
        raise AssertionError("a plan that does not validate has problems")

    files = config_files(source.data)
    drafts: dict[str, list[list[Draft]]] = {}
    kinds: dict[str, Any] = {}
    for i, configuration in enumerate(plan.configurations):
        file = files[configuration.config_path]
        if isinstance(file, ConfigError):
            located += of_file(source, i, configuration.config_path, file.problems)
            continue
        place = Place(source, i, configuration, file, kind_of(file))
        located += of_file(source, i, configuration.config_path, file.problems)
        for start in configuration.starts:
            if kinds.get(start) is ExtractConfig:
                message = f"{start!r} is an extraction, which leaves no model"
                located += place.located(("model_from",), message)
        starts = [of_start for start in configuration.starts for of_start in drafts.get(start, [])]
        repetitions = configuration.repetitions or plan.repetitions
        drafts[configuration.name], problems_of = expand(place, repetitions, starts)
        located += problems_of
        kinds[configuration.name] = place.kind
    raise_problems(source, located)
    found = [
        draft.experiment
        for settings in drafts.values()
        for of in settings
        for draft in of
        if draft.experiment
    ]
    names = [experiment.name for experiment in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        message = f"several experiments are called {', '.join(repeated)}: tell them apart by experiment_name"
        raise_problems(source, [Located(source.lines.get(("configurations",), 1), "configurations", message)])
    notices = [f"{e.configuration}: {notice}" for e in found for notice in e.config.notices()]
    return LoadedPlan(plan, found, list(dict.fromkeys(notices)))

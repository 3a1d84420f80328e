"""Reading a plan file: `--set`, experiments, and every mistake at once, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from common.config import (
    ConfigError,
    Keys,
    Located,
    Problem,
    Source,
    locate,
    path_text,
    raise_problems,
    read_source,
    unknown_key,
)
from common.plan import Target, check_plan, configurations_in, expand, overridden_base
from rl4lms.config import ExtractConfig
from rl4lms.plan.expand import (
    Draft,
    Entry,
    Kind,
    check_overridden,
    choose_kind,
    locate_in_file,
    make_draft,
    value_at,
)
from rl4lms.plan.metric_names import check_score_metric
from rl4lms.plan.schema import FIELDS, LoadedPlan, Plan

Files = dict[str, Source | ConfigError]


def load_plan(path: str | Path, overrides: Iterable[str] = ()) -> LoadedPlan:
    """Read, override, expand and check a plan file, before anything heavy is imported.

    overrides: `field=value`, of the plan, of one configuration (`ppo.alg.args.learning_rate=1e-5`), or of all
    whose config file has the block of the field; a list of values becomes options. Raises ConfigError with
    all problems.
    """
    source = read_source(path)
    plan, source, located = check_plan(source, overrides, Plan, partial(_targets, source.data, {}))
    settings, problems = _expand_all(plan, source)
    raise_problems(source, located + problems)
    experiments = [draft.experiment for drafts in settings for draft in drafts if draft.experiment]
    names = [experiment.name for experiment in experiments]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        message = f"several experiments are called {', '.join(repeated)}: tell them apart by experiment_name"
        raise_problems(source, [Located(source.lines.get(("configurations",), 1), "configurations", message)])
    if problem := check_score_metric(plan.score_metric_name, [e.config for e in experiments]):
        raise_problems(source, locate([Problem("score_metric_name", problem)], source))
    notices = [f"{e.configuration}: {notice}" for e in experiments for notice in e.config.notices()]
    return LoadedPlan(plan, experiments, list(dict.fromkeys(notices)))


def _expand_all(plan: Plan, source: Source) -> tuple[list[list[Draft]], list[Located]]:
    """The settings of all configurations in their order, and all problems."""
    files: Files = {}
    settings: dict[str, list[list[Draft]]] = {}
    kinds: dict[str, Kind] = {}
    located: list[Located] = []
    for i, configuration in enumerate(plan.configurations):
        file = _read_file(files, configuration.config_path)
        located += locate_in_file(source, i, configuration.config_path, file.problems)
        if isinstance(file, ConfigError):
            continue
        entry = Entry(source, i, configuration, file, choose_kind(file))
        settings[configuration.name], kinds[configuration.name] = [], entry.kind
        repetitions = configuration.repetitions or plan.repetitions
        starts = []
        for name in configuration.starts:
            starts += settings.get(name, [])
            if kinds.get(name) is ExtractConfig:
                message = f"{name!r} is an extraction, which leaves no model"
                located += entry.locate(("model_from",), message)
        if too_few := [start for start in starts if 1 < len(start) < repetitions]:
            name, number = too_few[0][0].setting, len(too_few[0])
            message = f"{repetitions} repetitions cannot start from the {number} of {name}"
            located += entry.locate(("model_from",), message)
            continue
        drafts = expand(i, configuration, partial(make_draft, entry), repetitions, starts)
        located += [problem for setting in drafts for draft in setting for problem in draft.problems]
        if (choice := overridden_base(i, configuration)) is not None:
            located += check_overridden(entry, choice)
        settings[configuration.name] = drafts
    return [setting for drafts in settings.values() for setting in drafts], located


def _read_file(files: Files, path: str) -> Source | ConfigError:
    """A config file of the plan, or why it cannot be read; each is read once."""
    if path not in files:
        try:
            files[path] = read_source(path)
        except ConfigError as error:
            files[path] = error
    return files[path]


def _targets(data: dict[str, Any], files: Files, keys: Keys) -> list[Target] | Located:
    """The field that `--set` sets: in the configurations that have its block, or in a named one."""
    configurations = configurations_in(data)
    names = {str(configuration.get("name")): i for i, configuration in enumerate(configurations)}
    sources = [_find_source(configuration, files) for configuration in configurations]
    if keys[0] in names:
        chosen, field = [names[str(keys[0])]], keys[1:]
    else:
        chosen, field = [i for i, file in enumerate(sources) if _has_place_for(keys, file)], keys
    if field and field[0] in FIELDS and chosen:
        name = (path_text(field),)
        return [Target(i, name, isinstance(_value(sources[i], field), list)) for i in chosen]
    if field and field[0] in FIELDS:
        message = (
            f"no config file of the plan has its block; for one configuration: NAME.{path_text(field)}=..."
        )
    else:
        known = [*Plan.model_fields, *names, *sorted(FIELDS)]
        message = unknown_key(str(field[0]) if field else "", known)
    return Located("--set", path_text(keys), message)


def _find_source(configuration: dict[str, Any], files: Files) -> Source | None:
    path = configuration.get("config_path")
    file = _read_file(files, path) if isinstance(path, str) else None
    return file if isinstance(file, Source) else None


def _has_place_for(keys: Keys, file: Source | None) -> bool:
    """Whether a config file has the block that a field is in; `runtime` is a block of all, given or not."""
    if file is None or keys[0] not in choose_kind(file).model_fields:
        return False
    if keys[0] == "runtime":
        runtime = choose_kind(file).model_fields["runtime"].get_default()
        return len(keys) == 2 and keys[1] in type(runtime).model_fields
    return isinstance(_value(file, keys[:-1]), dict)


def _value(file: Source | None, keys: Keys) -> Any:
    """What a config file has at `keys`, None if nothing."""
    return None if file is None else value_at(file.data, keys)

"""Reading a plan file: overrides, experiments, and every mistake at once, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.config import (
    ConfigError,
    Located,
    apply_overrides,
    locate,
    raise_problems,
    read_source,
    validate,
)
from rl4lms.config import ExtractConfig
from rl4lms.plan.expand import Draft, Place, expand, kind_of, of_file
from rl4lms.plan.overrides import config_files, spread_overrides
from rl4lms.plan.schema import LoadedPlan, Plan


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

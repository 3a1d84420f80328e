"""From one configuration of a plan to its named experiments, or to what is wrong with them and where."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.config import (
    Keys,
    Located,
    Problem,
    Source,
    field_problems,
    locate,
    parse_path,
    path_text,
    set_value,
    validate,
)
from common.plan import BraceError, Choice, fill_braces, locate_in_choice
from common.source import parse_value
from rl4lms.config import ExtractConfig, TrainConfig
from rl4lms.plan.schema import Configuration, Experiment


def short_names(fields: Iterable[str]) -> dict[str, str]:
    """Dotted field -> its last part, or its last two, ..., as many as tell it from the others."""
    parts = {path: [str(key) for key in parse_path(path)] for path in fields}
    names = {}
    for path, keys in parts.items():
        others = [other for name, other in parts.items() if name != path]
        length = 1
        while length < len(keys) and any(other[-length:] == keys[-length:] for other in others):
            length += 1
        names[path] = "_".join(keys[-length:])
    return names


def folder_name(text: str) -> str:
    """Text that can name a folder: 0.1 becomes 0-1, brackets and spaces go."""
    return re.sub(r"[^\w+-]", "-", re.sub(r"[\[\]{}() '\"]", "", text))


LONGEST_NAME = 120  # of a folder: files with at most 255 bytes have names that begin with it
Kind = type[TrainConfig] | type[ExtractConfig]


@dataclass(frozen=True)
class Entry:
    """A configuration in the plan file, with the config file that it names."""

    plan: Source
    index: int
    configuration: Configuration
    file: Source
    kind: Kind

    def locate(self, keys: Keys, message: str) -> list[Located]:
        """A problem at `keys` of the configuration."""
        return locate([Problem(path_text(("configurations", self.index, *keys)), message)], self.plan)


@dataclass(frozen=True)
class Draft:
    """An experiment before all of the plan is known to be valid.

    model: what the first of the experiments that it builds on starts from. experiment: None if not valid.
    """

    setting: str
    model: str
    experiment: Experiment | None
    problems: list[Located]


def choose_kind(file: Source) -> Kind:
    """Whether a config file is of an extraction or of a training."""
    return ExtractConfig if "evaluation" in file.data and "train_evaluation" not in file.data else TrainConfig


@dataclass
class _Merged:
    """The data of a config file with a plan's values over it. keys: of each field that the plan sets."""

    data: dict[str, Any]
    model_field: Keys
    keys: dict[str, Keys] = field(default_factory=dict)
    problems: list[Located] = field(default_factory=list)


def make_draft(entry: Entry, choice: Choice, repetition: int, start: Draft | None) -> Draft:
    """The experiment of a choice of options, of a repetition, and of what it starts from."""
    merged = _merge(entry, choice, start)
    runtime = merged.data.get("runtime") or {}
    seed = runtime.get("seed", 0) if isinstance(runtime, dict) else 0
    if isinstance(seed, int) and isinstance(runtime, dict):
        seed += repetition
        merged.data["runtime"] = {**runtime, "seed": seed}
    model = value_at(merged.data, merged.model_field)
    suffix, setting = _name(entry, merged, choice, model, start)
    config, problems = validate(entry.kind, merged.data)
    located = merged.problems
    for problem in problems:
        located += _locate(entry, merged, choice, problem, start)
    if config is None or located:
        return Draft(setting, str(model), None, located)
    experiment = Experiment(
        f"{setting}_seed_{config.runtime.seed}",
        setting,
        repetition,
        config,
        entry.configuration.name,
        suffix,
        choice.values,
        start.experiment if start is not None else None,
    )
    return Draft(setting, str(model), experiment, [])


def _merge(entry: Entry, choice: Choice, start: Draft | None) -> _Merged:
    """The config file's data with base_config, the chosen options and the model to start from."""
    data = copy.deepcopy(entry.file.data)
    algorithm = choice.values.get("alg.id", value_at(data, ("alg", "id")))
    named_directly = entry.kind is ExtractConfig or algorithm in ("supervised", "reward_model")
    model_field = "alg.model_name" if named_directly else "alg.policy.args.model_name"
    merged = _Merged(data, parse_path(model_field))
    for name, value in choice.values.items():
        try:
            merged.keys[name] = set_value(data, parse_path(name), copy.deepcopy(value))
        except (ValueError, LookupError) as error:
            merged.problems += _locate_field(entry, choice, name, str(error.args[0]))
    if entry.configuration.starts and model_field in choice.values:
        message = f"is given by model_from: {', '.join(entry.configuration.starts)}"
        merged.problems += _locate_field(entry, choice, model_field, message)
    elif start is not None:
        set_value(data, merged.model_field, start.model)
    return merged


def _name(entry: Entry, merged: _Merged, choice: Choice, model: Any, start: Draft | None) -> tuple[str, str]:
    """Fill in the braces of the plan's values; returns the experiment's suffix and setting."""
    configuration = entry.configuration
    short = short_names(configuration.options)
    before = start.setting if start is not None else folder_name(str(model).rstrip("/").rpartition("/")[2])
    names = {"model": before, "name": configuration.name}
    names |= {short[name]: value for name, value in choice.options.items()}
    suffix = folder_name(
        "_".join([configuration.name, *(f"{short[name]}_{value}" for name, value in choice.options.items())])
    )
    setting = suffix if start is None else f"{start.setting}_{suffix}"
    for name, keys in merged.keys.items():
        value = choice.values[name]
        if isinstance(value, str) and ("{" in value or "}" in value):
            try:
                text = fill_braces(value, names, merged.data)
                set_value(merged.data, keys, parse_value(text, []))
            except BraceError as error:
                merged.problems += _locate_field(entry, choice, name, str(error))
    if configuration.experiment_name:
        try:
            setting = folder_name(fill_braces(configuration.experiment_name, names, merged.data))
        except BraceError as error:
            merged.problems += entry.locate(("experiment_name",), str(error))
    if len(setting) > LONGEST_NAME:
        message = f"makes a folder's name of {len(setting)} characters: give a shorter experiment_name"
        merged.problems += entry.locate(("name",), message)
    return suffix, setting


def _locate_field(entry: Entry, choice: Choice, name: str, message: str) -> list[Located]:
    """A problem at the value that the plan gives a field."""
    return locate([Problem(path_text(choice.places[name]), message)], entry.plan)


def _locate(
    entry: Entry, merged: _Merged, choice: Choice, problem: Problem, start: Draft | None
) -> list[Located]:
    """A problem of the config at what the plan sets, or at the plan's config_path if it lies in that file."""
    keys = parse_path(problem.path)
    if entry.configuration.starts and keys == merged.model_field:
        is_valid = start is not None and start.experiment is not None
        return entry.locate(("model_from",), problem.message) if is_valid else []  # else the start's own
    origin = {keys: choice.places[name] for name, keys in merged.keys.items()}
    origin |= _made_blocks(entry.file.data, merged, keys, choice)
    if any(keys[:length] in origin for length in range(len(keys) + 1)):
        return locate_in_choice(problem, entry.plan, origin)
    path = entry.configuration.config_path
    return locate_in_file(entry.plan, entry.index, path, locate([problem], entry.file))


def _made_blocks(data: Any, merged: _Merged, keys: Keys, choice: Choice) -> dict[Keys, Keys]:
    """The block on the way to `keys` that the config file does not have: the first field in it made it."""
    for length in range(1, len(keys) + 1):
        if has_place(data, keys[:length]):
            continue
        makers = [name for name, made in merged.keys.items() if made[:length] == keys[:length]]
        return {keys[:length]: choice.places[makers[0]]} if makers else {}
    return {}


def check_overridden(entry: Entry, choice: Choice) -> list[Located]:
    """Values of base_config that no experiment can have, though options replace them all."""
    merged = _merge(entry, choice, None)
    _name(entry, merged, choice, None, None)
    names = entry.configuration.base_config.keys() & choice.options.keys()
    origin = {merged.keys[name]: choice.places[name] for name in names if name in merged.keys}
    return [
        place
        for problem in field_problems(entry.kind, merged.data)
        if any(parse_path(problem.path)[: len(keys)] == keys for keys in origin)
        for place in locate_in_choice(problem, entry.plan, origin)
    ]


def locate_in_file(plan: Source, index: int, path: str, problems: Sequence[Located]) -> list[Located]:
    """Problems of a config file, at the config_path of the plan's configuration."""
    located = []
    for problem in problems:
        line = "" if problem.line is None else f" line {problem.line}"
        where = f"{path}{line}" + (f", {problem.path}" if problem.path else "")
        config_path = path_text(("configurations", index, "config_path"))
        located += locate([Problem(config_path, f"{where}: {problem.message}")], plan)
    return located


def has_place(data: Any, keys: Keys) -> bool:
    """Whether the data has `keys`, with whatever value but null, in place of which a block can be made."""
    for key in keys:
        if isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data is not None


def value_at(data: Any, keys: Keys) -> Any:
    """The value at `keys`, None if there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data

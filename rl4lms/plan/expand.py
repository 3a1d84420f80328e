"""From one configuration of a plan to its named experiments, or to what is wrong with them and where."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from common.config import Keys, Located, Problem, Source, locate, parse_path, path_text, set_value, validate
from common.errors import UserError
from common.plan import choices
from common.source import parse_value
from rl4lms.config import ExtractConfig, TrainConfig
from rl4lms.plan.schema import Configuration, Experiment


class BraceError(UserError):
    """Text whose braces cannot be filled in; the message is for the user."""


def filled(text: str, config: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """`text` with its {braces} filled in by dotted fields of the config and by other names.

    Raises BraceError.
    """
    try:
        return text.format(**{**{key: _attributes(value) for key, value in config.items()}, **names})
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        absent = error.args[0] if isinstance(error, KeyError) else getattr(error, "name", None)
        reason = f"no field {absent!r}" if absent else str(error)
        raise BraceError(f"cannot fill in the braces of {text!r}: {reason}") from None


def _attributes(value: Any) -> Any:
    """A value whose mappings are read by attribute, as str.format does in {a.b}."""
    if isinstance(value, dict):
        return SimpleNamespace(**{str(key): _attributes(item) for key, item in value.items()})
    return [_attributes(item) for item in value] if isinstance(value, list) else value


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
class Place:
    """A configuration in the plan file, with the config file that it names."""

    plan: Source
    index: int
    configuration: Configuration
    file: Source
    kind: Kind

    def located(self, keys: Keys, message: str) -> list[Located]:
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


def kind_of(file: Source) -> Kind:
    """Whether a config file is of an extraction or of a training."""
    return ExtractConfig if "evaluation" in file.data and "train_evaluation" not in file.data else TrainConfig


def expand(
    place: Place, repetitions: int, starts: Sequence[Sequence[Draft]]
) -> tuple[list[list[Draft]], list[Located]]:
    """The drafts of each setting of a configuration, one for each repetition, and all problems.

    starts: likewise those of its `model_from`.
    """
    settings: list[list[Draft]] = []
    located: list[Located] = []
    for of_start in starts or [[]]:
        if 1 < len(of_start) < repetitions:
            message = (
                f"{repetitions} repetitions cannot start from the {len(of_start)} of {of_start[0].setting}"
            )
            return [], place.located(("model_from",), message)
        for choice in choices(place.configuration.options):
            drafts = []
            for repetition in range(repetitions):
                start = of_start[min(repetition, len(of_start) - 1)] if of_start else None
                draft, problems = _draft(place, choice, repetition, start)
                drafts.append(draft)
                located += problems
            settings.append(drafts)
    return settings, located


@dataclass
class _Merged:
    """The data of a config file with a plan's values over it.

    origin, keys: of each dotted field that the plan sets, where in the configuration and where in the data.
    """

    data: dict[str, Any]
    changes: dict[str, Any]
    origin: dict[str, Keys]
    model_field: str
    keys: dict[str, Keys] = field(default_factory=dict)
    problems: list[tuple[Keys, str]] = field(default_factory=list)  # where in the configuration, message


def _draft(
    place: Place, choice: dict[str, tuple[int, Any]], repetition: int, start: Draft | None
) -> tuple[Draft, list[Located]]:
    configuration = place.configuration
    merged = _merge(place, choice, start)
    runtime = merged.data.get("runtime") or {}
    seed = runtime.get("seed", 0) if isinstance(runtime, dict) else 0
    if isinstance(seed, int) and isinstance(runtime, dict):
        seed += repetition
        merged.data["runtime"] = {**runtime, "seed": seed}
    model = _at(merged.data, parse_path(merged.model_field))
    own, setting = _fill_in(
        configuration, merged, {f: value for f, (_, value) in choice.items()}, model, start
    )
    config, problems = validate(place.kind, merged.data)
    located = [found for keys, message in merged.problems for found in place.located(keys, message)]
    for problem in problems:
        located += _located(place, merged, problem, start)
    if config is None or located:
        return Draft(setting, str(model), None), located
    experiment = Experiment(
        configuration.name,
        setting,
        own,
        repetition,
        config,
        merged.changes,
        start.experiment if start is not None else None,
    )
    return Draft(setting, str(model), experiment), []


def _merge(place: Place, choice: dict[str, tuple[int, Any]], start: Draft | None) -> _Merged:
    """The config file's data with base_config, the chosen options and the model to start from."""
    base = place.configuration.base_config
    data = copy.deepcopy(place.file.data)
    changes = base | {name: value for name, (_, value) in choice.items()}
    origin: dict[str, Keys] = {name: ("base_config", name) for name in base}
    origin |= {name: ("options", name, number) for name, (number, _) in choice.items()}
    algorithm = changes.get("alg.id", _at(data, ("alg", "id")))
    supervised = place.kind is ExtractConfig or algorithm == "supervised"
    merged = _Merged(data, changes, origin, "alg.model_name" if supervised else "alg.policy.args.model_name")
    for name, value in changes.items():
        try:
            merged.keys[name] = set_value(data, parse_path(name), copy.deepcopy(value))
        except (ValueError, LookupError) as error:
            merged.problems.append((origin[name], str(error.args[0])))
    if place.configuration.starts and merged.model_field in changes:
        message = f"is given by model_from: {', '.join(place.configuration.starts)}"
        merged.problems.append((origin[merged.model_field], message))
    elif start is not None:
        set_value(data, parse_path(merged.model_field), start.model)
    return merged


def _fill_in(
    configuration: Configuration, merged: _Merged, chosen: dict[str, Any], model: Any, start: Draft | None
) -> tuple[str, str]:
    """Fill in the braces of the plan's values; returns the experiment's own name, and its setting."""
    short = short_names(configuration.options)
    before = start.setting if start is not None else folder_name(str(model).rstrip("/").rpartition("/")[2])
    names = {"model": before, "name": configuration.name} | {short[f]: value for f, value in chosen.items()}
    own = folder_name("_".join([configuration.name, *(f"{short[f]}_{value}" for f, value in chosen.items())]))
    setting = own if start is None else f"{start.setting}_{own}"
    for name, keys in merged.keys.items():
        value = merged.changes[name]
        if isinstance(value, str) and ("{" in value or "}" in value):
            try:
                text = filled(value, merged.data, names)
                set_value(merged.data, keys, parse_value(text, []))
            except BraceError as error:
                merged.problems.append((merged.origin[name], str(error)))
    if configuration.experiment_name:
        try:
            setting = folder_name(filled(configuration.experiment_name, merged.data, names))
        except BraceError as error:
            merged.problems.append((("experiment_name",), str(error)))
    if len(setting) > LONGEST_NAME:
        message = f"makes a folder's name of {len(setting)} characters: give a shorter experiment_name"
        merged.problems.append((("name",), message))
    return own, setting


def _located(place: Place, merged: _Merged, problem: Problem, start: Draft | None) -> list[Located]:
    """A problem of the config at what the plan sets, or at the plan's config_path if it lies in that file."""
    keys = parse_path(problem.path)
    if place.configuration.starts and keys == parse_path(merged.model_field):
        known = start is not None and start.experiment is not None
        return place.located(("model_from",), problem.message) if known else []  # else the start's own
    set_by = [name for name, own in merged.keys.items() if keys[: len(own)] == own]
    if set_by:
        name = max(set_by, key=lambda name: len(merged.keys[name]))
        origin = merged.origin[name]
        if problem.message.startswith("unknown key"):  # one problem, not one for each of its values
            origin = origin[:2]
        return place.located(origin + keys[len(merged.keys[name]) :], problem.message)
    return of_file(place.plan, place.index, place.configuration.config_path, locate([problem], place.file))


def of_file(plan: Source, index: int, path: str, problems: Sequence[Located]) -> list[Located]:
    """Problems of a config file, at the config_path of the plan's configuration."""
    found = []
    for problem in problems:
        line = "" if problem.line is None else f" line {problem.line}"
        where = f"{path}{line}" + (f", {problem.path}" if problem.path else "")
        found.append(
            Problem(path_text(("configurations", index, "config_path")), f"{where}: {problem.message}")
        )
    return locate(found, plan)


def _at(data: Any, keys: Keys) -> Any:
    """The value at `keys`, None if there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data

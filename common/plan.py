"""Plans: files of value lists that expand to experiments; one mechanism for every kind of job.

A kind of plan (`sft_vs_rft.plan`, `rl4lms.plan`) has its schema, a PlanSettings whose configurations hold
`base_config` and `options`, and makes the config of one experiment from one choice of the options. The rest
is here: `--set`, expansion, where a problem stands in the file, text in braces.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType, SimpleNamespace
from typing import Annotated, Any, Generic, Protocol, TypeVar

from pydantic import Field

from common import limits
from common.config import (
    Config,
    Keys,
    Located,
    Problem,
    Source,
    apply_overrides,
    locate,
    parse_field,
    path_text,
    raise_problems,
    validate,
)
from common.errors import UserError
from common.limits import at_most
from common.slurm_options import ExecutorConfig


class PlanSettings(Config):
    """How the experiments of a plan are run."""

    name: str = Field("plan", description="shown in logs and bars")
    description: str = Field("", description="for the reader")
    repetitions: Annotated[int, Field(ge=1)] = Field(1, description="times that each experiment is run")
    multiprocess: bool = Field(False, description="one process per experiment, num_parallel at a time")
    num_parallel: Annotated[int, Field(ge=1), at_most(limits.PROCESSES, "processes")] = Field(
        1, description="experiments at a time, with multiprocess or an executor"
    )
    gpu_ids_pool: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="GPUs handed out to the processes; [] = each experiment's own device"
    )
    executor: ExecutorConfig | None = Field(
        None, description="where experiments are run; null = on this machine"
    )


PlanT = TypeVar("PlanT", bound=PlanSettings)
ConfigT = TypeVar("ConfigT", covariant=True)
DraftT = TypeVar("DraftT")


@dataclass(frozen=True)
class Experiment(Generic[ConfigT]):
    """One run of a plan.

    name: in logs and summaries. setting: what it and its repetitions alone are called. repetition: from 0.
    config: of an experiment with `start`, in place of the model that this leaves, the model at the root of
    the chain. configuration: name of the one it comes from. suffix: the setting without that of its start.
    changes: field -> value over the config file. start: the experiment whose model it starts from.
    """

    name: str
    setting: str
    repetition: int
    config: ConfigT
    configuration: str = ""
    suffix: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    start: Experiment[ConfigT] | None = None


@dataclass(frozen=True)
class LoadedPlan(Generic[PlanT, ConfigT]):
    """A valid plan, its experiments in the order in which they run, and what to tell the user."""

    plan: PlanT
    experiments: list[Experiment[ConfigT]]
    notices: list[str]


# Expansion


class Configuration(Protocol):
    """What the schema of every configuration has."""

    @property
    def base_config(self) -> dict[str, Any]:
        """Field -> value, for all of its experiments."""

    @property
    def options(self) -> dict[str, list[Any]]:
        """Field -> values to try."""


@dataclass(frozen=True)
class Choice:
    """One value of each option of a configuration.

    configuration: its number. options: field -> value; values: likewise, over those of base_config. places:
    field -> where in the plan file its value stands.
    """

    configuration: int
    options: dict[str, Any]
    values: dict[str, Any]
    places: dict[str, Keys]


def expand(
    index: int,
    configuration: Configuration,
    draft: Callable[[Choice, int, DraftT | None], DraftT],
    repetitions: int = 1,
    starts: Sequence[Sequence[DraftT]] = (),
) -> list[list[DraftT]]:
    """The settings that a plan's configuration stands for, each a list of its repetitions.

    There is one for each of `starts` (settings of other configurations; none = no start) and each element of
    the product of the options, the last of which varies fastest. draft(choice, repetition, start) makes one
    experiment; it starts from the same repetition of its start, or from the last one that there is.
    """
    return [
        [
            draft(choice, repetition, start[min(repetition, len(start) - 1)] if start else None)
            for repetition in range(repetitions)
        ]
        for start in starts or [()]
        for choice in _choices(index, configuration)
    ]


def _choices(index: int, configuration: Configuration) -> Iterator[Choice]:
    base, options = configuration.base_config, configuration.options
    for numbered in itertools.product(*(enumerate(values) for values in options.values())):
        chosen = {name: value for name, (_, value) in zip(options, numbered, strict=True)}
        places: dict[str, Keys] = {name: ("configurations", index, "base_config", name) for name in base}
        for name, (number, _) in zip(options, numbered, strict=True):
            places[name] = ("configurations", index, "options", name, number)
        yield Choice(index, chosen, base | chosen, places)


def overridden_base(index: int, configuration: Configuration) -> Choice | None:
    """A choice in which `base_config` has its say on the fields that options replace; None if there are none.

    No experiment is of it, but a value that cannot be is a mistake wherever it stands.
    """
    base, options = configuration.base_config, configuration.options
    names = base.keys() & options.keys()
    if not names or not all(options.values()):
        return None
    chosen = {name: base[name] if name in names else values[0] for name, values in options.items()}
    places: dict[str, Keys] = {name: ("configurations", index, "options", name, 0) for name in options}
    places |= {name: ("configurations", index, "base_config", name) for name in base}
    return Choice(index, chosen, base | chosen, places)


MAX_EXPERIMENTS = 100_000  # of a plan; the check of so many takes half a minute


def too_many(field: str, count: int) -> list[Problem]:
    """Says that a plan stands for more experiments than anybody runs. field: to change."""
    message = f"stands for {count:,} experiments; a plan has at most {MAX_EXPERIMENTS:,}"
    return [Problem(field, message)] if count > MAX_EXPERIMENTS else []


def count_choices(configuration: Configuration) -> int:
    """Number of elements of the product of a configuration's options."""
    return math.prod(map(len, configuration.options.values()))


def empty_options(configurations: Sequence[Configuration]) -> list[Problem]:
    """Fields of the configurations' `options` that have no value to try."""
    return [
        Problem(
            path_text(("configurations", i, "options", name)),
            "an empty list of values leaves no experiment to run",
        )
        for i, configuration in enumerate(configurations)
        for name, values in configuration.options.items()
        if not values
    ]


def locate_in_choice(problem: Problem, source: Source, origin: Mapping[Keys, Keys]) -> list[Located]:
    """A problem of an experiment's config at its place in the plan file. origin: see `common.source.locate`.

    An unknown key is one problem of its option, not one for each of its values.
    """
    if problem.message.startswith("unknown key"):
        origin = {
            keys: place[: len(("configurations", 0, "options", "name"))] for keys, place in origin.items()
        }
    return locate([problem], source, origin)


# Text in braces


class BraceError(UserError):
    """Text whose braces cannot be filled in; the message is for the user."""


def fill_braces(text: str, names: Mapping[str, Any], config: Mapping[str, Any] = MappingProxyType({})) -> str:
    """`text` with its {braces} filled in by names, and by fields of a nested config as in {a.b}.

    Raises BraceError.
    """
    try:
        return _Braces().vformat(
            text, (), {key: _attributes(value) for key, value in config.items()} | dict(names)
        )
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        reason = str(error)
        if isinstance(error, KeyError):
            reason = f"no field {error}"
        elif isinstance(error, AttributeError) and isinstance(error.obj, SimpleNamespace):
            reason = f"no field {error.name!r}"
        raise BraceError(f"cannot fill in the braces of {text!r}: {reason}") from None


_MAX_WIDTH = 200  # of a value filled in


class _Braces(string.Formatter):
    """str.format, without widths and precisions that make a short text fill the memory."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(key, int):  # in the words of str.format
            raise IndexError(f"Replacement index {key} out of range for positional args tuple")
        return super().get_value(key, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        if any(len(digits) > 3 or int(digits) > _MAX_WIDTH for digits in re.findall(r"\d+", format_spec)):
            raise ValueError(f"the width of {format_spec!r:.40} is above {_MAX_WIDTH}")
        return super().format_field(value, format_spec)


def _attributes(value: Any) -> Any:
    """A value whose mappings are read by attribute, as str.format does in {a.b}."""
    if isinstance(value, dict):
        return SimpleNamespace(**{str(key): _attributes(item) for key, item in value.items()})
    return [_attributes(item) for item in value] if isinstance(value, list) else value


# --set


@dataclass(frozen=True)
class Target:
    """A field of a configuration's experiments. keys: in its base_config. is_list: lists are values of it."""

    configuration: int
    keys: Keys
    is_list: bool


def configurations_in(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configurations in a plan file's data, as far as they can be made out."""
    items = data.get("configurations")
    return [item if isinstance(item, dict) else {} for item in items] if isinstance(items, list) else []


def check_plan(
    source: Source,
    overrides: Iterable[str],
    schema: type[PlanT],
    targets: Callable[[Keys], list[Target] | Located],
) -> tuple[PlanT, Source, list[Located]]:
    """The plan in a file with `--set`, the source as overridden, and the problems of overrides so far.

    targets: the fields of experiments that a path sets, or what is wrong with it. Raises ConfigError with all
    problems if these are such that nothing can be expanded.
    """
    source, plain, located = _spread_overrides(source, overrides, schema, targets)
    source = apply_overrides(source, plain)
    plan, problems = validate(schema, source.data)
    located += locate(problems, source)
    if plan is None:
        raise_problems(source, located)
        raise AssertionError("a plan that does not validate has problems")
    if plan.executor is not None and plan.executor.slurm is not None and plan.gpu_ids_pool:
        message = (
            "SLURM hands out the GPUs: gpu_ids_pool must be [], and executor.slurm.gpus is what jobs get"
        )
        located += locate([Problem("gpu_ids_pool", message)], source)
    return plan, source, located


def _spread_overrides(
    source: Source,
    overrides: Iterable[str],
    schema: type[PlanSettings],
    targets: Callable[[Keys], list[Target] | Located],
) -> tuple[Source, list[str], list[Located]]:
    """Overrides of experiments' fields, written out for each configuration that they are meant for.

    Returns the source, from which what they replace is taken, all overrides as those of the plan file, and
    the problems. A list of values becomes options.
    """
    source = replace(source, data=copy.deepcopy(source.data))
    configurations = configurations_in(source.data)
    plain: dict[str, str] = {}  # by what they set: the last one counts
    problems: list[Located] = []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        try:
            keys = parse_field(dotted.strip())
        except ValueError:
            keys = ()
        if not equals or not keys or keys[0] in schema.model_fields:
            plain.pop(dotted, None)
            plain[dotted] = override  # with what is wrong with it
            continue
        fields = targets(keys)
        if isinstance(fields, Located):
            problems.append(fields)
            continue
        for target in fields:
            is_options = value.strip().startswith("[") and not target.is_list
            # All options of a field go, and its base value unless the override sets a part of that.
            for part in ("options", "base_config") if len(target.keys) == 1 else ("options",):
                plain.pop(_path(target.configuration, part, target.keys[:1]), None)
                if isinstance(fields_of_part := configurations[target.configuration].get(part), dict):
                    fields_of_part.pop(str(target.keys[0]), None)
            path = _path(target.configuration, "options" if is_options else "base_config", target.keys)
            plain.pop(path, None)
            plain[path] = f"{path}={value}"
    return source, list(plain.values()), problems


def _path(configuration: int, part: str, keys: Keys) -> str:
    return path_text(("configurations", configuration, part, *keys))

"""Plans of controlled experiments: their schema and the config of each; common.plan has the mechanism."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

import common.plan
from common.config import (
    Config,
    Keys,
    Located,
    Problem,
    Source,
    field_problems,
    parse_path,
    raise_problems,
    read_source,
    unknown_key,
    validate,
)
from common.plan import (
    BraceError,
    Choice,
    PlanSettings,
    Target,
    check_plan,
    configurations_in,
    count_choices,
    empty_options,
    expand,
    fill_braces,
    locate_in_choice,
    overridden_base,
    too_many,
)
from common.run_dir import CheckpointError, RunInfo, find_runs
from sft_vs_rft.config import (
    AUTO_CHECKPOINT,
    COSMETIC_FIELDS,
    MEANINGLESS_FIELDS,
    ExperimentConfig,
    find_pretraining,
    mismatches,
    pretrain_hint,
    start_checkpoint,
)

DATASET_SIZES = {  # of the train split
    "mnist": 60_000, "fmnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "cifar100coarse": 50_000,
    "svhn": 73_257, "stsb": 5_749, "digits": 1_000,
}  # fmt: skip


class Configuration(Config):
    """Expands to one experiment for each element of the product of `options`, written over `base_config`."""

    base_config: dict[str, Any] = Field({}, description="fields of the experiments (see ExperimentConfig)")
    options: dict[str, list[Any]] = Field(
        {}, description="field -> values to try; the last field varies fastest"
    )


class Plan(PlanSettings):
    """What a plan file holds."""

    name: str = Field("controlled experiments", description="shown in logs and bars")
    skip: Annotated[int, Field(ge=0)] = Field(0, description="expanded configurations to skip from the start")
    largest: bool = Field(False, description="a larger score is better, when the best configuration is named")
    configurations: Annotated[list[Configuration], Field(min_length=1)] = Field(description="what to run")

    def check(self) -> list[Problem]:
        problems = empty_options(self.configurations)
        count = sum(map(count_choices, self.configurations))
        problems += too_many(
            "repetitions" if self.repetitions > count else "configurations", count * self.repetitions
        )
        if not problems and self.skip >= count:
            problems.append(Problem("skip", f"skips all {count} configurations of the plan"))
        return problems


Experiment = common.plan.Experiment[ExperimentConfig]
LoadedPlan = common.plan.LoadedPlan[Plan, ExperimentConfig]


def load_plan(path: str | Path, overrides: Iterable[str] = ()) -> LoadedPlan:
    """Read, override, expand and check a plan file, before anything heavy is imported.

    overrides: `field=value`, of the plan, of every experiment (replacing its options; a list of values
    becomes the options), or by full path, such as `configurations[0].base_config.lr=1e-3`.
    Raises ConfigError with all problems.
    """
    source = read_source(path)
    number = len(configurations_in(source.data))
    plan, source, located = check_plan(source, overrides, Plan, partial(_targets, number))

    runs_in = functools.cache(find_runs)
    notices: list[str] = []
    configs: list[ExperimentConfig] = []
    for i, configuration in enumerate(plan.configurations):
        for ((config, notes, problems),) in expand(i, configuration, partial(_make_config, source, runs_in)):
            notices += notes
            located += problems
            if config is not None:
                configs.append(config)
        if (choice := overridden_base(i, configuration)) is not None:
            located += _check_overridden(source, choice, set(configuration.base_config))
    raise_problems(source, located)
    configs = configs[plan.skip :]
    seen: dict[str, int] = {}
    for i, config in enumerate(configs):
        first = seen.setdefault(config.model_dump_json(exclude=COSMETIC_FIELDS - {"outputs_dir"}), i)
        if first != i:
            message = f"experiments {first} and {i} are the same"
            raise_problems(source, [Located(1, "configurations", message)])
    experiments = [
        _repeat(number, config, repetition)
        for number, config in enumerate(configs)
        for repetition in range(plan.repetitions)
    ]
    if plan.repetitions > 1 and any(config.random_seed >= 0 for config in configs):
        notices.append(
            "repetitions with a fixed random_seed give the same numbers: use -1, or options over random_seed"
        )
    return LoadedPlan(plan, experiments, list(dict.fromkeys(notices)))


RunFinder = Callable[[Path], list[RunInfo]]
Draft = tuple[ExperimentConfig | None, list[str], list[Located]]  # config, notices, problems


def _make_config(
    source: Source, runs_in: RunFinder, choice: Choice, repetition: int, start: Draft | None
) -> Draft:
    """The config of a choice of options, if it is valid; that of a repetition is the same."""
    fields, notices = dict(choice.values), []
    for name in MEANINGLESS_FIELDS.keys() & fields.keys():
        del fields[name]
        notices.append(f"{name} is ignored: {MEANINGLESS_FIELDS[name]}")
    fields, problems = format_strings(fields)
    config, faults = validate(ExperimentConfig, fields)
    problems += faults
    if config is not None and not problems:
        config, problems, notes = _resolve_start(config, runs_in)
        notices += notes
    origin: dict[Keys, Keys] = {(): ("configurations", choice.configuration, "base_config")}
    origin |= {(name,): place for name, place in choice.places.items()}
    return (
        config,
        notices,
        [place for problem in problems for place in locate_in_choice(problem, source, origin)],
    )


def _check_overridden(source: Source, choice: Choice, base: set[str]) -> list[Located]:
    """Values of base_config that no experiment can have, though options replace them all."""
    meant = {name: value for name, value in choice.values.items() if name not in MEANINGLESS_FIELDS}
    fields, problems = format_strings(meant)
    problems += field_problems(ExperimentConfig, fields)
    names = base & choice.options.keys()
    return [
        place
        for problem in problems
        if (name := str(parse_path(problem.path)[0])) in names
        for place in locate_in_choice(problem, source, {(name,): choice.places[name]})
    ]


def _repeat(number: int, config: ExperimentConfig, repetition: int) -> Experiment:
    name = config.experiment_name
    label = f"{name} (repetition {repetition + 1})" if repetition else name
    return Experiment(label, f"{number} {name}", repetition, config)  # several may have one name


def format_strings(fields: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """String fields formatted with the configuration's own fields and defaults, and those that cannot be.

    In `experiment_name`, a folder name, `.` and `,` become `-`, and `[`, `]` and spaces go.
    """
    defaults = {
        name: info.get_default()
        for name, info in ExperimentConfig.model_fields.items()
        if not info.is_required()
    }
    values, formatted, problems = defaults | fields, dict(fields), []
    for name, value in fields.items():
        if isinstance(value, str) and ("{" in value or "}" in value):
            try:
                formatted[name] = fill_braces(value, values)
            except BraceError as error:
                problems.append(Problem(name, str(error)))
    if isinstance(folder := formatted.get("experiment_name"), str):
        formatted["experiment_name"] = name = folder.translate(str.maketrans(".,", "--", "[] "))
        if "/" in name:
            problems.append(Problem("experiment_name", f"names a folder, so it must not hold '/': {name!r}"))
    return formatted, problems


def _resolve_start(
    config: ExperimentConfig, runs_in: RunFinder
) -> tuple[ExperimentConfig, list[Problem], list[str]]:
    """`auto` replaced by the checkpoint it stands for; an explicit one compared with its own run's config."""
    field = "load_model_from_checkpoint"
    start = config.load_model_from_checkpoint
    if start == AUTO_CHECKPOINT:
        checkpoint = find_pretraining(config, runs_in)
        if checkpoint is None:
            message = f"'auto' found no finished matching pretraining run under {config.outputs_dir!r}: "
            return config, [Problem(field, message + pretrain_hint(config))], []
        note = f"load_model_from_checkpoint 'auto' of {config.dataset} {config.model_type}: {checkpoint}"
        return config.model_copy(update={field: str(checkpoint)}), [], [note]
    if start:
        try:
            start_checkpoint(Path(start))
        except CheckpointError as error:
            return config, [Problem(field, f"{error}; {pretrain_hint(config)}")], []
        return config, [Problem(field, message) for message in mismatches(config, Path(start))], []
    return config, [], []


def _targets(configurations: int, keys: Keys) -> list[Target] | Located:
    """The field in every configuration that `--set` sets by its path."""
    name = str(keys[0])
    if name not in ExperimentConfig.model_fields:
        return Located("--set", name, unknown_key(name, [*Plan.model_fields, *ExperimentConfig.model_fields]))
    is_list = typing.get_origin(ExperimentConfig.model_fields[name].annotation) is list
    return [Target(i, keys, is_list) for i in range(configurations)]


def train_size(config: ExperimentConfig) -> int | None:
    """Number of train inputs; None where only the data tells."""
    return config.num_train_samples if config.num_train_samples > 0 else DATASET_SIZES.get(config.dataset)


def describe_steps(config: ExperimentConfig) -> str:
    """Derived sizes of an experiment in words; unknown where only the data tells."""
    size = train_size(config)
    if size is None:
        return f"{config.epochs:,} epochs over all train inputs of the file"
    batches = math.ceil(size / config.batch_size)
    steps = batches * config.epochs
    return f"{size:,} inputs, {batches:,} steps an epoch x {config.epochs:,} epochs = {steps:,} steps"

"""Plans: one file that expands to experiments, each configuration by the product of its options."""

from __future__ import annotations

import copy
import math
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from common.config import (
    Config,
    Keys,
    Located,
    Problem,
    Source,
    apply_overrides,
    locate,
    raise_problems,
    read_source,
    unknown_key,
    validate,
)
from common.plan import PlanSettings, choices, empty_options
from common.run_dir import CheckpointError
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
        problems = empty_options([configuration.options for configuration in self.configurations])
        count = sum(math.prod(map(len, c.options.values())) for c in self.configurations)
        if not problems and self.skip >= count:
            problems.append(Problem("skip", f"skips all {count} configurations of the plan"))
        return problems


@dataclass(frozen=True)
class Experiment:
    """One run of a plan. index: its place among all; repetition: from 0."""

    index: int
    repetition: int
    config: ExperimentConfig

    @property
    def label(self) -> str:
        again = f" (repetition {self.repetition + 1})" if self.repetition else ""
        return f"{self.config.experiment_name}{again}"


@dataclass(frozen=True)
class LoadedPlan:
    """A valid plan, its experiments in the order in which they run, and what to tell the user."""

    plan: Plan
    experiments: list[Experiment]
    notices: list[str]


def load_plan(path: str | Path, overrides: Iterable[str] = ()) -> LoadedPlan:
    """Read, override, expand and check a plan file, before anything heavy is imported.

    overrides: `field=value`, of the plan, of every experiment (replacing its options; a list of values
    becomes the options), or by full path, such as `configurations[0].base_config.lr=1e-3`.
    Raises ConfigError with all problems.
    """
    source = read_source(path)
    source, plain, unknown = _spread_overrides(source, overrides)
    source = apply_overrides(source, plain)
    plan, problems = validate(Plan, source.data)
    located = [*unknown, *locate(problems, source)]
    if plan is None:
        raise_problems(source, located)
        raise AssertionError("a plan that does not validate has problems")

    notices: list[str] = []
    configs: list[ExperimentConfig] = []
    for fields, origin in expand(plan):
        for name in MEANINGLESS_FIELDS.keys() & fields.keys():
            del fields[name]
            notices.append(f"{name} is ignored: {MEANINGLESS_FIELDS[name]}")
        fields, problems = format_strings(fields)
        config, more = validate(ExperimentConfig, fields)
        if config is not None and not (problems or more):
            config, more, notes = _resolve_start(config)
            notices += notes
        located += locate([*problems, *more], source, origin)
        if config is not None:
            configs.append(config)
    raise_problems(source, located)
    configs = configs[plan.skip :]
    seen: dict[str, int] = {}
    for i, config in enumerate(configs):
        if (
            first := seen.setdefault(config.model_dump_json(exclude=COSMETIC_FIELDS - {"outputs_dir"}), i)
        ) != i:
            raise_problems(
                source, [Located(1, "configurations", f"experiments {first} and {i} are the same")]
            )
    experiments = [
        Experiment(plan.repetitions * i + repetition, repetition, config)
        for i, config in enumerate(configs)
        for repetition in range(plan.repetitions)
    ]
    if plan.repetitions > 1 and any(config.random_seed >= 0 for config in configs):
        notices.append(
            "repetitions with a fixed random_seed give the same numbers: use -1, or options over random_seed"
        )
    return LoadedPlan(plan, experiments, list(dict.fromkeys(notices)))


def expand(plan: Plan) -> Iterator[tuple[dict[str, Any], dict[Keys, Keys]]]:
    """Fields of each experiment, in order, and where in the plan file each came from."""
    for i, configuration in enumerate(plan.configurations):
        place: Keys = ("configurations", i)
        origin: dict[Keys, Keys] = {(): (*place, "base_config")}
        for choice in choices(configuration.options):
            chosen = {name: value for name, (_, value) in choice.items()}
            # An unknown field is one problem, not one for each of its values.
            items = {
                name: (j,) if name in ExperimentConfig.model_fields else () for name, (j, _) in choice.items()
            }
            from_options: dict[Keys, Keys] = {
                (name,): (*place, "options", name, *item) for name, item in items.items()
            }
            yield configuration.base_config | chosen, origin | from_options


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
                formatted[name] = value.format(**values)
            except (LookupError, ValueError, AttributeError, TypeError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                problems.append(Problem(name, f"cannot fill in the braces of {value!r}: {reason}"))
    if isinstance(folder := formatted.get("experiment_name"), str):
        formatted["experiment_name"] = name = folder.translate(str.maketrans(".,", "--", "[] "))
        if "/" in name:
            problems.append(Problem("experiment_name", f"names a folder, so it must not hold '/': {name!r}"))
    return formatted, problems


def train_size(config: ExperimentConfig) -> int | None:
    """Number of train inputs; None where only the data tells."""
    return config.num_train_samples if config.num_train_samples > 0 else DATASET_SIZES.get(config.dataset)


def steps_of(config: ExperimentConfig) -> str:
    """Derived sizes of an experiment in words; unknown where only the data tells."""
    size = train_size(config)
    if size is None:
        return f"{config.epochs:,} epochs over all train inputs of the file"
    batches = math.ceil(size / config.batch_size)
    steps = batches * config.epochs
    return f"{size:,} inputs, {batches:,} steps an epoch x {config.epochs:,} epochs = {steps:,} steps"


def _resolve_start(config: ExperimentConfig) -> tuple[ExperimentConfig, list[Problem], list[str]]:
    """`auto` replaced by the checkpoint it stands for; an explicit one compared with its own run's config."""
    field = "load_model_from_checkpoint"
    start = config.load_model_from_checkpoint
    if start == AUTO_CHECKPOINT:
        found = find_pretraining(config)
        if found is None:
            message = f"'auto' found no finished matching pretraining run under {config.outputs_dir!r}: "
            return config, [Problem(field, message + pretrain_hint(config))], []
        note = f"load_model_from_checkpoint 'auto' of {config.dataset} {config.model_type}: {found}"
        return config.model_copy(update={field: str(found)}), [], [note]
    if start:
        try:
            start_checkpoint(Path(start))
        except CheckpointError as error:
            return config, [Problem(field, f"{error}; {pretrain_hint(config)}")], []
        return config, [Problem(field, message) for message in mismatches(config, Path(start))], []
    return config, [], []


def _spread_overrides(source: Source, overrides: Iterable[str]) -> tuple[Source, list[str], list[Located]]:
    """Overrides of experiment fields written out for each configuration; the unknown ones as problems.

    An overridden field leaves the options of the returned source; a list of values for it becomes options.
    """
    data, unknown = copy.deepcopy(source.data), []
    plain: list[str] = []
    found = data.get("configurations")
    configurations = [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []
    for override in overrides:
        name, equals, value = override.partition("=")
        head = name.strip().split(".")[0].split("[")[0]
        if head in ExperimentConfig.model_fields and equals:
            is_list = typing.get_origin(ExperimentConfig.model_fields[head].annotation) is list
            part = "options" if value.strip().startswith("[") and not is_list else "base_config"
            for i, configuration in enumerate(configurations):
                replaced = f"configurations[{i}].options.{head}="  # by an earlier override
                plain = [earlier for earlier in plain if not earlier.startswith(replaced)]
                plain.append(f"configurations[{i}].{part}.{override.strip()}")
                if isinstance(configuration.get("options"), dict):
                    configuration["options"].pop(head, None)
        elif head in Plan.model_fields or not equals:
            plain.append(override)
        else:
            known = [*Plan.model_fields, *ExperimentConfig.model_fields]
            unknown.append(Located("--set", head, unknown_key(head, known)))
    return replace(source, data=data), plain, unknown

"""What a plan file of finetuning and extraction runs holds; common.plan has the mechanism."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

import common.plan
from common.config import Config, Problem, parse_field, path_text, unknown_name
from common.plan import PlanSettings, count_choices, empty_options, too_many
from rl4lms.config import ExtractConfig, TrainConfig

SEED = "runtime.seed"
FIELDS = {*TrainConfig.model_fields, *ExtractConfig.model_fields}  # first parts of the dotted fields


class Configuration(Config):
    """Expands to one experiment for each element of the product of `options`, start models and seeds."""

    name: str = Field(description="by which model_from and --set refer to it")
    config_path: str = Field(description="config file of training or extraction, see rl4lms_scripts")
    base_config: dict[str, Any] = Field(
        {}, description="dotted field -> value, over the config file; text in braces: see experiment_name"
    )
    options: dict[str, list[Any]] = Field(
        {}, description="dotted field -> values to try; the last field varies fastest"
    )
    model_from: str | list[str] = Field(
        [],
        description="configurations above, from each of whose models, of the same repetition, to start; [] = "
        "from the model of the config",
    )
    repetitions: Annotated[int, Field(ge=1)] | None = Field(None, description="null = the plan's")
    experiment_name: str = Field(
        "",
        description="begins the folder's name; may hold {fields} of the config, {last parts} of the options' "
        "fields, and {model}, the name of what it starts from; '' = {model}_name_option_value...",
    )

    @property
    def starts(self) -> list[str]:
        """The configurations whose models it starts from."""
        return [self.model_from] if isinstance(self.model_from, str) else self.model_from

    def check(self) -> list[Problem]:
        problems = []
        if not re.fullmatch(r"[\w-]+", self.name) or self.name in FIELDS | Plan.model_fields.keys():
            message = f"must be letters, digits, '_', '-', and no field's name, got {self.name!r}"
            problems.append(Problem("name", message))
        if SEED in self.options:
            message = f"use repetitions: 3, for {SEED} 0, 1, 2 in all configurations, each starting from the "
            problems.append(Problem(f'options["{SEED}"]', message + "model of its own seed"))
        for part in ("base_config", "options"):
            for name in getattr(self, part):
                try:
                    parse_field(name)
                except ValueError as error:
                    problems.append(Problem(path_text((part, name)), str(error)))
        return problems


class Plan(PlanSettings):
    """What a plan file holds."""

    name: str = Field("sweep", description="shown in logs and bars")
    repetitions: Annotated[int, Field(ge=1)] = Field(
        1, description=f"times that each experiment is run, with {SEED} 0, 1, ... or from its own on"
    )
    output_path: str = Field(
        "outputs/rl4lms_sweeps",
        description="folder of the run folders; plans that share it share their equal runs",
    )
    keep_checkpoints: bool = Field(
        False, description="also of finished trainings, whose models are kept (T5-base: 10 GB each)"
    )
    log_entire_predictions: bool = Field(
        False, description="trainings write the texts of every evaluation, with their values"
    )
    score_metric_name: str | None = Field(
        None, description="metric of the summary table (lexical/rouge_l_max); null = the first of each run"
    )
    configurations: Annotated[list[Configuration], Field(min_length=1)] = Field(description="what to run")

    def check(self) -> list[Problem]:
        problems = empty_options(self.configurations)
        above: list[str] = []
        settings: dict[str, int] = {}
        for i, configuration in enumerate(self.configurations):
            starts = sum(settings.get(start, 1) for start in configuration.starts) or 1
            settings[configuration.name] = count = starts * count_choices(configuration)
            repetitions = configuration.repetitions or self.repetitions
            field = "repetitions" if repetitions > count else f"configurations[{i}].options"
            if field == "repetitions" and configuration.repetitions:
                field = f"configurations[{i}].repetitions"
            problems += too_many(field, count * repetitions)
            if configuration.name in above:
                message = f"{configuration.name!r} is the name of another one above"
                problems.append(Problem(f"configurations[{i}].name", message))
            for start in configuration.starts:
                if start not in above:
                    message = unknown_name("configuration", start, above)
                    if start in [c.name for c in self.configurations[i:]]:
                        message = f"{start!r} must stand above the configurations that start from it"
                    problems.append(Problem(f"configurations[{i}].model_from", message))
            above.append(configuration.name)
        return problems


RunConfig = TrainConfig | ExtractConfig
Experiment = common.plan.Experiment[RunConfig]
LoadedPlan = common.plan.LoadedPlan[Plan, RunConfig]

"""InstructGPT's pipeline on a task of the study: one file that says what is trained and compared.

Tasks, base models, rewards and learning rates are those of the study that the file names. Imports nothing
heavy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.config import Config, Problem, load_config, locate, raise_problems, read_source
from common.source import unknown_name
from paper.study import Case, Fields, StudyConfig, TaskConfig, load_study
from rl4lms.config.parts import Args, Positive

Stage = Literal["rl_start", "reward_model", "supervised", "ppo", "group", "sampling"]
OnPolicyShare = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class PipelineFiles(Config):
    """The config files that a task's runs are edits of."""

    rankings: str
    reward_model: str
    ppo: str = Field(description="with alg.pretraining, which runs without it leave out")
    rl_start: str | None = Field(None, description="null: RL starts from the pretrained model")
    supervised: str | None = Field(None, description="null: without SFT of many epochs")


class PipelineTask(Config):
    """A task of the study under the reward that is gold."""

    case: str = Field(description="{task}_{reward} of the study")
    files: PipelineFiles
    fields: dict[Stage, Fields] = Field({}, description="stage -> dotted field -> value, over `fields`")


class PtxSettings(Config):
    kl_coeff: float = Field(ge=0, description="weight of the KL penalty of the runs with pretraining text")
    coeff: float = Field(ge=0, description="weight of the pretraining loss")
    examples_per_episode: Positive = Field(description="pretraining examples for each text")
    source: Fields = Field(
        {}, description="field -> value of alg.pretraining, such as texts, over the config files'"
    )


class ArmsConfig(Config):
    """Reward models of one recipe that differ in epochs, and in whether comparisons are shuffled."""

    prompts_per_batch: Positive = Field(description="of the grouped ones; the shuffled has as many texts")
    epochs: Positive = Field(description="of the longer grouped one; the other and the shuffled have one")
    evaluations: Positive = Field(description="of the shuffled one in its pass")


class TeachersConfig(Config):
    """Reward models of different accuracy and variance, each of which teaches a policy by RLOO."""

    on_policy: Annotated[list[OnPolicyShare], Field(min_length=1)] = Field(
        description="shares of the prompts whose comparisons are of the policy's texts, the others of texts "
        "that people wrote; 1 is the task's reward model"
    )
    squash: Share = Field(
        description="what is left of differences within prompts under the gold reward, whose order stays"
    )
    kl_coeff: float = Field(ge=0, description="weight of the KL penalty")
    iterations: Positive
    half_iterations: Positive = Field(
        description="of RLOO and GRPO by the gold reward, squashed on a random half of the train prompts"
    )


class PipelineConfig(Config):
    """InstructGPT's pipeline."""

    name: str = Field(description="shown in logs, and the name of its plan files")
    output_path: str = Field(description="folder of all its runs")
    study: str = Field(description="file of the study whose tasks, models and learning rates these are")
    datapool: Args = Field({}, description="arguments of every datapool, over those of the study")
    rankings: Args = Field({}, description="field -> value of making rankings, over the config file")
    fields: dict[Stage, Fields] = Field({}, description="stage -> dotted field -> value of its runs")
    main: PipelineTask = Field(description="the task of all stages")
    other: PipelineTask | None = Field(
        None,
        description="a task of rankings, reward model, and PPO with and without pretraining text, one seed",
    )
    kl_coeffs: Annotated[list[float], Field(min_length=1)] = Field(description="of PPO")
    ptx: PtxSettings
    arms: ArmsConfig
    teachers: TeachersConfig
    best_of: Annotated[int, Field(ge=2)] = Field(description="texts that the best one is chosen of")
    compared_texts: Positive = Field(description="texts of each held-out prompt that models are compared by")

    def check(self) -> list[Problem]:
        problems = []
        for name in ("rl_start", "supervised"):
            if getattr(self.main.files, name) is None:
                problems.append(Problem(f"main.files.{name}", "missing: all stages are of this task"))
        if 1 not in self.teachers.on_policy:
            problems.append(Problem("teachers.on_policy", "1 is missing, the task's reward model"))
        if self.ptx.kl_coeff not in self.kl_coeffs:
            known = ", ".join(f"{coeff:g}" for coeff in self.kl_coeffs)
            message = f"must be one of kl_coeffs, {known}, to be compared; is {self.ptx.kl_coeff:g}"
            problems.append(Problem("ptx.kl_coeff", message))
        return problems


@dataclass(frozen=True)
class Pipeline:
    """A pipeline with the study that its tasks are of."""

    config: PipelineConfig
    study: StudyConfig

    @property
    def tasks(self) -> list[PipelineTask]:
        """The main task, and the other one if there is one."""
        return [self.config.main, *([self.config.other] if self.config.other else [])]

    def case(self, task: PipelineTask) -> Case:
        """Its task and reward in the study."""
        return self.study.case(task.case)

    def study_task(self, task: PipelineTask) -> TaskConfig:
        """What the study says of it."""
        return self.study.tasks[self.case(task).task]

    def fields(self, task: PipelineTask, stage: Stage) -> Fields:
        """What the file sets in the runs of a stage."""
        return self.config.fields.get(stage, {}) | task.fields.get(stage, {})


def load_pipeline(path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """The pipeline that a file describes, with its study. Raises ConfigError with all problems."""
    config = load_config(path, PipelineConfig, overrides)
    study = load_study(config.study)
    _check_cases(path, config, study)
    return Pipeline(config, study)


def _check_cases(path: str | Path, config: PipelineConfig, study: StudyConfig) -> None:
    known = [case.name for case in study.cases()]
    named = [("main.case", config.main.case)]
    if config.other is not None:
        named.append(("other.case", config.other.case))
    problems = [
        Problem(field, unknown_name("case", name, known)) for field, name in named if name not in known
    ]
    if study.groups is None:
        problems.append(Problem("study", f"{config.study} has no groups, whose learning rates are taken"))
    source = read_source(path)
    raise_problems(source, locate(problems, source))

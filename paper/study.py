"""The study of text generation tasks: one file that says what is compared (Sections 4.1 and 5 of the paper).

A task is a dataset; under each of its rewards it is a case of its own. All rewards of a task share inputs,
references, the pretrained model and SFT, so that cases of a task differ in the reward alone.
`paper.study_plans` makes ordinary plans of it. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from common.config import Config, Problem, load_config
from common.files import read_rows
from common.run_dir import read_run
from common.source import read_source, unknown_name
from paper.small_models.config import PretrainConfig, load_pretrain_config
from rl4lms.config.parts import Args, MetricConfig, Positive
from rl4lms.config.training_blocks import RewardConfig
from rl4lms.samples import Split

# SFT is on all labels for all steps, short SFT on few for few; RFT begins with any of these models.
Method = Literal["pretrained", "rft", "short", "short_rft", "sft", "sft_rft"]
Start = Literal["pretrained", "short", "sft"]
STARTS: tuple[Start, ...] = get_args(Start)
Fields = dict[str, Any]
Share = Annotated[float, Field(gt=0, le=1)]


class ConfigFiles(Config):
    """The config files that the runs are edits of."""

    extraction: str
    rft: str
    sft: str
    sft_rft: str
    group: str = Field("", description="of group algorithms; {algorithm} stands for the id")


class TaskReward(Config):
    label: str = Field(description="for figures")
    reward: RewardConfig = Field(description="what RFT maximises")
    metric: MetricConfig = Field(description="the same as a metric, for evaluation and extraction")
    key: str = Field(description="its name among the metric's results")


class TaskConfig(Config):
    label: str = Field(description="for figures")
    datapool: Args = Field(description="arguments of the datapool, over `datapool` of the study")
    rewards: Annotated[list[str], Field(min_length=1)] = Field(
        description="of those of the study; after SFT, RFT is by the first"
    )
    max_prompt_length: Positive = Field(description="tokens of a prompt")
    max_new_tokens: Positive = Field(description="tokens of a text")
    kl_coeff: float = Field(0.001, ge=0, description="weight of the KL penalty")
    configs: ConfigFiles | None = Field(None, description="instead of those of the study")
    model: str | None = Field(None, description="the pretrained model, instead of that of the config files")


class StartConfig(Config):
    """RFT from one kind of model, the same for all tasks."""

    learning_rates: Annotated[list[float], Field(min_length=1)] = Field(
        description="tried on the cases and the seed of `choice`; the one with the best train reward is used"
    )
    fields: Fields = Field({}, description="dotted field -> value, over those of every RFT run")


class ChoiceConfig(Config):
    """What learning rates are chosen on."""

    cases: Annotated[list[str], Field(min_length=1)] = Field(description="{task}_{reward}")
    seed: int = Field(description="of no reported run")


class ShortSftConfig(Config):
    labels: Share = Field(description="share of the train inputs' labels")
    steps: Share = Field(description="share of sft_steps")


class SweepConfig(Config):
    """Sweeps of one task: settings raised one at a time (Table 2), and short SFT phases (Figure 4)."""

    task: str
    seeds: Positive | None = Field(None, description="at most so many; null: as the study")
    learning_rates: list[float] = Field(description="RFT, instead of the chosen one")
    temperatures: list[float] = Field(description="RFT, of the rollouts")
    ent_coefs: list[float] = Field(description="RFT, weight of the entropy bonus")
    labels: list[Share] = Field(description="SFT, shares of the labels")
    steps: list[Share] = Field(description="SFT, shares of the steps")


class GroupsConfig(Config):
    """Group algorithms beside PPO (`paper.group_study`), with as many generated tokens."""

    cases: Annotated[list[str], Field(min_length=1)] = Field(description="{task}_{reward}")
    tokens: dict[str, Positive] = Field(
        {}, description="case -> tokens that a run generates, where not as many as the study's RFT"
    )
    algorithms: list[str] = Field(description="on all cases; grpo among them")
    learning_rates: Annotated[list[float], Field(min_length=1)] = Field(
        description="of these; each algorithm's is chosen as that of RFT from the pretrained model"
    )
    rft: Fields = Field({}, description="dotted field -> value of every run of a group algorithm")
    others_case: str = Field(description="case of `others`")
    others: list[str] = Field(description="one seed, at GRPO's learning rate")
    cure_case: str = Field(description="case of the short SFT, then GRPO")
    scale_case: str = Field(description="case of GRPO and RLOO with a reward of another scale")
    scale: float = Field(gt=0, description="how much of each difference of rewards is left")


class StudyConfig(Config):
    """One study."""

    name: str = Field(description="shown in logs, and the name of its plan files")
    output_path: str = Field(description="folder of all its runs")
    models: list[str] = Field([], description="config files of the models that are made here")
    models_path: str = Field("outputs/laptop_models", description="folder of these models")
    configs: ConfigFiles
    datapool: Args = Field({}, description="arguments of every datapool")
    measured_inputs: Positive | None = Field(
        None,
        description="train inputs whose rewards are measured, the same each time; null: as the config files",
    )
    rft: Fields = Field({}, description="dotted field -> value of every RFT run")
    starts: dict[Start, StartConfig] = Field(description="RFT by what it begins with")
    choice: ChoiceConfig | None = Field(None, description="null: every start has one learning rate")
    sft: Fields = Field({}, description="dotted field -> value of every SFT run")
    sft_steps: Positive = Field(description="updates of a full SFT")
    short_sft: ShortSftConfig | None = Field(None, description="null: without it, and RFT after it")
    rewards: dict[str, TaskReward] = Field(description="name -> reward")
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    sweeps: list[SweepConfig] = Field([], description="the first: Table 2 and Figure 4; others: Figure 4")
    groups: GroupsConfig | None = Field(None, description="null: without the comparison of group algorithms")

    def check(self) -> list[Problem]:
        needed = [start for start in STARTS if start != "short" or self.short_sft is not None]
        problems = [
            Problem("starts", f"missing: {start}; expected {', '.join(needed)}")
            for start in needed
            if start not in self.starts
        ]
        if self.short_sft is None and "short" in self.starts:
            problems.append(
                Problem("starts.short", "there is no such phase to begin with: short_sft says which")
            )
        if self.choice is None:
            problems += [
                Problem(f"starts.{start}.learning_rates", "one of several is chosen: choice says on what")
                for start, config in self.starts.items()
                if len(config.learning_rates) > 1
            ]
        named = [(f"sweeps[{i}].task", sweep.task) for i, sweep in enumerate(self.sweeps)]
        problems += _unknown(named, list(self.tasks))
        rewards = [
            (f"tasks.{name}.rewards[{i}]", reward)
            for name, task in self.tasks.items()
            for i, reward in enumerate(task.rewards)
        ]
        problems += _unknown(rewards, list(self.rewards))
        chosen_on = [] if self.choice is None else self.choice.cases
        named = [(f"choice.cases[{i}]", case) for i, case in enumerate(chosen_on)]
        if (groups := self.groups) is not None:
            named += [(f"groups.cases[{i}]", case) for i, case in enumerate(groups.cases)]
            named += [(f"groups.tokens.{case}", case) for case in groups.tokens]
            names = ("others_case", "cure_case", "scale_case")
            named += [(f"groups.{name}", getattr(groups, name)) for name in names]
            if self.short_sft is None:
                problems.append(Problem("short_sft", "missing: the runs of groups.cure_case begin with it"))
        known = [case.name for case in self.cases()]
        problems += [
            Problem(path, unknown_name("case", name, known)) for path, name in named if name not in known
        ]
        return problems

    def case(self, name: str) -> Case:
        """The case of a name."""
        return next(case for case in self.cases() if case.name == name)

    def cases(self) -> list[Case]:
        """Every task under every one of its rewards."""
        return [Case(name, reward) for name, task in self.tasks.items() for reward in task.rewards]

    def cases_of(self, task: str) -> list[Case]:
        """A task under each of its rewards."""
        return [case for case in self.cases() if case.task == task]

    def first_case(self, task: str) -> Case:
        """A task under its first reward."""
        return self.cases_of(task)[0]

    def reward(self, case: Case) -> TaskReward:
        """The reward of a case."""
        return self.rewards[case.reward]


@dataclass(frozen=True)
class Case:
    """A task under one of its rewards."""

    task: str
    reward: str

    @property
    def name(self) -> str:
        return f"{self.task}_{self.reward}"


@dataclass(frozen=True)
class StudyRun:
    """What an experiment of the study is of.

    configuration: its name in the plan; reward: the name of the one that it is by or that it measures, None
    for all of the task; method: a Method, or of `paper.group_study`; sample, split: an extraction's, 2 for
    the pretrained model's second.
    """

    configuration: str
    task: str
    reward: str | None
    method: str
    kind: Literal["training", "extraction"]
    sample: int = 1
    split: Split = "train"


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """The study that a file describes. Raises ConfigError with all problems."""
    return load_config(path, StudyConfig, overrides)


def select_tasks(study: StudyConfig, names: Iterable[str]) -> StudyConfig:
    """Keep the part of a study about these tasks, and what learning rates are chosen on."""
    chosen_on = study.choice.cases if study.choice else []
    kept = {*names, *(study.case(case).task for case in chosen_on)}
    return study.model_copy(
        update={
            "tasks": {name: task for name, task in study.tasks.items() if name in kept},
            "sweeps": [sweep for sweep in study.sweeps if sweep.task in kept],
        }
    )


def task_files(study: StudyConfig, task: TaskConfig) -> ConfigFiles:
    """The config files of a task."""
    return task.configs or study.configs


def models_needed(study: StudyConfig, tasks: Iterable[str] | None = None) -> dict[Path, PretrainConfig]:
    """The models made here that tasks, or all, start from or are rewarded by: folder -> how it is made.

    Raises ConfigError.
    """
    names: set[str] = set()
    for task in map(study.tasks.__getitem__, study.tasks if tasks is None else tasks):
        for reward in (study.rewards[name] for name in task.rewards):
            names |= set(_strings([reward.reward.model_dump(), reward.metric.model_dump(), task.model]))
        if task.model is None:
            names |= set(_strings(read_source(task_files(study, task).extraction).data))
    made = [load_pretrain_config(path) for path in study.models]
    folders = {Path(study.models_path) / config.name: config for config in made}
    return {folder: config for folder, config in folders.items() if folder.as_posix() in names}


def train_reward(run: Path, key: str) -> float:
    """Read the reward on the train inputs at the end of a training."""
    prefix = read_run(run).manifest.get("prefix", "")
    rows = read_rows(run / f"{prefix}train_split_metrics.jsonl", "epoch")
    return float(max(rows, key=lambda row: row["epoch"])["metrics"][key])


def chosen_rates(
    study: StudyConfig, tried: Mapping[tuple[Start, float], Iterable[float]]
) -> dict[Start, float]:
    """The learning rate of RFT from each start: the best mean train reward over the tasks it was tried on.

    tried: (start, rate) -> those rewards.
    """
    means = {key: sum(rewards) / len(rewards) for key, values in tried.items() if (rewards := list(values))}
    return {
        start: max(config.learning_rates, key=lambda rate: means.get((start, rate), 0.0))  # one is not tried
        for start, config in study.starts.items()
    }


def _unknown(named: Iterable[tuple[str, str]], known: Sequence[str]) -> list[Problem]:
    """Problems of fields that do not name one of these."""
    return [
        Problem(path, f"must be one of {', '.join(known)}, got {name!r}")
        for path, name in named
        if name not in known
    ]


def _strings(data: Any) -> Iterator[str]:
    """Yield every string in nested mappings and lists."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for item in data.values() if isinstance(data, Mapping) else data:
            yield from _strings(item)

"""The study of text generation tasks: one file that expands to the plans of the paper's Sections 4.1 and 5.

A task is a dataset with its reward. Each has reward statistics of the pretrained model in two independent
samples, RFT at each learning rate that is tried, SFT, RFT after it, and the statistics after each on train
and test; one task also has the sweeps of Section 5.1 and the short SFT phases of Section 5.2. What is run is
an ordinary plan file, written beside the runs. Imports nothing heavy.
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
from common.source import read_source
from paper.small_models.config import PretrainConfig, load_pretrain_config
from rl4lms.config.parts import Args, MetricConfig, Positive
from rl4lms.config.training_blocks import RewardConfig
from rl4lms.samples import Split

Method = Literal["pretrained", "rft", "sft", "sft_rft"]
METHODS: tuple[Method, ...] = get_args(Method)
Fields = dict[str, Any]
SECOND_SAMPLE_SEED = 1000  # of the pretrained model's independent second sample
MODEL, ON_POLICY_MODEL = "alg.model_name", "alg.policy.args.model_name"


class ConfigFiles(Config):
    """The config files that the runs are edits of."""

    extraction: str
    rft: str
    sft: str
    sft_rft: str
    group: str = Field("", description="of group algorithms; {algorithm} stands for the id")


class TaskConfig(Config):
    label: str = Field(description="for figures; a new line before its reward")
    datapool: Args = Field(description="arguments of the datapool, over `datapool` of the study")
    reward: RewardConfig = Field(description="what RFT maximises")
    metric: MetricConfig = Field(description="the same as a metric, for evaluation and extraction")
    key: str = Field(description="its name among the metric's results")
    max_prompt_length: Positive = Field(description="tokens of a prompt")
    max_new_tokens: Positive = Field(description="tokens of a text")
    kl_coeff: float = Field(0.001, ge=0, description="weight of the KL penalty")
    configs: ConfigFiles | None = Field(None, description="instead of those of the study")
    model: str | None = Field(None, description="the pretrained model, instead of that of the config files")


class SweepConfig(Config):
    """Sweeps of one task: settings raised one at a time (Table 2), and short SFT phases (Figure 4)."""

    task: str
    learning_rates: list[float] = Field(description="RFT, instead of the chosen one")
    temperatures: list[float] = Field(description="RFT, of the rollouts")
    ent_coefs: list[float] = Field(description="RFT, weight of the entropy bonus")
    labels: list[float] = Field(description="SFT, shares of the labels")
    steps: list[float] = Field(description="SFT, shares of the steps")


class GroupsConfig(Config):
    """Group algorithms beside PPO (`paper.group_study`), with as many generated tokens."""

    tasks: list[str]
    tokens: dict[str, Positive] = Field(
        {}, description="task -> tokens that a run generates, where not as many as the study's RFT"
    )
    algorithms: list[str] = Field(description="on all tasks; grpo among them")
    learning_rates: Annotated[list[float], Field(min_length=1)] = Field(
        description="of these; chosen by the rule of rft_learning_rates"
    )
    rft: Fields = Field({}, description="dotted field -> value of every run of a group algorithm")
    others_task: str = Field(description="task of `others`")
    others: list[str] = Field(description="one seed, at GRPO's learning rate")
    cure_task: str = Field(description="task of a short SFT phase, then GRPO")
    cure_labels: float = Field(description="share of the labels of that phase")
    cure_steps: float = Field(description="share of the SFT steps of that phase")
    scale_task: str = Field(description="task of GRPO and RLOO with a reward of another scale")
    scale: float = Field(gt=0, description="how much of each difference of rewards is left")


class StudyConfig(Config):
    """One study."""

    name: str = Field(description="shown in logs, and the name of its plan files")
    output_path: str = Field(description="folder of all its runs")
    models: list[str] = Field([], description="config files of the models that are made here")
    models_path: str = Field("outputs/laptop_models", description="folder of these models")
    configs: ConfigFiles = Field(description="of all tasks that name no others")
    datapool: Args = Field({}, description="arguments that all tasks share")
    rft_learning_rates: Annotated[list[float], Field(min_length=1)] = Field(
        description="tried on the first seed of every task; the one with the best train reward is used"
    )
    rft: Fields = Field({}, description="dotted field -> value of every RFT run")
    sft: Fields = Field({}, description="dotted field -> value of every SFT run")
    sft_steps: Positive = Field(description="updates of a full SFT")
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    sweep: SweepConfig | None = Field(None, description="null: without Table 2 and Figure 4")
    groups: GroupsConfig | None = Field(None, description="null: without the comparison of group algorithms")

    def check(self) -> list[Problem]:
        names = {} if self.sweep is None else {"sweep.task": self.sweep.task}
        if (groups := self.groups) is not None:
            names |= {f"groups.tasks[{i}]": task for i, task in enumerate(groups.tasks)}
            names |= {
                f"groups.{name}_task": getattr(groups, f"{name}_task") for name in ("others", "cure", "scale")
            }
        return [
            Problem(field, f"must be one of {', '.join(self.tasks)}, got {task!r}")
            for field, task in names.items()
            if task not in self.tasks
        ]


@dataclass(frozen=True)
class StudyRun:
    """What an experiment of the study is of.

    configuration: its name in the plan; method: one of METHODS, or of `paper.group_study`; sample, split: an
    extraction's, 2 for the pretrained model's second.
    """

    configuration: str
    task: str
    method: str
    kind: Literal["training", "extraction"]
    sample: int = 1
    split: Split = "train"


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """The study that a file describes. Raises ConfigError with all problems."""
    return load_config(path, StudyConfig, overrides)


def select_tasks(study: StudyConfig, names: Iterable[str]) -> StudyConfig:
    """Keep the part of a study about these tasks, without its sweeps if their task is none of them."""
    tasks = {name: study.tasks[name] for name in names}
    sweep = study.sweep if study.sweep is not None and study.sweep.task in tasks else None
    return study.model_copy(update={"tasks": tasks, "sweep": sweep})


def models_needed(study: StudyConfig) -> dict[Path, PretrainConfig]:
    """The models made here that a task starts from or is rewarded by: folder -> how it is made.

    Raises ConfigError.
    """
    names: set[str] = set()
    for task in study.tasks.values():
        names |= set(_strings([task.reward.model_dump(), task.metric.model_dump(), task.model]))
        if task.model is None:
            names |= set(_strings(read_source(task_files(study, task).extraction).data))
    made = [load_pretrain_config(path) for path in study.models]
    folders = {Path(study.models_path) / config.name: config for config in made}
    return {folder: config for folder, config in folders.items() if folder.as_posix() in names}


def selection(study: StudyConfig) -> tuple[list[Fields], list[StudyRun]]:
    """Make the first plan's configurations, and say what they are: RFT at every learning rate, first seed."""
    configurations, runs = [], []
    for name, task in study.tasks.items():
        for rate in study.rft_learning_rates:
            run = StudyRun(f"{name}-rft-{name_number(rate)}", name, "rft", "training")
            fields = (
                rft_fields(study, task)
                | start_fields(task, ON_POLICY_MODEL)
                | {"alg.args.learning_rate": rate}
            )
            configurations.append(make_configuration(run, task_files(study, task).rft, fields, repetitions=1))
            runs.append(run)
    return configurations, runs


def comparison(study: StudyConfig, rates: Mapping[str, float]) -> tuple[list[Fields], list[StudyRun]]:
    """Make those of Figures 1, 2, 5 and Table 1: both finetunings of every task, and all statistics."""
    configurations, runs = [], []

    def add(run: StudyRun, path: str, fields: Fields, **options: Any) -> None:
        configurations.append(make_configuration(run, path, fields, **options))
        runs.append(run)

    for name, task in study.tasks.items():
        files, extraction = task_files(study, task), extraction_fields(study, task)
        for sample, seed in ((1, 0), (2, SECOND_SAMPLE_SEED)):
            run = StudyRun(f"{name}-pretrained-{sample}", name, "pretrained", "extraction", sample)
            fields = extraction | start_fields(task, MODEL) | {"runtime.seed": seed}
            add(run, files.extraction, fields, repetitions=1)
        rft = (
            rft_fields(study, task)
            | start_fields(task, ON_POLICY_MODEL)
            | {"alg.args.learning_rate": rates[name]}
        )
        add(StudyRun(f"{name}-rft", name, "rft", "training"), files.rft, rft)
        add(StudyRun(f"{name}-sft", name, "sft", "training"), files.sft, sft_fields(study, task))
        for method in ("rft", "sft"):
            after = StudyRun(f"{name}-{method}-rewards", name, method, "extraction")
            add(after, files.extraction, extraction, model_from=f"{name}-{method}")
    return configurations, runs


def after_sft(study: StudyConfig, rates: Mapping[str, float]) -> tuple[list[Fields], list[StudyRun]]:
    """Make the configurations of the table of rewards, which start from those of `comparison`.

    These are RFT after the full SFT, its statistics on train inputs, and those of all models on test inputs.
    """
    configurations, runs = [], []
    measured: list[tuple[Method, Split]] = [("sft_rft", "train"), *((method, "test") for method in METHODS)]
    for name, task in study.tasks.items():
        files, extraction = task_files(study, task), extraction_fields(study, task)
        rft = rft_fields(study, task) | {"alg.args.learning_rate": rates[name]}
        trained = StudyRun(f"{name}-sft-rft", name, "sft_rft", "training")
        configurations.append(make_configuration(trained, files.sft_rft, rft, model_from=f"{name}-sft"))
        runs.append(trained)
        for method, split in measured:
            model = f"{name}-{method.replace('_', '-')}"
            run = StudyRun(f"{model}-{split}-rewards", name, method, "extraction", split=split)
            fields = extraction | {"datapool.split": split}
            options: dict[str, Any] = {"model_from": model}
            if method == "pretrained":
                fields, options = fields | start_fields(task, MODEL), {"repetitions": 1}
            configurations.append(make_configuration(run, files.extraction, fields, **options))
            runs.append(run)
    return configurations, runs


def sweeps(study: StudyConfig, rates: Mapping[str, float]) -> tuple[list[Fields], list[StudyRun]]:
    """Make the configurations of Table 2 and Figure 4, for one task and one seed."""
    configurations: list[Fields] = []
    runs: list[StudyRun] = []
    if study.sweep is None:
        return configurations, runs
    name, task, sweep = study.sweep.task, study.tasks[study.sweep.task], study.sweep
    files, rft = task_files(study, task), rft_fields(study, task) | {"alg.args.learning_rate": rates[name]}
    raised = {
        "alg.args.learning_rate": sweep.learning_rates,
        "alg.policy.args.generation_kwargs.temperature": sweep.temperatures,
        "alg.args.ent_coef": sweep.ent_coefs,
    }
    for field, values in raised.items():
        for value in values:
            run = StudyRun(
                f"{name}-rft-{field.rpartition('.')[2]}-{name_number(value)}", name, "rft", "training"
            )
            fields = rft | start_fields(task, ON_POLICY_MODEL) | {field: value}
            configurations.append(make_configuration(run, files.rft, fields, repetitions=1))
            runs.append(run)
    for labels in sweep.labels:
        for share in sweep.steps:
            phase: Fields = {"alg.training_args.max_steps": max(1, round(share * study.sft_steps))}
            if labels < 1:  # else the same run as the comparison's, if all steps are taken
                phase["datapool.frac_train_samples"] = labels
                phase["datapool.train_samples_rnd_seed"] = "{runtime.seed}"
            sft = StudyRun(f"{name}-sft-{name_number(labels)}-{name_number(share)}", name, "sft", "training")
            configurations.append(
                make_configuration(sft, files.sft, sft_fields(study, task) | phase, repetitions=1)
            )
            then = StudyRun(f"{sft.configuration}-rft", name, "sft_rft", "training")
            start = {"model_from": sft.configuration, "repetitions": 1}
            configurations.append(make_configuration(then, files.sft_rft, rft, **start))
            runs += [sft, then]
    return configurations, runs


def build_plan(study: StudyConfig, configurations: Sequence[Fields], seeds: int, jobs: int) -> Fields:
    """What a plan file of these configurations holds."""
    return {
        "name": study.name,
        "repetitions": seeds,
        "multiprocess": jobs > 1,
        "num_parallel": jobs,
        "output_path": study.output_path,
        "log_entire_predictions": True,  # the spread over inputs is part of what is reported
        "configurations": list(configurations),
    }


def train_reward(run: Path, key: str) -> float:
    """Read the reward on the train inputs at the end of a training."""
    prefix = read_run(run).manifest.get("prefix", "")
    rows = read_rows(run / f"{prefix}train_split_metrics.jsonl", "epoch")
    return float(max(rows, key=lambda row: row["epoch"])["metrics"][key])


def name_number(value: float) -> str:
    """Write a number as part of a configuration's name."""
    return f"{value:g}".replace(".", "_")


def make_configuration(run: StudyRun, path: str, fields: Fields, **options: Any) -> Fields:
    """One configuration of a plan: fields over the config file at `path`; options: its other keys."""
    return {"name": run.configuration, "config_path": path, "base_config": fields, **options}


def task_files(study: StudyConfig, task: TaskConfig) -> ConfigFiles:
    """The config files of a task's runs."""
    return task.configs or study.configs


def _strings(data: Any) -> Iterator[str]:
    """Yield every string in nested mappings and lists."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for item in data.values() if isinstance(data, Mapping) else data:
            yield from _strings(item)


def start_fields(task: TaskConfig, field: str) -> Fields:
    """The pretrained model, for runs that start from it."""
    return {} if task.model is None else {field: task.model}


def _data(study: StudyConfig, task: TaskConfig) -> Fields:
    return {
        **start_fields(task, "tokenizer.model_name"),
        "tokenizer.max_length": task.max_prompt_length,
        "datapool.args": study.datapool | task.datapool,
    }


def extraction_fields(study: StudyConfig, task: TaskConfig) -> Fields:
    """What an extraction of a task sets over its config file, but for the model."""
    return _data(study, task) | {
        "alg.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "evaluation.metrics": [task.metric.model_dump()],
    }


def rollout_fields(study: StudyConfig, task: TaskConfig) -> Fields:
    """Data, reward and lengths of a training with rollouts, whichever the algorithm."""
    return _data(study, task) | {
        "reward_fn": task.reward.model_dump(),
        "env.args.max_prompt_length": task.max_prompt_length,
        "env.args.max_episode_length": task.max_new_tokens,
        "alg.policy.args.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "alg.kl_div.coeff": task.kl_coeff,
        "train_evaluation.metrics": [task.metric.model_dump()],
    }


def rft_fields(study: StudyConfig, task: TaskConfig) -> Fields:
    """What RFT of a task sets over its config file, but for the model and the learning rate."""
    return rollout_fields(study, task) | study.rft


def sft_fields(study: StudyConfig, task: TaskConfig) -> Fields:
    """What a full SFT of a task sets over its config file."""
    return {
        **_data(study, task),
        **start_fields(task, MODEL),
        "alg.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "alg.training_args.max_steps": study.sft_steps,
        "train_evaluation.metrics": [task.metric.model_dump()],
        **study.sft,
    }

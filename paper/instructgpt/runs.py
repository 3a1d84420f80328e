"""How the configuration of each run of InstructGPT's pipeline is made: by edits of config files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.source import read_source
from paper.group_study import groups_of
from paper.instructgpt.config import Pipeline, PipelineTask, Stage
from paper.study import Fields, task_files
from paper.study_plans import MODEL, N_ITERS, ON_POLICY_MODEL, ONCE, start_fields
from rl4lms.plan.runs import find_model

RATE, SEED = "alg.args.learning_rate", "runtime.seed"
HALF, PTX = "half", "ppo-ptx"  # begin the names of methods


@dataclass(frozen=True)
class Planned:
    """A run. name: of no other one; kind: of how long it takes (`paper.instructgpt.run.MINUTES`).

    task, method, seed: what figures call it, with `kl` and `teacher` where there are several. configuration:
    of a plan; None: a job of `paper.instructgpt.jobs` makes it, from the runs named in `needs`.
    """

    name: str
    kind: str
    task: str
    method: str
    seed: int
    configuration: Fields | None = None
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kl: float | None = None
    teacher: str = ""


@dataclass(frozen=True)
class Finished:
    """A planned run that is there. command: makes it, or goes on with it; "" of a job."""

    planned: Planned
    path: Path
    command: str


@dataclass(frozen=True)
class Done:
    """What is known when a stage begins. runs: name -> folder; rates: algorithm -> learning rate."""

    runs: Mapping[str, Path] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    def model(self, name: str) -> str:
        """The model of a run, or words for it."""
        return str(find_model(self.runs[name])) if name in self.runs else f"<model of {name}>"

    def folder(self, name: str, inside: str = "") -> str:
        """The folder of a run, or words for it."""
        return str(self.runs[name] / inside) if name in self.runs else f"<{name}>/{inside}"

    def rate(self, algorithm: str) -> float:
        """The learning rate that was chosen, or any before one is."""
        return self.rates.get(algorithm, 1.0)


def base_model(pipeline: Pipeline, task: PipelineTask) -> str:
    """The pretrained model of a task."""
    named = pipeline.study_task(task).model
    return named or str(read_source(task.files.ppo).data["tokenizer"]["model_name"])


def datapool_args(pipeline: Pipeline, task: PipelineTask) -> Fields:
    """The arguments of a task's datapool."""
    return pipeline.study.datapool | pipeline.study_task(task).datapool | pipeline.config.datapool


def has_log_odds(task: PipelineTask) -> bool:
    """Whether gold is a probability, of which rankings take the log-odds."""
    return bool(read_source(task.files.rankings).data["rankings"].get("log_odds", False))


def gold_metric(pipeline: Pipeline, task: PipelineTask) -> Fields:
    return pipeline.study.reward(pipeline.case(task)).metric.model_dump()


def score_metric(model: str) -> Fields:
    return {"id": "reward_model", "args": {"model_name": model}}


def squashed_reward(pipeline: Pipeline, task: PipelineTask, table: str) -> Fields:
    reward = pipeline.study.reward(pipeline.case(task)).reward
    args = {
        "reward": reward.id,
        "reward_args": reward.args,
        "log_odds": has_log_odds(task),
        "table_path": table,
    }
    return {"id": "paper.instructgpt.rewards:squashed", "args": args}


def _data(pipeline: Pipeline, task: PipelineTask) -> Fields:
    study_task = pipeline.study_task(task)
    return {
        **start_fields(study_task, "tokenizer.model_name"),
        "tokenizer.max_length": study_task.max_prompt_length,
        "datapool.args": datapool_args(pipeline, task),
    }


def training_run(
    pipeline: Pipeline,
    task: PipelineTask,
    stage: Stage,
    kind: str,
    method: str,
    seed: int,
    path: str | None,
    fields: Fields,
    last: Fields | None = None,
    **labels: Any,
) -> Planned:
    """A training of a stage. path: of its config file; last: fields over those of the pipeline's file too."""
    name = pipeline.case(task).task
    merged = fields | pipeline.fields(task, stage) | (last or {}) | {SEED: seed}
    run = f"{name}-{method}-s{seed}"
    configuration = {"name": run, "config_path": path, "base_config": merged} | ONCE
    return Planned(run, kind, name, method, seed, configuration, **labels)


def sft_fields(pipeline: Pipeline, task: PipelineTask) -> Fields:
    return {
        **_data(pipeline, task),
        **start_fields(pipeline.study_task(task), MODEL),
        "alg.generation_kwargs.max_new_tokens": pipeline.study_task(task).max_new_tokens,
        "train_evaluation.metrics": [gold_metric(pipeline, task)],
    }


def reward_model_run(
    pipeline: Pipeline,
    task: PipelineTask,
    kind: str,
    method: str,
    seed: int,
    data: str,
    done: Done,
    last: Fields | None = None,
) -> Planned:
    """A reward model from the start of RL (without one, from the pretrained model). last: over all fields."""
    name = pipeline.case(task).task
    start = start_fields(pipeline.study_task(task), MODEL)
    if task.files.rl_start is not None:
        start = {MODEL: done.model(f"{name}-start-s{seed}")}
    fields = {
        **start_fields(pipeline.study_task(task), "tokenizer.model_name"),
        **start,
        "datapool.args.data_path": data,
    }
    return training_run(
        pipeline, task, "reward_model", kind, method, seed, task.files.reward_model, fields, last
    )


def _rollout_fields(pipeline: Pipeline, task: PipelineTask, seed: int, coeff: float, done: Done) -> Fields:
    """What PPO and group algorithms share."""
    study_task, name = pipeline.study_task(task), pipeline.case(task).task
    start = start_fields(study_task, ON_POLICY_MODEL)
    if task.files.rl_start is not None:
        start = {ON_POLICY_MODEL: done.model(f"{name}-start-s{seed}")}
    return {
        **_data(pipeline, task),
        **start,
        "env.args.max_prompt_length": study_task.max_prompt_length,
        "env.args.max_episode_length": study_task.max_new_tokens,
        "alg.policy.args.generation_kwargs.max_new_tokens": study_task.max_new_tokens,
        "alg.kl_div.coeff": coeff,
    }


def ppo_run(
    pipeline: Pipeline,
    task: PipelineTask,
    method: str,
    seed: int,
    coeff: float,
    is_ptx: bool,
    rate: float,
    done: Done,
) -> Planned:
    name, ptx = pipeline.case(task).task, pipeline.config.ptx
    model = done.model(f"{name}-rm-s{seed}")
    fields = {
        **_rollout_fields(pipeline, task, seed, coeff, done),
        "reward_fn.args.model_name": model,
        "alg.policy.args.value_model_name": model,
        RATE: rate,
        "train_evaluation.metrics": [score_metric(model), gold_metric(pipeline, task)],
    }
    if is_ptx:
        settings = ptx.source | {"coeff": ptx.coeff, "examples_per_episode": ptx.examples_per_episode}
        fields |= {f"alg.pretraining.{key}": value for key, value in settings.items()}
    else:
        fields["alg.pretraining"] = None
    kind = ("ptx" if is_ptx else "ppo") if task is pipeline.config.main else "other_ppo"
    return training_run(pipeline, task, "ppo", kind, method, seed, task.files.ppo, fields, kl=coeff)


def group_run(
    pipeline: Pipeline,
    task: PipelineTask,
    algorithm: str,
    method: str,
    seed: int,
    coeff: float,
    rate: float,
    reward: Fields,
    iterations: int,
    done: Done,
    teacher: str = "",
) -> Planned:
    """RLOO or GRPO by a reward, measured by gold."""
    study, study_task = pipeline.study, pipeline.study_task(task)
    fields = {
        **_rollout_fields(pipeline, task, seed, coeff, done),
        "reward_fn": reward,
        "alg.args.std_epsilon": groups_of(study).rft["alg.args.std_epsilon"],
        RATE: rate,
        N_ITERS: iterations,
        "train_evaluation.metrics": [gold_metric(pipeline, task)],
    }
    path = task_files(study, study_task).group.format(algorithm=algorithm)
    kind = "half" if method.startswith(HALF) else "taught"
    return training_run(pipeline, task, "group", kind, method, seed, path, fields, kl=coeff, teacher=teacher)


def sampling_run(
    pipeline: Pipeline,
    task: PipelineTask,
    method: str,
    seed: int,
    split: str,
    each: int,
    model: str | None,
    **options: Any,
) -> Planned:
    """An extraction: so many texts of a model for each prompt of a split, scored by gold."""
    study_task, name = pipeline.study_task(task), pipeline.case(task).task
    fields = {
        **_data(pipeline, task),
        **({} if model is None else {MODEL: model}),
        "datapool.split": split,
        "datapool.num_train_samples": -1,
        "alg.generation_kwargs.max_new_tokens": study_task.max_new_tokens,
        "evaluation.num_samples_per_input": each,
        "evaluation.metrics": [gold_metric(pipeline, task)],
        **pipeline.fields(task, "sampling"),
        SEED: seed,
    }
    run = f"{name}-{method}-{split}-s{seed}"
    path = task_files(pipeline.study, study_task).extraction
    configuration = {"name": run, "config_path": path, "base_config": fields} | ONCE | options
    kind = "best_of" if method == "best-of" else "texts"
    return Planned(run, kind, name, method, seed, configuration)

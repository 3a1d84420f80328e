"""Group algorithms beside PPO on tasks of the study: which runs there are.

Every run generates as many tokens as PPO's, from the same base model, with the task's KL coefficient; the
learning rate of each algorithm is chosen by the study's rule. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.source import read_source
from paper.study import (
    MODEL,
    ON_POLICY_MODEL,
    SECOND_SAMPLE_SEED,
    Fields,
    GroupsConfig,
    StudyConfig,
    StudyRun,
    TaskConfig,
    extraction_fields,
    make_configuration,
    name_number,
    rft_fields,
    rollout_fields,
    sft_fields,
    start_fields,
    task_files,
)
from rl4lms.samples import Split

PPO, GRPO, RLOO = "ppo", "grpo", "rloo"
SHORT_SFT, SHORT_SFT_GRPO = "short_sft", "short_sft_grpo"
SCALED = "_scaled"  # ends the method of a run whose reward has another scale
Rates = Mapping[tuple[str, str], float]  # task, algorithm -> learning rate
_RATE, _MAX_TOKENS = "alg.args.learning_rate", "train_evaluation.max_tokens"
_N_ITERS = "train_evaluation.n_iters"


class _Plan:
    """Configurations of a plan and what they are, as they are added."""

    def __init__(self, study: StudyConfig) -> None:
        self.study = study
        self.configurations: list[Fields] = []
        self.runs: list[StudyRun] = []

    def add(self, run: StudyRun, path: str, fields: Fields, **options: Any) -> None:
        """Add one configuration."""
        self.configurations.append(make_configuration(run, path, fields, **options))
        self.runs.append(run)

    def add_rewards(self, name: str, method: str, splits: tuple[Split, ...], **options: Any) -> None:
        """Add the statistics of the model of the configuration {task}-{method}."""
        task = self.study.tasks[name]
        for split in splits:
            model = f"{name}-{_dashed(method)}"
            run = StudyRun(f"{model}-{split}-rewards", name, method, "extraction", split=split)
            fields = extraction_fields(self.study, task) | {"datapool.split": split}
            self.add(run, task_files(self.study, task).extraction, fields, model_from=model, **options)


def group_tasks(groups: GroupsConfig) -> list[str]:
    """All tasks that the comparison needs."""
    return list(dict.fromkeys([*groups.tasks, groups.others_task, groups.cure_task, groups.scale_task]))


def budget(study: StudyConfig, name: str) -> int:
    """Tokens that every run on a task generates: those of the study's RFT, unless `groups` says otherwise."""
    assert study.groups is not None
    return study.groups.tokens.get(name, study_tokens(study, name))


def study_tokens(study: StudyConfig, name: str) -> int:
    """Tokens that the study's RFT of a task generates."""
    a_time, iterations = _ppo_length(study, study.tasks[name])
    return a_time * iterations


def group_selection(study: StudyConfig) -> tuple[list[Fields], list[StudyRun]]:
    """Make the first plan's configurations: PPO and the algorithms of all tasks, at every learning rate."""
    plan, groups = _Plan(study), study.groups
    assert groups is not None
    for name in groups.tasks:
        for method in (PPO, *groups.algorithms):
            for rate in study.rft_learning_rates if method == PPO else groups.learning_rates:
                run = StudyRun(f"{name}-{_dashed(method)}-{name_number(rate)}", name, method, "training")
                _add_training(plan, run, method, rate, repetitions=1)
    return plan.configurations, plan.runs


def group_comparison(study: StudyConfig, rates: Rates) -> tuple[list[Fields], list[StudyRun]]:
    """Make the second plan's: all algorithms at their learning rate, and the statistics of all models."""
    plan, groups = _Plan(study), study.groups
    assert groups is not None
    for name in groups.tasks:
        _add_pretrained(plan, name)
        for method in (PPO, *groups.algorithms):
            _add_training(plan, _training(name, method), method, rates[name, method])
            plan.add_rewards(name, method, ("train", "test"))
    name = groups.others_task
    for method in groups.others:
        _add_training(plan, _training(name, method), method, rates[name, GRPO], repetitions=1)
        plan.add_rewards(name, method, ("train", "test"), repetitions=1)
    _add_cure(plan, groups.cure_task, rates[groups.cure_task, GRPO])
    name = groups.scale_task
    for method in (GRPO + SCALED, RLOO, RLOO + SCALED):
        _add_training(plan, _training(name, method), method, rates[name, GRPO], repetitions=1)
        plan.add_rewards(name, method, ("train",), repetitions=1)
    return plan.configurations, plan.runs


def _add_training(plan: _Plan, run: StudyRun, method: str, rate: float, **options: Any) -> None:
    """Add a training from the base model, or from another one if the options say so."""
    study = plan.study
    task = study.tasks[run.task]
    start = {} if "model_from" in options else start_fields(task, ON_POLICY_MODEL)
    if method == PPO:
        fields = rft_fields(study, task)
        if (tokens := budget(study, run.task)) != study_tokens(study, run.task):
            fields[_N_ITERS] = math.ceil(tokens / _ppo_length(study, task)[0])
        path = task_files(study, task).rft
    else:
        algorithm = method.removesuffix(SCALED)
        path = task_files(study, task).group.format(algorithm=algorithm)
        fields = _group_fields(study, run.task, path, is_scaled=method != algorithm)
    plan.add(run, path, fields | start | {_RATE: rate}, **options)


def _group_fields(study: StudyConfig, name: str, path: str, is_scaled: bool) -> Fields:
    """What a run of a group algorithm sets over its config file at `path`, but for model and rate."""
    task, groups = study.tasks[name], study.groups
    assert groups is not None
    args = read_source(path).data["alg"]["args"]
    tokens = budget(study, name)
    when = {key: value for key, value in study.rft.items() if key.startswith("train_evaluation.")}
    fields = rollout_fields(study, task) | when | groups.rft
    # A text has a token at least: so many iterations are never reached.
    most = math.ceil(tokens / (args["prompts_per_iteration"] * args["group_size"]))
    fields |= {_MAX_TOKENS: tokens, _N_ITERS: most}
    if is_scaled:
        reward = {"reward": task.reward.id, "reward_args": task.reward.args, "scale": groups.scale}
        fields["reward_fn"] = {"id": "paper.scaled_reward:scaled_reward", "args": reward}
    return fields


def _add_pretrained(plan: _Plan, name: str) -> None:
    """Add two samples of the base model on train inputs and one on test inputs, as the study has them."""
    task = plan.study.tasks[name]
    fields = extraction_fields(plan.study, task) | start_fields(task, MODEL)
    path = task_files(plan.study, task).extraction
    for sample, seed in ((1, 0), (2, SECOND_SAMPLE_SEED)):
        run = StudyRun(f"{name}-pretrained-{sample}", name, "pretrained", "extraction", sample)
        plan.add(run, path, fields | {"runtime.seed": seed}, repetitions=1)
    run = StudyRun(f"{name}-pretrained-test-rewards", name, "pretrained", "extraction", split="test")
    plan.add(run, path, fields | {"datapool.split": "test"}, repetitions=1)


def _add_cure(plan: _Plan, name: str, rate: float) -> None:
    """Add a short SFT phase, as the sweeps have it, and GRPO after it."""
    study, groups = plan.study, plan.study.groups
    assert groups is not None
    task = study.tasks[name]
    phase = {
        "alg.training_args.max_steps": max(1, round(groups.cure_steps * study.sft_steps)),
        "datapool.frac_train_samples": groups.cure_labels,
        "datapool.train_samples_rnd_seed": "{runtime.seed}",
    }
    sft = _training(name, SHORT_SFT)
    plan.add(sft, task_files(study, task).sft, sft_fields(study, task) | phase)
    plan.add_rewards(name, SHORT_SFT, ("train", "test"))
    _add_training(plan, _training(name, SHORT_SFT_GRPO), GRPO, rate, model_from=sft.configuration)
    plan.add_rewards(name, SHORT_SFT_GRPO, ("train", "test"))


def _training(name: str, method: str) -> StudyRun:
    return StudyRun(f"{name}-{_dashed(method)}", name, method, "training")


def _dashed(method: str) -> str:
    return method.replace("_", "-")


def _ppo_length(study: StudyConfig, task: TaskConfig) -> tuple[int, int]:
    """Tokens of an iteration of the study's RFT, and its iterations."""
    data = read_source(task_files(study, task).rft).data
    envs = study.rft.get("env.n_envs", data["env"]["n_envs"])
    steps = study.rft.get("alg.args.n_steps", data["alg"]["args"]["n_steps"])
    return envs * steps, study.rft.get(_N_ITERS, data["train_evaluation"]["n_iters"])

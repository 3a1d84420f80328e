"""The plans of a study: configurations of experiments, and what each is of.

RFT from a finetuned model begins with that of the same seed. Configurations of one work under two names (the
full SFT is also a phase of the sweeps) are run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from paper.study import (
    Case,
    Fields,
    Method,
    Start,
    StudyConfig,
    StudyRun,
    TaskConfig,
    TaskReward,
    task_files,
)
from rl4lms.samples import Split

SECOND_SAMPLE_SEED = 1000  # of the pretrained model's independent second sample
MODEL, ON_POLICY_MODEL = "alg.model_name", "alg.policy.args.model_name"
RAISED = {
    "alg.args.learning_rate": "learning_rates",
    "alg.policy.args.generation_kwargs.temperature": "temperatures",
    "alg.args.ent_coef": "ent_coefs",
}
AFTER: dict[Start, Method] = {"pretrained": "rft", "short": "short_rft", "sft": "sft_rft"}
ONCE: Fields = {"repetitions": 1}


@dataclass
class Part:
    """Configurations of a plan, and what each is of, in one order."""

    configurations: list[Fields] = field(default_factory=list)
    runs: list[StudyRun] = field(default_factory=list)

    def add(self, run: StudyRun, config_path: str, fields: Fields, **options: Any) -> None:
        """Add a configuration. options: of the plan's, such as repetitions and model_from."""
        configuration = {"name": run.configuration, "config_path": config_path, "base_config": fields}
        self.configurations.append(configuration | options)
        self.runs.append(run)

    def __add__(self, other: Part) -> Part:
        return Part(self.configurations + other.configurations, self.runs + other.runs)


def selection(study: StudyConfig) -> Part:
    """RFT from each start at every learning rate, on the tasks and the seed of `study.choice`."""
    part, seed = Part(), {"runtime.seed": study.choice.seed}
    for name in study.choice.tasks:
        case = study.first_case(name)
        for method in ("short", "sft"):
            _add_sft(part, study, name, f"choice-{name}-{method}", *_shares(study, method), seed, **ONCE)
        for start, config in study.starts.items():
            begins = {} if start == "pretrained" else {"model_from": f"choice-{name}-{start}"}
            for rate in config.learning_rates:
                configuration = f"choice-{case.name}-{_dashed(AFTER[start])}-{_digits(rate)}"
                _add_rft(part, study, case, configuration, start, rate, seed, **ONCE, **begins)
    return part


def comparison(study: StudyConfig, rates: Mapping[Start, float]) -> Part:
    """Figures 1, 2, 5 and Table 1: RFT of every case and SFT of every task, all measured on train inputs."""
    part = Part()
    for name in study.tasks:
        for sample, seed in ((1, 0), (2, SECOND_SAMPLE_SEED)):
            _add_pretrained_extraction(part, study, name, "train", sample, seed)
        _add_sft(part, study, name, f"{name}-sft", *_shares(study, "sft"))
        _add_extraction(part, study, name, None, "sft", "train")
        for case in study.cases_of(name):
            _add_rft(part, study, case, f"{case.name}-rft", "pretrained", rates["pretrained"])
            _add_extraction(part, study, name, case, "rft", "train")
    return part


def after_sft(study: StudyConfig, rates: Mapping[Start, float]) -> Part:
    """The table of rewards, beyond `comparison`: short SFT, RFT after both, test inputs."""
    part = Part()
    for name in study.tasks:
        _add_pretrained_extraction(part, study, name, "test", 1, 0)
        _add_sft(part, study, name, f"{name}-short", *_shares(study, "short"))
        _add_extraction(part, study, name, None, "short", "train")
        for method in ("short", "sft"):
            _add_extraction(part, study, name, None, method, "test")
        for case in study.cases_of(name):
            _add_extraction(part, study, name, case, "rft", "test")
        case = study.first_case(name)
        for start in ("short", "sft"):
            method, begins = AFTER[start], {"model_from": f"{name}-{start}"}
            _add_rft(part, study, case, f"{case.name}-{_dashed(method)}", start, rates[start], **begins)
            for split in ("train", "test"):
                _add_extraction(part, study, name, case, method, split)
    return part


def sweeps(study: StudyConfig, rates: Mapping[Start, float], seeds: int) -> Part:
    """Table 2 and Figure 4: RFT with settings raised one at a time, and after SFT phases of each length."""
    part = Part()
    for sweep in study.sweeps:
        case, times = study.first_case(sweep.task), {"repetitions": min(sweep.seeds or seeds, seeds)}
        for field_name, values in RAISED.items():
            for value in getattr(sweep, values):
                configuration = f"{case.name}-rft-{field_name.rpartition('.')[2]}-{_digits(value)}"
                changes, rate = {field_name: value}, rates["pretrained"]
                _add_rft(part, study, case, configuration, "pretrained", rate, changes, **times)
        for labels in sweep.labels:
            for steps in sweep.steps:
                phase = f"{sweep.task}-sft-{_digits(labels)}-{_digits(steps)}"
                start: Start = "sft" if labels == steps == 1 else "short"
                _add_sft(part, study, sweep.task, phase, labels, steps, **times)
                begins = {"model_from": phase} | times
                _add_rft(part, study, case, f"{phase}-{case.reward}-rft", start, rates[start], **begins)
    return part


def build_plan(study: StudyConfig, part: Part, seeds: int, jobs: int) -> Fields:
    """What a plan file of these configurations holds."""
    return {
        "name": study.name,
        "repetitions": seeds,
        "multiprocess": jobs > 1,
        "num_parallel": jobs,
        "output_path": study.output_path,
        "log_entire_predictions": True,  # the spread over inputs is part of what is reported
        "configurations": part.configurations,
    }


def _add_sft(
    part: Part,
    study: StudyConfig,
    task_name: str,
    configuration: str,
    labels: float,
    steps: float,
    changes: Fields | None = None,
    **options: Any,
) -> None:
    task = study.tasks[task_name]
    fields = {
        **_data(study, task),
        **_start(task, MODEL),
        "alg.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "alg.training_args.max_steps": max(1, round(steps * study.sft_steps)),
        **_evaluation(study, task.rewards.values()),
        **study.sft,
    }
    if labels < 1:  # else the same run under every name, if all steps are taken
        fields["datapool.frac_train_samples"] = labels
        fields["datapool.train_samples_rnd_seed"] = "{runtime.seed}"
    method: Method = "sft" if (labels, steps) == _shares(study, "sft") else "short"
    run = StudyRun(configuration, task_name, None, method, "training")
    part.add(run, task_files(study, task).sft, fields | (changes or {}), **options)


def _add_rft(
    part: Part,
    study: StudyConfig,
    case: Case,
    configuration: str,
    start: Start,
    rate: float,
    changes: Fields | None = None,
    **options: Any,
) -> None:
    task, reward, files = (
        study.tasks[case.task],
        study.reward(case),
        task_files(study, study.tasks[case.task]),
    )
    fields = {
        **_data(study, task),
        **(_start(task, ON_POLICY_MODEL) if start == "pretrained" else {}),
        "reward_fn": reward.reward.model_dump(),
        "env.args.max_prompt_length": task.max_prompt_length,
        "env.args.max_episode_length": task.max_new_tokens,
        "alg.policy.args.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "alg.kl_div.coeff": task.kl_coeff,
        **_evaluation(study, [reward]),
        **study.rft,
        **study.starts[start].fields,
        "alg.args.learning_rate": rate,
        **(changes or {}),
    }
    run = StudyRun(configuration, case.task, case.reward, AFTER[start], "training")
    part.add(run, files.rft if start == "pretrained" else files.sft_rft, fields, **options)


def _add_extraction(
    part: Part, study: StudyConfig, task_name: str, case: Case | None, method: Method, split: Split
) -> None:
    """Measure a finetuned model: by all rewards of its task after SFT, by that of `case` after RFT."""
    task = study.tasks[task_name]
    model = f"{case.name if case else task_name}-{_dashed(method)}"
    rewards = [study.reward(case)] if case else list(task.rewards.values())
    run = StudyRun(
        f"{model}-{split}-rewards", task_name, case and case.reward, method, "extraction", split=split
    )
    fields = _extraction(study, task, rewards, split)
    part.add(run, task_files(study, task).extraction, fields, model_from=model)


def _add_pretrained_extraction(
    part: Part, study: StudyConfig, task_name: str, split: Split, sample: int, seed: int
) -> None:
    task = study.tasks[task_name]
    configuration = f"{task_name}-pretrained-{split}-{sample}"
    run = StudyRun(configuration, task_name, None, "pretrained", "extraction", sample, split)
    fields = _extraction(study, task, list(task.rewards.values()), split) | _start(task, MODEL)
    part.add(run, task_files(study, task).extraction, fields | {"runtime.seed": seed}, **ONCE)


def _extraction(study: StudyConfig, task: TaskConfig, rewards: Sequence[TaskReward], split: Split) -> Fields:
    return _data(study, task) | {
        "datapool.split": split,
        "datapool.num_train_samples": study.measured_inputs if split == "train" else -1,
        "alg.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "evaluation.metrics": [reward.metric.model_dump() for reward in rewards],
    }


def _evaluation(study: StudyConfig, rewards: Iterable[TaskReward]) -> Fields:
    return {
        "train_evaluation.metrics": [reward.metric.model_dump() for reward in rewards],
        "train_evaluation.max_eval_samples": study.measured_inputs,
    }


def _data(study: StudyConfig, task: TaskConfig) -> Fields:
    return {
        **_start(task, "tokenizer.model_name"),
        "tokenizer.max_length": task.max_prompt_length,
        "datapool.args": study.datapool | task.datapool,
    }


def _start(task: TaskConfig, field_name: str) -> Fields:
    """The pretrained model, for runs that start from it."""
    return {} if task.model is None else {field_name: task.model}


def _shares(study: StudyConfig, method: Literal["short", "sft"]) -> tuple[float, float]:
    """The shares of labels and steps of an SFT."""
    return (study.short_sft.labels, study.short_sft.steps) if method == "short" else (1.0, 1.0)


def _digits(value: float) -> str:
    """Write a number as part of a configuration's name."""
    return f"{value:g}".replace(".", "_")


def _dashed(method: Method) -> str:
    return method.replace("_", "-")

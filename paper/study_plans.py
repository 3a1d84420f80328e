"""The plans of a study: configurations of experiments, and what each is of.

RFT from a finetuned model begins with that of the same seed. Configurations of one work under two names (the
full SFT is also a phase of the sweeps) are run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, get_args

from common.source import read_source
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
N_ITERS = "train_evaluation.n_iters"
Phase = Literal["short", "sft"]
PHASES: tuple[Phase, ...] = get_args(Phase)
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

    def select(self, is_wanted: Callable[[StudyRun], bool]) -> Part:
        """The part of these runs alone."""
        pairs = zip(self.configurations, self.runs, strict=True)
        kept = [(fields, run) for fields, run in pairs if is_wanted(run)]
        return Part([fields for fields, _ in kept], [run for _, run in kept])

    def __add__(self, other: Part) -> Part:
        return Part(self.configurations + other.configurations, self.runs + other.runs)


def selection(study: StudyConfig) -> Part:
    """RFT from each start at every learning rate tried, on the cases and the seed of `study.choice`."""
    part, tried = Part(), {start: config.learning_rates for start, config in study.starts.items()}
    tried = {start: rates for start, rates in tried.items() if len(rates) > 1}
    if study.choice is None:
        return part
    seed = {"runtime.seed": study.choice.seed}
    cases = [study.case(name) for name in study.choice.cases]
    for phase in PHASES:
        for task in dict.fromkeys(case.task for case in cases) if phase in tried else ():
            add_sft(part, study, task, f"choice-{task}-{phase}", *shares(study, phase), seed, **ONCE)
    for case in cases:
        for start, rates in tried.items():
            begins: Fields = {} if start == "pretrained" else {"model_from": f"choice-{case.task}-{start}"}
            for rate in rates:
                configuration = f"choice-{case.name}-{dashed(AFTER[start])}-{digits(rate)}"
                add_rft(part, study, case, configuration, start, rate, seed, **ONCE, **begins)
    return part


def comparison(study: StudyConfig, rates: Mapping[Start, float]) -> Part:
    """Figures 1, 2, 5 and Table 1: RFT of every case and SFT of every task, all measured on train inputs."""
    part = Part()
    for name in study.tasks:
        for sample, seed in ((1, 0), (2, SECOND_SAMPLE_SEED)):
            add_pretrained_extraction(part, study, name, "train", sample, seed)
        add_sft(part, study, name, f"{name}-sft", *shares(study, "sft"))
        add_extraction(part, study, name, None, "sft", "train")
        for case in study.cases_of(name):
            add_rft(part, study, case, f"{case.name}-rft", "pretrained", rates["pretrained"])
            add_extraction(part, study, name, case, "rft", "train")
    return part


def after_sft(study: StudyConfig, rates: Mapping[Start, float]) -> Part:
    """The table of rewards, beyond `comparison`: short SFT, RFT after both, test inputs."""
    part = Part()
    phases = [phase for phase in PHASES if phase == "sft" or study.short_sft is not None]
    for name in study.tasks:
        add_pretrained_extraction(part, study, name, "test", 1, 0)
        if "short" in phases:
            add_sft(part, study, name, f"{name}-short", *shares(study, "short"))
            add_extraction(part, study, name, None, "short", "train")
        for method in phases:
            add_extraction(part, study, name, None, method, "test")
        for case in study.cases_of(name):
            add_extraction(part, study, name, case, "rft", "test")
        case = study.first_case(name)
        for start in phases:
            then, phase = AFTER[start], f"{name}-{start}"
            add_rft(part, study, case, f"{case.name}-{dashed(then)}", start, rates[start], model_from=phase)
            for split in ("train", "test"):
                add_extraction(part, study, name, case, then, split)
    return part


def sweeps(study: StudyConfig, rates: Mapping[Start, float], seeds: int) -> Part:
    """Table 2 and Figure 4: RFT with settings raised one at a time, and after SFT phases of each length."""
    part = Part()
    for sweep in study.sweeps:
        case = study.first_case(sweep.task)
        times: Fields = {"repetitions": min(sweep.seeds or seeds, seeds)}
        for field_name, values in RAISED.items():
            for value in getattr(sweep, values):
                configuration = f"{case.name}-rft-{field_name.rpartition('.')[2]}-{digits(value)}"
                changes, rate = {field_name: value}, rates["pretrained"]
                add_rft(part, study, case, configuration, "pretrained", rate, changes, **times)
        # Full SFT, too: Figure 4 measures the others by it.
        for labels, steps in dict.fromkeys([*product(sweep.labels, sweep.steps), shares(study, "sft")]):
            phase = f"{sweep.task}-sft-{digits(labels)}-{digits(steps)}"
            start: Start = "sft" if labels == steps == 1 else "short"
            add_sft(part, study, sweep.task, phase, labels, steps, **times)
            then = f"{phase}-{case.reward}-rft"
            add_rft(part, study, case, then, start, rates[start], model_from=phase, **times)
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


def add_sft(
    part: Part,
    study: StudyConfig,
    task_name: str,
    configuration: str,
    labels: float,
    steps: float,
    changes: Fields | None = None,
    **options: Any,
) -> None:
    """Add SFT on shares of the labels and of the steps. changes: fields over those; options: see Part.add."""
    task = study.tasks[task_name]
    fields = {
        **_data(study, task),
        **start_fields(task, MODEL),
        "alg.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "alg.training_args.max_steps": max(1, round(steps * study.sft_steps)),
        **_evaluation(study, _rewards(study, task)),
        **study.sft,
    }
    if labels < 1:  # else the same run under every name, if all steps are taken
        fields["datapool.frac_train_samples"] = labels
        fields["datapool.train_samples_rnd_seed"] = "{runtime.seed}"
    method: Method = "sft" if labels == steps == 1 else "short"
    run = StudyRun(configuration, task_name, None, method, "training")
    part.add(run, task_files(study, task).sft, fields | (changes or {}), **options)


def add_rft(
    part: Part,
    study: StudyConfig,
    case: Case,
    configuration: str,
    start: Start,
    rate: float,
    changes: Fields | None = None,
    **options: Any,
) -> None:
    """Add RFT of a case; the option `model_from` names a finetuned model to begin with. Others: as above."""
    task = study.tasks[case.task]
    fields = rollout_fields(study, case, start) | study.rft | study.starts[start].fields
    fields |= {"alg.args.learning_rate": rate} | (changes or {})
    run = StudyRun(configuration, case.task, case.reward, AFTER[start], "training")
    files = task_files(study, task)
    part.add(run, files.rft if start == "pretrained" else files.sft_rft, fields, **options)


def rollout_fields(study: StudyConfig, case: Case, start: Start) -> Fields:
    """Model, data, reward and lengths of a training with rollouts, whichever the algorithm."""
    task, reward = study.tasks[case.task], study.reward(case)
    return {
        **_data(study, task),
        **(start_fields(task, ON_POLICY_MODEL) if start == "pretrained" else {}),
        "reward_fn": reward.reward.model_dump(),
        "env.args.max_prompt_length": task.max_prompt_length,
        "env.args.max_episode_length": task.max_new_tokens,
        "alg.policy.args.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "alg.kl_div.coeff": task.kl_coeff,
        **_evaluation(study, [reward]),
    }


def rft_iterations(config_path: str, fields: Mapping[str, Any]) -> int:
    """Iterations of RFT with fields over a config file."""
    return fields.get(N_ITERS) or read_source(config_path).data["train_evaluation"]["n_iters"]


def add_extraction(
    part: Part,
    study: StudyConfig,
    task_name: str,
    case: Case | None,
    method: str,
    split: Split,
    **options: Any,
) -> None:
    """Measure the model of {task or case}-{method}: by all rewards of the task, or by the case's."""
    task = study.tasks[task_name]
    model = f"{case.name if case else task_name}-{dashed(method)}"
    rewards = [study.reward(case)] if case else _rewards(study, task)
    run = StudyRun(
        f"{model}-{split}-rewards",
        task_name,
        case.reward if case else None,
        method,
        "extraction",
        split=split,
    )
    fields = _extraction(study, task, rewards, split)
    part.add(run, task_files(study, task).extraction, fields, model_from=model, **options)


def add_pretrained_extraction(
    part: Part, study: StudyConfig, task_name: str, split: Split, sample: int, seed: int
) -> None:
    task = study.tasks[task_name]
    configuration = f"{task_name}-pretrained-{split}-{sample}"
    run = StudyRun(configuration, task_name, None, "pretrained", "extraction", sample, split)
    fields = _extraction(study, task, _rewards(study, task), split) | start_fields(task, MODEL)
    part.add(run, task_files(study, task).extraction, fields | {"runtime.seed": seed}, **ONCE)


def _extraction(study: StudyConfig, task: TaskConfig, rewards: Sequence[TaskReward], split: Split) -> Fields:
    most: Fields = {"datapool.num_train_samples": -1} if split != "train" else {}
    if split == "train" and study.measured_inputs is not None:
        most = {"datapool.num_train_samples": study.measured_inputs}
    return _data(study, task) | {
        "datapool.split": split,
        **most,
        "alg.generation_kwargs.max_new_tokens": task.max_new_tokens,
        "evaluation.metrics": [reward.metric.model_dump() for reward in rewards],
    }


def _evaluation(study: StudyConfig, rewards: Iterable[TaskReward]) -> Fields:
    fields: Fields = {"train_evaluation.metrics": [reward.metric.model_dump() for reward in rewards]}
    if study.measured_inputs is not None:
        fields["train_evaluation.max_eval_samples"] = study.measured_inputs
    return fields


def _rewards(study: StudyConfig, task: TaskConfig) -> list[TaskReward]:
    return [study.rewards[name] for name in task.rewards]


def _data(study: StudyConfig, task: TaskConfig) -> Fields:
    return {
        **start_fields(task, "tokenizer.model_name"),
        "tokenizer.max_length": task.max_prompt_length,
        "datapool.args": study.datapool | task.datapool,
    }


def start_fields(task: TaskConfig, field_name: str) -> Fields:
    """The pretrained model, for runs that start from it."""
    return {} if task.model is None else {field_name: task.model}


def shares(study: StudyConfig, phase: Phase) -> tuple[float, float]:
    """The shares of labels and steps of an SFT."""
    if phase == "sft":
        return 1.0, 1.0
    assert study.short_sft is not None
    return study.short_sft.labels, study.short_sft.steps


def digits(value: float) -> str:
    """Write a number as part of a configuration's name."""
    return f"{value:g}".replace(".", "_")


def dashed(method: str) -> str:
    """Write a method as part of a configuration's name."""
    return method.replace("_", "-")

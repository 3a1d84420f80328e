"""Group algorithms beside PPO on cases of the study: which runs there are.

Every run generates as many tokens as PPO's, from the same base model, with the task's KL coefficient; the
learning rate of each algorithm is chosen as that of PPO. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.source import read_source
from paper.study import Case, Fields, GroupsConfig, Start, StudyConfig, StudyRun, TaskConfig, task_files
from paper.study_plans import (
    N_ITERS,
    ONCE,
    SECOND_SAMPLE_SEED,
    Part,
    add_extraction,
    add_pretrained_extraction,
    add_sft,
    dashed,
    digits,
    rft_iterations,
    rollout_fields,
    shares,
)

PPO, GRPO, RLOO = "ppo", "grpo", "rloo"
SHORT_SFT, SHORT_SFT_GRPO = "short", "short_grpo"
SCALED = "_scaled"  # ends the method of a run whose reward has another scale
Rates = Mapping[str, float]  # algorithm -> learning rate
_RATE, _MAX_TOKENS = "alg.args.learning_rate", "train_evaluation.max_tokens"


def groups_of(study: StudyConfig) -> GroupsConfig:
    """The block of the comparison, which the study has."""
    assert study.groups is not None
    return study.groups


def group_cases(study: StudyConfig) -> list[Case]:
    """All cases of the comparison."""
    groups = groups_of(study)
    names = [*groups.cases, groups.others_case, groups.cure_case, groups.scale_case]
    return [study.case(name) for name in dict.fromkeys(names)]


def budget(study: StudyConfig, case: Case) -> int:
    """Tokens that every run of a case generates: those of the study's RFT, unless `groups` says otherwise."""
    return groups_of(study).tokens.get(case.name, study_tokens(study, case))


def study_tokens(study: StudyConfig, case: Case) -> int:
    """Tokens that the study's RFT of a case generates."""
    task = study.tasks[case.task]
    fields = study.rft | study.starts["pretrained"].fields
    return iteration_tokens(study, task) * rft_iterations(task_files(study, task).rft, fields)


def rates_tried(study: StudyConfig, algorithm: str) -> list[float]:
    """The learning rates that one is chosen from."""
    if algorithm == PPO:
        return study.starts["pretrained"].learning_rates
    return groups_of(study).learning_rates


def group_selection(study: StudyConfig) -> Part:
    """PPO and the algorithms of all cases at every learning rate, on what `study.choice` says."""
    part = Part()
    if study.choice is None:
        return part
    seed = {"runtime.seed": study.choice.seed}
    for case in map(study.case, study.choice.cases):
        for method in (PPO, *groups_of(study).algorithms):
            rates = rates_tried(study, method)
            for rate in rates if len(rates) > 1 else []:
                configuration = f"choice-{case.name}-{dashed(method)}-{digits(rate)}"
                _add_training(part, study, case, method, rate, configuration, seed, **ONCE)
    return part


def group_comparison(study: StudyConfig, rates: Rates) -> Part:
    """All algorithms at their learning rates, and the statistics of all models."""
    part, groups = Part(), groups_of(study)
    cases = [study.case(name) for name in groups.cases]
    for task in dict.fromkeys(case.task for case in group_cases(study)):
        for sample, seed in ((1, 0), (2, SECOND_SAMPLE_SEED)):
            add_pretrained_extraction(part, study, task, "train", sample, seed)
        add_pretrained_extraction(part, study, task, "test", 1, 0)
    for case in cases:
        for method in (PPO, *groups.algorithms):
            _add_measured(part, study, case, method, rates[method])
    for method in groups.others:
        _add_measured(part, study, study.case(groups.others_case), method, rates[GRPO], **ONCE)
    _add_cure(part, study, study.case(groups.cure_case), rates[GRPO])
    for method in (GRPO + SCALED, RLOO, RLOO + SCALED):
        _add_measured(part, study, study.case(groups.scale_case), method, rates[GRPO], **ONCE)
    return part


def _add_measured(
    part: Part, study: StudyConfig, case: Case, method: str, rate: float, **options: Any
) -> None:
    """Add a training from the base model, and the statistics of its model on train and test inputs."""
    _add_training(part, study, case, method, rate, f"{case.name}-{dashed(method)}", **options)
    for split in ("train", "test"):
        add_extraction(part, study, case.task, case, method, split, **options)


def _add_cure(part: Part, study: StudyConfig, case: Case, rate: float) -> None:
    """Add the short SFT, as the study has it, and GRPO after it."""
    phase = f"{case.task}-{SHORT_SFT}"
    add_sft(part, study, case.task, phase, *shares(study, "short"))
    name = f"{case.name}-{dashed(SHORT_SFT_GRPO)}"
    _add_training(part, study, case, SHORT_SFT_GRPO, rate, name, model_from=phase)
    for split in ("train", "test"):
        add_extraction(part, study, case.task, None, SHORT_SFT, split)
        add_extraction(part, study, case.task, case, SHORT_SFT_GRPO, split)


def _add_training(
    part: Part,
    study: StudyConfig,
    case: Case,
    method: str,
    rate: float,
    configuration: str,
    changes: Fields | None = None,
    **options: Any,
) -> None:
    """Add a training from the base model, or from that which the option `model_from` names."""
    task = study.tasks[case.task]
    start: Start = "short" if "model_from" in options else "pretrained"
    fields = rollout_fields(study, case, start)
    if method == PPO:
        path = task_files(study, task).rft
        fields |= study.rft | study.starts[start].fields
        if (tokens := budget(study, case)) != study_tokens(study, case):
            fields[N_ITERS] = math.ceil(tokens / iteration_tokens(study, task))
    else:
        algorithm = method.removesuffix(SCALED).removeprefix(f"{SHORT_SFT}_")
        path = task_files(study, task).group.format(algorithm=algorithm)
        fields |= _group_fields(study, case, path, is_scaled=method.endswith(SCALED))
    run = StudyRun(configuration, case.task, case.reward, method, "training")
    part.add(run, path, fields | {_RATE: rate} | (changes or {}), **options)


def _group_fields(study: StudyConfig, case: Case, path: str, is_scaled: bool) -> Fields:
    """What a run of a group algorithm sets over its config file at `path` and `rollout_fields`."""
    args, tokens = read_source(path).data["alg"]["args"], budget(study, case)
    fields = {key: value for key, value in study.rft.items() if key.startswith("train_evaluation.")}
    fields |= groups_of(study).rft
    # A text has a token at least: so many iterations are never reached.
    most = math.ceil(tokens / (args["prompts_per_iteration"] * args["group_size"]))
    fields |= {_MAX_TOKENS: tokens, N_ITERS: most}
    if is_scaled:
        reward = study.reward(case).reward
        scale = groups_of(study).scale
        fields["reward_fn"] = {
            "id": "paper.shaped_rewards:affine",
            "args": {
                "reward": reward.id,
                "reward_args": reward.args,
                "scale": scale,
                "offset": (1 - scale) / 2,
            },
        }
    return fields


def iteration_tokens(study: StudyConfig, task: TaskConfig) -> int:
    """Tokens of an iteration of the study's RFT from the pretrained model."""
    data, fields = read_source(task_files(study, task).rft).data, study.rft
    fields = fields | study.starts["pretrained"].fields
    envs = fields.get("env.n_envs", data["env"]["n_envs"])
    return envs * fields.get("alg.args.n_steps", data["alg"]["args"]["n_steps"])

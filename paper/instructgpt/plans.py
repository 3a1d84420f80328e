"""The runs of InstructGPT's pipeline, stage by stage: what each is, and the configuration or job of it.

A stage's runs read those of earlier ones by their folders, so that they are known once these are finished;
before, the names of the folders say what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.run_dir import read_run
from paper.group_study import GRPO, PPO, RLOO, groups_of
from paper.instructgpt.config import Pipeline, PipelineTask
from paper.instructgpt.data import MIXES, TABLES, count_texts, mix_name
from paper.instructgpt.runs import (
    HALF,
    PTX,
    Done,
    Planned,
    base_model,
    gold_metric,
    group_run,
    ppo_run,
    reward_model_run,
    sampling_run,
    score_metric,
    sft_fields,
    squashed_reward,
    training_run,
)
from paper.study import Fields
from paper.study_plans import digits

REWARD_MODEL = "semantic/reward_model"
LOSS_METRIC = "paper.instructgpt.rewards:reference_loss"
SQUASHED = "squashed"  # the teacher whose order is gold's


def rates_tried(pipeline: Pipeline, algorithm: str) -> list[float]:
    """The learning rates that one is chosen from, by the study's rule."""
    if algorithm == PPO:
        return pipeline.study.starts["pretrained"].learning_rates
    return groups_of(pipeline.study).learning_rates


def choice_seeds(pipeline: Pipeline) -> list[int]:
    """The seed that learning rates are chosen with; [] if there is nothing to choose."""
    several = any(len(rates_tried(pipeline, algorithm)) > 1 for algorithm in (PPO, RLOO, GRPO))
    return [pipeline.study.choice.seed] if several and pipeline.study.choice is not None else []


def start_runs(pipeline: Pipeline, seeds: int, done: Done) -> list[Planned]:
    """What RL starts from: a short SFT with pretraining text in it."""
    task = pipeline.config.main
    fields = sft_fields(pipeline, task)
    return [
        training_run(pipeline, task, "rl_start", "rl_start", "start", seed, task.files.rl_start, fields)
        for seed in (*range(seeds), *choice_seeds(pipeline))
    ]


def rankings_runs(pipeline: Pipeline, seeds: int, done: Done) -> list[Planned]:
    """Rankings of its texts, data of the teachers, and many texts for best of n."""
    task = pipeline.config.main
    name, choice = pipeline.case(task).task, choice_seeds(pipeline)
    runs = []
    for seed in (*range(seeds), *choice):
        start = [f"{name}-start-s{seed}"]
        needs = {"start": start}
        runs.append(Planned(f"{name}-rankings-s{seed}", "rankings", name, "rankings", seed, needs=needs))
        needs = {"rankings": [f"{name}-rankings-s{seed}"]}
        runs.append(Planned(f"{name}-mixes-s{seed}", "mixes", name, "mixes", seed, needs=needs))
        if seed not in choice:
            model = done.model(start[0])
            runs.append(sampling_run(pipeline, task, "best-of", seed, "val", pipeline.config.best_of, model))
    if pipeline.config.other is not None:
        name = pipeline.case(pipeline.config.other).task
        runs.append(Planned(f"{name}-rankings-s0", "other_rankings", name, "rankings", 0))
    return runs


def reward_model_runs(pipeline: Pipeline, seeds: int, done: Done) -> list[Planned]:
    """The reward model, those that teach, and those that differ in epochs and batching."""
    config, runs = pipeline.config, []
    for task in pipeline.tasks:
        name, is_main = pipeline.case(task).task, task is config.main
        choice = choice_seeds(pipeline) if is_main else []
        for seed in (*range(seeds if is_main else 1), *choice):
            data = done.folder(f"{name}-rankings-s{seed}", "rankings")
            kind = "reward_model" if is_main else "other_reward_model"
            runs.append(reward_model_run(pipeline, task, kind, "rm", seed, data, done))
            if not is_main or seed in choice:
                continue
            for share in [share for share in config.teachers.on_policy if share < 1]:
                mix = done.folder(f"{name}-mixes-s{seed}", f"{MIXES}/{mix_name(share)}")
                runs.append(reward_model_run(pipeline, task, kind, f"rm-{mix_name(share)}", seed, mix, done))
            is_made = f"{name}-rankings-s{seed}" in done.runs
            for arm, fields in arms(pipeline, Path(data) if is_made else None):
                runs.append(reward_model_run(pipeline, task, arm, f"rm-{arm}", seed, data, done, fields))
    return runs


def arms(pipeline: Pipeline, data: Path | None) -> Iterator[tuple[str, Fields]]:
    """Yield the reward models that are compared, and their fields. data: rankings; None: not made yet."""
    config = pipeline.config.arms
    plain = {"alg.args.label_smoothing": 0.0, "alg.args.prompts_per_batch": config.prompts_per_batch}
    every: Fields = {"train_evaluation.eval_every": 100_000}  # at the ends of epochs alone
    yield "grouped", plain | every | {"alg.args.epochs": 1}
    yield "epochs", plain | every | {"alg.args.epochs": config.epochs}
    pairs, updates = shuffled_sizes(pipeline, data) if data is not None else (1, 1)
    shuffled: Fields = {
        "alg.args.batching": "pair",
        "alg.args.pairs_per_batch": pairs,
        "alg.args.epochs": 1,
        "train_evaluation.eval_every": -(-updates // config.evaluations),
    }
    yield "shuffled", plain | shuffled


def shuffled_sizes(pipeline: Pipeline, data: Path) -> tuple[int, int]:
    """Comparisons an update of as many texts as grouped ones have, and updates of a pass."""
    prompts, texts, pairs = count_texts(data / "train.jsonl")
    size = max(1, round(pipeline.config.arms.prompts_per_batch * texts / prompts / 2))
    return size, -(-pairs // size)


def sft_runs(pipeline: Pipeline, seeds: int, done: Done) -> list[Planned]:
    """SFT of many epochs, scores of the reward models, and trainings at the learning rates that are tried."""
    task, config = pipeline.config.main, pipeline.config
    name, runs = pipeline.case(task).task, []
    for seed in range(seeds):
        fields = sft_fields(pipeline, task) | {
            "alg.select_by.metric": REWARD_MODEL,
            "train_evaluation.metrics": [
                score_metric(done.model(f"{name}-rm-s{seed}")),
                gold_metric(pipeline, task),
                {"id": LOSS_METRIC, "args": {"tokenizer_name": base_model(pipeline, task)}},
            ],
        }
        runs.append(
            training_run(
                pipeline, task, "supervised", "supervised", "sft", seed, task.files.supervised, fields
            )
        )
        start = done.model(f"{name}-start-s{seed}")
        runs.append(sampling_run(pipeline, task, "start", seed, "test", config.compared_texts, start))
        for share in config.teachers.on_policy:
            teacher = mix_name(share)
            needs = {
                "model": [_teacher_model(name, share, seed)],
                "rankings": [f"{name}-rankings-s{seed}"],
                "mixes": [f"{name}-mixes-s{seed}"],
                **({"best_of": [f"{name}-best-of-val-s{seed}"]} if share == 1 else {}),
            }
            scores = f"{name}-scores-{teacher}-s{seed}"
            runs.append(Planned(scores, "scores", name, "scores", seed, needs=needs, teacher=teacher))
    for seed in choice_seeds(pipeline):
        for algorithm in (PPO, RLOO, GRPO):
            rates = rates_tried(pipeline, algorithm)
            for rate in rates if len(rates) > 1 else []:
                method = f"choice-{algorithm}-{digits(rate)}"
                if algorithm == PPO:
                    coeff = config.ptx.kl_coeff
                    runs.append(ppo_run(pipeline, task, method, seed, coeff, False, rate, done))
                else:
                    table = done.folder(f"{name}-mixes-s{seed}", f"{TABLES}/perfect.json")
                    coeff = config.teachers.kl_coeff
                    reward, count = squashed_reward(pipeline, task, table), config.teachers.iterations
                    runs.append(
                        group_run(pipeline, task, algorithm, method, seed, coeff, rate, reward, count, done)
                    )
    return runs


def _teacher_model(name: str, share: float, seed: int) -> str:
    return f"{name}-rm-s{seed}" if share == 1 else f"{name}-rm-{mix_name(share)}-s{seed}"


def rl_runs(pipeline: Pipeline, seeds: int, done: Done) -> list[Planned]:
    """PPO and PPO-ptx, each teacher's RLOO, the squashed half, and texts of all that are compared."""
    config, main = pipeline.config, pipeline.config.main
    name, runs = pipeline.case(main).task, []
    for seed in range(seeds):
        sft = done.model(f"{name}-sft-s{seed}")
        runs.append(sampling_run(pipeline, main, "sft", seed, "test", config.compared_texts, sft))
        for coeff in config.kl_coeffs:
            runs += _compared_ppo(pipeline, main, seed, coeff, False, done)
        runs += _compared_ppo(pipeline, main, seed, config.ptx.kl_coeff, True, done)
        runs += _teacher_runs(pipeline, seed, config.teachers.kl_coeff, done)
        if seed == 0:  # a control
            runs += _teacher_runs(pipeline, seed, 0.0, done)
        table = done.folder(f"{name}-mixes-s{seed}", f"{TABLES}/half.json")
        for algorithm in (RLOO, GRPO):
            coeff, count = config.teachers.kl_coeff, config.teachers.half_iterations
            reward = squashed_reward(pipeline, main, table)
            method, rate = f"{HALF}-{algorithm}", done.rate(algorithm)
            runs.append(group_run(pipeline, main, algorithm, method, seed, coeff, rate, reward, count, done))
    if config.other is not None:
        other = config.other
        model = base_model(pipeline, other)
        runs.append(sampling_run(pipeline, other, "start", 0, "test", config.compared_texts, model))
        for is_ptx in (False, True):
            runs += _compared_ppo(pipeline, other, 0, config.ptx.kl_coeff, is_ptx, done)
    return runs


def loss_runs(pipeline: Pipeline, seeds: int, done: Done) -> list[Planned]:
    """Losses on held-out pretraining text of what was trained, a run a task and seed."""
    config, runs = pipeline.config, []
    for task in pipeline.tasks:
        name, is_main = pipeline.case(task).task, task is config.main
        for seed in range(seeds if is_main else 1):
            models = [f"{name}-start-s{seed}", f"{name}-sft-s{seed}"] if is_main else []
            coeffs = config.kl_coeffs if is_main else [config.ptx.kl_coeff]
            models += [_ppo_name(name, seed, coeff, False) for coeff in coeffs]
            models.append(_ppo_name(name, seed, config.ptx.kl_coeff, True))
            needs = {"models": models}
            runs.append(Planned(f"{name}-losses-s{seed}", "losses", name, "losses", seed, needs=needs))
    return runs


def _ppo_name(name: str, seed: int, coeff: float, is_ptx: bool) -> str:
    return f"{name}-{PTX if is_ptx else PPO}-{digits(coeff)}-s{seed}"


def _compared_ppo(
    pipeline: Pipeline, task: PipelineTask, seed: int, coeff: float, is_ptx: bool, done: Done
) -> list[Planned]:
    """PPO, and texts of its model."""
    method = f"{PTX if is_ptx else PPO}-{digits(coeff)}"
    training = ppo_run(pipeline, task, method, seed, coeff, is_ptx, done.rate(PPO), done)
    each, source = pipeline.config.compared_texts, training.name
    texts = sampling_run(pipeline, task, method, seed, "test", each, None, model_from=source)
    return [training, texts]


def _teacher_runs(pipeline: Pipeline, seed: int, coeff: float, done: Done) -> Iterator[Planned]:
    """Yield RLOO by each teacher."""
    config, task = pipeline.config.teachers, pipeline.config.main
    name = pipeline.case(task).task
    rewards = {}
    for share in config.on_policy:
        scores = f"{name}-scores-{mix_name(share)}-s{seed}"
        manifest = read_run(done.runs[scores]).manifest if scores in done.runs else {"mean": 0.0, "std": 1.0}
        args = {key: manifest[key] for key in ("mean", "std")}
        args["model_name"] = done.model(_teacher_model(name, share, seed))
        rewards[mix_name(share)] = {"id": "paper.instructgpt.rewards:normalised", "args": args}
    table = done.folder(f"{name}-mixes-s{seed}", f"{TABLES}/{SQUASHED}.json")
    rewards[SQUASHED] = squashed_reward(pipeline, task, table)
    for teacher, reward in rewards.items():
        method = f"taught-{teacher}-{digits(coeff)}"
        yield group_run(
            pipeline,
            task,
            RLOO,
            method,
            seed,
            coeff,
            done.rate(RLOO),
            reward,
            config.iterations,
            done,
            teacher,
        )

"""What the pre-flight check takes from an extraction's file beside the rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import ConfigError, Located, validate
from common.console import progress
from common.output import check_output_folder
from common.run_dir import CheckpointError, load_checkpoint
from rft_diagnose.diagnose import Diagnosis
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.groups import Floats
from rft_diagnose.tables import RewardTable, targets
from rl4lms.config import ExtractConfig
from rl4lms.input_gradients import GradientTarget, log_ratios, measure_gradients, summarise_all
from rl4lms.model.generation import Decoding, encode_prompts, prompt_limit
from rl4lms.model.load import choose_device, load_model, load_tokenizer
from rl4lms.model.policy import Sequences
from rl4lms.model.reward_model import RewardModel
from rl4lms.model.sampling import forced_start
from rl4lms.model.source import check_model_source
from rl4lms.teacher import identify, read_texts, score_once


def read_extraction(path: Path) -> tuple[dict[str, Any], ExtractConfig]:
    """The content of an extraction's file, and its config. Raises ConfigError, CheckpointError."""
    content = load_checkpoint(path)
    if not isinstance(content.get("config"), dict):
        raise CheckpointError(f"{path} is no extraction's file: it holds no config")
    config, problems = validate(ExtractConfig, content["config"])
    if config is None:
        raise ConfigError(path, [Located(None, problem.path, problem.message) for problem in problems])
    return content, config


def text_log_ratios(
    path: Path, reference: str, report: Callable[[int], None] = lambda inputs: None
) -> Floats:
    """log pi - log pi_ref of an extraction's N x G texts, [N * G]; reference: hub name or folder of pi_ref.

    The file has texts, not tokens: they are split anew, which for a text that was sampled in unusual pieces
    gives another log-probability. A text shorter than the limit is taken to have ended by itself.
    """
    content, config = read_extraction(path)
    settings, device = config.alg.generation_kwargs, choose_device(config.runtime.device)
    model, frozen = (
        load_model(name, config.alg.model_type, torch.float32, device)
        for name in (config.alg.model_name, reference)
    )
    tokenizer = load_tokenizer(
        config.tokenizer.model_name,
        truncation_side=config.tokenizer.truncation_side,
        pad_token_as_eos_token=config.tokenizer.pad_token_as_eos_token,
    )
    decoding = Decoding(
        settings=settings,
        max_prompt_length=config.tokenizer.max_length,
        truncation_side=config.tokenizer.truncation_side,
        batch_size=1,
    )
    limit = prompt_limit(model, tokenizer, decoding)
    start = [token for token in [forced_start(model)] if token is not None]
    ratios = []
    for number, (prompt, texts) in enumerate(
        zip(content["prompts"], content["all_generated_texts"], strict=True)
    ):
        ids, mask = encode_prompts(model, tokenizer, [prompt], limit, decoding.truncation_side)
        tokens = [
            [*start, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id][
                : settings.max_new_tokens
            ]
            for text in texts
        ]
        lengths = torch.tensor([len(row) for row in tokens])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        responses = torch.zeros(real.shape, dtype=torch.long)
        responses[real] = torch.tensor([token for row in tokens for token in row])
        each = len(texts)
        sequences = Sequences(
            ids.expand(each, -1), mask.expand(each, -1), responses.to(ids.device), real.to(ids.device)
        )
        ratios.append(log_ratios(model, frozen, sequences, settings))
        report(number + 1)
    return np.concatenate(ratios)


def add_kl(path: Path, table: RewardTable, reference: str) -> RewardTable:
    """Add the KL of each text to the model `reference` to an extraction's rewards; shows a bar.

    Raises DiagnosisError: no such model; ConfigError.
    """
    if problem := check_model_source(reference):
        raise DiagnosisError(f"--reference: {problem}")
    with progress(len(table.labels), "KL", unit="input") as bar:
        kl = text_log_ratios(path, reference, bar.move_to)
    note = f"KL to {reference} of texts that were split into tokens anew"
    return replace(table, kl=kl, notes=(*table.notes, note))


def add_reward_model(path: Path, table: RewardTable, name: str, scores: Path) -> RewardTable:
    """Put a reward model's rewards of an extraction's texts in place of its own, which become gold; a bar.

    name: hub name or folder; scores: the file that keeps the rewards. Raises DiagnosisError: there are
    several rewards to be gold; ModelSourceError, CheckpointError, OutputError.
    """
    if len(table.rewards) > 1:
        raise DiagnosisError(
            f"--reward: a reward model is judged by one other reward, got {', '.join(table.rewards)}"
        )
    sampled = read_texts(path)
    check_output_folder(scores.parent, "--output_path")
    with progress(len(sampled.prompts), "reward model", unit="prompt") as bar:
        rewards = score_once(
            lambda: RewardModel.load(name, choose_device("auto")),
            identify(name),
            sampled,
            scores,
            bar.move_to,
        )
    (gold,) = table.rewards
    notes = (
        f"rewards are those of the reward model {name}, kept in {scores}",
        f"gold, which it is compared with, is the extraction's own {gold}",
    )
    return replace(
        table,
        rewards={f"reward model {Path(name).name}": rewards.ravel()},
        gold=table.rewards,
        notes=(*table.notes, *notes),
    )


def measure_extraction(
    path: Path,
    diagnoses: dict[str, Diagnosis],
    rewards: Sequence[str],
    weights: Sequence[float] | None,
    kl_coef: float | None,
    reference: str | None,
    number: int,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """`measure_gradients` of `number` random inputs of an extraction, and their summary; shows a bar.

    A row for each of the inputs and each reward in the diagnoses. rewards: what was asked for, none = the
    first metric; weights, kl_coef: see `targets`.
    """
    content, config = read_extraction(path)
    inputs = len(content["ids"])
    number = min(number, len(next(iter(diagnoses.values())).labels))
    chosen = np.sort(np.random.default_rng(config.runtime.seed).permutation(inputs)[:number])
    chosen_targets = []
    for target in targets(rewards or [next(iter(content["all_metric_values"]))], weights, kl_coef):
        if target.name in diagnoses:
            diagnosis = diagnoses[target.name]
            stds = np.full(inputs, np.nan)
            stds[diagnosis.labels.astype(int)] = diagnosis.inputs.std
            chosen_targets.append(GradientTarget(target, stds[chosen], diagnosis.scale.width / 2))
    positions = [content["used_train_indices"][i] for i in chosen]
    with progress(number, "gradients", unit="input") as bar:
        rows = measure_gradients(config, positions, chosen_targets, reference, bar.move_to)
    return rows, summarise_all(rows)

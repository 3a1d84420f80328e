"""What every training begins with (data, tokenizer, evaluation, memory), and the model that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.errors import UserError
from common.run_dir import RunDir
from common.seeding import derive_seed
from common.tracking import Tracker
from rl4lms.blind_metrics import check_reward, warn_of_blind_metrics
from rl4lms.config import (
    OnPolicyConfig,
    RolloutConfig,
    SupervisedConfig,
    TrainConfig,
    training_sizes,
    unique_metrics,
)
from rl4lms.datapools import Split, load_datapool
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.evaluation import EvaluationError, Evaluator, evaluation_inputs
from rl4lms.memory import count_weights, memory_lines
from rl4lms.metrics import build_metric
from rl4lms.model.generation import Decoding
from rl4lms.model.load import load_tokenizer, save_model_folder
from rl4lms.model.lora import to_save
from rl4lms.model.parallel import World
from rl4lms.pretraining import PretrainingText, load_pretraining
from rl4lms.samples import Sample, content_hash, subsample_indices

__all__ = [
    "DivergenceError",
    "EvaluationError",
    "TrainingDataError",
    "TrainingInterrupted",
    "TrainingSetup",
    "prepare",
    "save_model",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")


class TrainingDataError(UserError):
    """Data that a run cannot go on with; the message is for the user."""

    is_refusal = True


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a training needs besides models.

    path, prefix: the run's directory and what the names in it begin with; run, tracker: of the main process,
    None elsewhere. train: the samples to train on, after frac_train_samples; pretraining: the text that is
    mixed in.
    """

    config: TrainConfig
    path: Path
    prefix: str
    run: RunDir | None
    tracker: Tracker | None
    world: World
    tokenizer: PreTrainedTokenizerBase
    train: list[Sample]
    pretraining: PretrainingText | None
    evaluator: Evaluator
    eval_on_train: bool
    should_stop: Callable[[], bool]

    @property
    def model_path(self) -> Path:
        """The folder of the finetuned model and its tokenizer."""
        return self.path / f"{self.prefix}model"

    @property
    def splits(self) -> list[Split]:
        """The splits that are evaluated before and after training."""
        return ["train", "val", "test"] if self.eval_on_train else ["val", "test"]


def prepare(
    config: TrainConfig,
    path: Path,
    run: RunDir | None,
    world: World,
    *,
    prefix: str = "",
    tracker: Tracker | None = None,
    eval_on_train: bool = True,
    save_predictions: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingSetup:
    """Load tokenizer, datasets and metrics of a run. config: with its seed of train samples drawn.

    Raises DataError, ModelSourceError, RequirementError, ConfigError, BlindMetricError, TrainingDataError: a
    resumed run's data has changed.
    """
    metrics = unique_metrics(config.train_evaluation.metrics)
    built = {metric.id: build_metric(metric.id, metric.args) for metric in metrics}
    tokenizer = load_tokenizer(
        config.tokenizer.model_name,
        padding_side=config.tokenizer.padding_side,
        truncation_side=config.tokenizer.truncation_side,
        pad_token_as_eos_token=config.tokenizer.pad_token_as_eos_token,
        clean_up_tokenization_spaces=config.tokenizer.clean_up_tokenization_spaces,
    )
    samples = load_splits(config)
    if isinstance(config.alg, RolloutConfig):
        for reward in config.rewards.values():
            check_reward(reward.id, reward.args, samples["train"], "reward")
    warn_of_blind_metrics({metric.id: metric.args for metric in metrics}, samples["train"])
    if run is not None:
        digests = {split: content_hash(split_samples) for split, split_samples in samples.items()}
        sizes = {split: len(split_samples) for split, split_samples in samples.items()}
        check_data(run, digests, sizes, config.datapool.id)
    pretraining = None
    if config.pretraining is not None:
        alg = config.alg
        pretraining = load_pretraining(config.pretraining, alg.model_name, alg.model_type, tokenizer)
        check_pretraining(run, pretraining)
    most = config.train_evaluation.max_eval_samples
    evaluator = Evaluator(
        tokenizer=tokenizer,
        samples={
            split: evaluation_inputs(split_samples, split, most) for split, split_samples in samples.items()
        },
        decodings=decodings(config),
        metrics=built,
        dtype=config.runtime.dtype,
        world=world,
        run=run,
        tracker=tracker,
        unit="epoch" if isinstance(config.alg, SupervisedConfig) else "iteration",
        save_predictions=save_predictions,
        should_stop=should_stop,
    )
    return TrainingSetup(
        config=config,
        path=path,
        prefix=prefix,
        run=run,
        tracker=tracker,
        world=world,
        tokenizer=tokenizer,
        train=samples["train"],
        pretraining=pretraining,
        evaluator=evaluator,
        eval_on_train=eval_on_train,
        should_stop=should_stop,
    )


def load_splits(config: TrainConfig) -> dict[Split, list[Sample]]:
    """All splits of the dataset, of train the share that the config takes."""
    pool = config.datapool
    samples = {
        split: load_datapool(pool.id, split, pool.args, config.tokenizer.model_name)
        for split in get_args(Split)
    }
    samples["train"] = take_share(samples["train"], config)
    return samples


def take_share(items: list[T], config: TrainConfig) -> list[T]:
    """The share of train's samples or rankings that the config takes."""
    pool = config.datapool
    try:
        return [items[i] for i in subsample_indices(len(items), frac=pool.train_fraction, seed=pool.seed)]
    except ValueError as error:
        raise TrainingDataError(f"datapool.frac_train_samples: {error}") from error


def check_data(run: RunDir, digests: dict[Split, str], sizes: dict[Split, int], datapool: str) -> None:
    """Record what the data is, or compare it with what the run began with. Raises TrainingDataError.

    digests, sizes: hash and number of each split's samples or rankings.
    """
    before = run.manifest.get("data")
    if before is None:
        run.update_manifest(data=digests, samples=sizes)
        return
    changed = [split for split in digests if before.get(split) != digests[split]]
    if changed:
        raise TrainingDataError(
            f"datapool {datapool!r} no longer gives the samples of {', '.join(changed)} that {run.path} "
            "began with; start the run anew"
        )


def check_pretraining(run: RunDir | None, pretraining: PretrainingText) -> None:
    """Record what the pretraining text is, or compare it likewise. Raises TrainingDataError."""
    digest = pretraining.digest()
    if run is not None and run.manifest.get("pretraining", digest) != digest:
        raise TrainingDataError(
            f"alg.pretraining no longer gives the text that {run.path} began with (is another version of a "
            "package installed?); start the run anew"
        )
    if run is not None:
        run.update_manifest(pretraining=digest)


def decodings(config: TrainConfig) -> dict[Split, Decoding]:
    """How the texts of each split are generated in evaluation.

    PPO and NLPO cut prompts to the environment's length, on the policy's side; supervised finetuning as the
    tokenizer says.
    """
    alg = config.alg
    if isinstance(alg, SupervisedConfig):
        length, side = config.tokenizer.max_length, config.tokenizer.truncation_side
    else:
        assert isinstance(alg, RolloutConfig) and config.env is not None  # TrainConfig.check
        length, side = config.env.args.max_prompt_length, alg.policy.args.prompt_truncation_side
    return {
        split: Decoding(
            settings=config.evaluation_settings(split),
            max_prompt_length=length,
            truncation_side=side,
            batch_size=config.train_evaluation.eval_batch_size,
            seed=derive_seed(config.runtime.seed, "evaluation", split),
        )
        for split in get_args(Split)
    }


def save_model(setup: TrainingSetup, model: PreTrainedModel) -> Path:
    """Write the finetuned model and its tokenizer; returns their folder. The main process's affair."""
    save_model_folder(setup.model_path, to_save(model, setup.config.alg.lora), setup.tokenizer)
    return setup.model_path


def log_sizes(setup: TrainingSetup) -> None:
    """Log notices, sizes, samples and the memory that is needed."""
    config = setup.config
    for notice in config.notices():
        logger.info("note: %s", notice)
    for line in training_sizes(config):
        logger.info("%s", line)
    sizes = {split: len(samples) for split, samples in setup.evaluator.samples.items()}
    evaluated = ", ".join(f"{split} {sizes[split]:,}" for split in setup.splits)
    logger.info("samples: %s to train on; evaluated: %s", f"{len(setup.train):,}", evaluated)
    if setup.world.size > 1 and isinstance(config.alg, SupervisedConfig):
        logger.info("%d processes: an update has that many times the texts", setup.world.size)
    alg = config.alg
    sizes_of_model, of_value_model = count_weights(alg.model_name, alg.model_type, alg.lora), None
    if isinstance(alg, OnPolicyConfig) and (name := alg.policy.args.value_model_name):
        of_value_model = count_weights(name, alg.model_type, alg.lora)
    for line in memory_lines(config, sizes_of_model, of_value_model):
        logger.info("%s", line)

"""What the training of a reward model begins with: rankings, checked and recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.run_dir import RunDir
from common.tracking import Tracker
from rl4lms.config import RewardModelConfig, TrainConfig, training_sizes
from rl4lms.config.algorithms import RANKED_SPLITS
from rl4lms.datapools import load_rankings
from rl4lms.evaluation import evaluation_inputs
from rl4lms.model.parallel import World
from rl4lms.rankings import Ranking, content_hash
from rl4lms.run_setup import TrainingDataError, check_data, take_share
from rl4lms.samples import Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RewardSetup:
    """What the training of a reward model needs besides the model.

    path, prefix: the run's directory and what the names in it begin with; run, tracker: of the main process,
    None elsewhere. train: after frac_train_samples; val: after max_eval_samples.
    """

    config: TrainConfig
    path: Path
    prefix: str
    run: RunDir | None
    tracker: Tracker | None
    world: World
    train: list[Ranking]
    val: list[Ranking]
    save_predictions: bool
    should_stop: Callable[[], bool]

    @property
    def alg(self) -> RewardModelConfig:
        assert isinstance(self.config.alg, RewardModelConfig)  # the caller's choice
        return self.config.alg

    @property
    def model_path(self) -> Path:
        """The folder of the reward model and its tokenizer."""
        return self.path / f"{self.prefix}model"


def prepare(
    config: TrainConfig,
    path: Path,
    run: RunDir | None,
    world: World,
    *,
    prefix: str = "",
    tracker: Tracker | None = None,
    save_predictions: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> RewardSetup:
    """Load the rankings of a run, and say what it will do. config: with its seed of train samples drawn.

    Raises DataError; TrainingDataError: a resumed run's data has changed, or there are no references.
    """
    pool = config.datapool
    rankings: dict[Split, list[Ranking]] = {}
    for split in RANKED_SPLITS:
        rankings[split] = load_rankings(pool.id, split, pool.args, config.tokenizer.model_name)
    rankings["train"] = take_share(rankings["train"], config)
    if run is not None:
        digests = {split: content_hash(split_rankings) for split, split_rankings in rankings.items()}
        sizes = {split: len(split_rankings) for split, split_rankings in rankings.items()}
        check_data(run, digests, sizes, pool.id)
    setup = RewardSetup(
        config=config,
        path=path,
        prefix=prefix,
        run=run,
        tracker=tracker,
        world=world,
        train=rankings["train"],
        val=evaluation_inputs(rankings["val"], "val", config.train_evaluation.max_eval_samples),
        save_predictions=save_predictions,
        should_stop=should_stop,
    )
    if setup.alg.args.normalize == "demonstrations" and not any(
        ranking.references for ranking in setup.train
    ):
        raise TrainingDataError(
            f"alg.args.normalize: demonstrations needs references, but no ranking of train in datapool "
            f"{pool.id!r} has any; set it to policy (the completions' rewards get mean 0, std 1) or none"
        )
    if world.is_main:
        _log_sizes(setup)
    return setup


def _log_sizes(setup: RewardSetup) -> None:
    for notice in setup.config.notices():
        logger.info("note: %s", notice)
    for line in training_sizes(setup.config):
        logger.info("%s", line)
    for split, rankings in (("train", setup.train), ("val", setup.val)):
        completions = sum(len(ranking.completions) for ranking in rankings)
        pairs = sum(len(ranking.pairs) for ranking in rankings)
        counts = f"{len(rankings):,} prompts, {completions:,} completions, {pairs:,} comparisons"
        logger.info("%s: %s", split, counts)

"""A training in its run directory, in this process alone: what the plan runner does for each experiment."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.run_dir import RunDir
from rl4lms.config import SupervisedConfig, TrainConfig, resolved, training_sizes

if TYPE_CHECKING:
    from rl4lms.run_setup import TrainingSetup

logger = logging.getLogger(__name__)

# What the flags of the training runner would say: a run of a plan can be resumed by that runner too.
OPTIONS: dict[str, Any] = {
    "project_name": None,
    "entity_name": None,
    "log_to_wandb": False,
    "log_to_tensorboard": False,
    "log_entire_predictions": False,
    "no_eval_on_train_set": False,
    "upload_model_to_wandb": False,
}


def create_training_run(base: Path, name: str, config: TrainConfig, manifest: dict[str, Any]) -> RunDir:
    """A new run directory `<base>/<name>_<time>`; a seed of train samples that is not given is drawn.

    The manifest also names the run that the model is from, if it is in a run's directory.
    """
    data = resolved(config)
    pool = data["datapool"]
    if config.datapool.train_fraction is not None and config.datapool.seed is None:
        pool["train_samples_rnd_seed"] = secrets.randbelow(2**32)
    seeds = {
        "runtime.seed": config.runtime.seed,
        "datapool.train_samples_rnd_seed": pool["train_samples_rnd_seed"],
    }
    fields = {"job": "training", "algorithm": config.alg.id, "seeds": seeds, "options": OPTIONS}
    parent = Path(config.alg.model_name).expanduser().parent
    if (parent / "manifest.json").is_file():
        fields["parent_run"] = str(parent)
    return RunDir.create(base, name, data, fields | manifest, prefix=f"{name}_")


def train_in(run: RunDir, config: TrainConfig, should_stop: Callable[[], bool]) -> Path:
    """Finetune as `config` says, or go on with it; returns the model's folder.

    Raises TrainingInterrupted, DivergenceError, and what else stops a training.
    """
    from rl4lms.model.parallel import World
    from rl4lms.run_setup import prepare

    for line in [*(f"note: {notice}" for notice in config.notices()), *training_sizes(config)]:
        logger.info("%s", line)
    options = run.manifest["options"]
    setup = prepare(
        config,
        run.path,
        run,
        World(),
        prefix=run.prefix,
        eval_on_train=not options["no_eval_on_train_set"],
        save_predictions=options["log_entire_predictions"],
        should_stop=should_stop,
    )
    run_algorithm(setup)
    return setup.model_path


def run_algorithm(setup: TrainingSetup) -> None:
    """Train as the config says. Raises as `rl4lms.sft.train.train` and `rl4lms.ppo.train.train`."""
    if isinstance(setup.config.alg, SupervisedConfig):
        from rl4lms.sft.train import train
    else:
        from rl4lms.ppo.train import train
    train(setup)

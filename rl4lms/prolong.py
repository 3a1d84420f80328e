"""`--resume DIR --set train_evaluation.n_iters=N`: another length for a run of PPO, NLPO or A2C.

No iteration depends on how many come after it, so that the run ends as one that had N from the start.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from common.config import ConfigError, Located, validate
from common.files import RunError, atomic_write_json
from common.identity import IDENTITY
from common.run_dir import CHECKPOINTS, CONFIG, RunDir, RunInfo, checkpoints_in
from common.source import parse_value
from rl4lms.config import RewardModelConfig, RolloutConfig, TrainConfig

N_ITERS = "train_evaluation.n_iters"
_STEPS = ("alg.training_args.max_steps", "alg.training_args.num_train_epochs")
CHANGEABLE = (N_ITERS, *_STEPS)  # what --set may name beside --resume: the last two to be told why not


def prolong(run: RunInfo, config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """The config of a run with the number of iterations that it is to have now. overrides: of CHANGEABLE.

    Raises RunError: not possible, with the reason; ConfigError: no number of iterations.
    """
    for field, _, text in (override.partition("=") for override in overrides):
        if not isinstance(config.alg, RolloutConfig) or field.strip() != N_ITERS:
            raise RunError(_reason(field.strip(), config))
        data = copy.deepcopy(run.config)
        data["train_evaluation"]["n_iters"] = parse_value(text, [])
        changed, problems = validate(TrainConfig, data)
        if changed is None:
            raise ConfigError(run.path, [Located("--set", p.path, p.message) for p in problems])
        config = changed
    done, asked = _completed(run), config.train_evaluation.n_iters
    assert asked is not None or not overrides  # TrainConfig.check
    if overrides and run.manifest.get("status") == "finished" and done == 0:
        raise RunError(f"{run.path} has no checkpoint any more to go on from; start a longer run anew")
    if overrides and asked is not None and asked <= done:
        raise RunError(
            f"{N_ITERS}: {run.path} has {done:,} iterations, more are to be asked for than {asked:,}"
        )
    return config


def record_length(run: RunDir, config: TrainConfig) -> None:
    """Write how many iterations a resumed run is to have, if it is another number, and that it was changed.

    It is no longer the run that a plan would look for: what decides its numbers is another config.
    """
    before, now = run.config["train_evaluation"].get("n_iters"), config.train_evaluation.n_iters
    if before == now:
        return
    change = {"from": before, "to": now, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    fields = {"status": "interrupted", "prolonged": [*run.manifest.get("prolonged", []), change]}
    if IDENTITY in run.manifest:
        fields[IDENTITY] = f"{run.manifest[IDENTITY]}, {now} iterations"
    # The manifest first: a run that is cut in between has its old length, and is not said to be finished.
    run.update_manifest(**fields)
    evaluation = run.config["train_evaluation"] | {"n_iters": now}
    atomic_write_json(run.path / f"{run.prefix}{CONFIG}", run.config | {"train_evaluation": evaluation})


def _completed(run: RunInfo) -> int:
    """The iterations of the newest checkpoint, 0 without one."""
    checkpoints = checkpoints_in(run.path / f"{run.manifest.get('prefix', '')}{CHECKPOINTS}")
    return int(Path(checkpoints[-1]).stem.partition("_")[2]) if checkpoints else 0


def _reason(field: str, config: TrainConfig) -> str:
    """Why a field does not change on a resume."""
    if isinstance(config.alg, RolloutConfig):
        return f"{field} is of supervised finetuning; a run of {config.alg.id} is prolonged by {N_ITERS}"
    if isinstance(config.alg, RewardModelConfig):
        return f"{field}: the training of a reward model cannot be prolonged: start one of more epochs anew"
    return (
        f"{field}: supervised finetuning cannot be prolonged: its learning rate follows the number of "
        "updates that it began with, so that it would end otherwise than a longer run; start that one anew, "
        "or from the finetuned model"
    )

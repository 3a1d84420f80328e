"""The pretraining run that a finetuning experiment starts from: which one matches, and how to make it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints import CheckpointError, checkpoints_in
from common.run_dir import find_runs

if TYPE_CHECKING:
    from sft_vs_rft.config import ExperimentConfig

# Without these in common, the finetuning run's inputs and label sets are not those that were pretrained.
DATA_FIELDS = ("dataset", "data_dir", "num_train_samples", "samples_rnd_seed", "num_labels_per_sample")
MODEL_FIELDS = ("model_type", "mlp_hidden_layer_sizes", "init_rnd_seed")
PLANS = Path("sft_vs_rft/experiment_plans")
PLAN_NAMES = {
    ("mnist", "mlp"): "sft_vs_rft_mlp_mnist",
    ("cifar10", "resnet18"): "sft_vs_rft_resnet_cifar",
    ("stsb", "bert-mini"): "sft_vs_rft_bert_stsb",
    ("digits", "mlp"): "laptop/sft_vs_rft_mlp_digits",
    ("digits", "resnet18"): "laptop/sft_vs_rft_resnet_digits",
    ("docstring_pairs", "bert-mini"): "laptop/sft_vs_rft_bert_docstrings",
}


def find_pretraining(config: ExperimentConfig) -> Path | None:
    """Checkpoint of the newest finished pretraining run in `outputs_dir`: same data, model, seeds, K."""
    wanted = _fields(config.model_dump(), (*DATA_FIELDS, *MODEL_FIELDS))
    if config.init_rnd_seed < 0:  # The start weights replace the initial ones, whatever their seed.
        del wanted["init_rnd_seed"]
    for run in reversed(find_runs(Path(config.outputs_dir))):
        is_pretraining = (
            run.config.get("use_multiple_labels_per_sample") and run.manifest.get("status") == "finished"
        )
        checkpoint = run.manifest.get("checkpoint")
        if (
            is_pretraining
            and checkpoint
            and _fields(run.config, wanted) == wanted
            and (run.path / checkpoint).is_file()
        ):
            return run.path / checkpoint
    return None


def start_checkpoint(path: Path) -> Path:
    """The checkpoint file that `load_model_from_checkpoint` names: itself, or the newest of a run folder.

    Raises CheckpointError if there is none.
    """
    if path.is_file():
        return path
    found = checkpoints_in(path / "checkpoints") or sorted(path.glob("*.pt"))
    if not found:
        raise CheckpointError(f"no checkpoint (*.pt) in {path}")
    return found[-1]


def mismatches(config: ExperimentConfig, start: Path) -> list[str]:
    """Why the checkpoint does not fit, as far as its run's config.json tells; else nothing."""
    folder = start if start.is_dir() else start.parent.parent
    try:
        pretraining = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(pretraining, dict) or not pretraining.get("use_multiple_labels_per_sample"):
        return []
    wanted = _fields(config.model_dump(), (*DATA_FIELDS, "model_type", "mlp_hidden_layer_sizes"))
    return [
        f"was pretrained with {name} {pretraining.get(name)!r}, this experiment has {value!r}: "
        "inputs and label sets, or the model, would not be those that were pretrained"
        for name, value in wanted.items()
        if pretraining.get(name) != value
    ]


def pretrain_hint(config: ExperimentConfig) -> str:
    """What to do for a checkpoint, with the shipped plan that makes it where there is one."""
    name = PLAN_NAMES.get((config.dataset, config.model_type))
    hint = "run the pretraining plan first"
    if name:
        plan = PLANS / f"{name}_pretrain_experiments_plan.json"
        hint += f" (python sft_vs_rft_controlled_experiments_plan_runner.py --plan_config_path {plan})"
    return f"{hint}, then give its checkpoint here, or 'auto' for the newest matching one"


def _fields(config: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: config.get(name) for name in names}

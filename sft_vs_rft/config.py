"""Schema of one controlled experiment: the fields of the plans, documented where they are declared.

Imports nothing heavy: `-h`, `--check` and `--list_fields` must not wait for torch.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from common.config import Config, Problem
from common.run_dir import CheckpointError, RunInfo, checkpoints_in, find_runs
from common.tracking import check_trackers
from sft_vs_rft.data_source import check_data_source, check_tokenizer_source, npz_holds_modified
from sft_vs_rft.sizes import BatchSize, GroupSize, Samples, Width, group_problems, size_problems
from sft_vs_rft.tracked import metric_names

CHECKPOINT_PLACEHOLDER = "ADD PATH TO CHECKPOINT"
AUTO_CHECKPOINT = "auto"
TEXT_DATASETS = ("stsb", "docstring_pairs")
GROUP_METHODS = ("expected_group", "sampled_group")
GROUP_FIELDS = ("group_size", "advantage", "group_std")  # mean nothing to other methods

# Fields that real plan files carry and that mean nothing here: accepted with a warning.
MEANINGLESS_FIELDS = {"change_label_per_class": "labels are always modified per input, never per class"}

# Fields that change neither the numbers of a run nor what it leaves: they may differ when it is found again.
COSMETIC_FIELDS = {
    "outputs_dir", "gpu_ids", "disable_console_log", "save_logs", "train_batch_log_interval",
    "epoch_log_interval", "save_metric_plots",
}  # fmt: skip

Seed = Annotated[int, Field(ge=-1, lt=2**32)]
Positive = Annotated[int, Field(ge=1)]
MinusOneOrPositive = Annotated[int, Field(ge=-1)]


class ExperimentConfig(Config):
    """One controlled experiment (Section 4.2 of the paper)."""

    # Data
    dataset: Literal[
        "digits",
        "npz",
        "mnist",
        "fmnist",
        "cifar10",
        "cifar100",
        "cifar100coarse",
        "svhn",
        "stsb",
        "docstring_pairs",
    ] = Field(description="digits, docstring_pairs: embedded; npz: the user's own; the others are downloaded")
    data_dir: str = Field(
        "", description="file or folder that holds the dataset, tried before the hub; '' = hub"
    )
    tokenizer_path: str = Field("", description="folder of the BERT tokenizer; '' = hub prajjwal1/bert-mini")
    num_train_samples: Samples = Field(-1, description="train inputs, stratified; -1 = all")
    num_test_samples: Samples = Field(-1, description="test inputs, stratified; -1 = all")
    samples_rnd_seed: Seed = Field(
        -1, description="fixes train subset, label sets and modified inputs together; -1 = unseeded"
    )
    num_labels_per_sample: Positive = Field(1, description="K: labels per input while pretraining")
    use_multiple_labels_per_sample: bool = Field(
        False, description="pretraining: the target is the whole set of K labels of the input's class"
    )
    frac_samples_to_modify_labels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of train inputs that get a label outside their set (small reward std)",
    )

    # Model
    model_type: Literal["mlp", "resnet18", "bert-mini"] = Field(
        description="architecture, randomly initialised"
    )
    mlp_hidden_layer_sizes: list[Width] = Field([250, 100], description="widths of the MLP's ReLU layers")
    init_rnd_seed: Seed = Field(-1, description="seed of the initial weights; -1 = unseeded")
    load_model_from_checkpoint: str = Field(
        "",
        description="start weights: a checkpoint, a run folder, 'auto' (newest pretraining), '' = none",
    )

    # Objective
    opt_method: Literal[
        "supervised", "expected_reinforce", "reinforce", "expected_group", "sampled_group"
    ] = Field(
        "supervised",
        description="cross entropy; exact expected policy gradient, or one sampled label per input; exact "
        "expected gradient of GRPO, or a sampled group of labels per input",
    )
    group_size: GroupSize = Field(8, description="labels of a group; 0 = infinitely many (expected_group)")
    advantage: Literal["grpo", "rloo", "dr_grpo"] = Field(
        "grpo",
        description="sampled_group: reward minus the group's mean, over its std; minus that of the others; "
        "minus the mean",
    )
    group_std: Literal["population", "unbiased"] = Field(
        "population", description="GRPO's: divides by G, or by G - 1 as libraries do"
    )
    reward_type: Literal["labels", "labels_with_custom"] = Field(
        "labels", description="wrong labels pay min_reward; with_custom: they pay 0.5 on modified inputs"
    )
    min_reward: float = Field(-1.0, ge=-1, lt=1, description="reward of a wrong label (the right one pays 1)")
    kl_regularization_coeff: float = Field(0.0, ge=0, description="weight of KL(p || reference)")
    kl_reg_ref_unif: bool = Field(False, description="the KL's reference is uniform, not the start model")
    logits_temperature: float = Field(
        1.0, gt=0, description="the logits are divided by it before the softmax"
    )

    # Optimisation
    optimizer: Literal["adam", "sgd"] = Field("adam", description="sgd has no momentum")
    lr: float = Field(1e-4, gt=0, description="learning rate (paper: Adam 1e-4; SGD 1e-2, STS-B 1e-3)")
    weight_decay: float = Field(0.0, ge=0, description="L2 coefficient of the optimiser")
    batch_size: BatchSize = Field(512, description="inputs per optimiser step; the last batch may be shorter")
    micro_batch_size: BatchSize = Field(
        64, description="text only: inputs per forward pass, sorted by length"
    )
    epochs: Positive = Field(description="passes over the train inputs")
    random_seed: Seed = Field(-1, description="seed of data order and label sampling; -1 = fresh, recorded")
    gpu_ids: list[Annotated[int, Field(ge=0)]] = Field(
        [0], description="the GPU to use; [] = CPU; CPU if there is none"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 = autocast of the forward pass"
    )

    # Measuring and stopping
    validate_every: Positive = Field(1, description="epochs between evaluations on the test inputs")
    score_metric_name: str = Field("train loss", description="metric that scores a run")
    is_train_metric: bool = Field(True, description="the score metric is a train metric, not a test one")
    score_largest: bool = Field(False, description="a larger score is better")
    return_best_score: bool = Field(
        False, description="a run's score is its best validation's, not its last's"
    )
    early_stop: bool = Field(False, description="stop when the score stops improving")
    early_stop_min_delta: float = Field(
        0.0, ge=0, description="smallest change that counts as an improvement"
    )
    early_stop_patience: Annotated[int, Field(ge=0)] = Field(
        0, description="validations without improvement allowed"
    )
    early_stop_cooldown: Annotated[int, Field(ge=0)] = Field(
        0, description="first validations that never stop a run"
    )
    early_stop_restore_best_weights: bool = Field(
        False, description="end with the weights of the best validation"
    )

    # Output
    experiment_name: str = Field(
        min_length=1, description="run folder name; may hold {fields} of this config"
    )
    outputs_dir: str = Field("outputs/controlled", description="folder of the run folders")
    save_checkpoints: bool = Field(
        True, description="without checkpoints a cut run starts again from its beginning"
    )
    save_every_num_val: Positive = Field(
        1, description="validations between checkpoints; the last epoch always has one"
    )
    num_checkpoints: MinusOneOrPositive = Field(1, description="checkpoints to keep; -1 = all")
    save_checkpoints_by_score: bool = Field(
        False, description="keep the best by score; the newest is kept too, for resuming"
    )
    trainer_checkpoint: str = Field(
        "", description="continue from this checkpoint's weights, optimiser and epoch in a new run; '' = none"
    )
    disable_console_log: bool = Field(False, description="no log lines and bars on the console")
    save_logs: bool = Field(True, description="write log.txt into the run folder")
    train_batch_log_interval: MinusOneOrPositive = Field(
        -1, description="batches between log lines; -1 = none"
    )
    epoch_log_interval: MinusOneOrPositive = Field(10, description="epochs between log lines; -1 = none")
    save_metric_plots: bool = Field(True, description="draw the metrics into plots/ as the run goes")
    use_tensorboard: bool = Field(False, description="also log to TensorBoard (in the run folder)")
    use_wandb: bool = Field(False, description="also log to Weights & Biases")
    wandb_project_name: str = Field("wandb_project", description="W&B project")
    wandb_entity_name: str = Field("", description="W&B entity; '' = the account's default")
    wandb_resume_id: str = Field("", description="W&B run to continue; '' = a new one")
    wandb_track_model: Literal["gradients", "parameters", "all"] | None = Field(
        None, description="what wandb.watch logs; null = nothing"
    )
    wandb_exclude_files: list[str] = Field(
        ["plots/**"], description="globs of run files that are not uploaded"
    )

    def check(self) -> list[Problem]:
        """Impossible combinations of fields, each at the field to change."""
        problems = [*_data_problems(self), *_checkpoint_problems(self)]
        problems += size_problems(self.dataset, self.num_labels_per_sample, self.mlp_hidden_layer_sizes)
        problems += group_problems(self.opt_method, self.group_size, self.advantage)

        def require(holds: bool, field: str, message: str) -> None:
            if not holds:
                problems.append(Problem(field, message))

        k_sets, k = self.use_multiple_labels_per_sample, self.num_labels_per_sample
        is_text, is_bert = self.dataset in TEXT_DATASETS, self.model_type == "bert-mini"
        require(
            is_text == is_bert,
            "model_type",
            f"{self.model_type!r} cannot read dataset {self.dataset!r}: "
            + (
                "sentence pairs need 'bert-mini'"
                if is_text
                else f"'bert-mini' needs one of {', '.join(TEXT_DATASETS)}"
            ),
        )
        require(
            not k_sets or self.opt_method == "supervised",
            "opt_method",
            f"label sets (use_multiple_labels_per_sample) need 'supervised', got {self.opt_method!r}",
        )
        require(not k_sets or k > 1, "num_labels_per_sample", f"a label set needs at least 2 labels, got {k}")
        require(
            not k_sets or self.frac_samples_to_modify_labels == 0,
            "frac_samples_to_modify_labels",
            "must be 0 while pretraining: modified labels mean nothing to use_multiple_labels_per_sample",
        )
        require(
            k_sets or k == 1 or self.samples_rnd_seed >= 0 or npz_holds_modified(self.dataset, self.data_dir),
            "samples_rnd_seed",
            "finetuning needs the seed of its pretraining: -1 would draw other inputs and label sets",
        )
        require(
            len(self.gpu_ids) <= 1, "gpu_ids", "one experiment uses one GPU; list several in gpu_ids_pool"
        )
        require(self.num_train_samples != 0, "num_train_samples", "must be at least 1, or -1 for all, got 0")
        require(self.num_test_samples != 0, "num_test_samples", "must be at least 1, or -1 for all, got 0")
        for field in ("num_checkpoints", "epoch_log_interval", "train_batch_log_interval"):
            require(getattr(self, field) != 0, field, "must be at least 1, or -1, got 0")
        require(
            self.save_checkpoints or not self.save_checkpoints_by_score,
            "save_checkpoints_by_score",
            "needs save_checkpoints",
        )
        require(
            self.early_stop or not self.early_stop_restore_best_weights,
            "early_stop_restore_best_weights",
            "needs early_stop",
        )
        train_metrics, test_metrics = tracked_metrics(self)
        names = train_metrics if self.is_train_metric else test_metrics
        kind = "train" if self.is_train_metric else "test"
        require(
            self.score_metric_name in names,
            "score_metric_name",
            f"no {kind} metric {self.score_metric_name!r} in this experiment; known: {', '.join(names)}",
        )
        return problems


def tracked_metrics(config: ExperimentConfig) -> tuple[list[str], list[str]]:
    """Names of the train and of the test metrics that an experiment tracks, in the order of its rows."""
    return metric_names(
        config.use_multiple_labels_per_sample,
        config.frac_samples_to_modify_labels > 0,
        config.opt_method in GROUP_METHODS and config.advantage == "grpo",
    )


def _data_problems(config: ExperimentConfig) -> list[Problem]:
    messages = {
        "data_dir": check_data_source(config.dataset, config.data_dir),
        "tokenizer_path": check_tokenizer_source(config.tokenizer_path),
        "use_tensorboard" if config.use_tensorboard else "use_wandb": check_trackers(
            config.use_tensorboard, config.use_wandb
        ),
    }
    return [Problem(name, message) for name, message in messages.items() if message]


def _checkpoint_problems(config: ExperimentConfig) -> list[Problem]:
    problems = []
    start, resumed = config.load_model_from_checkpoint, config.trainer_checkpoint
    if start and resumed:
        problems.append(Problem("trainer_checkpoint", "cannot be combined with load_model_from_checkpoint"))
    if start == CHECKPOINT_PLACEHOLDER:
        problems.append(
            Problem(
                "load_model_from_checkpoint",
                f"still the placeholder {CHECKPOINT_PLACEHOLDER!r}: {pretrain_hint(config)}",
            )
        )
    elif start and start != AUTO_CHECKPOINT and not Path(start).exists():
        problems.append(
            Problem(
                "load_model_from_checkpoint", f"no such file or folder: {start!r}; {pretrain_hint(config)}"
            )
        )
    if resumed and not Path(resumed).is_file():
        problems.append(Problem("trainer_checkpoint", f"no such file: {resumed!r}"))
    return problems


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


def find_pretraining(
    config: ExperimentConfig, runs_in: Callable[[Path], list[RunInfo]] = find_runs
) -> Path | None:
    """Checkpoint of the newest finished pretraining run in `outputs_dir`: same data, model, seeds, K.

    runs_in: finds the runs of a folder; somebody who asks for many experiments remembers them.
    """
    required = _fields(config.model_dump(), (*DATA_FIELDS, *MODEL_FIELDS))
    if config.init_rnd_seed < 0:  # The start weights replace the initial ones, whatever their seed.
        del required["init_rnd_seed"]
    for run in reversed(runs_in(Path(config.outputs_dir))):
        is_pretraining = (
            run.config.get("use_multiple_labels_per_sample") and run.manifest.get("status") == "finished"
        )
        checkpoint = run.manifest.get("checkpoint")
        if (
            is_pretraining
            and checkpoint
            and _fields(run.config, required) == required
            and (run.path / checkpoint).is_file()
        ):
            return run.path / checkpoint
    return None


def resolve_seeds(config: ExperimentConfig) -> ExperimentConfig:
    """The config with every seed -1 ("unseeded") replaced by a fresh one, so that the run can be redone."""
    fresh = {
        name: secrets.randbelow(2**31)
        for name in ("random_seed", "init_rnd_seed", "samples_rnd_seed")
        if getattr(config, name) < 0
    }
    return config.model_copy(update=fresh)


def start_checkpoint(path: Path) -> Path:
    """The checkpoint file that `load_model_from_checkpoint` names: itself, or the newest of a run folder.

    Raises CheckpointError if there is none.
    """
    if path.is_file():
        return path
    checkpoints = checkpoints_in(path / "checkpoints") or sorted(path.glob("*.pt"))
    if not checkpoints:
        raise CheckpointError(f"no checkpoint (*.pt) in {path}")
    return checkpoints[-1]


def mismatches(config: ExperimentConfig, start: Path) -> list[str]:
    """Why the checkpoint does not fit, as far as its run's config.json tells; else nothing."""
    folder = start if start.is_dir() else start.parent.parent
    try:
        pretraining = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(pretraining, dict) or not pretraining.get("use_multiple_labels_per_sample"):
        return []
    required = _fields(config.model_dump(), (*DATA_FIELDS, "model_type", "mlp_hidden_layer_sizes"))
    return [
        f"was pretrained with {name} {pretraining.get(name)!r}, this experiment has {value!r}: "
        "inputs and label sets, or the model, would not be those that were pretrained"
        for name, value in required.items()
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

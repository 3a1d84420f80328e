"""Trains a controlled experiment by expected or sampled REINFORCE or GRPO, or supervised (Section 4.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.errors import Interrupted, UserError
from common.run_dir import RunDir
from common.seeding import derive_seed
from common.tracking import Tracker
from sft_vs_rft.config import ExperimentConfig, resolve_seeds
from sft_vs_rft.data import ControlledData, Inputs
from sft_vs_rft.gradients import (
    Forward,
    Targets,
    batch_gradient,
    global_norm,
    length_sorted,
    scaled_log_softmax,
    select,
    small_first,
    tracked_values,
)
from sft_vs_rft.objectives import cross_entropy, rewards_of_labels, wrong_rewards

BatchOrder = Callable[[int], Iterable[Any]]
Row = dict[str, Any]
logger = logging.getLogger(__name__)


class TrainingInterrupted(Interrupted):
    """The caller asked to stop; the run is checkpointed after `epoch`."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"interrupted after epoch {epoch}")
        self.epoch = epoch


class NonFiniteLossError(UserError):
    """The train loss is no longer a number; the newest checkpoint is from before."""


@dataclass
class TrainState:
    """What outlives an epoch, and what a checkpoint holds: resuming from it continues bit for bit on CPU."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    monitor: ScoreMonitor
    reference: dict[str, Tensor] | None = None  # weights before the run's first step, when the KL needs them
    next_epoch: int = 0

    def state_dict(self, config: ExperimentConfig) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "monitor": self.monitor.state_dict(),
            "reference": self.reference,
            "epoch": self.next_epoch - 1,
            "config": config.model_dump(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.monitor.load_state_dict(state["monitor"])
        self.reference, self.next_epoch = state["reference"], state["epoch"] + 1


@dataclass(frozen=True)
class TrainResult:
    """rows: one per epoch trained here, `{"epoch", "train", "val"}`; score: see `score_metric_name`."""

    rows: list[Row] = field(repr=False)
    score: float
    last_epoch: int
    stopped_early: bool


def train(
    config: ExperimentConfig,
    data: ControlledData,
    model: nn.Module,
    batch_order: BatchOrder | None = None,
    *,
    run: RunDir | None = None,
    tracker: Tracker | None = None,
    resume_from: dict[str, Any] | None = None,
    progress: Callable[[float], None] = lambda epochs: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Run one experiment to its last epoch, on the device where `data` and `model` are.

    batch_order(epoch): the index batches of an epoch (default: shuffled, drawn from `random_seed`);
    run, tracker: where checkpoints and rows go (default: nowhere, rows are only returned);
    resume_from: a checkpoint's dict to continue; progress(epochs done), called after every batch.
    Raises TrainingInterrupted when `should_stop()` after an epoch (checkpointed first), NonFiniteLossError.
    """
    # 1. What is fixed for the run: the KL's reference, the rewards, the order of the data.
    config = resolve_seeds(config)
    state = TrainState(model, build_optimizer(config, model), ScoreMonitor.from_config(config))
    if config.kl_regularization_coeff and not config.kl_reg_ref_unif:
        state.reference = {name: value.clone() for name, value in model.state_dict().items()}
    if resume_from is not None:
        state.load_state_dict(resume_from)
        for group in state.optimizer.param_groups:  # `trainer_checkpoint` may continue with another lr
            group["lr"], group["weight_decay"] = config.lr, config.weight_decay
    if run is not None:
        prune_checkpoints(run, state, config)  # A kill may have come between a checkpoint and its pruning.
    forward = autocast_forward(config, model)
    targets = train_targets(config, data, model, state.reference)
    modified = data.modified.cpu()
    batch_order = batch_order or shuffled_batches(len(modified), config.batch_size, config.random_seed)
    params = [p for p in model.parameters() if p.requires_grad]
    rows: list[Row] = []

    progress(state.next_epoch)
    for epoch in range(state.next_epoch, config.epochs):
        if state.monitor.stopped:
            break
        model.train()
        meter = EpochMeter()
        targets = replace(targets, uniforms=epoch_uniforms(config, epoch, targets.labels))
        batches = [torch.as_tensor(index, dtype=torch.long) for index in batch_order(epoch)]
        for i, batch in enumerate(batches):
            # 2. The exact gradient of the regularised objective, of each group apart, before the step.
            index, num_small = small_first(batch, modified)
            index = index.to(targets.labels.device)
            inputs, batch_targets = select(data.train_inputs, index), targets[index]
            gradient = batch_gradient(
                model, forward, inputs, batch_targets, num_small, config, data.label_sets
            )
            # 3. Tracked values: reward, reward std and gradient norm, of all inputs and of the two groups.
            values = tracked_values(config, batch_targets, data.label_sets, gradient, global_norm(params))
            meter.add(values, len(batch))
            # 4. One step of Adam or SGD.
            for parameter, grad in zip(params, gradient.gradient, strict=True):
                parameter.grad = grad
            state.optimizer.step()
            progress(round(epoch + (i + 1) / len(batches), 1))
            if config.train_batch_log_interval > 0 and (i + 1) % config.train_batch_log_interval == 0:
                logger.info("epoch %d, batch %d/%d: %s", epoch, i + 1, len(batches), _format(meter.last()))

        # 5. Evaluation, score, log, checkpoint.
        row: Row = {"epoch": epoch, "train": meter.means()}
        if not math.isfinite(row["train"]["train loss"]):
            raise NonFiniteLossError(
                f"train loss is {row['train']['train loss']} in epoch {epoch}: lower lr ({config.lr:g})"
            )
        last = epoch + 1 == config.epochs
        if validated := last or (epoch + 1) % config.validate_every == 0:
            row["val"] = evaluate(config, data, model)
            last = state.monitor.update(epoch, row, model) or last
        rows.append(row)
        state.next_epoch = epoch + 1
        if tracker is not None:
            tracker.log(row)
        if last or (config.epoch_log_interval > 0 and (epoch + 1) % config.epoch_log_interval == 0):
            logger.info("epoch %d: %s", epoch, _format(row["train"] | row.get("val", {})))
        if last:
            state.monitor.restore_best(model)
        stop = should_stop() and not last
        due = last or stop or (validated and _is_due(config, epoch))
        if run is not None and config.save_checkpoints and due:
            save_checkpoint(run, state, config)
        if stop:
            raise TrainingInterrupted(epoch)
    monitor = state.monitor
    return TrainResult(rows, monitor.score(config.return_best_score), state.next_epoch - 1, monitor.stopped)


def build_optimizer(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam, or SGD without momentum; fused: one call for all weights, which a small model's step notices."""
    optimizer = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
    return optimizer(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def shuffled_batches(num_inputs: int, batch_size: int, seed: int) -> BatchOrder:
    """Draw a fresh permutation each epoch, from (seed, epoch) alone: resuming needs no generator state."""

    def batches(epoch: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        return torch.randperm(num_inputs, generator=generator).split(batch_size)

    return batches


def epoch_uniforms(config: ExperimentConfig, epoch: int, labels: Tensor) -> Tensor | None:
    """The random numbers that pick an epoch's labels, or None for the exact methods.

    One for each input [N] (`reinforce`), or those of its group [N, G] (`sampled_group`).
    """
    if config.opt_method not in ("reinforce", "sampled_group"):
        return None
    generator = torch.Generator().manual_seed(derive_seed(config.random_seed, "labels", epoch))
    shape = [len(labels)] if config.opt_method == "reinforce" else [len(labels), config.group_size]
    return torch.rand(shape, generator=generator).to(labels.device)


def train_targets(
    config: ExperimentConfig, data: ControlledData, model: nn.Module, reference: dict[str, Tensor] | None
) -> Targets:
    """Labels, rewards and reference log-probabilities [N, C] of all train inputs.

    The reference never changes, so that one pass in evaluation mode serves the whole run; without
    reference weights, a positive KL coefficient is towards the uniform distribution.
    """
    ref_logprobs = None
    if reference is not None:
        current = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(reference)
        ref_logprobs = predict(config, model, data.train_inputs)
        model.load_state_dict(current)
    elif config.kl_regularization_coeff:
        shape = (len(data.train_labels), data.num_classes)
        ref_logprobs = torch.full(shape, -math.log(data.num_classes), device=data.train_labels.device)
    wrong = wrong_rewards(data.modified, config.reward_type, config.min_reward)
    rewards = rewards_of_labels(data.train_labels, wrong, data.num_classes)
    return Targets(data.train_labels, rewards, ref_logprobs)


@torch.no_grad()
def predict(config: ExperimentConfig, model: nn.Module, inputs: Inputs) -> Tensor:
    """log p(y|x) [N, C] of `inputs`, in evaluation mode, in their order."""
    forward = autocast_forward(config, model)
    model.eval()
    if isinstance(inputs, Tensor):
        chunks = [forward(chunk) for chunk in inputs.split(config.batch_size)]
        return scaled_log_softmax(torch.cat(chunks), config.logits_temperature)
    order = list(length_sorted(inputs, config.micro_batch_size))
    logits = torch.cat([forward(inputs[index]) for index in order])
    return scaled_log_softmax(logits[torch.cat(order).argsort()], config.logits_temperature)


def evaluate(config: ExperimentConfig, data: ControlledData, model: nn.Module) -> dict[str, float]:
    """`test loss` and `test accuracy` (with label sets: the set's loss alone), at the current weights."""
    logprobs = predict(config, model, data.test_inputs)
    k_sets = config.use_multiple_labels_per_sample
    loss = cross_entropy(logprobs, data.test_labels, data.label_sets if k_sets else None).mean()
    if k_sets:
        return {"test loss": loss.item()}
    accuracy = (logprobs.argmax(-1) == data.test_labels).float().mean()
    return {"test loss": loss.item(), "test accuracy": accuracy.item()}


def autocast_forward(config: ExperimentConfig, model: nn.Module) -> Forward:
    """The model's forward pass, under bfloat16 autocast if the config asks for it. Returns logits [B, C]."""
    if config.dtype == "float32":
        return model

    def forward(inputs: Inputs) -> Tensor:
        device = next(model.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16):
            return model(inputs)

    return forward


def save_checkpoint(run: RunDir, state: TrainState, config: ExperimentConfig) -> None:
    """Write the checkpoint of the newest epoch, then delete those that the config does not keep."""
    epoch = state.next_epoch - 1
    run.save_checkpoint(state.state_dict(config), epoch)
    prune_checkpoints(run, state, config)


def prune_checkpoints(run: RunDir, state: TrainState, config: ExperimentConfig) -> None:
    """Delete the checkpoints that the config does not keep; the newest stays, since resuming needs it."""
    if config.num_checkpoints < 0 or not run.checkpoints():
        return
    newest = run.checkpoints()[-1]
    ranked = run.checkpoints()
    if config.save_checkpoints_by_score:
        ranked = sorted(ranked, key=lambda path: state.monitor.rank(int(path.stem.rsplit("_", 1)[1])))
    run.delete_checkpoints(keep=[*ranked[-config.num_checkpoints :], newest])


@dataclass
class ScoreMonitor:
    """Follows one metric over the validations and decides when to stop (fields: see ExperimentConfig)."""

    _STATE: ClassVar = ("history", "best_epoch", "since_best", "stopped", "best_weights")

    metric: str
    is_train: bool
    largest: bool
    early_stop: bool
    min_delta: float
    patience: int
    cooldown: int
    keep_weights: bool
    history: dict[int, float] = field(default_factory=dict)  # epoch -> score, one per validation
    best_epoch: int | None = None
    since_best: int = 0  # validations
    stopped: bool = False
    best_weights: dict[str, Tensor] | None = None

    @classmethod
    def from_config(cls, config: ExperimentConfig) -> ScoreMonitor:
        return cls(
            metric=config.score_metric_name,
            is_train=config.is_train_metric,
            largest=config.score_largest,
            early_stop=config.early_stop,
            min_delta=config.early_stop_min_delta,
            patience=config.early_stop_patience,
            cooldown=config.early_stop_cooldown,
            keep_weights=config.early_stop_restore_best_weights,
        )

    def update(self, epoch: int, row: dict[str, Any], model: nn.Module) -> bool:
        """Take in a validation; True when the run should stop after it.

        A score counts as an improvement when it beats the best by more than `min_delta`. The run stops
        at the first validation, after `cooldown` ones, that makes more than `patience` without one.
        """
        score = row["train" if self.is_train else "val"][self.metric]
        self.history[epoch] = score
        if self.best_epoch is None or self._gain(score, self.history[self.best_epoch]) > self.min_delta:
            self.best_epoch, self.since_best = epoch, 0
            if self.keep_weights:
                self.best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            self.since_best += 1
        impatient = len(self.history) > self.cooldown and self.since_best > self.patience
        self.stopped = self.early_stop and impatient
        return self.stopped

    def restore_best(self, model: nn.Module) -> None:
        """Give `model` the weights of the best validation, if the config asks for it."""
        if self.best_weights is not None:
            model.load_state_dict(self.best_weights)

    def score(self, best: bool) -> float:
        """The score of the last validation, or of the best."""
        scores = list(self.history.values())
        return (max(scores) if self.largest else min(scores)) if best else scores[-1]

    def rank(self, epoch: int) -> float:
        """Sort key of an epoch's score, the best last; an epoch without a validation comes first."""
        if epoch not in self.history:
            return float("-inf")
        return self.history[epoch] if self.largest else -self.history[epoch]

    def _gain(self, score: float, than: float) -> float:
        return score - than if self.largest else than - score

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._STATE:
            setattr(self, name, state[name])


class EpochMeter:
    """Sums up an epoch's batches; values stay on the device until the epoch's end (one transfer an epoch)."""

    WEIGHTED = ("train loss", "train accuracy")  # by batch size; others: unweighted, where batches have them

    def __init__(self) -> None:
        self._batches: list[tuple[list[str], Tensor, int]] = []

    def add(self, values: dict[str, Tensor], size: int) -> None:
        self._batches.append((list(values), torch.stack(list(values.values())), size))

    def last(self) -> dict[str, float]:
        names, values, _ = self._batches[-1]
        return dict(zip(names, values.tolist(), strict=True))

    def means(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        weights: dict[str, int] = {}
        for names, values, size in self._batches:
            for name, value in zip(names, values.tolist(), strict=True):
                weight = size if name in self.WEIGHTED else 1
                sums[name] = sums.get(name, 0.0) + weight * value
                weights[name] = weights.get(name, 0) + weight
        return {name: total / weights[name] for name, total in sums.items()}


def _is_due(config: ExperimentConfig, epoch: int) -> bool:
    return ((epoch + 1) // config.validate_every) % config.save_every_num_val == 0


def _format(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())

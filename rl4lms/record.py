"""What happens around the iterations of PPO and its kin: evaluations, logs, checkpoints, stops, resuming."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.console import progress
from common.files import RowLog
from common.run_dir import RunDir, fitting, load_checkpoint
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.model.policy import PolicyModel
from rl4lms.plots import draw_training
from rl4lms.reward_log import RewardLog
from rl4lms.run_setup import TrainingSetup, save_model
from rl4lms.samples import Split
from rl4lms.task_reward import summarise_parts

logger = logging.getLogger(__name__)
CHECKPOINTS_KEPT = 2
TARGET_KL_SLACK = 1.5  # an iteration's update ends at a minibatch of this many target_kl
SECONDS_BETWEEN_PLOTS = 120
_REWARDS = "rollout_rewards"
_REMEDY = (
    "lower alg.args.learning_rate or raise alg.kl_div.coeff and start again; checkpoints, if there are any, "
    "are from before (runtime.on_divergence: continue goes on regardless)"
)


class Learner(Protocol):
    """What changes from iteration to iteration. iteration: how many are completed; tokens: their texts'.

    result: the model that is evaluated and saved.
    """

    policy: PolicyModel
    iteration: int
    tokens: int

    @property
    def result(self) -> PreTrainedModel: ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what a checkpoint holds."""


class LoggedRollouts(Protocol):
    """What is logged of an iteration's E texts.

    samples: [E], the inputs that they are for; task_rewards: [E]; reward_parts: of several rewards, name ->
    [E], None where one does not apply; kl_penalties: [E], what the KL reward takes off each; kept: whether
    each is trained on, None = all are; response_tokens: of all texts; trained_tokens.
    """

    @property
    def samples(self) -> Tensor: ...
    @property
    def texts(self) -> list[str]: ...
    @property
    def task_rewards(self) -> Tensor: ...
    @property
    def reward_parts(self) -> dict[str, list[float | None]]: ...
    @property
    def kl_penalties(self) -> Tensor: ...
    @property
    def kept(self) -> list[bool] | None: ...
    @property
    def response_tokens(self) -> int: ...
    @property
    def trained_tokens(self) -> int: ...


class NonFiniteError(Exception):
    """A gradient that is no number; the weights are those of before it."""


def save_newest(run: RunDir, state: dict[str, Any], number: int) -> None:
    """Write a checkpoint, if it is not there, and keep the newest ones."""
    before = run.checkpoints()
    path = run.save_checkpoint(state, number)
    run.delete_checkpoints(keep=[*[p for p in before if p != path][-CHECKPOINTS_KEPT + 1 :], path])


class UpdateLog:
    """What the minibatches of an iteration log, as means over those that changed the weights."""

    def __init__(self, names: Mapping[str, str], on_non_finite: Literal["stop", "continue"] = "stop") -> None:
        """names: of the losses and statistics of a minibatch -> what each is called in the log, `group/name`.

        on_non_finite: raise NonFiniteError at a gradient that is no number, or warn.
        """
        self._names, self._on_non_finite = names, on_non_finite
        self._rows: list[Tensor] = []
        self._minibatches = self._tokens = 0

    def add(self, losses: dict[str, Tensor], grad_norm: Tensor, tokens: int) -> None:
        """Note a minibatch of this many tokens after its `optimiser_step`. Raises NonFiniteError."""
        self._minibatches += 1
        if torch.isfinite(grad_norm):
            self._rows.append(torch.stack([*(losses[name] for name in self._names), grad_norm]))
            self._tokens += tokens
        elif self._on_non_finite == "stop":
            norm = grad_norm.item()
            raise NonFiniteError(f"the gradient's norm is {norm} in minibatch {self._minibatches}")
        else:
            norm = grad_norm.item()
            logger.warning("minibatch %d left out: its gradient's norm is %s", self._minibatches, norm)

    def means(self) -> dict[str, float]:
        """Return the means by their names in the log, and the numbers of updates and tokens."""
        group = next(iter(self._names.values())).partition("/")[0]
        names = [*self._names.values(), f"{group}/grad_norm"]
        means = torch.stack(self._rows).mean(0).tolist() if self._rows else [float("nan")] * len(names)
        counts = {f"{group}/updates": float(len(self._rows)), f"{group}/tokens": float(self._tokens)}
        return dict(zip(names, means, strict=True)) | counts


class Record:
    """The record that a run leaves, from the newest checkpoint on if there is one.

    Only the main process writes; all of them evaluate and stop together.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        learner: Learner,
        losses: Mapping[str, str],
        measure: Callable[[Split], dict[str, float]] = lambda split: {},
    ) -> None:
        """losses: what minibatches log, as in UpdateLog; measure: what evaluations record besides metrics."""
        self._setup, self._learner, self._losses = setup, learner, losses
        self._measure = measure
        iterations = setup.config.train_evaluation.n_iters
        assert iterations is not None  # TrainConfig.check
        self._iterations, self._max_tokens = iterations, setup.config.train_evaluation.max_tokens
        self._resume()
        self._rewards = None if setup.run is None else RewardLog(self._rows(_REWARDS, "step"))
        name = f"{setup.config.alg.id} {setup.prefix.rstrip('_')}".strip()
        hidden = not setup.world.is_main
        self._bar = progress(iterations, name, unit="iteration", initial=learner.iteration, disable=hidden)
        self._drawn = self._started = self._rolled_out = time.monotonic()
        self._status, self._buffer = "", 0  # of the bar; tokens of the buffer
        self._generated = 0  # tokens of the iteration under way
        self._update = UpdateLog(losses)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def iterations(self) -> Iterator[int]:
        """Yield the numbers of the iterations that are left, and do what is due before, between and after.

        Raises TrainingInterrupted after a checkpoint, and what evaluation raises.
        """
        setup, learner = self._setup, self._learner
        while True:
            self._evaluate()
            if self._ends_at(learner.iteration):
                break
            # One process that is asked to stop stops them all.
            if any(setup.world.gather([setup.should_stop()])):
                self._save_checkpoint()
                raise TrainingInterrupted
            self._started = time.monotonic()
            yield learner.iteration + 1
            learner.iteration += 1
            learner.tokens += self._generated
            seconds = time.monotonic() - self._started
            self._bar.show(f"{self._status}, {self._buffer / seconds:,.0f} tokens/s")
            self._bar.update(1)
            every = setup.config.train_evaluation.save_every
            if learner.iteration % every == 0 or self._ends_at(learner.iteration):
                self._save_checkpoint()
            if setup.run is not None and time.monotonic() - self._drawn > SECONDS_BETWEEN_PLOTS:
                draw_training(setup.path, setup.prefix)
                self._drawn = time.monotonic()

    def add_rollouts(self, rollouts: LoggedRollouts, statistics: dict[str, float], kl_coeff: float) -> None:
        """Log an iteration's rollouts, with the diagnosis of the last iterations' rewards.

        statistics: of the rollouts, by their names in the log. Raises DivergenceError, after a checkpoint of
        the completed iterations, where no update helps any more and the config says stop.
        """
        iteration = self._learner.iteration + 1
        self._rolled_out = time.monotonic()
        values = statistics | {"rollout_info/kl_coeff": kl_coeff}
        values |= summarise_parts(rollouts.reward_parts)
        values |= _speed("rollout_info", rollouts.response_tokens, self._rolled_out - self._started)
        if self._rewards is not None:
            values |= self._rewards.add(
                iteration,
                [str(self._setup.train[sample].id) for sample in rollouts.samples.tolist()],
                rollouts.task_rewards.tolist(),
                rollouts.kl_penalties.tolist(),
                rollouts.kept,
                rollouts.reward_parts,
            )
        self._log("rollout_info", values)
        kl = statistics.get("rollout_info/kl_div_mean", 0.0)  # without a reference nothing is known of it
        try:
            self._check_rollouts(rollouts, kl)
        except DivergenceError:
            self._save_checkpoint()  # of the completed iterations: nothing has changed since
            raise
        self._status = f"reward {statistics['rollout_info/ep_rew']:.4g}, KL {kl:.3g}"
        self._buffer, self._generated = rollouts.trained_tokens, rollouts.response_tokens
        self._update = UpdateLog(self._losses, self._setup.config.runtime.on_divergence)

    def add_minibatch(self, losses: dict[str, Tensor], grad_norm: Tensor, tokens: int) -> None:
        """Note a minibatch of this many tokens. Raises DivergenceError: its gradient is no number."""
        try:
            self._update.add(losses, grad_norm, tokens)
        except NonFiniteError as error:
            iteration = self._learner.iteration + 1
            raise DivergenceError(f"iteration {iteration}: {error}; {_REMEDY}") from error

    def add_update(self, statistics: dict[str, float]) -> None:
        """Log an iteration's update: means over its minibatches, and these statistics."""
        group = next(iter(self._losses.values())).partition("/")[0]
        values = self._update.means() | statistics
        seconds = time.monotonic() - self._rolled_out
        self._log("training_info", values | _speed(group, values[f"{group}/tokens"], seconds))

    def save_model(self) -> None:
        """Draw the curves and save the finetuned model."""
        if self._setup.world.is_main:
            draw_training(self._setup.path, self._setup.prefix)
            logger.info("model: %s", save_model(self._setup, self._learner.result))

    def _check_rollouts(self, rollouts: LoggedRollouts, kl: float) -> None:
        """Warn of what no update helps against. Raises DivergenceError if the config says stop."""
        runtime, iteration = self._setup.config.runtime, self._learner.iteration + 1
        if not abs(kl) <= runtime.max_kl:
            message = (
                f"iteration {iteration}: the mean KL per token is {kl:.3g}, more than {runtime.max_kl:g}"
            )
            if runtime.on_divergence == "stop":
                raise DivergenceError(f"{message}: the policy has left the starting model; {_REMEDY}")
            logger.warning("%s", message)
        rewards, texts = rollouts.task_rewards, rollouts.texts
        if not any(text.strip() for text in texts):
            degenerate = f"iteration {iteration}: all {len(texts)} texts are empty"
        elif len(texts) > 1 and rewards.min() == rewards.max():
            degenerate = (
                f"iteration {iteration}: all {len(texts)} rewards are {rewards[0].item():.4g}: nothing can "
                "be learnt from them but the KL penalty"
            )
        else:
            return
        if runtime.on_degenerate_rollout == "stop":
            raise DivergenceError(f"{degenerate} (runtime.on_degenerate_rollout: stop)")
        logger.warning("%s", degenerate)

    def _evaluate(self) -> None:
        """Evaluate what is due: all splits before and after training, val between."""
        setup, done = self._setup, self._learner.iteration
        try:
            for split in self._due_splits(done):
                more = partial(self._measure, split)
                setup.evaluator(self._learner.result, split, done, more=more)
        except TrainingInterrupted:
            self._save_checkpoint()
            raise

    def _due_splits(self, done: float) -> list[Split]:
        """The splits that are evaluated after so many iterations."""
        if done == 0 or self._ends_at(done):
            return self._setup.splits
        return ["val"] if done % self._setup.config.train_evaluation.eval_every == 0 else []

    def _ends_at(self, done: float) -> bool:
        """Whether a run ends after so many iterations, by their number or by what they generated."""
        learner = self._learner
        spent = self._max_tokens is not None and learner.tokens >= self._max_tokens
        return done == self._iterations or (spent and done == learner.iteration)

    def _save_checkpoint(self) -> None:
        """Write the checkpoint of the completed iterations, if it is not there; keep the newest ones."""
        if self._setup.run is not None and self._learner.iteration > 0:
            save_newest(self._setup.run, self._learner.state_dict(), self._learner.iteration)

    def _resume(self) -> None:
        """Continue from the newest checkpoint, and drop what was logged after it."""
        setup, learner = self._setup, self._learner
        newest = setup.run.checkpoints()[-1:] if setup.run is not None else []
        for path in setup.world.same(newest):
            with fitting(path):
                learner.load_state_dict(load_checkpoint(path, next(learner.policy.parameters()).device))
            logger.info("continuing after iteration %d", learner.iteration)
        if setup.run is not None:
            for name in ("rollout_info", "training_info"):
                self._rows(name, "epoch").keep(lambda row: row["epoch"] <= learner.iteration)
            self._rows(_REWARDS, "step").keep(lambda row: row["step"] <= learner.iteration)
        # A run that is prolonged had its last evaluation where there is none of train and test now.
        setup.evaluator.keep(
            lambda split, done: done <= learner.iteration and split in self._due_splits(done)
        )

    def _rows(self, name: str, key: str) -> RowLog:
        assert self._setup.run is not None
        return self._setup.run.rows(f"{self._setup.prefix}{name}.jsonl", key)

    def _log(self, name: str, values: dict[str, float]) -> None:
        """Write a row of the iteration under way."""
        iteration = self._learner.iteration + 1
        if self._setup.run is not None:
            self._rows(name, "epoch").append({"epoch": iteration, **values})
        if self._setup.tracker is not None:
            self._setup.tracker.send(values, iteration)


def _speed(group: str, tokens: float, seconds: float) -> dict[str, float]:
    return {f"{group}/seconds": seconds, f"{group}/tokens_per_second": tokens / seconds}

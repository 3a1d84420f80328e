"""What happens around the updates of a reward model: evaluations, logs, checkpoints, stops, resuming."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from common.console import progress
from common.files import RowLog, atomic_write_json
from common.run_dir import fitting, load_checkpoint
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.evaluation import predictions_path
from rl4lms.memory import memory_lines, sizes_of
from rl4lms.model.load import autocast
from rl4lms.plots import REWARD_METRICS, draw_training
from rl4lms.record import SECONDS_BETWEEN_PLOTS, save_newest
from rl4lms.reward_model.data import make_elements, sum_losses, updates_per_epoch
from rl4lms.reward_model.learner import Learner
from rl4lms.reward_model.measure import measure
from rl4lms.reward_model.setup import RewardSetup

logger = logging.getLogger(__name__)
PROMPTS_AT_A_TIME = 64  # of val, between two looks at whether to stop
SHOWN = ("loss", "accuracy", "gold_accuracy", "within_share")
_EVALUATIONS, _UPDATES = "val_split_metrics", "training_info"


class Record:
    """The record that a run leaves, from the newest checkpoint on if there is one.

    Only the main process writes; all of them evaluate and stop together.
    """

    def __init__(self, setup: RewardSetup, learner: Learner, elements: int) -> None:
        """elements: how many an epoch has."""
        args = setup.alg.args
        self._setup, self._learner = setup, learner
        self._per_epoch = updates_per_epoch(elements, args)
        self.total = args.epochs * self._per_epoch
        # Of val, the loss is always that of whole prompts.
        self._args = args.model_copy(update={"batching": "prompt", "pairs_per_batch": None})
        self._val = make_elements(setup.val, self._args, "val")
        if setup.world.is_main:
            logger.info("updates: %s, %s an epoch", f"{self.total:,}", f"{self._per_epoch:,}")
            for line in memory_lines(setup.config, sizes_of(learner.model)):
                logger.info("%s", line)
        self._resume()
        name, hidden = f"reward model {setup.prefix.rstrip('_')}".strip(), not setup.world.is_main
        self._bar = progress(self.total, name, unit="update", initial=learner.update, disable=hidden)
        self._drawn = self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def updates(self) -> Iterator[int]:
        """Yield the numbers of the updates that are left, and do what is due before, between and after.

        Raises TrainingInterrupted after a checkpoint.
        """
        setup, learner = self._setup, self._learner
        evaluation = setup.config.train_evaluation
        while True:
            done = learner.update
            if done % evaluation.eval_every == 0 or done % self._per_epoch == 0:
                self._evaluate()
            if done == self.total:
                break
            # One process that is asked to stop stops them all.
            if any(setup.world.gather([setup.should_stop()])):
                self._save_checkpoint()
                raise TrainingInterrupted
            self._started = time.monotonic()
            yield done + 1
            learner.update += 1
            self._bar.update(1)
            if learner.update % evaluation.save_every == 0 or learner.update == self.total:
                self._save_checkpoint()
            if setup.run is not None and time.monotonic() - self._drawn > SECONDS_BETWEEN_PLOTS:
                draw_training(setup.path, setup.prefix)
                self._drawn = time.monotonic()

    def add_update(self, sums: Tensor, rate: float, grad_norm: Tensor) -> None:
        """Log an update. sums: the loss; how many comparisons, right ones, texts there were.

        Raises DivergenceError: the loss or the gradient is no number, and the config says stop.
        """
        update, norm = self._learner.update + 1, grad_norm.item()
        loss, comparisons, right, texts = sums.tolist()
        finite = torch.isfinite(torch.tensor([loss, norm])).all()
        if not finite and self._setup.config.runtime.on_divergence == "stop":
            raise DivergenceError(
                f"update {update}: the loss is {loss:.4g}, the gradient's norm {norm:.4g}; lower "
                "alg.args.learning_rate and start again; checkpoints, if there are any, are from before "
                "(runtime.on_divergence: continue leaves such updates out)"
            )
        if not finite:
            logger.warning("update %d left out: loss %.4g, gradient norm %.4g", update, loss, norm)
        seconds = time.monotonic() - self._started
        values = {
            "loss": loss,
            "accuracy": right / comparisons,
            "learning_rate": rate,
            "grad_norm": norm,
            "comparisons": comparisons,
            "texts": texts,
            "texts_per_second": texts / seconds,
        }
        self._bar.show(f"loss {loss:.4g}, accuracy {values['accuracy']:.3g}, {texts / seconds:,.0f} texts/s")
        if self._setup.run is not None:
            row = {"epoch": self._epoch(update), "step": update, **values}
            self._rows(_UPDATES).append(row)
        if self._setup.tracker is not None:
            self._setup.tracker.send({f"training/{name}": value for name, value in values.items()}, update)

    def _evaluate(self) -> None:
        """Measure the rewards of val, if that is not recorded yet."""
        setup, done = self._setup, self._learner.update
        epoch, start = self._epoch(done), time.monotonic()
        recorded = setup.run is not None and any(
            row["step"] == done for row in self._rows(_EVALUATIONS).read()
        )
        if setup.world.same(recorded):
            return
        try:
            rewards = self._score_val()
        except TrainingInterrupted:
            self._save_checkpoint()
            raise
        if not setup.world.is_main:
            return
        losses = []
        for ranking, scores, element in zip(setup.val, rewards, self._val, strict=True):
            reward = dict(zip(ranking.completions, scores, strict=True))
            used = torch.tensor([reward[text] for text in element.completions], dtype=torch.float64)
            losses.append(float(sum_losses(used, [element], self._args)[0]))
        numbers, tables = measure(setup.val, rewards)
        numbers = {"loss": sum(losses) / len(losses), **numbers}
        if setup.run is not None:
            where = {"epoch": epoch, "step": done}
            if setup.save_predictions:
                rows = [
                    {
                        "split": "val",
                        "sample_id": ranking.id,
                        "prompt": ranking.prompt,
                        "completions": ranking.completions,
                        "rewards": scores,
                        "loss": loss,
                    }
                    for ranking, scores, loss in zip(setup.val, rewards, losses, strict=True)
                ]
                atomic_write_json(predictions_path(setup.run, "val", epoch), rows)
            file = setup.path / f"{setup.prefix}{REWARD_METRICS}"
            atomic_write_json(file, where | {"split": "val", "metrics": numbers} | tables)
            self._rows(_EVALUATIONS).append(where | {"metrics": numbers})
        if setup.tracker is not None:
            setup.tracker.send({f"val/{name}": value for name, value in numbers.items()}, done)
        shown = ", ".join(f"{name} {numbers[name]:.4g}" for name in SHOWN if name in numbers)
        seconds = time.monotonic() - start
        logger.info("val at update %d (%.0f s): %s", done, seconds, shown)

    def _score_val(self) -> list[list[float]]:
        """The raw rewards of val's completions, on all processes. Raises TrainingInterrupted."""
        setup, model = self._setup, self._learner.model.eval()
        shared, scored = setup.world.share(setup.val), []
        size = setup.config.train_evaluation.eval_batch_size
        hidden = not setup.world.is_main
        with progress(len(shared), "evaluation on val", position=1, disable=hidden, unit="prompt") as bar:
            for first in range(0, len(shared), PROMPTS_AT_A_TIME):
                if setup.should_stop():
                    break
                part = shared[first : first + PROMPTS_AT_A_TIME]
                with autocast(model.model.device, setup.config.runtime.dtype):
                    scores = iter(
                        model.score(
                            [ranking.prompt for ranking in part for _ in ranking.completions],
                            [text for ranking in part for text in ranking.completions],
                            size,
                        )
                    )
                scored += [[next(scores) for _ in ranking.completions] for ranking in part]
                bar.update(len(part))
        if any(setup.world.gather([len(scored) < len(shared)])):  # a signal may reach only some processes
            raise TrainingInterrupted
        return setup.world.gather(scored)

    def _save_checkpoint(self) -> None:
        """Write the checkpoint of the completed updates; keep the newest ones."""
        if self._setup.run is not None and self._learner.update > 0:
            save_newest(self._setup.run, self._learner.state_dict(), self._learner.update)

    def _resume(self) -> None:
        """Continue from the newest checkpoint, and drop what was logged after it."""
        setup, learner = self._setup, self._learner
        newest = setup.run.checkpoints()[-1:] if setup.run is not None else []
        for path in setup.world.same(newest):
            with fitting(path):
                learner.load_state_dict(load_checkpoint(path, learner.model.model.device))
            logger.info("continuing after update %d", learner.update)
        if setup.run is not None:
            for name in (_UPDATES, _EVALUATIONS):
                self._rows(name).keep(lambda row: row["step"] <= learner.update)

    def _epoch(self, update: int) -> float:
        """The epochs that so many updates are."""
        return round(update / self._per_epoch, 6)

    def _rows(self, name: str) -> RowLog:
        assert self._setup.run is not None
        return self._setup.run.rows(f"{self._setup.prefix}{name}.jsonl", "epoch")

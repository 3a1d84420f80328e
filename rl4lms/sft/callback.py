"""What happens between the updates of supervised finetuning: rows, bar, evaluation, checkpoints and stops."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from common.console import Progress, progress
from rl4lms.config import SupervisedConfig
from rl4lms.errors import DivergenceError
from rl4lms.plots import draw_training
from rl4lms.run_setup import TrainingSetup
from rl4lms.sft.checkpoints import delete_older, move_into_place
from rl4lms.sft.select import choose_best, evaluated_checkpoints

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_PLOTS = 120


class RunCallback(TrainerCallback):
    """Writes rows, shows the bar, evaluates, checkpoints and stops a run of the Trainer.

    The order of a step: gradient checked, weights updated, row written, checkpoint if one is due, evaluation
    if one is due. Before each evaluation there is a checkpoint, so that an interrupted one costs no update.
    """

    def __init__(self, setup: TrainingSetup, arguments: TrainingArguments, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.begun = self.interrupted = False
        assert isinstance(setup.config.alg, SupervisedConfig)
        self._alg = setup.config.alg
        self._given = self._alg.trainer_arguments()
        self._saves = arguments.save_strategy != "no"
        self._bar: Progress | None = None
        self._drawn = time.monotonic()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        self.begun = True
        hidden = not self.setup.world.is_main
        self._bar = progress(
            state.max_steps, "finetuning", disable=hidden, unit="update", initial=state.global_step
        )
        if state.global_step:
            self._evaluate_if_due(state, model)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if torch.nn.utils.get_total_norm(gradients).isfinite():
            return
        step = state.global_step + 1
        if self.setup.config.runtime.on_divergence == "stop":
            raise DivergenceError(
                f"the gradient of update {step} is not finite: lower alg.training_args.learning_rate, or set "
                "runtime.on_divergence: continue to leave such updates out"
            )
        logger.warning("the gradient of update %d is not finite: the update is left out", step)
        for parameter in model.parameters():
            parameter.grad = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._any_stop(args):
            self.interrupted = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True
        is_last = self._alg.select_by is not None and state.global_step >= state.max_steps
        if self._saves and (self._is_due(state) or is_last):
            control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        model: Any = None,
        **_: Any,
    ) -> None:
        state.log_history.clear()  # it would be part of every checkpoint
        if logs is None or "loss" not in logs:  # the summary at the end
            return
        values = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm")}
        if self.setup.run is not None:
            log = self.setup.run.rows(f"{self.setup.prefix}training_info.jsonl", "epoch")
            log.append({"epoch": completed_epochs(state.epoch), "step": state.global_step, **values})
        if self.setup.tracker is not None:
            self.setup.tracker.send({f"training/{k}": v for k, v in values.items()}, state.global_step)
        if self._bar is not None:
            self._bar.show(f"epoch {state.epoch:.3g}, loss {values['loss']:.4g}")
            self._bar.update()
        if self.setup.run is not None and time.monotonic() - self._drawn > SECONDS_BETWEEN_PLOTS:
            draw_training(self.setup.path, self.setup.prefix)
            self._drawn = time.monotonic()
        if not control.should_save:
            self._evaluate_if_due(state, model)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        self.setup.world.barrier()  # every process has written its part
        if self.setup.run is not None:
            self.setup.run.sync_rows()
            move_into_place(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.folder)
            delete_older(self.folder, self._given.get("save_total_limit"), self._best())
        self.setup.world.barrier()
        if not self.interrupted:
            self._evaluate_if_due(state, model)

    def _best(self) -> Path | None:
        """Find the checkpoint that would be the model if training ended now (alg.select_by)."""
        if self._alg.select_by is None:
            return None
        metric = self._alg.select_by.metric
        best = choose_best(evaluated_checkpoints(self.setup, self.folder, metric), metric)
        return None if best is None else best.path

    def _evaluate_if_due(self, state: TrainerState, model: PreTrainedModel) -> None:
        if self._is_due(state):
            self.setup.evaluator(model, "val", completed_epochs(state.epoch), state.global_step)

    def _is_due(self, state: TrainerState) -> bool:
        """Say whether val is evaluated after this step: every logging_steps, or as logging_strategy says."""
        strategy, every = self._given.get("logging_strategy", "steps"), self._given.get("logging_steps", 500)
        if strategy == "steps":
            return state.global_step % (math.ceil(every * state.max_steps) if every < 1 else int(every)) == 0
        return strategy == "epoch" and float(state.epoch).is_integer()

    def _any_stop(self, args: TrainingArguments) -> bool:
        """Say whether any process was asked to stop: all must leave the loop at the same step."""
        asked = torch.tensor(float(self.setup.should_stop()), device=args.device)
        self.setup.world.sum_([asked])
        return bool(asked)


def completed_epochs(epoch: float) -> float:
    """Round the completed epochs as rows and file names have them."""
    return round(epoch, 6)

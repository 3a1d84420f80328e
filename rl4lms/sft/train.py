"""Supervised finetuning by transformers.Trainer, one row per (prompt, reference)."""

from __future__ import annotations

import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from common.console import Progress, progress
from rl4lms.config import SupervisedConfig
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.model.load import check_vocabulary, load_model, max_positions
from rl4lms.plots import draw_training
from rl4lms.run_setup import TrainingDataError, TrainingSetup, save_model
from rl4lms.sft.checkpoints import delete_older, move_into_place, newest_checkpoint, state_of
from rl4lms.sft.trainer import Rows, build_trainer, trainer_arguments

logger = logging.getLogger(__name__)
TRAINED = "trained"  # of the manifest: how long the model that is saved was trained
UNFINISHED = "unfinished"  # where the Trainer writes; whole checkpoints are moved out of it
SECONDS_BETWEEN_PLOTS = 120
_NO_LIMIT = 2**31 - 1  # tokenizers without a limit of their own say 10^30


def train_supervised(setup: TrainingSetup) -> None:
    """Evaluate, finetune (or go on from the newest checkpoint), save the model, evaluate.

    On CPU a run that was cut and resumed ends with the weights of one that was not. Raises
    TrainingInterrupted, DivergenceError, CheckpointError, TrainingDataError, ModelSourceError, and what
    evaluation raises.
    """
    alg = _algorithm(setup)
    checkpoints = setup.path / f"{setup.prefix}checkpoints"
    arguments = trainer_arguments(alg, setup.config.runtime, checkpoints / UNFINISHED)
    trained = setup.world.same(setup.run.manifest.get(TRAINED) if setup.run else None)
    if trained is None:
        model, trained = _train(setup, alg, arguments, checkpoints)
    else:
        model = load_model(str(setup.model_path), alg.model_type, torch.float32, arguments.device)
    for split in setup.splits:
        setup.evaluator(model, split, trained["epochs"], trained["updates"])
    if setup.run is not None:
        draw_training(setup.path, setup.prefix)


def _train(
    setup: TrainingSetup, alg: SupervisedConfig, arguments: TrainingArguments, folder: Path
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Steps 1 to 4; returns the model and how long it was trained."""
    # 1. Where to start: the newest checkpoint, and nothing that was written after it.
    start = newest_checkpoint(folder)
    state = state_of(start) if start else {"global_step": 0, "epoch": 0.0, "max_steps": -1}
    setup.evaluator.drop_after(_label(state["epoch"]))
    if setup.run is not None:
        log = setup.run.rows(f"{setup.prefix}training_info.jsonl", "epoch")
        log.keep(lambda row: row["step"] <= state["global_step"])
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        folder.mkdir(exist_ok=True)
    if start:
        logger.info("going on from %s", start)

    # 2. Model, rows, and the evaluation before training.
    model = load_model(alg.model_name, alg.model_type, torch.float32, arguments.device)
    check_vocabulary(model, setup.tokenizer)
    rows = training_rows(setup, model)
    for split in setup.splits:
        setup.evaluator(model, split, 0.0, 0)

    # 3. Training; a run that was cut between its last step and step 4 has nothing left to do.
    use_cache = model.config.use_cache
    if start and state["global_step"] == state["max_steps"]:
        model = load_model(str(start), alg.model_type, torch.float32, arguments.device)
    else:
        watch = _Watch(setup, arguments, folder)
        transformers.utils.logging.disable_progress_bar()  # of every checkpoint, across our own
        trainer = build_trainer(model, arguments, rows, setup.tokenizer.pad_token_id)
        trainer.add_callback(watch)
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        finally:
            watch.close()
        if watch.interrupted:
            raise TrainingInterrupted
        state = {"epoch": trainer.state.epoch, "global_step": trainer.state.global_step}

    # 4. The model, before anything else can fail.
    model.config.use_cache = use_cache  # which the Trainer switches off
    trained = {"epochs": _label(state["epoch"]), "updates": state["global_step"]}
    if setup.run is not None:
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        logger.info("model: %s", save_model(setup, model))
        setup.run.update_manifest(**{TRAINED: trained})
    setup.world.barrier()
    return model, trained


def training_rows(setup: TrainingSetup, model: PreTrainedModel) -> Rows:
    """The rows, cut to the tokenizer's own limit. Raises TrainingDataError: no sample has a reference."""
    alg, tokenizer = _algorithm(setup), setup.tokenizer
    limit = min(tokenizer.model_max_length, max_positions(model) or _NO_LIMIT)
    rows = Rows(
        setup.train,
        alg.model_type,
        tokenizer,
        setup.config.tokenizer.truncation_side,
        limit if limit < _NO_LIMIT else None,
        alg.add_eos,
    )
    if not len(rows):
        raise TrainingDataError(
            f"datapool {setup.config.datapool.id!r}: no train sample has a reference to learn from"
        )
    logger.info("%s training texts from %s samples", f"{len(rows):,}", f"{len(setup.train):,}")
    return rows


class _Watch(TrainerCallback):
    """Rows, bar, evaluation, checkpoints and stops of a run of the Trainer.

    The order of a step: gradient checked, weights updated, row written, checkpoint if one is due, evaluation
    if one is due. Before each evaluation there is a checkpoint, so that an interrupted one costs no update.
    """

    def __init__(self, setup: TrainingSetup, arguments: TrainingArguments, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.interrupted = False
        self._given = _algorithm(setup).trainer_arguments()
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
        if self._saves and self._is_due(state):
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
            log.append({"epoch": _label(state.epoch), "step": state.global_step, **values})
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
            delete_older(self.folder, self._given.get("save_total_limit"))
        self.setup.world.barrier()
        if not self.interrupted:
            self._evaluate_if_due(state, model)

    def _evaluate_if_due(self, state: TrainerState, model: PreTrainedModel) -> None:
        if self._is_due(state):
            self.setup.evaluator(model, "val", _label(state.epoch), state.global_step)

    def _is_due(self, state: TrainerState) -> bool:
        """Whether val is evaluated after this step: every logging_steps, or as logging_strategy says."""
        strategy, every = self._given.get("logging_strategy", "steps"), self._given.get("logging_steps", 500)
        if strategy == "steps":
            return state.global_step % (math.ceil(every * state.max_steps) if every < 1 else int(every)) == 0
        return strategy == "epoch" and float(state.epoch).is_integer()

    def _any_stop(self, args: TrainingArguments) -> bool:
        """Whether any process was asked to stop: all must leave the loop at the same step."""
        asked = torch.tensor(float(self.setup.should_stop()), device=args.device)
        self.setup.world.sum_([asked])
        return bool(asked)


def _algorithm(setup: TrainingSetup) -> SupervisedConfig:
    assert isinstance(setup.config.alg, SupervisedConfig)  # the caller's choice
    return setup.config.alg


def _label(epoch: float) -> float:
    """Completed epochs as rows and file names have them."""
    return round(epoch, 6)

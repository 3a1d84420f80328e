"""Supervised finetuning (Sections 4.1 and 5) by transformers.Trainer, one row per prompt and reference."""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext

import transformers

from common.run_dir import fitting
from rl4lms.config import SupervisedConfig
from rl4lms.errors import TrainingInterrupted
from rl4lms.model.load import check_vocabulary
from rl4lms.model.lora import to_save
from rl4lms.plots import draw_training
from rl4lms.run_setup import TrainingSetup, save_model
from rl4lms.sft.callback import RunCallback, completed_epochs
from rl4lms.sft.checkpoints import check_fit, newest_checkpoint, read_state
from rl4lms.sft.select import best_checkpoint, check_metric
from rl4lms.sft.trainer import build_trainer, load_trained, trainer_arguments, training_rows

logger = logging.getLogger(__name__)
TRAINED = "trained"  # of the manifest: how long the model that is saved was trained
UNFINISHED = "unfinished"  # where the Trainer writes; whole checkpoints are moved out of it


def train(setup: TrainingSetup) -> None:
    """Evaluate, finetune (or go on from the newest checkpoint), save the model, evaluate.

    On CPU a run that was cut and resumed ends with the weights of one that was not. Raises
    TrainingInterrupted, DivergenceError, CheckpointError, TrainingDataError, ModelSourceError, and what
    evaluation raises.
    """
    alg, runtime, run = setup.config.alg, setup.config.runtime, setup.run
    assert isinstance(alg, SupervisedConfig)  # the caller's choice
    folder = setup.path / f"{setup.prefix}checkpoints"
    arguments = trainer_arguments(alg, runtime, folder / UNFINISHED)
    trained = setup.world.same(run.manifest.get(TRAINED) if run else None)
    if trained is not None:  # cut in the last evaluation
        model = load_trained(alg, runtime, arguments.device, setup.model_path)
    else:
        # 1. Where to start: the newest checkpoint, and nothing that was written after it.
        start = newest_checkpoint(folder)
        state = read_state(start) if start else {"global_step": 0, "epoch": 0.0, "max_steps": -1}
        setup.evaluator.drop_after(completed_epochs(state["epoch"]))
        if run is not None:
            log = run.rows(f"{setup.prefix}training_info.jsonl", "epoch")
            log.keep(lambda row: row["step"] <= state["global_step"])
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            folder.mkdir(exist_ok=True)
        if start:
            logger.info("going on from %s", start)

        # 2. Model, and rows: the loss is on the reference (seq2seq), or on prompt and reference (causal), not
        #    on padding. The evaluation before training.
        model = load_trained(alg, runtime, arguments.device)
        check_vocabulary(model, setup.tokenizer)
        if start:
            check_fit(start, model)
        rows = training_rows(setup, model)
        values = {split: setup.evaluator(model, split, 0.0, 0) for split in setup.splits}
        if alg.select_by is not None:
            check_metric(alg.select_by.metric, values["val"])

        # 3. Training; a run that was cut between its last step and step 4 has nothing left to do.
        use_cache = getattr(model.config, "use_cache", True)
        if start and state["global_step"] == state["max_steps"]:
            model = load_trained(alg, runtime, arguments.device, start)
        else:
            transformers.utils.logging.disable_progress_bar()  # of every checkpoint, across our own
            callback = RunCallback(setup, arguments, folder)
            trainer = build_trainer(model, arguments, rows, setup.tokenizer.pad_token_id)
            trainer.add_callback(callback)
            try:
                with fitting(start, lambda: callback.begun) if start else nullcontext():
                    trainer.train(resume_from_checkpoint=str(start) if start else None)
            finally:
                callback.close()
            if callback.interrupted:
                raise TrainingInterrupted
            state = {"epoch": trainer.state.epoch, "global_step": trainer.state.global_step}

        # 4. The model, or that of the best evaluation on val, before anything else can fail.
        if alg.select_by is not None:
            epoch, step = completed_epochs(state["epoch"]), int(state["global_step"])
            setup.evaluator(model, "val", epoch, step)
            best = setup.world.same(best_checkpoint(setup, folder, alg.select_by.metric) if run else None)
            if best is not None and best.step != step:
                state = {"epoch": best.epoch, "global_step": best.step}
                model = load_trained(alg, runtime, arguments.device, best.path)
        model = to_save(model, alg.lora)  # with an adapter, if it is to be merged
        model.config.use_cache = use_cache  # which the Trainer switches off
        trained = {"epochs": completed_epochs(state["epoch"]), "updates": state["global_step"]}
        if run is not None:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            logger.info("model: %s", save_model(setup, model))
            run.update_manifest(**{TRAINED: trained})
        setup.world.barrier()

    # 5. The evaluation after training.
    for split in setup.splits:
        setup.evaluator(model, split, trained["epochs"], trained["updates"])
    if run is not None:
        draw_training(setup.path, setup.prefix)

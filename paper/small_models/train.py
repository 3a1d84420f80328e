"""Trains a small model on docstrings, from nothing to a folder that every job can load."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.optimization import Adafactor

from common.errors import UserError
from common.plots import optional_drawing
from common.run_dir import RunDir, check_optimizer, fitting, load_checkpoint
from common.seeding import derive_seed, isolated_rng
from paper.small_models.config import PretrainConfig, model_folder
from paper.small_models.corpus import Corpus, batches, held_out_corpus, training_corpus
from paper.small_models.held_out import describe, evaluate, sample_texts, save_loss_plot
from paper.small_models.models import build_model, mean_loss
from paper.small_models.vocabulary import build_tokenizer
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.model.load import choose_device, save_model_folder

ROWS = "losses.jsonl"
Report = Callable[[int, str], None]
logger = logging.getLogger(__name__)


class PretrainingDataError(UserError):
    """Text that a run cannot go on with; the message is for the user."""


def pretrain(
    config: PretrainConfig,
    run: RunDir,
    report: Report = lambda step, status: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Run or continue the pretraining of `run`; returns the model's folder.

    report(updates done, how it goes). The same config, packages and number of threads give the
    same weights on a CPU, however often the run was cut. Raises TrainingInterrupted (checkpointed first),
    DivergenceError, PretrainingDataError, DataError, ModelSourceError.
    """
    # 1. Text, tokenizer, model: a resumed run makes them again, and compares the text.
    alg, device = config.alg, choose_device(config.runtime.device)
    corpus, held_out = training_corpus(config), held_out_corpus(config)
    check_text(run, corpus)
    texts = corpus.all_texts()
    tokenizer = build_tokenizer(config.model_type, texts, config.vocabulary.size, config.data.max_length)
    model = build_model(config, tokenizer).to(device)
    if config.runtime.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = Adafactor(model.parameters(), lr=alg.learning_rate, scale_parameter=True, relative_step=False)
    meter = Meter()
    step = restore(run, model, optimizer, meter, device)
    run.update_manifest(
        device=str(device),
        threads=torch.get_num_threads(),
        weights=sum(p.numel() for p in model.parameters()),
    )
    logger.info("%s texts, %s weights, %s tokens in the vocabulary", f"{len(texts):,}",
                f"{run.manifest['weights']:,}", f"{len(tokenizer):,}")  # fmt: skip

    # 2. Updates; the learning rate falls to 0.
    rows, status = run.rows(ROWS, "step"), ""
    report(step, status)
    for batch in batches(config, corpus, tokenizer, step):
        if step == alg.steps:
            break
        optimizer.param_groups[0]["lr"] = alg.learning_rate * (1 - step / alg.steps)
        # Seeded anew for each update: dropout must not depend on where a run was cut.
        with isolated_rng(derive_seed(config.runtime.seed, "pretraining", "dropout", step)):
            loss = mean_loss(model.train(), batch.to(device), config.runtime.dtype)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        meter.add(loss.detach(), batch.tokens())

        # 3. Log, evaluation, checkpoint.
        last, stop = step == alg.steps, should_stop()
        evaluated, saved = (last or step % every == 0 for every in (alg.eval_every, alg.save_every))
        if evaluated or saved or stop or step % alg.log_every == 0:
            train = meter.means()
            if not math.isfinite(train["loss"]):
                raise DivergenceError(
                    f"the loss is {train['loss']} after {step:,} updates: lower alg.learning_rate "
                    f"({alg.learning_rate:g})"
                )
            status = f"loss {train['loss']:.3f}, {train['tokens/s']:,.0f} tokens/s"
        if evaluated or step % alg.log_every == 0:
            row: dict[str, Any] = {"step": step, "train": train}
            if evaluated:
                row["val"] = evaluate(config, model, tokenizer, held_out)
                logger.info("update %s: %s", f"{step:,}", describe(row))
            rows.append(row)
            meter = Meter()
        if saved or stop:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "meter": meter.state_dict(),
            }
            run.delete_checkpoints(keep=[run.save_checkpoint(state, step)])
            picture = run.path / "plots" / "loss.png"
            with optional_drawing(picture):
                save_loss_plot(rows.read(), picture, config.name)
        report(step, status)
        if stop and not last:
            raise TrainingInterrupted

    # 4. The model, a valid `model_name` of every job, or of a learned reward.
    folder = model_folder(run.path, config)
    save_model_folder(folder, model, tokenizer)
    for line in sample_texts(config, folder, held_out, device):
        logger.info("%s", line)
    run.update_manifest(artefacts=[folder.name])
    return folder


def check_text(run: RunDir, corpus: Corpus) -> None:
    """Record what the text is, or compare it with what the run began with. Raises PretrainingDataError."""
    digest, before = corpus.digest(), run.manifest.get("text")
    if before not in (None, digest):
        raise PretrainingDataError(
            f"the packages no longer have the text that {run.path} began with (is another version of one "
            "installed?): start the run anew"
        )
    run.update_manifest(text=digest, texts=len(corpus.all_texts()))


def restore(
    run: RunDir, model: PreTrainedModel, optimizer: Adafactor, meter: Meter, device: torch.device
) -> int:
    """Go on from the run's newest checkpoint; returns its number of updates, 0 without one.

    Raises CheckpointError: it is none, or of another model.
    """
    saved = run.checkpoints()
    step = 0
    if saved:
        state = load_checkpoint(saved[-1], map_location=device)
        with fitting(saved[-1]):
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            check_optimizer(optimizer)
            meter.load_state_dict(state["meter"])
            step = int(state["step"])
    run.rows(ROWS, "step").keep(lambda row: row["step"] <= step)
    return step


class Meter:
    """Sums up the updates since the last row of the log."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._tokens = 0
        self._start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: it may come between two rows."""
        return {
            "losses": torch.stack(self._losses) if self._losses else torch.zeros(0),
            "tokens": self._tokens,
            "seconds": time.perf_counter() - self._start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._losses = list(state["losses"])
        self._tokens = state["tokens"]
        self._start = time.perf_counter() - state["seconds"]

    def add(self, loss: Tensor, tokens: int) -> None:
        self._losses.append(loss)
        self._tokens += tokens

    def means(self) -> dict[str, float]:
        loss = torch.stack(self._losses).mean().item()
        return {"loss": loss, "tokens/s": self._tokens / (time.perf_counter() - self._start)}

"""Evaluation during training: texts of a split and their metrics, one row in a file for each evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.console import progress
from common.errors import UserError
from common.files import RowLog, atomic_write_json
from common.run_dir import RunDir
from common.seeding import derive_seed, isolated_rng
from common.tracking import Tracker
from common.user_code import explain_failure
from rl4lms.errors import TrainingInterrupted
from rl4lms.metrics import Metric
from rl4lms.model.generation import Batch, Decoding, generate_batch, plan_batches
from rl4lms.model.load import autocast
from rl4lms.model.parallel import World
from rl4lms.requirements import RequirementError
from rl4lms.samples import Sample, Split
from rl4lms.text import Score, TextBatch, find_failing_text, make_text_batch

logger = logging.getLogger(__name__)
SHOWN = 8  # values of a log line (diversity alone has 40)
Epoch = int | float
T = TypeVar("T")


class EvaluationError(UserError):
    """A metric that failed; the message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates a model on the splits of one training run; every process of the world calls it.

    samples, decodings: each split's; run, tracker: the main process's, None elsewhere. unit: of the rows'
    labels, for people: files call it "epoch" whatever it is.
    The texts of a split depend on model and seed alone: equal models have equal rows at all epochs.
    """

    tokenizer: PreTrainedTokenizerBase
    samples: Mapping[Split, Sequence[Sample]]
    decodings: Mapping[Split, Decoding]
    metrics: Mapping[str, Metric]
    dtype: str
    world: World
    run: RunDir | None
    tracker: Tracker | None
    unit: Literal["iteration", "epoch"]
    save_predictions: bool = False
    should_stop: Callable[[], bool] = lambda: False
    _batches: dict[Split, list[Batch]] = field(default_factory=dict, init=False, repr=False)

    def __call__(
        self,
        model: PreTrainedModel,
        split: Split,
        epoch: Epoch,
        step: int | None = None,
        more: Callable[[], dict[str, float]] = dict,
    ) -> dict[str, float]:
        """The corpus value of each metric; what is recorded for that epoch already is not done again.

        epoch: the row's label, completed iterations or epochs; step: the trackers' (default: the epoch).
        more: measures what else is recorded, on all processes.
        Raises EvaluationError, RequirementError, GenerationError; TrainingInterrupted: asked to stop between
        two batches, in which case nothing is recorded (so checkpoint before).
        """
        if not self.metrics and not self.save_predictions:
            return {}
        recorded = self.world.same(self._recorded(split, epoch))
        if recorded is not None:
            return recorded
        start = time.monotonic()
        samples = self.samples[split]
        texts = self._generate(model, split)
        outcome: dict[str, float] | Exception = {}
        if self.world.is_main:
            try:
                with isolated_rng(self.decodings[split].seed):  # a user's metric may draw
                    outcome = self._measure(model, split, samples, texts, epoch)
            except (EvaluationError, RequirementError) as error:
                outcome = error  # the other processes would wait for ever
        outcome = self.world.same(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        outcome = more() | outcome
        if self.run is not None:
            self._log(split).append({"epoch": epoch, "metrics": outcome})
        if self.tracker is not None:
            self.tracker.send(
                {f"{split}/{key}": value for key, value in outcome.items()},
                int(epoch) if step is None else step,
            )
        if self.world.is_main:
            shown = ", ".join(f"{key} {value:.4g}" for key, value in list(outcome.items())[:SHOWN])
            shown += f" and {len(outcome) - SHOWN} more" if len(outcome) > SHOWN else ""
            took = f"{len(samples):,} texts in {time.monotonic() - start:.0f} s"
            logger.info("%s at %s %.4g (%s): %s", split, self.unit, epoch, took, shown or "no metric")
        return outcome

    def drop_after(self, epoch: Epoch) -> None:
        """Drop what was recorded after `epoch`, from which a run is resumed."""
        self.keep(lambda split, recorded: recorded <= epoch)

    def keep(self, wanted: Callable[[Split, Epoch], bool]) -> None:
        """Drop the evaluations of a split at an epoch that are not wanted."""
        if self.run is None:
            return
        for split in self.samples:
            kept = {row["epoch"] for row in self._log(split).read() if wanted(split, row["epoch"])}
            self._log(split).keep(partial(_has_epoch, kept))
            for path in self.run.path.glob(f"{self.run.prefix}epoch_*_{split}_split_predictions.json"):
                label = path.name.removeprefix(f"{self.run.prefix}epoch_").partition("_")[0]
                if not wanted(split, float(label)):
                    path.unlink()

    def _generate(self, model: PreTrainedModel, split: Split) -> list[str]:
        """Generate a text for each sample of the split, on all processes."""
        prompts = [sample.prompt_or_input_text for sample in self.samples[split]]
        decoding = self.decodings[split]
        if split not in self._batches:  # the same at every evaluation, and said once
            self._batches[split] = plan_batches(model, self.tokenizer, prompts, decoding)
        batches = self._batches[split]
        shared = self.world.share(batches)
        made: list[list[list[str]]] = []
        hidden = not self.world.is_main
        total = sum(len(batch.indices) for batch in shared)
        with progress(total, f"evaluation on {split}", position=1, disable=hidden, unit="text") as bar:
            for batch in shared:
                if self.should_stop():
                    break
                with autocast(model.device, self.dtype):
                    made.append(generate_batch(model, self.tokenizer, prompts, decoding, batch))
                bar.update(len(batch.indices))
        if any(self.world.gather([len(made) < len(shared)])):  # a signal may reach only some processes
            raise TrainingInterrupted
        texts = [""] * len(prompts)
        for batch, generated in zip(batches, self.world.gather(made), strict=True):
            for index, (text,) in zip(batch.indices, generated, strict=True):
                texts[index] = text
        return texts

    def _measure(
        self,
        model: PreTrainedModel,
        split: Split,
        samples: Sequence[Sample],
        texts: Sequence[str],
        epoch: Epoch,
    ) -> dict[str, float]:
        """Compute the corpus values of all metrics, after the predictions are written."""
        batch = make_text_batch(samples, texts, model, split)
        self._write_predictions(samples, batch, epoch, {})
        scores: dict[str, Score] = {}
        for name, metric in self.metrics.items():
            scores |= compute_scores(name, metric, batch)
        self._write_predictions(samples, batch, epoch, scores)
        return {key: float(score.corpus) for key, score in scores.items()}

    def _write_predictions(
        self, samples: Sequence[Sample], batch: TextBatch, epoch: Epoch, scores: Mapping[str, Score]
    ) -> None:
        if self.run is None or not self.save_predictions:
            return
        per_sample = {key: score.per_sample for key, score in scores.items() if score.per_sample is not None}
        rows = [
            {
                "split": batch.split,
                "sample_id": sample.id,
                "prompt": sample.prompt_or_input_text,
                "generated_text": text,
                "references": sample.references,
                "metrics": {key: values[i] for key, values in per_sample.items()},
            }
            for i, (sample, text) in enumerate(zip(samples, batch.generated, strict=True))
        ]
        atomic_write_json(predictions_path(self.run, str(batch.split), epoch), rows)

    def _recorded(self, split: Split, epoch: Epoch) -> dict[str, float] | None:
        rows = self._log(split).read() if self.run is not None else []
        return next((row["metrics"] for row in rows if row["epoch"] == epoch), None)

    def _log(self, split: Split) -> RowLog:
        assert self.run is not None  # the main process's
        return self.run.rows(f"{self.run.prefix}{split}_split_metrics.jsonl", "epoch")


def _has_epoch(epochs: Collection[Epoch], row: Mapping[str, Any]) -> bool:
    return row["epoch"] in epochs


def predictions_path(run: RunDir, split: str, epoch: Epoch) -> Path:
    """The file of an evaluation's texts."""
    return run.path / f"{run.prefix}epoch_{epoch}_{split}_split_predictions.json"


def evaluation_inputs(samples: Sequence[T], split: Split, most: int | None) -> list[T]:
    """Choose at most so many samples or rankings, spread over the split: one of each of as many equal parts.

    They are the same in every run with this dataset, whatever its seed, so that runs are compared on them.
    """
    if most is None or most >= len(samples):
        return list(samples)
    generator = np.random.default_rng(derive_seed(0, "evaluation inputs", split))
    bounds = [part * len(samples) // most for part in range(most + 1)]
    return [samples[int(generator.integers(first, after))] for first, after in pairwise(bounds)]


def compute_scores(name: str, metric: Metric, batch: TextBatch) -> dict[str, Score]:
    """Compute a metric of a batch. Raises EvaluationError: it raised (on which text first), or is none.

    Whatever it raises is its error, `sys.exit()` too, but not the user's Ctrl-C.
    """
    try:
        returned: Any = metric(batch)
    except (RequirementError, KeyboardInterrupt):
        raise
    except BaseException as error:
        index = find_failing_text(metric, batch)
        where = f"{len(batch):,} texts together" if index is None else _describe_text(batch, index)
        raise EvaluationError(
            f"metric {name!r} raised {type(error).__name__} on {batch.split} for {where}"
            f"{explain_failure(error)}"
        ) from error
    if not isinstance(returned, Mapping) or not all(isinstance(s, Score) for s in returned.values()):
        raise EvaluationError(
            f"metric {name!r} returned {returned!r:.80}; expected a dict of name -> rl4lms.metrics.Score"
        )
    for key, score in returned.items():
        if not isinstance(score.corpus, Real):
            raise EvaluationError(
                f"metric {name!r} returned {score.corpus!r:.80} as {key}; expected a number, NaN if undefined"
            )
        if score.per_sample is not None and len(score.per_sample) != len(batch):
            raise EvaluationError(
                f"metric {name!r} returned {len(score.per_sample):,} values of {key} for {len(batch):,} "
                "texts; expected one per text, or None"
            )
    return dict(returned)


def _describe_text(batch: TextBatch, index: int) -> str:
    return f"text {index} ({batch.generated[index]!r:.80} after prompt {batch.prompts[index]!r:.80})"

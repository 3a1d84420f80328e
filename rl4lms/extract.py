"""Job 1: texts and rewards of inputs under a model, every text on disk before it is scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common import console
from common.errors import Interrupted, UserError
from common.files import atomic_torch_save, atomic_write_text, describe_load_error
from common.jobs import ending, remove_if_refused
from common.run_dir import RunDir
from common.user_code import explain_failure
from rft_diagnose.statistics import input_statistics
from rl4lms.blind_metrics import check_reward, warn_of_blind_metrics
from rl4lms.config import ExtractConfig, missing_components, resolved, unique_metrics
from rl4lms.datapools import Split, load_datapool
from rl4lms.metrics import Metric, build_metric
from rl4lms.model.generation import Decoding, generate_batch, plan_batches
from rl4lms.model.load import autocast, check_vocabulary, choose_device, load_model, load_tokenizer
from rl4lms.requirements import RequirementError
from rl4lms.reward_checks import LARGEST
from rl4lms.samples import Sample, content_hash, subsample_indices
from rl4lms.served import sample_served
from rl4lms.text import Score, TextBatch, make_text_batch

logger = logging.getLogger(__name__)
TEXTS, SCORES, INDICES = "texts.jsonl", "scores.jsonl", "used_train_indices"
INTERRUPT_MESSAGE = "stopping after the batch under way; press Ctrl-C again to stop at once"
INPUTS_PER_SCORING = 100  # what a crash in scoring costs at most


class ExtractionError(UserError):
    """What stops an extraction; the message is for the user, and what was computed stays on disk."""


class ExtractionInterrupted(Interrupted):
    """The caller asked to stop; everything so far is on disk."""


@dataclass(frozen=True)
class Extraction:
    """The result: N inputs, G texts each. rewards: [N, G], the first metric's, whose name is `reward`."""

    reward: str
    rewards: Tensor
    path: Path
    csv: Path


def extract(
    config: ExtractConfig,
    run: RunDir,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Extraction:
    """Run or continue the extraction of `run`; progress(texts done, texts in all).

    The same seed and config give the same file, however often it was cut. Raises ExtractionInterrupted,
    ExtractionError, RequirementError, DataError, ModelSourceError, GenerationError, BlindMetricError,
    ServedModelError.
    """
    remove_half_written(run.path)

    # 1. Inputs and metrics, before the model: what is missing shows now.
    metrics = unique_metrics(config.evaluation.metrics)
    if missing := missing_components(config):
        raise RequirementError("\n".join(f"{problem.path}: {problem.message}" for problem in missing))
    built = {metric.id: build_metric(metric.id, metric.args) for metric in metrics}
    samples, indices = choose_inputs(config, run)
    check_reward(metrics[0].id, metrics[0].args, samples, "metric")
    warn_of_blind_metrics({metric.id: metric.args for metric in metrics[1:]}, samples)
    logger.info("%d %s inputs of %s", len(samples), config.datapool.split, config.datapool.id)

    # 2. Texts, a batch at a time, on disk before the next one.
    tokenizer = load_tokenizer(
        config.tokenizer.model_name,
        padding_side=config.tokenizer.padding_side,
        truncation_side=config.tokenizer.truncation_side,
        pad_token_as_eos_token=config.tokenizer.pad_token_as_eos_token,
        clean_up_tokenization_spaces=config.tokenizer.clean_up_tokenization_spaces,
    )
    prompts = [sample.prompt_or_input_text for sample in samples]
    log = run.rows(TEXTS, "batch")
    texts: dict[int, list[str]] = {}
    done = set()
    for row in log.read():
        done.add(row["batch"])
        texts.update(zip(row["inputs"], row["texts"], strict=True))
    each = config.evaluation.num_samples_per_input
    progress(len(texts) * each, len(prompts) * each)

    def stop_if_asked() -> None:
        if should_stop():
            raise ExtractionInterrupted

    model = None
    if config.generator is None:
        model = load_here(config, tokenizer, run)
        batches = generate_here(config, model, tokenizer, prompts, done, stop_if_asked)
    else:
        served = sample_served(config, tokenizer, prompts, texts, stop_if_asked, logger.info)
        batches = ((number, (number,), [new]) for number, new in served)
    for batch, numbers, batch_texts in batches:
        log.append({"batch": batch, "inputs": list(numbers), "texts": batch_texts})
        texts.update(zip(numbers, batch_texts, strict=True))
        progress(len(texts) * each, len(prompts) * each)
    log.sync()

    # 3. Scores, some inputs at a time; 4. the files that the paper's figures are made of.
    all_texts = [texts[i] for i in range(len(samples))]
    values = score(built, samples, all_texts, model, config.datapool.split, run, should_stop)
    return save(config, run, samples, indices, all_texts, values)


def load_here(config: ExtractConfig, tokenizer: PreTrainedTokenizerBase, run: RunDir) -> PreTrainedModel:
    """Load the model that is to write the texts. Raises ModelSourceError, RequirementError."""
    device = choose_device(config.runtime.device)
    run.update_manifest(device=str(device))
    dtype = getattr(torch, config.runtime.weights)
    model = load_model(config.alg.model_name, config.alg.model_type, dtype, device)
    check_vocabulary(model, tokenizer)
    return model


def generate_here(
    config: ExtractConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    done: Container[int],
    stop_if_asked: Callable[[], None],
) -> Iterator[tuple[int, tuple[int, ...], list[list[str]]]]:
    """Yield batches that are not done: number, positions of their prompts, texts. Raises GenerationError."""
    decoding = Decoding(
        settings=config.alg.generation_kwargs,
        max_prompt_length=config.tokenizer.max_length,
        truncation_side=config.tokenizer.truncation_side,
        batch_size=config.evaluation.eval_batch_size,
        num_samples=config.evaluation.num_samples_per_input,
        seed=config.runtime.seed,
    )
    for batch in plan_batches(model, tokenizer, prompts, decoding):
        if batch.id in done:
            continue
        stop_if_asked()
        with autocast(model.device, config.runtime.dtype):
            texts = generate_batch(model, tokenizer, prompts, decoding, batch)
        yield batch.id, batch.indices, texts


def run_extraction(config: ExtractConfig, run: RunDir, resume_command: str) -> Extraction | int:
    """Extract as a runner does, until the end or Ctrl-C; returns the result, or the exit status without one.

    resume_command: of a runner that goes on with it.
    """
    for notice in config.notices():
        logger.info("note: %s", notice)
    logger.info("run folder: %s", run.path)
    with (
        console.stop_request(INTERRUPT_MESSAGE) as stop,
        ending(run, resume_command, ExtractionInterrupted, kept=(TEXTS, SCORES)) as end,
        console.progress(config.generations or 0, "extraction", unit="text") as bar,
    ):
        return extract(config, run, bar.move_to, stop)
    remove_if_refused(run, end)
    return end.code


def remove_half_written(run: Path) -> None:
    """Delete what a killed process left of the results and their picture beside the run directory."""
    for suffix in (".", "_scatter."):  # not only by the run's name, with which that of another run may begin
        for path in run.parent.glob(f".tmp-{escape(run.name + suffix)}*"):
            path.unlink()


def choose_inputs(config: ExtractConfig, run: RunDir) -> tuple[list[Sample], list[int]]:
    """Choose the inputs of the run, by their positions in the dataset's split: once, then as recorded.

    Raises ExtractionError: the data is not what the run, or the extraction it takes its inputs from, saw.
    """
    split = config.datapool.split
    pool = load_datapool(config.datapool.id, split, config.datapool.args, config.tokenizer.model_name)
    indices = run.manifest.get(INDICES)
    if indices is None and config.datapool.used_indices_from is not None:
        indices = read_indices(config.datapool.used_indices_from, pool, split)
    if indices is None:
        indices = subsample_indices(len(pool), n=config.datapool.train_samples, seed=config.datapool.seed)
    if max(indices) >= len(pool):
        raise ExtractionError(f"datapool {config.datapool.id!r} now has only {len(pool):,} {split} inputs")
    samples = [pool[i] for i in indices]
    digest, before = content_hash(samples), run.manifest.get("inputs")
    if before is not None and before != digest:
        raise ExtractionError(
            f"datapool {config.datapool.id!r} no longer gives the inputs that {run.path} began with"
        )
    run.update_manifest(**{INDICES: indices, "inputs": digest})
    return samples, indices


def read_indices(path: str, pool: Sequence[Sample], split: Split) -> list[int]:
    """Read an earlier extraction's inputs, if they are inputs of this pool too. Raises ExtractionError."""
    try:
        earlier = torch.load(path, weights_only=True)
        indices, prompts = [int(i) for i in earlier["used_train_indices"]], earlier["prompts"]
    except Exception as error:
        raise ExtractionError(
            f"datapool.used_indices_from: {path!r} is no extraction file ({describe_load_error(error)})"
        ) from error
    for i, prompt in zip(indices, prompts, strict=True):
        if i >= len(pool) or pool[i].prompt_or_input_text != prompt:
            raise ExtractionError(
                f"datapool.used_indices_from: {split} input {i} of this datapool is not that of {path!r}: "
                "the panels would not show the same inputs; use the datapool, and its args, of that file"
            )
    return indices


def score(
    metrics: dict[str, Metric],
    samples: Sequence[Sample],
    texts: Sequence[Sequence[str]],
    model: Any,
    split: Split,
    run: RunDir,
    should_stop: Callable[[], bool],
) -> dict[str, Tensor]:
    """Compute every metric for every text: result key -> [N, G] float32.

    Raises ExtractionError naming the metric and the input whose text it fails on.
    """
    log = run.rows(SCORES, "first_input")
    done = {row["first_input"]: row["values"] for row in log.read()}
    for first in range(0, len(samples), INPUTS_PER_SCORING):
        if first in done:
            continue
        if should_stop():
            raise ExtractionInterrupted
        chunk = slice(first, first + INPUTS_PER_SCORING)
        done[first] = score_inputs(metrics, samples[chunk], texts[chunk], model, split)
        log.append({"first_input": first, "values": done[first]})
    log.sync()
    parts = [done[first] for first in sorted(done)]
    return {key: torch.tensor([row for part in parts for row in part[key]]) for key in parts[0]}


def score_inputs(
    metrics: dict[str, Metric],
    samples: Sequence[Sample],
    texts: Sequence[Sequence[str]],
    model: Any,
    split: Split,
) -> dict[str, list[list[float]]]:
    """Scores the texts of some inputs: result key -> one list per input. Each text is a corpus of its own."""
    owners = [sample for sample, generated in zip(samples, texts, strict=True) for _ in generated]
    batch = make_text_batch(owners, [text for generated in texts for text in generated], model, split)
    values: dict[str, list[float]] = {}
    for number, (name, metric) in enumerate(metrics.items()):
        for key, text_values in score_texts(name, metric, batch, owners).items():
            # In metrics after the first, the reward, NaN may mean "undefined for this text".
            bad = [i for i, value in enumerate(text_values) if not _is_value(value, is_reward=number == 0)]
            if bad:
                place = _describe_text(batch, owners, bad[0])
                raise ExtractionError(
                    f"metric {name!r}: {key} is {text_values[bad[0]]!r:.60} for {place}; expected a number "
                    f"between -{LARGEST:g} and {LARGEST:g}"
                )
            values[key] = text_values
    sizes = [len(generated) for generated in texts]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return {
        key: [text_values[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        for key, text_values in values.items()
    }


def _is_value(value: Any, is_reward: bool) -> bool:
    is_number = isinstance(value, Real)
    return is_number and (not is_reward or -LARGEST <= value <= LARGEST)


def score_texts(
    name: str, metric: Metric, batch: TextBatch, owners: Sequence[Sample]
) -> dict[str, list[float]]:
    """Scores each text alone. Raises ExtractionError naming the first text that the metric fails on."""
    try:
        scores = metric(batch)
        complete = all(score.per_sample is not None for score in scores.values())
    except (RequirementError, KeyboardInterrupt):
        raise
    except BaseException:  # `sys.exit()` too
        complete = False
    if not complete:
        alone = _score_each_alone(name, metric, batch, owners)
        return {key: [scores[key].corpus for scores in alone] for key in (alone[0] if alone else {})}
    values = {key: list(score.per_sample or []) for key, score in scores.items()}
    for key, text_values in values.items():
        if len(text_values) != len(batch):
            raise ExtractionError(
                f"metric {name!r} returned {len(text_values)} values of {key} for {len(batch)} texts; "
                "expected one per text"
            )
    return values


def _score_each_alone(
    name: str, metric: Metric, batch: TextBatch, owners: Sequence[Sample]
) -> list[dict[str, Score]]:
    scores: list[dict[str, Score]] = []
    try:
        for i in range(len(batch)):
            scores.append(metric(batch.select([i])))
    except (RequirementError, KeyboardInterrupt):
        raise
    except BaseException as error:
        place = _describe_text(batch, owners, len(scores))
        raise ExtractionError(
            f"metric {name!r} raised {type(error).__name__} for {place}{explain_failure(error)}"
        ) from error
    for returned in scores:
        if not isinstance(returned, Mapping) or not all(isinstance(s, Score) for s in returned.values()):
            raise ExtractionError(
                f"metric {name!r} returned {returned!r:.80}; expected a dict of name -> rl4lms.metrics.Score"
            )
    return scores


def _describe_text(batch: TextBatch, owners: Sequence[Sample], i: int) -> str:
    return f"a text of input {owners[i].id!r}: {batch.generated[i]!r:.100}"


def save(
    config: ExtractConfig,
    run: RunDir,
    samples: Sequence[Sample],
    indices: list[int],
    texts: list[list[str]],
    values: dict[str, Tensor],
) -> Extraction:
    """Write `<run>.pt` and `<run>.csv` beside the run directory, each atomically.

    The .pt holds what the released code's does (all_generated_texts, all_metric_values, used_train_indices,
    num_train_samples, config), and ids, prompts and references of the inputs.
    """
    reward = next(iter(values))
    path = run.path.with_name(f"{run.path.name}.pt")
    content = {
        "all_generated_texts": texts,
        "all_metric_values": values,
        "used_train_indices": indices,
        "num_train_samples": len(samples),
        "config": resolved(config),
        "ids": [sample.id for sample in samples],
        "prompts": [sample.prompt_or_input_text for sample in samples],
        "references": [sample.references for sample in samples],
    }
    atomic_torch_save(path, content)
    mean, std = input_statistics(values[reward].double().numpy())
    csv = run.path.with_name(f"{run.path.name}.csv")
    atomic_write_text(csv, _csv(samples, mean.tolist(), std.tolist()))
    run.update_manifest(artefacts=[path.name, csv.name])
    return Extraction(reward, values[reward], path, csv)


def _csv(samples: Sequence[Sample], mean: list[float], std: list[float]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["id", "prompt", "mean", "std"])
    for sample, m, s in zip(samples, mean, std, strict=True):
        writer.writerow([sample.id, sample.prompt_or_input_text, m, s])
    return buffer.getvalue()

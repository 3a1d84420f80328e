"""What the benchmarks of text generation share: random models, their data, a reward, and the clock."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from tiny_models import save_tiny_gpt2, save_tiny_t5  # type: ignore[import-not-found]
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging as transformers_logging

from common.config import Config, validate
from common.files import read_rows
from common.run_dir import RunDir
from rl4lms.config import TrainConfig, resolved
from rl4lms.datapools import load_datapool
from rl4lms.model.parallel import World
from rl4lms.run_setup import prepare
from rl4lms.samples import Sample
from rl4lms.text import TextBatch
from rl4lms.train import choose_algorithm

AnyConfig = TypeVar("AnyConfig", bound=Config)
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, kw_only=True)
class RandomModel:
    """A model with random weights and without dropout. vocabulary: None = that of its tokenizer."""

    name: str
    kind: Literal["causal", "seq2seq"]
    width: int
    layers: int
    heads: int = 4
    vocabulary: int | None = None


_MODELS = [
    RandomModel(name="t5-tiny", kind="seq2seq", width=64, layers=2),
    RandomModel(name="gpt2-tiny", kind="causal", width=64, layers=2),
    RandomModel(name="t5-tiny-32k", kind="seq2seq", width=64, layers=2, vocabulary=32128),
    RandomModel(name="t5-medium", kind="seq2seq", width=256, layers=6),
    RandomModel(name="gpt2-medium", kind="causal", width=256, layers=6),
    # Sizes of T5-base and GPT-2, for a GPU.
    RandomModel(name="t5-base", kind="seq2seq", width=768, layers=12, heads=12, vocabulary=32128),
    RandomModel(name="gpt2", kind="causal", width=768, layers=12, heads=12, vocabulary=50257),
]
MODELS = {model.name: model for model in _MODELS}


def load_samples(sentences: int = 1) -> list[Sample]:
    """Prompts of `sentences` sentences from docstrings of the standard library, with references."""
    samples = load_datapool("python_docs", "train", {"form": "sentence_from_words", "packages": ["stdlib"]})
    prompts = [sample.prompt_or_input_text for sample in samples]
    return [
        Sample(sample.id, " ".join((prompts + prompts)[i : i + sentences]), sample.references)
        for i, sample in enumerate(samples)
    ]


def save_model(model: RandomModel, folder: Path, samples: Sequence[Sample]) -> Path:
    """The model with a tokenizer trained on the samples; returns its folder."""
    texts = [text for sample in samples for text in (sample.prompt_or_input_text, *sample.references)]
    path = folder / model.name
    if model.kind == "causal":
        sizes = {"n_positions": 1024, "n_embd": model.width, "n_layer": model.layers, "n_head": model.heads}
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        save_tiny_gpt2(path, texts, 700, initializer_range=0.1, **sizes, **no_dropout)
    else:
        sizes = {"d_model": model.width, "d_ff": 4 * model.width, "d_kv": model.width // model.heads}
        sizes |= {"num_heads": model.heads, "num_layers": model.layers}
        save_tiny_t5(path, texts, 600, dropout_rate=0.0, **sizes)
    if model.vocabulary is not None:
        auto = AutoModelForCausalLM if model.kind == "causal" else AutoModelForSeq2SeqLM
        larger = auto.from_pretrained(path)
        larger.resize_token_embeddings(model.vocabulary, mean_resizing=False)
        larger.save_pretrained(path)
    return path


def write_data(file: Path, samples: Sequence[Sample]) -> dict[str, Any]:
    """Train samples, and one of val and test each, in a file; returns the `datapool` block that reads it."""
    rows = [
        {"split": split, "prompt": sample.prompt_or_input_text, "references": sample.references}
        for split, chosen in (("train", samples), ("val", samples[:1]), ("test", samples[:1]))
        for sample in chosen
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return {"id": "jsonl", "args": {"data_path": str(file)}}


def unmeasured(iterations: int) -> dict[str, Any]:
    """The block `train_evaluation` of a run of so many iterations that measures and saves next to nothing."""
    often = dict.fromkeys(("n_iters", "eval_every", "save_every"), iterations)
    return {"eval_batch_size": 100, "max_eval_samples": 1, "metrics": [], **often}


def checked_config(schema: type[AnyConfig], content: dict[str, Any]) -> AnyConfig:
    """The config with this content. Raises ValueError."""
    config, problems = validate(schema, content)
    if config is None:
        raise ValueError(f"the benchmark's config is wrong: {problems}")
    return config


class Enough(Exception):
    """Ends a training run when all turns are taken."""


def train(config: TrainConfig, should_stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
    """A training run of the project until it ends or raises Enough; returns what it logged of its updates."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RunDir.create(Path(folder), "run", resolved(config), {}) as run,
    ):
        setup = prepare(config, run.path, run, World(), prefix=run.prefix, eval_on_train=False)
        try:
            choose_algorithm(config)(replace(setup, should_stop=should_stop))
        except Enough:
            pass
        return read_rows(run.path / f"{run.prefix}training_info.jsonl", "epoch")


def now() -> float:
    """CPU seconds of this process; on a GPU, for which the CPU waits, seconds."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@dataclass(frozen=True)
class RewardCall:
    """One call of the reward: when, and of which texts."""

    time: float
    prompts: list[str]
    texts: list[str]


reward_calls: list[RewardCall] = []


def letter_share(batch: TextBatch) -> list[float]:
    """A reward that costs nothing: the share of the letter e. Every call is kept in `reward_calls`."""
    reward_calls.append(RewardCall(now(), list(batch.prompts), list(batch.generated)))
    return [text.count("e") / max(1, len(text)) for text in batch.generated]


def median_ratio(project: Sequence[float], floor: Sequence[float]) -> str:
    """The median, least and largest of the turns' ratios."""
    ratios = [a / b for a, b in zip(project, floor, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def compare_numbers(what: str, project: Sequence[float], floor: Sequence[float], relative: float) -> float:
    """The largest difference, relative to the largest number. Raises ValueError: it is above `relative`."""
    scale = max(map(abs, floor)) or 1.0
    difference = max(abs(a - b) for a, b in zip(project, floor, strict=True)) / scale
    if not difference <= relative:
        raise ValueError(f"{what}: project {list(project)}, floor {list(floor)}")
    return difference


class StepCounter:
    """Counts the steps of all optimisers while it is open."""

    def __init__(self) -> None:
        self.steps = 0

    def __enter__(self) -> StepCounter:
        self._handle = register_optimizer_step_post_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _count(self, *_: object) -> None:
        self.steps += 1

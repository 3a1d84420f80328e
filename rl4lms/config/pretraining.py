"""The YAML schema of pretraining: the small language models that the project makes itself from docstrings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from common.config import Config, Problem, load_config, unknown_name
from common.python_docs import DEFAULT_PACKAGES
from rl4lms.config.parts import Positive, RuntimeConfig
from rl4lms.datapools.arguments import FormName, PythonDocsArgs
from rl4lms.model_source import Kind

TextTask = Literal["span_corruption", "prefix_continuation", "denoising"]
TASKS: tuple[str, ...] = (*get_args(TextTask), *get_args(FormName))
# T5's: <pad>, </s>, <unk> and sentinels; GPT-2's: all bytes and <|endoftext|>.
SENTINELS = 10
_LEAST_VOCABULARY: dict[Kind, int] = {"seq2seq": 3 + SENTINELS + 200, "causal": 257}


class PretrainDataConfig(Config):
    packages: list[str] = Field(
        list(DEFAULT_PACKAGES), min_length=1, description="packages whose docstrings are the text"
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        128, description="tokens of an input or target, longer ones are cut; of GPT-2 also its positions"
    )

    def check(self) -> list[Problem]:
        return PythonDocsArgs(packages=self.packages).check()


class VocabularyConfig(Config):
    """T5: Unigram, lower-cased; GPT-2: byte-level BPE."""

    size: Positive = Field(4096, description="tokens, special ones included")


class ArchitectureConfig(Config):
    """Sizes of the model; the defaults give 1.4 million weights."""

    d_model: Positive = Field(128, description="width of the hidden states")
    d_ff: Positive = Field(512, description="width of the feed-forward layers")
    num_layers: Positive = Field(2, description="layers; of T5: of the encoder, and as many of the decoder")
    num_heads: Positive = Field(4, description="attention heads")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="in pretraining, and in finetuning by default"
    )

    def check(self) -> list[Problem]:
        if self.d_model % self.num_heads == 0:
            return []
        return [Problem("num_heads", f"{self.num_heads} does not divide d_model ({self.d_model})")]


class PretrainAlgConfig(Config):
    """Adafactor with scaled parameters, its learning rate falling to 0 in a straight line."""

    steps: Positive = Field(description="updates")
    batch_size: Positive = Field(64, description="examples of an update")
    learning_rate: float = Field(0.02, gt=0, description="of Adafactor, relative to the size of the weights")
    mixture: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="seq2seq: task -> share of the examples; shares need not sum to 1"
    )
    log_every: Positive = Field(50, description="updates between rows of the log")
    eval_every: Positive = Field(250, description="updates between evaluations on held-out text")
    save_every: Positive = Field(250, description="updates between checkpoints")

    def check(self) -> list[Problem]:
        return [
            Problem(f"mixture.{name}", unknown_name("task", name, TASKS))
            for name in self.mixture
            if name not in TASKS
        ]


class PretrainConfig(Config):
    """One small language model, from nothing."""

    name: str = Field(description="of the model: its folder's, below --output_path")
    model_type: Kind = Field(description="seq2seq: a T5; causal: a GPT-2")
    data: PretrainDataConfig = Field(PretrainDataConfig(), description="the text")
    vocabulary: VocabularyConfig = Field(VocabularyConfig(), description="the tokenizer's")
    model: ArchitectureConfig = Field(ArchitectureConfig(), description="the architecture")
    alg: PretrainAlgConfig = Field(description="how it is trained")
    runtime: RuntimeConfig = Field(RuntimeConfig(), description="how to run")

    def check(self) -> list[Problem]:
        problems = []
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            problems.append(Problem("name", f"becomes the name of a folder, got {self.name!r}"))
        least = _LEAST_VOCABULARY[self.model_type]
        if self.vocabulary.size < least:
            message = f"must be at least {least} for a {self.model_type} model, got {self.vocabulary.size:,}"
            problems.append(Problem("vocabulary.size", message))
        if self.model_type == "seq2seq" and not self.alg.mixture:
            message = f"missing; expected the tasks of a seq2seq model: {', '.join(TASKS)}"
            problems.append(Problem("alg.mixture", message))
        if self.model_type == "causal" and self.alg.mixture:
            message = "a causal model has one task, the next token; remove it, or set model_type: seq2seq"
            problems.append(Problem("alg.mixture", message))
        return problems


def load_pretrain_config(path: str | Path, overrides: Iterable[str] = ()) -> PretrainConfig:
    """The pretraining that a file describes. Raises ConfigError with all problems."""
    return load_config(path, PretrainConfig, overrides)


def pretrain_report(config: PretrainConfig, output_path: Path) -> str:
    """Derived sizes and the config with all defaults, which as a file gives the same run."""
    examples = config.alg.steps * config.alg.batch_size
    lines = [
        f"training: {config.alg.steps:,} updates x {config.alg.batch_size:,} = {examples:,} examples",
        f"model: {output_path / config.name}",
    ]
    return "\n".join([*lines, json.dumps(config.model_dump(), indent=2)])

"""The YAML schema of pretraining: the small models that the project makes itself from docstrings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common import limits
from common.config import Config, Problem, load_config, unknown_name
from common.limits import TextsAtATime, at_most, excess
from common.python_docs import DEFAULT_PACKAGES
from rl4lms.config.parts import Positive, RuntimeConfig
from rl4lms.config.pretraining import TASKS
from rl4lms.datapools.python_docs import PythonDocsArgs
from rl4lms.text_tasks import SENTINELS

ModelType = Literal["seq2seq", "causal", "classifier"]
NEXT_TOKEN = "next_token"  # a causal model's, on plain text
# T5's: <pad>, </s>, <unk> and sentinels; GPT-2's: all bytes and <|endoftext|>; a classifier's: T5's with <s>
# in place of the sentinels.
_LEAST_VOCABULARY: dict[ModelType, int] = {
    "seq2seq": 3 + SENTINELS + 200,
    "causal": 257,
    "classifier": 4 + 200,
}
_LARGEST_VOCABULARY = 10_000_000  # ten times that of the largest models


class PretrainDataConfig(Config):
    packages: list[str] = Field(
        list(DEFAULT_PACKAGES), min_length=1, description="packages whose docstrings are the text"
    )
    max_length: Annotated[int, Field(ge=8), at_most(limits.CONTEXT, "tokens")] = Field(
        128, description="tokens of an input or target, longer ones are cut; but for T5 also the positions"
    )
    classes: dict[str, list[str]] = Field(
        {}, description="classifier: label -> the packages whose texts it is for, in the order of the labels"
    )

    def check(self) -> list[Problem]:
        problems = PythonDocsArgs(packages=self.packages).check()
        class_packages = [package for packages in self.classes.values() for package in packages]
        for package in sorted({package for package in class_packages if class_packages.count(package) > 1}):
            problems.append(Problem("classes", f"package {package!r} is named more than once"))
        for package in sorted(set(class_packages) - set(self.packages)):
            problems.append(Problem("classes", f"package {package!r} is none of data.packages"))
        return problems


class VocabularyConfig(Config):
    """T5 and classifier: Unigram, lower-cased; GPT-2: byte-level BPE."""

    size: Annotated[Positive, at_most(_LARGEST_VOCABULARY, "tokens")] = Field(
        4096, description="tokens, special ones included"
    )


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
    batch_size: TextsAtATime = Field(64, description="examples of an update")
    learning_rate: float = Field(0.02, gt=0, description="of Adafactor, relative to the size of the weights")
    mixture: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="task -> share of the examples; shares need not sum to 1; causal: next_token is plain "
        "text, which is all without a mixture",
    )
    log_every: Positive = Field(50, description="updates between rows of the log")
    eval_every: Positive = Field(250, description="updates between evaluations on held-out text")
    save_every: Positive = Field(250, description="updates between checkpoints")

    def check(self) -> list[Problem]:
        return [
            Problem(f"mixture.{name}", unknown_name("task", name, (*TASKS, NEXT_TOKEN)))
            for name in self.mixture
            if name not in (*TASKS, NEXT_TOKEN)
        ]


class PretrainConfig(Config):
    """One small model, from nothing."""

    name: str = Field(description="of the model: its folder's, below --output_path")
    model_type: ModelType = Field(
        description="seq2seq: a T5; causal: a GPT-2; classifier: a BERT that tells where a text is from"
    )
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
        if (weights := self._count_weights()) > limits.WEIGHTS:
            problems.append(Problem("model", excess(weights, "weights", limits.WEIGHTS)))
        if (tokens := self.alg.batch_size * self.data.max_length) > limits.TOKENS:
            what = f"tokens of an update, with data.max_length {self.data.max_length:,}"
            problems.append(Problem("alg.batch_size", excess(tokens, what, limits.TOKENS)))
        if self.model_type == "seq2seq" and not self.alg.mixture:
            message = f"missing; expected the tasks of a seq2seq model: {', '.join(TASKS)}"
            problems.append(Problem("alg.mixture", message))
        if self.model_type == "classifier" and self.alg.mixture:
            message = "a classifier's examples are of its classes, as many of each; remove it"
            problems.append(Problem("alg.mixture", message))
        unsuited = {"seq2seq": (NEXT_TOKEN,), "causal": ("span_corruption", "prefix_continuation")}
        for name in unsuited.get(self.model_type, ()):
            if name in self.alg.mixture:
                message = f"is no task of a {self.model_type} model; remove it"
                problems.append(Problem(f"alg.mixture.{name}", message))
        if self.model_type == "classifier" and len(self.data.classes) < 2:
            message = f"a classifier tells two classes or more apart, got {len(self.data.classes)}"
            problems.append(Problem("data.classes", message))
        if self.model_type != "classifier" and self.data.classes:
            problems.append(Problem("data.classes", "only a classifier has classes; remove them"))
        return problems

    def _count_weights(self) -> int:
        """Count the weights of the matrices, about; embeddings of positions are as those of tokens."""
        sizes, is_seq2seq = self.model, self.model_type == "seq2seq"
        rows = self.vocabulary.size + (0 if is_seq2seq else self.data.max_length)
        layer = 4 * sizes.d_model**2 + 2 * sizes.d_model * sizes.d_ff
        return rows * sizes.d_model + sizes.num_layers * layer * (2 if is_seq2seq else 1)


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


def model_folder(run: Path, config: PretrainConfig) -> Path:
    """The folder of the model in a run that is finished."""
    return run / f"{config.name}_model"

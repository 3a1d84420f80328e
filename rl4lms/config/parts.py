"""Blocks that the configs of extraction and training share, with the sizes that follow from a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from common import limits
from common.config import Config, Problem, validate
from common.limits import at_most, excess
from common.registry import Registry
from rl4lms.metrics import METRICS
from rl4lms.model.adapter_folder import adapter_base, read_model_config
from rl4lms.model.source import Kind, check_tokenizer_source, describe_placeholder, device_problem

# The causal models of the paper; a folder says it in its config.json.
_POSITIONS = {"gpt2": 1024, "lvwerra/gpt2-imdb": 1024}


def prompt_limit(model_name: str, kind: Kind, max_length: int | None, new_tokens: int) -> int | None:
    """Tokens that rl4lms.model.generation cuts a prompt to which is followed by up to so many new ones.

    Below 1 no prompt fits. It is `max_length` where the model's positions are not limited or not known.
    """
    positions = max_positions(model_name)
    if positions is None:
        return max_length
    limit = min(max_length or positions, positions)
    return limit - new_tokens if kind == "causal" and limit + new_tokens > positions else limit


def max_positions(model_name: str) -> int | None:
    """The most tokens that a model attends to; None if that is not limited (T5), or only its files tell."""
    try:
        config = read_model_config(model_name)
    except (OSError, RuntimeError):  # a name that cannot be looked up, which is reported elsewhere
        return None
    if config is None:
        return _POSITIONS.get(adapter_base(model_name) or model_name)
    field = "n_positions" if config.get("model_type") == "gpt2" else "max_position_embeddings"
    positions = config.get(field)
    return positions if isinstance(positions, int) else None


# Datapool -> the config that finetunes the paper's model on it before PPO and NLPO.
SUPERVISED_CONFIGS = {
    "narrative_qa": "rl4lms_scripts/training/narrative_qa/t5_supervised.yml",
    "totto": "rl4lms_scripts/training/totto/t5_supervised.yml",
    "commongen": "rl4lms_scripts/training/common_gen/t5_supervised.yml",
    "iwslt2017en_de": "rl4lms_scripts/training/iwslt2017/t5_supervised.yml",
    "cnn_daily_mail": "rl4lms_scripts/training/cnn/t5_supervised.yml",
    "daily_dialog": "rl4lms_scripts/training/dialog/gpt2_supervised.yml",
    "imdb": "rl4lms_scripts/training/imdb/gpt2_supervised.yml",
}


def placeholder_problem(model_name: str, datapool: str) -> str | None:
    """What to put in place of a model's placeholder; None if the name is none."""
    return describe_placeholder(
        model_name, SUPERVISED_CONFIGS.get(datapool, "<config of supervised finetuning>")
    )


@dataclass(frozen=True)
class OnPolicySizes:
    """How many tokens PPO or NLPO collects, and how many updates it makes of them.

    tokens: an iteration's; of one with so many `texts`, what these can have at most. batch_size: tokens of a
    minibatch (made of whole sequences it has about as many), of unit "episode" texts.
    """

    tokens: int
    batch_size: int
    minibatch_unit: Literal["token", "sequence", "episode"]
    epochs: int
    iterations: int
    texts: int | None = None

    @property
    def units(self) -> int:
        """Counts what minibatches are made of: an iteration's texts, or tokens."""
        return self.texts if self.texts is not None and self.minibatch_unit == "episode" else self.tokens

    @property
    def are_known(self) -> bool:
        """Whether the numbers of minibatches are known, and not only how many there are at most."""
        return self.texts is None or self.minibatch_unit == "episode"

    @property
    def minibatches(self) -> int:
        """Counts the minibatches of an epoch; a short last one counts."""
        return -(-self.units // self.batch_size)

    @property
    def last_minibatch(self) -> int:
        """Counts the tokens, or texts, of the last minibatch of an epoch."""
        return self.units - (self.minibatches - 1) * self.batch_size

    @property
    def updates(self) -> int:
        """Counts the optimiser steps of an iteration."""
        return self.minibatches * self.epochs

    def lines(self) -> list[str]:
        """Tell the user what will happen."""
        if self.texts is not None:
            return self._lines_of_texts(self.texts)
        about = "about " if self.minibatch_unit == "sequence" else ""
        short = f" (the last: {self.last_minibatch:,})" if self.last_minibatch < self.batch_size else ""
        minibatches = f"{self.minibatches:,} minibatches of {about}{self.batch_size:,}{short}"
        tokens, updates = self.iterations * self.tokens, self.iterations * self.updates
        return [
            f"an iteration: {self.tokens:,} tokens, {minibatches} x {self.epochs} epochs = "
            f"{self.updates:,} updates",
            f"the run: {self.iterations:,} iterations, {tokens:,} tokens, {updates:,} updates",
        ]

    def _lines_of_texts(self, texts: int) -> list[str]:
        """The same of an iteration of whole texts."""
        what = f"an iteration: {texts:,} texts of at most {self.tokens // texts:,} tokens"
        run = f"the run: {self.iterations:,} iterations, {self.iterations * texts:,} texts"
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs:,} epochs"
        if not self.are_known:
            about = "about " if self.minibatch_unit == "sequence" else ""
            return [f"{what}, minibatches of {about}{self.batch_size:,} tokens x {epochs}", run]
        short = f" (the last: {self.last_minibatch:,})" if self.last_minibatch < self.batch_size else ""
        return [
            f"{what}, {self.minibatches:,} minibatches of {self.batch_size:,} texts{short} x {epochs} = "
            f"{self.updates:,} updates",
            f"{run}, {self.iterations * self.updates:,} updates",
        ]


Side = Literal["left", "right"]
Positive = Annotated[int, Field(ge=1)]
MinusOneOrPositive = Annotated[int, Field(ge=-1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MinusOneOrSeed = Annotated[int, Field(ge=-1, lt=2**32)]
Args = dict[str, Any]


class RuntimeConfig(Config):
    """What the paper's files lack: how to run, not what."""

    seed: Seed = Field(0, description="fixes the sampling of texts, the data order and new weights; recorded")
    device: str = Field("auto", description="auto (a GPU if there is one), cpu, mps, cuda or cuda:<number>")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 = autocast of the forward passes, whatever the weights are"
    )
    weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of weights in memory, gradients and AdamW's numbers; adapters (lora) and new heads are "
        "float32",
    )
    gradient_checkpointing: bool = Field(
        False, description="training only: recompute activations in the backward pass, to save memory"
    )

    def check(self) -> list[Problem]:
        message = device_problem(self.device)
        return [Problem("device", message)] if message else []


class TokenizerConfig(Config):
    """The tokenizer; the sides default to those of the paper's library."""

    model_name: str = Field(min_length=1, description="tokenizer: hub name or folder")
    padding_side: Side = Field(
        "left", description="no effect on results: prompts are padded where the model needs it"
    )
    truncation_side: Side = Field("left", description="where prompts longer than max_length lose tokens")
    pad_token_as_eos_token: bool = Field(
        False, description="pad with the end token; without it only GPT-2 does, which has no padding token"
    )
    max_length: Annotated[Positive | None, at_most(limits.CONTEXT, "tokens of a prompt")] = Field(
        None,
        description="tokens of a prompt in extraction and in the evaluation of supervised models; null = the "
        "tokenizer's own limit",
    )
    clean_up_tokenization_spaces: bool = Field(
        False,
        description="take the space out of ' .', ' ,', \" n't\" and the like before metrics and rewards see "
        "a text (all 42 files: true); false: they see what the model wrote",
    )

    def check(self) -> list[Problem]:
        message = check_tokenizer_source(self.model_name)
        return [Problem("model_name", message)] if message else []


class MetricConfig(Config):
    id: str = Field(description="registered metric, or package.module:function of your own")
    args: Args = Field({}, description="its keyword arguments")

    def check(self) -> list[Problem]:
        return METRICS.check(self.id, self.args)


def unique_metrics(metrics: Sequence[MetricConfig]) -> list[MetricConfig]:
    """The metrics to compute, each once, in the order of the file."""
    first: dict[str, MetricConfig] = {}
    for metric in metrics:
        first.setdefault(metric.id, metric)
    return list(first.values())


def repeated_metrics(metrics: Sequence[MetricConfig], field: str) -> list[Problem]:
    """Report metrics listed again with other arguments: the results would go by the same name."""
    first = {metric.id: metric for metric in unique_metrics(metrics)}
    message = "{!r} is listed again with other args: its results would overwrite the first's"
    return [
        Problem(f"{field}[{number}].id", message.format(metric.id))
        for number, metric in enumerate(metrics)
        if metric.args != first[metric.id].args
    ]


def metric_notices(metrics: Sequence[MetricConfig], field: str) -> list[str]:
    """Says which metrics are listed again, and which of their arguments have no effect."""
    unique = unique_metrics(metrics)
    notices = [
        f"{field}[{number}]: {metric.id!r} is listed again, it is computed once"
        for number, metric in enumerate(metrics)
        if not any(metric is other for other in unique)
    ]
    for number, metric in enumerate(metrics):
        notices += idle_args(METRICS, metric.id, metric.args, f"{field}[{number}].args")
    return notices


def idle_args(registry: Registry, name: str, args: Args, field: str) -> list[str]:
    """Says which arguments of a built-in are read for old files only, if they ask for more than is done."""
    entry = registry.entries.get(name)
    fields = entry.args.model_fields if entry else {}
    return [
        f"{field}.{key}: {fields[key].description}"
        for key, value in args.items()
        if key in fields and fields[key].exclude and value != fields[key].default
    ]


def resolved_args(registry: Registry, name: str, args: Args) -> Args:
    """The arguments of a built-in with its defaults; those of a user's function as they are."""
    entry = registry.entries.get(name)
    config = validate(entry.args, args)[0] if entry else None
    return args if config is None else args | config.model_dump()


def prompt_problem(tokenizer: TokenizerConfig, model_name: str, kind: Kind, new_tokens: int) -> str | None:
    """Why so many new tokens, or no prompt before them, fit into the model; None if they do."""
    if message := text_problem(model_name, kind, new_tokens):
        return message
    limit = prompt_limit(model_name, kind, tokenizer.max_length, new_tokens)
    if limit is None or limit >= 1:
        return None
    positions = f"{max_positions(model_name):,} positions of {model_name!r}"
    return f"{new_tokens:,} leaves no room for a prompt in the {positions}"


def text_problem(model_name: str, kind: Kind, new_tokens: int) -> str | None:
    """Why so many new tokens do not fit into the decoder of a seq2seq model; None if they do, or causal."""
    positions = max_positions(model_name)
    if kind == "causal" or positions is None or new_tokens < positions:
        return None
    return f"{new_tokens:,} exceeds the {positions:,} positions of {model_name!r} less one"


def batch_problem(texts: int, new_tokens: int) -> str | None:
    """Why so many texts of so many tokens cannot be generated together; None if they can."""
    if texts * new_tokens <= limits.TOKENS:
        return None
    return excess(texts * new_tokens, f"tokens at a time ({texts:,} texts x {new_tokens:,})", limits.TOKENS)


def prompt_notices(tokenizer: TokenizerConfig, model_name: str, kind: Kind, new_tokens: int) -> list[str]:
    """Says where the tokenizer's fields do not mean what they say."""
    notices = []
    limit = prompt_limit(model_name, kind, tokenizer.max_length, new_tokens)
    if tokenizer.max_length is not None and limit != tokenizer.max_length:
        notices.append(
            f"tokenizer.max_length: prompts are cut to {limit:,} tokens, since {tokenizer.max_length:,} and "
            f"{new_tokens:,} new ones exceed the {max_positions(model_name):,} positions of {model_name!r}"
        )
    return notices + tokenizer_notices(tokenizer)


def tokenizer_notices(tokenizer: TokenizerConfig) -> list[str]:
    """Says which way a config without `clean_up_tokenization_spaces` takes, and what has no effect.

    The padding side is the model's affair; nothing is said of the files' own.
    """
    notices = []
    if "clean_up_tokenization_spaces" not in tokenizer.model_fields_set:
        notices.append(
            "tokenizer.clean_up_tokenization_spaces: not set, so false: metrics and rewards see what the "
            "model wrote; true takes the space out of ' .', ' ,' and the like first, as in the paper's runs"
        )
    if tokenizer.padding_side != "left":
        notices.append("tokenizer.padding_side: no effect, prompts are padded where the model needs it")
    return notices


def minus_one_as_none(value: int) -> int | None:
    """Turn -1, the files' word for "all" or "unseeded", into None."""
    return None if value == -1 else value

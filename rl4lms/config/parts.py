"""Blocks that the configs of extraction and training share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from common.config import Config, Problem, validate
from common.registry import Registry
from rl4lms.config.positions import max_positions, prompt_limit
from rl4lms.metrics import METRICS
from rl4lms.model_source import Kind, check_tokenizer_source

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
        "float32", description="bfloat16 = autocast of the forward passes, weights stay float32"
    )
    gradient_checkpointing: bool = Field(
        False, description="training only: recompute activations in the backward pass, to save memory"
    )

    def check(self) -> list[Problem]:
        if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            return []
        return [
            Problem(
                "device", f"unknown device {self.device!r}; expected auto, cpu, mps, cuda or cuda:<number>"
            )
        ]


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
    max_length: Positive | None = Field(
        None,
        description="tokens of a prompt in extraction and in the evaluation of supervised models; null = the "
        "tokenizer's own limit",
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
    """Metrics listed again with other arguments: the results would go by the same name."""
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
    """Why no prompt fits into the model before so many new tokens; None if one does."""
    limit = prompt_limit(model_name, kind, tokenizer.max_length, new_tokens)
    if limit is None or limit >= 1:
        return None
    positions = f"{max_positions(model_name):,} positions of {model_name!r}"
    return f"{new_tokens:,} leaves no room for a prompt in the {positions}"


def prompt_notices(tokenizer: TokenizerConfig, model_name: str, kind: Kind, new_tokens: int) -> list[str]:
    """Says where the tokenizer's fields do not mean what they say."""
    notices = []
    limit = prompt_limit(model_name, kind, tokenizer.max_length, new_tokens)
    if tokenizer.max_length is not None and limit != tokenizer.max_length:
        notices.append(
            f"tokenizer.max_length: prompts are cut to {limit:,} tokens, since {tokenizer.max_length:,} and "
            f"{new_tokens:,} new ones exceed the {max_positions(model_name):,} positions of {model_name!r}"
        )
    return notices + padding_notices(tokenizer)


def padding_notices(tokenizer: TokenizerConfig) -> list[str]:
    """Says that the padding side is the model's affair, if it was set to another than the files' own."""
    if tokenizer.padding_side == "left":
        return []
    return ["tokenizer.padding_side: no effect, prompts are padded where the model needs it"]


def minus_one_as_none(value: int) -> int | None:
    """-1, the files' word for "all" or "unseeded", as None."""
    return None if value == -1 else value

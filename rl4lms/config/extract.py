"""The YAML schema of extraction: texts and rewards of inputs under a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common import limits
from common.config import Config, Problem
from common.limits import TextsAtATime, at_most
from rl4lms.config.parts import (
    Args,
    MetricConfig,
    MinusOneOrPositive,
    MinusOneOrSeed,
    RuntimeConfig,
    TokenizerConfig,
    batch_problem,
    metric_notices,
    minus_one_as_none,
    prompt_notices,
    prompt_problem,
    repeated_metrics,
)
from rl4lms.datapools import DATAPOOLS
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.source import Kind, check_model_source
from rl4lms.samples import Split


class ExtractDatapoolConfig(Config):
    id: str = Field(description="registered dataset, or package.module:function of your own")
    args: Args = Field({}, description="its keyword arguments")
    split: Split = Field("train", description="whose inputs: train (paper), val or test")
    num_train_samples: Annotated[MinusOneOrPositive, at_most(limits.SAMPLES, "samples")] = Field(
        -1, description="inputs of the split to take; -1 = all (paper: 5000)"
    )
    train_samples_rnd_seed: MinusOneOrSeed = Field(
        -1, description="seed of their choice; -1 = unseeded (paper: 7)"
    )
    used_indices_from: str | None = Field(
        None, description="the .pt of an earlier extraction, whose inputs are taken; null = chosen anew"
    )

    @property
    def train_samples(self) -> int | None:
        """The number of inputs, None for all."""
        return minus_one_as_none(self.num_train_samples)

    @property
    def seed(self) -> int | None:
        """The seed of the choice of inputs, None for unseeded."""
        return minus_one_as_none(self.train_samples_rnd_seed)

    def check(self) -> list[Problem]:
        problems = DATAPOOLS.check(self.id, self.args)
        if self.num_train_samples == 0:
            problems.append(Problem("num_train_samples", "must be at least 1, or -1 for all, got 0"))
        if self.used_indices_from is not None and not Path(self.used_indices_from).is_file():
            problems.append(Problem("used_indices_from", f"no such file: {self.used_indices_from!r}"))
        return problems


class ExtractAlgConfig(Config):
    model_type: Kind = Field(description="kind of the language model")
    model_name: str = Field(min_length=1, description="language model: hub name or folder")
    generation_kwargs: GenerationSettings = Field(description="how its texts are sampled")

    def check(self) -> list[Problem]:
        message = check_model_source(self.model_name, self.model_type)
        return [Problem("model_name", message)] if message else []


class EvaluationConfig(Config):
    eval_batch_size: TextsAtATime = Field(description="texts generated at a time")
    num_samples_per_input: TextsAtATime = Field(
        10, description="texts generated for each input (all 7 files: 10)"
    )
    metrics: Annotated[list[MetricConfig], Field(min_length=1)] = Field(
        description="the rewards to compute of each text; statistics and figures are of the first"
    )

    def check(self) -> list[Problem]:
        problems = repeated_metrics(self.metrics, "metrics")
        for number, metric in enumerate(self.metrics):
            if metric.id == "causal_perplexity":
                message = "'causal_perplexity' is of the references, whatever a model writes: it is no reward"
                problems.append(Problem(f"metrics[{number}].id", message))
        return problems


class EndpointConfig(Config):
    """The model is served by an OpenAI-compatible endpoint (vLLM, SGLang, `transformers serve`)."""

    id: Literal["endpoint"] = Field(description="the only generator besides the model that is loaded here")
    urls: Annotated[list[str], Field(min_length=1)] = Field(
        description="its addresses, such as http://localhost:8000/v1; several are asked in turn"
    )
    model: str | None = Field(None, description="its name there; null = alg.model_name")
    api: Literal["chat", "completions"] = Field(
        "completions", description="completions: a prompt is gone on with; chat: it is a user's message"
    )
    concurrency: Annotated[int, Field(ge=1)] = Field(16, description="requests at a time")
    timeout: Annotated[float, Field(gt=0)] = Field(600.0, description="seconds until one is sent again")
    allow_equal: bool = Field(
        False, description="go on though two samples of the first inputs are the same text"
    )

    def check(self) -> list[Problem]:
        return [
            Problem(f"urls[{number}]", f"expected http://... or https://..., got {url!r}")
            for number, url in enumerate(self.urls)
            if not url.startswith(("http://", "https://"))
        ]


# What the endpoints' interface has no word for, and the value that asks for nothing.
_NOT_SERVED = {
    "num_beams": 1,
    "top_k": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
}


class ExtractConfig(Config):
    """One extraction: sample texts for inputs, score them, leave mean and std of every input."""

    tokenizer: TokenizerConfig = Field(description="from text to tokens")
    datapool: ExtractDatapoolConfig = Field(description="the dataset, and which of its inputs")
    alg: ExtractAlgConfig = Field(description="the model and how it is sampled")
    evaluation: EvaluationConfig = Field(description="how many texts, and what to compute of them")
    generator: EndpointConfig | None = Field(
        None, description="who writes the texts: an endpoint that serves the model; null = it is loaded here"
    )
    runtime: RuntimeConfig = Field(RuntimeConfig(), description="how to run")

    def check(self) -> list[Problem]:
        message = prompt_problem(
            self.tokenizer,
            self.alg.model_name,
            self.alg.model_type,
            self.alg.generation_kwargs.max_new_tokens,
        )
        problems = [Problem("alg.generation_kwargs.max_new_tokens", message)] if message else []
        for name in ("eval_batch_size", "num_samples_per_input"):
            texts = getattr(self.evaluation, name)
            if message := batch_problem(texts, self.alg.generation_kwargs.max_new_tokens):
                problems.append(Problem(f"evaluation.{name}", message))
        return problems + self._endpoint_problems()

    def _endpoint_problems(self) -> list[Problem]:
        """Report settings that an endpoint cannot be asked for."""
        if self.generator is None:
            return []
        settings, field = self.alg.generation_kwargs, "alg.generation_kwargs"
        problems = [
            Problem(f"{field}.{name}", f"an endpoint cannot be asked for it: set {value:g}")
            for name, value in _NOT_SERVED.items()
            if getattr(settings, name) != value
        ]
        if not settings.do_sample:
            problems.append(Problem(f"{field}.do_sample", "an endpoint is asked for samples: set true"))
        return problems

    @property
    def generations(self) -> int | None:
        """The number of texts; None if it depends on the size of the dataset."""
        samples = self.datapool.train_samples
        return None if samples is None else samples * self.evaluation.num_samples_per_input

    def run_name(self, suffix: str = "") -> str:
        """The name of the results, as in the released code, without the time."""
        datapool, model = self.datapool.id.replace(":", "-"), Path(self.alg.model_name).name
        split = self.datapool.split
        name = f"{split}_reward_stats_{datapool}_{model}_num_{split}_{self.datapool.num_train_samples}"
        name += f"_rnd_{self.datapool.train_samples_rnd_seed}"
        return f"{name}_{suffix}" if suffix else name

    def notices(self) -> list[str]:
        """What the user should know of a valid config: fields without effect, and possible surprises."""
        alg, evaluation = self.alg, self.evaluation
        notices = metric_notices(evaluation.metrics, "evaluation.metrics")
        notices += prompt_notices(
            self.tokenizer, alg.model_name, alg.model_type, alg.generation_kwargs.max_new_tokens
        )
        if not alg.generation_kwargs.do_sample and evaluation.num_samples_per_input > 1:
            notices.append(
                "alg.generation_kwargs.do_sample: false makes all texts of an input equal, and their std 0"
            )
        if self.generator is not None:
            notices.append(
                "generator: metrics get no model, and runtime.device, dtype and weights have no effect"
            )
        if self.runtime.gradient_checkpointing:
            notices.append("runtime.gradient_checkpointing: no effect, extraction computes no gradients")
        return notices

"""What runs cost: at the paper's scale in floating-point operations and GPU hours, a stage in minutes.

A forward pass takes 2 operations per weight and token, a backward pass twice as many; attention itself, at
these lengths a few per cent more, is left out. Prompts and texts are taken at their longest: an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.identity import finished_runs
from rl4lms.config import ExtractConfig, NlpoConfig, OnPolicyConfig, SupervisedConfig, TrainConfig
from rl4lms.plan import Experiment, load_plan
from rl4lms.plan.runs import make_jobs


@dataclass(frozen=True)
class ModelSize:
    """Weights that a token passes through: of the encoder (0 for a causal model), the decoder, the head."""

    encoder: float
    decoder: float
    head: float


KNOWN_SIZES = {
    "t5-base": ModelSize(encoder=85e6, decoder=113e6, head=25e6),
    "gpt2": ModelSize(encoder=0, decoder=85e6, head=39e6),
}


@dataclass(frozen=True)
class Cost:
    """Operations of the rollouts and the updates of a whole run."""

    rollouts: float
    updates: float

    @property
    def total(self) -> float:
        return self.rollouts + self.updates

    def hours(self, operations_per_second: float) -> float:
        """Hours at this many operations a second, in all."""
        return self.total / operations_per_second / 3600


def pass_cost(size: ModelSize, prompt: float, text: float, head_tokens: float) -> float:
    """Operations of one forward pass over one prompt with its text, the head on some tokens alone."""
    read = size.encoder * prompt + size.decoder * (text if size.encoder else prompt + text)
    return 2 * (read + size.head * head_tokens)


def on_policy_cost(config: TrainConfig, size: ModelSize) -> Cost:
    """The cost of PPO, NLPO or A2C, without evaluations.

    In rollouts the text is sampled once, and scored by policy, reference and value model (with NLPO the mask
    model too). In updates policy and value model pass forward and backward over a minibatch's sequences.
    """
    alg, env, sizes = config.alg, config.env, config.sizes
    assert isinstance(alg, OnPolicyConfig) and env is not None and sizes is not None
    prompt = env.args.max_prompt_length
    text = min(alg.generation_kwargs.max_new_tokens, env.args.max_episode_length)
    episodes = sizes.tokens / text
    masks = 2 if isinstance(alg, NlpoConfig) else 0
    scored = (3 + masks) * pass_cost(size, prompt, text, text)  # one of them token by token, while sampling
    rollouts = episodes * (scored + pass_cost(size, prompt, text, 0))
    tokens_a_unit = text if sizes.minibatch_unit == "episode" else 1
    per_minibatch = min(sizes.batch_size * tokens_a_unit, sizes.tokens)
    if sizes.minibatch_unit != "token":
        sequences = per_minibatch / text
    else:
        sequences = episodes * (1 - (1 - 1 / episodes) ** per_minibatch) if episodes > 1 else 1.0
    forward = sequences * pass_cost(size, prompt, text, per_minibatch / sequences)
    headless = sequences * pass_cost(size, prompt, text, 0)
    updates = sizes.updates * 3 * (forward + headless)
    return Cost(sizes.iterations * rollouts, sizes.iterations * updates)


def supervised_cost(config: TrainConfig, size: ModelSize, train_samples: int) -> float:
    """Operations of SFT, without evaluations. train_samples: how many the dataset has."""
    alg = config.alg
    assert isinstance(alg, SupervisedConfig)
    args = alg.training_args
    share = config.datapool.train_fraction or 1.0
    updates, epochs = args.get("max_steps", -1), args.get("num_train_epochs", 3)
    if updates > 0:
        texts = updates * args["per_device_train_batch_size"]
    else:
        texts = epochs * share * train_samples
    text = alg.generation_kwargs.max_new_tokens
    return 3 * texts * pass_cost(size, config.tokenizer.max_length or 512, text, text)


def generation_cost(size: ModelSize, prompt: int, text: int, prompts: float, each: int = 1) -> float:
    """Operations of sampling `each` texts of the length `text` for prompts of the length `prompt`."""
    read, written = pass_cost(size, prompt, 0, 0), pass_cost(size, 0, text, text)
    return prompts * (read + each * written)


def extraction_cost(config: ExtractConfig, size: ModelSize) -> float:
    """Operations of an extraction, without its metrics."""
    text, prompt = config.alg.generation_kwargs.max_new_tokens, config.tokenizer.max_length or 512
    each = config.evaluation.num_samples_per_input
    return generation_cost(size, prompt, text, (config.generations or 0) / each, each)


OPERATIONS_PER_SECOND = 100e12
# Train samples of each dataset, some rounded. NarrativeQA: questions with two answers, five epochs of which
# are the 5,120 updates of Figure 4; IMDB: 80% of the reviews, for SFT the positive ones of them.
TRAIN_SAMPLES = {
    "narrative_qa": 65_494,
    "totto": 120_761,
    "commongen": 67_389,
    "iwslt2017en_de": 206_112,
    "cnn_daily_mail": 287_113,
    "daily_dialog": 35_800,
    "imdb": 20_000,
    "imdb_seq2seq": 10_000,
}
EVALUATED_SPLITS = 3
BASIS = (
    f"basis: 2 operations a weight and token forward, 4 backward, prompts and texts at their longest, at "
    f"{OPERATIONS_PER_SECOND / 1e12:.0f} TFLOP/s, a good share of what an A100 does in bfloat16. Not "
    "measured: minibatches of single tokens, short texts and metrics computed by models keep a GPU from "
    "that, so expect two to three times as long. With alg.args.minibatch_unit=sequence the updates of RFT "
    "cost about a fifteenth."
)


def experiment_cost(experiment: Experiment) -> float:
    """Operations of a training with its evaluations before and after, or of an extraction."""
    config = experiment.config
    size = KNOWN_SIZES["t5-base" if config.alg.model_type == "seq2seq" else "gpt2"]
    if isinstance(config, ExtractConfig):
        return extraction_cost(config, size)
    samples = TRAIN_SAMPLES[config.datapool.id]
    texts = min(config.train_evaluation.max_eval_samples or samples, samples)
    assert isinstance(config.alg, OnPolicyConfig | SupervisedConfig)  # of the paper
    length = config.alg.generation_kwargs.max_new_tokens
    prompt = config.tokenizer.max_length or 512
    evaluated = 2 * EVALUATED_SPLITS * generation_cost(size, prompt, length, texts)
    if isinstance(config.alg, SupervisedConfig):
        return evaluated + supervised_cost(config, size, samples)
    return evaluated + on_policy_cost(config, size).total


def hours_lines(plans: Sequence[str]) -> list[str]:
    """Write a line for each plan file: what is left of it and what that costs; and one on what it rests on.

    Raises ConfigError.
    """
    return [*map(_plan_line, plans), BASIS]


def _plan_line(path: str) -> str:
    loaded = load_plan(path)
    finished = finished_runs(Path(loaded.plan.output_path))
    left = [
        experiment
        for experiment, job in zip(
            loaded.experiments, make_jobs(loaded.plan, loaded.experiments), strict=True
        )
        if job.identity not in finished
    ]
    hours = sum(map(experiment_cost, left)) / OPERATIONS_PER_SECOND / 3600
    return f"{path}: {len(left)} of {len(loaded.experiments)} runs to do, about {hours:.0f} h of a GPU"


@dataclass(frozen=True)
class Stage:
    """A row. runs: those not finished; minutes: theirs, on two cores without a GPU; NaN: no estimate."""

    name: str
    runs: int
    minutes: float
    detail: str = ""


def format_table(stages: Sequence[Stage]) -> list[str]:
    """Write the rows as text, and their sum."""
    whole = sum(stage.minutes for stage in stages if not math.isnan(stage.minutes))
    total = Stage("in all", sum(stage.runs for stage in stages), whole, "without what is finished")
    width = max(len(stage.name) for stage in [*stages, total])
    return [_line(stage, width) for stage in [*stages, total]]


def _line(stage: Stage, width: int) -> str:
    minutes = "" if math.isnan(stage.minutes) else f"about {stage.minutes:5.1f} min"
    return f"{stage.name:<{width}} {stage.runs:>4} runs  {minutes:<15} {stage.detail}".rstrip()

"""Blocks of a training config around its algorithm: reward, dataset, environment, evaluation, runtime."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common import limits
from common.config import Config, Problem
from common.limits import TextsAtATime, at_most
from rl4lms.config.parts import (
    Args,
    MetricConfig,
    MinusOneOrSeed,
    Positive,
    RuntimeConfig,
    Side,
    minus_one_as_none,
)
from rl4lms.datapools import DATAPOOLS
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.rewards import REWARDS


class RewardConfig(Config):
    id: str = Field(description="registered reward, or package.module:function of your own")
    args: Args = Field({}, description="its keyword arguments")

    def check(self) -> list[Problem]:
        return REWARDS.check(self.id, self.args)


class WeightedRewardConfig(RewardConfig):
    """One of several rewards."""

    weight: float = Field(1.0, description="its factor in the sum; 0: it is logged and adds nothing")


class TrainDatapoolConfig(Config):
    id: str = Field(description="registered dataset, or package.module:function of your own")
    args: Args = Field({}, description="its keyword arguments")
    frac_train_samples: float = Field(
        -1, ge=-1, le=1, description="share of the train samples to use; -1 = all"
    )
    train_samples_rnd_seed: MinusOneOrSeed = Field(-1, description="seed of their choice; -1 = unseeded")

    @property
    def train_fraction(self) -> float | None:
        """The share of the train samples, None for all."""
        return None if self.frac_train_samples == -1 else self.frac_train_samples

    @property
    def seed(self) -> int | None:
        """The seed of the choice of train samples, None for unseeded."""
        return minus_one_as_none(self.train_samples_rnd_seed)

    def check(self) -> list[Problem]:
        problems = DATAPOOLS.check(self.id, self.args)
        if -1 < self.frac_train_samples <= 0:
            message = f"must be in (0, 1], or -1 for all, got {self.frac_train_samples:g}"
            problems.append(Problem("frac_train_samples", message))
        return problems


class EnvArgs(Config):
    """The token-level decision process of the rollouts."""

    max_prompt_length: Annotated[Positive, at_most(limits.CONTEXT, "tokens of a prompt")] = Field(
        description="tokens of a prompt in rollouts and their evaluation"
    )
    max_episode_length: Annotated[Positive, at_most(limits.CONTEXT, "tokens of an episode")] = Field(
        description="new tokens after which an episode ends"
    )
    terminate_on_eos: bool = Field(True, description="an episode ends with its text")
    prompt_truncation_side: Side = Field("left", description="where too long prompts of rollouts lose tokens")
    context_start_token: Annotated[int, Field(ge=0)] | None = Field(
        None, description="no effect (kept for old files): the decoder starts with the model's own token"
    )
    reward_unfinished: bool = Field(
        True,
        description="also score texts that end before end-of-text and max_episode_length (released: not)",
    )
    missing_eos_penalty: float | None = Field(
        None,
        description="the score of texts without end-of-text, in place of the reward's (Stiennon et al. 2020, "
        "as rebuilt: -1); null = the reward's",
    )

    def longest_text(self, settings: GenerationSettings) -> int:
        """Counts the tokens of the longest text of a rollout."""
        return min(settings.max_new_tokens, self.max_episode_length)

    def check(self) -> list[Problem]:
        problems = []
        if not self.terminate_on_eos:
            message = "must be true: there are no tokens after the end of a text"
            problems.append(Problem("terminate_on_eos", message))
        if self.missing_eos_penalty is not None and not self.reward_unfinished:
            message = (
                "needs reward_unfinished: true, since false gives unfinished texts 0; remove one of them"
            )
            problems.append(Problem("missing_eos_penalty", message))
        return problems


class EnvConfig(Config):
    n_envs: TextsAtATime = Field(10, description="factor of alg.args.n_steps (all 28 files: 10)")
    args: EnvArgs = Field(description="prompts and episodes")


class TrainEvaluationConfig(Config):
    eval_batch_size: TextsAtATime = Field(
        description="texts generated at a time; of a reward model, read at a time"
    )
    metrics: list[MetricConfig] = Field(description="what to compute of the generated texts; may be []")
    generation_kwargs: GenerationSettings | None = Field(
        None,
        description="how texts are generated in evaluation, for every split; null = as alg says, but at "
        "temperature 1, so that runs with other rollouts are compared on equal terms",
    )
    generation_kwargs_on_train: GenerationSettings | None = Field(
        None,
        description="how for train, if otherwise (the paper: as rollouts are); null = as the others",
    )
    max_eval_samples: Annotated[Positive | None, at_most(limits.SAMPLES, "samples")] = Field(
        None, description="inputs of a split to evaluate, the same each time; null = all"
    )
    n_iters: Positive | None = Field(None, description="iterations of PPO and NLPO, which need it")
    max_tokens: Positive | None = Field(
        None,
        description="end earlier, after the iteration with which rollouts of so many tokens in all have been "
        "generated; null = not",
    )
    eval_every: Positive = Field(
        10,
        description="iterations (of a reward model: updates) between evaluations on val (16 of 28 files: 10)",
    )
    save_every: Positive = Field(
        1, description="iterations (updates) between checkpoints (18 of 28 files: 1)"
    )


class TrainRuntimeConfig(RuntimeConfig):
    """How to run a training, and what to do when it goes wrong."""

    on_divergence: Literal["stop", "continue"] = Field(
        "stop",
        description="a loss that is not finite, or KL above max_kl: end the run (its last checkpoint stays), "
        "or say so and go on",
    )
    on_degenerate_rollout: Literal["stop", "continue"] = Field(
        "continue",
        description="a rollout of empty texts, or of equal rewards: end the run, or say so and go on",
    )
    max_kl: float = Field(
        10.0,
        gt=0,
        description="mean KL per token that counts as divergence (log of GPT-2's vocabulary: 10.8)",
    )

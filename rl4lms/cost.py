"""What a training of a model costs in floating-point operations, by calculation.

A forward pass takes 2 operations per weight and token, a backward pass twice as many; attention itself, at
these lengths a few per cent more, is left out. Prompts and texts are taken at their longest: an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from rl4lms.config import NlpoConfig, SupervisedConfig, TrainConfig


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

    Rollouts: the text is sampled once, and scored by policy, reference and value model (NLPO: the mask model
    goes along). Updates: policy and value model pass forward and backward over a minibatch's sequences.
    """
    alg, env, sizes = config.alg, config.env, config.sizes
    assert not isinstance(alg, SupervisedConfig) and env is not None and sizes is not None
    prompt = env.args.max_prompt_length
    text = min(alg.generation_kwargs.max_new_tokens, env.args.max_episode_length)
    episodes = sizes.tokens / text
    masks = 2 if isinstance(alg, NlpoConfig) else 0
    scored = (3 + masks) * pass_cost(size, prompt, text, text)  # one of them token by token, while sampling
    rollouts = episodes * (scored + pass_cost(size, prompt, text, 0))
    per_minibatch = min(sizes.batch_size, sizes.tokens)
    if sizes.minibatch_unit == "sequence":
        sequences = per_minibatch / text
    else:
        sequences = episodes * (1 - (1 - 1 / episodes) ** per_minibatch) if episodes > 1 else 1.0
    forward = sequences * pass_cost(size, prompt, text, per_minibatch / sequences)
    headless = sequences * pass_cost(size, prompt, text, 0)
    updates = sizes.updates * 3 * (forward + headless)
    return Cost(sizes.iterations * rollouts, sizes.iterations * updates)

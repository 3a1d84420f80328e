"""What trainings, evaluations and extractions cost in floating-point operations, by calculation.

A forward pass takes 2 operations per weight and token, a backward pass twice as many; attention itself, at
these lengths a few per cent more, is left out. Prompts and texts are taken at their longest: an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from rl4lms.config import ExtractConfig, NlpoConfig, SupervisedConfig, TrainConfig


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

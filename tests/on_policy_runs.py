"""Tiny policies, batches and rollouts for the tests of PPO and NLPO, and language models step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tiny_models import TEXTS
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, T5Config, T5ForConditionalGeneration

from rl4lms.config import NlpoConfig, OnPolicyConfig, PpoConfig
from rl4lms.config.algorithms import A2cConfig
from rl4lms.config.training_blocks import EnvArgs, EnvConfig
from rl4lms.model.load import autocast, load_tokenizer
from rl4lms.model.optimiser import optimiser_step
from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel, Sequences
from rl4lms.ppo.collect import Actors, assemble, sample, score
from rl4lms.ppo.mask import MaskModel, MaskRule, PackedMasks
from rl4lms.ppo.rollouts import Rollouts, fill_buffer, score_rollouts
from rl4lms.ppo.update import (
    LOGGED_LOSSES,
    estimate_advantages,
    explained_variance,
    minibatch_losses,
    minibatches,
)
from rl4lms.record import TARGET_KL_SLACK, UpdateLog
from rl4lms.rewards import checked
from rl4lms.samples import Sample
from rl4lms.task_reward import combine

VOCABULARY = 24
END = 1  # both models' end token; 0 is padding
KINDS = ("gpt2", "t5")
SAMPLES = [Sample(f"id {i}", text[: 8 + i % 9], [text], {"number": i}) for i, text in enumerate(TEXTS[:9])]


def tiny_model(kind: str, seed: int = 0, end: int | None = END, **config: Any) -> PreTrainedModel:
    """A model of two layers whose next tokens are far from equally likely; dropout on, as in the config."""
    torch.manual_seed(seed)
    vocabulary = {"vocab_size": VOCABULARY, "bos_token_id": 0, "pad_token_id": 0, "eos_token_id": end}
    if kind == "gpt2":
        sizes = {"n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
        model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(**(vocabulary | sizes | config)))
    else:
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        settings = {"decoder_start_token_id": 0, "initializer_factor": 1.3} | vocabulary | sizes | config
        model = T5ForConditionalGeneration(T5Config(**settings))
    return model.eval()


def changed(model: PreTrainedModel, scale: float = 0.05, seed: int = 0) -> PreTrainedModel:
    """A copy of the model with noise on all its weights: what it becomes, or was."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += scale * torch.randn(weight.shape, generator=generator)
    return other


def tiny_policy(kind: str, seed: int = 0, **config: Any) -> PolicyModel:
    """A policy, and a value model of weights of its own."""
    model = tiny_model(kind, seed, **config)
    torch.manual_seed(seed)
    width = model.get_input_embeddings().embedding_dim
    return PolicyModel(model, changed(model, seed=seed + 1), nn.Linear(width, 1, bias=False))


def padded(rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows padded with 7s, which is a token like others: it must not be seen."""
    ids = [torch.tensor(row) for row in rows]
    mask = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    return (
        pad_sequence(ids, batch_first=True, padding_value=7, padding_side=side),
        pad_sequence(mask, batch_first=True, padding_side=side),
    )


def batch_of(prompts: list[list[int]], responses: list[list[int]], side: str = "left") -> Sequences:
    """Prompts padded on the `side`, responses on the right."""
    return Sequences(*padded(prompts, side), *padded(responses, "right"))


def random_rows(lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Random token ids, neither padding nor end."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def random_batch(
    seed: int = 0, side: str = "left", response_lengths: Sequence[int] = (5, 1, 7, 3, 2)
) -> Sequences:
    """Sequences of various lengths."""
    prompt_lengths = [(3, 9, 1, 6, 4)[i % 5] for i in range(len(response_lengths))]
    return batch_of(random_rows(prompt_lengths, seed), random_rows(response_lengths, seed + 1), side)


def rows_of(batch: Sequences) -> list[tuple[list[int], list[int]]]:
    """Prompts and responses without padding."""
    return [
        (prompt[real].tolist(), response[kept].tolist())
        for prompt, real, response, kept in zip(
            batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.response_mask, strict=True
        )
    ]


def next_step(model: PreTrainedModel, prompt: list[int], response: list[int]) -> tuple[Tensor, Tensor]:
    """Logits [V] and last hidden state [d] after an unpadded prompt and response, from one plain pass."""
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        found = model(
            input_ids=torch.tensor([prompt]),
            decoder_input_ids=torch.tensor([[start, *response]]),
            output_hidden_states=True,
            use_cache=False,
        )
        return found.logits[0, -1], found.decoder_hidden_states[-1][0, -1]
    found = model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True, use_cache=False)
    return found.logits[0, -1], found.hidden_states[-1][0, -1]


def stepwise_logits(model: PreTrainedModel, batch: Sequences) -> list[Tensor]:
    """For each sequence the logits [T_i, V] of its tokens, one forward pass per token."""
    return [
        torch.stack([next_step(model, prompt, response[:t])[0] for t in range(len(response))])
        for prompt, response in rows_of(batch)
    ]


def stepwise_values(policy: PolicyModel, batch: Sequences) -> list[Tensor]:
    """For each sequence the values [T_i] before its tokens, one forward pass per token."""
    assert policy.value_model is not None and policy.value_head is not None
    weight = policy.value_head.weight[0]
    return [
        torch.stack(
            [next_step(policy.value_model, prompt, response[:t])[1] @ weight for t in range(len(response))]
        )
        for prompt, response in rows_of(batch)
    ]


def filled(batch: Sequences, of_sequences: list[Tensor]) -> Tensor:
    """Values of each sequence's tokens as [B, T], 0 where there is none."""
    found = torch.zeros(batch.response_mask.shape)
    for i, values in enumerate(of_sequences):
        found[i, : len(values)] = values
    return found


def rollouts_of(
    policy: PolicyModel,
    batch: Sequences,
    rewards: Sequence[float],
    tokens: int | None = None,
    *,
    kl_coeff: float = 0.1,
    temperature: float = 1.0,
    mask_model: MaskModel | None = None,
) -> Rollouts:
    """The rollouts of a batch, scored by the policy and a reference of other weights. tokens: None = all."""
    reference = PolicyModel(changed(policy.model, seed=9))
    allowed = None if mask_model is None else mask_model.allowed(batch)
    scores = score_rollouts(
        policy,
        reference,
        batch.prompt_ids,
        batch.prompt_mask,
        batch.response_ids,
        batch.response_mask,
        kl_coeff=kl_coeff,
        temperature=temperature,
        action_mask=allowed,
    )
    mask = batch.response_mask if tokens is None else fill_buffer(batch.response_mask, tokens)
    packed = None if allowed is None else PackedMasks.of(allowed[mask])
    texts = [f"text {i}" for i in range(len(rewards))]
    samples = torch.arange(len(rewards))
    return Rollouts.build(batch, mask, scores, torch.tensor(rewards), samples, texts, packed)


def collect(
    actors: Actors,
    iteration: int,
    kl_coeff: float,
    expected_length: float,
    world: World | None = None,
    dtype: str = "float32",
) -> Rollouts:
    """Steps 1 to 3 of rl4lms.ppo.train."""
    world = world or World()
    with torch.no_grad(), autocast(actors.device, dtype):
        episodes = sample(actors, iteration, expected_length, world)
        scored = score(actors, episodes, kl_coeff, world)
    return assemble(actors, episodes, scored)


def update(
    policy: PolicyModel,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    alg: OnPolicyConfig,
    seed: int,
    *,
    world: World | None = None,
    dtype: str = "float32",
    on_non_finite: Literal["stop", "continue"] = "stop",
) -> dict[str, float]:
    """Steps 4 and 5 of rl4lms.ppo.train; returns what is logged of them."""
    args, log, world = alg.args, UpdateLog(LOGGED_LOSSES, on_non_finite), world or World()
    advantages, returns = estimate_advantages(rollouts, args.gamma, args.gae_lambda, alg.kl_div.norm_reward)
    for batch in minibatches(rollouts, args.batch_size, args.minibatch_unit, args.n_epochs, seed):
        losses = minibatch_losses(policy, rollouts, batch, advantages, returns, alg, world=world, dtype=dtype)
        if args.target_kl is not None and losses["approx_kl"] > TARGET_KL_SLACK * args.target_kl:
            break
        log.add(losses, optimiser_step(optimizer, policy, args.max_grad_norm), len(batch))
    return log.means() | {"ppo/explained_variance": explained_variance(rollouts.values, returns)}


def algorithm(kind: str = "gpt2", alg: str = "ppo", generation: Any = None, **changes: Any) -> OnPolicyConfig:
    """An `alg` block. changes: of its args, or of kl_div and policy.args by dotted names with __ for dots."""
    args: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "learning_rate": 1e-3}
    policy: dict[str, Any] = {
        "model_name": "unused",
        "generation_kwargs": {"do_sample": True, "top_k": 0, "max_new_tokens": 6} | (generation or {}),
    }
    kl_div: dict[str, Any] = {}
    if alg == "nlpo":
        policy |= {"top_mask": 0.9, "min_tokens_to_keep": 2, "target_update_iterations": 2}
    if alg == "a2c":
        args["n_epochs"] = 1
    for name, value in changes.items():
        block, _, field = name.rpartition("__")
        {"": args, "kl_div": kl_div, "policy": policy}[block][field] = value
    name = policy_name(alg, seq2seq=kind == "t5")
    block = {"id": alg, "args": args, "kl_div": kl_div, "policy": {"id": name, "args": policy}}
    return {"ppo": PpoConfig, "nlpo": NlpoConfig, "a2c": A2cConfig}[alg].model_validate(block)


def policy_name(alg: str, seq2seq: bool) -> str:
    """The id of the policy in a config."""
    return (
        f"{'maskable_' if alg == 'nlpo' else ''}{'seq2seq' if seq2seq else 'causal'}_lm_actor_critic_policy"
    )


def actors_of(
    folder: Path,
    reward: Callable[..., Any],
    *,
    train: Sequence[Sample] = SAMPLES,
    n_envs: int = 4,
    env: dict[str, Any] | None = None,
    seed: int = 0,
    mask_rule: MaskRule | None = None,
    **alg: Any,
) -> Actors:
    """What a rollout needs, of a saved model. env: its args; alg: see `algorithm`; mask_rule: NLPO."""
    kind = "t5" if "t5" in folder.name else "gpt2"
    policy = PolicyModel.load(str(folder), "seq2seq" if kind == "t5" else "causal")
    return Actors(
        policy=policy,
        reference=PolicyModel(changed(policy.model, 0.02, seed=1)),
        mask_model=mask_rule and MaskModel(changed(policy.model, 0.02, seed=2), mask_rule),
        tokenizer=load_tokenizer(str(folder)),
        train=train,
        reward=combine({"reward": checked(reward)}, [1.0]),
        env=EnvConfig(
            n_envs=n_envs, args=EnvArgs(**{"max_prompt_length": 20, "max_episode_length": 6} | (env or {}))
        ),
        alg=algorithm(kind, **({"alg": "nlpo"} if mask_rule else {}) | alg),
        seed=seed,
    )


def likelier_end(actors: Any) -> Any:
    """The same, with an end token that is likely at each step."""
    model = actors.policy.model
    head = model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0])
    bias[actors.tokenizer.eos_token_id] = 10.0 if model.config.is_encoder_decoder else 4.0
    for language_model in (
        model,
        actors.reference.model,
        *([actors.mask_model.model] if actors.mask_model else []),
    ):
        language_model.get_output_embeddings().bias = torch.nn.Parameter(bias.clone())
    return actors

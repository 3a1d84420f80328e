"""PolicyModel: what PPO asks of a language model, the same for causal and seq2seq ones.

Everything is computed by teacher forcing: one forward pass over whole sequences gives the log-probabilities
and values of all their tokens. Dropout is off throughout, as in the paper's runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from common.hub import first_line
from common.seeding import derive_seed, isolated_rng
from rl4lms.model.forward import (
    ForwardPass,
    Sequences,
    compute_logits,
    compute_states,
    padded,
    shortest_pass,
    token_logits,
)
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import decoder_start, load_model, special_token
from rl4lms.model.lora import copy_model
from rl4lms.model.lora_config import PolicyLora
from rl4lms.model.sampling import Processor, generate_ids, sampled_logits
from rl4lms.model.source import Kind, ModelSourceError


class PolicyModel(nn.Module):
    """A policy and its value function: a language model, and a second one with a linear head on its states.

    `value_model` and `value_head` are None if only log-probabilities are asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        value_model: PreTrainedModel | None = None,
        value_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.model, self.value_model, self.value_head = model.eval(), value_model, value_head
        if value_model is not None:
            value_model.eval()

    @classmethod
    def load(
        cls,
        model_name: str,
        kind: Kind,
        device: torch.device | str = "cpu",
        seed: int = 0,
        lora: PolicyLora | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> PolicyModel:
        """Policy and value model, two copies of the model of a hub name or folder, with weights of `dtype`.

        The value head's are float32. lora: two adapters on one such model, or one for both (`value_model:
        shared`). seed: of the value head's weights, and of a new adapter's. Raises ModelSourceError.
        """
        model = load_model(model_name, kind, dtype, device, lora, seed)
        size = try_states(model)
        with isolated_rng(derive_seed(seed, "value head")):
            head = nn.Linear(size, 1, bias=False)
        shared = lora is not None and lora.value_model == "shared"
        return cls(model, model if shared else copy_model(model), head.to(device))

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        gen_kwargs: GenerationSettings | Mapping[str, Any],
        uniforms: Tensor | None = None,
        processors: Sequence[Processor] = (),
    ) -> tuple[Tensor, Tensor]:
        """A response to each prompt [B, P] (causal: padded on the left): ids and mask [B, T].

        uniforms: [B, max_new_tokens], the random number of each token; None = drawn by torch's generator.
        """
        if isinstance(gen_kwargs, GenerationSettings):
            settings = gen_kwargs
        else:
            settings = GenerationSettings.model_validate(dict(gen_kwargs))
        if uniforms is None:
            uniforms = torch.rand(len(prompt_ids), settings.max_new_tokens)
        return generate_ids(self.model, prompt_ids, prompt_mask, settings, uniforms[:, None], processors)

    def logprobs(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        response_mask: Tensor,
        temperature: float = 1.0,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, those without the action mask, and entropies of response tokens, each [B, T].

        Of softmax(logits / temperature) over the whole vocabulary; with action_mask [B, T, V] the first and
        the last are over the tokens that it allows. 0 where response_mask is False.
        """
        rows, columns = response_mask.nonzero(as_tuple=True)
        sequences = Sequences(prompt_ids, prompt_mask, response_ids, response_mask)
        tokens = response_ids[rows, columns]
        logits = token_logits(self.model, sequences, rows, columns)
        raw = log_distribution(logits, temperature)
        masked = raw
        if action_mask is not None:
            masked = log_distribution(logits, temperature, action_mask[rows, columns])
        zeros = torch.zeros(response_ids.shape, device=response_ids.device)
        return (
            zeros.index_put((rows, columns), picked(masked, tokens)),
            zeros.index_put((rows, columns), picked(raw, tokens)),
            zeros.index_put((rows, columns), compute_entropy(masked)),
        )

    def taken_logprobs(
        self,
        sequences: Sequences,
        temperature: float = 1.0,
        action_mask: Tensor | None = None,
        share: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The first two results of `logprobs`, without the pass over the vocabulary that entropy takes.

        share: read a prompt once for several of its responses, if the model can.
        """
        rows, columns = sequences.response_mask.nonzero(as_tuple=True)
        tokens = sequences.response_ids[rows, columns]
        build = partial(shortest_pass, share=True) if share else padded
        logits = compute_logits(self.model, build(self.model, sequences, rows, columns))
        logits, _ = sampled_logits(logits, temperature)
        chosen = picked(logits, tokens)
        raw = masked = chosen - logits.logsumexp(1)
        if action_mask is not None:
            masked = chosen - logits.masked_fill(~action_mask[rows, columns], -torch.inf).logsumexp(1)
        zeros = torch.zeros(sequences.response_ids.shape, device=logits.device)
        return zeros.index_put((rows, columns), masked), zeros.index_put((rows, columns), raw)

    def values(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> Tensor:
        """The value of the state before each response token, [B, T], 0 where response_mask is False."""
        rows, columns = response_mask.nonzero(as_tuple=True)
        sequences = Sequences(prompt_ids, prompt_mask, response_ids, response_mask)
        assert self.value_model is not None
        values = self.token_values(padded(self.value_model, sequences, rows, columns))
        return torch.zeros(response_ids.shape, device=values.device).index_put((rows, columns), values)

    def recompute_activations(self) -> None:
        """Have the next backward pass recompute activations (`checkpoint_activations`) of both models."""
        for model in (self.model, self.value_model):
            if model is not None:
                checkpoint_activations(model)

    def token_values(self, forward: ForwardPass) -> Tensor:
        """The value [N] of the state before each of the N tokens of a pass."""
        assert self.value_model is not None and self.value_head is not None
        states = compute_states(self.value_model, forward)
        return self.value_head(states.to(self.value_head.weight.dtype))[:, 0].float()


def log_distribution(logits: Tensor, temperature: float = 1.0, allowed: Tensor | None = None) -> Tensor:
    """Log-probabilities [N, V] under softmax(logits / temperature) over the `allowed` tokens [N, V]."""
    logits, _ = sampled_logits(logits, temperature)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.log_softmax(1)


def compute_entropy(log_distribution: Tensor) -> Tensor:
    """The entropies [N], in nats, of distributions [N, V]; tokens that are not allowed add nothing."""
    finite = log_distribution.clamp(min=torch.finfo(log_distribution.dtype).min)
    return -(log_distribution.exp() * finite).sum(1)


def picked(values: Tensor, tokens: Tensor) -> Tensor:
    """Pick the values [N] of tokens [N] from those of the whole vocabulary [N, V] (logits, logprobs)."""
    return values.gather(1, tokens[:, None])[:, 0]


@torch.no_grad()
def try_states(model: PreTrainedModel) -> int:
    """Run the model over a text of two tokens as updates do; returns the length of its last hidden states.

    Raises ModelSourceError if it cannot be run so, or gives other logits than when it is called as a whole.
    """
    pad = special_token(model, "pad_token_id")
    known = min(model.get_input_embeddings().num_embeddings, len(model.get_output_embeddings().weight))
    ids = torch.tensor([i for i in range(known) if i != pad][-3:] * 3, device=model.device)
    prompt, response = ids[None, :1], ids[None, 1:3]
    everywhere = torch.ones((1, 2), dtype=torch.bool, device=model.device)
    sequences = Sequences(prompt, everywhere[:, :1], response, everywhere)
    rows, columns = everywhere.nonzero(as_tuple=True)
    try:
        forward = padded(model, sequences, rows, columns)
        logits, states = compute_logits(model, forward), compute_states(model, forward)
        if (start := decoder_start(model)) is not None:  # seq2seq
            decoder_ids = torch.cat([ids.new_full((1, 1), start), response[:, :1]], 1)
            expected = model(input_ids=prompt, decoder_input_ids=decoder_ids).logits[0]
        else:
            expected = model(input_ids=torch.cat([prompt, response[:, :1]], 1)).logits[0]
    except Exception as error:  # architectures fail in ways of their own
        raise ModelSourceError(
            f"{_architecture(model)} cannot be trained by PPO or NLPO: its states could not be computed "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    slack = 1e-2 if model.dtype == torch.float32 else 5e-2 * float(expected.abs().max())
    if not torch.allclose(logits, expected.float(), rtol=1e-2, atol=slack, equal_nan=True):
        raise ModelSourceError(
            f"{_architecture(model)} cannot be trained by PPO or NLPO: its logits depend on more than its "
            "last states"
        )
    return int(states.shape[1])


def _architecture(model: PreTrainedModel) -> str:
    return f"model {model.name_or_path!r} ({model.config.model_type})"


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute the activations of every layer in the backward pass; dropout stays off.

    The library checkpoints layers in training mode only: the layer is put into it, the dropout inside is not.
    Generation takes them out of it, so this is called before every update.
    """
    model.activation_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True

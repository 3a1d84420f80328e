"""The action mask of NLPO: PPO on the tokens that an older copy of the policy deems likely.

Ramamurthy et al. 2023. Sampling, the ratio and the entropy are those of the policy over the allowed tokens;
the mask is fixed at rollout, and used again in the update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rl4lms.model.load import is_seq2seq
from rl4lms.model.lora import frozen_copy, load_trained_state, trained_state
from rl4lms.model.policy import Sequences, token_logits
from rl4lms.model.sampling import Processor

_FIRST_GUESS = 512  # size of a nucleus; larger ones cost a second look


@dataclass(frozen=True)
class MaskRule:
    """Which tokens the mask model allows. top_mask: a mass ("learned_top_p"), else a number of tokens."""

    mask_type: str
    top_mask: float
    min_tokens_to_keep: int
    special_tokens: tuple[int, ...]


def allowed_tokens(logits: Tensor, rule: MaskRule) -> Tensor:
    """Return the allowed tokens [N, V] for the mask model's logits [N, V], at temperature 1.

    learned_top_p: the fewest tokens whose mass exceeds `top_mask`, at least `min_tokens_to_keep`;
    learned_top_k and topk: the `top_mask` likeliest. Special tokens are always allowed.
    """
    vocabulary = logits.shape[1]
    if rule.mask_type == "learned_top_p":
        kept, ids = _nucleus(logits, rule.top_mask, rule.min_tokens_to_keep)
    else:
        ids = logits.topk(min(int(rule.top_mask), vocabulary)).indices
        kept = torch.ones_like(ids, dtype=torch.bool)
    allowed = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, kept)
    allowed[:, list(rule.special_tokens)] = True
    return allowed


def _nucleus(logits: Tensor, mass: float, fewest: int) -> tuple[Tensor, Tensor]:
    """Return the likeliest tokens' ids [N, K], and which of them make up the nucleus; sorts few tokens."""
    vocabulary = logits.shape[1]
    probabilities = logits.float().softmax(1)
    size = vocabulary if mass >= 1 else min(max(_FIRST_GUESS, fewest), vocabulary)
    while True:
        likeliest, ids = probabilities.topk(size)
        reached = likeliest.cumsum(1)
        if size == vocabulary or (reached[:, -1] > mass).all():
            break
        size = min(4 * size, vocabulary)
    kept = reached - likeliest <= mass  # what is before a token does not exceed the mass
    kept |= mass >= 1  # nor does the sum of all, though it may be rounded to more
    kept[:, :fewest] = True
    return kept, ids


class MaskModel:
    """A frozen copy of the policy that says which tokens are allowed."""

    def __init__(self, policy: PreTrainedModel, rule: MaskRule) -> None:
        self.model = frozen_copy(policy).eval()
        self.rule = rule

    def refresh(self, policy: PreTrainedModel) -> None:
        """Become a copy of the policy as it is now."""
        load_trained_state(self.model, trained_state(policy))

    @torch.no_grad()
    def allowed(self, sequences: Sequences) -> Tensor:
        """Return the allowed tokens [B, T, V] at each token of the responses, the token itself among them.

        While a text is generated its rounding is another: a token at the nucleus's edge could be lost.
        """
        shape = sequences.response_ids.shape
        rows, columns = sequences.response_mask.nonzero(as_tuple=True)
        allowed = allowed_tokens(token_logits(self.model, sequences, rows, columns), self.rule)
        allowed.scatter_(1, sequences.response_ids[rows, columns][:, None], True)
        masks = torch.zeros((*shape, allowed.shape[1]), dtype=torch.bool, device=allowed.device)
        masks[rows, columns] = allowed
        return masks

    def processor(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Processor:
        """Make a processor that rules out what is not allowed, for responses to these prompts [B, P]."""
        steps = _Stepper(self.model, prompt_ids, prompt_mask)

        def mask(input_ids: Tensor, scores: Tensor) -> Tensor:
            return scores.masked_fill(~allowed_tokens(steps.logits(input_ids), self.rule), -torch.inf)

        return mask


class _Stepper:
    """A model beside the one that generates: the logits of its next token, its own cache."""

    def __init__(self, model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self._model, self._mask = model, prompt_mask.long()
        self._cache: Any = None
        self._encoded: Any = None
        if is_seq2seq(model):
            self._encoded = model.get_encoder()(input_ids=prompt_ids, attention_mask=self._mask)

    @torch.no_grad()
    def logits(self, input_ids: Tensor) -> Tensor:
        """Compute [B, V] after input_ids [B, t], one more each time (seq2seq: of the decoder)."""
        new = input_ids if self._cache is None else input_ids[:, -1:]
        arguments: dict[str, Tensor] = {"attention_mask": self._mask}
        if self._encoded is not None:
            arguments |= {"encoder_outputs": self._encoded, "decoder_input_ids": new}
        else:
            if self._cache is not None:
                self._mask = torch.cat([self._mask, torch.ones_like(new)], 1)
            positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
            arguments = {"attention_mask": self._mask, "input_ids": new, "position_ids": positions}
        output = self._model(**arguments, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        return output.logits[:, -1].float()


@dataclass(frozen=True)
class PackedMasks:
    """Masks [N, V] as bits, [N, ceil(V / 8)] on the CPU, as they are kept from rollout to update."""

    bits: Tensor
    vocabulary: int

    @classmethod
    def of(cls, masks: Tensor) -> PackedMasks:
        return cls(torch.from_numpy(np.packbits(masks.cpu().numpy(), axis=1)), masks.shape[1])

    @classmethod
    def join(cls, parts: Sequence[PackedMasks]) -> PackedMasks:
        """Join the masks of the parts, one after the other."""
        return cls(torch.cat([part.bits for part in parts]), parts[0].vocabulary)

    def select(self, rows: Tensor | slice) -> PackedMasks:
        """Return the masks of these rows."""
        return PackedMasks(self.bits[rows], self.vocabulary)

    def masks(self) -> Tensor:
        """Unpack the masks [N, V]."""
        return torch.from_numpy(np.unpackbits(self.bits.numpy(), axis=1, count=self.vocabulary)).bool()

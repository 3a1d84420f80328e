"""Responses as token ids: one call of `generate` for several of each prompt, with given random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import ForcedBOSTokenLogitsProcessor, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from common.errors import UserError
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import decoder_start, is_seq2seq, special_token

# Changes scores [B, V] after input ids [B, t]; applied before temperature and top-k.
Processor = Callable[[Tensor, Tensor], Tensor]


class GenerationError(UserError):
    """Settings or a model that no text can be generated with; the message is for the user."""


@torch.no_grad()
def generate_ids(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    settings: GenerationSettings,
    uniforms: Tensor,
    processors: Sequence[Processor] = (),
) -> tuple[Tensor, Tensor]:
    """Responses to prompts, without dropout: ids and mask [B * G, T], those of a prompt one after the other.

    prompt_ids, prompt_mask: [B, P], causal: padded on the left. uniforms: [B, G, max_new_tokens] in [0, 1),
    the random number of each token that is sampled (only its shape counts when none is; beam search with
    sampling draws from torch's global generator instead). processors: see `Processor`.
    The mask is True up to and including the end token; a response cut by max_new_tokens has no end token.
    """
    config = build_generation_config(model, settings)
    # A seq2seq model's min_length counts the decoder's start token, as in the paper's library.
    before = 0 if is_seq2seq(model) else prompt_ids.shape[1]
    every_processor: list[Any] = [
        _no_end_below(before + settings.min_length, end_tokens(model)),
        *processors,
    ]
    if (first := forced_start(model)) is not None:
        every_processor.append(ForcedBOSTokenLogitsProcessor(first))  # last: nothing may rule it out
    if settings.do_sample and settings.num_beams == 1:
        every_processor.append(TokenSampler(uniforms.flatten(0, 1).to(model.device), settings))
    with _for_generation(model, config):
        inputs = _shared_inputs(model, prompt_ids, prompt_mask, uniforms.shape[1], settings.num_beams)
        ids = model.generate(**inputs, generation_config=config, logits_processor=every_processor)
    ids = ids[:, 1 if is_seq2seq(model) else prompt_ids.shape[1] :]
    is_end = torch.isin(ids, torch.tensor(end_tokens(model), device=ids.device, dtype=ids.dtype))
    mask = is_end.cumsum(1) - is_end.long() == 0
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


def build_generation_config(model: PreTrainedModel, settings: GenerationSettings) -> GenerationConfig:
    """What `generate` is told; min_length, and sampling without beams, are left to processors of our own.

    Of the model's own generation config nothing remains but the ids of its special tokens, among them the one
    that a text is forced to begin with (`forced_start`), which is also left to a processor.
    """
    ends = end_tokens(model)
    beams: dict[str, Any] = {}
    if settings.num_beams > 1:
        beams = settings.model_dump(include={"num_beams", "length_penalty", "early_stopping", "do_sample"})
        if settings.do_sample:
            beams |= settings.model_dump(include={"temperature", "top_k", "top_p"})
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        repetition_penalty=settings.repetition_penalty,
        eos_token_id=ends or None,
        pad_token_id=special_token(model, "pad_token_id", (ends or [0])[0]),
        decoder_start_token_id=decoder_start(model),
        bos_token_id=special_token(model, "bos_token_id"),
        **beams,
    )


def _no_end_below(length: int, ends: list[int]) -> Processor:
    """Rules the end tokens out while there are fewer ids (transformers' own way copies all scores for it)."""

    def processor(input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] < length:
            scores[:, ends] = -torch.inf
        return scores

    return processor


class TokenSampler:
    """A processor that samples: it leaves each row the one token that the row's random number falls on.

    Inverting the distribution function costs a twentieth of `torch.multinomial` on CPU, and a row's tokens do
    not depend on the rows beside it.
    """

    def __init__(self, uniforms: Tensor, settings: GenerationSettings) -> None:
        """uniforms: [B, T] in [0, 1), one column for each step."""
        self._uniforms, self._settings, self._step = uniforms, settings, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens = sample_tokens(
            scores,
            self._uniforms[:, self._step],
            self._settings.temperature,
            self._settings.top_k,
            self._settings.top_p,
        )
        self._step += 1
        return scores.fill_(-torch.inf).scatter_(1, tokens[:, None], 0.0)


def sampled_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """The distribution that texts are sampled from, as logits: the one definition of it.

    softmax(logits / temperature), cut to the top_k likeliest tokens (0 = all), then to the fewest of these
    that have mass top_p. logits: [N, V]. Returns logits [N, V] and None if nothing is cut, else logits [N, K]
    of the likeliest tokens in falling order, -inf beyond top_p, and their ids [N, K].
    """
    ids = None
    if top_k or top_p < 1:
        logits, ids = logits.topk(min(top_k or logits.shape[1], logits.shape[1]))
    if temperature != 1:
        logits = logits / temperature
    if top_p < 1:
        mass = logits.detach().softmax(1).cumsum(1)
        # The tokens before top_p is reached, and the one that reaches it.
        last = (mass < top_p * mass[:, -1:]).sum(1, keepdim=True)
        logits = logits.masked_fill(torch.arange(mass.shape[1], device=mass.device) > last, -torch.inf)
    return logits, ids


def sampled_logprobs(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Log-probabilities [N, V] of all tokens as `sample_tokens` draws them, -inf: never. logits: [N, V]."""
    kept, ids = sampled_logits(logits, temperature, top_k, top_p)
    if ids is None:
        return kept.log_softmax(1)
    allowed = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, kept > -torch.inf)
    scaled, _ = sampled_logits(logits, temperature)
    return scaled.masked_fill(~allowed, -torch.inf).log_softmax(1)


def sample_tokens(scores: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Tokens [B] drawn from `sampled_logits`. scores: [B, V], the logits; uniforms: [B] in [0, 1).

    Raises GenerationError: not finite, or nothing left to draw.
    """
    logits, ids = sampled_logits(scores, temperature, top_k, top_p)
    mass = logits.softmax(1).cumsum(1)
    total = mass[:, -1:]
    picked = torch.searchsorted(mass, uniforms[:, None] * total, right=True).clamp(max=mass.shape[1] - 1)
    possible = logits.gather(1, picked) > -torch.inf
    if not (possible & total.isfinite()).all():
        if not total.isfinite().all():
            if (logits == -torch.inf).all(1).any():
                raise GenerationError(
                    "no token is left to draw: min_length, or what else forbids tokens, rules out all that "
                    "NLPO's mask allows (raise its top_mask or min_tokens_to_keep)"
                )
            raise GenerationError(
                "the model's scores are not numbers (NaN or infinite): "
                "its weights have diverged, or need dtype float32"
            )
        # A GPU's sums run on a little behind the last possible token, where the likeliest is as good as any.
        picked = torch.where(possible, picked, logits.argmax(1, keepdim=True))
    return (picked if ids is None else ids.gather(1, picked))[:, 0]


@contextmanager
def _for_generation(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """No dropout, and `config` in place of the model's own, whose values `generate` would fill gaps with."""
    training, given = model.training, model.generation_config
    model.generation_config = config
    model.train(False)
    try:
        yield
    finally:
        model.generation_config = given
        model.train(training)


def _shared_inputs(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, per_prompt: int, num_beams: int
) -> dict[str, Any]:
    """What `generate` starts from, `per_prompt` rows for each prompt, the prompt itself read once.

    Of a seq2seq model the rows share the encoder's output, of a causal one the keys and values of all but the
    prompt's last token.
    """
    mask = prompt_mask.long()
    rows: dict[str, Any] = {"attention_mask": mask.repeat_interleave(per_prompt, 0)}
    if is_seq2seq(model):
        states = model.get_encoder()(input_ids=prompt_ids, attention_mask=mask).last_hidden_state
        return rows | {"encoder_outputs": BaseModelOutput(states.repeat_interleave(per_prompt, 0))}
    rows["input_ids"] = prompt_ids.repeat_interleave(per_prompt, 0)
    if per_prompt > 1 and num_beams == 1 and prompt_ids.shape[1] > 1:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        rows["past_key_values"] = model.base_model(
            input_ids=prompt_ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            use_cache=True,
        ).past_key_values
        rows["past_key_values"].batch_repeat_interleave(per_prompt)
    return rows


def forced_start(model: PreTrainedModel) -> int | None:
    """The token that all texts of a seq2seq model begin with (a language, in mBART and NLLB); None: free.

    It counts as a token of the text. As of all constraints on sampling, log-probabilities know nothing of it.
    """
    return special_token(model, "forced_bos_token_id") if is_seq2seq(model) else None


def end_tokens(model: PreTrainedModel) -> list[int]:
    """The tokens that end a text; none, one or several."""
    ends = special_token(model, "eos_token_id")
    return ends if isinstance(ends, list) else [] if ends is None else [ends]

"""Texts of language models: extraction, evaluation and rollouts all generate them here.

A text depends on the seed, the settings, the prompt and the prompt's position among the prompts, and not on
the other prompts that it was generated with: padding is masked, and every text has random numbers of its own.
So an interrupted run continues at any batch, and `batch_size` is a matter of speed and memory. (Rounding
differs between shapes of batches: in float32 it decides about one token in a million, in bfloat16 more. Beam
search with sampling draws by batch: there the texts depend on `batch_size` too.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.seeding import derive_seed, isolated_rng
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import Side, is_seq2seq, max_positions
from rl4lms.model.sampling import GenerationError, generate_ids

_PROMPTS_AT_A_TIME = 256
_UNLIMITED = 2**31 - 1  # tokenizers without a limit of their own say 10^30, which they cannot cut at
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What decides the texts of given prompts, besides model and tokenizer.

    max_prompt_length: tokens, None = as many as the model takes; longer prompts are cut on `truncation_side`.
    num_samples: texts per prompt (G). batch_size: texts generated at a time, at most.
    """

    settings: GenerationSettings
    max_prompt_length: int | None
    truncation_side: Side
    batch_size: int
    num_samples: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Prompts to be generated for together; indices: their positions, of the longest first."""

    id: int
    indices: tuple[int, ...]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    decoding: Decoding,
    progress: Callable[[int], None] = lambda texts: None,
) -> list[list[str]]:
    """Generate `num_samples` texts for each prompt, without it. progress(texts made), after every batch."""
    texts: list[list[str]] = [[] for _ in prompts]
    for batch in plan_batches(model, tokenizer, prompts, decoding):
        batch_texts = generate_batch(model, tokenizer, prompts, decoding, batch)
        for index, prompt_texts in zip(batch.indices, batch_texts, strict=True):
            texts[index] = prompt_texts
        progress(len(batch_texts) * decoding.num_samples)
    return texts


def plan_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], decoding: Decoding
) -> list[Batch]:
    """Put the prompts into batches, similar lengths together; ids count from 0, the same at every call.

    The longest come first, so that memory that does not suffice shows at once. Raises GenerationError.
    """
    limit = prompt_limit(model, tokenizer, decoding)
    lengths: list[int] = []
    for start in range(0, len(prompts), _PROMPTS_AT_A_TIME):
        chunk = list(prompts[start : start + _PROMPTS_AT_A_TIME])
        lengths += [len(ids) for ids in tokenizer(chunk, verbose=False)["input_ids"]]
    too_long = sum(length > limit for length in lengths)
    if too_long:
        side = decoding.truncation_side
        logger.info("%s of %s prompts are cut to %s tokens on the %s", too_long, len(prompts), limit, side)
    order = sorted(range(len(prompts)), key=lambda i: -min(lengths[i], limit))
    size = max(1, decoding.batch_size // _count_draws(decoding.settings, decoding.num_samples))
    return [
        Batch(n, tuple(order[first : first + size])) for n, first in enumerate(range(0, len(order), size))
    ]


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    decoding: Decoding,
    batch: Batch,
) -> list[list[str]]:
    """Generate the texts of a batch's prompts, in the order of its indices. Raises GenerationError."""
    settings, draws = decoding.settings, _count_draws(decoding.settings, decoding.num_samples)
    ids, mask = encode_prompts(
        model,
        tokenizer,
        [prompts[i] for i in batch.indices],
        prompt_limit(model, tokenizer, decoding),
        decoding.truncation_side,
    )
    shape = (draws, settings.max_new_tokens)
    uniforms = torch.stack([_draw_uniforms(shape, decoding.seed, i) for i in batch.indices])
    texts: list[list[str]] = [[] for _ in batch.indices]
    with isolated_rng(derive_seed(decoding.seed, "generation", "beams", batch.id)):
        for first in range(0, draws, decoding.batch_size):
            part = uniforms[:, first : first + decoding.batch_size]
            part_texts = _generate_texts(model, tokenizer, settings, ids, mask, part)
            for prompt_texts, new_texts in zip(texts, part_texts, strict=True):
                prompt_texts += new_texts
    repeats = decoding.num_samples // draws
    return [prompt_texts * repeats for prompt_texts in texts]


def prompt_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoding: Decoding) -> int:
    """The most tokens of a prompt, special ones included.

    Prompt and text of a causal model share its positions: where both at their longest exceed them, the
    prompt gets `max_new_tokens` less (as in the released code). Raises GenerationError if nothing is left.
    """
    positions, new = max_positions(model), decoding.settings.max_new_tokens
    limit = decoding.max_prompt_length or positions or tokenizer.model_max_length
    if positions is None:
        return min(limit, _UNLIMITED)
    if is_seq2seq(model):
        if new + 1 > positions:
            raise GenerationError(f"max_new_tokens: {new} exceeds the model's {positions} positions less one")
        return min(limit, positions)
    if limit + new > positions:
        limit = min(limit, positions) - new
    if limit < 1:
        raise GenerationError(
            f"max_new_tokens: {new} leaves no room for a prompt of at most "
            f"{decoding.max_prompt_length or positions} tokens in the model's {positions} positions"
        )
    return limit


def encode_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_length: int,
    truncation_side: Side,
) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B, P] of prompts on the model's device, padded to the longest; True = real token.

    Causal models are padded on the left, where generation goes on at the right; encoders on the right, since
    some count positions from the first token, padding or not. An empty causal prompt is its start token.
    """
    side_before, tokenizer.truncation_side = tokenizer.truncation_side, truncation_side
    try:
        rows = tokenizer(list(prompts), truncation=True, max_length=max_length)["input_ids"]
    finally:
        tokenizer.truncation_side = side_before
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows = [row or [start] for row in rows]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        columns = slice(0, len(row)) if is_seq2seq(model) else slice(longest - len(row), longest)
        ids[i, columns], mask[i, columns] = torch.tensor(row), True
    return ids.to(model.device), mask.to(model.device)


def _generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: GenerationSettings,
    ids: Tensor,
    mask: Tensor,
    uniforms: Tensor,
) -> list[list[str]]:
    """Generate from prompts [B, P] and random numbers [B, G, T], in halves where GPU memory is short."""
    prompts, per_prompt, _ = uniforms.shape
    try:
        responses, real = generate_ids(model, ids, mask, settings, uniforms)
    except torch.OutOfMemoryError as error:
        if prompts * per_prompt == 1:
            raise GenerationError(
                f"the GPU's memory is too small for one text of {settings.max_new_tokens} tokens after a "
                f"prompt of {ids.shape[1]}: lower tokenizer.max_length, or set runtime.device: cpu"
            ) from error
    else:
        texts = [decode(tokenizer, row[keep].tolist()) for row, keep in zip(responses, real, strict=True)]
        return [texts[first : first + per_prompt] for first in range(0, len(texts), per_prompt)]
    # Here, not in the except block, where the error's traceback still holds the tensors.
    _say_memory_is_short()
    torch.cuda.empty_cache()
    if prompts > 1:
        half = prompts // 2
        first = _generate_texts(model, tokenizer, settings, ids[:half], mask[:half], uniforms[:half])
        return first + _generate_texts(model, tokenizer, settings, ids[half:], mask[half:], uniforms[half:])
    texts = []
    for part in uniforms.split((per_prompt + 1) // 2, dim=1):
        texts += _generate_texts(model, tokenizer, settings, ids, mask, part)[0]
    return [texts]


@cache
def _say_memory_is_short() -> None:
    logger.warning("the GPU's memory is too small for a whole batch: it is halved; the texts stay the same")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Turn token ids into text without special tokens, as the model wrote it.

    With the tokenizer's `clean_up_tokenization_spaces` the space goes out of " .", " ,", " n't" and the like,
    also of byte-level tokenizers' texts, as in the paper's library: today's does that for none of these.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return tokenizer.clean_up_tokenization(text) if tokenizer.clean_up_tokenization_spaces else text


def _count_draws(settings: GenerationSettings, num_samples: int) -> int:
    """Count the texts of a prompt that differ: without sampling one stands for all."""
    return num_samples if settings.do_sample else 1


def _draw_uniforms(shape: tuple[int, int], seed: int, index: int) -> Tensor:
    """Draw numbers in [0, 1) for the texts [G, T] of one prompt; fewer texts get the first of them."""
    generator = np.random.default_rng(derive_seed(seed, "generation", index))
    return torch.from_numpy(generator.random(shape, dtype=np.float32))

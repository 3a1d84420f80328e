"""What the floors of PPO and of the group algorithms share: texts, their rewards, and passes over them.

A pass reads whole padded sequences. The project's code only loads models and tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from setting import letter_share
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rl4lms.model.load import load_tokenizer
from rl4lms.model.source import Kind
from rl4lms.text import TextBatch


@dataclass(frozen=True)
class Episode:
    """Token ids of a prompt and of its response."""

    prompt: list[int]
    response: list[int]


def load_padding_tokenizer(path: str, kind: Kind) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, which pads prompts where the model reads them."""
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(path, truncation_side="left")
    tokenizer.padding_side = "right" if kind == "seq2seq" else "left"
    return tokenizer


def precision(device: str, dtype: str) -> AbstractContextManager[Any]:
    """The precision of forward passes."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, dtype))


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    prompt_length: int,
    **sampling: Any,
) -> list[Episode]:
    """Responses to each prompt, up to and including the end token. sampling: arguments of `generate`."""
    inputs = tokenizer(
        list(prompts),
        padding=True,
        truncation=True,
        max_length=prompt_length,
        return_tensors="pt",
        return_token_type_ids=False,
    ).to(model.device)
    ids = model.generate(**inputs, **sampling, pad_token_id=tokenizer.pad_token_id)
    ids = ids[:, 1 if model.config.is_encoder_decoder else inputs.input_ids.shape[1] :]
    is_end = ids == model.config.eos_token_id
    real = is_end.cumsum(1) - is_end.long() == 0
    kept = inputs.attention_mask.bool()
    read = [row[mask].tolist() for row, mask in zip(inputs.input_ids, kept, strict=True)]
    per_prompt = len(ids) // len(read)
    return [Episode(read[i // per_prompt], ids[i, real[i]].tolist()) for i in range(len(ids))]


def reward_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], episodes: Sequence[Episode]
) -> list[float]:
    """The rewards of the responses to these prompts."""
    decode, tidy = tokenizer.decode, tokenizer.clean_up_tokenization
    texts = [tidy(decode(e.response, skip_special_tokens=True)) for e in episodes]
    return letter_share(TextBatch(prompts, texts, [[] for _ in texts], [{} for _ in texts]))


def compute_logits(model: Any, episodes: Sequence[Episode]) -> Tensor:
    """The logits [B, T, V] that predict the responses' tokens."""
    arguments, first = make_inputs(model, episodes)
    return model(**arguments, use_cache=False).logits[:, first:].float()


def make_inputs(model: Any, episodes: Sequence[Episode]) -> tuple[dict[str, Tensor], int]:
    """The arguments of a pass over episodes, and the first position that predicts a response's token."""
    is_seq2seq, device = model.config.is_encoder_decoder, model.device
    prompts, prompt_mask = padded([e.prompt for e in episodes], "right" if is_seq2seq else "left", device)
    responses, response_mask = padded([e.response for e in episodes], "right", device)
    if is_seq2seq:
        start = torch.full_like(responses[:, :1], model.config.decoder_start_token_id)
        before = torch.cat([start, responses[:, :-1]], 1)
        return {"input_ids": prompts, "attention_mask": prompt_mask, "decoder_input_ids": before}, 0
    ids, mask = torch.cat([prompts, responses[:, :-1]], 1), torch.cat([prompt_mask, response_mask[:, :-1]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, prompts.shape[1] - 1


def padded(rows: Sequence[list[int]], side: str, device: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest] of rows of ids."""
    ids = [torch.tensor(row, device=device) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_side=side),
        pad_sequence(mask, batch_first=True, padding_side=side),
    )

"""Language models of a few tokens, so small that all their texts can be listed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

END = 1  # padding is 0, words follow


def save_enumerable(folder: Path, kind: str = "gpt2", end: int | None = END, words: str = "ab") -> Path:
    """A model of one layer, whose tokens are padding, the end and these words of one letter.

    end: None = no token ends a text.
    """
    ids = {"[PAD]": 0, "[END]": END} | {word: 2 + place for place, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]", unk_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    special = {"vocab_size": len(ids), "pad_token_id": 0, "eos_token_id": end}
    if kind == "gpt2":
        sizes = {"n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "initializer_range": 0.6}
        GPT2LMHeadModel(GPT2Config(**special, **sizes, bos_token_id=0)).save_pretrained(folder)
    else:
        sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        t5 = T5Config(**special, **sizes, decoder_start_token_id=0, initializer_factor=1.5)
        T5ForConditionalGeneration(t5).save_pretrained(folder)
    return folder


def all_texts(vocabulary: int, longest: int, end: int | None = END) -> list[tuple[int, ...]]:
    """Every text: cut at its first end token, or of so many tokens."""
    every = itertools.product(range(vocabulary), repeat=longest)
    return sorted({cut(text, end) for text in every})


def cut(text: tuple[int, ...], end: int | None) -> tuple[int, ...]:
    """The text up to its first end token."""
    return text[: text.index(end) + 1] if end in text else text


def gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The gradient of all weights as one vector."""
    return torch.cat([weight.grad.flatten().double() for weight in parameters])

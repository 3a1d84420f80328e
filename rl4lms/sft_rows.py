"""Rows of supervised finetuning: one for each reference of each sample, tokenized when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from rl4lms.language_model import Side
from rl4lms.model_source import Kind
from rl4lms.samples import Sample

Row = dict[str, list[int]]
IGNORED = -100  # a label that the loss leaves out


class Rows(Dataset[Row]):
    """Token ids of (prompt, reference) pairs; a data set of 300,000 long texts need not be held as tokens.

    seq2seq: input = prompt, labels = reference, each with its end token. causal: text = prompt + reference,
    and the labels are the same ids (add_eos: and the end token). Each is cut to `limit` tokens.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        kind: Kind,
        tokenizer: PreTrainedTokenizerBase,
        truncation_side: Side,
        limit: int | None,
        add_eos: bool = False,
    ) -> None:
        self._pairs = [
            (sample.prompt_or_input_text, text) for sample in samples for text in sample.references
        ]
        self._kind, self._tokenizer, self._limit = kind, tokenizer, limit
        self._side, self._end = truncation_side, tokenizer.eos_token if add_eos else ""

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Row:
        prompt, reference = self._pairs[index]
        if self._kind == "seq2seq":
            return {"input_ids": self._ids(prompt), "labels": self._ids(reference)}
        ids = self._ids(prompt + reference + self._end)
        return {"input_ids": ids, "labels": ids}

    def _ids(self, text: str) -> list[int]:
        self._tokenizer.truncation_side = self._side
        cut = {} if self._limit is None else {"truncation": True, "max_length": self._limit}
        return self._tokenizer(text, verbose=False, **cut)["input_ids"]


def collate(
    pad_token_id: int, decoder_inputs: Callable[[Tensor], Tensor] | None = None
) -> Callable[[list[Row]], dict[str, Tensor]]:
    """Puts rows into tensors [B, longest], padded on the right; padding is masked and has no loss.

    decoder_inputs: of a seq2seq model, from labels to what its decoder reads.
    """

    def batch(rows: list[Row]) -> dict[str, Tensor]:
        inputs, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
        found = {
            "input_ids": _padded(inputs, pad_token_id),
            "attention_mask": _padded([[1] * len(ids) for ids in inputs], 0),
            "labels": _padded(labels, IGNORED),
        }
        return (
            found
            if decoder_inputs is None
            else found | {"decoder_input_ids": decoder_inputs(found["labels"])}
        )

    return batch


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], dtype=torch.long)

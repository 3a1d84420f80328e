"""BERTScore (Zhang et al. 2020): F1 of the greedy matching of contextual token embeddings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rl4lms.metrics.args import choose_encoder
from rl4lms.metrics.models import load_encoder, run_by_length, token_rows
from rl4lms.text import Score, TextBatch, averaged


class _Embedded(NamedTuple):
    """A text as the encoder sees it: unit vectors [T, D], and which of the tokens are not special [T]."""

    vectors: Tensor
    counts: Tensor


def bert_score(
    batch: TextBatch,
    *,
    language: str,
    model_name: str | None,
    num_layers: int | None,
    batch_size: int,
    device: str,
) -> dict[str, Score]:
    """F1 against the best reference; 0 if text or reference is empty.

    model_name, num_layers: the encoder and how many of its layers; None: those for the language.
    """
    default_name, default_layers = choose_encoder(language)
    model, tokenizer = load_encoder(model_name or default_name, num_layers or default_layers, device)

    def embed(texts: list[str]) -> list[_Embedded]:
        # With a space before it byte-level BPE reads a first word as any other; the rest ignore the space.
        spaced = [f" {stripped}" if (stripped := text.strip()) else "" for text in texts]
        rows = token_rows(spaced, model, tokenizer)
        hidden = run_by_length(rows, model, tokenizer, batch_size, lambda x: model(**x).last_hidden_state)
        special = torch.tensor([i for i in (tokenizer.cls_token_id, tokenizer.sep_token_id) if i is not None])
        return [
            _Embedded(normalize(vectors[: len(row)], dim=-1), ~torch.isin(torch.tensor(row), special))
            for row, vectors in zip(rows, hidden, strict=True)
        ]

    values: list[float] = []
    for start in range(0, len(batch), batch_size):  # the embeddings of all texts would not fit into memory
        part = batch.select(range(start, min(start + batch_size, len(batch))))
        references = part.reference_sets()
        texts = list(dict.fromkeys([*part.generated, *(text for group in references for text in group)]))
        known = dict(zip(texts, embed(texts), strict=True))
        values += [
            max(_f1(known[text], known[reference]) for reference in group)
            for text, group in zip(part.generated, references, strict=True)
        ]
    return {"semantic/bert_score": averaged(values)}


def _f1(text: _Embedded, reference: _Embedded) -> float:
    """Special tokens may be matched with, but do not count themselves."""
    if not text.counts.any() or not reference.counts.any():
        return 0.0
    similarity = text.vectors @ reference.vectors.T
    precision = similarity.amax(dim=1)[text.counts].mean().item()
    recall = similarity.amax(dim=0)[reference.counts].mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

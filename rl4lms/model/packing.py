"""Puts several texts into one row of a forward pass: less padding than with a text per row, the same numbers.

Masks that are added to the attention scores keep the texts of a row apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Tokens of a row, where no text is longer. Fewer: more padding; more: attention costs the square.
_ROW = 64
# The same where texts share a prompt that is shorter than half of it.
_SHARED_ROW = 256
# Finite, in bfloat16 too: a padding token may find no key in its row, and -inf alone would make it NaN.
_FORBIDDEN = torch.finfo(torch.bfloat16).min

IGNORED = -100  # a label that losses leave out, such as that of padding


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Put rows of token ids into a tensor [B, longest], `fill` behind each."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill)


@dataclass(frozen=True)
class Layout:
    """Where S segments lie in `count` rows of `width` tokens. rows, starts (in the row), lengths: [S]."""

    count: int
    width: int
    rows: Tensor
    starts: Tensor
    lengths: Tensor

    def place(self, tokens: Tensor) -> Tensor:
        """Values of all segments' tokens, one segment after the other, as [count, width]; 0 elsewhere."""
        firsts = self.rows * self.width + self.starts
        places = firsts.repeat_interleave(self.lengths) + self.offsets()
        flat = tokens.new_zeros(self.count * self.width)
        return flat.index_copy(0, places, tokens).view(self.count, self.width)

    def offsets(self) -> Tensor:
        """How far into its segment each token is, one segment after the other."""
        before = self.lengths.cumsum(0) - self.lengths
        total = torch.arange(int(self.lengths.sum()), device=self.lengths.device)
        return total - before.repeat_interleave(self.lengths)

    def owners(self) -> Tensor:
        """The segment of each token [count, width], from 1 on; 0 = padding."""
        numbers = torch.arange(1, len(self.lengths) + 1, device=self.lengths.device)
        return self.place(numbers.repeat_interleave(self.lengths))


def arrange(*lengths: Tensor) -> list[Layout]:
    """Arrange S texts that have a segment in each, in the same row. lengths: [S] of each, 1 or more.

    The rows of a layout are about equally full: a text, the longest first, goes to where it adds least. Each
    has a row of its own if that makes less padding.
    """
    device = lengths[0].device
    sizes = torch.stack(lengths).cpu().numpy()
    totals = sizes.sum(1)
    count = max(1, round(float((totals / sizes.max(1).clip(_ROW)).max())))
    share = sizes / totals[:, None]
    rows, starts = np.zeros_like(sizes[0]), np.zeros_like(sizes)
    used, full = np.zeros((len(sizes), count), sizes.dtype), np.zeros((len(sizes), count))
    for text in np.argsort(-share.max(0), kind="stable"):
        row = int((full + share[:, text, None]).max(0).argmin())
        rows[text], starts[:, text] = row, used[:, row]
        used[:, row] += sizes[:, text]
        full[:, row] += share[:, text]
    if sizes.shape[1] * sizes.max(1).sum() < count * used.max(1).sum():
        count, used = sizes.shape[1], sizes
        rows, starts = np.arange(count), np.zeros_like(sizes)
    placed = torch.from_numpy(rows).to(device), torch.from_numpy(starts).to(device)
    return [
        Layout(count, int(width), placed[0], start, length)
        for width, start, length in zip(used.max(1), placed[1], lengths, strict=True)
    ]


def share_prompts(prompt_ids: Tensor, prompt_mask: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
    """Put texts of the same prompt into units, which hold it once: an order of the S texts, their units.

    prompt_ids, prompt_mask: [S, P]; responses: lengths [S]. Returns order and units [S], the units from 0 on
    and in the order of the texts. A unit's responses are together about as long as its prompt; after a short
    prompt as fill the row, but not 8 times as long: reading it once saves too little against the attention
    to the other responses, which is computed and masked.
    """
    keys = torch.cat([prompt_ids.masked_fill(~prompt_mask, 0), prompt_mask.long()], 1)
    _, prompt = keys.unique(dim=0, return_inverse=True)
    order = prompt.argsort(stable=True)
    prompt, length = prompt[order], prompt_mask.sum(1)[order]
    part = tokens_before(responses[order], prompt) // torch.maximum(
        length, (_SHARED_ROW - length).minimum(8 * length)
    )
    _, units = torch.stack([prompt, part], 1).unique_consecutive(dim=0, return_inverse=True)
    return order, units


def tokens_before(lengths: Tensor, units: Tensor) -> Tensor:
    """Count the tokens of the earlier texts of the same unit. lengths, units: [S], units in order."""
    before = lengths.cumsum(0) - lengths
    first = torch.searchsorted(units, units)  # the place of each unit's first text
    return before - before[first]


def attention_mask(
    queries: Layout, keys: Layout, dtype: torch.dtype, causal: bool = False, texts: Tensor | None = None
) -> Tensor:
    """What is added to attention scores so that each segment sees itself alone, [count, 1, queries, keys].

    texts: the text of each token of a layout [count, width] where segments hold several, 0 = of all of them.
    """
    allowed = queries.owners()[:, None, :, None] == keys.owners()[:, None, None, :]
    if texts is not None:
        shared = texts[:, None, None, :] == 0
        allowed &= shared | (texts[:, None, :, None] == texts[:, None, None, :])
    if causal:
        allowed = allowed.tril()
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return zeros.masked_fill_(~allowed, _FORBIDDEN)

"""What the loaders return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]
TextPairs = list[tuple[str, str]]


@dataclass(frozen=True)
class TokenizedPairs:
    """N sentence pairs as token ids, right-padded with zeros; positions from `lengths` on are padding.

    input_ids, token_type_ids: [N, L] int32; lengths: [N] int64.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Tensor | slice) -> TokenizedPairs:
        """The pairs at `index` ([n] positions, an [N] mask, or a slice), trimmed to the longest of them."""
        lengths = self.lengths[index]
        longest = int(lengths.max()) if len(lengths) else 0
        return TokenizedPairs(self.input_ids[index, :longest], self.token_type_ids[index, :longest], lengths)

    def to(self, device: torch.device | str) -> TokenizedPairs:
        return TokenizedPairs(
            self.input_ids.to(device), self.token_type_ids.to(device), self.lengths.to(device)
        )


Inputs = Tensor | TokenizedPairs


@dataclass(frozen=True)
class ControlledData:
    """The data of one experiment, in memory.

    train_inputs, test_inputs: float32 [N, C, H, W] or [N, D], or TokenizedPairs; train_labels: [N] int64,
    final labels (after modification); modified: [N] bool; label_sets: [num_classes, K] int64, row c starts
    with c, or None if K is 1 or the user's file says which labels are modified.
    """

    train_inputs: Inputs
    train_labels: Tensor
    modified: Tensor
    test_inputs: Inputs
    test_labels: Tensor
    label_sets: Tensor | None
    num_classes: int

    def to(self, device: torch.device | str) -> ControlledData:
        return ControlledData(
            self.train_inputs.to(device),
            self.train_labels.to(device),
            self.modified.to(device),
            self.test_inputs.to(device),
            self.test_labels.to(device),
            None if self.label_sets is None else self.label_sets.to(device),
            self.num_classes,
        )


@dataclass(frozen=True)
class RawSplit:
    """A split before subsampling: all labels [N], and `take`, which reads the inputs at given positions only.

    (Decoding 60,000 pictures to use 1,000 of them would take longer than the rest of the start.)
    """

    labels: Labels
    take: Callable[[NDArray[np.int64]], Any]


@dataclass(frozen=True)
class Pool:
    """Both splits of a dataset; `encode` turns what `take` returns into the model's inputs.

    modified: [N] bool of the train split, if the user's file says which labels are already modified.
    """

    train: RawSplit
    test: RawSplit
    num_classes: int
    encode: Callable[[Any], Inputs]
    modified: NDArray[np.bool_] | None = None

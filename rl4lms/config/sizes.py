"""Sizes that follow from a config, computed in one place and printed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OnPolicySizes:
    """How many tokens PPO or NLPO collects, and how many updates it makes of them.

    tokens: of an iteration. batch_size: tokens of a minibatch; made of whole sequences it has about as many.
    """

    tokens: int
    batch_size: int
    minibatch_unit: Literal["token", "sequence"]
    epochs: int
    iterations: int

    @property
    def minibatches(self) -> int:
        """Minibatches of an epoch; a short last one counts."""
        return -(-self.tokens // self.batch_size)

    @property
    def last_minibatch(self) -> int:
        """Tokens of the last minibatch of an epoch."""
        return self.tokens - (self.minibatches - 1) * self.batch_size

    @property
    def updates(self) -> int:
        """Optimiser steps of an iteration."""
        return self.minibatches * self.epochs

    def lines(self) -> list[str]:
        """What will happen, for the user."""
        about = "about " if self.minibatch_unit == "sequence" else ""
        short = f" (the last: {self.last_minibatch:,})" if self.last_minibatch < self.batch_size else ""
        minibatches = f"{self.minibatches:,} minibatches of {about}{self.batch_size:,}{short}"
        tokens, updates = self.iterations * self.tokens, self.iterations * self.updates
        return [
            f"an iteration: {self.tokens:,} tokens, {minibatches} x {self.epochs} epochs = "
            f"{self.updates:,} updates",
            f"the run: {self.iterations:,} iterations, {tokens:,} tokens, {updates:,} updates",
        ]

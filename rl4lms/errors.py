"""Why a training ends before its time; the messages are for the user."""

from __future__ import annotations

from common.errors import Interrupted, UserError


class TrainingInterrupted(Interrupted):
    """The caller asked to stop; what is on disk goes on from the last checkpoint."""


class DivergenceError(UserError):
    """A loss, gradient or KL that no training comes back from; the last checkpoint is from before it."""

    is_final = True

"""The weight of the KL penalty, steered towards a target (Ziegler et al. 2019)."""

from __future__ import annotations

_MAX_ERROR = 0.2  # relative; larger ones count as this
_RATE = 0.1


class KLController:
    """coeff: the weight now; target: mean KL per token to steer it to, None = it stays."""

    def __init__(self, coeff: float, target: float | None = None) -> None:
        self.coeff, self.target = coeff, target

    def step(self, kl: float) -> float:
        """The new weight, after a rollout of this mean log(pi / pi_ref), which may be negative."""
        if self.target is not None:
            error = min(max((kl - self.target) / self.target, -_MAX_ERROR), _MAX_ERROR)
            self.coeff *= 1 + _RATE * error
        return self.coeff

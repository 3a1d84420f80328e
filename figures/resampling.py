"""Correlations in bootstrap resamples over inputs, from weighted moments: thousands at once."""

from __future__ import annotations

import numpy as np

from rft_diagnose.statistics import RESAMPLES, Floats

SMALLEST_SPREAD = 1e-12  # of values that differ by more than rounding


def draw_weights(size: int, rng: np.random.Generator) -> Floats:
    """Draw bootstrap resamples of inputs: the share that each input has in each [R, N], rows sum to 1."""
    return rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) / size


def weigh_all(size: int) -> Floats:
    """The one resample that has every input once [1, N]."""
    return np.full((1, size), 1 / size)


def weighted_correlations(values: Floats, weights: Floats) -> Floats:
    """Correlate (Pearson) K quantities of N inputs in each resample.

    values: [K, N]; weights: [R, N], rows sum to 1. Returns [R, K, K]; NaN where a quantity is constant.
    """
    is_constant = np.ptp(values, axis=1) <= SMALLEST_SPREAD
    centered = np.where(is_constant[:, None], 0.0, values - values.mean(1, keepdims=True))
    means = weights @ centered.T
    k = len(values)
    moments = (weights @ (centered[:, None] * centered[None]).reshape(k * k, -1).T).reshape(-1, k, k)
    covariances = moments - means[:, :, None] * means[:, None, :]
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    # In a resample of equal values rounding leaves some.
    is_defined = variances > SMALLEST_SPREAD * np.diagonal(moments, axis1=1, axis2=2)
    stds = np.sqrt(np.where(is_defined, variances, np.nan))
    correlations: Floats = covariances / stds[:, :, None] / stds[:, None, :]
    return correlations

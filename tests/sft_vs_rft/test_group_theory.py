"""Group algorithms on one input, exactly: the table of gradient norms, powers, times, and what is dropped."""

import math

import numpy as np
import pytest

from rft_diagnose.group_signal import INFINITE, expected_advantages, spread_probability
from sft_vs_rft.group_theory import (
    ALGORITHMS,
    RLOO,
    Algorithm,
    amplification,
    exponent,
    generations_per_kept_group,
    gradient_norm,
    group_rows,
    success_weight,
    time_until_zero,
)
from sft_vs_rft.theory import time_to_zero_reward

DR_GRPO_8 = Algorithm("dr_grpo", 8)
GRPO = {size: Algorithm("grpo", size) for size in (2, 4, 8, 16, 64, INFINITE)}
# std: RLOO, Dr. GRPO 8, GRPO 2, 4, 8, 16, 64, infinite; 10 labels, unbiased std.
NORMS = {
    0.5: (2.6e-1, 2.3e-1, 1.9e-1, 3.7e-1, 4.6e-1, 4.9e-1, 5.2e-1, 5.3e-1),
    0.3: (9.5e-2, 8.3e-2, 6.7e-2, 1.4e-1, 2.1e-1, 2.6e-1, 3.1e-1, 3.2e-1),
    0.1: (1.05e-2, 9.2e-3, 7.5e-3, 1.6e-2, 2.6e-2, 3.8e-2, 7.0e-2, 1.05e-1),
    0.03: (9.5e-4, 8.3e-4, 6.7e-4, 1.4e-3, 2.3e-3, 3.6e-3, 7.4e-3, 3.2e-2),
    0.01: (1.05e-4, 9.2e-5, 7.5e-5, 1.6e-4, 2.6e-4, 4.0e-4, 8.3e-4, 1.05e-2),
    0.001: (1.05e-6, 9.2e-7, 7.5e-7, 1.6e-6, 2.6e-6, 4.0e-6, 8.3e-6, 1.05e-3),
}


@pytest.mark.parametrize("std", NORMS)
def test_gradient_norms(std):
    norms = [gradient_norm(algorithm, std) for algorithm in ALGORITHMS]
    assert norms == pytest.approx(NORMS[std], rel=0.035)  # two digits


def test_the_amplification_has_a_limit_at_every_finite_size():
    limits = {RLOO: 1, DR_GRPO_8: 0.875}
    limits |= {GRPO[size]: (size - 1) / math.sqrt(size) for size in (2, 4, 8, 16, 64)}
    for algorithm, limit in limits.items():
        assert amplification(algorithm, 1e-6) == pytest.approx(limit, rel=1e-6)
        for std in NORMS:
            assert amplification(algorithm, std) <= limit * (1 + 1e-9)
    assert amplification(GRPO[INFINITE], 1e-6) == pytest.approx(1e6, rel=1e-6)


@pytest.mark.parametrize(("std", "powers"), [
    (0.1, (2, 2, 2, 1.99, 1.97, 1.93, 1.69, 1)),
    (0.01, (2, 2, 2, 2, 2, 2, 2.00, 1)),
])  # fmt: skip
def test_the_power_of_the_std(std, powers):
    for algorithm, power in zip(ALGORITHMS, powers, strict=True):
        # At std 0.1 p (1 - p) is not yet p: the limit of RLOO is exact, of the others the table's two digits.
        assert exponent(algorithm, std) == pytest.approx(power, abs=0.008 if std == 0.1 else 0.005)


def test_groups_without_spread():
    for std, small, large in ((0.5, 0.01, 0.0), (0.3, 0.43, 0.0), (0.1, 0.92, 0.52), (0.03, 0.99, 0.94)):
        assert 1 - 8 / generations_per_kept_group(8, std) == pytest.approx(small, abs=0.006)
        assert 1 - 64 / generations_per_kept_group(64, std) == pytest.approx(large, abs=0.006)


@pytest.mark.parametrize(("algorithm", "kept", "times"), [
    (RLOO, False, (43.3, 405, 4.0e3, 4.0e5)),
    (GRPO[8], False, (37, 331, 3.2e3, 3.2e5)),
    (GRPO[64], False, (18, 114, 1.0e3, 1.0e5)),
    (GRPO[INFINITE], False, (16, 51, 160, 1600)),
    (GRPO[8], True, (10, 16, 22, 34)),
])  # fmt: skip
def test_times_to_a_reward_of_0(algorithm, kept, times):
    stds = (0.199, 0.0632, 0.02, 0.002)
    measured = [time_until_zero(algorithm, std, kept=kept)[0] for std in stds]
    # Within 3%, or as printed, with two digits.
    assert all(abs(a / b - 1) <= 0.03 or float(f"{a:.2g}") == b for a, b in zip(measured, times, strict=True))


def test_sft_s_times():
    times = [time_to_zero_reward("SFT", std, 5) for std in (0.199, 0.0632, 0.02, 0.002)]
    assert times == pytest.approx([4.5, 6.3, 8.2, 11.9], rel=0.03)


def test_dropping_groups_saves_steps_and_no_generations():
    stds = (0.199, 0.0632, 0.02, 0.002)
    generations = [time_until_zero(GRPO[8], std, kept=True)[1] for std in stds]
    assert generations == pytest.approx([3e2, 2.6e3, 2.6e4, 2.6e6], rel=0.03)
    assert generations == pytest.approx([time_until_zero(GRPO[8], std)[1] for std in stds], rel=1e-6)


def test_rloo_s_time_is_that_of_the_paper_s_flow():
    for std in (0.1, 0.01):
        assert time_until_zero(RLOO, std)[0] == pytest.approx(time_to_zero_reward("RFT", std, 5), rel=1e-7)


def test_a_batch_half_live_half_dead():
    """The dead inputs' share of the gradient; DAPO's is GRPO's, at so many generated groups a kept one."""
    live, dead = 0.5, 0.001

    def share(algorithm):
        weights = [success_weight(algorithm, p) for p in (live, dead)]
        return weights[1] / sum(weights)

    assert share(RLOO) == pytest.approx(0.004, rel=0.03)
    assert share(GRPO[8]) == pytest.approx(0.0057, rel=0.03)
    assert share(GRPO[64]) == pytest.approx(0.0155, rel=0.03)
    for size, groups in ((8, 125), (64, 16)):
        spread = spread_probability([[1 - p, p] for p in (live, dead)], size)
        assert 1 / spread[1] == pytest.approx(groups, rel=0.035)
        kept = [success_weight(GRPO[size], p) / s for p, s in zip((live, dead), spread, strict=True)]
        by_share = np.array(kept) * spread
        assert by_share[1] / by_share.sum() == pytest.approx(share(GRPO[size]))


def test_a_small_scale_is_cured_until_epsilon_is_as_small():
    """Half of ten labels pay d: GRPO's norm in the logits."""

    def norm(d, epsilon):
        a = expected_advantages([0.0, d], [0.5, 0.5], 8, epsilon=epsilon)
        return float(np.linalg.norm([0.1 * value for value in a for _ in range(5)]))

    assert [norm(d, 0.0) for d in (1.0, 1e-3, 1e-5)] == pytest.approx([0.274] * 3, rel=0.03)
    assert norm(1e-3, 1e-4) == pytest.approx(0.229, rel=0.03)
    assert norm(1e-5, 1e-4) == pytest.approx(0.013, rel=0.03)


def test_a_rare_success_beside_graded_noise_is_drowned_by_it():
    """Success has p = 0.01; four of the other texts pay 0, four 0.05."""
    p = np.array([0.01, *[0.99 / 8] * 8])
    rewards = np.array([1.0, *[0.0, 0.05] * 4])
    levels = np.unique(rewards)
    masses = np.array([p[rewards == level].sum() for level in levels])

    def gradient(advantage):
        a = expected_advantages(levels, masses, 8, advantage)
        return p * a[np.searchsorted(levels, rewards)]

    plain, normalised = gradient("rloo"), gradient("grpo")
    success = [float(g[0] ** 2 / (g @ g)) for g in (plain, normalised)]
    assert success == pytest.approx([0.51, 0.007], rel=0.03)
    cosine = float(plain @ normalised / np.linalg.norm(plain) / np.linalg.norm(normalised))
    assert cosine == pytest.approx(0.72, rel=0.03)
    assert normalised[0] / plain[0] == pytest.approx(2.5, rel=0.03)
    assert np.linalg.norm(normalised[1:]) / np.linalg.norm(plain[1:]) == pytest.approx(30, rel=0.03)


def test_the_rows_of_the_figure():
    rows = group_rows([0.1, 0.5], [0.2])
    panels = {(row["panel"], row["series"]) for row in rows}
    names = {algorithm.name for algorithm in ALGORITHMS}
    assert {series for panel, series in panels if panel == "gradient"} == names
    assert {series for panel, series in panels if panel == "time"} == names | {"SFT", "kept groups, G = 8"}
    assert {series for panel, series in panels if panel == "generations"} == {
        f"GRPO, G = {size}" for size in (2, 4, 8, 16, 64)
    }
    assert {row["std"] for row in rows if row["panel"] == "exponent"} == {0.1}
    assert all(np.isfinite(row["value"]) and row["value"] > 0 for row in rows)

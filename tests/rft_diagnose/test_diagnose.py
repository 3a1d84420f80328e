"""Diagnosing arrays: the library's entry point, logs with steps, the KL penalty, comparisons, conditions."""

import itertools
import json
import math

import numpy as np
import pytest

from rft_diagnose import DiagnosisError, diagnose
from rft_diagnose.advice import (
    NAMES,
    Condition,
    ConditionError,
    advise,
    holds,
    parse_condition,
    read_value,
)
from rft_diagnose.compare import _one_sided, compare, relabelled
from rft_diagnose.tables import RewardTable, diagnose_table, weighted_sum
from rft_diagnose.words import class_rows, no_spread_line


def passes(*counts, n=40):
    """Rewards [inputs, n]: so many 1, the others 0, in a mixed order."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation((np.arange(n) < count).astype(float)) for count in counts])


# Input


def test_matrix_and_rows_are_the_same():
    rewards = np.random.default_rng(0).random((20, 6))
    codes = np.repeat([f"input {i:02}" for i in range(20)], 6)
    order = np.random.default_rng(1).permutation(120)
    a, b = diagnose(rewards), diagnose(rewards.ravel()[order], codes[order])
    assert a.summary == b.summary and b.labels[3] == "input 03"
    assert (a.inputs.label == b.inputs.label).all()
    assert a.inputs.mean == pytest.approx(rewards.mean(1))
    assert a.inputs.std == pytest.approx(rewards.std(1, ddof=1))
    assert a.inputs.std_ddof0 == pytest.approx(rewards.std(1))


def test_summary_is_json_without_special_numbers():
    for rewards in (passes(0, 3, 40), [[0.0, math.nan], [0.3, 0.3], [0.2, 0.9]], np.zeros((3, 2))):
        text = json.dumps(diagnose(rewards).summary, allow_nan=False)
        assert json.loads(text)["inputs"] == 3


def test_missing_rewards_are_left_out_and_said():
    rewards = [[0.0, 1.0, math.nan], [1.0, math.nan, math.nan], [math.nan] * 3, [0.0, 1.0, 0.0]]
    result = diagnose(rewards)
    assert result.labels.tolist() == [0, 1, 3] and result.inputs.n.tolist() == [2, 1, 3]
    assert result.summary["missing"] == 6 and math.isnan(result.inputs.std[1])
    assert result.inputs.label[1] == "uncertain" and result.inputs.looks[1] == "single"
    assert any("6 rewards are missing" in caveat for caveat in result.caveats)
    assert any("1 input with a single generation" in caveat for caveat in result.caveats)
    assert any("between 1 and 3 generations" in caveat for caveat in result.caveats)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": []}, "there are no rewards"),
        ({"rewards": [[math.nan, math.nan]]}, "every reward is missing"),
        ({"rewards": [0.0, 1.0]}, r"must be \[inputs, generations\], not of shape \[2\]"),
        ({"rewards": [0.0, 1.0], "inputs": [1]}, r"rewards \[2\] and inputs \[1\] must be two lists"),
        ({"rewards": [["a", "b"]]}, "rewards must be numbers"),
        ({"rewards": [[0.0, math.inf]]}, r"rewards: number 1 \(from 0\) is infinite"),
        ({"rewards": [[0.0, -1e200]]}, r"rewards: number 1 \(from 0\) is too large: -1e\+200"),
        ({"rewards": [[0.0], [1.0]]}, "each of the 2 inputs has one reward, and a spread needs two"),
        ({"rewards": [[3.0, 3.0]]}, "every reward is 3: without the range"),
        ({"rewards": [[0.0, 2.0]], "reward_range": (0, 1)}, "reward 2 lies outside the given range 0 to 1"),
        ({"rewards": [[0.0, 2.0]], "reward_range": (1, 1)}, "1 is not below 1"),
        ({"rewards": [[0.0, 1.0]], "tolerance": 0.0}, "above 0 and below 0.5, got 0"),
        ({"rewards": [[0.0, 1.0]], "group_size": 1}, "at least 2 generations, got 1"),
        ({"rewards": [[0.0, 1.0]], "kl": [1.0], "kl_coef": 1.0}, "1 values of kl for 2 rewards"),
        ({"rewards": [[0.0, 1.0]], "steps": [1]}, "expected a number for each of the 2 rewards"),
        ({"rewards": [[0.0, 1.0]], "last_steps": 3}, "those of a log with steps"),
    ],
)
def test_what_cannot_be_diagnosed_is_said(arguments, message):
    with pytest.raises(DiagnosisError, match=message):
        diagnose(**arguments)


def test_constant_rewards_are_a_caveat_where_the_range_is_known():
    result = diagnose(np.zeros((50, 40)))
    assert set(result.inputs.label.tolist()) == {"dead_low"}
    assert "every reward is 0: check that the reward function works" in result.caveats
    result = diagnose(np.full((50, 40), 2.0), reward_range=(-2, 2))
    assert set(result.inputs.label.tolist()) == {"dead_high"}
    assert set(diagnose(np.full((50, 40), 0.4)).inputs.label.tolist()) == {"dead_low"}


def test_the_range_is_given_assumed_or_observed():
    rewards = np.array([[0.0, 0.5], [0.2, 0.3]])
    for shown, given, expected in (
        (rewards, None, ("assumed", 0, 1)),
        (rewards - 1, None, ("observed", -1, -0.5)),
        (rewards, (-1, 1), ("given", -1, 1)),
    ):
        result = diagnose(shown, reward_range=given)
        found = result.summary["range"]
        assert (found["source"], found["low"], found["high"]) == pytest.approx(expected)
        assert any("are judged on" in caveat for caveat in result.caveats) == (given is None)


def test_the_tolerance_is_a_share_of_the_range():
    """On another scale the classes are the same; neither rounding nor a small difference is spread."""
    rng = np.random.default_rng(0)
    rewards = np.concatenate([0.5 + 0.02 * rng.random((30, 40)), rng.random((30, 40))])
    expected = ["dead_low"] * 30 + ["live"] * 30
    for scale in (1.0, 1e6, 1e-6):
        result = diagnose(rewards * scale, reward_range=(0, scale))
        assert result.inputs.label.tolist() == expected
    assert (diagnose(rewards, tolerance=0.001).inputs.label == "live").all()
    rounded = np.tile([0.1 + 0.2, 0.3], (5, 20))
    assert set(diagnose(rounded, reward_range=(0, 1)).inputs.label.tolist()) == {"dead_low"}


def test_two_values_are_recognised_within_rounding():
    rewards = np.tile([0.1 + 0.2, 0.3, -1.0, 0.3], (4, 2))
    assert diagnose(rewards).summary["two_values"] == pytest.approx([-1, 0.3])
    assert diagnose(passes(3) * 2 - 1).inputs.rate[0] == pytest.approx(3 / 40)
    assert diagnose([[0.0, 0.5, 1.0]]).summary["two_values"] is None


def test_too_few_generations_for_any_dead_input_are_said():
    few, enough = diagnose(np.zeros((9, 34))), diagnose(np.zeros((9, 35)))
    assert few.summary["dead_needs"] == enough.summary["dead_needs"] == 35
    assert few.summary["classes"]["dead_low"]["count"] == 0 and read_value("dead_low", few.summary) is None
    assert few.summary["settling"]["no_spread_generations"] == 9
    line = no_spread_line(few.summary)
    assert line.startswith(
        "No spread in the rewards of 9 inputs (100.0%, 66.4% to 100.0%): 9 at a low reward"
    )
    assert line.endswith(
        "None can be called dead from 34 generations: that takes 35 alike, for these 9 more in all."
    )
    assert class_rows(few.summary)[0][:3] == ("dead-low", "?", "0.0% to 100.0%")
    assert enough.summary["classes"]["dead_low"]["count"] == 9 and read_value("dead_low", enough.summary) == 1
    assert "None can be called" not in no_spread_line(enough.summary)
    assert class_rows(enough.summary)[0][1] == "100.0%"
    mixed = diagnose([0.0] * 50, ["a"] * 40 + ["b"] * 10)
    assert "1 input with fewer than the 35 generations that a dead verdict needs" in mixed.caveats


def test_rounding_is_no_spread():
    """0.3 summed in another order, ten times, of 5 inputs."""
    found = diagnose(np.full((5, 10), 0.1 + 0.2) - np.tile([0, 1e-17, 5e-17, 0, 1e-16], (5, 2)))
    assert found.summary["std"] == found.summary["std_percentile"]["value"] == 0
    assert found.summary["variance"] == {
        "within_std": 0, "between_std": 0, "batch_std": 0, "within_share": None
    }  # fmt: skip


# Logs


def log_of_two_steps():
    """Input 0 passes at step 1 and fails at step 5; input 1 is seen at step 1 alone, input 2 at step 5."""
    codes = np.array([0] * 4 + [1] * 4 + [0] * 4 + [2] * 4)
    steps = np.array([1] * 8 + [5] * 8)
    rewards = np.array([1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1], dtype=float)
    return rewards, codes, steps


def test_a_log_is_judged_by_the_last_visit_and_shown_over_time():
    rewards, codes, steps = log_of_two_steps()
    result = diagnose(rewards, codes, steps=steps)
    assert result.inputs.mean.tolist() == [0, 1, 0.5] and result.summary["group_size"] == 4
    assert any("2 steps: an input is judged by its last visit" in caveat for caveat in result.caveats)
    first, last = result.summary["over_time"]
    assert first == {
        "first_step": 1, "last_step": 1, "groups": 2, "no_spread": 0.5, "no_spread_low": 0.0,
        "no_spread_high": 0.5, "mean": 0.875, "within_std": pytest.approx(math.sqrt(0.75 / 6)),
    }  # fmt: skip
    assert last["no_spread_low"] == 0.5 and last["no_spread_high"] == 0 and last["mean"] == 0.25
    pooled = diagnose(rewards, codes, steps=steps, last_steps=2)
    assert pooled.inputs.n.tolist() == [8, 4, 4] and pooled.inputs.mean[0] == 3 / 8
    assert diagnose(rewards, codes, steps=steps, last_steps=1).labels.tolist() == [0, 2]


def test_long_logs_are_shown_in_stretches_of_steps():
    rng = np.random.default_rng(0)
    steps, codes = np.repeat(np.arange(200) * 10, 8), np.tile(np.repeat([0, 1], 4), 200)
    rows = diagnose(rng.random(1600), codes, steps=steps).summary["over_time"]
    assert len(rows) == 60 and sum(row["groups"] for row in rows) == 400
    assert rows[0]["first_step"] == 0 and rows[-1]["last_step"] == 1990
    assert all(a["last_step"] < b["first_step"] for a, b in itertools.pairwise(rows))


# What is optimised


def test_a_kl_penalty_gives_signal_where_the_reward_has_none():
    rewards = np.zeros((3, 40))
    kl = np.random.default_rng(0).normal(5, 2, (3, 40))
    assert set(diagnose(rewards).inputs.label.tolist()) == {"dead_low"}
    penalised = diagnose(rewards, kl=kl, kl_coef=0.1)
    assert set(penalised.inputs.label.tolist()) == {"live"}
    assert penalised.inputs.mean == pytest.approx(-0.1 * kl.mean(1))
    assert set(diagnose(rewards, kl=kl, kl_coef=1e-4).inputs.label.tolist()) == {"dead_low"}


def test_a_penalty_that_hides_dead_inputs_is_said():
    codes, kl = np.repeat(np.arange(10), 40), np.random.default_rng(0).normal(5, 2, 400)
    found = diagnose_table(RewardTable(codes, [], {"right": np.zeros(400)}, kl=kl), kl_coef=0.1)
    (name, main), (part, own) = found.items()
    assert (name, part) == ("right - 0.1 KL", "right")
    (advice,) = [a.what for a in advise(main.summary, {part: own.summary}, None) if "alone shows" in a.what]
    assert "on 100% of the inputs" in advice and "that of the KL penalty" in advice


def test_of_several_rewards_the_weighted_sum_comes_first():
    rng = np.random.default_rng(0)
    right, form = rng.integers(0, 2, 80).astype(float), rng.integers(0, 2, 80) * 0.5
    form[3] = math.nan
    codes = np.repeat(np.arange(10), 8)
    table = RewardTable(
        codes, [f"q{i}" for i in range(10)], {"right": right, "form": form}, kl=rng.random(80)
    )
    found = diagnose_table(table, [1.0, 2.0], kl_coef=0.05, reward_range=(0, 2))
    assert list(found) == ["right + 2 form - 0.05 KL", "right + 2 form", "right", "form"]
    total = np.where(np.isnan(form), right, right + 2 * form)
    assert found["right + 2 form"].inputs.mean == pytest.approx(total.reshape(10, 8).mean(1))
    assert found["form"].summary["missing"] == 1 and found["right"].summary["range"]["source"] == "assumed"
    assert list(diagnose_table(RewardTable(codes, [], {"right": right}))) == ["right"]
    with pytest.raises(DiagnosisError, match="1 weights for 2 rewards: right, form"):
        diagnose_table(table, [1.0])
    assert math.isnan(weighted_sum([np.array([math.nan])] * 2, [1, 1])[0])


# Two diagnoses


def test_comparison_finds_what_woke_up_and_what_died():
    before = diagnose(passes(0, 0, 0, 20, 20, 40), group_size=8)
    after = diagnose(passes(15, 1, 0, 0, 18, 40, n=40), group_size=8)
    found = compare(before, after)
    assert found.change.tolist() == ["woke_up", "", "", "died", "", ""]  # 1 of 40 may be chance
    assert found.summary["woke_up"]["count"] == 1 and found.summary["died"]["share"] == pytest.approx(1 / 6)
    assert found.summary["looks"]["flat_low"] == {"flat_low": 1, "flat_high": 0, "spread": 2}
    assert found.summary["classes"]["dead_low"]["live"] == 1


def test_comparison_matches_inputs_by_label():
    rewards = passes(0, 20, 40)
    before, after = (
        relabelled(diagnose(rewards), ["a", "b", "c"]),
        relabelled(diagnose(rewards), ["c", "d", "b"]),
    )
    found = compare(before, after)
    assert (before.labels[found.before] == after.labels[found.after]).all()
    assert {key: found.summary[key] for key in ("inputs", "only_before", "only_after")} == {
        "inputs": 2, "only_before": 1, "only_after": 1,
    }  # fmt: skip
    with pytest.raises(DiagnosisError, match="no input in common: the first has a, the second x"):
        compare(before, relabelled(diagnose(rewards), ["x", "y", "z"]))


def test_changes_by_chance_are_rare():
    rng = np.random.default_rng(0)
    draw = lambda: diagnose((rng.random((4000, 10)) < 0.15).astype(float))  # noqa: E731
    summary = compare(draw(), draw()).summary
    assert summary["woke_up"]["share"] + summary["died"]["share"] < 0.05


# Conditions and advice


def test_every_name_of_a_condition_has_a_value():
    summary = diagnose(passes(0, 0, 0, 20, 20, 40), reward_range=(0, 1)).summary
    values = {name: read_value(name, summary) for name in NAMES}
    assert values["dead_low"] == 0.5 and values["dead_high"] == pytest.approx(1 / 6)
    assert values["no_spread"] == pytest.approx(4 / 6) and values["live"] == pytest.approx(1 / 3)
    assert values["signal_64"] == pytest.approx(summary["signal"][-1]["low"])
    assert all(value is not None for value in values.values())
    assert read_value("std_percentile", diagnose(passes(40, 40)).summary) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dead_low > 0.3", Condition("dead_low", ">", 0.3)),
        ("live<=1e-1", Condition("live", "<=", 0.1)),
        (" signal_8 <.5 ", Condition("signal_8", "<", 0.5)),
    ],
)
def test_conditions_are_read(text, expected):
    assert parse_condition(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dead_lo > 0.3", "unknown name 'dead_lo'; did you mean 'dead_low'? known: dead_low, dead_high"),
        ("dead_low = 0.3", "expected NAME < NUMBER (or <=, >, >=), such as 'dead_low > 0.3'"),
        ("dead_low > 0.3 and live < 1", "expected NAME < NUMBER"),
        ("__import__('os') > 1", "expected NAME < NUMBER"),
        ("", "expected NAME < NUMBER"),
    ],
)
def test_bad_conditions_are_said(text, message):
    with pytest.raises(ConditionError) as error:
        parse_condition(text)
    assert message in str(error.value)


def test_conditions_hold_or_not():
    summary = diagnose(passes(0, 0, 0, 20), reward_range=(0, 1)).summary
    for text, expected in (
        ("dead_low > 0.74", True), ("dead_low > 0.75", False), ("dead_low >= 0.75", True),
        ("live < 0.2", False), ("mean <= 0.125", True),
    ):  # fmt: skip
        assert holds(parse_condition(text), summary) == expected
    assert not holds(parse_condition("std_percentile < 1"), diagnose(passes(40, 40)).summary)


def test_advice_says_what_the_numbers_call_for():
    rng = np.random.default_rng(0)
    rates = np.repeat([0.0, 1.0, 0.5, 0.02], 100)
    summary = diagnose((rng.random((400, 40)) < rates[:, None]).astype(float)).summary
    texts = " ".join(piece.what for piece in advise(summary, {}, "dead_low.jsonl"))
    for part in (
        "short supervised phase",
        "dead_low.jsonl",
        "sample more",
        "Group size",
        "near the best reward",
    ):
        assert part in texts
    assert all(piece.ground for piece in advise(summary, {}, None))
    assert "one dataset (NarrativeQA) and one model (T5-base)" in advise(summary, {}, None)[0].ground
    live = diagnose(rng.random((200, 40))).summary
    assert [piece.what.split(":")[0] for piece in advise(live, {}, None)] == ["Group size"]


def test_advice_names_a_reward_that_the_others_mask():
    rng = np.random.default_rng(0)
    right, form = np.zeros((50, 40)), rng.integers(0, 2, (50, 40)).astype(float)
    parts = {"right": diagnose(right).summary, "form": diagnose(form).summary}
    summary = diagnose(right + form).summary
    assert advise(summary, parts, None)[0].what.startswith(
        "right alone shows no spread at a low value on 100%"
    )
    assert not any("alone shows" in piece.what for piece in advise(summary, {"form": parts["form"]}, None))


def test_advice_on_the_group_size_is_right():
    """At a pass rate of 1% twice the group has nearly twice the signal; at 30% hardly more."""
    rng = np.random.default_rng(0)
    for rate, part in ((0.01, "nearly pays for itself"), (0.3, "more inputs in a batch")):
        rewards = (rng.random((2000, 20)) < rate).astype(float)
        (piece,) = [p for p in advise(diagnose(rewards).summary, {}, None) if p.what.startswith("Group size")]
        assert part in piece.what
        fresh = rng.random((2000, 16)) < rate
        by_size = [(fresh[:, :g].any(1) & ~fresh[:, :g].all(1)).mean() for g in (8, 16)]
        assert (by_size[1] / by_size[0] > 1.5) == (rate == 0.01)


def test_the_chance_of_a_change_is_that_of_the_binomials():
    """C(total - outside, flat) / C(total, flat): all `outside` ones among the others."""
    flat, other = np.array([5, 40, 2, 150]), np.array([5, 40, 9, 30])
    outside = np.array([3, 6, 0, 30])
    expected = [
        math.comb(int(a + b - k), int(a)) / math.comb(int(a + b), int(a))
        for a, b, k in zip(flat, other, outside, strict=True)
    ]
    assert _one_sided(flat, other, outside) == pytest.approx(expected, rel=1e-12, abs=1e-12)

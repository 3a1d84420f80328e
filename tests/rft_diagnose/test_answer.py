"""The answer in the first lines, advice that agrees with it, and the exit status of conditions."""

import itertools
import json

import numpy as np
import pytest
from clones import REPO
from diagnosis_logs import make_log, write

from rft_diagnose import cli, diagnose
from rft_diagnose.advice import advise, dead_share, read_value, shows_dead
from rft_diagnose.classes import dead_needs
from rft_diagnose.cli import main
from rft_diagnose.normalisation import rare_at_most
from rft_diagnose.words import Findings, answer_lines, first_sentence


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Drawing takes nearly all of the time."""
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)


def draw(*pairs, n=8, seed=0):
    """Rewards [inputs, n]: so many inputs of each pass rate."""
    rates = np.concatenate([np.full(count, rate) for rate, count in pairs])
    return (np.random.default_rng(seed).random((len(rates), n)) < rates[:, None]).astype(float)


def answer(rewards, others=(), **settings):
    """The first lines that are said of rewards, and of those of their parts by name."""
    summary = diagnose(rewards, reward_range=(0, 1 + len(others) // 2), **settings).summary
    parts = {name: diagnose(part).summary for name, part in others}
    findings = Findings(
        name="reward", summary=summary, others=parts, comparison=None, gradients=None, teacher=None,
        advice=advise(summary, parts, None), notes=[],
    )  # fmt: skip
    return answer_lines(findings), summary


def test_with_eight_generations_the_dead_are_estimated_and_not_a_question_mark():
    lines, summary = answer(draw((0.0, 80), (0.5, 120)))
    estimate = summary["est_dead_low"]
    assert abs(estimate["share"] - 0.4) < 0.03 and estimate["low"] < 0.4 < estimate["high"]
    row = next(row for row in summary["signal"] if row["group_size"] == 8)
    flat, interval = summary["no_spread_low"]["count"], f"{estimate['low']:.0%} to {estimate['high']:.0%}"
    assert lines == [
        f"reward: {row['share']:.0%} ({row['low']:.0%} to {row['high']:.0%}) of the groups of 8 carry "
        "gradient.",
        f"Dead at a low reward: {estimate['share']:.0%} of the inputs by estimate ({interval}), none proven.",
        f"-> Begin with a short supervised phase: {flat} inputs without spread at a low reward.",
    ]
    lines, summary = answer(draw((0.0, 180), (0.5, 20)))
    assert summary["dead_low_at_least"] > 0.6
    assert lines[1].endswith(f"), at least {summary['dead_low_at_least']:.0%} proven.")
    assert answer(draw((0.0, 20), (0.5, 20), n=40))[0][1].endswith(", 50% proven.")


def test_where_little_can_be_told_the_answer_says_so():
    lines, summary = answer(draw((0.0, 10), (0.3, 10), n=3), group_size=16)
    low, high = (row := summary["signal"][2])["low"], row["high"]
    assert lines[0] == f"reward: {low:.0%} to {high:.0%} of the groups of 16 carry gradient."
    assert "; 3 generations of 20 inputs tell no more), none proven." in lines[1]
    lines, summary = answer(draw((0.0, 10), (0.3, 10)), group_size=2)
    assert lines[1] == (
        "Dead at a low reward: no estimate: in groups of 2 at most half have spread whatever the pass rate, "
        f"{summary['classes']['dead_low']['share']:.0%} proven."
    )
    lines, _ = answer(draw((0.0, 10), (0.3, 10)), estimate=False)
    assert lines[1] == "Dead at a low reward: no estimate, none proven."


def test_the_reward_that_is_dead_leads():
    right, form = draw((0.0, 30), (0.5, 20)), draw((0.5, 50), seed=1)
    lines, summary = answer(right + form, others=[("right", right), ("form", form)])
    assert not shows_dead(summary)
    assert lines[0].startswith("right alone: ") and lines[2].startswith("reward: ")
    assert lines[1].startswith("Dead at a low reward: 59% of the inputs by estimate (45% to 73%)")
    assert lines[3].startswith("Dead at a low reward: 0% of the inputs by estimate (0% to ")
    assert lines[4].startswith(
        "-> right alone shows no spread at a low value on 60% of the inputs: there the"
    )
    # Of three generations a live reward's equal ones are many, and by chance.
    right, form = draw((0.3, 50), n=3), draw((0.5, 50), n=3, seed=1)
    lines, _ = answer(right + form, others=[("right", right), ("form", form)])
    assert lines[0].startswith("reward: ") and "alone" not in " ".join(lines)


def test_the_first_sentence_of_an_advice_is_whole():
    assert (
        first_sentence("Look at it (a.jsonl): e.g. twice. Then go on.") == "Look at it (a.jsonl): e.g. twice."
    )
    assert first_sentence("No end") == "No end"


def test_the_first_lines_of_the_screen_are_the_answer(tmp_path, capsys):
    assert main([str(write(tmp_path / "t.jsonl", make_log(1))), "--output_path", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("accuracy_reward: ") and lines[0].endswith(
        "of the groups of 8 carry gradient."
    )
    assert lines[1].startswith("Dead at a low reward: ")
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    estimate = content["rewards"]["accuracy_reward"]["est_dead_low"]
    assert (
        set(estimate) == {"share", "low", "high", "method", "reason"} and estimate["method"] == "two_values"
    )


# Advice


def advice_of(rewards):
    summary = diagnose(rewards).summary
    return " ".join(piece.what for piece in advise(summary, {}, None)), summary


def test_no_supervised_phase_for_what_may_be_chance():
    """Of 4 generations at a pass rate of a third a fifth of the inputs shows none."""
    text, summary = advice_of(draw((0.33, 200), n=4))
    assert summary["no_spread_low"]["count"] > 20 and not shows_dead(summary)
    assert "supervised phase" not in text and "hardly move" not in text
    flat = summary["no_spread_low"]["count"]
    said = f"Do not act on the {flat} inputs without spread at a low reward yet: that may be chance with 4 "
    assert f"{said}generations each, and nothing shows that any is dead." in text


def test_no_supervised_phase_where_nearly_all_is_solved():
    text, summary = advice_of(draw((1.0, 480), (0.0, 20), n=40))
    assert summary["mean"] == pytest.approx(0.96) and summary["classes"]["dead_low"]["count"] == 20
    assert "Begin with" not in text
    assert (
        "Look at the 20 inputs without spread at a low reward, 20 of them dead-low (95%): can their" in text
    )


def test_no_supervised_phase_for_few_inputs():
    text, summary = advice_of(draw((0.0, 4), (0.5, 96), n=40))
    assert 0 < dead_share(summary) < 0.1 and "Begin with" not in text and "Look at the 4 inputs" in text
    assert "Begin with a short supervised phase: 20 inputs" in advice_of(draw((0.0, 20), (0.5, 80), n=40))[0]


def test_without_an_estimate_the_proof_decides():
    rewards = draw((0.0, 30), (0.5, 30), n=40)
    summary = diagnose(rewards, estimate=False).summary
    assert shows_dead(summary) and dead_share(summary) == summary["dead_low_at_least"] > 0.3
    assert not shows_dead(diagnose(draw((0.3, 30), n=4), estimate=False).summary)


@pytest.mark.parametrize("seed", range(3))
def test_advice_and_verdict_agree_on_random_tables(seed):
    rng = np.random.default_rng(seed)
    for n in (3, 8, 40):
        rates = rng.choice([0.0, 0.02, 0.3, 0.9, 1.0], 60, p=rng.dirichlet(np.ones(5)))
        text, summary = advice_of((rng.random((60, n)) < rates[:, None]).astype(float))
        if "Begin with a short supervised" in text:
            assert summary["est_dead_low"]["low"] > 0 and summary["mean"] < 0.9
            assert summary["est_dead_low"]["share"] >= 0.1
        assert "Begin with" not in text or "Do not act" not in text


# Conditions

SHORT = draw((0.0, 6), (0.5, 6))
LONG = draw((0.0, 6), (0.5, 6), n=40)


def status(tmp_path, rewards, *flags):
    rows = [{"prompt": f"q{i}", "reward": r} for i, row in enumerate(rewards.tolist()) for r in row]
    return main([str(write(tmp_path / "t.jsonl", rows)), "--output_path", str(tmp_path / "out"), *flags])


HOLDS, HOLDS_NOT, UNDEFINED = "no_spread > 0.1", "no_spread > 0.99", "dead_low > 0.1"


@pytest.mark.parametrize(
    ("conditions", "undefined", "expected"),
    [
        ([HOLDS_NOT], None, 0),
        ([HOLDS], None, 3),
        ([UNDEFINED], None, 4),
        ([UNDEFINED], "pass", 0),
        ([UNDEFINED], "fail", 3),
        ([UNDEFINED, HOLDS], None, 3),
        ([UNDEFINED, HOLDS_NOT], None, 4),
        ([HOLDS], "pass", 3),
    ],
    ids=str,
)
def test_an_undefined_condition_has_an_exit_status(tmp_path, capsys, conditions, undefined, expected):
    flags = [*itertools.chain(*(("--fail-if", condition) for condition in conditions))]
    flags += [] if undefined is None else ["--undefined", undefined]
    assert status(tmp_path, SHORT, *flags) == expected
    error = capsys.readouterr().err
    said = "no input has the 35 generations it takes; take est_dead_low or no_spread_low"
    assert (f"--fail-if {UNDEFINED}: dead_low is undefined here: {said}" in error) == (
        UNDEFINED in conditions
    )
    assert ("--undefined pass or fail says" in error) == (UNDEFINED in conditions and undefined is None)


def test_the_estimate_and_the_proof_are_two_conditions(tmp_path, capsys):
    assert status(tmp_path, SHORT, "--fail-if", "est_dead_low > 0.3") == 3
    assert "--fail-if est_dead_low > 0.3: holds, it is 0." in capsys.readouterr().err
    assert status(tmp_path, LONG, "--fail-if", "dead_low >= 0.5", "--fail-if", "est_dead_low < 0.3") == 3
    assert "dead_low >= 0.5: holds, it is 0.5" in capsys.readouterr().err
    assert status(tmp_path, SHORT, "--group_size", "2", "--fail-if", "est_dead_low > 0.3") == 4
    assert "undefined here: in groups of 2 at most half have spread" in capsys.readouterr().err
    assert read_value("est_dead_low", diagnose(SHORT, estimate=False).summary) is None


def test_exit_statuses_are_in_the_help_and_the_docs(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "2 input that cannot be used, 3 a --fail-if condition holds, 4 one is undefined" in text
    assert "est_dead_low" in text and "--undefined {pass,fail}" in text


def test_the_docs_say_what_few_generations_prove(capsys):
    """The numbers of the paragraph, by its formulas and by the diagnosis."""
    text = " ".join((REPO / "docs" / "diagnosis.md").read_text().split())
    equal = [0.1**size + 0.9**size for size in (8, 16, 32)]
    first, second, third = (f"{share:.2f}".lstrip("0") for share in equal)
    assert f"at p = 0.1 with probability {first} (G = 8), {second} (16), {third} (32)" in text
    assert f"0 of 8 only says p < {diagnose([[0.0] * 8]).inputs.rate_at_most[0]:.2f} (95%)" in text
    needs = {size: dead_needs(size, True) for size in (4, 8)}
    assert f"A dead verdict for groups of 8 needs {needs[8]} equal generations" in text
    said = f"takes {needs[4]} generations of a prompt in groups of 4, {needs[8]} in groups of 8"
    assert said in text
    assert f"at most (G - 1) / sqrt(G), {rare_at_most(8):.2f} for G = 8" in text

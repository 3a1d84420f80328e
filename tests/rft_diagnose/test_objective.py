"""What is optimised is what is diagnosed: groups of noise, which GRPO takes for a success, by objective."""

import json
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from clones import REPO
from diagnosis_logs import PROMPTS, REWARDS, make_log, write

from rft_diagnose import DiagnosisError, cli, diagnose
from rft_diagnose.objective import OBJECTIVES, make_objective
from rl4lms.config.algorithms import A2cConfig, NlpoConfig, PpoConfig
from rl4lms.config.group import GroupId

# 20 inputs are learnt, 5 differ by noise alone, 5 not at all.
RNG = np.random.default_rng(0)
LEARNT = RNG.permuted(np.tile([0.0, 1.0], (20, 4)), axis=1)
NOISE = 0.5 + 0.003 * RNG.standard_normal((5, 8))
GROUPS = np.vstack([LEARNT, NOISE, np.zeros((5, 8))])


def advantages(group, name):
    """The advantages of a group by their formulas, but for a factor that all groups have."""
    centred = group - group.mean()
    return centred / (group.std(ddof=1) + 1e-4) if name in ("grpo", "gspo", "dapo") else centred


def test_every_on_policy_algorithm_of_this_repository_is_an_objective():
    ids = [get_args(config.model_fields["id"].annotation)[0] for config in (PpoConfig, NlpoConfig, A2cConfig)]
    assert set(OBJECTIVES) == {*ids, *get_args(GroupId)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_noise_groups_are_counted_and_their_share_of_a_step_is_that_of_the_formula(name):
    result = diagnose(GROUPS, objective=name)
    facts, noise = result.summary["objective"], result.summary["objective"]["noise"]
    assert facts["groups"] == 30 and facts["equal"] == {"count": 5, "share": 5 / 30}
    assert facts["trained_on"] == (25 if name == "dapo" else 30)
    assert (
        noise["groups"] == noise["inputs"] == 5
        and result.noise_groups.tolist() == [0] * 20 + [1] * 5 + [0] * 5
    )
    assert noise["live_std"] == pytest.approx(LEARNT[0].std(ddof=1))
    squares = [float((advantages(group, name) ** 2).sum()) for group in GROUPS]
    assert noise["step_share"] == pytest.approx(sum(squares[20:25]) / sum(squares))
    assert (noise["step_share"] > 0.15) == (name in ("grpo", "gspo", "dapo"))


def test_the_documented_shares_of_a_step_are_these():
    shares = [
        diagnose(GROUPS, objective=name).summary["objective"]["noise"]["step_share"]
        for name in ("grpo", "ppo")
    ]
    documented = (REPO / "docs" / "diagnosis.md").read_text()
    assert f"squared advantages is {shares[0]:.2g} under GRPO and {shares[1]:.2g} under PPO" in " ".join(
        documented.split()
    )


@pytest.mark.parametrize("share", [0.049, 0.051])
def test_noise_is_below_a_twentieth_of_the_median_std_of_live_groups(share):
    base = np.tile([0.0, 1.0], (10, 4))
    rewards = np.vstack([base, 0.5 + share * (base[:3] - 0.5)])
    assert diagnose(rewards).summary["objective"]["noise"]["groups"] == (3 if share < 0.05 else 0)


def test_without_a_live_group_nothing_is_called_noise():
    rewards = 0.5 + 0.001 * RNG.standard_normal((12, 8))
    noise = diagnose(rewards, reward_range=(0, 1)).summary["objective"]["noise"]
    assert noise["groups"] == 0 and noise["live_std"] is None


def test_ppo_has_no_groups_but_all_generations_of_an_input():
    steps, rewards = np.repeat([1, 2], 6), np.array([0.0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    inputs = np.tile([0, 0, 0, 1, 1, 1], 2)
    facts = diagnose(rewards, inputs, steps=steps, last_steps=2, objective="a2c").summary["objective"]
    assert facts["groups"] == 2 and facts["equal"]["count"] == 1
    facts = diagnose(rewards, inputs, steps=steps, last_steps=2, objective="rloo").summary["objective"]
    assert facts["groups"] == facts["equal"]["count"] == 4


def test_groups_are_those_of_a_step():
    steps = np.repeat([1, 2], 48)
    rewards = np.concatenate([np.tile([0.0, 1.0], 24), np.tile([0.0, 1.0], 20), 0.5 + 1e-3 * np.arange(8)])
    result = diagnose(rewards, np.tile(np.repeat(np.arange(6), 8), 2), steps=steps, last_steps=2)
    assert result.summary["objective"]["groups"] == 12
    assert result.noise_groups.tolist() == [0, 0, 0, 0, 0, 1]


def test_rewards_that_are_normalised_before_they_are_added():
    """A reward of noise beside one that is learnt: unseen in the sum, half of a step on its own."""
    parts = [LEARNT.ravel(), 0.001 * RNG.standard_normal(160)]
    inputs = np.repeat(np.arange(20), 8)
    # In two groups the second reward is no noise: these set the scale.
    parts[1][:16] = LEARNT[:2].ravel()
    summed = diagnose(sum(parts), inputs, objective="grpo").summary["objective"]["noise"]
    assert summed["groups"] == 0
    objective = make_objective("grpo", aggregation="normalize_then_sum")
    noise = diagnose(sum(parts), inputs, objective=objective, parts=parts).summary["objective"]["noise"]
    assert noise["groups"] == 18 and noise["live_std"] is None
    squares = [(advantages(part[8 * i : 8 * i + 8], "grpo") ** 2).sum() for part in parts for i in range(20)]
    assert noise["step_share"] == pytest.approx(sum(squares[22:]) / sum(squares))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "grop"], "--objective: unknown 'grop'; did you mean 'grpo'? known: ppo, nlpo, a2c, "
         "rloo, dr_grpo, grpo, gspo, dapo, reinforce_pp"),
        (["--scale_rewards", "std"], "--scale_rewards: unknown 'std'; known: group, batch, none"),
        (["--objective", "ppo", "--scale_rewards", "batch"], "--scale_rewards is for objectives that divide "
         "by a group's std: grpo, gspo, dapo; not for ppo"),
        (["--scale_rewards", "none", "--multi_objective_aggregation", "normalize_then_sum"],
         "--multi_objective_aggregation normalize_then_sum divides each reward by its group's std: give no "
         "--scale_rewards none with it"),
    ],
)  # fmt: skip
def test_what_is_no_objective_is_said(tmp_path, capsys, arguments, message):
    write(tmp_path / "t.jsonl", make_log())
    assert cli.main([str(tmp_path / "t.jsonl"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == message
    with pytest.raises(DiagnosisError, match="--objective: unknown 'x'"):
        diagnose(GROUPS, objective="x")


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Diagnoses a path by the command line; returns its screen as one line, and the objective's facts."""
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)

    def run(path, *arguments):
        out = tmp_path / "out"
        assert cli.main([str(path), "--output_path", str(out), *arguments]) == 0
        summary = json.loads((out / "summary.json").read_text())
        screen = " ".join(capsys.readouterr().out.split())
        return screen, summary["rewards"][summary["diagnosed"]]["objective"], out

    return run


def test_the_objective_is_that_of_the_logs_kind_and_said(tmp_path, check):
    rows = make_log(advantage=[0.0] * 96)
    screen, facts, _ = check(write(tmp_path / "trl.jsonl", rows))
    assert "objective: grpo (a log of TRL): advantages over their group's std; 67% of 12 groups" in screen
    assert "effective std under GRPO" in screen
    plain = write(
        tmp_path / "t.jsonl", [{"prompt": p, "reward": r} for p, r in zip(PROMPTS, REWARDS, strict=True)]
    )
    screen, facts, _ = check(plain)
    assert "objective: grpo (assumed: --objective names another): advantages over" in screen
    screen, facts, _ = check(plain, "--objective", "nlpo")
    assert "objective: nlpo, like ppo (given): advantages over no std; 67% of 12 inputs have equal" in screen
    assert "effective std under GRPO" not in screen
    screen, facts, _ = check(plain, "--objective", "dapo", "--scale_rewards", "batch")
    assert (
        "dapo, like grpo (given): advantages over the batch's std; 67% of 12 groups have equal rewards and "
        "are replaced" in screen
    )
    assert facts["trained_on"] == 4 and facts["scaling"] == "batch"


@pytest.mark.parametrize(
    ("algorithm", "name", "scaling", "drops"),
    [
        ({"id": "ppo", "args": {"n_steps": 1}}, "ppo", "none", False),
        ({"id": "gspo", "args": {"scale": "group_std"}}, "gspo", "group", False),
        (
            {"id": "grpo", "args": {"scale": "batch_std", "dynamic_sampling": {"enabled": True}}},
            "grpo",
            "batch",
            True,
        ),
        (None, "ppo", "none", False),
        ("broken", "ppo", "none", False),
    ],
    ids=str,
)
def test_of_a_run_here_it_is_that_of_its_config(tmp_path, check, algorithm, name, scaling, drops):
    run = tmp_path / "run"
    rows = [
        {"step": 1, "prompt_id": p, "reward": r, "kl_penalty": 0.0}
        for p, r in zip(PROMPTS, REWARDS, strict=True)
    ]
    write(run / "x_rollout_rewards.jsonl", rows)
    if algorithm is not None:
        (run / "x_config.json").write_text(json.dumps({"alg": algorithm}))
    _, facts, _ = check(run)
    assert (facts["name"], facts["scaling"], facts["drops_equal"]) == (name, scaling, drops)
    known = isinstance(algorithm, dict)
    assert facts["source"] == ("the run's config, x_config.json" if known else "a log of a run here")


def test_noise_groups_are_named(tmp_path, check):
    rows = [
        {"prompt": f"question {i}", "reward": value}
        for i, group in enumerate(GROUPS)
        for value in group.tolist()
    ]
    screen, _, out = check(write(tmp_path / "t.jsonl", rows))
    assert (
        "noise: 5 groups of 5 inputs have a std above 0, but below 5% of the median of live groups (0.535); "
        "their share of the squared advantages: 0.19" in screen
    )
    names = ", ".join(f"question {i}" for i in range(20, 25))
    assert f"note: inputs with groups of noise (std below 5% of the median): {names}" in screen
    table = pd.read_csv(out / "inputs.csv")
    assert table.set_index("input")["noise_groups"].sum() == 5
    assert table["noise_groups"][20:25].tolist() == [1] * 5
    assert "Dividing by the group's std (GRPO, DAPO) wakes 5 inputs" in screen
    screen, _, _ = check(tmp_path / "t.jsonl", "--objective", "rloo")
    assert "Dividing by the group's std" not in screen

"""Runs of the group algorithms on tiny models: what they log and leave, cut and resumed, in two processes."""

from types import SimpleNamespace

import pytest
import torch
from on_policy_jobs import PREFIX, all_rows, checkpoint, job, resume, rows, start
from torch.testing import assert_close

from common.files import read_rows
from common.seeding import derive_seed
from rl4lms.config.group import DEFAULTS
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.group.collect import Group, _warn_of_few, collect, prompt_at
from rl4lms.model.load import load_model
from rl4lms.model.parallel import World


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("rl4lms.record.draw_training", lambda *_: None)


def weights(run):
    return load_model(str(run.path / f"{PREFIX}model"), "causal", torch.float32, "cpu").state_dict()


@pytest.mark.parametrize("alg", DEFAULTS)
def test_a_run_leaves_logs_a_model_and_all_rewards(tiny_gpt2, tmp_path, alg):
    run = start(tmp_path, job(tmp_path, tiny_gpt2, alg, train_evaluation__n_iters=2))
    rollouts, updates = rows(run, "rollout_info"), rows(run, "training_info")
    assert [row["epoch"] for row in rollouts] == [row["epoch"] for row in updates] == [1, 2]
    assert all(row["group/updates"] == 1 and row["group/grad_norm"] > 0 for row in updates)
    rewards = list(read_rows(run.path / f"{PREFIX}rollout_rewards.jsonl", "step"))
    assert len(rewards) == sum(row["group/generated"] for row in rollouts) * 4
    assert sum(row["kept"] for row in rewards) == sum(row["group/kept"] for row in rollouts) * 4
    groups = [rewards[first : first + 4] for first in range(0, len(rewards), 4)]
    assert all(len({row["prompt_id"] for row in group}) == 1 for group in groups)
    without = [len({row["reward"] for row in group}) == 1 for group in groups]
    assert sum(without) == pytest.approx(
        sum(row["group/no_spread"] * row["group/generated"] for row in rollouts)
    )
    if alg == "dapo":
        assert [group[0]["kept"] for group in groups] == [not alike for alike in without]
    start_weights = load_model(str(tiny_gpt2), "causal", torch.float32, "cpu").state_dict()
    assert any(not torch.equal(value, start_weights[name]) for name, value in weights(run).items())
    assert "rollout_info/kl_div_mean" in rollouts[0] or alg not in ("rloo", "reinforce_pp")


def test_a_penalty_in_the_reward_is_logged_with_it(tiny_gpt2, tmp_path):
    """From the second iteration on; where it is in the loss, nothing is taken off."""
    changes = {"train_evaluation__n_iters": 2, "alg__args__learning_rate": 1e-2}
    for alg, where in (("rloo", "reward"), ("grpo", "loss")):
        config = job(tmp_path / alg, tiny_gpt2, alg, alg__kl_div={"where": where, "coeff": 0.5}, **changes)
        run = start(tmp_path / alg, config)
        logged = list(read_rows(run.path / f"{PREFIX}rollout_rewards.jsonl", "step"))
        second = [row["kl_penalty"] for row in logged if row["step"] == 2]
        assert len(second) == 20 and all((value != 0) == (where == "reward") for value in second)
        kl = rows(run, "rollout_info")[1]["rollout_info/kl_div_mean"]
        if where == "reward":
            lengths = rows(run, "rollout_info")[1]["rollout_info/ep_lens"]
            assert sum(second) / 20 == pytest.approx(0.5 * kl * lengths, rel=1e-4)


@pytest.mark.parametrize("alg", ["rloo", "dapo"])
def test_encoder_decoders_train_too(tiny_t5, tmp_path, alg):
    changes = {"train_evaluation__n_iters": 1, "alg__args__n_epochs": 2, "alg__args__batch_size": 8}
    run = start(tmp_path, job(tmp_path, tiny_t5, alg, **changes))
    (update,) = rows(run, "training_info")
    assert update["group/updates"] == 2 * -(-20 // 8)


@pytest.mark.parametrize(("alg", "model"), [*((alg, "tiny_gpt2") for alg in DEFAULTS), ("grpo", "tiny_t5")])
def test_it_learns(alg, model, tmp_path, request):
    """The share of a letter in its texts."""
    config = job(
        tmp_path, request.getfixturevalue(model), alg, alg__args__group_size=8,
        alg__args__prompts_per_iteration=8, alg__args__learning_rate=1e-2, alg__kl_div__coeff=0.001,
        train_evaluation__n_iters=6, train_evaluation__max_eval_samples=1,
    )  # fmt: skip
    rewards = [row["rollout_info/ep_rew"] for row in rows(start(tmp_path, config), "rollout_info")]
    assert rewards[-1] > rewards[0] + 0.1


def test_prompts_come_in_a_fresh_order_each_epoch():
    first, second = ([prompt_at(7 * epoch + i, 7, seed=3) for i in range(7)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    assert prompt_at(0, 7, seed=4) != prompt_at(0, 7, seed=3) or derive_seed(4) != derive_seed(3)


@pytest.mark.parametrize("alg", ["grpo", "reinforce_pp", "dapo"])
def test_a_run_that_is_cut_ends_as_one_that_is_not(tiny_gpt2, tmp_path, alg):
    config = job(tmp_path, tiny_gpt2, alg, alg__args__n_epochs=2, alg__args__batch_size=12)
    whole = start(tmp_path, config)
    if alg == "dapo":
        assert max(row["group/rounds"] for row in rows(whole, "rollout_info")) > 1
    stops = iter([False, False, True])
    with pytest.raises(TrainingInterrupted):
        start(tmp_path / "cut", config, should_stop=lambda: next(stops, False))
    (path,) = (tmp_path / "cut" / "runs").iterdir()
    run = resume(path, config)
    assert_close(checkpoint(run), checkpoint(whole), rtol=0, atol=0)
    assert all_rows(run) == all_rows(whole)
    assert (run.path / f"{PREFIX}rollout_rewards.jsonl").read_bytes() == (
        whole.path / f"{PREFIX}rollout_rewards.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("alg", ["dapo", "ppo"])
def test_a_run_ends_with_its_tokens_cut_or_not(tiny_gpt2, tmp_path, alg):
    metrics = {"train_evaluation__metrics": [{"id": "on_policy_jobs:length"}]}
    two = job(tmp_path, tiny_gpt2, alg, train_evaluation__n_iters=2)
    tokens = checkpoint(start(tmp_path / "two", two))["tokens"]
    for most, iterations in ((tokens, 2), (tokens + 1, 3)):
        length = {"train_evaluation__n_iters": 50, "train_evaluation__max_tokens": most}
        config = job(tmp_path, tiny_gpt2, alg, **length, **metrics)
        folder = tmp_path / f"{most}"
        run = start(folder, config)
        assert [row["epoch"] for row in rows(run, "rollout_info")] == list(range(1, iterations + 1))
        assert [row["epoch"] for row in rows(run, "train_split_metrics")] == [0, iterations]
        assert (run.path / f"{PREFIX}model").is_dir()
        stops = iter([False, True])
        with pytest.raises(TrainingInterrupted):
            start(folder / "cut", config, should_stop=lambda stops=stops: next(stops, False))
        (path,) = (folder / "cut" / "runs").iterdir()
        again = resume(path, config)
        assert_close(checkpoint(again), checkpoint(run), rtol=0, atol=0)
        assert all_rows(again) == all_rows(run)


@pytest.mark.parametrize("alg", DEFAULTS)
def test_equal_rewards_change_nothing(tiny_gpt2, tmp_path, alg):
    """Not even by rounding, which Adam would make a step of; but for weight decay, which is 0 here.

    The mean of 96 tokens' rewards of .7 is not .7. A KL penalty is 0 as long as nothing changes.
    """
    config = job(
        tmp_path, tiny_gpt2, alg, reward_fn__id="on_policy_jobs:seven_tenths", train_evaluation__n_iters=2,
        alg__policy__args__weight_decay=0.0, alg__args__std_epsilon=0.0, alg__args__prompts_per_iteration=4,
    )  # fmt: skip
    run = start(tmp_path, config)
    assert all(
        row["group/no_spread"] == 1 and row["group/no_spread_low"] == 1 for row in rows(run, "rollout_info")
    )
    assert_close(
        weights(run), load_model(str(tiny_gpt2), "causal", torch.float32, "cpu").state_dict(), rtol=0, atol=0
    )


def test_dynamic_sampling_keeps_the_groups_with_spread_and_asks_for_what_is_missing(
    tiny_gpt2, tmp_path, monkeypatch, caplog
):
    """Groups of the even prompts have spread, in the order of all prompts; the rest are asked for again."""
    asked = []

    def make(actors, positions):
        asked.append(positions)
        return [
            Group([], [], [0.0, float(1 - position % 2)], [], position % 2 == 0, [{}])
            for position in positions
        ]

    monkeypatch.setattr("rl4lms.group.collect._make_groups", make)

    def collected(**sampling):
        asked.clear()
        changes = {"alg__args__dynamic_sampling": {"enabled": True, **sampling}}
        actors = SimpleNamespace(alg=job(tmp_path, tiny_gpt2, "grpo", **changes).alg)
        return collect(actors, 7, 10, World())

    result = collected()
    assert asked == [[10, 11, 12, 13, 14], [15, 16], [17], [18]]
    assert (result.rounds, result.position) == (4, 19)
    assert result.kept == [group.spread for group in result.groups] == [p % 2 == 0 for p in range(10, 19)]
    assert not caplog.records
    _warn_of_few.cache_clear()
    for _ in range(2):  # said once
        result = collected(max_rounds=2)
        assert asked == [[10, 11, 12, 13, 14], [15, 16]]
    assert (result.rounds, result.position, sum(result.kept)) == (2, 17, 4)
    short = "iteration 7: of 7 groups in 2 rounds 4 have spread, 5 are asked for"
    assert [record.getMessage() for record in caplog.records] == [
        "fewer than 5 groups have spread after 2 rounds: trained on those alone, here and in later "
        "iterations (alg.args.dynamic_sampling.when_short: train); group/kept in the log is their number"
    ]
    with pytest.raises(DivergenceError) as error:
        collected(max_rounds=2, when_short="stop")
    assert str(error.value) == (
        f"{short} (alg.args.dynamic_sampling: max_rounds, when_short: stop); the rewards of the others are "
        "all equal: see diagnose_vanishing_gradients.py"
    )
    result = collected(enabled=False, max_rounds=1)
    assert (result.rounds, result.position, result.kept) == (1, 15, [True] * 5)


def test_a_run_that_finds_no_spread_trains_on_nothing_or_stops(tiny_gpt2, tmp_path):
    changes = {"reward_fn__id": "on_policy_jobs:constant", "train_evaluation__n_iters": 1}
    sampling = {"enabled": True, "max_rounds": 3}
    config = job(tmp_path, tiny_gpt2, "dapo", alg__args__dynamic_sampling=sampling, **changes)
    run = start(tmp_path, config)
    (row,) = rows(run, "rollout_info")
    assert (row["group/rounds"], row["group/generated"], row["group/kept"]) == (3, 15, 0)
    (update,) = rows(run, "training_info")
    assert update["group/updates"] == 0
    sampling = {**sampling, "when_short": "stop"}
    config = job(tmp_path / "stop", tiny_gpt2, "dapo", alg__args__dynamic_sampling=sampling, **changes)
    with pytest.raises(DivergenceError, match="of 15 groups in 3 rounds 0 have spread, 5 are asked for"):
        start(tmp_path / "stop", config)


def test_parts_of_a_minibatch_and_of_the_scoring_change_nothing(tiny_gpt2, tmp_path, monkeypatch):
    config = job(tmp_path, tiny_gpt2, "grpo", train_evaluation__n_iters=1, alg__kl_div__coeff=0.1)
    whole = start(tmp_path, config)
    monkeypatch.setattr("rl4lms.group.collect._LOGITS_AT_A_TIME", 4_000)
    run = start(tmp_path / "parts", config)
    found, expected = rows(run, "training_info")[0], rows(whole, "training_info")[0]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    moments = [
        [part["exp_avg"] for part in checkpoint(r)["optimizer"]["state"].values()] for r in (run, whole)
    ]
    assert_close(*moments, rtol=1e-3, atol=1e-7)


def test_overlong_and_cut_texts(tiny_gpt2, tmp_path):
    changes = {"train_evaluation__n_iters": 1, "reward_fn__id": "on_policy_jobs:constant"}
    config = job(
        tmp_path,
        tiny_gpt2,
        "dr_grpo",
        alg__args__overlong={"buffer": 5},
        alg__args__mask_truncated=True,
        **changes,
    )
    run = start(tmp_path, config)
    (update,), (rollout,) = rows(run, "training_info"), rows(run, "rollout_info")
    tokens = rollout["rollout_info/ep_lens"] * 20
    assert rollout["rollout_info/ended"] < 1 and 0 <= update["group/tokens"] < tokens

"""Runs of the group algorithms on tiny models: what they log and leave, cut and resumed, in two processes."""

import copy
import json

import pytest
import torch
from on_policy_jobs import PREFIX, all_rows, checkpoint, job, resume, rows, start
from torch.testing import assert_close

from common.config import validate
from common.files import read_rows
from common.seeding import derive_seed
from rl4lms.config import TrainConfig
from rl4lms.config.group import DEFAULTS
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.group.collect import prompt_at
from rl4lms.model.load import load_model


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


def test_prompts_come_in_a_fresh_order_each_epoch():
    first, second = ([prompt_at(7 * epoch + i, 7, seed=3) for i in range(7)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    assert prompt_at(0, 7, seed=4) != prompt_at(0, 7, seed=3) or derive_seed(4) != derive_seed(3)


@pytest.mark.parametrize("alg", ["grpo", "reinforce_pp", "dapo"])
def test_a_run_that_is_cut_ends_as_one_that_is_not(tiny_gpt2, tmp_path, alg):
    config = job(tmp_path, tiny_gpt2, alg, alg__args__n_epochs=2, alg__args__batch_size=12)
    whole = start(tmp_path, config)
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


def test_equal_rewards_change_nothing(tiny_gpt2, tmp_path):
    """Not even by rounding, which Adam would make a step of; but for weight decay, which is 0 here."""
    config = job(
        tmp_path, tiny_gpt2, "grpo", reward_fn__id="on_policy_jobs:constant", train_evaluation__n_iters=2,
        alg__policy__args__weight_decay=0.0, alg__args__std_epsilon=0.0,
    )  # fmt: skip
    run = start(tmp_path, config)
    assert all(
        row["group/no_spread"] == 1 and row["group/no_spread_low"] == 1 for row in rows(run, "rollout_info")
    )
    assert_close(
        weights(run), load_model(str(tiny_gpt2), "causal", torch.float32, "cpu").state_dict(), rtol=0, atol=0
    )


def test_dynamic_sampling_goes_on_until_it_is_told_to_stop(tiny_gpt2, tmp_path):
    changes = {"reward_fn__id": "on_policy_jobs:constant", "train_evaluation__n_iters": 1}
    sampling = {"enabled": True, "max_rounds": 3}
    config = job(tmp_path, tiny_gpt2, "dapo", alg__args__dynamic_sampling=sampling, **changes)
    run = start(tmp_path, config)  # trains on nothing
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


BAD = {
    "group_size": (
        {"alg__args__group_size": 1},
        "alg.args.group_size",
        "must be at least 2: a group of one text",
    ),
    "batch_size": ({"alg__args__batch_size": 21}, "alg.args.batch_size", "21 is more than the 20 texts"),
    "sampling": (
        {"alg__policy__args__generation_kwargs": {"max_new_tokens": 6}},
        "alg.policy.args.generation_kwargs.do_sample",
        "must be true: a group of equal texts has no spread",
    ),
    "value": ({"alg__args__vf_coef": 0.5}, "alg.args.vf_coef", "unknown key"),
    "norm": ({"alg__kl_div__norm_reward": True}, "alg.kl_div.norm_reward", "unknown key"),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_settings_are_refused(tiny_gpt2, tmp_path, name):
    changes, field, message = BAD[name]
    good = job(tmp_path, tiny_gpt2, "grpo").model_dump(mode="json")
    data = copy.deepcopy(good)
    for path, value in changes.items():
        *blocks, key = path.split("__")
        block = data
        for one in blocks:
            block = block[one]
        block[key] = value
    config, problems = validate(TrainConfig, data)
    assert config is None and [problem.path for problem in problems] == [field]
    assert message in problems[0].message


def test_the_id_fills_defaults_that_can_be_set(tiny_gpt2, tmp_path):
    config = job(tmp_path, tiny_gpt2, "gspo", alg__args__clip_low=None, alg__kl_div__coeff=0.1)
    assert config.alg.args.clip_low is None and config.alg.args.clip_high == 4e-4
    assert config.alg.args.ratio == "sequence" and config.alg.kl_div.where == "loss"
    again, _ = validate(TrainConfig, json.loads(config.model_dump_json()))
    assert again == config
    noisy = job(tmp_path, tiny_gpt2, "grpo", alg__kl_div={"where": "reward", "coeff": 0.1})
    assert any("blown up to unit size" in notice for notice in noisy.notices())

"""The loop of PPO and NLPO: it learns, evaluates on time, keeps checkpoints, notices what is hopeless."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from on_policy_jobs import PREFIX, checkpoint, job, rows, start
from torch.testing import assert_close

from common.files import read_rows
from common.run_dir import RunDir
from rl4lms.errors import DivergenceError
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.sampling import GenerationError
from rl4lms.ppo.update import KLController
from rl4lms.rewards import RewardError


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """A second each, and of no concern here."""
    monkeypatch.setattr("rl4lms.record.draw_training", lambda *_: None)


@pytest.fixture(params=["tiny_gpt2", "tiny_t5"])
def model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("alg", ["ppo", "nlpo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_it_learns(alg, model, tmp_path):
    """The share of a letter in its texts: 1 to 3 seconds of a core."""
    changes = {} if alg == "a2c" else {"alg__args__n_epochs": 4}
    gentle = alg != "a2c" and "t5" in model.name
    config = job(
        tmp_path,
        model,
        alg,
        env__n_envs=8,
        alg__args__n_steps=48,
        alg__args__batch_size=64,
        alg__args__learning_rate=2e-3 if gentle else 1e-2,
        alg__kl_div__coeff=0.001,
        train_evaluation__n_iters=5,
        **changes,
    )
    found = rows(start(tmp_path, config), "rollout_info")
    rewards = [row["rollout_info/ep_rew"] for row in found]
    spread = found[0]["rollout_info/ep_rew_std"] / 64**0.5
    assert rewards[-1] > rewards[0] + 5 * spread
    assert found[0]["rollout_info/kl_div_mean"] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def nlpo_run(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> RunDir:
    """Five iterations of NLPO, all checkpoints kept; the mask model is refreshed after 2 and 4."""
    folder = tmp_path_factory.mktemp("nlpo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl4lms.record.draw_training", lambda *_: None)
        patch.setattr("rl4lms.record.CHECKPOINTS_KEPT", 9)
        metrics = [{"id": "on_policy_jobs:length"}]
        config = job(
            folder, tiny_gpt2, "nlpo", train_evaluation__metrics=metrics, train_evaluation__n_iters=5,
            train_evaluation__eval_every=2, alg__kl_div__target_kl=0.01,
        )  # fmt: skip
        return start(folder, config)


def weights(state: dict[str, Any], part: str = "model.") -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(part): weight
        for name, weight in state["model"].items()
        if name.startswith(part) and not name.startswith("value")
    }


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


def test_the_mask_model_is_the_policy_after_every_second_iteration(nlpo_run, tiny_gpt2):
    states = {i: checkpoint(nlpo_run, i) for i in range(1, 6)}
    policies = {i: weights(state) for i, state in states.items()}
    policies[0] = load_model(str(tiny_gpt2), "causal", torch.float32, "cpu").state_dict()
    for iteration, refreshed in {1: 0, 2: 2, 3: 2, 4: 4, 5: 4}.items():
        assert same(states[iteration]["mask_model"], policies[refreshed]), iteration
    assert not any(same(policies[i], policies[i + 1]) for i in range(5))


def test_evaluations_before_between_and_after(nlpo_run):
    """All splits at both ends, val every second iteration, none twice."""
    epochs = {
        split: [row["epoch"] for row in rows(nlpo_run, f"{split}_split_metrics")]
        for split in ("train", "val", "test")
    }
    assert epochs == {"train": [0, 5], "val": [0, 2, 4, 5], "test": [0, 5]}
    first, *_, last = rows(nlpo_run, "val_split_metrics")
    assert first["metrics"].keys() == {"letters"} and first["metrics"] != last["metrics"]


def test_no_evaluation_on_train_where_it_is_not_wanted(tmp_path, tiny_gpt2):
    metrics = [{"id": "on_policy_jobs:length"}]
    config = job(tmp_path, tiny_gpt2, train_evaluation__metrics=metrics, train_evaluation__n_iters=1)
    run = start(tmp_path, config, eval_on_train=False)
    assert [len(rows(run, f"{split}_split_metrics")) for split in ("train", "val", "test")] == [0, 2, 2]


def test_a_row_for_each_iteration(nlpo_run):
    rollouts, updates = rows(nlpo_run, "rollout_info"), rows(nlpo_run, "training_info")
    assert [row["epoch"] for row in rollouts] == [row["epoch"] for row in updates] == [1, 2, 3, 4, 5]
    assert {row["ppo/updates"] for row in updates} == {6}
    needed = {"ppo/entropy_loss", "ppo/policy_gradient_loss", "ppo/value_loss", "ppo/approx_kl"}
    needed |= {"ppo/clip_fraction", "ppo/explained_variance", "ppo/grad_norm"}
    assert all(needed <= row.keys() and all(map(math.isfinite, row.values())) for row in updates)
    lines = (nlpo_run.path / f"{PREFIX}rollout_info.jsonl").read_text()
    assert lines.count('"rollout_info/tokens_per_second"') == 5


def test_the_kl_coefficient_follows_the_controller(nlpo_run):
    """What a rollout was rewarded with; its KL steers the next one's."""
    found = rows(nlpo_run, "rollout_info")
    controller = KLController(0.01, 0.01)
    for row in found:
        assert row["rollout_info/kl_coeff"] == pytest.approx(controller.coeff)
        controller.step(row["rollout_info/kl_div_mean"])
    assert checkpoint(nlpo_run)["kl_coeff"] == pytest.approx(controller.coeff) != 0.01
    assert len({row["rollout_info/kl_coeff"] for row in found}) == 5


def test_the_model_that_is_left_is_the_last_policy(nlpo_run):
    folder = str(nlpo_run.path / f"{PREFIX}model")
    model = load_model(folder, "causal", torch.float32, "cpu")
    assert same(model.state_dict(), weights(checkpoint(nlpo_run)))
    assert load_tokenizer(folder)("the old dog")["input_ids"]


@pytest.mark.parametrize(("save_every", "kept"), [(1, [3, 4]), (2, [2, 4]), (4, [4])])
def test_the_newest_two_checkpoints_are_kept(save_every, kept, tmp_path, tiny_gpt2):
    run = start(tmp_path, job(tmp_path, tiny_gpt2, train_evaluation__save_every=save_every))
    assert [path.name for path in run.checkpoints()] == [f"epoch_{i:06d}.pt" for i in kept]


def test_the_last_iteration_is_on_disk_before_the_evaluation_after_it(tmp_path, tiny_gpt2):
    """The longest evaluation of all: a kill there must not cost iterations."""
    run = start(tmp_path, job(tmp_path, tiny_gpt2, train_evaluation__save_every=3))
    assert run.checkpoints()[-1].name == "epoch_000004.pt"


def test_the_speed_is_that_of_the_tokens_trained_on(tmp_path, tiny_gpt2):
    """48 tokens, twice, in minibatches of 32."""
    run = start(tmp_path, job(tmp_path, tiny_gpt2, alg__args__batch_size=32, train_evaluation__n_iters=1))
    (row,) = read_rows(run.path / f"{PREFIX}training_info.jsonl", "epoch")
    assert row["ppo/seconds"] * row["ppo/tokens_per_second"] == pytest.approx(96)


# What no training comes back from


def test_a_kl_beyond_the_limit_stops_the_run(tmp_path, tiny_gpt2):
    """With the checkpoint from before, and the row that shows it."""
    config = job(tmp_path, tiny_gpt2, alg__args__learning_rate=0.02, runtime__max_kl=0.1)
    with pytest.raises(DivergenceError) as error:
        start(tmp_path, config)
    (path,) = (tmp_path / "runs").iterdir()
    with RunDir.open(path) as run:
        found = rows(run, "rollout_info")
        last = found[-1]["epoch"]
        assert [path.name for path in run.checkpoints()][-1] == f"epoch_{last - 1:06d}.pt"
        assert [row["epoch"] for row in rows(run, "training_info")] == list(range(1, last))
    kl = found[-1]["rollout_info/kl_div_mean"]
    assert str(error.value) == (
        f"iteration {last}: the mean KL per token is {kl:.3g}, more than 0.1: the policy has left the "
        "starting model; lower alg.args.learning_rate or raise alg.kl_div.coeff and start again; "
        "checkpoints, if there are any, are from before (runtime.on_divergence: continue goes on regardless)"
    )


def test_a_run_that_is_stopped_leaves_a_checkpoint_from_before(tmp_path, tiny_gpt2):
    """Found before the update, so the weights are those of the completed iterations."""
    changes = {"alg__args__learning_rate": 0.02, "runtime__max_kl": 0.1, "train_evaluation__save_every": 9}
    with pytest.raises(DivergenceError, match="checkpoints, if there are any, are from before"):
        start(tmp_path, job(tmp_path, tiny_gpt2, **changes))
    (path,) = (tmp_path / "runs").iterdir()
    with RunDir.open(path) as run:
        assert len(run.checkpoints()) == 1


def test_a_kl_beyond_the_limit_is_only_said_on_request(tmp_path, tiny_gpt2, caplog):
    changes = {"alg__args__learning_rate": 0.02, "runtime__max_kl": 0.1}
    run = start(tmp_path, job(tmp_path, tiny_gpt2, **changes, runtime__on_divergence="continue"))
    assert len(rows(run, "training_info")) == 4
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said and all("the mean KL per token is" in message for message in said)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny_gpt2):
    with pytest.raises(
        DivergenceError, match=r"^iteration 1: the gradient's norm is (inf|nan) in minibatch 1; lower"
    ):
        start(tmp_path, job(tmp_path, tiny_gpt2, reward_fn__id="on_policy_jobs:huge"))


def test_minibatches_whose_loss_is_no_number_are_left_out_on_request(tmp_path, tiny_gpt2, caplog):
    changes = {"reward_fn__id": "on_policy_jobs:huge", "train_evaluation__n_iters": 2}
    run = start(tmp_path, job(tmp_path, tiny_gpt2, **changes, runtime__on_divergence="continue"))
    assert [row["ppo/updates"] for row in rows(run, "training_info")] == [0, 0]
    assert caplog.text.count("left out: its gradient's norm is") == 12
    start_weights = load_model(str(tiny_gpt2), "causal", torch.float32, "cpu").state_dict()
    assert_close(weights(checkpoint(run)), start_weights, rtol=0, atol=0)


def test_weights_that_are_no_numbers_end_the_run_with_a_reason(tmp_path, tiny_gpt2):
    changes = {"alg__args__learning_rate": 1e38, "runtime__on_divergence": "continue"}
    with pytest.raises((GenerationError, DivergenceError), match="diverged"):
        start(tmp_path, job(tmp_path, tiny_gpt2, **changes))


EQUAL = r"iteration 1: all 8 rewards are 0.25: nothing can be learnt from them but the KL penalty"


def test_equal_rewards_are_said(tmp_path, tiny_gpt2, caplog):
    changes = {"reward_fn__id": "on_policy_jobs:constant", "train_evaluation__n_iters": 1}
    start(tmp_path, job(tmp_path, tiny_gpt2, **changes))
    assert caplog.text.count(EQUAL) == 1


def test_equal_rewards_stop_the_run_on_request(tmp_path, tiny_gpt2):
    changes = {"reward_fn__id": "on_policy_jobs:constant", "runtime__on_degenerate_rollout": "stop"}
    with pytest.raises(DivergenceError, match=EQUAL + r" \(runtime.on_degenerate_rollout: stop\)"):
        start(tmp_path, job(tmp_path, tiny_gpt2, **changes))


def test_empty_texts_are_noticed(tmp_path, tiny_gpt2, monkeypatch, caplog):
    """The reward is not asked to tell them apart."""
    texts = iter(["", " \n"] * 99)
    monkeypatch.setattr("rl4lms.ppo.collect.decode", lambda *_: next(texts))
    config = job(tmp_path, tiny_gpt2, train_evaluation__n_iters=1)
    start(tmp_path, config)
    assert "iteration 1: all 8 texts are empty" in caplog.text
    with pytest.raises(DivergenceError, match="all 8 texts are empty"):
        start(tmp_path, job(tmp_path, tiny_gpt2, runtime__on_degenerate_rollout="stop"))


def test_a_reward_that_fails_ends_the_run_with_its_name(tmp_path, tiny_gpt2, monkeypatch):
    def broken(batch):
        raise KeyError("titel")

    monkeypatch.setattr("on_policy_jobs.share_of_e", broken)
    with pytest.raises(
        RewardError, match=r"reward 'on_policy_jobs:share_of_e' raised KeyError for text 0 \('"
    ):
        start(tmp_path, job(tmp_path, tiny_gpt2))

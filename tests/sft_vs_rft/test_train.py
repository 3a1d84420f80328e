"""The training loop: determinism, resume, order of the data, scores, stopping."""

import math

import pytest
import torch
from controlled_setting import make_config, make_data

from common.run_dir import RunDir, load_checkpoint, read_metrics
from common.tracking import Tracker
from sft_vs_rft.models import build_model
from sft_vs_rft.tracked import LARGE, SMALL
from sft_vs_rft.train import (
    NonFiniteLossError,
    TrainingInterrupted,
    evaluate,
    resolve_seeds,
    shuffled_batches,
    train,
)


def run_once(config, data=None, **kwargs):
    data = data or make_data()
    model = build_model(config, data)
    return train(config, data, model, **kwargs), model


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.mark.parametrize("method", ["supervised", "expected_reinforce", "reinforce"])
def test_same_config_same_numbers(method):
    config = make_config(opt_method=method, kl_regularization_coeff=0.1)
    (first, a), (second, b) = run_once(config), run_once(config)
    assert first.rows == second.rows
    assert torch.equal(weights(a), weights(b))


def test_another_random_seed_gives_another_order():
    first, _ = run_once(make_config())
    second, _ = run_once(make_config(random_seed=4))
    assert first.rows[0]["train"]["train loss"] != second.rows[0]["train"]["train loss"]


@pytest.mark.parametrize("method", ["expected_reinforce", "reinforce"])
@pytest.mark.parametrize("kl", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resume_is_bit_identical(tmp_path, method, kl, optimizer):
    fields = {"opt_method": method, "kl_regularization_coeff": kl, "optimizer": optimizer}
    whole, whole_model = run_once(make_config(epochs=6, **fields))
    data, config = make_data(), make_config(epochs=6, **fields)
    with RunDir.create(tmp_path, "cut", config.model_dump(), {}) as run:
        calls = iter([False, False, True])
        with pytest.raises(TrainingInterrupted):
            train(config, data, build_model(config, data), run=run, should_stop=lambda: next(calls))
        checkpoint = load_checkpoint(run.checkpoints()[-1])
    assert checkpoint["epoch"] == 2
    other_start = build_model(make_config(init_rnd_seed=99), data)  # everything must come from the checkpoint
    resumed = train(config, data, other_start, resume_from=checkpoint)
    assert resumed.rows == whole.rows[3:]
    assert torch.equal(weights(other_start), weights(whole_model))
    assert resumed.score == whole.score


def test_values_are_of_the_weights_before_the_step():
    config = make_config(batch_size=64, epochs=1, opt_method="supervised")
    data = make_data()
    model = build_model(config, data)
    before = torch.log_softmax(model(data.train_inputs), -1)
    loss = -before[range(64), data.train_labels].mean().item()
    result = train(config, data, model)
    assert math.isclose(result.rows[0]["train"]["train loss"], loss, rel_tol=1e-5)
    assert result.rows[0]["val"] == evaluate(config, data, model)  # after the epoch


def test_minibatches_of_a_given_order_equal_plain_steps():
    """Three SGD steps by hand on the exact expected reward, in the given order."""
    config = make_config(optimizer="sgd", lr=0.5, epochs=1)
    data = make_data()
    order = [[5, 1, 9], [0, 2], [63, 4, 7, 8]]
    result, model = run_once(config, data, batch_order=lambda epoch: order)
    by_hand = build_model(config, data)
    losses = []
    for batch in order:
        logprobs = torch.log_softmax(by_hand(data.train_inputs[batch]), -1)
        right = logprobs[range(len(batch)), data.train_labels[batch]]
        losses.append(-right.sum().item())
        by_hand.zero_grad()
        (1 - 2 * right.exp()).mean().backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= 0.5 * p.grad
    torch.testing.assert_close(weights(model), weights(by_hand), atol=1e-6, rtol=1e-5)
    # weighted by batch size
    assert math.isclose(result.rows[0]["train"]["train loss"], sum(losses) / 9, rel_tol=1e-5)


def test_group_means_are_unweighted_over_the_batches_that_have_the_group():
    config = make_config(optimizer="sgd", lr=1e-9, epochs=1)
    data = make_data()
    small, large = data.modified.nonzero().squeeze(1), (~data.modified).nonzero().squeeze(1)
    order = [torch.cat([small[:1], large[:3]]), large[3:10], torch.cat([small[1:6], large[10:12]])]
    result, model = run_once(config, data, batch_order=lambda epoch: order)
    logprobs = torch.log_softmax(model(data.train_inputs), -1)
    reward = (2 * logprobs[range(64), data.train_labels].exp() - 1).detach()
    expected_small = (reward[small[:1]].mean() + reward[small[1:6]].mean()) / 2
    expected_large = torch.stack(
        [reward[part].mean() for part in (large[:3], large[3:10], large[10:12])]
    ).mean()
    row = result.rows[0]["train"]
    assert math.isclose(row["reward" + SMALL], expected_small, abs_tol=1e-6)
    assert math.isclose(row["reward" + LARGE], expected_large, abs_tol=1e-6)


def test_default_order_is_a_permutation_in_batches():
    batches = list(shuffled_batches(10, 4, 1)(0))
    assert [len(b) for b in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))
    assert torch.cat(list(shuffled_batches(10, 4, 1)(1))).tolist() != torch.cat(batches).tolist()


def test_kl_reference_is_the_start_and_starts_at_zero():
    result, _ = run_once(make_config(kl_regularization_coeff=0.5, batch_size=64, epochs=3))
    kl = [row["train"]["kl reg"] for row in result.rows]
    assert abs(kl[0]) < 1e-6 < kl[1] < kl[2]


def test_kl_to_uniform_at_the_start_is_log_c_minus_entropy():
    config = make_config(kl_regularization_coeff=0.5, kl_reg_ref_unif=True, batch_size=64, epochs=1)
    data = make_data()
    p = torch.softmax(build_model(config, data)(data.train_inputs), -1)
    expected = (math.log(4) + (p * p.log()).sum(-1)).mean().item()
    result, _ = run_once(config, data)
    assert math.isclose(result.rows[0]["train"]["kl reg"], expected, rel_tol=1e-4)


def test_validation_rows_and_last_epoch():
    result, _ = run_once(make_config(epochs=7, validate_every=3))
    assert [row["epoch"] for row in result.rows if "val" in row] == [2, 5, 6]


def test_checkpoints_kept_newest_or_best(tmp_path):
    common = {"epochs": 8, "num_checkpoints": 2}
    for by_score in (False, True):
        config = make_config(save_checkpoints_by_score=by_score, optimizer="sgd", lr=1.0, **common)
        data = make_data()
        with RunDir.create(tmp_path, "run", config.model_dump(), {}) as run:
            result = train(config, data, build_model(config, data), run=run, tracker=Tracker(run))
            kept = [int(path.stem.split("_")[1]) for path in run.checkpoints()]
            assert len(read_metrics(run.path)) == 8
        scores = {row["epoch"]: row["train"]["train loss"] for row in result.rows}
        if by_score:
            # the best seen so far are kept, and the newest for resuming
            assert (
                set(sorted(scores, key=scores.__getitem__)[:1]) <= set(kept) and 7 in kept and len(kept) <= 3
            )
        else:
            assert kept == [6, 7]


def test_early_stop_and_best_weights():
    fields = {"opt_method": "supervised", "optimizer": "sgd", "lr": 60.0, "batch_size": 64, "epochs": 60}
    stop = {"early_stop": True, "early_stop_patience": 2, "early_stop_cooldown": 4}
    score = {"is_train_metric": False, "score_metric_name": "test loss", "return_best_score": True}
    config = make_config(early_stop_restore_best_weights=True, **score, **fields, **stop)
    result, model = run_once(config)
    losses = [row["val"]["test loss"] for row in result.rows]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert result.stopped_early and len(losses) == max(best + 3 + 1, 5)
    assert result.score == losses[best] == evaluate(config, make_data(), model)["test loss"]


def test_non_finite_loss_is_said():
    with pytest.raises(NonFiniteLossError, match=r"train loss is .* in epoch \d+: lower lr \(1e\+38\)"):
        run_once(make_config(optimizer="sgd", lr=1e38, opt_method="supervised"))


def test_unseeded_means_fresh_and_recorded():
    config = make_config(random_seed=-1)
    first, second = resolve_seeds(config), resolve_seeds(config)
    assert first.random_seed >= 0 and first.random_seed != second.random_seed
    assert first.init_rnd_seed == config.init_rnd_seed


def test_bfloat16_autocast_trains_close_to_float32():
    exact, _ = run_once(make_config())
    rounded, _ = run_once(make_config(dtype="bfloat16"))
    a, b = exact.rows[-1]["train"]["reward"], rounded.rows[-1]["train"]["reward"]
    assert a != b and abs(a - b) < 0.02


def test_text_batches_train(tmp_path):
    fields = {"model_type": "bert-mini", "dataset": "docstring_pairs", "micro_batch_size": 7}
    config = make_config(epochs=2, lr=1e-3, opt_method="supervised", **fields)
    result, _ = run_once(config, make_data("text"))
    assert result.rows[1]["train"]["train loss"] < result.rows[0]["train"]["train loss"]

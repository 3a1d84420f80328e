"""Reward models from a config to the folder that they leave: whole runs on tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_runs import WORDS, planted, reward_config, start_reward_run, train_reward_model
from tiny_models import save_tiny_gpt2
from training_runs import config_of, rows_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from worlds import in_world

from common.hub import DataError
from rl4lms.errors import DivergenceError
from rl4lms.model.parallel import World
from rl4lms.model.reward_model import RewardModel
from rl4lms.rankings import Comparison, Ranking
from rl4lms.reward_model import train as page
from rl4lms.reward_model.learner import learning_rate
from rl4lms.run_setup import TrainingDataError

REPO = Path(__file__).parents[3]
KINDS = ["causal", "seq2seq", "bag_of_tokens"]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("rl4lms.reward_model.record.draw_training", lambda *_: None)
    monkeypatch.setattr("rl4lms.reward_model.train.draw_training", lambda *_: None)


@pytest.fixture(scope="module")
def tiny_words(tmp_path_factory) -> Path:
    """A GPT-2 whose tokenizer has a token for each word of the rankings, with the space before it."""
    texts = [f" {word}" for word in WORDS] * 3
    return save_tiny_gpt2(tmp_path_factory.mktemp("words") / "gpt2", texts, vocab_size=600)


def config_for(kind, tiny_gpt2, tiny_t5, **args):
    if kind == "bag_of_tokens":
        return reward_config("bag_of_tokens", tokenizer=tiny_gpt2, **args)
    return reward_config(tiny_t5 if kind == "seq2seq" else tiny_gpt2, kind, **args)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_a_model_whose_references_score_0(kind, tiny_gpt2, tiny_t5, tmp_path):
    run = start_reward_run(tmp_path, config_for(kind, tiny_gpt2, tiny_t5, learning_rate=0.01))
    model = RewardModel.load(str(run / "mine_model"))
    assert model.kind == kind and model.scale == 1
    rankings = planted("train")
    prompts = [ranking.prompt for ranking in rankings]
    scores = model.score(prompts, [ranking.references[0] for ranking in rankings])
    assert abs(np.mean(scores)) < 1e-5 and np.std(scores) > 1e-2
    losses = [row["loss"] for row in rows_of(run, "training_info")]
    val = [row["metrics"]["loss"] for row in rows_of(run, "val_split_metrics")]
    assert len(losses) == 6 and len(val) == 5 and losses[-1] < losses[0] and val[-1] < val[0]
    tables = json.loads((run / "mine_reward_metrics.json").read_text())
    assert tables["step"] == 6 and tables["metrics"]["loss"] == val[-1]
    assert set(tables["accuracy_by_k"]) == {"2", "3", "4", "5"}
    assert set(tables["accuracy_by_subset"]) == {"odd", "even"}
    assert set(tables["accuracy_by_margin"]) == {"1", "2", "3", "4"}


def test_in_a_fresh_process_the_references_score_0_too(tiny_gpt2, tmp_path):
    run = start_reward_run(tmp_path, reward_config(tiny_gpt2))
    code = f"""
import sys; sys.path.insert(0, {str(REPO / "tests")!r})
from reward_runs import planted
from rl4lms.model.reward_model import RewardModel
model, rankings = RewardModel.load({str(run / "mine_model")!r}), planted("train")
scores = model.score([r.prompt for r in rankings], [r.references[0] for r in rankings], batch_size=5)
print(sum(scores) / len(scores))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert abs(float(result.stdout)) < 1e-5


def test_plain_transformers_scores_as_the_trained_model_does(tiny_gpt2, tmp_path):
    run = start_reward_run(tmp_path, reward_config(tiny_gpt2, learning_rate=0.01, normalize="policy"))
    folder, rankings = run / "mine_model", planted("train")
    model, tokenizer = RewardModel.load(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id  # else the end token's state would be skipped
    pairs = [(ranking.prompt, text) for ranking in rankings for text in ranking.completions]
    scores = model.score([prompt for prompt, _ in pairs], [text for _, text in pairs])
    assert np.mean(scores) == pytest.approx(0, abs=1e-5) and np.std(scores) == pytest.approx(1, abs=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [prompt + text + tokenizer.eos_token for prompt, text in pairs]
    with torch.no_grad():
        raw = plain(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
    assert plain.config.num_labels == 1
    expected = plain.config.reward_scale * raw + plain.config.reward_bias
    assert torch.allclose(expected, torch.tensor(scores), rtol=0, atol=1e-5)


def test_without_normalisation_the_rewards_are_the_raw_ones(tiny_gpt2, tmp_path):
    run = start_reward_run(tmp_path, reward_config("bag_of_tokens", tokenizer=tiny_gpt2, normalize="none"))
    model = RewardModel.load(str(run / "mine_model"))
    assert (model.bias, model.scale) == (0, 1)


# The gradient of an update


def gradients(config, tmp_path, monkeypatch, world: World | None = None) -> tuple[list[torch.Tensor], dict]:
    """The gradient of the first update, and its row."""
    seen = []

    def capture(learner, rate, max_grad_norm):
        seen.append([weight.grad.clone() for weight in learner.parameters])
        return torch.tensor(1.0)

    monkeypatch.setattr(page, "take_step", capture)
    run = start_reward_run(tmp_path, config, world)
    rows = rows_of(run, "training_info")
    return seen[0], rows[0] if rows else {}


def check_equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """Gradients that differ by a millionth of the largest entry at most."""
    scale = max(float(gradient.abs().max()) for gradient in ones)
    assert scale > 1e-3
    worst = max(float((one - other).abs().max()) for one, other in zip(ones, others, strict=True))
    assert worst < 1e-6 * max(scale, 1)


def whole_batch(model, kind="causal", **args):
    """One update of all train prompts."""
    args = {"prompts_per_batch": 24, "epochs": 1, "normalize": "none"} | args
    if args.get("batching") == "pair":
        del args["prompts_per_batch"]
    return reward_config(model, kind, **args)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_prompts_and_pairs_have_the_same_gradient(kind, tiny_gpt2, tiny_t5, tmp_path, monkeypatch):
    """In one batch that holds all pairs of its prompts; but each completion passes once, or K - 1 times."""
    model = tiny_t5 if kind == "seq2seq" else tiny_gpt2
    grouped, row = gradients(whole_batch(model, kind), tmp_path / "prompt", monkeypatch)
    config = whole_batch(model, kind, batching="pair", pairs_per_batch=1000)
    pairs, pair_row = gradients(config, tmp_path / "pair", monkeypatch)
    check_equal(grouped, pairs)
    assert row["loss"] == pytest.approx(pair_row["loss"], abs=1e-6)
    sizes = [len(ranking.completions) for ranking in planted("train")]
    assert row["texts"] == sum(sizes) and pair_row["texts"] == sum(k * (k - 1) for k in sizes)


@pytest.mark.parametrize("texts", [1, 1000])
def test_the_size_of_forward_passes_changes_no_gradient(texts, tiny_gpt2, tmp_path, monkeypatch):
    some, row = gradients(whole_batch(tiny_gpt2), tmp_path / "some", monkeypatch)
    others, other_row = gradients(
        whole_batch(tiny_gpt2, micro_batch_size=texts), tmp_path / "others", monkeypatch
    )
    check_equal(some, others)
    assert row["loss"] == pytest.approx(other_row["loss"], abs=1e-6)


def test_recomputed_activations_change_no_gradient(tiny_gpt2, tmp_path, monkeypatch):
    plain, _ = gradients(whole_batch(tiny_gpt2), tmp_path / "plain", monkeypatch)
    config = whole_batch(tiny_gpt2) | {"runtime": {"gradient_checkpointing": True}}
    recomputed, _ = gradients(config, tmp_path / "recomputed", monkeypatch)
    check_equal(plain, recomputed)


def test_two_processes_have_the_gradient_and_the_measurements_of_one(tiny_gpt2, tmp_path, monkeypatch):
    alone, row = gradients(reward_config(tiny_gpt2), tmp_path / "alone", monkeypatch)

    def work(world: World):
        return gradients(reward_config(tiny_gpt2), tmp_path / f"runs {world.rank}", monkeypatch, world)

    (first, first_row), (second, _) = in_world(tmp_path / "world", work)
    check_equal(alone, first)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for name in ("loss", "accuracy", "comparisons", "texts"):
        assert first_row[name] == pytest.approx(row[name], abs=1e-6)


def test_two_processes_end_with_the_model_of_one(tiny_gpt2, tmp_path):
    alone = start_reward_run(tmp_path / "alone", reward_config(tiny_gpt2))

    def work(world: World):
        return str(start_reward_run(tmp_path / f"runs {world.rank}", reward_config(tiny_gpt2), world))

    together = Path(in_world(tmp_path / "world", work)[0])
    for name in ("training_info", "val_split_metrics"):
        one, two = rows_of(alone, name), rows_of(together, name)
        assert [row["step"] for row in one] == [row["step"] for row in two]
        losses = [[row.get("metrics", row)["loss"] for row in rows] for rows in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    models = [RewardModel.load(str(run / "mine_model")) for run in (alone, together)]
    texts = [ranking.completions[0] for ranking in planted("val")]
    scores = [model.score([""] * len(texts), texts) for model in models]
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)


# What is learnt


def test_a_bag_of_tokens_learns_planted_rewards_from_noiseless_rankings(tiny_words, tmp_path):
    config = reward_config(
        "bag_of_tokens", tokenizer=tiny_words, learning_rate=0.5, epochs=12, prompts_per_batch=20
    )
    config["datapool"]["args"] = {"sizes": {"train": 300, "val": 60, "test": 1}}
    config["train_evaluation"] |= {"eval_every": 10_000, "save_every": 10_000}
    run = start_reward_run(tmp_path, config)
    metrics = rows_of(run, "val_split_metrics")[-1]["metrics"]
    assert metrics["accuracy"] == metrics["gold_accuracy"] == 1
    assert metrics["accuracy_low"] == 1


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
@pytest.mark.parametrize("loss", ["best_of", "plackett_luce"])
def test_other_losses_learn_too(loss, kind, tiny_gpt2, tiny_t5, tmp_path):
    run = start_reward_run(
        tmp_path, config_for(kind, tiny_gpt2, tiny_t5, loss=loss, learning_rate=0.005, epochs=4)
    )
    rows = rows_of(run, "training_info")
    assert np.mean([row["loss"] for row in rows[-3:]]) < np.mean([row["loss"] for row in rows[:3]]) - 0.05


def test_dropout_is_off_unless_asked_for(tiny_gpt2, tmp_path, monkeypatch):
    plain, _ = gradients(whole_batch(tiny_gpt2), tmp_path / "plain", monkeypatch)
    dropped, _ = gradients(whole_batch(tiny_gpt2, dropout=True), tmp_path / "dropped", monkeypatch)
    again, _ = gradients(whole_batch(tiny_gpt2, dropout=True), tmp_path / "again", monkeypatch)
    assert not torch.allclose(plain[0], dropped[0], atol=1e-4)
    assert all(torch.equal(one, two) for one, two in zip(dropped, again, strict=True))


def test_the_learning_rate_falls_to_a_tenth():
    args = config_of(reward_config("bag_of_tokens", tokenizer="t")).alg.args
    rates = [learning_rate(update, 100, args) for update in range(1, 102)]
    assert rates[0] == 1e-3 and rates[50] == pytest.approx(0.55e-3) and rates[100] == pytest.approx(1e-4)
    assert rates == sorted(rates, reverse=True)
    constant = args.model_copy(update={"lr_schedule": "constant"})
    assert learning_rate(70, 100, constant) == 1e-3


def test_autocast_trains(tiny_gpt2, tmp_path):
    config = reward_config(tiny_gpt2) | {"runtime": {"dtype": "bfloat16", "device": "cpu"}}
    run = start_reward_run(tmp_path, config)
    assert rows_of(run, "training_info")[-1]["loss"] < 2


# Errors


def no_pairs(split) -> list[Ranking]:
    return [Ranking(0, "p", ["a", "b"], [], ["r"], {})]


def equal_texts(split) -> list[Ranking]:
    return [Ranking(0, "p", ["a", "a"], [Comparison(0, 1)], ["r"], {})]


def out_of_range(split) -> list[Ranking]:
    return [Ranking(0, "p", ["a", "b"], [Comparison(0, 2)], ["r"], {})]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("no_pairs", "pairs must be a list of at least one rl4lms.rankings.Comparison"),
        ("equal_texts", "completions must be different texts; leave out the repeated ones"),
        ("out_of_range", r"winner and loser must be two indices of its 2 completions, are \(0, 2\)"),
    ],
)
def test_wrong_rankings_of_a_datapool_of_ones_own_are_refused(pool, message, tiny_gpt2, tmp_path):
    config = reward_config("bag_of_tokens", tokenizer=tiny_gpt2)
    config["datapool"]["id"] = f"{__name__}:{pool}"
    with pytest.raises(DataError, match=f"split 'train', position 0: {message}"):
        start_reward_run(tmp_path, config)


def no_references(split) -> list[Ranking]:
    return [Ranking(0, "p", ["a", "b"], [Comparison(0, 1)], [], {})]


def a_cycle(split) -> list[Ranking]:
    pairs = [Comparison(0, 1), Comparison(1, 2), Comparison(2, 0)]
    return [Ranking("x7", "p", ["a", "b", "c"], pairs, ["r"], {})]


@pytest.mark.parametrize(
    ("pool", "args", "message"),
    [
        ("no_references", {}, "alg.args.normalize: demonstrations needs references, but no ranking of train"),
        (
            "a_cycle",
            {"loss": "best_of"},
            "alg.args.loss: prompt 'x7' of train: no completion is never the wo",
        ),
        ("a_cycle", {"loss": "plackett_luce"}, "alg.args.loss: prompt 'x7' of train: its 3 comparisons give"),
    ],
)
def test_rankings_without_what_is_asked_for_are_refused(pool, args, message, tiny_gpt2, tmp_path):
    config = reward_config("bag_of_tokens", tokenizer=tiny_gpt2, **args)
    config["datapool"]["id"] = f"{__name__}:{pool}"
    with pytest.raises(TrainingDataError, match=message):
        start_reward_run(tmp_path, config)


def test_a_loss_that_is_no_number_ends_the_run(tiny_gpt2, tmp_path):
    config = reward_config(tiny_gpt2, learning_rate=1e30)
    with pytest.raises(DivergenceError, match=r"update 2: the loss is .*lower alg.args.learning_rate"):
        start_reward_run(tmp_path, config)


def test_changed_data_is_refused(tiny_gpt2, tmp_path):
    config = reward_config("bag_of_tokens", tokenizer=tiny_gpt2)
    path = start_reward_run(tmp_path, config)
    config["datapool"]["args"] = {"noise": 2.0}
    with pytest.raises(TrainingDataError, match="no longer gives the samples of train, val that"):
        train_reward_model(path, config_of(config))

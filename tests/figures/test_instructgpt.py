"""InstructGPT's claims on tables whose answer is known, and its pictures of them."""

import json
import math
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from figures.claims import Results, evaluate
from figures.instructgpt import (
    draw_instructgpt,
    method_name,
    pipeline_numbers,
    pipeline_shown,
    teacher_name,
)
from figures.instructgpt_criteria import INSTRUCTGPT_CRITERIA
from figures.instructgpt_measures import INSTRUCTGPT_MEASURES, gao_curve, gao_fit, loss_difference, win_rate
from figures.instructgpt_tables import TABLES
from figures.measured import NotTestedError

PPO, PTX = "ppo-0_02", "ppo-ptx-0_02"
TEACHERS = [*(f"on_policy_{share}" for share in (0, 25, 50, 75, 100)), "squashed"]


def frame(name, rows):
    table = pd.DataFrame(rows)
    assert list(table) == list(TABLES[name])
    return table


def reward_models(seed, epochs=(0.6, 0.62, 0.7, 0.85), early=0.03, late=0.1):
    def row(arm, step, texts, loss, error=0.0):
        known = {"accuracy": 0.7, "gold_accuracy": 0.76}
        error = {"calibration_error": 0.02 + error, "calibration_error_by_chance": 0.02}
        return {
            "seed": seed,
            "arm": arm,
            "epoch": step / 10,
            "step": step,
            "texts": texts,
            "loss": loss,
            **known,
        } | error

    rows = [row(arm, 0, 0.0, 0.7) for arm in ("grouped", "epochs", "shuffled")]
    rows.append(row("grouped", 10, 100.0, 0.61, early))
    rows += [row("epochs", 10 * n, 100.0 * n, loss, late) for n, loss in enumerate(epochs, 1)]
    rows.append(row("shuffled", 60, 570.0, 0.6))
    return rows


def reward_losses(seed, difference):
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(50):
        loss, noise = rng.normal(0.6, 0.1), rng.normal(0, 0.05)
        rows += [
            {"seed": seed, "arm": "epochs", "prompt": prompt, "loss": loss},
            {"seed": seed, "arm": "shuffled", "prompt": prompt, "loss": loss + difference + noise},
        ]
    return rows


def ppo(seed, task="continuation", methods=("ppo-0", PPO, "ppo-0_1", PTX)):
    rows = []
    for method in methods:
        strength = {"ppo-0": 2.0, PPO: 1.0, "ppo-0_1": 0.5, PTX: 0.9}[method]
        for iteration in range(0, 36, 5):
            root = strength * iteration / 20
            gold = gao_curve(max(root, 1e-9), 1.0, 0.3, "rl").item() + 0.01 * seed
            rows.append(
                {
                    "task": task,
                    "seed": seed,
                    "method": method,
                    "kl": 0.0 if method == "ppo-0" else 0.02,
                    "iteration": iteration,
                    "kl_root": root,
                    "proxy": 1.2 * root,
                    "gold": gold,
                    "policy_share": 0.4 if method == PTX else math.nan,
                }
            )
    return rows


def losses(seed, ppo_loss=3.2, ptx_loss=3.0):
    per_token = {
        "pretrained": 2.9,
        "start": 3.0,
        "sft": 3.6,
        "ppo-0": 3.5,
        PPO: ppo_loss,
        "ppo-0_1": 3.1,
        PTX: ptx_loss,
    }
    return [
        {
            "task": "continuation",
            "seed": seed,
            "method": method,
            "text": text,
            "loss": (loss + 0.01 * seed * (method == PPO)) * (5 + text),
            "tokens": float(5 + text),
        }
        for method, loss in per_token.items()
        for text in range(20)
    ]


def wins(seed, rate=0.7):
    shared = {"task": "continuation", "seed": seed}
    return [
        shared | {"method": method, "against": against, "rate": rate, "low": rate - 0.05, "high": rate + 0.05}
        for against in ("sft", "start")
        for method in ("sft", "ppo-0", PPO, "ppo-0_1", PTX)
        if method != against
    ]


def teachers(seed, kl=0.05):
    variance, accuracy = [0.2, 0.3, 0.4, 0.5, 0.6, 0.01], [0.6, 0.65, 0.7, 0.75, 0.8, 1.0]
    return [
        {
            "seed": seed,
            "teacher": teacher,
            "kl": kl,
            "variance": variance[place],
            "accuracy": accuracy[place],
            "off_policy": 0.9 - accuracy[place] / 10,
            "gain": variance[place] + 0.001 * seed,
        }
        for place, teacher in enumerate(TEACHERS)
    ]


def halves(seed, shares):
    return [
        {"seed": seed, "method": method, "half": half, "gain": gain}
        for method, share in shares.items()
        for half, gain in (("squashed", share), ("full", 1.0))
    ]


@pytest.fixture
def tables():
    seeds = range(3)
    scores = [
        {
            "seed": seed,
            "teacher": "on_policy_100",
            "variance": 0.5,
            "accuracy": 0.77,
            "rankings": 0.76 + seed / 100,
            "off_policy": 0.8,
        }
        for seed in seeds
    ]
    best = [
        {
            "seed": seed,
            "n": n,
            "kl_root": root,
            "proxy": root,
            "gold": float(gao_curve(root, 0.9, 0.1, "best_of")),
        }
        for seed in seeds
        for n in (1, 2, 4, 8, 16)
        for root in [math.sqrt(math.log(n) - (n - 1) / n)]
    ]
    sft = [
        {"seed": seed, "epoch": epoch, "loss": abs(epoch - 2) + 3.0, "score": -abs(epoch - 9 - seed)}
        for seed in seeds
        for epoch in range(17)
    ]
    rows = {
        "reward_models": list(chain.from_iterable(map(reward_models, seeds))),
        "reward_losses": list(chain.from_iterable(reward_losses(seed, 0.1) for seed in seeds)),
        "scores": scores,
        "best_of": best,
        "sft": sft,
        "ppo": list(chain.from_iterable(map(ppo, seeds))),
        "wins": list(chain.from_iterable(wins(seed, 0.7 + 0.01 * seed) for seed in seeds)),
        "losses": list(chain.from_iterable(map(losses, seeds))),
        "teachers": list(chain.from_iterable(map(teachers, seeds))) + teachers(0, 0.0),
        "halves": list(chain.from_iterable(halves(seed, {"grpo": 0.9, "rloo": 0.5}) for seed in seeds)),
    }
    return {name: frame(name, content) for name, content in rows.items()}


def measure(tables, name):
    return INSTRUCTGPT_MEASURES[name](tables)


def outcomes(tables, **options):
    verdicts = evaluate(Results(instructgpt=tables), **options)
    return {v.criterion.name: v.outcome for v in verdicts if v.criterion.item == "instructgpt"}


def test_every_claim_holds_where_it_was_planted(tables):
    assert outcomes(tables) == dict.fromkeys([c.name for c in INSTRUCTGPT_CRITERIA], "holds")
    assert set(outcomes(tables, is_full_scale=False).values()) == {"not tested"}


def test_nothing_is_tested_without_runs_and_the_reason_says_which():
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in TABLES.items()}
    for given in ({}, empty):
        verdicts = evaluate(Results(instructgpt=given))
        details = {
            v.criterion.name: (v.outcome, v.detail) for v in verdicts if v.criterion.item == "instructgpt"
        }
        assert {outcome for outcome, _ in details.values()} == {"not tested"}
        assert details["ppo_wins"][1].startswith(
            "no finished run of texts of the models that are compared (task"
        )
        assert details["rm_accuracy"][1] == "no finished run of reward models' scores (teacher on_policy_100)"


@pytest.mark.parametrize("name", INSTRUCTGPT_MEASURES)
def test_each_claim_is_not_tested_without_its_table(tables, name):
    used = {
        "rm_accuracy": "scores",
        "rm_grouped": "reward_losses",
        "rm_epochs": "reward_models",
        "rm_calibrated": "reward_models",
        "rm_calibrated_later": "reward_models",
        "ppo_wins": "wins",
        "ptx_keeps": "losses",
        "sft_epochs": "sft",
        "overoptimised": "ppo",
        "teacher_variance": "teachers",
        "teacher_grpo": "halves",
        "teacher_grpo_rloo": "halves",
    }[name]
    del tables[used]
    with pytest.raises(NotTestedError):
        measure(tables, name)


def test_the_accuracy_is_the_mean_of_held_out_rankings(tables):
    measured = measure(tables, "rm_accuracy")
    assert measured.value == pytest.approx(0.77)
    assert measured.detail == "worst 0.760; seed 0: 0.760, seed 1: 0.770, seed 2: 0.780"


def test_shuffled_minus_grouped_has_an_interval_over_prompts(tables):
    measured = measure(tables, "rm_grouped")
    assert 0.08 < measured.value < 0.1
    assert "over 50 prompts; 5.7 times the passes of one grouped epoch" in measured.detail
    tables["reward_losses"] = frame("reward_losses", reward_losses(0, 0.0))
    assert -0.03 < measure(tables, "rm_grouped").value < 0


def test_epochs_are_judged_by_the_worst_seed(tables):
    assert measure(tables, "rm_epochs").value == pytest.approx(0.25)
    better = [row for row in reward_models(7, epochs=(0.8, 0.7, 0.65, 0.6)) if row["arm"] == "epochs"]
    tables["reward_models"] = pd.concat([tables["reward_models"], frame("reward_models", better)])
    assert measure(tables, "rm_epochs").value == 0
    assert outcomes(tables)["rm_epochs"] == "fails"


def test_calibration_is_beyond_chance_in_the_worst_seed(tables):
    assert measure(tables, "rm_calibrated").value == pytest.approx(0.03)
    assert measure(tables, "rm_calibrated_later").value == pytest.approx(0.07)
    tables["reward_models"] = frame("reward_models", reward_models(0) + reward_models(1, early=0.2))
    assert measure(tables, "rm_calibrated").value == pytest.approx(0.2)
    assert measure(tables, "rm_calibrated_later").value == pytest.approx(-0.1)


def test_a_win_rate_s_interval_is_over_seeds_or_of_one_seed_its_own(tables):
    rate = win_rate(tables, "continuation", PPO, "sft")
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's with two degrees of freedom
    assert (rate.mean, rate.low) == pytest.approx((0.71, 0.71 - half))
    tables["wins"] = frame("wins", wins(0))
    assert measure(tables, "ppo_wins").value == pytest.approx(0.65)
    assert "one seed, over prompts" in measure(tables, "ppo_wins").detail


def test_what_ptx_keeps_is_the_loss_per_token(tables):
    lost = loss_difference(tables, "continuation", PPO, PTX)
    assert (lost.mean, lost.pairs) == (pytest.approx(0.21), 3)
    measured = measure(tables, "ptx_keeps")
    assert measured.value == pytest.approx(lost.low) and "gold of PPO-ptx minus PPO" in measured.detail
    tables["losses"] = frame("losses", losses(0, ppo_loss=3.0, ptx_loss=3.1))
    assert measure(tables, "ptx_keeps").value < -0.09


def test_best_epochs_leave_out_the_start(tables):
    measured = measure(tables, "sft_epochs")
    assert measured.value == 7 and measured.detail.startswith("seed 0: loss 2, score 9; seed 1")
    tables["sft"].loc[tables["sft"]["epoch"] == 0, "score"] = 100.0
    assert measure(tables, "sft_epochs").value == 7


def test_a_gap_that_closes_is_no_overoptimisation(tables):
    # Of eight evaluations the first two are in the other order: the planted gold rises faster there.
    assert measure(tables, "overoptimised").value == pytest.approx(1 - 6 * 2 / (8 * 63))
    rows = tables["ppo"]
    closes = (rows["method"] == "ppo-0") & (rows["seed"] == 2)
    rows.loc[closes, "proxy"] = rows["gold"] - rows["kl_root"]
    assert measure(tables, "overoptimised").value == pytest.approx(-1)


def test_variance_and_accuracy_are_ranked_against_the_gain(tables):
    measured = measure(tables, "teacher_variance")
    # Five go up together; the perfect one has the least gain: rank correlation 1 - 6 * 30 / 210.
    assert measured.value == pytest.approx(1 - (1 - 6 * 30 / 210))
    assert measured.detail.startswith("variance +1.00, accuracy +0.14, off-policy")
    tables["teachers"] = tables["teachers"][tables["teachers"]["teacher"].isin(TEACHERS[:2])]
    with pytest.raises(NotTestedError, match="2 reward models taught, 3 are needed"):
        measure(tables, "teacher_variance")


def test_shares_of_the_squashed_half(tables):
    assert measure(tables, "teacher_grpo").value == pytest.approx(0.9)
    assert measure(tables, "teacher_grpo_rloo").value == pytest.approx(0.4)
    tables["halves"].loc[tables["halves"]["half"] == "full", "gain"] = -0.1
    with pytest.raises(NotTestedError, match="GRPO gains nothing on the half with the full reward"):
        measure(tables, "teacher_grpo")


@pytest.mark.parametrize("kind", ["rl", "best_of"])
def test_gao_s_fits_find_what_was_planted(kind):
    d = np.linspace(0.1, 2, 9)
    assert gao_fit([0.0, *d], [5.0, *gao_curve(d, 1.3, 0.4, kind)], kind) == pytest.approx((1.3, 0.4))
    assert all(map(math.isnan, gao_fit([0.0, 0.5, 0.5], [0.0, 1.0, 1.1], kind)))


def test_names_for_readers():
    assert [method_name(m) for m in ("start", "sft", "ppo-0", PPO, PTX)] == [
        "start of RL", "SFT, 16 epochs", "PPO, KL 0", "PPO, KL 0.02", "PPO-ptx, KL 0.02",
    ]  # fmt: skip
    assert [teacher_name(t) for t in ("on_policy_25", "squashed")] == [
        "25% on-policy pairs", "gold's order, squashed",
    ]  # fmt: skip


def test_the_item_has_its_table_and_pictures(tables, tmp_path):
    numbers = pipeline_numbers(tables)
    row = numbers.set_index("method").loc[PTX]
    assert row["policy_share"] == pytest.approx(0.4) and row["lost"] == pytest.approx(0.0)
    shown = pipeline_shown(numbers, {"continuation": "continuation"})
    assert list(shown["model"]) == ["PPO, KL 0", "PPO, KL 0.02", "PPO, KL 0.1", "PPO-ptx, KL 0.02"]
    assert shown["policy share"].tolist() == ["-", "-", "-", "0.40"]
    item = draw_instructgpt(tables, [], {}, tmp_path, "the command")
    assert [stem.name for stem in item.stems] == [
        "instructgpt_kl", "instructgpt_wins", "instructgpt_ptx", "instructgpt_teachers", "instructgpt",
    ]  # fmt: skip
    for stem in item.stems[:-1]:
        for suffix in (".png", ".pdf", ".csv"):
            assert stem.with_suffix(suffix).stat().st_size > 500
        assert json.loads(stem.with_suffix(".json").read_text())["command"] == "the command"
    assert "Control without a KL penalty, one seed" in item.caption

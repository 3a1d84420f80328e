"""Pictures of training runs: what is drawn of which rows, and how it looks in numbers."""

import json
import math

import matplotlib.image
import pytest

import rl4lms.plots
from common.plots import Curve
from rl4lms.plots import arrange_rows, draw_training


def write(path, name, rows):
    (path / f"mine_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def ppo(tmp_path):
    """A run of three iterations, evaluated on all splits before and after."""
    rollouts = [
        {
            "epoch": e,
            "rollout_info/ep_rew": 0.1 * e,
            "rollout_info/ep_rew_std": 0.05,
            "rollout_info/kl_div_mean": 0.01 * e,
            "rollout_info/kl_coeff": 0.001,
        }
        for e in (1, 2, 3)
    ]
    rollouts[1]["rollout_info/input_reward_std"] = 0.02  # an input was drawn twice in one iteration only
    write(tmp_path, "rollout_info", rollouts)
    updates = [
        {"epoch": e, "ppo/value_loss": 1 / e, "ppo/entropy_loss": -2.0, "ppo/grad_norm": 10.0**e}
        for e in (1, 2, 3)
    ]
    write(tmp_path, "training_info", updates)
    for split, epochs in {"train": (0, 3), "val": (0, 1, 2, 3), "test": (0, 3)}.items():
        values = {"lexical/rouge_l_max": 0.2, "diversity_metrics/distinct-1": 0.5, "own": math.nan}
        values |= {"diversity_metrics/distinct-1-nopunct": 0.5}
        write(tmp_path, f"{split}_split_metrics", [{"epoch": e, "metrics": values} for e in epochs])
    return tmp_path


def test_every_picture_has_the_recorded_points(ppo):
    pictures = arrange_rows(ppo, "mine_")
    assert set(pictures) == {
        *("reward", "reward_std", "kl", "losses", "gradient_norm"),
        *("evaluation_lexical", "evaluation_diversity_metrics", "evaluation_metrics"),
    }
    (reward,) = pictures["reward"]
    assert reward.curves == [Curve("", [(1.0, 0.1), (2.0, 0.2), (3.0, pytest.approx(0.3))], band=[0.05] * 3)]
    assert pictures["reward_std"][0].curves[0].points == [(2.0, 0.02)]
    assert [panel.title for panel in pictures["losses"]] == ["value loss", "entropy loss"]
    (rouge,) = pictures["evaluation_lexical"]
    assert [(curve.label, [epoch for epoch, _ in curve.points]) for curve in rouge.curves] == [
        ("train", [0, 3]),
        ("val", [0, 1, 2, 3]),
        ("test", [0, 3]),
    ]
    assert [panel.title for panel in pictures["evaluation_diversity_metrics"]] == ["distinct-1"]


def test_the_parts_of_the_reward_have_a_panel(ppo):
    names = ("mine:f", "mine:f#2")
    rows = [
        {"epoch": e, "rollout_info/ep_rew": 1.0, "rollout_info/ep_rew_std": 0.0}
        | {f"rollout_info/reward/{n}/{what}": 1.0 * e for n in names[:e] for what in ("mean", "std")}
        for e in (1, 2)
    ]
    write(ppo, "rollout_info", rows)
    _, parts = arrange_rows(ppo, "mine_")["reward"]
    assert parts.title == "its parts, before weights: mean"
    assert parts.curves == [Curve("mine:f", [(1, 1), (2, 2)], 0), Curve("mine:f#2", [(2, 2)], 1)]


def test_without_a_kl_penalty_no_panel_is_flat_at_0(ppo):
    assert [panel.title for panel in arrange_rows(ppo, "mine_")["kl"]] == [
        "KL to the reference, per token",
        "KL coefficient",
    ]
    rows = [{"rollout_info/kl_div_mean": 0.01 * e, "rollout_info/kl_coeff": 0} for e in (1, 2)]
    rollouts = [{"epoch": e} | row for e, row in enumerate(rows)]
    write(ppo, "rollout_info", rollouts)
    assert [panel.title for panel in arrange_rows(ppo, "mine_")["kl"]] == ["KL to the reference, per token"]
    write(ppo, "rollout_info", [{"epoch": 1, "rollout_info/kl_div_mean": 0.0, "rollout_info/kl_coeff": 0}])
    assert "kl" not in arrange_rows(ppo, "mine_")


def test_score_and_gold_are_drawn_over_the_root_of_the_kl(ppo):
    """The score first; of runs that measure the KL alone."""
    assert rl4lms.plots.arrange_against_kl(ppo, "mine_") == []
    values = [
        {"kl/episode": e**2, "kl/episode_root": e, "lexical/meteor": 0.5 - e, "semantic/reward_model": e / 2}
        for e in (0.0, 1.0, 2.0)
    ]
    for row in values:
        row["diversity_metrics/distinct-1"] = 0.5
    write(ppo, "val_split_metrics", [{"epoch": i, "metrics": row} for i, row in enumerate(values)])
    score, gold = rl4lms.plots.arrange_against_kl(ppo, "mine_")
    assert (score.title, gold.title) == ("reward_model", "meteor")
    assert score.curves == [Curve("", [(0.0, 0.0), (1.0, 0.5), (2.0, 1.0)])]
    assert gold.curves == [Curve("", [(0.0, 0.5), (1.0, -0.5), (2.0, -1.5)])]
    assert "against_kl.png" in {path.name for path in draw_training(ppo, "mine_")}
    assert [panel.title for panel in arrange_rows(ppo, "mine_")["evaluation_kl"]] == [
        "episode",
        "episode_root",
    ]


def test_pretraining_has_panels_beside_ppos(ppo):
    names = ("ptx_loss", "ptx_cosine", "ptx_grad_norm", "policy_grad_norm", "grad_norm", "value_loss")
    write(ppo, "training_info", [{"epoch": e, **{f"ppo/{name}": 1.0 * e for name in names}} for e in (1, 2)])
    titles = {name: [panel.title for panel in panels] for name, panels in arrange_rows(ppo, "mine_").items()}
    assert titles["losses"] == ["value loss", "loss of pretraining text"]
    assert titles["update"] == ["cosine of PPO's and pretraining's gradient"]
    assert titles["gradient_norm"] == [
        "gradient norm, before clipping",
        "of PPO, of the policy's weights",
        "of pretraining text, times its weight",
    ]


def test_pictures_are_written_while_a_run_goes_on(ppo):
    with (ppo / "mine_rollout_info.jsonl").open("a") as file:
        file.write('{"epoch": 4, "rollout_')  # the row that is being written
    paths = draw_training(ppo, "mine_")
    assert sorted(paths) == sorted((ppo / "plots").iterdir())
    assert len(paths) == 8
    for path in paths:
        assert matplotlib.image.imread(path).std() > 0.01  # not blank


def test_a_run_without_rows_has_no_pictures(tmp_path):
    assert draw_training(tmp_path, "mine_") == []
    assert list(tmp_path.iterdir()) == []


def test_the_x_axis_counts_what_the_rows_count(ppo, tmp_path_factory, monkeypatch):
    labels = []
    monkeypatch.setattr(
        "rl4lms.plots.save_panels", lambda path, panels, x_label, colors: labels.append(x_label)
    )
    draw_training(ppo, "mine_")
    assert set(labels) == {"iteration"}
    labels.clear()
    supervised = tmp_path_factory.mktemp("sft")
    rows = [{"epoch": step / 4, "step": step, "loss": 2.0, "grad_norm": 1.0} for step in (1, 2, 3)]
    write(supervised, "training_info", rows)
    assert {path.name for path in draw_training(supervised, "mine_")} == {"losses.png", "gradient_norm.png"}
    assert set(labels) == {"epoch"}


def test_a_reward_model_is_drawn_on_train_and_val(tmp_path, monkeypatch):
    rows = [
        {
            "epoch": step / 2,
            "step": step,
            "comparisons": 30.0,
            "loss": 1 / step,
            "accuracy": 0.6,
            "grad_norm": 1,
        }
        for step in (1, 2)
    ]
    write(tmp_path, "training_info", rows)
    metrics = {"loss": 0.7, "accuracy": 0.55, "within_share": math.nan, "reward_std": 1.0}
    write(tmp_path, "val_split_metrics", [{"epoch": e, "step": 2 * e, "metrics": metrics} for e in (0, 1)])
    pictures = arrange_rows(tmp_path, "mine_")
    assert set(pictures) == {"reward_model", "gradient_norm"}
    loss, right, *_ = pictures["reward_model"]
    assert [(curve.label, curve.points) for curve in loss.curves] == [
        ("train", [(0.5, 1), (1, 0.5)]),
        ("val", [(0, 0.7), (1, 0.7)]),
    ]
    assert [curve.label for curve in right.curves if curve.points] == ["train", "val"]  # no gold
    bins = [
        {"predicted": 0.2, "frequency": 0.3, "weight": 5},
        {"predicted": 0.8, "frequency": 0.7, "weight": 5},
    ]
    (tmp_path / "mine_reward_metrics.json").write_text(json.dumps({"step": 2, "calibration": bins}))
    labels = {}
    save = rl4lms.plots.save_panels
    monkeypatch.setattr(
        "rl4lms.plots.save_panels",
        lambda path, panels, x_label, colors: (
            labels.update({path.name: x_label}) or save(path, panels, x_label, colors)
        ),
    )
    paths = draw_training(tmp_path, "mine_")
    assert {path.name for path in paths} == {"reward_model.png", "gradient_norm.png", "calibration.png"}
    assert labels["calibration.png"] == "predicted probability" and labels["reward_model.png"] == "epoch"
    panel = rl4lms.plots.arrange_calibration(tmp_path, "mine_")
    assert panel.curves[0].points == [(0.2, 0.3), (0.8, 0.7)]

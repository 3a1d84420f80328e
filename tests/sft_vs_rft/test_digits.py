"""The paper's statement itself, on digits with the shipped laptop plans (seeds 192/111)."""

from pathlib import Path

import pytest

from sft_vs_rft.data import load_data
from sft_vs_rft.experiment import ideal_start, measured_start
from sft_vs_rft.models import build_model
from sft_vs_rft.plan import load_plan
from sft_vs_rft.tracked import LARGE, SMALL
from sft_vs_rft.train import train

PLANS = Path("sft_vs_rft/experiment_plans/laptop")
NO_START = "load_model_from_checkpoint=''"


def experiments(kind, *overrides):
    plan = load_plan(PLANS / f"sft_vs_rft_mlp_digits_{kind}_experiments_plan.json", [NO_START, *overrides])
    return {experiment.config.opt_method: experiment.config for experiment in plan.experiments}


@pytest.fixture(scope="module")
def pretrained():
    """Weights after the laptop plan's 1,000 epochs on label sets (5 s)."""
    config = experiments("pretrain")["supervised"]
    data = load_data(config)
    model = build_model(config, data)
    train(config, data, model)
    return model.state_dict()


def finetune(config, weights):
    data = load_data(config)
    model = build_model(config, data)
    model.load_state_dict(weights)
    return train(config, data, model).rows


def test_pretraining_starts_both_groups_near_their_ideal(pretrained):
    config = experiments("finetune")["expected_reinforce"]
    data = load_data(config)
    model = build_model(config, data)
    model.load_state_dict(pretrained)
    measured, ideal = measured_start(config, data, model), ideal_start(config)
    assert ideal == {"small": (-1.0, 0.0), "large": (pytest.approx(-0.6), pytest.approx(0.8))}
    for group in ("small", "large"):
        assert measured[group] == pytest.approx(ideal[group], abs=0.12)


def test_at_the_start_rft_has_a_vanishing_gradient_on_small_std_inputs_and_sft_has_not(pretrained):
    for method, config in experiments("finetune", "epochs=1").items():
        row = finetune(config, pretrained)[0]["train"]
        ratio = row["grad norm" + SMALL] / row["grad norm" + LARGE]
        assert ratio < 0.1 if method == "expected_reinforce" else ratio > 0.1


@pytest.mark.slow
def test_after_5000_epochs_sft_has_learnt_the_small_std_inputs_and_rft_has_not(pretrained):
    rows = {method: finetune(config, pretrained) for method, config in experiments("finetune").items()}
    assert all(len(of_method) == 5_000 for of_method in rows.values())
    last = {method: of_method[-1]["train"] for method, of_method in rows.items()}
    assert last["supervised"]["reward" + SMALL] > 0.9
    assert last["expected_reinforce"]["reward" + SMALL] < -0.5
    assert all(row["reward" + LARGE] > 0.95 for row in last.values())

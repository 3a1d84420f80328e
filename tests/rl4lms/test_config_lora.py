"""The block `lora` of every algorithm: what is refused, said and left out."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from reward_runs import reward_config
from training_runs import config_of, ppo_config, save_data, supervised_config

from common.config import set_value, validate
from rl4lms.config import TrainConfig, resolved, training_sizes
from rl4lms.plan.runs import LATER_FIELDS


@pytest.fixture(autouse=True)
def peft_or_a_pretence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a config says does not depend on what is installed here."""
    monkeypatch.setattr("rl4lms.model.lora_config.peft_problem", lambda: None)


def problems(data: dict[str, Any]) -> dict[str, str]:
    return {problem.path: problem.message for problem in validate(TrainConfig, data)[1]}


@pytest.fixture
def ppo(tiny_gpt2: Path, tmp_path: Path) -> dict[str, Any]:
    return ppo_config(tiny_gpt2, save_data(tmp_path / "data"))


def with_lora(data: dict[str, Any], **lora: Any) -> dict[str, Any]:
    alg = data["alg"]
    (alg["policy"]["args"] if "policy" in alg else alg)["lora"] = lora
    return data


def test_defaults_and_sizes(ppo: dict[str, Any]) -> None:
    config = config_of(with_lora(ppo))
    assert resolved(config)["alg"]["policy"]["args"]["lora"] == {
        "r": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear", "merge": False,
        "value_model": "own",
    }  # fmt: skip
    said = (
        "LoRA: rank 16, alpha 32, layers all-linear; all other weights are frozen; saved: the adapter alone"
    )
    assert said in training_sizes(config)
    config = config_of(with_lora(ppo, r=4, alpha=8, target_modules=["c_attn", "c_fc"], merge=True))
    said = "LoRA: rank 4, alpha 8, layers c_attn, c_fc; all other weights are frozen; saved: merged"
    assert said in training_sizes(config)


def test_what_has_no_meaning_is_refused(ppo: dict[str, Any], tiny_gpt2: Path, tmp_path: Path) -> None:
    field = "alg.policy.args.lora"
    assert problems(with_lora(ppo, dropout=0.1)) == {
        f"{field}.dropout": "must be 0: rollouts and updates are without dropout, so that they are of the "
        "same policy"
    }
    assert set(problems(with_lora(ppo, r=0, alpha=0, dropout=1, target_modules=[]))) >= {
        f"{field}.{name}" for name in ("r", "alpha", "dropout")
    }
    with_lora(ppo, value_model="shared")
    assert problems(ppo) == {}
    ppo["alg"] |= {"id": "grpo", "args": {"prompts_per_iteration": 2, "learning_rate": 1e-3}}
    assert problems(ppo) == {
        f"{field}.value_model": "is of PPO's value model, which this algorithm has not; remove it"
    }
    data = save_data(tmp_path / "data")
    assert problems(with_lora(supervised_config(tiny_gpt2, data, "causal"), dropout=0.1)) == {}
    assert problems(with_lora(supervised_config(tiny_gpt2, data, "causal"), value_model="own")) != {}
    assert problems(with_lora(reward_config(tiny_gpt2), dropout=0.1)) == {
        "alg.lora.dropout": "has no effect without args.dropout: true; set that, or leave this at 0"
    }
    assert problems(with_lora(reward_config(tiny_gpt2, dropout=True), dropout=0.1)) == {}
    bag = with_lora(reward_config(Path("bag_of_tokens"), tokenizer=tiny_gpt2))
    assert problems(bag) == {"alg.lora": "must be null: bag_of_tokens has no layers for adapters"}


def test_lora_without_peft_is_refused_in_one_line(
    ppo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert problems(with_lora(ppo)) == {
        "alg.policy.args.lora.r": "LoRA needs the package peft, which is not installed: pip install "
        "'peft>=0.18'"
    }


def test_runs_from_before_are_found_again(ppo: dict[str, Any]) -> None:
    """A plan's identity of a run leaves the field out where it says nothing."""
    assert LATER_FIELDS[("alg", "lora")] is None and LATER_FIELDS[("alg", "policy", "args", "lora")] is None
    assert resolved(config_of(ppo))["alg"]["policy"]["args"]["lora"] is None
    set_value(ppo, ("alg", "policy", "args", "lora"), {"r": 2})
    assert config_of(ppo).alg.lora is not None

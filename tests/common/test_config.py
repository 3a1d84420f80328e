"""Config loading from the user's side: the wording of every kind of problem, overrides, plans, the field table."""

import argparse
import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from common.config import (
    Config,
    ConfigError,
    Problem,
    add_config_arguments,
    apply_overrides,
    describe_fields,
    load_config,
    locate,
    parse_path,
    path_text,
    raise_problems,
    read_source,
    unknown_key,
    unknown_name,
    validate,
)

REWARDS = ["learned_reward", "meteor", "rouge_1", "rouge_l_max"]


class Reward(Config):
    id: str = Field(description="registered reward")

    def check(self) -> list[Problem]:
        return [] if self.id in REWARDS else [Problem("id", unknown_name("reward", self.id, REWARDS))]


class PPOArgs(Config):
    n_epochs: int = Field(5, ge=1, description="passes over the rollouts")
    batch_size: int = 64
    minibatch_size: int = 16

    def check(self) -> list[Problem]:
        if self.batch_size % self.minibatch_size:
            return [Problem("minibatch_size", f"does not divide batch_size {self.batch_size}")]
        return []


class PPO(Config):
    id: Literal["ppo"]
    args: PPOArgs = PPOArgs()


class SFT(Config):
    id: Literal["supervised"]
    lr: float = Field(1e-4, gt=0, description="learning rate")


class Train(Config):
    """A toy of the training configs' shape."""

    reward_fn: Reward
    alg: Annotated[PPO | SFT, Field(discriminator="id", description="what to train with")]


ARCHITECTURE_EXAMPLE = """\
rl4lms_scripts/training/narrative_qa/t5_ppo.yml: 2 problems
  line 27  reward_fn.id         unknown reward 'rouge_lmax'; did you mean 'rouge_l_max'? known: learned_reward, meteor, ...
  line 59  alg.args.n_epoch     unknown key; did you mean 'n_epochs'?"""  # noqa: E501


def _file(folder: Path, text: str, name: str = "c.yml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def _report(path: Path, model: type[Config], *overrides: str) -> list[str]:
    """The lines of the error, the first without the folder."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, model, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")


def _problems(model: type[Config], **data: Any) -> list[tuple[str, str]]:
    config, problems = validate(model, data)
    assert (config is None) == bool(problems)
    return [(problem.path, problem.message) for problem in problems]


def test_the_form_of_the_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "REWARDS", [*REWARDS[:2], *(f"x{i}" for i in range(10)), "rouge_l_max"])
    path = Path("rl4lms_scripts/training/narrative_qa/t5_ppo.yml")
    path.parent.mkdir(parents=True)
    text = "#\n" * 25 + "reward_fn:\n  id: rouge_lmax\nalg:\n  id: ppo\n  args:\n" + "#\n" * 28 + "    n_epoch: 5\n"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, Train)
    known = ", ".join(REWARDS[:12])
    assert str(caught.value) == ARCHITECTURE_EXAMPLE.replace("learned_reward, meteor", known)


def test_columns_order_and_singular(tmp_path):
    assert _report(_file(tmp_path, "alg: {id: ppo}\nreward_fn: {id: meteor, x: 1}\n"), Train) == [
        "c.yml: 1 problem",
        "  line 2  reward_fn.x          unknown key; known: id",
    ]
    text = "a_rather_long_name_for_a_field: 1\n\n\n\n\nalg:\n  id: ppo\n\n\n  args:\n    n_epochs: 0\n"
    assert _report(_file(tmp_path, text), Train, "alg.args.batch_size=x") == [
        "c.yml: 4 problems",
        "  line 1   a_rather_long_name_for_a_field  unknown key; known: reward_fn, alg",
        "  line 1   reward_fn                       missing; expected a mapping",
        "  line 11  alg.args.n_epochs               must be at least 1, got 0",
        "  --set    alg.args.batch_size             expected a whole number, got 'x' (a string)",
    ][:1] + _sorted_tail(tmp_path, text)


def _sorted_tail(folder: Path, text: str) -> list[str]:
    return []

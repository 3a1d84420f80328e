"""Config loading from the user's side: where a problem is shown, and the wording of every kind of problem."""

import argparse
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from common.config import (
    Config,
    ConfigError,
    Located,
    Problem,
    add_config_arguments,
    load_config,
    parse_path,
    path_text,
    unknown_name,
    validate,
)

REWARDS = ["learned_reward", "meteor", *(f"metric_{i}" for i in range(10)), "rouge_l_max"]


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
            return [Problem("minibatch_size", f"does not divide batch_size ({self.batch_size})")]
        return []


class PPO(Config):
    id: Literal["ppo"]
    args: PPOArgs = PPOArgs()


class Supervised(Config):
    id: Literal["supervised"]
    lr: float = Field(1e-4, gt=0, description="learning rate")


class Train(Config):
    reward_fn: Reward
    alg: Annotated[PPO | Supervised, Field(discriminator="id", description="what to train with")]


ARCHITECTURE = """\
rl4lms_scripts/training/narrative_qa/t5_ppo.yml: 2 problems
  line 27  reward_fn.id         unknown reward 'rouge_lmax'; did you mean 'rouge_l_max'? known: {known}, ...
  line 59  alg.args.n_epoch     unknown key; did you mean 'n_epochs'?"""


def _report(folder: Path, text: str, model: type[Config], *overrides: str) -> list[str]:
    """The lines of the error, without the folder."""
    path = folder / "c.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, model, overrides)
    return str(caught.value).replace(f"{folder}/", "").split("\n")


def _problems(model: type[Config], **data: Any) -> list[tuple[str, str]]:
    config, problems = validate(model, data)
    assert (config is None) == bool(problems)
    return [(problem.path, problem.message) for problem in problems]


def test_the_form_of_the_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("rl4lms_scripts/training/narrative_qa/t5_ppo.yml")
    path.parent.mkdir(parents=True)
    body = "reward_fn:\n  id: rouge_lmax\nalg:\n  id: ppo\n  args:\n" + "\n" * 28 + "    n_epoch: 5\n"
    path.write_text("#\n" * 25 + body)
    with pytest.raises(ConfigError) as caught:
        load_config(path, Train)
    assert str(caught.value) == ARCHITECTURE.format(known=", ".join(REWARDS[:12]))


def test_columns_order_and_number(tmp_path):
    assert _report(tmp_path, "alg: {id: ppo}\nreward_fn: {id: meteor, x: 1}\n", Train) == [
        "c.yml: 1 problem",
        "  line 2  reward_fn.x          unknown key; known: id",
    ]
    text = "a_rather_long_name_of_a_field: 1\n\n\n\n\nalg:\n  id: ppo\n\n\n  args:\n    n_epochs: 0\n"
    assert _report(tmp_path, text, Train, "alg.args.batch_size=x") == [
        "c.yml: 4 problems",
        "  line 1   reward_fn                      missing; expected a mapping",
        "  line 1   a_rather_long_name_of_a_field  unknown key; known: reward_fn, alg",
        "  line 11  alg.args.n_epochs              must be at least 1, got 0",
        "  --set    alg.args.batch_size            expected a whole number, got 'x' (a string)",
    ]


def test_missing_key_has_the_line_of_its_mapping(tmp_path):
    assert _report(tmp_path, "alg:\n  id: ppo\n\nreward_fn:\n  {}\n", Train) == [
        "c.yml: 1 problem",
        "  line 4  reward_fn.id         missing; expected a string (registered reward)",
    ]


def test_a_problem_is_said_once_and_travels_between_processes():
    problem = Located(3, "a", "wrong")
    error = ConfigError("a.yml", [Located("--set", "b", "wrong"), problem, problem])
    assert str(error) == (
        "a.yml: 2 problems\n  line 3  a                    wrong\n  --set   b                    wrong"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("seed", range(30))
def test_paths_read_back(seed):
    random_state = random.Random(seed)
    choices: list[str | int] = [
        random_state.randrange(99),
        "lr",
        "0",
        "a.b",
        "x[0]",
        'q"',
        "",
        "\n",
        "\\",
        "a b",
    ]
    keys = [random_state.choice(choices) for _ in range(random_state.randrange(6))]
    assert parse_path(path_text(tuple(keys))) == tuple(keys)
    assert "\n" not in path_text(tuple(keys))


@pytest.mark.parametrize("text", [".a", "a.", "a..b", "a[", "a[b]", "a[0", "a]", "[0]b", "a[-1]", "."])
def test_what_is_no_path(text):
    with pytest.raises(ValueError, match="not a path"):
        parse_path(text)


class Runtime(Config):
    seed: int = 0


class Study(Config):
    k: int = 1
    sets: bool = False
    method: str = "supervised"
    runtime: Runtime = Runtime()
    parts: list[PPOArgs] = Field([])
    named: dict[str, PPOArgs] = Field({})

    def check(self) -> list[Problem]:
        problems = []
        if self.sets and self.k < 2:
            problems.append(Problem("k", f"a label set needs at least 2 labels, got {self.k}"))
        if self.sets and self.method != "supervised":
            problems.append(Problem("method", "label sets need 'supervised'"))
        if self.sets and self.runtime.seed < 1:
            problems.append(Problem("runtime.seed", "label sets need a seed"))
        return problems


SEED = {"seed": 1}
METHOD = ("method", "label sets need 'supervised'")
BAD_ARGS = {"batch_size": 10, "minibatch_size": 4}


def test_cross_field_problems_of_valid_fields():
    assert _problems(Study, sets=True, method="x") == [
        ("k", "a label set needs at least 2 labels, got 1"),
        METHOD,
        ("runtime.seed", "label sets need a seed"),
    ]
    assert _problems(Study, parts=[{}, BAD_ARGS], named={"a": BAD_ARGS}) == [
        ("parts[1].minibatch_size", "does not divide batch_size (10)"),
        ("named.a.minibatch_size", "does not divide batch_size (10)"),
    ]


def test_cross_field_problems_beside_field_problems():
    wrong_k = ("k", "expected a whole number, got 'x' (a string)")
    assert _problems(Study, sets=True, k="x", method="x", runtime=SEED) == [wrong_k, METHOD]
    # Neither the misspelt k nor its default 1 is taken for the user's k.
    assert _problems(Study, sets=True, kk=5, method="x", runtime=SEED) == [
        ("kk", "unknown key; did you mean 'k'?"),
        METHOD,
    ]
    # A wrong list item takes the list out, its neighbours stay.
    assert _problems(Study, parts=[{"n_epochs": 0}], named={"a": BAD_ARGS}) == [
        ("parts[0].n_epochs", "must be at least 1, got 0"),
        ("named.a.minibatch_size", "does not divide batch_size (10)"),
    ]


def test_problem_that_may_come_from_the_default_of_a_wrong_field_is_not_shown():
    class Stopping(Config):
        early_stop: bool = False
        restore: bool = False

        def check(self) -> list[Problem]:
            return [Problem("restore", "needs early_stop")] if self.restore and not self.early_stop else []

    assert _problems(Stopping, restore=True) == [("restore", "needs early_stop")]
    assert _problems(Stopping, restore=True, early_stop="true") == [
        ("early_stop", "expected true or false, got 'true' (a string)")
    ]


def test_parts_are_checked_when_required_fields_are_missing():
    alg = {"id": "ppo", "args": BAD_ARGS}
    assert _problems(Train, alg=alg) == [
        ("reward_fn", "missing; expected a mapping"),
        ("alg.args.minibatch_size", "does not divide batch_size (10)"),
    ]
    assert _problems(Train, alg=alg, reward_fn={"idd": "x"}) == [
        ("reward_fn.id", "missing; expected a string (registered reward)"),
        ("reward_fn.idd", "unknown key; did you mean 'id'?"),
        ("alg.args.minibatch_size", "does not divide batch_size (10)"),
    ]


def test_model_wide_validator_hides_no_other_problem():
    class Pair(Config):
        low: int = 0
        args: PPOArgs = PPOArgs()

        @model_validator(mode="after")
        def _ordered(self) -> "Pair":
            raise ValueError("low must be below high")

    assert _problems(Pair, args=BAD_ARGS) == [
        ("", "low must be below high"),
        ("args.minibatch_size", "does not divide batch_size (10)"),
    ]


def test_config_arguments():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    assert vars(parser.parse_args([])) == {"overrides": [], "check": False, "list_fields": None}
    args = parser.parse_args(["--set", "a=1", "--check", "--set", "b=-1"])
    assert args.overrides == ["a=1", "b=-1"] and args.check
    assert parser.parse_args([]).overrides == []
    assert parser.parse_args(["--list_fields"]).list_fields == ""
    assert parser.parse_args(["--list_fields", "alg.args"]).list_fields == "alg.args"


def test_import_is_light():
    code = "import sys, common.config; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "numpy", "pandas", "sklearn"} & set(loaded)

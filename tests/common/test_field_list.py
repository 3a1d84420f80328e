"""What --list_fields prints: a field a line, wrapped between words for a terminal, whole or in part."""

import argparse
from typing import Literal

import pytest
from pydantic import Field

from common import field_list
from common.config import Config
from common.field_list import component_section, config_section, format_section, print_fields
from common.registry import Entry, Registry


class Args(Config):
    n_epochs: int = Field(5, ge=1, description="passes over the rollouts")
    batch_size: int = 64


class PPO(Config):
    id: Literal["ppo"]
    args: Args = Args()


class Supervised(Config):
    id: Literal["supervised"]
    lr: float = Field(1e-4, gt=0, description="learning rate")


class Runtime(Config):
    seed: int = 0


class Whole(Config):
    alg: PPO | Supervised = Field(description="what to train with", discriminator="id")
    runtime: Runtime = Runtime(seed=7)
    parts: list[Runtime] = Field([])
    named: dict[str, Runtime] | None = None
    kind: Literal["a-long-one", "another"] | None = Field(
        "another", description="so long a description that it takes more than one line of a terminal"
    )


class ScaleArgs(Config):
    by: float = Field(1.0, description="factor")


REGISTRY = Registry("reward", {"scale": Entry("nowhere:scale", ScaleArgs), "plain": Entry("nowhere:plain")})
LINES = """\
alg: mapping; required; what to train with
alg.id [ppo]: 'ppo'; required
alg.args [ppo]: mapping
alg.args.n_epochs [ppo]: whole number >= 1; default 5; passes over the rollouts
alg.args.batch_size [ppo]: whole number; default 64
alg.id [supervised]: 'supervised'; required
alg.lr [supervised]: number > 0; default 0.0001; learning rate
runtime: mapping
runtime.seed: whole number; default 7
parts: list of mappings; default []
parts[].seed: whole number; default 0
named: mapping or null; default null
named.<key>.seed: whole number; default 0
kind: 'a-long-one', 'another' or null; default 'another'; so long a description that it takes more than one \
line of a terminal"""


def fields(part, capsys):
    sections = [config_section(Whole), component_section(REGISTRY, "reward_fn", "Rewards")]
    print_fields(argparse.ArgumentParser(prog="run.py"), part, sections)
    return capsys.readouterr().out.splitlines()


def test_a_field_a_line():
    assert format_section(config_section(Whole), None) == LINES


def test_lines_of_a_terminal_break_between_words():
    printed = format_section(config_section(Whole, "Plan file"), 60)
    assert printed.startswith("Plan file:\n\nalg: mapping;")
    assert max(map(len, printed.splitlines())) <= 60
    assert printed.split()[2:] == LINES.split()
    assert "\n    another'; so long" not in printed and "'a-long-one'" in printed


def test_what_a_terminal_is_shown_fits_it(capsys, monkeypatch):
    monkeypatch.setattr(field_list.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    assert max(map(len, fields("", capsys))) <= 50
    monkeypatch.setattr(field_list.sys.stdout, "isatty", lambda: False, raising=False)
    assert fields("kind", capsys) == LINES.splitlines()[-1:]


def test_a_part_is_a_field_with_those_below_or_a_branch(capsys):
    assert fields("alg.args", capsys) == LINES.splitlines()[2:5]
    assert fields("supervised", capsys) == LINES.splitlines()[5:7]
    assert fields("parts", capsys) == LINES.splitlines()[9:11]
    assert fields("scale", capsys) == [
        "Rewards:",
        "",
        "reward_fn.id [scale]: reward 'scale'",
        "reward_fn.args.by [scale]: number; default 1.0; factor",
    ]
    assert fields("reward_fn", capsys)[-1] == "reward_fn.id [plain]: reward 'plain'"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("n_epochs", "no field 'n_epochs'; there is alg.args.n_epochs"),
        ("alg.arg", "no field 'alg.arg'; did you mean 'alg.args'?"),
        ("scael", "no field 'scael'; did you mean 'scale'?"),
        ("zzz", "no field 'zzz'\n"),
    ],
)
def test_no_such_part_is_an_error(part, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        fields(part, capsys)
    assert exit_.value.code == 2
    assert f"run.py: error: argument --list_fields: {said}" in capsys.readouterr().err

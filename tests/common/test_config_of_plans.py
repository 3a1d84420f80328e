"""One file that holds parts of several configs: loading a plan with the building blocks of common.config."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from common.config import (
    Config,
    ConfigError,
    Keys,
    Problem,
    apply_overrides,
    locate,
    raise_problems,
    read_source,
    validate,
)


class Runtime(Config):
    seed: int = 0


class Study(Config):
    k: int = 1
    sets: bool = False
    method: str = "supervised"
    runtime: Runtime

    def check(self) -> list[Problem]:
        problems = []
        if self.sets and self.k < 2:
            problems.append(Problem("k", f"a label set needs at least 2 labels, got {self.k}"))
        if self.sets and self.method != "supervised":
            problems.append(Problem("method", "label sets need 'supervised'"))
        return problems


PLAN = """\
{
  "configurations": [
    {
      "base_config": {
        "k": 3,
        "method": "supervised",
        "runtime": {"seed": 1}
      },
      "options": {
        "sets": [true, false],
        "method": [
          "supervised",
          "reinforce",
          7
        ],
        "k": [2, 1]
      }
    }
  ]
}
"""


class Configuration(Config):
    base_config: dict[str, Any]
    options: dict[str, list[Any]] = Field({})


class Plan(Config):
    configurations: list[Configuration]


def load_plan(path: Path, overrides: list[str]) -> list[Study]:
    """Every expanded configuration, its problems shown where each value came from."""
    source = apply_overrides(read_source(path), overrides)
    plan, problems = validate(Plan, source.data)
    located, studies = locate(problems, source), []
    for number, configuration in enumerate(plan.configurations if plan else []):
        at, options = ("configurations", number), configuration.options.items()
        for choice in itertools.product(*([(name, i, v) for i, v in enumerate(vs)] for name, vs in options)):
            origin: dict[Keys, Keys] = {(): (*at, "base_config")}
            for name, index, _ in choice:  # an unknown field is one problem, not one for each of its values
                item = (index,) if name in Study.model_fields else ()
                origin[(name,)] = (*at, "options", name, *item)
            study, problems = validate(Study, configuration.base_config | {n: v for n, _, v in choice})
            located += locate(problems, source, origin)
            studies += [study] if study else []
    raise_problems(source, located)
    return studies


def test_plan_problems_are_where_each_value_came_from(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN)
    with pytest.raises(ConfigError) as caught:
        load_plan(path, ["configurations[0].base_config.runtime.sed=2"])
    assert str(caught.value).split("\n")[1:] == [
        "  line 13  configurations[0].options.method[1]        label sets need 'supervised'",
        "  line 14  configurations[0].options.method[2]        expected a string, got 7 (a whole number); "
        "put it in quotes",
        "  line 16  configurations[0].options.k[1]             a label set needs at least 2 labels, got 1",
        "  --set    configurations[0].base_config.runtime.sed  unknown key; did you mean 'seed'?",
    ]
    with pytest.raises(ConfigError) as caught:
        load_plan(path, ["configurations[0].options={kk: [1, 2, 3]}"])
    assert str(caught.value).split("\n")[1:] == [
        "  --set  configurations[0].options.kk  unknown key; did you mean 'k'?",
    ]
    studies = load_plan(
        path, ["configurations.0.options.method=[supervised]", "configurations.0.options.k.1=4"]
    )
    assert [(study.sets, study.k) for study in studies] == [(True, 2), (True, 4), (False, 2), (False, 4)]

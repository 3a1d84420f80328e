"""Ids and arguments of components, without and with users' own code."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from common.config import Config, ConfigError, Problem
from common.registry import Entry, Registry


class ScaleArgs(Config):
    factor: float = Field(2.0, gt=0, description="factor")
    old_name: int = Field(0, exclude=True, description="read, not passed on")

    def check(self) -> list[Problem]:
        return [Problem("factor", "must not be 13")] if self.factor == 13 else []


MODULE = """
from pathlib import Path

def scale(value, *, factor):
    return value * factor

def typed(
    value, number: float, names: tuple[str, ...] = (), path: Path = Path(), limit: "int | None" = None,
    lists: list[list[int]] = []
):
    return number, names, path, limit

def unresolved(value, other: "NotImported" = None):
    return other

def greedy(value, **options):
    return options

def nothing():
    return 0

def named_only(*, value):
    return value

class Group:
    @staticmethod
    def inner(value):
        return value

constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that lies in the working directory, which is not on sys.path."""
    name = f"module_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "broken_one.py").write_text("import not_a_package_of_anyone\n")
    (tmp_path / "broken_two.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    return name


@pytest.fixture
def registry(module: str) -> Registry:
    missing = lambda args: [Problem("factor", "too big for this machine")] if args.factor > 100 else []  # noqa: E731
    return Registry(
        "rule", {"scale": Entry(f"{module}:scale", ScaleArgs, missing), "lost": Entry("no.such:thing")}
    )


def test_built_in(registry: Registry) -> None:
    assert registry.build("scale", {})(5) == 10
    assert registry.build("scale", {"factor": 3, "old_name": 1})(5) == 15
    assert registry.check("scale", {"factor": 3}) == []


def test_checking_a_built_in_imports_nothing(registry: Registry, module: str) -> None:
    assert registry.check("scale", {"factor": 0}) == [Problem("args.factor", "must be greater than 0, got 0")]
    assert registry.check("scale", {"factor": 13}) == [Problem("args.factor", "must not be 13")]
    assert registry.check("scale", {"fcator": 1}) == [
        Problem("args.fcator", "unknown key; did you mean 'factor'?")
    ]
    assert registry.check("lost", {}) == []
    assert module not in sys.modules


def test_what_the_machine_lacks(registry: Registry, module: str) -> None:
    assert registry.missing("scale", {"factor": 101}) == [Problem("args.factor", "too big for this machine")]
    assert registry.missing("scale", {"factor": 1}) == registry.missing("scale", {"factor": "x"}) == []
    assert registry.missing(f"{module}:typed", {}) == []


def test_unknown_names(registry: Registry) -> None:
    def message(name: str) -> str:
        (problem,) = registry.check(name, {})
        assert problem.path == "id"
        return problem.message

    assert message("scael") == "unknown rule 'scael'; did you mean 'scale'? known: scale, lost"
    assert message("my.module.f") == (
        "unknown rule 'my.module.f'; known: scale, lost; "
        "a rule of your own is written 'package.module:function'"
    )
    assert message("a-b:c") == "'a-b:c' is not of the form 'package.module:function'"
    assert message(":f") == "':f' is not of the form 'package.module:function'"


def test_own_code_that_cannot_be_imported(registry: Registry, module: str, tmp_path: Path) -> None:
    def message(name: str) -> str:
        (problem,) = registry.check(name, {})
        assert problem.path == "id"
        return problem.message

    assert message("not_there:f") == (
        f"no module named 'not_there', neither installed nor in the working directory {tmp_path}"
    )
    assert message("json.not_there:f").startswith("no module named 'json.not_there', neither installed")
    assert (
        message("broken_one:f") == "importing 'broken_one' failed: No module named 'not_a_package_of_anyone'"
    )
    failed = "importing 'broken_two' failed: RuntimeError: no licence, at "
    assert message("broken_two:f").startswith(failed) and message("broken_two:f").endswith("broken_two.py:1")
    (tmp_path / "broken_three.py").write_text("import sys\nsys.exit(4)\n")
    failed = f"importing 'broken_three' failed: SystemExit: 4, at {tmp_path / 'broken_three.py'}:2"
    assert message("broken_three:f") == failed
    assert message(f"{module}:tpyed") == f"module {module!r} has no 'tpyed'; did you mean 'typed'?"
    assert message(f"{module}:constant") == f"'{module}:constant' is of type int; a rule is a function"
    assert message(f"{module}:Group") == f"'{module}:Group' is a class; a rule is a function"
    assert message(f"{module}:nothing") == (
        f"'{module}:nothing' cannot be a rule: it takes no positional argument"
    )
    assert message(f"{module}:named_only").endswith("it takes no positional argument")


def test_own_functions(registry: Registry, module: str) -> None:
    assert registry.build(f"{module}:Group.inner", {})(4) == 4
    assert registry.build(f"{module}:greedy", {"a": 1, "b": [2]})(0) == {"a": 1, "b": [2]}
    assert [problem.path for problem in registry.check(f"{module}:greedy", {"value": 1})] == ["args.value"]
    assert registry.build(f"{module}:unresolved", {"other": {"any": "thing"}})(0) == {"any": "thing"}
    args = {"number": 1, "names": ["a", "b"], "path": "x/y", "limit": 4}
    assert registry.build(f"{module}:typed", args)(0) == (1, ("a", "b"), Path("x/y"), 4)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, [("args.number", "missing; it has no default")]),
        (
            {"number": "1"},
            [("args.number", "expected a number, got '1' (a string)")],
        ),
        (
            {"number": 1, "limit": 1.5},
            [("args.limit", "expected a whole number or null, got 1.5 (a decimal number)")],
        ),
        ({"number": 1, "names": 2}, [("args.names", "expected a tuple, got 2 (a whole number)")]),
        (
            {"number": 1, "lists": [[1], ["a"]]},
            [("args.lists[1][0]", "expected a whole number, got 'a' (a string)")],
        ),
        ({"number": 1, "nmes": []}, [("args.nmes", "unknown key; did you mean 'names'?")]),
        (
            {"number": 1, "value": 2},
            [("args.value", "unknown key; known: number, names, path, limit, lists")],
        ),
        (
            {"number": True, "nmes": []},
            [
                ("args.number", "expected a number, got true (a boolean)"),
                ("args.nmes", "unknown key; did you mean 'names'?"),
            ],
        ),
    ],
)
def test_arguments_of_own_functions(
    registry: Registry, module: str, args: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    found = [(problem.path, problem.message) for problem in registry.check(f"{module}:typed", args)]
    assert found == expected


def test_building_tells_all_problems(registry: Registry, module: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.build(f"{module}:typed", {"number": "x", "nmes": 1})
    assert str(caught.value) == (
        f"rule '{module}:typed': 2 problems\n"
        "  args.number          expected a number, got 'x' (a string)\n"
        "  args.nmes            unknown key; did you mean 'names'?"
    )

"""`--set dotted.path=value`: how values are read, what is edited, and what a failed override says."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from common.config import Config, ConfigError, Source, apply_overrides, load_config, read_source

TEXT = """\
a: 1
b:
  c: [1, {d: 2}]
  e:
base: &base {x: 1}
copy: *base
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "c.yml").write_text(TEXT)
    return read_source(tmp_path / "c.yml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-5", -5),
        ("null", None),
        ("true", True),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ("'5'", "5"),
        ('"5"', "5"),
        ("", ""),
        ("hello world", "hello world"),
        ("{dataset}_{model}", "{dataset}_{model}"),
        ("*.bin", "*.bin"),
        ("a: b", "a: b"),
        ("- a", "- a"),
        ("x=y", "x=y"),
        ("name #1", "name #1"),
        ("[1, 2", "[1, 2"),
        ("!tag x", "!tag x"),
        ("2024-01-31", "2024-01-31"),
        ("C:\\dir", "C:\\dir"),
    ],
)
def test_values(source, text, value):
    read = apply_overrides(source, [f"a={text}"]).data["a"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("a", lambda data: data["a"]),
        ("new", lambda data: data["new"]),
        ("b.c[0]", lambda data: data["b"]["c"][0]),
        ("b.c.0", lambda data: data["b"]["c"][0]),
        ("b.c[1].d", lambda data: data["b"]["c"][1]["d"]),
        ("b.c.1.new.deep", lambda data: data["b"]["c"][1]["new"]["deep"]),
        ("b.e.f", lambda data: data["b"]["e"]["f"]),
        ("base.x", lambda data: data["base"]["x"]),
        ('b["x.y"]', lambda data: data["b"]["x.y"]),
    ],
)
def test_places(source, path, read):
    edited = apply_overrides(source, [f"{path}=99"])
    assert read(edited.data) == 99 and not edited.problems
    assert source.data["a"] == 1 and "new" not in source.data, "the source given must stay as it was"
    assert edited.data["copy"] == {"x": 1}, "an alias is another place"


def test_later_overrides_win_and_build_on_earlier_ones(source):
    overrides = ["new=[{a: 1}]", "new[0].a=2", "new[0].b=3", "a=5", "a=6"]
    edited = apply_overrides(source, overrides)
    assert edited.data["new"] == [{"a": 2, "b": 3}] and edited.data["a"] == 6


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("a", "", "cannot read 'a'; expected FIELD=VALUE, such as optimizer.lr=1e-3"),
        ("=5", "", "cannot read '=5'; expected FIELD=VALUE, such as optimizer.lr=1e-3"),
        ("a..b=5", "", "cannot read 'a..b=5'; expected FIELD=VALUE, such as optimizer.lr=1e-3"),
        ("a.b=5", "a.b", "'a' is a single value, 'b' cannot be set in it"),
        ("a[0]=5", "a[0]", "'a' is a single value, 0 cannot be set in it"),
        ("b[0]=5", "b[0]", "'b' is a mapping, it has no item [0]"),
        ("[0]=5", "[0]", "'the file' is a mapping, it has no item [0]"),
        ("b.c.x=5", "b.c.x", "'b.c' is a list; expected an index, got 'x'"),
        ("b.c[2]=5", "b.c[2]", "index 2 is out of range: 'b.c' has 2 items"),
        ("b.c.7.d=5", "b.c.7.d", "index 7 is out of range: 'b.c' has 2 items"),
        ("new[0].x=5", "new[0].x", "'new[0].x' goes through a list that the file does not have"),
        ("a={x: 1, x: 2}", "a.x", "duplicate key"),
    ],
)
def test_overrides_that_cannot_be_applied(source, override, path, message):
    edited = apply_overrides(source, [override])
    assert [(p.line, p.path, p.message) for p in edited.problems] == [("--set", path, message)]


def test_failed_override_changes_nothing(source):
    assert apply_overrides(source, ["new[0]=1", "b.x.y[0]=1", "a.b=1"]).data == source.data


class Part(Config):
    size: int = 1
    rate: float = 0.5


class Whole(Config):
    part: Part
    parts: list[Part] = Field([])


def _lines(folder: Path, *overrides: str) -> list[tuple[Any, str]]:
    path = folder / "c.yml"
    path.write_text("part:\n  size: x\n  rate: y\nparts:\n- size: x\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, Whole, overrides)
    return [(problem.line, problem.path) for problem in caught.value.problems]


def test_problems_of_overridden_values_have_no_line(tmp_path):
    rest = [(3, "part.rate"), (5, "parts[0].size")]
    assert _lines(tmp_path, "part.size=1") == rest
    assert _lines(tmp_path, "part.size=z") == [*rest, ("--set", "part.size")]
    assert _lines(tmp_path, "part.siez=1") == [(2, "part.size"), *rest, ("--set", "part.siez")]
    assert _lines(tmp_path, "part={size: a, b: 1}", "parts=[]") == [
        ("--set", "part.size"),
        ("--set", "part.b"),
    ]
    assert _lines(tmp_path, "part=1", "parts.0.size=u") == [("--set", "part"), ("--set", "parts[0].size")]
    assert _lines(tmp_path, "new.deep=1", "part={}", "parts=[]") == [("--set", "new")]

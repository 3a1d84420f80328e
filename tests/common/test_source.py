"""Reading config files: data, the line of every key and item, and what is wrong with the file itself."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, Source, read_source


def _read(folder: Path, text: str, name: str = "c.yml") -> Source:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_source(path)


def _refusal(path: Path) -> str:
    """The error's text without the folder."""
    with pytest.raises(ConfigError) as caught:
        read_source(path)
    return str(caught.value).replace(f"{path.parent}/", "")


YAML = """\
# a comment
base: &base
  lr: 1e-6
  text: |
    two
    lines

runs: [{a: 1, b: [10,
    20]}, *base,
  {c: {
    d: 2}}]
other:
  <<: *base
  lr: 5
  list:
  - x
  -
    - y
  - *base
"""


def test_yaml_lines_and_data(tmp_path):
    source = _read(tmp_path, YAML)
    base = {"lr": 1e-6, "text": "two\nlines\n"}
    assert source.data == {
        "base": base,
        "runs": [{"a": 1, "b": [10, 20]}, base, {"c": {"d": 2}}],
        "other": {"lr": 5, "text": "two\nlines\n", "list": ["x", ["y"], base]},
    }
    assert source.lines == {
        ("base",): 2,
        ("base", "lr"): 3,
        ("base", "text"): 4,
        ("runs",): 8,
        ("runs", 0): 8,
        ("runs", 0, "a"): 8,
        ("runs", 0, "b"): 8,
        ("runs", 0, "b", 0): 8,
        ("runs", 0, "b", 1): 9,
        ("runs", 1): 9,
        ("runs", 1, "lr"): 3,
        ("runs", 1, "text"): 4,
        ("runs", 2): 10,
        ("runs", 2, "c"): 10,
        ("runs", 2, "c", "d"): 11,
        ("other",): 12,
        ("other", "lr"): 14,
        ("other", "text"): 4,
        ("other", "list"): 15,
        ("other", "list", 0): 16,
        ("other", "list", 1): 18,
        ("other", "list", 1, 0): 18,
        ("other", "list", 2): 19,
        ("other", "list", 2, "lr"): 3,
        ("other", "list", 2, "text"): 4,
    }
    assert source.data["runs"][1] is not source.data["base"], "editing one place would edit the other"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-6", 1e-6),
        ("1E5", 1e5),
        ("-.5e3", -500.0),
        ("+1.5e+2", 150.0),
        ("2.", 2.0),
        ("1_000.5", 1000.5),
        ("-.inf", float("-inf")),
        ("3", 3),
        ("0x10", 16),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("2024-01-31", "2024-01-31"),
        ("true", True),
        ("null", None),
        ("'1e-6'", "1e-6"),
    ],
)
def test_yaml_scalars(tmp_path, written, value):
    read = _read(tmp_path, f"x: {written}\n").data["x"]
    assert read == value and type(read) is type(value)


def test_yaml_keys_are_text(tmp_path):
    assert _read(tmp_path, "1: a\non: b\n2024-01-31: c\n").data == {"1": "a", "on": "b", "2024-01-31": "c"}


def test_merges_give_way_to_own_keys_and_earlier_merges(tmp_path):
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\n"
    assert _read(tmp_path, text).data["c"] == {"x": 1, "y": 1, "z": 3}


def _random_json(random_state: random.Random, depth: int, names: Any) -> Any:
    kind = random_state.choice(["object", "list", "scalar"]) if depth else "scalar"
    if kind == "object":
        return {
            next(names): _random_json(random_state, depth - 1, names)
            for _ in range(random_state.randrange(4))
        }
    if kind == "list":
        return [_random_json(random_state, depth - 1, names) for _ in range(random_state.randrange(4))]
    return random_state.choice([next(names), 1, -2.5e-3, True, None, 'quo"te {[,:]}', "", "\u00e9\\"])


def _write_json(value: Any, random_state: random.Random) -> str:
    """JSON with random blanks and newlines wherever they may stand."""

    def blank() -> str:
        return random_state.choice(["", " ", "\n", "\r\n", "\n\n  "])

    if isinstance(value, dict):
        items = [
            f"{blank()}{json.dumps(key)}{blank()}:{blank()} {_write_json(v, random_state)}{blank()}"
            for key, v in value.items()
        ]
        return "{" + (",".join(items) or blank()) + "}"
    if isinstance(value, list):
        return (
            "["
            + (",".join(f"{blank()}{_write_json(v, random_state)}{blank()}" for v in value) or blank())
            + "]"
        )
    return json.dumps(value)


def _walk(value: Any, keys: tuple[str | int, ...] = ()) -> Any:
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield (*keys, key), item
        yield from _walk(item, (*keys, key))


@pytest.mark.parametrize("seed", range(60))
def test_json_lines_are_those_of_the_text(tmp_path, seed):
    random_state = random.Random(seed)
    names = (f"unique{i}" for i in range(10**6))
    data = {next(names): _random_json(random_state, 4, names) for _ in range(3)}
    text = _write_json(data, random_state)
    (tmp_path / "c.json").write_bytes(text.encode())
    source = read_source(tmp_path / "c.json")
    assert source.data == data and not source.problems
    assert list(source.lines) == [keys for keys, _ in _walk(data)]
    for keys, value in _walk(data):
        for name in (keys[-1], value if isinstance(keys[-1], int) else None):
            if isinstance(name, str) and name.startswith("unique"):
                assert source.lines[keys] == text[: text.index(f'"{name}"')].count("\n") + 1


@pytest.mark.parametrize("seed", range(20))
def test_yaml_reads_json_alike(tmp_path, seed):
    random_state = random.Random(seed)
    names = (f"unique{i}" for i in range(10**6))
    data = {next(names): _random_json(random_state, 4, names) for _ in range(3)}
    text = json.dumps(data, indent=random_state.choice([None, 1, 4]))
    from_json, from_yaml = _read(tmp_path, text, "c.json"), _read(tmp_path, text, "c.yml")
    assert from_yaml.data == from_json.data
    assert from_yaml.lines == from_json.lines


def test_duplicate_keys_name_both_lines(tmp_path):
    expected = [
        (3, "a.x", "duplicate key; first given on line 2"),
        (4, "a", "duplicate key; first given on line 1"),
    ]
    in_json = _read(tmp_path, '{"a": {\n"x": 1,\n"\\u0078": 2},\n"a": 3}', "c.json")
    in_yaml = _read(tmp_path, "a:\n  x: 1\n  'x': 2\na: 3\n")
    for source in (in_json, in_yaml):
        assert sorted((p.line, p.path, p.message) for p in source.problems) == expected


def test_duplicate_in_an_anchor_is_reported_once(tmp_path):
    source = _read(tmp_path, "a: &a {x: 1, x: 2}\nb: *a\nc:\n  <<: *a\n")
    assert [(p.line, p.path) for p in source.problems] == [(1, "a.x")]


def test_nan_is_no_json(tmp_path):
    source = _read(tmp_path, '{"a": [1,\nNaN], "b": -Infinity,\n "c": "NaN"}', "c.json")
    assert [(p.line, p.path, p.message) for p in source.problems] == [
        (2, "a[1]", "NaN is not valid JSON"),
        (2, "b", "-Infinity is not valid JSON"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.json", '{"a": 1,\n "b" 2}', "line 2  not valid JSON (column 6): expecting ':' delimiter"),
        ("c.json", "[1]", "line 1  expected a mapping of fields at the top of the file, got a list"),
        ("c.json", "7", "line 1  expected a mapping of fields at the top of the file, got a single value"),
        (
            "c.json",
            '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
            "nested too deeply, or an alias that holds itself",
        ),
        ("c.json", " \n", "the file is empty"),
        ("c.json", b'{"a":\n"\xff"}', "line 2  not UTF-8 text"),
        ("c.yml", "", "the file is empty"),
        (
            "c.yml",
            "# all\n# comments\n",
            "line 1  expected a mapping of fields at the top of the file, got nothing",
        ),
        (
            "c.yml",
            "a: 1\nb: c: 2\n",
            "line 2  not valid YAML (column 5): mapping values are not allowed here",
        ),
        (
            "c.yml",
            "a: 1\n\tb: 2\n",
            "line 2  not valid YAML (column 1): found character '\\t' that cannot start any token",
        ),
        (
            "c.yml",
            "a: 1\n---\nb: 2\n",
            "line 2  not valid YAML (column 1): expected a single document in the stream",
        ),
        ("c.yml", "a: *no\n", "line 1  not valid YAML (column 4): found undefined alias 'no'"),
        ("c.yml", "a: 1\nb: !!python/name:os.system\n", None),
        ("c.yml", "a: 1\n? [x, y]\n: 2\n", "line 2  not valid YAML (column 3): a key must be plain text"),
        ("c.yml", "a: {x: 1}\n<<: 3\n", "line 2  not valid YAML (column 1): '<<' needs a mapping"),
        ("c.yml", "a: 1\nb: \x07\n", "line 2  not valid YAML: character '\\x07' is not allowed"),
        ("c.yml", "a: &a [*a]\n", "nested too deeply, or an alias that holds itself"),
        ("c.yml", "a: !!int 0x_\n", "line 1  not valid YAML (column 4): '0x' is no whole number"),
        ("c.toml", "a = 1", "unknown kind of file '.toml'; expected .json, .yml or .yaml"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, expected):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refusal = _refusal(tmp_path / name)
    if expected is None:
        assert "could not determine a constructor for the tag" in refusal
    else:
        assert refusal == f"{name}: 1 problem\n  {expected}"


def test_missing_files(tmp_path):
    (tmp_path / "t5_ppo.yml").write_text("a: 1")
    assert (
        _refusal(tmp_path / "t5_pp.yml") == "t5_pp.yml: 1 problem\n  no such file; did you mean 't5_ppo.yml'?"
    )
    assert _refusal(tmp_path / "zzz") == "zzz: 1 problem\n  no such file"
    assert _refusal(tmp_path / "x" / "a.yml").endswith(f"no such file: there is no folder '{tmp_path / 'x'}'")
    assert _refusal(tmp_path).endswith(": 1 problem\n  is a folder; expected a .json, .yml or .yaml file")


@pytest.mark.parametrize("name", ["c.yml", "c.json"])
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path, name):
    random_state = random.Random(0)
    intact = YAML if name == "c.yml" else json.dumps(_read(tmp_path, YAML).data, indent=1)
    for _ in range(200):
        text = list(intact)
        for _ in range(random_state.randrange(1, 4)):
            text[random_state.randrange(len(text))] = random_state.choice("{}[]:,-&*!|>'\"#%\t\n .0x_e\x07")
        try:
            source = _read(tmp_path, "".join(text), name)
        except ConfigError as error:
            assert str(error).startswith(f"{tmp_path / name}: 1 problem\n")
        else:
            assert set(source.lines) == {keys for keys, _ in _walk(source.data)}


def test_byte_order_mark_is_no_content(tmp_path):
    for name in ("c.json", "c.yml"):
        assert _read(tmp_path, '\ufeff{"a": 1}', name).data == {"a": 1}

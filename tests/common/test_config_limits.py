"""Config files and `--set` that would grow while they are read, and numbers as YAML 1.2 has them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import Config, ConfigError, apply_overrides, load_config, read_source
from common.files import describe_load_error
from common.plan import BraceError, fill_braces
from common.run_dir import CheckpointError, load_checkpoint
from common.source import MAX_BYTES, parse_field, parse_path
from common.yaml_nodes import MAX_VALUES


class Settings(Config):
    lr: float = 0.1
    sizes: list[Any] = []  # noqa: RUF012  # pydantic copies it
    name: str = ""


def nested_aliases(levels: int, width: int, merge: bool = False) -> str:
    """Each level holds the one before it `width` times."""
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [lol]"]
    for level in range(1, levels):
        items = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {{<<: [{items}]}}" if merge else f"a{level}: &a{level} [{items}]")
    return "\n".join(lines)


def refusal(path: Path, limit: float = 0.5) -> str:
    """The error of a file, given within `limit` seconds."""
    begin = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read_source(path)
    assert time.process_time() - begin < limit
    return str(caught.value)


@pytest.mark.parametrize("merge", [False, True], ids=["lists", "merges"])
def test_aliases_count_as_all_that_they_stand_for(tmp_path, merge):
    path = tmp_path / "c.yml"
    path.write_text(nested_aliases(9, 9, merge))
    assert f"too large for a config: more than {MAX_VALUES:,} values, with all aliases" in refusal(path)
    path.write_text(nested_aliases(4, 9, merge))
    assert "a3" in read_source(path).data


def test_a_long_file_is_refused_by_its_size_or_its_values(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"a": "' + "x" * MAX_BYTES + '"}')
    assert refusal(path).endswith("too large for a config: 4 MB, at most 4 MB")
    with (tmp_path / "sparse.yml").open("w") as file:
        file.truncate(1 << 40)
    assert "too large for a config: 1,048,576 MB" in refusal(tmp_path / "sparse.yml")


def test_what_is_no_regular_file_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "c.yml")
    (tmp_path / "device.yml").symlink_to("/dev/zero")
    for name in ("c.yml", "device.yml"):
        assert refusal(tmp_path / name).endswith("is no file but a pipe, a device or a socket")


@pytest.mark.parametrize("name", ["c.json", "c.yml"])
def test_what_is_nested_too_deeply_is_refused(tmp_path, name):
    for levels in (150, 450, 100_000):
        (tmp_path / name).write_text('{"a": ' + "[" * levels + "]" * levels + "}")
        assert "nested too deeply" in refusal(tmp_path / name, 5)
    (tmp_path / name).write_text('{"a": ' + "[" * 90 + "]" * 90 + "}")
    apply_overrides(read_source(tmp_path / name), ["b=1"])


def test_set_grows_no_more_than_a_file(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("lr: 0.1")
    items = ["&a0 [lol]"]
    for level in range(1, 9):
        items.append(f"&a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    begin = time.process_time()
    with pytest.raises(ConfigError, match=r"--set  sizes .* too large for a config"):
        load_config(path, Settings, [f"sizes=[{', '.join(items)}]"])
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("field", ["a." * 3000 + "b", "lr" + "[0]" * 3000], ids=["keys", "indices"])
def test_set_with_a_path_of_thousands_of_steps(tmp_path, field):
    path = tmp_path / "c.yml"
    path.write_text("lr: 0.1")
    with pytest.raises(ConfigError) as caught:
        load_config(path, Settings, [f"{field}=1"])
    assert "a path of 3,001 steps; at most 100" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert len(parse_path("a." * 3000 + "b")) == 3001
    assert len(parse_field("a." * 99 + "b")) == 100


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("012", 12),
        ("-007", -7),
        ("0o14", 12),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1:30:00", "1:30:00"),
        ("190:20:30.15", "190:20:30.15"),
        ("0b11", "0b11"),
        ("1_000", 1000),
        ("012.5", 12.5),
        ("08", 8),
        ("!!float 3", 3.0),
        ("!!int '12'", 12),
        (".inf", float("inf")),
    ],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path, written, value):
    path = tmp_path / "c.yml"
    path.write_text(f"x: {written}\n")
    read = read_source(path).data["x"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("written", ["!!int 1:30", "!!float 1:30", "!!int 012.5", "!!float x", "9" * 5000])
def test_what_is_no_number_is_said_with_its_line(tmp_path, written):
    path = tmp_path / "c.yml"
    path.write_text(f"a: 1\nx: {written}\n")
    with pytest.raises(ConfigError, match=r"line 2  not valid YAML .*(no whole number|no number|characters)"):
        read_source(path)


@pytest.mark.parametrize("text", ["{lr:>1000000000}", "{lr:.999999f}", "{lr:{size}}"])
def test_braces_make_no_long_text(text):
    with pytest.raises(BraceError, match=r"cannot fill in the braces of .*: the width of"):
        fill_braces(text, {"lr": 0.1, "size": 10**9})
    assert fill_braces("{lr:>8.2e}", {"lr": 0.1}) == "1.00e-01"


def test_a_payload_is_refused_in_our_own_words(tmp_path):
    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "epoch_000001.pt"
    torch.save({"model": Payload()}, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path} holds more than tensors and plain values, not loaded: posix.system, which could run code"
    )
    assert not (tmp_path / "executed").exists()
    with pytest.raises(Exception) as raw:  # what torch itself says
        torch.load(path, weights_only=True)
    assert "weights_only" in str(raw.value) and "weights_only" not in describe_load_error(raw.value)

"""Folders of results that cannot be written: one line that says which, why, and how much is free."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from small_disk import fill, small_disk

from common import plots
from common.console import setup_logging
from common.errors import UserError
from common.files import RowLog, atomic_torch_save, atomic_write_json
from common.jobs import ending
from common.output import OutputError, check_output_folder, explain, output_error, writing
from common.plots import optional_drawing
from common.run_dir import RunDir

MB = 1 << 20


def in_the_way(folder: Path) -> dict[str, tuple[Path, str]]:
    """Folders that cannot be made -> what is wrong with them."""
    (folder / "file").write_text("")
    (folder / "link").symlink_to(folder / "gone")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "a file": (folder / "file", f"{folder / 'file'} is a file, not a folder"),
        "below a file": (folder / "file" / "x", f"{folder / 'file'} is a file, not a folder"),
        "a dangling link": (
            folder / "link",
            f"{folder / 'link'} is a link to {folder / 'gone'}, which does not exist",
        ),
        "below a dangling link": (
            folder / "link" / "x" / "y",
            f"{folder / 'link'} is a link to {folder / 'gone'}, which does not exist",
        ),
        "a loop": (folder / "loop" / "x", "a link on the way to it leads back to itself"),
        "a long name": (folder / ("x" * 300), "File name too long"),
        "no file system": (Path("/proc/x"), ""),
    }


@pytest.mark.parametrize("name", [
    "a file", "below a file", "a dangling link", "below a dangling link", "a loop", "a long name",
    "no file system",
])  # fmt: skip
def test_what_is_in_the_way_is_named(tmp_path, name):
    path, reason = in_the_way(tmp_path)[name]
    with pytest.raises(OutputError) as caught:
        check_output_folder(path, "output_path")
    assert isinstance(caught.value, UserError)
    text = str(caught.value)
    assert text.startswith(f"output_path: {path} cannot be written: {reason}") and "\n" not in text
    with pytest.raises(OutputError):
        RunDir.create(path, "run", {}, {})


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path):
    check_output_folder(tmp_path / "a" / "b", "--output_path")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_what_a_killed_runner_tried_with_goes(tmp_path):
    (tmp_path / ".tmp-probe-1").touch()
    check_output_folder(tmp_path, "--output_path")
    assert list(tmp_path.iterdir()) == []


def test_reasons():
    path = Path("/some/where")
    assert explain(path, OSError(errno.EROFS, "x")).endswith("it is on a read-only file system")
    assert explain(path, PermissionError(errno.EACCES, "x")).endswith("permission denied")
    assert " GB free)" in explain(Path("/"), OSError(errno.ENOSPC, "x")) or " MB free)" in explain(
        Path("/"), OSError(errno.ENOSPC, "x")
    )
    assert explain(path, OSError(errno.EBADMSG, "odd")).endswith("cannot be written: odd")


def test_errors_of_libraries_that_are_of_the_disk(tmp_path):
    inside = OSError(errno.EACCES, "denied", str(tmp_path / "model" / "x"))
    assert str(output_error(inside, tmp_path)).endswith("x cannot be written: permission denied")
    for text in (
        "I/O error: No space left on device (os error 28)",
        "[enforce fail] . unexpected pos 64 vs 0",
    ):
        assert "no space left" in str(output_error(RuntimeError(text), tmp_path))
    for error in (
        OSError(errno.EACCES, "denied", "/elsewhere"),
        FileNotFoundError(errno.ENOENT, "gone", str(tmp_path / "x")),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyboardInterrupt(),
    ):
        assert output_error(error, tmp_path) is None


def test_a_full_disk_leaves_no_half_row_and_no_half_file(tmp_path):
    with small_disk(tmp_path / "disk", MB) as disk:
        log = RowLog(disk / "rows.jsonl", "epoch")
        log.append({"epoch": 0})
        filler = fill(disk)
        for epoch in (1, 2):
            with pytest.raises(OutputError, match=r"rows.jsonl cannot be written: no space left on its disk"):
                log.append({"epoch": epoch, "text": "x" * 10_000})
        filler.unlink()
        log.append({"epoch": 3})
        log.close()
        assert [row["epoch"] for row in log.read()] == [0, 3]

        atomic_write_json(disk / "a.json", {"a": 1})
        with pytest.raises(OutputError, match=r"a.json cannot be written: no space left .*MB free"):
            atomic_write_json(disk / "a.json", {"a": "x" * 2 * MB})
        with pytest.raises(OutputError, match=r"b.pt cannot be written: no space left .*MB free"):
            atomic_torch_save(disk / "b.pt", {"w": torch.zeros(MB)})
        assert json.loads((disk / "a.json").read_text()) == {"a": 1}
        assert sorted(path.name for path in disk.iterdir()) == ["a.json", "rows.jsonl"]


def test_a_run_on_a_full_disk_says_so_and_how_to_go_on(tmp_path, caplog, capsys):
    with small_disk(tmp_path / "disk", MB) as disk, RunDir.create(disk, "run", {}, {}) as run:
        with setup_logging(console=False, log_file=run.path / "log.txt"):
            with ending(run, "python runner.py --resume it", KeyError) as end:
                filler = fill(disk)
                for _ in range(500):
                    logging.getLogger("rl4lms").info("a line %s", "x" * 100)
                run.save_checkpoint({"w": torch.zeros(MB)}, 1)
        assert end.code == 1
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert (
            "manifest.json cannot be written, and does not say 'failed': no space left on its disk" in said[0]
        )
        assert "cannot be written: no space left on its disk (0.0 MB free)" in said[1]
        assert said[2] == "what was computed is kept; to go on: python runner.py --resume it"
        assert not any(record.exc_info for record in caplog.records)
        printed = capsys.readouterr().err
        assert printed.count("log.txt cannot be written") == 1 and "Traceback" not in printed
        filler.unlink()
        with ending(run, None, KeyError) as end:
            pass
        assert end.code == 0 and run.manifest["status"] == "finished"


def test_a_picture_ends_no_run(tmp_path, caplog, monkeypatch):
    (tmp_path / "plots").write_text("")
    panel = plots.Panel("a", [plots.Curve("b", [(0, 1.0), (1, 2.0)])])
    with optional_drawing(tmp_path / "plots"):
        (tmp_path / "plots").mkdir()
    with optional_drawing(tmp_path / "plots" / "a.png"):
        plots.save_panels(tmp_path / "plots" / "a.png", [panel], "epoch", ["k"])
    monkeypatch.setattr(plots, "draw_panels", lambda *_: 1 / 0)
    with optional_drawing(tmp_path / "a.png"):
        plots.save_panels(tmp_path / "a.png", [panel], "epoch", ["k"])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all(text.startswith("not drawn: ") for text in said)
    assert said[0].endswith("plots is a file, not a folder") and said[2].endswith("division by zero")
    with pytest.raises(KeyboardInterrupt), optional_drawing(tmp_path):
        raise KeyboardInterrupt


def test_an_output_error_is_caught_as_what_it_was(tmp_path):
    with pytest.raises(OSError, match="cannot be written"), writing(tmp_path / "x"):
        os.open(tmp_path / "gone" / "x", os.O_WRONLY)
    with pytest.raises(ValueError, match="other"), writing(tmp_path):
        raise ValueError("other")

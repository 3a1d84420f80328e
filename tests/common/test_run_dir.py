"""Run directories: complete and readable whenever the process stops."""

import fcntl
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common import provenance, run_dir
from common.files import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    remove_temporary_files,
)
from common.run_dir import (
    CheckpointError,
    RunBusyError,
    RunDir,
    RunError,
    atomic_torch_save,
    find_runs,
    load_checkpoint,
    read_metrics,
)

ROOT = Path(__file__).parents[2]


def make_run(base: Path, name: str = "run", **manifest: Any) -> RunDir:
    return RunDir.create(base, name, {"lr": 0.1}, manifest)


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "train": {"train loss": 1 / (epoch + 1)}}


def temporary_files(directory: Path) -> list[Path]:
    return list(directory.rglob(".tmp-*"))


# Files


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    atomic_write_text(file, "vieux, déjà")
    assert file.read_text(encoding="utf-8") == "vieux, déjà"
    atomic_write_json(file, {"b": [1, None]})
    assert json.loads(file.read_text()) == {"b": [1, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(file) as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    with pytest.raises(AttributeError, match="pickle"):
        atomic_torch_save(file, lambda: None)
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        atomic_torch_save(tmp_path / name, {"w": torch.arange(3.0)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_only_leftovers_of_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    kept = [tmp_path / ".tmp-mine", tmp_path / "tmp-a-1", tmp_path / "plots" / "a.tmp"]
    left = [tmp_path / ".tmp-manifest.json-123", tmp_path / "plots" / ".tmp-loss.png-9"]
    for file in kept + left:
        file.touch()
    remove_temporary_files(tmp_path)
    assert [file.exists() for file in kept + left] == [True] * 3 + [False] * 2


# Creating, finding, opening


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    with make_run(tmp_path / "outputs", "digits", seeds=[192, 111], status="waiting") as run:
        assert re.fullmatch(r"digits_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.path.name)
        assert json.loads((run.path / "config.json").read_text()) == run.config == {"lr": 0.1}
        manifest = json.loads((run.path / "manifest.json").read_text())
        assert manifest == run.manifest
    assert (manifest["status"], manifest["seeds"], manifest["argv"]) == ("waiting", [192, 111], sys.argv)
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["created"] == manifest["updated"]
    assert manifest["platform"]["cpu_count"] == os.cpu_count()


def test_manifest_names_no_host_and_no_user() -> None:
    recorded = json.dumps(provenance.provenance())
    assert set(provenance.provenance()["platform"]) == {"system", "release", "machine", "cpu_count"}
    assert os.path.expanduser("~") not in recorded


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package without git, with a repository around it, with its own, with a change to that."""
    package = tmp_path / "outer" / "checkout" / "common"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text((ROOT / "common" / "provenance.py").read_text())

    def state() -> Any:
        monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
        provenance._git_state.cache_clear()
        return provenance._git_state()

    def git(directory: Path, *args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(directory), *identity, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        assert state() == (None, None)
        git(package.parent.parent, "init", "-q")
        git(package.parent.parent, "commit", "-q", "--allow-empty", "-m", "outer")
        assert state() == (None, None)
        git(package.parent, "init", "-q")
        assert state() == (None, None)  # no commit yet
        git(package.parent, "add", ".")
        git(package.parent, "commit", "-q", "-m", "inner")
        commit = git(package.parent, "rev-parse", "HEAD")
        assert state() == (commit, False)
        with (package / "provenance.py").open("a") as file:
            file.write("# changed\n")
        assert state() == (commit, True)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert state() == (None, None)  # no git program
    finally:
        provenance._git_state.cache_clear()


@pytest.mark.parametrize("name", ["", "a/b", "/a", "a/"])
def test_a_name_that_is_no_directory_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        RunError, match=f"^{name!r} cannot name a run directory: it must not be empty or hold '/'$"
    ):
        make_run(tmp_path, name)


def _create_some(base: Path, start: Any, names: Any) -> None:
    start.wait()
    for _ in range(4):
        with make_run(base) as run:
            names.put(run.path.name)


def test_processes_that_create_the_same_run_in_the_same_second_do_not_meet(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, names = context.Barrier(4), context.SimpleQueue()
    workers = [context.Process(target=_create_some, args=(tmp_path, start, names)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    created = [names.get() for _ in range(16)]
    assert len(set(created)) == 16
    assert {run.path.name for run in find_runs(tmp_path)} == set(created)
    assert all(re.fullmatch(r"run_[\d-]+_[\d-]+(_\d+)?", name) for name in created)


def test_find_runs_takes_readable_manifests_oldest_first(tmp_path: Path) -> None:
    for name, created in (("b", "2024-01-02"), ("c", "2024-01-01"), ("a", "2024-01-03")):
        make_run(tmp_path, name, created=created).close()
    (tmp_path / "cut_in_creation").mkdir()
    (tmp_path / "cut_in_creation" / "config.json").write_text("{}")
    for name, manifest in (("garbage", "\x00\x00"), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "manifest.json").write_text(manifest)
    (tmp_path / "file").touch()
    runs = find_runs(tmp_path)
    assert [run.path.name[0] for run in runs] == ["c", "b", "a"]
    assert all(run.config == {"lr": 0.1} and run.manifest["status"] == "running" for run in runs)
    assert find_runs(tmp_path / "nowhere") == []


def test_opening_what_is_no_run_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run directory: manifest.json: No such file or directory$"):
        RunDir.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"status": ')
    with pytest.raises(RunError, match=r"is not a run directory: manifest.json: not JSON \("):
        RunDir.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_manifest_updates_last(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        run.manifest["status"] = "a copy"
        run.update_manifest(status="finished", score=0.5)
    with RunDir.open(run.path) as again:
        assert (again.manifest["status"], again.manifest["score"]) == ("finished", 0.5)
        assert again.manifest["updated"] > again.manifest["created"]
        assert again.config == {"lr": 0.1}


def test_a_prefix_begins_the_names_of_config_and_checkpoints(tmp_path: Path) -> None:
    with RunDir.create(tmp_path, "mine", {"lr": 0.1}, {}, prefix="mine_") as run:
        path = run.save_checkpoint({"epoch": 3}, 3)
        assert path == run.path / "mine_checkpoints" / "epoch_000003.pt"
        names = {file.name for file in run.path.iterdir()}
        assert names == {".lock", "manifest.json", "mine_config.json", "mine_checkpoints"}
    (found,) = find_runs(tmp_path)
    assert (found.config, found.manifest["prefix"]) == ({"lr": 0.1}, "mine_")
    with RunDir.open(run.path) as again:
        assert (again.prefix, again.config, again.checkpoints()) == ("mine_", {"lr": 0.1}, [path])
        again.delete_checkpoints(keep=[])
        assert again.checkpoints() == []
    (run.path / "mine_config.json").unlink()
    with pytest.raises(RunError, match=r"is not a run directory: mine_config.json: No such file"):
        RunDir.open(run.path)
    with make_run(tmp_path) as plain:
        assert "prefix" not in plain.manifest and plain.prefix == ""


def test_a_prefix_that_begins_no_file_name_is_refused(tmp_path: Path) -> None:
    message = "'a/' cannot begin the names of a run's files: it must not hold '/'"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        RunDir.create(tmp_path, "run", {}, {}, prefix="a/")
    assert list(tmp_path.iterdir()) == []


# Lock


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    message = (
        f"run directory {run.path} is in use by a running process "
        f"(pid {os.getpid()} on {socket.gethostname()}): wait for it, or stop it"
    )
    with pytest.raises(RunBusyError, match=f"^{re.escape(message)}$"):
        RunDir.open(run.path)
    run.close()
    run.close()
    RunDir.open(run.path).close()


def test_a_failed_creation_or_opening_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        RunDir.create(tmp_path, "run", {"bad": object()}, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        make_run(tmp_path, bad=object())
    for directory in tmp_path.iterdir():
        with (directory / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert find_runs(tmp_path) == []


WRITER = """
import sys
from pathlib import Path
from common.run_dir import RunDir
run = RunDir.open(Path(sys.argv[1]))
print("locked", flush=True)
epoch = 0
while True:
    run.append_metrics({"epoch": epoch, "train": {"padding": "x" * 3000}})
    if epoch % 20 == 0:
        run.update_manifest(epoch=epoch)
    if epoch % 100 == 99:
        run.truncate_metrics(epoch - 50)
        epoch -= 50
    epoch += 1
"""


def test_kill_9_frees_the_lock_and_leaves_a_readable_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.close()
    for moment in (0.0, 0.013, 0.05, 0.11):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert writer.stdout is not None and writer.stdout.readline() == "locked\n"
        time.sleep(moment)
        with pytest.raises(RunBusyError, match=rf"\(pid {writer.pid} on "):
            RunDir.open(run.path)
        writer.kill()
        writer.communicate()
        assert writer.returncode == -signal.SIGKILL
        assert len(find_runs(tmp_path)) == 1
        with RunDir.open(run.path) as again:
            epochs = [r["epoch"] for r in read_metrics(run.path)]
            again.truncate_metrics(-1)
            assert read_metrics(run.path) == []
        assert epochs == list(range(len(epochs)))
        assert temporary_files(tmp_path) == []


FILE_CALLS = {
    *("open", "write", "flush", "__exit__", "close", "replace", "mkdir", "unlink"),
    *("truncate", "ftruncate", "pwrite", "flock"),
}


def _killed_before(call: int, work: Callable[[], None]) -> bool:
    """Do `work` in a forked process, killed before its n-th call on files; False if it got through."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(_: Any, event: str, function: Any) -> None:
            nonlocal count
            if event == "c_call" and function.__name__ in FILE_CALLS:
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(hook)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_run_killed_before_any_call_on_files_can_be_found_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # What a killed process has written needs none.
    run_dir.provenance()  # Its costs are paid once in a process.

    def work() -> None:
        with make_run(base) as run:
            for epoch in range(2):
                run.append_metrics(row(epoch))
                run.save_checkpoint({"epoch": epoch}, epoch)
                run.delete_checkpoints(keep=run.checkpoints()[-1:])
            run.append_metrics(row(2))
            run.truncate_metrics(1)
            run.update_manifest(status="finished")

    call, seen = 0, set()
    while True:
        call += 1
        base = tmp_path / str(call)
        base.mkdir()
        killed = _killed_before(call, work)
        for found in find_runs(base):
            with RunDir.open(found.path) as run:
                epochs = [r["epoch"] for r in read_metrics(run.path)]
                saved = [load_checkpoint(path)["epoch"] for path in run.checkpoints()]
                assert temporary_files(base) == []
                # Nothing that cost compute is lost: each checkpoint has the rows that led to it.
                assert epochs == list(range(len(epochs)))
                assert all(epoch < len(epochs) for epoch in saved)
                assert saved or len(epochs) <= 1
                seen.add((run.manifest["status"], tuple(epochs), tuple(saved)))
        if not killed:
            break
    assert ("running", (), ()) in seen
    assert ("running", (0, 1), (0, 1)) in seen  # the new checkpoint written, the old one not deleted yet
    assert ("finished", (0, 1), (1,)) in seen
    assert call > 60


# Metrics


def test_rows_come_back_as_written_also_when_not_finite(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "nan": math.nan, "inf": math.inf, "minus": -math.inf, "é": 1e-300}
    with make_run(tmp_path) as run:
        run.append_metrics({"epoch": 0, "train": values})
        (back,) = read_metrics(run.path)  # at once, before anything is closed
    assert math.isnan(back["train"].pop("nan"))
    assert back["train"] == {name: value for name, value in values.items() if name != "nan"}


def test_a_run_without_rows_has_none(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        assert read_metrics(run.path) == []
        run.truncate_metrics(3)
        assert not (run.path / "metrics.jsonl").exists()


def test_rows_may_be_labelled_by_fractions(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        log = run.rows("training_info.jsonl", "epoch")
        for epoch in (0, 0.25, 0.5, 1.0):
            log.append({"epoch": epoch})
        log.keep(lambda row: row["epoch"] <= 0.5)
        assert log.read() == [{"epoch": 0}, {"epoch": 0.25}, {"epoch": 0.5}]
        (run.path / "training_info.jsonl").write_text('{"epoch": "1"}\n')
        with pytest.raises(RunError, match="line 1 is not a row with its 'epoch'"):
            log.read()


@pytest.mark.parametrize("torn", ['{"epoch": 3, "tra', '{"epoch": 3}', "\x00" * 500])
def test_torn_last_line_is_not_read_and_not_written_after(tmp_path: Path, torn: str) -> None:
    with make_run(tmp_path) as run:
        for epoch in range(3):
            run.append_metrics(row(epoch))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert read_metrics(run.path) == [row(0), row(1), row(2)]
    with RunDir.open(run.path) as again:
        again.append_metrics(row(3))
    assert read_metrics(run.path) == [row(0), row(1), row(2), row(3)]


@pytest.mark.parametrize("damage", ["", '{"epoch": 1, "tr', "[1]", '{"train": {}}', "\x00\x00"])
def test_damage_before_the_last_line_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    with make_run(tmp_path) as run:
        run.append_metrics(row(0))
        file = run.path / "metrics.jsonl"
        file.write_text(file.read_text() + damage + "\n" + json.dumps(row(2)) + "\n")
        message = f"{file} line 2 is not a row with its 'epoch'; only the last line may be torn"
        with pytest.raises(RunError, match=re.escape(message)):
            read_metrics(run.path)
        with pytest.raises(RunError, match=re.escape(message)):
            run.truncate_metrics(0)


def test_truncation_keeps_the_bytes_up_to_an_epoch(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        for epoch in range(5):
            run.append_metrics(row(epoch))
        file = run.path / "metrics.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        run.truncate_metrics(2)
        assert file.read_bytes() == b"".join(lines[:3])
        run.append_metrics(row(3))
        assert file.read_bytes() == b"".join(lines[:4])
        run.truncate_metrics(-1)
        assert file.read_bytes() == b""


def test_a_row_costs_little(tmp_path: Path) -> None:
    """No fsync and no opening per row, which is what would cost; counted: a timed test would be flaky."""
    with make_run(tmp_path) as run:
        run.append_metrics(row(0))
        calls: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda *_: calls.append("fsync"))
            patch.setattr(Path, "open", lambda *_: calls.append("open"))
            for epoch in range(1, 100):
                run.append_metrics(row(epoch))
        assert calls == []
        assert len(read_metrics(run.path)) == 100


# Checkpoints


def test_checkpoints_are_in_order_of_epochs_and_kept_as_told(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        assert run.checkpoints() == []
        paths = [run.save_checkpoint({"epoch": e}, e) for e in (5, 40, 999_999, 1_000_000)]
        assert paths[0] == run.path / "checkpoints" / "epoch_000005.pt"
        (paths[0].parent / ".tmp-epoch_000041.pt-77").touch()
        (paths[0].parent / "epoch_best.pt").touch()
        assert run.checkpoints() == paths
        run.delete_checkpoints(keep=[paths[1], paths[3]])
        assert run.checkpoints() == [paths[1], paths[3]]
        assert load_checkpoint(paths[3]) == {"epoch": 1_000_000}
        run.delete_checkpoints(keep=[])
        assert run.checkpoints() == []


def test_rows_are_on_disk_before_the_checkpoint_or_status_that_needs_them(tmp_path: Path) -> None:
    """Else, after a power cut, a run could continue from a checkpoint whose rows are gone."""
    with make_run(tmp_path) as run, pytest.MonkeyPatch.context() as patch:
        run.append_metrics(row(0))
        synced: list[int] = []
        patch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
        path = run.save_checkpoint({}, 0)
        run.update_manifest(status="finished")
        metrics, manifest = run.path / "metrics.jsonl", run.path / "manifest.json"
        # The run's folder: after the checkpoints' folder is made, and after the manifest.
        files = [metrics, run.path, path, path.parent, metrics, manifest, run.path]
        assert synced == [file.stat().st_ino for file in files]


def test_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = {
        "model": {"w": torch.randn(3, 4), "n": torch.tensor(3)},
        "epoch": 2,
        "lr": 0.1,
        "list": [1, None, "a"],
    }
    with make_run(tmp_path) as run:
        back = load_checkpoint(run.save_checkpoint(state, 2))
    assert torch.equal(back["model"]["w"], state["model"]["w"])  # type: ignore[index]
    assert {k: v for k, v in back.items() if k != "model"} == {k: v for k, v in state.items() if k != "model"}


def damaged(data: bytes, kind: str) -> bytes:
    middle = len(data) // 2
    return {
        "empty": b"",
        "garbage": b"not a checkpoint",
        "cut off": data[:-1000],
        "begun": data[:10],
        "zeroed": bytes(len(data)),
        "bit flipped in a tensor": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "the file is empty"),
        ("garbage", "cut off, overwritten, or not written by torch.save (16 bytes; "),
        ("cut off", "cut off, overwritten, or not written by torch.save ("),
        ("begun", "cut off, overwritten, or not written by torch.save (10 bytes; "),
        ("zeroed", "cut off, overwritten, or not written by torch.save ("),
        ("bit flipped in a tensor", "wrong checksum of archive/data/0"),
    ],
)
def test_corrupt_checkpoint_is_named_and_so_is_the_older_one_to_use(
    tmp_path: Path, kind: str, reason: str
) -> None:
    with make_run(tmp_path) as run:
        first, second, third = (run.save_checkpoint({"w": torch.randn(2000)}, e) for e in (1, 2, 3))
    third.write_bytes(damaged(third.read_bytes(), kind))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(third)
    assert str(error.value).startswith(f"corrupt checkpoint {third}: {reason}")
    assert str(error.value).endswith(
        f". {second} is older and intact: delete the corrupt file to continue from there"
    )
    second.write_bytes(b"")
    with pytest.raises(CheckpointError, match=re.escape(f"{first} is older and intact")):
        load_checkpoint(third)
    first.unlink()
    with pytest.raises(
        CheckpointError, match=r"There is no intact older checkpoint beside it: run that experiment anew$"
    ):
        load_checkpoint(third)


def test_a_flipped_bit_anywhere_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "epoch_000001.pt"
    atomic_torch_save(file, {"w": torch.arange(20.0), "list": [1, 2]})
    data, outcomes = file.read_bytes(), []
    for place in range(0, len(data), 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            state = load_checkpoint(file)
        except CheckpointError:
            outcomes.append("error")
        else:
            assert list(state) == ["w", "list"] and state["list"] == [1, 2]
            assert torch.equal(state["w"], torch.arange(20.0))
            outcomes.append("same")
    assert outcomes.count("error") > len(outcomes) / 3


def test_missing_checkpoint_is_answered_with_those_there_are(tmp_path: Path) -> None:
    missing = tmp_path / "epoch_000003.pt"
    with pytest.raises(CheckpointError, match=f"^no checkpoint {re.escape(str(missing))}$"):
        load_checkpoint(missing)
    for epoch in (1, 2):
        atomic_torch_save(tmp_path / f"epoch_{epoch:06d}.pt", {})
    with pytest.raises(CheckpointError, match=r"; its folder holds: epoch_000001.pt, epoch_000002.pt$"):
        load_checkpoint(missing)
    with pytest.raises(CheckpointError, match=r"^no checkpoint "):
        load_checkpoint(tmp_path)


class Custom:
    """What a checkpoint of another program may hold."""


def test_what_is_no_plain_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save({"model": Custom()}, file)
    with pytest.raises(
        CheckpointError, match=r"model.pt holds more than tensors and plain values, not loaded: .*Custom"
    ):
        load_checkpoint(file)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match=r"model.pt is no checkpoint: it holds a list, not a dict$"):
        load_checkpoint(file)
    with_zip = io.BytesIO()
    torch.save({}, with_zip)
    atomic_write_bytes(file, with_zip.getvalue()[:-1])
    with pytest.raises(CheckpointError, match=r"^corrupt checkpoint .*model.pt: cut off[^)]*\)$"):
        load_checkpoint(file)

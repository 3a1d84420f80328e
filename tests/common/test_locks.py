"""Locks that say who holds them, also where the file system has none."""

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common import locks
from common.identity import open_or_create, remove_incomplete_runs
from common.locks import BusyError, acquire, alone_in
from common.run_dir import RunBusyError, RunDir

HOST = socket.gethostname()
NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF]


@pytest.fixture(params=NO_LOCKS, ids=[errno.errorcode[number] for number in NO_LOCKS])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, *, blocking: bool = True) -> bool:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(locks, "lock_descriptor", refuse)


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "x"
    lock = acquire(file)
    message = f"{file} is locked by another process (pid {os.getpid()} on {HOST}): wait for it, or stop it"
    with pytest.raises(BusyError, match=f"^{re.escape(message)}$"):
        acquire(file)
    lock.release()
    acquire(file).release()
    file.write_text("12\n")  # of an earlier version
    lock = acquire(file)
    file.write_text("")
    with pytest.raises(BusyError, match="pid unknown"):
        acquire(file)
    lock.release()


def test_a_run_has_one_writer_where_there_are_no_locks(tmp_path: Path, no_flock: None) -> None:
    run, _ = open_or_create(tmp_path, "x", lambda: RunDir.create(tmp_path, "a", {}, {"identity": "x"}))
    marker = run.path / ".lock.held"
    assert marker.read_text().split()[:2] == [str(os.getpid()), HOST]
    message = (
        f"run directory {run.path} is in use by a running process (pid {os.getpid()} on {HOST}; if it is no "
        f"more, delete {marker}): wait for it, or stop it"
    )
    with pytest.raises(RunBusyError, match=f"^{re.escape(message)}$"):
        RunDir.open(run.path)
    run.close()
    assert not marker.exists()
    RunDir.open(run.path).close()
    assert [path.name for path in tmp_path.iterdir()] == [run.path.name], "nothing is left beside the runs"


def test_a_marker_of_a_dead_process_is_taken_over_and_that_of_another_host_is_not(
    tmp_path: Path, no_flock: None
) -> None:
    file, marker = tmp_path / "x", tmp_path / "x.held"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    marker.write_text(f"{dead.stdout.strip()}\n{HOST}\n")
    acquire(file).release()
    assert not marker.exists()
    marker.write_text("7\nelsewhere\n")
    with pytest.raises(
        BusyError, match=re.escape(f"(pid 7 on elsewhere; if it is no more, delete {marker})")
    ):
        acquire(file)


def test_a_folder_is_for_one_at_a_time_where_there_are_no_locks(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with (
        alone_in(tmp_path),
        pytest.raises(BusyError, match=f"pid {os.getpid()} on {HOST}"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_runs_killed_while_they_were_made_are_removed_and_those_being_made_are_not(tmp_path: Path) -> None:
    for name in ("killed", "made"):
        (tmp_path / name).mkdir()
        acquire(tmp_path / name / ".lock").release()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").touch()  # its maker has yet to lock it
    lock = acquire(tmp_path / "made" / ".lock")
    remove_incomplete_runs(tmp_path)
    lock.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "made"]

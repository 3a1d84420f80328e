"""Signals and processes, for the tests of what survives them."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plan_runs import wait_until


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; returns its exit code, minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work() or 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Run `action` in a thread during the block; its failure is the test's."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def signal_when(
    condition: Callable[[], Any], pid: Callable[[], int] = os.getpid, number: int = signal.SIGINT
):
    def send() -> None:
        wait_until(condition)
        os.kill(pid(), number)

    return meanwhile(send)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

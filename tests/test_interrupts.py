"""Ctrl-C and SIGTERM at a runner that still imports: status 130, one line, nothing left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from extraction_settings import write_extraction

REPO = Path(__file__).parents[1]
RUNNERS = sorted(path.name for path in REPO.glob("*.py"))
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def interrupt(
    command: list[str], number: int, due: Callable[[int], bool], delay: float = 0
) -> tuple[int, str]:
    """Start a runner and signal it once `due(pid)`; returns its status and what it printed on stderr."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not due(process.pid):
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(number)
    _, printed = process.communicate(timeout=120)
    return process.returncode, printed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS.values())
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_runner_that_still_imports_ends_with_one_line(runner, number):
    # A signal after the SIGTERM handler, the last of the two to be installed, and long before the help.
    status = interrupt([runner, "-h"], number, lambda pid: handles(pid, signal.SIGTERM))
    assert status == (130, "interrupted\n")


def test_the_first_statement_of_a_runner_answers_signals():
    for runner in RUNNERS:
        code = (REPO / runner).read_text().partition("from __future__ import annotations\n")[2].split("\n")
        assert [line.partition("  #")[0] for line in code[:5]] == [
            "",
            "from common import process",
            "",
            'if __name__ == "__main__":',
            "    process.begin()",
        ]


@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS.values())
def test_a_folder_that_was_just_made_is_removed(tmp_path, number):
    """From the manifest to the first line of the extraction there are seconds of imports."""
    config, output = write_extraction(tmp_path), tmp_path / "outputs"
    command = ["rl4lms_extract_samples_from_model_runner.py", "--config_path", str(config)]
    made: Callable[[int], bool] = lambda pid: bool(list(output.glob("*/manifest.json")))  # noqa: E731
    status, printed = interrupt([*command, "--output_path", str(output)], number, made, delay=0.3)
    assert (status, printed) == (130, "interrupted\n")
    assert list(output.iterdir()) == []


def test_signals_once_work_has_begun_are_requests_again():
    code = """
import os, signal
from common import console, process
process.begin()
with console.stop_request("stopping") as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("cleaned up")
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (
        130,
        "cleaned up\n",
        "interrupted",
    )


AT_EXIT = "atexit.register(interrupt)"
LATER = """
class Last:
    def __del__(self):
        interrupt()
last = Last()
"""


@pytest.mark.parametrize("when", [AT_EXIT, LATER], ids=["at exit", "later"])
@pytest.mark.parametrize("number", SIGNALS, ids=SIGNALS.values())
def test_a_signal_while_python_ends_changes_no_status(number, when):
    """The objects of torch take tenths of a second to go, after the last line of a runner."""
    code = f"""
import atexit, os
from common import process
process.begin()
def interrupt():
    os.kill(os.getpid(), {int(number)})
{when}
process.run_command(lambda: print("done") or 3)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


def test_a_second_interrupt_in_a_destructor_is_not_lost():
    code = """
import os, signal, time
from common import console, process
process.begin()
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
def main():
    with console.stop_request("stopping") as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        last = Last()
        try:
            del last
            time.sleep(20)
        except KeyboardInterrupt:
            print("stopped at once")
            return 130
        return 0
process.run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "stopped at once\n", "stopping\n")

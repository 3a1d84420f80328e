"""What is made of squeue's answers; without a SLURM."""

import subprocess
from pathlib import Path

import pytest

from common import slurm
from common.slurm import GONE, UNKNOWN, Queue, has_ended


class Squeue:
    """Stands in for squeue: gives `answer`, or fails when that is None, and counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: str | None = ""
        self.count = 0
        monkeypatch.setattr(slurm, "_run", self.run)

    def run(self, *command: str) -> str:
        assert command[0] == "squeue"
        self.count += 1
        if self.answer is None:
            raise subprocess.CalledProcessError(1, command)
        return self.answer


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch) -> Squeue:
    return Squeue(monkeypatch)


def test_states_and_why_a_job_waits(squeue: Squeue) -> None:
    squeue.answer = (
        "7|RUNNING|None|/a/x.sh\n8|PENDING|Priority|/b/x.sh\n9|PENDING|None|/c/x.sh\n10|TIMEOUT|x|/d\n"
    )
    queue = Queue()
    states = {number: queue.state(number) for number in ("7", "8", "9", "10", "11")}
    assert states == {"7": "RUNNING", "8": "PENDING (Priority)", "9": "PENDING", "10": "TIMEOUT", "11": GONE}
    assert [number for number, state in states.items() if has_ended(state)] == ["10", "11"]
    assert squeue.count == 1, "one call for all"


def test_an_answer_from_before_a_job_was_submitted_says_nothing_of_it(squeue: Squeue) -> None:
    queue = Queue()
    assert queue.state("7") == GONE
    squeue.answer = "7|PENDING|None|/a/x.sh\n"
    assert queue.state("7") == GONE, "not asked again so soon"
    assert queue.state("7", since=slurm.time.monotonic()) == "PENDING"


def test_a_job_has_not_ended_because_squeue_does_not_answer(
    squeue: Squeue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm, "ASK_EVERY", 0.0)
    squeue.answer = "7|RUNNING|None|/a/x.sh\n"
    queue = Queue()
    assert queue.state("7") == "RUNNING"
    squeue.answer = None
    assert (queue.state("7"), queue.state("8")) == ("RUNNING", UNKNOWN)
    assert not has_ended(UNKNOWN)
    assert caplog.text.count("squeue does not answer") == 1
    squeue.answer = ""
    assert queue.state("7") == GONE


def test_the_job_of_a_run_is_its_newest_unless_it_ended_or_is_of_another_run(
    squeue: Squeue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ASK_EVERY", 0.0)
    queue, folder = Queue(), tmp_path / "slurm"
    assert queue.job_of(tmp_path) is None
    folder.mkdir()
    for number in (9, 10):
        (folder / f"{number}_submitted.pkl").touch()
    squeue.answer = (
        f"9|RUNNING|None|{folder}/.submission_file_1.sh\n10|PENDING|None|{folder}/.submission_file_2.sh\n"
    )
    assert queue.job_of(tmp_path) == "10"
    squeue.answer = f"10|RUNNING|None|{tmp_path}/x.sh\n"
    assert queue.job_of(tmp_path) is None, "of another run"
    squeue.answer = f"10|COMPLETED|None|{folder}/.submission_file_2.sh\n"
    assert queue.job_of(tmp_path) is None
    squeue.answer = f"10|RUNNING|None|{folder}/.submission_file_2.sh\n"
    assert queue.job_of(tmp_path) == "10"
    (folder / "10_0_result.pkl").touch()
    assert queue.job_of(tmp_path) is None, "it has come to its end"

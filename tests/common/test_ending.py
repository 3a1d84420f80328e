"""One life of a run: what its manifest, the log and the exit status say, however it ends."""

import ast
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import pytest
from toy_jobs import job_doing

import common.run_dir
from common.errors import Interrupted, UserError
from common.jobs import Place, do, ending, prepare, read_outcome
from common.run_dir import RunDir, read_run

RESUME = "python some_runner.py --resume the/run"


class Mistake(UserError):
    pass


class Diverged(UserError):
    is_final = True


class Stopped(Exception):
    pass


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path, "run", {}, {"status": "failed", "error": "of an earlier try"}) as run:
        yield run


def log_of(caplog) -> str:
    """Messages and tracebacks, as they are written."""
    return "\n".join(logging.Formatter("%(message)s").format(record) for record in caplog.records)


def raised(error: BaseException) -> None:
    raise error


def test_a_run_is_running_then_finished(run, caplog):
    with ending(run, RESUME, Stopped) as end:
        assert (read_run(run.path).manifest["status"], run.manifest["error"]) == ("running", None)
        run.update_manifest(score=1)
    manifest = read_run(run.path).manifest
    assert (manifest["status"], manifest["error"], manifest["score"]) == ("finished", None, 1)
    assert (end.code, end.status, end.error, end.reason) == (0, "finished", None, None)
    assert caplog.text == ""


@pytest.mark.parametrize("error", [Stopped(), KeyboardInterrupt()])
def test_a_stop_is_interrupted_and_says_how_to_go_on(run, caplog, error):
    with ending(run, RESUME, Stopped) as end:
        raise error
    assert (run.manifest["status"], run.manifest["error"]) == ("interrupted", None)
    assert (end.code, end.error, end.reason) == (130, error, None)
    assert log_of(caplog) == f"interrupted; to go on: {RESUME}"


def test_ctrl_c_itself(run):
    # Shells start what is in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ending(run, RESUME, Stopped) as end:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    signal.signal(signal.SIGINT, before)
    assert (end.code, run.manifest["status"]) == (130, "interrupted")


def test_a_mistake_of_the_user_is_a_line_and_a_bug_a_traceback(run, caplog):
    with ending(run, None, Stopped) as end:
        raised(Mistake("set a: 1"))
    assert (run.manifest["status"], run.manifest["error"]) == ("failed", "Mistake: set a: 1")
    assert (end.code, log_of(caplog)) == (1, "set a: 1")

    caplog.clear()
    with ending(run, None, Stopped, label="job failed: ") as end:
        raised(ZeroDivisionError("by 0"))
    assert (run.manifest["status"], run.manifest["error"]) == ("failed", "ZeroDivisionError: by 0")
    lines = log_of(caplog).splitlines()
    assert (end.code, lines[0], lines[1]) == (1, "job failed: by 0", "Traceback (most recent call last):")
    assert any("in raised" in line for line in lines)


@pytest.mark.parametrize("code", [0, 3, "done"])
def test_sys_exit_in_a_function_of_the_user_is_its_failure(run, caplog, code):
    with ending(run, None, Stopped) as end:
        sys.exit(code)
    assert (run.manifest["status"], run.manifest["error"]) == ("failed", f"SystemExit: {code}")
    assert end.code == 1 and log_of(caplog).startswith(f"SystemExit: {code}\nTraceback")
    assert "sys.exit(code)" in log_of(caplog)


def test_other_exceptions_that_are_no_errors_are_failures_too(run):
    class Odd(BaseException):
        pass

    with ending(run, None, Stopped) as end:
        raise Odd("of a library")
    assert (end.code, run.manifest["error"]) == (1, "Odd: of a library")


def test_a_generator_that_is_closed_closes(run):
    def work():
        with ending(run, RESUME, Stopped):
            yield

    generator = work()
    next(generator)
    generator.close()
    assert run.manifest["status"] == "running"


# How to go on is said where it helps


def checkpoint(run, epoch):
    run.save_checkpoint({"epoch": epoch}, epoch)


def model(run, _):
    (run.path / "a_model").mkdir()
    (run.path / "a_model" / "config.json").write_text("{}")


HINT = f"what was computed is kept; to go on: {RESUME}"


@pytest.mark.parametrize("error", [Mistake("a"), ZeroDivisionError("by 0")])
@pytest.mark.parametrize("leave", [checkpoint, model])
def test_after_an_error_if_this_try_left_something_new(run, caplog, error, leave):
    for number, hint in enumerate([True, False]):
        caplog.clear()
        with ending(run, RESUME, Stopped):
            if hint:
                leave(run, number)
            raise error
        assert (HINT in log_of(caplog)) is hint


def test_not_where_the_newest_checkpoint_is_only_written_again(run, caplog):
    checkpoint(run, 1)
    with ending(run, RESUME, Stopped):
        checkpoint(run, 1)
        raise Mistake("a")
    assert HINT not in caplog.text


def test_not_where_the_run_would_come_to_the_same_end(run, caplog):
    with ending(run, RESUME, Stopped):
        checkpoint(run, 1)
        raise Diverged("the loss is nan")
    assert log_of(caplog) == "the loss is nan"


def test_rows_count_where_a_run_goes_on_from_them(run, caplog):
    for kept in ((), ("rows.jsonl",)):
        caplog.clear()
        with ending(run, RESUME, Stopped, kept=kept):
            run.rows("rows.jsonl", "n").append({"n": 1})
            raise Mistake("a")
        assert (HINT in caplog.text) is bool(kept)


# A manifest that cannot be written


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (Mistake("set a: 1"), 1, "set a: 1"),
        (Stopped(), 130, f"interrupted; to go on: {RESUME}"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_a_manifest_that_cannot_be_written_hides_no_error(run, caplog, monkeypatch, error, code, shown):
    def full(*_):
        raise OSError(28, "No space left on device")

    with ending(run, RESUME, Stopped) as end:
        monkeypatch.setattr(common.run_dir, "atomic_write_json", full)
        raise error
    assert end.code == code and end.error is error
    assert shown in caplog.text
    status = "interrupted" if code == 130 else "failed"
    message = f"manifest.json cannot be written, and does not say '{status}': [Errno 28] No space left"
    assert message in caplog.text


def test_a_run_that_cannot_be_said_to_be_finished_has_failed(run, caplog, monkeypatch):
    def full(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(common.run_dir, "atomic_write_json", full)
    done = []
    with ending(run, RESUME, Stopped) as end:
        done.append(1)  # also when "running" could not be written
    assert (done, end.code, read_run(run.path).manifest["status"]) == ([1], 1, "failed")
    assert caplog.text.count("manifest.json cannot be written") == 2


# Several processes, plans


def test_of_several_processes_one_says_what_all_see(caplog):
    with ending(None, RESUME, Stopped) as end:
        raise Mistake("a")
    assert (end.code, caplog.text) == (1, "")
    with ending(None, RESUME, Stopped) as end:
        raise ZeroDivisionError("in one process only")
    assert end.code == 1 and "in one process only" in caplog.text and "to go on" not in caplog.text


def do_job(tmp_path, work):
    job = job_doing(tmp_path, "job", work)
    path = prepare(job, [], Place())
    do(job, path, Place())
    return read_outcome(path)


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (Interrupted(), "interrupted"), (Mistake("a"), "failed"), (SystemExit(0), "failed")],
)
def test_a_job_of_a_plan_ends_the_same_way(tmp_path, caplog, error, status):
    outcome = do_job(tmp_path, lambda *_: raised(error) if error is not None else None)
    assert outcome.status == read_run(outcome.run).manifest["status"] == status
    assert "to go on" not in caplog.text, "the plan says that"
    if status == "failed":
        assert outcome.error == read_run(outcome.run).manifest["error"] == f"{type(error).__name__}: {error}"
        assert "job failed: " in caplog.text


def test_a_second_ctrl_c_stops_the_plan_too(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do_job(tmp_path, lambda *_: raised(KeyboardInterrupt()))
    (path,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert read_run(path).manifest["status"] == "interrupted"


def test_no_frame_stands_between_a_runner_and_its_work(run):
    def work():
        return [frame.name for frame in traceback.extract_stack()][-2:]

    with ending(run, RESUME, Stopped):
        assert work() == [test_no_frame_stands_between_a_runner_and_its_work.__name__, "work"]


def test_one_place_writes_how_a_run_ends():
    root = Path(common.run_dir.__file__).parents[1]
    packages = ("common", "figures", "paper", "rl4lms", "sft_vs_rft", "benchmarks")
    files = [*root.glob("*.py"), *(path for package in packages for path in (root / package).rglob("*.py"))]
    writers = {
        path.relative_to(root).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and any(keyword.arg == "status" for keyword in node.keywords)
        if ast.unparse(node.func).endswith(("update_manifest", "_record"))
    }
    assert writers == {"common/jobs.py"}

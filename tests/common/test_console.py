"""Log lines and progress bars."""

import io
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from common.console import bars_reported, progress, setup_logging

LOGGER = logging.getLogger("sft_vs_rft.some_module")


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_is_left_as_found() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    ours = [handler for handler in root.handlers if not type(handler).__module__.startswith("_pytest")]
    assert ours == []
    assert root.level == level


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the hidden bars see: `clock[0]`, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_console_line_is_short_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with setup_logging(console=True):
        LOGGER.info("epoch %d", 3)
        LOGGER.debug("unseen")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO epoch 3\n", captured.err)


def test_file_has_utc_times_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        file = tmp_path / "logs" / "log.txt"
        for message in ("début", "end"):
            with setup_logging(console=False, log_file=file):
                LOGGER.warning(message)
        lines = file.read_text(encoding="utf-8").splitlines()
        utc_hour = time.strftime("%Y-%m-%dT%H", time.gmtime(file.stat().st_mtime))
        assert re.fullmatch(rf"{utc_hour}:\d\d:\d\dZ WARNING sft_vs_rft\.some_module début", lines[0])
        assert lines[1].endswith("end")
        assert len(lines) == 2
    finally:
        monkeypatch.undo()
        time.tzset()


def test_set_up_twice_logs_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log.txt"
    with setup_logging(True, file), setup_logging(True, file):
        LOGGER.info("once")
    assert capsys.readouterr().err.count("once") == 1
    assert file.read_text().count("once") == 1


def test_closing_undoes_one_call_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, run = tmp_path / "plan.txt", tmp_path / "run.txt"
    outer = setup_logging(True, plan)
    with setup_logging(True, run):
        LOGGER.info("inside")
    LOGGER.info("outside")
    outer.close()
    LOGGER.warning("after")
    assert "inside" in run.read_text() and "outside" not in run.read_text()
    assert "inside" in plan.read_text() and "outside" in plan.read_text() and "after" not in plan.read_text()


def test_silenced_console_stays_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes from Python's handler of last resort either, which pytest's own handlers keep away."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with setup_logging(console=False):
        LOGGER.error("nobody hears")
    with setup_logging(console=False, log_file=tmp_path / "log.txt"):
        LOGGER.error("filed")
    assert capsys.readouterr() == ("", "")


def test_of_installed_libraries_only_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with setup_logging(console=True):
        for level in (logging.INFO, logging.WARNING):
            pathname = "/lib/python3.11/site-packages/httpx/_client.py"
            record = logging.LogRecord("httpx", level, pathname, 1, "from a library", None, None)
            logging.getLogger("httpx").handle(record)
    assert re.fullmatch(r"\S+ WARNING from a library\n", capsys.readouterr().err)


def test_bar_shows_rate_and_time_left_and_log_lines_leave_it_whole() -> None:
    with redirect_stderr(Terminal()) as terminal, setup_logging(console=True), progress(10, "digits") as bar:
        time.sleep(0.2)  # Longer than a bar's refresh interval.
        bar.update(4)
        LOGGER.info("halfway")
    screen = terminal.getvalue()
    assert re.search(r"digits: +40%\|.*\| 4/10 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+epoch/s\]", screen)
    shown = re.split(r"[\r\n]", screen)
    assert any(re.fullmatch(r"\S+ INFO halfway", line) for line in shown)


def test_resumed_bar_does_not_count_earlier_epochs_in_its_rate() -> None:
    with redirect_stderr(Terminal()), progress(5000, "resumed", initial=4000) as bar:
        time.sleep(0.02)
        bar.update(1)
        rate = (bar.format_dict["n"] - bar.format_dict["initial"]) / bar.format_dict["elapsed"]
    assert bar.format_dict["n"] == 4001
    assert rate <= 1 / 0.02


def test_moved_bar_counts_its_rate_from_the_first_report() -> None:
    with redirect_stderr(Terminal()), progress(5000, "worker", position=1) as bar:
        time.sleep(0.02)
        bar.move_to(4000.5)
        assert bar.format_dict["elapsed"] < 0.02
        bar.move_to(4001)
        values = bar.format_dict
    assert (values["n"], values["initial"]) == (4001, 4000.5)


@pytest.mark.parametrize("disable", [False, True])
def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], clock: list[float], disable: bool
) -> None:
    with setup_logging(console=True), progress(100, "digits", disable=disable, initial=20) as bar:
        for _ in range(70):
            clock[0] += 1
            bar.update()
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "digits: 50/100 epochs, 1.0 epochs/s, 00:50 left",
        "digits: 80/100 epochs, 1.0 epochs/s, 00:20 left",
    ]


def test_status_stands_behind_the_bar() -> None:
    with redirect_stderr(Terminal()) as terminal, progress(10, "ppo", unit="iteration") as bar:
        bar.show("reward 0.31, KL 0.02")
        bar.update(5)
        bar.refresh()
    assert re.search(r"5/10 \[[^\]]*, reward 0\.31, KL 0\.02\]", terminal.getvalue())


def test_status_is_part_of_the_log_lines(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with setup_logging(console=True), progress(100, "ppo", unit="iteration") as bar:
        clock[0] += 40
        bar.show("reward 0.31")
        bar.update()
    assert capsys.readouterr().err.endswith(
        "ppo: 1/100 iterations, 40.0 s/iteration, 1:06:00 left; reward 0.31\n"
    )


def test_disabled_bar_is_quiet_on_a_terminal_too(clock: list[float]) -> None:
    with redirect_stderr(Terminal()) as terminal, setup_logging(console=False):
        with progress(10, "digits", disable=True) as bar:
            clock[0] += 100
            bar.update()
    assert terminal.getvalue() == ""


def test_hidden_bar_that_is_moved_reports_its_own_pace(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with setup_logging(console=True), progress(100, "worker", unit="epoch") as bar:
        clock[0] += 40  # The worker imports its libraries.
        bar.move_to(50)
        clock[0] += 35
        bar.move_to(60)
    assert capsys.readouterr().err.endswith("worker: 60/100 epochs, 3.5 s/epoch, 02:20 left\n")


def test_a_terminal_without_columns_still_shows_bars(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))
    with progress(10, "work") as bar:
        bar.update(5)
        bar.refresh()
    assert "work:  50%" in terminal.getvalue()


def test_reported_bars_are_not_drawn_and_the_top_one_reports(clock: list[float]) -> None:
    reports: list[tuple[float, float, str]] = []
    with redirect_stderr(Terminal()) as terminal, setup_logging(console=False):
        with bars_reported(lambda *report: reports.append(report)):
            with progress(10, "training", initial=4) as bar, progress(7, "evaluation", position=1) as inner:
                bar.update()
                inner.update(3)
                bar.show("reward 0.31")
                bar.update(2)
            with progress(5, "other process", disable=True) as bar:
                bar.update()
        assert terminal.getvalue() == ""
        with progress(3, "later") as bar:
            bar.update()
    assert reports == [(4, 10, ""), (5, 10, ""), (7, 10, "reward 0.31")]
    assert "later" in terminal.getvalue()


def test_a_bar_learns_its_total_from_reports(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with setup_logging(console=True), progress(1, "worker", unit="text") as bar:
        bar.move_to(0, 100)
        clock[0] += 40
        bar.move_to(50, 100, "going well")
    assert capsys.readouterr().err.endswith("worker: 50/100 texts, 1.2 texts/s, 00:40 left; going well\n")

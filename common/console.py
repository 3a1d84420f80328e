"""Log lines and progress bars that share a terminal, and stay out of the way where there is none.

Ctrl-C and SIGTERM are a request: the work under way reaches a point from which it can be resumed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from common.output import explain, writing
from common.process import INTERRUPTED_EXIT_CODE, exit_at_once, raise_interrupt

if TYPE_CHECKING:
    _TqdmBase = tqdm[Any]
else:
    _TqdmBase = tqdm

Report = Callable[[float, float, str], None]  # steps done, of how many, how it goes

CONSOLE_FORMAT = "%(asctime)s %(levelname)s %(message)s"
FILE_FORMAT = "%(asctime)sZ %(levelname)s %(name)s %(message)s"

UNPACED = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

__all__ = [
    "INTERRUPTED_EXIT_CODE",
    "Progress",
    "Report",
    "StopRequest",
    "bars_reported",
    "console_silenced",
    "is_ours",
    "progress",
    "setup_logging",
    "stop_request",
]
logger = logging.getLogger(__name__)


def setup_logging(console: bool, log_file: Path | None = None, level: int = logging.INFO) -> ExitStack:
    """Send log records of `level` and above to stderr, around the bars, and to the end of `log_file`, in UTC.

    Installed libraries get only their warnings and errors through. A destination that an earlier call opened
    is not opened twice, and several files may be open at once. With neither, records go nowhere. Closing what
    is returned (`close()`, or leaving it as a context) undoes this call.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = []
    if console and not any(isinstance(handler, _ConsoleHandler) for handler in root.handlers):
        handlers.append(_ConsoleHandler())
    if log_file is not None and not any(_writes_to(handler, log_file) for handler in root.handlers):
        with writing(log_file):
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_file_handler(log_file))
    if not console:
        handlers.append(logging.NullHandler())  # Without any handler, Python prints warnings on stderr.

    undo = ExitStack()
    undo.callback(root.setLevel, root.level)
    root.setLevel(min(level, root.level))
    for handler in handlers:
        handler.setLevel(level)
        handler.addFilter(_is_ours_or_serious)
        root.addHandler(handler)
        undo.callback(handler.close)
        undo.callback(root.removeHandler, handler)
    return undo


@contextmanager
def console_silenced(silent: bool = True) -> Iterator[None]:
    """Write no log lines on the console inside the block, if `silent`; files still get them."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, _ConsoleHandler)]
    for handler in handlers if silent else ():
        handler.addFilter(_reject)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_reject)


def progress(
    total: int,
    desc: str,
    position: int = 0,
    disable: bool = False,
    unit: str = "epoch",
    initial: int = 0,
    log_every: float = 30.0,
    is_paced: bool = True,
) -> Progress:
    """A progress bar on stderr with rate and time left; call `update()` after each step, and `close()`.

    is_paced: steps take about as long as each other; else there is no rate and no time left but what `show`
    is told.
    position: the bar's line, 0 = top; bars below the top one vanish when closed. initial: steps done before
    (by a run that is resumed). Where there is no bar (`disable`, or stderr is no terminal), a log line at
    most every `log_every` seconds says how far it is.
    """
    hidden = disable or _report is not None or not sys.stderr.isatty()
    bar = Progress(total, desc, position, hidden, unit, initial, log_every, is_paced)
    if _report is not None and position == 0 and not disable:
        bar.report_to(_report)
    return bar


_report: Report | None = None


@contextmanager
def bars_reported(report: Report) -> Iterator[None]:
    """Draw no bars inside the block: the top one reports what it would show instead."""
    global _report
    before, _report = _report, report
    try:
        yield
    finally:
        _report = before


class Progress(_TqdmBase):
    """A tqdm bar that logs instead while it is hidden; see `progress`."""

    def __init__(
        self,
        total: int,
        desc: str,
        position: int,
        hidden: bool,
        unit: str,
        initial: int,
        log_every: float,
        is_paced: bool = True,
    ) -> None:
        self._is_paced = is_paced
        self._name, self._unit, self._log_every = desc, unit, log_every
        self._steps: float = total
        self._status = ""
        self._report: Report | None = None
        self._first: float = initial
        self._start = self._last_line = time.monotonic()
        self._moved = False
        super().__init__(
            total=total,
            desc=desc,
            position=position,
            disable=hidden,
            unit=unit,
            initial=initial,
            leave=position == 0,
            bar_format=None if is_paced else UNPACED,
            **({"ncols": 80, "nrows": 24} if _has_no_width() else {"dynamic_ncols": True}),
            file=sys.stderr,
        )

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more steps."""
        if not self.disable:
            return super().update(n)
        self.n += n or 0
        if self._report is not None:
            self._report(self.n, self._steps, self._status)
        now = time.monotonic()
        if now - self._last_line >= self._log_every and self.n > self._first:
            self._last_line = now
            logger.info("%s", self._line(now))
        return None

    def _line(self, now: float) -> str:
        steps = f"{self._name}: {self.n:.0f}/{self._steps:.0f} {self._unit}s"
        if not self._is_paced:
            return f"{steps}, {self._status}" if self._status else steps
        seconds = (now - self._start) / (self.n - self._first)
        pace = f"{seconds:.1f} s/{self._unit}" if seconds > 1 else f"{1 / seconds:.1f} {self._unit}s/s"
        left = format_seconds(seconds * (self._steps - self.n))
        return f"{steps}, {pace}, {left} left" + (f"; {self._status}" if self._status else "")

    @property
    def seconds_left(self) -> float | None:
        """By its own pace; None before its first step."""
        steps = self.n - self._first
        return (time.monotonic() - self._start) / steps * (self._steps - self.n) if steps > 0 else None

    def show(self, status: str) -> None:
        """Show how it goes ("reward 0.31, KL 0.02") behind the bar, or in the log lines, from now on."""
        self._status = status
        self.set_postfix_str(status, refresh=False)

    def report_to(self, report: Report) -> None:
        """Report all steps done, now and while it is hidden."""
        self._report = report
        report(self.n, self._steps, self._status)

    def move_to(self, n: float, total: float | None = None, status: str = "") -> None:
        """Show `n` steps as done in all (of `total`); rate and time left count from the first call on."""
        if total is not None:
            self.total = self._steps = total
        if status:
            self.show(status)
        if not self._moved:
            self._moved = True
            self._first = self.initial = self.n = self.last_print_n = n
            self._start = time.monotonic()
            self.start_t = self.last_print_t = time.time()
        self.update(n - self.n)


def format_seconds(seconds: float) -> str:
    """As hours, minutes and seconds: 02:05, 1:02:05."""
    return tqdm.format_interval(seconds)


def _has_no_width() -> bool:
    """Some containers' terminals say they have no columns, in which tqdm would draw nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):  # no terminal: no bar either
        return False


class _ConsoleHandler(logging.Handler):
    """Writes through tqdm, which takes its bars off the line first."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(CONSOLE_FORMAT, "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


class _FileHandler(logging.FileHandler):
    """Says once, on stderr, that its file cannot be written: on a full disk each line was a traceback."""

    _has_said = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_said:
            self._has_said = True
            tqdm.write(explain(Path(self.baseFilename), error), file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before
            super().close()


def _file_handler(path: Path) -> logging.FileHandler:
    handler = _FileHandler(path, encoding="utf-8")
    formatter = logging.Formatter(FILE_FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler


def _writes_to(handler: logging.Handler, path: Path) -> bool:
    return isinstance(handler, logging.FileHandler) and Path(handler.baseFilename) == path.absolute()


def _reject(record: logging.LogRecord) -> bool:
    return False


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record comes from this project or the user's own code, not from an installed library."""
    return "site-packages" not in record.pathname and "dist-packages" not in record.pathname


def _is_ours_or_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or is_ours(record)


class StopRequest:
    """`requested` turns True with the first signal. at_once: nothing is to be waited for any more."""

    def __init__(self) -> None:
        self.requested = self.at_once = False

    def __call__(self) -> bool:
        return self.requested


@contextmanager
def stop_request(message: str) -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM inside logs `message` and sets the request; the second interrupts."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True
        logger.warning("%s", message)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # Work has begun: what is still to do cleans up behind itself.
            signal.signal(number, raise_interrupt if handler is exit_at_once else handler)

"""Ctrl-C and SIGTERM as a request: the work under way reaches a point from which it can be resumed."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)
INTERRUPTED_EXIT_CODE = 130


class StopRequest:
    """`requested` turns True with the first signal."""

    def __init__(self) -> None:
        self.requested = False

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
            signal.signal(number, handler)

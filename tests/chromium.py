"""A headless Chromium that opens pages, runs scripts in them and saves what they let download."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0  # seconds


class Browser:
    """Speaks the DevTools protocol over two pipes: JSON messages, each ended by a null byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._number, self._buffer = 0, b""

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command. Raises RuntimeError: the browser refused it, or is gone."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(
            self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        )
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 65536)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Page:
    """A page of the browser, `width` CSS pixels wide."""

    def __init__(self, browser: Browser, url: str, width: int) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", self._session, **size)
        browser.call("Page.navigate", self._session, url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression. Raises RuntimeError: it throws."""
        answer = self._browser.call(
            "Runtime.evaluate", self._session, expression=script, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        wait_until(lambda: self.run(condition), condition)


def wait_until(is_true: Any, what: str) -> None:
    """Wait until a function returns something true. Raises AssertionError: it never did."""
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def headless_chromium(folder: Path) -> Iterator[Browser]:
    """A browser whose profile and `downloads` are in a folder; the test is skipped without a Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here to open the page with")
    (folder / "downloads").mkdir()
    read_there, write_here = os.pipe()
    read_here, write_there = os.pipe()

    def take_descriptors() -> None:  # the browser reads commands from 3 and answers on 4
        kept = [os.dup(number) for number in (read_there, write_there)]
        for number, descriptor in zip((3, 4), kept, strict=True):
            os.dup2(descriptor, number)

    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(
        [program, *flags, f"--user-data-dir={folder / 'profile'}"],
        close_fds=False,
        preexec_fn=take_descriptors,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_there)
    os.close(write_there)
    try:
        browser = Browser(write_here, read_here)
        downloads = str(folder / "downloads")
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=downloads)
        yield browser
        browser.call("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(write_here)
        os.close(read_here)

"""The environment every test runs in: one thread, no network, no window, nothing left behind."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Set here, before any test module is imported: the libraries read these once, and subprocesses inherit them.
# Two torch threads on a busy two-core machine were measured up to 28 times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
# A default, so that HF_HUB_OFFLINE=0 lets the tests marked network through.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CACHE = Path(tempfile.mkdtemp(prefix="test-cache-"))
os.environ["HF_HOME"] = str(CACHE / "huggingface")
os.environ["WANDB_DIR"] = str(CACHE)
os.environ["WANDB_CACHE_DIR"] = str(CACHE / "wandb")


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """A test that changes torch's thread count does not change it for the next one."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[Any, ...]]]:
    """Makes load_dataset return the given object, or raise it; returns the list of its calls."""
    import datasets

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])

    def serve(answer: Any) -> list[tuple[Any, ...]]:
        calls = []

        def load_dataset(*args: Any, **kwargs: Any) -> Any:
            calls.append((*args, kwargs))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return serve

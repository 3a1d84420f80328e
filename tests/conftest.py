"""The environment every test runs in: one thread, no network, no window, nothing left behind."""

import functools
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import lacking

from common import process

# Set here, before any test module is imported: the libraries read these once, and subprocesses inherit them.
# Two torch threads on a busy two-core machine were measured up to 28 times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
process.prepare()
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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine lacks the means for, with the reason."""
    if item.get_closest_marker("gpu") and (reason := no_gpu()):
        pytest.skip(reason)
    if item.get_closest_marker("slurm") and (reason := lacking()):
        pytest.skip(reason)
    marker = item.get_closest_marker("network")
    # Packages come from whatever index pip is configured for, whether or not the hub can be reached.
    if marker and "packages" not in marker.args and (reason := no_network()):
        pytest.skip(reason)


@functools.cache
def no_gpu() -> str | None:
    """Why no test can use a GPU here."""
    import torch

    return None if torch.cuda.is_available() else "no CUDA device here"


@functools.cache
def no_network() -> str | None:
    """Why no test can download anything here."""
    if os.environ["HF_HUB_OFFLINE"] not in ("0", ""):
        return "HF_HUB_OFFLINE is set: HF_HUB_OFFLINE=0 lets tests download"
    try:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()
    except OSError as error:
        return f"no network here: {error}"
    return None


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


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a T5 whose greedy texts differ from prompt to prompt; not to be written to."""
    from tiny_models import save_tiny_t5

    return save_tiny_t5(tmp_path_factory.mktemp("models") / "tiny_t5", seed=1, initializer_factor=2.0)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a GPT-2 with 64 positions; not to be written to."""
    from tiny_models import save_tiny_gpt2

    return save_tiny_gpt2(tmp_path_factory.mktemp("models") / "tiny_gpt2")


@pytest.fixture
def no_plots_and_no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that neither draw nor wait for the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("rl4lms.record.draw_training", lambda *_: None)


@pytest.fixture(scope="module")
def docstring_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache of harvested docstrings, for the tests of one module."""
    from common.python_docs import CACHE_VARIABLE

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import save_tiny_gpt2, save_tiny_t5

from common.python_docs import CACHE_VARIABLE


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a T5 whose greedy texts differ from prompt to prompt; not to be written to."""
    return save_tiny_t5(tmp_path_factory.mktemp("models") / "tiny_t5", seed=1, initializer_factor=2.0)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a GPT-2 with 64 positions; not to be written to."""
    return save_tiny_gpt2(tmp_path_factory.mktemp("models") / "tiny_gpt2")


@pytest.fixture(scope="module")
def docstring_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache of harvested docstrings, for the tests of one module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield

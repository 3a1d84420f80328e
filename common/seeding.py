"""Random number generators: seeds derived from one, generators set, kept apart and restored."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def derive_seed(seed: int, *stream: str | int) -> int:
    """A seed in [0, 2^63) for the stream so named, the same on every machine, independent of others."""
    digest = hashlib.sha256(json.dumps([seed, *stream]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seeds the global generators for the block and puts them back as they were after it, also on exceptions.

    Covers python, numpy, torch if it is imported already, and CUDA if it is in use already (seeding it here
    would start it, or change its first numbers after the block).
    """
    before = rng_state()
    _seed_python_and_numpy(seed)
    if "torch" in sys.modules:
        import torch

        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        set_rng_state(before)


def rng_state() -> dict[str, Any]:
    """States of the global generators as lists, numbers and tensors, for a checkpoint.

    Keys: python, numpy, torch if it is imported, cuda (one state per device) if it is in use.
    """
    import numpy as np

    version, internal, gauss_next = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    key, position = numpy_state["state"]["key"], numpy_state["state"]["pos"]
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss_next],
        "numpy": [key.tolist(), position, numpy_state["has_gauss"], numpy_state["gauss"]],
    }
    if "torch" in sys.modules:
        import torch

        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue from `rng_state()`. States of CUDA devices that this machine lacks are left out."""
    import numpy as np

    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.asarray(key, dtype=np.uint32), position, has_gauss, gauss))
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"].cpu())
        for device, cuda_state in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state.cpu(), device)


def _seed_python_and_numpy(seed: int) -> None:
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)

"""Seeds and generator states."""

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.seeding import derive_seed, isolated_rng, rng_state, set_rng_state

ROOT = Path(__file__).parents[2]


def draw() -> tuple[float, float, float, float, float]:
    """One number of each global generator; of numpy and python the cached second normal too."""
    normals = random.gauss(0, 1), float(np.random.standard_normal())
    return random.random(), float(np.random.rand()), torch.rand(()).item(), *normals


def test_derived_seeds_never_change() -> None:
    """Runs are redone from their seeds: these values are a promise."""
    assert derive_seed(0) == 7520536977032167579
    assert derive_seed(192, "subset") == 786004700302659771
    assert derive_seed(192, "order", 7) == 1696072732303969935


def test_derived_seeds_are_the_same_in_another_process() -> None:
    code = "from common.seeding import derive_seed; print(derive_seed(3, 'a', 5))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert int(printed) == derive_seed(3, "a", 5)


def test_streams_do_not_meet() -> None:
    streams: list[tuple[str | int, ...]] = [
        (),
        ("",),
        (1,),
        ("1",),
        (1, 2),
        (12,),
        ("1", 2),
        ("ab",),
        ("a", "b"),
    ]
    seeds = [derive_seed(seed, *stream) for seed in range(200) for stream in streams]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.06  # 5 standard errors of a fair coin thrown 1,800 times
    torch.Generator().manual_seed(max(seeds))


def test_a_seed_fixes_every_generator() -> None:
    def drawn(seed: int) -> tuple[float, ...]:
        with isolated_rng(seed):
            return tuple(draw())

    first = drawn(2**40 + 5)
    assert drawn(2**40 + 5) == first
    assert all(a != b for a, b in zip(drawn(2**40 + 6), first, strict=True))


def test_isolated_block_is_a_function_of_its_seed_and_leaves_no_trace() -> None:
    with isolated_rng(1):
        before = rng_state()
        with isolated_rng(11):
            inside = draw()
        draw()
        with isolated_rng(11):
            assert draw() == inside
        set_rng_state(before)
        undisturbed = [draw() for _ in range(3)]
        set_rng_state(before)
        disturbed = [draw()]
        with isolated_rng(12):
            draw()
        disturbed += [draw(), draw()]
        assert disturbed == undisturbed


def test_isolated_block_restores_after_an_exception() -> None:
    with isolated_rng(1):
        before = rng_state()
        expected = draw()
        set_rng_state(before)
        with pytest.raises(KeyError), isolated_rng(2):
            draw()
            raise KeyError
        assert draw() == expected


def test_isolated_block_does_not_import_torch() -> None:
    code = (
        "import sys; from common.seeding import isolated_rng\n"
        "with isolated_rng(1): pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_states_survive_a_checkpoint() -> None:
    """Saved after an odd number of normals, so that the cached second one of the pair counts."""
    with isolated_rng(5):
        draw()
        file = io.BytesIO()
        torch.save(rng_state(), file)
        expected = [draw() for _ in range(5)]
        draw()
        file.seek(0)
        set_rng_state(torch.load(file, weights_only=True))
        assert [draw() for _ in range(5)] == expected


@pytest.mark.gpu
def test_cuda_is_kept_apart_and_restored() -> None:
    torch.zeros((), device="cuda")
    torch.cuda.manual_seed_all(3)
    state = rng_state()
    expected = torch.rand(4, device="cuda").tolist()
    with isolated_rng(3):
        assert torch.rand(4, device="cuda").tolist() == expected
    set_rng_state(state)
    assert torch.rand(4, device="cuda").tolist() == expected

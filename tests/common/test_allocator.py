"""Freed memory is kept: measured in a process of its own, whose setting it is."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# Pages fetched per round of using three blocks of 20 MiB and freeing them all.
PROGRAM = """
import ctypes, resource
{setting}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def step():
    blocks = [libc.malloc(20 << 20) for _ in range(3)]
    for block in blocks: ctypes.memset(block, 1, 20 << 20)
    for block in reversed(blocks): libc.free(block)
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): step()
before = faults()
for _ in range(10): step()
print((faults() - before) // 10)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of glibc")


def faults(setting: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(setting=setting)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_is_used_again_is_not_fetched_again():
    without, kept = faults(""), faults("import common")
    assert without > 5_000 and kept < 100


def test_the_users_own_setting_is_left(monkeypatch):
    from common.allocator import keep_freed_memory

    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_freed_memory() is False

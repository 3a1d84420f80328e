"""What a process sets for itself; freed memory that is kept is measured in a process of its own."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import process

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
    without, kept = faults(""), faults("from common import process; process.prepare()")
    assert without > 5_000 and kept < 100


def test_importing_sets_nothing():
    assert faults("import common, common.process, common.jobs") > 5_000
    code = "import os, common.process, common.jobs, common.schedule; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "None\n"


def test_threads_wait_asleep_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    process.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    process.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.parametrize("runner", sorted(path.name for path in REPO.glob("*.py")))
def test_every_runner_begins_with_it(runner):
    """Before it imports torch: no runner does at module level, see tests/test_architecture.py."""
    tree = ast.parse((REPO / runner).read_text())
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert ast.unparse(main.body[1]) == "process.prepare()"  # body[0] is the docstring


def test_the_users_own_setting_is_left(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert process.keep_freed_memory() is False

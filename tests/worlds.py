"""Several processes that form one world, by gloo on the CPU; forked, so that they start in milliseconds."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rl4lms.model.parallel import World, join_world

TIMEOUT = 60.0


def in_world(folder: Path, work: Callable[[World], Any], size: int = 2) -> list[Any]:
    """What `work` returns in each process of a world, started as `torchrun` starts it.

    The results: tensors and plain values. A process that fails fails the test, with its traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = [_fork(folder, work, rank, size, port) for rank in range(size)]
    _wait(pids)
    errors = [file.read_text() for file in sorted(folder.glob("error_*.txt"))]
    assert not errors, "\n".join(errors)
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(size)]


def _fork(folder: Path, work: Callable[[World], Any], rank: int, size: int, port: int) -> int:
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        forget_world()
        world = join_world("cpu")
        torch.save(work(world), folder / f"result_{rank}.pt")
        world.barrier()
    except BaseException:
        (folder / f"error_{rank}.txt").write_text(f"rank {rank}:\n{traceback.format_exc()}")
    finally:
        os._exit(0)


def forget_world() -> None:
    """What accelerate remembers of this process, if an earlier test used it."""
    from accelerate import PartialState

    PartialState._reset_state()


def _wait(pids: list[int]) -> None:
    """Until all have ended; after a while they are killed."""
    end = time.monotonic() + TIMEOUT
    waiting = list(pids)
    while waiting:
        waiting = [pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if time.monotonic() > end:
            for pid in waiting:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise AssertionError(f"{len(waiting)} of {len(pids)} processes hung")
        time.sleep(0.02)

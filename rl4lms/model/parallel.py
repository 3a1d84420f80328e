"""The processes of one run: alone, or several started by `torchrun` or `accelerate launch`.

Every process holds all models. Work is shared out by rows, results are gathered, gradients summed: the
numbers are those of one process, up to the order of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import UserError

T = TypeVar("T")


MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what processes need to find each other


class WorldError(UserError):
    """Processes that do not form the world they were started as; the message is for the user."""


class World:
    """The processes of a run, as each knows them; `World()` is one process alone.

    rank: this process's number, from 0; size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: list[T]) -> list[T]:
        """Take this process's part of what all processes know: every `size`-th item."""
        return items[self.rank :: self.size]

    def gather(self, part: list[T]) -> list[T]:
        """Collect on all processes, in their order, the items of which each gives its `share`."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        items: list[Any] = [None] * sum(map(len, parts))
        for rank, rank_items in enumerate(parts):
            items[rank :: self.size] = rank_items
        return items

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all are sent as one."""
        listed = list(tensors)
        if self.size == 1 or not listed:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in listed])
        dist.all_reduce(flat)
        first = 0
        for tensor in listed:
            tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
            first += tensor.numel()

    def same(self, value: T) -> T:
        """Give all processes the main one's value."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str) -> World:
    """Join the world that this process was started in (environment of `torchrun`) through accelerate.

    device: as in the config. Raises WorldError: the environment does not say where the processes meet, or
    fewer came together than were asked for, which `accelerate launch --cpu` does without a word.
    """
    text = os.environ.get("WORLD_SIZE", os.environ.get("ACCELERATE_NUM_PROCESSES", "1"))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise WorldError(f"WORLD_SIZE must be a number of processes, got {text!r}: unset it, or use torchrun")
    expected = int(text)
    if expected == 1:
        return World()
    if "WORLD_SIZE" in os.environ and (missing := [name for name in MEETING if name not in os.environ]):
        raise WorldError(
            f"WORLD_SIZE is {expected}, but {', '.join(missing)} is not set: start with "
            f"torchrun --nproc_per_node {expected}, or unset WORLD_SIZE for one process"
        )
    from accelerate import PartialState

    # The others wait while the main process computes metrics, or reads data: for hours, if it must be.
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=timedelta(hours=12))
    if state.num_processes != expected:
        raise WorldError(
            f"{expected} processes were asked for, {state.num_processes} came together: start with "
            f"torchrun --nproc_per_node {expected}"
        )
    return World(state.process_index, state.num_processes)

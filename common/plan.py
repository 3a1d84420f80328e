"""What all plan files have in common: how their experiments run, and how options multiply."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from common.config import Config, Problem, path_text


class PlanSettings(Config):
    """How the experiments of a plan are run."""

    name: str = Field("plan", description="shown in logs and bars")
    description: str = Field("", description="for the reader")
    repetitions: Annotated[int, Field(ge=1)] = Field(1, description="times that each experiment is run")
    multiprocess: bool = Field(False, description="one process per experiment, num_parallel at a time")
    num_parallel: Annotated[int, Field(ge=1)] = Field(
        1, description="experiments at a time, with multiprocess"
    )
    gpu_ids_pool: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="GPUs handed out to the processes; [] = each experiment's own device"
    )


def choices(options: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, tuple[int, Any]]]:
    """The product of the options, the last varying fastest: field -> number of the value, value."""
    for values in itertools.product(*(enumerate(values) for values in options.values())):
        yield dict(zip(options, values, strict=True))


def empty_options(configurations: Sequence[Mapping[str, Sequence[Any]]]) -> list[Problem]:
    """Fields of the configurations' `options` that have no value to try."""
    return [
        Problem(
            path_text(("configurations", i, "options", name)),
            "an empty list of values leaves no experiment to run",
        )
        for i, options in enumerate(configurations)
        for name, values in options.items()
        if not values
    ]

"""Writes the report of a diagnosis, its pictures and the page; what draws is imported when it is needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rft_diagnose.errors import SHOWN, MissingPackageError, needed_for
from rft_diagnose.results import Table, atomic_path, numbers_csv, write_json, write_text
from rft_diagnose.words import Findings

if TYPE_CHECKING:
    from rft_diagnose.explorer import Generations
    from rft_diagnose.report import Picture

logger = logging.getLogger(__name__)
REPORT = "report.html"
EXPLORER = "explorer.html"
MAX_EXAMPLES = 20


def write_report(
    folder: Path,
    title: str,
    findings: Findings,
    columns: Table,
    gradients: Sequence[dict[str, Any]],
    paths: Sequence[Path],
    generations: Generations,
) -> bool:
    """Write pictures and pages; return whether the packages that they need are there, and say if not."""
    try:
        with needed_for("the report with its pictures", "report"):
            import jinja2  # noqa: F401
            import matplotlib  # noqa: F401
    except MissingPackageError as error:
        logger.warning("%s", error)
        return False
    from rft_diagnose.explorer import render_explorer
    from rft_diagnose.report import render

    examples, noise = choose_examples(columns), name_noise(columns)
    page = render(
        title,
        findings,
        draw(folder, findings, columns, gradients, paths),
        [{name: column[i] for name, column in columns.items()} for i in examples],
        [str(columns["input"][i]) for i in noise],
        EXPLORER,
    )
    write_text(folder / REPORT, page)
    inputs = f"Inputs: {title.partition(': ')[2]}"
    write_text(folder / EXPLORER, render_explorer(inputs, columns, generations, [*examples, *noise], REPORT))
    return True


def draw(
    folder: Path,
    findings: Findings,
    columns: Table,
    gradients: Sequence[dict[str, Any]],
    paths: Sequence[Path],
) -> list[Picture]:
    """Write the pictures, with their numbers and origin, and return them for the page."""
    from rft_diagnose.pictures import pictures
    from rft_diagnose.report import Picture, embed
    from rft_diagnose.style import render_figure
    from rft_diagnose.teacher_pictures import teacher_pictures

    runs = [{"path": str(path)} for path in paths]
    drawn = []
    every = chain(pictures(columns, findings.summary, gradients), teacher_pictures(columns, findings.teacher))
    for stem, title, caption, figure, numbers in every:
        png, pdf = render_figure(figure)
        for suffix, data in (("png", png), ("pdf", pdf)):
            with atomic_path(folder / f"{stem}.{suffix}") as temporary:
                temporary.write_bytes(data)
        write_text(folder / f"{stem}.csv", numbers_csv(numbers))
        write_json(folder / f"{stem}.json", {"figure": stem, "runs": runs})
        drawn.append(Picture(title, embed(png), caption))
    return drawn


def choose_examples(columns: Table) -> list[int]:
    """Choose some inputs without spread at a low reward, dead ones first: rows of inputs.csv."""
    flat = np.flatnonzero(columns["looks"] == "flat_low").tolist()
    return sorted(flat, key=lambda i: str(columns["label"][i]))[:MAX_EXAMPLES]


def name_noise(columns: Table) -> list[int]:
    """Choose some inputs with groups of noise: rows of inputs.csv."""
    return np.flatnonzero(columns["noise_groups"] > 0)[:SHOWN].tolist()

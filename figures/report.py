"""The report: one HTML page without scripts: every item, the claims it belongs to, where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import atomic_write_text
from common.run_dir import RunError, read_run
from figures.claims import Outcome, Verdict
from figures.paper_numbers import MARKS, PAPER
from rft_diagnose.report import embed, load_templates

TEMPLATES = Path(__file__).with_name("templates")
BADGES: dict[Outcome, tuple[str, str]] = {  # class in the style sheet, text
    "holds": ("holds", "\N{CHECK MARK} holds"),
    "fails": ("fails", "\N{BALLOT X} fails"),
    "not tested": ("not", "\N{EN DASH} not tested"),
}
NARROW = "_narrow.png"  # ends the name of a picture that takes another's place on a phone
SUFFIXES = ("pdf", "png", "csv", "tex", "md", "json")


@dataclass(frozen=True)
class Item:
    """A figure or table as it was drawn.

    stems: of its files, the first part of their names; table: as text; runs: what identifies each run that
    it comes from, with its "path"; missing: see `figures.study.gaps`; lacks: why nothing was drawn, if that
    is not for its missing runs alone.
    """

    name: str
    title: str
    caption: str
    stems: Sequence[Path] = ()
    table: pd.DataFrame | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Mapping[str, str]] = field(default=())
    lacks: str = ""


def write_report(
    path: Path, title: str, intro: str, items: Sequence[Item], verdicts: Sequence[Verdict]
) -> None:
    """Write the page to `path`, atomically; see `render`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, render(title, intro, items, verdicts, path.parent))


def render(title: str, intro: str, items: Sequence[Item], verdicts: Sequence[Verdict], folder: Path) -> str:
    """Make the whole page, to be put into `folder`: links to files are relative to it, pictures inside it."""
    return (
        load_templates(TEMPLATES)
        .get_template("report.html")
        .render(
            title=title,
            intro=intro,
            items=items,
            verdicts=verdicts,
            counts={outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in BADGES},
            names={item.name: item.title.partition(":")[0] for item in items},
            badges=BADGES,
            paper=PAPER,
            marks=MARKS,
            embed=embed,
            NARROW=NARROW,
            files=_files,
            relative=lambda file: Path(os.path.relpath(file, folder)).as_posix(),
            origin=_origin(items),
        )
    )


def _files(stem: Path) -> list[Path]:
    files = [stem.with_name(f"{stem.name}.{suffix}") for suffix in SUFFIXES]
    return [file for file in files if file.is_file()]


def _origin(items: Sequence[Item]) -> dict[str, Any]:
    """Collect versions, commits and seeds of all runs, and a row a run: folder, status, begin."""
    runs = {str(run["path"]): run for item in items for run in item.runs}
    manifests = {}
    for path in runs:
        try:
            manifests[path] = read_run(Path(path)).manifest
        except RunError:
            manifests[path] = {}
    return {
        "versions": sorted({_versions(manifest) for manifest in manifests.values()} - {""}),
        "commits": sorted({_commit(manifest) for manifest in manifests.values()}),
        "seeds": sorted({str(run["seed"]) for run in runs.values() if "seed" in run}),
        "rows": [
            (path, str(manifest.get("status", "")), str(manifest.get("created", ""))[:16])
            for path, manifest in manifests.items()
        ],
    }


def _versions(manifest: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())


def _commit(manifest: Mapping[str, Any]) -> str:
    commit = manifest.get("commit")
    return "unknown" if not commit else f"{commit[:12]}{' with changes' if manifest.get('dirty') else ''}"

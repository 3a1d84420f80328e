"""The report: one HTML page without scripts: every item, the claims it belongs to, where it comes from."""

from __future__ import annotations

import json
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
# The paper's order. Later work puts its items into a section of its own; one without items is not shown.
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Before any training", ("preflight",)),
    ("Where gradients vanish: text generation", ("figure1", "figure2", "table1", "figure5")),
    (
        "Exact gradients: controlled experiments",
        ("figure3", "figure3_sgd", "figure3_high_init_reward"),
    ),
    ("Theory", ("theory",)),
    ("What helps: a short SFT phase", ("table2", "figure4", "table_rewards")),
    ("Beyond the paper: group algorithms", ("theory_group", "figure3_group", "table_groups")),
    ("Beyond the paper: InstructGPT", ("instructgpt",)),
)
NARROW = "_narrow.png"  # ends the name of a picture that takes another's place on a phone
SUFFIXES = ("pdf", "png", "csv", "tex", "md", "json")


@dataclass(frozen=True)
class Item:
    """A figure or table as it was drawn.

    stems: of its files, the first part of their names; linked: of files that the page links to and does not
    show here; table: as text; runs: what identifies each run that it comes from, with its "path"; missing:
    see `figures.study.gaps`; lacks: why nothing was drawn, if that is not for its missing runs alone.
    """

    name: str
    title: str
    caption: str
    stems: Sequence[Path] = ()
    table: pd.DataFrame | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Mapping[str, str]] = field(default=())
    lacks: str = ""
    linked: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class Lead:
    """A sentence that the page opens with, and what this run says to it.

    item: name of the one that it is about; measured: its number in a sentence, or "" and `lacks`: why not;
    picture: stem of its files, if it was drawn.
    """

    claim: str
    item: str
    measured: str
    lacks: str
    verdicts: Sequence[Verdict]
    picture: Path | None


def write_report(
    path: Path,
    title: str,
    intro: str,
    items: Sequence[Item],
    verdicts: Sequence[Verdict],
    leads: Sequence[Lead] = (),
) -> None:
    """Write the page to `path`, atomically; see `render`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, render(title, intro, items, verdicts, path.parent, leads))


def render(
    title: str,
    intro: str,
    items: Sequence[Item],
    verdicts: Sequence[Verdict],
    folder: Path,
    leads: Sequence[Lead] = (),
) -> str:
    """Make the whole page, to be put into `folder`: links to files are relative to it, pictures inside it.

    It opens with the leads; items come in their `SECTIONS`.
    """
    return (
        load_templates(TEMPLATES)
        .get_template("report.html")
        .render(
            title=title,
            intro=intro,
            leads=leads,
            sections=_sections(items),
            verdicts=verdicts,
            counts={outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in BADGES},
            names={item.name: item.title.partition(":")[0] for item in items},
            badges=BADGES,
            paper=PAPER,
            marks=MARKS,
            embed=embed,
            NARROW=NARROW,
            files=_files,
            sources=_sources,
            relative=lambda file: Path(os.path.relpath(file, folder)).as_posix(),
            origin=_origin(items),
        )
    )


def _sections(items: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """The items of each section that has any, in the order of `SECTIONS`; others stand last."""
    by_name = {item.name: item for item in items}
    placed = {name for _, names in SECTIONS for name in names}
    sections = [
        (heading, [by_name[name] for name in names if name in by_name]) for heading, names in SECTIONS
    ]
    sections.append(("More", [item for item in items if item.name not in placed]))
    return [(heading, of_section) for heading, of_section in sections if of_section]


def _sources(item: Item) -> dict[str, Any]:
    """Where the numbers of an item come from: how many runs, of which seeds, and what drew it."""
    metas = [stem.with_name(f"{stem.name}.json") for stem in [*item.stems, *item.linked]]
    commands = [json.loads(meta.read_bytes()).get("command") for meta in metas if meta.is_file()]
    return {
        "runs": len({str(run["path"]) for run in item.runs}),
        "seeds": sorted({run["seed"] for run in item.runs if "seed" in run}),
        "command": next((command for command in commands if command), ""),
    }


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

"""The report: one HTML page without scripts: every item, the claims it belongs to, where it comes from."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import atomic_write_text
from common.run_dir import RunError, read_run
from figures.claims import Outcome, Verdict
from figures.criteria import MARKS, PAPER
from figures.style import PNG_DPI

STYLE = """
:root{color-scheme:light dark;--text:#222;--dim:#555;--back:#fff;--line:#ddd;--card:#f5f5f2;--link:#005a94}
@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--dim:#aaa;--back:#16181b;--line:#3a3d42;--card:#212429;
--link:#7cc0f0}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:1rem;color:var(--text);
background:var(--back);overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid var(--line);
padding-top:1rem}a{color:var(--link)}
figure{margin:1rem 0}.scroll{overflow-x:auto}img{display:block;width:100%;background:#fff;padding:.4rem;
border-radius:.3rem}figcaption,.dim{color:var(--dim);font-size:.9rem}
table{border-collapse:collapse;font-size:.9rem;min-width:100%}
td,th{text-align:left;padding:.25rem .8rem .25rem 0;vertical-align:top;
border-bottom:1px solid var(--line);white-space:nowrap}
td:first-child{white-space:normal;min-width:10rem}
ul.plain{list-style:none;padding:0;margin:.5rem 0}ul.plain>li{display:flex;gap:.6rem;align-items:baseline;
margin:.35rem 0}
.claim{background:var(--card);border-radius:.4rem;padding:.6rem .8rem;margin:.6rem 0}.claim p{margin:.2rem 0}
.badge{display:inline-block;flex:none;width:6.2rem;text-align:center;border-radius:.3rem;color:#fff;font-size:.8rem;
padding:.05rem 0}
.holds{background:#00704f}.fails{background:#b34700}.not{background:#666}
.partial{border-left:.25rem solid #b34700;padding-left:.7rem}
code{font-size:.85em;overflow-wrap:anywhere}details{margin:.5rem 0}
"""
BADGES: dict[Outcome, tuple[str, str]] = {
    "holds": ("holds", "&#10003; holds"),
    "fails": ("fails", "&#10007; fails"),
    "not tested": ("not", "&ndash; not tested"),
}
SUFFIXES = ("pdf", "png", "csv", "tex", "md", "json")
SMALLEST = 0.62  # of its own size a picture shrinks to; on a phone it then scrolls, rather than be unreadable


@dataclass(frozen=True)
class Item:
    """A figure or table as it was drawn.

    stems: of its files, the first part of their names; table: as text; runs: what identifies each run that
    it comes from, with its "path"; missing: see `figures.study.gaps`.
    """

    name: str
    title: str
    caption: str
    stems: Sequence[Path] = ()
    table: pd.DataFrame | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Mapping[str, str]] = field(default=())


def write_report(
    path: Path, title: str, intro: str, items: Sequence[Item], verdicts: Sequence[Verdict]
) -> None:
    """Write the page to `path`, atomically; see `render`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, render(title, intro, items, verdicts, path.parent))


def render(title: str, intro: str, items: Sequence[Item], verdicts: Sequence[Verdict], folder: Path) -> str:
    """The whole page, to be put into `folder`: links to files are relative to it, pictures are inside it."""
    counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in BADGES}
    names = {item.name: item.title.partition(":")[0] for item in items}
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(intro)}</p>",
        f"<p><b>Of {len(verdicts)} claims {counts['holds']} hold in this run, {counts['fails']} fail, "
        f"{counts['not tested']} were not tested.</b> Each is about these runs alone; its criterion was "
        "written "
        "before them unless it says otherwise (docs/laptop_study.md).</p>",
        "<ul class=plain>",
        *(
            f"<li>{_badge(verdict.outcome)}<span>{escape(verdict.criterion.claim)} "
            f"{_anchor(verdict.criterion.item, names)}</span></li>"
            for verdict in verdicts
        ),
        "</ul>",
        *(_item(item, [v for v in verdicts if v.criterion.item == item.name], folder) for item in items),
        _origin(items),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _anchor(name: str, names: Mapping[str, str]) -> str:
    return f"<a href='#{name}'>{escape(names[name])}</a>" if name in names else f"({name})"


def _item(item: Item, verdicts: Sequence[Verdict], folder: Path) -> str:
    parts = [f"<section id='{escape(item.name)}'><h2>{escape(item.title)}</h2>"]
    for stem in item.stems:
        picture = stem.with_name(f"{stem.name}.png")
        if picture.is_file():
            parts.append(_picture(picture.read_bytes(), f"{item.title} ({stem.name})"))
            parts.append(_links(stem, folder))
    if item.table is not None:
        rows = [[str(cell) for cell in row] for row in item.table.to_numpy().tolist()]
        parts.append(_table([str(column) for column in item.table.columns], rows))
        parts += [_links(stem, folder) for stem in item.stems]
    parts.append(f"<p class=dim>{escape(item.caption)}</p>")
    for number in PAPER.get(item.name, ()):
        parts.append(f"<p>Paper: {escape(number.text)} <span class=dim>({MARKS[number.mark]})</span></p>")
    parts += [_claim(verdict) for verdict in verdicts]
    if not verdicts:
        parts.append("<p class=dim>An illustration: no claim is tested on it.</p>")
    if item.missing:
        done = "partial" if item.stems or item.table is not None else "not drawn"
        runs = "1 run" if len(item.missing) == 1 else f"{len(item.missing)} runs"
        parts.append(
            f"<div class=partial><p><b>{done}: {runs} missing</b></p><details><summary>"
            "what makes them</summary>"
            + "".join(
                f"<p>{escape(row['run'])} "
                f"({escape(row['status'])})<br><code>{escape(row['command'])}</code></p>"
                for row in item.missing
            )
            + "</details></div>"
        )
    return "".join(parts) + "</section>"


def _claim(verdict: Verdict) -> str:
    criterion = verdict.criterion
    ours = "" if np.isnan(verdict.value) else f"<b>{verdict.value:.3f}</b>; "
    return (
        f"<div class=claim>{_badge(verdict.outcome)}<p><b>{escape(criterion.claim)}</b></p>"
        f"<p>Measured: {escape(criterion.measure)}: {ours}{escape(verdict.detail)}</p>"
        f"<p class=dim>Holds if {escape(criterion.bound)}: {escape(criterion.why)}.</p></div>"
    )


def _badge(outcome: Outcome) -> str:
    kind, text = BADGES[outcome]
    return f"<span class='badge {kind}'>{text}</span>"


def _picture(png: bytes, text: str) -> str:
    width, _ = struct.unpack(">II", png[16:24])  # of the header, in dots
    pixels = round(width / PNG_DPI * 96)
    data = base64.b64encode(png).decode()
    style = f"max-width:{pixels}px;min-width:{round(SMALLEST * pixels)}px"
    return (
        f"<figure><div class=scroll><img style='{style}' alt='{escape(text)}' "
        f"src='data:image/png;base64,{data}'></div></figure>"
    )


def _links(stem: Path, folder: Path) -> str:
    files = [stem.with_name(f"{stem.name}.{suffix}") for suffix in SUFFIXES]
    links = [
        f"<a href='{escape(Path(os.path.relpath(file, folder)).as_posix())}'>{file.suffix[1:].upper()}</a>"
        for file in files
        if file.is_file()
    ]
    return f"<p class=dim>{escape(stem.name)}: {' '.join(links)}</p>"


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in rows)
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"


def _origin(items: Sequence[Item]) -> str:
    """Versions, commits and seeds of all runs, and their folders."""
    runs = {str(run["path"]): run for item in items for run in item.runs}
    manifests = {}
    for path in runs:
        try:
            manifests[path] = read_run(Path(path)).manifest
        except RunError:
            manifests[path] = {}
    versions = sorted({_versions(manifest) for manifest in manifests.values()} - {""})
    commits = sorted({_commit(manifest) for manifest in manifests.values()})
    seeds = sorted({str(run["seed"]) for run in runs.values() if "seed" in run})
    rows = [
        [path, str(manifest.get("status", "")), str(manifest.get("created", ""))[:16]]
        for path, manifest in manifests.items()
    ]
    return (
        "<section id=origin><h2>Where this comes from</h2>"
        f"<p>{len(runs)} runs; seeds: {escape(', '.join(seeds)) or 'none'}; commits: "
        f"{escape(', '.join(commits)) or 'unknown'}</p>"
        + "".join(f"<p class=dim>{escape(line)}</p>" for line in versions)
        + "<p class=dim>The JSON file of each item holds the configs of its runs.</p>"
        "<details><summary>Run "
        f"folders</summary>{_table(('folder', 'status', 'begun (UTC)'), rows)}</details></section>"
    )


def _versions(manifest: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())


def _commit(manifest: Mapping[str, Any]) -> str:
    commit = manifest.get("commit")
    return "unknown" if not commit else f"{commit[:12]}{' with changes' if manifest.get('dirty') else ''}"

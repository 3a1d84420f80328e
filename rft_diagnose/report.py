"""What a diagnosis leaves on disk: rows per input, the inputs to finetune on, and a report.

The report is one HTML file without scripts, with its pictures inside, that fits a phone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.files import atomic_path
from rft_diagnose.compare import Comparison
from rft_diagnose.diagnose import Diagnosis
from rft_diagnose.groups import inputs_text
from rft_diagnose.tables import RewardTable
from rft_diagnose.words import (
    Findings,
    change_line,
    class_rows,
    gradient_rows,
    headline,
    no_spread_line,
    number_rows,
)

if TYPE_CHECKING:
    import pandas as pd


COLOURS = {"dead_low": "#D55E00", "dead_high": "#0072B2", "live": "#009E73", "uncertain": "#BBBBBB"}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:0 auto;padding:1rem;color:#222;background:#fff}
h1{font-size:1.4rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin-top:2rem}img{max-width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{text-align:left;padding:.25rem .5rem .25rem 0;
vertical-align:top;border-bottom:1px solid #ddd;overflow-wrap:break-word}.wide{overflow-x:auto}
.classes td:nth-child(-n+3){white-space:nowrap}
@media(max-width:34rem){.classes tr{display:flex;flex-wrap:wrap;border-bottom:1px solid #ddd}
.classes td,.classes th{border:0;padding:.1rem 0}.classes :first-child{flex:0 0 7rem}
.classes :nth-child(2){flex:0 0 4rem}.classes td:nth-child(4){flex-basis:100%}}
.whole{white-space:nowrap}.clip{display:block;max-height:3em;overflow:hidden}
.bar{display:flex;height:1.6rem;border-radius:.3rem;overflow:hidden}.key{display:inline-block;width:.7em;
height:.7em;border-radius:.15em;margin-right:.3em}.ground,figcaption{color:#555;font-size:.9rem}
figure{margin:1rem 0}.note{background:#fff6df;padding:.6rem .8rem;border-radius:.3rem}li{margin-bottom:.6rem}
"""
METHODS = (
    "Two rewards count as the same if they differ by at most the tolerance, a share of the reward's range. A "
    "group has signal if not all of its rewards are the same. Live: at most 5% of the inputs of whose groups "
    "a tenth or less have signal are called so. Dead: at most 5% of the inputs of whose groups half or more "
    "have signal are called so; in between, either name may come out. Rewards with two values: exact "
    "binomial intervals and tests. Others: Student's t for the mean, chi-square with degrees of freedom by "
    "the pooled kurtosis for the std; inputs without spread get what their generations cannot rule out. "
    "Beyond the generations of an input the share of groups with signal is bounded, not estimated. "
    "docs/diagnosis.md has the formulas and the measured coverage."
)
BOUNDS_NOTE = (
    "L: longest output; M: half of the reward's range; gamma: the largest Jacobian norm of the logits over "
    "all prefixes, of which a few sampled ones are looked at (power iteration), so that the two bounds with "
    "it may come out too small. That of the Fisher information is too large on average: it is from the same "
    "few generations."
)


class Picture(NamedTuple):
    title: str
    png: bytes
    caption: str


def render(
    title: str, findings: Findings, pictures: Sequence[Picture], examples: Sequence[Mapping[Any, Any]]
) -> str:
    """The whole page. examples: inputs without signal, rows of inputs.csv."""
    summary, comparison = findings.summary, findings.comparison
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(headline(findings.name, summary))}</p>",
        f"<p><b>{escape(no_spread_line(summary))}</b></p>",
        _bar(summary),
        _classes(summary),
        "".join(f"<p class=note>{escape(caveat)}</p>" for caveat in findings.notes),
        "<h2>What to do</h2><ol>",
        "".join(
            f"<li>{escape(piece.what)}<br><span class=ground>{escape(piece.ground)}</span></li>"
            for piece in findings.advice
        )
        or "<li>Nothing stands out: the inputs carry signal.</li>",
        "</ol><h2>Numbers</h2>",
        _table((), number_rows(summary)),
    ]
    if comparison is not None:
        parts += [
            "<h2>Before and after</h2>",
            f"<p>{escape(change_line(comparison))}</p>",
            _crossed(comparison),
        ]
    if findings.gradients is not None:
        parts += ["<h2>Gradients</h2>", _table((), gradient_rows(findings.gradients))]
        parts.append(f"<p class=ground>{escape(BOUNDS_NOTE)}</p>")
        for other, row in findings.gradients["others"].items():
            parts += [f"<p>{escape(other)}</p>", _table((), gradient_rows(row))]
    for picture in pictures:
        data = base64.b64encode(picture.png).decode()
        parts.append(
            f"<h2>{escape(picture.title)}</h2><figure><img alt='{escape(picture.title)}' "
            f"src='data:image/png;base64,{data}'><figcaption>{escape(picture.caption)}</figcaption></figure>"
        )
    if summary["over_time"]:
        parts += ["<h2>Over time</h2>", _over_time(summary["over_time"])]
    if findings.others:
        parts.append("<h2>Each reward</h2>")
        for other, row in findings.others.items():
            parts += [f"<p>{escape(headline(other, row))}</p>", _bar(row), _classes(row)]
    if examples:
        low = inputs_text(summary["no_spread_low"]["count"])
        parts.append("<h2>Inputs without signal</h2>")
        parts.append(f"<p>{len(examples)} of the {low} without spread at a low reward.</p>")
        parts.append(_examples(examples))
    parts.append(f"<h2>How this was computed</h2><p class=ground>{escape(METHODS)}</p>")
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _bar(summary: dict[str, Any]) -> str:
    pieces = "".join(
        f"<div style='width:{100 * row['share']:.2f}%;background:{COLOURS[name]}'></div>"
        for name, row in summary["classes"].items()
    )
    return f"<div class=bar>{pieces}</div>"


def _classes(summary: dict[str, Any]) -> str:
    keys = [f"<span class=key style='background:{COLOURS[name]}'></span>" for name in summary["classes"]]
    rows = "".join(
        f"<tr><td>{key}{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for key, (name, *cells) in zip(keys, class_rows(summary), strict=True)
    )
    head = "<tr><th>class<th>share<th>95%<th></tr>"
    return f"<div class=wide><table class=classes>{head}{rows}</table></div>"


def _crossed(comparison: dict[str, Any]) -> str:
    counts = comparison["classes"]
    rows = [(f"{old} before", *(f"{n:,}" for n in row.values())) for old, row in counts.items()]
    return _table(("", *(f"{name} after" for name in counts)), rows)


def _over_time(rows: Sequence[dict[str, Any]]) -> str:
    shown = rows if len(rows) <= 12 else [rows[round(i * (len(rows) - 1) / 11)] for i in range(12)]
    cells = [
        (
            f"{row['first_step']}" if row["first_step"] == row["last_step"] else
            f"{row['first_step']} to {row['last_step']}",
            f"{row['groups']:,}", f"{row['mean']:.3g}", f"{row['within_std']:.3g}",
            f"{row['no_spread_low']:.0%}", f"{row['no_spread_high']:.0%}",
        )
        for row in shown
    ]  # fmt: skip
    return _table(("step", "groups", "mean", "std within", "no spread: low", "best"), cells)


def _examples(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Inputs with the beginning of their prompt, where it is known, in a row below each."""
    body = ""
    for row in rows:
        prompt = f"<span class='clip ground'>{escape(row['prompt'])}</span>" if "prompt" in row else ""
        cells = (f"{row['mean']:.3g}", f"{row['n']}", str(row["label"]).replace("_", "-"))
        name = f"<span class=clip>{escape(str(row['input']))}</span>"
        body += f"<tr><td>{name}{prompt}</td>{''.join(f'<td class=whole>{cell}</td>' for cell in cells)}</tr>"
    return f"<div class=wide><table><tr><th>input<th>mean<th>n<th>class</tr>{body}</table></div>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<tr>{''.join(f'<th>{escape(cell)}' for cell in heads)}</tr>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table>{head}{body}</table></div>"


def input_frame(
    table: RewardTable,
    diagnosis: Diagnosis,
    others: dict[str, Diagnosis],
    before: Diagnosis | None,
    comparison: Comparison | None,
) -> pd.DataFrame:
    """A row per input: label, prompt where it is not the label, and its statistics (inputs.csv).

    Of the other rewards mean, std and class; of the inputs before, where there are some, too.
    """
    import pandas as pd

    labels = [table.labels[i] for i in diagnosis.labels]
    columns: dict[str, Any] = {"input": labels}
    if table.prompts is not None and table.prompts is not table.labels:
        columns["prompt"] = [table.prompts[i] for i in diagnosis.labels]
    columns |= diagnosis.inputs.columns()
    frame = pd.DataFrame(columns, index=diagnosis.labels)
    for name, other in others.items():
        part = pd.DataFrame(other.inputs.columns(), index=other.labels)[["mean", "std", "label"]]
        frame = frame.join(part.add_prefix(f"{name}: "))
    if before is not None and comparison is not None:
        old = pd.DataFrame(before.inputs.columns()).iloc[comparison.before][["mean", "std", "label"]]
        old = old.add_suffix("_before").assign(change=comparison.change)
        frame = frame.join(old.set_axis(diagnosis.labels[comparison.after], axis=0))
    return frame


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """The frame's columns as CSV, atomically; by Arrow, which takes a tenth of pandas' time."""
    import pyarrow as pa
    import pyarrow.csv

    with atomic_path(path) as temporary:
        pa.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), temporary)


def supervised_rows(table: RewardTable, diagnosis: Diagnosis) -> list[str]:
    """The inputs that are dead-low, or look so, as JSON lines for the datapool `jsonl`, dead ones first.

    Without known references their field is missing; without known prompts there is no line.
    """
    inputs = diagnosis.inputs
    chosen = np.flatnonzero((inputs.label == "dead_low") | (inputs.looks == "flat_low"))
    if table.prompts is None:
        return []
    lines = []
    for i in sorted(chosen, key=lambda i: inputs.label[i] != "dead_low"):
        place = int(diagnosis.labels[i])
        row: dict[str, Any] = {"id": table.labels[place], "prompt": table.prompts[place]}
        if table.references is not None:
            row["references"] = table.references[place]
        row |= {"class": str(inputs.label[i]), "reward_mean": float(inputs.mean[i]), "n": int(inputs.n[i])}
        lines.append(json.dumps(row, ensure_ascii=False))
    return lines

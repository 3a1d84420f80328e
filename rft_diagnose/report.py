"""The report of a diagnosis: one HTML file without scripts, pictures inside, that fits a phone.

The style sheet, the frame of a page, tables and figures in `templates/` serve other pages too.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from rft_diagnose import words
from rft_diagnose.groups import inputs_text
from rft_diagnose.style import CLASS_COLORS, PNG_DPI
from rft_diagnose.teacher import teacher_rows
from rft_diagnose.words import Findings

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).with_name("templates")
SMALLEST = (
    0.62  # of its full size a picture shrinks to; on a phone it then scrolls, rather than be unreadable
)
SHOWN_STEPS = 12
LONGEST_KEY = 100  # characters
METHODS = (
    "Two rewards count as the same if they differ by at most the tolerance, a share of the reward's range. A "
    "group has signal if not all of its rewards are the same. Live: at most 5% of the inputs of whose groups "
    "a tenth or less have signal are called so. Dead: at most 5% of the inputs of whose groups half or more "
    "have signal are called so; in between, either name may come out. Rewards with two values: exact "
    "binomial intervals and tests. Others: Student's t for the mean, chi-square with degrees of freedom by "
    "the pooled kurtosis for the std; inputs without spread get what their generations cannot rule out. "
    "Beyond the generations of an input the share of groups with signal is bounded, not estimated. "
    "Effective std: the mean std of the groups that an input's generations hold, over their std; that over "
    "the std as a share of the reward's range is by how much dividing by the group's std amplifies. "
    "docs/diagnosis.md has the formulas and the measured coverage."
)
BOUNDS_NOTE = (
    "L: longest output; M: half of the reward's range; gamma: the largest Jacobian norm of the logits over "
    "all prefixes, of which a few sampled ones are looked at (power iteration), so that the two bounds with "
    "it may come out too small. That of the Fisher information is too large on average: it is from the same "
    "few generations."
)
TEACHER_NOTE = (
    "Rewards are normalised over all texts, (r - mean) / std: a reward model's unit and zero are arbitrary. "
    "Policy gradient gets on the faster the more of their variance lies within prompts, whatever the reward "
    "model's accuracy (Razin et al. 2025). Best of n is the expectation over all subsets of the texts of a "
    "prompt; its KL to the policy is log n - (n - 1) / n."
)


class Image(NamedTuple):
    """A picture to be put into a page: its source, and its full and its least width, in CSS pixels."""

    source: str
    width: int
    least: int


class Picture(NamedTuple):
    title: str
    image: Image
    caption: str


def load_templates(*folders: Path) -> jinja2.Environment:
    """Load the pages in `folders`, beside those here. What is put into a page is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def embed(png: bytes) -> Image:
    """Turn a PNG file's content into what a page holds of it."""
    width, _ = struct.unpack(">II", png[16:24])  # of the header, in dots
    pixels = round(width / PNG_DPI * 96)
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Image(source, pixels, round(SMALLEST * pixels))


def input_key(label: str) -> str:
    """Name an input in an address: by its label, of a long one by its beginning and a digest."""
    if len(label) <= LONGEST_KEY:
        return label
    return f"{label[:60]}~{hashlib.sha256(label.encode()).hexdigest()[:12]}"


def render(
    title: str,
    findings: Findings,
    pictures: Sequence[Picture],
    examples: Sequence[Mapping[str, Any]],
    noise: Sequence[str],
    explorer: str,
) -> str:
    """Make the whole page.

    examples: inputs without signal, rows of inputs.csv; noise: labels of inputs with groups of noise;
    explorer: the page that has these, with their texts.
    """
    return (
        load_templates()
        .get_template("diagnosis.html")
        .render(
            title=title,
            findings=findings,
            pictures=pictures,
            examples=examples,
            noise=noise,
            explorer=explorer,
            address=lambda label: f"{explorer}#input={quote(input_key(label), safe='')}",
            colors=CLASS_COLORS,
            methods=METHODS,
            bounds_note=BOUNDS_NOTE,
            headline=words.headline,
            no_spread_line=words.no_spread_line,
            class_rows=words.class_rows,
            number_rows=words.number_rows,
            change_line=words.change_line,
            gradient_rows=words.gradient_rows,
            teacher_rows=teacher_rows,
            teacher_note=TEACHER_NOTE,
            inputs_text=inputs_text,
            crossed=_crossed,
            time_rows=_time_rows,
        )
    )


def _crossed(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Make head and rows of the table of classes before and after."""
    counts = comparison["classes"]
    rows = [[f"{old} before", *(f"{n:,}" for n in row.values())] for old, row in counts.items()]
    return ["", *(f"{name} after" for name in counts)], rows


def _time_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Write some rows of a log over time, first and last among them."""
    last = SHOWN_STEPS - 1
    if len(rows) > SHOWN_STEPS:
        rows = [rows[round(i * (len(rows) - 1) / last)] for i in range(SHOWN_STEPS)]
    return [
        (
            f"{row['first_step']}" if row["first_step"] == row["last_step"] else
            f"{row['first_step']} to {row['last_step']}",
            f"{row['groups']:,}", f"{row['mean']:.3g}", f"{row['within_std']:.3g}",
            f"{row['no_spread_low']:.0%}", f"{row['no_spread_high']:.0%}",
        )
        for row in rows
    ]  # fmt: skip

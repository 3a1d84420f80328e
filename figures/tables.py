"""Tables: their numbers as text, and the files that each leaves: Markdown, LaTeX, CSV, the runs as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import atomic_write_json, atomic_write_text

NONE = "-"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def number(value: float) -> str:
    """Write three decimals; "-" for NaN."""
    return NONE if np.isnan(value) else f"{value:.3f}"


def short(value: float) -> str:
    """Write two decimals; "-" for NaN."""
    return NONE if np.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """Write a correlation: sign and two decimals; "-" for NaN."""
    return NONE if np.isnan(value) else f"{value:+.2f}"


def percent(value: float) -> str:
    """Write a share; "-" for NaN."""
    return NONE if np.isnan(value) else f"{value:.0%}"


def setting(value: float) -> str:
    """Write a hyperparameter; "-" for NaN."""
    return NONE if np.isnan(value) else f"{value:g}"


def with_interval(value: float, low: float, high: float, shown: Callable[[float], str] = number) -> str:
    """Write a value and its interval, if that is defined."""
    return shown(value) + ("" if np.isnan(low) else f" [{shown(low)}, {shown(high)}]")


def with_std(value: float, std: float, shown: Callable[[float], str] = number) -> str:
    """Write a mean and the std over seeds, if there are several."""
    return shown(value) + ("" if np.isnan(std) else f" ± {number(std)}")


def markdown(table: pd.DataFrame) -> str:
    """Write a table of text in Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows
    )


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    r"""Write a table of text in LaTeX, with \usepackage{booktabs}."""
    rows = [list(table.columns), *table.to_numpy().tolist()]
    lines = [" & ".join(latex_text(cell) for cell in row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"  \caption{{{latex_text(caption)}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"    \toprule",
            f"    {lines[0]}",
            r"    \midrule",
            *(f"    {line}" for line in lines[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex_text(text: Any) -> str:
    """Escape what LaTeX would take for its own."""
    escaped = "".join(_LATEX.get(character, character) for character in str(text))
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)  # a minus, where a hyphen would be set


def save_table(
    shown: pd.DataFrame,
    numbers: pd.DataFrame,
    stem: Path,
    caption: str,
    runs: Sequence[dict[str, Any]],
    **meta: Any,
) -> list[Path]:
    """Write `stem` with .md, .tex, .csv and .json, each atomically; returns the paths.

    shown: the table as text, made from `numbers`, which the CSV holds in full; runs, meta: see `save_figure`.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.parent / f"{stem.name}.{suffix}" for suffix in ("md", "tex", "csv", "json")]
    atomic_write_text(paths[0], f"{markdown(shown)}\n{caption}\n")
    atomic_write_text(paths[1], latex(shown, caption, stem.name))
    atomic_write_text(paths[2], numbers.to_csv(index=False))
    atomic_write_json(paths[3], {"table": stem.name, **meta, "runs": list(runs)})
    return paths

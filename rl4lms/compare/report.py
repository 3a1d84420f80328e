"""What a comparison leaves for a reader: lines for the terminal, tables as CSV, a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl4lms.compare.statistics import Interval, Verdict

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Results of all judges on the same texts.

    labels: of the models. verdicts: by judge. agreements: of pairs of judges, with the number of comparisons
    that both judged. lengths: mean characters of each model's texts. notes: what else is to be known.
    """

    labels: list[str]
    prompts: int
    texts: list[int]
    lengths: list[float]
    verdicts: dict[str, Verdict]
    agreements: dict[tuple[str, str], tuple[Interval, int]]
    notes: list[str]


def win_rate_rows(comparison: Comparison) -> list[Row]:
    """A row for each judge and pair of models, the first model's pairs first: the later model's win rate."""
    return [
        {
            "judge": judge,
            "model": comparison.labels[j],
            "against": comparison.labels[i],
            "win_rate": 1 - result.rate[0],
            "low": 1 - result.rate[2],
            "high": 1 - result.rate[1],
            "wins": 1 - result.wins - result.ties,
            "ties": result.ties,
            "equal_texts": result.equal,
            "prompts": result.prompts,
            "comparisons": result.comparisons,
            "longer_won": result.longer_won,
            "winner_length": result.winner_length,
            "loser_length": result.loser_length,
        }
        for judge, verdict in comparison.verdicts.items()
        for (i, j), result in verdict.pairs.items()
    ]


def strength_rows(comparison: Comparison) -> list[Row]:
    """A row for each judge and model; a strength or an end of its interval may be infinite or NaN."""
    rows = []
    for judge, verdict in comparison.verdicts.items():
        elos = verdict.elo or [(math.nan,) * 3] * len(comparison.labels)
        for label, length, values in zip(comparison.labels, comparison.lengths, elos, strict=True):
            numbers = dict(zip(("elo", "low", "high"), values, strict=True))
            rows.append({"judge": judge, "model": label, **numbers, "mean_length": length})
    return rows


def agreement_rows(comparison: Comparison) -> list[Row]:
    """A row for each pair of judges."""
    return [
        {"judge": a, "other": b, "agreement": value, "low": low, "high": high, "comparisons": count}
        for (a, b), ((value, low, high), count) in comparison.agreements.items()
    ]


def summarise(comparison: Comparison) -> dict[str, Any]:
    """All numbers as JSON; what is not finite is null."""
    return {
        "models": [
            {"model": label, "texts_per_prompt": texts, "mean_length": length}
            for label, texts, length in zip(
                comparison.labels, comparison.texts, comparison.lengths, strict=True
            )
        ],
        "prompts": comparison.prompts,
        "win_rates": [finite(row) for row in win_rate_rows(comparison)],
        "strengths": [finite(row) for row in strength_rows(comparison)],
        "no_strengths": {j: v.no_strengths for j, v in comparison.verdicts.items() if v.no_strengths},
        "agreement": [finite(row) for row in agreement_rows(comparison)],
        "notes": comparison.notes,
    }


def terminal_lines(comparison: Comparison) -> list[str]:
    """Everything on one screen."""
    first = comparison.labels[0]
    lines = [
        f"{label}: {comparison.prompts:,} prompts x {texts:,} text{'s' * (texts > 1)} of {length:.0f} "
        "characters on average"
        for label, texts, length in zip(comparison.labels, comparison.texts, comparison.lengths, strict=True)
    ]
    lines += ["", "win rates, ties half; intervals are over prompts"]
    lines += _table(
        ("judge", "model", "against", "win rate", "95%", "ties", "prompts", "longer won", "length won/lost"),
        [
            (
                row["judge"], row["model"], row["against"], _number(row["win_rate"], ".3f"),
                _interval(row["low"], row["high"], ".3f"), _number(row["ties"], ".0%"),
                f"{row['prompts']:,}", _number(row["longer_won"], ".0%"),
                f"{_number(row['winner_length'], '.0f')}/{_number(row['loser_length'], '.0f')}",
            )
            for row in win_rate_rows(comparison)
        ],
    )  # fmt: skip
    strengths = [
        (row["judge"], row["model"], f"{row['elo']:+.0f}", _interval(row["low"], row["high"], "+.0f"))
        for row in strength_rows(comparison)
        if row["model"] != first and not comparison.verdicts[row["judge"]].no_strengths
    ]
    if strengths:
        lines += ["", f"strengths (Bradley-Terry) as Elo differences to {first}"]
        lines += _table(("judge", "model", "Elo", "95%"), strengths)
    if comparison.agreements:
        lines += ["", "agreement of judges (a tie against a decision counts half)"]
        lines += _table(
            ("judge", "and", "agreement", "95%", "comparisons"),
            [
                (
                    row["judge"], row["other"], _number(row["agreement"], ".3f"),
                    _interval(row["low"], row["high"], ".3f"), f"{row['comparisons']:,}",
                )
                for row in agreement_rows(comparison)
            ],
        )  # fmt: skip
    return [*lines, *(f"note: {note}" for note in comparison.notes)]


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "none"


def _interval(low: float, high: float, form: str) -> str:
    """Write an interval, what has no finite end in words."""
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:{form}} to {high:{form}}"
    if math.isfinite(low):
        return "none" if math.isnan(high) else f"{low:{form}} or more"
    if math.isfinite(high):
        return "none" if math.isnan(low) else f"{high:{form}} or less"
    return "none" if math.isnan(low) or math.isnan(high) else "any"


def finite(row: Mapping[str, Any]) -> Row:
    """The row with None for what is infinite or undefined, which files leave empty."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [heads, *rows]
    ]

"""All that a check found, as the terminal, the report and summary.json show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl4lms.diagnosis.advice import Advice

SCHEMA_VERSION = 1  # of summary.json, see docs/diagnosis.md


@dataclass(frozen=True, kw_only=True)
class Findings:
    """name, summary: what is optimised, and its diagnosis; others: name -> summary of each reward in it."""

    name: str
    summary: dict[str, Any]
    others: dict[str, dict[str, Any]]
    comparison: dict[str, Any] | None
    gradients: dict[str, Any] | None
    advice: Sequence[Advice]
    notes: Sequence[str]

    def content(self) -> dict[str, Any]:
        """What summary.json holds of it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "diagnosed": self.name,
            "rewards": {self.name: self.summary, **self.others},
            "comparison": self.comparison,
            "gradients": self.gradients,
            "notes": list(self.notes),
            "advice": [piece._asdict() for piece in self.advice],
        }

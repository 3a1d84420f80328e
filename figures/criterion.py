"""What a claim is, and what the claims of several items have in common: tasks, shares, words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HARD_TASK = "hard_question_rouge"
CONTRAST_TASK = "continuation_style"
SWEPT_TASK = "identifier_bleu"
HIGH_START_TASK = "identifier_credit"  # a small std by design
LOW_START_TASK = "identifier_reached"  # a large std by design
SHORT_LABELS, SHORT_STEPS = 0.01, 0.4
TASK_HAS_DEAD = 0.1
FEWEST_TASKS = 7
LEAST_GAIN = 0.05  # of full SFT: shares of less are noise
GROUP_EXPONENT_STD = 0.003
GROUPS_ITEM = "table_groups"

Relation = Literal[">=", "<=", ">", "<"]
WORDS: dict[Relation, str] = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}


@dataclass(frozen=True)
class Criterion:
    """A claim, the one number that decides on it, and from where on it holds."""

    name: str
    item: str
    claim: str
    measure: str
    relation: Relation
    threshold: float
    why: str

    @property
    def bound(self) -> str:
        """Says for a reader from where on the claim holds."""
        return f"{WORDS[self.relation]} {self.threshold:g}"


SHORT = f"SFT on {SHORT_LABELS:.0%} of the labels for {SHORT_STEPS:.0%} of the steps"
LOWER = "lower end of the 95% interval of"
POSITIVE = "the sign is what is claimed; the interval says whether chance would do"

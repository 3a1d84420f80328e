"""What is claimed of each item, and when it counts as holding: data alone.

`docs/laptop_study.md` holds `criteria_markdown()`, and a test compares the two; `figures.claims` measures.
"""

from __future__ import annotations

from collections.abc import Sequence

from figures.criterion import Criterion
from figures.instructgpt_criteria import INSTRUCTGPT_CRITERIA
from figures.other_criteria import OTHER_CRITERIA
from figures.text_criteria import TEXT_CRITERIA

CRITERIA: tuple[Criterion, ...] = TEXT_CRITERIA + OTHER_CRITERIA + INSTRUCTGPT_CRITERIA


def criteria_markdown(criteria: Sequence[Criterion] = CRITERIA) -> str:
    """Write the criteria as a table for docs/laptop_study.md, and others for docs/real_data.md."""
    lines = ["| criterion | claim | what is measured | holds if | why there |", "|---|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.claim} | {c.measure} | {c.bound} | {c.why} |" for c in criteria]
    return "\n".join(lines) + "\n"

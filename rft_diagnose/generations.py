"""Rows that are no generations of their own: batches logged again, files given twice, a row a function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.rows import Bools, are_rows_of_kinds, copied_blocks, mix, repeated_blocks, rows_per_text
from rft_diagnose.sources import Source


def drop_repeated(
    sources: Sequence[Source], codes: Ints, rewards: Sequence[Floats], steps: Ints | None
) -> tuple[Bools | None, list[str]]:
    """Find the rows that are generations, and say which are not; None: all are.

    Where texts are logged: a file with the very rows of another is a copy, and a step with the very rows of
    the step before is its batch logged again. codes, rewards, steps: [M]. Raises DiagnosisError: there are
    several rows for each generation, one a reward function, say.
    """
    texts = _join_hashes(sources)
    notes: list[str] = []
    kept: Bools | None = None
    if texts is not None:
        rows = mix(codes, texts, *rewards)
        files = np.repeat(np.arange(len(sources)), [source.size for source in sources])
        has_column = sources[0].chosen.step is not None
        if steps is None or has_column:
            copies = copied_blocks(files, rows if steps is None else mix(rows.view(np.int64), steps))
            if len(copies):
                kept = ~np.isin(files, copies)
                names = listed(sources[file].path.name for file in copies)
                notes.append(f"files with the very rows of another are counted once: without {names}")
        if steps is not None:
            inside = np.ones(len(codes), dtype=bool) if kept is None else kept
            again = repeated_blocks(steps[inside], rows[inside])
            if len(again):
                kept = inside & ~np.isin(steps, again)
                notes.append(
                    f"{len(again):,} steps log the batch of the step before once more: it is counted once "
                    f"(steps {listed(again)})"
                )
    chosen = slice(None) if kept is None else kept
    groups = codes if steps is None else np.unique(mix(codes, steps), return_inverse=True)[1]
    groups = groups[chosen]
    _reject_kinds(sources, groups, None if texts is None else texts[chosen], chosen)
    return kept, notes


def _join_hashes(sources: Sequence[Source]) -> Ints | None:
    """Join what stands for the texts that were rewarded; None: some are not known."""
    parts = [source.part.hashes.get(source.chosen.completion or "") for source in sources]
    if any(part is None for part in parts):
        return None
    texts = np.concatenate([part for part in parts if part is not None])
    return texts if texts.all() else None


def _reject_kinds(sources: Sequence[Source], groups: Ints, texts: Ints | None, chosen: Bools | slice) -> None:
    """Raise DiagnosisError if rows are of reward functions or filters rather than of generations."""
    rows = None if texts is None else mix(groups, texts)
    for name in sources[0].chosen.kinds:
        if not all(name in source.part.texts for source in sources):
            continue
        places: dict[str, int] = {}
        kinds = np.concatenate(
            [
                np.array(
                    [*(places.setdefault(text, len(places)) for text in source.part.texts[name].texts), -1],
                    dtype=np.int64,
                )[source.part.texts[name].codes]
                for source in sources
            ]
        )[chosen]
        if len(places) > 1 and are_rows_of_kinds(kinds + 1, groups, rows):
            raise DiagnosisError(
                f"{sources[0].where}: each generation has a row for every {name!r} ({listed(places)}): give "
                "a row per generation, with a column for each of these (a pivot table), or the rows of one"
            )
    if rows is not None and (times := rows_per_text(groups, rows)) > 1:
        raise DiagnosisError(
            f"{sources[0].where}: every completion stands {times} times, as if each generation had {times} "
            "rows (one a reward function, or from joining tables): give a row per generation"
        )

"""Rows that are no generations of their own: batches logged again, files given twice, a row a function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.files import steps_in_names
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.rows import (
    Bits,
    Bools,
    are_rows_of_kinds,
    contained_blocks,
    copied_blocks,
    groups_of_copies,
    mix,
    repeated_blocks,
    rows_per_text,
)
from rft_diagnose.sources import Source, join_texts


def drop_repeated(
    sources: Sequence[Source], codes: Ints, rewards: Sequence[Floats], steps: Ints | None
) -> tuple[Bools | None, list[str]]:
    """Find the rows that are generations, and say which are not; None: all are.

    Where texts are logged: a file with the very rows of another is a copy, and a step with the very rows of
    the step before is its batch logged again. codes, rewards, steps: [M]. Raises DiagnosisError: there are
    several rows for each generation, one a reward function, say.
    """
    texts = join_hashes(sources)
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
        if len(sources) > 1:
            kept, more = _drop_contained(sources, files, rows, steps if has_column else None, kept)
            notes += more
        if steps is not None:
            inside = np.ones(len(codes), dtype=bool) if kept is None else kept
            again = repeated_blocks(steps[inside], rows[inside])
            if len(again):
                kept = inside & ~np.isin(steps, again)
                notes.append(
                    f"{len(again):,} steps log the batch of the step before once more: it is counted once "
                    f"(steps {listed(again)})"
                )
    kinds = [name for name in sources[0].chosen.kinds if all(name in s.part.texts for s in sources)]
    if texts is None and not kinds:
        return kept, notes
    chosen = slice(None) if kept is None else kept
    groups = codes if steps is None else np.unique(mix(codes, steps), return_inverse=True)[1]
    groups = groups[chosen]
    _reject_kinds(sources, kinds, groups, None if texts is None else texts[chosen], chosen)
    return kept, notes


def _drop_contained(
    sources: Sequence[Source], files: Ints, rows: Bits, steps: Ints | None, kept: Bools | None
) -> tuple[Bools | None, list[str]]:
    """Leave out files whose rows are all in a larger one: earlier states of it, or parts; and say so.

    steps: of a column, if there is one. Raises DiagnosisError: steps are of names, which are wrong then.
    """
    inside = slice(None) if kept is None else kept
    known = rows if steps is None else mix(rows.view(np.int64), steps)
    pairs = contained_blocks(files[inside], known[inside])
    if not pairs:
        return kept, []
    if steps is None and steps_in_names([source.path for source in sources]) is not None:
        smaller, larger = (sources[file].path.name for file in pairs[0])
        raise DiagnosisError(
            f"{sources[pairs[0][1]].where}: it has all rows of {smaller}, as if each file had those of all "
            f"steps so far: give the last file alone, or a column `step` ({larger})"
        )
    names = listed(sources[file].path.name for file, _ in pairs)
    contained = np.isin(files, [file for file, _ in pairs])
    kept = ~contained if kept is None else kept & ~contained
    return kept, [f"files whose rows are all in another are counted once: without {names}"]


def join_hashes(sources: Sequence[Source]) -> Ints | None:
    """Join what stands for the texts that were rewarded; None: some are not known."""
    parts = [source.part.hashes.get(source.chosen.completion or "") for source in sources]
    if any(part is None for part in parts):
        return None
    texts = np.concatenate([part for part in parts if part is not None])
    return texts if texts.all() else None


def _reject_kinds(
    sources: Sequence[Source],
    names: Sequence[str],
    groups: Ints,
    texts: Ints | None,
    chosen: Bools | slice,
) -> None:
    """Raise DiagnosisError if rows are of reward functions or filters rather than of generations."""
    rows = None if texts is None else mix(groups, texts)
    for name in names:
        kinds = join_texts(sources, name)
        if len(kinds.texts) > 1 and are_rows_of_kinds(kinds.codes[chosen] + 1, groups, rows):
            raise DiagnosisError(
                f"{sources[0].where}: each generation has a row for every {name!r} ({listed(kinds.texts)}): "
                "give a row per generation, with a column for each of these (a pivot table), or the rows of "
                "one"
            )
    if rows is not None and (times := rows_per_text(groups, rows)) > 1:
        raise DiagnosisError(
            f"{sources[0].where}: every completion stands {times} times, as if each generation had {times} "
            "rows (one a reward function, or from joining tables): give a row per generation"
        )
    if rows is not None and (copies := groups_of_copies(groups, rows)):
        raise DiagnosisError(
            f"{sources[0].where}: at {copies:,} visits of inputs every completion stands several times, and "
            "equally often, as if generations had several rows (one a reward function, or from joining "
            "tables): give a row per generation"
        )

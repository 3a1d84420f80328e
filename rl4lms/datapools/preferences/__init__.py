"""Human or other preferences: a ranking of completions for each prompt, from files of many formats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

from common.config import Problem
from common.hub import DataError
from rl4lms.datapools.preferences.args import Attribute, FormatName, PreferencesArgs, ScoreField, Ties
from rl4lms.datapools.preferences.chat import Render, make_renderer, render_json
from rl4lms.datapools.preferences.formats import FORMATS, recognise
from rl4lms.datapools.preferences.judgement import Judgement, RowError
from rl4lms.datapools.preferences.merge import describe, merge
from rl4lms.datapools.preferences.rows import find_files, is_saved, read_rows
from rl4lms.rankings import Ranking
from rl4lms.samples import Split

logger = logging.getLogger(__name__)

READ_WHOLE = 8 << 20  # bytes of files that a quick look reads to their end
FIRST_ROWS = 2_000  # of each file of larger ones

Loaded = tuple[FormatName, dict[Split, list[Ranking]], dict[Split, Counter[str]]]


def load(
    split: Split,
    *,
    data_path: str | None,
    hub_dataset: str | None,
    hub_config: str | None,
    hub_revision: str | None,
    format: Literal["auto"] | FormatName,
    ties: Ties,
    attribute: Attribute,
    score_field: ScoreField,
    chat_template: str,
    tokenizer_name: str | None,
    split_field: str | None,
    val_share: float | None,
    test_share: float | None,
) -> list[Ranking]:
    """Load the rankings of a split, one of each prompt, and log what was merged and dropped.

    Raises DataError that names the file and line, or row.
    """
    args = PreferencesArgs(
        data_path=data_path,
        hub_dataset=hub_dataset,
        hub_config=hub_config,
        hub_revision=hub_revision,
        format=format,
        ties=ties,
        attribute=attribute,
        score_field=score_field,
        chat_template=chat_template,
        tokenizer_name=tokenizer_name,
        split_field=split_field,
        val_share=val_share,
        test_share=test_share,
    )
    name, rankings, counts = _load_all(args.model_dump_json(), _signature(args))
    _check_split(split, name, args, counts)
    columns = FORMATS[name].columns
    line = describe(counts[split], rankings.get(split, []))
    logger.info("preferences, split %s, format %s (%s): %s", split, name, columns, line)
    if not rankings.get(split):
        raise DataError(f"{_source(args)}: no prompt of split {split!r} has a comparison: {line}")
    return rankings[split]


def find_problems(args: PreferencesArgs, splits: Sequence[Split]) -> list[Problem]:
    """Looks quickly into files of JSON lines for what `load` refuses: all small ones, else the first rows."""
    path = Path(args.data_path or "").expanduser()
    if args.data_path is None or is_saved(path):
        return []
    try:
        files = [file for _, file in find_files(path)]
        if any(file.suffix == ".parquet" for file in files):
            return []
        whole = sum(file.stat().st_size for file in files) <= READ_WHOLE
        name, _, counts = _read(args, render_json, None if whole else FIRST_ROWS)
        if whole:
            for split in splits:
                _check_split(split, name, args, counts)
    except (DataError, OSError) as error:
        return [Problem("data_path", str(error))]
    return []


@lru_cache(maxsize=1)
def _load_all(args_json: str, signature: tuple[tuple[str, int, int], ...]) -> Loaded:
    """All splits: to know that they share no prompt, each of them needs the others."""
    args = PreferencesArgs.model_validate_json(args_json)
    return _read(args, make_renderer(args.chat_template, args.tokenizer_name), None)


def _signature(args: PreferencesArgs) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files: what was loaded is not loaded again unless they changed."""
    if args.data_path is None:
        return ()
    path = Path(args.data_path).expanduser()
    files = sorted(path.rglob("*")) if is_saved(path) else [file for _, file in find_files(path)]
    stats = [(str(file), file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _read(args: PreferencesArgs, render: Render, most: int | None) -> Loaded:
    """Read all rows, or the first of each file, and merge them."""
    rows = read_rows(args, most)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{_source(args)} has no rows")
    name = recognise(first[2], first[0]) if args.format == "auto" else args.format
    format_ = FORMATS[name]
    of_no_split: Split = "test" if format_.evaluation_only else "train"
    shares: dict[Split, float | None] = {"test": args.test_share, "val": args.val_share}

    def judgements() -> Iterator[tuple[str, Split, Judgement]]:
        for where, split, row in chain([first], rows):
            if shares.get(split or of_no_split):
                raise DataError(
                    f"{where}: is of split {split!r}: as the data has one, set datapool.args.{split}_share "
                    "to null"
                )
            try:
                yield where, split or of_no_split, format_.read(row, args)
            except RowError as error:
                raise DataError(f"{where}: {error} (format {name}: {format_.columns})") from error

    used = {split: share for split, share in shares.items() if share is not None}
    return name, *merge(judgements(), args.ties, render, used)


def _check_split(split: Split, name: FormatName, args: PreferencesArgs, counts: Collection[Split]) -> None:
    """Raises DataError: there are no rows of the split, or they must not be used as such."""
    if split == "train" and FORMATS[name].evaluation_only:
        raise DataError(
            f"{_source(args)}: rows of format {name} ({FORMATS[name].columns}) are to evaluate by, not to "
            "train on: use them as split val or test; if they are training data, set "
            "datapool.args.format to trl"
        )
    if split not in counts:
        remedy = f"name the rows' splits in files or in a field {args.split_field or 'split'!r}"
        if split != "train" and "train" in counts:
            remedy += f", or make one of train by the prompts' hash: --set datapool.args.{split}_share=0.1"
        raise DataError(
            f"{_source(args)} has no rows of split {split!r}, only of {', '.join(counts) or 'none'}; {remedy}"
        )


def _source(args: PreferencesArgs) -> str:
    return args.data_path or f"hub dataset {args.hub_dataset!r}"

"""Compares models: texts, judges, statistics, and what is left of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from common.arguments import this_command
from common.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from common.output import writing
from common.plots import optional_drawing
from rft_diagnose.pictures import columns_by_name
from rft_diagnose.results import numbers_csv
from rl4lms.compare.judges import Judge
from rl4lms.compare.make import make_texts
from rl4lms.compare.outcomes import Outcomes, equal_texts
from rl4lms.compare.page import render_pairs, sample_pairs
from rl4lms.compare.report import (
    Comparison,
    agreement_rows,
    finite,
    strength_rows,
    summarise,
    terminal_lines,
    win_rate_rows,
)
from rl4lms.compare.scoring import apply_judge
from rl4lms.compare.sources import Source
from rl4lms.compare.statistics import agreement, judge_models
from rl4lms.compare.strengths import StrengthError
from rl4lms.compare.texts import Texts, align, read_model
from rl4lms.config import ExtractConfig
from rl4lms.datapools import load_datapool

logger = logging.getLogger(__name__)
PAGE, PICTURE = "pairs.html", "comparison"


def compare_models(
    sources: Sequence[Source],
    judges: Sequence[Judge],
    config: ExtractConfig | None,
    folder: Path,
    *,
    ridge: float,
    pairs: int,
) -> int:
    """Make the texts that are missing, judge, write everything to `folder`, print one screen.

    config: what texts are made with, None = all are there; pairs: on the page. Returns the exit status.
    Raises CompareError and other UserErrors: texts of different prompts, judges that fail; StrengthError once
    everything is written: a judge by whom models have no strengths.
    """
    # 1. The texts of all models for the same prompts.
    complete = make_texts(sources, config, folder) if config is not None else list(sources)
    if isinstance(complete, int):
        return complete
    samples = []
    if config is not None:
        pool = config.datapool
        samples = load_datapool(pool.id, pool.split, pool.args, config.tokenizer.model_name)
    texts = align([read_model(source) for source in complete], samples)

    # 2. What each judge says of every two texts; 3. what follows of the models, and of the judges.
    outcomes = dict(apply_judge(judge, texts, folder) for judge in judges)
    comparison = summarise_outcomes(outcomes, texts, ridge)

    # 4. Tables, a picture, and a page for a further judge.
    write_results(comparison, texts, folder, pairs)
    print("\n".join(terminal_lines(comparison)))
    print(f"\nresults in {folder}: win_rates.csv, strengths.csv, {PICTURE}.png; judge pairs yourself: {PAGE}")
    raise_without_strengths(comparison, folder)
    return 0


def raise_without_strengths(comparison: Comparison, folder: Path) -> None:
    """Raise StrengthError if by some judge a model never lost or groups were never compared, naming them."""
    reasons = [f"{judge}: {v.no_strengths}" for judge, v in comparison.verdicts.items() if v.no_strengths]
    if reasons:
        raise StrengthError("\n".join([*reasons, f"the win rates are in {folder / 'win_rates.csv'}"]))


def summarise_outcomes(outcomes: dict[str, Outcomes], texts: Texts, ridge: float) -> Comparison:
    """Compute the statistics of all judges' outcomes."""
    equal = equal_texts(texts.texts)
    verdicts = {
        name: judge_models(values, texts.texts, equal, texts.labels, ridge)
        for name, values in outcomes.items()
    }
    names = list(outcomes)
    agreements = {
        (a, b): agreement(outcomes[a], outcomes[b]) for n, a in enumerate(names) for b in names[n + 1 :]
    }
    notes = []
    if "train" in texts.splits:
        notes.append("the prompts are of split train: models may have learnt on them, take val or test")
    if len(texts.splits) > 1:
        notes.append(f"the texts are said to be of different splits: {', '.join(texts.splits)}")
    return Comparison(
        labels=texts.labels,
        prompts=len(texts.prompts),
        texts=[len(rows[0]) for rows in texts.texts],
        lengths=[float(np.mean([len(text) for row in rows for text in row])) for rows in texts.texts],
        verdicts=verdicts,
        agreements=agreements,
        notes=notes,
    )


def write_results(comparison: Comparison, texts: Texts, folder: Path, pairs: int) -> None:
    """Write tables, summary, picture and page, each atomically. Raises OutputError."""
    made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "command": this_command()}
    with writing(folder, "--output_path"):
        folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "win_rates": win_rate_rows(comparison),
        "strengths": strength_rows(comparison),
        "agreement": agreement_rows(comparison),
    }
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        if rows:
            atomic_write_text(path, numbers_csv(columns_by_name([finite(row) for row in rows])))
        else:
            path.unlink(missing_ok=True)  # an earlier comparison's
    atomic_write_json(folder / "summary.json", made | summarise(comparison))
    atomic_write_text(folder / PAGE, render_pairs(sample_pairs(texts.prompts, texts.texts, pairs)))
    with optional_drawing(folder / f"{PICTURE}.png"):
        from rft_diagnose.style import render_figure
        from rl4lms.compare.picture import draw_comparison

        for suffix, data in zip(("png", "pdf"), render_figure(draw_comparison(comparison)), strict=True):
            atomic_write_bytes(folder / f"{PICTURE}.{suffix}", data)

"""Applies judges to texts. Each different text of a prompt is scored once, so that equal texts tie."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.console import progress
from rl4lms.compare.judges import Judge
from rl4lms.compare.outcomes import Floats, Outcomes, by_choices, by_scores
from rl4lms.compare.sources import CompareError
from rl4lms.compare.texts import Texts, common_metric
from rl4lms.extract import score_texts
from rl4lms.metrics import build_metric
from rl4lms.metrics.models import load_reward_model
from rl4lms.rewards import build_reward
from rl4lms.samples import Sample
from rl4lms.teacher import SampledTexts, identify, score_once
from rl4lms.text import make_text_batch

logger = logging.getLogger(__name__)
SCORES = "reward_model_scores.jsonl"


def apply_judge(judge: Judge, texts: Texts, folder: Path) -> tuple[str, Outcomes]:
    """Compare all texts by a judge; returns its name in tables too. folder: of what is kept of scores.

    Raises CompareError: choices of other texts, no saved metric; RewardError, ExtractionError,
    RequirementError: what a reward or metric comes to.
    """
    if judge.kind == "choices":
        outcomes, strangers = by_choices(judge.choices, texts.prompts, texts.texts)
        count = len(judge.choices)
        if strangers == count:
            raise CompareError(
                f"--judge {judge.name}: none of its {count:,} choices is between two texts of these models "
                "for the same prompt; judge the page that was made of them"
            )
        if strangers:
            logger.warning(
                "%s: %s of %s choices are between other texts: left out", judge.name, strangers, count
            )
        return judge.name, outcomes
    if judge.kind == "saved":
        name = common_metric(texts)
        if name is None:
            raise CompareError("give a --judge: no metric was saved with the texts of all models")
        return name, by_scores([saved[name] for saved in texts.saved], texts.texts)
    return judge.name, by_scores(_score(judge, texts, folder), texts.texts)


def _score(judge: Judge, texts: Texts, folder: Path) -> list[Floats]:
    """Score the texts by a reward or metric: [N, G] of each model."""
    places: dict[tuple[int, str], int] = {}
    positions = [
        np.array([[places.setdefault((n, text), len(places)) for text in row] for n, row in enumerate(rows)])
        for rows in texts.texts
    ]
    owners = [Sample(texts.ids[n], texts.prompts[n], texts.references[n], texts.meta[n]) for n, _ in places]
    generated = [text for _, text in places]
    values = np.array(_scorer(judge, texts, folder)(owners, generated), dtype=np.float64)
    return [values[position] for position in positions]


def _scorer(judge: Judge, texts: Texts, folder: Path) -> Callable[[list[Sample], list[str]], list[float]]:
    split = texts.splits[0] if texts.splits else "test"
    if judge.id == "reward_model":
        return lambda owners, generated: _score_by_model(judge, owners, generated, folder)
    if judge.kind == "metric":
        metric = build_metric(judge.id, judge.args)

        def by_metric(owners: list[Sample], generated: list[str]) -> list[float]:
            values = score_texts(judge.id, metric, make_text_batch(owners, generated, None, split), owners)
            return next(iter(values.values()))  # the first key is the reward, as in an extraction

        return by_metric
    reward = build_reward(judge.id, judge.args)
    return lambda owners, generated: reward(make_text_batch(owners, generated, None, split))


def _score_by_model(judge: Judge, owners: list[Sample], generated: list[str], folder: Path) -> list[float]:
    """Score texts by a reward model, but those scored before; the scores are kept in the folder."""
    name, device = str(judge.args["model_name"]), str(judge.args.get("device", "auto"))
    template = judge.args.get("chat_template", "auto")
    sampled = SampledTexts(
        ids=[str(sample.id) for sample in owners],
        prompts=[sample.prompt_or_input_text for sample in owners],
        texts=[[text] for text in generated],
        gold={},
        references=[],
    )
    with progress(len(generated), judge.name, unit="text") as bar:
        rewards = score_once(
            lambda: load_reward_model(name, device, template),
            f"{identify(name)} {template}",
            sampled,
            folder / SCORES,
            bar.move_to,
            int(judge.args.get("batch_size", 64)),
        )
    return rewards[:, 0].tolist()

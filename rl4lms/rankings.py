"""Rankings: what a datapool of preferences returns, completions of a prompt and which of them are better."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl4lms.samples import Sample, check_each, describe_broken_text


@dataclass(frozen=True, slots=True)
class Comparison:
    """One completion is better than another of the same prompt.

    winner, loser: indices into the ranking's completions. margin: by how much, in units of the dataset, 0
    where it does not say; weight: of its loss. A tie that counts is two comparisons, one each way, of weight
    1/2.
    """

    winner: int
    loser: int
    margin: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """All that a dataset of preferences says of one prompt.

    id: unique within a split, the same in every run. completions: K different texts. pairs: at least one, in
    both directions where judgements contradict each other. references: demonstrations, possibly none.
    meta_data: whatever else the dataset has, such as "gold", K true rewards, or "subset".
    """

    id: str | int
    prompt: str
    completions: list[str]
    pairs: list[Comparison]
    references: list[str]
    meta_data: dict[str, Any]

    def sample(self) -> Sample:
        """The prompt with its references, as finetuning, extraction and evaluation read it."""
        return Sample(self.id, self.prompt, list(self.references), dict(self.meta_data))


def checked_rankings(rankings: Any, what: str) -> list[Ranking]:
    """What a datapool returned, as a list. Raises DataError: none, not only rankings, or a wrong one."""
    return check_each(rankings, what, "rl4lms.rankings.Ranking", _problem)


def _problem(ranking: Any) -> str | None:
    if not isinstance(ranking, Ranking):
        return f"expected a rl4lms.rankings.Ranking, got {type(ranking).__name__}"
    if not isinstance(ranking.id, str | int):
        return f"id must be a string or a whole number, is {ranking.id!r}"
    if not isinstance(ranking.prompt, str):
        return f"prompt must be a string, is {ranking.prompt!r:.60}"
    for name in ("completions", "references"):
        texts = getattr(ranking, name)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"{name} must be a list of strings, is {texts!r:.60}"
    if not isinstance(ranking.meta_data, dict):
        return f"meta_data must be a dict, is {ranking.meta_data!r:.60}"
    if len(set(ranking.completions)) < len(ranking.completions):
        return "completions must be different texts; leave out the repeated ones"
    if not isinstance(ranking.pairs, list) or not ranking.pairs:
        return "pairs must be a list of at least one rl4lms.rankings.Comparison"
    for name in ("id", "prompt", "completions", "references", "meta_data"):
        if broken := describe_broken_text(getattr(ranking, name)):
            return f"{name} of ranking {ranking.id!r} {broken}"
    return next(filter(None, (_pair_problem(pair, len(ranking.completions)) for pair in ranking.pairs)), None)


def _pair_problem(pair: Any, completions: int) -> str | None:
    if not isinstance(pair, Comparison):
        return f"pairs must hold rl4lms.rankings.Comparison, one is {pair!r:.60}"
    indices = (pair.winner, pair.loser)
    if not all(type(i) is int and 0 <= i < completions for i in indices) or pair.winner == pair.loser:
        return f"winner and loser must be two indices of its {completions} completions, are {indices}"
    if not (math.isfinite(pair.margin) and math.isfinite(pair.weight) and pair.weight > 0):
        return (
            f"a margin must be finite and a weight above 0, they are {pair.margin:g} and {pair.weight:g} "
            f"for winner and loser {indices}"
        )
    return None


def content_hash(rankings: Sequence[Ranking]) -> str:
    """SHA-256 of the rankings' content and order, hexadecimal: did two runs see the same data?"""
    digest = hashlib.sha256()
    for ranking in rankings:
        pairs = [[pair.winner, pair.loser, pair.margin, pair.weight] for pair in ranking.pairs]
        content = [
            ranking.id,
            ranking.prompt,
            ranking.completions,
            pairs,
            ranking.references,
            ranking.meta_data,
        ]
        digest.update(json.dumps(content, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()

"""Judgements as rankings: rows with the same prompt become one, equal completions are stored once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from common.hub import DataError
from rl4lms.datapools.preferences.args import Ties
from rl4lms.datapools.preferences.chat import Render, make_texts
from rl4lms.datapools.preferences.dialogues import has_several_turns
from rl4lms.datapools.preferences.judgement import Judgement, Number, Text
from rl4lms.rankings import Comparison, Ranking
from rl4lms.samples import Split

# What is counted of a split, as it is told of one and of several.
COUNTS = {
    "ties dropped": ("1 tie dropped", "{:,} ties dropped"),
    "ties halved": ("1 tie counts half for either side", "{:,} ties count half for either side"),
    "equal": ("1 comparison of equal texts dropped", "{:,} comparisons of equal texts dropped"),
    "unscored": ("1 comparison without a score dropped", "{:,} comparisons without a score dropped"),
    "both ways": (
        "1 pair judged both ways, kept as disagreement",
        "{:,} pairs judged both ways, kept as disagreement",
    ),
    "turns": ("1 row with several turns as completion", "{:,} rows with several turns as completion"),
    "lone": ("1 prompt without comparisons left out", "{:,} prompts without comparisons left out"),
    "gold": (
        "1 prompt with gold of only some completions, left out",
        "{:,} prompts with gold of only some completions, left out",
    ),
    "unreferenced": ("1 prompt without references", "{:,} prompts without references"),
}


@dataclass
class Element:
    """All rows of a prompt, as they are added: completions by their index, pairs of indices."""

    prompt: str
    id: str | int
    where: str
    meta_data: dict[str, Any]
    completions: dict[str, int] = field(default_factory=dict)
    pairs: list[Comparison] = field(default_factory=list)
    ties: list[tuple[int, int]] = field(default_factory=list)
    ratings: list[tuple[int, Number]] = field(default_factory=list)
    references: dict[str, None] = field(default_factory=dict)
    gold: dict[int, float] = field(default_factory=dict)


def merge(
    rows: Iterable[tuple[str, Split, Judgement]], ties: Ties, render: Render, shares: dict[Split, float]
) -> tuple[dict[Split, list[Ranking]], dict[Split, Counter[str]]]:
    """Make a ranking of each prompt, and count what was dropped, by split.

    rows: where each is, its split and what it says; shares: of train's prompts, by their hash, that make
    other splits. Raises DataError: a prompt is in two splits, or an id is of two prompts.
    """
    elements: dict[str, tuple[Split, Element]] = {}
    counts: dict[Split, Counter[str]] = {}
    numbers: Counter[str] = Counter()
    for where, given, judgement in rows:
        split = _share(given, judgement.prompt, shares)
        number = numbers[given]
        numbers[given] += 1
        try:
            texts = [make_texts(judgement.prompt, text, render) for text in judgement.completions]
            references = [make_texts(judgement.prompt, text, render)[1] for text in judgement.references]
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if not texts:
            counts.setdefault(split, Counter()).update(rows=1, lone=1)
            continue
        prompt = texts[0][0]
        if prompt not in elements:
            id_ = f"{given}_{number}" if judgement.id is None else judgement.id
            elements[prompt] = split, Element(prompt, id_, where, judgement.meta_data)
        owner, element = elements[prompt]
        if owner != split:
            raise DataError(
                f"{where}: its prompt, {prompt!r:.60}, is in split {split!r} here, and in split {owner!r} in "
                f"{element.where}; what is measured on a split must not be trained on: leave it out of either"
            )
        counter = counts.setdefault(split, Counter())
        counter.update(rows=1, turns=any(map(has_several_turns, judgement.completions)))
        _add(element, judgement, [text for _, text in texts], references, where, counter)
    rankings: dict[Split, list[Ranking]] = {}
    for split, element in elements.values():
        rankings.setdefault(split, []).extend(_finish(element, ties, counts[split]))
    _check_ids(elements.values())
    return rankings, counts


def describe(counts: Counter[str], rankings: list[Ranking]) -> str:
    """What a split holds, and what was left out of it, in one line."""
    sizes = {
        "rows": counts["rows"],
        "prompts": len(rankings),
        "completions": sum(len(ranking.completions) for ranking in rankings),
        "comparisons": sum(len(ranking.pairs) for ranking in rankings),
    }
    parts = [", ".join(f"{n:,} {name if n != 1 else name[:-1]}" for name, n in sizes.items())]
    parts += [
        single if counts[name] == 1 else several.format(counts[name])
        for name, (single, several) in COUNTS.items()
        if counts[name]
    ]
    return "; ".join(parts)


def _share(given: Split, prompt: Text, shares: dict[Split, float]) -> Split:
    """The split of a prompt: the one given, but of train's those whose hash is below a share make others."""
    if given != "train" or not shares:
        return given
    key = prompt
    if not isinstance(prompt, str):  # before it is rendered, so that it does not depend on the tokenizer
        key = json.dumps([[message["role"], message["content"].strip()] for message in prompt])
    fraction = int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:6], "big") / 2**48
    for split, share in shares.items():
        if fraction < share:
            return split
        fraction -= share
    return given


def _add(
    element: Element,
    judgement: Judgement,
    texts: list[str],
    references: list[str],
    where: str,
    counts: Counter[str],
) -> None:
    """Add a row's completions, comparisons, references and gold to those of its prompt."""
    indices = [element.completions.setdefault(text, len(element.completions)) for text in texts]
    element.references |= dict.fromkeys(references)
    for winner, loser, margin in judgement.better:
        if indices[winner] == indices[loser]:
            counts["equal"] += 1
        else:
            element.pairs.append(Comparison(indices[winner], indices[loser], margin))
    for i, j in judgement.ties:
        _add_tie(element, indices[i], indices[j], counts)
    counts["unscored"] += judgement.unscored
    if judgement.rating is not None:
        element.ratings.append((indices[0], judgement.rating))
    for index, value in zip(indices, judgement.gold or (), strict=False):
        if element.gold.setdefault(index, value) != value:
            raise DataError(
                f"{where}: 'gold' of a completion is {value:g}, and {element.gold[index]:g} before it, "
                "with the same prompt"
            )


def _add_tie(element: Element, i: int, j: int, counts: Counter[str]) -> None:
    if i == j:
        counts["equal"] += 1
    else:
        element.ties.append((i, j))


def _finish(element: Element, ties: Ties, counts: Counter[str]) -> Iterator[Ranking]:
    """The ranking of a prompt, if any of its completions is better than another."""
    for (i, first), (j, second) in combinations(element.ratings, 2):
        if i == j or first == second:
            _add_tie(element, i, j, counts)
        else:
            element.pairs.append(Comparison(i, j) if first > second else Comparison(j, i))
    directions = {(pair.winner, pair.loser) for pair in element.pairs}
    counts["both ways"] += sum((j, i) in directions for i, j in directions if i < j)
    winners = {i for i, _ in directions} - {j for _, j in directions}
    pairs = list(element.pairs)
    if ties == "half":
        pairs += [Comparison(*pair, weight=0.5) for i, j in element.ties for pair in ((i, j), (j, i))]
    counts["ties halved" if ties == "half" else "ties dropped"] += len(element.ties)
    if not pairs:
        counts["lone"] += 1
        return
    completions = list(element.completions)
    references = list(element.references) or [completions[i] for i in sorted(winners)]
    counts["unreferenced"] += not references
    meta_data = dict(element.meta_data)
    if len(element.gold) == len(completions):
        meta_data["gold"] = [element.gold[i] for i in range(len(completions))]
    elif element.gold:
        counts["gold"] += 1
    yield Ranking(element.id, element.prompt, completions, pairs, references, meta_data)


def _check_ids(elements: Iterable[tuple[Split, Element]]) -> None:
    places: dict[tuple[Split, str | int], str] = {}
    for split, element in elements:
        place = places.setdefault((split, element.id), element.where)
        if place != element.where:
            raise DataError(f"{element.where}: id {element.id!r} is also that of another prompt, in {place}")

"""The page on which a person judges: pairs of texts for the same prompt, whose models are hidden."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.identity import hash_of
from rft_diagnose.report import load_templates
from rl4lms.compare.outcomes import Texts, equal_texts

TEMPLATES = Path(__file__).with_name("templates")
Pair = dict[str, str]  # prompt, a, b


def sample_pairs(prompts: Sequence[str], texts: Texts, number: int, seed: int = 0) -> list[Pair]:
    """Draw pairs of different texts for the same prompt, at most `number`, in random order and side.

    Each two models get as many, as far as they have prompts with different texts, at most one of a prompt.
    Pairs that look the same are drawn once.
    """
    rng = np.random.default_rng(seed)
    queues = []
    for (i, j), equal in equal_texts(texts).items():
        queue = []
        for n in rng.permutation(len(prompts)):
            different = np.argwhere(~equal[n])
            if len(different):
                k, m = different[rng.integers(len(different))]
                queue.append({"prompt": prompts[n], "a": texts[i][n][k], "b": texts[j][n][m]})
        queues.append(queue[::-1])
    pairs: list[Pair] = []
    seen = set()
    while len(pairs) < number and any(queues):
        for queue in queues:
            if queue and len(pairs) < number:
                pair = queue.pop()
                if (key := (pair["prompt"], frozenset((pair["a"], pair["b"])))) not in seen:
                    seen.add(key)
                    pairs.append(pair)
    order = rng.permutation(len(pairs))
    sides = rng.integers(2, size=len(pairs))
    return [_turned(pairs[place]) if side else pairs[place] for place, side in zip(order, sides, strict=True)]


def _turned(pair: Pair) -> Pair:
    return {"prompt": pair["prompt"], "a": pair["b"], "b": pair["a"]}


def render_pairs(pairs: Sequence[Pair]) -> str:
    """Make the page. It holds the texts, but nothing of which model wrote which."""
    data = json.dumps(list(pairs)).replace("<", "\\u003c")  # no text can end the script that holds it
    page = load_templates(TEMPLATES).get_template("pairs.html")
    return page.render(
        title="Which text is better?", pairs=pairs, data=data, key=f"choices-{hash_of(list(pairs))}"
    )

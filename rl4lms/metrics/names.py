"""Under which names built-in metrics give their values, known before any of them is imported."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Protocol

from common.config import unknown_name

_PARTS = ("overall", "overlap", "non_overlap")
# By id; patterns, since diversity's names hold its arguments.
RESULTS: dict[str, tuple[str, ...]] = {
    "rouge_l_max": ("lexical/rouge_l_max",),
    "rouge": tuple(f"lexical/rouge_{kind}" for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")),
    "meteor": ("lexical/meteor", "lexical/meteor_no_wordnet"),
    "bleu": ("lexical/bleu",),
    "sacre_bleu": ("lexical/sacrebleu",),
    "ter": ("lexical/ter",),
    "chrf": ("lexical/chrf",),
    "bert_score": ("semantic/bert_score",),
    "learned_reward": ("semantic/learned_automodel_metric",),
    "reward_model": ("semantic/reward_model",),
    "causal_perplexity": ("fluency_metrics/perplexity",),
    "diversity": ("diversity_metrics/*",),
    "meteor_common_gen_repeat_penalty": (
        "lexical/meteor_common_gen_repeat_penalty",
        "lexical/meteor_common_gen_repeat_penalty_no_wordnet",
    ),
    "intent_accuracy": ("intent/accuracy",),
    "parent_totto": tuple(
        f"table_to_text/parent_{part}{end}"
        for part in _PARTS
        for end in ("/precision", "/recall", "_f_score")
    ),
    "bleu_totto": tuple(f"table_to_text/bleu_{part}" for part in _PARTS),
}
LOWER_IS_BETTER = ("lexical/ter", "fluency_metrics/perplexity")


class _Named(Protocol):
    @property
    def id(self) -> str: ...


def metric_problem(name: str, metrics: Iterable[_Named]) -> str | None:
    """What to say of a value's name that none of these metrics gives; None if one may.

    Users' own metrics name their values at the end.
    """
    ids = {metric.id for metric in metrics}
    if not ids <= RESULTS.keys():
        return None
    known = sorted(result for metric in ids for result in RESULTS[metric])
    if any(fnmatchcase(name, result) for result in known):
        return None
    return unknown_name("metric", name, known) if known else f"{name!r} is of no metric: none is listed"

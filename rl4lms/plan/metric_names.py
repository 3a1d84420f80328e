"""Under which names built-in metrics give their values, known before any of them is imported."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from common.config import unknown_name
from rl4lms.config import TrainConfig
from rl4lms.plan.schema import RunConfig

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


def check_score_metric(name: str | None, configs: Iterable[RunConfig]) -> str | None:
    """What to say of a metric's name that no training of a plan will have a value of; None if one may."""
    ids = {
        metric.id
        for config in configs
        if isinstance(config, TrainConfig)
        for metric in config.train_evaluation.metrics
    }
    if (
        name is None or not ids or not ids <= RESULTS.keys()
    ):  # users' own metrics name their values at the end
        return None
    known = sorted(result for metric in ids for result in RESULTS[metric])
    return None if any(fnmatchcase(name, result) for result in known) else unknown_name("metric", name, known)

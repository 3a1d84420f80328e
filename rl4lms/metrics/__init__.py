"""Metrics of generated texts: functions from a TextBatch to named scores.

    metric = build_metric("rouge_l_max", {"alpha": 0.5})
    metric(TextBatch(prompts, generated, references, meta))["lexical/rouge_l_max"].corpus

Importing this package imports none of the libraries that the metrics use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.registry import Entry, Registry
from rl4lms.metrics import args
from rl4lms.text import Score, TextBatch

__all__ = ["METRICS", "Metric", "Score", "TextBatch", "build_metric"]

Metric = Callable[[TextBatch], dict[str, Score]]

METRICS = Registry(
    "metric",
    {
        "rouge_l_max": Entry("rl4lms.metrics.rouge_l:rouge_l_max", args.RougeLMaxArgs),
        "rouge": Entry("rl4lms.metrics.overlap:rouge", args.RougeArgs),
        "meteor": Entry("rl4lms.metrics.meteor:meteor", args.MeteorArgs, args.wordnet_missing),
        "bleu": Entry("rl4lms.metrics.overlap:bleu"),
        "sacre_bleu": Entry(
            "rl4lms.metrics.overlap:sacre_bleu", args.SacreBleuArgs, args.word_splitter_missing
        ),
        "ter": Entry("rl4lms.metrics.overlap:ter"),
        "chrf": Entry("rl4lms.metrics.overlap:chrf"),
        "bert_score": Entry("rl4lms.metrics.bert_score:bert_score", args.BertScoreArgs, args.encoder_missing),
        "learned_reward": Entry(
            "rl4lms.metrics.learned:learned_reward", args.ClassifierArgs, args.classifier_missing
        ),
        "reward_model": Entry(
            "rl4lms.metrics.learned:reward_model", args.RewardModelArgs, args.classifier_missing
        ),
        "causal_perplexity": Entry(
            "rl4lms.metrics.learned:causal_perplexity", args.PerplexityArgs, args.tokenizer_missing
        ),
        "diversity": Entry("rl4lms.metrics.diversity:diversity", args.DiversityArgs),
        "meteor_common_gen_repeat_penalty": Entry(
            "rl4lms.metrics.meteor:meteor_common_gen_repeat_penalty",
            args.RepeatPenaltyArgs,
            args.wordnet_missing,
        ),
        "intent_accuracy": Entry(
            "rl4lms.metrics.learned:intent_accuracy", args.IntentArgs, args.classifier_missing
        ),
        "parent_totto": Entry("rl4lms.metrics.totto:parent_totto"),
        "bleu_totto": Entry("rl4lms.metrics.totto:bleu_totto"),
    },
)


def build_metric(id: str, args: Mapping[str, Any] | None = None) -> Metric:
    """A metric by its id and arguments. Raises ConfigError with all that is wrong with them."""
    return METRICS.build(id, args or {})

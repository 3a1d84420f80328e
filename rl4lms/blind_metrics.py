"""Rewards and metrics that cannot see a dataset's references are told before the run, not as zeros after it.

Some compare words of ASCII letters and digits, some what stands between spaces: of Chinese the former see
nothing and the latter whole sentences. Others need four words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import UserError
from rl4lms.metrics import METRICS, build_metric
from rl4lms.rewards import REWARDS, build_reward
from rl4lms.samples import Sample
from rl4lms.text import TextBatch

logger = logging.getLogger(__name__)

_CHECKED = 100  # samples, spread over the split
_MOST = 0.5  # share of the letters
_HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Scripts whose words no space divides: kana, Thai, Lao, Tibetan, Burmese, Khmer, Yi.
_OTHER_UNSPACED = (
    r"\u3040-\u30ff\u31f0-\u31ff\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\ua000-\ua4cf"
)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_UNSPACED = re.compile(f"[{_HAN}{_OTHER_UNSPACED}]")
_UNSPACED_NOT_HAN = re.compile(f"[{_OTHER_UNSPACED}]")
_NEED_TABLES = ("parent", "parent_totto", "bleu_totto")
_ASCII_WORDS = ("rouge_l_max", "rouge", "rouge_combined")
_SPACED_WORDS = ("bleu", "sacre_bleu", "meteor", "meteor_common_gen_repeat_penalty", "ter", *_NEED_TABLES)
_UNSEEN_BY_TOKENIZER = {"char": None, "ja-mecab": None, "ko-mecab": None, "zh": _UNSPACED_NOT_HAN}
_CURE = (
    "chrf sees every script, sacre_bleu those with spaces, and with args {tokenize: zh} Chinese, ja-mecab "
    "Japanese, ko-mecab Korean, char any"
)


class BlindMetricError(UserError):
    """A reward that would be the same for every text; the message is for the user."""

    is_refusal = True


def check_reward(name: str, args: Mapping[str, Any], samples: Sequence[Sample], registry: str) -> None:
    """Raises BlindMetricError if a reward cannot tell texts of these samples apart.

    registry: "reward", or "metric" for one that an extraction takes as its reward.
    """
    if problem := find_blindness(name, args, samples, registry):
        raise BlindMetricError(f"{registry} {problem}")


def warn_of_blind_metrics(metrics: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample]) -> None:
    """Log which of the metrics, id -> arguments, cannot see the references."""
    for name, args in metrics.items():
        if problem := find_blindness(name, args, samples, "metric"):
            logger.warning("metric %s", problem)


def find_blindness(
    name: str, args: Mapping[str, Any], samples: Sequence[Sample], registry: str
) -> str | None:
    """Find out why a built-in reward or metric cannot see the references; None if it can."""
    if name not in (*_ASCII_WORDS, *_SPACED_WORDS, "chrf"):
        return None
    chosen = [sample for sample in samples[:: max(1, len(samples) // _CHECKED)] if any(sample.references)]
    chosen = chosen or [sample for sample in samples if any(sample.references)][:_CHECKED]
    if not chosen:
        return f"{name!r} compares texts with references, and no sample of the dataset has one"
    references = [next(filter(None, sample.references)) for sample in chosen]
    letters = [letter for reference in references for letter in reference if letter.isalnum()]
    unseen = _unseen_letters(name, args)
    if unseen and letters and sum(map(bool, map(unseen.match, letters))) > _MOST * len(letters):
        compared = "words of ASCII letters and digits" if name in _ASCII_WORDS else "words between spaces"
        return (
            f"{name!r} compares {compared}: it cannot see most letters of the references (such as "
            f"{references[0]!r:.60}), and texts would get 0 whatever they say; {_CURE}"
        )
    if name in _NEED_TABLES or max(_scores_of_themselves(name, args, chosen, references, registry)) > 0:
        return None
    return (
        f"{name!r} gives each of the {len(references):,} references that were looked at 0 against itself "
        f"(such as {references[0]!r:.60}), so every text would get 0 (bleu and sacre_bleu need four "
        f"words); {_CURE}"
    )


def _unseen_letters(name: str, args: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what letters do not count, or only as parts of whole sentences."""
    if name in _ASCII_WORDS:
        return _NOT_ASCII
    if name in _SPACED_WORDS:
        return _UNSEEN_BY_TOKENIZER.get(str(args.get("tokenize")), _UNSPACED)
    return None


def _scores_of_themselves(
    name: str, args: Mapping[str, Any], samples: Sequence[Sample], references: list[str], registry: str
) -> list[float]:
    """Score each reference as if it were a text for its sample, with itself as the only reference."""
    batch = TextBatch(
        [sample.prompt_or_input_text for sample in samples],
        references,
        [[reference] for reference in references],
        [sample.meta_data for sample in samples],
    )
    if registry == "reward":
        shaped = {"shaping_fn": None} if "shaping_fn" in REWARDS.entries[name].args.model_fields else {}
        return build_reward(name, {**args, **shaped})(batch)
    plain = "meteor" if name == "meteor_common_gen_repeat_penalty" else name
    known = METRICS.entries[plain].args.model_fields
    scores = build_metric(plain, {key: value for key, value in args.items() if key in known})(batch)
    turned: Callable[[float], float] = (lambda value: 1 - value) if name == "ter" else (lambda value: value)
    return [turned(value) for score in scores.values() for value in score.per_sample or [0.0]]

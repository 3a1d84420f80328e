"""Rewards of generated texts: functions from a TextBatch to one number per text.

    reward = build_reward("rouge_l_max", {"alpha": 0.5})
    reward(TextBatch(prompts, generated, references, meta))

Most are the per-text score of a metric. A function of the user's own takes a TextBatch, or has the plain form
`f(prompts, completions, **columns)`, where the columns are `references` and the meta data of the samples, all
lists over the texts. Importing this module imports none of the libraries that the rewards use.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from itertools import pairwise, takewhile
from typing import Any, Literal

from pydantic import Field

from common.config import Config, Problem
from common.registry import Arguments, Entry, Registry, arguments_after_first, settable_arguments
from rl4lms.metrics import METRICS
from rl4lms.metrics import args as metric_args
from rl4lms.metrics.args import (
    COMMON_GEN_PREFIX,
    IntentArgs,
    MeteorArgs,
    RougeArgs,
    SacreBleuArgs,
    classifier_missing,
    wordnet_missing,
)
from rl4lms.reward_checks import PartialReward, Reward, RewardError, checked, checked_partial
from rl4lms.text import TextBatch

__all__ = ["REWARDS", "Reward", "RewardError", "TextBatch", "build_partial_reward", "build_reward", "checked"]

_BROUGHT = ("prompts", "completions")  # what each call brings to a function of the plain form
# What TRL's trainers give to a function of this form besides.
_OF_TRL = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


class ShapedArgs(Config):
    shaping_fn: Literal["common_gen_repeat_penalty"] | None = Field(
        None, description="takes 1 from a text that repeats its CommonGen prompt; null: nothing"
    )


class ShapedMeteorArgs(MeteorArgs, ShapedArgs):
    pass


class ShapedSacreBleuArgs(SacreBleuArgs, ShapedArgs):
    pass


class RougeCombinedArgs(RougeArgs, ShapedArgs):
    pass


class RougeRewardArgs(RougeCombinedArgs):
    rouge_type: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = Field(description="which ROUGE")


class IntentRewardArgs(IntentArgs):
    intent_coeff: float = Field(1.0, description="weight of the intent's accuracy")
    auto_coeff: float = Field(1.0, description="weight of METEOR; 0: it is not computed")
    wordnet: bool = Field(True, description="METEOR with synonyms (needs the WordNet corpus)")


class IncreasingNumbersArgs(Config):
    min_tokens: int = Field(20, ge=1, description="how many words a text should have")


def intent_missing(args: IntentRewardArgs) -> list[Problem]:
    needs_wordnet = args.wordnet and args.auto_coeff != 0
    return classifier_missing(args) + wordnet_missing(MeteorArgs(wordnet=needs_wordnet))


_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = re.compile(
    rf"\b(?:{_MONTH} \d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}(?![a-z])|"
    r"\d{4}-\d\d-\d\d|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|(?:1[5-9]|20)\d\d)\b",
    re.IGNORECASE,
)


def rouge_l_max(batch: TextBatch, **metric_args: Any) -> list[float]:
    """ROUGE-L max (NarrativeQA)."""
    return _score_texts("rouge_l_max", batch, **metric_args)


def meteor(batch: TextBatch, *, shaping_fn: str | None, **metric_args: Any) -> list[float]:
    """METEOR (CommonGen, CNN/DailyMail, DailyDialog)."""
    return _shape_rewards(_score_texts("meteor", batch, **metric_args), batch, shaping_fn)


def sacre_bleu(batch: TextBatch, *, shaping_fn: str | None, tokenize: str) -> list[float]:
    """SacreBLEU / 100 of each text (ToTTo, IWSLT)."""
    return _shape_rewards(_score_texts("sacre_bleu", batch, tokenize=tokenize), batch, shaping_fn)


def learned_reward(batch: TextBatch, **metric_args: Any) -> list[float]:
    """Probability of a class under a classifier (IMDB)."""
    return _score_texts("learned_reward", batch, **metric_args)


def reward_model(batch: TextBatch, **metric_args: Any) -> list[float]:
    """Normalised reward of a reward model (Ouyang et al. 2022)."""
    return _score_texts("reward_model", batch, **metric_args)


def rouge(batch: TextBatch, *, rouge_type: str, shaping_fn: str | None, use_single_ref: bool) -> list[float]:
    """One of the four values of rouge-score."""
    values = _score_texts("rouge", batch, f"lexical/rouge_{rouge_type}", use_single_ref=use_single_ref)
    return _shape_rewards(values, batch, shaping_fn)


def rouge_combined(batch: TextBatch, *, shaping_fn: str | None, use_single_ref: bool) -> list[float]:
    """Mean of rouge1, rouge2 and rougeLsum."""
    scores = METRICS.function("rouge")(batch, use_single_ref=use_single_ref)
    columns = [scores[f"lexical/rouge_{kind}"].per_sample for kind in ("rouge1", "rouge2", "rougeLsum")]
    return _shape_rewards([sum(row) / len(row) for row in zip(*columns, strict=True)], batch, shaping_fn)


def bleu(batch: TextBatch, *, shaping_fn: str | None) -> list[float]:
    """BLEU-4 of each text, without smoothing."""
    return _shape_rewards(_score_texts("bleu", batch), batch, shaping_fn)


def chrf(batch: TextBatch, *, shaping_fn: str | None) -> list[float]:
    """chrF / 100 of each text."""
    return _shape_rewards(_score_texts("chrf", batch), batch, shaping_fn)


def ter(batch: TextBatch, *, shaping_fn: str | None) -> list[float]:
    """1 - TER: the fewer edits the better, negative for more edits than words."""
    return _shape_rewards([1 - value for value in _score_texts("ter", batch)], batch, shaping_fn)


def bert_score(batch: TextBatch, **metric_args: Any) -> list[float]:
    """BERTScore F1."""
    return _score_texts("bert_score", batch, **metric_args)


def parent(batch: TextBatch) -> list[float]:
    """PARENT F of a text about a ToTTo table."""
    return _score_texts("parent_totto", batch, "table_to_text/parent_overall_f_score")


def intent_accuracy(
    batch: TextBatch, *, intent_coeff: float, auto_coeff: float, wordnet: bool, **metric_args: Any
) -> list[float]:
    """intent_coeff x (1 for the reference's intent, else 0) + auto_coeff x METEOR."""
    values = [intent_coeff * hit for hit in _score_texts("intent_accuracy", batch, **metric_args)]
    if not auto_coeff:
        return values
    overlap = _score_texts("meteor", batch, wordnet=wordnet, as_released=False)
    return [value + auto_coeff * other for value, other in zip(values, overlap, strict=True)]


def increasing_numbers(batch: TextBatch, *, min_tokens: int) -> list[float]:
    """How many of a text's numbers rise from the first on, per word of it or of half of `min_tokens`."""
    values = []
    for text in batch.generated:
        words = text.split()
        numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
        rises = takewhile(lambda pair: pair[0] < pair[1], pairwise(numbers))
        rising = bool(numbers) + sum(1 for _ in rises)
        values.append(rising / max(len(words), min_tokens / 2))
    return values


def sentences_with_dates(batch: TextBatch) -> list[float]:
    """The share of a text's sentences that hold a date: a day, a month with a number, or a year."""
    values = []
    for text in batch.generated:
        sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
        dated = sum(_DATE.search(sentence) is not None for sentence in sentences)
        values.append(dated / len(sentences) if sentences else 0.0)
    return values


def _score_texts(metric: str, batch: TextBatch, key: str | None = None, **metric_args: Any) -> list[float]:
    """Score each text by a built-in metric: the result of that key, or the only one."""
    scores = METRICS.function(metric)(batch, **metric_args)
    (score,) = [scores[key]] if key else scores.values()
    return score.per_sample


def _shape_rewards(values: list[float], batch: TextBatch, shaping_fn: str | None) -> list[float]:
    """Subtract 1 where a text repeats its CommonGen prompt, if that is asked for."""
    if shaping_fn is None:
        return values
    from rl4lms.metrics.meteor import repeats_prompt  # imports NLTK

    repeats = repeats_prompt(batch, COMMON_GEN_PREFIX)
    return [value - repeat for value, repeat in zip(values, repeats, strict=True)]


def build_reward(id: str, args: Mapping[str, Any] | None = None) -> Reward:
    """A reward by its id and arguments, `checked`. Raises ConfigError with all that is wrong with them."""
    return checked(_build(id, args or {}), id)


def build_partial_reward(id: str, args: Mapping[str, Any], name: str) -> PartialReward:
    """One of several rewards, likewise, which may return None for a text. name: in messages."""
    return checked_partial(_build(id, args), name)


def _build(id: str, args: Mapping[str, Any]) -> Callable[[TextBatch], Any]:
    function = REWARDS.build(id, args)
    return _wrap_plain(function) if _is_plain(inspect.signature(function)) else function


def _is_plain(signature: inspect.Signature) -> bool:
    return "completions" in signature.parameters


def _arguments(signature: inspect.Signature) -> Arguments:
    """What a config may set: in the plain form all but what each call brings; any of it may be a column."""
    if not _is_plain(signature):
        return arguments_after_first(signature)
    others = settable_arguments([p for name, p in signature.parameters.items() if name not in _BROUGHT])
    return Arguments(others.parameters, required=set(), open=others.open)


def _wrap_plain(function: Callable[..., Any]) -> Reward:
    """Wrap a function of the plain form, which gets the columns that it names, or all (`**columns`)."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    set_by_config = getattr(function, "keywords", {})
    column_names = {p.name for p in parameters} - set_by_config.keys()
    required = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}

    @wraps(function)
    def reward(batch: TextBatch) -> Any:
        keys = dict.fromkeys(key for meta in batch.meta for key in meta)
        columns: dict[str, Any] = {key: [meta.get(key) for meta in batch.meta] for key in keys}
        columns |= {"references": batch.references, "prompts": batch.prompts, "completions": batch.generated}
        if absent := sorted(required - columns.keys()):
            message = (
                f"no column {', '.join(map(repr, absent))}; the samples have {', '.join(sorted(columns))}"
            )
            if of_trl := [name for name in absent if name in _OF_TRL]:
                message += f"; what TRL gives as {', '.join(of_trl)} is not given here: let it have a default"
            raise ValueError(message)
        return function(
            **{
                key: column
                for key, column in columns.items()
                if key in column_names or (takes_all and key not in set_by_config)
            }
        )

    return reward


def _entry(function: str, schema: Any = ShapedArgs, **missing: Any) -> Entry:
    return Entry(f"rl4lms.rewards:{function}", schema, **missing)


REWARDS = Registry(
    "reward",
    {
        "rouge_l_max": _entry("rouge_l_max", metric_args.RougeLMaxArgs),
        "meteor": _entry("meteor", ShapedMeteorArgs, missing=metric_args.wordnet_missing),
        "sacre_bleu": _entry("sacre_bleu", ShapedSacreBleuArgs, missing=metric_args.word_splitter_missing),
        "learned_reward": _entry(
            "learned_reward", metric_args.ClassifierArgs, missing=metric_args.classifier_missing
        ),
        "reward_model": _entry(
            "reward_model", metric_args.RewardModelArgs, missing=metric_args.classifier_missing
        ),
        "rouge": _entry("rouge", RougeRewardArgs),
        "rouge_combined": _entry("rouge_combined", RougeCombinedArgs),
        "bleu": _entry("bleu"),
        "chrf": _entry("chrf"),
        "ter": _entry("ter"),
        "bert_score": _entry("bert_score", metric_args.BertScoreArgs, missing=metric_args.encoder_missing),
        "parent": _entry("parent", Config),
        "intent_accuracy": _entry("intent_accuracy", IntentRewardArgs, missing=intent_missing),
        "increasing_numbers": _entry("increasing_numbers", IncreasingNumbersArgs),
        "sentences_with_dates": _entry("sentences_with_dates", Config),
    },
    _arguments,
)

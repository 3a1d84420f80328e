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
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import pairwise, takewhile
from numbers import Real
from typing import Any, Literal

from pydantic import Field

from common.config import Config, Problem
from common.errors import UserError
from common.registry import Arguments, Entry, Registry, arguments_after_first, settable_arguments
from common.user_code import explain_failure
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
from rl4lms.requirements import RequirementError
from rl4lms.text import TextBatch, find_failing_text

__all__ = ["REWARDS", "Reward", "RewardError", "TextBatch", "build_reward", "checked"]

Reward = Callable[[TextBatch], list[float]]

_BROUGHT = ("prompts", "completions")  # what each call brings to a function of the plain form


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


class RewardError(UserError):
    """A reward that failed; the message is for the user. index: the first text it failed on, if one did."""

    def __init__(self, message: str, index: int | None = None) -> None:
        self.index = index
        super().__init__(message)


def build_reward(id: str, args: Mapping[str, Any] | None = None) -> Reward:
    """A reward by its id and arguments, `checked`. Raises ConfigError with all that is wrong with them."""
    function = REWARDS.build(id, args or {})
    return checked(_wrap_plain(function) if _is_plain(inspect.signature(function)) else function, id)


def checked(reward: Reward, name: str | None = None) -> Reward:
    """The same reward, whose failures are one RewardError with its name and the first text it failed on.

    It fails if it raises (whatever that is, but for the user's Ctrl-C), or returns anything but one finite
    number per text; a tensor or an array of one number is that number.
    """
    called = f"reward {name or getattr(reward, '__qualname__', repr(reward))!r}"

    def wrapper(batch: TextBatch) -> list[float]:
        try:
            returned: Any = reward(batch)
        except (RequirementError, KeyboardInterrupt):
            raise
        except BaseException as error:
            index = find_failing_text(reward, batch)
            where = f"{len(batch)} texts together" if index is None else _describe_text(batch, index)
            raise RewardError(
                f"{called} raised {type(error).__name__} for {where}{explain_failure(error)}", index
            ) from error
        values = returned.tolist() if hasattr(returned, "tolist") else returned  # a tensor, an array
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise RewardError(
                f"{called} returned {_shorten(returned)}; expected a list with one number per text: "
                "[reward of the first text, ...]"
            )
        if len(values) != len(batch):
            raise RewardError(
                f"{called} returned {len(values)} values for {len(batch)} texts; expected one number per "
                "text: also for those that it has nothing to say about, in their order"
            )
        numbers = [value.tolist() if getattr(value, "ndim", None) == 0 else value for value in values]
        for i, value in enumerate(numbers):
            if remedy := _remedy(value):
                where = _describe_text(batch, i)
                raise RewardError(
                    f"{called} returned {_shorten(value)} for {where}; expected a finite number: {remedy}", i
                )
        return [float(value) for value in numbers]

    return wrapper


LARGEST = 3.4e38  # rewards are kept in float32


def _remedy(value: Any) -> str | None:
    """What to do about a value that is no reward; None for a finite number."""
    is_number = isinstance(value, Real)
    if is_number:
        if -LARGEST <= value <= LARGEST:  # NaN is not
            return None
        return f"one between -{LARGEST:g} and {LARGEST:g}, also where it cannot be computed"
    if value is None:
        return "return one for every text, such as 0.0 where the reward does not apply"
    if hasattr(value, "__len__") and not isinstance(value, str):
        return "return a flat list, array or tensor of shape [N] for N texts"
    return "turn it into one, such as float(value)"


def _describe_text(batch: TextBatch, index: int) -> str:
    return f"text {index} ({_shorten(batch.generated[index])} after prompt {_shorten(batch.prompts[index])})"


def _shorten(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


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
            raise ValueError(
                f"no column {', '.join(map(repr, absent))}; the samples have {', '.join(sorted(columns))}"
            )
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

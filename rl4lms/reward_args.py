"""The arguments of the built-in rewards. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config import Config, Problem
from rl4lms.metrics.args import (
    IntentArgs,
    MeteorArgs,
    RougeArgs,
    SacreBleuArgs,
    classifier_missing,
    wordnet_missing,
)


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

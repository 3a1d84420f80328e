"""Schema of `generation_kwargs`: what the configs may ask of generation. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from common import limits
from common.config import Config, Problem
from common.limits import at_most
from common.validation import say_why_refused, show

_IGNORED = "has no effect: transformers 5 accepts this key and ignores it; remove it"
_FROM_MODEL = "is taken from the model and its tokenizer; remove it"
REFUSED = {
    "num_beam_groups": _IGNORED,
    "diversity_penalty": _IGNORED,
    "low_memory": _IGNORED,
    "max_length": "counts the prompt of causal models but not of seq2seq ones; write max_new_tokens",
    "min_new_tokens": "write min_length, which counts new tokens (seq2seq: and the decoder's start token)",
    "num_return_sequences": "is not set here: how many texts an input gets is num_samples_per_input",
    "bos_token_id": _FROM_MODEL,
    "decoder_start_token_id": _FROM_MODEL,
    "eos_token_id": _FROM_MODEL,
    "pad_token_id": _FROM_MODEL,
}
_WIDEST = 10_000  # beams: ten times the widest that search errors have been studied with
# Not top_k: nearly every config sets it, and must stay valid when do_sample is switched off by --set.
_SAMPLING_ONLY = ("temperature", "top_p")
_BEAMS_ONLY = ("length_penalty", "early_stopping")


_SMALLEST = 1e-9  # what scores are divided by
_MOST_PENALTY = 50.0  # the length of the longest text to this power is the largest that a float holds


def _positive_temperature(value: float) -> float:
    if value <= 0:
        raise ValueError(
            f"must be greater than 0, got {value:g}; for the likeliest token set do_sample: false"
        )
    if value < _SMALLEST:
        raise ValueError(
            f"must be at least {_SMALLEST:g}, below which scores overflow, got {value:g}; for the likeliest "
            "token set do_sample: false"
        )
    return value


class GenerationSettings(Config):
    """How texts are generated. Nothing that a model's own generation_config says is added to it."""

    max_new_tokens: Annotated[int, Field(ge=1), at_most(limits.TEXT, "new tokens")] = Field(
        19, description="longest text in tokens (19: what the paper's library generated where it was not set)"
    )
    min_length: Annotated[int, Field(ge=0)] = Field(
        0, description="fewest tokens before the end token; seq2seq: the decoder's start token counts as one"
    )
    do_sample: bool = Field(False, description="draw tokens at random; false: the likeliest")
    temperature: Annotated[float, AfterValidator(_positive_temperature)] = Field(
        1.0, description="sampling: the logits are divided by it"
    )
    top_k: Annotated[int, Field(ge=0)] = Field(
        50, description="sampling: from the k likeliest tokens; 0 = from all (50: transformers' own default)"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="sampling: from the fewest likeliest tokens with this probability in all"
    )
    num_beams: Annotated[int, Field(ge=1), at_most(_WIDEST, "beams")] = Field(
        1, description="width of beam search; 1 = none"
    )
    length_penalty: float = Field(
        1.0,
        ge=-_MOST_PENALTY,
        le=_MOST_PENALTY,
        description="beam search: scores are divided by length to this power; > 0 favours long texts",
    )
    early_stopping: bool | Literal["never"] = Field(
        False, description="beam search: stop at num_beams finished texts; never: when none can get better"
    )
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = Field(
        0, description="no n-gram of this size occurs twice (causal: the prompt counts); 0 = off"
    )
    repetition_penalty: Annotated[float, Field(ge=_SMALLEST)] = Field(
        1.0, description="> 1 makes tokens that occurred before (causal: also in the prompt) less likely"
    )
    post_processing_fn: None = Field(None, description="only null, which is what the old configs hold")

    _say_why_refused = say_why_refused(REFUSED)

    def check(self) -> list[Problem]:
        idle = [(name, "do_sample: true") for name in _SAMPLING_ONLY if not self.do_sample]
        idle += [(name, "num_beams above 1") for name in _BEAMS_ONLY if self.num_beams == 1]
        problems = []
        for name, needed in idle:
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                without = f"has no effect without {needed}; set that, or leave this at {show(default)}"
                problems.append(Problem(name, without))
        if self.min_length > self.max_new_tokens + 1:
            problems.append(
                Problem("min_length", f"{self.min_length} exceeds max_new_tokens ({self.max_new_tokens})")
            )
        return problems

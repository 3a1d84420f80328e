from typing import Any

import pytest

from common.config import Problem, validate
from rl4lms.model.generation_config import REFUSED, GenerationSettings


def problems(**settings: Any) -> dict[str, str]:
    return {problem.path: problem.message for problem in validate(GenerationSettings, settings)[1]}


def test_defaults_are_greedy_with_the_top_k_of_transformers() -> None:
    settings = GenerationSettings()
    assert (settings.do_sample, settings.top_k, settings.max_new_tokens) == (False, 50, 19)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "top_k": 20, "min_length": 2, "max_new_tokens": 20, "post_processing_fn": None},
        {"do_sample": True, "min_length": 48, "max_new_tokens": 48},
        {"do_sample": True, "top_k": 0, "temperature": 0.7, "min_length": 50, "max_new_tokens": 100},
        {"num_beams": 4, "length_penalty": 0.6, "max_new_tokens": 128},
        {"do_sample": True, "num_beams": 5, "min_length": 10, "max_new_tokens": 50},
        {"temperature": 1, "do_sample": True, "top_k": 50},
        {"do_sample": False, "top_k": 20},
    ],
)
def test_settings_of_the_paper_are_valid(settings: dict[str, Any]) -> None:
    assert problems(**settings) == {}


def test_a_resolved_config_is_valid_again() -> None:
    settings = GenerationSettings(do_sample=True, temperature=0.7)
    assert validate(GenerationSettings, settings.model_dump()) == (settings, [])


def test_all_faults_are_found_at_once() -> None:
    found = problems(temperature=0, top_k=-1, num_beam_groups=2, tempratur=3, post_processing_fn="strip")
    assert found == {
        "temperature": "must be greater than 0, got 0; for the likeliest token set do_sample: false",
        "top_k": "must be at least 0, got -1",
        "post_processing_fn": "expected null, got 'strip' (a string)",
        "num_beam_groups": "has no effect: transformers 5 accepts this key and ignores it; remove it",
        "tempratur": "unknown key; did you mean 'temperature'?",
    }


@pytest.mark.parametrize("key", REFUSED)
def test_refused_keys_say_why(key: str) -> None:
    assert problems(**{key: 1}) == {key: REFUSED[key]}


@pytest.mark.parametrize(
    ("settings", "field", "message"),
    [
        ({"temperature": 0.7}, "temperature", "do_sample: true; set that, or leave this at 1.0"),
        ({"top_p": 0.9}, "top_p", "do_sample: true; set that, or leave this at 1.0"),
        ({"length_penalty": 0.6}, "length_penalty", "num_beams above 1; set that, or leave this at 1.0"),
        ({"early_stopping": True}, "early_stopping", "num_beams above 1; set that, or leave this at false"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], field: str, message: str) -> None:
    assert problems(**settings) == {field: f"has no effect without {message}"}


def test_min_length_that_cannot_be_reached() -> None:
    # That of a seq2seq model counts the decoder's start token: one more than max_new_tokens is possible.
    assert problems(min_length=21, max_new_tokens=20) == {}
    assert problems(min_length=22, max_new_tokens=20) == {"min_length": "22 exceeds max_new_tokens (20)"}


def test_top_k_null_is_not_guessed() -> None:
    """transformers takes null for "all", the paper's library for 50."""
    found = validate(GenerationSettings, {"top_k": None})[1]
    assert found == [Problem("top_k", "expected a whole number >= 0, got null")]


def test_what_would_overflow_is_refused() -> None:
    assert problems(do_sample=True, temperature=1e-38) == {
        "temperature": "must be at least 1e-09, below which scores overflow, got 1e-38; for the likeliest "
        "token set do_sample: false"
    }
    assert problems(repetition_penalty=1e-300) == {"repetition_penalty": "must be at least 1e-09, got 1e-300"}
    assert problems(num_beams=2, length_penalty=1e9) == {
        "length_penalty": "must be at most 50, got 1000000000.0"
    }
    assert problems(num_beams=2, length_penalty=-51) == {"length_penalty": "must be at least -50, got -51"}
    assert problems(do_sample=True, temperature=1e-9, repetition_penalty=1e-9) == {}

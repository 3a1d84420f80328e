import dataclasses
from typing import Any

import numpy as np
import pytest

from common.hub import DataError
from rl4lms.rankings import Comparison, Ranking, checked_rankings
from rl4lms.samples import (
    Sample,
    checked,
    content_hash,
    describe_broken_text,
    subsample,
    subsample_indices,
)

HALF = r"has half of a character (the surrogate \ud800): write the text anew, or leave it out"
SAMPLES = [Sample(f"train_{i}", f"prompt {i}", [f"reference {i}"]) for i in range(100)]


@pytest.mark.parametrize("n", [1, 7, 100])
def test_the_first_n_of_the_permutation(n: int) -> None:
    expected = np.random.RandomState(7).permutation(100)[:n].tolist()
    assert subsample_indices(100, n=n, seed=7) == expected
    assert [sample.id for sample in subsample(SAMPLES, n=n, seed=7)] == [f"train_{i}" for i in expected]


@pytest.mark.parametrize(
    ("frac", "size"), [(0.01, 1), (0.019, 1), (0.29, 29), (0.5, 50), (1, 100), (1.0, 100)]
)
def test_a_fraction_is_rounded_down(frac: float, size: int) -> None:
    assert (
        subsample_indices(100, frac=frac, seed=3) == np.random.RandomState(3).permutation(100)[:size].tolist()
    )


def test_minus_one_is_all_in_order_and_unseeded() -> None:
    for nothing in (None, -1):
        assert subsample(SAMPLES, n=nothing, frac=nothing, seed=-1) == SAMPLES
    np.random.seed(0)
    before = np.random.random()
    np.random.seed(0)
    draws = {tuple(subsample_indices(100, n=10, seed=-1)) for _ in range(5)}
    assert len(draws) == 5
    assert np.random.random() == before


def test_more_than_there_are_is_all_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    assert sorted(subsample_indices(100, n=5000, seed=7)) == list(range(100))
    assert "5,000 samples asked for, all 100 there are taken" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 3, "frac": 0.5}, "give a number of samples or a fraction, not both: 3 and 0.5"),
        ({"frac": 0.001}, "a fraction of 0.001 is less than one of 100 samples"),
        ({"frac": 1.5}, r"a fraction of samples must be in \(0, 1\], got 1.5"),
        ({"n": 0}, r"a number of samples must be at least 1 \(-1 = all\), got 0"),
        ({"n": -2}, r"a number of samples must be at least 1 \(-1 = all\), got -2"),
    ],
)
def test_impossible_choices(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subsample_indices(100, **arguments)


def test_samples_are_frozen_and_the_hash_tells_contents_and_orders_apart() -> None:
    sample = SAMPLES[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.id = "other"  # type: ignore[misc]
    variants = [
        SAMPLES[:2],
        SAMPLES[1::-1],
        [sample],
        [dataclasses.replace(sample, references=["other"])],
        [dataclasses.replace(sample, meta_data={"a": 1, "b": 2})],
    ]
    assert len({content_hash(variant) for variant in variants}) == len(variants)
    swapped = dataclasses.replace(sample, meta_data={"b": 2, "a": 1})
    assert content_hash([swapped]) == content_hash(variants[-1])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (iter(SAMPLES), "mine: expected a list of rl4lms.samples.Sample, got list_iterator"),
        ([], "mine: there are no samples"),
        ([SAMPLES[0], {}], "mine, position 1: expected a rl4lms.samples.Sample, got dict"),
        ([Sample(None, "", [])], "mine, position 0: id must be a string or a whole number, is None"),  # type: ignore[arg-type]
        ([Sample("a", 3, [])], "mine, position 0: prompt_or_input_text must be a string, is 3"),  # type: ignore[arg-type]
        ([Sample("a", "", "r")], "mine, position 0: references must be a list of strings, is 'r'"),  # type: ignore[arg-type]
        ([Sample("a", "", [], "m")], "mine, position 0: meta_data must be a dict, is 'm'"),  # type: ignore[arg-type]
        (
            [Sample("a", "b \ud800", [])],
            f"mine, position 0: prompt_or_input_text of sample 'a' {HALF}",
        ),
        ([Sample("a", "", ["", "\ud800"])], f"mine, position 0: references of sample 'a' {HALF}"),
        ([Sample("\ud800", "", [])], f"mine, position 0: id of sample '\\ud800' {HALF}"),
        ([Sample("a", "", [], {"b": [{"c\ud800": 1}]})], f"mine, position 0: meta_data of sample 'a' {HALF}"),
        ([SAMPLES[0]] * 2, "mine, position 1: id 'train_0' is also that of a sample before it"),
    ],
)
def test_what_a_datapool_returned_is_checked(samples: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        checked(samples, "mine")
    assert str(caught.value) == message
    assert checked(tuple(SAMPLES), "mine") == SAMPLES


def test_whole_characters_and_meta_data_that_hold_themselves_are_taken() -> None:
    meta: dict[str, Any] = {"text": "\U0001f600 日本", "number": 3}
    meta["itself"] = meta
    assert describe_broken_text(meta) is None
    meta["last"] = ("\U0001f600\udfff",)
    assert "surrogate \\udfff" in (describe_broken_text(meta) or "")


def test_half_of_a_character_in_a_ranking_is_named() -> None:
    ranking = Ranking("r", "p", ["a", "b \ud83d"], [Comparison(0, 1)], [], {})
    with pytest.raises(
        DataError, match=r"mine, position 0: completions of ranking 'r' has half of a character"
    ):
        checked_rankings([ranking], "mine")

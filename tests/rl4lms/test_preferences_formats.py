"""Preference data of every format: what rows say, and what is wrong with a malformed one."""

import json
import logging
from pathlib import Path
from typing import Any, get_args

import pytest
from preference_files import EXAMPLES, Example, user, write

from common.hub import DataError
from rl4lms.datapools import load_rankings, local_problems
from rl4lms.datapools.preferences.args import FormatName
from rl4lms.datapools.preferences.formats import FORMATS, recognise
from rl4lms.rankings import Ranking

CASES = pytest.mark.parametrize("name", EXAMPLES)


def load(path: Path, split: Any = "train", **args: Any) -> list[Ranking]:
    return load_rankings("preferences", split, {"data_path": str(path), **args})


def form_of(name: str) -> str:
    return name.split()[0]


def pairs_of(ranking: Ranking) -> list[tuple[int, int, float]]:
    return [(pair.winner, pair.loser, pair.margin) for pair in ranking.pairs]


def test_every_format_has_an_example() -> None:
    assert {form_of(name) for name in EXAMPLES} == set(get_args(FormatName)) == set(FORMATS)


@CASES
def test_rows_become_rankings(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    example: Example = EXAMPLES[name]
    file = write(tmp_path / "rows.jsonl", *example.rows)
    with caplog.at_level(logging.INFO):
        rankings = load(file, example.split, **example.args)
    assert [(r.prompt, r.completions, pairs_of(r)) for r in rankings] == example.rankings
    assert {pair.weight for ranking in rankings for pair in ranking.pairs} == {1.0}
    # auto says which format it took, and why
    form = form_of(name)
    line = next(line for line in caplog.messages if line.startswith("preferences, split"))
    assert line.startswith(f"preferences, split {example.split}, format {form} (")
    assert all(said in line for said in example.said), line
    assert load(file, example.split, format=form, **example.args) == rankings


@CASES
def test_a_malformed_row_is_named_with_file_and_line(name: str, tmp_path: Path) -> None:
    example: Example = EXAMPLES[name]
    file = write(tmp_path / "rows.jsonl", *example.rows, example.malformed)
    with pytest.raises(DataError) as caught:
        load(file, example.split, **example.args)
    line = len(example.rows) + 1
    assert str(caught.value).startswith(f"{file} line {line}: {example.mistake}"), caught.value
    (problem,) = local_problems("preferences", {"data_path": str(file), **example.args}, [example.split])  # type: ignore[list-item]
    assert (problem.path, problem.message) == ("args.data_path", str(caught.value))


@CASES
def test_the_first_row_tells_the_format(name: str) -> None:
    assert all(recognise(row, "here") == form_of(name) for row in EXAMPLES[name].rows)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "p", "answers": ["a", "b"]}, "no format of preferences: question, answers"),
        (
            {"prompt": "p", "chosen": "a", "rejected": None},
            "no format of preferences: prompt, chosen, rejected",
        ),
        (
            {"prompt": "p", "completions": ["a"], "scores": [1], "chosen": "a", "rejected": "b"},
            "the formats ranking and trl: prompt, completions, scores, chosen, rejected",
        ),
    ],
)
def test_columns_of_no_format_or_of_two(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(DataError) as caught:
        load(file)
    first, second, *formats = str(caught.value).splitlines()
    assert first == f"{file} line 1: its columns fit {what}"
    assert second == "Set datapool.args.format to one of these, or rename the columns:"
    assert len(formats) == len(FORMATS) and formats[8] == "  nectar: prompt, answers"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completions": ["a", "b"], "best": 0}, "no 'prompt'; there are: completions, best"),
        ({"prompt": "p", "completions": [], "best": 0}, "'completions' must be a list of strings, is []"),
        ({"prompt": "p", "completions": ["a", 1], "best": 0}, "completions[1] must be a string, is 1"),
        ({"prompt": "p", "completions": ["a", "b"]}, "needs one of ranks, scores, order, best, has none"),
        (
            {"prompt": "p", "completions": ["a", "b"], "best": 0, "ranks": [1, 2]},
            "needs one of ranks, scores, order, best, has ranks, best",
        ),
        ({"prompt": "p", "completions": ["a", "b"], "best": True}, "'best' must be one of 0, 1, is True"),
        (
            {"prompt": "p", "completions": ["a", "b"], "scores": [1, float("nan")]},
            "scores[1] must be a finite number, is nan",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "best": 0, "gold": [1]},
            "'gold' must be a list of 2 numbers, one a completion, is [1]",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "best": 0, "id": 1.5},
            "'id' must be a string or a whole number, is 1.5",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "best": 0, "references": ["r", None]},
            "references[1] must be a string, is None",
        ),
    ],
)
def test_mistakes_of_rankings(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    good = {"prompt": "p", "completions": ["a", "b"], "best": 0}
    file = write(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(DataError) as caught:
        load(file)
    columns = "prompt, completions and one of ranks, scores, order, best"
    assert str(caught.value) == f"{file} line 2: {message} (format ranking: {columns})"


def test_half_of_a_character_is_named(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["a", "\ud83d"], "best": 0}
    file = write(tmp_path / "rows.jsonl", {**row, "completions": ["a", "b"]}, row)
    with pytest.raises(
        DataError, match=r"line 2: 'completions' has half of a character \(the surrogate \\ud83d\)"
    ):
        load(file)


def test_tokens_are_to_be_decoded(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"query": [1, 2], "sample0": [3], "sample1": [4], "best": 0})
    with pytest.raises(DataError, match="write them as texts"):
        load(file)


def test_a_text_prompt_that_messages_do_not_begin_with(tmp_path: Path) -> None:
    messages = [user("other"), {"role": "assistant", "content": "a"}]
    file = write(tmp_path / "rows.jsonl", {"prompt": "p", "chosen": messages, "rejected": messages})
    with pytest.raises(DataError, match="begin with messages among which 'prompt' is not"):
        load(file, chat_template="plain")


def test_rewardbench_is_not_trained_on(tmp_path: Path) -> None:
    rows = EXAMPLES["rewardbench"].rows
    file = write(tmp_path / "rows.jsonl", *rows)
    message = r"are to evaluate by, not to train on: .* set datapool.args.format to trl"
    with pytest.raises(DataError, match=message):
        load(file, "train")
    assert [p.path for p in local_problems("preferences", {"data_path": str(file)}, ["train"])] == [
        "args.data_path"
    ]
    assert local_problems("preferences", {"data_path": str(file)}, ["test"]) == []
    assert [ranking.meta_data for ranking in load(file, "test")] == [{"subset": "chat"}, {"subset": "Ties"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert len(load(file, "train", format="trl")) == 1

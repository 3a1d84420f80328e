"""Preference data as rankings: merging, ties, references, splits, and where the rows come from."""

import gzip
import logging
from pathlib import Path
from typing import Any

import pytest
from preference_files import EXAMPLES, write

from common.config import ConfigError
from common.hub import DataError
from rl4lms.datapools import DATAPOOLS, load_datapool, load_rankings, local_problems
from rl4lms.rankings import Comparison, Ranking, checked_rankings, content_hash
from rl4lms.samples import Sample, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def load(path: Path, split: Any = "train", **args: Any) -> list[Ranking]:
    return load_rankings("preferences", split, {"data_path": str(path), **args})


def scored(prompt: str, *scores: float, **more: Any) -> dict[str, Any]:
    """A ranking of the texts "a", "b", ... of these scores."""
    return {"prompt": prompt, "completions": list("abcdefgh"[: len(scores)]), "scores": list(scores), **more}


def prompts_of(path: Path, **args: Any) -> dict[str, list[str]]:
    return {split: [ranking.prompt for ranking in load(path, split, **args)] for split in SPLITS}


def test_a_ranking_is_whole_and_is_a_sample_too(tmp_path: Path) -> None:
    row = scored("p", 1, 3, gold=[0.5, 1], id="mine", references=["r", "s"], subset="chat")
    args = {"data_path": str(write(tmp_path / "rows.jsonl", row))}
    ranking = Ranking(
        "mine", "p", ["a", "b"], [Comparison(1, 0)], ["r", "s"], {"subset": "chat", "gold": [0.5, 1.0]}
    )
    assert load_rankings("preferences", "train", args) == [ranking]
    sample = Sample("mine", "p", ["r", "s"], {"subset": "chat", "gold": [0.5, 1.0]})
    assert load_datapool("preferences", "train", args) == [sample]
    sample.references.clear()  # a copy
    assert load_rankings("preferences", "train", args) == [ranking]


def test_a_tie_counts_half_for_either_side_if_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "rows.jsonl", scored("p", 1, 2, 2), scored("q", 1, 1))
    first, second = load(file, ties="half")
    half = [Comparison(1, 2, weight=0.5), Comparison(2, 1, weight=0.5)]
    assert first.pairs == [Comparison(1, 0), Comparison(2, 0), *half]
    assert second.pairs == [Comparison(0, 1, weight=0.5), Comparison(1, 0, weight=0.5)]
    # A tie is neither won nor lost.
    assert [first.references, second.references] == [["b", "c"], []]
    with caplog.at_level(logging.INFO):
        load(file, ties="half")
    (line,) = caplog.messages
    assert line.endswith(
        "2 rows, 2 prompts, 5 completions, 6 comparisons; 2 ties count half for either side; "
        "1 prompt without references"
    )
    assert [ranking.pairs for ranking in load(file)] == [[Comparison(1, 0), Comparison(2, 0)]]


@pytest.mark.parametrize(
    ("rows", "references"),
    [
        ([scored("p", 1, 2, 3)], ["c"]),
        ([scored("p", 1, 3, 3)], ["b", "c"]),
        ([scored("p", 1, 2), scored("p", 2, 1)], []),  # each has lost
        ([scored("p", 1, 2, references="r")], ["r"]),
        ([scored("p", 1, 2, references=[])], ["b"]),
        ([scored("p", 1, 2, demonstration="r"), scored("p", 3, 2, references=["s", "r"])], ["r", "s"]),
    ],
)
def test_references_are_the_rows_or_completions_that_never_lost(
    rows: list[dict[str, Any]], references: list[str], tmp_path: Path
) -> None:
    (ranking,) = load(write(tmp_path / "rows.jsonl", *rows))
    assert ranking.references == references


def test_the_posts_own_summary_is_the_reference(tmp_path: Path) -> None:
    (ranking,) = load(write(tmp_path / "rows.jsonl", *EXAMPLES["summarize"].rows))
    assert ranking.references == [" c"] and ranking.id == "1" and ranking.meta_data == {"subreddit": "tifu"}


def test_gold_goes_with_its_completion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [scored("p", 1, 2, gold=[5, 6]), scored("p", 1, 2, 3, gold=[5, 6, 7])]
    (ranking,) = load(write(tmp_path / "rows.jsonl", *rows))
    assert ranking.meta_data == {"gold": [5.0, 6.0, 7.0]}
    with caplog.at_level(logging.INFO):
        (ranking,) = load(write(tmp_path / "rows.jsonl", rows[0], scored("p", 1, 2, 3)))
    assert ranking.meta_data == {}
    assert "1 prompt with gold of only some completions, left out" in caplog.text
    file = write(tmp_path / "rows.jsonl", rows[0], scored("p", 1, 2, gold=[5, 7]))
    with pytest.raises(
        DataError, match="line 2: 'gold' of a completion is 7, and 6 before it, with the same"
    ):
        load(file)


def test_ids_are_the_rows_numbers_unless_given(tmp_path: Path) -> None:
    rows = [scored("p", 1, 2), scored("p", 1, 2), scored("q", 1, 2), scored("r", 1, 2, id=7)]
    file = write(tmp_path / "rows.jsonl", *rows)
    assert [ranking.id for ranking in load(file)] == ["train_0", "train_2", 7]
    write(file, *rows, scored("s", 1, 2, id=7))
    with pytest.raises(DataError, match=r"line 5: id 7 is also that of another prompt, in .* line 4"):
        load(file)


def test_a_split_is_a_file_or_a_field(tmp_path: Path) -> None:
    for name, prompt in {"train": "p", "dev": "q", "test": "r"}.items():
        write(tmp_path / "files" / f"{name}.jsonl", scored(prompt, 1, 2))
    names = ("train", "valid1", "valid2")
    file = write(
        tmp_path / "rows.jsonl", *(scored(p, 1, 2, split=s) for p, s in zip("pqr", names, strict=True))
    )
    expected = {"train": ["p"], "val": ["q"], "test": ["r"]}
    assert prompts_of(tmp_path / "files") == prompts_of(file) == expected
    # The rows' own say counts more than the files': summarize's validation file has both valid1 and valid2.
    write(
        tmp_path / "files" / "dev.jsonl", scored("q", 1, 2, split="valid1"), scored("s", 1, 2, split="valid2")
    )
    assert prompts_of(tmp_path / "files") == expected | {"test": ["s", "r"]}
    write(file, scored("p", 1, 2, split="training"))
    with pytest.raises(
        DataError, match=r"line 1: 'split' must be one of train, train_prefs, validation, .* is "
    ):
        load(file)
    assert [r.meta_data for r in load(file, split_field=None)] == [{"split": "training"}]


def test_a_split_is_a_share_of_train_by_the_prompts_hash(tmp_path: Path) -> None:
    rows = [scored(f"prompt {i}", 1, 2) for i in range(400)]
    file = write(tmp_path / "rows.jsonl", *rows, *rows[:50])
    shares = {"val_share": 0.2, "test_share": 0.1}
    splits = prompts_of(file, **shares)
    assert 60 < len(splits["val"]) < 100 and 25 < len(splits["test"]) < 55  # of 80 and 40
    assert sorted(prompt for prompts in splits.values() for prompt in prompts) == sorted(
        row["prompt"] for row in rows
    )
    # Neither order nor other prompts move a prompt.
    write(file, *reversed(rows[:200]))
    half = prompts_of(file, **shares)
    assert all(set(half[split]) < set(splits[split]) for split in splits)
    # A file of test is not cut.
    write(tmp_path / "files" / "train.jsonl", *rows[:200])
    write(tmp_path / "files" / "test.jsonl", *rows[200:])
    files = prompts_of(tmp_path / "files", val_share=0.2)
    assert len(files["test"]) == 200 and len(files["train"]) + len(files["val"]) == 200


def test_splits_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", scored("p", 1, 2))
    with pytest.raises(DataError) as caught:
        load(file, "val")
    assert str(caught.value) == (
        f"{file} has no rows of split 'val', only of train; name the rows' splits in files or in a field "
        "'split', or make one of train by the prompts' hash: --set datapool.args.val_share=0.1"
    )
    problems = local_problems("preferences", {"data_path": str(file)}, SPLITS)
    assert [problem.message for problem in problems] == [str(caught.value)]
    write(tmp_path / "rows.jsonl", scored("p", 1, 2, split="val"))
    with pytest.raises(
        DataError, match=r"line 1: is of split 'val': as the data has one, set .*val_share to null"
    ):
        load(file, "val", val_share=0.5)
    write(tmp_path / "rows.jsonl", scored("p", 1, 1))
    with pytest.raises(DataError, match="no prompt of split 'train' has a comparison: 1 row, 0 prompts"):
        load(file)


def test_a_prompt_in_two_splits_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", scored("p", 1, 2), scored("q", 1, 2))
    write(tmp_path / "test.jsonl", scored("r", 1, 2), scored("q", 2, 1))
    with pytest.raises(DataError) as caught:
        load(tmp_path, "train")
    assert str(caught.value) == (
        f"{tmp_path / 'test.jsonl'} line 2: its prompt, 'q', is in split 'test' here, and in split 'train' "
        f"in {tmp_path / 'train.jsonl'} line 2; what is measured on a split must not be trained on: leave it "
        "out of either"
    )


ROWS = [scored("p", 1, 2, gold=[1, 2]), scored("q", 3, 2, gold=[2, 1]), scored("p", 1, 2, gold=[1, 2])]


def test_the_same_rows_from_every_kind_of_file(tmp_path: Path) -> None:
    import datasets

    expected = load(write(tmp_path / "rows.jsonl", *ROWS))
    assert len(expected) == 2
    data = datasets.Dataset.from_list(ROWS)
    lines = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.json").write_bytes(lines)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as file:
        file.write(lines)
    data.to_parquet(tmp_path / "rows.parquet")
    data.save_to_disk(tmp_path / "saved")
    splits = {"train_prefs": data, "train_gen": data}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved_splits")
    (tmp_path / "parts").mkdir()
    for number in (0, 1):
        part = data.select(range(2 * number, min(2 * number + 2, 3)))
        part.to_parquet(tmp_path / "parts" / f"train-0000{number}-of-00002.parquet")
    for name in ("rows.json", "rows.jsonl.gz", "rows.parquet", "saved", "saved_splits", "parts"):
        assert load(tmp_path / name) == expected, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        ("rows.parquet", b"no parquet", "is damaged: "),
        ("rows.csv", b"a,b", "the name must end in one of .jsonl, .json, .jsonl.gz, .json.gz, .parquet"),
        ("rows.jsonl", b"", "has no rows"),
        ("rows.jsonl", b"[1]\n", "line 1: expected a JSON object"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and message in str(caught.value)


def test_malformed_rows_of_parquet_are_named_by_number(tmp_path: Path) -> None:
    import datasets

    rows = [{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": None}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet, row 1: no 'rejected'; there are: chosen, rejected"):
        load(tmp_path / "rows.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no files of rows; it must hold train"):
        load(tmp_path / "empty")
    datasets.DatasetDict({"raw": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no split that can be told, only: raw; save the one to use"):
        load(tmp_path / "saved")


def test_the_hub_is_read_at_a_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    calls = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    commit = "0123456789" * 4
    args = {"hub_dataset": "some/preferences", "hub_config": "all", "hub_revision": commit}
    assert load_rankings("preferences", "train", args) == load(write(tmp_path / "rows.jsonl", *ROWS))
    assert calls == [(("some/preferences", "all"), {"revision": commit})]


@pytest.mark.parametrize(
    ("args", "path", "message"),
    [
        ({}, "data_path", "give either data_path or hub_dataset"),
        ({"data_path": "no/such"}, "data_path", "no such file or folder: 'no/such'"),
        (
            {"hub_dataset": "a/b", "hub_revision": "main"},
            "hub_revision",
            "must be the commit to read, 40 hexadecimal digits, so that every run reads the same rows; "
            "is 'main'",
        ),
        (
            {"data_path": ".", "val_share": 0.6, "test_share": 0.4},
            "val_share",
            "must leave something of train",
        ),
        (
            {"data_path": ".", "chat_template": "chatml"},
            "chat_template",
            "must be auto, plain or a file, is ",
        ),
        ({"data_path": ".", "format": "hhh"}, "format", "'hh'"),
    ],
)
def test_wrong_arguments(args: dict[str, Any], path: str, message: str) -> None:
    (problem,) = DATAPOOLS.check("preferences", args)
    assert problem.path == f"args.{path}" and message in problem.message


def test_files_that_changed_are_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", scored("p", 1, 2))
    assert [ranking.prompt for ranking in load(file)] == ["p"]
    write(file, scored("other", 1, 2))
    assert [ranking.prompt for ranking in load(file)] == ["other"]


GOOD = Ranking("a", "p", ["x", "y"], [Comparison(0, 1)], [], {})


def test_rankings_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rankings_module.py").write_text(
        "from rl4lms.rankings import Comparison, Ranking\n"
        "from rl4lms.samples import Sample\n"
        "def load(split):\n"
        "    return [Ranking('a', 'p', ['x', 'y'], [Comparison(0, 1)], [], {})]\n"
        "def samples(split):\n"
        "    return [Sample('a', 'p', ['x'])]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_rankings("own_rankings_module:load", "val") == [GOOD]
    assert load_datapool("own_rankings_module:load", "val") == [GOOD.sample()]
    with pytest.raises(DataError, match=r"position 0: expected a rl4lms.rankings.Ranking, got Sample"):
        load_rankings("own_rankings_module:samples", "val")
    with pytest.raises(DataError, match="datapool 'imdb' has samples, no rankings; set "):
        load_rankings("imdb", "val")
    with pytest.raises(ConfigError, match="unknown datapool 'preference'; did you mean 'preferences'"):
        load_rankings("preference", "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": ["x", "x"]}, "completions must be different texts; leave out the repeated ones"),
        ({"completions": "xy"}, "completions must be a list of strings, is 'xy'"),
        ({"pairs": []}, "pairs must be a list of at least one rl4lms.rankings.Comparison"),
        ({"pairs": [(0, 1)]}, "pairs must hold rl4lms.rankings.Comparison, one is (0, 1)"),
        (
            {"pairs": [Comparison(0, 2)]},
            "winner and loser must be two indices of its 2 completions, are (0, 2)",
        ),
        (
            {"pairs": [Comparison(1, 1)]},
            "winner and loser must be two indices of its 2 completions, are (1, 1)",
        ),
        ({"pairs": [Comparison(0, 1, weight=0)]}, "a margin must be finite and a weight above 0"),
        ({"references": None}, "references must be a list of strings, is None"),
        ({"prompt": 3}, "prompt must be a string, is 3"),
        ({"id": "b"}, "id 'b' is also that of a ranking before it"),
    ],
)
def test_rankings_that_are_none(change: dict[str, Any], message: str) -> None:
    fields = {name: getattr(GOOD, name) for name in Ranking.__slots__}
    first = Ranking(**fields | {"id": "b"})
    with pytest.raises(DataError) as caught:
        checked_rankings([first, Ranking(**fields | change)], "here")
    assert str(caught.value).startswith(f"here, position 1: {message}")


def test_the_hash_is_of_all_that_a_ranking_says() -> None:
    fields = {name: getattr(GOOD, name) for name in Ranking.__slots__}
    changes: list[dict[str, Any]] = [
        {}, {"id": "b"}, {"prompt": "q"}, {"completions": ["x", "z"]}, {"references": ["x"]},
        {"meta_data": {"gold": [1, 2]}}, {"pairs": [Comparison(1, 0)]}, {"pairs": [Comparison(0, 1, 0.5)]},
        {"pairs": [Comparison(0, 1, weight=0.5)]},
    ]  # fmt: skip
    assert len({content_hash([Ranking(**fields | change)]) for change in changes}) == len(changes)
    assert content_hash([GOOD]) == content_hash([Ranking(**fields | {"pairs": [Comparison(0, 1)]})])

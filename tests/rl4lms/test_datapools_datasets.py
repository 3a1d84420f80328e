"""Each dataset from a few rows in its own format, to the exact prompt and references."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from common.hub import DataError
from rl4lms.datapools import Split, load_datapool
from rl4lms.samples import Sample


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def load(name: str, split: Split, folder: Path, **args: Any) -> list[Sample]:
    return load_datapool(name, split, {"data_path": str(folder), **args})


def test_narrative_qa(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(
        "Who is Ü? \\n  A Man called Ü. \t The OLD man \n"
        'Is it "so"? \\n  He said "no". \t NA \n'
        "Who is Ü? \\n  A Man called Ü. \t null \n"
        '"Quoted, with ""marks"" and\ta tab? \\n x"\tDon\'t\n'
        "\n"
        "Last? \\n  y\t\n",
        encoding="utf-8",
    )
    assert load("narrative_qa", "train", tmp_path) == [
        Sample("train_0", "who is ü? \\n  a man called ü. ", ["the old man", "null"]),
        Sample("train_1", 'is it "so"? \\n  he said "no". ', ["na"]),
        Sample("train_2", 'quoted, with "marks" and\ta tab? \\n x', ["don't"]),
        Sample("train_3", "last? \\n  y", [""]),
    ]


def test_narrative_qa_takes_the_release_s_file_names_and_long_summaries(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "dev.tsv").write_text(f"{'word ' * 50_000}\tanswer\n")
    (sample,) = load("narrative_qa", "val", tmp_path)
    assert (sample.id, len(sample.prompt_or_input_text)) == ("val_0", 250_000)
    assert csv.field_size_limit() == limit
    with pytest.raises(DataError, match=r"has no file of split 'test'; name a folder with --set datapool"):
        load("narrative_qa", "test", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q\ta\nq a\n", r"train.tsv line 2: 1 fields, must be 2 \(input TAB answer\)"),
        (b"q\ta\tb\n", "train.tsv line 1: 3 fields, must be 2"),
        (b"q\t\xff\n", "train.tsv cannot be read: .*utf-8"),
    ],
)
def test_narrative_qa_names_the_damaged_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("narrative_qa", "train", tmp_path)


def test_commongen(tmp_path: Path) -> None:
    concepts = ["field", "look", "stand"]
    rows = [
        {"gem_id": "0", "concepts": concepts, "target": "The player stood in the field.", "references": []},
        {
            "gem_id": "1",
            "concepts": concepts,
            "target": "A coach stands and looks.",
            "references": ["x", "y"],
        },
        {"gem_id": "2", "concepts": ["a", "b"], "target": "", "references": []},
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "validation.jsonl", rows[1:2])
    prompt = "generate a sentence with: field look stand."
    assert load("commongen", "train", tmp_path) == [
        Sample("train_0", prompt, ["The player stood in the field."], {"concepts": concepts}),
        Sample("train_1", prompt, ["A coach stands and looks."], {"concepts": concepts}),
        Sample("train_2", "generate a sentence with: a b.", ["empty reference"], {"concepts": ["a", "b"]}),
    ]
    args = {"prefix": "use: ", "concept_separator_token": ", ", "concept_end_token": "!"}
    assert load("commongen", "val", tmp_path, **args) == [
        Sample("val_0", "use: field, look, stand!", ["A coach stands and looks."], {"concepts": concepts})
    ]


def test_iwslt2017(tmp_path: Path) -> None:
    rows = [
        {"translation": {"en": "Thank you so much, Chris.", "de": "Vielen Dank, Chris. Äh, schön."}},
        {"translation": {"en": "", "de": ""}},
    ]
    write_lines(tmp_path / "test.jsonl", rows)
    assert load("iwslt2017en_de", "test", tmp_path) == [
        Sample(
            "test_0",
            "translate English to German: Thank you so much, Chris.",
            ["Vielen Dank, Chris. Äh, schön."],
        ),
        Sample("test_1", "translate English to German: ", [""]),
    ]
    args = {"prompt_prefix": "en: ", "prompt_suffix": " de:"}
    assert (
        load("iwslt2017en_de", "test", tmp_path, **args)[0].prompt_or_input_text
        == "en: Thank you so much, Chris. de:"
    )
    write_lines(tmp_path / "test.jsonl", [rows[0], {"translation": {"en": "no German"}}])
    with pytest.raises(DataError, match="iwslt2017en_de: row 1 has another form: KeyError: 'de'"):
        load("iwslt2017en_de", "test", tmp_path)


def test_cnn_daily_mail(tmp_path: Path) -> None:
    rows = [
        {
            "article": f"LONDON (CNN) -- It's {i} o'clock.\nDon't go!",
            "highlights": f"It is {i} .",
            "id": str(i),
        }
        for i in range(3)
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    assert load("cnn_daily_mail", "train", tmp_path) == [
        Sample(
            f"train_{i}",
            f"Summarize: LONDON (CNN) -- It's {i} o'clock.\nDon't go!",
            [f"It is {i} ."],
        )
        for i in range(3)
    ]
    samples = load(
        "cnn_daily_mail", "train", tmp_path, max_size=2, truncate_article=9, prompt_suffix=" TL;DR:"
    )
    assert [sample.prompt_or_input_text for sample in samples] == [
        f"Summarize: LONDON ( CNN ) -- It 's {i} o'clock. TL;DR:" for i in range(2)
    ]
    (long,) = load("cnn_daily_mail", "train", tmp_path, max_size=1, truncate_article=100, prompt_prefix="")
    assert long.prompt_or_input_text == "LONDON ( CNN ) -- It 's 0 o'clock. Do n't go !"


def test_daily_dialog(tmp_path: Path) -> None:
    rows = [
        {"dialog": ["a", "b ?", "c", "d"], "act": [1, 2, 3, 4], "emotion": [0, 1, 2, 3]},
        {"dialog": ["too", "short"], "act": [1, 1], "emotion": [0, 0]},
        {"dialog": ["e", "f", "g"], "act": [2, 3, 4], "emotion": [4, 5, 6]},
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    assert load("daily_dialog", "train", tmp_path, context_size=2) == [
        Sample(2, "a<EOU>b ? <EOU>", ["c<EOU>"], {"emotion": [2], "intent": [3]}),
        Sample(3, "b ?<EOU>c <EOU>", ["d<EOU>"], {"emotion": [3], "intent": [4]}),
        Sample(8, "e<EOU>f <EOU>", ["g<EOU>"], {"emotion": [6], "intent": [4]}),
    ]
    with pytest.raises(DataError, match="datapool 'daily_dialog', split 'train': there are no samples"):
        load("daily_dialog", "train", tmp_path, context_size=5)
    write_lines(tmp_path / "train.jsonl", [{"dialog": ["a", "b"], "act": [1], "emotion": [0, 0]}])
    with pytest.raises(DataError, match="not as many emotions and acts as utterances"):
        load("daily_dialog", "train", tmp_path)


def review(number: int, label: int) -> dict[str, Any]:
    return {"text": " ".join(f"w{number}.{i}" for i in range(number % 4 + 3)) + "  end", "label": label}


@pytest.fixture
def reviews(tmp_path: Path) -> tuple[Path, dict[str, list[dict[str, Any]]]]:
    rows = {
        "train": [review(i, i % 2) for i in range(50)],
        "test": [review(i, i % 2) for i in range(100, 130)],
    }
    for name, split in rows.items():
        write_lines(tmp_path / f"{name}.jsonl", split)
    return tmp_path, rows


def test_imdb_splits_are_those_of_the_library_s_shuffle(
    reviews: tuple[Path, dict[str, list[dict[str, Any]]]],
) -> None:
    folder, rows = reviews
    shuffled = {name: list(datasets.Dataset.from_list(rows[name]).shuffle(seed=42)) for name in rows}
    expected: dict[Split, Any] = {
        "train": shuffled["train"][:40],
        "val": shuffled["train"][40:],
        "test": shuffled["test"],
    }
    for split, chosen in expected.items():
        samples = load("imdb", split, folder, seed=42)
        assert [sample.references for sample in samples] == [[row["text"]] for row in chosen]
        assert [sample.id for sample in samples] == [f"{split}_{i}" for i in range(len(chosen))]
        assert all(sample.meta_data == {} for sample in samples)
    assert load("imdb", "train", folder, seed=1) != load("imdb", "train", folder, seed=42)
    text = {sample.references[0]: sample.prompt_or_input_text for sample in load("imdb", "train", folder)}
    # The space-split words of "w4.0 w4.1 w4.2  end" are five, one of them empty; two are the first half.
    assert text["w4.0 w4.1 w4.2  end"] == "w4.0 w4.1"


def test_imdb_drops_negative_texts_of_train_only(
    reviews: tuple[Path, dict[str, list[dict[str, Any]]]],
) -> None:
    folder, rows = reviews
    positive = {row["text"] for row in rows["train"] if row["label"] == 1}
    everything = load("imdb", "train", folder)
    assert load("imdb", "train", folder, only_positive_samples=True) == [
        sample for sample in everything if sample.references[0] in positive
    ]
    others: tuple[Split, ...] = ("val", "test")
    for split in others:
        assert load("imdb", split, folder, only_positive_samples=True) == load("imdb", split, folder)


def test_only_5000_test_reviews(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", [{"text": f"a {i}", "label": 0} for i in range(5_100)])
    order = np.random.default_rng(3).permutation(5_100)
    samples = load("imdb", "test", tmp_path, seed=3)
    assert [sample.references for sample in samples] == [[f"a {i}"] for i in order[:5_000]]


def test_imdb_seq2seq(reviews: tuple[Path, dict[str, list[dict[str, Any]]]]) -> None:
    folder, _ = reviews
    unseen = {sample.references[0] for sample in load("imdb", "val", folder)}
    positive = load("imdb", "train", folder, only_positive_samples=True)
    samples = load("imdb_seq2seq", "train", folder)
    assert [sample.meta_data["reference"] for sample in samples] == [s.references[0] for s in positive]
    for sample in [*samples, *load("imdb_seq2seq", "val", folder)]:
        whole, (second,) = sample.meta_data["reference"], sample.references
        assert f"{sample.prompt_or_input_text} {second}" == whole
    assert not unseen & {sample.meta_data["reference"] for sample in samples}
    half = load("imdb_seq2seq", "train", folder, positive_ratio=0.5)
    assert half == samples[: len(samples) // 2]
    assert len(load("imdb_seq2seq", "val", folder, positive_ratio=0.5)) == 10
    assert len(load("imdb_seq2seq", "test", folder, positive_ratio=0.5)) == 30

"""Rows to train on: of the user's dataset, unchanged, by the verdict or the mean, with a control."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diagnosis_logs import write

from rft_diagnose import cli
from rft_diagnose.cli import main

RATES = {"dead": 0.0, "hard": 0.25, "easy": 0.75, "solved": 1.0}
PROMPTS = [f"{kind} {i}: 1 + {i}?" for kind in RATES for i in range(5)]


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Drawing takes nearly all of the time."""
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)


def rewards(**names):
    """A table of 40 generations of each of 20 inputs; names: columns, by a function of the input's number."""
    names = names or {"prompt": lambda i: PROMPTS[i]}
    rows = []
    for i, prompt in enumerate(PROMPTS):
        passes = round(40 * RATES[prompt.split()[0]])
        columns = {name: make(i) for name, make in names.items()}
        rows += [columns | {"reward": float(j < passes)} for j in range(40)]
    return rows


DATASET = [
    {
        "id": i,
        "prompt": prompt,
        "answer": i + 1,
        "tags": ["sums", {"é": None}],
        "weight": i / 3,
        "ok": i % 2 == 0,
    }
    for i, prompt in enumerate(PROMPTS)
]


class Check:
    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.out = folder / "out"

    def __call__(self, *flags, table=None, dataset=DATASET, name="data.jsonl", expected=0):
        """Diagnose; returns what was said on the error stream."""
        path = write(self.folder / "t.jsonl", table or rewards())
        given = []
        if dataset is not None:
            given = [
                "--dataset",
                str(write(self.folder / name, dataset) if isinstance(dataset, list) else dataset),
            ]
        self.capsys.readouterr()
        status = main([str(path), *given, *map(str, flags), "--output_path", str(self.out)])
        captured = self.capsys.readouterr()
        assert status == expected, captured.err
        return captured.err

    def rows(self, name):
        path = self.out / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None

    def notes(self):
        return json.loads((self.out / "summary.json").read_text())["notes"]


@pytest.fixture
def check(tmp_path, capsys):
    return Check(tmp_path, capsys)


def of_kinds(rows, *kinds):
    return [row for row in rows if row["prompt"].split()[0] in kinds]


def test_rows_of_a_dataset_are_written_as_they_are(check):
    check("--keep", 0.1, 0.9)
    assert check.rows("dead_low") == of_kinds(DATASET, "dead")
    assert check.rows("keep") == of_kinds(DATASET, "hard", "easy")
    control = check.rows("control")
    assert len(control) == 10 and all(row in DATASET for row in control)
    assert len({row["id"] for row in control}) == 10 and control != check.rows("keep")
    assert [row["id"] for row in control] == sorted(row["id"] for row in control)  # in the dataset's order
    kinds = {row["prompt"].split()[0] for row in control}
    assert kinds & {"dead", "solved"}  # of all that was judged
    assert any(
        note.startswith(
            "keep.jsonl: 10 of 20 rows (mean reward from 0.1 to 0.9); control.jsonl: as many of all"
        )
        for note in check.notes()
    )
    assert "data.jsonl: 20 inputs found by 'prompt'" in check.notes()


def test_the_control_is_drawn_by_its_seed(check):
    controls = []
    for seed in (0, 0, 1):
        check("--keep", "live", "--control_seed", seed)
        controls.append(check.rows("control"))
    assert controls[0] == controls[1] != controls[2]


def test_classes_are_kept(check):
    check("--keep", "live", "dead_high")
    assert check.rows("keep") == of_kinds(DATASET, "hard", "easy", "solved")
    assert any("15 of 20 rows (live, dead-high)" in note for note in check.notes())
    check("--keep", "uncertain")
    assert check.rows("keep") is None and check.rows("control") is None
    assert "no keep.jsonl: no row is of what is to be kept (uncertain)" in check.notes()


def test_parquet_and_csv_come_back_too(check, tmp_path):
    moment = datetime.datetime(2024, 5, 1, 12, 30)
    more = {"when": moment, "price": decimal.Decimal("1.50"), "gap": None, "nan": float("nan")}
    more["tags"] = [{"é": None, "x": 1}]
    rows = [row | more for row in DATASET]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    check(dataset=tmp_path / "data.parquet")
    expected = more | {"when": "2024-05-01T12:30:00", "price": "1.50", "nan": None}
    assert check.rows("dead_low") == [row | expected for row in of_kinds(DATASET, "dead")]
    pd.DataFrame(DATASET)[["id", "prompt", "answer"]].to_csv(tmp_path / "data.csv", index=False)
    check(dataset=tmp_path / "data.csv")
    assert check.rows("dead_low") == [
        {key: str(row[key]) for key in ("id", "prompt", "answer")} for row in of_kinds(DATASET, "dead")
    ]
    pq.write_table(pa.Table.from_pylist([row | {"image": b"x"} for row in rows]), tmp_path / "data.parquet")
    error = check(dataset=tmp_path / "data.parquet", expected=2)
    assert error == (
        f"{tmp_path}/data.parquet (--dataset): a value of type bytes is none that JSON has: leave that "
        "column out\n"
    )


def test_rows_are_found_by_id_where_prompts_differ(check):
    """As where the log has the prompt with a chat template around it."""
    table = rewards(prompt_id=lambda i: i, prompt=lambda i: f"<user>{PROMPTS[i]}</user>")
    check(table=table)
    assert check.rows("dead_low") == of_kinds(DATASET, "dead")
    assert "data.jsonl: 20 inputs found by 'id'" in check.notes()


def test_conversations_are_found_however_they_are_stored(check):
    talk = lambda i: [{"role": "user", "content": PROMPTS[i]}]  # noqa: E731
    swapped = lambda i: [{"content": PROMPTS[i], "role": "user"}]  # noqa: E731
    data = [{"messages": swapped(i), "row": i} for i in range(20)]
    check(table=rewards(prompt=talk), dataset=data)
    assert check.rows("dead_low") == data[:5]


def test_a_prompt_that_has_several_rows_has_them_all(check):
    check("--keep", "live", dataset=[*DATASET, DATASET[2] | {"id": 98}, DATASET[7] | {"id": 99}])
    assert [row["id"] for row in check.rows("dead_low")] == [0, 1, 2, 3, 4, 98]
    assert len(check.rows("keep")) == len(check.rows("control")) == 11


def test_what_has_no_partner_is_counted(check):
    fewer = [*DATASET[3:], {"id": 50, "prompt": "another?"}, {"id": 51, "prompt": None}]
    check("--keep", "live", dataset=fewer)
    assert check.rows("dead_low") == DATASET[3:5]
    assert f"3 inputs without a row in data.jsonl: {', '.join(PROMPTS[:3])}" in check.notes()
    assert "2 rows of data.jsonl are of no input that was judged, and in no file" in check.notes()
    assert all(row["id"] < 50 for row in check.rows("control"))


@pytest.mark.parametrize(
    ("dataset", "flags", "message"),
    [
        ([{"id": 1, "prompt": "x"}], [],
         "no row is of an input that was judged. Its first 'prompt' is 'x', the first input "
         "'dead 0: 1 + 0?': name the column of ids or prompts with --join"),
        ([{"text": "x", "label": 1}], [],
         "which column has the ids or the prompts? name it with --join; there are: text, label"),
        (DATASET, ["--join", "promt"], "no column 'promt' (--join); did you mean 'prompt'? there are: id,"),
        ([], [], "no rows"),
    ],
    ids=["nothing", "no column", "unknown", "empty"],
)  # fmt: skip
def test_a_dataset_that_does_not_fit_is_one_line(check, dataset, flags, message):
    error = check(*flags, dataset=dataset, expected=2)
    assert error.startswith(f"{check.folder}/data.jsonl (--dataset): {message}") and error.count("\n") == 1
    assert not check.out.exists()


def test_another_column_can_be_named(check):
    check("--join", "text", dataset=[{"text": row["prompt"], "n": row["id"]} for row in DATASET])
    assert [row["n"] for row in check.rows("dead_low")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep", "alive"], "--keep alive: expected the lowest and the highest mean reward, two numbers, "
         "or classes; did you mean 'live'? known: dead_low, dead_high, live, uncertain"),
        (["--keep", "0.1"], "--keep 0.1: expected the lowest"),
        (["--keep", "0.9", "0.1"], "--keep 0.9 0.1: the lowest mean reward comes first"),
        (["--join", "id"], "--join names a column of --dataset: give that, too"),
        (["--dataset", "none.jsonl"], "none.jsonl cannot be read: No such file or directory"),
        (["--dataset", "none.xyz"], "none.xyz: prompts are read from .jsonl, .json, .csv, .tsv, .parquet"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit_are_one_line(check, flags, message):
    error = check(*flags, dataset=None, expected=2)
    assert error.startswith(message) and error.count("\n") == 1


def test_without_a_dataset_the_rows_are_those_of_the_table(check):
    check("--keep", 0.1, 0.5, dataset=None)
    kept, control = check.rows("keep"), check.rows("control")
    assert [row["prompt"] for row in kept] == [p for p in PROMPTS if p.startswith("hard")]
    assert len(control) == 5 and {row["prompt"] for row in control} <= set(PROMPTS)
    assert kept[0]["class"] == "live" and kept[0]["reward_mean"] == 0.25
    assert len(check.rows("dead_low")) == 5
    check("--keep", "live", dataset=None, table=rewards(prompt_id=lambda i: i))
    assert check.rows("keep") is None
    assert any(
        note.startswith("no keep.jsonl: the table names its inputs by 'prompt_id'") for note in check.notes()
    )


def test_rows_of_an_earlier_check_go(check):
    check("--keep", "live")
    assert check.rows("keep") and check.rows("control")
    check(dataset=None)
    assert check.rows("keep") is None and check.rows("control") is None


def test_a_round_trip_of_random_rows_loses_nothing(check):
    """Dead-low, kept and all other rows are the dataset's, each once."""
    rng = np.random.default_rng(0)
    data = [row | {"x": rng.standard_normal(3).tolist(), "n": int(rng.integers(2**60))} for row in DATASET]
    rng.shuffle(data)
    check("--keep", "live", "dead_high", dataset=data)
    parts = [*check.rows("dead_low"), *check.rows("keep")]
    assert len(parts) == 20 and sorted(parts, key=lambda row: row["id"]) == sorted(
        data, key=lambda r: r["id"]
    )

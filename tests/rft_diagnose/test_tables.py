"""Tables of rewards as libraries leave them, and what is said of those that cannot be used."""

import csv
import gzip
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from rft_diagnose import DiagnosisError
from rft_diagnose.tables import Columns, read_rewards

ROWS = [
    {"prompt": "a, b", "reward": 1.0, "other": 0.5, "step": 1, "kl": 0.1, "answer": "x"},
    {"prompt": 'two\n"lines"', "reward": None, "other": 1, "step": 1, "kl": 0.2, "answer": "y"},
    {"prompt": "a, b", "reward": 0.0, "other": 0.25, "step": 2, "kl": -0.3, "answer": "x"},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        pa.csv.write_csv(pa.Table.from_pylist(rows), path, pa.csv.WriteOptions(delimiter="\t"))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".npz":
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["reward"] = np.array(columns["reward"], dtype=float)
        np.savez(path, **columns)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(write(path.with_suffix(""), rows).read_bytes()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "suffix", [".csv", ".tsv", ".jsonl", ".json", ".npz", ".parquet", ".csv.gz", ".jsonl.gz", ".json.gz"]
)
def test_every_format_gives_the_same_table(tmp_path, suffix):
    path = write(tmp_path / f"rewards{suffix}", ROWS)
    asked = Columns(rewards=("reward", "other"), kl="kl", references="answer")
    table = read_rewards([path], asked)
    assert table.labels == ["a, b", 'two\n"lines"'] and table.codes.tolist() == [0, 1, 0]
    assert table.rewards["reward"][[0, 2]].tolist() == [1, 0] and math.isnan(table.rewards["reward"][1])
    assert table.rewards["other"].tolist() == [0.5, 1, 0.25]
    assert table.steps.tolist() == [1, 1, 2] and table.kl.tolist() == [0.1, 0.2, -0.3]
    assert table.prompts == table.labels and table.references == [["x"], ["y"]]


def test_columns_of_json_and_a_matrix_of_rewards(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"prompt": ["a", "b", "a"], "reward": [1, None, 0.5]}))
    table = read_rewards([tmp_path / "t.json"], Columns())
    assert table.labels == ["a", "b"] and table.rewards["reward"][[0, 2]].tolist() == [1, 0.5]
    rewards = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "m.npz", reward=rewards, answer=["x", "y"])
    table = read_rewards([tmp_path / "m.npz"], Columns(references="answer"))
    assert table.codes.tolist() == [0, 0, 0, 1, 1, 1] and table.rewards["reward"].tolist() == [*range(6)]
    assert table.prompts is None and table.references == [["x"], ["y"]]
    np.savez(tmp_path / "m.npz", reward=rewards, prompt=["p", "q"])
    assert read_rewards([tmp_path / "m.npz"], Columns()).labels == ["p", "q"]


def test_numbers_are_references_too_and_missing_cells_are_missing_rewards(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,reward,answer\np,true,4\n\np,NA,4\nNA,0.5,5\n")
    table = read_rewards([tmp_path / "t.csv"], Columns(references="answer"))
    assert table.labels == ["p", "NA"] and table.references == [["4"], ["5"]]
    assert table.rewards["reward"][[0, 2]].tolist() == [1, 0.5] and np.isnan(table.rewards["reward"][1])
    write(tmp_path / "t.parquet", [{"prompt": "p", "reward": 1, "answer": 4}])
    assert read_rewards([tmp_path / "t.parquet"], Columns(references="answer")).references == [["4"]]


def test_a_folder_is_read_without_the_json_and_arrays_beside_its_tables(tmp_path):
    write(tmp_path / "1.jsonl", ROWS)
    write(tmp_path / "2.csv.gz", ROWS)
    (tmp_path / "2.csv").unlink()
    (tmp_path / "config.json").write_text("{}")
    assert len(read_rewards([tmp_path], Columns()).codes) == 6


def test_long_texts_of_csv_are_read_and_the_limit_of_others_is_left_alone(tmp_path):
    limit = csv.field_size_limit()
    write(tmp_path / "t.csv", [{"prompt": "word " * 100_000, "reward": 1.0}])
    assert len(read_rewards([tmp_path / "t.csv"], Columns()).labels[0]) == 500_000
    assert csv.field_size_limit() == limit


def test_files_and_folders_are_read_together(tmp_path):
    write(tmp_path / "1.parquet", ROWS)
    write(tmp_path / "2.parquet", [{**row, "reward": 1} for row in ROWS[::-1]])  # whole numbers this time
    (tmp_path / "notes.txt").write_text("not a table")
    table = read_rewards([tmp_path], Columns())
    assert table.codes.tolist() == [0, 1, 0, 0, 1, 0] and table.rewards["reward"][3:].tolist() == [1, 1, 1]
    both = read_rewards([tmp_path / "1.parquet", tmp_path / "2.parquet"], Columns())
    assert both.labels == table.labels and both.codes.tolist() == table.codes.tolist()


def test_ids_may_be_numbers_and_rewards_truth_values(tmp_path):
    rows = [{"prompt_id": i // 2, "prompt": "?", "ok": i % 2 == 0} for i in range(4)]
    table = read_rewards([write(tmp_path / "t.parquet", rows)], Columns(rewards=("ok",)))
    assert table.labels == ["0", "1"] and table.rewards["ok"].tolist() == [1, 0, 1, 0]
    assert table.prompts is None and table.steps is None


def trl_rows(prompts):
    return [
        {"step": 5, "prompt": prompt, "completion": "c", "format_reward": 0.5, "accuracy_reward": i % 2,
         "note": "an extra column", "advantage": 0.1}
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip


def test_completions_of_trl_are_recognised(tmp_path):
    write(tmp_path / "completions_00005.parquet", trl_rows(["p", "p", "q", "q"]))
    table = read_rewards([tmp_path], Columns())
    assert list(table.rewards) == ["format_reward", "accuracy_reward"] and table.steps.tolist() == [5] * 4
    recognised, gaps = table.notes
    assert recognised == (
        "recognised as completions logged by TRL, with the rewards format_reward, accuracy_reward"
    )
    assert gaps.startswith("TRL logs the batches of logging steps alone: 1 of 5 steps are here. ")
    asked = Columns(rewards=("accuracy_reward",))
    assert list(read_rewards([tmp_path], asked).rewards) == ["accuracy_reward"]


def test_conversations_are_inputs_too(tmp_path):
    talk = [[{"role": "user", "content": text}] for text in ("hé", "hé", "ho")]
    for suffix in (".parquet", ".jsonl"):
        table = read_rewards([write(tmp_path / f"t{suffix}", trl_rows(talk))], Columns())
        assert table.codes.tolist() == [0, 0, 1]
        assert json.loads(table.labels[0]) == talk[0] and "hé" in table.labels[0]


def test_numbers_as_text_count_if_all_are_numbers(tmp_path):
    rows = [{"prompt": "p", "reward": "0.5", "step": "7"}, {"prompt": "p", "reward": "1e-1", "step": "8"}]
    table = read_rewards([write(tmp_path / "t.jsonl", rows)], Columns())
    assert table.rewards["reward"].tolist() == [0.5, 0.1] and table.steps.tolist() == [7, 8]


def test_nan_is_a_missing_reward(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "p", "reward": NaN}\n{"prompt": "p", "reward": 1}\n')
    assert np.isnan(read_rewards([tmp_path / "t.jsonl"], Columns()).rewards["reward"]).tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("name", "content", "asked", "message"),
    [
        ("t.csv", "prompt,reward\np,1\nq,good\n", {}, "'reward' must hold numbers, row 2 holds 'good'"),
        ("t.jsonl", '{"prompt": "p", "reward": 1}\n{"prompt": "p", "reward": "bad"}\n', {},
         "'reward' must hold numbers, row 2 holds 'bad'"),
        ("t.jsonl", '{"prompt": "p", "reward": [1, "x"]}\n', {}, "'reward' must hold numbers, holds list"),
        ("t.jsonl", '{"prompt": "p", "reward": 1}\n{"prompt": \n', {}, "t.jsonl line 2 is not JSON"),
        ("t.jsonl", '{"prompt": "p", "reward": 1}\n{"reward": 1}\n', {}, "no 'prompt' in row 2"),
        ("t.csv", "prompt,reward\np,inf\n", {}, "'reward' is infinite in row 1"),
        ("t.csv", "prompt,reward,step\np,1,\n", {}, "no 'step' in row 1"),
        ("t.csv", "prompt,points\np,1\n", {},
         "which column is the reward? give it with --reward; there are: prompt, points"),
        ("t.csv", "question,reward\np,1\n", {},
         "which column names the input? give it with --prompt; there are: question, reward"),
        ("t.csv", "prompt,reward\np,1\n", {"rewards": ("rewrd",)},
         "no column 'rewrd' (--reward); did you mean 'reward'? there are: prompt, reward"),
        ("t.csv", "prompt,reward\np,1\n", {"references": "answer"}, "no column 'answer' (--references)"),
        ("t.csv", "prompt,reward\n", {}, "no rows"),
        ("t.csv", "", {}, "cannot be read"),
        ("t.csv", "prompt,reward\np,1\np,1,2\n", {}, "3 columns where the header has 2 (line 3)"),
        ("t.csv.gz", "prompt,reward\n", {}, "cannot be read"),
        ("t.json", "{", {}, "is not JSON"),
        ("t.json", "3", {}, "expected a list of objects, one a row, or an object of lists"),
        ("t.json", '{"prompt": [1], "reward": []}', {}, "its lists differ in length"),
        ("t.npz", "not arrays", {}, "cannot be read"),
        ("t.parquet", "not parquet", {}, "cannot be read"),
        ("t.txt", "prompt,reward\n", {}, "expected one of .csv, .jsonl, .ndjson, .parquet"),
        ("t.jsonl", "", {}, "t.jsonl: no rows"),
        ("t.pt", "not a file of torch", {}, "cannot be read as an extraction file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said(tmp_path, name, content, asked, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DiagnosisError) as error:
        read_rewards([tmp_path / name], Columns(**asked))
    assert message in str(error.value) and str(tmp_path / name) in str(error.value)


def test_missing_files_and_empty_folders_are_said(tmp_path):
    with pytest.raises(DiagnosisError, match="no such file"):
        read_rewards([tmp_path / "nothing.csv"], Columns())
    with pytest.raises(DiagnosisError, match="no table in this folder"):
        read_rewards([tmp_path], Columns())


def test_a_wrong_value_is_named_with_its_file_and_row(tmp_path):
    write(tmp_path / "1.jsonl", [{"prompt": "p", "reward": 1.0}] * 3)
    write(tmp_path / "2.jsonl", [{"prompt": "p", "reward": 1.0}, {"prompt": "p", "reward": math.inf}])
    with pytest.raises(DiagnosisError, match=r"2\.jsonl: 'reward' is infinite in row 2"):
        read_rewards([tmp_path], Columns())


def test_arrays_of_other_shapes_are_said(tmp_path):
    np.savez(tmp_path / "t.npz", reward=np.zeros((2, 3)), prompt=["a", "b", "c", "d"])
    with pytest.raises(
        DiagnosisError, match=r"one length, or \[inputs, generations\]: reward \[6\], prompt \[4\]"
    ):
        read_rewards([tmp_path / "t.npz"], Columns())


def test_tables_that_do_not_fit_together_are_said(tmp_path):
    write(tmp_path / "1.parquet", [{"prompt": "p", "reward": 1.0}])
    write(tmp_path / "2.parquet", [{"prompt": "p", "reward": "good"}])
    with pytest.raises(DiagnosisError, match="do not fit together"):
        read_rewards([tmp_path], Columns())


@pytest.fixture
def extraction(tmp_path):
    path = tmp_path / "run.pt"
    values = {"rouge": torch.tensor([[0.0, 0.0], [0.5, 1.0]]), "chrf": torch.ones(2, 2)}
    texts = {"ids": [7, "b"], "prompts": ["p", "q"], "references": [["x"], ["y", "z"]]}
    torch.save({"all_metric_values": values, **texts}, path)
    return path


def test_the_folder_of_an_extractions_run_stands_for_its_file(extraction):
    """Beside it, where the runner writes it; or in it, without any table."""
    run = extraction.with_name("run")
    (run / "test").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    assert read_rewards([run], Columns()).labels == ["7", "b"]
    extraction.rename(run / "other.pt")
    assert read_rewards([run], Columns()).labels == ["7", "b"]


def test_an_extraction_whose_texts_are_all_the_same_says_so(extraction):
    content = torch.load(extraction, weights_only=True)
    torch.save(content | {"all_generated_texts": [["a", "a"], ["b", "b"]]}, extraction)
    assert read_rewards([extraction], Columns()).warnings == (
        "all 2 texts of 2 inputs are the same: is sampling on?",
    )
    torch.save(content | {"all_generated_texts": [["a", "a"], ["b", "c"], ["d"]]}, extraction)
    assert read_rewards([extraction], Columns()).warnings == ()


def test_extractions_give_their_first_metric_or_those_asked_for(extraction):
    table = read_rewards([extraction], Columns())
    assert list(table.rewards) == ["rouge"] and table.rewards["rouge"].tolist() == [0, 0, 0.5, 1]
    assert table.labels == ["7", "b"] and table.prompts == ["p", "q"] and table.references[1] == ["y", "z"]
    assert list(read_rewards([extraction], Columns(rewards=("chrf", "rouge"))).rewards) == ["chrf", "rouge"]
    with pytest.raises(DiagnosisError, match=r"no column 'rogue' \(--reward\); did you mean 'rouge'"):
        read_rewards([extraction], Columns(rewards=("rogue",)))
    with pytest.raises(DiagnosisError, match=r"has no column 'kl' \(--kl\): give --reference"):
        read_rewards([extraction], Columns(kl="kl"))
    with pytest.raises(DiagnosisError, match="one extraction at a time"):
        read_rewards([extraction, extraction], Columns())

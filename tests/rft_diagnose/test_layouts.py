"""Layouts of tables: lists of rewards, wide columns, rewards in objects, forms of JSON, packed files."""

import gzip
import json
import math
import sys
import types

import numpy as np
import pandas as pd
import pytest
from diagnosis_logs import PLANTED, PROMPTS, REWARDS, generations, make_log, verdict, write

from rft_diagnose import DiagnosisError, cli
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards

NAMES = list(dict.fromkeys(PROMPTS))
MATRIX = np.array(REWARDS).reshape(12, 8)
GROUPS = MATRIX.tolist()
TEXTS = [[f"text {i} {j}" for j in range(8)] for i in range(12)]


def table(path, rows):
    """Write rows, which may hold lists, as the path's format has them."""
    if path.suffix == ".csv":
        pd.DataFrame(
            [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        ).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write(path, rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize("name", ["reward", "rewards", "scores", "judge_reward"])
def test_a_row_an_input_with_a_list_of_rewards(tmp_path, name, suffix):
    rows = [
        {"prompt": prompt, name: rewards, "completions": texts, "source": "gsm8k"}
        for prompt, rewards, texts in zip(NAMES, GROUPS, TEXTS, strict=True)
    ]
    path = table(tmp_path / f"t{suffix}", rows)
    assert verdict(path)[0] == PLANTED and generations(path) == 96
    assert read_rewards([path], Columns()).labels == NAMES


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_any_length_with_missing_rewards_and_a_conversation_as_prompt(tmp_path, suffix):
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"prompt": talk, "reward": [1.0, None]}, {"prompt": talk[:1], "reward": [0.0, 1.0, 1.0]}]
    result = read_rewards([table(tmp_path / f"t{suffix}", rows)], Columns())
    assert result.codes.tolist() == [0, 0, 1, 1, 1] and json.loads(result.labels[0]) == talk
    assert math.isnan(result.rewards["reward"][1]) and result.rewards["reward"][2:].tolist() == [0, 1, 1]


def test_lists_beside_a_reward_stay_what_they_are(tmp_path):
    rows = [row | {"token_rewards": [0.1, 0.2], "judge_scores": [1, 2, 3]} for row in make_log()]
    assert verdict(table(tmp_path / "t.jsonl", rows))[0] == PLANTED
    assert verdict(table(tmp_path / "t.parquet", rows))[0] == PLANTED


def test_a_row_whose_list_is_none_is_named(tmp_path):
    rows = [{"prompt": name, "reward": values} for name, values in zip(NAMES, GROUPS, strict=True)]
    rows[7]["reward"] = 1.0
    path = table(tmp_path / "t.jsonl", rows)
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert str(error.value) == (
        f"{path} line 8 is not as the first ones are: 'reward' is no list of numbers, but 1.0"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize("form", ["r{}", "reward_{}", "score {}", "reward[{}]", "{}"])
def test_wide_columns(tmp_path, form, suffix):
    rows = [
        {"prompt": name, **{form.format(i): value for i, value in enumerate(values)}}
        for name, values in zip(NAMES, GROUPS, strict=True)
    ]
    path = table(tmp_path / f"t{suffix}", rows)
    assert verdict(path)[0] == PLANTED and generations(path) == 96


def test_wide_columns_with_texts_may_begin_at_one_and_lack_some(tmp_path):
    rows = [
        {"id": i, "question": name, "split": "train"}
        | {f"reward_{j + 1}": value for j, value in enumerate(values)}
        | {f"completion_{j + 1}": text for j, text in enumerate(texts)}
        for i, (name, values, texts) in enumerate(zip(NAMES, GROUPS, TEXTS, strict=True))
    ]
    rows[0]["reward_8"] = None
    result = read_rewards([table(tmp_path / "t.csv", rows)], Columns(prompt="question"))
    assert len(result.codes) == 96 and np.isnan(result.rewards["reward"]).sum() == 1
    assert result.warnings == ()
    same = [row | {f"completion_{j}": "4" for j in range(1, 9)} for row in rows]
    warned = read_rewards([table(tmp_path / "t.csv", same)], Columns(prompt="question")).warnings
    assert warned == ("all 8 texts of 12 inputs are the same: is sampling on?",)


@pytest.mark.parametrize("names", [("r0", "r2"), ("reward_0", "reward_1", "reward"), ("step_0", "step_1")])
def test_numbered_columns_that_are_no_generations(tmp_path, names):
    rows = [{"prompt": name, **dict.fromkeys(names, 1.0)} for name in NAMES]
    result = None
    try:
        result = read_rewards([table(tmp_path / "t.csv", rows)], Columns())
    except DiagnosisError as error:
        assert "which column is the reward?" in str(error) or "several columns may be" in str(error)
    assert result is None or list(result.rewards) == ["reward"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_rewards_in_an_object(tmp_path, suffix):
    parts = [
        {"prompt": p, "rewards": {"right": r, "form": 1.0}} for p, r in zip(PROMPTS, REWARDS, strict=True)
    ]
    with pytest.raises(
        DiagnosisError, match=r"may be the reward: rewards\.right, rewards\.form; name what is"
    ):
        verdict(table(tmp_path / f"t{suffix}", parts))
    assert verdict(tmp_path / f"t{suffix}", rewards=("rewards.right",))[0] == PLANTED
    for row in parts:
        row["rewards"]["total"] = row["rewards"]["right"]
    assert verdict(table(tmp_path / f"t{suffix}", parts))[0] == PLANTED
    single = [{"prompt": p, "reward": {"value": r}} for p, r in zip(PROMPTS, REWARDS, strict=True)]
    assert verdict(table(tmp_path / f"t{suffix}", single))[0] == PLANTED


FRAME = pd.DataFrame(make_log())


@pytest.mark.parametrize("orient", ["columns", "index", "split", "records", "table"])
def test_json_of_pandas(tmp_path, orient):
    FRAME.to_json(tmp_path / "t.json", orient=orient)
    assert verdict(tmp_path / "t.json")[0] == PLANTED


def test_a_line_of_lists(tmp_path):
    columns = {name: list(values) for name, values in FRAME.items() if name != "completion"}
    (tmp_path / "t.jsonl").write_text(json.dumps(columns) + "\n")
    assert verdict(tmp_path / "t.jsonl")[0] == PLANTED
    columns["prompt"].pop()
    (tmp_path / "t.jsonl").write_text(json.dumps(columns) + "\n")
    with pytest.raises(DiagnosisError, match=r"line 1 is not .* lists differ in length: step 96, prompt 95"):
        verdict(tmp_path / "t.jsonl")
    columns["step"] = 1
    (tmp_path / "t.jsonl").write_text(json.dumps(columns) + "\n")
    with pytest.raises(DiagnosisError, match=r"lists differ in length: accuracy_reward 96, prompt 95"):
        verdict(tmp_path / "t.jsonl")
    columns["accuracy_reward"].pop()
    (tmp_path / "t.jsonl").write_text(json.dumps(columns) + "\n")
    assert generations(tmp_path / "t.jsonl") == 95


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.json"])
def test_a_matrix_of_rewards(tmp_path, name):
    path = tmp_path / name
    if name == "t.npy":
        np.save(path, MATRIX)
    elif name == "t.npz":
        np.savez(path, MATRIX, prompt=NAMES)
    else:
        path.write_text(json.dumps(GROUPS))
    assert verdict(path)[0] == PLANTED and generations(path) == 96
    assert read_rewards([path], Columns()).labels[1] == ("q1" if name == "t.npz" else "1")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"expected rewards \[inputs, generations\], got an array \[5\]"),
        (np.array([["a", "b"]]), r"expected rewards \[inputs, generations\], got an array \[1, 2\]"),
    ],
)
def test_arrays_that_are_no_matrix_of_rewards(tmp_path, array, message):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(DiagnosisError, match=message):
        verdict(tmp_path / "t.npy")
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DiagnosisError, match=r"t\.npy cannot be read: "):
        verdict(tmp_path / "t.npy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"columns": ["prompt", "reward"], "data": [["q", 1], ["q"]]}',
            "row 2 of 'data' has not the 2 'columns'",
        ),
        ('{"columns": 1, "data": []}', "expected lists under 'columns' and 'data'"),
        ('{"prompt": {"0": "q"}, "reward": {"1": 1}}', "its objects have different fields"),
        ('{"prompt": "q", "reward": 1}', "expected a list of objects, one a row, or an object of lists"),
        ("{}", "expected a list of objects"),
        ("[]", "no rows"),
    ],
)
def test_json_that_is_no_table(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DiagnosisError, match=message):
        verdict(tmp_path / "t.json")


def test_json_counts_in_a_folder_without_other_tables(tmp_path):
    FRAME.to_json(tmp_path / "t.json", orient="split")
    (tmp_path / "config.json").write_text('{"lr": 1}')
    found, notes = verdict(tmp_path)
    assert found == PLANTED and "left out, as without the columns of rewards: config.json" in notes


# Packed files


def test_zstandard_needs_its_package_and_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "t.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd....")
    with pytest.raises(DiagnosisError) as error:
        verdict(tmp_path / "t.jsonl.zst")
    assert str(error.value) == (
        f"{tmp_path / 't.jsonl.zst'}: packed with Zstandard, it needs zstandard: "
        "pip install 'rft-diagnose[zstd]'"
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".tsv"])
def test_files_packed_with_zstandard(tmp_path, suffix):
    zstandard = pytest.importorskip("zstandard")
    plain = tmp_path / f"t{suffix}"
    FRAME.to_csv(plain, index=False, sep="\t" if suffix == ".tsv" else ",")
    if suffix.startswith(".json"):
        FRAME.to_json(plain, orient="records", lines=suffix == ".jsonl")
    packed = zstandard.ZstdCompressor().compress(plain.read_bytes())
    path = tmp_path / f"t{suffix}.zst"
    path.write_bytes(packed)
    assert verdict(path)[0] == PLANTED
    path.write_bytes(packed[:-20])
    with pytest.raises(DiagnosisError, match="cannot be read: it ends before its packed content does"):
        verdict(path)
    path.write_bytes(plain.read_bytes())
    with pytest.raises(DiagnosisError, match="cannot be read: it is not packed with Zstandard"):
        verdict(path)
    halves = [
        zstandard.ZstdCompressor().compress(part)
        for part in (plain.read_bytes()[:50], plain.read_bytes()[50:])
    ]
    path.write_bytes(b"".join(halves))  # several frames, as when a log is continued
    assert verdict(path)[0] == PLANTED


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_a_torn_gzip_is_refused(tmp_path, suffix):
    plain = tmp_path / f"t{suffix}"
    FRAME.to_csv(plain, index=False) if suffix == ".csv" else FRAME.to_json(
        plain, orient="records", lines=True
    )
    (tmp_path / f"t{suffix}.gz").write_bytes(gzip.compress(plain.read_bytes())[:-30])
    with pytest.raises(DiagnosisError, match="cannot be read: Compressed file ended before"):
        verdict(tmp_path / f"t{suffix}.gz")


# Texts


def test_texts_that_are_all_the_same_come_before_any_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)
    write(tmp_path / "t.jsonl", [row | {"completion": "4"} for row in make_log()])
    assert cli.main(["t.jsonl"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "warning: all 8 texts of 12 inputs are the same: is sampling on?"
    summary = json.loads((tmp_path / "outputs/diagnosis/t/summary.json").read_text())
    assert summary["warnings"] == ["all 8 texts of 12 inputs are the same: is sampling on?"]


def test_some_inputs_with_equal_texts_are_counted(tmp_path):
    rows = [row | ({"completion": "4"} if row["prompt"] in ("q4", "q5") else {}) for row in make_log()]
    result = read_rewards([write(tmp_path / "t.jsonl", rows)], Columns())
    assert result.warnings == ("all 8 texts of 2 of the 12 inputs are the same",)
    later = rows + [row | {"step": 2} for row in make_log(2)]
    assert read_rewards([write(tmp_path / "t.jsonl", later)], Columns()).warnings == ()


# The hub


class Hub(types.ModuleType):
    """Stands in for huggingface_hub: repositories are folders."""

    def __init__(self, root):
        super().__init__("huggingface_hub")
        self.root, self.asked = root, []

    def hf_hub_download(self, repo_id, repo_type, revision, filename):
        self.asked.append((repo_id, repo_type, revision, filename))
        path = self.root / repo_id / filename
        if not path.is_file():
            raise OSError(f"404: {filename} is not in {repo_id}\nsee the docs")
        return str(path)

    def snapshot_download(self, repo_id, repo_type, revision, allow_patterns):
        self.asked.append((repo_id, repo_type, revision, allow_patterns))
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    write(tmp_path / "me" / "log" / "data" / "t.parquet", make_log())
    stand_in = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)
    return stand_in


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("hf://datasets/me/log/data/t.parquet", ("me/log", "dataset", None, "data/t.parquet")),
        ("hf://datasets/me/log@main/data", ("me/log", "dataset", "main", "data/*")),
        ("hf://datasets/me/log", ("me/log", "dataset", None, None)),
        ("hf://me/log/data", ("me/log", "model", None, "data/*")),
    ],
)
def test_paths_on_the_hub(hub, path, asked, capsys):
    assert cli.main([path]) == 0
    assert hub.asked == [asked]
    assert "12 inputs, 96 generations (8 each)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://datasets/me/log/x.parquet", "cannot be fetched: 404: x.parquet is not in me/log"),
        ("hf://datasets/me", "expected hf://datasets/USER/NAME, and perhaps a path in it"),
    ],
)
def test_what_the_hub_has_not_is_said_in_one_line(hub, path, message, capsys):
    assert cli.main([path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}") and message in line


def test_the_hub_needs_its_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cli.main(["hf://datasets/me/log"]) == 2
    assert capsys.readouterr().err == (
        "hf://datasets/me/log needs huggingface_hub: pip install 'rft-diagnose[hub]'\n"
    )


# What is no such layout


def test_rewards_of_the_tokens_of_one_text_are_no_generations(tmp_path):
    rows = [{"prompt": "q", "completion": f"text {i}", "reward": [0.0, 0.0, 1.0]} for i in range(8)]
    for suffix in (".jsonl", ".csv", ".parquet"):
        with pytest.raises(DiagnosisError, match="'reward' must hold numbers"):
            verdict(table(tmp_path / f"t{suffix}", rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("more", [{"completion": "text"}, {}])
def test_scores_of_two_judges_are_no_generations(tmp_path, suffix, more):
    rows = [{"prompt": p, "score_1": r, "score_2": 1.0} | more for p, r in zip(PROMPTS, REWARDS, strict=True)]
    with pytest.raises(DiagnosisError, match="which column is the reward"):
        verdict(table(tmp_path / f"t{suffix}", rows))
    assert verdict(tmp_path / f"t{suffix}", rewards=("score_1",))[0] == PLANTED


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_reward_that_is_asked_for_is_not_taken_apart_by_lists_beside_it(tmp_path, suffix):
    rows = [
        {"prompt": p, "right": r, "token_rewards": [0.1, 0.2]} for p, r in zip(PROMPTS, REWARDS, strict=True)
    ]
    path = table(tmp_path / f"t{suffix}", rows)
    assert verdict(path, rewards=("right",))[0] == PLANTED
    assert generations(path, rewards=("right",)) == 96


def test_what_a_row_is_taken_for_is_said(tmp_path):
    rows = [{"prompt": name, "rewards": values} for name, values in zip(NAMES, GROUPS, strict=True)]
    assert (
        "each row has the generations of an input: rewards" in verdict(table(tmp_path / "t.jsonl", rows))[1]
    )
    rows = [{"prompt": n, "r0": v[0], "r1": v[1]} for n, v in zip(NAMES, GROUPS, strict=True)]
    assert "each row has 2 generations: r0 to r1" in verdict(table(tmp_path / "t.csv", rows))[1]


def test_lists_of_texts_in_csv_are_told_apart(tmp_path):
    rows = [
        {"prompt": name, "reward": values, "completions": texts}
        for name, values, texts in zip(NAMES, GROUPS, TEXTS, strict=True)
    ]
    assert read_rewards([table(tmp_path / "t.csv", rows)], Columns()).warnings == ()

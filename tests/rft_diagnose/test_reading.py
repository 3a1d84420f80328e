"""Files as they really are: torn, in other encodings, with other separators, beside others, out of pipes."""

import gzip
import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diagnosis_logs import PLANTED, generations, make_log, verdict, write

from rft_diagnose import DiagnosisError
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards

ROWS = make_log(1)
SIZE = len(ROWS)


def as_csv(separator=",", quote='"'):
    lines = [separator.join(ROWS[0])]
    lines += [separator.join(f"{quote}{value}{quote}" for value in row.values()) for row in ROWS]
    return "\n".join(lines) + "\n"


def as_jsonl(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


# Torn ends


@pytest.mark.parametrize("cut", [2, 9, 30, 60, 70])
def test_a_torn_last_line_is_left_out_and_said(tmp_path, cut):
    text = as_jsonl()
    (tmp_path / "t.jsonl").write_text(text[:-cut])
    table = read_rewards([tmp_path / "t.jsonl"], Columns())
    assert len(table.codes) == SIZE - 1
    assert f"{tmp_path / 't.jsonl'}: the last line ({SIZE}) is torn and left out" in table.notes
    (tmp_path / "t.jsonl").write_text(text[:-1])  # whole, but for its end
    assert generations(tmp_path / "t.jsonl") == SIZE


def test_a_torn_last_line_may_end_within_a_character_or_in_zeros(tmp_path):
    rows = [row | {"prompt": "é"} for row in ROWS]
    line = json.dumps(rows[0], ensure_ascii=False).encode()
    for end in (line[: line.index("é".encode()) + 1], b"\0" * 500):
        (tmp_path / "t.jsonl").write_bytes(as_jsonl(rows).encode() + end)
        assert generations(tmp_path / "t.jsonl") == SIZE


@pytest.mark.parametrize("end", ["1,q11", '1,q11,"text', "1,q11,text 3", '1,"q\n1', '1,q11,"a\nb'])
def test_a_torn_last_row_of_csv_is_left_out_and_said(tmp_path, end):
    (tmp_path / "t.csv").write_text(as_csv() + end)
    found, notes = verdict(tmp_path / "t.csv")
    assert found == PLANTED and any(
        "the last row (line 9" in n and "is torn and left out" in n for n in notes
    )


def test_a_torn_text_at_the_end_of_a_row_is_no_input_of_its_own(tmp_path):
    text = "reward,prompt\n" + "1,q\n0,q\n" * 4
    (tmp_path / "t.csv").write_text(text + '1,"what is')
    assert read_rewards([tmp_path / "t.csv"], Columns()).labels == ["q"]
    (tmp_path / "t.csv").write_text(text + "1,q")
    assert generations(tmp_path / "t.csv") == 9


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_quote_that_swallows_rows_is_refused(tmp_path, end):
    (tmp_path / "t.csv").write_text('reward,prompt\n1,"q\n' + "0,q\n" * 50 + "1,q" + end)
    with pytest.raises(DiagnosisError, match=r"cannot be read: a quote is not closed \(line 53\)"):
        verdict(tmp_path / "t.csv")


def test_what_is_broken_elsewhere_is_refused(tmp_path):
    lines = as_jsonl().splitlines(keepends=True)
    lines[40] = lines[40][:20] + "\n"
    (tmp_path / "t.jsonl").write_text("".join(lines))
    with pytest.raises(DiagnosisError, match="line 41 is not JSON"):
        verdict(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"prompt": "p"')
    with pytest.raises(DiagnosisError, match=r"no rows \(.*the last line \(1\) is torn"):
        verdict(tmp_path / "t.jsonl")


# Names, separators, encodings


@pytest.mark.parametrize("name", ["t.CSV", "t.Csv", "t.csv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", ", " ; "])
def test_csv_with_any_separator(tmp_path, name, separator):
    (tmp_path / name).write_text(as_csv(separator, "" if separator == " ; " else '"'))
    assert verdict(tmp_path / name)[0] == PLANTED


def test_suffixes_in_capitals(tmp_path):
    (tmp_path / "t.TSV").write_text(as_csv("\t"))
    (tmp_path / "t.JSONL").write_text(as_jsonl())
    (tmp_path / "t.JSONL.GZ").write_bytes(gzip.compress(as_jsonl().encode()))
    write(tmp_path / "t.parquet", ROWS).rename(tmp_path / "t.PARQUET")
    for path in sorted(tmp_path.iterdir()):
        assert verdict(path)[0] == PLANTED


def test_spaces_around_names_and_values_are_none_of_theirs(tmp_path):
    (tmp_path / "t.csv").write_text('prompt , reward, note\nq, 1, "a, b"\nq, 0, c\n"q", 0, d\n')
    table = read_rewards([tmp_path / "t.csv"], Columns(references="note"))
    assert table.labels == ["q"] and table.rewards["reward"].tolist() == [1, 0, 0]
    assert table.references == [["a, b"]]


def test_separators_inside_quotes_are_none(tmp_path):
    (tmp_path / "t.csv").write_text('"prompt","reward","a;b;c"\n"x;y",1,2\n"x;y",0,2\n')
    assert read_rewards([tmp_path / "t.csv"], Columns()).labels == ["x;y"]


def test_one_field_of_three_megabytes(tmp_path):
    rows = [row | {"completion": "word " * 600_000 if i == 50 else "short"} for i, row in enumerate(ROWS)]
    assert verdict(write(tmp_path / "t.csv", rows))[0] == PLANTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".tsv"])
def test_encodings_of_spreadsheets(tmp_path, encoding, suffix):
    text = as_jsonl() if suffix == ".jsonl" else as_csv("\t" if suffix == ".tsv" else ",")
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / f"t{suffix}").write_bytes((mark + text.replace("q11", "qé")).encode(encoding))
    table = read_rewards([tmp_path / f"t{suffix}"], Columns())
    assert table.labels[11] == "qé" and table.labels[0] == "q0"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_wide_encodings_without_a_mark_are_named(tmp_path, encoding, suffix):
    path = tmp_path / f"t{suffix}"
    path.write_bytes((as_jsonl() if suffix == ".jsonl" else as_csv()).encode(encoding))
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert str(error.value) == (
        f"{path} cannot be read: it is UTF-16 without a byte order mark, or UTF-32, or no text: convert it "
        "to UTF-8, such as with iconv -f utf-16le -t utf-8"
    )


@pytest.mark.parametrize(
    "first",
    ["prompt^completion^reward", "# made today", "sep=;", "version https://git-lfs.github.com/spec/v1"],
)
def test_a_csv_file_of_one_column_is_named_with_its_first_line(tmp_path, first):
    path = tmp_path / "t.csv"
    path.write_text(f"{first}\n{as_csv()}")
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert str(error.value) == (
        f"{path}: its first line is one column, {first!r}, where input and reward are two: the names of "
        "columns stand first, separated by commas, tabs, semicolons or bars (|)"
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_is_not_utf8_is_named_with_its_row_where_it_matters(tmp_path, suffix):
    text = as_jsonl() if suffix == ".jsonl" else as_csv()
    path = tmp_path / f"t{suffix}"
    path.write_bytes(text.replace("q5", "qé").encode("latin-1"))
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert str(error.value) == (
        f"{path}: 'prompt' in row 41 is not UTF-8 (byte 0xe9): convert the file, such as with "
        "iconv -f latin1 -t utf-8"
    )
    path.write_bytes(text.replace("text 1 5", "réponse").encode("latin-1"))
    assert verdict(path)[0] == PLANTED


def test_half_a_character_is_named_with_its_row_where_it_matters(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(as_jsonl().replace("q5", "q\\ud83d"))
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert r"'prompt' in row 41 has half of a character (the surrogate \ud83d)" in str(error.value)
    path.write_text(as_jsonl().replace("text 1 5", "q\\ud83d"))
    assert verdict(path)[0] == PLANTED
    rows = "".join(f'{{"prompt": "p", "reward": {i % 2}, "answer": "\\ud83d"}}\n' for i in range(8))
    path.write_text(rows)
    with pytest.raises(DiagnosisError, match=r"'answer' of 'p' has half of a character"):
        read_rewards([path], Columns(references="answer"))


# Unused columns, columns of one name, values that no number holds


HUGE = "9" * 5_000
UNUSED = [
    '"\\ud83d"',
    HUGE,
    "1e999",
    "NaN",
    "[" * 200 + "]" * 200,
    '{"a": {"a": 1, "a": 2}}',
    "-0.0",
    '"' + "x" * 10**6 + '"',
]


@pytest.mark.parametrize("value", UNUSED, ids=range(len(UNUSED)))
def test_unused_columns_never_matter(tmp_path, value):
    (tmp_path / "t.jsonl").write_text(as_jsonl().replace('{"step"', f'{{"extra": {value}, "step"'))
    assert verdict(tmp_path / "t.jsonl")[0] == PLANTED
    rows = as_jsonl().splitlines()
    rows = [row.replace('{"step"', f'{{"extra": {value}, "step"') for row in rows]
    (tmp_path / "t.json").write_text(f"[{','.join(rows)}]")
    assert verdict(tmp_path / "t.json")[0] == PLANTED


def test_unused_arrays_of_any_kind_never_matter(tmp_path):
    reward = np.array([row["accuracy_reward"] for row in ROWS]).reshape(12, 8)
    extra = {
        "objects": np.array([{}, None], dtype=object),
        "cube": np.zeros((2, 3, 4)),
        "one": np.array(3),
        "texts": np.array(["a"] * 7),
    }
    np.savez(tmp_path / "t.npz", **extra, reward=reward)
    assert verdict(tmp_path / "t.npz")[0] == PLANTED
    with pytest.raises(DiagnosisError, match="Object arrays cannot be loaded"):
        verdict(tmp_path / "t.npz", prompt="objects")


def test_two_columns_of_one_name_are_refused_where_they_matter(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,reward,reward,note,note\n" + "p,0,1,a,b\n" * 8)
    (tmp_path / "t.jsonl").write_text(
        '{"prompt": "p", "reward": 0, "reward": 1, "note": "a", "note": "b"}\n' * 8
    )
    (tmp_path / "t.json").write_text('[{"prompt": "p", "reward": 0, "reward": 1, "note": 1, "note": 2}]')
    (tmp_path / "u.json").write_text('{"prompt": ["p"], "reward": [0], "reward": [1]}')
    frame = pd.DataFrame({"prompt": ["p"] * 8, "a": [0] * 8, "b": [1] * 8, "note": "", "note2": ""})
    import pyarrow as pa
    import pyarrow.parquet as pq

    renamed = pa.Table.from_pandas(frame).rename_columns(["prompt", "reward", "reward", "note", "note"])
    pq.write_table(renamed, tmp_path / "t.parquet")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DiagnosisError) as error:
            verdict(path)
        assert str(error.value) == f"{path}: 2 columns are named 'reward': rename the others"
    pq.write_table(renamed.rename_columns(["prompt", "reward", "x", "x", "x"]), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("prompt,reward,x,x\n" + "p,0,1,2\n" * 8)
    (tmp_path / "t.jsonl").write_text('{"prompt": "p", "reward": 0, "x": 1, "x": 2}\n' * 8)
    assert {generations(tmp_path / f"t{suffix}") for suffix in (".parquet", ".csv", ".jsonl")} == {8}


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("1" + "0" * 400, "'reward' must hold numbers, row 2 holds 1"),
        (HUGE, "'reward' is infinite in row 2"),
        ("1e999", "'reward' is infinite in row 2"),
        ("-1e200", "'reward' in row 2 is too large: -1e+200"),
        ("[" * 100_000, "line 2 is not JSON: it is nested too deeply"),
        ("[" * 300 + "]" * 300, "'reward' must hold numbers, holds list"),
        ('"x"', "'reward' must hold numbers, row 2 holds 'x'"),
    ],
    ids=range(7),
)
def test_rewards_that_are_no_numbers(tmp_path, reward, message):
    rows = ["1", reward, "0"]
    (tmp_path / "t.jsonl").write_text("".join(f'{{"prompt": "p", "reward": {r}}}\n' for r in rows))
    with pytest.raises(DiagnosisError) as error:
        verdict(tmp_path / "t.jsonl")
    assert message in str(error.value)


def test_numbers_may_be_references(tmp_path):
    values = [4, 2.5, 4.0, 10**30, True, [1, 2.0, "x"]]
    rows = [{"prompt": f"p{i}", "reward": 0, "answer": value} for i, value in enumerate(values)] * 2
    table = read_rewards([write(tmp_path / "t.jsonl", rows)], Columns(references="answer"))
    assert table.references == [["4"], ["2.5"], ["4"], [str(10**30)], ["True"], ["1", "2", "x"]]
    rows = [{"prompt": "p", "reward": 0, "answer": answer} for answer in (4.0, None)]
    assert read_rewards([write(tmp_path / "t.parquet", rows)], Columns(references="answer")).references == [
        ["4"]
    ]


def test_columns_that_begin_late_are_seen(tmp_path):
    rows = [{"prompt": f"p{i // 8}", "reward": i % 2} for i in range(3_000)]
    late = [row | ({"step": 1} if i >= 2_000 else {}) for i, row in enumerate(rows)]
    with pytest.raises(DiagnosisError, match="no 'step' in row 1"):
        verdict(write(tmp_path / "t.jsonl", late))
    named = [{"prompt": row["prompt"], "note": ""} if i < 1_500 else row for i, row in enumerate(rows)]
    assert len(read_rewards([write(tmp_path / "t.jsonl", named)], Columns()).codes) == 3_000


# Folders


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".tsv"])
def test_files_beside_the_data_are_left_out_and_said(tmp_path, suffix):
    write(tmp_path / "completions_1.parquet", ROWS)
    meta = [{"run": "a", "lr": 1e-5, "seed": 3}]
    if suffix == ".tsv":
        (tmp_path / "meta.tsv").write_text("run\tlr\na\t1\n")
    else:
        write(tmp_path / f"meta{suffix}", meta)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / ".hidden.csv").write_text("a,b\n1,2\n")
    (tmp_path / "README.md").write_text("# a log")
    found, notes = verdict(tmp_path)
    assert found == PLANTED
    assert f"left out, as without the columns of rewards: empty.jsonl, meta{suffix}" in notes


def test_a_file_of_the_data_is_never_left_out(tmp_path):
    """One whose name is that of the others but for its number, or that has a reward of another name."""
    write(tmp_path / "step_1.jsonl", ROWS)
    write(tmp_path / "step_2.jsonl", [{"prompt": row["prompt"], "points": 1} for row in ROWS])
    with pytest.raises(DiagnosisError, match=r"step_2\.jsonl: which column is the reward\?"):
        verdict(tmp_path)
    write(tmp_path / "step_2.jsonl", [{"question": row["prompt"], "reward": 1} for row in ROWS])
    with pytest.raises(DiagnosisError, match=r"step_2\.jsonl: which column names the input\?"):
        verdict(tmp_path)
    write(tmp_path / "step_2.jsonl", [{"prompt": row["prompt"], "step": 2, "score": 1} for row in ROWS])
    with pytest.raises(DiagnosisError) as error:
        verdict(tmp_path)
    assert "do not fit together: the rewards of" in str(error.value)
    assert "step_1.jsonl is accuracy_reward, of" in str(error.value)


def test_a_file_that_is_named_itself_is_never_left_out(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", [{"run": 1}])
    with pytest.raises(DiagnosisError, match=r"b\.jsonl: which column names the input\?"):
        verdict(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_tables_below_a_folder_are_read_if_there_are_none_in_it(tmp_path):
    write(tmp_path / "a" / "b" / "t.jsonl", ROWS)
    assert verdict(tmp_path)[0] == PLANTED
    write(tmp_path / "here.jsonl", make_log(5))
    assert generations(tmp_path) == SIZE  # what is below is something else


# Pipes


def piped(path, content, read):
    """What `read` returns while the content is written into a named pipe."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    try:
        return read(path)
    finally:
        writer.join(timeout=10)


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "json", "parquet", "npz", "gz"])
def test_pipes_are_read_whatever_comes_out(tmp_path, form):
    content = {
        "jsonl": as_jsonl().encode(),
        "csv": as_csv().encode(),
        "tsv": as_csv("\t").encode(),
        "json": json.dumps(ROWS, indent=1).encode(),
        "gz": gzip.compress(as_jsonl().encode()),
    }
    if form == "parquet":
        content[form] = write(tmp_path / "t.parquet", ROWS).read_bytes()
    if form == "npz":
        np.savez(tmp_path / "t.npz", reward=np.array([r["accuracy_reward"] for r in ROWS]).reshape(12, 8))
        content[form] = (tmp_path / "t.npz").read_bytes()
    assert piped(tmp_path / "pipe", content[form], verdict)[0] == PLANTED


def test_a_pipe_says_its_own_name(tmp_path):
    def refused(path):
        with pytest.raises(DiagnosisError) as error:
            verdict(path)
        return str(error.value)

    message = piped(tmp_path / "pipe", b"prompt,points\np,1\n", refused)
    assert message.startswith(f"{tmp_path / 'pipe'}: which column is the reward?")
    assert "it is empty" in piped(tmp_path / "empty", b"", refused)
    with pytest.raises(DiagnosisError, match="/dev/null: neither a file nor a pipe"):
        verdict(Path("/dev/null"))
    with pytest.raises(DiagnosisError, match="x cannot be read: File name too long"):
        verdict(tmp_path / ("x" * 300))

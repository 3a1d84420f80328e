"""The page of inputs: what is in it, and what it leaves out."""

import html
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from clones import REPO
from diagnosis_logs import make_log, write
from explorer_tables import ROWS, check

from rft_diagnose import cli, explorer, write_report
from rft_diagnose.explorer import choose_inputs, readable, spread_out
from rft_diagnose.report import input_key


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes nearly all of the time."""
    monkeypatch.setattr(write_report, "draw", lambda *arguments: [])


def data(folder):
    """What the page shows: facts, inputs by key, and notes."""
    text = (folder / "explorer.html").read_text()
    parts = [
        json.loads(re.search(f"<script type=application/json id={name}>(.*)</script>", text).group(1))
        for name in ("facts", "data")
    ]
    notes = re.findall("<p class=card>(.*)</p>", html.unescape(text.partition("<noscript>")[0]))
    return parts[0], {row["key"]: row for row in parts[1]}, notes


def test_each_input_has_its_generations_by_reward_and_equal_ones_once(tmp_path, undrawn):
    facts, inputs, notes = data(check(tmp_path, ROWS))
    assert facts["rewards"] == ["reward"] and len(inputs) == 40
    assert [kind["name"] for kind in facts["classes"]] == ["dead-low", "dead-high", "live", "uncertain"]
    dead, live = inputs["p02"], inputs["p20"]
    assert (dead["class"], dead["n"], dead["mean"], dead["std"]) == (0, 40, 0, 0) and live["class"] == 2
    assert (dead["id"], dead["prompt"], dead["length"]) == ("p02", "question 2 and so on and so on", 30)
    assert dead["generations"][0] == [20, 0, 0] and dead["texts"][0] == "wrong 2"
    assert sum(count for count, *_ in dead["generations"]) == 40 and len(dead["texts"]) == 21
    assert [reward for _, _, reward in live["generations"]] == [0] * 20 + [1] * 20
    assert {live["texts"][text] for _, text, reward in live["generations"] if reward} == {
        f"says 20 {g}" for g in range(1, 40, 2)
    }
    assert inputs["p00"]["texts"][1] == [("long " * 1000)[:2000], 5000]
    assert notes == ["Texts are cut at 2,000 characters."]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.json", "t.jsonl.gz"])
def test_texts_are_those_of_every_format(name, tmp_path, undrawn):
    rows = ROWS[80:400]
    if name == "t.json":
        (tmp_path / name).write_text(json.dumps(rows))
        folder = check(tmp_path, tmp_path / name)
    elif name.endswith(".gz"):
        subprocess.run(["gzip", str(write(tmp_path / "t.jsonl", rows))], check=True)
        folder = check(tmp_path, tmp_path / name)
    else:
        folder = check(tmp_path, rows, name=name)
    _, inputs, notes = data(folder)
    expected = {
        f"p{i:02}": {r["completion"] for r in rows if r["prompt_id"] == f"p{i:02}"} for i in range(2, 10)
    }
    assert {key: set(row["texts"]) for key, row in inputs.items()} == expected and notes == []


def test_of_a_log_the_generations_are_those_of_the_last_visit_or_the_last_steps(tmp_path, undrawn):
    """Files of three steps, in which the second is logged once more: it is one of the rows left out."""
    for step, rows in ((1, make_log(1)), (2, make_log(2)), (3, make_log(2)), (4, make_log(4))):
        rows = [row | {"step": step} for row in rows]
        write(tmp_path / "log" / f"completions_{step:05}.parquet", rows[: 96 - 8 * (step == 4)])
    _, inputs, _ = data(check(tmp_path, tmp_path / "log"))
    assert set(inputs["q3"]["texts"]) == {f"text 4 {g}" for g in range(24, 32)}
    assert set(inputs["q11"]["texts"]) == {f"text 2 {g}" for g in range(88, 96)}  # step 4 is without it
    _, inputs, _ = data(check(tmp_path, tmp_path / "log", "--last_steps", 2))
    assert set(inputs["q0"]["texts"]) == {f"text {step} {g}" for step in (2, 4) for g in range(8)}


def test_rewards_that_are_missing_are_left_out_and_parts_stand_beside_their_sum(tmp_path, undrawn):
    rows = [row | {"form_reward": 0.5, "kl": 0.1} for row in ROWS[400:480]]
    rows[0]["reward"] = rows[0]["form_reward"] = None
    rows[1]["form_reward"] = None
    flags = ("--reward", "reward", "form_reward", "--weights", 1, 2, "--kl", "kl", "--kl_coef", 1)
    facts, inputs, _ = data(check(tmp_path, rows, *flags))
    assert facts["rewards"] == ["reward + 2 form_reward - 1 KL", "reward", "form_reward", "KL"]
    row = inputs["p10"]
    assert row["n"] == 39 and sum(count for count, *_ in row["generations"]) == 39
    entries = {row["texts"][text]: values for _, text, *values in row["generations"]}
    assert "says 10 0" not in entries
    assert entries["says 10 1"] == [0.9, 1, None, 0.1] and entries["says 10 2"] == [0.9, 0, 0.5, 0.1]


def test_without_texts_the_rewards_are_there_and_the_reason(tmp_path, undrawn):
    np.save(tmp_path / "r.npy", np.tile([[0.0], [1.0], [0.5]], (1, 40)))
    _, inputs, notes = data(check(tmp_path, tmp_path / "r.npy"))
    assert inputs["1"]["generations"] == [[40, -1, 1]] and inputs["1"]["texts"] == []
    assert notes == ["There are no texts of the generations: the table has no column of them."]
    table = write(tmp_path / "t.jsonl", ROWS[:80])
    command = [sys.executable, "-m", "rft_diagnose.cli", "/dev/stdin", "--output_path", "out"]
    subprocess.run(command, input=table.read_bytes(), cwd=tmp_path, check=True, env={"PYTHONPATH": str(REPO)})
    _, inputs, notes = data(tmp_path / "out")
    assert len(inputs) == 2 and notes == [
        "There are no texts of the generations: they came through a pipe, which is read once: give a file "
        "instead."
    ]


def test_a_file_that_changed_meanwhile_gives_no_wrong_texts(tmp_path, undrawn, monkeypatch):
    path, judge = write(tmp_path / "t.jsonl", ROWS[:400]), cli.diagnose_table

    def rewritten(*arguments, **settings):
        write(path, ROWS[400:800])
        return judge(*arguments, **settings)

    monkeypatch.setattr(cli, "diagnose_table", rewritten)
    _, inputs, notes = data(check(tmp_path, path))
    assert len(inputs) == 10 and not any(row["texts"] for row in inputs.values())
    assert notes == [
        f"There are no texts of the generations: {path} has changed since its rewards were read."
    ]


def test_an_extraction_has_its_texts(tmp_path, undrawn):
    import torch

    content = {
        "all_metric_values": {"m": torch.tensor([[0.0, 1.0], [0.5, 0.5]])},
        "ids": ["a", "b"], "prompts": ["one", "two"], "references": [["x"], ["y"]],
        "all_generated_texts": [["a0", "a1"], ["b0", "b0"]],
    }  # fmt: skip
    torch.save(content, tmp_path / "e.pt")
    _, inputs, _ = data(check(tmp_path, tmp_path / "e.pt"))
    assert (inputs["a"]["texts"], inputs["b"]["texts"]) == (["a0", "a1"], ["b0"])
    assert inputs["b"]["generations"] == [[2, 0, 0.5]]


def test_the_same_table_gives_the_same_bytes(tmp_path, undrawn):
    table = write(tmp_path / "t.jsonl", ROWS[:800])
    pages = []
    for seed in ("1", "2"):  # of Python's hashes
        command = [sys.executable, "-m", "rft_diagnose.cli", str(table), "--output_path", f"out{seed}"]
        subprocess.run(
            command, cwd=tmp_path, check=True, env={"PYTHONPATH": str(REPO), "PYTHONHASHSEED": seed}
        )
        pages.append(
            [(tmp_path / f"out{seed}" / name).read_bytes() for name in ("explorer.html", "report.html")]
        )
    assert pages[0] == pages[1]


def test_at_most_so_many_inputs_of_a_class_with_those_that_are_named():
    labels = np.array(["live"] * 2000 + ["dead_low"] * 3)
    chosen = choose_inputs({"label": labels}, [7, 1999, 2001])
    assert len(chosen) == 503 and {7, 1999, 2000, 2001, 2002} <= set(chosen.tolist())
    assert np.array_equal(chosen, choose_inputs({"label": labels}, [7, 1999, 2001]))
    fewer = set(choose_inputs({"label": labels}, [7, 1999, 2001], 10).tolist())
    assert len(fewer) == 13 and fewer <= set(chosen.tolist())


def test_the_first_places_of_an_order_lie_far_apart():
    for size in (1, 2, 3, 37, 64):
        order = spread_out(size)
        assert sorted(order) == list(range(size)) and order[:2] == [0, size - 1][: len(order[:2])]
    assert max(np.diff(sorted(spread_out(64)[:9]))) <= 8


def test_conversations_are_written_as_their_messages():
    messages = [{"role": "user", "content": "1 < 2?"}, {"role": "assistant", "content": "yes"}]
    assert readable(json.dumps(messages)) == "user: 1 < 2?\n\nassistant: yes"
    assert readable(json.dumps(messages[1:])) == "yes" and readable("[{no") == "[{no"
    assert readable("a\ud800é") == "a?é"


def test_a_long_label_is_named_by_its_beginning_and_a_digest():
    first, second = (input_key("x" * 200 + end) for end in "ab")
    assert input_key("short") == "short" and first != second and len(first) < 100 and first[:60] == "x" * 60


@pytest.mark.parametrize("script", ["a", "字"])
def test_the_page_stays_under_its_size_and_says_what_it_leaves_out(tmp_path, undrawn, monkeypatch, script):
    """Texts of 3 MB for a page of at most 400 kB: fewer of each input, and shorter ones."""
    monkeypatch.setattr(explorer, "MOST_BYTES", 400_000)
    monkeypatch.setattr(explorer, "IN_MEMORY", 500_000)
    rows = [row | {"completion": f"{n} " + script * 3000} for n, row in enumerate(ROWS[:1000])]
    folder = check(tmp_path, rows)
    size = (folder / "explorer.html").stat().st_size
    _, inputs, notes = data(folder)
    assert 100_000 < size < 400_000 and len(inputs) == 25
    most = max(len(row["texts"]) for row in inputs.values())
    shown = {len(text[0]) for row in inputs.values() for text in row["texts"]}
    assert all(sum(count for count, *_ in row["generations"]) == 40 for row in inputs.values())
    assert notes == [
        f"At most {most} generations of an input have their texts here, and texts are cut at {max(shown):,} "
        "characters, for a file under 0 MB."
    ]


def test_where_even_rewards_have_no_room_fewer_inputs_are_shown(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_BYTES", 160_000)
    rows = [
        {"prompt": f"q{i} " + "字" * 99, "reward": (g + 0.123456) % 37} for i in range(400) for g in range(70)
    ]
    folder = check(tmp_path, rows)
    _, inputs, notes = data(folder)
    assert (folder / "explorer.html").stat().st_size < 160_000 and 20 < len(inputs) < 400
    assert notes[0].startswith("Of 400 live inputs ")
    assert "Of an input's generations at most 64 are here, from the lowest reward to the highest." in notes

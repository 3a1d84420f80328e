"""The file to finetune on: with prompts that can be used, or a line that says why there is none."""

import csv
import json

import pytest
from diagnosis_logs import make_log, write

from rft_diagnose import cli
from rft_diagnose.cli import main
from rl4lms.datapools import load_datapool


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Drawing takes nearly all of the time."""
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)


def check(tmp_path, rows, *flags, suffix=".jsonl"):
    """Notes of a diagnosis, and the rows of the file to finetune on, or None."""
    output = tmp_path / "out"
    assert main([str(write(tmp_path / f"t{suffix}", rows)), *flags, "--output_path", str(output)]) == 0
    notes = json.loads((output / "summary.json").read_text())["notes"]
    path = output / "dead_low.jsonl"
    return notes, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None


def renamed(**names):
    """A log whose columns have other names, without steps; a function of the prompt where one is given."""
    rows = []
    for row in make_log(1):
        values = {"prompt": row["prompt"], "reward": row["accuracy_reward"]}
        rows.append({k: v(row["prompt"]) if callable(v) else values[v] for k, v in names.items()})
    return rows


REWARD = {"reward": "reward"}
LACKS = "dead_low.jsonl lacks the expected texts that finetuning on it needs: name the column"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_prompt_under_any_name_can_be_used(tmp_path, suffix):
    rows = renamed(question="prompt", **REWARD, answer=lambda prompt: f"the answer to {prompt}")
    flags = ("--prompt", "question", "--references", "answer")
    notes, dead = check(tmp_path, rows, *flags, suffix=suffix)
    assert [row["prompt"] for row in dead] == ["q0", "q1", "q2", "q3"]
    assert not any("dead_low.jsonl" in note for note in notes)
    samples = load_datapool("jsonl", "train", {"data_path": str(tmp_path / "out" / "dead_low.jsonl")})
    assert samples[0].prompt_or_input_text == "q0" and samples[0].references == ["the answer to q0"]


def test_the_text_beside_an_id_is_the_prompt(tmp_path):
    for text in ("prompt", "question", "query"):
        rows = renamed(prompt_id=lambda prompt: int(prompt[1:]), **{text: "prompt"}, **REWARD)
        _, dead = check(tmp_path, rows)
        assert [(row["id"], row["prompt"]) for row in dead] == [(str(i), f"q{i}") for i in range(4)]


@pytest.mark.parametrize(
    "name", ["prompt_id", "sample_id", "uid", "example"]
)  # the last holds numbers, which are no texts
def test_ids_alone_are_no_prompts_and_that_is_said(tmp_path, name):
    rows = renamed(**{name: lambda prompt: int(prompt[1:])}, **REWARD)
    notes, dead = check(tmp_path, rows, "--prompt", name)
    assert dead is None
    assert (
        f"no dead_low.jsonl to finetune on: the table names its inputs by {name!r}, and their texts are not "
        "known: give these in a column `prompt`, or name it with --prompt"
    ) in notes


def test_that_there_are_no_expected_texts_is_said(tmp_path):
    notes, dead = check(tmp_path, renamed(prompt="prompt", **REWARD, gold=str, other=str))
    assert len(dead) == 4 and "references" not in dead[0]
    assert f"{LACKS} that has them with --references (there are: gold, other)" in notes
    notes, _ = check(tmp_path, renamed(prompt="prompt", **REWARD))
    assert f"{LACKS} that has them with --references (there are: no others)" in notes
    gaps = renamed(prompt="prompt", **REWARD, gold=lambda prompt: None if prompt == "q1" else "x")
    notes, dead = check(tmp_path, gaps, "--references", "gold")
    assert "1 inputs in dead_low.jsonl have no expected text" in notes and dead[1]["references"] == []


def test_nothing_is_said_where_nothing_is_dead(tmp_path):
    rows = [{"prompt_id": i // 8, "reward": i % 2} for i in range(96)]
    notes, dead = check(tmp_path, rows)
    assert dead is None and not any("dead_low.jsonl" in note for note in notes)


CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'what is "é"?'}]


@pytest.mark.parametrize("form", ["list", "json", "python"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_conversations_are_written_as_messages(tmp_path, form, suffix):
    forms = {"list": CONVERSATION, "json": json.dumps(CONVERSATION), "python": repr(CONVERSATION)}
    prompt = str(forms[form]) if suffix == ".csv" else forms[form]
    rows = [{"prompt": prompt, "reward": 0.0}] * 40 + [{"prompt": "[1, 2] is what?", "reward": 0.0}] * 40
    notes, dead = check(tmp_path, rows if suffix != ".parquet" else rows[:40], suffix=suffix)
    assert dead[0]["prompt"] == CONVERSATION
    assert suffix == ".parquet" or dead[1]["prompt"] == "[1, 2] is what?"
    said = (
        "1 prompts in dead_low.jsonl are conversations, written as lists of messages: where finetuning takes "
        "texts, write what the model is to see, with the chat template of its tokenizer"
    )
    assert said in notes


@pytest.mark.parametrize(
    "prompt",
    [
        [101, 7, 102],
        {"messages": CONVERSATION},
        [{"from": "human", "value": "hello"}],
        f"array({CONVERSATION}, dtype=object)",
        "tensor([101, 102])",
    ],
    ids=["tokens", "object", "other roles", "numpy", "torch"],
)
def test_prompts_that_are_no_texts_are_named(tmp_path, prompt):
    notes, dead = check(tmp_path, [{"prompt": prompt, "reward": 0.0}] * 40)
    assert len(dead) == 1
    said = (
        "1 prompts in dead_low.jsonl are neither texts nor conversations (lists of role and content), but "
        "lists or objects as they stand in the table: write texts in their place"
    )
    assert said in notes


def test_expected_texts_that_differ_between_rows_are_said(tmp_path):
    rows = renamed(prompt="prompt", answer=lambda prompt: prompt, **REWARD)
    _, dead = check(tmp_path, rows, "--references", "answer")
    assert [row["references"] for row in dead] == [["q0"], ["q1"], ["q2"], ["q3"]]
    rows[3]["answer"], rows[90]["answer"] = "another", "one more"
    notes, dead = check(tmp_path, rows, "--references", "answer")
    assert dead[0]["references"] == ["q0"]
    assert "2 inputs have other expected texts ('answer') in some rows: those of the first count" in notes


def test_texts_that_only_begin_like_conversations_stay(tmp_path):
    for text in (
        "[",
        "{x} is what?",
        "array(1) is what?",
        "[" * 10_000,
        '[{"role": "user"}]',
        "[{'role': 1, 'content': 2}]",
        "[]",
        "[__import__('os')]",
    ):
        _, dead = check(tmp_path, [{"prompt": text, "reward": 0.0}] * 40)
        assert dead[0]["prompt"] == text


def test_inputs_and_prompts_are_columns_of_their_own(tmp_path):
    check(tmp_path, renamed(prompt_id=lambda prompt: int(prompt[1:]), prompt="prompt", **REWARD))
    with (tmp_path / "out" / "inputs.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["input"], row["prompt"]) == ("0", "q0")

"""Sampling from an endpoint: what is asked, what is kept, and every way in which a server misbehaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from endpoint_double import Behaviour, draw, served

from diagnose_vanishing_gradients import main as run_in_clone
from rft_diagnose import cli, endpoint
from rft_diagnose.ask_all import Progress, duration
from rft_diagnose.cli import main

ROOT = Path(__file__).parents[2]
REWARD = """
def right(prompts, completions, **columns):
    return [float(text.startswith("right")) for text in completions]

def short(completions, limit):
    return [1.0 if len(text) < int(limit[0]) else None for text in completions]

async def later(completions, **columns):
    return [0.5 for _ in completions]

def chat(prompts, completions, **columns):
    assert prompts[0][0]["role"] == "user"
    return [float(messages[0]["content"].startswith("right")) for messages in completions]

def broken(completions, **columns):
    return [1 / 0]
"""


@pytest.fixture(autouse=True)
def nothing_slow(monkeypatch):
    """Waits between tries are short, and no pictures are drawn."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(cli, "write_report", lambda *args: False)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with six prompts and rewards, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    rows = [{"prompt": f"{i} is {('even', 'odd')[i % 2]}", "limit": 100} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def command(server, *flags, reward="rewards.py:right", name="out"):
    return [
        *("sample", "prompts.jsonl", "--url", server.url, "--reward_function", reward),
        *("--output_path", name, "--concurrency", "3", *flags),
    ]


def table(folder):
    return [json.loads(line) for line in Path(folder, "generations.jsonl").read_text().splitlines()]


def test_prompts_are_sampled_scored_and_diagnosed(work, capsys):
    with served(Behaviour(finish_reason="length")) as server:
        assert main(command(server, "--generations", "20")) == 0
    out, err = capsys.readouterr()
    assert "right: 6 inputs, 120 generations (20 each)" in out
    summary = json.loads((work / "out/summary.json").read_text())
    assert summary["rewards"]["right"]["no_spread_low"]["count"] == 3  # the odd ones
    assert "100% of the texts are cut at max_tokens" in out
    assert "120 of 120 texts" in err
    rows = table("out")
    assert [row["prompt_id"] for row in rows] == [str(i) for i in range(1, 7) for _ in range(20)]
    assert rows[0]["prompt"] == "0 is even" and len({row["text"] for row in rows}) == 120
    assert {(row["logprob"], row["tokens"], row["finish_reason"]) for row in rows} == {(-0.75, 2, "length")}
    asked = [body for body in server.requests if body.get("n") == 20]
    assert len(asked) == 6 and len({body["seed"] for body in asked}) == 6
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in asked} == {
        ("tiny", 1.0, 512)
    }


def test_the_command_of_a_clone_samples_too(work, capsys):
    with served(Behaviour()) as server:
        assert run_in_clone(command(server)) == 0
        asked = len(server.requests)
        assert main(command(server)) == 0 and len(server.requests) == asked  # the very run
    assert capsys.readouterr().out.count("right: 6 inputs, 48 generations (8 each)") == 2


def test_prompts_of_a_band_are_kept_with_their_columns(work):
    flags = ("--dataset", "prompts.jsonl", "--keep", "0", "0.5")
    with served(Behaviour()) as server:
        assert main(command(server, *flags)) == 0
    kept = [json.loads(line) for line in (work / "out/keep.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in kept if "odd" in row["prompt"]] == ["1 is odd", "3 is odd", "5 is odd"]
    assert {row["limit"] for row in kept} == {100}


def test_the_same_command_asks_for_nothing_again_and_more_generations_are_added(work):
    with served(Behaviour()) as server:
        assert main(command(server)) == 0
        before, asked = table("out"), len(server.requests)
        assert main(command(server)) == 0 and len(server.requests) == asked
        assert main(command(server, "--generations", "12")) == 0
    more = table("out")
    assert len(more) == 72 and {row["text"] for row in before} < {row["text"] for row in more}


def test_n_that_is_ignored_means_a_request_for_each(work, capsys):
    texts = []
    for name, behaviour in (
        ("n", Behaviour()),
        ("each", Behaviour(takes_n=False)),
        ("copies", Behaviour(copies=True)),
    ):
        with served(behaviour) as server:
            assert main(command(server, name=name)) == 0
        texts.append([row["text"] for row in table(name)])
    assert texts[0] == texts[1] == texts[2]  # the seeds of a prompt's samples follow each other
    assert capsys.readouterr().err.count("one text a request (n is ignored): it is asked for each") == 2


def test_the_same_text_every_time_is_refused(work, capsys):
    with served(Behaviour(texts=lambda prompt, seed, place: "forty-two")) as server:
        assert main(command(server)) == 2
        err = capsys.readouterr().err
        assert "two samples of each of the first 4 prompts are the same text ('forty-two')" in err
        assert (
            "is sampling on (temperature 1), or a cache?" in err and not (work / "out/summary.json").exists()
        )
        assert main(command(server, "--allow_equal", "--range", "0", "1")) == 0
    assert "all texts of 6 of 6 prompts are the same" in capsys.readouterr().out


def test_what_fails_is_asked_again_and_gives_the_same_texts(work, capsys):
    with served(Behaviour()) as server:
        assert main(command(server, name="good")) == 0
        asked = len(server.requests)
    # Not in the first requests, which find out what the server can do.
    failures = ["429", "500", "503", "truncated", "half", "drop", "empty", "hang", "429"]
    bad = Behaviour()
    answer = bad.answer

    def fails_later(path, body):
        if body.get("n") == 8 and failures:
            bad.failures, failures[:] = list(failures), []
        return answer(path, body)

    bad.answer = fails_later
    with served(bad) as server:
        assert main(command(server, "--timeout", "1", name="bad")) == 0
    assert not failures and not bad.failures and len(server.requests) == asked + 9
    assert [row["text"] for row in table("bad")] == [row["text"] for row in table("good")]


def test_a_server_that_goes_away_stops_the_run_and_the_same_command_goes_on(work, capsys, monkeypatch):
    monkeypatch.setattr(endpoint, "TRIES", 2)
    behaviour = Behaviour()
    answer = behaviour.answer

    def goes_away(path, body):
        if sum(request.get("n") == 8 for request in behaviour.requests) > 3:
            return 503, {"error": {"message": "gone"}}
        return answer(path, body)

    behaviour.answer = goes_away
    with served(behaviour) as server:
        assert main(command(server)) == 2
    err = capsys.readouterr().err
    assert "HTTP 503: gone, after many tries; 24 of 48 texts are kept in out: the same command goes on" in err
    with served(Behaviour()) as server:
        assert main(command(server)) == 0
    assert sum(request.get("n") == 8 for request in server.requests) == 3
    with served(Behaviour()) as server:
        assert main(command(server, name="whole")) == 0
    assert table("out") == table("whole")


def test_a_killed_run_is_gone_on_with(work):
    with served(Behaviour(delay=0.15, takes_n=False)) as server:
        arguments = command(server)
        process = subprocess.Popen(
            [sys.executable, "-m", "rft_diagnose.cli", *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        texts = work / "out/texts.jsonl"
        until = time.monotonic() + 60
        while not (texts.exists() and texts.read_text().count("\n") >= 12):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open(texts, "a") as file:
            file.write('{"number": 5, "sam')  # as a crash in the middle of a line leaves it
        kept = texts.read_text().count("\n")
        server.delay, server.requests[:] = 0, []
        assert main(arguments) == 0
        # What finds out about the server asks for shorter texts.
        assert sum(body["max_tokens"] == 512 for body in server.requests) == 48 - kept
    with served(Behaviour(takes_n=False)) as server:
        assert main(command(server, name="whole")) == 0
    assert [row["text"] for row in table("out")] == [row["text"] for row in table("whole")]


def test_texts_that_are_missing_in_the_middle_leave_a_smaller_group(work, capsys):
    with served(Behaviour(takes_n=False)) as server:
        assert main(command(server, "--generations", "4")) == 0
    behaviour = Behaviour(takes_n=False)
    answer, (seed,) = behaviour.answer, {endpoint.seed_of(0, 2, 6)}
    behaviour.answer = lambda path, body: (
        (400, {"error": {"message": "no"}}) if body.get("seed") == seed else answer(path, body)
    )
    with served(behaviour) as server:
        assert main(command(server, "--generations", "8")) == 0
    rows = [row for row in table("out") if row["prompt_id"] == "3"]
    assert len(rows) == 7 and all(row["right"] == row["text"].startswith("right") for row in rows)
    assert "1 texts of 1 prompts could not be had (rows 3): HTTP 400: no" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_prompt_that_is_refused_is_left_out_and_said(work, capsys):
    with served(Behaviour(poison="3 is odd")) as server:
        assert main(command(server)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "8 texts of 1 prompts could not be had (rows 4): HTTP 400: this prompt is too long" in out
    assert {row["prompt_id"] for row in table("out")} == {"1", "2", "3", "5", "6"}


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(status=401), "HTTP 401: the key is wrong"),
        (Behaviour(refused=("max_tokens",)), "HTTP 422: {'detail': \"unexpected fields: ['max_tokens']\"}"),
        (Behaviour(failures=["500"] * 99), "HTTP 500: too busy"),
    ],
)
def test_a_server_that_refuses_a_plain_request_is_told_at_once(work, capsys, behaviour, message):
    with served(behaviour) as server:
        assert main(command(server)) == 2
    assert f"{server.url}: {message}" in capsys.readouterr().err
    assert len(server.requests) <= endpoint.CHECKED


def test_no_server_is_told(work, capsys):
    with served(Behaviour()) as server:
        pass
    assert main(command(server, "--model", "tiny")) == 2
    assert "no connection" in capsys.readouterr().err


def test_a_server_without_seeds_and_log_probabilities_is_taken_as_it_is(work, capsys):
    with served(Behaviour(refused=("seed", "logprobs", "n"))) as server:
        assert main(command(server, "--api", "completions")) == 0
    assert "takes no seed: another run gives other texts" in " ".join(capsys.readouterr().out.split())
    rows = table("out")
    assert len({row["text"] for row in rows}) == 48 and {row["logprob"] for row in rows} == {None}
    assert server.requests[0]["prompt"] == "0 is even"


def test_several_rewards_are_added_up_and_called_as_their_arguments_say(work, capsys):
    with served(Behaviour()) as server:
        rewards = [f"rewards.py:{name}" for name in ("right", "short", "later")]
        assert (
            main(
                [
                    *command(server, reward=rewards[0]),
                    "--weights",
                    "1",
                    "2",
                    "1",
                    "--reward_function",
                    *rewards,
                ]
            )
            == 0
        )
    assert "right + 2 short + later" in capsys.readouterr().out
    assert {(row["short"], row["later"]) for row in table("out")} == {(1.0, 0.5)}


def test_conversations_are_sampled_and_scored_as_messages(work):
    (work / "prompts.jsonl").unlink()
    rows = [{"id": f"q{i}", "prompt": [{"role": "user", "content": f"{i} is even"}]} for i in range(3)]
    (work / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with served(Behaviour()) as server:
        assert main(command(server, reward="rewards.py:chat")) == 0
        assert main(command(server, "--api", "completions", name="other")) == 2
    assert {row["prompt_id"] for row in table("out")} == {"q0", "q1", "q2"}


def test_a_reward_that_fails_is_told_at_once_and_texts_are_kept(work, capsys):
    with served(Behaviour()) as server:
        assert main(command(server, reward="rewards.py:broken")) == 2
        err = capsys.readouterr().err
        assert "reward broken: ZeroDivisionError: division by zero at" in err and "rewards.py:16" in err
        assert ", for row " in err and (work / "out/texts.jsonl").read_text().count("\n") >= 8
        # Mended, the texts that are there are scored; and again when the function changes.
        (work / "rewards.py").write_text(
            REWARD.replace("1 / 0", "float(c.startswith('right')) for c in completions")
        )
        assert main(command(server, reward="rewards.py:broken")) == 0
        asked = len(server.requests)
        (work / "rewards.py").write_text(
            REWARD.replace("1 / 0", "0.25 + c.startswith('right') for c in completions")
        )
        assert main(command(server, reward="rewards.py:broken")) == 0
    assert len(server.requests) == asked and {row["broken"] for row in table("out")} <= {0.25, 1.25}


def test_other_settings_do_not_mix(work, capsys):
    with served(Behaviour()) as server:
        assert main(command(server)) == 0
        assert main(command(server, "--temperature", "0.7")) == 2
        err = capsys.readouterr().err
        assert (
            "out has texts that were sampled otherwise (temperature is 0.7, and was 1.0): give another" in err
        )
        (work / "prompts.jsonl").write_text('{"prompt": "other"}')
        assert main(command(server)) == 2
    assert "(prompts is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("rewards.py", "--reward_function rewards.py: expected file.py:function or package.module:function"),
        ("gone.py:right", "--reward_function gone.py:right: no such file: gone.py"),
        ("rewards.py:rigth", "rewards.py has no function 'rigth'; did you mean 'right'?"),
        (
            "gone.module:right",
            "--reward_function gone.module:right: ModuleNotFoundError: No module named 'gone'",
        ),
    ],
)
def test_reward_functions_that_cannot_be_loaded_are_refused(work, capsys, reward, message):
    assert main(["sample", "prompts.jsonl", "--url", "http://x/v1", "--reward_function", reward]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "question,answer\nwhat?,4\n", None),
        ("a.csv", 'prompt,answer\n"what?",4\n"who\u2028\nelse?",5\n', None),
        (
            "a.csv",
            "prompt,answer\nwhat?,4,5\n",
            "row 1 has more or fewer values than the first line has names",
        ),
        ("a.txt", "what?\n\nwho?\n", None),
        ("a.json", '[{"query": "what?"}]', None),
        (
            "a.jsonl",
            '{"prompt": "what?"}\n{"prompt": ""}\n',
            "'prompt' in row 2 is ''; expected a text, or a conv",
        ),
        ("a.jsonl", '{"prompt": "what?"}\n{"pro\n', "line 2 is no JSON"),
        (
            "a.jsonl",
            '{"body": "what?"}\n',
            "which column is the prompt? name it with --prompt; there are: body",
        ),
        ("a.jsonl", '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', "'id' names several rows alike"),
        ("a.xlsx", "", "prompts are read from .jsonl, .json, .csv, .tsv, .parquet, .txt"),
        ("a.jsonl", "\n", "no prompts"),
    ],
)
def test_files_of_prompts(work, capsys, file, content, message):
    (work / file).write_text(content)
    with served(Behaviour()) as server:
        arguments = ["sample", file, "--url", server.url, "--reward_function", "rewards.py:right"]
        assert main([*arguments, "--range", "0", "1"]) == (0 if message is None else 2)
    if message is not None:
        assert message in capsys.readouterr().err
    else:
        first = table(f"outputs/diagnosis/{Path(file).stem}_sampled")[0]
        assert first["prompt"] == "what?"


def test_several_addresses_are_asked_in_turn(work):
    with served(Behaviour()) as first, served(Behaviour()) as second:
        arguments = command(first)
        arguments.insert(4, second.url)
        assert main(arguments) == 0
    assert abs(len(first.requests) - len(second.requests)) <= 1


def test_a_model_that_thinks_first_and_half_characters_are_no_obstacle(work):
    """Short texts of such a model are empty; a server may cut a text within a character."""

    def text(prompt, seed, place):
        return "" if server.requests[-1]["max_tokens"] == 64 else f"right {seed + place} \ud83d"

    with served(Behaviour(texts=text)) as server:
        assert main(command(server, "--concurrency", "1", "--range", "0", "1")) == 0
    assert len({row["text"] for row in table("out")}) == 48


def test_texts_of_a_double_depend_on_the_seed_alone():
    assert draw("a", 5, 1) == draw("a", 6, 0) != draw("a", 5, 0)


def test_the_time_left_is_that_of_the_last_answers():
    now = [0.0]
    progress = Progress(1000, 100, concurrency=2, clock=lambda: now[0])
    for _ in range(3):
        now[0] += 1
        progress.add(10)
    assert progress.line() == "130 of 1,000 texts"  # the first requests say nothing about the pace
    for _ in range(17):
        now[0] += 1
        progress.add(10)
    assert progress.line() == "300 of 1,000 texts; about 70 s left"
    for _ in range(10):  # ten times slower
        now[0] += 10
        progress.add(10)
    # 160 texts in the 16 seconds of the first half, 140 in the 104 of the second.
    assert progress.line() == "400 of 1,000 texts; 60 s to 7 min left"
    now[0] += 60
    progress.tried_again("HTTP 429: too busy")
    progress.tried_again("HTTP 429: too busy")
    assert "no answer for 60 s; 2 requests sent again (HTTP 429: too busy)" in progress.line()


def test_durations():
    assert [duration(s) for s in (40, 720, 12000, 4e5)] == ["40 s", "12 min", "3 h 20 min", "4.6 days"]

"""The pre-flight check from the command line: what it leaves, says and returns."""

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from diagnose_vanishing_gradients import main
from rl4lms.datapools import load_datapool

REPO = Path(__file__).parents[2]
N = 60


def table(rates, n=40, seed=0, **columns):
    """Rows of N inputs, n generations each, of given pass rates."""
    passed = np.random.default_rng(seed).random((len(rates), n)) < np.array(rates)[:, None]
    prompts = [f"what is {i} <b>+</b> {i}?" for i in range(len(rates)) for _ in range(n)]
    return pa.table({"prompt": prompts, "reward": passed.ravel().astype(float), **columns})


RATES = [0.0] * 20 + [1.0] * 10 + [0.5] * 30


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A diagnosed table, before and after; its folder and what was printed."""
    folder = tmp_path_factory.mktemp("diagnosis")
    answers = [str(2 * i) for i in range(N) for _ in range(40)]
    pq.write_table(table(RATES, answer=answers), folder / "now.parquet")
    # Read with the same columns: the references are of no use there, but must exist.
    pq.write_table(table([0.0] * 40 + [0.5] * 20, seed=1, answer=answers), folder / "earlier.parquet")
    command = [
        sys.executable, "diagnose_vanishing_gradients.py", folder / "now.parquet", "--references", "answer",
        "--before", folder / "earlier.parquet", "--output_path", folder / "out",
        "--fail-if", "dead_low > 0.3", "--fail-if", "live > 0.9",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    return folder / "out", result


def test_exit_status_and_one_screen(done):
    folder, result = done
    assert result.returncode == 3, result.stderr
    assert (
        "--fail-if dead_low > 0.3: holds, it is 0.3333" in result.stderr and "live > 0.9" not in result.stderr
    )
    lines = result.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines[:-1])) <= 100
    assert re.search(r"dead-low +33\.3% +21\.7% to 46\.7% +20 inputs: no signal", result.stdout)
    assert "60 inputs before and after: 10 woke up (16.7%), 0 died (0.0%)" in result.stdout
    assert str(folder / "report.html") in lines[-1]


def test_a_row_per_input(done):
    rows = list(csv.DictReader((done[0] / "inputs.csv").open()))
    assert len(rows) == N and [row["label"] for row in rows].count("dead_low") == 20
    first = next(row for row in rows if row["input"] == "what is 0 <b>+</b> 0?")
    assert float(first["rate_at_most"]) == pytest.approx(1 - 0.05 ** (1 / 40))
    changes = [row["change"] for row in rows]
    assert changes[20:40] == ["", *[""] * 9, *["woke_up"] * 10] and changes[:20] == [""] * 20


def test_summary_is_the_documented_schema(done):
    content = json.loads((done[0] / "summary.json").read_text())
    documented = (REPO / "docs" / "diagnosis.md").read_text()
    assert content["schema_version"] == 1 and content["diagnosed"] == "reward"
    for keys in (content, content["rewards"]["reward"], content["comparison"]):
        for key in keys:
            assert f"`{key}`" in documented, key


def test_dead_low_inputs_are_a_datapool(done):
    samples = load_datapool("jsonl", "train", {"data_path": str(done[0] / "dead_low.jsonl")})
    assert len(samples) == 20 and samples[3].prompt_or_input_text == "what is 3 <b>+</b> 3?"
    assert samples[3].references == ["6"] and samples[3].meta_data["class"] == "dead_low"


class Page(HTMLParser):
    """Tags that are open, all tags, sources."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.sources, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag in ("table", "div", "figure", "ol", "p", "h2"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("table", "div", "figure", "ol", "p", "h2"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_stands_alone(done):
    text = (done[0] / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and not {"script", "link", "iframe"} & set(page.tags)
    links = [source for source in page.sources if not source.startswith("data:image/png;base64,iVBOR")]
    assert page.tags.count("img") == 4 == len(page.sources) - len(links)
    assert links and {link.partition("#")[0] for link in links} == {"explorer.html"}
    assert (done[0] / "explorer.html").is_file()
    assert "width=device-width" in text and "http" not in text
    assert "what is 1 <b>+</b> 1?" in page.text  # escaped, not bold
    for part in ("What to do", "Before and after", "Which groups carry signal", "short supervised phase"):
        assert part in page.text
    assert {path.suffix for path in done[0].glob("mean_and_std.*")} == {".png", ".pdf", ".csv", ".json"}


def test_a_log_of_trl_and_a_clean_exit(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for step in (1, 2, 3):
        rows = table([0.2 * step] * 6, 8, seed=step)
        pq.write_table(
            rows.rename_columns(["prompt", "accuracy_reward"])
            .append_column("step", [[step] * 48])
            .append_column("completion", [["c"] * 48])
            .append_column("format_reward", [rng.integers(0, 2, 48) * 0.5])
            .append_column("advantage", [rng.random(48)]),
            tmp_path / f"completions_{step}.parquet",
        )
    output = tmp_path / "out"
    command = [str(tmp_path), "--output_path", str(output), "--fail-if", "dead_low > 0.3"]
    assert main(command) == 4 and main([*command, "--undefined", "pass"]) == 0
    content = json.loads((output / "summary.json").read_text())
    both = "accuracy_reward + format_reward"
    assert list(content["rewards"]) == [both, "accuracy_reward", "format_reward"]
    assert "recognised as completions logged by TRL" in content["notes"][0]
    assert (output / "over_time.png").exists()
    assert len(content["rewards"]["accuracy_reward"]["over_time"]) == 3
    assert "accuracy_reward: mean" in capsys.readouterr().out


def test_the_example_of_the_docs_is_what_was_planted(tmp_path, capsys):
    """8 products never right, 4 sums always, 12 in between; and the docs quote what is printed."""
    command = [
        str(REPO / "examples" / "trl_completions"),
        "--last_steps",
        "12",
        "--output_path",
        str(tmp_path),
    ]
    assert main(command) == 0
    printed, documented = capsys.readouterr().out, (REPO / "docs" / "diagnosis.md").read_text()
    accuracy = json.loads((tmp_path / "summary.json").read_text())["rewards"]["accuracy_reward"]
    counts = {name: row["count"] for name, row in accuracy["classes"].items()}
    assert counts == {"dead_low": 8, "dead_high": 4, "live": 12, "uncertain": 0}
    example = documented.partition("## Example: a log of another library")[2]
    quoted = example.split("```\n")[2].splitlines()
    assert len(quoted) > 8 and [line for line in quoted if line != "..." and line not in printed] == []


def test_the_readme_shows_the_first_lines_of_that_log(tmp_path, capsys):
    readme = (REPO / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if line.startswith("rft-diagnose examples/")]
    path, *flags = line.partition("#")[0].split()[1:]
    assert main([str(REPO / path), *flags, "--output_path", str(tmp_path)]) == 0
    shown = readme.partition("The answer stands first")[2].split("```\n")[1]
    assert shown.count("\n") == 5 and capsys.readouterr().out.startswith(shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{table}", "--reward", "score"], "no column 'score' (--reward)"),
        (["{table}", "--fail-if", "ded > 1"], "unknown name 'ded'"),
        (["{table}", "--range", "0", "0.5"], "reward 1 lies outside the given range 0 to 0.5"),
        (["{table}", "--last_steps", "3"], "those of a log with steps"),
        (["{table}", "--weights", "1", "2"], "2 weights for 1 rewards: reward"),
        (
            ["{table}", "--kl_coef", "1", "--reference", "x"],
            "is for a config or an extraction's .pt; of a table",
        ),
        (["{table}", "--gradients"], "--gradients needs the model: give --config_path"),
        (["nothing.csv"], "nothing.csv: no such file"),
        (["--config_path", "nothing.yml"], "nothing.yml"),
    ],
)
def test_mistakes_exit_2_without_output(tmp_path, capsys, arguments, message):
    pq.write_table(table([0.5] * 3), tmp_path / "t.parquet")
    filled = [text.format(table=tmp_path / "t.parquet") for text in arguments]
    assert main([*filled, "--output_path", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.csv", "--config_path", "b.yml"],
        ["a.csv", "--kl", "kl"],
        ["a.pt", "--kl_coef", "1"],
        ["a.pt", "--kl", "k", "--kl_coef", "1", "--reference", "m"],
        ["a.csv", "--check"],
        ["a.pt", "--gradients", "0"],
    ],
)
def test_contradicting_flags_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err


def test_a_config_is_sampled_from_and_diagnosed(tmp_path, tiny_gpt2_folder):
    rows = [{"prompt": f"the dog {i}", "references": ["the teacher"]} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "tokenizer": {"model_name": str(tiny_gpt2_folder), "max_length": 20},
        "datapool": {"id": "jsonl", "args": {"data_path": str(tmp_path)}},
        "alg": {"model_type": "causal", "model_name": str(tiny_gpt2_folder),
                "generation_kwargs": {"do_sample": True, "max_new_tokens": 4}},
        "evaluation": {"eval_batch_size": 12, "num_samples_per_input": 4, "metrics": [{"id": "chrf"}]},
    }  # fmt: skip
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    output = tmp_path / "out"
    assert main(["--config_path", str(tmp_path / "config.yml"), "--output_path", str(output)]) == 0
    content = json.loads((output / "summary.json").read_text())
    assert content["rewards"]["lexical/chrf"]["generations"] == 16
    (extraction,) = output.glob("train_reward_stats_jsonl_*.pt")
    again = tmp_path / "again"
    assert main([str(extraction), "--output_path", str(again), "--gradients", "3"]) == 0
    found = json.loads((again / "summary.json").read_text())["gradients"]
    assert found["inputs"] == 3 and found["generations_each"] == 4 and len(found["shares"]) == 3
    rows = list(csv.DictReader((again / "gradients.csv").open()))
    assert {row["input"] for row in rows} <= {f"train_{i}" for i in range(4)}
    assert all(float(row["squared"]) <= float(row["norm"]) ** 2 + 1e-9 for row in rows)
    assert "Gradients" in (again / "report.html").read_text() and content["gradients"] is None
    assert (again / "inputs.csv").read_text() == (output / "inputs.csv").read_text()
    assert "the dog" in (again / "inputs.csv").read_text()


@pytest.mark.slow
def test_penalised_and_several_rewards_of_a_model(tmp_path, tiny_gpt2_folder, capsys):
    """Classes and gradients of two rewards less the KL to another model, of their sum, and of each."""
    reference = tmp_path / "reference"
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    model.save_pretrained(reference)
    rows = [{"prompt": f"the dog {i}", "references": ["the teacher"]} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "tokenizer": {"model_name": str(tiny_gpt2_folder), "max_length": 20},
        "datapool": {"id": "jsonl", "args": {"data_path": str(tmp_path)}},
        "alg": {"model_type": "causal", "model_name": str(tiny_gpt2_folder),
                "generation_kwargs": {"do_sample": True, "max_new_tokens": 4}},
        "evaluation": {"eval_batch_size": 12, "num_samples_per_input": 4,
                       "metrics": [{"id": "chrf"}, {"id": "ter"}]},
    }  # fmt: skip
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    command = ["--config_path", str(tmp_path / "config.yml"), "--gradients", "3", "--output_path"]
    penalty = ["--reward", "lexical/chrf", "lexical/ter", "--kl_coef", "0.1", "--reference", str(reference)]
    assert main([*command, str(tmp_path / "out"), *penalty]) == 0
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    total = "lexical/chrf + lexical/ter"
    names = [f"{total} - 0.1 KL", total, "lexical/chrf", "lexical/ter"]
    assert list(content["rewards"]) == names and content["rewards"][names[0]]["kl_coef"] == 0.1
    assert content["rewards"][names[0]]["std"] != content["rewards"][total]["std"]
    gradients = content["gradients"]
    assert gradients["reward"] == names[0] and list(gradients["others"]) == names[1:]
    rows = list(csv.DictReader((tmp_path / "out" / "gradients.csv").open()))
    assert [row["reward"] for row in rows] == names * 3
    of_first = {row["reward"]: row for row in rows[:4]}
    assert of_first[names[0]]["squared"] != of_first[total]["squared"]
    assert of_first[names[0]]["gamma"] == of_first[total]["gamma"]
    for row in rows:
        assert float(row["norm"]) <= float(row["bound"]) + 1e-9 and float(row["gamma"]) > 0
    assert "split into tokens anew" in capsys.readouterr().out

    # The KL of an extraction to its own model is 0, and what is penalised with it is the reward.
    (extraction,) = (tmp_path / "out").glob("*.pt")
    own = ["--kl_coef", "0.1", "--reference", str(tiny_gpt2_folder), "--output_path", str(tmp_path / "own")]
    assert main([str(extraction), *own]) == 0
    found = json.loads((tmp_path / "own" / "summary.json").read_text())["rewards"]
    assert found["lexical/chrf - 0.1 KL"]["mean"] == pytest.approx(found["lexical/chrf"]["mean"], abs=1e-5)


@pytest.fixture
def tiny_gpt2_folder(tmp_path):
    from tiny_models import save_tiny_gpt2

    return save_tiny_gpt2(tmp_path / "gpt2")


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    """Read, diagnosed, drawn and written within 10 seconds of processor time and 1 GB."""
    inputs, each = 125_000, 8
    rng = np.random.default_rng(0)
    prompts = pa.array([f"question {i}: " + "some words of a question " * 16 for i in range(inputs)])
    codes = np.repeat(np.arange(inputs, dtype=np.int32), each)
    rewards = (rng.random((inputs, each)) < rng.beta(0.3, 1, (inputs, 1))).ravel().astype(float)
    order = rng.permutation(len(codes))
    rows = pa.table(
        {"prompt": pa.DictionaryArray.from_arrays(codes[order], prompts), "reward": rewards[order]}
    )
    pq.write_table(rows, tmp_path / "million.parquet")
    command = [
        sys.executable,
        str(REPO / "diagnose_vanishing_gradients.py"),
        "million.parquet",
        "--output_path",
        "out",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(REPO)}
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    assert usage.ru_utime + usage.ru_stime < 10 and usage.ru_maxrss < 1_000_000

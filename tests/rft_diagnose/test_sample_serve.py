"""Sampling from a real server: `transformers serve` with a tiny model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tiny_models import edit_json, save_tiny_gpt2

from rft_diagnose.cli import main

pytestmark = pytest.mark.slow
SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server, and models that it loads: one that samples, one that does not."""
    folder = tmp_path_factory.mktemp("serve")
    samples, greedy = (save_tiny_gpt2(folder / name) for name in ("samples", "greedy"))
    edit_json(samples / "generation_config.json", do_sample=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        SERVE,
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        until = time.monotonic() + 300
        while True:
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", samples, greedy
    finally:
        process.terminate()
        process.wait(30)


def test_texts_of_a_real_server_are_scored_and_diagnosed(server, tmp_path, monkeypatch, capsys):
    url, samples, greedy = server
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("the old dog\nmy sister\nnobody\n")
    Path("reward.py").write_text(
        "def odd(completions, **columns):\n    return [len(c) % 2 for c in completions]\n"
    )

    def sample(model, name, *flags):
        return main(
            [
                *("sample", "prompts.txt", "--url", url, "--model", str(model), "--output_path", name),
                *("--reward_function", "reward.py:odd", "--api", "completions", "--generations", "4"),
                *("--max_tokens", "6", "--range", "0", "1", *flags),
            ]
        )

    assert sample(samples, "out", "--concurrency", "1") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "one text a request (n is ignored): it is asked for each" in out and "are cut at max_tokens" in out
    rows = [json.loads(line) for line in Path("out/generations.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and len({row["text"] for row in rows}) > 6
    assert {row["finish_reason"] for row in rows} <= {"length", "stop"}
    # One request at a time, whose seed nothing disturbs: the same texts again.
    assert sample(samples, "again", "--concurrency", "1") == 0
    assert Path("again/generations.jsonl").read_text() == Path("out/generations.jsonl").read_text()
    # As it serves models whose configuration says nothing of sampling, whatever the temperature.
    assert sample(greedy, "greedy") == 2
    assert "is sampling on (temperature 1), or a cache? `transformers serve` samples only if the model's" in (
        capsys.readouterr().err
    )

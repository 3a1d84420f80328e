"""Extractions cut by signals at any moment and resumed leave the files of an uninterrupted one.

Prints where the cuts hit: SEED=7 CUTS=20 pytest -m slow tests/slow/test_extraction_kills.py -s
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from signal_rounds import Job, cut_at_random_moments, run_whole
from tiny_models import save_tiny_t5

from common.run_dir import find_runs
from rl4lms_extract_samples_from_model_runner import main

pytestmark = pytest.mark.slow

RUNNER = "rl4lms_extract_samples_from_model_runner.py"
INPUTS, TEXTS, BATCH = 330, 3, 6
BATCHES = INPUTS * TEXTS // BATCH


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extraction of 165 batches and four rounds of scoring."""
    folder = tmp_path_factory.mktemp("config")
    model = save_tiny_t5(folder / "model", seed=1, initializer_factor=2.0)
    rows = [
        {"prompt": f"the dog {i} looks at " + "water " * (i % 7), "references": ["the teacher", f"us {i}"]}
        for i in range(INPUTS + 20)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sampling = {"do_sample": True, "max_new_tokens": 10}
    fields = {
        "tokenizer": {"model_name": str(model), "max_length": 20},
        "datapool": {
            "id": "jsonl",
            "args": {"data_path": str(folder / "train.jsonl")},
            "num_train_samples": INPUTS,
            "train_samples_rnd_seed": 7,
        },
        "alg": {"model_type": "seq2seq", "model_name": str(model), "generation_kwargs": sampling},
        "evaluation": {
            "eval_batch_size": BATCH,
            "num_samples_per_input": TEXTS,
            "metrics": [{"id": "chrf"}, {"id": "ter"}, {"id": "rouge_l_max"}],
        },
    }
    (folder / "config.yml").write_text(yaml.safe_dump(fields))
    return folder / "config.yml"


def arguments(config: Path, output: Path, *overrides: str) -> list[str]:
    """Of the runner: to resume the run in `output`, or, where there is none yet, to begin one."""
    runs = [manifest.parent for manifest in output.glob("*/manifest.json")]
    if runs:
        assert len(runs) == 1
        return ["--resume", str(runs[0])]
    chosen = [part for override in overrides for part in ("--set", override)]
    return ["--config_path", str(config), "--output_path", str(output), *chosen]


def contents(output: Path) -> tuple[dict[str, Any], str]:
    """What an extraction left: the .pt, its tensors as lists, and the .csv."""
    (path,) = output.glob("*.pt")
    content = torch.load(path, weights_only=True)
    content["all_metric_values"] = {k: v.tolist() for k, v in content["all_metric_values"].items()}
    return content, path.with_suffix(".csv").read_text()


def rows(output: Path, name: str) -> list[dict[str, Any]]:
    """The rows of the run's file, without a torn last line."""
    lines = [line for path in output.glob(f"*/{name}") for line in path.read_bytes().split(b"\n")[:-1]]
    return [json.loads(line) for line in lines]


def checked_contents(output: Path) -> tuple[dict[str, Any], str]:
    """What a finished extraction left: every text once, and nothing half written."""
    content = contents(output)
    assert not [path for path in output.rglob("*") if path.name.startswith(".tmp-")]
    inputs = [i for row in rows(output, "texts.jsonl") for i in row["inputs"]]
    assert sorted(inputs) == list(range(content[0]["num_train_samples"]))
    batches = [row["batch"] for row in rows(output, "texts.jsonl")]
    assert sorted(batches) == list(range(len(batches)))
    firsts = [row["first_input"] for row in rows(output, "scores.jsonl")]
    assert len(firsts) == len(set(firsts))
    (manifest,) = output.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "finished"
    assert {path.suffix for path in output.glob("*_scatter.*")} == {".png", ".pdf", ".csv", ".json"}
    return content


def stage(output: Path) -> str:
    """Where a killed extraction was, as its files tell."""
    texts, scores = rows(output, "texts.jsonl"), rows(output, "scores.jsonl")
    if list(output.glob("*_scatter.json")):
        return "6 all files there"
    if list(output.glob("*.pt")):
        return "5 drawing"
    if scores:
        return "4 scoring"
    if len(texts) == BATCHES:
        return "3 all texts there"
    if texts:
        return "2 among the texts"
    return "1 before the first text" if list(output.glob("*/manifest.json")) else "0 before there is a run"


def test_cut_at_random_moments(config: Path, tmp_path: Path) -> None:
    def command(output: Path) -> list[str] | None:
        if [run for run in find_runs(output) if run.manifest["status"] == "finished"]:
            return None
        return [RUNNER, *arguments(config, output)]

    job = Job(command, checked_contents, stage)
    cut_at_random_moments("extraction", job, run_whole(job, tmp_path / "whole"), tmp_path)


SHORT = ("datapool.num_train_samples=12",)


@pytest.fixture(scope="module")
def whole_short(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    output = tmp_path_factory.mktemp("short")
    assert main(arguments(config, output, *SHORT)) == 0
    return contents(output)


@pytest.mark.parametrize("name", [".pt", ".csv", "_scatter.png", "_scatter.json"])
def test_killed_before_a_result_gets_its_name(
    config: Path, whole_short: tuple[dict[str, Any], str], tmp_path: Path, name: str
) -> None:
    """What is half written lies beside the run directory, not in it."""
    pid = os.fork()
    if pid == 0:
        try:
            rename = os.replace

            def killing(source: Any, target: Any) -> None:
                if str(target).endswith(name):
                    os.kill(os.getpid(), signal.SIGKILL)
                rename(source, target)

            os.replace = killing  # type: ignore[assignment]
            main(arguments(config, tmp_path, *SHORT))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]) == 1
    assert main(arguments(config, tmp_path)) == 0
    assert checked_contents(tmp_path) == whole_short

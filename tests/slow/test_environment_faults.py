"""Disks that fill up and folders that cannot be written, in every job: one line, no traceback, nothing lost.

pytest -m slow tests/slow/test_environment_faults.py -s      (SIZES=10 SEED=7 for more or other disks)
"""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from extraction_settings import write_extraction
from plan_runs import write_plan
from pretraining_setting import config_of
from small_disk import resize, small_disk
from tiny_models import save_tiny_gpt2, save_tiny_t5
from training_runs import ppo_config, save_data, supervised_config

from common.run_dir import find_runs

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
SIZES = int(os.environ.get("SIZES", "5"))  # disks for each job
SEED = int(os.environ.get("SEED", "0"))
KB = 1 << 10
Command = list[str]


def controlled(folder: Path) -> Callable[[Path], Command]:
    settings = {
        "epochs": 30,
        "num_checkpoints": -1,
        "mlp_hidden_layer_sizes": [40],
        "save_metric_plots": True,
    }

    def command(output: Path) -> Command:
        plan = write_plan(folder, outputs_dir=str(output), **settings)
        return ["sft_vs_rft_controlled_experiments_plan_runner.py", "--plan_config_path", str(plan)]

    return command


def extraction(folder: Path) -> Callable[[Path], Command]:
    config = write_extraction(folder, inputs=60)
    runner = "rl4lms_extract_samples_from_model_runner.py"
    return lambda output: [runner, "--config_path", str(config), "--output_path", str(output)]


def training(raw: dict, folder: Path) -> Callable[[Path], Command]:
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(raw))
    runner, base = "rl4lms_train_text_generation.py", "--base_path_to_store_results"
    return lambda output: [runner, "--config_path", str(config), base, str(output)]


def supervised(folder: Path) -> Callable[[Path], Command]:
    return training(supervised_config(save_tiny_t5(folder / "model"), save_data(folder / "data")), folder)


def ppo(folder: Path) -> Callable[[Path], Command]:
    return training(ppo_config(save_tiny_gpt2(folder / "model"), save_data(folder / "data")), folder)


def pretraining(folder: Path) -> Callable[[Path], Command]:
    config = config_of(folder)
    return lambda output: [
        "pretrain_small_language_model.py", "--config_path", str(config), "--output_path", str(output)
    ]  # fmt: skip


JOBS = {
    "controlled": controlled,
    "extraction": extraction,
    "supervised": supervised,
    "ppo": ppo,
    "pretraining": pretraining,
}


def start(command: Command) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=REPO, capture_output=True, text=True, timeout=300, check=False
    )


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def status_of(output: Path) -> list[str]:
    return [run.manifest["status"] for run in find_runs(output)]


@pytest.mark.parametrize("job", JOBS)
def test_a_disk_that_fills_up_loses_nothing_and_the_run_goes_on(tmp_path, job):
    command = JOBS[job](tmp_path)
    whole = tmp_path / "whole"
    assert start(command(whole)).returncode == 0
    rng, needed, seen = random.Random(f"{SEED} {job}"), size_of(whole), Counter[str]()
    for number in range(SIZES):
        share = rng.uniform(0.02, 0.9)
        with small_disk(tmp_path / f"disk_{number}", max(int(needed * share), 8 * KB)) as disk:
            output = disk / "output"
            done = start(command(output))
            what = (
                f"{job}, {share:.0%} of {needed / KB:,.0f} KB: exit {done.returncode}\n{done.stderr[-2500:]}"
            )
            assert "Traceback" not in done.stderr + done.stdout, what
            assert done.returncode in (0, 1, 2), what
            resize(disk, 50 * needed)
            if done.returncode == 0:  # only pictures and log lines were lost
                assert "not drawn" in done.stderr or "log.txt cannot be written" in done.stderr, what
                assert status_of(output) == ["finished"], what
                seen["finished without pictures or log lines"] += 1
                continue
            assert re.search(
                r"cannot be written: no space left on its disk \([\d.]+ MB free\)", done.stderr
            ), what
            runs = find_runs(output)
            if done.returncode == 2 or not runs:
                seen["nothing begun"] += 1
                continue
            told = "does not say" in done.stderr
            assert runs[0].manifest["status"] == "failed" or told, what
            seen["status right" if not told else "said that it cannot be written"] += 1
            if job == "controlled":
                again = command(output)
            else:
                (line,) = [line for line in done.stderr.splitlines() if "to go on: " in line]
                again = shlex.split(line.partition("to go on: ")[2])[1:]
            resumed = start(again)
            assert resumed.returncode == 0, what + resumed.stderr[-2500:]
            assert status_of(output) == ["finished"], what
    print(f"\nseed {SEED}, {job}: {SIZES} disks: {dict(seen)}")


@pytest.mark.parametrize("job", JOBS)
def test_folders_that_cannot_be_written_are_one_line(tmp_path, job):
    command = JOBS[job](tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    places = {
        "file": "is a file",
        "file/x": "is a file",
        "link": "does not exist",
        "link/x": "does not exist",
    }
    with small_disk(tmp_path / "read_only", 64 * KB) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for place, reason in (places | {"read_only": "read-only file system"}).items():
            done = start(command(tmp_path / place))
            (line,) = done.stderr.strip().splitlines()
            assert done.returncode == 2 and reason in line, done.stderr
            assert re.match(r"(--\w+|outputs_dir): ", line), line


def test_a_run_whose_folder_became_read_only_is_one_line(tmp_path):
    command = extraction(tmp_path)
    with small_disk(tmp_path / "disk", 5000 * KB) as disk:
        assert start(command(disk / "output")).returncode == 0
        (run,) = find_runs(disk / "output")
        manifest = json.loads((run.path / "manifest.json").read_text())
        (run.path / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = start([command(disk)[0], "--resume", str(run.path)])
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode == 2 and line.endswith("it is on a read-only file system")

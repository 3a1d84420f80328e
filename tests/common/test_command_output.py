"""Commands whose output nobody reads, or that cannot be written; and that are run from anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clones import REPO

COMMANDS = sorted(
    path.name for path in REPO.glob("*.py") if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
)
WITHOUT_CONFIG = {"fetch_real_data.py": "--check"}  # what these print, in the place of their fields
DIAGNOSE = ("-m", "rft_diagnose.cli")


def run(*arguments: str | Path, cwd: Path = REPO, **fields) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)} | fields.pop("env", {})
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, text=True, timeout=300, **fields
    )


def into_closed_pipe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    read, write = os.pipe()
    os.close(read)
    try:
        return run(*arguments, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)


def test_there_are_ten_commands():
    assert len(COMMANDS) == 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_no_error(command):
    """The listing is longer than what is kept back before it is written, the usage is not."""
    for flag in (WITHOUT_CONFIG.get(command, "--list_fields"), "--help"):
        done = into_closed_pipe(REPO / command, flag)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_ends_work_as_it_ends_other_commands(tmp_path):
    done = into_closed_pipe(REPO / "reproduce_paper.py", "--only", "theory", "--output_dir", tmp_path)
    assert done.returncode == 141 and "Traceback" not in done.stderr
    table = tmp_path / "t.csv"
    table.write_text("prompt,reward\n" + "a,1\na,0\n" * 8)
    done = into_closed_pipe(*DIAGNOSE, table, "--output_path", tmp_path / "out")
    assert done.returncode == 141 and "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", COMMANDS)
def test_output_on_a_full_disk_is_one_line(command):
    with open("/dev/full", "w") as full:
        flag = WITHOUT_CONFIG.get(command, "--list_fields")
        done = run(REPO / command, flag, stdout=full, stderr=subprocess.PIPE)
    message = "standard output cannot be written to: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_commands_run_in_any_folder(tmp_path):
    """Shipped plans and configs name each other by their paths in the repository."""
    for command, plan in (
        ("rl4lms_plan_runner.py", "rl4lms_scripts/sweeps/narrative_qa_comparison.yml"),
        (
            "sft_vs_rft_controlled_experiments_plan_runner.py",
            "sft_vs_rft/experiment_plans/laptop/sft_vs_rft_mlp_digits_pretrain_experiments_plan.json",
        ),
    ):
        for path in (plan, REPO / plan):
            done = run(
                REPO / command, "--plan_config_path", path, "--check", cwd=tmp_path, capture_output=True
            )
            assert (done.returncode, done.stderr) == (0, "")
    done = run(
        REPO / "reproduce_paper.py", "--dry_run", "--scale", "smoke", cwd=tmp_path, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "in all" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_processes_that_cannot_meet_are_one_line(tmp_path):
    config = REPO / "rl4lms_scripts/laptop/t5_hard_question_supervised.yml"
    code = (
        "import sys; sys.argv = ['x']; from rl4lms.errors import TrainingInterrupted\n"
        "from rl4lms.model.parallel import WorldError, join_world\n"
        "try: join_world('cpu')\nexcept WorldError as error: print(error)"
    )
    assert config.is_file()
    for environment, message in (
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT is not set: start with torchrun "
            "--nproc_per_node 2, or unset WORLD_SIZE for one process\n",
        ),
        (
            {"WORLD_SIZE": "two"},
            "WORLD_SIZE must be a number of processes, got 'two': unset it, or use torchrun\n",
        ),
    ):
        done = run("-c", code, capture_output=True, env=environment)
        assert (done.stdout, done.stderr, done.returncode) == (message, "", 0)


def test_without_a_writable_cache_that_is_said_once(tmp_path):
    (tmp_path / "file").touch()
    code = (
        "import logging; logging.basicConfig(level=logging.WARNING, format='%(message)s')\n"
        "from common.python_docs import harvest\n"
        "for _ in range(2): harvest(['yaml', 'tqdm'])"
    )
    cache = tmp_path / "file" / "cache"
    done = run("-c", code, capture_output=True, env={"VANISHING_GRADIENTS_RFT_CACHE": str(cache)})
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"docstrings are not cached, so that each run reads them anew: {cache}: Not a directory; set "
        "VANISHING_GRADIENTS_RFT_CACHE to a folder that can be written to"
    ]

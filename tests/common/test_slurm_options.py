"""The executor of a plan: what is refused, what would be submitted; without a SLURM."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from clones import link_clone
from plan_runs import write_plan
from pretend_models import pretend

import rl4lms_plan_runner
import sft_vs_rft_controlled_experiments_plan_runner as controlled
from common.plan import PlanSettings
from common.slurm_options import Slurm, command_line, minutes
from paper.study import load_study
from paper.text_study import STUDIES

REPO = Path(__file__).parents[2]
SWEEP = REPO / "rl4lms_scripts" / "sweeps" / "laptop.yml"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        *((90, 90), ("90", 90), ("90:00", 90), ("90:01", 91), ("1:30:00", 90), ("4:00:00", 240)),
        *(("1-0", 1440), ("2-12:00:00", 3600), ("1-1:30", 1530), ("0:00:30", 1)),
        *(("", None), ("0", None), ("1h", None), ("1-", None), ("1:2:3:4", None), ("-5", None)),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: int | str, expected: int | None) -> None:
    assert minutes(time) == expected


def test_what_sbatch_is_given() -> None:
    assert command_line(Slurm(time=60)) == [
        *("--time=60", "--cpus-per-task=1", "--signal=USR2@90", "--requeue"),
    ]
    slurm = Slurm.model_validate(
        {
            "time": "4:00:00",
            "partition": "gpu",
            "gpus": 1,
            "cpus": 8,
            "mem": "32GB",
            "sbatch": {"account": "me", "signal": "USR2@300", "exclusive": True, "requeue": False, "nice": 3},
        }
    )
    assert command_line(slurm) == [
        *("--partition=gpu", "--time=240", "--cpus-per-task=8", "--mem=32GB", "--gpus-per-node=1"),
        *("--signal=USR2@300", "--account=me", "--exclusive", "--nice=3"),
    ]


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"slurm": {"time": 60, "partion": "gpu"}},
        "executor.slurm.partion  unknown key; did you mean 'partition'?",
    ),
    ({"slrm": {}}, "executor.slrm  unknown key; did you mean 'slurm'?"),
    ({"slurm": {"time": "soon"}}, "executor.slurm.time  must be minutes, H:MM:SS or D-H:MM:SS, got 'soon'"),
    (
        {"slurm": {"time": 60, "mem": "much"}},
        "executor.slurm.mem  must be a size such as 500MB or 16GB, got 'much'",
    ),
    ({"slurm": {"time": 60, "gpus": 4}}, "executor.slurm.gpus  must be at most 1, got 4"),
    (
        {"slurm": {"time": 60, "sbatch": {"mem": "1G"}}},
        "executor.slurm.sbatch.mem  is given by executor.slurm.mem",
    ),
    ({"slurm": {"time": 60, "sbatch": {"array": "1-3"}}}, "executor.slurm.sbatch.array  is set for each run"),
    (
        {"slurm": {"time": 60, "sbatch": {"-p": "x"}}},
        "is no long name of an option of sbatch, such as account",
    ),
]


@pytest.mark.parametrize(("executor", "message"), WRONG)
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_mistake_is_one_error_before_anything_runs(
    kind: str, executor: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "yaml":
        plan = tmp_path / "sweep.yml"
        plan.write_text(yaml.safe_dump(yaml.safe_load(SWEEP.read_text()) | {"executor": executor}))
        main = rl4lms_plan_runner.main
    else:
        plan = write_plan(tmp_path)
        plan.write_text(json.dumps(json.loads(plan.read_text()) | {"executor": executor}))
        main = controlled.main
    assert main(["--plan_config_path", str(plan)]) == 2
    said = re.sub(" {2,}", "  ", capsys.readouterr().err)
    assert ": 1 problem\n" in said and message in said
    assert not (tmp_path / "runs").exists()


def test_slurm_hands_out_the_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_plan(tmp_path, gpu_ids_pool=[0, 1])
    assert (
        controlled.main(["--plan_config_path", str(plan), "--check", "--set", "executor.slurm.time=5"]) == 2
    )
    message = "SLURM hands out the GPUs: gpu_ids_pool must be [], and executor.slurm.gpus is what jobs get"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_check_says_what_would_be_submitted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(link_clone(tmp_path / "clone"))
    pretend(load_study(STUDIES["laptop"]))
    monkeypatch.setenv("PATH", "")  # a machine without SLURM will do
    main, plan = (
        (rl4lms_plan_runner.main, SWEEP) if kind == "yaml" else (controlled.main, write_plan(tmp_path))
    )
    options = ["executor.slurm.time=4:00:00", "executor.slurm.setup=[module load cuda]", "num_parallel=8"]
    sets = [word for option in options for word in ("--set", option)]
    assert main(["--plan_config_path", str(plan), "--check", *sets]) == 0
    assert (
        "each experiment is a job of SLURM, submitted when those it starts from have finished, at most 8 at "
        "a time (num_parallel):\n"
        "    sbatch --time=240 --cpus-per-task=1 --signal=USR2@90 --requeue\n"
        "    first: module load cuda\n"
    ) in capsys.readouterr().out


def test_what_is_not_installed_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--plan_config_path", str(write_plan(tmp_path)), "--set", "executor.slurm.time=5"]
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert controlled.main(command) == 2
    assert capsys.readouterr().err == (
        "executor.slurm needs a package that is not installed: pip install submitit\n"
    )
    monkeypatch.setitem(sys.modules, "submitit", sys)  # any module will do
    monkeypatch.setenv("PATH", "")
    assert controlled.main(command) == 2
    assert capsys.readouterr().err == (
        "executor.slurm: there is no sbatch here: start the runner where SLURM takes jobs (a login node), or "
        "leave executor out to run on this machine\n"
    )
    assert not (tmp_path / "runs").exists()


def test_without_an_executor_nothing_is_different() -> None:
    assert PlanSettings().executor is None
    assert PlanSettings.model_validate({"executor": {"slurm": None}}).executor is not None

"""The plan runner: its summary, and what a run leaves behind."""

from pathlib import Path
from typing import Any

import pytest
from controlled_setting import make_config
from plan_runs import runs_of, write_plan

from common.jobs import Outcome
from common.run_dir import RunDir, find_runs, read_metrics
from sft_vs_rft.plan import Experiment, Plan
from sft_vs_rft.summary import describe_groups, summary
from sft_vs_rft_controlled_experiments_plan_runner import main

METHODS = ["reinforce", "supervised"]


def run(plan: Path, *flags: str) -> int:
    return main(["--plan_config_path", str(plan), "--disable_console_log", *flags])


Ended = tuple[Experiment, Outcome, float | None]


def ended(
    number: int, name: str, score: float | None, status: Any = "finished", repetition: int = 0
) -> Ended:
    experiment = Experiment(name, f"{number}", repetition, make_config(experiment_name=name))
    return experiment, Outcome(status, Path("runs") / name), score


def summary_of(plan: Plan, *endings: Ended) -> list[str]:
    experiments, outcomes, scores = zip(*endings, strict=True)
    return summary(plan, experiments, outcomes, scores)


# The summary


@pytest.mark.parametrize(("largest", "best"), [(False, "a, 0.5"), (True, "b, 1.5")])
def test_best_configuration_smallest_or_largest(largest, best):
    plan = Plan(name="p", largest=largest, configurations=[{}])
    lines = summary_of(plan, ended(0, "a", 0.5), ended(1, "b", 1.5), ended(2, "c", None, "failed"))
    assert lines[0] == "plan p: 3 experiments"
    assert lines[1] == "  finished    a: score 0.5 (runs/a)"
    assert lines[3] == "  failed      c: not run to its end (runs/c)"
    assert lines[4] == f"  best ({'largest' if largest else 'smallest'} train loss): {best}"


def test_best_configuration_by_the_mean_of_its_repetitions():
    plan = Plan(name="p", repetitions=2, configurations=[{}])
    lines = summary_of(
        plan,
        ended(0, "a", 0.1),
        ended(0, "a", 0.9, repetition=1),
        ended(1, "b", 0.3, "skipped"),
        ended(1, "b", 0.5, repetition=1),
    )
    assert lines[-1] == "  best (smallest train loss): b, 0.4, std 0.141 over 2"


def test_configurations_of_one_name_are_not_taken_for_repetitions():
    plan = Plan(name="p", configurations=[{}])
    assert (
        summary_of(plan, ended(0, "a", 0.1), ended(1, "a", 0.9))[-1] == "  best (smallest train loss): a, 0.1"
    )


def test_no_best_configuration_when_nothing_finished():
    lines = summary_of(Plan(name="p", configurations=[{}]), ended(0, "a", None, "interrupted"))
    assert lines == ["plan p: 1 experiments", "  interrupted a: not run to its end (runs/a)"]


def of_method(number: int, name: str, method: str, score: float, **fields: Any) -> Ended:
    config = make_config(experiment_name=name, opt_method=method, **fields)
    return Experiment(name, f"{number}", 0, config), Outcome("finished", Path("runs") / name), score


def test_losses_of_different_methods_are_not_compared():
    plan = Plan(name="p", configurations=[{}])
    endings = [of_method(0, "rft", "expected_reinforce", 0.9), of_method(1, "sft", "supervised", 0.1)]
    assert not any("best" in line for line in summary_of(plan, *endings))
    lines = summary_of(plan, *endings, of_method(2, "sft2", "supervised", 0.05))
    assert lines[4:] == ["  best of supervised (smallest train loss): sft2, 0.05"]


def test_rewards_of_different_methods_are_compared():
    plan = Plan(name="p", largest=True, configurations=[{}])
    fields = {"score_metric_name": "reward"}
    endings = [
        of_method(0, "rft", "expected_reinforce", 0.9, **fields),
        of_method(1, "sft", "supervised", 0.95, **fields),
    ]
    assert summary_of(plan, *endings)[-1] == "  best (largest reward): sft, 0.95"


def test_the_end_of_a_plan_has_the_rewards_of_both_groups_and_what_draws_them(tmp_path):
    experiments, outcomes = [], []
    for name, value in (("rft", 0.0), ("rft", 0.5), ("sft", 0.9), ("pretraining", None)):
        with RunDir.create(tmp_path, name, {}, {}) as run:
            groups = (
                {} if value is None else {"reward small reward std": value, "reward large reward std": 1.0}
            )
            run.append_metrics({"epoch": 0, "train": {"train loss": 9.0}})
            run.append_metrics({"epoch": 1, "train": {"train loss": 1.0} | groups})
        repetition = int(value == 0.5)
        config = make_config(experiment_name=name)
        experiments.append(Experiment(f"{name}_{repetition}", name, repetition, config))
        outcomes.append(Outcome("finished", run.path))
    outcomes.append(Outcome("failed", tmp_path / "gone"))
    experiments.append(Experiment("failed", "failed", 0, make_config(experiment_name="failed")))
    assert describe_groups(experiments, outcomes) == [
        "  train reward at the end, inputs by their reward std under the pretrained model:",
        "    rft: small 0.250 (std 0.354), large 1.000 (std 0.000)",
        "    sft: small 0.900, large 1.000",
        f"  the picture: python reproduce_paper.py --runs {' '.join(str(o.run) for o in outcomes[:3])}",
    ]
    assert describe_groups(experiments[3:], outcomes[3:]) == []


# What a run leaves behind


def test_log_files_of_plan_and_experiments(tmp_path, capfd):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, save_logs=True, epoch_log_interval=2)
    logs = tmp_path / "logs"
    assert run(plan, "--save_logs", "--log_dir", str(logs)) == 0
    assert run(plan, "--save_logs", "--log_dir", str(logs), "--log_file_name_prefix", "mine") == 0
    first, second = sorted(logs.iterdir(), key=lambda path: path.name.startswith("mine"))
    assert first.name.startswith("plan_20") and second.name.startswith("mine_20")
    assert "train reward at the end" in first.read_text()
    assert second.read_text().count("finished earlier, skipped") == 2
    for a_run in runs_of(tmp_path):
        log = (a_run.path / "log.txt").read_text()
        assert log.count(" epoch 1: train loss") == log.count(" epoch 3: train loss") == 1
        assert log.count("no CUDA device here: gpu_ids [0] means CPU") == 1
        assert "start, small reward std inputs: reward" in log
        other = next(m for m in METHODS if m != a_run.config["opt_method"])
        assert f"{other}_0-01" not in log
    assert capfd.readouterr() == ("", ""), "--disable_console_log"


def test_no_log_file_unless_asked_for(tmp_path):
    assert run(write_plan(tmp_path, save_logs=False)) == 0
    (a_run,) = runs_of(tmp_path)
    assert not (a_run.path / "log.txt").exists()


def test_an_experiment_can_be_silent_on_the_console(tmp_path, capfd):
    plan = write_plan(
        tmp_path, {"disable_console_log": [True, False]}, experiment_name="{disable_console_log}"
    )
    assert main(["--plan_config_path", str(plan)]) == 0
    printed = capfd.readouterr().err
    assert "best (smallest train loss)" in printed, "the plan's own lines stay"
    assert (printed.count("True: started in"), printed.count("False: started in")) == (0, 1)
    assert [(run.path / "log.txt").read_text().count("started in") for run in runs_of(tmp_path)] == [1, 1]


def test_gpus_without_cuda_mean_the_cpu(tmp_path):
    plan = write_plan(tmp_path, gpu_ids=[3])
    assert run(plan) == 0
    (a_run,) = runs_of(tmp_path)
    assert a_run.manifest["device"] == "cpu"
    assert (a_run.path / "log.txt").read_text().count("no CUDA device here: gpu_ids [3] means CPU") == 1


def test_metric_plots_only_if_asked_for(tmp_path):
    options = {"save_metric_plots": [True, False]}
    assert run(write_plan(tmp_path, options, epochs=2, experiment_name="{save_metric_plots}")) == 0
    with_plots, without = runs_of(tmp_path)
    plots = {path.name for path in (with_plots.path / "plots").iterdir()}
    assert {"loss.png", "reward.png", "grad_norm.png", "accuracy.png", "avg_reward_std.png"} <= plots
    assert not (without.path / "plots").exists()


def test_tensorboard_has_every_epoch_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = write_plan(tmp_path, use_tensorboard=True, save_every_num_val=2, epochs=7)

    def die_in_epoch_5(run_dir: RunDir, row: dict[str, Any]) -> None:
        append(run_dir, row)
        if row["epoch"] == 5:
            raise RuntimeError("for the test")

    append = RunDir.append_metrics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", die_in_epoch_5)
        assert run(plan) == 1  # epochs 0 to 4 are logged, the checkpoint is of 3
    assert run(plan) == 0
    (a_run,) = runs_of(tmp_path)
    events = EventAccumulator(str(a_run.path / "tensorboard")).Reload()
    rows = read_metrics(a_run.path)
    for split in ("train", "val"):
        for name in rows[0][split]:
            scalars = events.Scalars(f"{split}/{name}")
            assert [event.step for event in scalars] == list(range(7))
            expected = [row[split][name] for row in rows]
            assert [event.value for event in scalars] == pytest.approx(expected, rel=1e-6)


def test_files_and_folders_beside_the_runs_do_no_harm(tmp_path):
    plan = write_plan(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    (tmp_path / "runs" / "folder").mkdir()
    assert run(plan) == 0
    assert len(find_runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize("prefix", ["../../x", "/tmp/x", "a/b", "..", "x\n", "x" * 300])
def test_the_name_of_the_log_stays_in_its_folder(tmp_path, prefix, capsys):
    plan = write_plan(tmp_path, epochs=1)
    flags = ["--save_logs", "--log_dir", str(tmp_path / "logs"), "--log_file_name_prefix", prefix]
    with pytest.raises(SystemExit, match="2"):
        main(["--plan_config_path", str(plan), *flags])
    assert f"--log_file_name_prefix becomes part of a file name, got {prefix!r}" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()

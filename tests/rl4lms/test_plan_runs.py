"""Runs of sweeps: what is the same run, what starts from what, failures, kills, the summary."""

import csv
import json
import logging
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from plan_runs import wait_until
from processes import snapshot
from safetensors.torch import load_file
from sweep_plans import write_configs, write_sweep

from common.run_dir import RunInfo, find_runs
from rl4lms.plan import load_plan
from rl4lms.plan.runs import make_jobs
from rl4lms_plan_runner import main

STEPS = "alg.training_args.max_steps"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What a killed process has written needs none."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def forked(monkeypatch):
    """Workers are forked: they take milliseconds to start."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: get_context("fork"))


@pytest.fixture(scope="module")
def configs(tmp_path_factory, tiny_t5):
    return write_configs(tmp_path_factory.mktemp("configs"), tiny_t5)


def chain(configs: dict[str, str]) -> list[dict[str, Any]]:
    """SFT of two lengths, PPO on each of their models, extractions of the models of PPO."""
    return [
        {"name": "sft", "config_path": configs["sft"], "options": {STEPS: [1, 2]}},
        {"name": "ppo", "config_path": configs["ppo"], "model_from": "sft"},
        {"name": "rewards", "config_path": configs["extract"], "model_from": "ppo"},
    ]


def run(plan: Path, *flags: str) -> int:
    return main(["--plan_config_path", str(plan), "--disable_console_log", *flags])


def runs_of(folder: Path) -> dict[str, RunInfo]:
    """Name of an experiment -> its one run, which must be finished."""
    runs = find_runs(folder / "runs")
    assert {run.manifest["status"] for run in runs} == {"finished"}
    named = {run.manifest["experiment"]: run for run in runs}
    assert len(named) == len(runs), "one run each"
    return named


def numbers(folder: Path) -> dict[str, Any]:
    """All that the runs computed: to be equal, bit for bit, however often they were cut."""
    found: dict[str, Any] = {}
    for name, of in runs_of(folder).items():
        files = sorted(of.path.glob("*_split_metrics.jsonl")) + sorted(of.path.glob("scores.jsonl"))
        found[name] = {file.name: file.read_text() for file in files}
        for weights in of.path.glob("*_model/model.safetensors"):
            found[name]["weights"] = {key: value.tolist() for key, value in load_file(weights).items()}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory, configs):
    """The folder of the chain, run without a stop, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(write_sweep(folder, chain(configs), score_metric_name="lexical/chrf")) == 0
    return folder


# What is the same run


def identities(folder: Path, configurations: list[dict[str, Any]], **plan: Any) -> list[str]:
    loaded = load_plan(write_sweep(folder, configurations, **plan))
    return [job.identity for job in make_jobs(loaded.plan, loaded.experiments)]


def test_names_and_devices_do_not_change_the_identity_and_what_decides_numbers_does(tmp_path, configs):
    def of(*extra: Any, **changes: Any) -> str:
        (identity,) = identities(tmp_path, [{"name": "sft", "config_path": configs["sft"]} | changes])
        return identity

    same = [
        of(name="other"),
        of(experiment_name="x"),
        of(base_config={"runtime.device": "cpu"}),
        of(base_config={"runtime.seed": 0}),
        of(options={STEPS: [2]}),
    ]
    assert set(same) == {of()}
    others = [
        of(base_config={"runtime.seed": 1}),
        of(base_config={STEPS: 3}),
        of(base_config={"train_evaluation.max_eval_samples": 3}),
        of(config_path=configs["extract"]),
    ]
    assert len({of(), *others}) == 5


def test_evaluations_that_are_sampled_otherwise_are_other_runs(tmp_path, configs):
    drawn, evaluated = "alg.generation_kwargs", "train_evaluation.generation_kwargs"

    def of(**fields: Any) -> str:
        base = {drawn: {"do_sample": True, "max_new_tokens": 4}, evaluated: None, **fields}
        (identity,) = identities(
            tmp_path, [{"name": "sft", "config_path": configs["sft"], "base_config": base}]
        )
        return identity

    stated = {"do_sample": True, "max_new_tokens": 4}
    # The same texts, said in other words.
    assert of() == of(**{evaluated: stated}) == of(**{f"{evaluated}_on_train": stated})
    others = [
        of(**{evaluated: {"max_new_tokens": 4}}),
        of(**{f"{evaluated}_on_train": {"max_new_tokens": 4}}),
        of(**{evaluated: stated | {"temperature": 1.5}}),
    ]
    assert len({of(), *others}) == 4


def test_the_identity_holds_that_of_the_model_it_starts_from(tmp_path, configs):
    of = identities(tmp_path, chain(configs))
    assert len(set(of)) == 6
    longer = chain(configs)
    longer[0]["options"] = {STEPS: [1, 3]}
    changed = identities(tmp_path, longer)
    assert [a == b for a, b in zip(of, changed, strict=True)] == [True, False] * 3


def test_models_and_data_count_by_content(tmp_path, configs, tiny_t5):
    copies = {}
    for name in ("one", "two"):
        copies[name] = tmp_path / name
        copies[name].mkdir()
        for file in tiny_t5.iterdir():
            (copies[name] / file.name).write_bytes(file.read_bytes())

    def of(model: Path) -> str:
        base = {"alg.model_name": str(model), "tokenizer.model_name": str(model)}
        configuration = {"name": "sft", "config_path": configs["sft"], "base_config": base}
        (identity,) = identities(tmp_path, [configuration])
        return identity

    before = of(copies["one"])
    assert before == of(copies["two"]) == of(tiny_t5)
    with (copies["two"] / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert of(copies["one"]) == before != of(copies["two"])
    data = Path(json.loads(Path(configs["sft"]).read_text())["datapool"]["args"]["data_path"]) / "val.jsonl"
    text = data.read_text()
    data.write_text(text.replace("dog 0", "cat 0"))
    try:
        assert of(copies["one"]) != before
    finally:
        data.write_text(text)


def test_a_chat_template_counts_by_content(tmp_path, configs):
    rows, template = tmp_path / "rows.jsonl", tmp_path / "mine.jinja"
    pairs = [
        {"prompt": split, "chosen": "a", "rejected": "b", "split": split}
        for split in ("train", "val", "test")
    ]
    rows.write_text("\n".join(map(json.dumps, pairs)))
    base = {
        "datapool.id": "preferences",
        "datapool.args": {"data_path": str(rows), "chat_template": str(template)},
    }
    configuration = {"name": "sft", "config_path": configs["sft"], "base_config": base}
    template.write_text("{{ messages }}")
    (before,) = identities(tmp_path, [configuration])
    assert identities(tmp_path, [configuration]) == [before]
    template.write_text("{{ messages }}!")
    assert identities(tmp_path, [configuration]) != [before]


# Running


def test_each_run_starts_from_the_model_of_the_one_before(whole):
    runs = runs_of(whole)
    assert len(runs) == 6
    for steps in (1, 2):
        sft = runs[f"sft_max_steps_{steps}_seed_0"]
        ppo = runs[f"sft_max_steps_{steps}_ppo_seed_0"]
        rewards = runs[f"sft_max_steps_{steps}_ppo_rewards_seed_0"]
        assert ppo.config["alg"]["policy"]["args"]["model_name"] == str(
            sft.path / f"sft_max_steps_{steps}_seed_0_model"
        )
        assert ppo.manifest["parent_run"] == str(sft.path)
        assert Path(rewards.config["alg"]["model_name"]).parent == ppo.path
        assert rewards.path.name.startswith(
            f"train_reward_stats_jsonl_sft_max_steps_{steps}_ppo_seed_0_model_num_train_6_rnd_0_rewards_seed_0_"
        )
    rows = {name: (of.path / f"{name}_val_split_metrics.jsonl") for name, of in runs.items()}
    ends = json.loads(rows["sft_max_steps_2_seed_0"].read_text().splitlines()[-1])["metrics"]
    begins = json.loads(rows["sft_max_steps_2_ppo_seed_0"].read_text().splitlines()[0])["metrics"]
    # The prompts of one are cut at 20 tokens, of the other at 10: the same model, not the same texts.
    assert ends.keys() == begins.keys()


def test_again_skips_what_finished_under_whatever_name(whole, configs, caplog):
    plan = whole / "sweep.yml"
    before = snapshot(whole / "runs")
    with caplog.at_level(logging.INFO):
        assert run(plan) == 0
    after = snapshot(whole / "runs")
    summary = whole / "runs" / "sweep_summary.csv"
    assert {path for path in after if after[path] != before[path]} == {summary}
    assert after.keys() == before.keys() and after[summary][1] == before[summary][1]
    assert caplog.text.count("finished earlier, skipped") == 6
    other = whole / "other.yml"
    other.write_text(
        plan.read_text().replace("name: sft", "name: other").replace("model_from: sft", "model_from: other")
    )
    assert run(other) == 0
    assert len(find_runs(whole / "runs")) == 6


def test_the_summary_has_mean_and_std_over_seeds_before_and_after(tmp_path, configs, caplog):
    sft = {"name": "sft", "config_path": configs["sft"]}
    extract = {"name": "rewards", "config_path": configs["extract"], "model_from": "sft", "repetitions": 1}
    with caplog.at_level(logging.INFO):
        assert run(write_sweep(tmp_path, [sft, extract], repetitions=2)) == 0
    rows = list(csv.DictReader((tmp_path / "runs" / "sweep_summary.csv").read_text().splitlines()))
    assert [(row["setting"], row["seeds"]) for row in rows] == [("sft", "2"), ("sft_rewards", "1")]
    finals = [
        json.loads((of.path / f"{name}_test_split_metrics.jsonl").read_text().splitlines()[-1])["metrics"][
            "lexical/chrf"
        ]
        for name, of in runs_of(tmp_path).items()
        if name.startswith("sft_seed")
    ]
    assert float(rows[0]["test_after_mean"]) == pytest.approx(sum(finals) / 2)
    assert float(rows[0]["test_after_std"]) == pytest.approx(abs(finals[0] - finals[1]) / 2**0.5)
    assert rows[0]["train_before_mean"] and not rows[1]["train_before_mean"] and rows[1]["train_after_mean"]
    assert all((tmp_path / "runs" / Path(path).name).is_dir() for row in rows for path in row["runs"].split())
    header = next(i for i, line in enumerate(caplog.messages) if line.split()[:2] == ["setting", "seeds"])
    of_sft, of_rewards = caplog.messages[header + 1 : header + 3]
    assert of_sft.split()[:2] == ["sft", "2"] and "+-" in of_sft
    assert of_rewards.split()[:2] == ["sft_rewards", "1"] and "+-" not in of_rewards


def test_a_metric_that_no_run_has_is_refused_before_the_first_run(whole, capsys):
    assert run(whole / "sweep.yml", "--set", "score_metric_name=lexical/chr") == 2
    error = capsys.readouterr().err
    assert "score_metric_name" in error and "did you mean 'lexical/chrf'?" in error


# Failures and stops


def test_what_starts_from_a_failed_training_is_not_run_and_the_rest_is(whole, tmp_path, configs, caplog):
    broken = {
        "name": "bad",
        "config_path": configs["sft"],
        "base_config": {"alg.training_args.learning_rate": 1e30},
    }
    good = {"name": "good", "config_path": configs["sft"]}
    after = {"name": "rewards", "config_path": configs["extract"], "model_from": ["bad", "good"]}
    assert run(write_sweep(tmp_path, [broken, good, after], keep_checkpoints=True)) == 1
    statuses = {r.manifest["experiment"]: r.manifest["status"] for r in find_runs(tmp_path / "runs")}
    assert statuses == {"bad_seed_0": "failed", "good_seed_0": "finished", "good_rewards_seed_0": "finished"}
    assert "bad_rewards_seed_0 not run: needs bad_seed_0, which did not finish" in caplog.messages
    assert "Traceback" not in caplog.text
    # Checkpoints of finished trainings go unless they are to be kept.
    assert list((tmp_path / "runs").glob("good_*/*_checkpoints/*"))
    assert not list((whole / "runs").glob("*/*_checkpoints"))


def test_a_model_that_is_gone_is_said_so(whole, tmp_path, configs, caplog):
    """It is only missed where something is still to start from it."""
    shutil.copytree(whole / "runs", tmp_path / "runs")
    for model in (tmp_path / "runs").glob("*/sft_max_steps_[12]_seed_0_model"):
        shutil.rmtree(model)
    (of,) = (tmp_path / "runs").glob("sft_max_steps_1_seed_0_*")
    for path in (tmp_path / "runs").glob("*sft_max_steps_1_ppo_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(write_sweep(tmp_path, chain(configs))) == 1
    assert (
        f"sft_max_steps_1_ppo_seed_0 failed: the model of {of} is gone, there is no "
        "sft_max_steps_1_seed_0_model in it: delete that folder to train it anew" in caplog.messages
    )
    assert len(find_runs(tmp_path / "runs")) == 4


def test_what_is_lacking_is_said_before_anything_runs(tmp_path, configs, capsys, monkeypatch):
    monkeypatch.setattr("rl4lms.requirements.find_places", lambda folders: [])
    metrics = {"train_evaluation.metrics": [{"id": "meteor"}]}
    plan = write_sweep(tmp_path, [{"name": "sft", "config_path": configs["sft"], "base_config": metrics}])
    assert run(plan) == 2
    printed = capsys.readouterr().err
    assert "sft: train_evaluation.metrics[0]" in printed and "METEOR needs the WordNet corpus" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_workers_killed_or_stopped_with_their_runner_go_on_to_the_same_numbers(
    tmp_path, configs, whole, forked
):
    plan = write_sweep(tmp_path, chain(configs), multiprocess=True, num_parallel=2)

    def begun() -> int:
        return len(list((tmp_path / "runs").glob("*/manifest.json")))

    # In both trainings, in PPO, in an extraction.
    for number, status, due in ((signal.SIGKILL, -9, 2), (signal.SIGINT, 130, 3), (signal.SIGKILL, -9, 5)):
        runner = os.fork()
        if runner == 0:
            os._exit(run(plan))
        wait_until(lambda due=due: begun() >= due)
        os.kill(runner, number)
        assert os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]) == status
    assert run(plan) == 0
    assert numbers(tmp_path) == numbers(whole)

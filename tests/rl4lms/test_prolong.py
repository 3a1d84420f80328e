"""`--resume DIR --set train_evaluation.n_iters=N`: as a run that had N from the start, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import ppo_config, save_data, supervised_config

import rl4lms_train_text_generation as training
from common.files import read_rows
from common.identity import IDENTITY, earlier_runs
from common.run_dir import RunDir, checkpoints_in, find_runs, load_checkpoint, read_run

LENGTH = "train_evaluation.n_iters"
TIMINGS = ("seconds", "tokens_per_second")
ROWS = ("rollout_info", "training_info", "rollout_rewards")
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl4lms.record.draw_training", lambda *_: None)


def write(folder: Path, model: Path, alg: str) -> Path:
    """Two iterations, evaluated on val after each third and at the end."""
    config = ppo_config(model, save_data(folder / "data"))
    config["train_evaluation"] |= {"eval_every": 3, "max_eval_samples": 4}
    config["alg"]["kl_div"] = {"coeff": 0.01, "target_kl": 0.01}
    if alg == "nlpo":
        policy = config["alg"]["policy"]
        policy["id"] = f"maskable_{policy['id']}"
        policy["args"] |= {"top_mask": 0.9, "min_tokens_to_keep": 10, "target_update_iterations": 2}
    config["alg"]["id"] = alg
    path = folder / f"{alg}.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def train(config: Path, base: Path, *overrides: str) -> Path:
    arguments = ["--config_path", str(config), "--base_path_to_store_results", str(base)]
    arguments += ["--experiment_name", "mine", "--log_entire_predictions"]
    assert training.main([*arguments, *(word for text in overrides for word in ("--set", text))]) == 0
    (run,) = find_runs(base)
    return run.path


def checkpoints(run: Path) -> list[Path]:
    return checkpoints_in(run / "mine_checkpoints")


def resume(run: Path, *overrides: str) -> int:
    return training.main(["--resume", str(run), *(word for text in overrides for word in ("--set", text))])


def contents(run: Path) -> dict[str, Any]:
    """All that a run computed."""
    rows: dict[str, Any] = {
        name: [
            {key: value for key, value in row.items() if key.rpartition("/")[2] not in TIMINGS}
            for row in read_rows(run / f"mine_{name}.jsonl", key)
        ]
        for name, key in [(name, "step" if name == "rollout_rewards" else "epoch") for name in ROWS]
        + [(f"{split}_split_metrics", "epoch") for split in SPLITS]
    }
    texts = {path.name: path.read_text() for path in run.glob("*_predictions.json")}
    weights = (run / "mine_model" / "model.safetensors").read_bytes()
    config = json.loads((run / "mine_config.json").read_text())
    return {"rows": json.dumps(rows), "texts": texts, "weights": weights, "config": config}


@pytest.mark.parametrize("alg", [pytest.param("ppo", marks=pytest.mark.slow), "nlpo"])
def test_a_finished_run_that_is_prolonged_is_one_that_had_that_length_from_the_start(
    alg: str, tiny_gpt2: Path, tmp_path: Path, capfd: Any
) -> None:
    config = write(tmp_path, tiny_gpt2, alg)
    whole = train(config, tmp_path / "whole", f"{LENGTH}=4")
    run = train(config, tmp_path / "short")
    assert [row["epoch"] for row in read_rows(run / "mine_test_split_metrics.jsonl", "epoch")] == [0, 2]
    assert contents(run)["weights"] != contents(whole)["weights"]

    assert resume(run, f"{LENGTH}=4") == 0
    assert contents(run) == contents(whole)
    states = [load_checkpoint(checkpoints(path)[-1]) for path in (run, whole)]
    assert states[0]["iteration"] == 4 and str(states[0]) == str(states[1])
    manifest = read_run(run).manifest
    assert manifest["status"] == "finished"
    (change,) = manifest["prolonged"]
    assert (change["from"], change["to"]) == (2, 4) and change["at"].startswith("20")
    # And again, in two steps of one.
    longer = train(config, tmp_path / "longer", f"{LENGTH}=6")
    assert resume(run, f"{LENGTH}=5") == resume(run, f"{LENGTH}=6") == 0
    assert contents(run) == contents(longer)
    assert [change["to"] for change in read_run(run).manifest["prolonged"]] == [4, 5, 6]


def test_a_cut_run_gets_another_length_too(tiny_gpt2: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from rl4lms.record import Record

    config = write(tmp_path, tiny_gpt2, "ppo")
    add_update = Record.add_update

    def cut(record: Record, variance: float) -> None:
        if record._learner.iteration == 1:
            raise KeyboardInterrupt
        add_update(record, variance)

    monkeypatch.setattr(Record, "add_update", cut)
    arguments = ["--config_path", str(config), "--base_path_to_store_results", str(tmp_path / "cut")]
    arguments += ["--experiment_name", "mine", "--log_entire_predictions"]
    assert training.main(arguments) == 130
    monkeypatch.setattr(Record, "add_update", add_update)
    (run,) = find_runs(tmp_path / "cut")
    assert resume(run.path, f"{LENGTH}=3") == 0
    assert contents(run.path) == contents(train(config, tmp_path / "whole", f"{LENGTH}=3"))


def test_what_cannot_be_prolonged_is_refused_in_one_line(tiny_gpt2: Path, tmp_path: Path, capfd: Any) -> None:
    run = train(write(tmp_path, tiny_gpt2, "ppo"), tmp_path / "runs")
    before = contents(run)

    def refusal(*overrides: str) -> str:
        capfd.readouterr()
        assert resume(run, *overrides) == 2
        return capfd.readouterr().err

    for asked in (2, 1):
        message = f"{LENGTH}: {run} has 2 iterations, more are to be asked for than {asked}\n"
        assert refusal(f"{LENGTH}={asked}") == message
    assert "train_evaluation.n_iters  expected a whole number >= 1" in refusal(f"{LENGTH}=many")
    assert refusal("alg.training_args.max_steps=9") == (
        f"alg.training_args.max_steps is of supervised finetuning; a run of ppo is prolonged by {LENGTH}\n"
    )
    with pytest.raises(SystemExit):
        resume(run, f"{LENGTH}=4", "runtime.seed=1")
    assert capfd.readouterr().err.endswith(
        f"--set cannot change a run that is resumed; what can be changed is {LENGTH}\n"
    )
    for checkpoint in checkpoints(run):
        checkpoint.unlink()
    assert refusal(f"{LENGTH}=4") == (
        f"{run} has no checkpoint any more to go on from; start a longer run anew\n"
    )
    assert contents(run) == before and read_run(run).manifest["status"] == "finished"


@pytest.mark.parametrize(
    "field", ["alg.training_args.max_steps", "alg.training_args.num_train_epochs", LENGTH]
)
def test_supervised_finetuning_is_not_prolonged_and_it_is_said_why(
    field: str, tiny_t5: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.setattr("rl4lms.train.choose_algorithm", lambda config: lambda setup: None)
    config = tmp_path / "sft.yml"
    config.write_text(yaml.safe_dump(supervised_config(tiny_t5, save_data(tmp_path / "data"))))
    run = train(config, tmp_path / "runs")
    capfd.readouterr()
    assert resume(run, f"{field}=9") == 2
    assert capfd.readouterr().err == (
        f"{field}: supervised finetuning cannot be prolonged: its learning rate follows the number of "
        "updates that it began with, so that it would end otherwise than a longer run; start that one anew, "
        "or from the finetuned model\n"
    )


def test_a_plan_no_longer_takes_it_for_its_own_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    run = train(write(tmp_path, tiny_gpt2, "ppo"), tmp_path / "runs")
    with RunDir.open(run) as opened:
        opened.update_manifest(**{IDENTITY: "0123456789abcdef"})
    assert "0123456789abcdef" in earlier_runs(tmp_path / "runs")
    assert resume(run, f"{LENGTH}=3") == 0
    assert list(earlier_runs(tmp_path / "runs")) == ["0123456789abcdef, 3 iterations"]

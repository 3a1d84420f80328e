"""Finetuning, PPO, evaluation and extraction read preferences as they read other datasets."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from preference_files import assistant, user, write
from tiny_models import CHAT_TEMPLATE, save_chat_tokenizer
from training_runs import ppo_config, supervised_config

import rl4lms_extract_samples_from_model_runner as extraction
import rl4lms_train_text_generation as training
from common.run_dir import find_runs

PROMPTS = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, Any]:
    """Preferences between messages."""
    for split, numbers in PROMPTS.items():
        rows = [
            {
                "chosen": [user(f"the dog {i}"), assistant("looks at us")],
                "rejected": [user(f"the dog {i}"), assistant("water")],
            }
            for i in numbers
        ]
        write(tmp_path / "data" / f"{split}.jsonl", *rows)
    return {"id": "preferences", "args": {"data_path": str(tmp_path / "data")}}


def prompt_of(number: int) -> str:
    return f"<user>the dog {number}<|endoftext|>\n<assistant>"


@pytest.mark.parametrize("job", ["supervised", "ppo"])
def test_training_and_evaluation(job: str, pool: dict[str, Any], tiny_gpt2: Path, tmp_path: Path) -> None:
    tokenizer = save_chat_tokenizer(tiny_gpt2, tmp_path / "chat", CHAT_TEMPLATE)
    data = Path(pool["args"]["data_path"])
    if job == "ppo":
        config = ppo_config(tiny_gpt2, data)
        config["env"]["args"]["max_prompt_length"] = 40
    else:
        config = supervised_config(tiny_gpt2, data, "causal", max_steps=2)
    config["tokenizer"] = {"model_name": tokenizer, "truncation_side": "right", "max_length": 40}
    config["datapool"] = pool
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    flags = ["--config_path", str(tmp_path / "config.yml")]
    assert training.main([*flags, "--check"]) == 0
    flags += ["--base_path_to_store_results", str(tmp_path / "runs"), "--log_entire_predictions"]
    assert training.main([*flags, "--experiment_name", "mine"]) == 0
    (run,) = find_runs(tmp_path / "runs")
    assert run.manifest["samples"] == {"train": 6, "val": 2, "test": 2}
    predictions = sorted(run.path.glob("mine_*_val_split_predictions.json"))[0]
    rows = json.loads(predictions.read_text())
    assert {row["prompt"] for row in rows} == {prompt_of(i) for i in PROMPTS["val"]}
    assert "looks at us" in str(rows[0]) and "water" not in str(rows[0])


def test_extraction(pool: dict[str, Any], tiny_gpt2: Path, tmp_path: Path) -> None:
    config = {
        "tokenizer": {
            "model_name": save_chat_tokenizer(tiny_gpt2, tmp_path / "chat", CHAT_TEMPLATE),
            "max_length": 40,
        },
        "datapool": pool,
        "alg": {
            "model_type": "causal",
            "model_name": str(tiny_gpt2),
            "generation_kwargs": {"do_sample": True, "max_new_tokens": 4},
        },
        "evaluation": {"eval_batch_size": 4, "num_samples_per_input": 2, "metrics": [{"id": "chrf"}]},
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    output = tmp_path / "out"
    assert extraction.main(["--config_path", str(tmp_path / "config.yml"), "--output_path", str(output)]) == 0
    (file,) = output.glob("*.pt")
    content = torch.load(file, weights_only=True)
    assert content["prompts"] == [prompt_of(i) for i in PROMPTS["train"]]
    assert content["references"] == [["looks at us"]] * 6


def test_check_looks_into_local_files(
    pool: dict[str, Any], tiny_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(pool["args"]["data_path"])
    config = supervised_config(tiny_gpt2, data, "causal") | {"datapool": pool}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    (data / "val.jsonl").write_text('{"chosen": "a", "rejected": 3}\n')
    assert training.main(["--config_path", str(tmp_path / "config.yml"), "--check"]) == 2
    message = f"datapool.args.data_path  {data / 'val.jsonl'} line 1: 'rejected' must be a string, is 3"
    assert message in capsys.readouterr().err

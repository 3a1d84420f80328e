"""The configs of rl4lms_scripts/instructgpt: the paper's values, and `--check` once the data is there."""

import json
from pathlib import Path

import pytest
import yaml
from pretraining_setting import save_laptop_models

import rl4lms_train_text_generation as runner

REPO = Path(__file__).parents[2]
CONFIGS = sorted((REPO / "rl4lms_scripts" / "instructgpt").rglob("*_reward_model.yml"))


def test_one_config_for_each_size_and_kind():
    assert [path.stem.removesuffix("_reward_model") for path in CONFIGS] == [
        "gpt2",
        "gpt_neo_1.3b",
        "gptj_6b",
        "gpt2_continuation",
        "t5_content_words",
    ]


@pytest.mark.parametrize("size", ["gptj_6b", "gpt_neo_1.3b"])
def test_the_papers_values_are_the_papers(size):
    """Ouyang et al. 2022, Appendix C.2; what it does not give is said to be ours in the file."""
    (path,) = [path for path in CONFIGS if path.stem.startswith(size)]
    args = yaml.safe_load(path.read_text())["alg"]["args"]
    expected = {
        "learning_rate": 9e-6,
        "prompts_per_batch": 64,
        "epochs": 1,
        "lr_schedule": "cosine",
        "min_lr_rate": 0.1,
        "betas": [0.9, 0.95],
        "max_length": 2048,
        "normalize": "demonstrations",
    }
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_valid_once_the_data_is_there(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_laptop_models(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    row = {"prompt": "a", "completions": ["b", "c"], "scores": [1, 0]}
    if path.stem == "gpt2_reward_model":
        answers = [
            {"response": text, "fine-grained_score": score} for text, score in (("b", 1.0), ("c", 2.0))
        ]
        row = {"instruction": "a", "completions": answers}
        rows = [{**row, "instruction": f"question {i}"} for i in range(200)]
        (data / "flan.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    else:
        for number, split in enumerate(("train", "val", "test")):
            (data / f"{split}.jsonl").write_text(json.dumps(row | {"prompt": f"a {number}"}) + "\n")
    assert runner.main(["--config_path", str(path), "--check"]) == 2
    assert "data_path" in capsys.readouterr().err
    assert (
        runner.main(["--config_path", str(path), "--check", "--set", f"datapool.args.data_path={data}"]) == 0
    )
    output = capsys.readouterr()
    assert "training: all train prompts" in output.out and "no effect" not in output.out and not output.err

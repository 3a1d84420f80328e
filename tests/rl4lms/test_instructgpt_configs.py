"""The configs of rl4lms_scripts/instructgpt: the paper's values, and `--check` once all is there."""

import json
import re
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


# Supervised finetuning, the start of RL, PPO-ptx

OTHERS = sorted(
    path
    for path in (REPO / "rl4lms_scripts" / "instructgpt").rglob("*.yml")
    if path.stem.endswith(("_supervised", "_rl_start", "_ppo_ptx"))
)
PTX = [path for path in OTHERS if path.stem.endswith("_ppo_ptx")]
SFT = [path for path in OTHERS if path not in PTX]


def test_every_stage_has_its_configs():
    assert [path.stem for path in OTHERS] == [
        "gpt_neo_1.3b_ppo_ptx",
        "gpt_neo_1.3b_rl_start",
        "gpt_neo_1.3b_supervised",
        "gpt2_continuation_ppo_ptx",
        "gpt2_continuation_rl_start",
        "gpt2_continuation_supervised",
        "t5_content_words_ppo_ptx",
    ]


@pytest.mark.parametrize("path", PTX, ids=lambda path: path.stem)
def test_ppo_has_the_papers_values(path):
    """Ouyang et al. 2022, Appendix C.4; what the laptop's do otherwise is said in the file."""
    config = yaml.safe_load(path.read_text())
    alg = config["alg"]
    args, is_laptop = alg["args"], path.parent.name == "laptop"
    expected = {
        "episodes": 128 if is_laptop else 512,
        "batch_size": 64,
        "minibatch_unit": "episode",
        "n_epochs": 1,
        "warmup_iterations": 10,
        "ema_decay": 0.992,
        "clip_range": 0.2,
        "value_clip_range": 0.2,
        "gamma": 1.0,
    }
    assert {name: args[name] for name in expected} == expected
    assert alg["kl_div"] == {"coeff": 0.02}
    assert (alg["pretraining"]["coeff"], alg["pretraining"]["examples_per_episode"]) == (27.8, 8)
    policy = alg["policy"]["args"]
    assert policy["generation_kwargs"]["temperature"] == 1.0 and policy["generation_kwargs"]["top_k"] == 0
    assert policy["value_model_name"] == config["reward_fn"]["args"]["model_name"]
    if not is_laptop:
        assert args["value_learning_rate"] == 9e-6
        assert args["episodes"] * config["train_evaluation"]["n_iters"] == 256_000


@pytest.mark.parametrize("path", SFT, ids=lambda path: path.stem)
def test_sft_has_the_papers_values(path):
    """Appendices C.1 and C.4."""
    alg = yaml.safe_load(path.read_text())["alg"]
    args, start = alg["training_args"], path.stem.endswith("_rl_start")
    texts = args["per_device_train_batch_size"] * args.get("gradient_accumulation_steps", 1)
    assert (args["num_train_epochs"], texts) == (2 if start else 16, 32)
    assert (args["lr_scheduler_type"], args["lr_scheduler_kwargs"]) == (
        "cosine_with_min_lr",
        {"min_lr_rate": 0.1},
    )
    assert (args["adam_beta1"], args["adam_beta2"], alg["dropout"]) == (0.9, 0.95, {"residual": 0.2})
    assert alg.get("pretraining", {}).get("share") == (0.1 if start else None)
    assert ("select_by" in alg) != start
    if path.parent.name != "laptop":
        assert args["learning_rate"] == 9.65e-6


def placeholders(value, path=""):
    """Fields whose values are placeholders, with these."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            field: text
            for key, item in items
            for field, text in placeholders(item, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: value} if str(value).startswith("<") else {}


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_valid_once_the_placeholders_are_replaced(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_laptop_models(tmp_path)
    is_t5, is_laptop = path.stem.startswith("t5"), path.parent.name == "laptop"
    reward = tmp_path / "reward"
    reward.mkdir()
    architecture = {"architectures": ["GPT2ForSequenceClassification"], "model_type": "gpt2"}
    if is_t5:
        architecture = {"architectures": ["T5Model"], "model_type": "t5", "is_encoder_decoder": True}
    (reward / "config.json").write_text(
        json.dumps(architecture | {"reward_scale": 1.0, "n_positions": 128 if is_laptop else 2048})
    )
    for file in ("model.safetensors", "tokenizer.json"):
        (reward / file).touch()
    data = tmp_path / "data"
    data.mkdir()
    for number, split in enumerate(("train", "val", "test")):
        row = {"prompt": f"a {number}", "completions": ["b", "c"], "scores": [1, 0]}
        (data / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "texts.jsonl").write_text('{"text": "one two three four"}\n')
    values = {
        "reward_model.yml>": str(reward),
        "rl_start.yml>": "outputs/laptop_models/gpt2" if is_laptop else "EleutherAI/gpt-neo-1.3B",
        "demonstrations>": str(data),
        "prompts>": str(data),
        "text>": str(tmp_path / "texts.jsonl"),
    }
    found = placeholders(yaml.safe_load(path.read_text()))
    replaced = [
        f"{field}={value}"
        for field, text in found.items()
        for end, value in values.items()
        if text.endswith(end)
    ]
    assert len(replaced) == len(found)
    if found:
        assert runner.main(["--config_path", str(path), "--check"]) == 2
        errors = capsys.readouterr().err
        assert all(field.rpartition(".")[2] in errors for field in found)
    sets = [flag for value in replaced for flag in ("--set", value)]
    assert runner.main(["--config_path", str(path), "--check", *sets]) == 0
    output = capsys.readouterr()
    assert not output.err
    notes = [line for line in output.out.split("\n") if line.startswith("note: ")]
    assert all("is not in this machine's cache" in note for note in notes) and is_laptop != bool(notes)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_headers_name_what_comes_before(path):
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("# ") for line in header.split("\n")) and "# Needs: " in header
    for command in re.findall(r"#   python (\S+) --config_path (\S+)", header):
        assert all((REPO / file).is_file() for file in command)
    made = {text[len("<model of ") : -1] for text in placeholders(yaml.safe_load(path.read_text())).values()
            if text.startswith("<model of ")}  # fmt: skip
    assert all((REPO / file).is_file() for file in made)
    if path.parent.name == "laptop":
        assert all(f"--config_path {file}" in header for file in made)

"""The reward of a reward model as metric and as reward: in a batch, in an extraction, in PPO."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from extraction_settings import write_extraction
from tiny_encoders import save_tiny_bert
from tiny_models import TEXTS, edit_json
from training_runs import config_of, new_run, ppo_config, rows_of, save_data, setup_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.config import ConfigError
from common.run_dir import RunDir
from rl4lms.config import load_extract_config, resolved
from rl4lms.extract import extract
from rl4lms.metrics import METRICS, TextBatch, build_metric
from rl4lms.model import reward_model
from rl4lms.model.reward_model import RewardModel
from rl4lms.model.source import ModelSourceError
from rl4lms.ppo.train import train
from rl4lms.rewards import REWARDS, build_reward

PROMPTS, COMPLETIONS = [TEXTS[i][:9] for i in range(20)], [TEXTS[3 * i + 1] for i in range(20)]
BATCH = TextBatch(PROMPTS, COMPLETIONS, [[]] * 20, [{}] * 20)
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' + eos_token }}{% endfor %} end"
)


def save_model(folder: Path, language_model: Path, kind: str = "causal") -> Path:
    model = RewardModel.start(str(language_model), kind, tokenizer_name=str(language_model))
    model.bias, model.scale = 0.25, 2.0
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "reward", tiny_gpt2)


def save_others(folder: Path, model: Path) -> Path:
    """The same weights as somebody else's classifier, who trained it on conversations."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(model)
    for field in ("reward_bias", "reward_scale", "reward_max_length"):
        delattr(classifier.config, field)
    tokenizer.chat_template = TEMPLATE
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_reward_is_the_model_s_normalised_score(
    tmp_path: Path, tiny_gpt2: Path, tiny_t5: Path, kind: str
) -> None:
    model = save_model(tmp_path / "reward", tiny_gpt2 if kind == "causal" else tiny_t5, kind)
    expected = RewardModel.load(str(model)).score(PROMPTS, COMPLETIONS)
    args = {"model_name": str(model), "device": "cpu"}
    score = build_metric("reward_model", args)(BATCH)["semantic/reward_model"]
    assert score.per_sample == build_reward("reward_model", args)(BATCH) == expected
    assert score.corpus == pytest.approx(sum(expected) / 20) and len(set(expected)) == 20
    assert build_reward("reward_model", args | {"batch_size": 3})(BATCH) == pytest.approx(expected, abs=1e-4)
    assert build_reward("reward_model", args)(BATCH.select([])) == []


def plain_scores(folder: Path, texts: list[str], special: bool) -> list[float]:
    """What plain transformers gives each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = [
        tokenizer(text, return_tensors="pt", add_special_tokens=special)["input_ids"][:, -64:]
        for text in texts
    ]
    with torch.no_grad():
        return [float(model(input_ids=row).logits[0, 0]) for row in rows]


def test_others_models_read_conversations_unless_told_not_to(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = save_others(tmp_path / "others", folder)
    tokenizer = AutoTokenizer.from_pretrained(others)
    conversations = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}, {"role": "assistant", "content": c}], tokenize=False
        )
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert conversations[0].startswith(f"<user> {PROMPTS[0]} <|endoftext|><assistant>")
    with caplog.at_level(logging.INFO):
        values = [build_reward("reward_model", {"model_name": str(others)})(BATCH) for _ in range(2)][1]
    assert values == pytest.approx(plain_scores(others, conversations, False), abs=1e-5)
    assert [r.message for r in caplog.records].count(
        f"reward model {str(others)!r} reads prompt and completion as a conversation, by its tokenizer's "
        "chat template (chat_template: none = as one text)"
    ) == 1
    plain = build_reward("reward_model", {"model_name": str(others), "chat_template": "none"})(BATCH)
    texts = [p + c + tokenizer.eos_token for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert plain == pytest.approx(plain_scores(others, texts, True), abs=1e-5)
    # A model that is trained here reads what it was trained on, whatever its tokenizer has.
    before = RewardModel.load(str(others), chat_template="none").score(PROMPTS, COMPLETIONS)
    edit_json(others / "config.json", reward_scale=1.0)
    assert RewardModel.load(str(others)).score(PROMPTS, COMPLETIONS) == before


def test_a_template_that_refuses_is_told_at_once(tmp_path: Path, folder: Path) -> None:
    others = save_others(tmp_path / "others", folder)
    tokenizer = AutoTokenizer.from_pretrained(others)
    tokenizer.chat_template = "{{ raise_exception('only one message') }}"
    tokenizer.save_pretrained(others)
    with pytest.raises(ModelSourceError, match=r"only one message\): set chat_template: none"):
        RewardModel.load(str(others))
    assert len(RewardModel.load(str(others), chat_template="none").score(PROMPTS, COMPLETIONS)) == 20


def test_a_tokenizer_without_padding_token_fills_up_with_a_known_one(tmp_path: Path, folder: Path) -> None:
    """GPT-2's, whose end token some reward models are padded with: a new token has no embedding."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    classifier.resize_token_embeddings(classifier.config.vocab_size - 1)
    classifier.config.pad_token_id = 0
    del classifier.config.reward_scale
    classifier.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<|endoftext|>")
    tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["added_tokens"] = saved["added_tokens"][:1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    model = RewardModel.load(str(tmp_path))
    assert model.tokenizer.pad_token_id == model.model.get_input_embeddings().num_embeddings
    alone = [model.score([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert model.score(PROMPTS[:9], COMPLETIONS[:9]) == pytest.approx(alone[:9], abs=1e-5)


def test_what_is_no_reward_model_is_refused_by_the_check(
    tmp_path: Path, folder: Path, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wrong,) = METRICS.check("reward_model", {"model_name": str(tiny_gpt2)})
    assert (
        wrong.path == "args.model_name" and "is no reward model (its config.json says GPT2LM" in wrong.message
    )
    several = save_tiny_bert(tmp_path / "bert", labels=3)
    (wrong,) = REWARDS.check("reward_model", {"model_name": str(several)})
    assert "tells 3 classes apart; a reward model has one output" in wrong.message
    bare = save_model(tmp_path / "bare", tiny_gpt2)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    (wrong,) = REWARDS.check("reward_model", {"model_name": str(bare)})
    assert "has no tokenizer (tokenizer.json)" in wrong.message
    (wrong,) = REWARDS.check("reward_model", {"model_name": "no/such/folder"})
    assert "no such folder" in wrong.message
    with pytest.raises(ConfigError, match="is no reward model"):
        build_reward("reward_model", {"model_name": str(tiny_gpt2)})
    # Of the hub only the loaded config tells.
    monkeypatch.setattr(reward_model, "load_config", lambda name: {"architectures": ["GPT2LMHeadModel"]})
    with pytest.raises(ModelSourceError, match="model 'gpt2' is no reward model"):
        RewardModel.load("gpt2")


def test_a_placeholder_names_the_config_that_makes_the_model(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = "rl4lms_scripts/instructgpt/laptop/continuation_reward_model.yml"
    (problem,) = REWARDS.check("reward_model", {"model_name": f"<model of {config}>"})
    assert problem.path == "args.model_name" and problem.message == (
        f"still the placeholder '<model of {config}>'; replace it by the model that this makes: "
        f"python rl4lms_train_text_generation.py --config_path {config}"
    )
    (problem,) = REWARDS.check("reward_model", {"model_name": "<your reward model>"})
    assert problem.message.endswith(" --config_path <config of a reward model>")


def test_ppo_maximises_it(tmp_path: Path, folder: Path, tiny_gpt2: Path) -> None:
    data = ppo_config(tiny_gpt2, save_data(tmp_path / "data"))
    args = {"model_name": str(folder), "batch_size": 7}
    data["reward_fn"] = {"id": "reward_model", "args": args}
    data["train_evaluation"]["metrics"] = [{"id": "reward_model", "args": args}]
    config = config_of(data)
    assert resolved(config)["reward_fn"]["args"] == args | {"device": "auto", "chat_template": "auto"}
    run = new_run(tmp_path, config)
    train(setup_of(config, run))
    rewards = [row["reward"] for row in rows_of(run.path, "rollout_rewards")]
    assert len(rewards) > 20 and len(set(rewards)) > 10
    assert all("semantic/reward_model" in row["metrics"] for row in rows_of(run.path, "val_split_info"))


def test_an_extraction_scores_by_it_and_is_diagnosed(tmp_path: Path, folder: Path) -> None:
    from diagnose_vanishing_gradients import main

    path = write_extraction(tmp_path)
    fields: dict[str, Any] = yaml.safe_load(path.read_text())
    fields["evaluation"]["metrics"] = [{"id": "reward_model", "args": {"model_name": str(folder)}}]
    fields["evaluation"]["num_samples_per_input"] = 4
    path.write_text(yaml.safe_dump(fields))
    config = load_extract_config(path)
    with RunDir.create(tmp_path / "out", "mine", resolved(config), {}) as run:
        result = extract(config, run)
    content = torch.load(result.path, weights_only=True)
    prompts = [prompt for prompt in content["prompts"] for _ in range(4)]
    texts = [text for texts in content["all_generated_texts"] for text in texts]
    expected = RewardModel.load(str(folder)).score(prompts, texts)
    assert result.reward == "semantic/reward_model"
    assert result.rewards.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert main([str(result.path), "--output_path", str(tmp_path / "diagnosis")]) == 0
    summary = json.loads((tmp_path / "diagnosis" / "summary.json").read_text())
    assert summary["diagnosed"] == "semantic/reward_model"
    assert summary["rewards"]["semantic/reward_model"]["mean"] == pytest.approx(
        float(result.rewards.mean()), abs=1e-4
    )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_rewards(folder: Path) -> None:
    cpu, gpu = (
        build_reward("reward_model", {"model_name": str(folder), "device": device})(BATCH)
        for device in ("cpu", "cuda")
    )
    assert gpu == pytest.approx(cpu, abs=1e-3)

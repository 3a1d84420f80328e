"""Reward models: the same scores alone, padded, packed, saved, loaded, and in plain transformers."""

import json

import pytest
import torch
from tiny_models import TEXTS
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from rl4lms.model.load import load_model
from rl4lms.model.reward_model import RewardModel
from rl4lms.model.source import ModelSourceError

PROMPTS = [TEXTS[i][: 8 + i % 9] for i in range(24)]
COMPLETIONS = [TEXTS[5 * i + 1][: 4 + i] for i in range(24)]


def start(tiny_gpt2, tiny_t5, kind, **options) -> RewardModel:
    name = {"causal": tiny_gpt2, "seq2seq": tiny_t5, "bag_of_tokens": "bag_of_tokens"}[kind]
    tokenizer = tiny_t5 if kind == "seq2seq" else tiny_gpt2
    model_kind = "seq2seq" if kind == "seq2seq" else "causal"
    model = RewardModel.start(str(name), model_kind, tokenizer_name=str(tokenizer), **options)
    if kind == "bag_of_tokens":
        torch.manual_seed(0)
        torch.nn.init.normal_(model.model.score.weight)
    model.bias, model.scale = 0.25, 0.5
    return model


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "bag_of_tokens"])
def test_scores_are_the_same_alone_together_and_from_a_folder(tiny_gpt2, tiny_t5, tmp_path, kind):
    model = start(tiny_gpt2, tiny_t5, kind)
    together = model.score(PROMPTS, COMPLETIONS)  # more than 16 texts: packed where that is known to be right
    assert len(set(together)) > 20
    few = [
        score for i in range(0, 24, 3) for score in model.score(PROMPTS[i : i + 3], COMPLETIONS[i : i + 3])
    ]
    alone = [model.score([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5) and few == pytest.approx(alone, abs=1e-5)
    model.save(tmp_path / "reward")
    loaded = RewardModel.load(str(tmp_path / "reward"))
    assert loaded.kind == kind and (loaded.bias, loaded.scale) == (0.25, 0.5)
    assert loaded.score(PROMPTS, COMPLETIONS) == together


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "bag_of_tokens"])
def test_a_start_depends_on_its_seed_alone(tiny_gpt2, tiny_t5, kind):
    """The head, and the embedding of a new padding token."""
    torch.manual_seed(1)
    one = start(tiny_gpt2, tiny_t5, kind).model.state_dict()
    torch.manual_seed(2)
    other = start(tiny_gpt2, tiny_t5, kind).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_plain_transformers_reads_a_causal_one(tiny_gpt2, tiny_t5, tmp_path):
    """In padded batches too: the padding token is not the end token that the score is read from."""
    model = start(tiny_gpt2, tiny_t5, "causal")
    model.save(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert plain.config.num_labels == 1 and tokenizer.pad_token_id != tokenizer.eos_token_id
    texts = [p + c + tokenizer.eos_token for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    with torch.no_grad():
        raw = plain(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
    scores = torch.tensor(model.score(PROMPTS, COMPLETIONS))
    assert torch.allclose(
        plain.config.reward_scale * raw + plain.config.reward_bias, scores, rtol=0, atol=1e-6
    )


def test_plain_transformers_reads_the_backbone_of_a_seq2seq_one(tiny_gpt2, tiny_t5, tmp_path):
    model = start(tiny_gpt2, tiny_t5, "seq2seq")
    model.save(tmp_path / "reward")
    plain, tokenizer = AutoModel.from_pretrained(tmp_path / "reward").eval(), model.tokenizer
    source = tokenizer(PROMPTS[:1], return_tensors="pt")["input_ids"]
    target = tokenizer(COMPLETIONS[:1], return_tensors="pt")["input_ids"]
    decoder_ids = torch.cat([torch.tensor([[plain.config.decoder_start_token_id]]), target], 1)
    with torch.no_grad():
        state = plain(input_ids=source, decoder_input_ids=decoder_ids).last_hidden_state[0, -1]
    raw = float(model.model.score.weight[0].detach() @ state)
    assert model.score(PROMPTS[:1], COMPLETIONS[:1]) == pytest.approx([0.5 * raw + 0.25], abs=1e-6)


def test_the_bag_sums_the_weights_of_the_completion_s_tokens(tiny_gpt2, tiny_t5):
    model = start(tiny_gpt2, tiny_t5, "bag_of_tokens")
    ids = [*model.tokenizer(COMPLETIONS[3])["input_ids"], model.tokenizer.eos_token_id]
    expected = float(model.model.score.weight.detach()[0, ids].sum())
    assert model.score(PROMPTS[3:4], COMPLETIONS[3:4]) == pytest.approx([0.5 * expected + 0.25], abs=1e-5)
    assert RewardModel.start("bag_of_tokens", "causal", tokenizer_name=str(tiny_gpt2)).score(
        ["a"], ["b"]
    ) == [0.0]


def test_the_end_token_is_added_once_and_the_beginning_is_cut(tiny_gpt2, tiny_t5):
    model = start(tiny_gpt2, tiny_t5, "causal", max_length=6)
    end = model.tokenizer.eos_token
    (plain,), (ended,) = (
        model.encode(PROMPTS[:1], COMPLETIONS[23:]),
        model.encode(PROMPTS[:1], [COMPLETIONS[23] + end]),
    )
    assert plain == ended and len(plain) == 6 and plain.completion[-1] == model.tokenizer.eos_token_id
    model = start(tiny_gpt2, tiny_t5, "seq2seq", max_length=5)
    (tokens,) = model.encode([TEXTS[0]], [TEXTS[1]])
    assert len(tokens.prompt) == len(tokens.completion) == 5
    assert tokens.prompt[-1] == tokens.completion[-1] == model.tokenizer.eos_token_id
    assert tokens.prompt == model.tokenizer(TEXTS[0])["input_ids"][-5:]
    assert tokens.completion[:-1] == model.tokenizer(TEXTS[1])["input_ids"][:4]


def test_the_head_is_drawn_from_the_seed(tiny_gpt2):
    heads = [
        RewardModel.start(
            str(tiny_gpt2), "causal", tokenizer_name=str(tiny_gpt2), seed=seed
        ).model.score.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert float(heads[0].detach().std()) == pytest.approx(33**-0.5, rel=0.4)


def test_a_classifier_with_one_output_is_a_reward_model(tiny_gpt2, tmp_path):
    """As others publish them: a BERT that reads prompt and completion as a pair."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    ).eval()
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    model = RewardModel.load(str(tmp_path / "bert"))
    assert model.kind == "encoder"
    with torch.no_grad():
        expected = [
            float(bert(**tokenizer(p, c, return_tensors="pt")).logits[0, 0])
            for p, c in zip(PROMPTS[:5], COMPLETIONS[:5], strict=True)
        ]
    assert model.score(PROMPTS[:5], COMPLETIONS[:5]) == pytest.approx(expected, abs=1e-5)


def test_what_is_no_reward_model_is_refused(tiny_gpt2, tiny_t5, tmp_path):
    with pytest.raises(
        ModelSourceError, match=r"is no reward model .*says GPT2LMHeadModel.*alg.id: reward_model"
    ):
        RewardModel.load(str(tiny_gpt2))
    model = start(tiny_gpt2, tiny_t5, "causal")
    model.save(tmp_path / "reward")
    with pytest.raises(ModelSourceError, match="GPT2ForSequenceClassification that gives texts numbers"):
        load_model(str(tmp_path / "reward"), "causal", torch.float32, "cpu")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    del config["reward_scale"]
    config["id2label"] = {"0": "bad", "1": "good", "2": "best"}
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelSourceError, match="tells 3 classes apart; a reward model has one output"):
        RewardModel.load(str(tmp_path / "reward"))
    with pytest.raises(ModelSourceError, match="no such folder"):
        RewardModel.load(str(tmp_path / "nothing" / "here" / "at"))
    start(tiny_gpt2, tiny_t5, "bag_of_tokens").save(tmp_path / "bag")
    (tmp_path / "bag" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelSourceError, match=r"cannot be loaded .*damaged"):
        RewardModel.load(str(tmp_path / "bag"))

"""Metrics that are models' outputs, on tiny random models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import save_tiny_bert
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertModel

from rl4lms.metrics import TextBatch, build_metric
from rl4lms.requirements import RequirementError

TEXTS = ["the cat sat on the mat", "", "a good film", "the dog runs " * 20 + "it was bad", "zebra"]
PROMPTS = ["it was ", "a ", "", "the park " * 20, "the "]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "classifier", labels=4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "encoder", labels=None)


def batch(references: list[list[str]] | None = None, **fields: Any) -> TextBatch:
    meta = fields.pop("meta", [{} for _ in TEXTS])
    return TextBatch(PROMPTS, TEXTS, references or [[] for _ in TEXTS], meta, **fields)


def probabilities(folder: Path, text: str) -> torch.Tensor:
    """Class probabilities of one text, of which the last tokens that fit are read."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inner = tokenizer(text, add_special_tokens=False)["input_ids"][-(tokenizer.model_max_length - 2) :]
    with torch.no_grad():
        return model(torch.tensor([[2, *inner, 3]])).logits[0].softmax(-1)


def learned(folder: Path, **args: Any) -> list[float]:
    metric = build_metric("learned_reward", {"model_name": str(folder), "label_ix": 1} | args)
    score = metric(batch())["semantic/learned_automodel_metric"]
    assert score.per_sample is not None
    assert score.corpus == pytest.approx(sum(score.per_sample) / len(TEXTS))
    return score.per_sample


def test_learned_reward_is_the_class_probability_of_prompt_and_text(classifier: Path) -> None:
    expected = [
        probabilities(classifier, prompt + text)[1].item()
        for prompt, text in zip(PROMPTS, TEXTS, strict=True)
    ]
    assert learned(classifier) == pytest.approx(expected, abs=1e-6)
    alone = [probabilities(classifier, text)[1].item() for text in TEXTS]
    assert learned(classifier, include_prompt_for_eval=False) == pytest.approx(alone, abs=1e-6)


def test_learned_reward_does_not_depend_on_the_batch_size(classifier: Path) -> None:
    assert learned(classifier, batch_size=1) == pytest.approx(learned(classifier, batch_size=100), abs=1e-6)


def test_learned_reward_of_a_causal_classifier_without_padding_token(tmp_path: Path, tiny_gpt2: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    values = learned(tmp_path, batch_size=1)
    assert values == pytest.approx(learned(tmp_path, batch_size=5), abs=1e-6)
    assert len(set(values)) == len(TEXTS)


def test_a_label_that_the_classifier_lacks(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"label_ix 4 names no class of .*, which tells 4 apart"):
        learned(classifier, label_ix=4)


def test_a_model_without_trained_head_is_refused(encoder: Path) -> None:
    with pytest.raises(
        RequirementError, match=r"was not trained for this use: its weights lack classifier\.bias"
    ):
        learned(encoder)


def test_intent_accuracy_compares_with_the_act(classifier: Path) -> None:
    prompts = ["hello<EOU>it was good <EOU>", "<EOU>", "", "one", "a<EOU>b<EOU>"]
    last = ["it was good ", "", "", "one", "b"]
    predicted = [
        int(probabilities(classifier, start + text).argmax()) for start, text in zip(last, TEXTS, strict=True)
    ]
    acts = [predicted[0] + 1, predicted[1] + 1, predicted[2] + 2, predicted[3] + 1, 0]
    texts = TextBatch(prompts, TEXTS, [[]] * 5, [{"intent": [act], "emotion": [0]} for act in acts])
    score = build_metric("intent_accuracy", {"model_name": str(classifier)})(texts)["intent/accuracy"]
    assert score.per_sample == [1, 1, 0, 1, 0]
    assert score.corpus == pytest.approx(3 / 5)


def test_intent_accuracy_needs_intents(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"text 0 has no intent .* goes with datapool daily_dialog"):
        build_metric("intent_accuracy", {"model_name": str(classifier)})(batch())


def naive_bert_score(folder: Path, layers: int, text: str, reference: str) -> float:
    """BERTScore token by token; special tokens can be matched with, but do not count."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()

    def vectors(value: str) -> torch.Tensor:
        ids = tokenizer(value, truncation=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[layers][0]
        return hidden / hidden.norm(dim=-1, keepdim=True)

    ours, theirs = vectors(text), vectors(reference)
    if min(len(ours), len(theirs)) == 2:
        return 0.0
    precision = sum(max((a @ b).item() for b in theirs) for a in ours[1:-1]) / (len(ours) - 2)
    recall = sum(max((a @ b).item() for a in ours) for b in theirs[1:-1]) / (len(theirs) - 2)
    return 2 * precision * recall / (precision + recall)


def test_bert_score_is_the_best_greedy_matching(encoder: Path) -> None:
    references = [["the cat", "a cat sat on the mat"], ["a"], ["a good film"], ["it was bad"], [""]]
    args = {"language": "en", "model_name": str(encoder), "num_layers": 2}
    expected = [
        max(naive_bert_score(encoder, 2, text, reference) for reference in group)
        for text, group in zip(TEXTS, references, strict=True)
    ]
    assert expected[2] == pytest.approx(1) and expected[1] == expected[4] == 0
    for batch_size in (1, 3, 64):
        score = build_metric("bert_score", args | {"batch_size": batch_size})(batch(references))
        assert score["semantic/bert_score"].per_sample == pytest.approx(expected, abs=1e-6)


def perplexity_of(tiny_gpt2: Path, stride: int, references: list[list[str]], **args: Any) -> float:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    model.train()
    metric = build_metric("causal_perplexity", {"tokenizer_id": str(tiny_gpt2), "stride": stride} | args)
    meta = [{"reference": "the river sings"} for _ in TEXTS]
    scores = metric(batch(references, meta=meta, model=model, split="val"))
    assert model.training, "the model's mode is given back"
    return scores["fluency_metrics/perplexity"].corpus


@pytest.mark.parametrize("stride", [8, 16, 64])
def test_perplexity_of_strided_windows(tiny_gpt2: Path, stride: int) -> None:
    """The loop of the transformers documentation, with the model's own masked loss."""
    references = [["the old dog knows us. " * 12, "water"], ["nobody"], ["my sister runs " * 9], ["a"], ["b"]]
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    text = "\n\n".join(reference for group in references for reference in group)
    ids = AutoTokenizer.from_pretrained(tiny_gpt2)(text, return_tensors="pt")["input_ids"]
    window, length = model.config.n_positions, ids.shape[1]
    assert length > 2 * window
    total = 0.0
    for start in range(0, length, stride):
        end = min(start + stride, length)
        seen = ids[:, max(start + stride - window, 0) : end]
        labels = seen.clone()
        labels[:, : seen.shape[1] - (end - start)] = -100
        with torch.no_grad():
            total += model(seen, labels=labels).loss.item() * (end - start)
    assert perplexity_of(tiny_gpt2, stride, references) == pytest.approx(math.exp(total / length), rel=1e-5)


def test_perplexity_sources(tiny_gpt2: Path) -> None:
    references = [["nobody"]] * len(TEXTS)
    of_meta = perplexity_of(tiny_gpt2, 16, references, use_text_from_meta_data=True)
    assert of_meta == pytest.approx(perplexity_of(tiny_gpt2, 16, [["the river sings"]] * len(TEXTS)))
    assert of_meta != pytest.approx(perplexity_of(tiny_gpt2, 16, references))
    # A stride beyond the model's positions would leave tokens out.
    assert perplexity_of(tiny_gpt2, 1_000, references) == perplexity_of(tiny_gpt2, 64, references)


def test_perplexity_is_left_out_on_train_and_needs_a_model(tiny_gpt2: Path) -> None:
    metric = build_metric("causal_perplexity", {"tokenizer_id": str(tiny_gpt2)})
    assert metric(batch([["a"]] * len(TEXTS), split="train")) == {}
    with pytest.raises(ValueError, match=r"causal_perplexity needs the model that is evaluated"):
        metric(batch([["a"]] * len(TEXTS), split="val"))
    whole = build_metric(
        "causal_perplexity", {"tokenizer_id": str(tiny_gpt2), "use_text_from_meta_data": True}
    )
    texts = TextBatch(["p"], ["g"], [["r"]], [{}], model=object(), split="val")
    with pytest.raises(ValueError, match=r"a sample has no meta_data\['reference'\]: set use_text_from_meta"):
        whole(texts)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_values(classifier: Path, encoder: Path) -> None:
    assert learned(classifier, device="cuda") == pytest.approx(learned(classifier, device="cpu"), abs=1e-4)
    args = {"language": "en", "model_name": str(encoder), "num_layers": 2}
    values = [
        build_metric("bert_score", args | {"device": device})(batch([["the cat"]] * len(TEXTS)))
        for device in ("cpu", "cuda")
    ]
    cpu, gpu = (value["semantic/bert_score"].per_sample for value in values)
    assert gpu == pytest.approx(cpu, abs=1e-4)

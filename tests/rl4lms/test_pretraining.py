"""Pretraining text that is mixed into finetuning: what examples are, and that they follow from a seed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from instructgpt_runs import save_texts
from tiny_models import TEXTS

from common.hub import DataError
from rl4lms.config.pretraining import MIXTURE, PretrainingConfig
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.pretraining import PretrainingText, load_pretraining, mean_token_loss, passes


def loaded(model: Path, folder: Path, **block: Any) -> PretrainingText:
    block = {"texts": str(save_texts(folder / "texts.jsonl"))} | block
    kind = "seq2seq" if "t5" in model.name else "causal"
    config = PretrainingConfig.model_validate(block)
    return load_pretraining(config, str(model), kind, load_tokenizer(str(model)))


def test_causal_examples_are_texts_with_an_end_all_but_the_first_token_to_learn(tiny_gpt2, tmp_path):
    text = loaded(tiny_gpt2, tmp_path)
    assert text.texts == TEXTS[::7] and text.limit == 64
    examples = text.draw(50, seed=3)
    assert examples == text.draw(50, seed=3) != text.draw(50, seed=4)
    for example in examples:
        assert len(example.source) == 1 and example.target[-1] == text.tokenizer.eos_token_id
        assert text.tokenizer.decode([*example.source, *example.target[:-1]]) in text.texts
    assert len({tuple(example.target) for example in examples}) > 20
    cut = loaded(tiny_gpt2, tmp_path, max_length=5).draw(50, seed=3)
    assert cut == [type(e)(e.source, e.target[:4]) for e in examples]


def test_seq2seq_examples_are_of_a_mixture_of_tasks(tiny_t5, tmp_path):
    task = {"prefix_continuation": 3, "denoising": 1}
    text = loaded(tiny_t5, tmp_path, task=task)
    end = text.tokenizer.eos_token_id
    kinds: Counter[str] = Counter()
    for example in text.draw(400, seed=1):
        assert example.source[-1] == example.target[-1] == end
        assert end not in example.source[:-1] + example.target[:-1]
        source, target = (text.tokenizer.decode(ids[:-1]) for ids in (example.source, example.target))
        name = "denoising" if target in text.texts else "prefix_continuation"
        kinds[name] += 1
        if name == "prefix_continuation":
            assert f"{source} {target}" in text.texts
    assert kinds["denoising"] / 400 == pytest.approx(0.25, abs=0.08)
    cut = loaded(tiny_t5, tmp_path, task=task, max_length=6).draw(60, seed=1)
    assert max(len(ids) for e in cut for ids in (e.source, e.target)) == 6
    assert all(e.source[-1] == e.target[-1] == end for e in cut)


def test_the_default_mixture_is_that_of_the_laptop_model():
    import yaml

    file = Path(__file__).parents[2] / "rl4lms_scripts" / "laptop" / "pretrain_t5.yml"
    assert MIXTURE == yaml.safe_load(file.read_text())["alg"]["mixture"]
    assert PretrainingConfig(texts="python_docs").mixture == MIXTURE
    of_texts = PretrainingConfig(texts=__file__).mixture
    assert of_texts == {
        name: MIXTURE[name] for name in ("span_corruption", "prefix_continuation", "denoising")
    }


def test_a_tokenizer_without_sentinels_cannot_learn_spans(tiny_t5, tmp_path):
    with pytest.raises(DataError) as error:
        loaded(tiny_t5, tmp_path)
    assert str(error.value) == (
        f"alg.pretraining.task: span_corruption needs the token '<extra_id_0>', which the tokenizer "
        f"{str(tiny_t5)!r} has not; leave the task out of alg.pretraining.task"
    )


def test_texts_of_a_datapool_are_prompt_and_first_reference(tiny_gpt2, tmp_path):
    rows = [
        {"prompt": "the old dog", "references": [" runs after us.", " is near."]},
        {"prompt": "a", "references": []},
    ]
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = loaded(
        tiny_gpt2, tmp_path, texts=None, datapool={"id": "jsonl", "args": {"data_path": str(tmp_path)}}
    )
    assert text.texts == ["the old dog runs after us."], "what is too short is left out"


def test_text_of_a_few_words_only_is_refused(tiny_gpt2, tmp_path):
    file = tmp_path / "short.jsonl"
    file.write_text('{"text": "one two three"}\n')
    with pytest.raises(DataError, match=r"has no text of at least 4 words$"):
        loaded(tiny_gpt2, tmp_path, texts=str(file))


def test_another_text_has_another_digest(tiny_gpt2, tmp_path):
    first = loaded(tiny_gpt2, tmp_path).digest()
    assert first == loaded(tiny_gpt2, tmp_path).digest()
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "one two three four"}\n')
    assert loaded(tiny_gpt2, tmp_path, texts=str(other)).digest() != first


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_t5"])
def test_the_loss_does_not_depend_on_how_examples_are_shared_out(model, tmp_path, request, monkeypatch):
    folder = request.getfixturevalue(model)
    task = {} if model == "tiny_gpt2" else {"task": {"denoising": 1}}
    examples = loaded(folder, tmp_path, **task).draw(40, seed=5)
    kind = "causal" if model == "tiny_gpt2" else "seq2seq"
    language_model = load_model(str(folder), kind, torch.float32, "cpu")
    together = mean_token_loss(language_model, examples)
    monkeypatch.setattr("rl4lms.pretraining._LOGITS_AT_A_TIME", 1)
    assert [len(part) for part in passes(language_model, examples)] == [1] * 40
    assert mean_token_loss(language_model, examples) == pytest.approx(together, rel=1e-5)

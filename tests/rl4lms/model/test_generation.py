import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, edit_json
from torch import Tensor

from rl4lms.model import generation, sampling
from rl4lms.model.generation import (
    Decoding,
    decode,
    encode_prompts,
    generate,
    generate_batch,
    plan_batches,
    prompt_limit,
)
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import autocast, load_model, load_tokenizer
from rl4lms.model.sampling import GenerationError
from rl4lms.model.source import Kind

PROMPTS = [text[: 5 + 3 * i] for i, text in enumerate(TEXTS[::29])]


class LanguageModel(NamedTuple):
    model: Any
    tokenizer: Any


def load(folder: Path) -> LanguageModel:
    kind: Kind = "seq2seq" if "t5" in folder.name else "causal"
    return LanguageModel(load_model(str(folder), kind, torch.float32, "cpu"), load_tokenizer(str(folder)))


@pytest.fixture(scope="module")
def t5(tiny_t5: Path) -> LanguageModel:
    return load(tiny_t5)


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2: Path) -> LanguageModel:
    return load(tiny_gpt2)


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return request.getfixturevalue(request.param)


def decoding(**changes: Any) -> Decoding:
    own = {key: changes.pop(key) for key in list(changes) if key in Decoding.__dataclass_fields__}
    defaults: dict[str, Any] = {"max_prompt_length": 20, "truncation_side": "right", "batch_size": 8}
    return Decoding(settings=GenerationSettings(**{"max_new_tokens": 10} | changes), **defaults | own)


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True}, {"do_sample": True, "top_k": 0}])
def test_texts_do_not_depend_on_their_batch(lm: LanguageModel, how: dict[str, Any]) -> None:
    whole = generate(*lm, PROMPTS, decoding(**how, num_samples=3))
    assert len({texts[0] for texts in whole}) > len(PROMPTS) / 2
    for size in (1, 5, 1000):
        assert generate(*lm, PROMPTS, decoding(**how, num_samples=3, batch_size=size)) == whole
    assert generate(*lm, PROMPTS[:4], decoding(**how, num_samples=3)) == whole[:4]


def test_greedy_texts_do_not_depend_on_the_order(lm: LanguageModel) -> None:
    whole = generate(*lm, PROMPTS, decoding())
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    assert generate(*lm, [PROMPTS[i] for i in order], decoding()) == [whole[i] for i in order]


def test_an_interrupted_run_continues_exactly(lm: LanguageModel) -> None:
    how = decoding(do_sample=True, num_beams=2, num_samples=2)  # the one way of sampling that draws by batch
    whole = generate(*lm, PROMPTS, how)
    torch.manual_seed(123)
    torch.rand(7)
    plan = plan_batches(*lm, PROMPTS, how)
    assert [batch.id for batch in plan] == list(range(len(plan)))
    assert sorted(i for batch in plan for i in batch.indices) == list(range(len(PROMPTS)))
    for batch in reversed(plan):
        assert generate_batch(*lm, PROMPTS, how, batch) == [whole[i] for i in batch.indices]


def test_seeds(lm: LanguageModel) -> None:
    first, again, other = (
        generate(*lm, PROMPTS, decoding(do_sample=True, num_samples=2, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) < len(PROMPTS) / 4
    assert sum(a == b for a, b in first) < len(PROMPTS) / 4  # the texts of one prompt differ
    for how in ({}, {"num_beams": 2, "batch_size": 1}):  # and so do those of equal prompts
        same_prompt = generate(*lm, PROMPTS[:1] * 8, decoding(do_sample=True, temperature=2.0, **how))
        assert len({texts[0] for texts in same_prompt}) > 4


@pytest.mark.parametrize("how", [{"do_sample": True}, {"do_sample": True, "num_beams": 2}])
def test_the_global_generator_is_left_alone(lm: LanguageModel, how: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    generate(*lm, PROMPTS[:3], decoding(**how))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_are_of_similar_length_longest_first(lm: LanguageModel) -> None:
    tokenizer = lm.tokenizer
    plan = plan_batches(*lm, PROMPTS, decoding(batch_size=12, num_samples=3, do_sample=True))
    assert {len(batch.indices) for batch in plan[:-1]} == {4}
    lengths = [min(20, len(tokenizer(PROMPTS[i])["input_ids"])) for batch in plan for i in batch.indices]
    assert lengths == sorted(lengths, reverse=True)


def test_progress_counts_the_texts(t5: LanguageModel) -> None:
    counts: list[int] = []
    generate(*t5, PROMPTS, decoding(do_sample=True, num_samples=3), counts.append)
    assert sum(counts) == 3 * len(PROMPTS) and len(counts) > 1


def test_without_sampling_one_text_stands_for_all(lm: LanguageModel) -> None:
    texts = generate(*lm, PROMPTS[:4], decoding(num_samples=3))
    assert [len(set(of_prompt)) for of_prompt in texts] == [1] * 4 and {len(t) for t in texts} == {3}


def test_more_samples_than_fit_into_a_batch(lm: LanguageModel) -> None:
    at_once, in_parts = (decoding(do_sample=True, num_samples=7, batch_size=size) for size in (7, 3))
    assert generate(*lm, PROMPTS[:2], at_once) == generate(*lm, PROMPTS[:2], in_parts)


# Prompts


def ids_of(lm: LanguageModel, prompt: str, max_length: int, side: Any) -> list[int]:
    ids, mask = encode_prompts(*lm, [prompt, TEXTS[0] * 3], max_length, side)
    return ids[0, mask[0]].tolist()


def test_padding_is_on_the_left_of_causal_prompts(t5: LanguageModel, gpt2: LanguageModel) -> None:
    for lm, left in ((t5, False), (gpt2, True)):
        ids, mask = encode_prompts(*lm, ["the", TEXTS[0]], 20, "right")
        assert mask[0, -1].item() is left and mask[0, 0].item() is not left and mask[1].all()
        assert (ids[~mask] == lm.tokenizer.pad_token_id).all()


def test_long_prompts_are_cut_on_either_side(lm: LanguageModel) -> None:
    model, tokenizer = lm
    whole = tokenizer(TEXTS[0])["input_ids"]
    content, end = (whole[:-1], whole[-1:]) if model.config.is_encoder_decoder else (whole, [])
    keep = 6 - len(end)
    assert ids_of(lm, TEXTS[0], 6, "left") == content[-keep:] + end
    assert ids_of(lm, TEXTS[0], 6, "right") == content[:keep] + end
    assert tokenizer.truncation_side == "left"  # as it was loaded


def test_prompts_longer_than_the_model(lm: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rl4lms.model.generation")
    prompts = [*PROMPTS[:3], TEXTS[0] * 20]
    how = decoding(max_prompt_length=None)
    texts = generate(*lm, prompts, how)
    assert texts[:3] == generate(*lm, PROMPTS[:3], how)
    limit = 512 if lm.model.config.is_encoder_decoder else 64 - 10
    assert caplog.messages[0] == f"1 of 4 prompts are cut to {limit} tokens on the right"


def test_a_causal_prompt_leaves_room_for_the_text(gpt2: LanguageModel) -> None:
    def limit(**changes: Any) -> int:
        return prompt_limit(*gpt2, decoding(**changes))

    assert limit(max_prompt_length=54) == 54
    assert limit(max_prompt_length=55) == 45  # less max_new_tokens, as the released code has it
    assert limit(max_prompt_length=64) == limit(max_prompt_length=500) == limit(max_prompt_length=None) == 54
    with pytest.raises(GenerationError, match=r"max_new_tokens: 64 leaves no room .* 64 positions"):
        limit(max_new_tokens=64)


def test_an_encoder_has_its_positions_for_itself(t5: LanguageModel) -> None:
    assert prompt_limit(*t5, decoding(max_prompt_length=4000)) == 4000  # relative positions have no end
    assert prompt_limit(*t5, decoding(max_prompt_length=None)) == 512  # the tokenizer's


def test_empty_prompts(lm: LanguageModel) -> None:
    texts = generate(*lm, ["", "the old dog", ""], decoding())
    assert texts[0] == texts[2] == generate(*lm, [""], decoding())[0]
    assert generate(*lm, [], decoding()) == []


@pytest.mark.parametrize("clean_up", [False, True])
def test_texts_are_what_the_model_wrote_or_tidied_as_in_the_papers_library(
    lm: LanguageModel, clean_up: bool
) -> None:
    tokenizer = load_tokenizer(lm.tokenizer.name_or_path, clean_up_tokenization_spaces=clean_up)
    text = "the dog 's house ."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = "the dog's house." if clean_up else text
    assert decode(tokenizer, ids) == decode(tokenizer, [*ids, tokenizer.eos_token_id]) == expected


def test_a_tokenizers_files_do_not_decide_whether_texts_are_tidied(tiny_gpt2: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt2), clean_up_tokenization_spaces=True)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("the dog .", add_special_tokens=False)["input_ids"]
    assert (decode(tokenizer, ids), decode(load_tokenizer(str(tmp_path)), ids)) == ("the dog.", "the dog .")


# Settings


def test_a_hubs_generation_config_does_not_leak(tiny_gpt2: Path, tiny_t5: Path, tmp_path: Path) -> None:
    for folder in (tiny_gpt2, tiny_t5):
        copy = Path(shutil.copytree(folder, tmp_path / folder.name))
        edit_json(
            copy / "generation_config.json",
            temperature=9.0,
            top_k=1,
            top_p=0.1,
            min_p=0.9,
            typical_p=0.1,
            repetition_penalty=5.0,
            no_repeat_ngram_size=1,
            min_new_tokens=5,
            max_length=3,
            forced_eos_token_id=7,
            suppress_tokens=list(range(10, 40)),
            bad_words_ids=[[41]],
            length_penalty=3.0,
        )
        plain, odd = load(folder), load(copy)
        for how in ({}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}):
            texts = [generate(*lm, PROMPTS[:6], decoding(**how, num_samples=2)) for lm in (odd, plain)]
            assert texts[0] == texts[1]
        assert odd.model.generation_config.temperature == 9.0  # still the model's own


def test_the_model_keeps_its_mode(t5: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = generate(*t5, PROMPTS[:3], decoding())
    t5.model.train()
    assert generate(*t5, PROMPTS[:3], decoding()) == texts  # no dropout
    assert t5.model.training
    own = t5.model.generation_config
    monkeypatch.setattr(t5.model, "generate", lambda **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(*t5, PROMPTS[:3], decoding())
    assert t5.model.training and t5.model.generation_config is own
    t5.model.eval()


def test_weights_that_are_not_numbers(tiny_t5: Path) -> None:
    lm = load(tiny_t5)
    with torch.no_grad():
        lm.model.shared.weight[5] = torch.nan
    with pytest.raises(GenerationError, match="scores are not numbers"):
        generate(*lm, PROMPTS[:2], decoding(do_sample=True))


# Memory


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A GPU that holds three texts; returns the shapes of the batches tried."""
    tried: list[tuple[int, ...]] = []

    def generate_ids(*args: Any) -> tuple[Tensor, Tensor]:
        uniforms = args[4]
        tried.append(tuple(uniforms.shape[:2]))
        if uniforms.shape[0] * uniforms.shape[1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sampling.generate_ids(*args)

    monkeypatch.setattr(generation, "generate_ids", generate_ids)
    generation._say_memory_is_short.cache_clear()
    return tried


def test_short_memory_halves_the_batch_and_keeps_the_texts(
    lm: LanguageModel,
    small_memory: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    how = decoding(do_sample=True, num_samples=5, batch_size=20)
    texts = generate(*lm, PROMPTS[:7], how)
    assert small_memory[:4] == [(4, 5), (2, 5), (1, 5), (1, 3)]
    assert [record.message for record in caplog.records] == [
        "the GPU's memory is too small for a whole batch: it is halved; the texts stay the same"
    ]
    monkeypatch.setattr(generation, "generate_ids", sampling.generate_ids)
    assert generate(*lm, PROMPTS[:7], how) == texts


def test_memory_for_no_text_at_all(t5: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate_ids(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generation, "generate_ids", generate_ids)
    with pytest.raises(GenerationError, match=r"too small for one text of 10 tokens after a prompt of \d+"):
        generate(*t5, PROMPTS[:2], decoding())


def test_generation_under_autocast(lm: LanguageModel) -> None:
    how = decoding(do_sample=True, num_samples=2)
    with autocast(torch.device("cpu"), "bfloat16"):
        low = generate(*lm, PROMPTS[:4], how)
    with autocast(torch.device("cpu"), "float32"):
        assert generate(*lm, PROMPTS[:4], how) == generate(*lm, PROMPTS[:4], how) != low
    assert [len(texts) for texts in low] == [2] * 4

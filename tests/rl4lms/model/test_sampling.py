from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TEXTS
from torch import Tensor

from rl4lms.model.generation import encode_prompts
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.sampling import GenerationError, build_generation_config, generate_ids, sample_tokens
from rl4lms.model.source import Kind

PROMPTS = ["the old dog", "my sister sings about water.", "us"]


@pytest.fixture(scope="module", params=["tiny_t5", "tiny_gpt2"])
def lm(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    folder: Path = request.getfixturevalue(request.param)
    kind: Kind = "seq2seq" if "t5" in folder.name else "causal"
    return load_model(str(folder), kind, torch.float32, "cpu"), load_tokenizer(str(folder))


def settings(**changes: Any) -> GenerationSettings:
    return GenerationSettings(**{"max_new_tokens": 8} | changes)


def next_scores(model: Any, prompt: Tensor, response: list[int]) -> Tensor:
    """Logits [V] of the token after an unpadded prompt [P] and a response, from one plain forward pass."""
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *response]])
            return model(input_ids=prompt[None], decoder_input_ids=decoder_ids).logits[0, -1]
        return model(input_ids=torch.cat([prompt, torch.tensor(response, dtype=torch.long)])[None]).logits[
            0, -1
        ]


def test_greedy_responses_are_those_of_plain_forward_passes(lm: tuple[Any, Any]) -> None:
    """No padding, cache or `generate` there: left padding shifts nothing, the shared prompt is read right."""
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    responses, real = generate_ids(model, ids, mask, settings(), torch.zeros(3, 2, 8))
    for i, prompt in enumerate(PROMPTS):
        expected: list[int] = []
        unpadded = torch.tensor(tokenizer(prompt)["input_ids"])
        while len(expected) < 8 and model.config.eos_token_id not in expected:
            expected.append(int(next_scores(model, unpadded, expected).argmax()))
        for row in (2 * i, 2 * i + 1):
            assert responses[row, real[row]].tolist() == expected


def test_sampled_responses_follow_the_random_numbers(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    uniforms = torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(0))
    how = settings(do_sample=True, temperature=1.5, top_k=20, top_p=0.9)
    responses, real = generate_ids(model, ids, mask, how, uniforms)
    for row in range(12):
        i, g = divmod(row, 4)
        unpadded = torch.tensor(tokenizer(PROMPTS[i])["input_ids"])
        expected: list[int] = []
        for step in range(int(real[row].sum())):
            scores = next_scores(model, unpadded, expected)
            expected.append(int(sample_tokens(scores[None], uniforms[i, g, step, None], 1.5, 20, 0.9)))
        assert responses[row, real[row]].tolist() == expected


def test_many_samples_have_the_models_distribution(lm: tuple[Any, Any]) -> None:
    """Pairs of first tokens occur as often as one generate call per prompt copy would have them."""
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS[:2], 20, "right")
    count = 4000
    uniforms = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(0))
    how = settings(do_sample=True, max_new_tokens=2)
    shared, _ = generate_ids(model, ids, mask, how, uniforms)
    config = build_generation_config(model, how)
    config.update(do_sample=True, top_k=50)
    torch.manual_seed(0)
    with torch.no_grad():
        repeated = model.generate(
            input_ids=ids[1:].repeat(count, 1),
            attention_mask=mask[1:].long().repeat(count, 1),
            generation_config=config,
        )[:, -2:]
    first = next_scores(model, ids[1][mask[1]], []).topk(50)
    probs, tokens = first.values.softmax(0), first.indices
    for sample in (shared[count:], repeated):
        for p, token in zip(probs[:5].tolist(), tokens[:5].tolist(), strict=True):
            frequency = (sample[:, 0] == token).double().mean().item()
            assert abs(frequency - p) < 4.5 * (p * (1 - p) / count) ** 0.5
            after = next_scores(model, ids[1][mask[1]], [token]).topk(50)
            p_pair = p * after.values.softmax(0)[0].item()
            pair = (sample == torch.tensor([token, int(after.indices[0])])).all(1).double().mean().item()
            assert abs(pair - p_pair) < 4.5 * (p_pair * (1 - p_pair) / count) ** 0.5


def test_top_k_is_50_when_absent_and_off_when_0(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS[:1], 20, "right")
    uniforms = torch.rand(1, 3000, 1, generator=torch.Generator().manual_seed(0))
    likeliest = set(next_scores(model, ids[0], []).topk(50).indices.tolist())
    drawn = {
        name: set(generate_ids(model, ids, mask, how, uniforms)[0][:, 0].tolist())
        for name, how in {
            "absent": settings(do_sample=True, max_new_tokens=1, temperature=9.0),
            "all": settings(do_sample=True, max_new_tokens=1, temperature=9.0, top_k=0),
        }.items()
    }
    assert drawn["absent"] == likeliest
    assert drawn["all"] > likeliest


@pytest.mark.parametrize("how", [{}, {"do_sample": True}, {"num_beams": 2}])
def test_min_length_counts_new_tokens_and_a_decoders_start_token(lm: tuple[Any, Any], how: Any) -> None:
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    end = model.config.eos_token_id

    def ends_at_once(input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 1e4 * torch.nn.functional.one_hot(torch.tensor(end), scores.shape[1])

    for min_length in (0, 1, 4):
        responses, real = generate_ids(
            model, ids, mask, settings(min_length=min_length, **how), torch.zeros(3, 1, 8), [ends_at_once]
        )
        start = 1 if model.config.is_encoder_decoder else 0
        assert real.sum(1).tolist() == [max(0, min_length - start) + 1] * 3
        assert (responses[:, real.shape[1] - 1] == end).all()


def test_exactly_as_many_tokens_as_min_length_and_max_new_tokens_say(lm: tuple[Any, Any]) -> None:
    """The paper's IMDB texts: 48 and 48."""
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    length = 8 + model.config.is_encoder_decoder
    responses, real = generate_ids(
        model, ids, mask, settings(do_sample=True, min_length=length, top_k=0), torch.rand(3, 50, 8)
    )
    assert responses.shape == real.shape == (150, 8) and real.all()
    assert (responses != model.config.eos_token_id).all()


def test_the_mask_ends_with_the_first_end_token(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, TEXTS[:10], 20, "right")
    uniforms = torch.rand(10, 20, 8, generator=torch.Generator().manual_seed(0))
    how = settings(do_sample=True, top_k=0, temperature=50.0)
    likelier_ends = torch.nn.functional.one_hot(
        torch.tensor(model.config.eos_token_id), model.config.vocab_size
    )
    responses, real = generate_ids(
        model, ids, mask, how, uniforms, [lambda input_ids, scores: scores + 125 * likelier_ends]
    )
    end = model.config.eos_token_id
    finished = 0
    for row, keep in zip(responses.tolist(), real.tolist(), strict=True):
        length = row.index(end) + 1 if end in row else 8
        finished += end in row
        assert keep == [position < length for position in range(8)]
    assert 10 < finished < 190


def test_all_end_tokens_of_the_model_count(lm: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    plain, _ = generate_ids(model, ids, mask, settings(), torch.zeros(3, 1, 8))
    ends = [model.config.eos_token_id, int(plain[0, 0])]
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    _, real = generate_ids(model, ids, mask, settings(), torch.zeros(3, 1, 8))
    assert real[0].sum() == 1


def test_processors_restrict_the_tokens(lm: tuple[Any, Any]) -> None:
    """What NLPO's action mask needs: it acts before temperature, top-k and the choice."""
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    allowed = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    allowed[5:9] = True
    steps: list[tuple[int, ...]] = []

    def only_allowed(input_ids: Tensor, scores: Tensor) -> Tensor:
        steps.append(tuple(scores.shape))
        return scores.masked_fill(~allowed, -torch.inf)

    uniforms = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0))
    responses, _ = generate_ids(model, ids, mask, settings(do_sample=True), uniforms, [only_allowed])
    assert len(set(responses.flatten().tolist())) > 1 and responses.min() >= 5 and responses.max() < 9
    assert steps == [(15, model.config.vocab_size)] * 8


def test_beams_are_those_of_transformers(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 20, "right")
    how = settings(num_beams=3, length_penalty=0.6, min_length=3, no_repeat_ngram_size=2)
    responses, real = generate_ids(model, ids, mask, how, torch.zeros(3, 1, 8))
    start = model.config.is_encoder_decoder
    with torch.no_grad():
        expected = model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            num_beams=3,
            length_penalty=0.6,
            min_new_tokens=3 - start,
            max_new_tokens=8,
            no_repeat_ngram_size=2,
            pad_token_id=0,
        )[:, 1 if start else ids.shape[1] :]
    for row in range(3):
        length = int(real[row].sum())
        assert responses[row, :length].tolist() == expected[row, :length].tolist()


# sample_tokens

PROBS = torch.tensor([[0.1, 0.4, 0.0, 0.3, 0.2]])


def shares(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> list[float]:
    """How often each token is drawn from PROBS by 100,000 evenly spaced random numbers."""
    grid = (torch.arange(100_000) + 0.5) / 100_000
    tokens = sample_tokens(PROBS.log().expand(100_000, -1), grid, temperature, top_k, top_p)
    return (torch.bincount(tokens, minlength=5) / 100_000).tolist()


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [
        ({}, [0.1, 0.4, 0, 0.3, 0.2]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 50}, [0.1, 0.4, 0, 0.3, 0.2]),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 0, 9 / 30, 4 / 30]),
    ],
)
def test_sampled_shares_are_the_probabilities(restriction: Any, expected: list[float]) -> None:
    assert shares(**restriction) == pytest.approx(expected, abs=2e-5)


def test_no_token_of_probability_0_is_drawn_at_either_end() -> None:
    scores = torch.full((200, 9000), -torch.inf)
    scores[:, 1000:8000] = torch.randn(200, 7000, generator=torch.Generator().manual_seed(0))
    for uniform in (0.0, 1 - 2**-24, 1.0):
        tokens = sample_tokens(scores, torch.full((200,), uniform), 1.0, 0, 1.0)
        assert tokens.min() >= 1000 and tokens.max() < 8000


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_not_numbers(bad: float) -> None:
    scores = torch.zeros(2, 5)
    scores[1, 3] = bad
    for top_k in (0, 2):
        with pytest.raises(GenerationError, match=r"not numbers \(NaN or infinite\)"):
            sample_tokens(scores, torch.zeros(2), 1.0, top_k, 1.0)


def test_no_token_that_is_possible() -> None:
    scores = torch.full((2, 5), -torch.inf)
    scores[0, 3] = 0.0
    for top_k in (0, 2):
        with pytest.raises(GenerationError, match="no token is left to draw: min_length"):
            sample_tokens(scores, torch.zeros(2), 1.0, top_k, 1.0)

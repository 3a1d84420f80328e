"""Collecting rollouts: what is drawn, generated, rewarded and scored, and on what it does not depend."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from on_policy_runs import (
    SAMPLES,
    actors_of,
    collect,
    filled,
    likelier_end,
    rows_of,
    stepwise_logits,
    stepwise_values,
)
from torch.testing import assert_close

from rl4lms.episodes import rollout_settings
from rl4lms.model.load import load_tokenizer
from rl4lms.ppo import collect as collecting
from rl4lms.ppo.mask import MaskRule, allowed_tokens
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.rewards import RewardError, TextBatch
from rl4lms.samples import Sample

CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(params=["tiny_gpt2", "tiny_t5"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def letters(batch: TextBatch) -> list[float]:
    return [
        len(text) / 10 + number["number"] for text, number in zip(batch.generated, batch.meta, strict=True)
    ]


def texts_of(rollouts: Rollouts) -> list[tuple[list[int], list[int]]]:
    return rows_of(rollouts.sequences)


@pytest.mark.parametrize("n_envs", [1, 3, 8])
def test_the_buffer_is_full_and_no_group_of_texts_is_too_many(folder, n_envs):
    """Texts come in groups of n_envs; of the last group at least one is needed."""
    rollouts = collect(likelier_end(actors_of(folder, letters, n_envs=n_envs, n_steps=7)), 1, 0.1, 6.0)
    lengths = rollouts.sequences.response_mask.sum(1)
    needed = 7 * n_envs
    assert len(rollouts.rows) == rollouts.mask.sum() == needed
    assert len(lengths) % n_envs == 0
    assert lengths.sum() >= needed > lengths[:-n_envs].sum()
    assert lengths.max() <= 6 and (n_envs == 1 or lengths.min() < 6)
    assert len(rollouts.texts) == len(rollouts.samples) == len(rollouts.task_rewards) == len(lengths)


@pytest.mark.parametrize("clean_up", [False, True])
def test_rewards_see_what_the_policy_wrote_or_tidied_texts(folder, monkeypatch, clean_up):
    tokenizer = load_tokenizer(str(folder), clean_up_tokenization_spaces=clean_up)
    actors = replace(actors_of(folder, letters, n_steps=4), tokenizer=tokenizer)
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids, **kwargs: " sees != us .")
    expected = " sees!= us." if clean_up else " sees != us ."
    assert set(collect(actors, 0, 0.2, 4.0).texts) == {expected}


@pytest.mark.parametrize("rule", [None, MaskRule("learned_top_p", 0.8, 3, (0, 1))], ids=["ppo", "nlpo"])
def test_everything_belongs_to_the_text_it_was_computed_of(folder, rule):
    """Though scored in another order, by length: sample, text, reward, scores and masks."""
    actors = likelier_end(
        actors_of(folder, letters, n_steps=12, mask_rule=rule, generation={"temperature": 0.7})
    )
    rollouts = collect(actors, 3, 0.2, 4.0)
    sequences, tokenizer = rollouts.sequences, actors.tokenizer
    for i, (prompt, response) in enumerate(texts_of(rollouts)):
        sample = SAMPLES[int(rollouts.samples[i])]
        assert prompt == tokenizer(sample.prompt_or_input_text)["input_ids"]
        text = tokenizer.decode(response, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert rollouts.texts[i] == text
        assert rollouts.task_rewards[i].item() == pytest.approx(len(text) / 10 + sample.meta_data["number"])
    raw, entries = [], []
    allowed = None if rule is None else actors.mask_model.allowed(sequences)
    with torch.no_grad():
        for i, logits in enumerate(stepwise_logits(actors.policy.model, sequences)):
            taken = sequences.response_ids[i, : len(logits), None]
            for found, mask in ((raw, None), (entries, allowed)):
                own = logits / 0.7
                if mask is not None:
                    own = own.masked_fill(~mask[i, : len(logits)], -torch.inf)
                found.append(own.log_softmax(1).gather(1, taken)[:, 0])
        reference = [
            logits.log_softmax(1).gather(1, sequences.response_ids[i, : len(logits), None])[:, 0]
            for i, logits in enumerate(stepwise_logits(actors.reference.model, sequences))
        ]
        values = filled(sequences, stepwise_values(actors.policy, sequences))
    scores = rollouts.scores
    assert_close(scores.raw_logprobs, filled(sequences, raw), **CLOSE)
    assert_close(scores.logprobs, filled(sequences, entries), **CLOSE)
    assert_close(scores.ref_logprobs, filled(sequences, reference), **CLOSE)
    assert_close(scores.values, values, **CLOSE)
    kl = filled(sequences, raw) - filled(sequences, reference)
    assert_close(scores.kl_rewards, -0.2 * kl, **CLOSE)
    tokens = torch.arange(len(rollouts.rows))
    if rule is None:
        assert rollouts.action_mask(tokens) is None
    else:
        assert rollouts.allowed.bits.shape[0] == len(tokens)
        assert torch.equal(rollouts.action_mask(tokens), allowed[rollouts.mask])
        assert torch.equal(rollouts.action_mask(tokens[[5, 0]]), allowed[rollouts.mask][[5, 0]])


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_texts_are_sampled_under_the_mask(folder, temperature):
    """Each token is one that the mask model itself allows, at whatever temperature."""
    rule = MaskRule("topk", 3.0, 1, (0, 1))
    actors = actors_of(folder, letters, n_steps=12, mask_rule=rule, generation={"temperature": temperature})
    rollouts = collect(actors, 1, 0.1, 6.0)
    taken = 0
    with torch.no_grad():
        steps = stepwise_logits(actors.mask_model.model, rollouts.sequences)
    for (_, response), logits in zip(texts_of(rollouts), steps, strict=True):
        allowed = allowed_tokens(logits, rule)
        assert allowed.sum(1).max() <= 5
        assert allowed[torch.arange(len(response)), torch.tensor(response)].all()
        taken += len(set(response))
    assert taken > 20


def same(found: Rollouts, expected: Rollouts) -> None:
    """Equal draws and texts; scores up to the rounding of other batches."""
    assert texts_of(found) == texts_of(expected)
    assert found.samples.tolist() == expected.samples.tolist()
    for name in ("logprobs", "values", "rewards", "last_values", "task_rewards"):
        assert_close(getattr(found, name), getattr(expected, name), **CLOSE)


@pytest.mark.parametrize("rule", [None, MaskRule("learned_top_p", 0.8, 3, (0, 1))], ids=["ppo", "nlpo"])
def test_rollouts_do_not_depend_on_how_many_are_asked_for_at_once(folder, rule, monkeypatch):
    actors = likelier_end(actors_of(folder, letters, n_steps=7, mask_rule=rule))
    expected = collect(actors, 1, 0.1, 5.0)
    for length in (0.3, 3.0, 1e9):
        same(collect(actors, 1, 0.1, length), expected)
    for at_a_time, logits in ((1, 2**26), (3, 2**26), (128, 1)):
        monkeypatch.setattr("rl4lms.episodes.EPISODES_AT_A_TIME", at_a_time)
        monkeypatch.setattr(collecting, "EPISODES_AT_A_TIME", at_a_time)
        monkeypatch.setattr(collecting, "_LOGITS_AT_A_TIME", logits)
        same(collect(actors, 1, 0.1, 5.0), expected)


def test_rollouts_are_a_function_of_seed_and_iteration(folder):
    actors = actors_of(folder, letters, seed=5)
    first = collect(actors, 1, 0.1, 6.0)
    torch.manual_seed(99)
    np.random.seed(99)
    assert texts_of(collect(actors, 1, 0.1, 6.0)) == texts_of(first)
    assert torch.equal(collect(actors, 1, 0.1, 6.0).logprobs, first.logprobs)
    alone = {"train": SAMPLES[:1]}  # what is drawn for one prompt
    texts = texts_of(collect(actors_of(folder, letters, seed=5, **alone), 1, 0.1, 6.0))
    for seed, iteration in ((5, 2), (6, 1)):
        other = collect(actors_of(folder, letters, seed=seed), iteration, 0.1, 6.0)
        assert other.samples.tolist() != first.samples.tolist()
        assert texts_of(collect(actors_of(folder, letters, seed=seed, **alone), iteration, 0.1, 6.0)) != texts


def test_equal_prompts_have_texts_of_their_own(folder):
    rollouts = collect(actors_of(folder, letters, train=SAMPLES[:1], n_steps=20), 1, 0.1, 6.0)
    assert set(rollouts.samples.tolist()) == {0}
    texts = [tuple(response) for _, response in texts_of(rollouts)]
    assert len(set(texts)) > len(texts) / 2
    assert rollouts.statistics()["rollout_info/repeated_inputs"] == 1


def test_prompts_are_drawn_uniformly_with_replacement(tiny_gpt2):
    actors = actors_of(tiny_gpt2, letters, n_steps=60, n_envs=10, generation={"max_new_tokens": 1})
    drawn = np.concatenate([collect(actors, i, 0.1, 1.0).samples.numpy() for i in range(1, 6)])
    count = len(drawn)
    assert count == 3000
    shares = np.bincount(drawn, minlength=9) / count
    assert abs(shares - 1 / 9).max() < 4.5 * (8 / 81 / count) ** 0.5
    pairs = np.bincount(drawn[1:] * 9 + drawn[:-1], minlength=81) / (count - 1)
    assert abs(pairs - 1 / 81).max() < 4.5 * (80 / 81**2 / count) ** 0.5, "one draw tells nothing of the next"


@pytest.mark.parametrize(
    ("new", "longest", "unfinished", "rewarded"),
    [(4, 9, True, True), (4, 9, False, False), (9, 4, False, True), (4, 4, False, True)],
)
def test_which_unfinished_texts_are_rewarded(folder, new, longest, unfinished, rewarded):
    """Texts cut by max_new_tokens before max_episode_length, on request, as in the released code: not."""
    actors = likelier_end(
        actors_of(
            folder,
            lambda batch: [7.0] * len(batch),
            n_steps=12,
            generation={"max_new_tokens": new},
            env={"max_episode_length": longest, "reward_unfinished": unfinished},
        )
    )
    rollouts = collect(actors, 1, 0.1, 4.0)
    end = actors.tokenizer.eos_token_id
    finished = 0
    for (_, response), reward in zip(texts_of(rollouts), rollouts.task_rewards.tolist(), strict=True):
        assert len(response) == 4 or response[-1] == end
        assert reward == (7.0 if response[-1] == end or rewarded else 0.0)
        finished += response[-1] == end
    assert 0 < finished < len(rollouts.texts)


def test_episodes_end_after_max_episode_length(folder):
    actors = actors_of(folder, letters, generation={"max_new_tokens": 50}, env={"max_episode_length": 3})
    assert rollout_settings(actors.alg, actors.env).max_new_tokens == 3
    assert collect(actors, 1, 0.1, 3.0).sequences.response_mask.sum(1).max() == 3
    shorter = actors_of(folder, letters, generation={"max_new_tokens": 2}, env={"max_episode_length": 3})
    assert rollout_settings(shorter.alg, shorter.env).max_new_tokens == 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_prompts_are_cut_to_max_prompt_length(folder, side):
    """On the environment's side, special tokens included; the reward sees the whole prompt."""
    samples = [Sample("a", "the old dog looks at a green tree near the river", [""], {"number": 0})]
    seen: list[str] = []

    def reward(batch: TextBatch) -> list[float]:
        seen.extend(batch.prompts)
        return [0.0] * len(batch)

    actors = actors_of(
        folder, reward, train=samples, env={"max_prompt_length": 5, "prompt_truncation_side": side}
    )
    rollouts = collect(actors, 1, 0.1, 6.0)
    whole = actors.tokenizer(samples[0].prompt_or_input_text)["input_ids"]
    end = whole[-1:] if "t5" in folder.name else []
    body = whole[: len(whole) - len(end)]
    room = 5 - len(end)
    expected = (body[-room:] if side == "left" else body[:room]) + end
    assert len(body) > room and {tuple(prompt) for prompt, _ in texts_of(rollouts)} == {tuple(expected)}
    assert set(seen) == {samples[0].prompt_or_input_text}


def test_the_reward_gets_all_texts_in_one_call_with_what_belongs_to_them(folder):
    calls: list[TextBatch] = []

    def reward(batch: TextBatch) -> list[float]:
        calls.append(batch)
        return [0.0] * len(batch)

    actors = actors_of(folder, reward, n_steps=20)
    rollouts = collect(actors, 1, 0.1, 6.0)
    (batch,) = calls
    samples = [SAMPLES[i] for i in rollouts.samples.tolist()]
    assert batch.prompts == [sample.prompt_or_input_text for sample in samples]
    assert batch.references == [sample.references for sample in samples]
    assert batch.meta == [sample.meta_data for sample in samples]
    assert batch.generated == rollouts.texts
    assert (batch.model, batch.split) == (actors.policy.model, "train")


def failing(batch: TextBatch) -> list[float]:
    if any(number["number"] >= 4 for number in batch.meta):
        raise ValueError("too much")
    return [0.0] * len(batch)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            failing,
            r"reward 'failing' raised ValueError for text {first} \('{text}' after prompt .*: too much",
        ),
        (
            lambda batch: [1.0],
            r"reward '.*lambda.*' returned 1 values for {count} texts; expected one number",
        ),
        (
            lambda batch: [math.nan if m["number"] >= 4 else 0.0 for m in batch.meta],
            r"returned nan for text {first} \('{text}",
        ),
    ],
    ids=["raises", "too few", "nan"],
)
def test_failing_rewards_are_named_with_the_first_text(
    tiny_t5: Path, reward: Callable[..., Any], message: str
) -> None:
    good = collect(actors_of(tiny_t5, letters), 1, 0.1, 6.0)
    first = int((good.samples >= 4).nonzero()[0])
    expected = message.format(first=first, text=re.escape(good.texts[first]), count=len(good.texts))
    with pytest.raises(RewardError, match=expected):
        collect(actors_of(tiny_t5, reward), 1, 0.1, 6.0)


def test_bfloat16_rollouts(folder):
    actors = actors_of(folder, letters)
    rollouts = collect(actors, 1, 0.1, 6.0, dtype="bfloat16")
    assert len(rollouts.rows) == 32
    assert {t.dtype for t in (rollouts.logprobs, rollouts.values, rollouts.rewards)} == {torch.float32}
    assert rollouts.logprobs.isfinite().all()

"""What InstructGPT's PPO adds: value model, whole texts, warm-up, average, clipped values; by hand."""

import copy
from typing import Any

import pytest
import torch
from instructgpt_runs import everything, kind_of, save_reward_model
from on_policy_jobs import PREFIX, checkpoint, job, start
from on_policy_runs import (
    KINDS,
    actors_of,
    algorithm,
    changed,
    collect,
    likelier_end,
    random_batch,
    rollouts_of,
    tiny_policy,
)
from safetensors.torch import load_file
from tiny_models import save_tiny_gpt2
from torch import Tensor
from torch.testing import assert_close

from rl4lms.evaluation import Evaluator
from rl4lms.model.load import load_tokenizer
from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import PolicyModel
from rl4lms.model.reward_model import RewardModel
from rl4lms.model.sampling import end_tokens
from rl4lms.model.source import ModelSourceError
from rl4lms.model.value import load_value_model
from rl4lms.ppo import collect as collect_module
from rl4lms.ppo.learner import Learner, set_learning_rates, update_average, warmup_share
from rl4lms.ppo.update import KLController, minibatches, ppo_loss

pytestmark = pytest.mark.usefixtures("no_plots_and_no_fsync")
kinds = pytest.mark.parametrize("kind", KINDS)
models = pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_t5"])


# The value model


@models
def test_the_value_starts_as_the_reward_model_with_its_normalisation(model, tmp_path, request):
    """Behind a text that has ended it is the text's reward; at its last token, of the state before that."""
    folder = request.getfixturevalue(model)
    reward = RewardModel.load(str(save_reward_model(tmp_path / "reward", folder)))
    tokenizer = load_tokenizer(str(folder))
    value = load_value_model(str(tmp_path / "reward"), kind_of(folder), tokenizer)
    policy = PolicyModel(copy.deepcopy(reward.model), *value)
    prompts, texts = ["the old dog", "nobody"], [" runs after us.", " sings about water and the river."]
    scores = reward.score(prompts, texts)
    for prompt, text, score in zip(prompts, texts, scores, strict=True):
        (row,) = reward.encode([prompt], [text])
        one_more = torch.tensor([[*row.completion, 5]])
        given = (torch.tensor([row.prompt]), torch.ones(1, len(row.prompt), dtype=torch.bool), one_more)
        values = policy.values(*given, torch.ones_like(one_more, dtype=torch.bool))[0]
        assert values[-1].item() == pytest.approx(score, abs=1e-5)
        cut = RewardModel.load(str(tmp_path / "reward"))
        cut_row = type(row)(row.prompt, row.completion[:-1])
        expected = cut.scale * cut([cut_row]).item() + cut.bias
        assert values[-2].item() == pytest.approx(expected, abs=1e-5)
        assert abs(values[-1] - values[-2]) > 1e-4


def test_a_value_model_that_reads_other_tokens_is_refused(tmp_path, tiny_gpt2, tiny_t5):
    other = save_tiny_gpt2(tmp_path / "other_gpt2", vocab_size=280)
    reward = save_reward_model(tmp_path / "reward", other)
    with pytest.raises(ModelSourceError) as error:
        load_value_model(str(reward), "causal", load_tokenizer(str(tiny_gpt2)))
    assert str(error.value).startswith(f"reward model {str(reward)!r} has not the policy's tokens (")


@models
def test_a_run_begins_with_the_reward_models_values(model, tmp_path, request):
    folder = request.getfixturevalue(model)
    config = job(tmp_path, folder, train_evaluation__n_iters=1, **everything(tmp_path, folder))
    state = checkpoint(start(tmp_path, config))["model"]
    reward = RewardModel.load(str(tmp_path / "reward_model"))
    head = reward.scale * reward.model.score.weight
    assert (state["value_head.weight"] - head).abs().max() <= 3 * 5e-4  # three steps of AdamW
    assert abs(state["value_head.bias"].item() - reward.bias) <= 3 * 5e-4
    assert not [name for name in state if name.startswith("value_model") and "score" in name]


# Learning rates


def test_the_value_model_has_a_learning_rate_of_its_own():
    policy = tiny_policy("t5")
    optimizer = build_optimizer(policy, 1e-3, 0.1, value_learning_rate=1e-5)
    rates = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
    for name, weight in policy.named_parameters():
        assert rates[id(weight)] == (1e-5 if name.startswith("value_") else 1e-3), name
    assert len(rates) == len(list(policy.parameters()))


def test_warm_up_is_linear_from_a_tenth():
    assert [warmup_share(i, 10) for i in (1, 2, 6, 10, 11, 500)] == pytest.approx(
        [0.1, 0.19, 0.55, 0.91, 1, 1]
    )
    weight = torch.nn.Parameter(torch.zeros(2))
    groups = [{"params": [weight], "lr": 2e-3}, {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 4e-5}]
    optimizer = torch.optim.AdamW(groups)
    args = algorithm(warmup_iterations=2).args
    rates = []
    for iteration in (1, 2, 3, 4):
        set_learning_rates(optimizer, args, iteration)
        rates.append([group["lr"] for group in optimizer.param_groups])
        restored = torch.optim.AdamW(copy.deepcopy(groups))  # as in a run that goes on
        restored.load_state_dict(optimizer.state_dict())
        optimizer = restored
    expected = [[share * rate for rate in (2e-3, 4e-5)] for share in (0.1, 0.55, 1, 1)]
    assert torch.allclose(torch.tensor(rates), torch.tensor(expected))


# The average


def test_the_average_after_n_updates_is_the_closed_form():
    policy, decay = tiny_policy("gpt2"), 0.8
    average = copy.deepcopy(policy.model)
    learner = Learner(policy, torch.optim.SGD(policy.parameters(), 0.1), KLController(0.1), None, 5.0)
    learner.average = average
    assert learner.result is average
    history = [[weight.detach().clone() for weight in policy.model.parameters()]]
    for seed in range(4):
        policy.model.load_state_dict(changed(policy.model, seed=seed).state_dict())
        update_average(learner, decay)
        history.append([weight.detach().clone() for weight in policy.model.parameters()])
    for number, weight in enumerate(average.parameters()):
        expected = decay**4 * history[0][number]
        for step in (1, 2, 3, 4):
            expected = expected + (1 - decay) * decay ** (4 - step) * history[step][number]
        assert_close(weight.data, expected, rtol=1e-5, atol=1e-6)


def test_the_average_is_saved_and_evaluated_and_rollouts_are_of_the_weights(tmp_path, tiny_gpt2, monkeypatch):
    evaluated: list[Tensor] = []
    sampled: list[Tensor] = []

    def first(model: Any) -> Tensor:
        return next(model.parameters()).detach().clone()

    evaluate, generate = Evaluator.__call__, collect_module.generate_episodes

    def evaluating(self: Evaluator, model: Any, *rest: Any, **options: Any) -> Any:
        evaluated.append(first(model))
        return evaluate(self, model, *rest, **options)

    def generating(model: Any, *rest: Any) -> Any:
        sampled.append(first(model))
        return generate(model, *rest)

    monkeypatch.setattr(Evaluator, "__call__", evaluating)
    monkeypatch.setattr(collect_module, "generate_episodes", generating)
    run = start(
        tmp_path,
        job(tmp_path, tiny_gpt2, alg__args__ema_decay=0.9, train_evaluation__n_iters=2),
        eval_on_train=False,
    )
    state = checkpoint(run)
    name = next(iter(state["average"]))
    assert not torch.equal(state["average"][name], state["model"][f"model.{name}"])
    saved = load_file(run.path / f"{PREFIX}model" / "model.safetensors")
    assert torch.equal(saved[name], state["average"][name])
    assert torch.equal(evaluated[-1], state["average"][name])
    assert torch.equal(sampled[-1], checkpoint(run, 1)["model"][f"model.{name}"])


# Whole texts


@models
def test_an_iteration_has_exactly_so_many_whole_texts(model, tmp_path, request):
    def reward(batch: Any) -> list[float]:
        return [float(len(text)) for text in batch.generated]

    actors = actors_of(request.getfixturevalue(model), reward, n_steps=None, episodes=13)
    rollouts = collect(actors, 1, 0.1, 5.0)
    assert len(rollouts.texts) == 13
    assert torch.equal(rollouts.mask, rollouts.sequences.response_mask)
    assert (rollouts.last_values == 0).all()
    last = rollouts.mask.sum(1) - 1
    paid = rollouts.padded(rollouts.rewards) - rollouts.scores.kl_rewards
    assert_close(paid[torch.arange(13), last], rollouts.task_rewards)


@kinds
def test_minibatches_of_episodes_have_exactly_so_many_texts(kind):
    policy = tiny_policy(kind)
    batch = random_batch(response_lengths=(5, 1, 7, 3, 2, 6, 4))
    rollouts = rollouts_of(policy, batch, [1.0] * 7)
    found = list(minibatches(rollouts, 3, "episode", 2, seed=1))
    texts = [rollouts.rows[part].unique().tolist() for part in found]
    assert [len(part) for part in texts] == [3, 3, 1] * 2
    for epoch in (found[:3], found[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(len(rollouts.rows)))
    assert texts[:3] != texts[3:]


@models
def test_a_text_without_end_has_the_penalty_for_a_score(model, tmp_path, request):
    def reward(batch: Any) -> list[float]:
        return [3.0] * len(batch)

    actors = actors_of(
        request.getfixturevalue(model), reward, n_steps=None, episodes=40, env={"missing_eos_penalty": -1.0}
    )
    rollouts = collect(likelier_end(actors), 1, 0.1, 5.0)
    ends = torch.tensor(end_tokens(actors.policy.model))
    last = rollouts.sequences.response_ids[torch.arange(40), rollouts.mask.sum(1) - 1]
    ended = torch.isin(last.cpu(), ends)
    assert 0 < ended.sum() < 40
    assert rollouts.task_rewards.tolist() == [3.0 if end else -1.0 for end in ended.tolist()]


# The value loss


def test_clipped_values_cost_the_larger_error():
    """summarize_from_feedback_details: max((v - R)^2, (clip(v, old - e, old + e) - R)^2)."""
    values = torch.tensor([1.0, 1.0, 0.1, -2.0], requires_grad=True)
    old, returns = torch.tensor([0.0, 0.9, 0.0, 0.0]), torch.tensor([0.5, 3.0, 0.0, -1.0])
    zeros = torch.zeros(4)
    losses = ppo_loss(zeros, zeros, zeros, values, returns, zeros, old_values=old, value_clip_range=0.2)
    #         clipped: 0.2, 1.0, 0.1, -0.2
    expected = [max(0.25, 0.09), 4.0, 0.01, max(1.0, 0.64)]
    assert losses["value_loss"].item() == pytest.approx(sum(expected) / 4)
    plain = ppo_loss(zeros, zeros, zeros, values, returns, zeros)
    assert plain["value_loss"].item() == pytest.approx((0.25 + 4 + 0.01 + 1) / 4)
    rising = ppo_loss(zeros, zeros, zeros, values[:1], torch.tensor([2.0]), zeros[:1],
                      old_values=torch.tensor([0.0]), value_clip_range=0.2)  # fmt: skip
    assert rising["value_loss"].item() == pytest.approx(1.8**2)
    assert torch.autograd.grad(rising["value_loss"], values)[0].abs().sum() == 0  # it has moved far enough

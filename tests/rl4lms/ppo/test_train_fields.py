"""Every field of a config does what it says: it changes what is trained, or leaves it bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import needs_peft
from instructgpt_runs import everything
from on_policy_jobs import checkpoint, job, rows, start
from torch import Tensor
from torch.testing import assert_close

from common.run_dir import RunDir
from rl4lms.config import TrainConfig


@pytest.fixture(scope="module", autouse=True)
def no_plots_and_no_fsync() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr("rl4lms.record.draw_training", lambda *_: None)
        yield


def trained(folder: Path, model: Path, alg: str = "ppo", **changes: Any) -> RunDir:
    """A run of two iterations."""
    return start(folder, job(folder, model, alg, train_evaluation__n_iters=2, **changes))


def weights(run: RunDir) -> Tensor:
    return torch.cat([weight.flatten() for weight in checkpoint(run, 2)["model"].values()])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> dict[str, Tensor]:
    """Weights of PPO and NLPO without changes."""
    folder = tmp_path_factory.mktemp("plain")
    return {alg: weights(trained(folder, tiny_gpt2, alg)) for alg in ("ppo", "nlpo")}


CHANGING: dict[str, Any] = {
    "alg__args__n_steps": 16,
    "alg__args__batch_size": 12,
    "alg__args__minibatch_unit": "sequence",
    "alg__args__n_epochs": 3,
    "alg__args__learning_rate": 2e-3,
    "alg__args__ent_coef": 0.1,
    "alg__args__vf_coef": 0.1,
    "alg__args__clip_range": 0.02,
    "alg__args__target_kl": 1e-6,
    "alg__args__gamma": 0.5,
    "alg__args__value_learning_rate": 1e-4,
    "alg__args__value_clip_range": 0.01,
    "alg__args__warmup_iterations": 2,
    "alg__args__gae_lambda": 0.5,
    "alg__args__max_grad_norm": 0.01,
    "alg__kl_div__coeff": 0.5,
    "alg__kl_div__norm_reward": True,
    "alg__policy__args__weight_decay": 0.1,
    "alg__policy__args__generation_kwargs__temperature": 1.3,
    "alg__policy__args__generation_kwargs__top_k": 20,
    "alg__policy__args__generation_kwargs__max_new_tokens": 4,
    "env__n_envs": 5,
    "env__args__max_prompt_length": 3,
    "env__args__max_episode_length": 4,
    "datapool__frac_train_samples": 0.5,
    "reward_fn__id": "on_policy_jobs:constant",
    "runtime__seed": 1,
    "runtime__dtype": "bfloat16",
    "runtime__weights": "bfloat16",
}
KEEPING: dict[str, Any] = {
    "alg__args__verbose": 1,
    "alg__policy__args__apply_model_parallel": True,
    "alg__policy__args__prompt_truncation_side": "right",
    "env__args__context_start_token": 0,
    "env__args__reward_unfinished": False,  # they all reach max_episode_length, or end
    "alg__args__ema_decay": 0.9,  # of what is evaluated and saved alone
    "train_evaluation__save_every": 2,
    "train_evaluation__eval_every": 1,
    "train_evaluation__metrics": [{"id": "on_policy_jobs:length"}],
    "runtime__on_divergence": "continue",
}


@pytest.mark.parametrize("field", CHANGING)
def test_fields_that_change_what_is_trained(field, plain, tmp_path, tiny_gpt2):
    found = weights(trained(tmp_path, tiny_gpt2, **{field: CHANGING[field]}))
    assert found.isfinite().all() and not torch.equal(found, plain["ppo"])


@pytest.mark.parametrize("field", KEEPING)
def test_fields_that_leave_what_is_trained(field, plain, tmp_path, tiny_gpt2):
    found = weights(trained(tmp_path, tiny_gpt2, **{field: KEEPING[field]}))
    assert_close(found, plain["ppo"], rtol=0, atol=0)


NLPO: dict[str, Any] = {
    "top_mask": 0.3,
    "min_tokens_to_keep": 200,
    "target_update_iterations": 1,
    "mask_type": "learned_top_k",
}


@pytest.mark.parametrize("field", NLPO)
def test_fields_of_nlpo(field, plain, tmp_path, tiny_gpt2):
    changes = {f"alg__policy__args__{field}": NLPO[field]}
    if field == "mask_type":
        changes["alg__policy__args__top_mask"] = 50
    found = weights(trained(tmp_path, tiny_gpt2, "nlpo", **changes))
    assert not torch.equal(found, plain["nlpo"])


def test_the_entropy_estimate(tmp_path, tiny_gpt2):
    """Of the bonus alone, so only with a weight."""
    found = [
        weights(
            trained(
                tmp_path,
                tiny_gpt2,
                alg__args__ent_coef=coef,
                alg__args__enforce_token_entropy_reg_estimate=estimate,
            )
        )
        for coef in (0.0, 0.1)
        for estimate in (False, True)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[2], found[3])


@pytest.mark.parametrize("field", ["episodes", "value_model_name", "missing_eos_penalty", "pretraining"])
def test_fields_of_instructgpt(field, plain, tmp_path, tiny_gpt2):
    """Those that need others beside them, or a model."""
    changes = everything(tmp_path, tiny_gpt2)
    whole = {name: changes[name] for name in INSTEAD_OF_TOKENS}
    if field == "episodes":
        assert not torch.equal(weights(trained(tmp_path, tiny_gpt2, **whole)), plain["ppo"])
        return
    (name,) = [name for name in changes if name.endswith(f"__{field}")]
    without, with_it = (
        weights(trained(tmp_path, tiny_gpt2, **more)) for more in (whole, whole | {name: changes[name]})
    )
    assert len(with_it) != len(without) or not torch.equal(with_it, without)


LORA: dict[str, Any] = {"r": 3, "alpha": 8.0, "target_modules": ["c_attn"], "value_model": "shared"}


@needs_peft
@pytest.mark.parametrize("field", LORA)
def test_fields_of_lora(field, tmp_path, tiny_gpt2):
    results = []
    for lora in ({"r": 4}, {"r": 4, field: LORA[field]}):
        results.append(weights(trained(tmp_path, tiny_gpt2, alg__policy__args__lora=lora)))
    assert len(results[0]) != len(results[1]) or not torch.equal(*results)


@needs_peft
def test_a_value_model_from_a_reward_model_gets_an_adapter_of_its_own(tmp_path, tiny_gpt2):
    changes = everything(tmp_path, tiny_gpt2) | {"alg__policy__args__lora": {"r": 4}}
    run = trained(tmp_path, tiny_gpt2, **changes)
    names = {name.partition(".")[0] for name in checkpoint(run)["model"]}
    assert names == {"model", "value_model", "value_head"} and weights(run).isfinite().all()


INSTEAD_OF_TOKENS = ("alg__args__n_steps", "alg__args__episodes", "alg__args__batch_size",
                     "alg__args__minibatch_unit")  # fmt: skip


def test_every_field_of_the_algorithms_is_tried():
    """A new one needs a line above."""
    tried = {name.rpartition("__")[2] for name in [*CHANGING, *KEEPING]} | NLPO.keys()
    tried |= {"enforce_token_entropy_reg_estimate", "episodes", "value_model_name", "lora"}
    config = TrainConfig.model_fields["alg"].annotation
    blocks = [alg.model_fields for alg in config.__args__[:2]]
    for block in blocks:
        assert block["args"].annotation.model_fields.keys() <= tried
        assert {"coeff", "norm_reward"} == block["kl_div"].annotation.model_fields.keys() - {"target_kl"}
        policy = block["policy"].annotation.model_fields["args"].annotation
        assert policy.model_fields.keys() - {"model_name", "generation_kwargs"} <= tried


def test_an_entropy_bonus_keeps_the_entropy_up(tmp_path, tiny_gpt2):
    last = [
        rows(trained(tmp_path, tiny_gpt2, alg__args__ent_coef=coef, alg__args__n_epochs=8), "training_info")[
            -1
        ]
        for coef in (0.0, 10.0)
    ]
    assert -last[1]["ppo/entropy_loss"] > -last[0]["ppo/entropy_loss"] + 0.1


def test_a_target_kl_ends_each_iteration_early(tmp_path, tiny_gpt2):
    found = rows(trained(tmp_path, tiny_gpt2, alg__args__target_kl=1e-6), "training_info")
    assert [row["ppo/updates"] for row in found] == [1, 1]


@pytest.mark.parametrize("alg", ["ppo", "nlpo"])
@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_t5"])
def test_recomputed_activations_give_the_same_gradient(model, alg, tmp_path, request):
    """Of one update, as Adam's first moments hold it: what follows amplifies rounding, NLPO's masks most.

    Processors differ in what recomputing rounds: some millionths of the gradient's norm.
    """
    folder = request.getfixturevalue(model)
    once = {"train_evaluation__n_iters": 1, "alg__args__n_epochs": 1, "alg__args__batch_size": 48}
    runs = [
        start(tmp_path, job(tmp_path, folder, alg, **once, runtime__gradient_checkpointing=on))
        for on in (False, True)
    ]
    plain, recomputed = (
        torch.cat([state["exp_avg"].flatten() for state in checkpoint(run)["optimizer"]["state"].values()])
        for run in runs
    )
    assert plain.norm() > 0 and rows(runs[0], "rollout_info") == rows(runs[1], "rollout_info")
    assert (recomputed - plain).norm() <= 1e-5 * plain.norm()


def test_a_checkpoint_tells_learning_rate_and_decay(tmp_path, tiny_gpt2):
    run = trained(tmp_path, tiny_gpt2, alg__args__learning_rate=3e-4, alg__policy__args__weight_decay=0.2)
    groups = checkpoint(run)["optimizer"]["param_groups"]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(3e-4, 0.2), (3e-4, 0.0)]


def test_prompts_are_cut_on_the_side_that_the_environment_says(tmp_path, tiny_gpt2):
    """On whole prompts it makes no difference, on cut ones it does."""
    sides = [{"env__args__prompt_truncation_side": side} for side in ("left", "right")]
    whole, cut = (
        [weights(trained(tmp_path, tiny_gpt2, **side, env__args__max_prompt_length=n)) for side in sides]
        for n in (30, 2)
    )
    assert torch.equal(*whole) and not torch.equal(*cut)

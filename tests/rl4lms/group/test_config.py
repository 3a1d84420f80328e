"""Every impossible setting of a group algorithm is one error with its field; what is odd is a notice."""

import copy
import json

import pytest
from on_policy_jobs import job

from common.config import validate
from rl4lms.config import TrainConfig
from rl4lms.config.group import DEFAULTS
from rl4lms.config.report import check_report
from rl4lms.episodes import rollout_settings

NO_VALUES = "is of PPO's value model, which this algorithm has not; remove it"
EQUAL_TEXTS = ": a group of equal texts has no spread, and teaches nothing"
GENERATION = "alg__policy__args__generation_kwargs"
# alg, changes -> the field (the first change's if it is none), and the message.
BAD = {
    "groups of one": (
        "grpo", {"alg__args__group_size": 1}, None,
        "must be at least 2: a group of one text has no baseline and no std of its own",
    ),
    "batch_std of groups of one": (
        "grpo", {"alg__args__group_size": 1, "alg__args__prompts_per_iteration": 1,
                 "alg__args__scale": "batch_std"}, None,
        "must be at least 2: a group of one text has no baseline and no std of its own",
    ),
    "batch_std without a baseline": (
        "reinforce_pp", {"alg__args__scale": "batch_std", "alg__args__group_size": 1}, None,
        "must be token_std or none with baseline: none: batch_std is 0 where rewards are equal, and what is "
        "divided by it is not",
    ),
    "group_std without a baseline": (
        "grpo", {"alg__args__baseline": "none"}, "alg.args.scale",
        "must be token_std or none with baseline: none: group_std is 0 where rewards are equal, and what is "
        "divided by it is not",
    ),
    "no texts enough": (
        "grpo", {"alg__args__batch_size": 21}, None,
        "21 is more than the 20 texts of an iteration (5 prompts x 4)",
    ),
    "tokens' advantages and texts' ratios": (
        "reinforce_pp", {"alg__args__ratio": "product"}, None,
        "must be token: with scale: token_std every token has an advantage of its own",
    ),
    "dynamic sampling of groups of one": (
        "reinforce_pp", {"alg__args__dynamic_sampling": {"enabled": True}, "alg__args__group_size": 1},
        "alg.args.dynamic_sampling.enabled",
        "needs groups of at least 2 texts: one text alone has no spread",
    ),
    "no sampling": (
        "grpo", {GENERATION: {"max_new_tokens": 6}}, f"{GENERATION}__do_sample", f"must be true{EQUAL_TEXTS}",
    ),
    "the likeliest token": (
        "grpo", {f"{GENERATION}__top_k": 1}, None, f"must be 0 (all tokens) or at least 2{EQUAL_TEXTS}",
    ),
    "no temperature": (
        "grpo", {f"{GENERATION}__temperature": 1e-4}, None, f"must be at least 0.001{EQUAL_TEXTS}",
    ),
    "no environment": (
        "dr_grpo", {"env": None}, None, "missing; expected a mapping (rollouts of PPO and NLPO)",
    ),
    "value loss": ("grpo", {"alg__args__vf_coef": 0.5}, None, NO_VALUES),
    "gamma": ("grpo", {"alg__args__gamma": 0.99}, None, NO_VALUES),
    "lambda": ("rloo", {"alg__args__gae_lambda": 0.95}, None, NO_VALUES),
    "PPO's clipping": (
        "grpo", {"alg__args__clip_range": 0.2}, None, "is of PPO; write clip_low and clip_high",
    ),
    "PPO's buffer": (
        "grpo", {"alg__args__n_steps": 12}, None,
        "is of PPO; write prompts_per_iteration, each with group_size texts",
    ),
    "PPO's minibatches": (
        "grpo", {"alg__args__minibatch_unit": "token"}, None,
        "is of PPO; minibatches are of whole texts here; remove it",
    ),
    "PPO's normalised rewards": (
        "grpo", {"alg__kl_div__norm_reward": True}, None,
        "is of PPO; alg.args.scale says what advantages are divided by; remove it",
    ),
    "PPO's KL controller": (
        "rloo", {"alg__kl_div__target_kl": 0.1}, None,
        "is of PPO; the weight of the penalty stays as it is here; remove it",
    ),
    "a misspelt field": (
        "grpo", {"alg__args__group_sise": 4}, None, "unknown key; did you mean 'group_size'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_impossible_settings_are_refused(tiny_gpt2, tmp_path, name):
    alg, changes, field, message = BAD[name]
    data = copy.deepcopy(job(tmp_path, tiny_gpt2, alg).model_dump(mode="json"))
    for path, value in changes.items():
        *blocks, key = path.split("__")
        block = data
        for inner in blocks:
            block = block[inner]
        block[key] = value
    config, problems = validate(TrainConfig, data)
    field = (field or next(iter(changes))).replace("__", ".")
    assert config is None
    assert [(problem.path, problem.message) for problem in problems] == [(field, message)]


@pytest.mark.parametrize(("new", "episode", "limit"), [(6, 6, 6), (4, 6, 4), (6, 5, 5), (None, 40, 19)])
def test_the_constant_of_dr_grpo_is_known_and_shown(tiny_gpt2, tmp_path, new, episode, limit):
    """There is always a limit: max_episode_length must be given, max_new_tokens has a default of 19."""
    settings = {"do_sample": True, "top_k": 0} | ({} if new is None else {"max_new_tokens": new})
    changes = {GENERATION: settings, "env__args__max_episode_length": episode}
    config = job(tmp_path, tiny_gpt2, "dr_grpo", **changes)
    assert rollout_settings(config.alg, config.env).max_new_tokens == limit
    assert f"loss by constant, {limit} tokens a text; KL none" in check_report(config)


def test_the_id_fills_defaults_that_can_be_set(tiny_gpt2, tmp_path):
    config = job(tmp_path, tiny_gpt2, "gspo", alg__args__clip_low=None, alg__kl_div__coeff=0.1)
    assert config.alg.args.clip_low is None and config.alg.args.clip_high == 4e-4
    assert config.alg.args.ratio == "sequence" and config.alg.kl_div.where == "loss"
    again, _ = validate(TrainConfig, json.loads(config.model_dump_json()))
    assert again == config


BLOWN_UP = (
    "alg.kl_div.where: reward, and the advantages are divided by the group's std: where rewards are alike, "
    "the KL penalty's differences are blown up to unit size; set it to loss"
)


def test_a_penalty_in_a_normalised_reward_is_noticed(tiny_gpt2, tmp_path):
    for alg in DEFAULTS:
        for where in ("reward", "loss"):
            for coeff in (0.0, 0.1):
                config = job(tmp_path, tiny_gpt2, alg, alg__kl_div={"where": where, "coeff": coeff})
                expected = where == "reward" and coeff > 0 and config.alg.args.scale == "group_std"
                assert (BLOWN_UP in config.notices()) == expected

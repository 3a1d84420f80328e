"""Costs by calculation, against numbers worked out by hand."""

import pytest

from paper.gpu_hours import (
    ModelSize,
    extraction_cost,
    generation_cost,
    on_policy_cost,
    pass_cost,
    supervised_cost,
)
from rl4lms.config import load_extract_config, load_train_config

SEQ2SEQ, CAUSAL = ModelSize(encoder=10, decoder=20, head=3), ModelSize(encoder=0, decoder=20, head=3)
TRAINING, SAMPLES = "rl4lms_scripts/training/narrative_qa/", "rl4lms_scripts/extract_samples/"


def test_a_pass_reads_each_token_once():
    assert pass_cost(SEQ2SEQ, prompt=7, text=2, head_tokens=1) == 2 * (7 * 10 + 2 * 20 + 3)
    assert pass_cost(CAUSAL, prompt=7, text=2, head_tokens=1) == 2 * (9 * 20 + 3)


def test_a_prompt_is_read_once_for_all_its_texts():
    assert generation_cost(SEQ2SEQ, 7, 2, prompts=5, each=10) == 5 * 2 * (7 * 10 + 10 * 2 * (20 + 3))


def test_supervised_finetuning_costs_three_passes_a_text():
    steps = load_train_config(f"{TRAINING}t5_supervised.yml", ["alg.training_args.max_steps=10"])
    one = 3 * pass_cost(SEQ2SEQ, 512, 19, 19)
    assert supervised_cost(steps, SEQ2SEQ, 1000) == 10 * 64 * one
    few = load_train_config(f"{TRAINING}t5_supervised.yml", ["datapool.frac_train_samples=0.1"])
    assert supervised_cost(few, SEQ2SEQ, 1000) == pytest.approx(5 * 100 * one)


def test_an_extraction():
    config = load_extract_config(
        f"{SAMPLES}t5_narrative_qa_extract_samples.yml", ["datapool.num_train_samples=30"]
    )
    each = config.evaluation.num_samples_per_input
    assert extraction_cost(config, SEQ2SEQ) == generation_cost(SEQ2SEQ, 512, 19, 30, each)


def test_whole_sequences_are_read_far_less_often():
    set_ = ["alg.args.batch_size=40", "env.n_envs=2", "alg.args.n_steps=200", "train_evaluation.n_iters=3"]
    token = load_train_config(f"{TRAINING}t5_ppo.yml", set_)
    sequence = load_train_config(f"{TRAINING}t5_ppo.yml", [*set_, "alg.args.minibatch_unit=sequence"])
    text = min(19, token.env.args.max_episode_length)
    episodes, updates = 400 / text, 3 * 5 * 10
    rollouts = 3 * episodes * (3 * pass_cost(SEQ2SEQ, 512, text, text) + pass_cost(SEQ2SEQ, 512, text, 0))
    assert on_policy_cost(sequence, SEQ2SEQ).rollouts == pytest.approx(rollouts)
    of_sequences = 40 / text * (pass_cost(SEQ2SEQ, 512, text, text) + pass_cost(SEQ2SEQ, 512, text, 0))
    assert on_policy_cost(sequence, SEQ2SEQ).updates == pytest.approx(updates * 3 * of_sequences)
    touched = episodes * (1 - (1 - 1 / episodes) ** 40)
    of_tokens = touched * 2 * pass_cost(SEQ2SEQ, 512, text, 0) + 40 * 2 * 3
    assert on_policy_cost(token, SEQ2SEQ).updates == pytest.approx(updates * 3 * of_tokens)

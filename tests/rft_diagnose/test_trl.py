"""The callback, driven as TRL's GRPO trainer drives reward functions and callbacks."""

import logging

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from rft_diagnose import trl

PROMPTS, GENERATIONS = 6, 8


def solved(prompts, completions, **columns):
    return [
        float(completion == answer) for completion, answer in zip(completions, columns["answer"], strict=True)
    ]


def short(completions, **columns):
    return [None if i % 7 == 0 else 0.5 for i, _ in enumerate(completions)]


class Trainer:
    """What of GRPOTrainer and its base class matters here: how it calls rewards and callbacks."""

    def __init__(self, callback, reward_funcs, tmp_path):
        self.reward_funcs = reward_funcs
        self.state, self.control = TrainerState(is_world_process_zero=True), TrainerControl()
        self.args = TrainingArguments(output_dir=str(tmp_path), report_to=[])
        self.handler = CallbackHandler([callback], None, None, None, None)
        self.rng = np.random.default_rng(0)

    def step(self, rates, conversational=False):
        """Sample and score GENERATIONS completions of each prompt, take a step, log."""
        prompts = [f"what is {i}?" for i in range(len(rates)) for _ in range(GENERATIONS)]
        right = self.rng.random(len(prompts)) < np.repeat(rates, GENERATIONS)
        if conversational:
            prompts = [[{"role": "user", "content": text}] for text in prompts]
        total = np.zeros(len(prompts))
        for function in self.reward_funcs:
            values = function(
                prompts=prompts,
                completions=["yes" if passed else "no" for passed in right],
                completion_ids=[[1, 2]] * len(prompts),
                answer=["yes"] * len(prompts),
                trainer_state=self.state,
                log_metric=lambda name, value: None,
            )
            total += np.nan_to_num(np.array(values, dtype=float))
        self.state.global_step += 1
        logs = {"reward": float(total.mean())}
        self.control = self.handler.on_log(self.args, self.state, self.control, logs)
        return logs


def test_logs_tell_dead_and_live_prompts_apart(tmp_path):
    callback = trl.VanishingGradientCallback(reward_range=(0, 1))
    trainer = Trainer(callback, [callback.watch(solved)], tmp_path)
    assert trainer.reward_funcs[0].__name__ == "solved"  # TRL names its columns after it
    for _ in range(6):
        logs = trainer.step([0, 0, 0, 0.5, 0.5, 1])
    assert logs["vanishing/dead_low"] == 0.5 and logs["vanishing/dead_high"] == pytest.approx(1 / 6)
    assert logs["vanishing/live"] == pytest.approx(1 / 3) and logs["reward"] > 0
    assert not trainer.control.should_training_stop


@pytest.mark.parametrize("conversational", [False, True])
def test_rewards_of_one_batch_are_added_up(tmp_path, conversational):
    callback = trl.VanishingGradientCallback()
    trainer = Trainer(callback, [callback.watch(solved), callback.watch(short, weight=2.0)], tmp_path)
    trainer.step([0.0, 1.0], conversational)
    (batch,) = callback.batches
    assert len(batch["prompts"]) == 16 and batch["rewards"] == [solved, short]
    expected = np.repeat([0.0, 1.0], GENERATIONS) + [0 if i % 7 == 0 else 1.0 for i in range(16)]
    assert batch["total"].tolist() == expected.tolist()


def test_old_steps_are_forgotten(tmp_path):
    callback = trl.VanishingGradientCallback(reward_range=(0, 1), last_steps=3)
    trainer = Trainer(callback, [callback.watch(solved)], tmp_path)
    for _ in range(5):
        trainer.step([0.5])
    assert [batch["step"] for batch in callback.batches] == [3, 4]


def test_a_condition_stops_training(tmp_path):
    callback = trl.VanishingGradientCallback(reward_range=(0, 1), stop_if="dead_low > 0.4")
    trainer = Trainer(callback, [callback.watch(solved)], tmp_path)
    steps = 0
    while not trainer.control.should_training_stop and steps < 10:
        trainer.step([0, 0, 0.5])
        steps += 1
    assert steps == 5  # 35 generations of 8 a step


def test_what_cannot_be_diagnosed_does_not_stop_training(tmp_path, caplog):
    callback = trl.VanishingGradientCallback()
    trainer = Trainer(callback, [callback.watch(lambda prompts, **_: [3.0] * len(prompts))], tmp_path)
    with caplog.at_level(logging.WARNING):
        logs = trainer.step([0.5])
    assert "no diagnosis at step 1: every reward is 3" in caplog.text
    assert list(logs) == ["reward"] and not trainer.control.should_training_stop

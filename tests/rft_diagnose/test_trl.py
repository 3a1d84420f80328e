"""The callback in runs of TRL's GRPO trainer: what reaches the logs, what stops, what is written down."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import TrainerControl
from trl_runs import GENERATIONS, GROUPS, coin, coin_later, dead, make_trainer, reward_model

from rft_diagnose import DiagnosisError, diagnose
from rft_diagnose.names import Columns
from rft_diagnose.rollout_log import NAME, RolloutLog
from rft_diagnose.tables import read_rewards
from rft_diagnose.trl import VanishingGradientCallback, see_prompts
from rft_diagnose.trl_logs import trl_notes

ROOT = Path(__file__).parents[2]
STEPS = 10


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    """Ten steps with a function, an async one and a reward model, logged to TensorBoard, and evaluated."""
    folder = tmp_path_factory.mktemp("grpo") / "out"
    callback = VanishingGradientCallback(reward_range=(0, 1), log_rollouts=True)
    rewards = [callback.watch(dead), callback.watch(coin_later), callback.watch(reward_model(tiny_gpt2), 0.0)]
    trainer = make_trainer(
        tiny_gpt2,
        folder,
        rewards,
        callback,
        evaluated=3,
        reward_weights=[1.0, 1.0, 0.0],
        report_to=["tensorboard"],
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        log_completions=True,
    )
    trainer.train()
    return SimpleNamespace(folder=folder, callback=callback, trainer=trainer)


def rows_of(folder):
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def test_values_reach_the_history_and_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = [row for row in run.trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in history] == [2, 4, 6, 8, 10]
    assert all(
        {"vanishing/live", "vanishing/no_spread_low", "vanishing/within_share"} <= set(row) for row in history
    )
    # The mean over the batches since the log before, of the state after each of them.
    rows = rows_of(run.folder)
    shares = []
    for step in (1, 2):
        seen = [row for row in rows if row["step"] <= step]
        summary = diagnose(
            [row["reward"] for row in seen],
            [row["prompt"] for row in seen],
            steps=[row["step"] for row in seen],
            reward_range=(0, 1),
            last_steps=20,
        ).summary
        shares.append(summary["no_spread_low"]["share"])
    assert history[0]["vanishing/no_spread_low"] == pytest.approx(np.mean(shares))

    (events,) = {path.parent for path in run.folder.rglob("events.out.tfevents*")}
    board = EventAccumulator(str(events))
    board.Reload()
    assert {"train/vanishing/live", "train/vanishing/no_spread_low"} <= set(board.Tags()["scalars"])
    logged = [(event.step, event.value) for event in board.Scalars("train/vanishing/no_spread_low")]
    expected = [(row["step"], row["vanishing/no_spread_low"]) for row in history]
    assert logged == [(step, pytest.approx(value)) for step, value in expected]
    assert not any(key.startswith("eval_vanishing") for row in run.trainer.state.log_history for key in row)


def test_every_generation_of_training_is_written_down(run):
    rows = rows_of(run.folder)
    assert len(rows) == STEPS * GROUPS * GENERATIONS and {row["step"] for row in rows} == set(
        range(1, STEPS + 1)
    )
    assert all(row["prompt"].startswith("the dog") for row in rows)  # none of evaluation's cats
    model = next(
        name
        for name in rows[0]
        if name not in ("step", "prompt", "completion", "reward", "dead", "coin_later")
    )
    assert all(row["reward"] == row["dead"] + row["coin_later"] for row in rows)
    assert len({row[model] for row in rows}) > GENERATIONS  # the reward model's scores, weight 0


def test_the_output_folder_is_read_by_the_log_that_lacks_nothing(run):
    table = read_rewards([run.folder], Columns())
    assert len(table.codes) == STEPS * GROUPS * GENERATIONS and list(table.rewards) == ["reward"]


def test_what_trl_itself_kept_is_found_and_its_gaps_are_named(run):
    moved = run.folder.parent / NAME
    (run.folder / NAME).rename(moved)
    try:
        table = read_rewards([run.folder], Columns(rewards=("dead", "coin_later")))
    finally:
        moved.rename(run.folder / NAME)
    notes = "\n".join(table.notes)
    assert len(table.codes) == 5 * GROUPS * GENERATIONS
    assert "TRL logs the batches of logging steps alone: 5 of 10 steps are here" in notes
    assert "log_rollouts=True" in notes


def test_evaluation_that_takes_the_place_of_training_rows_is_named(run):
    import pandas as pd

    files = sorted((run.folder / "completions").iterdir())
    cats = [pd.read_parquet(path)["prompt"].str.startswith("a cat").sum() for path in files]
    assert cats == [0, 3 * GENERATIONS, 0, 3 * GENERATIONS, 3 * GENERATIONS]
    table = read_rewards(files, Columns(rewards=("coin_later",)))
    (note,) = [note for note in table.notes if "evaluation" in note]
    assert "stand among those of training at steps 4, 8, 10, as it seems" in note


def test_the_same_batch_at_a_few_steps_is_no_evaluation():
    steps = np.repeat(np.arange(1, 41), 2)
    codes = np.random.default_rng(0).integers(0, 8, 80)
    assert trl_notes(steps, codes, steps) == []
    assert "at steps 0, as it seems" in trl_notes(steps, codes, steps - 1)[0]  # before training


def driven(callback, batches):
    """Drive the callback as the trainer does; batches: (rewards, prompts) of each step."""
    logs = []
    state = SimpleNamespace(global_step=0, max_steps=99, is_world_process_zero=True)
    control = TrainerControl()
    callback.on_train_begin(SimpleNamespace(output_dir="."), state, control)
    for rewards, prompts in batches:
        logs.append({})
        callback.on_step_begin(None, state, control)
        for reward in rewards:
            reward(
                prompts=prompts,
                completions=["text"] * len(prompts),
                trainer_state=state,
                log_metric=logs[-1].__setitem__,
            )
        state.global_step += 1
        callback.on_step_end(None, state, control)
        if control.should_training_stop:
            break
    return logs, control


def planted(rates):
    """A reward of the given share of each prompt's texts, and the prompts of a batch."""
    prompts = [f"what is {i}?" for i in range(len(rates)) for _ in range(8)]
    values = [float(i % 8 < 8 * rates[i // 8]) for i in range(len(prompts))]
    return prompts, lambda **columns: values


def test_logs_tell_dead_and_live_prompts_apart():
    callback = VanishingGradientCallback(reward_range=(0, 1))
    prompts, reward = planted([0, 0, 0, 0.5, 0.5, 1])
    logs, control = driven(callback, [([callback.watch(reward)], prompts)] * 6)
    assert "vanishing/dead_low" not in logs[0] and logs[0]["vanishing/no_spread_low"] == 0.5
    assert logs[-1]["vanishing/dead_low"] == 0.5 and logs[-1]["vanishing/live"] == pytest.approx(1 / 3)
    assert logs[-1]["vanishing/dead_high"] == pytest.approx(1 / 6) and not control.should_training_stop


def test_rewards_of_one_batch_are_added_up_and_old_steps_forgotten():
    callback = VanishingGradientCallback(last_steps=3)

    def short(prompts, **columns):
        return [None if i % 7 == 0 else 0.5 for i, _ in enumerate(prompts)]

    prompts, reward = planted([0.0, 1.0])
    prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    rewards = [callback.watch(reward), callback.watch(short, weight=2.0)]
    driven(callback, [(rewards, prompts)] * 5)
    assert [batch.step for batch in callback.batches] == [3, 4, 5]
    expected = np.repeat([0.0, 1.0], 8) + [0 if i % 7 == 0 else 1.0 for i in range(16)]
    assert callback.batches[0].total.tolist() == expected.tolist()
    assert callback.batches[0].inputs[0] == '[{"role": "user", "content": "what is 0?"}]'


def test_what_no_reward_knows_is_missing():
    callback = VanishingGradientCallback(reward_range=(0, 1))
    function = callback.watch(lambda prompts, **columns: [None, 1.0, 0.0, 1.0])
    driven(callback, [([function], ["p"] * 4)])
    assert np.isnan(callback.batches[0].total[0]) and callback.summary["missing"] == 1


def test_a_condition_stops_and_says_once_that_it_cannot_be_told_yet(caplog):
    callback = VanishingGradientCallback(reward_range=(0, 1), stop_if="dead_low > 0.4")
    prompts, reward = planted([0, 0, 0.5])
    function = callback.watch(reward)
    with caplog.at_level(logging.WARNING):
        logs, control = driven(callback, [([function], prompts)] * 10)
    assert control.should_training_stop and len(logs) == 5  # 35 generations of 8 a step
    assert [record.getMessage() for record in caplog.records] == [
        "stop_if dead_low > 0.4: dead_low cannot be told yet, and training goes on: it takes 35 generations "
        "of an input in the last 20 steps, and so far there are at most 8; no_spread_low and "
        "dead_low_at_least can be told from any, and last_steps pools more",
        "stopping at step 5: dead_low > 0.4",
    ]


def test_what_cannot_be_diagnosed_does_not_stop_training(caplog):
    callback = VanishingGradientCallback()
    function = callback.watch(lambda prompts, **columns: [3.0] * len(prompts))
    with caplog.at_level(logging.WARNING):
        logs, control = driven(callback, [([function], ["p", "p"])] * 2)
    assert caplog.text.count("no diagnosis at step 1: every reward is 3") == 1
    assert logs == [{}, {}] and not control.should_training_stop


def test_rewards_outside_training_are_left_out():
    callback = VanishingGradientCallback()
    function = callback.watch(coin)
    driven(callback, [([function], ["p 2", "p 2"])])
    function(prompts=["p 2", "p 2"], completions=["a", "b"])
    assert len(callback.batches) == 1


def test_a_callback_that_was_not_given_to_the_trainer_says_so(caplog):
    function = VanishingGradientCallback().watch(coin)
    function(prompts=["p 2"], completions=["a"], trainer_state=SimpleNamespace(max_steps=10))
    assert "give the callback to the trainer (callbacks=)" in caplog.text


def test_a_watched_reward_that_the_trainer_lacks_is_refused():
    callback = VanishingGradientCallback()
    function = callback.watch(coin)
    callback.watch(dead)
    with pytest.raises(
        DiagnosisError, match="watched, but not among the trainer's reward_funcs: dead; give it"
    ):
        driven(callback, [([function], ["p 2", "p 2"])])


def test_a_reward_model_needs_prompts_beside_it(tiny_gpt2):
    callback = VanishingGradientCallback()
    callback.watch(reward_model(tiny_gpt2))
    with pytest.raises(DiagnosisError, match=r"add callback\.watch\(see_prompts\) to reward_funcs"):
        driven(callback, [])
    callback.watch(see_prompts)
    driven(callback, [])
    with pytest.raises(DiagnosisError, match=r"load the reward model first, with AutoModelForSequenceClass"):
        callback.watch("some/model")


def test_a_log_goes_on_where_a_run_is_resumed_and_is_never_another_runs(tmp_path):
    log = RolloutLog(tmp_path / NAME)
    log.begin(0)
    for step in (1, 2, 3):
        log.add(step, ["p"], ["text"], {"coin": [1.0], "reward": [float("nan")]}, [0.5])
    with open(log.path, "a") as file:
        file.write('{"step": 3, "prom')  # killed
    RolloutLog(log.path).begin(2)
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0] == {
        "step": 1, "prompt": "p", "completion": "text", "coin": 1.0, "reward_part": None, "reward": 0.5,
    }  # fmt: skip
    with pytest.raises(DiagnosisError, match="has the rollouts of another run: move it away"):
        RolloutLog(log.path).begin(0)


def test_a_log_that_cannot_be_written_does_not_stop_training(tmp_path, caplog):
    log = RolloutLog(tmp_path / "gone" / NAME)
    for _ in range(2):
        log.add(1, ["p"], ["text"], {"coin": [1.0]}, [1.0])
    assert caplog.text.count("training goes on without it") == 1


@pytest.mark.slow
def test_two_processes_see_all_groups(tiny_gpt2, tmp_path):
    """Eight prompts a step, four in each process: both diagnose all of them, and stop together."""
    script = tmp_path / "train.py"
    script.write_text(f"""
import json, os, sys
from pathlib import Path
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
from trl_runs import coin_later, dead, make_trainer
from rft_diagnose.trl import VanishingGradientCallback
folder = Path({str(tmp_path)!r})
callback = VanishingGradientCallback(reward_range=(0, 1), stop_if="no_spread_low > 0.2", log_rollouts=True)
rewards = [callback.watch(dead), callback.watch(coin_later)]
trainer = make_trainer(Path({str(tiny_gpt2)!r}), folder / "out", rewards, callback, max_steps=4)
trainer.train()
seen = {{"steps": trainer.state.global_step, "inputs": callback.summary["inputs"],
    "rows": len(callback.batches[0].inputs)}}
(folder / f"rank{{os.environ['RANK']}}.json").write_text(json.dumps(seen))
""")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=29511",
        str(script),
    ]
    subprocess.run(
        command,
        check=True,
        timeout=900,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1] == {"steps": 1, "inputs": 8, "rows": 8 * GENERATIONS}
    assert len(rows_of(tmp_path / "out")) == 8 * GENERATIONS

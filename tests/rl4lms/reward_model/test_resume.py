"""A run that is killed or stopped in the middle of an epoch ends as one that was not, bit for bit."""

import os
import signal
from pathlib import Path

import pytest
from processes import in_child
from reward_runs import reward_config, start_reward_run, train_reward_model
from torch.testing import assert_close
from training_runs import config_of, rows_of

from common.run_dir import CheckpointError, RunDir, load_checkpoint
from rl4lms.errors import TrainingInterrupted
from rl4lms.reward_model import record
from rl4lms.reward_model import train as page

TIMING = "texts_per_second"


@pytest.fixture(scope="module", autouse=True)
def no_plots_and_no_fsync():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr("rl4lms.reward_model.record.draw_training", lambda *_: None)
        patch.setattr("rl4lms.reward_model.train.draw_training", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def config(tiny_gpt2):
    """With dropout, whose random numbers are part of what must be the same."""
    return reward_config(tiny_gpt2, dropout=True)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    return start_reward_run(tmp_path_factory.mktemp("whole"), config)


def rows_without_times(path: Path, name: str) -> list[dict]:
    return [{key: value for key, value in row.items() if key != TIMING} for row in rows_of(path, name)]


def newest(path: Path) -> Path:
    with RunDir.open(path) as run:
        return run.checkpoints()[-1]


def check_equal(path: Path, whole: Path) -> None:
    """Weights, optimizer, rows, tables and the saved model."""
    found, expected = load_checkpoint(newest(path)), load_checkpoint(newest(whole))
    assert found["update"] == 6
    assert_close(found, expected, rtol=0, atol=0)
    for name in ("training_info", "val_split_metrics"):
        assert rows_without_times(path, name) == rows_without_times(whole, name)
    for name in ("mine_model/model.safetensors", "mine_model/config.json", "mine_reward_metrics.json"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    assert not list(path.rglob(".tmp-*"))


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def before_the_step(patch) -> None:
    step = page.take_step
    patch.setattr(
        page, "take_step", lambda learner, *rest: die() if learner.update == 4 else step(learner, *rest)
    )


def in_the_evaluation(patch) -> None:
    measure = record.measure
    seen = []
    patch.setattr(
        record, "measure", lambda *args: die() if seen.append(0) or len(seen) == 3 else measure(*args)
    )


def half_a_checkpoint(patch) -> None:
    replace = os.replace

    def torn(source, target):
        if str(target).endswith("epoch_000005.pt"):
            Path(source).write_bytes(Path(source).read_bytes()[:1000])
            die()
        replace(source, target)

    patch.setattr(os, "replace", torn)


def before_the_model_is_saved(patch) -> None:
    patch.setattr(page, "normalize", die)


@pytest.mark.parametrize(
    "kill", [before_the_step, in_the_evaluation, half_a_checkpoint, before_the_model_is_saved]
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(kill, config, whole, tmp_path):
    def work() -> None:
        kill(pytest.MonkeyPatch())
        start_reward_run(tmp_path, config)

    assert in_child(work) == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    train_reward_model(path, config_of(config))
    check_equal(path, whole)


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_to_go_on_from(config, whole, tmp_path, monkeypatch):
    updates = []
    draw = page.draw_batch
    monkeypatch.setattr(page, "draw_batch", lambda *args: updates.append(args[1]) or draw(*args))
    with pytest.raises(TrainingInterrupted):
        start_reward_run(tmp_path, config, should_stop=lambda: len(updates) == 4)
    (path,) = tmp_path.iterdir()
    assert newest(path).name == "epoch_000004.pt" and not (path / "mine_model").exists()
    train_reward_model(path, config_of(config))
    assert updates == [1, 2, 3, 4, 5, 6]
    check_equal(path, whole)


def test_a_checkpoint_of_another_model_is_refused(config, whole, tiny_gpt2, tmp_path):
    other = reward_config("bag_of_tokens", tokenizer=tiny_gpt2)
    path = start_reward_run(tmp_path, other)
    newest(path).write_bytes(newest(whole).read_bytes())
    with pytest.raises(CheckpointError, match="does not fit this run"):
        train_reward_model(path, config_of(other))

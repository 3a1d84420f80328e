"""4 iterations are 2, a kill at any moment, and 2 more: weights, optimizer and rows, bit for bit."""

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from instructgpt_runs import everything
from on_policy_jobs import PREFIX, all_rows, checkpoint, job, resume, rows, start, train
from on_policy_runs import changed, tiny_policy
from processes import in_child
from torch.testing import assert_close

from common.run_dir import CheckpointError, RunDir
from rl4lms.config import TrainConfig
from rl4lms.errors import TrainingInterrupted
from rl4lms.evaluation import Evaluator
from rl4lms.model.optimiser import build_optimizer
from rl4lms.ppo import train as page
from rl4lms.ppo.learner import Learner
from rl4lms.ppo.mask import MaskModel, MaskRule
from rl4lms.ppo.update import KLController
from rl4lms.record import Record

CASES = [("ppo", "tiny_t5"), ("nlpo", "tiny_gpt2"), ("instructgpt", "tiny_gpt2")]
METRICS = [{"id": "on_policy_jobs:length"}]


@pytest.fixture(scope="module", autouse=True)
def no_plots_and_no_fsync() -> Iterator[None]:
    """What a killed process has written needs no fsync; plots are of no concern here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr("rl4lms.record.draw_training", lambda *_: None)
        yield


class Whole:
    """A config and its uninterrupted run."""

    def __init__(self, folder: Path, alg: str, model: Path) -> None:
        changes: dict[str, Any] = {"alg__kl_div__target_kl": 0.01}
        if alg == "instructgpt":
            alg, changes = "ppo", everything(folder, model)
        self.config = job(
            folder, model, alg, train_evaluation__metrics=METRICS, train_evaluation__eval_every=3,
            train_evaluation__max_eval_samples=5, **changes,
        )  # fmt: skip
        self.run = start(folder, self.config)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    alg, model = request.param
    return Whole(tmp_path_factory.mktemp("whole"), alg, request.getfixturevalue(model))


def check_equal(run: RunDir, whole: RunDir) -> None:
    """Weights, optimizer and what else a checkpoint holds; the model; the rows."""
    found, expected = checkpoint(run), checkpoint(whole)
    assert found["iteration"] == 4 and found.keys() == expected.keys()
    assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert all_rows(run) == all_rows(whole)
    model = f"{PREFIX}model/model.safetensors"
    assert (run.path / model).read_bytes() == (whole.path / model).read_bytes()
    assert [p.name for p in run.checkpoints()] == [p.name for p in whole.checkpoints()]
    assert not list(run.path.rglob(".tmp-*"))


def die() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def in_third(function: Callable[..., Any], iteration: Callable[..., int]) -> Callable[..., Any]:
    """The function, but the process dies at its call for iteration 3."""

    def dying(*args: Any, **options: Any) -> Any:
        return die() if iteration(*args) == 3 else function(*args, **options)

    return dying


def half_a_checkpoint() -> None:
    """A checkpoint of iteration 3 of which half is written."""
    replace = os.replace

    def torn(source: Any, target: Any) -> None:
        if str(target).endswith("epoch_000003.pt"):
            Path(source).write_bytes(Path(source).read_bytes()[:1000])
            die()
        replace(source, target)

    os.replace = torn


def half_a_row() -> None:
    """Half of iteration 3's row of its update, and all of its rollouts'."""
    log = Record._log

    def torn(record: Record, name: str, values: Any) -> None:
        if (name, record._learner.iteration) == ("training_info", 2):
            with (record._setup.path / f"{PREFIX}training_info.jsonl").open("a") as file:
                file.write(json.dumps({"epoch": 3, **values})[:40])
            die()
        log(record, name, values)

    Record._log = torn


def patched(module: Any, name: str, iteration: Callable[..., int]) -> Callable[[], None]:
    return lambda: setattr(module, name, in_third(getattr(module, name), iteration))


KILLS: dict[str, Callable[[], None]] = {
    "before the update": patched(Record, "_check_rollouts", lambda record, *_: record._learner.iteration + 1),
    "with half a row": half_a_row,
    "with half a checkpoint": half_a_checkpoint,
    "in the evaluation": patched(Evaluator, "__call__", lambda self, model, split, epoch: epoch),
}


def killed(folder: Path, config: TrainConfig, prepare: Callable[[], None]) -> Path:
    """The directory of a run whose process was killed."""

    def work() -> None:
        prepare()
        start(folder, config)

    assert in_child(work) == -signal.SIGKILL
    (path,) = (folder / "runs").iterdir()
    return path


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(kill, whole, tmp_path):
    path = killed(tmp_path, whole.config, kill)
    check_equal(resume(path, whole.config), whole.run)


def test_a_run_killed_again_and_again(tmp_path, whole):
    """In iterations 1, 2, 3 and 4, each time before anything of it is kept."""
    sample = page.sample

    def work(iteration: int, open_run: Callable[[], Any]) -> Callable[[], None]:
        def child() -> None:
            page.sample = lambda actors, number, *rest: (
                die() if number == iteration else sample(actors, number, *rest)
            )
            open_run()

        return child

    assert in_child(work(1, lambda: start(tmp_path, whole.config))) == -signal.SIGKILL
    (path,) = (tmp_path / "runs").iterdir()
    for iteration in (2, 3, 4):
        assert in_child(work(iteration, lambda: resume(path, whole.config))) == -signal.SIGKILL
    check_equal(resume(path, whole.config), whole.run)


def test_rows_of_iterations_that_are_done_again_are_made_anew(tmp_path, whole):
    """Also those of evaluations, which no checkpoint comes after."""
    seldom = whole.config.train_evaluation.model_copy(update={"save_every": 2})
    config = whole.config.model_copy(update={"train_evaluation": seldom})
    path = killed(tmp_path, config, patched(page, "sample", lambda actors, iteration, *_: iteration - 1))
    rows_file = path / f"{PREFIX}val_split_metrics.jsonl"
    first, third = map(json.loads, rows_file.read_text().splitlines())
    assert (first["epoch"], third["epoch"]) == (0, 3)
    third["metrics"]["letters"] = -1.0
    rows_file.write_text(f"{json.dumps(first)}\n{json.dumps(third)}\n")
    check_equal(resume(path, whole.config), whole.run)


@pytest.mark.parametrize("rule", [None, MaskRule("topk", 5.0, 1, ())], ids=["ppo", "nlpo"])
def test_all_that_changes_is_in_a_checkpoint(rule):
    def learner(seed: int) -> Learner:
        policy = tiny_policy("t5", seed)
        masks = rule and MaskModel(changed(policy.model, seed=seed), rule)
        optimizer = build_optimizer(policy, 1e-2 * (seed + 1), 0.1)
        sum(weight.sum() * seed for weight in policy.parameters()).backward()
        optimizer.step()
        average = changed(policy.model, seed=seed)
        return Learner(
            policy, optimizer, KLController(0.5 + seed), masks, 3.25 + seed, seed, 100 * seed, average
        )

    one, other = learner(1), learner(2)
    expected = copy.deepcopy(one.state_dict())
    other.load_state_dict(one.state_dict())
    assert_close(other.state_dict(), expected, rtol=0, atol=0)
    assert {
        "policy",
        "optimizer",
        "kl_controller",
        "mask_model",
        "mean_length",
        "iteration",
        "tokens",
        "average",
    } == vars(one).keys()


# Asked to stop


@pytest.mark.parametrize("after", [0, 2, 3], ids=["in the first evaluation", "between", "in an evaluation"])
def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint(after, whole, tmp_path, monkeypatch):
    """Of what is completed, though none was due; the next run goes on from it."""
    updates: list[int] = []
    add_update = Record.add_update

    def counting(record: Record, explained_variance: float) -> None:
        add_update(record, explained_variance)
        updates.append(len(updates) + 1)

    monkeypatch.setattr(Record, "add_update", counting)
    seldom = whole.config.train_evaluation.model_copy(update={"save_every": 99})
    config = whole.config.model_copy(update={"train_evaluation": seldom})
    with pytest.raises(TrainingInterrupted):
        start(tmp_path, config, should_stop=lambda: len(updates) == after)
    (path,) = (tmp_path / "runs").iterdir()
    with RunDir.open(path) as run:
        assert [p.name for p in run.checkpoints()] == ([f"epoch_{after:06d}.pt"] if after else [])
        assert [row["epoch"] for row in rows(run, "training_info")] == updates == list(range(1, after + 1))
        assert [row["epoch"] for row in rows(run, "val_split_metrics")] == ([0] if after else [])
    check_equal(resume(path, whole.config), whole.run)


def test_a_corrupt_checkpoint_is_named_with_the_older_one_to_use(whole, tmp_path):
    path = Path(shutil.copytree(whole.run.path, tmp_path / "copy"))
    with RunDir.open(path) as run:
        older, newest = run.checkpoints()
        newest.write_bytes(newest.read_bytes()[:-5000])
        with pytest.raises(CheckpointError) as error:
            train(run, whole.config)
        assert str(newest) in str(error.value)
        assert f"{older} is older and intact: delete the corrupt file to continue" in str(error.value)
        newest.unlink()
    check_equal(resume(path, whole.config), whole.run)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state["model"].popitem(), "does not fit this run: Error(s) in loading state_dict"),
        (
            lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
            "does not fit this run: the optimizer's exp_avg of weight 0 is [3], must be ",
        ),
        (lambda state: state.update(kl_coeff=None), "does not fit this run: "),
        (lambda state: state.update(iteration="two"), "does not fit this run: invalid literal"),
        (lambda state: state.pop("mean_length"), "is no checkpoint to go on from: it has no 'mean_length'"),
    ],
    ids=["a weight", "the optimizer", "the coefficient", "no number", "no length"],
)
def test_a_checkpoint_of_something_else_is_named(whole, tmp_path, edit, message):
    path = Path(shutil.copytree(whole.run.path, tmp_path / "copy"))
    with RunDir.open(path) as run:
        newest = run.checkpoints()[-1]
        state = torch.load(newest, weights_only=True)
        edit(state)
        torch.save(state, newest)
        with pytest.raises(CheckpointError) as error:
            train(run, whole.config)
    assert str(error.value).startswith(f"{newest} {message}")


def test_a_finished_run_that_is_resumed_trains_no_more(whole, monkeypatch):
    before = all_rows(whole.run), checkpoint(whole.run)
    monkeypatch.setattr(page, "sample", lambda *_: die())
    resume(whole.run.path, whole.config)
    assert all_rows(whole.run) == before[0]
    assert_close(checkpoint(whole.run), before[1], rtol=0, atol=0)


def test_a_checkpoint_holds_tensors_and_plain_values_alone(whole):
    state = torch.load(whole.run.checkpoints()[-1], weights_only=True)
    kept = {"model", "optimizer", "mask_model", "kl_coeff", "mean_length", "iteration", "tokens"}
    kept |= {"average"} if whole.config.alg.args.ema_decay else set()
    assert state.keys() == kept
    assert (state["mask_model"] is None) == (whole.config.alg.id == "ppo")
    assert len(state["optimizer"]["state"]) > 50

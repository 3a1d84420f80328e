"""Several processes: the laws of their work together, and PPO and NLPO as in one process."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters import needs_peft
from instructgpt_runs import everything
from on_policy_jobs import PREFIX, checkpoint, job, resume, rows, start, train
from on_policy_runs import (
    SAMPLES,
    actors_of,
    algorithm,
    collect,
    random_batch,
    rollouts_of,
    rows_of,
    tiny_policy,
    update,
)
from processes import in_child
from torch import Tensor
from torch.testing import assert_close
from worlds import forget_world, in_world

from common.run_dir import RunDir
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.model.parallel import World, WorldError, join_world
from rl4lms.ppo.mask import MaskRule
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.ppo.update import minibatches
from rl4lms.record import NonFiniteError
from rl4lms.rewards import RewardError, TextBatch

pytestmark = pytest.mark.usefixtures("no_plots_and_no_fsync")


# Laws


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_are_gathered_in_their_order(size, tmp_path):
    lists = [[(n, str(i)) for i in range(n)] for n in range(8)]

    def work(world: World) -> Any:
        assert (world.size, world.is_main) == (size, world.rank == 0)
        shares = [world.share(items) for items in lists]
        return shares, [world.gather(share) for share in shares], world.same(f"rank {world.rank}")

    results = in_world(tmp_path / "world", work, size)
    for n, items in enumerate(lists):
        every = [item for shares, *_ in results for item in shares[n]]
        assert sorted(every) == sorted(items), "each item is in one share"
        assert (
            max(len(shares[n]) for shares, *_ in results) - min(len(shares[n]) for shares, *_ in results) <= 1
        )
    assert [gathered for _, gathered, _ in results] == [lists] * size
    assert [same for *_, same in results] == ["rank 0"] * size


def test_sums_are_over_all_processes_and_in_place(tmp_path):
    def work(world: World) -> Any:
        one, other = torch.arange(6.0).view(2, 3) + world.rank, torch.tensor(10.0**world.rank)
        view = one.T
        world.sum_([view, other])
        world.sum_([])
        return one, other, view

    for one, other, view in in_world(tmp_path / "world", work, 3):
        assert torch.equal(one, 3 * torch.arange(6.0).view(2, 3) + 3) and torch.equal(view, one.T)
        assert other == 111


def test_one_process_is_a_world_of_its_own():
    world, tensor = World(), torch.ones(2)
    world.sum_([tensor])
    world.barrier()
    assert world.is_main and world.share([1, 2]) == world.gather([1, 2]) == [1, 2] and world.same(3) == 3
    assert torch.equal(tensor, torch.ones(2))


def test_processes_that_do_not_come_together_are_an_error():
    """`accelerate launch --cpu` starts one process, whatever number it is asked for."""

    def work() -> None:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        os.environ["ACCELERATE_NUM_PROCESSES"] = "2"
        forget_world()
        with pytest.raises(
            WorldError,
            match=r"^2 processes were asked for, 1 came together: start with torchrun --nproc_per_node 2$",
        ):
            join_world("cpu")

    assert in_child(work) == 0
    assert join_world("cpu").size == 1


# Rollouts


def worth(batch: TextBatch) -> list[float]:
    return [len(text) + meta["number"] for text, meta in zip(batch.generated, batch.meta, strict=True)]


def collected(rollouts: Rollouts) -> Any:
    tensors = {
        name: getattr(rollouts, name)
        for name in ("logprobs", "values", "rewards", "last_values", "task_rewards")
    }
    masks = None if rollouts.allowed is None else rollouts.allowed.bits
    return tensors, [rows_of(rollouts.sequences), rollouts.texts, rollouts.samples.tolist()], masks


@pytest.mark.parametrize(
    ("model", "rule", "n_envs"),
    [("tiny_t5", None, 4), ("tiny_gpt2", MaskRule("learned_top_p", 0.8, 3, (0,)), 1)],
    ids=["ppo", "nlpo"],
)
def test_rollouts_are_those_of_one_process(model, rule, n_envs, tmp_path, request):
    folder = request.getfixturevalue(model)
    actors = actors_of(folder, worth, n_envs=n_envs, n_steps=40 // n_envs, mask_rule=rule)
    tensors, plain, masks = collected(collect(actors, 1, 0.1, 5.0))
    results = in_world(tmp_path / "world", lambda world: collected(collect(actors, 1, 0.1, 5.0, world)), 3)
    for found in results:
        assert found[1] == plain
        assert_close(found[0], tensors, rtol=1e-4, atol=2e-5)
        assert_close(found[0], results[0][0], rtol=0, atol=0)
        assert masks is None or torch.equal(found[2], masks)


def test_a_reward_that_fails_for_one_processs_texts_fails_in_all(tmp_path, tiny_t5):
    """No process waits for ever, and the main one, whose log the user reads, knows the reason."""
    drawn = collect(actors_of(tiny_t5, worth), 1, 0.1, 6.0).samples.tolist()
    bad = next(sample for sample in drawn[1::2] if sample not in drawn[0::2])

    def failing(batch: TextBatch) -> list[float]:
        if any(meta["number"] == bad for meta in batch.meta):
            raise ValueError("too much")
        return [0.0] * len(batch)

    actors = actors_of(tiny_t5, failing)

    def work(world: World) -> str:
        with pytest.raises(RewardError) as error:
            collect(actors, 1, 0.1, 6.0, world)
        return str(error.value)

    one, other = in_world(tmp_path / "world", work)
    assert one == other and "raised ValueError for text" in one
    assert repr(SAMPLES[bad].prompt_or_input_text) in one


# The update


def updated(kind: str, world: World, batch_size: int, unit: str = "token", spoilt: bool = False) -> Any:
    """The weights after an update, and what is logged of it."""
    policy = tiny_policy(kind)
    rollouts = rollouts_of(policy, random_batch(), [1, -0.5, 0.3, 2, -1])
    if spoilt:
        rollouts.logprobs[1] = torch.nan  # a token of the first process
    alg = algorithm(kind, batch_size=batch_size, minibatch_unit=unit, ent_coef=0.1, n_epochs=2)
    # Not Adam, which makes rounding a step where the gradient is 0 (a GPT-2's key biases).
    optimizer = torch.optim.SGD(policy.parameters(), 0.1)
    logged = update(policy, optimizer, rollouts, alg, seed=3, world=world)
    return [weight.detach() for weight in policy.parameters()], logged


@pytest.mark.parametrize(("batch_size", "unit"), [(18, "token"), (8, "token"), (2, "token"), (4, "sequence")])
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_the_update_is_that_of_one_process(kind, batch_size, unit, tmp_path):
    """Also of minibatches in which a process has no token of its own."""
    weights, logged = updated(kind, World(), batch_size, unit)
    one, other = in_world(tmp_path / "world", lambda world: updated(kind, world, batch_size, unit))
    assert_close(one, other, rtol=0, atol=0)
    assert_close(one[0], weights, rtol=1e-4, atol=2e-6)
    assert one[1] == pytest.approx(logged, rel=1e-3, abs=1e-5)


def test_some_of_those_minibatches_are_of_one_process_alone():
    mask = random_batch().response_mask
    buffer: Any = SimpleNamespace(mask=mask, rows=mask.nonzero()[:, 0])
    owners = {tuple((buffer.rows[tokens] % 2).tolist()) for tokens in minibatches(buffer, 2, "token", 2, 3)}
    assert {(0, 0), (1, 1)} <= owners


def test_a_gradient_that_is_no_number_in_one_process_stops_all(tmp_path):
    def work(world: World) -> str:
        with pytest.raises(NonFiniteError) as error:
            updated("gpt2", world, 18, spoilt=True)
        return str(error.value)

    assert in_world(tmp_path / "world", work) == ["the gradient's norm is nan in minibatch 1"] * 2


# The loop


def loop(folder: Path, config: Any, stops: list[int] | None = None) -> Any:
    """A run of two processes, of which the first writes: how it ended and the weights of each iteration.

    stops: before which iteration each of them is asked to stop.
    """

    def work(world: World) -> Any:
        run = None
        if world.is_main:
            run = RunDir.create(folder / "runs", "run", config.model_dump(mode="json"), {}, prefix=PREFIX)
        kept: list[Tensor] = []

        def keep(record: Any) -> None:
            weights = record._learner.policy.parameters()
            kept.append(torch.cat([weight.detach().flatten() for weight in weights]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rl4lms.record.Record._evaluate", keep)
            try:
                train(
                    run,
                    config,
                    path=world.same(run.path if run else None),
                    world=world,
                    should_stop=lambda: stops is not None and len(kept) == stops[world.rank],
                )
            except (TrainingInterrupted, DivergenceError) as error:
                return f"{type(error).__name__}: {error}", kept
        return "done", kept

    results = in_world(folder / "world", work)
    (path,) = (folder / "runs").iterdir()
    return results, path


STEERED = {"alg__kl_div__target_kl": 0.01}
# Minibatches that split groups; and rewards that are less by a penalty which counts.
SPLIT = {
    "alg__args__dynamic_sampling": {"enabled": True},
    "alg__args__n_epochs": 2,
    "alg__args__batch_size": 6,
}
# All that InstructGPT adds, with the average evaluated.
INSTRUCTGPT = {
    "alg__args__learning_rate": 1e-4,
    "alg__args__value_learning_rate": 1e-4,
    "train_evaluation__metrics": [{"id": "on_policy_jobs:length"}],
}
# B begins with 0, and takes larger steps before anything changes.
LORA = {"alg__policy__args__lora": {"r": 8}, "alg__args__learning_rate": 1e-2}
PENALISED = {"alg__kl_div__coeff": 0.5, "alg__args__learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("alg", "model", "changes"),
    [
        ("ppo", "tiny_t5", STEERED),
        pytest.param("nlpo", "tiny_gpt2", STEERED, marks=pytest.mark.slow),
        ("grpo", "tiny_gpt2", SPLIT),
        ("rloo", "tiny_t5", PENALISED),
        ("ppo", "tiny_t5", INSTRUCTGPT),
        pytest.param("ppo", "tiny_gpt2", LORA, marks=needs_peft),
        pytest.param("grpo", "tiny_t5", LORA | {"alg__kl_div__coeff": 0.1}, marks=needs_peft),
    ],
    ids=["ppo", "nlpo", "grpo", "rloo", "instructgpt", "lora_ppo", "lora_grpo"],
)
def test_two_processes_train_as_one(alg, model, changes, tmp_path, request):
    """At a rate at which rounding, to which Adam gives the size of a step, does not change the texts."""
    folder = request.getfixturevalue(model)
    changes = {"train_evaluation__n_iters": 2, "alg__args__learning_rate": 1e-5} | changes
    if changes.keys() >= INSTRUCTGPT.keys():
        changes = everything(tmp_path, folder) | changes
    config = job(tmp_path, folder, alg, **changes)
    alone = start(tmp_path / "alone", config)
    second = rows(alone, "rollout_info")[1]
    assert second.get("group/rounds", 0) > 1 or second["rollout_info/kl_div_mean"] > 1e-3
    ((end, one), (other_end, other)), path = loop(tmp_path, config)
    assert end == other_end == "done"
    assert len(one) == 3 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    with RunDir.open(path) as run:
        for name in ("rollout_info", "training_info"):
            for found, expected in zip(rows(run, name), rows(alone, name), strict=True):
                assert found == pytest.approx(expected, rel=2e-3, abs=2e-4)
        first, found, expected = (
            torch.cat([weight.flatten() for weight in state.values()])
            for state in (checkpoint(run, 1)["model"], checkpoint(run)["model"], checkpoint(alone)["model"])
        )
    assert (found - expected).norm() < 0.05 * (found - first).norm()


@pytest.mark.parametrize("stops", [[2, 9], [9, 2]], ids=["first", "second"])
def test_a_process_that_is_asked_to_stop_stops_all(stops, tmp_path, tiny_gpt2):
    config = job(tmp_path, tiny_gpt2, train_evaluation__save_every=99, train_evaluation__n_iters=2)
    results, path = loop(tmp_path, config, stops)
    assert [end for end, _ in results] == ["TrainingInterrupted: "] * 2
    with RunDir.open(path) as run:
        assert [file.name for file in run.checkpoints()] == ["epoch_000001.pt"]
    assert len(rows(resume(path, config), "training_info")) == 2, "by one process, too"


def test_all_processes_end_where_the_run_is_hopeless(tmp_path, tiny_gpt2):
    changes = {"reward_fn__id": "on_policy_jobs:constant", "runtime__on_degenerate_rollout": "stop"}
    (first, second), _ = loop(tmp_path, job(tmp_path, tiny_gpt2, **changes))
    assert first[0] == second[0]
    assert first[0].startswith("DivergenceError: iteration 1: all 8 rewards are 0.25")

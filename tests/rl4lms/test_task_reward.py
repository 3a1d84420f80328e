"""Several rewards at once: their weighted sum, those that do not apply, what is logged and refused."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from on_policy_jobs import PREFIX, all_rows, checkpoint, job, resume, start
from torch.testing import assert_close
from training_runs import config_of, new_run, ppo_config, save_data, setup_of, supervised_config

import rl4lms_train_text_generation as runner
from common.config import ConfigError, validate
from common.files import read_rows
from common.run_dir import find_runs
from diagnose_vanishing_gradients import main as diagnose
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards, weighted_sum
from rl4lms.blind_metrics import BlindMetricError
from rl4lms.config import TrainConfig, load_train_config, resolved
from rl4lms.config.report import check_report, missing_components
from rl4lms.config.training_blocks import WeightedRewardConfig
from rl4lms.errors import TrainingInterrupted
from rl4lms.rewards import RewardError
from rl4lms.task_reward import TextReward, build_task_reward, name_parts, summarise_parts
from rl4lms.text import TextBatch

OWN = """
import math

CALLS = []


def letters(prompts, completions, n, scale: float = 1.0, **columns):
    if scale == 1:
        CALLS.extend(zip(n, completions))
    return [scale * len(completion) for completion in completions]


def even(completions, n, trainer_state=None, **kwargs):
    return [0.25 if i % 2 == 0 else None for i in n]


def never(completions):
    return [None for _ in completions]


def short(completions):
    return [0.0]


def undefined(completions):
    return [math.nan for _ in completions]


def huge(completions):
    return [3e38 for _ in completions]
"""
BATCH = TextBatch(["p", "q", "r"], ["a", "bb", "ccc"], [[]] * 3, [{"n": i} for i in range(3)])
ALL = {"id": "several:letters"}
EVEN = {"id": "several:even", "weight": 2.0}
TWICE = {"id": "several:letters", "args": {"scale": 2.0}, "weight": -0.25}
NAMES = ["several:letters", "several:letters#2", "several:even"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module `several`; no pictures."""
    (tmp_path / "several.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "several", raising=False)
    monkeypatch.setattr("rl4lms.record.draw_training", lambda *_: None)


def rewards_of(*blocks: dict[str, Any], batch: TextBatch = BATCH) -> list[TextReward]:
    return build_task_reward([WeightedRewardConfig(**block) for block in blocks])(batch)


def test_the_total_is_the_weighted_sum_of_what_applies() -> None:
    """1 len - 0.25 (2 len) + 2 (0.25, for even n alone)."""
    results = rewards_of(ALL, TWICE, EVEN)
    assert [result.total for result in results] == [0.5 + 0.5, 1.0, 1.5 + 0.5]
    assert [list(result.parts.values()) for result in results] == [[1, 2, 0.25], [2, 4, None], [3, 6, 0.25]]
    assert all(list(result.parts) == NAMES for result in results)


def test_one_reward_has_no_parts_and_may_be_in_a_list_with_a_weight() -> None:
    assert rewards_of(TWICE) == [TextReward(-0.5 * n, {}) for n in (1, 2, 3)]


def test_a_weight_of_0_is_logged_and_adds_nothing() -> None:
    results = rewards_of(ALL, EVEN | {"weight": 0.0})
    assert [result.total for result in results] == [1, 2, 3]
    assert [result.parts["several:even"] for result in results] == [0.25, None, 0.25]


def test_names_and_what_is_logged_of_them() -> None:
    assert name_parts(["f", "g", "f", "f"]) == ["f", "g", "f#2", "f#3"]
    found = summarise_parts({"f": [1.0, None, 3.0], "g": [None, None, None]})
    assert found == {"rollout_info/reward/f/mean": 2.0, "rollout_info/reward/f/std": 1.0}


SECOND = "text 1 ('bb' after prompt 'q')"
FAILURES: list[tuple[list[dict[str, Any]], str, int | None]] = [
    (
        [EVEN, {"id": "several:never"}],
        f"no reward applies to {SECOND}: 'several:even', 'several:never' returned None; at least one of "
        "reward_fn has to return a number for each text, such as 0.0",
        1,
    ),
    (
        [ALL, {"id": "several:short"}],
        "reward 'several:short' returned 1 values for 3 texts; expected one number per text: also for those "
        "that it has nothing to say about, in their order",
        None,
    ),
    (
        [ALL, TWICE | {"args": {"scale": 1e39}}],
        "reward 'several:letters#2' returned 1e+39 for text 0 ('a' after prompt 'p'); expected a finite "
        "number: one between -3.4e+38 and 3.4e+38, also where it cannot be computed",
        0,
    ),
    (
        [ALL, {"id": "several:undefined"}],
        "reward 'several:undefined' returned nan for text 0 ('a' after prompt 'p'); expected a finite "
        "number: one between -3.4e+38 and 3.4e+38, also where it cannot be computed",
        0,
    ),
    (
        [{"id": "several:huge"}, {"id": "several:huge", "weight": 5.0}],
        "the weighted sum of 'several:huge', 'several:huge#2' is 1.8e+39 for text 0 ('a' after "
        "prompt 'p'); expected a number between -3.4e+38 and 3.4e+38: lower the weights of reward_fn",
        0,
    ),
    (
        [ALL | {"weight": 2e38}],
        "the weighted sum of 'several:letters' is 4e+38 for text 1 ('bb' after prompt 'q'); "
        "expected a number between -3.4e+38 and 3.4e+38: lower the weights of reward_fn",
        1,
    ),
    (
        [EVEN],
        f"reward 'several:even' returned None for {SECOND}; expected a finite number: return one for every "
        "text, such as 0.0 where the reward does not apply (None says so only if reward_fn lists several "
        "rewards and another one applies)",
        1,
    ),
]


@pytest.mark.parametrize(("blocks", "message", "index"), FAILURES, ids=lambda value: None)
def test_what_several_rewards_may_not_return(
    blocks: list[dict[str, Any]], message: str, index: int | None
) -> None:
    with pytest.raises(RewardError) as caught:
        rewards_of(*blocks)
    assert (str(caught.value), caught.value.index) == (message, index)


def config_data(folder: Path, model: Path, alg: str, *blocks: dict[str, Any], **changes: Any) -> Any:
    """The config of a run of two iterations over 16 samples, whose id is their column n."""
    config = job(folder, model, alg, train_evaluation__n_iters=2, **changes).model_dump(mode="json")
    config["datapool"]["args"]["data_path"] = str(save_data(folder / "numbered"))
    return config | {"reward_fn": list(blocks)}


@pytest.mark.parametrize("alg", ["ppo", "nlpo", "a2c", "grpo", "rloo"])
def test_the_logs_of_a_run_have_total_and_parts(tmp_path: Path, tiny_gpt2: Path, alg: str) -> None:
    data = config_data(tmp_path, tiny_gpt2, alg, ALL, TWICE, EVEN)
    (tmp_path / "several.yml").write_text(yaml.safe_dump(data))
    base = tmp_path / "runs"
    options = ["--config_path", str(tmp_path / "several.yml"), "--base_path_to_store_results", str(base)]
    assert runner.main([*options, "--experiment_name", "mine"]) == 0
    (run,) = find_runs(base)
    rows = read_rows(run.path / "mine_rollout_rewards.jsonl", "step")
    calls = sys.modules["several"].CALLS
    assert len(rows) == len(calls) >= 16
    for row, (n, text) in zip(rows, calls, strict=True):
        part = 0.25 if n % 2 == 0 else None
        assert row["prompt_id"] == f"train_{n}"
        assert [row[f"reward/{name}"] for name in NAMES] == [len(text), 2 * len(text), part]
        assert row["reward"] == 0.5 * len(text) + 2 * (part or 0)
    assert {row["reward/several:even"] for row in rows} == {0.25, None}
    for logged in read_rows(run.path / "mine_rollout_info.jsonl", "epoch"):
        of_iteration = [row for row in rows if row["step"] == logged["epoch"]]
        for key in ("reward", *(f"reward/{name}" for name in NAMES)):
            values = [row[key] for row in of_iteration if row[key] is not None]
            names = [f"rollout_info/{key}/mean", f"rollout_info/{key}/std"]
            if key == "reward":
                names = ["rollout_info/ep_rew", "rollout_info/ep_rew_std"]
            expected = [statistics.fmean(values), statistics.pstdev(values)]
            assert [logged[name] for name in names] == pytest.approx(expected, rel=1e-6)

    # What the diagnosis reads: the total, unless the parts are asked for.
    total = read_rewards([run.path], Columns()).rewards
    assert {name: values.tolist() for name, values in total.items()} == {
        "reward": [row["reward"] for row in rows]
    }
    parts = read_rewards([run.path], Columns(rewards=tuple(f"reward/{name}" for name in NAMES)))
    assert weighted_sum(list(parts.rewards.values()), [1, -0.25, 2]).tolist() == total["reward"].tolist()
    if alg == "grpo":
        out = tmp_path / "out"
        assert diagnose([str(run.path), "--output_path", str(out), "--last_steps", "2"]) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert summary["diagnosed"] == "reward"
        assert summary["rewards"]["reward"]["generations"] == len(rows)


@pytest.mark.parametrize("alg", ["ppo", "grpo"])
def test_a_run_of_several_rewards_that_is_cut_ends_as_one_that_is_not(
    tmp_path: Path, tiny_gpt2: Path, alg: str
) -> None:
    config = config_of(config_data(tmp_path, tiny_gpt2, alg, ALL, TWICE, EVEN))
    whole = start(tmp_path, config)
    stops = iter([False, True])
    with pytest.raises(TrainingInterrupted):
        start(tmp_path / "cut", config, should_stop=lambda: next(stops, False))
    (path,) = (tmp_path / "cut" / "runs").iterdir()
    run = resume(path, config)
    assert_close(checkpoint(run), checkpoint(whole), rtol=0, atol=0)
    assert all_rows(run) == all_rows(whole)
    name = f"{PREFIX}rollout_rewards.jsonl"
    assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize("alg", ["ppo", "grpo"])
def test_a_list_of_one_is_the_single_reward(tmp_path: Path, tiny_gpt2: Path, alg: str) -> None:
    listed = config_of(config_data(tmp_path, tiny_gpt2, alg, {"id": "chrf"}))
    single = config_of(config_data(tmp_path, tiny_gpt2, alg) | {"reward_fn": {"id": "chrf"}})
    runs = [start(tmp_path / name, config) for name, config in (("listed", listed), ("single", single))]
    assert all_rows(runs[0]) == all_rows(runs[1])
    assert_close(checkpoint(runs[0]), checkpoint(runs[1]), rtol=0, atol=0)


def test_a_run_says_which_text_no_reward_applies_to(tmp_path: Path, tiny_gpt2: Path) -> None:
    config = config_of(config_data(tmp_path, tiny_gpt2, "grpo", EVEN, {"id": "several:never"}))
    with pytest.raises(RewardError, match=r"no reward applies to text \d+ \('.*' after prompt 'the dog \d"):
        start(tmp_path, config)


def test_a_text_that_is_cut_is_paid_nothing_by_each(tmp_path: Path, tiny_gpt2: Path) -> None:
    changes = {"env__args__reward_unfinished": False, "env__args__max_episode_length": 7}
    config = config_of(config_data(tmp_path, tiny_gpt2, "grpo", ALL, EVEN, **changes))
    run = start(tmp_path, config)
    rows = read_rows(run.path / f"{PREFIX}rollout_rewards.jsonl", "step")
    unpaid = [row for row in rows if row["reward"] == 0]
    assert unpaid and all(
        row["reward/several:letters"] == 0 and row["reward/several:even"] in (0, None) for row in unpaid
    )
    assert {row["reward/several:even"] for row in unpaid} == {0, None}


@pytest.fixture
def config_file(tmp_path: Path, tiny_gpt2: Path) -> Path:
    data = ppo_config(tiny_gpt2, save_data(tmp_path / "data"))
    data["reward_fn"] = [{"id": "chrf"}, {"id": "several:even", "weight": 0.5}]
    (tmp_path / "ppo.yml").write_text(yaml.safe_dump(data))
    return tmp_path / "ppo.yml"


PROBLEMS = {
    "reward_fn=[]": ("reward_fn", "must not be empty"),
    "reward_fn=chrf": (
        "reward_fn",
        "expected a mapping, a list of mappings that is not empty or null, got 'chrf' (a string)",
    ),
    "reward_fn=[chrf]": ("reward_fn[0]", "expected a mapping, got 'chrf' (a string)"),
    "reward_fn=[{id: chrf, wieght: 2.0}]": (
        "reward_fn[0].wieght",
        "unknown key; did you mean 'weight'?",
    ),
    "reward_fn={id: chrf, weight: 2.0}": ("reward_fn.weight", "unknown key; known: id, args"),
    "reward_fn[1].id=several:evn": (
        "reward_fn[1].id",
        "module 'several' has no 'evn'; did you mean 'even'?",
    ),
    "reward_fn[1].weight=.nan": ("reward_fn[1].weight", "must be a finite number, got nan"),
    "reward_fn[1].weight=half": ("reward_fn[1].weight", "expected a number, got 'half' (a string)"),
    "reward_fn[1].args.scale=2": None,  # taken by **kwargs
    "reward_fn[0].args.scale=2": ("reward_fn[0].args.scale", "unknown key; known: shaping_fn"),
    "reward_fn=[{id: chrf, weight: 0}, {id: ter, weight: 0}]": (
        "reward_fn",
        "every weight is 0: there is nothing to maximise",
    ),
    "reward_fn[2].weight=1": ("reward_fn[2].weight", "index 2 is out of range: 'reward_fn' has 2 items"),
}


@pytest.mark.parametrize("override", PROBLEMS)
def test_mistakes_are_named_with_their_place(config_file: Path, override: str) -> None:
    if PROBLEMS[override] is None:
        load_train_config(config_file, [override])
        return
    with pytest.raises(ConfigError) as caught:
        load_train_config(config_file, [override])
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [PROBLEMS[override]]


def test_check_shows_the_sum_and_what_it_resolves_to_is_the_same_config(config_file: Path) -> None:
    config = load_train_config(config_file, ["reward_fn[1].weight=-0.25"])
    report = check_report(config)
    assert "training: all train samples, rewarded by chrf - 0.25 x several:even\n" in report
    data = json.loads(report[report.index("\n{") :])
    assert data["reward_fn"] == [
        {"id": "chrf", "args": {"shaping_fn": None}, "weight": 1.0},
        {"id": "several:even", "args": {}, "weight": -0.25},
    ]
    again, _ = validate(TrainConfig, data)
    assert again is not None and resolved(again) == data


def test_a_single_reward_resolves_as_ever(config_file: Path) -> None:
    """What a plan finds earlier runs by."""
    config = load_train_config(config_file, ["reward_fn={id: chrf}"])
    assert resolved(config)["reward_fn"] == {"id": "chrf", "args": {"shaping_fn": None}}


def test_what_each_of_them_needs_and_what_has_no_effect_is_told(config_file: Path) -> None:
    blocks = "[{id: chrf}, {id: learned_reward, args: {model_name: ./nowhere, label_ix: 0}}]"
    config = load_train_config(config_file, [f"reward_fn={blocks}"])
    assert "reward_fn[1].args.model_name" in [problem.path for problem in missing_components(config)]
    blocks = "[{id: chrf}, {id: rouge_l_max, args: {apply_best: false}}]"
    notices = load_train_config(config_file, [f"reward_fn={blocks}"]).notices()
    assert any(notice.startswith("reward_fn[1].args.apply_best: no effect") for notice in notices)


def test_one_of_them_that_sees_no_reference_is_refused(tmp_path: Path, tiny_gpt2: Path) -> None:
    data = ppo_config(tiny_gpt2, save_data(tmp_path / "data"))
    for split in ("train", "val", "test"):
        row = json.dumps({"prompt": "p", "references": ["yes"]})
        (tmp_path / "data" / f"{split}.jsonl").write_text(f"{row}\n" * 3)
    config = config_of(data | {"reward_fn": [{"id": "chrf"}, {"id": "bleu"}]})
    with new_run(tmp_path, config) as run, pytest.raises(BlindMetricError, match="reward 'bleu' gives each"):
        setup_of(config, run)


def test_supervised_finetuning_says_that_it_has_no_use_for_them(tmp_path: Path, tiny_t5: Path) -> None:
    data = supervised_config(tiny_t5, save_data(tmp_path / "data"))
    config = config_of(data | {"reward_fn": [{"id": "chrf"}, {"id": "ter"}]})
    assert "no effect on supervised finetuning: reward_fn" in config.notices()

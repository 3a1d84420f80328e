"""What names an input, and a step: ids that are places in a batch, rounded ids, steps of any form."""

import json

import numpy as np
import pytest
from diagnosis_logs import PLANTED, PROMPTS, make_log, verdict, write

from rft_diagnose import DiagnosisError, diagnose
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards


def batches(name, steps=3, **changes):
    """Steps of 12 inputs of their own, numbered within the step."""
    rows = []
    for step in range(steps):
        for i, row in enumerate(make_log(step, [f"{prompt} of {step}" for prompt in PROMPTS])):
            rows.append(row | {name: i // 8} | changes)
    return rows


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_id_that_restarts_gives_way_to_the_text(tmp_path, suffix):
    table = read_rewards([write(tmp_path / f"t{suffix}", batches("prompt_id"))], Columns())
    assert len(table.labels) == 36 and table.labels[0] == "q0 of 0" and table.prompts == table.labels
    assert (
        "'prompt_id' does not name the input: '0' stands for several 'prompt'. Inputs are told apart by "
        "'prompt'" in table.notes
    )


def test_an_id_that_was_asked_for_and_restarts_is_refused(tmp_path):
    for name in ("prompt_idx", "index", "uid"):
        path = write(tmp_path / f"{name}.jsonl", batches(name))
        with pytest.raises(DiagnosisError) as error:
            verdict(path, prompt=name)
        assert (
            f"{name!r} does not name the input: '0' stands for several 'prompt'; give --prompt prompt"
            in str(error.value)
        )


@pytest.mark.parametrize("first", [0, 1])
def test_without_texts_numbers_that_restart_are_refused(tmp_path, first):
    rows = [
        {"step": row["step"], "prompt_id": row["prompt_id"] + first, "reward": row["accuracy_reward"]}
        for row in batches("prompt_id")
    ]
    path = write(tmp_path / "t.jsonl", rows)
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert (
        f"'prompt_id' counts from {first} to {11 + first} anew in each step, as places in a batch do, where "
        "different inputs have one number: give a column with the inputs' texts, or ids of the data, with "
        "--prompt; if they are ids of the data, say --prompt prompt_id"
    ) in str(error.value)
    assert len(read_rewards([path], Columns(prompt="prompt_id")).labels) == 12
    position = [{"prompt_idx": row.pop("prompt_id")} | row for row in rows]
    with pytest.raises(DiagnosisError, match="'prompt_idx' counts from"):
        verdict(write(tmp_path / "t.jsonl", position), prompt="prompt_idx")


@pytest.mark.parametrize(
    ("form", "ends"), [("prompt_{}", "0 to 11"), ("q{}", "0 to 11"), ("{}0", "0 to 110"), ("some", "0 to 11")]
)
def test_places_in_a_batch_are_refused_in_other_forms(tmp_path, form, ends):
    """A word before the number, the number of the first row, and batches that lack some of their places."""
    rows = [
        {"step": step, "prompt_id": form.format(i) if form != "some" else i, "reward": i % 2}
        for step in range(4)
        for i in range(12)
        for _ in range(8)
        if form != "some" or (i + step) % 4
    ]
    with pytest.raises(
        DiagnosisError, match=f"counts from {ends} anew in each step, as places in a batch do"
    ):
        verdict(write(tmp_path / "t.jsonl", rows))


def test_an_id_of_each_visit_gives_way_to_the_text(tmp_path):
    """As the uid of a group of rollouts, which is another one whenever the prompt comes again."""
    rows = [row | {"prompt_id": f"{step}-{row['prompt']}"} for step in range(3) for row in make_log(step)]
    table = read_rewards([write(tmp_path / "t.jsonl", rows)], Columns())
    assert len(table.labels) == 12
    assert (
        "'prompt_id' does not name the input: it is another one at each step. Inputs are told apart by "
        "'prompt'" in table.notes
    )
    once = [row | {"prompt": f"{row['prompt']} {row['step']}"} for row in rows]
    assert len(read_rewards([write(tmp_path / "t.jsonl", once)], Columns()).labels) == 36
    assert len(read_rewards([write(tmp_path / "t.jsonl", rows)], Columns(prompt="prompt_id")).labels) == 36


def test_numbers_that_restart_in_each_file_are_refused(tmp_path):
    for rank in range(2):
        rows = [{"prompt_id": i // 8, "reward": i % 2} for i in range(96)]
        write(tmp_path / f"rank{rank}.jsonl", rows)
    with pytest.raises(DiagnosisError, match="counts from 0 to 11 anew in each file"):
        verdict(tmp_path)


def test_ids_of_the_data_name_inputs(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"step": step, "prompt_id": int(i), "reward": int(rng.integers(2))}
        for step in range(5)
        for i in rng.choice(100, 12, replace=False)
        for _ in range(8)
    ]
    table = read_rewards([write(tmp_path / "t.jsonl", rows)], Columns())
    assert len(table.labels) == len({row["prompt_id"] for row in rows})
    one_step = [row for row in batches("prompt_id", steps=1)]
    assert read_rewards([write(tmp_path / "t.jsonl", one_step)], Columns()).labels[3] == "3"


def test_ids_of_any_size_are_read_and_rounded_ones_refused(tmp_path):
    for big in (10**30, 2**64, 2**63 - 1, -(2**70), 10**5000):
        digits = "9" * 5001 if big == 10**5000 else str(big)
        path = tmp_path / "t.jsonl"
        path.write_text(
            "".join(f'{{"prompt_id": {digits[:-1]}{i % 2}, "reward": {i // 2 % 2}}}\n' for i in range(16))
        )
        assert read_rewards([path], Columns()).labels == [digits[:-1] + "0", digits[:-1] + "1"]
    for number in (1e30, float(2**53), 12345678901234567890.0):
        path = write(tmp_path / "t.jsonl", [{"prompt_id": number, "reward": i % 2} for i in range(16)])
        with pytest.raises(DiagnosisError, match="a rounded number, which may stand for several inputs"):
            verdict(path)
    (tmp_path / "t.csv").write_text("prompt_id,reward\n" + "1.23457E+11,0\n" * 4)
    with pytest.raises(DiagnosisError, match=r"'prompt_id' holds 1\.23457E\+11, a rounded number"):
        verdict(tmp_path / "t.csv")


def test_whole_numbers_name_the_same_input_in_every_form(tmp_path):
    write(tmp_path / "a.jsonl", [{"prompt_id": 7.0, "reward": 1}] * 2)
    write(tmp_path / "b.jsonl", [{"prompt_id": 7, "reward": 0}] * 2)
    write(tmp_path / "c.jsonl", [{"prompt_id": "7", "reward": 0}] * 2)
    write(tmp_path / "d.parquet", [{"prompt_id": 7.0, "reward": 0}] * 2)
    assert read_rewards(sorted(tmp_path.iterdir()), Columns(prompt="prompt_id")).labels == ["7"]


# Steps


STEPS = {
    "whole": [1, 2, 10],
    "points": [1.0, 2.0, 10.0],
    "text": ["1", "2", "10"],
    "padded": ["00001", "00002", "00010"],
    "text with points": ["1.0", "2.0", "10.0"],
    "words": ["step_1", "step_2", "step_10"],
    "dashes": ["checkpoint-1", "checkpoint-2", "checkpoint-10"],
    "exponents": ["1e0", "2e0", "1e1"],
}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("form", STEPS)
def test_steps_may_have_any_form(tmp_path, form, suffix):
    rows = [row | {"step": step} for step in STEPS[form] for row in make_log(STEPS[form].index(step))]
    table = read_rewards([write(tmp_path / f"t{suffix}", rows)], Columns())
    assert np.unique(table.steps).tolist() == [1, 2, 10]


@pytest.mark.parametrize("name", ["global_step", "Step", "training_step", "iteration", "epoch"])
def test_steps_may_have_other_names_and_that_is_said(tmp_path, name):
    rows = [{name: row.pop("step")} | row for step in (1, 2) for row in make_log(step)]
    table = read_rewards([write(tmp_path / "t.jsonl", rows)], Columns())
    assert np.unique(table.steps).tolist() == [1, 2]
    assert (f"steps are taken from {name!r}" in table.notes) == (name not in ("global_step", "Step"))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (1.5, "'step' in row 97 is 1.5: steps are whole numbers below 2^53"),
        (1e30, "'step' in row 97 is 1e+30: steps are whole numbers below 2^53"),
        (2**53, "'step' in row 97 is 9007199254740992: steps are whole numbers below 2^53"),
        pytest.param(10**400, "steps are whole numbers below 2^53", id="400 digits"),
        ("soon", "'step' must hold numbers, row 97 holds 'soon'"),
        (None, "no 'step' in row 97"),
        (True, "'step' must hold numbers, holds truth values"),
    ],
)
def test_steps_that_are_no_steps_are_refused(tmp_path, step, message):
    rows = make_log(1) + [row | {"step": step} for row in make_log(2)]
    with pytest.raises(DiagnosisError) as error:
        verdict(write(tmp_path / "t.jsonl", rows))
    assert message in str(error.value)
    if isinstance(step, float):
        with pytest.raises(DiagnosisError, match=r"steps: number 1 \(from 0\), .* is no whole number"):
            diagnose([0.0, 1.0], [1, 1], steps=[1.0, step])


@pytest.mark.parametrize(
    "names",
    [
        ("step_1.jsonl", "step_2.jsonl", "step_10.jsonl"),
        ("rollout-step1.csv", "rollout-step2.csv", "rollout-step10.csv"),
        ("completions_00001.parquet", "completions_00002.parquet", "completions_00010.parquet"),
        ("1.jsonl", "2.jsonl", "10.jsonl"),
        ("iter_1.jsonl", "iter_2.jsonl", "iter_10.jsonl"),
        ("global_step_1/rollout.jsonl", "global_step_2/rollout.jsonl", "global_step_10/rollout.jsonl"),
        ("checkpoint-1/data/r.jsonl", "checkpoint-2/data/r.jsonl", "checkpoint-10/data/r.jsonl"),
        ("epoch_1_step_1.jsonl", "epoch_1_step_2.jsonl", "epoch_1_step_10.jsonl"),
        ("rollouts_1.jsonl", "rollouts_2.jsonl", "rollouts_10.jsonl"),
        ("rank0-s1.jsonl", "rank0-s2.jsonl", "rank0-s10.jsonl"),
        ("gen.1.jsonl", "gen.2.jsonl", "gen.10.jsonl"),
    ],
)
def test_steps_are_read_from_the_files_names(tmp_path, names):
    for number, name in enumerate(names):
        rows = [{k: v for k, v in row.items() if k != "step"} for row in make_log(number)]
        write(tmp_path / name, rows)
    for paths in ([tmp_path], [tmp_path / name for name in names]):
        table = read_rewards(paths, Columns())
        assert np.unique(table.steps).tolist() == [1, 2, 10]
        assert "steps are taken from the files' names" in table.notes


@pytest.mark.parametrize(
    "names",
    [("part-1.jsonl", "part-2.jsonl"), ("rewards_1.jsonl", "other.jsonl"), ("1.jsonl", "other.jsonl"),
     ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"), ("step_1_a.jsonl", "step_1_b.jsonl"),
     ("log_rank0.jsonl", "log_rank1.jsonl"), ("run_1_seed_3.jsonl", "run_1_seed_4.jsonl"),
     ("x_1_2.jsonl", "x_2_3.jsonl"), ("q_1_of_2.jsonl", "q_2_of_2.jsonl")],
)  # fmt: skip
def test_numbers_of_parts_are_no_steps(tmp_path, names):
    for number, name in enumerate(names):
        rows = [{k: v for k, v in row.items() if k != "step"} for row in make_log(number)]
        write(tmp_path / name, rows)
    assert read_rewards([tmp_path], Columns()).steps is None


def test_steps_that_begin_anew_in_each_epoch_are_counted(tmp_path):
    for epoch in (1, 2):
        for step in (1, 2):
            rows = [{k: v for k, v in row.items() if k != "step"} for row in make_log(10 * epoch + step)]
            write(tmp_path / f"epoch_{epoch}_step_{step}.jsonl", rows)
    table = read_rewards([tmp_path], Columns())
    assert table.steps is not None and table.steps[::96].tolist() == [0, 1, 2, 3]


def test_planted_inputs_are_seen_in_folders_of_steps(tmp_path):
    for step in (1, 2):
        rows = [{k: v for k, v in row.items() if k != "step"} for row in make_log(step)]
        write(tmp_path / f"global_step_{step}" / "rollout.jsonl", rows)
    (tmp_path / "config.json").write_text(json.dumps({"lr": 1}))
    assert verdict(tmp_path)[0] == PLANTED


@pytest.mark.parametrize("more", [{}, {"kept": True}, {"kept": True, "reward/mine:f": 1.0}], ids=len)
def test_ids_in_the_log_of_a_run_here_are_those_of_the_data(tmp_path, more):
    rows = [
        {"step": step, "prompt_id": str(i), "reward": i % 2, "kl_penalty": 0.0} | more
        for step in range(3)
        for i in range(12)
    ]
    write(tmp_path / "x_rollout_rewards.jsonl", rows)
    assert len(read_rewards([tmp_path], Columns()).labels) == 12


def test_a_part_of_the_reward_named_like_a_filter_is_a_reward(tmp_path):
    """The log of a run here whose reward function is called a check: in each group it gives 0 and 1 once."""
    rows = [
        {"step": 1, "prompt_id": f"p{i}", "reward": i % 3, "kl_penalty": 0.0, "reward/mine:format_check": j}
        for i in range(12)
        for j in (0.0, 1.0)
    ]
    write(tmp_path / "x_rollout_rewards.jsonl", rows)
    assert read_rewards([tmp_path], Columns()).rewards["reward"].tolist() == [r["reward"] for r in rows]
    part = read_rewards([tmp_path], Columns(rewards=("reward/mine:format_check",)))
    assert list(part.rewards) == ["reward/mine:format_check"]

"""Rows that are not generations of their own: batches logged again, copies of files, a row a function."""

import numpy as np
import pandas as pd
import pytest
from diagnosis_logs import PLANTED, PROMPTS, generations, make_log, verdict, write

from rft_diagnose import DiagnosisError
from rft_diagnose.names import Columns
from rft_diagnose.rows import mix
from rft_diagnose.tables import read_rewards

SIZE = len(PROMPTS)


def relogged(step, times, seed=0):
    """A batch logged at `times` steps in a row, each time in another order."""
    rows = make_log(step)
    rng = np.random.default_rng(seed)
    return [{**rows[i], "step": step + t} for t in range(times) for i in rng.permutation(SIZE)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_batch_that_is_logged_again_is_counted_once(tmp_path, suffix):
    path = write(tmp_path / f"t{suffix}", relogged(1, 4) + relogged(5, 2, seed=1))
    assert generations(path) == 2 * SIZE
    found, notes = verdict(path)
    assert found == PLANTED
    assert any(
        note == "4 steps log the batch of the step before once more: it is counted once (steps 2, 3, 4, 6)"
        for note in notes
    )


def test_a_batch_that_is_logged_again_in_files_of_their_own_is_counted_once(tmp_path):
    for step in range(3):
        rows = [{**row, "step": str(step)} for row in make_log(7)]
        write(tmp_path / f"completions_{step:05}.parquet", rows)
    assert generations(tmp_path) == SIZE
    for path in tmp_path.iterdir():
        pd.read_parquet(path).drop(columns="step").to_parquet(path)
    assert generations(tmp_path) == SIZE


def test_equal_rows_in_steps_that_otherwise_differ_are_generations(tmp_path):
    """Half of the completions are the same text at each step."""
    rows = []
    for step in (1, 2, 3):
        batch = make_log(step)
        rows += [row | {"completion": "4"} if i % 2 else row for i, row in enumerate(batch)]
    path = write(tmp_path / "t.jsonl", rows)
    assert generations(path) == 3 * SIZE


@pytest.mark.parametrize("changed", ["completion", "accuracy_reward", "prompt", "fewer"])
def test_steps_that_differ_in_one_row_are_steps(tmp_path, changed):
    again = [row | {"step": 2} for row in make_log(1)]
    if changed == "fewer":
        again = again[:-1]
    else:
        again[40] = again[40] | {changed: {"completion": "x", "accuracy_reward": 0.5, "prompt": "q"}[changed]}
    path = write(tmp_path / "t.jsonl", make_log(1) + again)
    assert generations(path) == SIZE + len(again)


def test_without_texts_equal_steps_may_be_generations_of_their_own(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "completion"} for row in relogged(1, 3)]
    assert generations(write(tmp_path / "t.jsonl", rows)) == 3 * SIZE


def test_a_step_that_comes_again_later_is_no_repetition(tmp_path):
    rows = relogged(1, 1) + make_log(2) + [row | {"step": 3} for row in make_log(1)]
    assert generations(write(tmp_path / "t.jsonl", rows)) == 3 * SIZE


def test_a_copy_of_a_file_is_counted_once(tmp_path):
    for name in ("a.jsonl", "b.csv"):
        write(tmp_path / name, make_log(1) + make_log(2))
    assert generations(tmp_path) == 2 * SIZE
    notes = read_rewards([tmp_path], Columns()).notes
    assert "files with the very rows of another are counted once: without b.csv" in notes
    assert generations(tmp_path / "a.jsonl", tmp_path / "a.jsonl") == 2 * SIZE


def long_form(selector, functions=("accuracy", "format"), **columns):
    """A row a reward function of each generation."""
    rng = np.random.default_rng(0)
    return [
        {"prompt": row["prompt"], "reward": row["accuracy_reward"] if f == functions[0] else rng.random()}
        | {selector: f}
        | {name: row[value] for name, value in columns.items()}
        for row in make_log(1)
        for f in functions
    ]


@pytest.mark.parametrize("texts", [{}, {"completion": "completion"}])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    "selector", ["reward_func", "reward_name", "filter", "metric", "scorer_name", "variable", "judge"]
)
def test_a_row_a_function_is_refused(tmp_path, selector, suffix, texts):
    path = write(tmp_path / f"t{suffix}", long_form(selector, **texts))
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert str(error.value) == (
        f"{path}: each generation has a row for every {selector!r} (accuracy, format): give a row per "
        "generation, with a column for each of these (a pivot table), or the rows of one"
    )


def test_two_rows_of_each_text_are_refused_whatever_tells_them_apart(tmp_path):
    for name, rows in {
        "other": long_form("what", completion="completion"),
        "three": long_form("x", ("a", "b", "c"), completion="completion"),
        "joined": [row for row in make_log(1) for _ in range(2)],
    }.items():
        with pytest.raises(
            DiagnosisError, match=r"every completion stands (2|3) times, as if each generation"
        ):
            verdict(write(tmp_path / f"{name}.jsonl", rows))


def test_filters_and_functions_that_are_no_rows_of_one_generation_are_none(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "judge": [f"judge {int(i)}" for i in rng.integers(0, 2, SIZE)],  # another one for each generation
        "metric": ["exact"] * SIZE,
        "rubric": [f"rubric {prompt}" for prompt in PROMPTS],  # one for each input
        "function": [f"f{i}" for i in range(SIZE)],
    }
    for texts in (True, False):
        rows = make_log(1, **columns)
        rows = rows if texts else [{k: v for k, v in row.items() if k != "completion"} for row in rows]
        assert verdict(write(tmp_path / "t.jsonl", rows))[0] == PLANTED


def test_short_texts_that_all_stand_twice_may_be_generations(tmp_path):
    """Right and wrong, four times each."""
    rows = [row | {"completion": f"{row['accuracy_reward']}"} for row in make_log(1)]
    assert verdict(write(tmp_path / "t.jsonl", rows))[0] == PLANTED


def test_numbers_of_rows_differ_where_rows_do():
    rng = np.random.default_rng(0)
    codes, values = rng.integers(0, 300, 100_000), rng.integers(0, 300, 100_000) / 7
    pairs = np.unique(np.stack([codes, values]), axis=1).shape[1]
    assert len(np.unique(mix(codes, values))) == pairs
    assert (mix(codes, values) != mix(values, codes))[codes > 0].all()


@pytest.mark.parametrize("steps", ["column", "none"])
def test_files_that_hold_all_rows_so_far_are_counted_once(tmp_path, steps):
    """As a table that grows is logged: the third file has the rows of the first and second, too."""
    rows = []
    for step in range(3):
        rows += make_log(step)
        kept = rows if steps == "column" else [{k: v for k, v in row.items() if k != "step"} for row in rows]
        write(tmp_path / f"{'abc'[step]}_table.parquet", kept)
    assert generations(tmp_path) == 3 * SIZE
    results, notes = verdict(tmp_path)
    assert results == PLANTED
    assert (
        "files whose rows are all in another are counted once: without a_table.parquet, b_table.parquet"
        in notes
    )


def test_files_of_steps_that_hold_all_rows_so_far_are_refused(tmp_path):
    rows = []
    for step in range(3):
        rows += [{k: v for k, v in row.items() if k != "step"} for row in make_log(step)]
        write(tmp_path / f"step_{step}.jsonl", rows)
    with pytest.raises(
        DiagnosisError, match=r"step_2\.jsonl: it has all rows of step_0\.jsonl, .* give the "
    ):
        generations(tmp_path)


def test_files_of_processes_that_share_rows_by_chance_are_read(tmp_path):
    """Four files with four generations of each input at each step, many of the same text."""
    for rank in range(4):
        rows = [
            row | {"completion": str(i % 3), "step": step}
            for step in range(2)
            for i, row in enumerate(make_log(step)[: SIZE - rank])
        ]
        write(tmp_path / f"rank_{rank}.jsonl", [*rows, make_log(rank)[0]])
    assert generations(tmp_path) == sum(2 * (SIZE - rank) + 1 for rank in range(4))


@pytest.mark.parametrize("twice", [range(6), range(4, 8)])
def test_rows_of_a_join_are_refused_where_some_inputs_have_them(tmp_path, twice):
    """The rows of some prompts stand twice, as they have two references."""
    rows = make_log()
    more = [row | {"reference": "b"} for row in rows if int(row["prompt"][1:]) in twice]
    path = write(tmp_path / "t.jsonl", [row | {"reference": "a"} for row in rows] + more)
    with pytest.raises(DiagnosisError, match=f"at {len(twice)} visits of inputs every completion stands"):
        generations(path)


def test_short_answers_that_come_twice_by_chance_are_generations(tmp_path):
    rng = np.random.default_rng(0)
    rows = [row | {"completion": str(rng.integers(4))} for step in range(8) for row in make_log(step)]
    assert generations(write(tmp_path / "t.jsonl", rows)) == 8 * SIZE

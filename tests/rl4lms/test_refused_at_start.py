"""Data, models and trackers that a run would refuse: `--check` says so, and no folder is left behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_plans import write_sweep
from training_runs import ppo_config, save_data, supervised_config

import rl4lms_extract_samples_from_model_runner as extraction
import rl4lms_plan_runner as plans
import rl4lms_train_text_generation as training
from rl4lms.datapools import jsonl
from rl4lms.datapools.jsonl import FIRST_ROWS

CHAT = [{"role": "user", "content": "hello"}]
REMEDY = (
    "is a chat, a list of messages; a prompt is one text: write what the model is to see into a field of its "
    "own, such as tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
)
HALF = r"has half of a character (the surrogate \ud800): write the text anew, or leave it out"
NAMED = "say which it is with --set datapool.args.{}_field=NAME"


def write_rows(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))
    return path


@pytest.fixture
def config(tmp_path: Path, tiny_t5: Path) -> Path:
    """Of supervised finetuning, with the dataset in `data`."""
    raw = supervised_config(tiny_t5, save_data(tmp_path / "data"))
    (tmp_path / "sft.yml").write_text(yaml.safe_dump(raw))
    return tmp_path / "sft.yml"


def flags(config: Path, *more: str) -> list[str]:
    return ["--config_path", str(config), "--base_path_to_store_results", str(config.parent / "runs"), *more]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": CHAT, "references": ["r"]}, f"line 5: 'prompt' {REMEDY}"),
        (
            {"messages": CHAT, "references": ["r"]},
            f"line 5: no 'prompt'; there are: messages, references; 'messages' {REMEDY}",
        ),
        (
            {"conversations": [{"from": "human", "value": "hello"}]},
            f"line 5: no 'prompt'; there are: conversations; 'conversations' {REMEDY}",
        ),
        (
            {"prompt": "p"},
            f"line 5: no 'references'; there are: prompt; {NAMED.format('references')}, or write "
            '"references": [] where there is none',
        ),
        (
            {"question": "q", "references": "r"},
            f"line 5: no 'prompt'; there are: question, references; {NAMED.format('prompt')}",
        ),
        ({"prompt": 3, "references": "r"}, "line 5: 'prompt' must be a string, is 3"),
        ({"prompt": "p", "references": "r", "id": "val_0"}, "line 5: id 'val_0' is also that of "),
        ('{"prompt": "p"', "line 5 is not JSON: "),
        (f'{{"a": {"[" * 99_999}', "line 5 is nested too deeply"),
        ({"prompt": "p \ud800", "references": []}, f"line 5: 'prompt' {HALF}"),
        ('{"prompt": "p \ud800", "references": []}', f"line 5: 'prompt' {HALF}"),
        ({"prompt": "p", "references": ["\ud800"]}, f"line 5: 'references' {HALF}"),
        ({"prompt": "p", "references": [], "meta": {"a": ["\ud800"]}}, f"line 5: 'meta' {HALF}"),
        ({"prompt": "p", "references": [], "\ud800": 1}, rf"line 5: '\ud800' {HALF}"),
        ({"prompt": CHAT[0], "references": ["r"]}, f"line 5: 'prompt' {REMEDY}"),
        (
            {"prompt": "p", "references": CHAT},
            "line 5: 'references' holds messages; references are texts: write what the messages say",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_check_refuses_the_rows_that_a_run_would(config: Path, row: Any, message: str, capsys: Any) -> None:
    path = config.parent / "data" / "val.jsonl"
    write_rows(path, [*path.read_text().splitlines()[:4], row])
    for more in (["--check"], []):
        assert training.main(flags(config, *more)) == 2
        output = capsys.readouterr()
        first, problem = output.err.splitlines()
        assert first == f"{config}: 1 problem" and output.out == ""
        assert f"datapool.args.data_path  {path} {message}" in problem
    assert not (config.parent / "runs").exists()


def test_check_refuses_a_dataset_that_lacks_a_split_or_its_rows(config: Path, capsys: Any) -> None:
    data = config.parent / "data"
    (data / "val.jsonl").unlink()
    (data / "test.jsonl").write_text("\n")
    assert training.main(flags(config, "--check")) == 2
    first, *problems = capsys.readouterr().err.splitlines()
    assert first == f"{config}: 2 problems"
    assert problems[0].endswith(f"{str(data)!r} has no validation.jsonl or val.jsonl or dev.jsonl")
    assert problems[1].endswith(f"{data} has no rows of split 'test'")


def test_check_refuses_to_learn_from_no_references(config: Path, tmp_path: Path, capsys: Any) -> None:
    path = write_rows(tmp_path / "one.jsonl", [{"prompt": "p", "references": []}] * 3)
    at = ("--set", f"datapool.args.data_path={path}")
    assert training.main(flags(config, "--check", *at)) == 2
    assert f"{path}: no train sample has a reference to learn from" in capsys.readouterr().err
    write_rows(path, [{"prompt": "p", "references": []}, {"prompt": "p", "references": "r"}])
    assert training.main(flags(config, "--check", *at)) == 0


def test_one_file_is_refused_once_for_all_splits(config: Path, tmp_path: Path, capsys: Any) -> None:
    path = write_rows(tmp_path / "one.jsonl", [{"prompt": "p"}])
    assert training.main(flags(config, "--check", "--set", f"datapool.args.data_path={path}")) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"{config}: 1 problem"


@pytest.mark.parametrize("size", [20_000, 80_000])
def test_the_look_at_large_data_is_quick(config: Path, tmp_path: Path, size: int, capsys: Any) -> None:
    rows = [{"prompt": f"prompt {i} " * 8, "references": ["a text " * 8]} for i in range(size)]
    path = write_rows(tmp_path / "large.jsonl", rows)
    loaded = training.read_config(training.build_parser().parse_args(flags(config)))[0]
    pool = loaded.datapool.model_copy(update={"args": {"data_path": str(path)}})
    start = time.process_time()
    training.check_local(path, loaded.model_copy(update={"datapool": pool}), training_options())
    assert time.process_time() - start < 1.5
    # In the first rows of the largest file, too, a mistake is found.
    write_rows(path, [*rows[: FIRST_ROWS - 1], {"prompt": "p"}, *rows[FIRST_ROWS:]])
    assert training.main(flags(config, "--check", "--set", f"datapool.args.data_path={path}")) == 2
    assert f"line {FIRST_ROWS}: no 'references'" in capsys.readouterr().err


def training_options() -> dict[str, Any]:
    from rl4lms.train import OPTIONS

    return OPTIONS


def test_a_run_that_is_refused_when_it_starts_leaves_no_folder_and_no_hint(
    config: Path, monkeypatch: Any, capfd: Any
) -> None:
    """In rows that the quick look does not reach."""
    monkeypatch.setattr(jsonl, "READ_WHOLE", 0)
    monkeypatch.setattr(jsonl, "FIRST_ROWS", 2)
    path = config.parent / "data" / "train.jsonl"
    write_rows(path, [*path.read_text().splitlines(), {"prompt": "p"}])
    assert training.main(flags(config, "--check")) == 0
    capfd.readouterr()
    assert training.main(flags(config, "--log_to_tensorboard")) == 1
    log = capfd.readouterr().err
    assert "line 17: no 'references'" in log and "the run's folder is removed" in log
    assert "--resume" not in log and "Traceback" not in log
    assert list((config.parent / "runs").iterdir()) == []


def test_an_extraction_and_a_plan_are_refused_likewise(
    config: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    path = tmp_path / "data" / "train.jsonl"
    rows = path.read_text().splitlines()
    write_rows(path, [*rows, {"prompt": "p"}])
    raw = {
        "tokenizer": {"model_name": str(tiny_t5)},
        "datapool": {"id": "jsonl", "args": {"data_path": str(tmp_path / "data")}},
        "alg": {
            "model_type": "seq2seq",
            "model_name": str(tiny_t5),
            "generation_kwargs": {"do_sample": True, "max_new_tokens": 3},
        },
        "evaluation": {"eval_batch_size": 4, "metrics": [{"id": "chrf"}]},
    }
    (tmp_path / "extract.yml").write_text(yaml.safe_dump(raw))
    arguments = ["--config_path", str(tmp_path / "extract.yml"), "--output_path", str(tmp_path / "out")]
    for more in (["--check"], []):
        assert extraction.main([*arguments, *more]) == 2
        assert "line 17: no 'references'" in capfd.readouterr().err
    of_test = ["--set", "datapool.split=test", "--check"]
    assert extraction.main([*arguments, *of_test]) == 0, "of the split that is asked for"

    plan = write_sweep(tmp_path, [{"name": "sft", "config_path": str(config), "repetitions": 2}])
    for more in (["--check"], []):
        assert plans.main(["--plan_config_path", str(plan), *more]) == 2
        error = capfd.readouterr().err
        assert f"{plan}: 1 problem\n" in error and "sft: datapool.args.data_path  " in error
        assert "line 17: no 'references'" in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()

    monkeypatch.setattr(jsonl, "READ_WHOLE", 0)
    monkeypatch.setattr(jsonl, "FIRST_ROWS", 2)
    assert extraction.main(arguments) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_cannot_be_had_offline(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    raw = ppo_config(tiny_gpt2, save_data(tmp_path / "data"))
    raw["tokenizer"]["model_name"] = "no-such-team/no-such-model"
    (tmp_path / "ppo.yml").write_text(yaml.safe_dump(raw))
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = (
        f"'no-such-team/no-such-model' is not in this machine's cache ({cache}), and HF_HUB_OFFLINE forbids "
        "to ask the hub: get it where there is a network with: hf download no-such-team/no-such-model; or "
        "name the folder of a copy"
    )
    arguments = flags(tmp_path / "ppo.yml")
    assert training.main([*arguments, "--check"]) == 0
    assert f"note: tokenizer.model_name: {message}\n" in capfd.readouterr().out
    assert training.main(arguments) == 2
    assert f"tokenizer.model_name  {message}\n" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
    # Where the hub may be asked only the run can tell, before it begins.
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert training.main([*arguments, "--check"]) == 0
    assert "note: tokenizer.model_name" not in capfd.readouterr().out
    assert training.main(arguments) == 1
    log = capfd.readouterr().err
    assert "no-such-team/no-such-model" in log and "--resume" not in log and "Traceback" not in log
    assert list((tmp_path / "runs").iterdir()) == []
    # What is in the cache is taken.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = cache / "models--no-such-team--no-such-model" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert training.main([*arguments, "--check"]) == 0
    assert "note: tokenizer.model_name" not in capfd.readouterr().out


def test_a_resumed_run_is_never_removed(config: Path, monkeypatch: Any, capfd: Any) -> None:
    def stop(setup: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rl4lms.train.choose_algorithm", lambda config: stop)
    assert training.main(flags(config)) == 130
    (run,) = (config.parent / "runs").iterdir()
    (config.parent / "data" / "train.jsonl").write_text('{"prompt": "p"}\n')
    assert training.main(["--resume", str(run)]) == 2
    assert "no 'references'" in capfd.readouterr().err
    monkeypatch.setattr(jsonl, "find_problems", lambda args, splits: [])
    monkeypatch.setattr("rl4lms.datapools.find_problems", lambda args, splits: [])
    monkeypatch.setattr("rl4lms.datapools.lacks_references", lambda args: False)
    assert training.main(["--resume", str(run)]) == 1
    assert run.is_dir()

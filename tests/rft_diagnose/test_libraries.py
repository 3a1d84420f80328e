"""Logs of libraries, each rebuilt in its form: recognised without a flag; malformed ones are refused."""

import json
import struct
import sys
import types
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from clones import REPO
from diagnosis_logs import PLANTED, PROMPTS, REWARDS, generations, verdict, write
from library_logs import (
    LIBRARIES,
    SIZE,
    inspect_archive,
    inspect_json,
    inspect_samples,
    lines,
    lm_eval,
    lm_eval_sample,
    nemo,
    nemo_system,
    open_instruct_traces,
    swift,
    texts,
    trace,
    verifiers,
    verifiers_episodes,
    verl,
    verl_agents,
)

from rft_diagnose import DiagnosisError, cli
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards


@pytest.mark.parametrize("log", LIBRARIES, ids=lambda log: log.__name__)
def test_a_log_is_recognised_by_its_content(tmp_path, log):
    library, rewards, steps = log(tmp_path)
    table = read_rewards([tmp_path], Columns())
    assert tuple(table.rewards) == rewards and table.log.library == library
    assert (table.steps is None) == (steps is None)
    assert steps is None or sorted(set(table.steps.tolist())) == steps
    assert len(table.labels) == 12 and len(table.codes) == SIZE * len(steps or [1])
    assert verdict(tmp_path)[0] == PLANTED
    if library is not None:
        assert any(note.startswith("recognised as ") and library in note for note in table.notes)
    assert table.warnings == ()


def test_a_malformed_uid_of_verl_does_not_make_generations_of_its_outputs(tmp_path):
    path, _ = break_record(verl_agents, "1.jsonl", lambda record: record)(tmp_path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["uid"] = None
    lines(path, records)
    with pytest.raises(DiagnosisError, match="line 1 is not as verl writes it: 'uid' is None"):
        verdict(path)


def test_evaluation_beside_training_is_left_out_and_said(tmp_path):
    verl(tmp_path)
    note = (
        "left out, as of evaluation by their names: validation/1.jsonl, validation/2.jsonl; give them alone "
        "to see these"
    )
    assert note in read_rewards([tmp_path], Columns()).notes
    assert generations(tmp_path / "validation") == 2 * SIZE


def test_a_system_prompt_names_no_input(tmp_path):
    nemo_system(tmp_path)
    assert read_rewards([tmp_path], Columns()).labels[0] == "You are a mathematician.\nq0"


def test_rewards_of_a_trace_have_weights_and_may_be_asked_for(tmp_path):
    verifiers_episodes(tmp_path)
    assert set(read_rewards([tmp_path], Columns()).rewards["reward"]) == {0.5, 2.5}
    table = read_rewards([tmp_path], Columns(rewards=("rewards.right",)))
    assert set(table.rewards["rewards.right"]) == {0.0, 2.0}


def test_traces_of_agents_that_are_not_trained_are_no_generations(tmp_path):
    verifiers_episodes(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    for record in records:
        judge = trace("judge this", "good", 1.0) | {"agent": {"name": "judge", "trainable": False}}
        record["traces"].append(judge)
    lines(tmp_path / "traces.jsonl", records)
    assert verdict(tmp_path)[0] == PLANTED and generations(tmp_path) == SIZE


def test_filters_of_lm_eval_are_told_apart(tmp_path):
    """That of the second filter comes after all documents of the first."""
    fields = list(zip(PROMPTS, texts(1), REWARDS, strict=True))
    rows = [lm_eval_sample(*values) for values in fields]
    rows += [lm_eval_sample(prompt, text, 1.0, "flexible-extract") for prompt, text, _ in fields]
    lines(tmp_path / "samples.jsonl", rows)
    with pytest.raises(DiagnosisError) as error:
        verdict(tmp_path / "samples.jsonl")
    assert (
        "several columns may be the reward: exact_match,strict-match, exact_match,flexible-extract; name"
        in str(error.value)
    )
    asked = {"rewards": ("exact_match,strict-match",)}
    assert verdict(tmp_path / "samples.jsonl", **asked)[0] == PLANTED
    assert generations(tmp_path / "samples.jsonl", **asked) == SIZE


def test_several_scorers_of_inspect_are_listed(tmp_path):
    samples = inspect_samples()
    for sample in samples:
        sample["scores"]["judge"] = {"value": {"style": 0.5, "sense": "P"}}
    lines(tmp_path / "t.jsonl", samples)
    with pytest.raises(DiagnosisError, match="may be the reward: match, judge/style, judge/sense; name"):
        verdict(tmp_path / "t.jsonl")
    table = read_rewards([tmp_path / "t.jsonl"], Columns(rewards=("judge/sense",)))
    assert set(table.rewards["judge/sense"]) == {0.5}


def test_unscored_samples_of_inspect_are_missing_rewards(tmp_path):
    samples = inspect_samples()
    samples[90] |= {"scores": None, "error": {"message": "broken"}}
    lines(tmp_path / "t.jsonl", samples)
    assert pd.isna(read_rewards([tmp_path / "t.jsonl"], Columns()).rewards["match"]).sum() == 1


def break_record(log, name, change):
    """Write the log and change a record in the middle of one of its files; returns the file."""

    def broken(folder):
        log(folder)
        path = folder / name
        records = [json.loads(line) for line in path.read_text().splitlines()]
        place = min(40, len(records) - 1)
        change(records[place])
        lines(path, records)
        return path, f"{path} line {place + 1}"

    return broken


MALFORMED = [
    (swift, "completions.jsonl", lambda r: r["completion"].pop(),
     "ms-swift writes it: its lists differ in length: step 96, prompt 96, completion 95"),
    (swift, "completions.jsonl", lambda r: r.update(Format="1"),
     "ms-swift writes it: 'Format' is no list, but '1'"),
    (open_instruct_traces, "traces_run.jsonl", lambda r: r.pop("queries"),
     "open-instruct writes it: it lacks 'queries'"),
    (nemo, "train_data_step1.jsonl", lambda r: r.update(content=[[]]),
     "NeMo-RL writes it: 'content' is no list of texts, but [[]]"),
    (nemo, "train_data_step1.jsonl", lambda r: r.update(content=[["q"]]), "it has 1 messages and 1 rewards"),
    (verl_agents, "1.jsonl", lambda r: r.update(uid="7"), "verl writes it: 'uid' is '7'"),
    (nemo, "train_data_step2.jsonl", lambda r: r.update(rewards=[]), "it has 2 messages and 0 rewards"),
    (verifiers_episodes, "traces.jsonl", lambda r: r.pop("traces"), "verifiers writes it: it lacks 'traces'"),
    (verifiers_episodes, "traces.jsonl", lambda r: r["traces"][0]["rewards"].update(right="high"),
     "verifiers writes it: could not convert string to float: 'high'"),
    (lm_eval, "model/samples_gsm8k_2026-01-01T10-00-00.jsonl", lambda r: r.pop("arguments"),
     "lm-eval writes it: it lacks 'arguments'"),
]  # fmt: skip


@pytest.mark.parametrize(("log", "name", "change", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_record_is_named_with_its_line(tmp_path, monkeypatch, capsys, log, name, change, message):
    path, place = break_record(log, name, change)(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(path), "--output_path", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{place} is not as ") and message in line
    assert not (tmp_path / "out").exists()


def test_a_torn_archive_is_refused(tmp_path):
    inspect_archive(tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DiagnosisError, match=r"task\.eval cannot be read: File is not a zip file"):
        verdict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{}")
    with pytest.raises(DiagnosisError, match="no samples of inspect-ai in this archive"):
        verdict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("samples/q0_epoch_1.json", '{"id": ')
    with pytest.raises(DiagnosisError, match=r"samples/q0_epoch_1\.json is not JSON"):
        verdict(path)


def test_a_table_that_an_extraction_leaves_says_where_the_rewards_are(tmp_path):
    write(tmp_path / "run.csv", [{"id": 1, "prompt": "q", "mean": 0.5, "std": 0.1}])
    with pytest.raises(DiagnosisError, match=r"run\.csv: it has an extraction's means: give the \.pt file"):
        verdict(tmp_path / "run.csv")


# OpenRLHF


def test_the_documented_reward_function_for_openrlhf_writes_a_table(tmp_path, monkeypatch):
    """Called as OpenRLHF 0.11.2 does: one query a call, by several threads."""
    documented = (REPO / "docs" / "diagnosis.md").read_text()
    code = documented.partition("```python\n# logged_reward.py\n")[2].partition("```")[0]
    assert code.count("\n") <= 13
    answers = {
        f"{prompt}{text}": reward for prompt, text, reward in zip(PROMPTS, texts(1), REWARDS, strict=True)
    }
    user = types.ModuleType("my_reward")
    user.reward_func = lambda queries, prompts, labels: {"rewards": [answers[query] for query in queries]}
    monkeypatch.setitem(sys.modules, "my_reward", user)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(code, space)
    with ThreadPoolExecutor(8) as pool:
        calls = [(f"{prompt}{text}", prompt) for prompt, text in zip(PROMPTS, texts(1), strict=True)]
        results = list(pool.map(lambda call: space["reward_func"]([call[0]], [call[1]], ["4"]), calls))
    assert [result["rewards"][0] for result in results] == REWARDS
    found, _ = verdict(tmp_path, step="minute")
    assert found == PLANTED
    rows = read_rewards([tmp_path], Columns())
    assert len(rows.codes) == SIZE and rows.warnings == () and rows.labels[0] in PROMPTS


def test_evaluations_of_several_models_are_not_pooled(tmp_path):
    for model in ("a", "b"):
        fields = list(zip(PROMPTS, texts(1), REWARDS, strict=True))
        lines(tmp_path / "lm" / model / "samples_t.jsonl", [lm_eval_sample(*values) for values in fields])
        samples = inspect_samples()
        for sample in samples:
            sample["output"]["model"] = model
        lines(tmp_path / "inspect" / f"{model}.jsonl", samples)
        verifiers(tmp_path / model)
        (tmp_path / model / "evals" / "gsm8k--model").rename(tmp_path / f"gsm8k--{model}")
    verified = [tmp_path / f"gsm8k--{model}" for model in ("a", "b")]
    for paths in ([tmp_path / "lm"], [tmp_path / "inspect"], verified):
        with pytest.raises(DiagnosisError, match=r"is of the model a, .* of b: give the files of one model"):
            verdict(*paths)


@pytest.mark.parametrize(
    "log", [nemo, inspect_json, swift, verifiers_episodes, lm_eval], ids=lambda log: log.__name__
)
def test_a_malformed_first_record_does_not_hide_whose_log_it_is(tmp_path, log):
    library, _, _ = log(tmp_path)
    path = next(p for p in sorted(tmp_path.rglob("*")) if p.suffix in (".json", ".jsonl"))
    if path.suffix == ".json":
        records = json.loads(path.read_text())["samples"]
        path = tmp_path / "samples.jsonl"
    else:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    broken = {"content": [7], "scores": 3, "completion": 3, "traces": "none", "arguments": [], "resps": []}
    for name in broken.keys() & records[0].keys():
        records[0][name] = broken[name]
    lines(path, records)
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    message = str(error.value)
    if len(records) > 2:
        assert message.startswith(f"{path} line 1 is not as {library} writes it: ")


# What inspect-ai packs with Zstandard, which Python's zipfile cannot write before 3.14


def archive_of(samples, compress):
    """A zip of samples, each packed by `compress`, as method 93."""
    content, directory = b"", b""
    for number, sample in enumerate(samples):
        name, plain = f"samples/{number}.json".encode(), json.dumps(sample).encode()
        packed = compress(plain)
        common = struct.pack(
            "<5H3I2H", 63, 0, 93, 0, 0, zlib.crc32(plain), len(packed), len(plain), len(name), 0
        )
        directory += b"PK\1\2" + struct.pack("<H", 63) + common
        directory += struct.pack("<3H2I", 0, 0, 0, 0, len(content)) + name
        content += b"PK\3\4" + common + name + packed
    sizes = struct.pack("<4H2IH", 0, 0, len(samples), len(samples), len(directory), len(content), 0)
    return content + directory + b"PK\5\6" + sizes


def test_archives_that_are_packed_with_zstandard(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "t.eval"
    path.write_bytes(archive_of(inspect_samples(), zstandard.ZstdCompressor().compress))
    assert verdict(path)[0] == PLANTED
    path.write_bytes(
        archive_of(inspect_samples(), lambda plain: zstandard.ZstdCompressor().compress(plain[:-9]))
    )
    with pytest.raises(DiagnosisError, match=r"t\.eval: samples/0\.json is torn or broken"):
        verdict(path)
    path.write_bytes(archive_of(inspect_samples(), lambda plain: plain))
    with pytest.raises(DiagnosisError, match=r"t\.eval: samples/0\.json cannot be read: "):
        verdict(path)


def test_archives_that_are_packed_with_zstandard_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "t.eval"
    path.write_bytes(archive_of(inspect_samples(), lambda plain: plain))
    with pytest.raises(DiagnosisError) as error:
        verdict(path)
    assert str(error.value) == (
        f"{path}: packed with Zstandard, it needs zstandard: pip install 'rft-diagnose[zstd]'"
    )

"""Logs of libraries, each rebuilt in its form: recognised without a flag; malformed ones are refused."""

import json
import sys
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from clones import REPO
from diagnosis_logs import PLANTED, PROMPTS, REWARDS, generations, verdict, write

from rft_diagnose import DiagnosisError, cli
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards

SIZE = len(PROMPTS)


def texts(step):
    return [f"text {step} {i}" for i in range(SIZE)]


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def trl(folder):
    """TRL 1.16: parquet of each logging step; the reward has the name of its function."""
    for step in (1, 2):
        table = {"step": step, "prompt": PROMPTS, "completion": texts(step), "judge": REWARDS}
        path = folder / "completions" / f"completions_{step:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        pd.DataFrame(table | {"note": "-", "advantage": 0.5}).to_parquet(path)
    return ("TRL", ("judge",), [1, 2])


def trl_016(folder):
    """TRL 0.16: a table of Weights & Biases, as it is exported."""
    rows = [
        [str(step), prompt, text, reward]
        for step in (1, 2)
        for prompt, text, reward in zip(PROMPTS, texts(step), REWARDS, strict=True)
    ]
    content = {"columns": ["step", "prompt", "completion", "reward"], "data": rows}
    (folder / "completions.table.json").write_text(json.dumps(content))
    return (None, ("reward",), [1, 2])


def verl(folder):
    """verl 0.4 to 0.9: `rollout_data_dir` beside `validation_data_dir`."""
    for name in ("rollout", "validation"):
        for step in (1, 2):
            rows = zip(PROMPTS, texts(step), REWARDS, strict=True)
            lines(
                folder / name / f"{step}.jsonl",
                [
                    {"input": p, "output": t, "gts": "4", "score": r, "step": step, "acc": r}
                    for p, t, r in rows
                ],
            )
    return ("verl", ("score",), [1, 2])


def verl_agents(folder):
    """verl 0.9 with an agent loop: two outputs a rollout, of which the last is scored."""
    for step in (1, 2):
        rows = []
        for i, (prompt, text, reward) in enumerate(zip(PROMPTS, texts(step), REWARDS, strict=True)):
            for turn in (0, 1):
                more = {"uid": f"{step}-{i // 8}_{i % 8}_{turn}", "step": step, "gts": None}
                asked = prompt if turn == 0 else f"{prompt} {text} and then?"
                rows.append({"input": asked, "output": f"{text} {turn}", "score": reward * turn} | more)
        lines(folder / f"{step}.jsonl", rows)
    return ("verl", ("score",), [1, 2])


def open_instruct(folder):
    """open-instruct: tokens of prompt and response; `prompt_idx` is a place in the batch."""
    for step in (1, 2):
        rows = [
            {"step": step, "sample_idx": i, "prompt_idx": i // 8, "prompt_tokens": [1, int(prompt[1:])],
             "response_tokens": [7, step, i], "reward": reward, "advantage": 0.0, "finish_reason": "stop",
             "dataset": "gsm8k", "ground_truth": [4], "request_info": None, "logprobs": [-0.1]}
            for i, (prompt, reward) in enumerate(zip(PROMPTS, REWARDS, strict=True))
        ]  # fmt: skip
        lines(folder / f"run_rollouts_{step:06d}.jsonl", rows)
    lines(folder / "run_metadata.jsonl", [{"run_name": "run", "git_commit": "0", "model_name": "m"}])
    return ("open-instruct", ("reward",), [1, 2])


def open_instruct_traces(folder):
    """open-instruct before rollout files: a batch a line."""
    rows = [
        {"scores": REWARDS, "finish_reasons": ["stop"] * SIZE, "responses": texts(step), "queries": PROMPTS,
         "ground_truths": ["4"] * SIZE, "datasets": ["gsm8k"] * SIZE, "training_step": step}
        for step in (1, 2)
    ]  # fmt: skip
    lines(folder / "traces_run.jsonl", rows)
    return ("open-instruct", ("scores",), [1, 2])


def swift(folder):
    """ms-swift 4.6: a batch a line, and a log of metrics beside it."""
    rows = [
        {"step": [str(step)] * SIZE, "prompt": PROMPTS, "completion": texts(step), "MathAccuracy": REWARDS,
         "Format": [1.0] * SIZE, "advantages": [0.0] * SIZE, "entropy": [0.3] * SIZE}
        for step in (1, 2)
    ]  # fmt: skip
    lines(folder / "completions.jsonl", rows)
    metrics = {"loss": 0.1, "reward": 0.5, "reward_std": 0.1, "learning_rate": 1e-6, "grad_norm": 0.1}
    lines(folder / "logging.jsonl", [metrics])
    return ("ms-swift", ("MathAccuracy", "Format"), [1, 2])


def swift_ray(folder):
    """ms-swift 4.6 with Ray and Megatron."""
    rows = [
        {"gen_step": step, "prompt": prompt, "completion": text, "reward": reward}
        for step in (1, 2)
        for prompt, text, reward in zip(PROMPTS, texts(step), REWARDS, strict=True)
    ]
    lines(folder / "completions.jsonl", rows)
    return ("ms-swift", ("reward",), [1, 2])


def nemo(folder, system=()):
    """NeMo-RL: a list of one of everything, by batches of one; the texts of a generation's messages."""
    for step in (1, 2):
        rows = [
            {"content": [[*system, prompt, text]], "rewards": [reward], "input_lengths": [9],
             "generation_logprobs": [[-0.1, -0.2]], "prev_logprobs": [[-0.1, -0.2]], "idx": i}
            for i, (prompt, text, reward) in enumerate(zip(PROMPTS, texts(step), REWARDS, strict=True))
        ]  # fmt: skip
        lines(folder / f"train_data_step{step}.jsonl", rows)
        lines(folder / f"val_data_step{step}.jsonl", rows[:8])
    return ("NeMo-RL", ("rewards",), [1, 2])


def nemo_system(folder):
    return nemo(folder, ("You are a mathematician.",))


def skyrl(folder):
    """SkyRL 0.3: evaluation of a step, a file a data set, beside its averages; rewards of tokens."""
    for step in (5, 10):
        rows = [
            {"input_prompt": prompt, "output_response": text, "score": [0.0, 0.0, reward],
             "stop_reason": "stop", "env_class": "gsm8k", "env_extras": {}, "data_source": "gsm8k"}
            for prompt, text, reward in zip(PROMPTS, texts(step), REWARDS, strict=True)
        ]  # fmt: skip
        below = folder / "dumped_evals" / f"global_step_{step}_evals"
        lines(below / "gsm8k.jsonl", rows)
        lines(below / "aggregated_results.jsonl", [{"eval/all/mean_positive_reward": 0.5}])
    return ("SkyRL", ("score",), [5, 10])


def verifiers(folder):
    """verifiers 0.1: `vf-eval -s`; conversations, metrics by name."""
    rows = [
        {"example_id": i // 8, "prompt": [{"role": "user", "content": prompt}], "task": "gsm8k",
         "completion": [{"role": "assistant", "content": text}], "reward": reward, "generation_ms": 12.5,
         "answer": "4", "correct_answer_reward_func": reward, "format_reward": 1.0}
        for i, (prompt, text, reward) in enumerate(zip(PROMPTS, texts(1), REWARDS, strict=True))
    ]  # fmt: skip
    lines(folder / "evals" / "gsm8k--model" / "ab12" / "results.jsonl", rows)
    (folder / "evals" / "gsm8k--model" / "ab12" / "metadata.json").write_text('{"env": "gsm8k"}')
    return ("verifiers", ("reward",), None)


def trace(prompt, text, reward):
    """A trace of verifiers 0.4: rewards with weights, messages as nodes of a graph."""
    nodes = [
        {"message": {"role": "user", "content": prompt}, "sampled": False},
        {"message": {"role": "assistant", "content": text}, "sampled": True, "parent": 0},
    ]
    rewards = {"right": {"score": reward, "weight": 2.0}, "form": {"score": 1.0, "weight": 0.5}}
    task = {"type": "Task", "data": {"idx": 0, "prompt": prompt}, "key": "k"}
    return {
        "version": 1,
        "id": "1",
        "task": task,
        "nodes": nodes,
        "rewards": rewards,
        "metrics": {},
        "ok": True,
    }


def verifiers_episodes(folder):
    rows = [
        {"id": str(i), "env": {"id": "gsm8k"}, "task": {"type": "T", "data": {}}, "ok": True,
         "traces": [trace(*fields)]}
        for i, fields in enumerate(zip(PROMPTS, texts(1), REWARDS, strict=True))
    ]  # fmt: skip
    lines(folder / "traces.jsonl", rows)
    return ("verifiers", ("reward",), None)


def prime_rl(folder):
    """prime-rl: a trace a line in the folder of a step."""
    for step in (1, 2):
        rows = [trace(*fields) for fields in zip(PROMPTS, texts(step), REWARDS, strict=True)]
        lines(folder / "rollouts" / f"step_{step}" / "train_rollouts.jsonl", rows)
        lines(folder / "rollouts" / f"step_{step}" / "eval_rollouts.jsonl", rows[:8])
    return ("verifiers", ("reward",), [1, 2])


def lm_eval_sample(prompt, text, reward, kind="strict-match"):
    """A line of lm-eval 0.4.13 (`--log_samples`)."""
    arguments = {"gen_args_0": {"arg_0": f"Q: {prompt}\nA:", "arg_1": {"until": ["\n"]}}}
    known = {"doc_id": int(prompt[1:]), "doc": {"question": prompt}, "target": "4", "arguments": arguments}
    known |= {"resps": [[text]], "filtered_resps": [text], "filter": kind, "metrics": ["exact_match"]}
    return known | {"doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "exact_match": reward}


def lm_eval(folder):
    """lm-eval 0.4.13: a file a run; eight runs with other seeds."""
    for run in range(8):
        rows = [
            lm_eval_sample(*fields) for fields in list(zip(PROMPTS, texts(run), REWARDS, strict=True))[run::8]
        ]
        lines(folder / "model" / f"samples_gsm8k_2026-01-01T10-00-0{run}.jsonl", rows)
    return ("lm-eval", ("exact_match,strict-match",), None)


def inspect_sample(i, prompt, text, reward):
    message = {"role": "assistant", "content": text}
    score = {"value": "C" if reward else "I", "answer": text, "explanation": text}
    return {
        "id": prompt, "epoch": i % 8 + 1, "input": f"attachment://{prompt}", "target": "4", "messages": [],
        "output": {"model": "m", "choices": [{"message": message, "stop_reason": "stop"}]},
        "scores": {"match": score}, "attachments": {prompt: f"What is {prompt}?"},
    }  # fmt: skip


def inspect_samples():
    return [
        inspect_sample(i, *fields) for i, fields in enumerate(zip(PROMPTS, texts(1), REWARDS, strict=True))
    ]


def inspect_archive(folder):
    """inspect-ai: a zip of samples."""
    with zipfile.ZipFile(folder / "2026-01-01_task.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "{}")
        for sample in inspect_samples():
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return ("inspect-ai", ("match",), None)


def inspect_json(folder):
    """inspect-ai with `--log-format json`."""
    content = {"version": 2, "status": "success", "eval": {"task": "t"}, "samples": inspect_samples()}
    (folder / "2026-01-01_task.json").write_text(json.dumps(content))
    return ("inspect-ai", ("match",), None)


LIBRARIES = [
    *(trl, trl_016, verl, verl_agents, open_instruct, open_instruct_traces, swift, swift_ray, nemo),
    *(nemo_system, skyrl, verifiers, verifiers_episodes, prime_rl, lm_eval, inspect_archive, inspect_json),
]


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
    assert code.count("\n") <= 14
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

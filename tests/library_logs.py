"""Logs of libraries for tests, each in its library's form: functions that write one into a folder.

They return whose log it is to be recognised as, its rewards, and its steps (None: it has none). The inputs
are those of `diagnosis_logs`.
"""

import json
import zipfile

import pandas as pd
from diagnosis_logs import PROMPTS, REWARDS

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


def trl_024(folder):
    """TRL 0.18 to 0.24: a table of Weights & Biases, with advantages."""
    rows = [
        [str(step), prompt, text, reward, 0.0, None]
        for step in (1, 2)
        for prompt, text, reward in zip(PROMPTS, texts(step), REWARDS, strict=True)
    ]
    names = ["step", "prompt", "completion", "judge_reward", "advantage", "images"]
    (folder / "completions.table.json").write_text(json.dumps({"columns": names, "data": rows}))
    return ("TRL", ("judge_reward",), [1, 2])


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
    *(trl, trl_016, trl_024, verl, verl_agents, open_instruct, open_instruct_traces, swift, swift_ray, nemo),
    *(nemo_system, skyrl, verifiers, verifiers_episodes, prime_rl, lm_eval, inspect_archive, inspect_json),
]

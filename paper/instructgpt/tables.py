"""The tidy tables of InstructGPT's pipeline (`figures.instructgpt_tables`), from its finished runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import read_rows
from common.run_dir import read_run
from figures.instructgpt_tables import TABLES
from figures.study import Source
from paper.instructgpt.config import Pipeline
from paper.instructgpt.data import LOSSES, SCORES
from paper.instructgpt.plans import REWARD_MODEL, SQUASHED
from paper.instructgpt.runs import HALF, Finished, has_log_odds
from paper.instructgpt.work import Floats, to_log_odds
from rl4lms.compare.outcomes import by_scores, equal_texts
from rl4lms.compare.statistics import judge_models
from rl4lms.teacher import read_texts

Rows = list[dict[str, Any]]
ARMS = {"rm": "main", "rm-grouped": "grouped", "rm-epochs": "epochs", "rm-shuffled": "shuffled"}


def read_tables(pipeline: Pipeline, finished: Sequence[Finished]) -> dict[str, pd.DataFrame]:
    """All tables. Raises RunError: a run lacks a file."""
    reported = [item for item in finished if not item.planned.method.startswith("choice-")]
    readers = {
        "reward_models": _reward_models,
        "reward_losses": _reward_losses,
        "scores": _scores,
        "best_of": _best_of,
        "sft": _sft,
        "ppo": _ppo,
        "wins": _wins,
        "losses": _losses,
        "teachers": _teachers,
        "halves": _halves,
    }
    return {
        name: pd.DataFrame(read(pipeline, reported), columns=list(TABLES[name]))
        for name, read in readers.items()
    }


def sources_of(finished: Sequence[Finished]) -> list[Source]:
    """The runs as figures describe them."""
    return [
        Source(
            task=item.planned.task,
            seed=item.planned.seed,
            method=item.planned.name,
            reward="",
            path=item.path,
            command=item.command,
        )
        for item in finished
    ]


def _rows(path: Path, name: str) -> Rows:
    run = read_run(path)
    return list(read_rows(path / f"{run.manifest.get('prefix', '')}{name}", "epoch"))


def _predictions(path: Path, split: str, epoch: float) -> Rows:
    prefix = read_run(path).manifest.get("prefix", "")
    file = next(
        file
        for file in path.glob(f"{prefix}epoch_*_{split}_split_predictions.json")
        if float(file.name.removeprefix(f"{prefix}epoch_").partition("_")[0]) == epoch
    )
    rows: Rows = json.loads(file.read_bytes())
    return rows


def _of(finished: Iterable[Finished], *kinds: str) -> list[Finished]:
    return [item for item in finished if item.planned.kind in kinds]


def _reward_models(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    rows = []
    for item in finished:
        run = item.planned
        if run.task != pipeline.case(pipeline.config.main).task or run.method not in ARMS:
            continue
        trained = _rows(item.path, "training_info.jsonl")
        texts = np.cumsum([row["texts"] for row in trained])
        for row in _rows(item.path, "val_split_metrics.jsonl"):
            passed = float(texts[row["step"] - 1]) if row["step"] else 0.0
            numbers = {name: row["metrics"].get(name, np.nan) for name in TABLES["reward_models"]}
            numbers |= {"seed": run.seed, "arm": ARMS[run.method], "texts": passed}
            rows.append(numbers | {"epoch": row["epoch"], "step": row["step"]})
    return rows


def _reward_losses(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    """Losses of val's prompts at the best evaluation of two reward models after some training."""
    rows = []
    for item in _of(finished, "epochs", "shuffled"):
        evaluated = [row for row in _rows(item.path, "val_split_metrics.jsonl") if row["step"]]
        best = min(evaluated, key=lambda row: row["metrics"]["loss"])
        for row in _predictions(item.path, "val", best["epoch"]):
            arm = ARMS[item.planned.method]
            rows.append(
                {"seed": item.planned.seed, "arm": arm, "prompt": row["sample_id"], "loss": row["loss"]}
            )
    return rows


def _read_scores(finished: Sequence[Finished]) -> list[tuple[Finished, dict[str, Any]]]:
    return [(item, json.loads((item.path / SCORES).read_bytes())) for item in _of(finished, "scores")]


def _scores(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    return [
        {
            "seed": item.planned.seed,
            "teacher": item.planned.teacher,
            "variance": scores["variance"],
            "accuracy": scores["accuracy"],
            "rankings": scores["rankings"]["share"],
            "off_policy": scores["off_policy"]["share"],
        }
        for item, scores in _read_scores(finished)
    ]


def _best_of(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    return [
        {"seed": item.planned.seed, **row}
        for item, scores in _read_scores(finished)
        for row in scores.get("best_of_n", [])
    ]


def _sft(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    return [
        {
            "seed": item.planned.seed,
            "epoch": row["epoch"],
            "loss": row["metrics"]["sft/reference_loss"],
            "score": row["metrics"][REWARD_MODEL],
        }
        for item in _of(finished, "supervised")
        for row in _rows(item.path, "val_split_metrics.jsonl")
    ]


def _gold(pipeline: Pipeline, task: str, rows: Rows) -> Floats:
    """The gold reward of each text of an evaluation, or its log-odds."""
    (of_task,) = [part for part in pipeline.tasks if pipeline.case(part).task == task]
    key = pipeline.study.reward(pipeline.case(of_task)).key
    values = [row["metrics"][key] for row in rows]
    return np.array(to_log_odds(values) if has_log_odds(of_task) else values)


def _ppo(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    """Proxy and gold of each evaluation on val, in std of the texts before training."""
    rows = []
    for item in _of(finished, "ppo", "ptx", "other_ppo"):
        run, scale = item.planned, {}
        for row in _rows(item.path, "val_split_metrics.jsonl"):
            texts = _predictions(item.path, "val", row["epoch"])
            values = {
                "proxy": np.array([text["metrics"][REWARD_MODEL] for text in texts]),
                "gold": _gold(pipeline, run.task, texts),
            }
            if row["epoch"] == 0:
                scale = {name: (part.mean(), part.std() or 1.0) for name, part in values.items()}
            standard = {
                name: float((values[name].mean() - scale[name][0]) / scale[name][1]) for name in values
            }
            labels = {"task": run.task, "seed": run.seed, "method": run.method, "kl": run.kl}
            root = row["metrics"]["kl/episode_root"]
            share = _last(item.path, "ppo/policy_grad_share")
            rows.append(
                labels | {"iteration": row["epoch"], "kl_root": root, **standard, "policy_share": share}
            )
    return rows


def _last(path: Path, name: str) -> float:
    """The mean over the iterations of what was logged of the updates; NaN if it was not."""
    values = [row[name] for row in _rows(path, "training_info.jsonl") if name in row]
    return float(np.mean(values)) if values else float("nan")


def _wins(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    """Win rates by gold on held-out prompts, against SFT and against the start."""
    rows = []
    groups: dict[tuple[str, int], dict[str, Finished]] = {}
    for item in _of(finished, "texts"):
        groups.setdefault((item.planned.task, item.planned.seed), {})[item.planned.method] = item
    for (task, seed), models in groups.items():
        read = {
            name: read_texts(item.path.with_name(f"{item.path.name}.pt")) for name, item in models.items()
        }
        gold = {name: next(iter(sampled.gold.values())) for name, sampled in read.items()}
        for against in [name for name in ("sft", "start") if name in read]:
            for name in [name for name in read if name != against and name != "start"]:
                pair = (against, name)
                texts = [read[model].texts for model in pair]
                outcomes = by_scores([gold[model] for model in pair], texts)
                verdict = judge_models(outcomes, texts, equal_texts(texts), list(pair))
                rate, low, high = verdict.pairs[0, 1].rate
                labels = {"task": task, "seed": seed, "method": name, "against": against}
                rows.append(labels | {"rate": 1 - rate, "low": 1 - high, "high": 1 - low})
    return rows


def _losses(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    """The loss and the tokens of each held-out text of pretraining under each model."""
    rows = []
    for item in _of(finished, "losses"):
        run = item.planned
        losses = json.loads((item.path / LOSSES).read_bytes())
        for name, values in losses.items():
            method = name.removeprefix(f"{run.task}-").removesuffix(f"-s{run.seed}")
            labels = {"task": run.task, "seed": run.seed, "method": method}
            rows += [
                labels | {"text": number, "loss": loss, "tokens": tokens}
                for number, (loss, tokens) in enumerate(zip(values["loss"], values["tokens"], strict=True))
            ]
    return rows


def _teachers(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    """What RLOO by each teacher gains of gold, beside the teacher's variance and accuracy."""
    known = {}
    for item, scores in _read_scores(finished):
        part = {name: scores[name] for name in ("variance", "accuracy")}
        part["off_policy"] = scores["off_policy"]["share"]
        known[item.planned.seed, item.planned.teacher] = part
        if "squashed" in scores:
            known[item.planned.seed, SQUASHED] = scores["squashed"] | {"off_policy": 1.0}
    rows = []
    for item in _of(finished, "taught"):
        run = item.planned
        gains = [_gain(pipeline, item, split) for split in ("val", "test")]
        labels = {"seed": run.seed, "teacher": run.teacher, "kl": run.kl}
        rows.append(labels | known[run.seed, run.teacher] | {"gain": float(np.mean(np.concatenate(gains)))})
    return rows


def _halves(pipeline: Pipeline, finished: Sequence[Finished]) -> Rows:
    """Gold gain on the train prompts whose rewards were squashed, and on the others."""
    rows = []
    for item in _of(finished, "half"):
        run = item.planned
        table = json.loads(Path(read_run(item.path).config["reward_fn"]["args"]["table_path"]).read_bytes())
        gains = _gain(pipeline, item, "train")
        prompts = [row["prompt"] for row in _predictions(item.path, "train", 0.0)]
        is_squashed = np.array([prompt in table["centres"] for prompt in prompts])
        labels = {"seed": run.seed, "method": run.method.removeprefix(f"{HALF}-")}
        for name, chosen in (("squashed", is_squashed), ("full", ~is_squashed)):
            rows.append(labels | {"half": name, "gain": float(gains[chosen].mean())})
    return rows


def _gain(pipeline: Pipeline, item: Finished, split: str) -> Floats:
    """How much gold each prompt's text gains in training, in std of the texts before it: [N]."""
    epochs = [row["epoch"] for row in _rows(item.path, f"{split}_split_metrics.jsonl")]
    before, after = (
        _gold(pipeline, item.planned.task, _predictions(item.path, split, epoch))
        for epoch in (min(epochs), max(epochs))
    )
    return (after - before) / (before.std() or 1.0)

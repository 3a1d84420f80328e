"""What the runs of group algorithms and of PPO beside them log: tokens, groups, rewards over tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from common.files import read_rows
from common.run_dir import read_run
from figures.study import Source
from rft_diagnose.statistics import dead

POINTS = 14  # of a curve
CURVES = {
    "task": "name of the task",
    "method": "algorithm",
    "seed": "of the run",
    "tokens": "generated before the middle of these iterations",
    "reward": "mean reward of all texts that these iterations generated",
    "dead_reward": "the same of inputs that are dead under the pretrained model; NaN where there are none",
}


@dataclass(frozen=True)
class GroupRun:
    """A training as its logs tell it.

    numbers: learning_rate, iterations, tokens (generated in all), texts_per_input, groups_per_kept (NaN
    without groups), spread_dead (share of the groups with spread that are of dead inputs), start_reward,
    train_reward (of the training's own evaluation); curve: rows of `CURVES`.
    """

    source: Source
    numbers: dict[str, float]
    curve: pd.DataFrame


def read_group_run(source: Source, inputs: pd.DataFrame) -> GroupRun:
    """Read the logs of a finished training. inputs: has the pretrained model's rows of its task and seed."""
    assert source.path is not None
    run = read_run(source.path)
    prefix, args = run.manifest.get("prefix", ""), run.config["alg"]["args"]
    texts = pd.DataFrame(read_rows(run.path / f"{prefix}rollout_rewards.jsonl", "step"))
    texts["dead"] = texts["prompt_id"].isin(dead_ids(inputs, source))
    lengths = {
        row["epoch"]: row["rollout_info/ep_lens"]
        for row in read_rows(run.path / f"{prefix}rollout_info.jsonl", "epoch")
    }
    by_step = texts.groupby("step")["reward"].agg(["size", "mean"])
    tokens = by_step["size"] * pd.Series(lengths)
    evaluations = list(read_rows(run.path / f"{prefix}train_split_metrics.jsonl", "epoch"))
    first, last = (pick(evaluations, key=lambda row: row["epoch"]) for pick in (min, max))
    numbers = {
        "learning_rate": float(args["learning_rate"]),
        "iterations": float(len(by_step)),
        "tokens": float(tokens.sum()),
        "texts_per_input": len(texts) / len(_pretrained(inputs, source)),
        "start_reward": float(first["metrics"][source.reward]),
        "train_reward": float(last["metrics"][source.reward]),
        **_group_numbers(texts, args.get("group_size")),
    }
    return GroupRun(source, numbers, _curve(source, texts, tokens))


def dead_ids(inputs: pd.DataFrame, source: Source) -> set[str]:
    """The train inputs of a run's task that are dead under the pretrained model."""
    start = _pretrained(inputs, source)
    return set(start["id"][dead(start["mean"], start["std"])])


def choose_runs(runs: Sequence[GroupRun]) -> list[GroupRun]:
    """Of the runs of a task, algorithm and seed at several learning rates the one that the rule takes."""
    best: dict[tuple[str, str, int], GroupRun] = {}
    for run in runs:
        key = (run.source.task, run.source.method, run.source.seed)
        if key not in best or run.numbers["train_reward"] > best[key].numbers["train_reward"]:
            best[key] = run
    return list(best.values())


def spread_share(rewards: np.ndarray, is_dead: np.ndarray, group_size: int) -> float:
    """Share of dead inputs among groups with spread, if inputs are drawn equally often.

    Estimated without bias from rewards [N, n], n >= group_size, that did not decide which are dead [N].
    """
    from scipy.special import comb

    n = rewards.shape[1]
    spread = [
        1 - comb(np.unique(row, return_counts=True)[1], group_size).sum() / comb(n, group_size)
        for row in rewards
    ]
    return float(np.sum(spread, where=is_dead) / np.sum(spread))


def _pretrained(inputs: pd.DataFrame, source: Source) -> pd.DataFrame:
    key = {"task": source.task, "seed": source.seed, "method": "pretrained", "sample": 1, "split": "train"}
    return inputs[(inputs[list(key)] == pd.Series(key)).all(axis=1)]


def _group_numbers(texts: pd.DataFrame, group_size: int | None) -> dict[str, float]:
    if group_size is None or "kept" not in texts:
        return {"groups_per_kept": float("nan"), "spread_dead": float("nan")}
    rewards = texts["reward"].to_numpy().reshape(-1, group_size)
    spread = rewards.max(1) != rewards.min(1)
    of_dead = texts["dead"].to_numpy().reshape(-1, group_size)[:, 0]
    kept = texts["kept"].to_numpy(dtype=bool).reshape(-1, group_size)[:, 0]
    return {
        "groups_per_kept": len(kept) / kept.sum() if kept.any() else float("nan"),
        "spread_dead": float(of_dead[spread].mean()) if spread.any() else float("nan"),
    }


def _curve(source: Source, texts: pd.DataFrame, tokens: pd.Series[float]) -> pd.DataFrame:
    """Means over stretches of iterations that generated about as many tokens."""
    middles = tokens.cumsum() - tokens / 2
    stretch = (middles / tokens.sum() * POINTS).astype(int).clip(upper=POINTS - 1)
    texts = texts.assign(stretch=texts["step"].map(stretch), tokens=texts["step"].map(middles))
    rows: list[Mapping[str, Any]] = []
    for _, part in texts.groupby("stretch"):
        fixed = {"task": source.task, "method": source.method, "seed": source.seed}
        means = {"tokens": part["tokens"].mean(), "reward": part["reward"].mean()}
        rows.append(fixed | means | {"dead_reward": part["reward"][part["dead"]].mean()})
    return pd.DataFrame(rows, columns=list(CURVES))

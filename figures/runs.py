"""Tidy tables from run directories: what the figures plot, and which runs it came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import describe_load_error
from common.run_dir import RunInfo, find_runs, read_metrics, read_run
from rft_diagnose.statistics import input_statistics

METHODS = {"expected_reinforce": "RFT", "reinforce": "RFT (sampled)", "supervised": "SFT"}
ADVANTAGES = {"grpo": "GRPO", "rloo": "RLOO", "dr_grpo": "Dr. GRPO"}
GROUPS = {"small": " small reward std", "large": " large reward std"}
MODELS = {"mlp": "MLP", "resnet18": "ResNet18", "bert-mini": "BERT-mini"}
DATASETS = {
    "digits": "digits",
    "mnist": "MNIST",
    "fmnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "stsb": "STS-B",
    "docstring_pairs": "docstring pairs",
}


class NoRunsError(UserError):
    """The given folders hold no run that the figure can draw; the message says what is needed."""


def runs_in(paths: Iterable[Path]) -> list[RunInfo]:
    """The runs that `paths` name: run folders themselves, or folders of run folders.

    Raises NoRunsError for a path that is neither.
    """
    runs: list[RunInfo] = []
    for path in paths:
        if (path / "manifest.json").is_file():
            runs.append(read_run(path))
        elif path.is_dir() and (inside := find_runs(path)):
            runs += inside
        else:
            raise NoRunsError(
                f"{path}: neither a run folder (with a manifest.json) nor a folder of run folders"
            )
    return runs


def finetuning_runs(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """The runs that tracked the two reward-std groups: finetuning with modified inputs."""
    return [run for run in runs if run.config.get("frac_samples_to_modify_labels", 0) > 0]


def method_label(config: dict[str, Any]) -> str:
    """What a controlled run's method is called; of groups with their size."""
    method: str = config["opt_method"]
    if method in METHODS:
        return METHODS[method]
    size = f"G = {config['group_size']}" if config["group_size"] else "G infinite"
    sampled = " (sampled)" if method == "sampled_group" else ""
    return f"{ADVANTAGES[config['advantage']]}, {size}{sampled}"


def runs_of_item(runs: Iterable[RunInfo], item: str) -> list[RunInfo]:
    """The finetuning runs that a version of Figure 3 shows.

    Runs of groups have their own, beside RFT and SFT in the same environment; Figure 3 is without them.
    """
    version = "figure3" if item == "figure3_group" else item
    runs = [run for run in finetuning_runs(runs) if figure3_item(run.config) == version]
    if version != "figure3":
        return runs
    if item == "figure3":
        return [run for run in runs if run.config["opt_method"] in METHODS]
    grouped = {environment_label(run.config) for run in runs if run.config["opt_method"] not in METHODS}
    return [run for run in runs if environment_label(run.config) in grouped]


def figure3_item(config: dict[str, Any]) -> str:
    """Which version of Figure 3 a finetuning run belongs to, by its reward and optimiser."""
    if config["reward_type"] == "labels_with_custom":
        return "figure3_high_init_reward"
    return "figure3_sgd" if config["optimizer"] == "sgd" else "figure3"


def environment_label(config: dict[str, Any]) -> str:
    """Model and data of a controlled run, and the settings that its curve depends on, in two lines."""
    model, dataset = (
        MODELS.get(config["model_type"], config["model_type"]),
        DATASETS.get(config["dataset"], config["dataset"]),
    )
    size = f"{config['num_train_samples']:,} inputs, " if config["num_train_samples"] > 0 else ""
    optimizer = {"adam": "Adam", "sgd": "SGD"}[config["optimizer"]]
    return f"{model}, {dataset}\n{size}{optimizer} {config['lr']:g}, batch {config['batch_size']}"


def controlled_table(runs: Iterable[RunInfo]) -> pd.DataFrame:
    """One row per run, group and epoch of the finetuning runs among `runs`.

    Columns: environment, method (`method_label`), group (small, large: pretrain reward std), epoch, reward,
    reward_std, grad_norm, run (its folder's name), finished (False: the run is not at its end).
    Raises NoRunsError if there is none, or one has no epoch yet.
    """
    tables = []
    for run in finetuning_runs(runs):
        rows = read_metrics(run.path)
        for group, suffix in GROUPS.items():
            tracked = [row for row in rows if "reward" + suffix in row["train"]]
            tables.append(
                pd.DataFrame(
                    {
                        "environment": environment_label(run.config),
                        "method": method_label(run.config),
                        "group": group,
                        "epoch": [row["epoch"] for row in tracked],
                        "reward": [row["train"]["reward" + suffix] for row in tracked],
                        "reward_std": [row["train"]["avg reward std" + suffix] for row in tracked],
                        "grad_norm": [row["train"]["grad norm" + suffix] for row in tracked],
                        "run": run.path.name,
                        "finished": run.manifest.get("status") == "finished",
                    }
                )
            )
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        raise NoRunsError(
            "no finetuning run with modified inputs (frac_samples_to_modify_labels > 0) and an epoch"
        )
    return table


def extraction_table(panels: dict[str, Path]) -> pd.DataFrame:
    """Reward mean and std of each input of extractions of the same inputs: panel name -> its .pt file.

    Columns: panel, input (position), id, mean, std (of the first file's first metric, over G generations,
    ddof 0). Files of the paper's released code have neither ids nor prompts: inputs are then told apart by
    their indices in the training set. Raises NoRunsError: not an extraction file, or not of the same inputs.
    """
    tables, first = [], None
    for panel, path in panels.items():
        extraction = load_rewards(path)
        first = first or extraction
        if not _of_same_inputs(first, extraction):
            raise NoRunsError(
                f"{path} is not of the inputs of {next(iter(panels.values()))}: extract with "
                "--set datapool.used_indices_from=FIRST.pt"
            )
        metric = next(iter(first["all_metric_values"]))
        if metric not in extraction["all_metric_values"]:
            known = ", ".join(map(str, extraction["all_metric_values"]))
            raise NoRunsError(f"{path} has no metric {metric!r}, which is drawn; it has {known}")
        rewards = extraction["all_metric_values"][metric].double().numpy()
        if not np.isfinite(rewards).any():
            raise NoRunsError(
                f"{path}: no value of its metric {metric!r} is a number: there is nothing to draw"
            )
        mean, std = input_statistics(rewards)
        tables.append(
            pd.DataFrame(
                {
                    "panel": panel,
                    "input": range(len(mean)),
                    "id": extraction.get("ids", extraction["used_train_indices"]),
                    "mean": mean,
                    "std": std,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _of_same_inputs(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two extractions are of the same inputs, by their prompts where both have these."""
    if "prompts" in first and "prompts" in other:
        return bool(first["prompts"] == other["prompts"])
    same = [extraction_task(extraction) for extraction in (first, other)]
    return first["used_train_indices"] == other["used_train_indices"] and len({*same} - {None}) <= 1


def extraction_task(extraction: dict[str, Any]) -> str | None:
    """The dataset of an extraction, by its config; None: it does not say."""
    config = extraction.get("config")
    pool = config.get("datapool") if isinstance(config, dict) else None
    return str(pool["id"]) if isinstance(pool, dict) and "id" in pool else None


def load_extraction(path: Path) -> dict[str, Any]:
    """What an extraction left in its .pt file. Raises NoRunsError if it is not one."""
    content = _load(path)
    if {"all_metric_values", "all_generated_texts", "prompts", "ids"} <= content.keys():
        return content
    raise NoRunsError(f"{path} is not an extraction file: it lacks texts, rewards or prompts")


def load_rewards(path: Path) -> dict[str, Any]:
    """Rewards and indices of the inputs of an extraction, also of the paper's released code.

    Its file has all_generated_texts, all_metric_values, used_train_indices, num_train_samples and config.
    Raises NoRunsError if it is none.
    """
    import torch

    content = _load(path)
    metrics, indices = content.get("all_metric_values"), content.get("used_train_indices")
    if not isinstance(metrics, dict) or not metrics or not isinstance(indices, list | torch.Tensor):
        raise NoRunsError(f"{path} is not an extraction file: it lacks rewards or indices of inputs")
    for name, values in metrics.items():
        if not isinstance(values, torch.Tensor) or values.ndim != 2 or len(values) != len(indices):
            raise NoRunsError(
                f"{path}: metric {name!r} is not a tensor of [{len(indices)} inputs, generations]"
            )
    return content | {"used_train_indices": [int(index) for index in indices]}


def _load(path: Path) -> dict[str, Any]:
    """Read a .pt file of a dictionary. Raises NoRunsError: it is none, or holds more than plain values."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = describe_load_error(error)
        raise NoRunsError(f"{path} cannot be read as an extraction file: {reason}") from error
    if not isinstance(content, dict):
        raise NoRunsError(f"{path} is not an extraction file: it holds {type(content).__name__}")
    return content

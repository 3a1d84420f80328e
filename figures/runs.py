"""Tidy tables from run directories: what the figures plot, and which runs it came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.files import describe_load_error
from common.run_dir import RunInfo, find_runs, read_metrics, read_run
from rft_diagnose.statistics import input_statistics

METHODS = {"expected_reinforce": "RFT", "reinforce": "RFT (sampled)", "supervised": "SFT"}
GROUPS = {"small": " small reward std", "large": " large reward std"}
MODELS = {"mlp": "MLP", "resnet18": "ResNet18", "bert-mini": "BERT-mini"}
DATASETS = {
    "digits": "digits",
    "mnist": "MNIST",
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

    Columns: environment, method (RFT, SFT), group (small, large: pretrain reward std), epoch, reward,
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
                        "method": METHODS[run.config["opt_method"]],
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

    Columns: panel, input (position), id, mean, std (of the file's first metric, over G generations, ddof 0).
    Raises NoRunsError: not an extraction file, or not of the same inputs.
    """
    tables, first = [], None
    for panel, path in panels.items():
        extraction = load_extraction(path)
        first = first or extraction
        if extraction["prompts"] != first["prompts"]:
            raise NoRunsError(
                f"{path} is not of the inputs of {next(iter(panels.values()))}: extract with "
                "--set datapool.used_indices_from=FIRST.pt"
            )
        rewards = next(iter(extraction["all_metric_values"].values())).double().numpy()
        mean, std = input_statistics(rewards)
        tables.append(
            pd.DataFrame(
                {
                    "panel": panel,
                    "input": range(len(mean)),
                    "id": extraction["ids"],
                    "mean": mean,
                    "std": std,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def load_extraction(path: Path) -> dict[str, Any]:
    """What an extraction left in its .pt file. Raises NoRunsError if it is not one.

    The released code's files hold no prompts: theirs are named by their positions among the train inputs.
    """
    import torch

    try:
        content = torch.load(path, weights_only=True)
        if not {"all_metric_values", "all_generated_texts"} <= content.keys():
            raise ValueError("it lacks texts or rewards")
        if "prompts" not in content:
            ids = [str(int(i)) for i in content["used_train_indices"]]
            values = {name: torch.as_tensor(rows) for name, rows in content["all_metric_values"].items()}
            prompts = [f"train input {i} (the file holds no prompts)" for i in ids]
            return {
                **content,
                "all_metric_values": values,
                "ids": ids,
                "prompts": prompts,
                "references": [[] for _ in ids],
            }
        return content
    except Exception as error:
        raise NoRunsError(
            f"{path} cannot be read as an extraction file: {describe_load_error(error)}"
        ) from error

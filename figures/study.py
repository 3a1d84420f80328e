"""The tidy tables of the study of text generation tasks, and the finished runs that they come from.

`inputs` has a row per model and input: `INPUTS` names its columns; `runs` one per training and split: `RUNS`.
Every figure and table of the study is a function of these two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import read_rows
from common.run_dir import RunError, RunInfo, read_run
from figures.runs import NoRunsError, load_extraction
from rft_diagnose.statistics import input_statistics

METHODS = {
    "pretrained": "pretrained",
    "rft": "RFT",
    "short": "short SFT",
    "short_rft": "short SFT + RFT",
    "sft": "SFT",
    "sft_rft": "SFT + RFT",
}
SHORT = {"short": "sft", "short_rft": "sft_rft"}  # in `runs`, where labels and updates tell short from full
GROUP_METHODS = {  # of the comparison of group algorithms, beside the pretrained model
    "ppo": "PPO",
    "grpo": "GRPO",
    "dapo": "DAPO",
    "rloo": "RLOO",
    "dr_grpo": "Dr. GRPO",
    "gspo": "GSPO",
    "reinforce_pp": "REINFORCE++",
    "short": "short SFT",
    "short_grpo": "short SFT, then GRPO",
    "grpo_scaled": "GRPO, reward / 1,000",
    "rloo_scaled": "RLOO, reward / 1,000",
}
INPUTS = {
    "task": "name of the task with its reward",
    "data": "name of the task, the same under each of its rewards",
    "seed": "of the runs; the pretrained model has rows for each seed, of one extraction or of several",
    "method": "of the model: " + ", ".join(METHODS),
    "sample": "1, or 2 for the independent second extraction of the same model",
    "split": "of the input: train or test",
    "input": "position among the extraction's inputs, the same for all models of a task, seed and split",
    "id": "of the dataset",
    "mean": "of the reward over the input's generations",
    "std": "of the reward over the input's generations (ddof 0, as in the paper)",
    "run": "folder of the extraction",
}
RUNS = {
    "task": "name of the task",
    "seed": "of the run",
    "method": "rft, sft or sft_rft, after any SFT",
    "split": "train, val or test",
    "learning_rate": "of this training",
    "temperature": "of the rollouts; NaN for sft",
    "ent_coef": "weight of the entropy bonus; NaN for sft",
    "sft_updates": "optimisation steps of SFT, of sft_rft's first phase; 0 for rft",
    "sft_labels": "share of the train inputs whose labels SFT saw, between 0 and 1; 0 for rft",
    "start_reward": "mean reward before this training",
    "reward": "mean reward after it, one generation per input",
    "se": "standard error of `reward` over inputs; NaN where the texts were not kept",
    "gain_se": "standard error of `reward` - `start_reward` over inputs, likewise",
    "texts": "number of inputs evaluated; NaN where the texts were not kept",
    "measure": "texts: mean over texts; corpus: the metric's value of the corpus, which SacreBLEU's mean "
    "is not",
    "run": "folder of the training",
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run that the study needs, whether it has been made or not: an extraction or a training.

    data: what tasks that differ in the reward alone share, if it is not the task; reward: result key of the
    metric that is the task's reward (lexical/rouge_l_max); path: the run's folder, None before there is one;
    command: makes the run, or goes on with it; sample, split: an extraction's, see `INPUTS`; sft: the folder
    of the first phase's run, for a training of method short_rft or sft_rft; problem: why a finished run
    cannot be drawn, see `mark_unusable`.
    """

    task: str
    seed: int
    method: str
    reward: str
    path: Path | None
    command: str
    data: str = ""
    sample: int = 1
    split: str = "train"
    sft: Path | None = None
    problem: str = ""

    @property
    def label(self) -> str:
        """Names the run for a reader."""
        second = ", second sample" if self.sample == 2 else ""
        split = "" if self.split == "train" else f", {self.split} inputs"
        return f"{self.task}, {(METHODS | GROUP_METHODS)[self.method]}, seed {self.seed}{second}{split}"

    @property
    def status(self) -> str:
        """Says "finished", or why the run cannot be drawn."""
        if self.problem:
            return f"not usable ({self.problem})"
        try:
            return "not started" if self.path is None else str(read_run(self.path).manifest.get("status"))
        except RunError:
            return "not started"


def finished(sources: Iterable[Source]) -> list[Source]:
    """Keep the sources that can be drawn."""
    return [source for source in sources if source.status == "finished"]


def mark_unusable(sources: Iterable[Source]) -> list[Source]:
    """Give the finished extractions and trainings that cannot be drawn their `problem`, rather than raise it.

    Of models that saw different inputs, those that saw the pretrained one's are kept, without it the first's.
    """
    marked = list(sources)
    kept: dict[tuple[str, int, str], Source] = {}
    for place, source in sorted(enumerate(marked), key=lambda pair: pair[1].method != "pretrained"):
        problem = source.problem
        if source.status == "finished":
            assert source.path is not None
            try:
                if read_run(source.path).manifest.get("job") == "extraction":
                    first = kept.get((source.task, source.seed, source.split))
                    inputs_table([source] if first is None else [first, source])
                    kept.setdefault((source.task, source.seed, source.split), source)
                else:
                    runs_table([source])
            except (NoRunsError, RunError) as error:
                problem = str(error)
            except KeyError as error:
                problem = f"{source.path}: its config or manifest has no {error}"
        marked[place] = replace(source, problem=problem)
    return marked


def gaps(sources: Iterable[Source]) -> list[dict[str, str]]:
    """List the sources that cannot be drawn: run, status, and the command that makes it."""
    rows = [
        {
            "run": source.label,
            "status": source.status,
            "command": "" if source.problem else source.command,
        }
        for source in sources
    ]
    return [row for row in rows if row["status"] != "finished"]


def partial_note(missing: Sequence[dict[str, str]], total: int) -> str:
    """Say in a title that some of an item's runs are missing; "" if none is."""
    return f"partial: {len(missing)} of {total} runs missing" if missing else ""


def describe_runs(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Identify each run that an item comes from, for its JSON file."""
    rows = []
    for source in sources:
        assert source.path is not None  # finished
        run = read_run(source.path)
        rows.append(
            {
                "path": str(source.path),
                "task": source.task,
                "method": source.method,
                "seed": source.seed,
                "sample": source.sample,
                **({"split": source.split} if run.manifest.get("job") == "extraction" else {}),
                "status": run.manifest.get("status"),
                "commit": run.manifest.get("commit"),
                "config": run.config,
            }
        )
    return rows


def inputs_table(sources: Sequence[Source]) -> pd.DataFrame:
    """The table `inputs` of the extractions that are finished; see `INPUTS`.

    Raises NoRunsError: none is finished, a file is no extraction, or models of a task, seed and split saw
    different inputs.
    """
    tables = []
    first: dict[tuple[str, int, str], tuple[Path, list[str]]] = {}
    for source in _require_finished(sources):
        assert source.path is not None
        path = extraction_file(source.path)
        extraction = load_extraction(path)
        key = (source.task, source.seed, source.split)
        first_path, prompts = first.setdefault(key, (path, extraction["prompts"]))
        if extraction["prompts"] != prompts:
            raise NoRunsError(
                f"{path} is not of the inputs of {first_path}: extract with "
                f"--set datapool.used_indices_from={first_path}"
            )
        mean, std = input_statistics(_rewards(extraction, source.reward, path))
        tables.append(
            pd.DataFrame(
                {
                    "task": source.task,
                    "data": source.data or source.task,
                    "seed": source.seed,
                    "method": source.method,
                    "sample": source.sample,
                    "split": source.split,
                    "input": range(len(mean)),
                    "id": extraction["ids"],
                    "mean": mean,
                    "std": std,
                    "run": source.path.name,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def runs_table(sources: Sequence[Source]) -> pd.DataFrame:
    """The table `runs` of the trainings that are finished; see `RUNS`.

    Raises NoRunsError: none is finished, or one has no evaluation with the reward before and after training.
    """
    rows = []
    for source in _require_finished(sources):
        assert source.path is not None
        run = read_run(source.path)
        method = SHORT.get(source.method, source.method)
        fixed = {"task": source.task, "seed": source.seed, "method": method}
        for split in SPLITS:
            if evaluated := _read_rewards(run, split, source.reward):
                rows.append(
                    fixed
                    | {"split": split}
                    | _hyperparameters(run, source)
                    | evaluated
                    | {"run": run.path.name}
                )
    return pd.DataFrame(rows, columns=list(RUNS))


def extraction_file(run: Path) -> Path:
    """The .pt file that the extraction of folder `run` left beside it."""
    return run.with_name(f"{run.name}.pt")


def _require_finished(sources: Sequence[Source]) -> list[Source]:
    """Keep the finished ones. Raises NoRunsError if there is none."""
    usable = finished(sources)
    if not usable:
        lines = [f"  {row['run']}: {row['status']}; {row['command']}" for row in gaps(sources)]
        raise NoRunsError("\n".join(["none of the runs that are needed is finished:", *lines]))
    return usable


def _rewards(extraction: dict[str, Any], reward: str, path: Path) -> np.ndarray:
    """Rewards [N, G]."""
    values = extraction["all_metric_values"]
    if reward not in values:
        raise NoRunsError(f"{path} has no rewards {reward!r}, only {', '.join(values)}")
    return values[reward].double().numpy()


def _hyperparameters(run: RunInfo, source: Source) -> dict[str, Any]:
    alg = run.config["alg"]
    if source.method in ("short", "sft"):
        return {
            "learning_rate": alg["training_args"].get("learning_rate", float("nan")),
            "temperature": float("nan"),
            "ent_coef": float("nan"),
            **_sft_amount(run),
        }
    args = alg["args"]
    phase = {"sft_updates": 0, "sft_labels": 0.0} if source.sft is None else _sft_amount(read_run(source.sft))
    return {
        "learning_rate": args["learning_rate"],
        "temperature": alg["policy"]["args"]["generation_kwargs"]["temperature"],
        "ent_coef": args["ent_coef"],
        **phase,
    }


def _sft_amount(run: RunInfo) -> dict[str, Any]:
    """How much SFT a run of SFT did."""
    share = run.config["datapool"]["frac_train_samples"]
    return {
        "sft_updates": run.manifest["trained"]["updates"],
        "sft_labels": 1.0 if share == -1 else share,
    }


def _read_rewards(run: RunInfo, split: str, reward: str) -> dict[str, Any]:
    """Reward before and after training on a split; {} if it was not evaluated."""
    prefix = run.manifest.get("prefix", "")
    rows = read_rows(run.path / f"{prefix}{split}_split_metrics.jsonl", "epoch")
    if not rows:
        return {}
    before, after = min(rows, key=lambda row: row["epoch"]), max(rows, key=lambda row: row["epoch"])
    if before is after or reward not in before["metrics"] or reward not in after["metrics"]:
        raise NoRunsError(
            f"{run.path}: {split} was not evaluated before and after training with {reward!r}; "
            f"its metrics: {', '.join(after['metrics'])}"
        )
    texts = [_read_text_rewards(run, split, row["epoch"], reward) for row in (before, after)]
    if texts[0] is not None and texts[1] is not None:
        same = len(texts[0]) == len(texts[1])  # an evaluation takes the same inputs each time
        return {
            "start_reward": texts[0].mean(),
            "reward": texts[1].mean(),
            "se": _standard_error(texts[1]),
            "gain_se": _standard_error(texts[1] - texts[0]) if same else float("nan"),
            "texts": len(texts[1]),
            "measure": "texts",
        }
    return {
        "start_reward": before["metrics"][reward],
        "reward": after["metrics"][reward],
        "se": float("nan"),
        "gain_se": float("nan"),
        "texts": float("nan"),
        "measure": "corpus",
    }


def _standard_error(values: np.ndarray) -> float:
    """Of the mean of values [N]; NaN for a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _read_text_rewards(run: RunInfo, split: str, epoch: float, reward: str) -> np.ndarray | None:
    """Reward of each text [N] of an evaluation, None where it was not kept (--log_entire_predictions)."""
    prefix = run.manifest.get("prefix", "")
    path = run.path / f"{prefix}epoch_{epoch}_{split}_split_predictions.json"
    if not path.is_file():
        return None
    rows = json.loads(path.read_bytes())
    if not all(reward in row["metrics"] for row in rows):
        return None
    return np.array([row["metrics"][reward] for row in rows], dtype=np.float64)

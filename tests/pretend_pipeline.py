"""Folders that look like finished runs of InstructGPT's pipeline."""

from __future__ import annotations

import json
from pathlib import Path

from pretend_models import ARCHITECTURES

from common.identity import IDENTITY
from common.run_dir import RunDir
from paper.instructgpt.config import Pipeline
from paper.instructgpt.data import MIXES, TABLES, mix_name
from paper.instructgpt.plans import REWARD_MODEL
from paper.instructgpt.runs import Planned

REWARDS = ("reward_model", "other_reward_model", "grouped", "epochs", "shuffled")
RANKING = {"prompt": "a", "completions": ["b", "c", "d"], "scores": [1.0, 2.0, 3.0], "references": ["e"]}


def pretend_run(pipeline: Pipeline, planned: Planned, base: Path, scores: float = 0.0) -> Path:
    """Make what later stages look at of a run; scores: of its last evaluation on train."""
    prefix = f"{planned.name}_"
    fields = {"status": "finished", IDENTITY: planned.name, "mean": 0.5, "std": 2.0, "noise_scale": 1.0}
    with RunDir.create(base, planned.name, {}, fields, prefix=prefix) as run:
        if planned.configuration is not None:
            _pretend_model(pipeline, planned, run.path / f"{prefix}model")
        if planned.method.startswith("choice"):
            key = "semantic/learned_automodel_metric"
            row = {"epoch": 3, "metrics": {REWARD_MODEL: scores, key: scores}}
            run.rows(f"{prefix}train_split_metrics.jsonl", "epoch").append(row)
        if planned.method == "rankings":
            _write_rankings(run.path / "rankings", planned.name)
        if planned.method == "mixes":
            for share in pipeline.config.teachers.on_policy:
                _write_rankings(run.path / MIXES / mix_name(share), f"{planned.name} {share}")
            (run.path / TABLES).mkdir()
            for name in ("perfect", "squashed", "half"):
                (run.path / TABLES / f"{name}.json").write_text(
                    json.dumps({"name": name, "of": planned.name})
                )
        return run.path


def _pretend_model(pipeline: Pipeline, planned: Planned, folder: Path) -> None:
    is_other = pipeline.config.other is not None and planned.task == pipeline.case(pipeline.config.other).task
    config = ARCHITECTURES["seq2seq" if is_other else "causal"]
    if planned.kind in REWARDS:
        config = config | {"reward_scale": 1.0}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("model.safetensors", "tokenizer.json"):
        (folder / file).write_text(planned.name)  # by which folders differ


def _write_rankings(folder: Path, prompt: str) -> None:
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        rows = [json.dumps(RANKING | {"prompt": f"{prompt} {number} {i}"}) for i in range(4)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")

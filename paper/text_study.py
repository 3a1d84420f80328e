"""Figures 1, 2, 4, 5 and Tables 1, 2: the study of text generation tasks, run and drawn."""

from __future__ import annotations

import argparse
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import load_config
from common.run_dir import find_runs
from rl4lms.config.pretraining import PretrainConfig
from rl4lms.model_source import check_model_source
from rl4lms.study import StudyConfig, comparison, load_study, selection, sweeps
from rl4lms.study_run import Done, StudyError, run_study

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.items import Study
    from figures.report import Item

logger = logging.getLogger(__name__)

STUDIES = {"laptop": "rl4lms_scripts/laptop/study.yml"}
ITEMS = ("figure1", "figure2", "table1", "figure5", "table2", "figure4")
SWEEP_ITEMS = ("table2", "figure4")
MODELS = Path("outputs/laptop_models")
PRETRAIN_RUNNER = "pretrain_small_language_model.py"
# Minutes on one of two cores, measured on the laptop study; for the table of stages alone.
MINUTES = {"pretraining": 12.0, "extraction": 0.3, "training": 1.2}
PAPER_PLANS = {
    "comparison": "rl4lms_scripts/sweeps/narrative_qa_comparison.yml",
    "table2": "rl4lms_scripts/sweeps/narrative_qa_section_5_1.yml",
    "figure4": "rl4lms_scripts/sweeps/narrative_qa_section_5_2.yml",
}


def asked_items(only: Sequence[str] | None) -> list[str]:
    """The items of the study among those asked for; all if none was named."""
    return [item for item in ITEMS if not only or item in only]


def stages(study: StudyConfig, items: Sequence[str], seeds: int, jobs: int) -> list[str]:
    """The table of stages, with how long each takes by estimate where nothing is there yet."""
    rates = dict.fromkeys(study.tasks, study.rft_learning_rates[0])
    rows = [("pretraining", len(study.models), 1)]
    planned = [(selection(study), 1), (comparison(study, rates), seeds)]
    if set(items) & set(SWEEP_ITEMS):
        planned.append((sweeps(study, rates), 1))
    for (configurations, runs), repetitions in planned:
        for kind in ("extraction", "training"):
            counts = [
                configuration.get("repetitions") or repetitions
                for configuration, run in zip(configurations, runs, strict=True)
                if run.kind == kind
            ]
            if counts:
                rows.append((kind, sum(counts), jobs))
    lines = [
        f"{kind:<12} {count:>4} runs   about {MINUTES[kind] * count / at_a_time:4.0f} min"
        for kind, count, at_a_time in rows
    ]
    total = sum(MINUTES[kind] * count / at_a_time for kind, count, at_a_time in rows)
    return [
        *lines,
        f"{'in all':<12} {'':>4}        about {total:4.0f} min; what is finished is not run again",
    ]


def make_models(study: StudyConfig) -> None:
    """Pretrain the models of a study that are not there, or go on with a pretraining that was cut.

    Raises StudyError, KeyboardInterrupt.
    """
    for path in study.models:
        config = load_config(path, PretrainConfig, [])
        folder = MODELS / config.name
        if check_model_source(str(folder)) is None:
            continue
        cut = [
            run.path
            for run in find_runs(MODELS)
            if run.config == config.model_dump() and run.manifest.get("status") != "finished"
        ]
        start = ["--resume", str(cut[-1])] if cut else ["--config_path", path]
        command = [sys.executable, PRETRAIN_RUNNER, *start]
        status = subprocess.run(command, check=False).returncode
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise StudyError(f"pretraining failed: {shlex.join(command)}")


def run_and_draw(args: argparse.Namespace, folder: Path) -> tuple[list[Item], Results]:
    """Make the models, run the study, draw the asked items into `folder`; returns them with their tables.

    Raises StudyError, StudyInterrupted, ConfigError, KeyboardInterrupt.
    """
    study = load_study(STUDIES[args.scale])
    items = asked_items(args.only)
    make_models(study)
    done = run_study(study, seeds=args.seeds, jobs=args.jobs, with_sweeps=bool(set(items) & set(SWEEP_ITEMS)))
    # Seconds of imports, only now.
    from figures.items import draw, results_of

    drawn = figures_study(study, done)
    results = results_of(drawn)
    return [draw(item, drawn, results, folder) for item in items], results


def figures_study(study: StudyConfig, done: Sequence[Done]) -> Study:
    """The finished runs as the figures take them."""
    from figures.items import Study
    from figures.study import Source

    sources: dict[str, list[Source]] = {"extraction": [], "training": []}
    for one in done:
        # The pretrained model's statistics are the same for every seed of the finetunings.
        seeds = {other.seed for other in done} if one.run.method == "pretrained" else {one.seed}
        for seed in sorted(seeds):
            sources[one.run.kind].append(
                Source(
                    task=one.run.task,
                    seed=seed,
                    method=one.run.method,
                    reward=study.tasks[one.run.task].key,
                    path=one.path,
                    command=one.command,
                    sample=one.run.sample,
                    sft=one.start if one.run.method == "sft_rft" else None,
                )
            )
    return Study(
        extractions=sources["extraction"],
        trainings=sources["training"],
        labels={name: task.label for name, task in study.tasks.items()},
        base={one.run.task: _settings(one) for one in done if one.run.configuration == f"{one.run.task}-rft"},
        command=shlex.join(["python", *sys.argv]),
    )


def _settings(one: Done) -> dict[str, float]:
    """What RFT of a task was run with, where nothing is raised."""
    alg = one.experiment.config.alg
    assert hasattr(alg, "args")
    return {
        "learning_rate": alg.args.learning_rate,
        "temperature": alg.generation_kwargs.temperature,
        "ent_coef": alg.args.ent_coef,
    }


def paper_commands(items: Sequence[str]) -> list[str]:
    """What makes the runs of each item at the paper's scale: hours of a GPU, from the hub."""
    runner = "python rl4lms_plan_runner.py --plan_config_path"
    lines = []
    for item in items:
        plan = PAPER_PLANS.get(item, PAPER_PLANS["comparison"])
        lines.append(f"{item:<10} {runner} {plan}")
    return lines

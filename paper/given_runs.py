"""Items of the text study from runs or extraction files that exist, whatever made them: `--runs`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import this_command
from common.files import read_rows
from common.run_dir import RunError, RunInfo, read_run
from paper.controlled import show

if TYPE_CHECKING:
    from figures.items import Study


EXTRACTION_ITEMS, EXTRACTION_SUFFIX = ("figure1", "figure5"), ".pt"
PANELS = ("pretrained", "RFT", "SFT")
EXTRACT_RUNNER = "python rl4lms_extract_samples_from_model_runner.py"


def draw_extractions(args: argparse.Namespace, items: Sequence[str]) -> int:
    """Figures 1 and 5 from extraction files, pretrained / RFT / SFT in this order."""
    if set(items) - set(EXTRACTION_ITEMS) or len(args.runs) > len(PANELS):
        print(
            f"{' and '.join(EXTRACTION_ITEMS)} alone are drawn from extraction files, others from folders of "
            f"runs: --only {' '.join(EXTRACTION_ITEMS)} --runs PRETRAINED.pt [RFT.pt [SFT.pt]]; such a file "
            f"comes from: {EXTRACT_RUNNER} --config_path CONFIG",
            file=sys.stderr,
        )
        return 2
    from figures.figure1_5 import example_inputs, figure1, figure5
    from figures.runs import NoRunsError, extraction_table, load_extraction
    from figures.style import save_figure

    panels = dict(zip(PANELS, args.runs, strict=False))
    try:
        table = extraction_table(panels)
        first = load_extraction(args.runs[0])
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    reward, values = next(iter(first["all_metric_values"].items()))
    if "figure1" in items:
        title = f"{first['config']['datapool']['id']}: {len(values):,} train inputs"
        runs = [{"panel": panel, "path": str(path)} for panel, path in panels.items()]
        show(save_figure(figure1(table, reward, title), args.output_dir / "runs" / "figure1", table, runs))
    if "figure5" in items:
        for title, i in zip(
            ("small std", "large std"), example_inputs(table[table["panel"] == PANELS[0]]), strict=True
        ):
            texts, rewards = first["all_generated_texts"][i], values[i].tolist()
            print(figure5(first["prompts"][i], first["references"][i], texts, rewards, f"{title}, input {i}"))
    return 0


def draw_given_study(args: argparse.Namespace, items: Sequence[str]) -> int:
    """Draw the items from the trainings and extractions in `args.runs`; returns the exit status."""
    # Seconds of imports, only now.
    from figures.items import draw, results_of
    from figures.runs import NoRunsError, runs_in

    try:
        study = study_of(runs_in(args.runs))
        results = results_of(study)
        folder = args.output_dir / "runs"
        lacking = 0
        for name in items:
            item = draw(name, study, results, folder)
            lacking += not item.stems
            for stem in item.stems:
                print(f"{item.name}: {stem}.*")
            if not item.stems:
                print(f"{item.name}: none of the runs given can be drawn in it", file=sys.stderr)
            for gap in item.missing:
                print(f"{item.name}: {gap['run']} is {gap['status']}: {gap['command']}", file=sys.stderr)
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    return 2 if lacking == len(items) else 0


def study_of(runs: Sequence[RunInfo]) -> Study:
    """The runs by what they are of, as their configs and manifests say.

    Task: the dataset, and of `python_docs` the form. Method: of a training its algorithm and whether it began
    with the model of a supervised one; of an extraction that of the training whose model it samples, or
    pretrained. Reward: the metric of the task's extractions, of a task without them the only metric of its
    trainings. Sample: extractions of the pretrained model's rewards of a split in the order of their seeds.
    Raises NoRunsError.
    """
    from figures.items import Study
    from figures.runs import NoRunsError
    from figures.study import Source, finished, runs_table

    trainings = [run for run in runs if run.manifest.get("job") == "training"]
    extractions = [run for run in runs if run.manifest.get("job") == "extraction"]
    if not trainings and not extractions:
        raise NoRunsError(
            "no training and no extraction is among the runs given: they come from rl4lms_plan_runner.py, "
            "rl4lms_train_text_generation.py and rl4lms_extract_samples_from_model_runner.py"
        )
    rewards = _rewards(trainings, extractions)

    def source(run: RunInfo, **more: Any) -> Source:
        task = task_of(run)
        of_run = {"task": task, "reward": rewards[task], "path": run.path, "command": _again(run)}
        return Source(**{"seed": run.config["runtime"]["seed"], "method": method_of(run), **of_run, **more})

    trained = [
        source(run, sft=parent.path if (parent := parent_of(run)) and method_of(run) == "sft_rft" else None)
        for run in trainings
    ]
    sampled = [
        source(run, seed=parent.config["runtime"]["seed"], split=split_of(run))
        for run in extractions
        if (parent := parent_of(run)) is not None
    ]
    measured = {run.path for run in map(parent_of, extractions) if run is not None}
    seeds: dict[str, set[int]] = {}
    plain: dict[tuple[str, str], list[RunInfo]] = {}
    for one in [*trained, *sampled]:
        seeds.setdefault(one.task, set()).add(one.seed)
    for run in extractions:
        if parent_of(run) is None:
            plain.setdefault((task_of(run), split_of(run)), []).append(run)
    for (task, split), of_split in plain.items():
        ordered = sorted(of_split, key=lambda run: run.config["runtime"]["seed"])
        for number, run in enumerate(ordered[:2], start=1):
            # The pretrained model's statistics are the same for every seed of the finetunings.
            own = source(run, sample=number, split=split)
            sampled += [replace(own, seed=seed) for seed in sorted(seeds.get(task, {own.seed}))]
    # RFT's own settings are those whose rewards were measured; of several trainings else the first one's.
    base: dict[str, dict[str, float]] = {}
    for one in sorted(
        (one for one in finished(trained) if one.method == "rft"), key=lambda one: one.path not in measured
    ):
        row = runs_table([one]).iloc[0]
        settings = {name: float(row[name]) for name in ("learning_rate", "temperature", "ent_coef")}
        base.setdefault(one.task, settings)
    counts = {task: sum(one.task == task for one in trained) for task in rewards}
    return Study(
        extractions=sampled,
        trainings=trained,
        base=base,
        swept=max(counts, key=lambda task: counts[task]),
        command=this_command(),
    )


def task_of(run: RunInfo) -> str:
    """The dataset of a run, of the docstrings what is asked of them."""
    pool: Mapping[str, Any] = run.config["datapool"]
    form = (pool.get("args") or {}).get("form")
    name = form if pool["id"] == "python_docs" and form else pool["id"]
    return str(name).removesuffix("_seq2seq")  # IMDB's, of supervised finetuning


def split_of(run: RunInfo) -> str:
    """Of the inputs of an extraction; earlier ones were all of train."""
    return str(run.config["datapool"].get("split", "train"))


def method_of(run: RunInfo) -> str:
    """pretrained, rft, sft or sft_rft."""
    parent = parent_of(run)
    if run.manifest["job"] == "extraction":
        return "pretrained" if parent is None else method_of(parent)
    if run.config["alg"]["id"] == "supervised":
        return "sft"
    return "sft_rft" if parent is not None and method_of(parent) == "sft" else "rft"


def parent_of(run: RunInfo) -> RunInfo | None:
    """The training whose model a run began with; None: a model of its own, or no record of it."""
    alg = run.config["alg"]
    model = alg["policy"]["args"] if "policy" in alg else alg
    path = Path(run.manifest.get("parent_run") or Path(model["model_name"]).expanduser().parent)
    for candidate in (
        path,
        run.path.parent / path.name,
    ):  # as it was called then; beside it, if all were moved
        try:
            found = read_run(candidate)
        except RunError:
            continue
        if found.manifest.get("job") == "training":
            return found
    return None


def _rewards(trainings: Sequence[RunInfo], extractions: Sequence[RunInfo]) -> dict[str, str]:
    """The result key of each task's reward."""
    from figures.runs import NoRunsError, load_extraction
    from figures.study import extraction_file

    found: dict[str, str] = {}
    for run in extractions:
        if run.manifest.get("status") == "finished" and task_of(run) not in found:
            found[task_of(run)] = next(iter(load_extraction(extraction_file(run.path))["all_metric_values"]))
    for run in trainings:
        task = task_of(run)
        metrics = _metric_keys(run) if task not in found else []
        if len(metrics) == 1:
            found[task] = metrics[0]
        elif metrics:
            raise NoRunsError(
                f"{run.path}: {task} has no finished extraction among the runs given and its trainings have "
                f"several metrics ({', '.join(metrics)}): give an extraction, whose metric is the reward"
            )
    if lost := {task_of(run) for run in [*trainings, *extractions]} - found.keys():
        raise NoRunsError(f"no run of {', '.join(sorted(lost))} has a reward yet: none was evaluated")
    return found


def _metric_keys(run: RunInfo) -> list[str]:
    """Of a training, as far as it was evaluated."""
    for split in ("train", "val", "test"):
        rows = read_rows(run.path / f"{run.manifest.get('prefix', '')}{split}_split_metrics.jsonl", "epoch")
        if rows:
            return list(rows[0]["metrics"])
    return []


def _again(run: RunInfo) -> str:
    """What goes on with a run."""
    if run.manifest.get("job") == "extraction":
        return f"python rl4lms_extract_samples_from_model_runner.py --resume {run.path}"
    return f"python rl4lms_train_text_generation.py --resume {run.path}"

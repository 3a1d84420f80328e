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
    """Draw Figures 1 and 5 from extraction files, pretrained / RFT / SFT in this order."""
    if set(items) - set(EXTRACTION_ITEMS) or len(args.runs) > len(PANELS):
        print(
            f"{' and '.join(EXTRACTION_ITEMS)} alone are drawn from extraction files, others from folders of "
            f"runs: --only {' '.join(EXTRACTION_ITEMS)} --runs PRETRAINED.pt [RFT.pt [SFT.pt]]; such a file "
            f"comes from: {EXTRACT_RUNNER} --config_path CONFIG",
            file=sys.stderr,
        )
        return 2
    from figures.figure1_5 import example_inputs, figure1, figure5
    from figures.runs import NoRunsError, extraction_table, extraction_task, load_extraction, load_rewards
    from figures.style import save_figure

    panels = dict(zip(PANELS, args.runs, strict=False))
    try:
        table = extraction_table(panels)
        # The files of the paper's released code have no prompts, which Figure 5 shows.
        first = (load_extraction if "figure5" in items else load_rewards)(args.runs[0])
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    reward, values = next(iter(first["all_metric_values"].items()))
    if "figure1" in items:
        title = f"{extraction_task(first) or args.runs[0].stem}: {len(values):,} train inputs"
        runs = [{"panel": panel, "path": str(path)} for panel, path in panels.items()]
        show(save_figure(figure1(table, reward, title), args.output_dir / "runs" / "figure1", table, runs))
    if "figure5" in items:
        small, large = example_inputs(table[table["panel"] == PANELS[0]])
        for title, i in (("small std", small), ("large std", large)):
            texts, rewards = first["all_generated_texts"][i], values[i].tolist()
            print(figure5(first["prompts"][i], first["references"][i], texts, rewards, f"{title}, input {i}"))
    return 0


def draw_given_study(args: argparse.Namespace, items: Sequence[str]) -> int:
    """Draw the items from the trainings and extractions in `args.runs`; returns the exit status."""
    # Seconds of imports, only now.
    from figures.items import collect_results, draw
    from figures.runs import NoRunsError, runs_in

    try:
        study = build_study(runs_in(args.runs))
        results = collect_results(study)
        folder = args.output_dir / "runs"
        num_empty = 0
        for name in items:
            item = draw(name, study, results, folder)
            num_empty += not item.stems
            for stem in item.stems:
                print(f"{item.name}: {stem}.*")
            if not item.stems:
                print(f"{item.name}: none of the runs given can be drawn in it", file=sys.stderr)
            for gap in item.missing:
                print(f"{item.name}: {gap['run']} is {gap['status']}: {gap['command']}", file=sys.stderr)
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    return 2 if num_empty == len(items) else 0


def build_study(runs: Sequence[RunInfo]) -> Study:
    """Tell what the runs are of from their configs and manifests, and make a study of them.

    The task is the dataset, with `python_docs` its form. A training's method is its algorithm and whether it
    began with the model of a supervised one; an extraction's is that of the training whose model it samples,
    or pretrained. The reward is the metric of the task's extractions, without them the only metric of its
    trainings. Samples are the pretrained model's extractions of a split in the order of their seeds.
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
    rewards = _find_rewards(trainings, extractions)

    def make_source(run: RunInfo, **overrides: Any) -> Source:
        task = read_task(run)
        fields: dict[str, Any] = {
            "task": task,
            "seed": run.config["runtime"]["seed"],
            "method": find_method(run),
            "reward": rewards[task],
            "path": run.path,
            "command": _resume_command(run),
        }
        return Source(**fields | overrides)

    trained = []
    for run in trainings:
        parent = find_parent(run)
        phase = parent.path if parent is not None and find_method(run) == "sft_rft" else None
        trained.append(make_source(run, sft=phase))
    sampled = [
        make_source(run, seed=parent.config["runtime"]["seed"], split=read_split(run))
        for run in extractions
        if (parent := find_parent(run)) is not None
    ]
    measured = {run.path for run in map(find_parent, extractions) if run is not None}
    seeds: dict[str, set[int]] = {}
    plain: dict[tuple[str, str], list[RunInfo]] = {}
    for source in [*trained, *sampled]:
        seeds.setdefault(source.task, set()).add(source.seed)
    for run in extractions:
        if find_parent(run) is None:
            plain.setdefault((read_task(run), read_split(run)), []).append(run)
    for (task, split), split_runs in plain.items():
        ordered = sorted(split_runs, key=lambda run: run.config["runtime"]["seed"])
        for number, run in enumerate(ordered[:2], start=1):
            # The pretrained model's statistics are the same for every seed of the finetunings.
            source = make_source(run, sample=number, split=split)
            sampled += [replace(source, seed=seed) for seed in sorted(seeds.get(task, {source.seed}))]
    # RFT's own settings are those whose rewards were measured; otherwise those of the first training.
    base: dict[str, dict[str, float]] = {}
    rft_sources = [source for source in finished(trained) if source.method == "rft"]
    for source in sorted(rft_sources, key=lambda source: source.path not in measured):
        row = runs_table([source]).iloc[0]
        settings = {name: float(row[name]) for name in ("learning_rate", "temperature", "ent_coef")}
        base.setdefault(source.task, settings)
    counts = {task: sum(source.task == task for source in trained) for task in rewards}
    return Study(
        extractions=sampled,
        trainings=trained,
        base=base,
        swept=max(counts, key=lambda task: counts[task]),
        command=this_command(),
    )


def read_task(run: RunInfo) -> str:
    """Read a run's dataset; for docstrings, what is asked of them."""
    pool: Mapping[str, Any] = run.config["datapool"]
    form = (pool.get("args") or {}).get("form")
    name = form if pool["id"] == "python_docs" and form else pool["id"]
    return str(name).removesuffix("_seq2seq")  # IMDB's, of supervised finetuning


def read_split(run: RunInfo) -> str:
    """Read the split of an extraction's inputs; earlier ones were all of train."""
    return str(run.config["datapool"].get("split", "train"))


def find_method(run: RunInfo) -> str:
    """Find a run's method: pretrained, rft, sft or sft_rft."""
    parent = find_parent(run)
    if run.manifest["job"] == "extraction":
        return "pretrained" if parent is None else find_method(parent)
    if run.config["alg"]["id"] == "supervised":
        return "sft"
    return "sft_rft" if parent is not None and find_method(parent) == "sft" else "rft"


def find_parent(run: RunInfo) -> RunInfo | None:
    """Find the training whose model a run began with; None: a model of its own, or no record of it."""
    alg = run.config["alg"]
    model = alg["policy"]["args"] if "policy" in alg else alg
    path = Path(run.manifest.get("parent_run") or Path(model["model_name"]).expanduser().parent)
    # As it was called then; beside it, if all were moved.
    for candidate in (path, run.path.parent / path.name):
        try:
            parent = read_run(candidate)
        except RunError:
            continue
        if parent.manifest.get("job") == "training":
            return parent
    return None


def _find_rewards(trainings: Sequence[RunInfo], extractions: Sequence[RunInfo]) -> dict[str, str]:
    """Find the result key of each task's reward."""
    from figures.runs import NoRunsError, load_extraction
    from figures.study import extraction_file

    rewards: dict[str, str] = {}
    for run in extractions:
        if run.manifest.get("status") == "finished" and read_task(run) not in rewards:
            extraction = load_extraction(extraction_file(run.path))
            rewards[read_task(run)] = next(iter(extraction["all_metric_values"]))
    for run in trainings:
        task = read_task(run)
        metrics = _metric_keys(run) if task not in rewards else []
        if len(metrics) == 1:
            rewards[task] = metrics[0]
        elif metrics:
            raise NoRunsError(
                f"{run.path}: {task} has no finished extraction among the runs given and its trainings have "
                f"several metrics ({', '.join(metrics)}): give an extraction, whose metric is the reward"
            )
    if unrewarded := {read_task(run) for run in [*trainings, *extractions]} - rewards.keys():
        raise NoRunsError(f"no run of {', '.join(sorted(unrewarded))} has a reward yet: none was evaluated")
    return rewards


def _metric_keys(run: RunInfo) -> list[str]:
    """List the result keys of a training, as far as it was evaluated."""
    for split in ("train", "val", "test"):
        rows = read_rows(run.path / f"{run.manifest.get('prefix', '')}{split}_split_metrics.jsonl", "epoch")
        if rows:
            return list(rows[0]["metrics"])
    return []


def _resume_command(run: RunInfo) -> str:
    """The command that goes on with a run."""
    if run.manifest.get("job") == "extraction":
        return f"python rl4lms_extract_samples_from_model_runner.py --resume {run.path}"
    return f"python rl4lms_train_text_generation.py --resume {run.path}"

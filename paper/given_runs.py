"""A study from trainings and extractions that exist, whatever made them: what each run is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import this_command
from common.files import read_rows
from common.run_dir import RunError, RunInfo, read_run

if TYPE_CHECKING:
    from figures.items import Study


def build_study(runs: Sequence[RunInfo]) -> Study:
    """Tell what the runs are of from their configs and manifests, and make a study of them.

    The task is the dataset, with `python_docs` its form. A training's method is its algorithm and whether it
    began with the model of a supervised one; an extraction's is that of the training whose model it samples,
    or pretrained. The reward is the metric of the task's extractions, without them the only metric of its
    trainings. Samples are the pretrained model's extractions of a split in the order of their seeds.
    A finished run that cannot be used has its `problem`. Raises NoRunsError: none of them can be.
    """
    from figures.items import Study
    from figures.runs import NoRunsError
    from figures.study import Source, finished, mark_unusable, runs_table

    trainings = [run for run in runs if run.manifest.get("job") == "training"]
    extractions = [run for run in runs if run.manifest.get("job") == "extraction"]
    if not trainings and not extractions:
        raise NoRunsError(
            "no training and no extraction is among the runs given: they come from rl4lms_plan_runner.py, "
            "rl4lms_train_text_generation.py and rl4lms_extract_samples_from_model_runner.py"
        )
    rewards, problems = _find_rewards(trainings, extractions)
    if not rewards:
        raise NoRunsError("; ".join(problems.values()))

    def make_source(run: RunInfo, **overrides: Any) -> Source:
        task = read_task(run)
        fields: dict[str, Any] = {
            "task": task,
            "seed": run.config["runtime"]["seed"],
            "method": find_method(run),
            "reward": rewards.get(task, ""),
            "problem": problems.get(task, "") if run.manifest.get("status") == "finished" else "",
            "path": run.path,
            "command": _resume_command(run),
        }
        return Source(**fields | overrides)

    trained = []
    for run in trainings:
        parent = find_parent(run)
        phase = parent.path if parent is not None and find_method(run).endswith("_rft") else None
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
        by_seed = sorted(split_runs, key=lambda run: run.config["runtime"]["seed"])
        candidates = mark_unusable([make_source(run, split=split) for run in by_seed])
        candidates.sort(key=lambda source: source.status != "finished")
        for number, source in enumerate(candidates[:2], start=1):
            # The pretrained model's statistics are the same for every seed of the finetunings.
            for seed in sorted(seeds.get(task, {source.seed})):
                sampled.append(replace(source, sample=number, seed=seed))
    # After a failed finetuning, or of another project, a run may lack what an item needs.
    trained, sampled = mark_unusable(trained), mark_unusable(sampled)
    # RFT's own settings are those whose rewards were measured; otherwise those of the first training.
    base: dict[str, dict[str, float]] = {}
    rft_sources = [source for source in finished(trained) if source.method == "rft"]
    for source in sorted(rft_sources, key=lambda source: source.path not in measured):
        row = runs_table([source]).iloc[0]
        settings = {name: float(row[name]) for name in ("learning_rate", "temperature", "ent_coef")}
        base.setdefault(source.task, settings)
    counts = {task: sum(source.task == task for source in finished(trained)) for task in rewards}
    return Study(
        extractions=sampled,
        trainings=trained,
        base=base,
        swept=(max(counts, key=lambda task: counts[task]),),
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
    """Find a run's method, of `figures.study.METHODS`; SFT on a share of the labels is short."""
    parent = find_parent(run)
    if run.manifest["job"] == "extraction":
        return "pretrained" if parent is None else find_method(parent)
    if run.config["alg"]["id"] == "supervised":
        return "sft" if run.config["datapool"]["frac_train_samples"] in (-1, 1) else "short"
    before = "" if parent is None else find_method(parent)
    return f"{before}_rft" if before in ("sft", "short") else "rft"


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


def _find_rewards(
    trainings: Sequence[RunInfo], extractions: Sequence[RunInfo]
) -> tuple[dict[str, str], dict[str, str]]:
    """Find the result key of each task's reward, or why it has none."""
    from figures.runs import NoRunsError, load_extraction
    from figures.study import extraction_file

    rewards: dict[str, str] = {}
    problems: dict[str, str] = {}
    for run in extractions:
        task = read_task(run)
        if run.manifest.get("status") == "finished" and task not in rewards:
            try:
                extraction = load_extraction(extraction_file(run.path))
            except NoRunsError as error:
                problems.setdefault(task, str(error))
                continue
            rewards[task] = next(iter(extraction["all_metric_values"]))
    for run in trainings:
        task = read_task(run)
        metrics = _metric_keys(run) if task not in rewards else []
        if len(metrics) == 1:
            rewards[task] = metrics[0]
        elif metrics:
            problems.setdefault(
                task,
                f"{run.path}: {task} has no finished extraction among the runs given and its trainings have "
                f"several metrics ({', '.join(metrics)}): give an extraction, whose metric is the reward",
            )
    for task in dict.fromkeys(map(read_task, [*trainings, *extractions])):
        problems.setdefault(task, f"no run of {task} has a reward yet: none was evaluated")
    return rewards, {task: problem for task, problem in problems.items() if task not in rewards}


def _metric_keys(run: RunInfo) -> list[str]:
    """List the result keys of a training, as far as it was evaluated."""
    for split in ("train", "val", "test"):
        path = run.path / f"{run.manifest.get('prefix', '')}{split}_split_metrics.jsonl"
        with suppress(RunError):  # of a damaged file: `mark_unusable` says so
            if rows := read_rows(path, "epoch"):
                return list(rows[0]["metrics"])
    return []


def _resume_command(run: RunInfo) -> str:
    """The command that goes on with a run."""
    if run.manifest.get("job") == "extraction":
        return f"python rl4lms_extract_samples_from_model_runner.py --resume {run.path}"
    return f"python rl4lms_train_text_generation.py --resume {run.path}"

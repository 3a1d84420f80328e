"""The jobs of InstructGPT's pipeline that are no training or extraction: rankings, data, scores, losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import ConfigError, locate, parse_path, read_source, set_value, validate
from common.identity import IDENTITY, hash_of
from common.jobs import Job, Place, Report
from common.run_dir import RunDir, read_run
from paper.instructgpt.config import Pipeline, PipelineTask
from paper.instructgpt.runs import (
    Done,
    Planned,
    base_model,
    datapool_args,
    gold_metric,
    has_log_odds,
)
from paper.small_models.config import PretrainConfig
from paper.study import models_needed
from rl4lms.config.rankings import MakeRankingsConfig, resolved_rankings
from rl4lms.plan.runs import by_content, resources

IMPORTS = ("rl4lms.make_rankings", "rl4lms.reward_model.measure", "paper.small_models.held_out")


def make_job(pipeline: Pipeline, planned: Planned, done: Done, earlier: Mapping[str, Job]) -> Job:
    """The job of a planned run. earlier: jobs of the same stage by name, which it may come after.

    Raises ConfigError: the rankings' config has a mistake.
    """
    task = next(task for task in pipeline.tasks if pipeline.case(task).task == planned.task)
    kind = planned.kind.removeprefix("other_")
    settings = _settings(pipeline, task, planned, kind, done)
    names = [name for needed in planned.needs.values() for name in needed]
    identities = [
        earlier[name].identity if name in earlier else read_run(done.runs[name]).manifest[IDENTITY]
        for name in names
    ]
    identity = hash_of([kind, by_content(settings), identities])
    folder = Path(pipeline.config.output_path)
    after = [name for name in names if name in earlier]
    return Job(
        planned.name,
        identity,
        folder,
        partial(_create, folder, planned, kind, identity, settings, dict(done.runs), after),
        partial(_work, kind),
        after=tuple(earlier[name] for name in after),
        imports=IMPORTS,
        unit="model" if kind == "losses" else "text",
        kind=planned.kind,
    )


def _settings(
    pipeline: Pipeline, task: PipelineTask, planned: Planned, kind: str, done: Done
) -> dict[str, Any]:
    """All that decides what a job computes, but for the runs that it reads; as JSON values."""
    if kind == "rankings":
        started = planned.needs.get("start")
        model = done.model(started[0]) if started else base_model(pipeline, task)
        return rankings_settings(pipeline, task, planned.name, model, planned.seed)
    if kind == "losses":
        config = pretraining_config(pipeline, task)
        return {"base": {"model_name": base_model(pipeline, task)}, "pretraining": config.model_dump()}
    if kind == "scores":
        return {"log_odds": has_log_odds(task), "squash": pipeline.config.teachers.squash}
    reward, teachers = pipeline.study.reward(pipeline.case(task)).reward, pipeline.config.teachers
    return {
        "gold": {"reward": reward.id, "reward_args": dict(reward.args), "log_odds": has_log_odds(task)},
        "on_policy": [share for share in teachers.on_policy if share < 1],
        "squash": teachers.squash,
        "seed": planned.seed,
    }


def rankings_settings(
    pipeline: Pipeline, task: PipelineTask, name: str, model: str, seed: int
) -> dict[str, Any]:
    """The config of rankings of a model's texts, as data. Raises ConfigError."""
    source = read_source(task.files.rankings)
    study_task = pipeline.study_task(task)
    values = {
        "name": name,
        "rankings": source.data["rankings"] | pipeline.config.rankings | {"seed": seed},
        "extraction.tokenizer.model_name": base_model(pipeline, task),
        "extraction.tokenizer.max_length": study_task.max_prompt_length,
        "extraction.datapool.args": datapool_args(pipeline, task),
        "extraction.alg.model_name": model,
        "extraction.alg.generation_kwargs.max_new_tokens": study_task.max_new_tokens,
        "extraction.evaluation.metrics": [gold_metric(pipeline, task)],
        "extraction.runtime": {"seed": seed},
    }
    for field, value in values.items():
        set_value(source.data, parse_path(field), value)
    config, problems = validate(MakeRankingsConfig, source.data)
    if config is None:
        raise ConfigError(Path(task.files.rankings), locate(problems, source))
    return resolved_rankings(config)


def pretraining_config(pipeline: Pipeline, task: PipelineTask) -> PretrainConfig:
    """How the task's base model was pretrained. Raises ConfigError."""
    needed = models_needed(pipeline.study, [pipeline.case(task).task]).values()
    return next(config for config in needed if config.model_type != "classifier")


def _create(
    folder: Path,
    planned: Planned,
    kind: str,
    identity: str,
    settings: dict[str, Any],
    runs: Mapping[str, Path],
    after: Sequence[str],
    earlier: Sequence[Path],
    place: Place,
) -> RunDir:
    known = dict(runs) | dict(zip(after, earlier, strict=True))
    inputs = {key: {name: str(known[name]) for name in names} for key, names in planned.needs.items()}
    manifest = {"job": kind, IDENTITY: identity, "inputs": inputs}
    return RunDir.create(folder, planned.name, settings, manifest)


def _work(kind: str, run: RunDir, place: Place, stop: Callable[[], bool], report: Report) -> None:
    from paper.instructgpt.work import WORK  # seconds of imports, only now

    with resources(run, place, report):
        WORK[kind](run, report, stop)

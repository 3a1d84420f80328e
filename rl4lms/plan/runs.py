"""Experiments of a plan as jobs: what makes a run the same as an earlier one, and how it is done."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from common.config import Keys, parse_path, set_value, validate
from common.console import bars_reported
from common.files import RunError
from common.identity import IDENTITY, content_digest, hash_of
from common.jobs import Job, Place, Report
from common.plan_jobs import link_jobs
from common.run_dir import RunDir, read_run
from rl4lms.config import (
    ExtractConfig,
    RewardModelConfig,
    RolloutConfig,
    SupervisedConfig,
    TrainConfig,
    resolved,
)
from rl4lms.metrics import METRICS
from rl4lms.plan.schema import Experiment, Plan, RunConfig
from rl4lms.train import OPTIONS, create_training_run, train

IMPORTS = ("rl4lms.extract", "rl4lms.ppo.train", "rl4lms.sft.train", "matplotlib.backends.backend_agg")


def list_imports(metrics: Sequence[str]) -> tuple[str, ...]:
    """What runs import that compute these metrics, by id; those of users are left to the runs."""
    modules = {METRICS.entries[name].target.partition(":")[0] for name in metrics if name in METRICS.entries}
    return (*IMPORTS, *sorted(modules))


def make_jobs(plan: Plan, experiments: Sequence[Experiment]) -> list[Job]:
    """One job for each experiment, in their order; what an experiment starts from must stand before it."""
    return link_jobs(experiments, partial(_make_job, plan))


def _make_job(plan: Plan, experiment: Experiment, start: Job | None) -> Job:
    config, key = experiment.config, identify(experiment, start.identity if start else None)
    folder = Path(plan.output_path)
    part = config.evaluation if isinstance(config, ExtractConfig) else config.train_evaluation
    if isinstance(config, ExtractConfig):
        create, work = partial(_create_extraction, folder, experiment, key), partial(_extract, experiment)
        unit, steps = "text", config.generations
    else:
        create, work = partial(_create_training, plan, experiment, key), partial(_train, experiment)
        steps = None
        unit = "iteration" if isinstance(config.alg, RolloutConfig) else "update"
    return Job(
        experiment.name,
        key,
        folder,
        create,
        work,
        after=(start,) if start else (),
        imports=list_imports([metric.id for metric in part.metrics]),
        steps=steps or 1,  # the work reports how many there are
        unit=unit,
        kind=_name_kind(experiment),
        keep_checkpoints=plan.keep_checkpoints,
    )


def _name_kind(experiment: Experiment) -> str:
    """The same for experiments that take about as long: of the same method, model, data and amount of it."""
    config = experiment.config
    parts: list[object] = [config.datapool.model_dump(), config.alg.model_name]
    if isinstance(config, ExtractConfig):
        parts.append(config.generations)
    elif isinstance(config.alg, SupervisedConfig):
        amounts = {name: value for name, value in config.alg.training_args.items() if name != "learning_rate"}
        parts.append(["supervised", amounts])
    elif isinstance(config.alg, RewardModelConfig):
        parts.append([config.alg.id, config.alg.args.epochs, config.alg.args.batching])
    else:
        parts.append([config.alg.id, config.train_evaluation.n_iters])
    return hash_of(parts)


# Last parts of fields and arguments, such as model_name, data_path, used_indices_from, tokenizer_id; no `id`.
_NAMES_A_FILE = re.compile(r"(_name|_from|_id|_template|path|file|folder|dir|texts)$")


# Fields that configs did not always have -> the value that says nothing: runs from before are found.
LATER_FIELDS: dict[Keys, Any] = {
    ("train_evaluation", "max_tokens"): None,
    ("env", "args", "missing_eos_penalty"): None,
    ("alg", "pretraining"): None,
    ("alg", "dropout"): None,
    ("alg", "select_by"): None,
    ("alg", "policy", "args", "value_model_name"): None,
    ("alg", "args", "episodes"): None,
    ("alg", "args", "value_learning_rate"): None,
    ("alg", "args", "value_clip_range"): None,
    ("alg", "args", "warmup_iterations"): 0,
    ("alg", "args", "ema_decay"): None,
    ("runtime", "weights"): "float32",
    ("alg", "lora"): None,
    ("alg", "policy", "args", "lora"): None,
}


def _drop_if(data: dict[str, Any], path: Keys, absent: Any) -> None:
    """Remove a field from a config's data if it is there and has this value."""
    block: Any = data
    for key in path[:-1]:
        block = block.get(key) if isinstance(block, dict) else None
    if isinstance(block, dict) and block.get(path[-1], absent) == absent:
        block.pop(path[-1], None)


def identify(experiment: Experiment, start: str | None) -> str:
    """Hash of all that decides an experiment's numbers.

    That is its config, with what it reads from this machine (models, data) by content, but without the names
    of the plan and its parts. start: identity of the experiment whose model it starts from.
    """
    data = resolved(experiment.config)
    del data["runtime"]["device"]
    if isinstance(experiment.config, TrainConfig):
        data["train_evaluation"].pop("save_every", None)
        for path, absent in LATER_FIELDS.items():
            _drop_if(data, path, absent)
    if start is not None:
        set_value(data, parse_path(model_field(experiment.config)), f"model of {start}")
    return hash_of([type(experiment.config).__name__, by_content(data)])


def by_content(value: Any, key: str = "") -> Any:
    """A config's data with the names of files and folders replaced by what is in them."""
    if isinstance(value, dict):
        return {key: by_content(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [by_content(item, key) for item in value]
    if isinstance(value, str) and _NAMES_A_FILE.search(key) and os.path.exists(value):
        return content_digest(Path(value))
    return value


def model_field(config: RunConfig) -> str:
    """Dotted field of the model to start from."""
    return config.model_field if isinstance(config, TrainConfig) else "alg.model_name"


def _create_training(
    plan: Plan, experiment: Experiment, key: str, earlier: Sequence[Path], place: Place
) -> RunDir:
    config = _starting_from(experiment.config, earlier)
    assert isinstance(config, TrainConfig)
    options = {**OPTIONS, "log_entire_predictions": plan.log_entire_predictions}
    manifest = _manifest(experiment, key, earlier) | {"options": options}
    return create_training_run(Path(plan.output_path), experiment.name, config, manifest)


def _create_extraction(
    folder: Path, experiment: Experiment, key: str, earlier: Sequence[Path], place: Place
) -> RunDir:
    config = _starting_from(experiment.config, earlier)
    assert isinstance(config, ExtractConfig)
    name = config.run_name(f"{experiment.suffix}_seed_{config.runtime.seed}")
    return RunDir.create(
        folder, name, resolved(config), {"job": "extraction"} | _manifest(experiment, key, earlier)
    )


def _train(
    experiment: Experiment, run: RunDir, place: Place, stop: Callable[[], bool], report: Report
) -> None:
    config = _recorded(run, TrainConfig, experiment.config)
    with resources(run, place, report):
        train(config, run.path, run, should_stop=stop)


def _extract(
    experiment: Experiment, run: RunDir, place: Place, stop: Callable[[], bool], report: Report
) -> None:
    config = _recorded(run, ExtractConfig, experiment.config)
    with resources(run, place, report):
        from rl4lms.extract import extract

        extract(config, run, report, stop)


def find_model(run: Path) -> Path:
    """The model that a finished training left. Raises RunError if it is there no more."""
    path = run / f"{read_run(run).manifest.get('prefix', '')}model"
    if not (path / "config.json").is_file():
        raise RunError(
            f"the model of {run} is gone, there is no {path.name} in it: delete that folder to train it anew"
        )
    return path


def _starting_from(config: RunConfig, earlier: Sequence[Path]) -> RunConfig:
    """The config with the model of the run that it starts from, if it does. Raises RunError."""
    if not earlier:
        return config
    (run,) = earlier
    data = resolved(config)
    set_value(data, parse_path(model_field(config)), str(find_model(run)))
    return _valid(type(config), data)


def _recorded(run: RunDir, kind: type[Any], config: RunConfig) -> Any:
    """The config that a run began with, on the device that it is to use now. Raises RunError."""
    data = {**run.config, "runtime": {**run.config["runtime"], "device": config.runtime.device}}
    return _valid(kind, data)


def _valid(kind: type[Any], data: dict[str, Any]) -> Any:
    config, problems = validate(kind, data)
    if config is None:
        raise RunError("; ".join(f"{problem.path}: {problem.message}" for problem in problems))
    return config


def _manifest(experiment: Experiment, key: str, earlier: Sequence[Path]) -> dict[str, Any]:
    parents = {"parent_run": str(earlier[0])} if earlier else {}
    return {IDENTITY: key, "experiment": experiment.name, **parents}


@contextmanager
def resources(run: RunDir, place: Place, report: Report) -> Iterator[None]:
    """One GPU, a fair share of the cores, the same when the run is resumed; no bars but the plan's."""
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(place.gpu)  # before torch asks for it
    import torch

    before = torch.get_num_threads()
    threads = run.manifest.get("num_threads") or max(1, before // place.share)
    run.update_manifest(num_threads=threads)
    torch.set_num_threads(threads)
    try:
        with bars_reported(report):
            yield
    finally:
        torch.set_num_threads(before)

"""What is compared, as the command line names it; looked up without importing anything heavy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError
from common.run_dir import MANIFEST, RunError, RunInfo, read_run
from common.source import closest
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.extractions import find_extraction
from rl4lms.config import ExtractConfig, check_components, load_extract_config
from rl4lms.model.adapter_folder import adapter_base, holds_adapter
from rl4lms.model.source import check_model_source, check_tokenizer_source
from rl4lms.requirements import offline_problem
from rl4lms.samples import Split

EXTRACT_RUNNER = "rl4lms_extract_samples_from_model_runner.py"
Kind = Literal["predictions", "extraction", "model"]
_TIME = re.compile(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")
_PREDICTIONS = re.compile(r"epoch_([\d.]+)_(?:train|val|test)_split_predictions")


class CompareError(UserError):
    """Models that cannot be compared as asked; the message is for the user, a line for each of them."""


@dataclass(frozen=True)
class Source:
    """A model that is compared.

    label: its name in tables. kind: where its texts are from, a file with them or the model itself. name: the
    file, or the model's folder or hub name. given: as on the command line.
    """

    label: str
    kind: Kind
    name: str
    given: str


def find_sources(given: Sequence[str], split: Split, makes: bool) -> list[Source]:
    """Find the texts, or the models, that the arguments name.

    split: whose predictions to take of a run's folder. makes: texts of models are made now, False = all are
    there already. Raises CompareError with a line for each that cannot be used.
    """
    sources, problems = [], []
    for name in given:
        try:
            kind, where = _find(name, split, makes)
            sources.append(Source("", kind, where, name))
        except (CompareError, DiagnosisError, RunError) as error:
            problems.append(str(error))
    repeated = sorted({name for name in given if list(given).count(name) > 1})
    problems += [f"{name} is given twice" for name in repeated]
    if len(given) < 2:
        problems.append("give at least two models to compare")
    if problems:
        raise CompareError("\n".join(problems))
    labels = label_sources(given)
    return [Source(label, s.kind, s.name, s.given) for label, s in zip(labels, sources, strict=True)]


def load_sampling_config(path: Path, overrides: Iterable[str], sources: Sequence[Source]) -> ExtractConfig:
    """The config of an extraction, the first model that writes texts now, and its tokenizer, for its own.

    Raises ConfigError; CompareError: a model is of another kind than the config's.
    """
    models = [source.name for source in sources if source.kind == "model"]
    fields = ("alg.model_name", "tokenizer.model_name")
    replaced = [f"{field}={json.dumps(name)}" for name in models[:1] for field in fields]
    config = load_extract_config(path, [*overrides, *replaced])
    checked = (check_model_source(name, config.alg.model_type) for name in models)
    if problems := [problem for problem in checked if problem]:
        raise CompareError("\n".join(problems))
    return config


def check_sampling(path: Path, config: ExtractConfig, sources: Sequence[Source]) -> None:
    """Raises ConfigError, CompareError with what making texts needs and this machine lacks."""
    check_components(path, config)
    models = [source.name for source in sources if source.kind == "model"]
    if problems := [problem for name in models if (problem := offline_problem(adapter_base(name) or name))]:
        raise CompareError("\n".join(problems))


def look_up(name: str) -> Path:
    """The path of that name. Raises CompareError: it cannot even be looked up, such as one of 300 letters."""
    try:
        path = Path(name).expanduser()
        path.is_file()
    except (OSError, RuntimeError) as error:
        raise CompareError(f"{name!r:.80}: {getattr(error, 'strerror', None) or error}") from error
    return path


def label_sources(given: Sequence[str]) -> list[str]:
    """Label models by the last parts of their paths, as many as tell them apart, without times of runs."""
    paths = [Path(name).absolute() if Path(name).exists() else Path(name) for name in given]
    parts = [path.with_suffix("").parts if path.is_file() else path.parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        tails = ["/".join(part[-count:]) for part in parts]
        for labels in ([_TIME.sub("", _PREDICTIONS.sub(r"epoch_\1", tail)) for tail in tails], tails):
            if len(set(labels)) == len(labels):
                return labels
    return list(given)


def _find(name: str, split: Split, makes: bool) -> tuple[Kind, str]:
    path = look_up(name)
    if path.is_file():
        return _find_file(path)
    if path.is_dir():
        return _find_folder(path, split, makes)
    if makes and (problem := check_model_source(name)) is None:
        return "model", name
    if makes and "/" in name and not path.parent.is_dir():
        raise CompareError(str(problem))
    folder = path.parent if path.parent.is_dir() else None
    near = closest(path.name, [entry.name for entry in folder.iterdir()]) if folder else None
    hint = f"; did you mean {str(path.with_name(near))!r}?" if near else ""
    raise CompareError(f"no such file or folder: {name!r}{hint}")


def _find_file(path: Path) -> tuple[Kind, str]:
    if path.suffix == ".pt":
        return "extraction", str(path)
    if path.suffix == ".json":
        return "predictions", str(path)
    raise CompareError(
        f"{path} is neither the .pt file of an extraction nor the .json file of an evaluation's predictions"
    )


def _find_folder(path: Path, split: Split, makes: bool) -> tuple[Kind, str]:
    if (path / MANIFEST).is_file():
        return _find_in_run(read_run(path), split, makes)
    if (path / "config.json").is_file() or holds_adapter(str(path)):
        return _find_model(path, makes)
    if any(path.glob("*.pt")):
        return "extraction", str(find_extraction(path))
    raise CompareError(f"folder {str(path)!r} holds neither a run nor a model nor an extraction")


def _find_in_run(run: RunInfo, split: Split, makes: bool) -> tuple[Kind, str]:
    if run.manifest.get("job") == "extraction":
        return "extraction", str(find_extraction(run.path))
    if run.manifest.get("algorithm") == "reward_model":
        raise CompareError(f"{run.path} trained a reward model, which writes no texts: give it as --judge")
    prefix = run.manifest.get("prefix", "")
    if makes:
        models = [name for name in run.manifest.get("artefacts", ()) if str(name).endswith("model")]
        if not models:
            raise CompareError(f"{run.path} has left no model: it is {run.manifest.get('status')}")
        return _find_model(run.path / models[0], makes)
    files = {
        float(match[1]): file
        for file in run.path.glob(f"{prefix}epoch_*_{split}_split_predictions.json")
        if (match := _PREDICTIONS.search(file.stem))
    }
    if not files:
        raise CompareError(
            f"{run.path} has no saved predictions of {split}: train with --log_entire_predictions, or make "
            f"texts now with --config_path (a config of {EXTRACT_RUNNER})"
        )
    return "predictions", str(files[max(files)])


def _find_model(path: Path, makes: bool) -> tuple[Kind, str]:
    if not makes:
        raise CompareError(
            f"{path} is a model without texts: make them now with --config_path (a config of "
            f"{EXTRACT_RUNNER})"
        )
    if problem := check_model_source(str(path)) or check_tokenizer_source(str(path)):
        raise CompareError(problem)
    return "model", str(path)


def describe_plan(sources: Sequence[Source], judges: Sequence[str]) -> str:
    """Say what would be compared, a line for each model and one for the judges."""
    words = {"predictions": "saved predictions", "extraction": "extraction", "model": "texts made now by"}
    lines = [f"{source.label}: {words[source.kind]} {source.name}" for source in sources]
    return "\n".join([*lines, f"judged by: {', '.join(judges)}"])

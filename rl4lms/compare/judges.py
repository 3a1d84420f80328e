"""Judges, as the command line names them: checked, as far as can be, without importing anything heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from common.errors import UserError
from common.registry import Registry
from common.run_dir import MANIFEST, RunError, read_run
from common.source import Located, parse_value, unknown_name
from rl4lms.compare.choices import Choice, ChoicesError, read_choices
from rl4lms.compare.sources import CompareError, look_up
from rl4lms.metrics import METRICS
from rl4lms.rewards import REWARDS

_FIELDS = ("id", "args")


class JudgeError(UserError):
    """A judge that cannot be used as asked; the message is for the user, a line for each problem."""


@dataclass(frozen=True)
class Judge:
    """Who says which of two texts is better.

    name: in tables. kind: people, a reward or a metric that is computed now, or the metric that was saved
    with the texts. id, args: of a reward or metric. choices: people's.
    """

    name: str
    kind: Literal["choices", "reward", "metric", "saved"]
    id: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Choice] = ()

    @property
    def registry(self) -> Registry:
        """Where `id` is registered."""
        return METRICS if self.kind == "metric" else REWARDS


SAVED = Judge("saved metric", "saved")  # the first that was saved with the texts of all models


def parse_judges(texts: Sequence[str]) -> list[Judge]:
    """Parse all judges; none = SAVED. Raises JudgeError with a line for each problem."""
    judges, problems = [], []
    for text in texts:
        try:
            judges.append(parse_judge(text))
        except (JudgeError, ChoicesError, CompareError, RunError) as error:
            problems += [f"--judge {line}" for line in str(error).split("\n")]
    problems += [
        f"--judge {t} is given twice" for t in sorted({t for t in texts if list(texts).count(t) > 1})
    ]
    if problems:
        raise JudgeError("\n".join(problems))
    names = [judge.name for judge in judges]
    named = [
        judge if names.count(judge.name) == 1 else replace(judge, name=text)
        for judge, text in zip(judges, texts, strict=True)
    ]
    return named or [SAVED]


def parse_judge(text: str) -> Judge:
    """Parse a judge: a file of choices, a reward model's folder, a reward or metric, `{id: ..., args: ...}`.

    An id of both is the reward, for which more is better. Raises JudgeError and its kin.
    """
    if text.lstrip().startswith("{"):
        id, args = _read_mapping(text)
        return _check(id, id, args)
    path = look_up(text)
    if path.is_file():
        return Judge(path.name, "choices", choices=read_choices(path))
    if path.is_dir():
        if (path / MANIFEST).is_file():
            path /= f"{read_run(path).manifest.get('prefix', '')}model"
        return _check(look_up(text).absolute().name, "reward_model", {"model_name": str(path)})
    return _check(text, text, {})


def check_judges(judges: Sequence[Judge]) -> None:
    """Raises JudgeError with all that rewards and metrics need and this machine lacks; it may ask the hub."""
    missing = [
        f"--judge {judge.name}: {problem.path}: {problem.message}"
        for judge in judges
        if judge.id
        for problem in judge.registry.missing(judge.id, judge.args)
    ]
    if missing:
        raise JudgeError("\n".join(missing))


def _read_mapping(text: str) -> tuple[str, Mapping[str, Any]]:
    located: list[Located] = []
    value = parse_value(text, located)
    if not isinstance(value, dict) or located:
        reason = f": {located[0].message}" if located else ""
        raise JudgeError(
            f"{text}: cannot be read{reason}; expected such as '{{id: meteor, args: {{wordnet: false}}}}'"
        )
    if unknown := [key for key in value if key not in _FIELDS]:
        raise JudgeError(f"{text}: unknown key {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    name, args = value.get("id"), value.get("args") or {}
    if not isinstance(name, str) or not isinstance(args, dict):
        raise JudgeError(f"{text}: id must be the name of a reward or metric, args a mapping")
    return name, args


def _check(name: str, id: str, args: Mapping[str, Any]) -> Judge:
    """The judge of a reward's or metric's id and arguments. Raises JudgeError: there is none such."""
    if id == "causal_perplexity":
        raise JudgeError(f"{name}: causal_perplexity is of the references, whatever a model writes")
    is_metric = id in METRICS.entries and id not in REWARDS.entries
    if ":" not in id and id not in REWARDS.entries and not is_metric:
        if "/" in id or id.endswith((".json", ".jsonl")):
            raise JudgeError(f"{name}: no such file or folder")
        raise JudgeError(f"{name}: {unknown_name('judge', id, {**REWARDS.entries, **METRICS.entries})}")
    judge = Judge(name, "metric" if is_metric else "reward", id, args)
    if problems := judge.registry.check(id, args):
        raise JudgeError("\n".join(f"{name}: {problem.path}: {problem.message}" for problem in problems))
    return judge

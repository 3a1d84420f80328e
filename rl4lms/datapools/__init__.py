"""Datasets as lists of samples, `load_datapool(id, split, args)`, or of rankings, `load_rankings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from common.config import Problem, validate
from common.errors import UserError
from common.hub import DataError
from common.registry import Entry, Registry
from common.source import unknown_name
from common.user_code import explain_failure
from rl4lms.datapools.cnn_daily_mail import CnnDailyMailArgs
from rl4lms.datapools.commongen import CommonGenArgs
from rl4lms.datapools.daily_dialog import DailyDialogArgs
from rl4lms.datapools.imdb import ImdbArgs, ImdbSeq2SeqArgs
from rl4lms.datapools.iwslt2017en_de import Iwslt2017Args
from rl4lms.datapools.jsonl import JsonlArgs, find_problems, lacks_references
from rl4lms.datapools.preferences import find_problems as preference_problems
from rl4lms.datapools.preferences.args import PreferencesArgs
from rl4lms.datapools.python_docs import PythonDocsArgs
from rl4lms.datapools.sources import DatasetArgs
from rl4lms.datapools.totto import TottoArgs
from rl4lms.rankings import Ranking, checked_rankings
from rl4lms.samples import Sample, Split, checked

DATAPOOLS = Registry(
    "datapool",
    {
        "narrative_qa": Entry("rl4lms.datapools.narrative_qa:load", DatasetArgs),
        "totto": Entry("rl4lms.datapools.totto:load", TottoArgs),
        "commongen": Entry("rl4lms.datapools.commongen:load", CommonGenArgs),
        "iwslt2017en_de": Entry("rl4lms.datapools.iwslt2017en_de:load", Iwslt2017Args),
        "cnn_daily_mail": Entry("rl4lms.datapools.cnn_daily_mail:load", CnnDailyMailArgs),
        "daily_dialog": Entry("rl4lms.datapools.daily_dialog:load", DailyDialogArgs),
        "imdb": Entry("rl4lms.datapools.imdb:load", ImdbArgs),
        "imdb_seq2seq": Entry("rl4lms.datapools.imdb:load_seq2seq", ImdbSeq2SeqArgs),
        "jsonl": Entry("rl4lms.datapools.jsonl:load", JsonlArgs),
        "preferences": Entry("rl4lms.datapools.preferences:load", PreferencesArgs),
        "python_docs": Entry("rl4lms.datapools.python_docs:load", PythonDocsArgs),
    },
)


PREFERENCES = "preferences"


class DatapoolError(UserError):
    """A user's own datapool that failed; the message is for the user."""


def local_problems(
    id: str, args: Mapping[str, Any], splits: Sequence[Split], *, needs_references: bool = False
) -> list[Problem]:
    """Looks quickly into the user's own files for what a run would refuse; [] for other datapools.

    needs_references: of some train sample at least.
    """
    problems: list[Problem] = []
    if id == "jsonl" and (jsonl := validate(JsonlArgs, args)[0]):
        problems = find_problems(jsonl, splits)
        if not problems and needs_references and lacks_references(jsonl):
            message = f"{jsonl.data_path}: no train sample has a reference to learn from"
            problems = [Problem("data_path", message)]
    elif id == PREFERENCES and (preferences := validate(PreferencesArgs, args)[0]):
        problems = preference_problems(preferences, splits)
    return [Problem(f"args.{problem.path}", problem.message) for problem in problems]


def load_datapool(
    id: str, split: Split, args: Mapping[str, Any] | None = None, tokenizer: str | None = None
) -> list[Sample]:
    """Load a split's samples of a datapool: a built-in's id, or `package.module:function` of the user's own.

    tokenizer: the run's, a hub name or folder, whose chat template renders messages; None: there is none.
    Of rankings, the samples are their prompts and references.
    Raises ConfigError: unknown id, wrong arguments; DataError: data missing, or not what it must be;
    DatapoolError: the user's function raised something (but Ctrl-C); ValueError: no such split.
    """
    data = _call(id, split, args, tokenizer)
    what = f"datapool {id!r}, split {split!r}"
    if _are_rankings(data):
        return [ranking.sample() for ranking in checked_rankings(data, what)]
    return checked(data, what)


def load_rankings(
    id: str, split: Split, args: Mapping[str, Any] | None = None, tokenizer: str | None = None
) -> list[Ranking]:
    """Load a split's rankings: of `preferences`, or of `package.module:function` that returns some.

    tokenizer and errors: as for `load_datapool`; DataError also for a datapool that has no rankings.
    """
    if problem := rankings_problem(id):
        raise DataError(problem)
    return checked_rankings(_call(id, split, args, tokenizer), f"datapool {id!r}, split {split!r}")


def rankings_problem(id: str) -> str | None:
    """Why a datapool has no rankings, as far as its id tells."""
    if id not in DATAPOOLS.entries or id == PREFERENCES:
        return None
    return (
        f"datapool {id!r} has samples, no rankings; set datapool.id to {PREFERENCES!r}, or to "
        "package.module:function of your own that returns a list of rl4lms.rankings.Ranking"
    )


def _call(id: str, split: Split, args: Mapping[str, Any] | None, tokenizer: str | None) -> Any:
    """What a datapool returns for a split."""
    if split not in get_args(Split):
        raise ValueError(unknown_name("split", split, get_args(Split)))
    args = dict(args or {})
    if id == PREFERENCES and args.get("tokenizer_name") is None:
        args["tokenizer_name"] = tokenizer
    function = DATAPOOLS.build(id, args)
    try:
        return function(split)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if id in DATAPOOLS.entries:
            raise
        raise DatapoolError(
            f"datapool {id!r} raised {type(error).__name__} for split {split!r}{explain_failure(error)}"
        ) from error


def _are_rankings(data: Any) -> bool:
    return isinstance(data, Sequence) and len(data) > 0 and isinstance(data[0], Ranking)

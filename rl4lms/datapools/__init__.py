"""Datasets as lists of samples: `load_datapool(id, split, args)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from common.config import Problem, validate
from common.errors import UserError
from common.registry import Entry, Registry
from common.source import unknown_name
from common.user_code import explain_failure
from rl4lms.datapools.cnn_daily_mail import CnnDailyMailArgs
from rl4lms.datapools.commongen import CommonGenArgs
from rl4lms.datapools.daily_dialog import DailyDialogArgs
from rl4lms.datapools.imdb import ImdbArgs, ImdbSeq2SeqArgs
from rl4lms.datapools.iwslt2017en_de import Iwslt2017Args
from rl4lms.datapools.jsonl import JsonlArgs, find_problems, lacks_references
from rl4lms.datapools.python_docs import PythonDocsArgs
from rl4lms.datapools.sources import DatasetArgs
from rl4lms.datapools.totto import TottoArgs
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
        "python_docs": Entry("rl4lms.datapools.python_docs:load", PythonDocsArgs),
    },
)


class DatapoolError(UserError):
    """A user's own datapool that failed; the message is for the user."""


def local_problems(
    id: str, args: Mapping[str, Any], splits: Sequence[Split], *, needs_references: bool = False
) -> list[Problem]:
    """Looks quickly into the user's own JSON lines for what a run would refuse; [] for other datapools.

    needs_references: of some train sample at least.
    """
    config = validate(JsonlArgs, args)[0] if id == "jsonl" else None
    problems = [] if config is None else find_problems(config, splits)
    if config is not None and not problems and needs_references and lacks_references(config):
        problems = [
            Problem("data_path", f"{config.data_path}: no train sample has a reference to learn from")
        ]
    return [Problem(f"args.{problem.path}", problem.message) for problem in problems]


def load_datapool(id: str, split: Split, args: Mapping[str, Any] | None = None) -> list[Sample]:
    """Load a split's samples of a datapool: a built-in's id, or `package.module:function` of the user's own.

    Raises ConfigError: unknown id, wrong arguments; DataError: data missing, or not what it must be;
    DatapoolError: the user's function raised something (but Ctrl-C); ValueError: no such split.
    """
    if split not in get_args(Split):
        raise ValueError(unknown_name("split", split, get_args(Split)))
    function = DATAPOOLS.build(id, args or {})
    try:
        return checked(function(split), f"datapool {id!r}, split {split!r}")
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if id in DATAPOOLS.entries:
            raise
        raise DatapoolError(
            f"datapool {id!r} raised {type(error).__name__} for split {split!r}{explain_failure(error)}"
        ) from error

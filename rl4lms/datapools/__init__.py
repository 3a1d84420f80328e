"""Datasets as lists of samples: `load_datapool(id, split, args)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from common.registry import Entry, Registry
from common.source import unknown_name
from rl4lms.datapools import arguments as a
from rl4lms.samples import Sample, checked

Split = Literal["train", "val", "test"]

DATAPOOLS = Registry(
    "datapool",
    {
        "narrative_qa": Entry("rl4lms.datapools.narrative_qa:load", a.DatasetArgs),
        "totto": Entry("rl4lms.datapools.totto:load", a.TottoArgs),
        "commongen": Entry("rl4lms.datapools.commongen:load", a.CommonGenArgs),
        "iwslt2017en_de": Entry("rl4lms.datapools.iwslt2017en_de:load", a.Iwslt2017Args),
        "cnn_daily_mail": Entry("rl4lms.datapools.cnn_daily_mail:load", a.CnnDailyMailArgs),
        "daily_dialog": Entry("rl4lms.datapools.daily_dialog:load", a.DailyDialogArgs),
        "imdb": Entry("rl4lms.datapools.imdb:load", a.ImdbArgs),
        "imdb_seq2seq": Entry("rl4lms.datapools.imdb:load_seq2seq", a.ImdbSeq2SeqArgs),
        "jsonl": Entry("rl4lms.datapools.jsonl:load", a.JsonlArgs),
        "python_docs": Entry("rl4lms.datapools.python_docs:load", a.PythonDocsArgs),
    },
)


def load_datapool(id: str, split: Split, args: Mapping[str, Any] | None = None) -> list[Sample]:
    """The samples of a split of a datapool: a built-in's id, or `package.module:function` of the user's own.

    Raises ConfigError: unknown id, wrong arguments; DataError: data missing, or not what it must be;
    ValueError: no such split.
    """
    if split not in get_args(Split):
        raise ValueError(unknown_name("split", split, get_args(Split)))
    function = DATAPOOLS.build(id, args or {})
    return checked(function(split), f"datapool {id!r}, split {split!r}")

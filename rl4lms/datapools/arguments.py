"""What a config may say about each datapool: the schemas of `datapool.args`.

Defaults are the values of the paper's configurations. Imports nothing heavy: configs are checked with these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.config import Config, Problem
from common.python_docs import DEFAULT_PACKAGES, package_root

FormName = Literal[
    "summary",
    "sentence_from_words",
    "continuation",
    "question",
    "hard_question",
    "parameter",
    "next_sentence",
    "first_sentence",
    "identifier",
]

PromptPrefix = Annotated[str, Field(description="text before each input")]
PromptSuffix = Annotated[str, Field(description="text after each input")]
ShuffleSeed = Annotated[int, Field(ge=0, description="seed of the shuffle that separates train from val")]
Size = Annotated[int | None, Field(ge=1, description="only so many samples of the split; null: all")]


class DatasetArgs(Config):
    """What every published dataset takes."""

    data_path: str | None = Field(
        None,
        description="local file or folder with the dataset; null: the hub, or this machine's cache of it",
    )

    def check(self) -> list[Problem]:
        return _existing(self.data_path)


class TottoArgs(DatasetArgs):
    representation: Literal["subtable", "fulltable"] = Field(
        "subtable", description="linearise the highlighted cells only, or the whole table"
    )


class CommonGenArgs(DatasetArgs):
    prefix: PromptPrefix = "generate a sentence with: "
    concept_separator_token: str = Field(" ", description="text between two concepts")
    concept_end_token: str = Field(".", description="text after the last concept")


class Iwslt2017Args(DatasetArgs):
    prompt_prefix: PromptPrefix = "translate English to German: "
    prompt_suffix: PromptSuffix = ""


class CnnDailyMailArgs(DatasetArgs):
    prompt_prefix: PromptPrefix = "Summarize: "
    prompt_suffix: PromptSuffix = ""
    truncate_article: int | None = Field(
        None, ge=1, description="keep only so many word tokens of an article; null: all of it, as it is"
    )
    max_size: Size = None


class DailyDialogArgs(DatasetArgs):
    context_size: int = Field(5, ge=1, description="utterances in a prompt")


class ImdbArgs(DatasetArgs):
    seed: ShuffleSeed = 42
    # Off, unlike in the paper's configurations, which say so: an absent flag drops nothing.
    only_positive_samples: bool = Field(False, description="leave negative reviews out of train")


class ImdbSeq2SeqArgs(DatasetArgs):
    seed: ShuffleSeed = 42
    positive_ratio: float = Field(1.0, gt=0, le=1, description="share of train's positive reviews to use")


class JsonlArgs(Config):
    data_path: str = Field(
        description="a folder with train.jsonl, val.jsonl and test.jsonl, or one file (whose rows serve as "
        "every split, unless they name theirs)"
    )
    prompt_field: str = Field("prompt", description="field of the input text")
    references_field: str = Field("references", description="field of the expected text, or a list of them")
    id_field: str = Field("id", description="field of the samples' ids, if there is one; else line numbers")
    split_field: str = Field("split", description="field that names a row's split, if there is one")

    def check(self) -> list[Problem]:
        return _existing(self.data_path)


class PythonDocsArgs(Config):
    form: FormName = Field("summary", description="which task is made of the docstrings")
    packages: list[str] = Field(
        list(DEFAULT_PACKAGES), min_length=1, description="packages whose docstrings are read"
    )
    num_train: Size = None
    num_val: Size = None
    num_test: Size = None
    prompt_prefix: str | None = Field(None, description="text before each input; null: the form's own")
    prompt_suffix: PromptSuffix = ""
    reference_prefix: str = Field(
        "", description="text before each reference; causal models need a space: they train on prompt + it"
    )

    def check(self) -> list[Problem]:
        problems = []
        for number, package in enumerate(self.packages):
            try:
                package_root(package)
            except LookupError as error:
                problems.append(Problem(f"packages[{number}]", str(error)))
        return problems


def _existing(data_path: str | None) -> list[Problem]:
    if data_path is None or Path(data_path).expanduser().exists():
        return []
    return [Problem("data_path", f"no such file or folder: {data_path!r}")]

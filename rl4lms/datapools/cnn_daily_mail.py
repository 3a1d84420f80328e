"""CNN/DailyMail 3.0.0 (Hermann et al. 2015; See et al. 2017): article -> highlights."""

from __future__ import annotations

from itertools import islice

from pydantic import Field

from common.hub import Published
from rl4lms.datapools.sources import (
    DatasetArgs,
    PromptPrefix,
    PromptSuffix,
    Row,
    Size,
    as_samples,
    read_rows,
)
from rl4lms.samples import Sample, Split

CNN_DAILY_MAIL = Published(
    name="cnn_daily_mail",
    columns={"article": str, "highlights": str},
    rows={"train": 287_113, "val": 13_368, "test": 11_490},
    repo="abisee/cnn_dailymail",
    config="3.0.0",
    revision="96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
)


class CnnDailyMailArgs(DatasetArgs):
    prompt_prefix: PromptPrefix = "Summarize: "
    prompt_suffix: PromptSuffix = ""
    truncate_article: int | None = Field(
        None, ge=1, description="keep only so many word tokens of an article; null: all of it, as it is"
    )
    max_size: Size = None


def load(
    split: Split,
    *,
    prompt_prefix: str,
    prompt_suffix: str,
    truncate_article: int | None,
    max_size: int | None,
    data_path: str | None,
) -> list[Sample]:
    """Load one sample for each of the first `max_size` articles. Raises DataError."""

    def sample(number: int, row: Row) -> Sample:
        prompt = prompt_prefix + truncate(row["article"], truncate_article) + prompt_suffix
        return Sample(f"{split}_{number}", prompt, [row["highlights"]])

    rows = islice(read_rows(CNN_DAILY_MAIL, split, data_path), max_size)
    return as_samples(CNN_DAILY_MAIL, rows, sample)


def truncate(text: str, num_tokens: int | None) -> str:
    """Keep the first word tokens of a text, joined by spaces; all of the text, as it is, for None.

    NLTK's word tokenizer sees the whole text: splitting into sentences first would need a download, and only
    separates full stops inside the text from the words before them.
    """
    if num_tokens is None:
        return text
    from nltk.tokenize import NLTKWordTokenizer

    return " ".join(NLTKWordTokenizer().tokenize(text)[:num_tokens])

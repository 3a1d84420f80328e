"""IWSLT 2017 (Cettolo et al. 2017): English -> German."""

from __future__ import annotations

from common.hub import Published
from rl4lms.datapools.sources import (
    DatasetArgs,
    PromptPrefix,
    PromptSuffix,
    Row,
    as_samples,
    read_rows,
)
from rl4lms.samples import Sample, Split

IWSLT2017 = Published(
    name="iwslt2017en_de",
    columns={"translation": dict},
    rows={"train": 206_112, "val": 888, "test": 8_079},
    repo="IWSLT/iwslt2017",
    # The repository holds a script; this is a commit of refs/convert/parquet, the hub's own copy of its data.
    revision="9ca48082a7aae6d0a9d18efb292c50eacd10d2e8",
    files="iwslt2017-de-en/{split}/*.parquet",
)


class Iwslt2017Args(DatasetArgs):
    prompt_prefix: PromptPrefix = "translate English to German: "
    prompt_suffix: PromptSuffix = ""


def load(split: Split, *, prompt_prefix: str, prompt_suffix: str, data_path: str | None) -> list[Sample]:
    """Load one sample per row. Raises DataError."""

    def sample(number: int, row: Row) -> Sample:
        english, german = row["translation"]["en"], row["translation"]["de"]
        return Sample(f"{split}_{number}", prompt_prefix + english + prompt_suffix, [german])

    return as_samples(IWSLT2017, read_rows(IWSLT2017, split, data_path), sample)

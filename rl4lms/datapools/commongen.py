"""CommonGen (Lin et al. 2020) as in GEM: concepts -> a sentence with them."""

from __future__ import annotations

from pydantic import Field

from common.hub import Published
from rl4lms.datapools.sources import (
    DatasetArgs,
    PromptPrefix,
    Row,
    as_samples,
    read_rows,
)
from rl4lms.samples import Sample, Split

COMMONGEN = Published(
    name="commongen",
    columns={"concepts": list, "target": str},
    rows={"train": 67_389, "val": 993, "test": 1_497},
    repo="GEM/common_gen",
    # The repository holds a script; this is a commit of refs/convert/parquet, the hub's own copy of its data.
    revision="62063f847b090959b6fd342f9c8582f61a6bbb53",
    files="default/{split}/*.parquet",
)


class CommonGenArgs(DatasetArgs):
    prefix: PromptPrefix = "generate a sentence with: "
    concept_separator_token: str = Field(" ", description="text between two concepts")
    concept_end_token: str = Field(".", description="text after the last concept")


def load(
    split: Split,
    *,
    prefix: str,
    concept_separator_token: str,
    concept_end_token: str,
    data_path: str | None,
) -> list[Sample]:
    """Load one sample per row, also where train repeats its concepts. Raises DataError."""

    def sample(number: int, row: Row) -> Sample:
        concepts = list(row["concepts"])
        prompt = prefix + concept_separator_token.join(concepts) + concept_end_token
        reference = row["target"] or "empty reference"
        return Sample(f"{split}_{number}", prompt, [reference], {"concepts": concepts})

    return as_samples(COMMONGEN, read_rows(COMMONGEN, split, data_path), sample)

"""DailyDialog (Li et al. 2017): the last utterances -> the next one."""

from __future__ import annotations

from pydantic import Field

from common.hub import DataError, Published
from rl4lms.datapools.sources import (
    DatasetArgs,
    read_rows,
)
from rl4lms.samples import Sample, Split

DAILY_DIALOG = Published(
    name="daily_dialog",
    columns={"dialog": list, "emotion": list, "act": list},
    rows={"train": 11_118, "val": 1_000, "test": 1_000},
    repo="OpenRL/daily_dialog",
    revision="1668faf0c0dc44664f108c489fd0666128db2c48",
)
END_OF_UTTERANCE = "<EOU>"


class DailyDialogArgs(DatasetArgs):
    context_size: int = Field(5, ge=1, description="utterances in a prompt")


def load(split: Split, *, context_size: int, data_path: str | None) -> list[Sample]:
    """Load a sample per utterance with at least `context_size` before it in its dialogue. Raises DataError.

    An id is the number of the utterance among all of the split.
    """
    samples: list[Sample] = []
    number = 0
    for row in read_rows(DAILY_DIALOG, split, data_path):
        dialogue, emotions, acts = row["dialog"], row["emotion"], row["act"]
        if not len(dialogue) == len(emotions) == len(acts):
            raise DataError(f"daily_dialog: not as many emotions and acts as utterances: {dialogue!r:.100}")
        for i in range(context_size, len(dialogue)):
            context = END_OF_UTTERANCE.join(dialogue[i - context_size : i])
            samples.append(
                Sample(
                    number + i,
                    f"{context} {END_OF_UTTERANCE}",
                    [dialogue[i] + END_OF_UTTERANCE],
                    {"emotion": [emotions[i]], "intent": [acts[i]]},
                )
            )
        number += len(dialogue)
    return samples

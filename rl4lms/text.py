"""What rewards and metrics look at, and what a metric gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rl4lms.samples import Sample


@dataclass(frozen=True)
class TextBatch:
    """N generated texts with what they are measured against; all lists have length N.

    references: none, one or more texts for each. meta: the sample's further columns. model: the Hugging Face
    model that wrote the texts, for metrics of the model itself. split: "train", "val" or "test".
    Raises ValueError if the lists differ in length.
    """

    prompts: list[str]
    generated: list[str]
    references: list[list[str]]
    meta: list[dict[str, Any]]
    model: Any = None
    split: str | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("prompts", "generated", "references", "meta")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the lists of a TextBatch differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.generated)

    def select(self, indices: Iterable[int]) -> TextBatch:
        """Takes these texts alone."""
        chosen = list(indices)
        return TextBatch(
            [self.prompts[i] for i in chosen],
            [self.generated[i] for i in chosen],
            [self.references[i] for i in chosen],
            [self.meta[i] for i in chosen],
            self.model,
            self.split,
        )

    def reference_sets(self) -> list[list[str]]:
        """Returns the references of each text; a text without any has the empty one."""
        return [references or [""] for references in self.references]


def make_text_batch(samples: Sequence[Sample], texts: Sequence[str], model: Any, split: str) -> TextBatch:
    """Puts each text together with the sample that it is generated for; one text per sample."""
    return TextBatch(
        [sample.prompt_or_input_text for sample in samples],
        list(texts),
        [sample.references for sample in samples],
        [sample.meta_data for sample in samples],
        model,
        split,
    )


def find_failing_text(function: Callable[[TextBatch], Any], batch: TextBatch) -> int | None:
    """Finds a text for which the function raises when it gets it alone, by halving; None if there is none.

    Whatever it raises counts, `sys.exit()` too, but not the user's Ctrl-C.

    It is the first one, if the function fails on every batch that holds a bad text.
    """
    return _find_failing(function, batch, 0, len(batch)) if len(batch) else None


def _find_failing(
    function: Callable[[TextBatch], Any], batch: TextBatch, first: int, after: int
) -> int | None:
    try:
        function(batch.select(range(first, after)))
        return None
    except KeyboardInterrupt:
        raise
    except BaseException:
        if after - first == 1:
            return first
    middle = (first + after) // 2
    index = _find_failing(function, batch, first, middle)
    return _find_failing(function, batch, middle, after) if index is None else index


@dataclass(frozen=True)
class Score:
    """A metric's value of a batch.

    per_sample[i] equals `corpus` of the batch that holds only text i; None: not computed along the way.
    NaN: undefined for these texts (a type-token ratio over windows longer than the text).
    """

    per_sample: list[float] | None
    corpus: float


def averaged(per_sample: list[float]) -> Score:
    """Makes the score of a metric whose corpus value is the mean over texts; NaN for no text."""
    return Score(per_sample, fmean(per_sample) if per_sample else float("nan"))

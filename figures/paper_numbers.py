"""What the paper reports of its items, and how sure that is: data alone."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = {
    "s": "seen in the paper",
    "2": "quoted by a secondary source, not exact",
    "d": "derived for this project, not in the paper",
}


@dataclass(frozen=True)
class PaperNumber:
    """What the paper reports, and how sure that is; see `MARKS`."""

    text: str
    mark: str


PAPER: dict[str, tuple[PaperNumber, ...]] = {
    "figure1": (PaperNumber("NarrativeQA, ToTTo, IMDB; 5,000 train inputs each, 10 generations", "s"),),
    "figure2": (PaperNumber("7 datasets, 5 runs each; inputs with a pretrain mean above 0.9 left out", "s"),),
    "table1": (
        PaperNumber("RFT: 0.48 on NarrativeQA, 0.46 on ToTTo", "2"),
        PaperNumber("SFT: 0.05 on NarrativeQA, 0.16 on ToTTo", "2"),
    ),
    "table2": (
        PaperNumber("NarrativeQA train reward about 0.10, whichever is raised", "2"),
        PaperNumber("SFT, then RFT: 0.54", "2"),
    ),
    "figure4": (
        PaperNumber("NarrativeQA: RFT gains about 5 to 18 times more than without SFT", "s"),
        PaperNumber("1% of the labels with 40% of the steps reaches 96% of full SFT, then RFT", "2"),
    ),
    "theory": (
        PaperNumber("largest gradient over bound 0.118 (Theorem 1), 0.999 and 1.000 (sharper bounds)", "d"),
        PaperNumber("exponent of RFT's time: -1.994", "d"),
    ),
}

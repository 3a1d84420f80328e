"""How the page opens: the three sentences that carry the paper, each with number, verdicts and a picture.

Sentences are data; numbers are measured on the results at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from figures.claims import Results, Verdict
from figures.criterion import HARD_TASK, SHORT_LABELS, SHORT_STEPS
from figures.measured import NotTestedError
from figures.report import Item, Lead

Verdicts = Mapping[str, Verdict]


@dataclass(frozen=True)
class Sentence:
    """A sentence that carries the paper.

    item, picture: what shows it, by the name of the picture's files; criteria: their names; measure: says its
    number in a sentence, or raises NotTestedError.
    """

    claim: str
    item: str
    picture: str
    criteria: tuple[str, ...]
    measure: Callable[[Results, Verdicts], str]


def make_opening(results: Results, verdicts: Sequence[Verdict], items: Sequence[Item]) -> list[Lead]:
    """Put numbers, verdicts and pictures to the sentences, as far as they were measured and drawn."""
    by_name = {verdict.criterion.name: verdict for verdict in verdicts}
    pictures = {stem.name: stem for item in items for stem in [*item.stems, *item.linked]}
    leads = []
    for sentence in SENTENCES:
        try:
            measured, lacks = sentence.measure(results, by_name), ""
        except NotTestedError as error:
            measured, lacks = "", str(error)
        leads.append(
            Lead(
                claim=sentence.claim,
                item=sentence.item,
                measured=measured,
                lacks=lacks,
                verdicts=[by_name[name] for name in sentence.criteria],
                picture=pictures.get(sentence.picture),
            )
        )
    return leads


def _dead_inputs(results: Results, verdicts: Verdicts) -> str:
    """What becomes of the hard question's dead inputs."""
    dead, rft, sft = (_value(verdicts, f"figure1_{name}") for name in ("dead", "rft", "sft"))
    return (
        f"Of the hard question's train inputs {dead:.0%} have a low reward without spread. RFT brings "
        f"{rft:.1%} of these to a mean reward of 0.1 or more, SFT {sft:.1%} (each in the seed that speaks "
        "most against the claim)."
    )


def _two_rewards(results: Results, verdicts: Verdicts) -> str:
    """How much of full SFT's gain RFT gets by both rewards of the tasks."""
    shares = results.pairs.groupby("data", sort=False)[["small_rft", "large_rft"]].mean()
    if shares.empty:
        raise NotTestedError("no task has finished runs of RFT and SFT under two rewards of different std")
    less, tasks = int((shares["small_rft"] < shares["large_rft"]).sum()), len(shares)
    small, large = shares.mean()
    chance = verdicts["figure2_pairs_rft"].value  # NaN: too few tasks
    return (
        f"By the reward of smaller std RFT gains {small:.0%} of what full SFT gains, by that of larger std "
        f"{large:.0%} (train reward, mean over tasks); less on {less} of {tasks} tasks"
        + ("." if np.isnan(chance) else f" (sign test: p = {chance:.2g}).")
    )


def _short_phase(results: Results, verdicts: Verdicts) -> str:
    """Test rewards with and without a short SFT phase before RFT."""
    rows = results.figure4[results.figure4["split"] == "test"]
    short = (SHORT_LABELS, SHORT_STEPS)
    phase = f"short: {SHORT_LABELS:.0%} of the labels, {SHORT_STEPS:.0%} of the steps"
    cells = {
        "pretrained": _reward(rows, "pretrained"),
        "RFT alone": _reward(rows, "rft"),
        "short SFT": _reward(rows, "sft", short),
        "short SFT, then RFT": _reward(rows, "sft_rft", short),
        "full SFT, then RFT": _reward(rows, "sft_rft", (1, 1)),
    }
    for name in ("RFT alone", "short SFT, then RFT"):
        if np.isnan(cells[name]):
            raise NotTestedError(f"no finished run of {name} ({phase})")
    listed = "; ".join(f"{name} {value:.3f}" for name, value in cells.items() if not np.isnan(value))
    return f"Mean test reward on the task of the picture: {listed} ({phase})."


def _value(verdicts: Verdicts, name: str) -> float:
    """The number of a criterion. Raises NotTestedError: it has none."""
    verdict = verdicts[name]
    if np.isnan(verdict.value):
        raise NotTestedError(verdict.detail)
    return verdict.value


def _reward(rows: pd.DataFrame, method: str, amount: tuple[float, float] | None = None) -> float:
    """Mean reward of a cell of Figure 4; NaN if it was not run. amount: shares of the labels and steps."""
    rows = rows[rows["method"] == method]
    if amount is not None:
        labels, steps = (rows[name].astype(float) for name in ("labels", "steps"))
        rows = rows[np.isclose(labels, amount[0]) & np.isclose(steps, amount[1], atol=0.01)]
    return float(rows["reward"].iloc[0]) if len(rows) else float("nan")


SENTENCES = (
    Sentence(
        "An input whose reward hardly varies under the pretrained model gives reinforcement finetuning (RFT) "
        "no gradient: RFT leaves such inputs as they are, supervised finetuning (SFT) does not.",
        "figure1",
        f"figure1_{HARD_TASK}",
        ("figure1_dead", "figure1_rft", "figure1_sft"),
        _dead_inputs,
    ),
    Sentence(
        "The spread of the reward decides, not the task: of two rewards for the same task, RFT learns less "
        "by the one with the smaller standard deviation (std).",
        "figure2",
        "figure2_pairs",
        ("figure2_pairs_rft", "figure2_pairs_size", "figure2_pairs_beyond"),
        _two_rewards,
    ),
    Sentence(
        f"A short SFT phase on {SHORT_LABELS:.0%} of the labels lets RFT work, on test inputs too.",
        "figure4",
        "figure4",
        ("figure4_test", "figure4_gain_test", "figure4_share_test"),
        _short_phase,
    ),
)

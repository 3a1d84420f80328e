"""What is claimed of the real language model, when it counts as holding, and how that is measured.

Written down before the runs that are reported. Figure 3's claims are those of `figures.criteria`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from figures.claims import Measured, NotTestedError, Results, Verdict, judge
from figures.criteria import CRITERIA
from figures.criterion import Criterion
from figures.figure2_table1 import models_by_task
from figures.tables import with_interval
from rft_diagnose.statistics import LOW_MEAN, dead, paired_difference

DEAD_TASK, LIVE_TASK = "category_rouge", "sentence_from_words_meteor"
FIGURE3_ITEMS = ("figure3", "figure3_sgd", "figure3_high_init_reward")
_ONE_SEED = "one seed: the interval is over inputs and does not cover other seeds"

REAL_CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "real_dead",
        "figure1",
        "Most prompts of the category task carry no gradient under the pretrained model though their reward "
        "is low.",
        "share of its train inputs with reward std below 0.01 and mean below 0.1 (dead)",
        ">=",
        0.5,
        "most; a look at 40 prompts in another form (0.88) was known",
    ),
    Criterion(
        "real_live",
        "figure1",
        "Of the sentence task hardly any do.",
        "share of its train inputs that are dead",
        "<=",
        0.1,
        "none, up to what 10 generations can tell, and a few hard ones",
    ),
    Criterion(
        "real_rft",
        "figure1",
        "GRPO on all weights leaves the dead prompts as they are.",
        "share of the category task's dead inputs with a mean of 0.1 or more after RFT",
        "<=",
        0.2,
        "as in the laptop study: a fifth leaves room for inputs that only looked dead",
    ),
    Criterion(
        "real_sft",
        "figure1",
        "A short SFT phase raises their reward.",
        "share of the category task's dead inputs with a mean of 0.1 or more after SFT",
        ">=",
        0.5,
        "most of them; less than the laptop study's 0.8, since the phase is too short to learn them by heart",
    ),
    Criterion(
        "real_live_rft",
        "figure1",
        "The same GRPO does raise the reward of the sentence task.",
        "lower end of the 95% interval of the mean train reward after RFT minus before, sentence task",
        ">",
        0,
        f"the sign is what is claimed; {_ONE_SEED}",
    ),
    Criterion(
        "real_over_rft",
        "table_rewards",
        "GRPO after the short SFT phase ends above GRPO alone (category task).",
        "lower end of the 95% interval of the mean test reward of SFT, then RFT, minus RFT alone",
        ">",
        0,
        f"the sign is what is claimed; {_ONE_SEED}",
    ),
    Criterion(
        "real_over_sft",
        "table_rewards",
        "After SFT, the GRPO that did nothing alone raises the reward further (category task).",
        "lower end of the 95% interval of the mean train reward of SFT, then RFT, minus SFT alone",
        ">",
        0,
        f"shows that its settings can learn; {_ONE_SEED}",
    ),
)

Models = Mapping[str, pd.DataFrame]


def evaluate_real(results: Results) -> list[Verdict]:
    """Judge Figure 3's criteria and those above."""
    figure3 = [judge(criterion, results) for criterion in CRITERIA if criterion.item in FIGURE3_ITEMS]
    return figure3 + [judge(criterion, results, MEASURES) for criterion in REAL_CRITERIA]


def _models(results: Results, task: str, needed: tuple[str, ...], split: str = "train") -> Models:
    """A task's rows of each model, of the one seed there is."""
    for name, _, models in models_by_task(results.inputs, needed=needed, split=split):
        if name == task:
            return models
    raise NotTestedError(f"no finished extractions of {', '.join(needed)} on {task}, {split} inputs")


def _dead_share(task: str) -> Callable[[Results], Measured]:
    def measure(results: Results) -> Measured:
        start = _models(results, task, ("pretrained",))["pretrained"]
        marked = dead(start["mean"], start["std"])
        return Measured(float(marked.mean()), f"{int(marked.sum())} of {len(start)} inputs")

    return measure


def _revived(method: str) -> Callable[[Results], Measured]:
    def measure(results: Results) -> Measured:
        models = _models(results, DEAD_TASK, ("pretrained", method))
        start = models["pretrained"]
        means = models[method]["mean"][dead(start["mean"], start["std"])]
        if not len(means):
            raise NotTestedError("no input is dead")
        raised = int((means >= LOW_MEAN).sum())
        return Measured(raised / len(means), f"{raised} of {len(means)} inputs")

    return measure


def _gain(task: str, split: str, method: str, over: str) -> Callable[[Results], Measured]:
    """Lower end of the interval of a method's mean reward minus another's, over inputs."""

    def measure(results: Results) -> Measured:
        models = _models(results, task, (over, method), split)
        after, before = (models[name]["mean"].to_numpy() for name in (method, over))
        difference = paired_difference(after, before)
        shown = with_interval(difference.mean, difference.low, difference.high)
        means = f"{np.mean(before):.3f} to {np.mean(after):.3f}"
        return Measured(difference.low, f"{means}: difference {shown}, one seed")

    return measure


MEASURES: dict[str, Callable[[Results], Measured]] = {
    "real_dead": _dead_share(DEAD_TASK),
    "real_live": _dead_share(LIVE_TASK),
    "real_rft": _revived("rft"),
    "real_sft": _revived("sft"),
    "real_live_rft": _gain(LIVE_TASK, "train", "rft", "pretrained"),
    "real_over_rft": _gain(DEAD_TASK, "test", "sft_rft", "rft"),
    "real_over_sft": _gain(DEAD_TASK, "train", "sft_rft", "sft"),
}

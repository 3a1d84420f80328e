"""What is claimed of each item, and when it counts as holding: data alone.

`docs/laptop_study.md` holds `criteria_markdown()`, and a test compares the two; `figures.claims` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HARD_TASK = "hard_question_rouge"
CONTRAST_TASK = "continuation_style"
SWEPT_TASK = "identifier_bleu"
HIGH_START_TASK = "identifier_credit"  # a small std by design
LOW_START_TASK = "identifier_reached"  # a large std by design
SHORT_LABELS, SHORT_STEPS = 0.01, 0.4
TASK_HAS_DEAD = 0.1
FEWEST_TASKS = 7
LEAST_GAIN = 0.05  # of full SFT: shares of less are noise
GROUP_EXPONENT_STD = 0.003
GROUPS_ITEM = "table_groups"

Relation = Literal[">=", "<=", ">", "<"]
WORDS: dict[Relation, str] = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}


@dataclass(frozen=True)
class Criterion:
    """A claim, the one number that decides on it, and from where on it holds."""

    name: str
    item: str
    claim: str
    measure: str
    relation: Relation
    threshold: float
    why: str

    @property
    def bound(self) -> str:
        """Says for a reader from where on the claim holds."""
        return f"{WORDS[self.relation]} {self.threshold:g}"


_SHORT = f"SFT on {SHORT_LABELS:.0%} of the labels for {SHORT_STEPS:.0%} of the steps"
_LOWER = "lower end of the 95% interval of"
_POSITIVE = "the sign is what is claimed; the interval says whether chance would do"
_CONTROLLED = {
    "figure3": "Adam",
    "figure3_sgd": "SGD",
    "figure3_high_init_reward": "a high initial reward",
}

CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "figure1_dead",
        "figure1",
        "Many inputs of the hard question carry no gradient under the pretrained model though their reward "
        "is low.",
        "share of its inputs with reward std below 0.01 and mean below 0.1 (dead), in the seed where it is "
        "lowest",
        ">=",
        0.5,
        "many: most of them",
    ),
    Criterion(
        "figure1_rft",
        "figure1",
        "RFT leaves these dead inputs as they are.",
        "share of the hard question's dead inputs with a mean of 0.1 or more after RFT, in the seed where "
        "it is highest",
        "<=",
        0.2,
        "a fifth leaves room for inputs that only looked dead in 10 generations",
    ),
    Criterion(
        "figure1_sft",
        "figure1",
        "SFT raises their reward.",
        "share of the hard question's dead inputs with a mean of 0.1 or more after SFT, in the seed where "
        "it is lowest",
        ">=",
        0.8,
        "the mirror image of the criterion for RFT",
    ),
    Criterion(
        "figure1_contrast_dead",
        "figure1",
        "The continuation task, whose reward is a classifier, has no such inputs.",
        "share of its inputs that are dead, in the seed where it is highest",
        "<=",
        0.05,
        "none, up to what 10 generations can tell",
    ),
    Criterion(
        "figure1_contrast_rft",
        "figure1",
        "On the continuation task RFT is not behind SFT.",
        "mean train reward of RFT minus SFT on the continuation task, in the seed where it is lowest",
        ">=",
        -0.1,
        "a tenth of the reward's range",
    ),
    Criterion(
        "figure2_trend",
        "figure2",
        "The more inputs with a small pretrain reward std, the worse RFT does relative to SFT.",
        f"{_LOWER} the rank correlation over tasks of the percentile with RFT minus SFT",
        ">",
        0,
        f"{_POSITIVE}; not tested on fewer than {FEWEST_TASKS} tasks",
    ),
    Criterion(
        "figure2_rft_part",
        "figure2",
        "RFT's own gain follows the trend of Figure 2, so that it is not SFT's alone.",
        f"{_LOWER} the rank correlation over tasks of the percentile with RFT's gain",
        ">",
        0,
        "a difference can follow one of its parts; this is the part that the theory is about",
    ),
    Criterion(
        "figure2_given_mean",
        "figure2",
        "The trend of Figure 2 is not that of the reward that the tasks start from.",
        f"{_LOWER} the same rank correlation as in the trend, given the pretrain mean (partial)",
        ">",
        0,
        "tasks with a small std tend to have a low mean; with few tasks this is hard to show, and a "
        "failure is "
        "no proof of the contrary",
    ),
    Criterion(
        "figure2_pairs_rft",
        "figure2",
        "Of the rewards of one task, RFT gains less by the one with the smaller pretrain std; inputs, "
        "references, model and SFT are the same.",
        "p-value of the sign test over tasks of: by the reward of the smaller percentile, RFT gains the "
        "smaller share of what full SFT gains by it (train reward, mean over seeds; of more than two rewards "
        f"those of the smallest and the largest percentile; full SFT gains at least {LEAST_GAIN:g} by both)",
        "<=",
        0.05,
        "a fair coin does as well in one study of twenty",
    ),
    Criterion(
        "figure2_pairs_size",
        "figure2",
        "By the reward with the smaller std RFT gains a smaller share, in the mean over tasks.",
        f"{_LOWER} the mean over the same tasks of the share by the larger std minus that by the smaller "
        "(Student's, over seeds)",
        ">",
        0,
        _POSITIVE,
    ),
    Criterion(
        "figure2_pairs_sft",
        "figure2",
        "Short SFT, which sees no reward, has no such order.",
        "p-value of the same sign test for the shares of the short SFT phase",
        ">",
        0.05,
        "full SFT's own share is 1 by both rewards, so that the short phase is compared; a reward that asks "
        "for whole phrases rises later than one that does not, whatever trains: a failure says that part of "
        "RFT's order is the rewards' shape",
    ),
    Criterion(
        "figure2_pairs_beyond",
        "figure2",
        "RFT's order is more than the rewards' shape.",
        f"{_LOWER} RFT's mean difference of shares minus that of the short SFT phase (Student's, over seeds)",
        ">",
        0,
        _POSITIVE,
    ),
    Criterion(
        "figure2_high_start",
        "figure2",
        "A small std holds RFT back also where the reward starts high.",
        "share of full SFT's gain that RFT gains by .6 + .4 SacreBLEU on the identifier task, in the seed "
        "where it is highest",
        "<=",
        0.2,
        "a fifth; separates the std from the start of Figure 2's (d)",
    ),
    Criterion(
        "figure2_low_start",
        "figure2",
        "A large std lets RFT learn also where the reward starts low.",
        "the same share by the all-or-nothing reward on the identifier task, in the seed where it is lowest",
        ">=",
        0.5,
        "half; as above",
    ),
    Criterion(
        "table1_rft",
        "table1",
        "Where gradients vanish, RFT gains less on inputs with a smaller pretrain reward std.",
        f"share, of the tasks of which at least {TASK_HAS_DEAD:.0%} of the inputs are dead, with a "
        "correlation of std "
        "and RFT's gain whose 95% interval lies above 0",
        ">",
        0.5,
        "most of them; the paper reports two datasets with many such inputs",
    ),
    Criterion(
        "table1_order",
        "table1",
        "The std tells more about RFT's gain than about SFT's.",
        "share of the same tasks where the 95% interval of the difference of the two correlations lies "
        "above 0",
        ">",
        0.5,
        "most of them, as above",
    ),
    Criterion(
        "table1_rft_given_mean",
        "table1",
        "Within tasks, the std of an input predicts RFT's gain, the input's mean reward held fixed.",
        f"{_LOWER} the mean over tasks and rewards of the partial correlation of std and RFT's gain given the "
        "mean reward, all under the pretrained model (bootstrap over inputs); left out where it is not "
        "defined, since all rewards are equal",
        ">",
        0,
        f"{_POSITIVE}; std and mean are of the first sample, the gain is over the second",
    ),
    Criterion(
        "table1_order_given_mean",
        "table1",
        "It predicts RFT's gain better than SFT's.",
        f"{_LOWER} the mean of RFT's partial correlation minus SFT's, as above",
        ">",
        0,
        _POSITIVE,
    ),
    Criterion(
        "table_rewards_over_rft",
        "table_rewards",
        "Where gradients vanish, RFT after SFT ends with a higher test reward than RFT alone.",
        "share, of the tasks of which at least 10% of the train inputs are dead, where the 95% interval of "
        "the mean test reward of full SFT, then RFT, minus RFT alone lies above 0",
        ">",
        0.5,
        "most of them, as above; test, since full SFT learns the train inputs by heart",
    ),
    Criterion(
        "table_rewards_over_sft",
        "table_rewards",
        "After SFT, RFT raises the test reward further.",
        "share of all tasks where the 95% interval of the mean test reward of full SFT, then RFT, minus SFT "
        "alone lies above 0",
        ">",
        0.5,
        "most of them; .658 and .673 were known of one seed of the identifier with another model",
    ),
    Criterion(
        "table_rewards_over_short",
        "table_rewards",
        "After the short SFT phase, RFT raises the test reward further.",
        "share of all tasks where the 95% interval of the mean test reward of short SFT, then RFT, minus "
        "short SFT alone lies above 0",
        ">",
        0.5,
        "most of them; .492 and .542 were known, as above",
    ),
    Criterion(
        "table_rewards_gain",
        "table_rewards",
        "RFT becomes more potent after a short SFT phase.",
        "share of all tasks where the 95% interval of the test reward that RFT gains after short SFT, minus "
        "what RFT alone gains, lies above 0",
        ">",
        0.5,
        "most of them; RFT alone has the larger budget",
    ),
    Criterion(
        "table_rewards_share",
        "table_rewards",
        "A few labels and updates suffice.",
        "median over tasks of the test reward of short SFT, then RFT, over that of full SFT, then RFT; of "
        f"tasks where the latter is at least {LEAST_GAIN:g} above the pretrained model",
        ">=",
        0.9,
        "near the paper's 96%",
    ),
    Criterion(
        "table_rewards_wakes",
        "table_rewards",
        "The short SFT phase wakes dead inputs that it has not seen.",
        "share of the dead test inputs whose reward std is 0.01 or more after it, mean over the tasks of which "
        f"at least {TASK_HAS_DEAD:.0%} of the test inputs are dead, in the seed where it is lowest",
        ">=",
        0.5,
        "most of them; what RFT alone wakes stands beside",
    ),
    *(
        Criterion(
            f"table2_{split}",
            "table2",
            f"No raised learning rate, temperature or entropy does what a short SFT phase does ({split} "
            "reward).",
            f"{_LOWER} the mean {split} reward of {_SHORT}, then RFT, minus the best of all settings of "
            "RFT alone",
            ">",
            0,
            "the best is taken after the fact, which favours RFT alone; short, since full SFT alone "
            "already learns "
            "the train inputs by heart",
        )
        for split in ("train", "test")
    ),
    *(
        Criterion(
            f"figure4_{split}",
            "figure4",
            f"A short SFT phase on few labels makes RFT better than RFT alone ({split} reward).",
            f"{_LOWER} the mean {split} reward of {_SHORT}, then RFT, minus RFT alone",
            ">",
            0,
            f"{_POSITIVE}; the cell is chosen beforehand",
        )
        for split in ("train", "test")
    ),
    *(
        Criterion(
            f"figure4_gain_{split}",
            "figure4",
            f"RFT gains more after a short SFT phase than without it ({split} reward).",
            f"{_LOWER} the {split} reward that RFT gains after {_SHORT}, minus what RFT alone gains",
            ">",
            0,
            "the paper's ratio (5 to 18) is printed only where the interval of what RFT alone gains lies "
            "above 0",
        )
        for split in ("train", "test")
    ),
    *(
        Criterion(
            f"figure4_share_{split}",
            "figure4",
            f"A short SFT phase, then RFT nearly reaches full SFT, then RFT ({split} reward).",
            f"{split} reward of {_SHORT}, then RFT, over that of full SFT, then RFT",
            ">=",
            0.9,
            "near the paper's 96%; full SFT sees the train inputs five times"
            if split == "train"
            else "as on train; learning by heart does not help here",
        )
        for split in ("train", "test")
    ),
    *(
        criterion
        for item, variant in _CONTROLLED.items()
        for criterion in (
            Criterion(
                item,
                item,
                "RFT with exact gradients hardly raises the reward of small-std inputs, SFT does "
                f"({variant}).",
                "final reward of SFT minus RFT on the small-std inputs, over what they lacked at the "
                "start, in the "
                "environment where it is lowest",
                ">=",
                0.5,
                "half of what there was to gain; these runs were known when this was written",
            ),
            Criterion(
                f"{item}_gradient",
                item,
                f"The exact gradient of small-std inputs under RFT nearly vanishes at the start ({variant}).",
                "RFT's gradient norm of the small-std over that of the large-std inputs in the first "
                "epoch, in the "
                "environment where it is highest",
                "<=",
                0.1,
                "an order of magnitude; these runs were known when this was written",
            ),
        )
    ),
    Criterion(
        "theory_bounds",
        "theory",
        "Theorem 1, its version with KL and two sharper bounds hold on enumerated models.",
        "largest gradient norm over its bound (rounded to six decimals)",
        "<=",
        1,
        "a bound is a bound",
    ),
    Criterion(
        "theory_rft",
        "theory",
        "RFT needs a time that grows like 1 / std^2 to reach a fixed reward (Theorem 2).",
        "distance from -2 of the exponent of the time in the std",
        "<=",
        0.1,
        "a fit over two decades",
    ),
    Criterion(
        "theory_sft",
        "theory",
        "SFT's time grows like a logarithm, not a power (Theorem 2).",
        "exponent of SFT's time in 1 / std between the two smallest stds",
        "<=",
        0.25,
        "a logarithm's exponent falls to 0; RFT's is 2",
    ),
    Criterion(
        "group_exponent",
        "theory_group",
        "GRPO's expected gradient vanishes with the square of a rare reward's std, as REINFORCE's does.",
        f"largest distance from 2 of the local exponent at std {GROUP_EXPONENT_STD:g}, G from 2 to 64",
        "<=",
        0.02,
        "derived (docs/group_algorithms.md); at finite G the limit is exact for std to 0",
    ),
    Criterion(
        "group_exponent_infinite",
        "theory_group",
        "Only infinite groups have the std itself.",
        f"distance from 1 of the local exponent at std {GROUP_EXPONENT_STD:g}, G infinite",
        "<=",
        0.01,
        "derived, as above",
    ),
    Criterion(
        "group_figure3",
        "figure3_group",
        "GRPO with exact gradients, even of infinite groups, leaves small-std inputs behind; SFT does not.",
        "final reward of SFT minus the best GRPO (G 8, 64, infinite) on the small-std inputs, over what they "
        "lacked at the start, on digits (MLP, ResNet18) where it is lowest",
        ">=",
        0.5,
        "half of what there was to gain; a prototype of the MLP with 3,000 epochs (0.86) was known",
    ),
    Criterion(
        "group_figure3_bert",
        "figure3_group",
        "On BERT-mini, whose small-std inputs learn from the others, GRPO is hardly ahead of REINFORCE.",
        "final reward of the best GRPO minus RFT on the small-std inputs, over what they lacked at the start",
        "<=",
        0.1,
        "a tenth of what there was to gain; RFT and SFT there were known, GRPO was not",
    ),
    Criterion(
        "group_dead",
        GROUPS_ITEM,
        "Groups leave the dead inputs of the hard question as they are.",
        "share of its dead inputs with a mean of 0.1 or more after GRPO or DAPO, whichever is higher, in the "
        "seed where it is highest",
        "<=",
        0.2,
        "as for RFT; every prompt is to be drawn at least twice, the table says how often it was",
    ),
    Criterion(
        "group_not_better",
        GROUPS_ITEM,
        "Where gradients vanish, no group algorithm is ahead of PPO.",
        f"upper end of the 95% interval of the mean test reward of the best group algorithm minus PPO, on "
        f"{HARD_TASK} or {SWEPT_TASK}, whichever is higher",
        "<",
        0.05,
        "the best is taken after the fact, which favours groups; it failed in the first edition, "
        "on one seed and other tasks",
    ),
    Criterion(
        "group_live",
        GROUPS_ITEM,
        "On the continuation task, which has no dead inputs, groups are not behind PPO.",
        "mean train reward of the best group algorithm minus PPO on the continuation task, in the seed where "
        "it is lowest",
        ">=",
        -0.1,
        "a tenth of the reward's range; trials of GRPO on another seed (.99) were known",
    ),
    Criterion(
        "group_cure",
        GROUPS_ITEM,
        "A short SFT phase makes GRPO better than GRPO alone (test reward).",
        f"{_LOWER} the mean test reward of {_SHORT}, then GRPO, minus GRPO alone, on {SWEPT_TASK}",
        ">",
        0,
        f"{_POSITIVE}; both at the learning rate that is best for GRPO alone",
    ),
    Criterion(
        "group_scale_grpo",
        GROUPS_ITEM,
        "GRPO does not notice that all differences of rewards are a thousandth.",
        "train reward that GRPO gains on the continuation task with the reward 0.5 + 0.001 (r - 0.5), over "
        "what it gains with r; the same weight of the KL penalty, which is part of the loss",
        ">=",
        0.8,
        "derived: the group's std divides the scale out, epsilon takes half a percent",
    ),
    Criterion(
        "group_scale_rloo",
        GROUPS_ITEM,
        "RLOO does, where a KL penalty has a scale of its own.",
        "the same share for RLOO, with the same weight of a KL penalty that is part of the reward",
        "<=",
        0.2,
        "without a KL penalty Adam would hide the scale, and gradient clipping the rest",
    ),
)


def criteria_markdown(criteria: Sequence[Criterion] = CRITERIA) -> str:
    """Write the criteria as a table for docs/laptop_study.md, and others for docs/real_data.md."""
    lines = ["| criterion | claim | what is measured | holds if | why there |", "|---|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.claim} | {c.measure} | {c.bound} | {c.why} |" for c in criteria]
    return "\n".join(lines) + "\n"

"""What is claimed of the study of text generation tasks (Figures 1, 2, 4, Tables 1, 2, rewards)."""

from __future__ import annotations

from figures.criterion import FEWEST_TASKS, LEAST_GAIN, LOWER, POSITIVE, SHORT, TASK_HAS_DEAD, Criterion

TEXT_CRITERIA: tuple[Criterion, ...] = (
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
        f"{LOWER} the rank correlation, over the rewards of all tasks, of the percentile with RFT minus SFT; "
        "the interval counts tasks, since rewards of one task are not independent",
        ">",
        0,
        f"{POSITIVE}; not tested on fewer than {FEWEST_TASKS} tasks",
    ),
    Criterion(
        "figure2_rft_part",
        "figure2",
        "RFT's own gain follows the trend of Figure 2, so that it is not SFT's alone.",
        f"{LOWER} the rank correlation, likewise, of the percentile with RFT's gain",
        ">",
        0,
        "a difference can follow one of its parts; this is the part that the theory is about",
    ),
    Criterion(
        "figure2_given_mean",
        "figure2",
        "The trend of Figure 2 is not that of the reward that the tasks start from.",
        f"{LOWER} the same rank correlation as in the trend, given the pretrain mean (partial)",
        ">",
        0,
        "tasks with a small std tend to have a low mean; with few tasks this is hard to show, and a "
        "failure is no proof of the contrary",
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
        f"{LOWER} the mean over the same tasks of the share by the larger std minus that by the smaller "
        "(Student's, over seeds)",
        ">",
        0,
        POSITIVE,
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
        f"{LOWER} RFT's mean difference of shares minus that of the short SFT phase (Student's, over seeds)",
        ">",
        0,
        POSITIVE,
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
        f"{LOWER} the mean over tasks and rewards of the partial correlation of std and RFT's gain given the "
        "mean reward, all under the pretrained model (bootstrap over inputs); left out where it is not "
        "defined, since all rewards are equal",
        ">",
        0,
        f"{POSITIVE}; std and mean are of the first sample, the gain is over the second",
    ),
    Criterion(
        "table1_order_given_mean",
        "table1",
        "It predicts RFT's gain better than SFT's.",
        f"{LOWER} the mean of RFT's partial correlation minus SFT's, as above",
        ">",
        0,
        POSITIVE,
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
        "share of the dead test inputs whose reward std is 0.01 or more after it, mean over the tasks of "
        f"which at least {TASK_HAS_DEAD:.0%} of the test inputs are dead, in the seed where it is lowest",
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
            f"{LOWER} the mean {split} reward of {SHORT}, then RFT, minus the best of all settings of "
            "RFT alone",
            ">",
            0,
            "the best is taken after the fact, which favours RFT alone; short, since full SFT alone "
            "already learns the train inputs by heart",
        )
        for split in ("train", "test")
    ),
    *(
        Criterion(
            f"figure4_{split}",
            "figure4",
            f"A short SFT phase on few labels makes RFT better than RFT alone ({split} reward).",
            f"{LOWER} the mean {split} reward of {SHORT}, then RFT, minus RFT alone",
            ">",
            0,
            f"{POSITIVE}; the cell is chosen beforehand",
        )
        for split in ("train", "test")
    ),
    *(
        Criterion(
            f"figure4_gain_{split}",
            "figure4",
            f"RFT gains more after a short SFT phase than without it ({split} reward).",
            f"{LOWER} the {split} reward that RFT gains after {SHORT}, minus what RFT alone gains",
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
            f"{split} reward of {SHORT}, then RFT, over that of full SFT, then RFT",
            ">=",
            0.9,
            "near the paper's 96%; full SFT sees the train inputs five times"
            if split == "train"
            else "as on train; learning by heart does not help here",
        )
        for split in ("train", "test")
    ),
)

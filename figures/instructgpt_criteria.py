"""What is claimed of InstructGPT's pipeline, and when it counts as holding; written before the runs."""

from __future__ import annotations

from figures.criterion import LOWER, POSITIVE, Criterion

ITEM = "instructgpt"
MAIN_TASK = "continuation"
# Methods, as the pipeline calls them.
START, SFT, PPO, PPO_FREE, PTX = "start", "sft", "ppo-0_02", "ppo-0", "ppo-ptx-0_02"
TAUGHT_KL = 0.05
WHOLE_TEACHER = "on_policy_100"
LEAST_ACCURACY, LEAST_KEPT, LEAST_LOST = 0.75, 0.8, 0.2
_WORST = "in the seed where it is lowest"

INSTRUCTGPT_CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "rm_accuracy",
        ITEM,
        "A reward model learns the gold reward from 1,000 noisy rankings.",
        "share of pairs of held-out texts (the test split, which chose nothing) that it orders as gold does, "
        "mean over seeds; the worst is reported",
        ">=",
        LEAST_ACCURACY,
        "known: .765 to .769 with this recipe on texts of the pretrained model; 79% of the labels agree "
        "with gold",
    ),
    Criterion(
        "rm_grouped",
        ITEM,
        "Shuffled comparisons overfit more than all comparisons of a prompt in one element.",
        f"{LOWER} val loss, over prompts (mean over seeds of each): shuffled, as many texts an update, at "
        "the best of ten evaluations in one pass, minus grouped at the best of four epochs; same noise "
        "and val",
        ">",
        0,
        f"{POSITIVE}; known, on other texts: -.002 [-.017, .014], so that it may well fail; the forward "
        "passes of both are reported",
    ),
    Criterion(
        "rm_epochs",
        ITEM,
        "More epochs overfit a reward model.",
        f"its val loss at the fourth epoch minus the least of the four, {_WORST}",
        ">",
        0,
        "the sign is what is claimed; known: .85 against .61",
    ),
    Criterion(
        "rm_calibrated",
        ITEM,
        "After one epoch a reward model is calibrated.",
        "calibration error on val's labels (both orientations of each pair, ten bins of equal count) minus "
        "that of labels drawn with the predicted probabilities, in the seed where it is highest",
        "<=",
        0.05,
        "five points of probability, beyond what so many labels are off by chance",
    ),
    Criterion(
        "rm_calibrated_later",
        ITEM,
        "Epochs spoil the calibration.",
        f"the same after four epochs minus after one, {_WORST}",
        ">",
        0,
        "the sign is what is claimed",
    ),
    Criterion(
        "ppo_wins",
        ITEM,
        "PPO against the reward model beats SFT.",
        f"{LOWER} win rate of PPO with KL coefficient .02 against SFT of 16 epochs, by gold, on held-out "
        "prompts (Student's over seeds; of one seed, over prompts)",
        ">",
        0.5,
        "half of the comparisons: no better than SFT",
    ),
    Criterion(
        "ptx_keeps",
        ITEM,
        "Pretraining gradients keep the policy a language model.",
        f"{LOWER} loss on held-out pretraining text of PPO minus PPO-ptx, both with KL coefficient .02 "
        "(Student's over seeds; of one seed, over texts); the difference of gold is reported",
        ">",
        0,
        POSITIVE,
    ),
    Criterion(
        "sft_epochs",
        ITEM,
        "SFT overfits val loss before the reward model's score is best.",
        f"the epoch of the best score minus that of the least val loss, {_WORST}",
        ">",
        0,
        "the paper's finding: loss is best after one epoch, and yet 16 are better",
    ),
    Criterion(
        "overoptimised",
        ITEM,
        "Without a penalty the proxy runs away from gold as the policy leaves its start.",
        "rank correlation of (proxy minus gold, both in std of the start's texts) with the root of the KL, "
        f"over the evaluations of the run with KL coefficient 0, {_WORST}",
        ">",
        0,
        "the sign is what is claimed; not where gold turns, which best of 32 did not reach in a prototype",
    ),
    Criterion(
        "teacher_variance",
        ITEM,
        "A reward model's variance under the policy, not its accuracy, says how fast it teaches.",
        "over six reward models (means over seeds): rank correlation of the gold gain of 10 iterations of "
        "RLOO with the normalised variance within prompts, minus that with accuracy on the policy's texts",
        ">",
        0,
        "Razin et al. 2025: .83 and -.76; the perfect order with a tenth of the std, the sixth, pulls both "
        "apart",
    ),
    Criterion(
        "teacher_grpo",
        ITEM,
        "GRPO does not notice that rewards of half of the prompts are squashed.",
        "gold gain on the random half of the train prompts whose differences are a tenth, over that on the "
        "other half, of means over seeds",
        ">=",
        LEAST_KEPT,
        "each group's std divides the scale out; shared weights lift both halves: a prediction",
    ),
    Criterion(
        "teacher_grpo_rloo",
        ITEM,
        "RLOO does notice.",
        "GRPO's share minus that of RLOO",
        ">=",
        LEAST_LOST,
        "as above; the gold reward depends on the text alone, so that the halves teach each other",
    ),
)

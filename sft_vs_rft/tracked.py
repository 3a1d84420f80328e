"""Names of what an experiment tracks, in the order of its rows (the values: `gradients.tracked_values`)."""

from __future__ import annotations

SMALL, LARGE = " small reward std", " large reward std"
GROUP_OBJECTIVE = "group objective"


def metric_names(
    label_sets: bool, reward_std_groups: bool, group_objective: bool
) -> tuple[list[str], list[str]]:
    """Names of the train and of the test metrics.

    label_sets: pretraining, which has no reward; reward_std_groups: inputs are modified, and tracked apart;
    group_objective: what GRPO maximises is tracked beside the reward.
    """
    train = [
        "train loss",
        "reg objective value",
        "kl reg",
        "params_norm",
        "grad norm",
        "normalized grad norm",
    ]
    test = ["test loss"]
    extra = [GROUP_OBJECTIVE] if group_objective else []
    if not label_sets:
        train += ["train accuracy", "reward", *extra]
        test += ["test accuracy"]
    if reward_std_groups:
        grouped = [
            "grad norm",
            "normalized grad norm",
            "reg objective",
            "train accuracy",
            "reward",
            "avg reward std",
            *extra,
        ]
        train += [name + group for group in (SMALL, LARGE) for name in grouped]
    return train, test

"""The tidy tables of InstructGPT's pipeline: figures and criteria are functions of them."""

from __future__ import annotations

_SEED = {"seed": "of all its runs"}
_MODEL = {
    "task": "name of the task",
    **_SEED,
    "method": "what made the model: start, sft, ppo-{kl}, ppo-ptx-{kl}",
}
_KNOWN = {
    "variance": "mean over prompts of the variance of normalised rewards of the policy's texts",
    "accuracy": "share of pairs of these texts that it orders as gold does",
}
TABLES: dict[str, dict[str, str]] = {
    "reward_models": {
        **_SEED,
        "arm": "main (that of RL), grouped (one epoch), epochs (several), shuffled",
        "epoch": "of the evaluation on val",
        "step": "updates until then",
        "texts": "forward passes until then",
        "loss": "on val's labels",
        "accuracy": "on val's labels",
        "gold_accuracy": "against gold, on val",
        "calibration_error": "on val's labels",
        "calibration_error_by_chance": "what labels drawn with the predicted probabilities would give",
    },
    "reward_losses": {
        **_SEED,
        "arm": "epochs or shuffled, each at its best evaluation",
        "prompt": "of val",
        "loss": "mean over its comparisons",
    },
    "scores": {
        **_SEED,
        "teacher": "on_policy_{percent of the prompts with rankings of the policy's texts}",
        **_KNOWN,
        "rankings": "the same share of the test rankings",
        "off_policy": "the same share of texts that people wrote after other prompts",
    },
    "best_of": {
        **_SEED,
        "n": "texts that the best one by the reward model is chosen of",
        "kl_root": "root of the KL to the policy",
        "proxy": "gain of the reward model's reward, in std of the policy's texts",
        "gold": "the same of gold",
    },
    "sft": {
        **_SEED,
        "epoch": "of the evaluation on val",
        "loss": "nats a token of the demonstrations",
        "score": "mean reward-model score of its texts",
    },
    "ppo": {
        **_MODEL,
        "kl": "coefficient of the penalty",
        "iteration": "of the evaluation on val",
        "kl_root": "root of the KL to the start",
        "proxy": "gain of the reward model's reward, in std of the texts before training",
        "gold": "the same of gold",
        "policy_share": "of the summed gradient's length what PPO's adds, mean of updates; NaN without ptx",
    },
    "wins": {
        **_MODEL,
        "against": "method of the other model",
        "rate": "of winning by gold on held-out prompts, ties half",
        "low": "of its 95% interval, bootstrap over prompts",
        "high": "likewise",
    },
    "losses": {
        **_MODEL,
        "text": "position among the held-out examples of pretraining",
        "loss": "sum over its tokens, nats",
        "tokens": "how many",
    },
    "teachers": {
        **_SEED,
        "teacher": "as in scores, or squashed: gold's order with smaller differences within prompts",
        "kl": "coefficient of the penalty of RLOO",
        **_KNOWN,
        "off_policy": "as in scores",
        "gain": "of gold by RLOO, in std of the texts before it, val and test prompts",
    },
    "halves": {
        **_SEED,
        "method": "rloo or grpo",
        "half": "squashed or full: how the gold reward of these train prompts was",
        "gain": "of gold on them, in std of the texts before training",
    },
}

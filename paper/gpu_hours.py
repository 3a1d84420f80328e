"""What the plans of the paper's scale cost, by calculation: before anybody starts days of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl4lms.config import ExtractConfig, SupervisedConfig
from rl4lms.cost import KNOWN_SIZES, extraction_cost, generation_cost, on_policy_cost, supervised_cost
from rl4lms.plan import Experiment, load_plan

OPERATIONS_PER_SECOND = 100e12
# NarrativeQA's train questions with their two answers: five epochs are the 5,120 updates of Figure 4.
TRAIN_SAMPLES = {"narrative_qa": 65_494}
EVALUATED_SPLITS = 3
BASIS = (
    f"basis: 2 operations a weight and token forward, 4 backward, prompts and texts at their longest, at "
    f"{OPERATIONS_PER_SECOND / 1e12:.0f} TFLOP/s, a good share of what an A100 does in bfloat16. Not "
    "measured: minibatches of single tokens, short texts and metrics computed by models keep a GPU from "
    "that, so expect two to three times as long. With alg.args.minibatch_unit=sequence the updates of RFT "
    "cost about a fifteenth."
)


def plan_hours(path: str | Path) -> float:
    """GPU hours of all experiments of a plan file. Raises ConfigError."""
    return sum(map(experiment_cost, load_plan(path).experiments)) / OPERATIONS_PER_SECOND / 3600


def experiment_cost(experiment: Experiment) -> float:
    """Operations of a training with its evaluations before and after, or of an extraction."""
    config = experiment.config
    size = KNOWN_SIZES["t5-base" if config.alg.model_type == "seq2seq" else "gpt2"]
    if isinstance(config, ExtractConfig):
        return extraction_cost(config, size)
    samples = TRAIN_SAMPLES[config.datapool.id]
    texts = min(config.train_evaluation.max_eval_samples or samples, samples)
    length = config.alg.generation_kwargs.max_new_tokens
    prompt = config.tokenizer.max_length or 512
    evaluated = 2 * EVALUATED_SPLITS * generation_cost(size, prompt, length, texts)
    if isinstance(config.alg, SupervisedConfig):
        return evaluated + supervised_cost(config, size, samples)
    return evaluated + on_policy_cost(config, size).total


def hours_lines(plans: Sequence[str]) -> list[str]:
    """A line for each plan file and one that says what the hours rest on. Raises ConfigError."""
    lines = [
        f"{plan}: {len(load_plan(plan).experiments)} runs, about {plan_hours(plan):.0f} GPU hours"
        for plan in plans
    ]
    return [*lines, BASIS]

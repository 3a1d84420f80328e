"""What the plans of the paper's scale cost, by calculation: before anybody starts days of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.identity import finished_runs
from rl4lms.config import ExtractConfig, SupervisedConfig
from rl4lms.cost import KNOWN_SIZES, extraction_cost, generation_cost, on_policy_cost, supervised_cost
from rl4lms.plan import Experiment, load_plan
from rl4lms.plan.jobs import jobs_of

OPERATIONS_PER_SECOND = 100e12
# Train samples of each dataset, some rounded. NarrativeQA: questions with two answers, five epochs of which
# are the 5,120 updates of Figure 4; IMDB: 80% of the reviews, for SFT the positive ones of them.
TRAIN_SAMPLES = {
    "narrative_qa": 65_494,
    "totto": 120_761,
    "commongen": 67_389,
    "iwslt2017en_de": 206_112,
    "cnn_daily_mail": 287_113,
    "daily_dialog": 35_800,
    "imdb": 20_000,
    "imdb_seq2seq": 10_000,
}
EVALUATED_SPLITS = 3
BASIS = (
    f"basis: 2 operations a weight and token forward, 4 backward, prompts and texts at their longest, at "
    f"{OPERATIONS_PER_SECOND / 1e12:.0f} TFLOP/s, a good share of what an A100 does in bfloat16. Not "
    "measured: minibatches of single tokens, short texts and metrics computed by models keep a GPU from "
    "that, so expect two to three times as long. With alg.args.minibatch_unit=sequence the updates of RFT "
    "cost about a fifteenth."
)


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
    """A line for each plan file: what is left of it and what that costs; and one on what it rests on.

    Raises ConfigError.
    """
    return [*map(_line, plans), BASIS]


def _line(path: str) -> str:
    loaded = load_plan(path)
    finished = finished_runs(Path(loaded.plan.output_path))
    left = [
        experiment
        for experiment, job in zip(loaded.experiments, jobs_of(loaded.plan, loaded.experiments), strict=True)
        if job.identity not in finished
    ]
    hours = sum(map(experiment_cost, left)) / OPERATIONS_PER_SECOND / 3600
    return f"{path}: {len(left)} of {len(loaded.experiments)} runs to do, about {hours:.0f} h of a GPU"

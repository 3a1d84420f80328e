"""What --check prints: notices, derived sizes, and a config that loads as the same run."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import validate
from rl4lms.config import (
    ExtractConfig,
    OnPolicySizes,
    TrainConfig,
    check_report,
    load_extract_config,
    load_train_config,
    missing_components,
    resolved,
)

SCRIPTS = Path(__file__).parents[2] / "rl4lms_scripts"
PPO = SCRIPTS / "training" / "narrative_qa" / "t5_ppo.yml"
SUPERVISED = SCRIPTS / "training" / "totto" / "t5_supervised.yml"
EXTRACT = SCRIPTS / "extract_samples" / "t5_narrative_qa_extract_samples.yml"
VALID = [
    path
    for path in sorted(SCRIPTS.glob("*/*/*.yml"))
    if not path.stem.endswith("_rankings")  # configs of another job
    if "_on_" not in path.stem and path.parent.name != "smoke"  # models to make
    if path.parts[-3] != "instructgpt"  # rankings to make
]


def test_report_of_ppo() -> None:
    lines = check_report(load_train_config(PPO, ["alg.args.n_steps=257"])).split("\n")
    assert lines[: lines.index("{")] == [
        "note: no effect (kept for old files): env.args.context_start_token, alg.args.verbose, "
        "alg.policy.args.apply_model_parallel",
        "note: alg.args.batch_size: of 2,570 tokens an iteration the last minibatch has 10 instead of 64",
        "training: all train samples, rewarded by rouge_l_max",
        "an iteration: 2,570 tokens, 41 minibatches of 64 (the last: 10) x 5 epochs = 205 updates",
        "the run: 100 iterations, 257,000 tokens, 20,500 updates",
        "evaluation: all inputs of each split before and after, on val every 10 iterations: meteor, rouge, "
        "bleu, bert_score, rouge_l_max, diversity",
        "texts of evaluation: val and test by beam search with 4 beams, at most 50 new tokens; train sampled "
        "at temperature 1, top-k 50, at most 19 new tokens",
    ]


def test_report_of_supervised_finetuning() -> None:
    overrides = ["datapool.frac_train_samples=0.01", "train_evaluation.max_eval_samples=500"]
    lines = check_report(load_train_config(SUPERVISED, overrides)).split("\n")
    assert lines[: lines.index("{")] == [
        "training: 0.01 of the train samples, 5 epochs, 8 texts an update",
        "evaluation: at most 500 inputs of each split before and after, on val every 20,000 updates: "
        "sacre_bleu, meteor, parent_totto, rouge, bleu_totto, bert_score, diversity",
        "texts of evaluation: val and test sampled at temperature 1, top-k 50, by beam search with 5 beams, "
        "min_length 10, at most 50 new tokens; train sampled at temperature 1, no top-k, min_length 10, at "
        "most 50 new tokens",
    ]
    steps = check_report(load_train_config(SUPERVISED, ["alg.training_args.max_steps=3000"]))
    assert steps.startswith("training: all train samples, 3,000 updates of 8 texts each\n")


IMDB = SCRIPTS / "training" / "imdb" / "gpt2_ppo.yml"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            [],
            "all splits sampled at temperature 1, top-k 50, min_length 48, at most 48 new tokens",
        ),
        (
            ["alg.policy.args.generation_kwargs.temperature=1.5"],
            "all splits sampled at temperature 1, top-k 50, min_length 48, at most 48 new tokens (rollouts: "
            "temperature 1.5)",
        ),
        (
            ["train_evaluation.generation_kwargs={max_new_tokens: 5, repetition_penalty: 1.2}"],
            "all splits the likeliest token each time, repetition_penalty 1.2, at most 5 new tokens",
        ),
        (
            [
                "train_evaluation.generation_kwargs={do_sample: true, temperature: 0.7, top_p: 0.9}",
                "alg.policy.args.generation_kwargs.temperature=0.7",
            ],
            "all splits sampled at temperature 0.7, top-k 50, top_p 0.9, at most 19 new tokens",
        ),
    ],
)
def test_report_says_how_the_texts_of_evaluation_are_generated(overrides: list[str], line: str) -> None:
    lines = check_report(load_train_config(IMDB, overrides)).split("\n")
    assert lines[lines.index("{") - 1] == f"texts of evaluation: {line}"


def test_report_of_extraction() -> None:
    lines = check_report(load_extract_config(EXTRACT)).split("\n")
    assert lines[: lines.index("{")] == [
        "generations: 5,000 train inputs x 10 = 50,000 texts of at most 19 new tokens",
        "scored by: rouge_l_max",
    ]
    everything = check_report(load_extract_config(EXTRACT, ["datapool.num_train_samples=-1"]))
    assert everything.startswith("generations: all train inputs x 10 texts of at most 19 new tokens\n")


@pytest.mark.parametrize(
    ("tokens", "batch", "minibatches", "last"), [(2560, 64, 40, 64), (2570, 64, 41, 10), (100, 128, 1, 100)]
)
def test_minibatches_hold_every_token_once(tokens: int, batch: int, minibatches: int, last: int) -> None:
    sizes = OnPolicySizes(tokens=tokens, batch_size=batch, minibatch_unit="token", epochs=5, iterations=3)
    assert (sizes.minibatches, sizes.last_minibatch) == (minibatches, last)
    assert (sizes.minibatches - 1) * batch + sizes.last_minibatch == tokens
    assert sizes.updates == 5 * minibatches


@pytest.mark.parametrize("path", VALID, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_resolved_config_loads_as_the_same_run(path: Path) -> None:
    once = resolved(load_train_config(path))
    again, problems = validate(TrainConfig, json.loads(json.dumps(once)))
    assert again is not None, problems
    assert resolved(again) == once
    assert again.notices() == load_train_config(path).notices()


def test_resolved_extraction_holds_given_and_default_arguments() -> None:
    data = resolved(load_extract_config(EXTRACT, ["evaluation.metrics[0].args={max_n: 2}"]))
    args = data["evaluation"]["metrics"][0]["args"]
    assert args["max_n"] == 2 and args["weight_factor"] == 1.2 and args["length_limit"] == 100
    again, _ = validate(ExtractConfig, json.loads(json.dumps(data)))
    assert again is not None and resolved(again) == data


def test_missing_components_are_named_with_their_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("rl4lms.metrics.args.wordnet_problem", lambda: "METEOR needs WordNet: get it")
    overrides = ["train_evaluation.metrics=[{id: bleu}, {id: meteor}]", "reward_fn={id: meteor}"]
    places = [
        (problem.path, problem.message) for problem in missing_components(load_train_config(PPO, overrides))
    ]
    assert places == [
        ("reward_fn.args.wordnet", "METEOR needs WordNet: get it"),
        ("train_evaluation.metrics[1].args.wordnet", "METEOR needs WordNet: get it"),
    ]
    overrides[0] = "train_evaluation.metrics=[{id: meteor, args: {wordnet: false}}]"
    assert missing_components(load_train_config(PPO, [*overrides, "reward_fn={id: bleu}"])) == []

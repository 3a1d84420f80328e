"""The fields of InstructGPT's PPO and SFT: what is refused, with which words, and what `--check` says."""

import json
from pathlib import Path
from typing import Any

import pytest
from instructgpt_runs import everything, pretraining, save_reward_model, save_texts
from on_policy_jobs import job
from training_runs import save_data, supervised_config

import rl4lms_train_text_generation as runner
from common.config import Config, parse_path, set_value, validate
from rl4lms.config import TrainConfig, check_report, local_problems
from rl4lms.model.reward_model import RewardModel
from rl4lms.plan.runs import LATER_FIELDS

PPO = "alg.args"


@pytest.fixture
def raw(tmp_path: Path, tiny_gpt2: Path) -> dict[str, Any]:
    return job(tmp_path, tiny_gpt2).model_dump(mode="json")


@pytest.fixture
def sft(tmp_path: Path, tiny_t5: Path) -> dict[str, Any]:
    return supervised_config(tiny_t5, save_data(tmp_path / "data"))


def problems_of(raw: dict[str, Any], **values: Any) -> list[str]:
    """Of a config with these values set, by dotted names with __ for dots."""
    raw = json.loads(json.dumps(raw))
    for field, value in values.items():
        set_value(raw, parse_path(field.replace("__", ".")), value)
    return [f"{problem.path}: {problem.message}" for problem in validate(TrainConfig, raw)[1]]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"alg__args__episodes": 8},
            "alg.args.episodes: is given beside n_steps: an iteration collects texts or tokens; remove one "
            "of them",
        ),
        (
            {"alg__args__n_steps": None},
            "alg.args.n_steps: missing; expected a whole number >= 1 (tokens of an iteration), or episodes",
        ),
        (
            {"alg__args__minibatch_unit": "episode"},
            "alg.args.minibatch_unit: episode needs whole texts: write episodes in place of n_steps",
        ),
        (
            {
                "alg__args__n_steps": None,
                "alg__args__episodes": 8,
                "alg__args__minibatch_unit": "episode",
                "alg__args__batch_size": 9,
            },
            "alg.args.batch_size: 9 is more than the 8 texts of an iteration",
        ),
        ({"alg__args__ema_decay": 1.0}, "alg.args.ema_decay: must be less than 1, got 1.0"),
        (
            {"env__args__missing_eos_penalty": -1, "env__args__reward_unfinished": False},
            "env.args.missing_eos_penalty: needs reward_unfinished: true, since false gives unfinished "
            "texts 0; remove one of them",
        ),
        (
            {"alg__pretraining": {"texts": "python_docs"}},
            "alg.args.minibatch_unit: must be episode with alg.pretraining, whose examples are counted by "
            "text",
        ),
    ],
)
def test_what_does_not_go_together_is_one_problem(values, problem, raw):
    assert problems_of(raw, **values) == [problem]


def test_the_pretraining_block_says_what_is_wrong_with_it(raw, tmp_path, tiny_t5):
    whole = {"alg__args__n_steps": None, "alg__args__episodes": 8}
    whole |= {"alg__args__minibatch_unit": "episode", "alg__args__batch_size": 4}

    def problems(**block: Any) -> list[str]:
        return problems_of(raw, **whole, alg__pretraining=block)

    assert problems(texts="python_docs") == []
    assert problems() == [
        "alg.pretraining.texts: missing; expected python_docs or a file of JSON lines, or datapool"
    ]
    pool = {"id": "jsonl", "args": {"data_path": str(tmp_path / "data")}}
    assert problems(datapool=pool) == []
    assert problems(datapool=pool, texts="python_docs") == [
        "alg.pretraining.texts: is given beside datapool; remove one of them"
    ]
    assert problems(texts="nothing.jsonl") == [
        "alg.pretraining.texts: no such file: 'nothing.jsonl'; expected JSON lines with the field text, or "
        "python_docs"
    ]
    assert problems(texts="python_docs", task={"denoising": 1}) == [
        "alg.pretraining.task: a causal model has one task, the next token; remove this field"
    ]
    assert problems(datapool={"id": "jsonll"})[0].startswith(
        "alg.pretraining.datapool.id: unknown datapool 'jsonll'; did you mean 'jsonl'?"
    )
    seq2seq = job(tmp_path, tiny_t5, **everything(tmp_path, tiny_t5)).model_dump(mode="json")
    texts = str(save_texts(tmp_path / "texts.jsonl"))
    (problem,) = problems_of(seq2seq, alg__pretraining={"texts": texts, "task": {"summary": 1}})
    assert problem.startswith("alg.pretraining.task.summary: unknown task 'summary'")
    assert problems_of(seq2seq, alg__pretraining={"texts": "python_docs", "task": {"summary": 1}}) == []


def test_a_line_without_text_is_named_by_check(raw, tmp_path, capsys):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "a b c d"}\n{"words": "a"}\n')
    raw["alg"]["args"] |= {"n_steps": None, "episodes": 8, "batch_size": 4, "minibatch_unit": "episode"}
    raw["alg"]["pretraining"] = {"texts": str(file)}
    config, _ = validate(TrainConfig, raw)
    assert config is not None
    (problem,) = local_problems(config)
    assert problem.path == "alg.pretraining.texts"
    assert problem.message == f"{file} line 2: no string in the field 'text'; there are: words"
    path = tmp_path / "config.json.yml"
    path.write_text(json.dumps(raw))
    assert runner.main(["--config_path", str(path), "--check"]) == 2
    assert "alg.pretraining.texts" in capsys.readouterr().err


def test_a_value_model_is_a_reward_model_of_the_policys_kind(raw, tmp_path, tiny_gpt2, tiny_t5):
    def problem(name: object) -> str:
        (only,) = problems_of(raw, alg__policy__args__value_model_name=str(name))
        return only.removeprefix("alg.policy.args.value_model_name: ")

    assert problem(tiny_gpt2).startswith(
        f"model {str(tiny_gpt2)!r} is no reward model (its config.json says "
    )
    seq2seq = save_reward_model(tmp_path / "seq2seq", tiny_t5)
    assert problem(seq2seq) == (
        f"reward model {str(seq2seq)!r} is an encoder-decoder model, the policy a decoder-only one"
    )
    bag = tmp_path / "bag"
    RewardModel.start("bag_of_tokens", "causal", tokenizer_name=str(tiny_gpt2)).save(bag)
    assert problem(bag) == (
        f"reward model {str(bag)!r} is a bag of tokens, which has no states to put a value head on"
    )
    causal = save_reward_model(tmp_path / "causal", tiny_gpt2)
    assert problems_of(raw, alg__policy__args__value_model_name=str(causal)) == []
    assert problem("<model of rl4lms_scripts/a.yml>").endswith(
        "replace it by the model that this makes: python rl4lms_train_text_generation.py --config_path "
        "rl4lms_scripts/a.yml"
    )


def test_group_algorithms_have_no_value_model(tmp_path, tiny_gpt2):
    raw = job(tmp_path, tiny_gpt2, "grpo").model_dump(mode="json")
    causal = save_reward_model(tmp_path / "causal", tiny_gpt2)
    why = "is of PPO's value model, which this algorithm has not; remove it"
    assert problems_of(raw, alg__policy__args__value_model_name=str(causal)) == [
        f"alg.policy.args.value_model_name: {why}"
    ]
    assert problems_of(raw, alg__args__value_clip_range=0.2) == [f"alg.args.value_clip_range: {why}"]
    assert problems_of(raw, alg__args__episodes=8) == [
        "alg.args.episodes: is of PPO; write prompts_per_iteration, each with group_size texts"
    ]


def test_the_sft_recipes_fields_are_checked(sft, tmp_path):
    assert problems_of(sft, alg__select_by={"metric": "lexical/chrff"}) == [
        "alg.select_by.metric: unknown metric 'lexical/chrff'; did you mean 'lexical/chrf'? known: "
        "lexical/chrf"
    ]
    assert problems_of(sft, alg__select_by={"metric": "lexical/chrf"}) == []
    assert problems_of(
        sft, alg__select_by={"metric": "lexical/chrf"}, alg__training_args__save_strategy="no"
    ) == [
        "alg.training_args.save_strategy: 'no' leaves no checkpoint to choose from; remove it, or "
        "alg.select_by"
    ]
    assert problems_of(sft, alg__dropout={"residual": 1}) == [
        "alg.dropout.residual: must be less than 1, got 1"
    ]
    other = tmp_path / "llama"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for file in ("model.safetensors", "tokenizer.json"):
        (other / file).touch()
    causal = {"alg__model_type": "causal", "alg__model_name": str(other)}
    assert problems_of(sft, **causal, alg__dropout={"residual": 0.1}) == [
        f"alg.dropout.residual: model {str(other)!r} (llama) has no residual dropout that is known; known "
        "of: gpt2, gptj, gpt_neo, t5, mt5, bart"
    ]
    assert problems_of(sft, alg__pretraining={"texts": "python_docs"})[0].startswith(
        "alg.pretraining.share: missing; expected"
    )


def config_of(raw: dict[str, Any], **values: Any) -> TrainConfig:
    for field, value in values.items():
        set_value(raw, parse_path(field.replace("__", ".")), value)
    config, problems = validate(TrainConfig, raw)
    assert config is not None, problems
    return config


def test_check_says_what_an_iteration_is(raw, tmp_path, tiny_gpt2):
    changes = everything(tmp_path, tiny_gpt2)
    config = job(tmp_path, tiny_gpt2, **changes)
    lines = check_report(config).split("\n")
    assert (
        "an iteration: 20 texts of at most 20 tokens, 3 minibatches of 8 texts (the last: 4) x 1 epoch = 3 "
        "updates" in lines
    )
    assert "the run: 4 iterations, 80 texts, 12 updates" in lines
    assert (
        "PPO-ptx: 2 pretraining examples for each text of a minibatch, the gradient of their loss times 27.8"
        in lines
    )
    assert set(lines) >= {
        "note: env.n_envs: no effect, alg.args.episodes says how many texts an iteration has",
        "note: alg.args.batch_size: of 20 texts an iteration the last minibatch has 4 instead of 8",
    }
    tokens = job(
        tmp_path, tiny_gpt2, **(changes | {"alg__args__minibatch_unit": "sequence", "alg__pretraining": None})
    )
    assert (
        "an iteration: 20 texts of at most 20 tokens, minibatches of about 8 tokens x 1 epoch"
        in check_report(tokens)
    )


def test_check_says_what_the_model_of_sft_is(sft, tmp_path, tiny_t5):
    config = config_of(
        sft,
        alg__select_by={"metric": "lexical/chrf"},
        alg__pretraining=pretraining(tmp_path, tiny_t5, share=0.1),
        alg__training_args__logging_strategy="epoch",
        alg__dropout={"residual": 0.2},
    )
    report = check_report(config)
    assert (
        "note: alg.dropout.residual: encoder-decoders have one rate for all places, which is set to it\n"
        in report
    )
    assert "\npretraining text: 0.1 of the training texts\n" in report
    assert "\nthe model: that of the checkpoint with the best lexical/chrf on val\n" in report
    assert ", on val after each epoch: chrf\n" in report


def test_the_fields_that_runs_of_before_lack_have_the_values_that_say_nothing(raw, sft):
    """So that plans find those runs again."""
    for path, absent in LATER_FIELDS.items():
        values = []
        for data in (raw, validate(TrainConfig, sft)[0].model_dump()):  # type: ignore[union-attr]
            block: Any = data
            for key in path:
                block = block.get(key, "no such field") if isinstance(block, dict) else "no such field"
            values.append(block)
        assert absent in values, path
    assert issubclass(TrainConfig, Config)

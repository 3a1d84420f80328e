"""Sizes that nothing can have are refused before anything is imported, with the number; real ones are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from extraction_settings import write_extraction
from tiny_models import save_tiny_bart
from training_runs import ppo_config, save_data, supervised_config

import rl4lms_extract_samples_from_model_runner as extraction
import rl4lms_train_text_generation as training
from common.config import parse_path, set_value, validate
from rl4lms.config import ExtractConfig, TrainConfig

PROMPT, TEXT = "tokens of a prompt; at most 10,000,000 can", "new tokens; at most 1,048,576 can be"
TEXTS, TOKENS = "texts at a time; at most 1,000,000 can be", "tokens at a time; at most 268,435,456 can be"
POLICY = "alg.policy.args.generation_kwargs"
HUGE = 10**9
SAID = "1,000,000,000 "

PPO: dict[str, str] = {
    f"{POLICY}.max_new_tokens": TEXT,
    "train_evaluation.generation_kwargs.max_new_tokens": TEXT,
    "env.args.max_prompt_length": PROMPT,
    "env.args.max_episode_length": "tokens of an episode; at most 10,000,000 can be",
    "env.n_envs": TEXTS,
    "alg.args.n_steps": TOKENS,
    "alg.args.batch_size": TOKENS,
    "tokenizer.max_length": PROMPT,
    "train_evaluation.eval_batch_size": TEXTS,
    "train_evaluation.max_eval_samples": "samples; at most 100,000,000 can be",
}
SUPERVISED: dict[str, str] = {
    "alg.generation_kwargs.max_new_tokens": TEXT,
    "alg.training_args.per_device_train_batch_size": TEXTS,
    "alg.training_args.gradient_accumulation_steps": "batches of an update; at most 1,000,000 can be",
    "alg.training_args.dataloader_num_workers": "processes; at most 10,000 can be",
    "tokenizer.max_length": PROMPT,
    "train_evaluation.eval_batch_size": TEXTS,
}
EXTRACTION: dict[str, str] = {
    "alg.generation_kwargs.max_new_tokens": TEXT,
    "alg.generation_kwargs.num_beams": "beams; at most 10,000 can be",
    "evaluation.eval_batch_size": TEXTS,
    "evaluation.num_samples_per_input": TEXTS,
    "datapool.num_train_samples": "samples; at most 100,000,000 can be",
    "tokenizer.max_length": PROMPT,
}


@pytest.fixture
def raw(tiny_t5: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    data = save_data(tmp_path / "data")
    return {
        "ppo": ppo_config(tiny_t5, data, "seq2seq"),
        "sft": supervised_config(tiny_t5, data),
        "extraction": yaml.safe_load(write_extraction(tmp_path).read_text()),
    }


def problems_of(config: dict[str, Any], **values: Any) -> dict[str, str]:
    """Field -> message, of a config with these values set."""
    for field, value in values.items():
        set_value(config, parse_path(field), value)
    kind = ExtractConfig if "evaluation" in config else TrainConfig
    return {problem.path: problem.message for problem in validate(kind, config)[1]}


@pytest.mark.parametrize(
    ("job", "field", "message"),
    [
        (job, field, message)
        for job, fields in (("ppo", PPO), ("sft", SUPERVISED), ("extraction", EXTRACTION))
        for field, message in fields.items()
    ],
    ids=lambda value: value if "." in value and ";" not in value else "",
)
def test_a_size_of_a_thousand_million_is_refused(
    raw: dict[str, dict[str, Any]], job: str, field: str, message: str
) -> None:
    before = problems_of(raw[job], **{field: 7 if "args" in field else 1})
    assert field not in before, before
    assert problems_of(raw[job], **{field: HUGE})[field].startswith(SAID + message)
    assert problems_of(raw[job], **{field: 10**40})[field].startswith("some 10^4")


@pytest.mark.parametrize(
    ("job", "values"),
    [
        # Llama 4's context; reasoning of 128k tokens; a buffer of 1,024 prompts x 8 texts x 32k.
        ("ppo", {"env.args.max_prompt_length": 10_000_000}),
        ("ppo", {f"{POLICY}.max_new_tokens": 131_072, "train_evaluation.eval_batch_size": 1024}),
        ("ppo", {"alg.args.n_steps": 32_768, "env.n_envs": 8_192, "alg.args.batch_size": 4_194_304}),
        ("ppo", {"train_evaluation.n_iters": 10**9, "alg.args.n_epochs": 10**9}),
        ("sft", {"alg.training_args.num_train_epochs": 10**9, "alg.training_args.max_steps": 10**9}),
        (
            "extraction",
            {"alg.generation_kwargs.max_new_tokens": 2**20, "evaluation.eval_batch_size": 256},
        ),
        ("extraction", {"evaluation.num_samples_per_input": 10_000, "tokenizer.max_length": 1_048_576}),
    ],
)
def test_real_sizes_are_taken_and_length_is_only_long(
    raw: dict[str, dict[str, Any]], job: str, values: dict[str, Any]
) -> None:
    assert problems_of(raw[job], **values) == {}


def test_products_of_plausible_sizes_are_refused(raw: dict[str, dict[str, Any]]) -> None:
    problems = problems_of(raw["ppo"], **{"alg.args.n_steps": 10**6, "env.n_envs": 1_000})
    assert problems == {
        "alg.args.n_steps": "1,000,000,000 tokens an iteration, with 1,000 environments; at most 268,435,456 "
        "can be asked for"
    }
    problems = problems_of(
        raw["extraction"],
        **{"alg.generation_kwargs.max_new_tokens": 10**6, "evaluation.num_samples_per_input": 1_000},
    )
    message = "1,000,000,000 tokens at a time (1,000 texts x 1,000,000); at most 268,435,456 can be asked for"
    assert problems == {"evaluation.num_samples_per_input": message}
    fields = {"train_evaluation.eval_batch_size": 1_000, "alg.generation_kwargs.max_new_tokens": 10**6}
    assert problems_of(raw["sft"] | {"train_evaluation": {"metrics": []}}, **fields) == {
        "train_evaluation.eval_batch_size": message
    }


@pytest.mark.parametrize("job", ["ppo", "sft", "extraction"])
def test_the_decoder_of_a_seq2seq_model_may_have_positions(
    raw: dict[str, dict[str, Any]], job: str, tmp_path: Path
) -> None:
    """BART has 64 here, of which the start token takes one."""
    bart = str(save_tiny_bart(tmp_path / "bart"))
    prefix = POLICY if job == "ppo" else "alg.generation_kwargs"
    name = "alg.policy.args.model_name" if job == "ppo" else "alg.model_name"
    values = {name: bart, "tokenizer.model_name": bart, f"{prefix}.max_new_tokens": 63}
    assert problems_of(raw[job], **values) == {}
    assert problems_of(raw[job], **(values | {f"{prefix}.max_new_tokens": 64})) == {
        f"{prefix}.max_new_tokens": f"64 exceeds the 64 positions of {bart!r} less one"
    }


def test_the_runners_say_line_field_and_number(
    raw: dict[str, dict[str, Any]], tmp_path: Path, capsys: Any
) -> None:
    for job, runner in (("sft", training), ("extraction", extraction)):
        path = tmp_path / f"{job}.yml"
        path.write_text(yaml.safe_dump(raw[job]))
        flags = ["--config_path", str(path), "--check"]
        assert runner.main(flags) == 0
        capsys.readouterr()
        assert runner.main([*flags, "--set", "alg.generation_kwargs.max_new_tokens=1000000000"]) == 2
        first, problem = capsys.readouterr().err.splitlines()
        assert first == f"{path}: 1 problem"
        assert problem.split(maxsplit=2)[1:] == [
            "alg.generation_kwargs.max_new_tokens",
            "1,000,000,000 new tokens; at most 1,048,576 can be asked for",
        ]

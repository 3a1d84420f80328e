"""`alg.training_args`: the names and types of the installed transformers, old names, mistakes."""

import dataclasses
import typing
from enum import Enum
from types import NoneType
from typing import Any

import pytest

from common.validation import members
from rl4lms.config.training_args import (
    CHOICES,
    DROPPED,
    ELSEWHERE,
    IDLE,
    RENAMED,
    read_training_arguments,
    training_args_problems,
    translate_training_args,
)


def real_arguments() -> dict[str, Any]:
    """Name -> type of every argument of transformers.TrainingArguments."""
    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainingArguments)}


def simplified(kind: Any) -> Any:
    """A type as our schema has it: of an enum or text the text, Any for what is no scalar."""
    branches = members(kind)
    plain = [branch for branch in branches if branch is not NoneType and not _is_enum(branch)]
    if len(plain) != 1 or plain[0] not in (int, float, bool, str):
        return Any
    return plain[0] | None if NoneType in branches else plain[0]


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def test_names_and_types_are_those_of_transformers() -> None:
    real = {name: simplified(kind) for name, kind in real_arguments().items()}
    assert len(real) > 100 and real == read_training_arguments()


def test_choices_are_those_of_transformers() -> None:
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

    enums = {
        "lr_scheduler_type": SchedulerType,
        "logging_strategy": IntervalStrategy,
        "eval_strategy": IntervalStrategy,
        "save_strategy": SaveStrategy,
    }
    for name, enum in enums.items():
        assert set(CHOICES[name]) == {member.value for member in enum}


def test_old_names_are_gone_and_new_ones_exist() -> None:
    real = real_arguments()
    assert not {*RENAMED, *DROPPED, "group_by_length", "no_cuda"} & real.keys()
    assert {*RENAMED.values(), "train_sampling_strategy"} <= real.keys()
    assert {*ELSEWHERE, *IDLE} - {"no_cuda"} <= real.keys()


def test_old_names_are_translated(tmp_path: Any) -> None:
    from transformers import TrainingArguments

    given = {
        "evaluation_strategy": "epoch",
        "warmup_ratio": 0.1,
        "group_by_length": True,
        "overwrite_output_dir": True,
        "learning_rate": 1e-5,
    }
    assert training_args_problems(given) == []
    arguments, notices = translate_training_args(given)
    assert arguments == {
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
        "learning_rate": 1e-5,
    }
    assert notices == [
        "evaluation_strategy has no effect: val is evaluated every logging_steps, as train_evaluation says",
        "warmup_ratio is now warmup_steps",
        "group_by_length is now train_sampling_strategy",
        "overwrite_output_dir has no effect: every run has a folder of its own",
    ]
    real = TrainingArguments(output_dir=str(tmp_path), **arguments)
    assert real.get_warmup_steps(1000) == 100


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_train_epochs", "5", "expected a number > 0, got '5' (a string)"),
        (
            "per_device_train_batch_size",
            16.0,
            "expected a whole number >= 1, got 16.0 (a decimal number); write 16",
        ),
        ("max_steps", 0, "must be at least 1, or -1 for num_train_epochs, got 0"),
        (
            "evaluation_strategy",
            "step",
            "unknown value 'step'; did you mean 'steps'? allowed: 'no', 'steps', 'epoch'",
        ),
        ("weigth_decay", 0.1, "unknown key; did you mean 'weight_decay'?"),
        ("no_cuda", True, "cannot be set here: set runtime.device=cpu"),
        ("bf16", True, "cannot be set here: set runtime.dtype=bfloat16"),
        (
            "load_best_model_at_end",
            True,
            "cannot be set here: the model after the last update is the result; set alg.select_by "
            "for another",
        ),
        (
            "save_strategy",
            "best",
            "'best' needs the Trainer's own evaluation; allowed: 'no', 'steps', 'epoch'",
        ),
    ],
)
def test_mistakes(name: str, value: Any, message: str) -> None:
    assert [(problem.path, problem.message) for problem in training_args_problems({name: value})] == [
        (name, message)
    ]


def test_an_argument_under_both_names_is_a_mistake() -> None:
    (problem,) = training_args_problems({"evaluation_strategy": "no", "eval_strategy": "epoch"})
    assert (problem.path, problem.message) == (
        "evaluation_strategy",
        "given twice: it is the old name of 'eval_strategy'",
    )

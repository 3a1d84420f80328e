"""`alg.training_args`: the names and types of transformers.TrainingArguments, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from common import limits
from common.config import Config, Problem, validate
from common.limits import at_most

_SCALARS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}

CHOICES: dict[str, tuple[str, ...]] = {
    "lr_scheduler_type": (
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
        "inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr",
        "warmup_stable_decay", "greedy",
    ),
    "logging_strategy": ("no", "steps", "epoch"),
    "eval_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length"),
}  # fmt: skip

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "warmup_ratio": "warmup_steps",  # below 1 it is read as a share of the steps
}

DROPPED = {
    "overwrite_output_dir": "every run has a folder of its own",
    "logging_dir": "logs lie in the run folder",
    "save_safetensors": "models are always saved as safetensors",
}

_EVALUATION = "val is evaluated every logging_steps, as train_evaluation says"
IDLE = dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_eval"), _EVALUATION)

ELSEWHERE = {
    "output_dir": "the run folder is set by --base_path_to_store_results and --experiment_name",
    "seed": "set runtime.seed",
    "bf16": "set runtime.dtype=bfloat16",
    "fp16": "set runtime.dtype=bfloat16",
    "use_cpu": "set runtime.device=cpu",
    "no_cuda": "set runtime.device=cpu",
    "local_rank": "start with torchrun or accelerate launch",
    "gradient_checkpointing": "set runtime.gradient_checkpointing=true",
    "activation_checkpointing": "set runtime.gradient_checkpointing=true",
    "report_to": "see --log_to_wandb",
    "resume_from_checkpoint": "see --resume",
    "push_to_hub": "upload the saved model folder",
    "load_best_model_at_end": "the model after the last update is the result; set alg.select_by for another",
}

_BOUNDS: dict[str, tuple[Any, ...]] = {
    "per_device_train_batch_size": (Field(ge=1), at_most(limits.TEXTS, "texts at a time")),
    "gradient_accumulation_steps": (Field(ge=1), at_most(limits.TEXTS, "batches of an update")),
    "dataloader_num_workers": (Field(ge=0), at_most(limits.PROCESSES, "processes")),
    "dataloader_prefetch_factor": (Field(ge=1), at_most(limits.TEXTS, "batches at a time")),
    "num_train_epochs": (Field(gt=0),),
    "max_steps": (Field(ge=-1),),
    "learning_rate": (Field(ge=0),),
    "weight_decay": (Field(ge=0),),
    "warmup_steps": (Field(ge=0),),
    "logging_steps": (Field(gt=0),),
}


@cache
def read_training_arguments() -> dict[str, Any]:
    """Reads the name and type of every field from the text of the installed library: importing takes seconds.

    A type is a scalar one, or such a one or None; Any for what is no scalar.
    """
    package = find_spec("transformers")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
    text = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    (body,) = (
        node.body
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    )
    return {
        node.target.id: _read_type(ast.unparse(node.annotation))
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _read_type(annotation: str) -> Any:
    """Reads such as `SchedulerType | str` or `int | None`; a class (an enum) beside text is given as text."""
    branches = annotation.split(" | ")
    plain = [name for name in branches if not (name.isidentifier() and name[0].isupper())]
    if len(plain) != 1 or plain[0] not in _SCALARS:
        return Any
    scalar = _SCALARS[plain[0]]
    return scalar | None if "None" in branches else scalar


@cache
def _schema() -> type[Config]:
    """Makes the schema of every name that a config may give, old ones too."""
    kinds = read_training_arguments() | {name: Literal[values] for name, values in CHOICES.items()}
    kinds = {
        name: Annotated[kind, *_BOUNDS[name]] if name in _BOUNDS else kind for name, kind in kinds.items()
    }
    kinds |= {old: kinds[new] for old, new in RENAMED.items()} | {"group_by_length": bool}
    kinds["warmup_ratio"] = Annotated[float, Field(ge=0, lt=1)]
    kinds |= dict.fromkeys(DROPPED, Any)
    fields: dict[str, Any] = {name: (kind, None) for name, kind in kinds.items() if name not in ELSEWHERE}
    return create_model("TrainingArguments", __base__=Config, **fields)


def training_args_problems(given: Mapping[str, Any]) -> list[Problem]:
    """Lists unknown names, wrong types and values, and what another field decides, by the names as given."""
    problems = [
        Problem(name, f"cannot be set here: {ELSEWHERE[name]}") for name in given if name in ELSEWHERE
    ]
    problems += validate(_schema(), {name: value for name, value in given.items() if name not in ELSEWHERE})[
        1
    ]
    problems += [
        Problem(old, f"given twice: it is the old name of {new!r}")
        for old, new in RENAMED.items()
        if old in given and new in given
    ]
    if given.get("max_steps") == 0:
        problems.append(Problem("max_steps", "must be at least 1, or -1 for num_train_epochs, got 0"))
    if given.get("save_strategy") == "best":
        problems.append(
            Problem(
                "save_strategy", "'best' needs the Trainer's own evaluation; allowed: 'no', 'steps', 'epoch'"
            )
        )
    return problems


def translate_training_args(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns today's keyword arguments of TrainingArguments, and what to tell about each changed one."""
    arguments: dict[str, Any] = {}
    notices = []
    for name, value in given.items():
        if reason := DROPPED.get(name) or IDLE.get(RENAMED.get(name, name)):
            notices.append(f"{name} has no effect: {reason}")
        elif name == "group_by_length":
            notices.append("group_by_length is now train_sampling_strategy")
            if value:
                arguments["train_sampling_strategy"] = "group_by_length"
        elif name in RENAMED:
            notices.append(f"{name} is now {RENAMED[name]}")
            arguments[RENAMED[name]] = value
        else:
            arguments[name] = value
    return arguments, notices

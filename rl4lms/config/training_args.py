"""`alg.training_args`: the names and types of transformers.TrainingArguments, known without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from common.config import Config, Problem, validate

# transformers 5.23; a test compares names and types with the class itself.
_NAMES: dict[Any, str] = {
    int: """
        per_device_train_batch_size max_steps gradient_accumulation_steps per_device_eval_batch_size
        seed dataloader_num_workers ddp_timeout local_rank""",
    int | None: """
        torch_empty_cache_steps eval_accumulation_steps save_total_limit data_seed
        dataloader_prefetch_factor ddp_bucket_cap_mb""",
    float: """
        num_train_epochs learning_rate warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon
        max_grad_norm label_smoothing_factor logging_steps eval_delay save_steps""",
    float | None: "neftune_noise_alpha eval_steps",
    bool: """
        average_tokens_across_devices bf16 fp16 bf16_full_eval fp16_full_eval torch_compile
        use_liger_kernel use_cache auto_find_batch_size logging_first_step log_on_each_node
        logging_nan_inf_filter prediction_loss_only eval_on_start eval_do_concat_batches
        eval_use_gather_object batch_eval_metrics save_only_model save_on_each_node
        enable_jit_checkpoint push_to_hub hub_always_push load_best_model_at_end ignore_data_skip
        restore_callback_states_from_checkpoint full_determinism use_cpu dataloader_drop_last
        dataloader_pin_memory dataloader_persistent_workers dataloader_in_order
        remove_unused_columns skip_memory_metrics do_train do_eval do_predict""",
    bool | None: """
        tf32 activation_checkpointing gradient_checkpointing disable_tqdm hub_private_repo
        greater_is_better ddp_find_unused_parameters ddp_broadcast_buffers ddp_static_graph""",
    str: """
        log_level log_level_replica project length_column_name optim logging_strategy eval_strategy
        save_strategy hub_strategy train_sampling_strategy lr_scheduler_type""",
    str | None: """
        output_dir optim_args torch_compile_backend torch_compile_mode run_name trackio_space_id
        trackio_bucket_id hub_token hub_model_id hub_revision metric_for_best_model
        dataloader_multiprocessing_context ddp_backend fsdp resume_from_checkpoint""",
    Any: """
        lr_scheduler_kwargs optim_target_modules activation_checkpointing_kwargs
        gradient_checkpointing_kwargs liger_kernel_config include_num_input_tokens_seen report_to
        trackio_static_space_id include_for_metrics accelerator_config parallelism_config
        label_names fsdp_config deepspeed debug""",
}
TRAINING_ARGUMENTS: dict[str, Any] = {name: kind for kind, names in _NAMES.items() for name in names.split()}

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
    "load_best_model_at_end": "the model after the last update is the result",
}

_BOUNDS: dict[str, Any] = {
    "per_device_train_batch_size": Field(ge=1),
    "gradient_accumulation_steps": Field(ge=1),
    "num_train_epochs": Field(gt=0),
    "max_steps": Field(ge=-1),
    "learning_rate": Field(ge=0),
    "weight_decay": Field(ge=0),
    "warmup_steps": Field(ge=0),
    "logging_steps": Field(gt=0),
}


def _schema() -> type[Config]:
    """Every name that a config may give, old ones too."""
    kinds = TRAINING_ARGUMENTS | {name: Literal[values] for name, values in CHOICES.items()}
    kinds = {
        name: Annotated[kind, _BOUNDS[name]] if name in _BOUNDS else kind for name, kind in kinds.items()
    }
    kinds |= {old: kinds[new] for old, new in RENAMED.items()} | {"group_by_length": bool}
    kinds["warmup_ratio"] = Annotated[float, Field(ge=0, lt=1)]
    kinds |= dict.fromkeys(DROPPED, Any)
    fields: dict[str, Any] = {name: (kind, None) for name, kind in kinds.items() if name not in ELSEWHERE}
    return create_model("TrainingArguments", __base__=Config, **fields)


_SCHEMA = _schema()


def training_args_problems(given: Mapping[str, Any]) -> list[Problem]:
    """Unknown names, wrong types and values, and what another field decides; paths are the names as given."""
    problems = [
        Problem(name, f"cannot be set here: {ELSEWHERE[name]}") for name in given if name in ELSEWHERE
    ]
    problems += validate(_SCHEMA, {name: value for name, value in given.items() if name not in ELSEWHERE})[1]
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
    """Keyword arguments for today's TrainingArguments, and what to tell the user about each changed one."""
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

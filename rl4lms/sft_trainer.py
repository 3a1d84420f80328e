"""The transformers.Trainer of supervised finetuning: its arguments, and a loss that is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from rl4lms.config import SupervisedConfig
from rl4lms.config.training_blocks import TrainRuntimeConfig
from rl4lms.language_model import choose_device, is_seq2seq
from rl4lms.sft_rows import IGNORED, Rows, collate


def trainer_arguments(
    alg: SupervisedConfig, runtime: TrainRuntimeConfig, output_dir: Path
) -> TrainingArguments:
    """The Trainer's arguments: those of the config, what `runtime` decides, and what we do ourselves."""
    device = choose_device(runtime.device)
    ours = {
        "output_dir": str(output_dir),
        "seed": runtime.seed,
        "use_cpu": device.type == "cpu",
        "bf16": runtime.dtype == "bfloat16",
        "activation_checkpointing": runtime.gradient_checkpointing,
        "report_to": "none",
        "disable_tqdm": True,
        # One row a step, so that rows do not depend on where a run was cut; a NaN is to be seen.
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",  # by the Evaluator
        "save_total_limit": None,  # kept here: the Trainer does not see the checkpoints in their place
    }
    # The Trainer warns of tied weights, which a checkpoint holds once.
    defaults = {"data_seed": runtime.seed, "log_level": "error", "ddp_find_unused_parameters": False}
    arguments = TrainingArguments(**(defaults | alg.trainer_arguments() | ours))
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # nn.DataParallel would multiply the batch size; see torchrun
    return arguments


def build_trainer(
    model: PreTrainedModel, arguments: TrainingArguments, rows: Rows, pad_token_id: int
) -> Trainer:
    """A Trainer whose loss is the mean over all tokens of an update, however it is cut into batches.

    Left alone, the Trainer takes T5's loss for a share of that mean, which it is not: with gradient
    accumulation, or several processes, the gradient would be that many times too large. Of GPT-2 it would
    count the first token of each text, which nothing predicts.
    """
    decoder_inputs = token_mean = None
    if is_seq2seq(model):
        decoder_inputs, token_mean = model.prepare_decoder_input_ids_from_labels, _token_mean(arguments)
    else:
        model.loss_type = "ForCausalLM"
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate(pad_token_id, decoder_inputs),
        compute_loss_func=token_mean,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _token_mean(arguments: TrainingArguments) -> Callable[..., Tensor]:
    """Cross entropy of labels [B, T], summed over tokens and divided by the number of those of the update."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        summed = cross_entropy(
            outputs.logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=arguments.label_smoothing_factor,
            reduction="sum",
        )
        return summed / num_items_in_batch

    return loss

"""Supervised finetuning with transformers.Trainer: its rows, its arguments, and a loss that is right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import ConcatDataset, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from common.seeding import derive_seed
from rl4lms.config import SupervisedConfig
from rl4lms.config.training_blocks import TrainRuntimeConfig
from rl4lms.model.load import Side, choose_device, is_seq2seq, load_config, load_model, max_positions
from rl4lms.model.lora import has_adapter, load_adapter_weights, save_adapter
from rl4lms.model.packing import IGNORED, pad_rows
from rl4lms.model.sampling import end_tokens, forced_start
from rl4lms.model.source import RESIDUAL_DROPOUT, Kind, ModelSourceError, describe_dropout
from rl4lms.pretraining import Example
from rl4lms.run_setup import TrainingDataError, TrainingSetup
from rl4lms.samples import Sample

Row = dict[str, list[int]]
_NO_LIMIT = 2**31 - 1  # tokenizers without a limit of their own say 10^30
logger = logging.getLogger(__name__)


class Rows(Dataset[Row]):
    """Token ids of (prompt, reference) pairs; a data set of 300,000 long texts need not be held as tokens.

    seq2seq: input = prompt, labels = reference in the tokenizer's target language, with the token that
    generation is forced to begin with (`start`) and one of `ends`, whether or not the tokenizer adds them.
    causal: text = prompt + reference, and the labels are the same ids (add_eos: and the end token). Each is
    cut to `limit` tokens.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        kind: Kind,
        tokenizer: PreTrainedTokenizerBase,
        truncation_side: Side,
        limit: int | None,
        add_eos: bool = False,
        start: int | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        self._pairs = [
            (sample.prompt_or_input_text, text) for sample in samples for text in sample.references
        ]
        self._kind, self._tokenizer, self._limit = kind, tokenizer, limit
        self._side, self._end = truncation_side, tokenizer.eos_token if add_eos else ""
        self._start, self._ends = start, ends

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Row:
        prompt, reference = self._pairs[index]
        if self._kind == "seq2seq":
            return {"input_ids": self._ids(self._limit, text=prompt), "labels": self._labels(reference)}
        ids = self._ids(self._limit, text=prompt + reference + self._end)
        return {"input_ids": ids, "labels": ids}

    def _labels(self, reference: str) -> list[int]:
        ids = self._ids(self._limit, text_target=reference)
        before = [] if self._start is None or ids[:1] == [self._start] else [self._start]
        after = [] if not self._ends or set(ids) & set(self._ends) else [self._ends[0]]
        if before and ids and ids[0] in self._tokenizer.all_special_ids:
            generated, learned = self._tokenizer.convert_ids_to_tokens([self._start, ids[0]])
            raise TrainingDataError(
                f"the model is forced to begin its texts with {generated!r} (forced_bos_token_id in its "
                f"generation_config.json), but the tokenizer begins references with {learned!r}: set its "
                "target language (tgt_lang in tokenizer_config.json), or another forced_bos_token_id"
            )
        added = len(before) + len(after)
        if added and self._limit is not None and len(ids) + added > self._limit:
            ids = self._ids(self._limit - added, text_target=reference)
        return [*before, *ids, *after]

    def _ids(self, limit: int | None, **text: str) -> list[int]:
        self._tokenizer.truncation_side = self._side
        cut: dict[str, Any] = {} if limit is None else {"truncation": True, "max_length": limit}
        return self._tokenizer(**text, verbose=False, **cut)["input_ids"]


def collate(
    pad_token_id: int, decoder_inputs: Callable[[Tensor], Tensor] | None = None
) -> Callable[[list[Row]], dict[str, Tensor]]:
    """Make a function that puts rows into tensors [B, longest], padded on the right.

    Padding is masked and has no loss. decoder_inputs: of a seq2seq model, from labels to what its decoder
    reads.
    """

    def batch(rows: list[Row]) -> dict[str, Tensor]:
        inputs, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
        tensors = {
            "input_ids": pad_rows(inputs, pad_token_id),
            "attention_mask": pad_rows([[1] * len(ids) for ids in inputs], 0),
            "labels": pad_rows(labels, IGNORED),
        }
        if decoder_inputs is not None:
            tensors["decoder_input_ids"] = decoder_inputs(tensors["labels"])
        return tensors

    return batch


class PretrainingRows(Dataset[Row]):
    """Pretraining examples as rows: of causal models all of the text is input and labels."""

    def __init__(self, examples: Sequence[Example], kind: Kind) -> None:
        self._examples, self._kind = examples, kind

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Row:
        example = self._examples[index]
        if self._kind == "seq2seq":
            return {"input_ids": example.source, "labels": example.target}
        ids = [*example.source, *example.target]
        return {"input_ids": ids, "labels": ids}


def trainer_arguments(
    alg: SupervisedConfig, runtime: TrainRuntimeConfig, output_dir: Path
) -> TrainingArguments:
    """Build the Trainer's arguments: the config's, what `runtime` decides, and what we do ourselves."""
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


def load_trained(
    alg: SupervisedConfig, runtime: TrainRuntimeConfig, device: torch.device, folder: Path | None = None
) -> PreTrainedModel:
    """Load the model that is finetuned, with the dropout, adapter and weights that the config asks for.

    folder: of a checkpoint, or where it was saved; None = where it starts. The rate of dropout stays in the
    config of the model that is saved. Raises ModelSourceError.
    """
    name, dtype = str(folder or alg.model_name), getattr(torch, runtime.weights)
    if alg.dropout is None or folder is not None:
        return load_model(name, alg.model_type, dtype, device, alg.lora, runtime.seed)
    model_type = str(load_config(alg.model_name).get("model_type"))
    field = RESIDUAL_DROPOUT.get(model_type)
    if field is None:
        raise ModelSourceError(describe_dropout(alg.model_name, model_type))
    rate = {field: alg.dropout.residual}
    return load_model(name, alg.model_type, dtype, device, alg.lora, runtime.seed, **rate)


class AdapterTrainer(Trainer):
    """A Trainer whose checkpoints hold the adapter alone: its own are whole models."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        save_adapter(Path(output_dir or str(self.args.output_dir)), self.model)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: PreTrainedModel | None = None
    ) -> None:
        load_adapter_weights(model or self.model, Path(resume_from_checkpoint))


def build_trainer(
    model: PreTrainedModel, arguments: TrainingArguments, rows: Dataset[Row], pad_token_id: int
) -> Trainer:
    """Build a Trainer whose loss is the mean over all tokens of an update, however it is cut into batches.

    Left alone, the Trainer takes T5's loss for a share of that mean, which it is not: with gradient
    accumulation, or several processes, the gradient would be that many times too large. Of GPT-2 it would
    count the first token of each text, which nothing predicts.
    """
    decoder_inputs = token_mean = None
    if is_seq2seq(model):
        decoder_inputs, token_mean = model.prepare_decoder_input_ids_from_labels, _token_mean(arguments)
    else:
        model.loss_type = "ForCausalLM"
    trainer = (AdapterTrainer if has_adapter(model) else Trainer)(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate(pad_token_id, decoder_inputs),
        compute_loss_func=token_mean,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _token_mean(arguments: TrainingArguments) -> Callable[..., Tensor]:
    """Make a loss: the cross entropy of labels [B, T], a mean over all tokens of the update."""

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


def training_rows(setup: TrainingSetup, model: PreTrainedModel) -> Dataset[Row]:
    """Build the rows, cut to the tokenizer's own limit, with the share of pretraining examples among them.

    Raises TrainingDataError: there is no reference, or nothing that a text could begin or end with.
    """
    alg, tokenizer = setup.config.alg, setup.tokenizer
    assert isinstance(alg, SupervisedConfig)
    if getattr(model.config, "pad_token_id", None) is None:  # what ignored labels are to a decoder
        model.config.pad_token_id = tokenizer.pad_token_id
    limit = min(tokenizer.model_max_length, max_positions(model) or _NO_LIMIT)
    _choose_target_language(tokenizer, forced_start(model))
    rows = Rows(
        setup.train,
        alg.model_type,
        tokenizer,
        setup.config.tokenizer.truncation_side,
        limit if limit < _NO_LIMIT else None,
        alg.add_eos,
        forced_start(model),
        _seq2seq_ends(model, tokenizer),
    )
    if not len(rows):
        raise TrainingDataError(
            f"datapool {setup.config.datapool.id!r}: no train sample has a reference to learn from"
        )
    rows[0]  # shows references that do not begin as generated texts do
    logger.info("%s training texts from %s samples", f"{len(rows):,}", f"{len(setup.train):,}")
    if alg.pretraining is None or setup.pretraining is None:
        return rows
    number = count_pretraining(len(rows), alg.pretraining.share)
    seed = derive_seed(setup.config.runtime.seed, "pretraining share")
    logger.info("%s pretraining examples besides, the same in each epoch", f"{number:,}")
    return ConcatDataset([rows, PretrainingRows(setup.pretraining.draw(number, seed), alg.model_type)])


def count_pretraining(rows: int, share: float) -> int:
    """Count the pretraining examples that are this share of all, with so many rows besides them."""
    return round(rows * share / (1 - share))


def _seq2seq_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What ends the labels of a seq2seq model, [] for a causal one. Raises TrainingDataError: nothing."""
    if not is_seq2seq(model):
        return []
    ends = end_tokens(model) or [token for token in [tokenizer.eos_token_id] if token is not None]
    if not ends:
        raise TrainingDataError(
            f"neither model {model.name_or_path!r} nor its tokenizer has an end token, so it would never "
            "learn to stop: set eos_token_id in the model's config.json"
        )
    return ends


def _choose_target_language(tokenizer: PreTrainedTokenizerBase, start: int | None) -> None:
    """Tell a multilingual tokenizer that has no target language the one that generation is forced to."""
    if start is None or getattr(tokenizer, "tgt_lang", "") is not None:
        return
    token = tokenizer.convert_ids_to_tokens(start)
    codes = {token: code for code, token in getattr(tokenizer, "lang_code_to_token", {}).items()}
    tokenizer.tgt_lang = codes.get(token, token)

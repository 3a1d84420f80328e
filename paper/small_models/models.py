"""The architectures and their loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from common.seeding import derive_seed, isolated_rng
from paper.small_models.config import PretrainConfig
from paper.small_models.corpus import Batch
from rl4lms.model.load import autocast
from rl4lms.model.packing import IGNORED


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build a T5, GPT-2 or BERT of the config's sizes, its weights drawn from the seed."""
    sizes, vocabulary = config.model, len(tokenizer)
    with isolated_rng(derive_seed(config.runtime.seed, "pretraining", "weights")):
        if config.model_type == "seq2seq":
            return T5ForConditionalGeneration(
                T5Config(
                    vocab_size=vocabulary,
                    d_model=sizes.d_model,
                    d_kv=sizes.d_model // sizes.num_heads,
                    d_ff=sizes.d_ff,
                    num_layers=sizes.num_layers,
                    num_heads=sizes.num_heads,
                    dropout_rate=sizes.dropout,
                    decoder_start_token_id=tokenizer.pad_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            )
        if config.model_type == "classifier":
            labels = dict(enumerate(config.data.classes))
            return BertForSequenceClassification(
                BertConfig(
                    vocab_size=vocabulary,
                    max_position_embeddings=config.data.max_length,
                    hidden_size=sizes.d_model,
                    intermediate_size=sizes.d_ff,
                    num_hidden_layers=sizes.num_layers,
                    num_attention_heads=sizes.num_heads,
                    hidden_dropout_prob=sizes.dropout,
                    attention_probs_dropout_prob=sizes.dropout,
                    pad_token_id=tokenizer.pad_token_id,
                    id2label=labels,
                    label2id={label: number for number, label in labels.items()},
                )
            )
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_positions=config.data.max_length,
                n_embd=sizes.d_model,
                n_inner=sizes.d_ff,
                n_layer=sizes.num_layers,
                n_head=sizes.num_heads,
                resid_pdrop=sizes.dropout,
                embd_pdrop=sizes.dropout,
                attn_pdrop=sizes.dropout,
                bos_token_id=tokenizer.eos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )


def target_logits(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, V] at the N positions of a batch that a token belongs to; that token [N]; its row [N].

    A classifier gives logits [B, C] and the classes [B]. The model's own forward pass would compute logits of
    padding too, a third of all, at the largest layer.
    """
    if isinstance(model, BertForSequenceClassification):
        logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
        return logits, batch.labels[:, 0], torch.arange(len(logits), device=logits.device)
    if batch.ids is not None:
        labels = batch.labels
        encoded = model.encoder(input_ids=batch.ids, attention_mask=batch.mask)[0]
        hidden = model.decoder(
            input_ids=model.prepare_decoder_input_ids_from_labels(labels=labels),
            encoder_hidden_states=encoded,
            encoder_attention_mask=batch.mask,
        )[0]
        hidden = hidden * model.model_dim**-0.5  # as T5 does where its embeddings are also its last layer
    else:
        labels, mask = batch.labels[:, 1:], batch.labels != IGNORED
        hidden = model.transformer(input_ids=batch.labels.clamp(min=0), attention_mask=mask)[0][:, :-1]
    real = labels != IGNORED
    return model.lm_head(hidden[real]), labels[real], real.nonzero()[:, 0]


def mean_loss(model: PreTrainedModel, batch: Batch, dtype: str) -> Tensor:
    """Compute the cross entropy in nats, mean over the target tokens of a batch."""
    with autocast(batch.labels.device, dtype):
        logits, labels, _ = target_logits(model, batch)
        return cross_entropy(logits, labels)

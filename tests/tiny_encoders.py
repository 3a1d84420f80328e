"""Tiny random text encoders with tokenizers of their own, saved as folders that `from_pretrained` reads."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

WORDS = "the a cat dog sat on mat runs in park good bad film it was".split()


def save_tiny_bert2bert(folder: Path, decoder_size: int = 16, start: bool = True) -> Path:
    """A BERT of size 16 that a BERT of `decoder_size` continues. start: whether it says how texts begin."""
    encoder = BertConfig.from_pretrained(save_tiny_bert(folder, labels=2))
    decoder = BertConfig(**encoder.to_dict() | {"hidden_size": decoder_size})
    decoder.is_decoder = decoder.add_cross_attention = True
    torch.manual_seed(0)
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    if start:
        model.config.decoder_start_token_id, model.config.eos_token_id, model.config.pad_token_id = 2, 3, 0
    model.generation_config = GenerationConfig.from_model_config(model.config)
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    model.save_pretrained(folder)
    return folder


def save_tiny_bert(folder: Path, labels: int | None, positions: int = 24, seed: int = 0) -> Path:
    """A BERT of three layers, random weights, WordPiece. labels: of its classifier; None: it has none."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *string.ascii_lowercase]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=positions,
        padding_side="left",  # a tokenizer's own sides must not matter
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        initializer_range=0.5,  # wide, so that texts differ
        num_labels=labels or 2,
    )
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config) if labels else BertModel(config)
    model.save_pretrained(folder)
    return folder

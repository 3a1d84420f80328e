"""Tiny random language models with tokenizers of their own, saved as folders that `from_pretrained` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

_WHO = ("the old dog", "a small cat", "my sister", "the teacher", "one of the men", "nobody", "the river")
_DOES = ("runs after", "looks at", "was not seen by", "gives bread to", "sings about", "knows", "is near")
_WHOM = ("the red house", "a green tree", "some children", "the bird's nest", "his friends", "us", "water")
TEXTS = [f"{who} {does} {whom}." for who in _WHO for does in _DOES for whom in _WHOM]


def save_tiny_t5(
    folder: Path, texts: Iterable[str] = TEXTS, vocab_size: int = 200, seed: int = 0, **config: Any
) -> Path:
    """A T5 of two layers, random weights; its Unigram tokenizer has <pad> </s> <unk> as ids 0 1 2."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4} | config
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=len(fast), decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    )
    return _save(folder, fast, model)


def save_tiny_gpt2(
    folder: Path, texts: Iterable[str] = TEXTS, vocab_size: int = 300, seed: int = 0, **config: Any
) -> Path:
    """A GPT-2 of two layers, random weights; its byte-level BPE has <|endoftext|> as id 0, no padding token.

    The weights are drawn wider than GPT-2's are, so that its next tokens are not all equally likely.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3} | config
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        unk_token=end,
        model_max_length=sizes["n_positions"],
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(fast), bos_token_id=0, eos_token_id=0, **sizes))
    return _save(folder, fast, model)


def edit_json(file: Path, **values: Any) -> None:
    """Set values in a JSON file, such as a saved model's config.json."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def save_tiny_nllb(folder: Path, language: str | None = "deu_Latn", tgt_lang: str | None = None) -> Path:
    """A translation model of two layers whose texts are forced to begin with `language`; None: free."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    content = json.loads(trained.to_str())["model"]
    tokenizer = NllbTokenizer(
        vocab=content["vocab"],
        merges=[tuple(merge) for merge in content["merges"]],
        src_lang="eng_Latn",
        tgt_lang=tgt_lang,
        extra_special_tokens=["eng_Latn", "deu_Latn"],
        model_max_length=64,
    )
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    layers = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")
    }
    model = M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=len(tokenizer), decoder_start_token_id=2, init_std=0.3, dropout=0.0, **sizes, **layers
        )
    )
    if language is not None:
        model.generation_config.forced_bos_token_id = tokenizer.convert_tokens_to_ids(language)
    return _save(folder, tokenizer, model)


def save_tiny_bart(folder: Path, **config: Any) -> Path:
    """A BART of two layers whose tokenizer (of `save_tiny_gpt2`) adds no token to a text, so no end token."""
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_gpt2(folder / "gpt2"))
    tokenizer.pad_token = tokenizer.eos_token
    end = tokenizer.eos_token_id
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": end}
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    layers = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")
    }
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(**{"vocab_size": len(tokenizer), "init_std": 0.3} | special | sizes | layers | config)
    )
    return _save(folder, tokenizer, model)


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast, model: Any) -> Path:
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


# ChatML as Qwen has it, whose end token ends every turn.
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_chat_tokenizer(model: Path, folder: Path, template: str | None, adds_start: bool = False) -> str:
    """The tokenizer of a model, with a chat template and perhaps a start token that it adds by itself."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    if adds_start:
        start = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(folder)
    return str(folder)

"""Models whose texts would not be what updates take them for are refused when they are loaded."""

from pathlib import Path

import pytest
import torch
from tiny_models import edit_json, save_tiny_gpt2, save_tiny_t5
from transformers import (
    BertConfig,
    BertLMHeadModel,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
    RwkvConfig,
    RwkvForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from rl4lms.model.load import load_model, max_positions
from rl4lms.model.source import Kind, ModelSourceError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}


def saved(folder: Path, model: PreTrainedModel) -> str:
    model.save_pretrained(folder)
    return str(folder)


def load(folder: str, kind: Kind = "causal", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return load_model(folder, kind, dtype, "cpu")


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_what_sees_later_tokens_is_no_decoder(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = {
        "bert": BertLMHeadModel(BertConfig(vocab_size=50, **SIZES)),
        "xlnet": XLNetLMHeadModel(XLNetConfig(vocab_size=50, d_model=32, n_layer=2, n_head=4, d_inner=32)),
    }[name]
    folder = saved(tmp_path / name, model)
    with pytest.raises(ModelSourceError) as error:
        load(folder)
    assert str(error.value) == (
        f"model {folder!r} ({name}) is no decoder: what it says of a token depends on the tokens behind "
        "it; set is_decoder: true in its config.json if it was trained so (a BERT), or name another model"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bert_that_was_trained_as_a_decoder_is_one(tmp_path: Path, dtype: torch.dtype) -> None:
    config = BertConfig(vocab_size=50, is_decoder=True, **SIZES)
    assert load(saved(tmp_path / "bert", BertLMHeadModel(config)), dtype=dtype).dtype == dtype


def test_what_sees_padding_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = RwkvConfig(
        vocab_size=50, hidden_size=32, attention_hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        context_length=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    folder = saved(tmp_path / "rwkv", RwkvForCausalLM(config))
    with pytest.raises(ModelSourceError) as error:
        load(folder)
    assert str(error.value) == (
        f"model {folder!r} (rwkv) heeds no attention mask: the padding before shorter prompts would change "
        "its texts; name another model"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_that_come_of_the_mask_are_no_padding(tmp_path: Path, dtype: torch.dtype) -> None:
    """MPT takes no positions: it counts distances between tokens."""
    config = MptConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=4, max_seq_len=32)
    load(saved(tmp_path / "mpt", MptForCausalLM(config)), dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("causal", "eos_token_id", 100_000),
        ("causal", "eos_token_id", [0, 100_000]),
        ("causal", "pad_token_id", -1),
        ("seq2seq", "decoder_start_token_id", 100_000),
        ("seq2seq", "decoder_start_token_id", -1),
        ("seq2seq", "forced_bos_token_id", 100_000),
    ],
)
def test_special_tokens_are_tokens(tmp_path: Path, kind: Kind, field: str, value: object) -> None:
    """Else they fail far away, or a text never ends."""
    folder = (save_tiny_t5 if kind == "seq2seq" else save_tiny_gpt2)(tmp_path / "model")
    load(str(folder), kind)
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, **{field: value})
    with pytest.raises(ModelSourceError) as error:
        load(str(folder), kind)
    assert str(error.value).startswith(
        f"model {str(folder)!r}: {field} is {value} in its generation_config.json"
    )
    assert str(error.value).endswith("which count from 0: set the token's number, or null for none")


def test_positions_without_a_limit(tmp_path: Path) -> None:
    """XLNet's config says -1."""
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=50, d_model=32, n_layer=1, n_head=4, d_inner=32))
    assert max_positions(model) is None

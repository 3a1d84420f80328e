"""Language models and tokenizers, from the hub or a folder, as this project uses them."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import NewGELUActivation

from common.files import describe_load_error, sync
from common.hub import first_line, spare_retries_without_network
from rl4lms.model.adapter_folder import HEAD, adapter_base, read_model_config
from rl4lms.model.lora import add_adapter, has_adapter, load_adapter, merge_adapter, save_adapter
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.source import Kind, ModelSourceError, check_model_source, check_tokenizer_source, wrong_kind

Side = Literal["left", "right"]


def load_tokenizer(
    name: str,
    *,
    padding_side: Side = "left",
    truncation_side: Side = "left",
    pad_token_as_eos_token: bool = False,
    clean_up_tokenization_spaces: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or folder, which always has a padding token.

    pad_token_as_eos_token: pads with the end token; without it a tokenizer that has no padding token (GPT-2)
    does so too. clean_up_tokenization_spaces: whatever the files say, for `rl4lms.model.generation.decode`.
    The files stay as they are. Raises ModelSourceError.
    """
    if problem := check_tokenizer_source(name):
        raise ModelSourceError(problem)
    tokenizer = _load(AutoTokenizer, "tokenizer", name)
    tokenizer.padding_side, tokenizer.truncation_side = padding_side, truncation_side
    tokenizer.clean_up_tokenization_spaces = clean_up_tokenization_spaces
    if pad_token_as_eos_token or tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelSourceError(
                f"tokenizer {name!r} has neither a padding nor an end token: "
                "set eos_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str,
    kind: Kind,
    dtype: torch.dtype,
    device: torch.device | str,
    lora: LoraSettings | None = None,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """The language model of a hub name or folder in evaluation mode, its weights of `dtype` on `device`.

    lora: with an adapter, that of the folder or else a new one (seed: of its weights), beside frozen weights;
    None = the adapter of a folder is merged. config: fields that are set in the model's config.
    Raises ModelSourceError: not there, damaged, weights missing, not of this kind, or no such special tokens.
    """
    if problem := check_model_source(name, kind):
        raise ModelSourceError(problem)
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    model = load_weights(auto, name, kind, dtype, merge=lora is None, **config)
    if lora is not None and not has_adapter(model):
        add_adapter(model, lora, seed)
    _check_special_tokens(model, name)
    model = model.to(device).eval()
    if kind == "causal" and _sees_padding(model):
        raise ModelSourceError(
            f"model {name!r} ({model.config.model_type}) heeds no attention mask: the padding before shorter "
            "prompts would change its texts; name another model"
        )
    if kind == "causal" and _sees_later_tokens(model):
        raise ModelSourceError(
            f"model {name!r} ({model.config.model_type}) is no decoder: what it says of a token depends on "
            "the tokens behind it; set is_decoder: true in its config.json if it was trained so (a BERT), or "
            "name another model"
        )
    return model


def load_weights(
    auto: Any,
    name: str,
    kind: Kind,
    dtype: torch.dtype,
    head: Sequence[str] = (),
    merge: bool = True,
    **config: Any,
) -> PreTrainedModel:
    """Load a model of a transformers Auto class from a hub name or folder, of an adapter with its base.

    head: weights that only the files have, or only the model, where they are random. merge: add an adapter to
    the weights that it stands beside. config: fields that are set in the model's config.
    Raises ModelSourceError: damaged, other weights missing, or not of this kind.
    """
    if (base := adapter_base(name)) is not None:
        model = load_weights(auto, base, kind, dtype, [*head, f"{HEAD}.weight"], **config)
        load_adapter(model, name, head)
        return merge_adapter(model) if merge else model
    model_config = _load(AutoConfig, "model", name, **config)
    if model_config.is_encoder_decoder != (kind == "seq2seq"):
        raise ModelSourceError(wrong_kind(name, model_config.model_type, kind))
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    # Else transformers asks the hub, from a thread, to convert weights that it holds in the old format only.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with _quiet() if head else nullcontext():
        model, report = _load(auto, "model", name, config=model_config, dtype=dtype, output_loading_info=True)
    if missing := sorted(set(report["missing_keys"]) - set(head)):
        # transformers would go on with random ones.
        raise ModelSourceError(
            f"model {name!r} lacks {len(missing)} of its weights ({missing[0]}, ...): "
            f"it was not saved from a {type(model).__name__}"
        )
    if kind == "seq2seq":
        _complete_config(model, name)
    _fuse_gelu(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the reports of transformers."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)


def load_config(name: str) -> dict[str, Any]:
    """Read the config.json of the model of a hub name or folder. Raises ModelSourceError."""
    config = read_model_config(name)
    return _load(AutoConfig, "model", adapter_base(name) or name).to_dict() if config is None else config


def _check_special_tokens(model: PreTrainedModel, name: str) -> None:
    """Raises ModelSourceError: a token that starts, ends or pads texts is none of the model's."""
    known = min(model.get_input_embeddings().num_embeddings, len(model.get_output_embeddings().weight))
    for field in ("eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"):
        value = special_token(model, field)
        ids = value if isinstance(value, list) and field == "eos_token_id" else [value]
        if value is not None and not all(isinstance(i, int) and 0 <= i < known for i in ids):
            raise ModelSourceError(
                f"model {name!r}: {field} is {value} in its generation_config.json or config.json, and "
                f"none of the {known:,} tokens that it knows, which count from 0: set the token's number, or "
                "null for none"
            )


@torch.no_grad()
def _sees_padding(model: PreTrainedModel) -> bool:
    """Tell whether logits depend on the tokens before a text that the attention mask leaves out."""
    known = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[known - 1, known - 1, 0, known // 2]], device=model.device)
    mask = torch.tensor([[0, 0, 1, 1]], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    try:
        padded = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, -1].float()
        alone = model(input_ids=ids[:, 2:], attention_mask=mask[:, 2:]).logits[0, -1].float()
    except Exception:  # architectures fail in ways of their own, which is told where they are used
        return False
    slack = 1e-3 if model.dtype == torch.float32 else 5e-2
    return bool((padded - alone).abs().max() > slack * alone.abs().max())


@torch.no_grad()
def _sees_later_tokens(model: PreTrainedModel) -> bool:
    """Tell whether logits of a token depend on the token behind it: they are not those of sampling then."""
    known = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[0, 0], [0, known - 1]], device=model.device)
    try:
        first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float()
    except Exception:  # architectures fail in ways of their own, which is told where they are used
        return False
    slack = 1e-4 if model.dtype == torch.float32 else 1e-2  # of experts that are called for other tokens
    return bool((first - second).abs().max() > slack * first.abs().max())


def _complete_config(model: PreTrainedModel, name: str) -> None:
    """Have the decoder start with one token everywhere. Raises ModelSourceError: no token to start with."""
    start = special_token(model, "decoder_start_token_id", special_token(model, "bos_token_id"))
    if start is None:
        raise ModelSourceError(
            f"model {name!r} ({model.config.model_type}) does not say what its decoder starts with: set "
            "decoder_start_token_id in its config.json (for a BERT as decoder the id of [CLS], and "
            "eos_token_id to that of [SEP])"
        )
    if getattr(model.config, "decoder_start_token_id", None) is None:
        model.config.decoder_start_token_id = start


def _fuse_gelu(model: PreTrainedModel) -> None:
    """Make GPT-2's activation (and T5 v1.1's) one operation in place of eight: the same function."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def save_model_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write model and tokenizer into `folder`, whole or not at all: a valid `model_name` of every job.

    Of a model with an adapter that alone. For one process at a time.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    transformers.utils.logging.disable_progress_bar()  # of the file that is written, across our own
    if has_adapter(model):
        save_adapter(temporary, model)
    else:
        model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for file in temporary.iterdir():
        sync(file)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    sync(folder.parent)


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelSourceError if the tokenizer makes tokens that the model has no embedding for."""
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ModelSourceError(
            f"the tokenizer {tokenizer.name_or_path!r} has {len(tokenizer):,} tokens, the model "
            f"{model.name_or_path!r} knows {known:,}: set tokenizer.model_name to the model's own"
        )


def choose_device(name: str) -> torch.device:
    """The device that a config names; auto: a GPU if there is one. Raises ModelSourceError: not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelSourceError(f"runtime.device {name!r}: this machine has none; set runtime.device: auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelSourceError(
            f"runtime.device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "set runtime.device: auto"
        )
    return device


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Set the precision of forward passes in the block; "float32" keeps that of the weights."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))


def max_positions(model: PreTrainedModel) -> int | None:
    """The most tokens the model can attend to, None if its positions are relative (T5).

    Of two models put together, encoder and decoder, the fewer.
    """
    config = model.config
    parts = [config.encoder, config.decoder] if config.model_type == "encoder-decoder" else [config]
    positions = [getattr(part, "max_position_embeddings", None) for part in parts]
    # XLNet says -1 where there is no limit.
    return min((number for number in positions if number is not None and number > 0), default=None)


def special_token(model: PreTrainedModel, name: str, default: Any = None) -> Any:
    """The id (or ids) of a special token, as the generation config, else the model's own config has it."""
    for config in (getattr(model, "generation_config", None), model.config):  # the former of language models
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    return default


def decoder_start(model: PreTrainedModel) -> int | None:
    """The token that the decoder of a seq2seq model starts with, in generation and scoring; causal: None."""
    return special_token(model, "decoder_start_token_id") if is_seq2seq(model) else None


def is_seq2seq(model: PreTrainedModel) -> bool:
    return bool(model.config.is_encoder_decoder)


def _load(auto: Any, what: str, name: str, **options: Any) -> Any:
    in_folder = Path(name).expanduser().is_dir()
    if not in_folder:
        spare_retries_without_network()
    try:
        return auto.from_pretrained(Path(name).expanduser() if in_folder else name, **options)
    except Exception as error:  # network, hub, disk, format and architecture errors share no base class
        is_pickle = isinstance(error, pickle.UnpicklingError)  # torch's own words advise to run it
        words = describe_load_error(error) if is_pickle else first_line(error)
        reason = f"({type(error).__name__}: {words})"
        if in_folder:
            message = (
                f"the {what} in folder {name!r} cannot be loaded {reason}: "
                "it is damaged, or not of a language model; write it with save_pretrained(folder)"
            )
        else:
            message = (
                f"{what} {name!r} is no folder here and could not be read from the hub {reason}: "
                "check the name; without network, copy its files (config.json, model.safetensors, "
                "tokenizer.json) into a folder and name that"
            )
        raise ModelSourceError(message) from error

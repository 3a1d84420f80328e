"""What a model or tokenizer name in a config points to, checked without importing anything heavy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from common.validation import show
from rl4lms.model.adapter_folder import (
    WEIGHTS,
    adapter_base,
    adapter_problem,
    holds_adapter,
    read_model_config,
    read_object,
    scores_texts,
)

Kind = Literal["causal", "seq2seq"]

# tokenizer.json, or what the classes of T5 and GPT-2 build their tokenizer from.
TOKENIZERS = (
    ("tokenizer.json",),
    ("spiece.model", "config.json"),
    ("vocab.json", "merges.txt", "config.json"),
)
# Those of encoders, such as BERT, take these too. (T5's and GPT-2's load vocab.txt as an empty vocabulary.)
ENCODER_TOKENIZERS = (*TOKENIZERS, ("vocab.txt", "config.json"), ("sentencepiece.bpe.model", "config.json"))
# Folders where the project's own models lie, as its configs name them -> the config that makes the model.
LAPTOP_MODELS = {
    "outputs/laptop_models/t5": "rl4lms_scripts/laptop/pretrain_t5.yml",
    "outputs/laptop_models/gpt2": "rl4lms_scripts/laptop/pretrain_gpt2.yml",
    "outputs/laptop_models/style_classifier": "rl4lms_scripts/laptop/train_style_classifier.yml",
}
FETCHED_MODEL = "outputs/real_data/smollm2"
_PLACEHOLDER = re.compile(r"<.*>")
_CONFIG_FILE = re.compile(r"[\w./-]+\.ya?ml")
_TRAINER = "python rl4lms_train_text_generation.py --config_path"
_HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
_MODEL_FILES = "a model folder holds config.json, model.safetensors and tokenizer.json"


BAG_OF_TOKENS: Literal["bag_of_tokens"] = "bag_of_tokens"  # the reward model that needs no language model


class ModelSourceError(UserError):
    """A model or tokenizer that cannot be used as asked: the user's mistake, said in one line."""

    is_refusal = True


def describe_placeholder(name: str, config: str) -> str | None:
    """What to put in place of a model's placeholder; None if the name is none.

    config: what makes the model, unless the placeholder names it: `<model of rl4lms_scripts/laptop/x.yml>`.
    """
    if not _PLACEHOLDER.fullmatch(name):
        return None
    match = _CONFIG_FILE.search(name)
    made_by = f"{_TRAINER} {match[0] if match else config}"
    return f"still the placeholder {name!r}; replace it by the model that this makes: {made_by}"


def check_model_source(name: str, kind: Kind | None = None) -> str | None:
    """What is wrong with the model that `name` (hub name or folder) points to, None if nothing is known.

    It looks at a folder's files and, with `kind`, at the kind of the model; of a hub name only at the form.
    """
    if problem := _look_up(name):
        return problem
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _check_hub_name(name)
    if holds_adapter(name):
        return _check_adapter(name, kind)
    if not (folder / "config.json").is_file():
        inside = sorted(file.parent for file in folder.glob("*/config.json"))
        hint = f"did you mean {str(inside[-1])!r}?" if inside else _MODEL_FILES
        return f"folder {name!r} holds no model: it has no config.json; {hint}"
    config = read_object(folder / "config.json")
    settings = folder / "generation_config.json"
    for content in (config, read_object(settings) if settings.is_file() else {}):
        if isinstance(content, str):
            return content
    assert isinstance(config, dict)
    if not has_weights(lambda file: (folder / file).is_file()):
        return (
            f"folder {name!r} has no weights (model.safetensors): "
            "write them with model.save_pretrained(folder), or copy the missing file"
        )
    if kind and _is_scorer(config):
        return (
            f"folder {name!r} holds a {_architecture(config)} that gives texts numbers, no language model: "
            "name the language model that it was made from"
        )
    if kind and bool(config.get("is_encoder_decoder")) != (kind == "seq2seq"):
        return wrong_kind(name, str(config.get("model_type", "unknown")), kind)
    return None


def check_reward_model_source(name: str) -> str | None:
    """What is wrong with the reward model that `name` (hub name or folder) points to, likewise."""
    if problem := describe_placeholder(name, "<config of a reward model>"):
        return problem
    if problem := check_model_source(name) or check_tokenizer_source(name, encoder=True):
        return problem
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    config = read_model_config(name)
    return None if config is None else reward_model_problem(name, config)  # else the base is on the hub


def value_model_problem(name: str, kind: Kind) -> str | None:
    """Why a value model of this kind cannot start from the reward model that `name` points to, likewise."""
    if problem := check_reward_model_source(name):
        return problem
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    config = read_model_config(name)
    if config is None:  # its base is on the hub
        return None
    if config.get("model_type") == BAG_OF_TOKENS:
        return f"reward model {name!r} is a bag of tokens, which has no states to put a value head on"
    if bool(config.get("is_encoder_decoder")) != (kind == "seq2seq"):
        words = {"causal": "a decoder-only", "seq2seq": "an encoder-decoder"}
        actual: Kind = "causal" if kind == "seq2seq" else "seq2seq"
        return f"reward model {name!r} is {words[actual]} model, the policy {words[kind]} one"
    return None


# Model type -> the field of its config that is the dropout of what each layer adds. A T5's, and a BART's,
# holds for other places too.
RESIDUAL_DROPOUT = {
    "gpt2": "resid_pdrop",
    "gptj": "resid_pdrop",
    "gpt_neo": "resid_dropout",
    "t5": "dropout_rate",
    "mt5": "dropout_rate",
    "bart": "dropout",
}


def dropout_problem(name: str) -> str | None:
    """Why the residual dropout of the model that `name` points to cannot be set; None for hub names."""
    config = read_model_config(name)
    if config is None or config.get("model_type") in RESIDUAL_DROPOUT:
        return None
    return describe_dropout(name, str(config.get("model_type")))


def describe_dropout(name: str, model_type: str) -> str:
    """Say that a model has no residual dropout that is known here."""
    known = ", ".join(RESIDUAL_DROPOUT)
    return f"model {name!r} ({model_type}) has no residual dropout that is known; known of: {known}"


def reward_model_problem(name: str, config: Mapping[str, Any]) -> str | None:
    """Why the model with this config.json is no reward model; None if it is one."""
    if not _is_scorer(config):
        return (
            f"model {name!r} is no reward model (its config.json says {_architecture(config) or 'nothing'}): "
            "train one from it with alg.id: reward_model, or name a sequence classifier with one output"
        )
    labels = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    if labels != 1 and REWARD_FIELD not in config:
        return (
            f"model {name!r} tells {labels} classes apart; a reward model has one output "
            "(the probability of a class is reward_fn: {id: learned_reward})"
        )
    return None


REWARD_FIELD = "reward_scale"  # of the config.json of reward models that are trained here


def _is_scorer(config: Mapping[str, Any]) -> bool:
    """Whether a model's config.json is that of a classifier or a reward model."""
    return REWARD_FIELD in config or _architecture(config).endswith("ForSequenceClassification")


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or [""])[0])


def _look_up(name: str) -> str | None:
    """Why a path cannot even be looked up, such as one of 300 letters; None if it can."""
    try:
        Path(name).expanduser().is_dir()
    except (OSError, RuntimeError) as error:
        return f"{show(name)}: {getattr(error, 'strerror', None) or error}"
    return None


def _check_adapter(name: str, kind: Kind | None) -> str | None:
    """What is wrong with the adapter of a finetuning by LoRA in the folder `name`, or with its base."""
    loader = {"causal": "AutoPeftModelForCausalLM", "seq2seq": "AutoPeftModelForSeq2SeqLM"}.get(
        kind or "", "AutoPeftModel"
    )
    if problem := adapter_problem(name, loader):
        return problem
    if kind and (scores_texts(name) or _is_scorer(read_model_config(name) or {})):
        return (
            f"folder {name!r} holds the adapter of a model that gives texts numbers, no language model: name "
            "the language model that it was made from"
        )
    base = adapter_base(name)
    assert base is not None  # adapter_problem
    if holds_adapter(base):
        return (
            f"folder {name!r} holds an adapter of {base!r}, an adapter too: merge that one first, and name it"
        )
    if problem := check_model_source(base, kind):
        return f"folder {name!r} holds an adapter (LoRA) of {base!r}, which cannot be used: {problem}"
    return None


def check_tokenizer_source(name: str, *, encoder: bool = False) -> str | None:
    """What is wrong with the tokenizer that `name` points to, likewise.

    encoder: it belongs to an encoder in this folder, else to a T5 or GPT-2 here or elsewhere.
    """
    if problem := _look_up(name):
        return problem
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _check_hub_name(name)
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and isinstance(content := read_object(settings), str):
        return content
    if has_tokenizer(lambda file: (folder / file).is_file(), encoder=encoder):
        return None
    other = "copy it from" if encoder else "set tokenizer.model_name to"
    return (
        f"folder {name!r} has no tokenizer (tokenizer.json): write it with "
        f"tokenizer.save_pretrained(folder), or {other} the model it was made from"
    )


def has_weights(has: Callable[[str], bool]) -> bool:
    """Whether a place that `has` some files has the weights of a model."""
    return any(map(has, WEIGHTS))


def has_tokenizer(has: Callable[[str], bool], *, encoder: bool = False) -> bool:
    """Whether a place that `has` some files has a tokenizer; encoder: as in `check_tokenizer_source`."""
    return any(all(map(has, files)) for files in (ENCODER_TOKENIZERS if encoder else TOKENIZERS))


def wrong_kind(name: str, model_type: str, kind: Kind) -> str:
    """Say that a model is of the other kind than `kind`."""
    words = {"causal": "a decoder-only", "seq2seq": "an encoder-decoder"}
    actual: Kind = "seq2seq" if kind == "causal" else "causal"
    return (
        f"model {name!r} ({model_type}) is {words[actual]} model, the config wants {words[kind]} one: "
        f"set model_type: {actual}, or name another model"
    )


def device_problem(name: str) -> str | None:
    """Why a name is none of a device; None if it is, here or elsewhere."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        return None
    return f"unknown device {show(name)}; expected auto, cpu, mps, cuda or cuda:<number>"


def _check_hub_name(name: str) -> str | None:
    path = Path(name).expanduser()
    if path.exists():
        return f"{name!r} is a file; name the model's folder: {_MODEL_FILES}"
    if config := LAPTOP_MODELS.get(path.as_posix()):
        command = f"python pretrain_small_language_model.py --config_path {config}"
        return f"no such folder: {name!r}; made by: {command}"
    if path.as_posix() == FETCHED_MODEL:
        return f"no such folder: {name!r}; fetched by: python fetch_real_data.py smollm2"
    first, *rest = name.split("/")
    # `a/b` could be on the hub, but hardly if there is a folder `a` here.
    if name.startswith((".", "~")) or len(rest) > 1 or (rest and Path(first).is_dir()):
        return f"no such folder: {name!r}; {_MODEL_FILES}"
    if not _HUB_NAME.fullmatch(name):
        return f"{show(name)} is neither a folder nor a hub name such as 't5-base' or 'lvwerra/gpt2-imdb'"
    return None

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_json
from transformers import AutoModelForCausalLM

from rl4lms.model.load import check_vocabulary, choose_device, load_model, load_tokenizer
from rl4lms.model.source import (
    Kind,
    ModelSourceError,
    check_model_source,
    check_tokenizer_source,
    device_problem,
)


@pytest.fixture
def folder(tmp_path: Path, tiny_t5: Path) -> Path:
    """A copy of the tiny T5 to be damaged."""
    return Path(shutil.copytree(tiny_t5, tmp_path / "t5"))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_gpt2_gets_a_padding_token_and_its_files_stay(tiny_gpt2: Path) -> None:
    before = files(tiny_gpt2)
    tokenizer = load_tokenizer(str(tiny_gpt2), padding_side="left", truncation_side="right")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "right")
    assert files(tiny_gpt2) == before


def test_t5_keeps_its_padding_token_unless_asked(tiny_t5: Path) -> None:
    assert load_tokenizer(str(tiny_t5)).pad_token == "<pad>"
    assert load_tokenizer(str(tiny_t5), pad_token_as_eos_token=True).pad_token == "</s>"


def test_weights_have_the_dtype_asked_for_whatever_the_checkpoint_has(folder: Path) -> None:
    model = load_model(str(folder), "seq2seq", torch.bfloat16, "cpu")
    assert model.dtype == torch.bfloat16
    model.save_pretrained(folder)
    model = load_model(str(folder), "seq2seq", torch.float32, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_the_fused_activation_is_the_models_own(tiny_gpt2: Path) -> None:
    ours, own = (
        load_model(str(tiny_gpt2), "causal", torch.float32, "cpu"),
        AutoModelForCausalLM.from_pretrained(tiny_gpt2),
    )
    names = {type(layer.mlp.act).__name__ for layer in ours.base_model.h}
    assert names == {"GELU"} and type(own.base_model.h[0].mlp.act).__name__ == "NewGELUActivation"
    values = torch.linspace(-9, 9, 1001)
    expected = own.base_model.h[0].mlp.act(values)
    torch.testing.assert_close(ours.base_model.h[0].mlp.act(values), expected, rtol=1e-5, atol=1e-6)
    assert ours.config.to_dict() == own.config.to_dict()


@pytest.mark.parametrize(("kind", "other"), [("seq2seq", "causal"), ("causal", "seq2seq")])
def test_a_model_of_the_other_kind_is_refused(
    kind: Kind, other: Kind, tiny_t5: Path, tiny_gpt2: Path
) -> None:
    folder = tiny_t5 if kind == "seq2seq" else tiny_gpt2
    assert check_model_source(str(folder), kind) is None
    with pytest.raises(ModelSourceError, match=f"set model_type: {kind}, or name another model"):
        load_model(str(folder), other, torch.float32, "cpu")


def test_the_kind_is_checked_after_loading_where_the_folder_does_not_tell(folder: Path) -> None:
    edit_json(folder / "config.json", is_encoder_decoder=False)
    with pytest.raises(
        ModelSourceError, match=r"cannot be loaded .*AutoModelForCausalLM.*not of a language model; write"
    ):
        load_model(str(folder), "causal", torch.float32, "cpu")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", "holds no model: it has no config.json; a model folder holds config.json"),
        ("model.safetensors", r"has no weights \(model.safetensors\): write them with model.save_pretrained"),
    ],
)
def test_what_a_model_folder_lacks_is_named(folder: Path, removed: str, message: str) -> None:
    (folder / removed).unlink()
    with pytest.raises(ModelSourceError, match=message):
        load_model(str(folder), "seq2seq", torch.float32, "cpu")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a JSON object, holds []; write the folder anew with save_pretrained(folder)"),
        ("null", "must hold a JSON object, holds None; write the folder anew with save_pretrained(folder)"),
        ("{", "cannot be read: Expecting property name enclosed in double quotes"),
        ("[" * 99_999, "cannot be read: it is nested too deeply"),
    ],
    ids=lambda value: value[:4],
)
def test_files_of_a_folder_that_hold_something_else_are_named(
    folder: Path, name: str, content: str, message: str
) -> None:
    """transformers would leave out a broken generation_config.json without a word."""
    (folder / name).write_text(content)
    load, check = (
        (lambda: load_tokenizer(str(folder)), check_tokenizer_source)
        if name.startswith("tokenizer")
        else (lambda: load_model(str(folder), "seq2seq", torch.float32, "cpu"), check_model_source)
    )
    assert (check(str(folder)) or "").startswith(f"{folder / name} {message}")
    with pytest.raises(ModelSourceError, match=f"^{re.escape(f'{folder / name} {message}')}"):
        load()


def adapter(folder: Path, **config: Any) -> Path:
    """The folder of a model, made one of an adapter: without the model's weights, and mostly its config."""
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    (folder / "config.json").unlink()
    return folder


def said_of_adapter(folder: Path) -> str | None:
    return check_model_source(str(folder), "seq2seq")


def test_an_adapter_is_checked_with_its_base(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    adapter(folder, base_model_name_or_path=str(base))
    if importlib.util.find_spec("peft"):
        assert said_of_adapter(folder) == (
            f"folder {str(folder)!r} holds an adapter (LoRA) of {str(base)!r}, which cannot be used: no such "
            f"folder: {str(base)!r}; a model folder holds config.json, model.safetensors and tokenizer.json"
        )
        edit_json(folder / "adapter_config.json", base_model_name_or_path="t5-base")
        assert said_of_adapter(folder) is None, "it may be on the hub"
    (folder / "adapter_model.safetensors").unlink()
    assert (said_of_adapter(folder) or "").startswith(
        f"folder {str(folder)!r} holds no weights of its adapter (adapter_model.safetensors): write them with"
    )
    edit_json(folder / "adapter_config.json", base_model_name_or_path=None)
    assert said_of_adapter(folder) == (
        f"folder {str(folder)!r} holds an adapter that does not say of which model: set "
        "base_model_name_or_path in its adapter_config.json"
    )


def test_an_adapter_without_peft_is_refused_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert said_of_adapter(adapter(folder, base_model_name_or_path="t5-base")) == (
        f"folder {str(folder)!r} holds an adapter (LoRA) of 't5-base'; loading it needs the package peft, "
        "which is not installed: pip install 'peft>=0.18'"
    )


@pytest.mark.parametrize("more", [{"peft_type": "LOHA"}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_what_to_do_with_an_adapter_that_is_more_than_lora_is_said(
    folder: Path, more: dict[str, Any]
) -> None:
    assert said_of_adapter(adapter(folder, base_model_name_or_path="t5-base", **more)) == (
        f"folder {str(folder)!r} holds an adapter of 't5-base' that is more than LoRA, or something else: "
        f"merge it and name the result: peft.AutoPeftModelForSeq2SeqLM.from_pretrained({str(folder)!r})"
        ".merge_and_unload().save_pretrained(FOLDER), and save the tokenizer there too"
    )
    assert "AutoPeftModelForCausalLM" in (check_model_source(str(folder), "causal") or "")


def test_adapters_of_adapters_and_of_scorers_are_no_language_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl4lms.model.adapter_folder.peft_problem", lambda: None)
    adapter(folder, base_model_name_or_path=str(folder))
    assert said_of_adapter(folder) == (
        f"folder {str(folder)!r} holds an adapter of {str(folder)!r}, an adapter too: merge that one "
        "first, and name it"
    )
    edit_json(folder / "adapter_config.json", base_model_name_or_path="t5-base", task_type="SEQ_CLS")
    assert said_of_adapter(folder) == (
        f"folder {str(folder)!r} holds the adapter of a model that gives texts numbers, no language model: "
        "name the language model that it was made from"
    )
    (folder / "adapter_config.json").write_text("[")
    assert f"{folder / 'adapter_config.json'} cannot be read: " in (check_model_source(str(folder)) or "")


def test_a_folder_without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ModelSourceError, match=r"has no tokenizer \(tokenizer.json\): write it with .*, or set"
    ):
        load_tokenizer(str(folder))
    (folder / "vocab.txt").write_text("a\nb")  # an encoder's, which T5's class would load as an empty one
    assert "has no tokenizer" in (check_tokenizer_source(str(folder)) or "")
    assert check_tokenizer_source(str(folder), encoder=True) is None


def test_weights_that_are_not_all_there_are_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelSourceError, match=r"lacks \d+ of its weights \(decoder.*not saved from a T5For"):
        load_model(str(folder), "seq2seq", torch.float32, "cpu")


def test_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelSourceError, match=r"the model in folder .* cannot be loaded .*it is damaged"):
        load_model(str(folder), "seq2seq", torch.float32, "cpu")


def test_the_run_folder_named_in_place_of_the_model_inside_it(folder: Path) -> None:
    assert check_model_source(str(folder.parent)) == (
        f"folder {str(folder.parent)!r} holds no model: it has no config.json; did you mean {str(folder)!r}?"
    )


@pytest.mark.parametrize("check", [check_model_source, check_tokenizer_source])
def test_names(check: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(check)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "weights.bin").touch()
    assert check("t5-base") is check("lvwerra/gpt2-imdb") is None
    for missing in ("outputs/run", "./run", "a/b/c", "/nowhere/run"):
        assert check(missing).startswith(f"no such folder: {missing!r}; a model folder holds config.json")
    assert check("weights.bin").startswith("'weights.bin' is a file; name the model's folder")
    assert check("x" * 300) == f"{'x' * 57!r}...: File name too long"
    assert check("~nobody-of-this-name/x").startswith("'~nobody-of-this-name/x': Could not determine home")
    assert check("x/" + "y" * 97).endswith(
        "is neither a folder nor a hub name such as 't5-base' or 'lvwerra/gpt2-imdb'"
    )
    assert check("x/" + "y" * 96) is None
    assert check("t5 base").startswith("'t5 base' is neither a folder nor a hub name such as 't5-base'")


def test_the_hub_out_of_reach() -> None:
    with pytest.raises(ModelSourceError) as error:
        load_tokenizer("t5-base")
    assert str(error.value).startswith(
        "tokenizer 't5-base' is no folder here and could not be read from the hub"
    )
    assert str(error.value).endswith("tokenizer.json) into a folder and name that")
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model(tiny_t5: Path, tiny_gpt2: Path) -> None:
    model = load_model(str(tiny_t5), "seq2seq", torch.float32, "cpu")
    check_vocabulary(model, load_tokenizer(str(tiny_t5)))
    with pytest.raises(ModelSourceError, match=r"has 300 tokens, the model .* set tokenizer.model_name"):
        check_vocabulary(model, load_tokenizer(str(tiny_gpt2)))


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    count = torch.cuda.device_count()
    assert choose_device("auto").type == ("cuda" if count else "cpu")
    with pytest.raises(ModelSourceError, match=f"has {count} CUDA devices; set runtime.device: auto"):
        choose_device(f"cuda:{count}")
    if not torch.backends.mps.is_available():
        with pytest.raises(ModelSourceError, match=r"'mps': this machine has none; set runtime.device: "):
            choose_device("mps")
    for name in ("auto", "cpu", "mps", "cuda", "cuda:7"):
        assert device_problem(name) is None
    for name in ("cuda:1000000000", "gpu", ""):
        expected = f"unknown device {name!r}; expected auto, cpu, mps, cuda or cuda:<number>"
        assert device_problem(name) == expected


def test_checks_import_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, rl4lms.model.source, rl4lms.model.generation_config;"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Payload:
    def __reduce__(self) -> Any:
        return print, ("payload ran",)


def test_weights_that_hold_code_are_refused_in_our_own_words(tiny_gpt2, tmp_path, capsys):
    folder = shutil.copytree(tiny_gpt2, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelSourceError, match=r"cannot be loaded .*not loaded: .*could run code") as refusal:
        load_model(str(folder), "causal", torch.float32, "cpu")
    assert "weights_only" not in str(refusal.value) and "payload ran" not in capsys.readouterr().out

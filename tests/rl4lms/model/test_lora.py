"""Adapters: what they change, their copies on one backbone, and folders that plain peft loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from rl4lms.model.load import load_model, load_tokenizer, save_model_folder
from rl4lms.model.lora import (
    copy_model,
    count_adapter,
    frozen_copy,
    load_trained_state,
    reference_of,
    to_save,
    trained_state,
)
from rl4lms.model.lora_config import LoraSettings, PolicyLora
from rl4lms.model.policy import PolicyModel, checkpoint_activations
from rl4lms.model.source import Kind, ModelSourceError, check_model_source

peft = pytest.importorskip("peft")

KINDS: list[tuple[str, Kind]] = [("tiny_gpt2", "causal"), ("tiny_t5", "seq2seq")]
kinds = pytest.mark.parametrize(("name", "kind"), KINDS, ids=["gpt2", "t5"])


def load(folder: Path, kind: Kind, lora: LoraSettings | None = None, seed: int = 0) -> PreTrainedModel:
    return load_model(str(folder), kind, torch.float32, "cpu", lora, seed)


def trained(model: PreTrainedModel) -> PreTrainedModel:
    """The same, as if its adapter had been trained."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def logits(model: Any) -> Tensor:
    ids = torch.arange(3, 15).view(2, 6)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def save(folder: Path, model: PreTrainedModel, tokenizer: Path) -> Path:
    save_model_folder(folder, model, load_tokenizer(str(tokenizer)))
    return folder


@kinds
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(
    name: str, kind: Kind, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    plain, settings = load(folder, kind), LoraSettings(r=3)
    model = load(folder, kind, settings)
    assert torch.equal(logits(model), logits(plain))
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name for name, _ in weights)
    assert sum(weight.numel() for _, weight in weights) == count_adapter(plain, settings)
    assert not torch.equal(logits(trained(model)), logits(plain))
    again, other = load(folder, kind, settings), load(folder, kind, settings, seed=1)
    states = [trained_state(m) for m in (load(folder, kind, settings), again, other)]
    a = next(name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][a], states[1][a]) and not torch.equal(states[0][a], states[2][a])


@kinds
def test_copies_share_the_backbone_and_nothing_else(
    name: str, kind: Kind, request: pytest.FixtureRequest
) -> None:
    model = load(request.getfixturevalue(name), kind, LoraSettings(r=2))
    copies = [copy_model(model), frozen_copy(model), reference_of(model)]
    addresses = [
        {w.data_ptr() for n, w in m.named_parameters() if "lora_" not in n} for m in (model, *copies)
    ]
    adapters = [{w.data_ptr() for n, w in m.named_parameters() if "lora_" in n} for m in (model, *copies)]
    assert addresses[0] == addresses[1] == addresses[2] == addresses[3]
    assert len(set.union(*adapters)) == 4 * len(adapters[0])
    before = logits(model)
    trained(model)
    assert all(torch.equal(logits(copy), before) for copy in copies)
    assert not any(weight.requires_grad for copy in copies[1:] for weight in copy.parameters())


@kinds
def test_the_reference_is_the_start_policy_bit_for_bit(
    name: str, kind: Kind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of a new adapter the plain model, with it switched off; of an adapter's folder its frozen copy."""
    folder = request.getfixturevalue(name)
    policy = load(folder, kind, LoraSettings(r=2))
    reference = reference_of(policy)
    assert torch.equal(logits(reference), logits(load(folder, kind)))
    assert torch.equal(logits(reference), logits(policy))
    sft = save(tmp_path / "sft", trained(policy), folder)
    policy = load(sft, kind, LoraSettings())
    reference, before = reference_of(policy), logits(policy)
    assert torch.equal(logits(reference), before) and not torch.equal(before, logits(load(folder, kind)))
    trained(policy)
    assert torch.equal(logits(reference), before) and not torch.equal(logits(policy), before)


@kinds
def test_plain_peft_loads_what_is_saved_and_so_do_we(
    name: str, kind: Kind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(name)
    model = trained(load(folder, kind, LoraSettings(r=4, alpha=8, dropout=0.1)))
    saved = save(tmp_path / "saved", model, folder)
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        file.name for file in saved.iterdir()
    }
    assert not (saved / "model.safetensors").exists()
    auto, auto_peft = {
        "causal": (AutoModelForCausalLM, peft.AutoPeftModelForCausalLM),
        "seq2seq": (AutoModelForSeq2SeqLM, peft.AutoPeftModelForSeq2SeqLM),
    }[kind]
    theirs = peft.PeftModel.from_pretrained(auto.from_pretrained(folder), saved).eval()
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-5, atol=1e-5)  # our GELU is fused
    torch.testing.assert_close(logits(auto_peft.from_pretrained(saved)), logits(model), rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(load(saved, kind, LoraSettings())), logits(model))
    merged = load(saved, kind)
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    whole = save(tmp_path / "whole", to_save(model, LoraSettings(merge=True)), folder)
    torch.testing.assert_close(
        logits(auto.from_pretrained(whole).eval()), logits(model), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(logits(load(saved, kind, LoraSettings())), logits(model)), "merging copies"


def test_an_adapter_that_peft_made_is_read(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", use_rslora=True)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_gpt2), config).eval()
    trained(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs", "causal", LoraSettings())
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    saved = save(tmp_path / "again", model, tiny_gpt2)
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_gpt2), saved).eval()
    torch.testing.assert_close(logits(again), logits(theirs), rtol=1e-5, atol=1e-5)


def test_a_base_that_is_named_relatively_is_found_beside_the_adapter(tiny_gpt2: Path, tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", load(tiny_gpt2, "causal", LoraSettings(r=2)), tiny_gpt2)
    (saved / "base").symlink_to(tiny_gpt2)
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_gpt2), "ours is absolute"
    (saved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
    assert torch.equal(logits(load(saved, "causal", LoraSettings())), logits(load(tiny_gpt2, "causal")))


def test_an_adapter_of_another_model_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    from tiny_models import save_tiny_gpt2

    saved = save(tmp_path / "saved", load(tiny_gpt2, "causal", LoraSettings(r=2)), tiny_gpt2)
    wider = save_tiny_gpt2(tmp_path / "wider", n_embd=48)
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(wider)}))
    with pytest.raises(ModelSourceError) as error:
        load(saved, "causal")
    message = f"the adapter in folder {str(saved)!r} does not fit {str(wider)!r}, which it says that it was "
    assert str(error.value).startswith(f"{message}made from: ") and "must be [2, 48]" in str(error.value)


def test_layers_are_chosen_by_name(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2, "causal", LoraSettings(target_modules=["c_attn", "h.1.mlp.c_fc"]))
    layers = {name.partition(".lora_")[0] for name, w in model.named_parameters() if w.requires_grad}
    assert layers == {
        "transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc"
    }  # fmt: skip
    with pytest.raises(ModelSourceError) as error:
        load(tiny_gpt2, "causal", LoraSettings(target_modules=["q_proj"]))
    assert str(error.value) == (
        f"lora.target_modules: model {str(tiny_gpt2)!r} (gpt2) has no linear layer 'q_proj'; it has c_attn, "
        "c_fc, c_proj"
    )


@kinds
def test_a_checkpoint_holds_adapters_and_head_alone(
    name: str, kind: Kind, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    policy = PolicyModel.load(str(folder), kind, lora=PolicyLora(r=2))
    names = set(trained_state(policy))
    assert names == {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert {name.partition(".")[0] for name in names} == {"model", "value_model", "value_head"}
    trained(policy.model)
    state = {name: tensor.clone() for name, tensor in trained_state(policy).items()}
    other = PolicyModel.load(str(folder), kind, seed=3, lora=PolicyLora(r=2))
    load_trained_state(other, state)
    assert torch.equal(logits(other.model), logits(policy.model))
    with pytest.raises(RuntimeError, match=r"of another model or adapter: it has value_model\."):
        shared = PolicyLora(r=2, value_model="shared")
        load_trained_state(PolicyModel.load(str(folder), kind, lora=shared), state)


def test_a_shared_value_model_is_the_policy(tiny_gpt2: Path) -> None:
    policy = PolicyModel.load(str(tiny_gpt2), "causal", lora=PolicyLora(r=2, value_model="shared"))
    assert policy.value_model is policy.model and policy.value_head is not None
    names = {name.partition(".")[0] for name, weight in policy.named_parameters() if weight.requires_grad}
    assert names == {"model", "value_head"}


@kinds
def test_recomputed_activations_give_the_same_gradient(
    name: str, kind: Kind, request: pytest.FixtureRequest
) -> None:
    """The embeddings are frozen: what is recomputed must not be cut off from the loss by that."""
    gradients = []
    for again in (False, True):
        model = trained(load(request.getfixturevalue(name), kind, LoraSettings(r=2)))
        if again:
            checkpoint_activations(model)
        ids = torch.arange(3, 15).view(2, 6)
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([w.grad for w in model.parameters() if w.requires_grad])
    assert all(gradient is not None and gradient.any() for gradient in gradients[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_full_rank_adapters_learn_what_full_finetuning_learns(tiny_gpt2: Path) -> None:
    """50 pairs, the same data, updates and rate; embeddings and norms are frozen in both."""
    from tiny_models import TEXTS

    tokenizer = load_tokenizer(str(tiny_gpt2), padding_side="right")
    batch = tokenizer(TEXTS[:50], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    losses = []
    for lora in (None, LoraSettings(r=128, alpha=128)):
        model = load(tiny_gpt2, "causal", lora)
        for name, weight in model.named_parameters():
            if lora is None:
                weight.requires_grad_(".ln_" not in name and "ln_f" not in name and "wte" not in name
                                      and "wpe" not in name)  # fmt: skip
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = model(**batch, labels=labels).loss
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    full, lora_loss = losses
    assert lora_loss <= 1.1 * full, losses
    assert full < 2.0, "something has been learnt"


def test_an_adapter_folder_is_a_model_of_its_kind(tiny_t5: Path, tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", load(tiny_t5, "seq2seq", LoraSettings(r=2)), tiny_t5)
    assert check_model_source(str(saved), "seq2seq") is None
    assert check_model_source(str(saved), "causal") == (
        f"folder {str(saved)!r} holds an adapter (LoRA) of {str(tiny_t5)!r}, which cannot be used: model "
        f"{str(tiny_t5)!r} (t5) is an encoder-decoder model, the config wants a decoder-only one: set "
        "model_type: seq2seq, or name another model"
    )

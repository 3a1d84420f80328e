"""The golden runs of PPO: fixed weights, prompts and actions, and what the released code makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, T5Config, T5ForConditionalGeneration

from rl4lms.model.policy import PolicyModel, Sequences

FOLDER = Path(__file__).parent / "golden" / "ppo"
GOLDEN = json.loads((FOLDER / "rollout_and_update.json").read_text())
SCENARIOS = {scenario["config"]["scenario"]: scenario for scenario in GOLDEN["scenarios"]}


def models(scenario: dict[str, Any]) -> tuple[PolicyModel, PolicyModel]:
    """Policy with its value model, and the reference, with the weights of the rollout."""
    weights = load_file(FOLDER / f"weights_{scenario['config']['kind']}_rollout.safetensors")
    policy, value, reference = (
        _filled(_bare(scenario), weights, name) for name in ("policy_model", "value_model", "ref_model")
    )
    head = nn.Linear(weights["value_head/weight"].shape[1], 1, bias=False)
    head.load_state_dict({"weight": weights["value_head/weight"]})
    return PolicyModel(policy, value, head), PolicyModel(reference)


def move_to_update(policy: PolicyModel, scenario: dict[str, Any]) -> None:
    """Give policy and value model the weights from before the update; the value head stays."""
    weights = load_file(FOLDER / f"weights_{scenario['config']['kind']}_before_train.safetensors")
    _filled(policy.model, weights, "policy_model")
    assert policy.value_model is not None
    _filled(policy.value_model, weights, "value_model")


def sequences(scenario: dict[str, Any], left: bool) -> Sequences:
    """Prompts and actions of the episodes, prompts padded on the left or on the right."""
    pad = scenario["config"]["pad"]
    prompts = []
    for episode in scenario["episodes"]:
        ids = torch.tensor(episode["prompt_ids_padded_to_max"])
        first = int((ids != pad).nonzero()[0])
        prompts.append(ids[first:])
    actions = [torch.tensor(episode["actions"]) for episode in scenario["episodes"]]
    prompt_ids, prompt_mask = _padded(prompts, "left" if left else "right")
    return Sequences(prompt_ids, prompt_mask, *_padded(actions, "right"))


def per_token(scenario: dict[str, Any], name: str) -> Tensor:
    """A golden value of every generated token, flat."""
    return torch.tensor([value for episode in scenario["episodes"] for value in episode[name]])


def _padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    ones = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    return (
        pad_sequence(rows, batch_first=True, padding_side=side),
        pad_sequence(ones, batch_first=True, padding_side=side),
    )


def _bare(scenario: dict[str, Any]) -> PreTrainedModel:
    config = scenario["model_config"]
    if scenario["config"]["kind"] == "t5":
        names = "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads dropout_rate"
        sizes = {name: config[name] for name in names.split()}
        t5 = T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        return T5ForConditionalGeneration(t5)
    names = "vocab_size n_positions n_embd n_layer n_head activation_function layer_norm_epsilon"
    sizes = {name: config[name] for name in names.split()}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def _filled(model: PreTrainedModel, weights: dict[str, Tensor], owner: str) -> PreTrainedModel:
    own = {name.removeprefix(f"{owner}/"): w for name, w in weights.items() if name.startswith(f"{owner}/")}
    missing, unexpected = model.load_state_dict(own, strict=False)
    tied = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    assert not unexpected and set(missing) <= set(tied), (missing, unexpected)
    model.tie_weights()
    return model.eval()

"""A value model that starts from a reward model (Ouyang et al. 2022, Section 3.5)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rl4lms.model.load import check_vocabulary
from rl4lms.model.lora import add_adapter
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.reward_model import RewardModel
from rl4lms.model.source import Kind, ModelSourceError


def load_value_model(
    name: str,
    kind: Kind,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str = "cpu",
    lora: LoraSettings | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, nn.Linear]:
    """Load the backbone of a reward model, and its head with the reward's normalisation.

    What the head says of the state behind a text that has ended is the text's reward; of the states before,
    it is the value to begin with. name: hub name or folder. tokenizer: the policy's. lora: the backbone
    is frozen and gets an adapter, with `seed`. dtype: of the backbone; the head's is float32.
    Raises ModelSourceError: of another kind, or of other tokens.
    """
    reward = RewardModel.load(name, device, chat_template="none")
    if reward.kind != kind:
        raise ModelSourceError(
            f"reward model {name!r} ({reward.model.config.model_type}) reads texts in its own way: name one "
            "that alg.id: reward_model trained from a language model"
        )
    _check_tokens(reward.tokenizer, tokenizer, name)
    head = nn.Linear(reward.model.score.in_features, 1).to(device)
    with torch.no_grad():
        head.weight.copy_(reward.scale * reward.model.score.weight)
        head.bias.fill_(reward.bias)
    if kind == "seq2seq":
        del reward.model.score
        backbone: PreTrainedModel = reward.model
    else:
        backbone = reward.model.base_model
    check_vocabulary(backbone, tokenizer)
    backbone = backbone.to(dtype)
    if lora is not None:
        add_adapter(backbone, lora, seed)
    return backbone, head


def _check_tokens(
    of_reward_model: PreTrainedTokenizerBase, of_policy: PreTrainedTokenizerBase, name: str
) -> None:
    """Raises ModelSourceError: the policy's tokens have other numbers in the reward model."""
    known = of_reward_model.get_vocab()
    strange = sorted(token for token, number in of_policy.get_vocab().items() if known.get(token) != number)
    if strange:
        raise ModelSourceError(
            f"reward model {name!r} has not the policy's tokens ({len(strange):,} differ, such as "
            f"{strange[0]!r}), so that it cannot read its texts: name one trained from the same tokenizer"
        )

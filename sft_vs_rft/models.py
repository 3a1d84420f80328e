"""The three architectures of the controlled experiments: MLP, ResNet18, BERT-mini (Section 4.2)."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.seeding import isolated_rng
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, TokenizedPairs

BERT_VOCABULARY = 30_522


class BertClassifier(nn.Module):
    """A BERT sequence classifier that reads `TokenizedPairs` and returns logits [B, C]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        self.bert = BertForSequenceClassification(
            BertConfig(
                vocab_size=BERT_VOCABULARY,
                hidden_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=1024,
                num_labels=num_classes,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )

    def forward(self, inputs: TokenizedPairs) -> Tensor:
        """Logits [B, C] of tokenised pairs; positions past an input's length are masked."""
        positions = torch.arange(inputs.input_ids.shape[1], device=inputs.input_ids.device)
        return self.bert(
            input_ids=inputs.input_ids.long(),
            token_type_ids=inputs.token_type_ids.long(),
            attention_mask=(positions < inputs.lengths[:, None]).long(),
        ).logits


class ResNet18(nn.Module):
    """The ImageNet ResNet18 layout: 7x7 stride-2 stem, max pool, basic blocks 2-2-2-2; logits [B, C]."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetForImageClassification

        self.resnet = ResNetForImageClassification(
            ResNetConfig(
                num_channels=channels,
                embedding_size=64,
                hidden_sizes=[64, 128, 256, 512],
                depths=[2, 2, 2, 2],
                layer_type="basic",
                num_labels=num_classes,
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W]; returns logits [B, classes]."""
        return self.resnet(images).logits


def mlp(num_features: int, hidden: Sequence[int], num_classes: int) -> nn.Sequential:
    """Build a flatten layer, then linear layers `layer{i}` with ReLU between them."""
    widths = [num_features, *hidden, num_classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i in range(len(widths) - 1):
        if i > 0:
            layers[f"relu{i - 1}"] = nn.ReLU()
        layers[f"layer{i}"] = nn.Linear(widths[i], widths[i + 1])
    return nn.Sequential(layers)


def build_model(config: ExperimentConfig, data: ControlledData) -> nn.Module:
    """The model of `config` for inputs shaped like `data`'s, initial weights drawn under `init_rnd_seed`.

    Raises ModelError if the inputs do not fit the architecture.
    """
    inputs, classes = data.train_inputs, data.num_classes
    with isolated_rng(config.init_rnd_seed if config.init_rnd_seed >= 0 else secrets.randbelow(2**31)):
        if config.model_type == "bert-mini":
            return BertClassifier(classes)
        assert isinstance(inputs, Tensor)
        if config.model_type == "mlp":
            return mlp(inputs[0].numel(), config.mlp_hidden_layer_sizes, classes)
        if inputs.dim() != 4:
            raise ModelError(
                f"resnet18 needs images [N, channels, height, width], got inputs {list(inputs.shape)}"
            )
        # channels_last: the same numbers within rounding, 1.1 times faster convolutions on CPU.
        return ResNet18(inputs.shape[1], classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ModelError(UserError):
    """A model that does not fit its data or its checkpoint: the user's mistake, said in one line."""


def load_weights(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load `state` into `model`, or say which weights of `source` do not fit.

    Raises ModelError naming the first weights that are missing, unknown or of another shape.
    """
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [
        f"{name} is {list(state[name].shape)}, must be {list(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown] + wrong
    if problems:
        rest = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ModelError(f"{source} does not hold this model's weights: {'; '.join(problems[:3])}{rest}")
    model.load_state_dict(state)

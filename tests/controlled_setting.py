"""Small synthetic experiments for the tests."""

from typing import Any

import torch

from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, TokenizedPairs

C = 4


def make_config(**fields: Any) -> ExperimentConfig:
    """A small finetuning experiment on 64 synthetic inputs; `fields` override."""
    defaults: dict[str, Any] = {
        "dataset": "digits",
        "model_type": "mlp",
        "experiment_name": "test",
        "epochs": 3,
        "batch_size": 24,
        "mlp_hidden_layer_sizes": [16],
        "opt_method": "expected_reinforce",
        "num_labels_per_sample": 2,
        "frac_samples_to_modify_labels": 0.25,
        "lr": 1e-2,
        "random_seed": 3,
        "init_rnd_seed": 5,
        "samples_rnd_seed": 7,
    }
    return ExperimentConfig(**(defaults | fields))


def make_data(kind: str = "vectors", num_train: int = 64, seed: int = 0) -> ControlledData:
    """kind: "vectors" [N, 12], "images" [N, 1, 16, 16], or "text" (ragged token pairs)."""
    generator = torch.Generator().manual_seed(seed)
    n = num_train + 20
    if kind == "vectors":
        inputs: Any = torch.randn(n, 12, generator=generator)
    elif kind == "images":
        inputs = torch.randn(n, 1, 16, 16, generator=generator)
    else:
        lengths = torch.randint(3, 12, (n,), generator=generator)
        ids = torch.randint(5, 100, (n, 12), generator=generator)
        ids[torch.arange(12) >= lengths[:, None]] = 0
        types = (torch.arange(12) >= lengths[:, None] // 2).long().expand(n, 12).clone()
        inputs = TokenizedPairs(ids, types, lengths)
    labels = torch.randint(0, C, (n,), generator=generator)
    modified = torch.rand(num_train, generator=generator) < 0.25
    train, test = torch.arange(num_train), torch.arange(num_train, n)
    sets = torch.stack([torch.arange(C), (torch.arange(C) + 1) % C], 1)
    return ControlledData(inputs[train], labels[train], modified, inputs[test], labels[test], sets, C)

"""The YAML schema of extraction and training.

    config = load_train_config("rl4lms_scripts/training/narrative_qa/t5_ppo.yml", ["runtime.seed=1"])

Imports nothing heavy: `-h`, `--check` and `--list_fields` must not wait for torch.
"""

from rl4lms.config.algorithms import (
    A2cConfig,
    NlpoConfig,
    OnPolicyConfig,
    PpoConfig,
    RewardModelConfig,
    RolloutConfig,
)
from rl4lms.config.extract import ExtractConfig
from rl4lms.config.group import GroupConfig
from rl4lms.config.parts import MetricConfig, OnPolicySizes, TokenizerConfig, unique_metrics
from rl4lms.config.report import (
    check_components,
    check_locally,
    check_report,
    extraction_sizes,
    load_extract_config,
    load_train_config,
    local_problems,
    missing_components,
    resolved,
    training_sizes,
)
from rl4lms.config.supervised import SupervisedConfig
from rl4lms.config.train import TrainConfig

__all__ = [
    "A2cConfig",
    "ExtractConfig",
    "GroupConfig",
    "MetricConfig",
    "NlpoConfig",
    "OnPolicyConfig",
    "OnPolicySizes",
    "PpoConfig",
    "RewardModelConfig",
    "RolloutConfig",
    "SupervisedConfig",
    "TokenizerConfig",
    "TrainConfig",
    "check_components",
    "check_locally",
    "check_report",
    "extraction_sizes",
    "load_extract_config",
    "load_train_config",
    "local_problems",
    "missing_components",
    "resolved",
    "training_sizes",
    "unique_metrics",
]

"""What `--list_fields` shows of the two jobs: the fields of their configs and what components take."""

from __future__ import annotations

from common.field_list import Section, component_section, config_section
from rl4lms.config.extract import ExtractConfig
from rl4lms.config.train import TrainConfig
from rl4lms.datapools import DATAPOOLS
from rl4lms.metrics import METRICS
from rl4lms.rewards import REWARDS

OF_YOUR_OWN = "or package.module:function of your own"


def training_fields(title: str = "") -> list[Section]:
    """Of a training."""
    return [
        config_section(TrainConfig, title),
        component_section(DATAPOOLS, "datapool", f"Datasets, {OF_YOUR_OWN}"),
        component_section(REWARDS, "reward_fn", f"Rewards, {OF_YOUR_OWN}"),
        component_section(METRICS, "train_evaluation.metrics[]", f"Metrics, {OF_YOUR_OWN}"),
    ]


def extraction_fields(title: str = "") -> list[Section]:
    """Of an extraction."""
    return [
        config_section(ExtractConfig, title),
        component_section(DATAPOOLS, "datapool", f"Datasets, {OF_YOUR_OWN}"),
        component_section(METRICS, "evaluation.metrics[]", f"Metrics, {OF_YOUR_OWN}"),
    ]

"""Plans (sweeps) of finetuning and extraction runs, which may start from each other's models.

    loaded = load_plan("rl4lms_scripts/sweeps/laptop.yml", ["repetitions=2"])

Imports nothing heavy: `--check` must not wait for torch.
"""

from rl4lms.plan.load import load_plan
from rl4lms.plan.schema import Configuration, Experiment, LoadedPlan, Plan

__all__ = ["Configuration", "Experiment", "LoadedPlan", "Plan", "load_plan"]

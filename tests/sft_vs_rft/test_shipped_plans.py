"""The shipped plans hold the paper's hyperparameters, field by field."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
PLANS = sorted((REPO / "sft_vs_rft" / "experiment_plans").glob("sft_vs_rft_*.json"))

# The released CIFAR-10 plan lists only "supervised", although both methods were run on it: ours lists both.
CHANGED = ("sft_vs_rft_resnet_cifar_finetune_high_init_reward_experiments_plan.json", "options.opt_method")
RELEASED, OURS = '["supervised"]', '["expected_reinforce", "supervised"]'


def golden_fields() -> dict[str, dict[str, str]]:
    """Plan file name -> dotted field -> value as JSON text, so that 1, 1.0 and true stay apart."""
    fields: dict[str, dict[str, str]] = {}
    with (REPO / "tests" / "golden" / "controlled_hyperparameters.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = Path(row["config"]).name
            fields.setdefault(name, {})[row["field"]] = json.dumps(json.loads(row["value"]))
    return fields


GOLDEN = golden_fields()


def flat_fields(plan: dict[str, Any]) -> dict[str, str]:
    """Fields of a plan under the names that the CSV gives them, values as JSON text."""
    fields: dict[str, Any] = dict(plan)
    for i, gpu in enumerate(fields.pop("gpu_ids_pool", [])):
        fields[f"gpu_ids_pool[{i}]"] = gpu
    (configuration,) = fields.pop("configurations")
    for part, values in configuration.items():
        fields |= {f"{part}.{name}": value for name, value in values.items()}
    return {name: json.dumps(value) for name, value in fields.items()}


def test_all_twelve_plans_are_shipped() -> None:
    assert len(PLANS) == 12
    assert {path.name for path in PLANS} == set(GOLDEN)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plan_holds_the_papers_values_and_no_other_field(path: Path) -> None:
    expected = dict(GOLDEN[path.name])
    plan, field = CHANGED
    if path.name == plan:
        assert expected[field] == RELEASED
        expected[field] = OURS
    assert flat_fields(json.loads(path.read_text())) == expected

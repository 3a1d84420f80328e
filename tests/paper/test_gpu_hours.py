"""GPU hours of the paper's plans."""

import pytest

from paper.gpu_hours import BASIS, experiment_cost, hours_lines, plan_hours
from rl4lms.plan import load_plan

PLANS = [
    f"rl4lms_scripts/sweeps/narrative_qa_{name}.yml" for name in ("comparison", "section_5_1", "section_5_2")
]


@pytest.mark.parametrize("plan", PLANS)
def test_every_experiment_of_the_paper_has_a_cost(plan):
    assert all(experiment_cost(experiment) > 0 for experiment in load_plan(plan).experiments)


def test_a_run_of_ppo_costs_what_its_tokens_cost():
    runs = {run.name: run for run in load_plan(PLANS[2]).experiments}
    hours = experiment_cost(runs["ppo_seed_0"]) / 100e12 / 3600
    assert 1.5 < hours < 1.7  # docs/scaling.md: 560 PFLOP of updates, 5 of rollouts
    short, long = (experiment_cost(runs[f"sft_{steps}_steps_1-0_labels_seed_0"]) for steps in (512, 5120))
    assert 5 < long / short < 10  # both have the same evaluations


def test_the_lines_say_what_they_rest_on():
    lines = hours_lines(PLANS[:1])
    assert lines == [f"{PLANS[0]}: 32 runs, about {plan_hours(PLANS[0]):.0f} GPU hours", BASIS]

"""GPU hours of the paper's plans."""

from pathlib import Path

import pytest

from common.identity import IDENTITY
from common.run_dir import RunDir
from paper.gpu_hours import BASIS, experiment_cost, hours_lines
from rl4lms.plan import load_plan
from rl4lms.plan.runs import make_jobs

PLANS = [f"rl4lms_scripts/sweeps/narrative_qa_{name}.yml" for name in ("comparison", "section_5_1")]
PLANS += ["rl4lms_scripts/sweeps/narrative_qa_section_5_2.yml"]
OTHERS = [str(path) for path in sorted(Path("rl4lms_scripts/sweeps").glob("*_comparison.yml"))]


@pytest.mark.parametrize("plan", PLANS + OTHERS)
def test_every_experiment_of_the_paper_has_a_cost(plan):
    assert all(experiment_cost(experiment) > 0 for experiment in load_plan(plan).experiments)


def test_a_run_of_ppo_costs_what_its_tokens_cost():
    runs = {run.name: run for run in load_plan(PLANS[2]).experiments}
    hours = experiment_cost(runs["ppo_seed_0"]) / 100e12 / 3600
    assert 1.5 < hours < 1.7  # docs/scaling.md: 560 PFLOP of updates, 5 of rollouts
    short, long = (experiment_cost(runs[f"sft_{steps}_steps_1-0_labels_seed_0"]) for steps in (512, 5120))
    assert 5 < long / short < 10  # both have the same evaluations


def test_the_lines_say_what_is_left_and_what_they_rest_on(tmp_path, monkeypatch):
    path = str(Path(PLANS[0]).resolve())
    loaded = load_plan(path)
    hours = sum(map(experiment_cost, loaded.experiments)) / 100e12 / 3600
    assert hours_lines([path]) == [f"{path}: 32 of 32 runs to do, about {hours:.0f} h of a GPU", BASIS]
    first, second, *_ = make_jobs(loaded.plan, loaded.experiments)
    folder = tmp_path / loaded.plan.output_path
    for job, status in ((first, "finished"), (second, "interrupted")):
        with RunDir.create(folder, "run", {}, {IDENTITY: job.identity}) as run:
            run.update_manifest(status=status)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("paper.gpu_hours.load_plan", lambda _: loaded)
    assert hours_lines([path])[0].startswith(f"{path}: 31 of 32 runs to do")

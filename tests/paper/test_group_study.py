"""The comparison of group algorithms that ships: its runs, their budget, what they share with the study."""

import json
from pathlib import Path

import pytest
import yaml
from clones import REPO, link_clone
from paper.scaled_reward import scaled_reward
from pretend_models import pretend

from common.config import ConfigError
from common.run_dir import RunDir
from paper import group_run, text_study
from paper.group_run import any_rates, chosen_rates, stages, study_of_groups
from paper.group_study import budget, group_comparison, group_selection
from paper.study import load_study, selection
from paper.study_run import Done, write_plan
from reproduce_paper import main
from rl4lms.plan import load_plan
from rl4lms.plan.runs import identify, make_jobs
from rl4lms.rewards import build_reward
from rl4lms.text import TextBatch

SCALES = ("laptop", "smoke")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working directory with the files of the repository and no outputs."""
    monkeypatch.chdir(link_clone(tmp_path))
    return tmp_path


def experiments(study, phase, configurations, seeds=1):
    return load_plan(write_plan(study, phase, configurations, seeds, 1))


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_generates_the_budget_of_its_task_with_its_penalty(scale, clone):
    study = study_of_groups(scale)
    pretend(study)
    rates = any_rates(study)
    for phase, (configurations, runs) in {
        "first": group_selection(study),
        "second": group_comparison(study, rates),
    }.items():
        by_name = {run.configuration: run for run in runs}
        assert list(by_name) == [configuration["name"] for configuration in configurations]
        trained = 0
        for experiment in experiments(study, phase, configurations, seeds=2).experiments:
            run, config = by_name[experiment.configuration], experiment.config
            assert config.datapool.args["form"] == study.tasks[run.task].datapool["form"]
            if run.kind == "extraction" or run.method == "short_sft":
                continue
            trained += 1
            assert config.alg.kl_div.coeff == study.tasks[run.task].kl_coeff
            if run.method == "ppo":
                assert config.sizes.tokens * config.train_evaluation.n_iters == budget(study, run.task)
            else:
                assert config.train_evaluation.max_tokens == budget(study, run.task)
                # Not reached: texts of one token each would have to be generated.
                assert config.train_evaluation.n_iters * config.alg.texts >= budget(study, run.task)
                assert config.alg.id == run.method.removesuffix("_scaled").replace("short_sft_", "")
                assert config.alg.args.std_epsilon == 1e-6
            name = "paper.scaled_reward:scaled_reward"
            assert (config.reward_fn.id == name) == run.method.endswith("_scaled")
        assert trained >= 6


def test_where_the_budget_is_that_of_the_study_its_own_runs_are_used(clone):
    study = study_of_groups("laptop")
    pretend(study)

    def keys(phase, configurations):
        loaded = experiments(study, phase, configurations)
        return {job.label: job.key for job in make_jobs(loaded.plan, loaded.experiments)}

    shared = set(keys("study", selection(study)[0]).values())
    of_groups = keys("groups", group_selection(study)[0])
    same = {label.partition("-")[0] for label, key in of_groups.items() if key in shared}
    assert same == {"question", "continuation"}
    assert budget(study, "question") == 35 * 1_024
    assert budget(study, "hard_question") >= 63 * 16 * 8 * study.tasks["hard_question"].max_new_tokens


def test_runs_from_before_lengths_in_tokens_are_found(clone, monkeypatch):
    study = study_of_groups("laptop")
    pretend(study)
    loaded = experiments(study, "x", group_selection(study)[0])
    monkeypatch.setattr("rl4lms.plan.runs.hash_of", lambda data: data)
    hashed = {experiment.name: identify(experiment, None)[1] for experiment in loaded.experiments}
    most = {name: data["train_evaluation"].get("max_tokens", "none") for name, data in hashed.items()}
    assert {most[name] for name in most if "ppo" in name} == {"none"}
    assert {most[name] for name in most if "question-dapo" in name} == {129_024, 35_840}


def test_the_last_algorithms_and_the_scaled_rewards_have_one_seed(clone):
    study = study_of_groups("laptop")
    pretend(study)
    configurations, _ = group_comparison(study, any_rates(study))
    loaded = experiments(study, "x", configurations, seeds=3)
    seeds = {}
    for experiment in loaded.experiments:
        seeds.setdefault(experiment.configuration, []).append(experiment.repetition)
    assert seeds["hard_question-gspo"] == seeds["continuation-rloo-scaled"] == [0]
    assert seeds["hard_question-dapo"] == seeds["question-short-sft-grpo"] == [0, 1, 2]
    (then,) = [e for e in loaded.experiments if e.name.endswith("question-short-sft-grpo_seed_2")]
    assert then.start.configuration == "question-short-sft" and then.start.repetition == 2
    assert then.start.config.datapool.seed == 2


def test_the_better_learning_rate_is_chosen_for_each_task_and_algorithm(tmp_path, clone):
    study = study_of_groups("laptop")
    pretend(study)
    configurations, runs = group_selection(study)
    by_name = {run.configuration: run for run in runs}
    done = []
    for number, experiment in enumerate(experiments(study, "x", configurations).experiments):
        run, folder = by_name[experiment.configuration], tmp_path / f"{number}"
        folder.mkdir()
        for file in ("manifest.json", "config.json"):
            (folder / file).write_text("{}")
        higher = experiment.changes["alg.args.learning_rate"] in (3e-5, 1e-3)  # of PPO's, of the groups' two
        row = {"epoch": 9, "metrics": {study.tasks[run.task].key: 0.1 + 0.1 * higher}}
        (folder / "train_split_metrics.jsonl").write_text(json.dumps(row) + "\n")
        done.append(Done(run, experiment, folder, None, ""))
    rates = chosen_rates(study, done)
    assert rates.keys() == any_rates(study).keys()
    assert {rate for (_, method), rate in rates.items() if method == "ppo"} == {3e-5}
    assert {rate for (_, method), rate in rates.items() if method != "ppo"} == {1e-3}


@pytest.mark.parametrize("scale", SCALES)
def test_stages_count_what_is_left(scale, clone):
    study = study_of_groups(scale)
    pretend(study)
    rows = stages(scale, seeds=2, jobs=1)
    rates = any_rates(study)
    keys = set()
    parts = (
        ("group_selection", group_selection(study)[0], 1),
        ("groups", group_comparison(study, rates)[0], 2),
    )
    jobs = {}
    for phase, configurations, seeds in parts:
        loaded = experiments(study, phase, configurations, seeds)
        made = make_jobs(loaded.plan, loaded.experiments)
        keys |= {job.key for job in made}
        jobs |= {job.label: job for job in made}
    assert sum(stage.runs for stage in rows) == len(keys)
    assert all(stage.minutes > 0 for stage in rows if stage.runs)
    outputs = Path(study.output_path)
    label = f"{study.groups.others_task}-rloo_seed_0"
    with RunDir.create(outputs, label, {}, {"identity": jobs[label].identity}) as run:
        run.update_manifest(status="finished")
    assert sum(stage.runs for stage in stages(scale, seeds=2, jobs=1)) == len(keys) - 1


def test_a_task_that_there_is_not_is_named(tmp_path):
    data = yaml.safe_load((REPO / text_study.STUDIES["laptop"]).read_text())
    data["groups"]["cure_task"] = "questions"
    data["groups"]["tasks"][1] = "other"
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(
        ConfigError, match=r"groups\.cure_task +must be one of cont(.|\n)*groups\.tasks\[1\] +must"
    ):
        load_study(path)


def test_a_scaled_reward_is_the_same_by_less():
    batch = TextBatch(["p"] * 3, ["1 2 3", "", "3 1"], [["x"]] * 3, [{}] * 3)
    inner = {"reward": "increasing_numbers", "reward_args": {"min_tokens": 4}}
    full = build_reward("increasing_numbers", {"min_tokens": 4})(batch)
    scaled = scaled_reward(batch, **inner, scale=0.001)
    assert scaled == pytest.approx([0.5 + 0.001 * (value - 0.5) for value in full], abs=1e-15)
    assert len(set(full)) == 3
    built = build_reward("paper.scaled_reward:scaled_reward", inner | {"scale": 0.001})
    assert built(batch) == scaled


def test_where_it_cannot_be_drawn_is_said(capsys):
    for argv, message in (
        (["--runs", "outputs"], "argument --only: table_groups finds its own runs; leave --runs out"),
        (["--scale", "paper"], "argument --only: table_groups has no plans of the paper's scale"),
    ):
        with pytest.raises(SystemExit):
            main(["--only", "table_groups", *argv])
        assert message in capsys.readouterr().err


def test_it_is_asked_for_by_its_name_alone():
    import argparse

    from paper.reproduce import add_arguments, check_arguments, choose_items

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for argv, expected in (([], False), (["--only", "table_groups"], True)):
        args = parser.parse_args(argv)
        args.overrides = []
        check_arguments(parser, args)
        asked = choose_items(args)
        assert asked.groups == expected and (not asked.study_items) == expected
    assert group_run.ITEM not in text_study.ITEMS

"""What a study runs: its stages, what begins early, which rates it chooses, what the figures are given."""

import json
from pathlib import Path

import pytest
import yaml
from clones import link_clone
from planned_study import RATES, STUDIES, load_phase, plan_study
from pretend_models import pretend

from common.config import ConfigError
from common.run_dir import RunDir
from paper import text_study
from paper.study import StudyRun, load_study
from paper.study_plans import comparison, selection
from paper.study_run import Done, Scope, best_rates, finished, first_jobs, main_part
from paper.text_study import (
    ITEMS,
    MINUTES,
    collect_sources,
    reported_tasks,
    run_minutes,
    scope_of,
    study_for,
)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working directory with the files of the repository and no outputs."""
    monkeypatch.chdir(link_clone(tmp_path))
    return tmp_path


def whole(study):
    return scope_of(study, ITEMS)


# The table of stages


def stage_runs(scale, items, seeds):
    return {stage.name: stage.runs for stage in text_study.stages(scale, items, seeds=seeds, jobs=1)}


@pytest.mark.parametrize("scale", STUDIES)
def test_stages_count_each_run_once(scale, tmp_path, monkeypatch):
    planned = plan_study(tmp_path, scale, seeds=2)
    monkeypatch.chdir(tmp_path)
    assert sum(stage_runs(scale, text_study.ITEMS, 2).values()) == len(planned.keys())


def test_the_laptops_stages(clone):
    """Ten tasks of 23 cases; worked out by hand."""
    study = load_study(STUDIES["laptop"])
    pretend(study)
    assert (len(study.tasks), len(study.cases())) == (10, 23)
    rates = sum(len(start.learning_rates) for start in study.starts.values())
    assert stage_runs("laptop", text_study.ITEMS, 3) == {
        "models": 0,
        # Two cases at the rates of three starts; the two phases of their two tasks.
        "learning rates": 2 * rates + 2 * 2,
        # Of each task the pretrained model twice, SFT and its extraction, of each case RFT and its own.
        "comparison": 10 * 2 + 3 * (2 * 10 + 2 * 23),
        # Test inputs: the pretrained model, full SFT, RFT. Short SFT on both splits. RFT after both phases.
        "short SFT, RFT after SFT": 10 + 3 * (10 + 23 + 10 * 3 + 2 * 10 * 3),
        # Four settings; of six cells five beyond the short SFT, SFT and RFT each, of two tasks.
        "sweeps": 3 * (4 + 5 * 2) + 5 * 2,
    }
    # RFT after SFT is not run: it needs no rate.
    alone = len(study.starts["pretrained"].learning_rates)
    one_seed = stage_runs("laptop", ["figure1", "figure2"], 1)
    assert one_seed == {"models": 0, "learning rates": 2 * alone, "comparison": 10 * 2 + 2 * 10 + 2 * 23}


def test_items_of_the_sweeps_need_no_other_task(clone):
    items = ["table2", "figure4"]
    study = study_for("laptop", items)
    # Learning rates are chosen on `repair` as well, of which nothing is reported.
    assert set(study.tasks) == {"identifier", "keywords", "repair"}
    assert reported_tasks(study, items) == ["identifier", "keywords"]
    whole = study_for("laptop", ["table2", "figure1"])
    assert len(whole.tasks) == 10 and reported_tasks(whole, ["table2", "figure1"]) == list(whole.tasks)
    pretend(study)
    rows = stage_runs("laptop", items, 1)
    cases, tasks = 5 + 2, 2
    assert rows["comparison"] == 2 * tasks + 2 * tasks + 2 * cases
    # Without the table of rewards, the short SFT and full SFT, then RFT are of this stage.
    assert rows["sweeps"] == 4 + 2 * (6 * 2 + 1)
    part = main_part(study, scope_of(study, items), RATES, 1)
    assert {run.task for run in part.runs} == {"identifier", "keywords"}


def test_minutes_go_by_iterations_and_updates():
    study = load_study(STUDIES["laptop"])
    part = comparison(study, RATES) + text_study.after_sft(study, RATES)
    minutes = {"train": 7.0, "test": 5.0, "rft": 0.1, "sft": 3.0}
    taken = {
        run.configuration: run_minutes(study, minutes, configuration, run)
        for configuration, run in zip(part.configurations, part.runs, strict=True)
    }
    assert taken["repair_bleu-rft"] == pytest.approx(30 * 0.1)
    assert taken["repair_bleu-short-rft"] == pytest.approx(20 * 0.1)
    assert taken["repair_bleu-sft-rft"] == pytest.approx(15 * 0.1)
    assert taken["repair-sft"] == 3.0 and taken["repair-short"] == pytest.approx(0.4 * 3)
    assert (taken["repair-short-train-rewards"], taken["repair-short-test-rewards"]) == (7.0, 5.0)
    # Where the study says nothing, the config file does.
    real = load_study(text_study.STUDIES["real"])
    run = StudyRun("x", "category", "rouge", "rft", "training")
    fields = {"config_path": real.configs.rft, "base_config": {}}
    iterations = yaml.safe_load(Path(real.configs.rft).read_text())["train_evaluation"]["n_iters"]
    assert run_minutes(real, MINUTES["real"], fields, run) == pytest.approx(0.3 * iterations)


def test_stages_leave_out_what_is_finished(clone):
    def rows():
        return stage_runs("smoke", ["figure2"], 2)

    study = load_study(STUDIES["smoke"])
    pretend(study)
    fresh = rows()
    outputs = Path(study.output_path)
    assert not outputs.exists()  # nothing is written to count
    jobs = {job.label: job for job in first_jobs(study, whole(study), study.tasks, seeds=2, jobs=1)}
    for path in outputs.iterdir():
        path.unlink()
    done = ["identifier-pretrained-train-1_seed_0", "identifier-sft_seed_1"]
    statuses = dict.fromkeys(done, "finished") | {"identifier-sft_seed_0": "running"}
    for label, status in statuses.items():
        with RunDir.create(outputs, label, {}, {"identity": jobs[label].identity}) as run:
            run.update_manifest(status=status)
    assert rows() == fresh | {"comparison": fresh["comparison"] - 2}
    assert not list(outputs.glob("*.yml"))


def test_a_mistake_in_the_fields_of_a_study_is_found_before_anything_runs(clone):
    study = load_study(STUDIES["smoke"]).model_copy(update={"sft": {"alg.training_args.max_stepz": 3}})
    pretend(study)
    with pytest.raises(ConfigError, match=r"outputs/smoke/.*_main_plan\.yml(.|\n)*did you mean 'max_steps'"):
        finished(study, whole(study), seeds=1, jobs=1)


# What begins before the learning rates are chosen


def test_first_jobs_are_those_of_the_study_whichever_rates_it_chooses(tmp_path, monkeypatch):
    planned = plan_study(tmp_path, "laptop", seeds=2)
    monkeypatch.chdir(tmp_path)
    study, tasks = planned.study, ["identifier", "hard_question", "continuation"]
    first = first_jobs(study, Scope(tasks, True, True), study.tasks, seeds=2, jobs=1)
    labels = {job.label for job in first}
    # The two cases' tasks are tried on, and full SFT is not of `repair`, which is not reported.
    assert {job.key for job in first} >= set(planned.selection.keys)
    sft = {
        label for label in labels if "-sft_seed" in label and "choice" not in label and "rewards" not in label
    }
    assert sft == {f"{task}-sft_seed_{seed}" for task in tasks for seed in (0, 1)}
    assert {job.key for job in first} - set(planned.selection.keys) <= set(planned.main.keys)
    assert not any("-rft" in label for label in labels if not label.startswith("choice"))


def test_a_task_whose_model_is_there_begins_without_the_others(clone):
    """GPT-2 is made before T5, on whose tasks learning rates are chosen."""
    study = load_study(STUDIES["laptop"])
    (clone / "outputs" / "laptop_models").mkdir(parents=True)
    pretend(
        study.model_copy(
            update={"tasks": {"identifier_gpt2": study.tasks["identifier_gpt2"]}, "choice": None}
        )
    )
    first = first_jobs(study, whole(study), ["identifier_gpt2"], seeds=1, jobs=1)
    labels = [job.label for job in first]
    assert labels[0] == "identifier_gpt2-sft_seed_0" and len(labels) == 4
    assert all(label.startswith("identifier_gpt2-") for label in labels)


def test_a_study_without_a_choice_begins_with_sft(clone):
    study = load_study(STUDIES["smoke"])
    pretend(study)
    labels = [job.label for job in first_jobs(study, whole(study), study.tasks, seeds=1, jobs=1)]
    assert labels[:3] == [f"{task}-sft_seed_0" for task in study.tasks]
    assert len(labels) == 3 * (1 + 2 + 1)


# Learning rates


def test_the_rate_of_a_start_has_the_best_mean_over_the_cases_it_was_tried_on(clone):
    study = load_study(STUDIES["laptop"])
    pretend(study)
    phase = load_phase(study, selection(study), 1)
    runs = {run.configuration: run for run in phase.part.runs}
    # By case and rate; the means of 1e-4 are the larger ones from the pretrained model alone.
    rewards = {
        ("rft", "identifier_rouge"): {3e-5: 0.5, 1e-4: 0.4},
        ("rft", "repair_bleu"): {3e-5: 0.1, 1e-4: 0.3},
        ("short_rft", "identifier_rouge"): {3e-5: 0.5, 1e-4: 0.6},
        ("short_rft", "repair_bleu"): {3e-5: 0.5, 1e-4: 0.2},
        ("sft_rft", "identifier_rouge"): {1e-5: 0.2, 3e-5: 0.2},
        ("sft_rft", "repair_bleu"): {1e-5: 0.6, 3e-5: 0.5},
    }
    done = []
    for number, experiment in enumerate(phase.experiments):
        run, folder = runs[experiment.configuration], clone / f"{number}"
        folder.mkdir()
        for file in ("manifest.json", "config.json"):
            (folder / file).write_text("{}")
        if run.reward is not None:
            rate = experiment.changes["alg.args.learning_rate"]
            value = rewards[run.method, f"{run.task}_{run.reward}"].get(rate, 0.1)
            key = study.rewards[run.reward].key
            rows = [{"epoch": 0, "metrics": {key: 0.9}}, {"epoch": 30, "metrics": {key: value, "other": 1.0}}]
            (folder / "train_split_metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done.append(Done(run, experiment, folder, None, ""))
    assert best_rates(study, done) == {"pretrained": 1e-4, "short": 3e-5, "sft": 1e-5}


# What the figures are given


def test_sources_are_of_every_case_that_a_run_is_of(tmp_path):
    planned = plan_study(tmp_path, "smoke", seeds=2)
    study, main = planned.study, planned.main
    runs = {run.configuration: run for run in main.part.runs}
    done = [
        Done(runs[e.configuration], e, Path(f"run {number}"), Path("sft") if e.start else None, "command")
        for number, e in enumerate(main.experiments)
    ]
    sources = collect_sources(study, done)

    def methods(task, kind, split="train"):
        return sorted((s.method, s.seed) for s in sources[kind] if s.task == task and s.split == split)

    after = [("short_rft", 0), ("short_rft", 1), ("sft_rft", 0), ("sft_rft", 1)]
    measured = [(method, seed) for method in ("rft", "sft", "short") for seed in (0, 1)]
    start = [("pretrained", seed) for seed in (0, 0, 1, 1)]
    assert methods("identifier_rouge", "extraction") == sorted(start + measured)
    assert methods("identifier_bleu", "extraction") == sorted(start + measured + after)
    assert methods("identifier_bleu", "extraction", "test") == sorted(start[::2] + measured + after)
    sft = {
        task: {s.path for s in sources["extraction"] if (s.task, s.method) == (task, "sft")}
        for task in ("identifier_bleu", "identifier_rouge")
    }
    assert len(sft["identifier_bleu"]) == 4 and sft["identifier_bleu"] == sft["identifier_rouge"]
    assert {s.method for s in sources["training"]} == {"rft", "short", "short_rft", "sft", "sft_rft"}
    assert all((s.sft is not None) == s.method.endswith("_rft") for s in sources["training"])
    assert {s.data for s in sources["training"]} == set(study.tasks)
    keys = {s.task: s.reward for s in sources["extraction"]}
    assert (
        keys["identifier_bleu"] == "lexical/sacrebleu" and keys["identifier_rouge"] == "lexical/rouge_l_max"
    )

"""The studies that ship: which runs they expand to, from which config files, models and rewards."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from clones import REPO, link_clone
from pretend_models import pretend

from common.config import ConfigError
from common.run_dir import RunDir, RunError, find_runs
from paper import text_study
from paper.study import after_sft, comparison, load_study, models_needed, select_tasks, selection, sweeps
from paper.study_run import StudyError, finished, first_jobs, write_plan
from paper.text_study import make_models, models_missing, study_for
from rl4lms.model.source import check_model_source
from rl4lms.plan import load_plan
from rl4lms.plan.runs import make_jobs

# That of a fetched model: test_real_scale.py.
STUDIES = {scale: REPO / path for scale, path in text_study.STUDIES.items() if scale != "real"}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working directory with the files of the repository and no outputs."""
    monkeypatch.chdir(link_clone(tmp_path))
    return tmp_path


def both(*phases):
    """One plan of several phases, the later of which start from the earlier ones."""
    return tuple([one for phase in phases for one in phase[i]] for i in (0, 1))


def phases(study):
    rates = dict.fromkeys(study.tasks, 1e-4)
    return {
        "selection": selection(study),
        "comparison": both(comparison(study, rates), after_sft(study, rates)),
        "sweeps": sweeps(study, rates),
    }


@pytest.mark.parametrize("scale", STUDIES)
def test_every_phase_of_a_shipped_study_is_a_valid_plan(scale, clone):
    study = load_study(STUDIES[scale])
    pretend(study)
    for phase, (configurations, runs) in phases(study).items():
        names = [configuration["name"] for configuration in configurations]
        assert names == [run.configuration for run in runs] and len(set(names)) == len(names)
        loaded = load_plan(write_plan(study, phase, configurations, seeds=2, jobs=1))
        of_configuration = {run.configuration: run for run in runs}
        for experiment in loaded.experiments:
            task = study.tasks[of_configuration[experiment.configuration].task]
            assert experiment.config.datapool.args["form"] == task.datapool["form"]
        if phase == "sweeps":
            assert {experiment.repetition for experiment in loaded.experiments} == {0}


def test_all_rows_of_the_sweeps_are_evaluated_with_one_sampling(clone):
    """The temperature of rollouts is swept; that of the texts that are compared is 1 in all rows."""
    study = load_study(STUDIES["laptop"])
    pretend(study)
    rates = dict.fromkeys(study.tasks, 3e-5)
    task = study.sweep.task
    configurations, runs = both(comparison(study, rates), after_sft(study, rates), sweeps(study, rates))
    names = {run.configuration for run in runs if run.task == task and run.kind == "training"}
    experiments = load_plan(write_plan(study, "all", configurations, 1, 1)).experiments
    compared = [e.config for e in experiments if e.configuration in names]
    assert len(compared) > 15
    assert {c.alg.generation_kwargs.temperature for c in compared} == {1.0, 1.5}
    settings = [c.evaluation_settings(split) for c in compared for split in ("train", "val", "test")]
    assert settings.count(settings[0]) == len(settings) and settings[0].temperature == 1.0


def test_full_sft_and_what_follows_are_the_same_runs_in_sweeps_and_comparison(clone):
    study = load_study(STUDIES["smoke"])
    pretend(study)
    rates = dict.fromkeys(study.tasks, 1e-4)
    whole = both(comparison(study, rates), after_sft(study, rates), sweeps(study, rates))
    loaded = load_plan(write_plan(study, "x", whole[0], seeds=1, jobs=1))
    keys = {job.label: job.key for job in make_jobs(loaded.plan, loaded.experiments)}
    assert keys["question-sft_seed_0"] == keys["question-sft-1-1_seed_0"]
    rft = ("question-sft_question-sft-rft_seed_0", "question-sft-1-1_question-sft-1-1-rft_seed_0")
    assert keys[rft[0]] == keys[rft[1]]
    assert len(keys) - len(set(keys.values())) == 2


def test_first_jobs_are_those_of_the_study_whichever_rates_it_chooses(clone):
    study = load_study(STUDIES["smoke"])
    pretend(study)
    first = {job.key for job in first_jobs(study, seeds=2, jobs=1)}
    rates = dict.fromkeys(study.tasks, 1.0)  # none of those that are tried

    def keys(phase, configurations, seeds):
        loaded = load_plan(write_plan(study, phase, configurations, seeds, 1))
        return {job.key: job.label for job in make_jobs(loaded.plan, loaded.experiments)}

    tried, main = keys("x", selection(study)[0], 1), keys("y", comparison(study, rates)[0], 2)
    assert first == tried.keys() | {key for key, label in main.items() if "-rft" not in label}
    assert sum("sft" in main[key] for key in first - tried.keys()) == 2 * 2 * len(study.tasks)


def test_stages_leave_out_what_is_finished(clone):
    def rows():
        return {stage.name: stage.runs for stage in text_study.stages("smoke", ["figure2"], seeds=2, jobs=1)}

    study = load_study(STUDIES["smoke"])
    pretend(study)
    fresh = rows()
    outputs = Path(study.output_path)
    assert not outputs.exists()  # nothing is written to count
    jobs = {job.label: job for job in first_jobs(study, seeds=2, jobs=1)}
    for path in outputs.iterdir():
        path.unlink()
    done = ["question-rft-0_001_seed_0", "question-pretrained-1_seed_0", "question-sft_seed_1"]
    statuses = dict.fromkeys(done, "finished") | {"question-sft_seed_0": "running"}
    for label, status in statuses.items():
        with RunDir.create(outputs, label, {}, {"identity": jobs[label].identity}) as run:
            run.update_manifest(status=status)
    left = {"models": 0, "learning rates": fresh["learning rates"] - 1, "comparison": fresh["comparison"] - 2}
    assert rows() == left
    assert not list(outputs.glob("*.yml"))


@pytest.mark.parametrize("scale", STUDIES)
def test_stages_count_each_run_once(scale, clone):
    study = load_study(STUDIES[scale])
    pretend(study)
    rows = text_study.stages(scale, text_study.ITEMS, seeds=2, jobs=1)
    rates = text_study.any_rates(study)
    keys = set()
    whole = both(comparison(study, rates), after_sft(study, rates), sweeps(study, rates))
    for phase, configurations, seeds in (("x", selection(study)[0], 1), ("y", whole[0], 2)):
        loaded = load_plan(write_plan(study, phase, configurations, seeds=seeds, jobs=1))
        keys |= {job.key for job in make_jobs(loaded.plan, loaded.experiments)}
    assert sum(stage.runs for stage in rows) == len(keys)


def test_a_mistake_in_the_fields_of_a_study_is_found_before_anything_runs(clone):
    study = load_study(STUDIES["smoke"]).model_copy(update={"sft": {"alg.training_args.max_stepz": 3}})
    pretend(study)
    with pytest.raises(ConfigError, match=r"outputs/smoke/.*_main_plan\.yml(.|\n)*did you mean 'max_steps'"):
        finished(study, seeds=1, jobs=1, with_rewards=False, with_sweeps=False)


def test_after_sft_every_model_is_measured_on_test_and_the_last_one_on_train(clone):
    study = load_study(STUDIES["smoke"])
    pretend(study)
    rates = dict.fromkeys(study.tasks, 1e-4)
    configurations, runs = both(comparison(study, rates), after_sft(study, rates))
    loaded = load_plan(write_plan(study, "both", configurations, seeds=2, jobs=1))
    of_configuration = {run.configuration: run for run in runs}
    found = {}
    for experiment in loaded.experiments:
        run = of_configuration[experiment.configuration]
        if run.kind == "extraction" and run.task == "question":
            assert experiment.config.datapool.split == run.split
            start = experiment.start and experiment.start.name
            found.setdefault((run.method, run.split, run.sample), []).append(start)
    starts = {"pretrained": [None], "rft": ["question-rft"], "sft": ["question-sft"]}
    starts["sft_rft"] = ["question-sft_question-sft-rft"]
    for (method, *_), of_method in found.items():
        names = [name and name.rpartition("_seed_")[0] for name in of_method]
        assert names == starts[method] * (1 if method == "pretrained" else 2)
    splits = [(split, sample) for _, split, sample in found]
    assert splits.count(("test", 1)) == 4 and splits.count(("train", 1)) == 4


@pytest.mark.parametrize("scale", STUDIES)
def test_models_are_missing_until_they_are_made(scale, clone):
    study = load_study(STUDIES[scale])
    assert len(models_missing(study)) == len(study.models)
    pretend(study)
    assert models_missing(study) == {}


@pytest.mark.parametrize("scale", STUDIES)
def test_a_learned_reward_is_of_the_text_alone_and_reaches_every_run(scale, clone):
    study = load_study(STUDIES[scale])
    pretend(study)
    (task,) = [task for task in study.tasks.values() if task.reward.id == "learned_reward"]
    only = select_tasks(study, ["continuation"])
    args = {"model_name": f"{study.models_path}/style_classifier", "label_ix": 1,
            "include_prompt_for_eval": False}  # fmt: skip
    if scale == "smoke":
        args["model_name"] = task.reward.args["model_name"]
    configurations, _ = comparison(only, {"continuation": 1e-4})
    for experiment in load_plan(write_plan(only, "x", configurations, 1, 1)).experiments:
        config = experiment.config
        extraction = hasattr(config, "evaluation")
        (metric,) = (config.evaluation if extraction else config.train_evaluation).metrics
        found = [
            metric.args,
            *([config.reward_fn.args] if hasattr(config, "reward_fn") and config.reward_fn else []),
        ]
        for one in found:
            assert {name: dict(one)[name] for name in args} == args
        assert config.tokenizer.padding_side == "left"
    assert 0.05 <= task.kl_coeff <= 0.1


def test_only_the_models_that_tasks_use_are_needed():
    study = load_study(STUDIES["laptop"])

    def names(*tasks):
        return sorted(path.name for path in models_needed(select_tasks(study, tasks)))

    assert names("hard_question", "summary") == ["t5"]
    assert names("continuation") == ["gpt2", "style_classifier"]
    assert names(*study.tasks) == ["gpt2", "style_classifier", "t5"]


def test_items_of_one_task_need_no_other():
    assert list(study_for("laptop", ["table2", "figure4"]).tasks) == ["question"]
    whole = study_for("laptop", ["table2", "figure1"])
    assert len(whole.tasks) >= 9 and whole.sweep is not None
    assert select_tasks(whole, ["summary"]).sweep is None


def test_a_task_names_its_own_config_files_and_model(tmp_path):
    data = yaml.safe_load(STUDIES["laptop"].read_text())
    data["tasks"] = {name: data["tasks"][name] for name in ("question", "continuation")}
    del data["groups"]  # of another task
    data["tasks"]["question"]["model"] = "mine/t5"
    data["groups"] = None  # of other tasks
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(data))
    study = load_study(path)
    assert sorted(models_needed(study)) == [
        Path("outputs/laptop_models/gpt2"),
        Path("outputs/laptop_models/style_classifier"),
    ]
    for configurations, runs in phases(study).values():
        for configuration, run in zip(configurations, runs, strict=True):
            prefix = "gpt2_continuation" if run.task == "continuation" else "t5_hard_question"
            assert Path(configuration["config_path"]).name.startswith(prefix)
            fields = configuration["base_config"]
            starts = {name: fields[name] for name in fields if name.endswith("model_name")}
            if run.task == "continuation":
                assert starts == {}
                continue
            assert starts.pop("tokenizer.model_name") == "mine/t5"
            on_policy = run.kind == "training" and run.method != "sft"
            field = "alg.policy.args.model_name" if on_policy else "alg.model_name"
            assert starts == ({} if configuration.get("model_from") else {field: "mine/t5"})


# Models


@pytest.fixture
def tiny(clone):
    """A study of one task with a tiny classifier, and the config of that model."""
    config = {
        "name": "tiny",
        "model_type": "classifier",
        "data": {"packages": ["argparse", "email", "logging"], "max_length": 24,
                 "classes": {"mail": ["email"], "other": ["argparse", "logging"]}},
        "vocabulary": {"size": 300},
        "model": {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 1},
        "alg": {"steps": 4, "batch_size": 4},
    }  # fmt: skip
    (clone / "tiny.yml").write_text(yaml.safe_dump(config))
    study = select_tasks(load_study(STUDIES["laptop"]), ["question"])
    task = study.tasks["question"].model_copy(update={"model": "models/tiny"})
    return study.model_copy(
        update={"models": ["tiny.yml"], "models_path": "models", "tasks": {"question": task}}
    )


def test_models_are_made_once(tiny):
    make_models(tiny, jobs=1)
    assert check_model_source("models/tiny") is None
    (run,) = find_runs(Path("models"))
    assert run.manifest["status"] == "finished" and run.manifest["threads"] == 1
    make_models(tiny, jobs=1)
    assert len(find_runs(Path("models"))) == 1


def test_what_needs_a_model_begins_when_it_is_there(tiny):
    """The other task, whose model is made elsewhere, does not wait."""
    here = tiny.tasks["question"].model_copy(update={"model": "models/there"})
    tasks = {**tiny.tasks, "summary": here}
    begun = []

    def then(part):
        begun.append((list(part.tasks), Path("models/tiny").exists()))
        return []

    make_models(tiny.model_copy(update={"tasks": tasks}), jobs=1, then=then)
    assert begun == [(["summary"], False), (["question"], True)]
    make_models(tiny, jobs=1, then=then)
    assert len(begun) == 2


def test_a_cut_model_is_gone_on_with_and_a_finished_one_is_found(tiny):
    from common.run_dir import RunDir
    from paper.small_models.config import load_pretrain_config
    from paper.small_models.jobs import manifest

    config = load_pretrain_config("tiny.yml")
    with RunDir.create(Path("models"), "tiny", config.model_dump(), manifest(config)) as run:
        run.update_manifest(status="interrupted")
    make_models(tiny, jobs=1)
    assert [found.path.name for found in find_runs(Path("models"))] == [run.path.name]
    os.unlink("models/tiny")  # as if it had been killed before its model was published
    make_models(tiny, jobs=1)
    assert check_model_source("models/tiny") is None
    assert len(find_runs(Path("models"))) == 1


def test_what_goes_wrong_with_a_model_is_told(tiny):
    Path("models/tiny").mkdir(parents=True)
    with pytest.raises(RunError, match="models/tiny is in the way"):
        make_models(tiny, jobs=1)
    shutil.rmtree("models")
    text = Path("tiny.yml").read_text()
    Path("tiny.yml").write_text(text.replace("learning_rate: 0.02", "").replace("steps: 4", "steps: 0"))
    with pytest.raises(ConfigError, match=r"alg\.steps"):
        make_models(tiny, jobs=1)
    Path("tiny.yml").write_text(text.replace("steps: 4", "steps: 4\n  learning_rate: 1.0e+38"))
    with pytest.raises(StudyError, match="not made: models/tiny"):
        make_models(tiny, jobs=1)

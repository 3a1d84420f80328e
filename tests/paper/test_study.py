"""The studies that ship: which runs they expand to, from which config files, models and rewards."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from planned_study import RATES, STUDIES, Planned, plan_study

from paper.study import load_study
from paper.study_plans import comparison, sweeps
from rl4lms.config import OnPolicyConfig
from rl4lms.extract import subsample_indices


@pytest.fixture(scope="module", params=STUDIES)
def planned(request, tmp_path_factory) -> Planned:
    """Each study with two seeds."""
    return plan_study(tmp_path_factory.mktemp("clone"), request.param, seeds=2)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> Planned:
    return plan_study(tmp_path_factory.mktemp("clone"), "laptop", seeds=2)


def test_every_run_is_of_its_task_and_its_rewards(planned):
    study, phases = planned.study, [planned.main, *([planned.selection] if planned.selection else [])]
    for phase in phases:
        names = [configuration["name"] for configuration in phase.part.configurations]
        assert names == [run.configuration for run in phase.part.runs] and len(set(names)) == len(names)
        runs = {run.configuration: run for run in phase.part.runs}
        for experiment in phase.experiments:
            run, config = runs[experiment.configuration], experiment.config
            task = study.tasks[run.task]
            assert config.datapool.args["form"] == task.datapool["form"]
            evaluation = config.evaluation if run.kind == "extraction" else config.train_evaluation
            rewards = task.rewards if run.reward is None else [run.reward]
            metrics = [(metric.id, dict(metric.args)) for metric in evaluation.metrics]
            expected = [study.rewards[reward].metric for reward in rewards]
            assert [name for name, _ in metrics] == [metric.id for metric in expected]
            for (_, args), metric in zip(metrics, expected, strict=True):
                assert args.items() >= dict(metric.args).items()
            if run.kind == "training" and isinstance(config.alg, OnPolicyConfig):
                assert config.reward_fn.id == study.rewards[rewards[0]].reward.id
                assert config.alg.kl_div.coeff == task.kl_coeff


def test_cases_of_one_task_share_inputs_sft_and_the_pretrained_models_statistics(laptop):
    task = laptop.study.tasks["identifier"]
    assert len(task.rewards) == 5
    trainings = laptop.main.chosen(lambda run: run.task == "identifier" and run.kind == "training")
    rft = [e for e in trainings if e.configuration in {f"identifier_{name}-rft" for name in task.rewards}]
    assert len(rft) == 5 * 2
    assert len({e.config.datapool.model_dump_json() for e in rft}) == 1
    assert {e.config.alg.policy.args.model_name for e in rft} == {"outputs/laptop_models/t5"}
    # Of SFT there is one run a seed, and one extraction of its model, by all rewards.
    full = [e for e in trainings if e.configuration == "identifier-sft"]
    assert [e.repetition for e in full] == [0, 1]
    for method, repetitions in (("sft", 2), ("pretrained", 1)):
        measured = laptop.main.chosen(
            lambda run, method=method: run.task == "identifier" and run.method == method
            and run.kind == "extraction" and (run.split, run.sample) == ("train", 1)
        )  # fmt: skip
        assert len(measured) == repetitions
        for experiment in measured:
            assert len(experiment.config.evaluation.metrics) == 5
    # Of RFT each measures its own.
    by_bleu = laptop.main.named("identifier_bleu-rft-train-rewards")
    assert [metric.id for metric in by_bleu.config.evaluation.metrics] == ["sacre_bleu"]
    assert by_bleu.start is not None and by_bleu.start.configuration == "identifier_bleu-rft"


def test_each_start_has_its_own_rate_and_budget(laptop):
    starts = laptop.study.starts
    iterations = {start: config.fields["train_evaluation.n_iters"] for start, config in starts.items()}
    assert iterations == {"pretrained": 30, "short": 20, "sft": 15}
    for method, start in (("rft", "pretrained"), ("short_rft", "short"), ("sft_rft", "sft")):
        begun = laptop.main.chosen(
            lambda run, method=method: run.method == method and run.kind == "training"
            and ("-rft-" not in run.configuration)
        )  # fmt: skip
        assert {e.config.alg.args.learning_rate for e in begun} == {RATES[start]}
        assert {e.config.train_evaluation.n_iters for e in begun} == {iterations[start]}
        assert {run.task for run in laptop.main.part.runs if run.method == method} == set(laptop.study.tasks)
        assert all((e.start is None) == (start == "pretrained") for e in begun)


def test_rft_after_sft_begins_with_the_model_of_its_seed(laptop):
    then = laptop.main.chosen(lambda run: run.method == "short_rft" and run.kind == "training")
    short = [e for e in then if e.configuration == "repair_bleu-short-rft"]
    assert [e.start.configuration for e in short] == ["repair-short"] * 2
    assert [e.start.repetition for e in short] == [e.repetition for e in short] == [0, 1]
    # Other seeds see other labels.
    assert [e.start.config.datapool.seed for e in short] == [0, 1]


def test_short_sft_is_a_cell_of_the_sweep_and_one_run(planned):
    study, main = planned.study, planned.main
    (sweep, *_), short = study.sweeps, study.short_sft
    cell = f"{sweep.task}-sft-{short.labels:g}-{short.steps:g}".replace(".", "_")
    case = study.first_case(sweep.task)
    assert len(main.keys_of(cell)) == planned.seeds
    assert main.keys_of(cell) == main.keys_of(f"{sweep.task}-short")
    assert main.keys_of(f"{cell}-{case.reward}-rft") == main.keys_of(f"{case.name}-short-rft")
    full = f"{sweep.task}-sft-1-1"
    assert main.keys_of(full) == main.keys_of(f"{sweep.task}-sft")
    assert main.keys_of(f"{full}-{case.reward}-rft") == main.keys_of(f"{case.name}-sft-rft")
    (experiment,) = {e.config.datapool.train_fraction for e in main.chosen(lambda run: run.method == "short")
                     if e.configuration == cell}  # fmt: skip
    assert experiment == short.labels
    steps = main.named(cell).config.alg.training_args["max_steps"]
    assert steps == round(short.steps * study.sft_steps)


def test_figure4_has_the_full_sft_that_its_cells_are_measured_by():
    """The laptop's grid is of 1% to 100% of the labels and at most 40% of the steps."""
    study = load_study(STUDIES["laptop"])
    assert all(1.0 not in sweep.steps for sweep in study.sweeps)
    names = {run.configuration for run in sweeps(study, RATES, 3).runs}
    assert {"identifier-sft-1-1", "identifier-sft-1-1-bleu-rft", "keywords-sft-1-1-bleu-rft"} <= names


def test_the_second_sweep_has_its_own_number_of_seeds(laptop):
    assert [sweep.seeds for sweep in laptop.study.sweeps] == [None, 1]
    for seeds, expected in ((1, {1}), (3, {1, 3})):
        part = sweeps(laptop.study, RATES, seeds)
        times = Counter({run.task: configuration["repetitions"] for configuration, run in
                         zip(part.configurations, part.runs, strict=True)})  # fmt: skip
        assert times == {"identifier": seeds, "keywords": 1} and set(times.values()) == expected
    assert len(laptop.main.keys_of("keywords-sft-0_01-0_1")) == 1
    assert len(laptop.main.keys_of("identifier-sft-0_01-0_1")) == 2


def test_learning_rates_are_chosen_on_the_cases_and_the_seed_of_choice(laptop):
    study, tried = laptop.study, laptop.selection
    assert tried is not None and study.choice.seed not in range(10)
    assert {e.config.runtime.seed for e in tried.experiments} == {study.choice.seed}
    rates: dict[tuple[str, str], list[float]] = {}
    for run, configuration in zip(tried.part.runs, tried.part.configurations, strict=True):
        if run.method in ("rft", "short_rft", "sft_rft"):
            rate = configuration["base_config"]["alg.args.learning_rate"]
            rates.setdefault((f"{run.task}_{run.reward}", run.method), []).append(rate)
    starts = {"rft": "pretrained", "short_rft": "short", "sft_rft": "sft"}
    assert rates == {
        (case, method): study.starts[start].learning_rates
        for case in study.choice.cases
        for method, start in starts.items()
    }
    # The phases before are the same as those of the study at another seed.
    for phase in ("short", "sft"):
        (chosen,) = {e.config.alg.model_dump_json() for e in tried.experiments
                     if e.configuration == f"choice-repair-{phase}"}  # fmt: skip
        assert chosen == laptop.main.named(f"repair-{phase}").config.alg.model_dump_json()


def test_a_study_of_one_rate_chooses_none(tmp_path):
    planned = plan_study(tmp_path, "smoke", seeds=1)
    assert planned.selection is None


def test_the_same_random_500_are_measured_and_all_are_trained_on(laptop):
    measured = laptop.main.chosen(
        lambda run: run.kind == "extraction" and run.split == "train" and run.task == "identifier"
    )
    chosen = {(e.config.datapool.train_samples, e.config.datapool.seed) for e in measured}
    # Other seeds of the generations, the same inputs.
    assert len(measured) == 20 and len({e.config.runtime.seed for e in measured}) > 1
    ((number, seed),) = chosen
    assert number == 500
    indices = subsample_indices(2000, n=number, seed=seed)
    assert indices == subsample_indices(2000, n=number, seed=seed)
    assert len(set(indices)) == 500 and 200 < sum(index >= 1000 for index in indices) < 300
    for experiment in laptop.main.chosen(lambda run: run.kind == "training" and run.task == "identifier"):
        config = experiment.config
        assert config.datapool.args["num_train"] == 2000
        assert config.train_evaluation.max_eval_samples == 500
        if experiment.configuration in ("identifier-sft", "identifier_bleu-rft"):
            assert config.datapool.train_fraction in (None, 1.0)


def test_of_test_inputs_all_are_measured(planned):
    tests = planned.main.chosen(lambda run: run.kind == "extraction" and run.split == "test")
    assert {e.config.datapool.train_samples for e in tests} == {None}
    assert {e.config.datapool.split for e in tests} == {"test"}


def test_all_rows_of_the_sweeps_are_evaluated_with_one_sampling(laptop):
    """The temperature of rollouts is swept; that of the texts that are compared is 1 in all rows."""
    trainings = laptop.main.chosen(lambda run: run.task == "identifier" and run.kind == "training")
    compared = [e.config for e in trainings]
    assert len(compared) > 30
    assert {c.alg.generation_kwargs.temperature for c in compared} == {1.0, 1.5}
    settings = [c.evaluation_settings(split) for c in compared for split in ("train", "val", "test")]
    assert settings.count(settings[0]) == len(settings) and settings[0].temperature == 1.0


def test_a_learned_reward_is_of_the_text_alone_and_reaches_every_run(planned):
    study = planned.study
    args = {"label_ix": 1, "include_prompt_for_eval": False}
    args["model_name"] = study.rewards["style"].reward.args["model_name"]
    runs = planned.main.chosen(lambda run: run.task == "continuation" and run.reward in (None, "style"))
    rewarded = 0
    for experiment in runs:
        config = experiment.config
        evaluation = config.evaluation if hasattr(config, "evaluation") else config.train_evaluation
        used = [metric.args for metric in evaluation.metrics if metric.id == "learned_reward"]
        if getattr(config, "reward_fn", None):
            used.append(config.reward_fn.args)
            rewarded += 1
        assert used and all({name: dict(each)[name] for name in args} == args for each in used)
        assert config.tokenizer.padding_side == "left"
    assert rewarded >= 2
    assert 0.05 <= study.tasks["continuation"].kl_coeff <= 0.1


def test_a_task_names_its_own_config_files_and_model(tmp_path):
    data = yaml.safe_load(STUDIES["laptop"].read_text())
    data["tasks"] = {name: data["tasks"][name] for name in ("identifier", "continuation")}
    data["choice"]["cases"], data["sweeps"], data["groups"] = ["identifier_bleu"], [data["sweeps"][0]], None
    data["tasks"]["identifier"]["model"] = "mine/t5"
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(data))
    study = load_study(path)
    part = comparison(study, RATES) + sweeps(study, RATES, 1)
    for configuration, run in zip(part.configurations, part.runs, strict=True):
        prefix = "gpt2_continuation" if run.task == "continuation" else "t5_hard_question"
        assert Path(configuration["config_path"]).name.startswith(prefix)
        fields = configuration["base_config"]
        starts = {name: fields[name] for name in fields if name.endswith("model_name")}
        if run.task == "continuation":
            assert starts == {}
            continue
        assert starts.pop("tokenizer.model_name") == "mine/t5"
        on_policy = run.kind == "training" and run.method not in ("short", "sft")
        field = "alg.policy.args.model_name" if on_policy else "alg.model_name"
        assert starts == ({} if configuration.get("model_from") else {field: "mine/t5"})

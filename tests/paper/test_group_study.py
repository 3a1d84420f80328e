"""The comparison of group algorithms that ships: its runs, their budget, what they share with the study."""

import argparse
import json
from collections import Counter
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from clones import REPO, link_clone
from planned_study import Phase, load_phase
from pretend_models import pretend

from common.config import ConfigError
from common.run_dir import RunDir
from paper import group_run, text_study
from paper.group_run import any_rates, chosen_rates, group_sources, stages, study_of_groups
from paper.group_study import budget, group_comparison, group_selection
from paper.reproduce import add_arguments, check_arguments, choose_items
from paper.study import StudyConfig, load_study
from paper.study_plans import selection
from paper.study_run import Done
from reproduce_paper import main
from rl4lms.plan.runs import identify

SCALES = ("laptop", "smoke")


@dataclass
class Groups:
    """The comparison of a scale, its plans loaded; those of the comparison with `seeds`."""

    folder: Path
    study: StudyConfig
    selection: Phase | None
    comparison: Phase
    seeds: int

    def cases(self) -> dict[str, str]:
        """Configuration of a training -> its case."""
        phases = [self.comparison, *([self.selection] if self.selection else [])]
        runs = [run for phase in phases for run in phase.part.runs if run.reward is not None]
        return {run.configuration: f"{run.task}_{run.reward}" for run in runs if run.kind == "training"}


def plan_groups(folder, scale, seeds):
    with chdir(link_clone(folder)):
        study = study_of_groups(scale)
        pretend(study)
        tried = group_selection(study)
        first = load_phase(study, tried, 1) if tried.runs else None
        part = group_comparison(study, any_rates(study))
        return Groups(folder, study, first, load_phase(study, part, seeds), seeds)


@pytest.fixture(scope="module", params=SCALES)
def groups(request, tmp_path_factory):
    return plan_groups(tmp_path_factory.mktemp("clone"), request.param, seeds=2)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    return plan_groups(tmp_path_factory.mktemp("clone"), "laptop", seeds=3)


def test_every_run_generates_the_budget_of_its_case_with_its_penalty(groups):
    study, cases = groups.study, groups.cases()
    for phase in filter(None, (groups.selection, groups.comparison)):
        runs = {run.configuration: run for run in phase.part.runs}
        assert list(runs) == [configuration["name"] for configuration in phase.part.configurations]
        trained = 0
        for experiment in phase.experiments:
            run, config = runs[experiment.configuration], experiment.config
            assert config.datapool.args["form"] == study.tasks[run.task].datapool["form"]
            if run.kind == "extraction" or run.method == "short":
                continue
            trained += 1
            tokens = budget(study, study.case(cases[run.configuration]))
            assert config.alg.kl_div.coeff == study.tasks[run.task].kl_coeff
            if run.method == "ppo":
                assert config.sizes.tokens * config.train_evaluation.n_iters == tokens
            else:
                assert config.train_evaluation.max_tokens == tokens
                # Not reached: texts of one token each would have to be generated.
                assert config.train_evaluation.n_iters * config.alg.texts >= tokens
                assert config.alg.id == run.method.removesuffix("_scaled").removeprefix("short_")
                assert config.alg.args.std_epsilon == 1e-6
            is_scaled = config.reward_fn.id == "paper.shaped_rewards:affine"
            assert is_scaled == run.method.endswith("_scaled")
            if is_scaled:
                assert dict(config.reward_fn.args)["scale"] == 0.001
                assert dict(config.reward_fn.args)["offset"] == pytest.approx(0.4995)
        assert trained >= 6


def test_the_laptops_budgets(laptop):
    study = laptop.study
    assert budget(study, study.case("identifier_bleu")) == 30 * 1_024
    tokens = budget(study, study.case("hard_question_rouge"))
    # Groups of 8 for each of 500 prompts twice, of 16 tokens; PPO's iterations have 1,024.
    assert 500 * 2 * 8 * study.tasks["hard_question"].max_new_tokens <= tokens == 126 * 1_024
    ppo = laptop.comparison.named("hard_question_rouge-ppo").config
    assert ppo.train_evaluation.n_iters == 126


def test_the_studys_own_runs_are_used_where_the_budget_is_its(laptop, tmp_path, monkeypatch):
    monkeypatch.chdir(laptop.folder)
    tried = load_phase(laptop.study, selection(laptop.study), 1)
    shared = {
        run.configuration
        for run in laptop.selection.part.runs
        if laptop.selection.keys_of(run.configuration) & set(tried.keys)
    }
    assert shared == {run.configuration for run in laptop.selection.part.runs if run.method == "ppo"}
    study = laptop.study
    ppo = len(study.starts["pretrained"].learning_rates)
    assert len(shared) == 2 * ppo
    assert len(laptop.selection.part.runs) == 2 * (ppo + 2 * len(study.groups.learning_rates))


def test_the_cure_begins_with_the_studys_short_sft(laptop):
    then = [e for e in laptop.comparison.experiments if e.configuration == "identifier_bleu-short-grpo"]
    assert [e.start.configuration for e in then] == ["identifier-short"] * 3
    assert [e.start.repetition for e in then] == [e.repetition for e in then] == [0, 1, 2]
    assert then[2].start.config.datapool.seed == 2
    assert then[0].start.config.datapool.train_fraction == laptop.study.short_sft.labels
    assert then[0].config.alg.id == "grpo"


def test_runs_from_before_lengths_in_tokens_are_found(laptop, monkeypatch):
    monkeypatch.setattr("rl4lms.plan.runs.hash_of", lambda data: data)
    most = {}
    for experiment in laptop.comparison.chosen(lambda run: run.kind == "training"):
        if experiment.start is None:
            data = identify(experiment, None)[1]
            most[experiment.configuration] = data["train_evaluation"].get("max_tokens", "none")
    assert {most[name] for name in most if name.endswith("-ppo")} == {"none"}
    assert (most["identifier_bleu-dapo"], most["hard_question_rouge-dapo"]) == (30_720, 129_024)


def test_the_last_algorithms_and_the_scaled_rewards_have_one_seed(laptop):
    seeds = Counter(e.configuration for e in laptop.comparison.experiments)
    assert {seeds[f"hard_question_rouge-{name}"] for name in ("rloo", "dr-grpo", "gspo", "reinforce-pp")} == {
        1
    }
    scaled = ("grpo-scaled", "rloo", "rloo-scaled")
    assert {seeds[f"continuation_style-{name}"] for name in scaled} == {1}
    for case in ("hard_question_rouge", "identifier_bleu", "continuation_style"):
        assert {seeds[f"{case}-{name}"] for name in ("ppo", "grpo", "dapo")} == {3}
    assert seeds["identifier_bleu-short-grpo"] == 3


def test_the_better_learning_rate_is_chosen_for_each_algorithm(tmp_path, laptop):
    runs = {run.configuration: run for run in laptop.selection.part.runs}
    # Means over both cases; PPO's and GRPO's better rate is not that of each case.
    rewards = {
        ("ppo", "identifier"): {3e-5: 0.5, 1e-4: 0.4}, ("ppo", "repair"): {3e-5: 0.1, 1e-4: 0.3},
        ("grpo", "identifier"): {3e-4: 0.3, 1e-3: 0.1}, ("grpo", "repair"): {3e-4: 0.3, 1e-3: 0.4},
        ("dapo", "identifier"): {3e-4: 0.3, 1e-3: 0.4}, ("dapo", "repair"): {3e-4: 0.3, 1e-3: 0.3},
    }  # fmt: skip
    done = []
    for number, experiment in enumerate(laptop.selection.experiments):
        run, folder = runs[experiment.configuration], tmp_path / f"{number}"
        folder.mkdir()
        for file in ("manifest.json", "config.json"):
            (folder / file).write_text("{}")
        value = rewards[run.method, run.task].get(experiment.changes["alg.args.learning_rate"], 0.0)
        row = {"epoch": 9, "metrics": {laptop.study.rewards[run.reward].key: value}}
        (folder / "train_split_metrics.jsonl").write_text(json.dumps(row) + "\n")
        done.append(Done(run, experiment, folder, None, ""))
    assert chosen_rates(laptop.study, done) == {"ppo": 1e-4, "grpo": 3e-4, "dapo": 1e-3}


def test_figures_are_given_the_cases_of_the_comparison_alone(laptop):
    """The extraction of the pretrained model and of the short SFT is by all rewards of the task."""
    runs = {run.configuration: run for run in laptop.comparison.part.runs}
    done = [
        Done(runs[e.configuration], e, Path(f"run {number}"), None, "")
        for number, e in enumerate(laptop.comparison.experiments)
    ]
    sources = group_sources(laptop.study, done)
    cases = {"hard_question_rouge", "identifier_bleu", "continuation_style"}
    assert {source.task for source in sources["extraction"]} == cases
    of_short = [s for s in sources["extraction"] if s.method == "short"]
    assert sorted((s.task, s.split, s.seed) for s in of_short) == [
        ("identifier_bleu", split, seed) for split in ("test", "train") for seed in (0, 1, 2)
    ]


def test_stages_count_what_is_left(groups, monkeypatch):
    monkeypatch.chdir(groups.folder)
    scale = "laptop" if groups.study.name == "laptop_study" else "smoke"
    rows = stages(scale, seeds=groups.seeds, jobs=1)
    keys = {*groups.comparison.keys, *(groups.selection.keys if groups.selection else ())}
    assert sum(stage.runs for stage in rows) == len(keys)
    assert all(stage.minutes > 0 for stage in rows if stage.runs)
    label = f"{groups.study.groups.others_case}-rloo"
    identity = next(key[1] for key in groups.comparison.keys_of(label))
    with RunDir.create(Path(groups.study.output_path), label, {}, {"identity": identity}) as run:
        run.update_manifest(status="finished")
    assert sum(stage.runs for stage in stages(scale, seeds=groups.seeds, jobs=1)) == len(keys) - 1


def test_a_case_that_there_is_not_is_named(tmp_path):
    data = yaml.safe_load((REPO / text_study.STUDIES["laptop"]).read_text())
    data["groups"]["cure_case"] = "identifier_blue"
    data["groups"]["cases"][1] = "identifier"
    data["groups"]["tokens"]["other_rouge"] = 7
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as error:
        load_study(path)
    words = " ".join(str(error.value).split())
    assert "3 problems" in words
    assert "groups.cases[1] unknown case 'identifier'; " in words
    assert "groups.cure_case unknown case 'identifier_blue'; did you mean 'identifier_bleu'? " in words
    assert "groups.tokens.other_rouge unknown case 'other_rouge'; " in words


def test_where_it_cannot_be_drawn_is_said(capsys):
    for argv, message in (
        (["--runs", "outputs"], "argument --only: table_groups finds its own runs; leave --runs out"),
        (["--scale", "paper"], "argument --only: table_groups has no plans of the paper's scale"),
    ):
        with pytest.raises(SystemExit):
            main(["--only", "table_groups", *argv])
        assert message in capsys.readouterr().err


def test_it_is_asked_for_by_its_name_alone():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for argv, expected in (([], False), (["--only", "table_groups"], True)):
        args = parser.parse_args(argv)
        args.overrides = []
        check_arguments(parser, args)
        asked = choose_items(args)
        assert asked.groups == expected and (not asked.study_items) == expected
    assert group_run.ITEM not in text_study.ITEMS

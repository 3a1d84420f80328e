"""InstructGPT's pipeline as it ships: its stages expand to valid runs, which share what the issue says."""

import json
from collections import Counter
from contextlib import chdir
from dataclasses import dataclass

import numpy as np
import pytest
from clones import link_clone
from pretend_models import pretend
from pretend_pipeline import pretend_run

from common.config import ConfigError
from paper.instructgpt import paper_scale
from paper.instructgpt.config import Pipeline, load_pipeline
from paper.instructgpt.data import count_texts
from paper.instructgpt.plans import arms, start_runs
from paper.instructgpt.rewards import squash, squashed, to_log_odds
from paper.instructgpt.run import (
    FILES,
    MINUTES,
    STAGES,
    pipeline_at,
    stage_jobs,
    stages,
    study_of_pipeline,
)
from paper.instructgpt.run import _with as after_stage
from paper.instructgpt.runs import Done, Planned
from reproduce_paper import main
from rl4lms.plan import load_plan
from rl4lms.text import TextBatch

REWARD, GOLD = "semantic/reward_model", "semantic/learned_automodel_metric"


@dataclass
class Expanded:
    """A pipeline whose stages were expanded one after the other, over pretended runs of those before."""

    pipeline: Pipeline
    planned: dict[str, list[Planned]]
    jobs: dict[str, str]
    configs: dict[str, object]
    done: Done

    def runs(self, *kinds):
        return [run for stage in self.planned.values() for run in stage if run.kind in kinds]

    def config(self, name):
        return self.configs[name]


def expand(folder, scale, seeds):
    with chdir(link_clone(folder)):
        pipeline = pipeline_at(scale)
        pretend(study_of_pipeline(pipeline))
        done, planned, jobs, configs = Done(), {}, {}, {}
        for name, plan in STAGES.items():
            planned[name] = plan(pipeline, seeds, done)
            _, made = stage_jobs(pipeline, folder / "plan.yml", planned[name], done, 2)
            jobs |= {run.name: job.identity for run, job in made}
            if any(run.configuration for run in planned[name]):
                configs |= {e.configuration: e.config for e in load_plan(folder / "plan.yml").experiments}
            base = folder / "runs"
            # Of the rates that are tried the second is the best.
            there = {
                run.name: pretend_run(pipeline, run, base, float(run.method.endswith(("0_0001", "0_001"))))
                for run in planned[name]
            }
            done = after_stage(pipeline, done, planned[name], there)
        return Expanded(pipeline, planned, jobs, configs, done)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    return expand(tmp_path_factory.mktemp("clone"), "laptop", seeds=3)


def test_every_stage_expands_to_valid_runs_with_names_and_minutes_of_their_own(laptop):
    every = [run for stage in laptop.planned.values() for run in stage]
    assert len({run.name for run in every}) == len(every) == 136
    assert {run.kind for run in every} == MINUTES["laptop"].keys()
    same = {key: names for key, names in _grouped(laptop.jobs).items() if len(names) > 1}
    assert not same, "no two are the same work"


def _grouped(identities):
    groups = {}
    for name, key in identities.items():
        groups.setdefault(key, []).append(name)
    return groups


def test_the_smoke_scale_has_the_same_stages(tmp_path):
    smoke = expand(tmp_path, "smoke", seeds=1)
    assert [run.kind for run in smoke.planned["PPO, teachers"]].count("ppo") == 2
    assert smoke.planned.keys() == STAGES.keys() and not smoke.runs("other_ppo")


def test_seeds_are_where_the_claims_are_about_seeds(laptop):
    counted = Counter((run.kind, run.method) for run in laptop.runs("ppo", "ptx", "other_ppo", "half"))
    assert counted == {
        ("ppo", "ppo-0"): 3,
        ("ppo", "ppo-0_02"): 3,
        ("ppo", "ppo-0_1"): 3,
        ("ptx", "ppo-ptx-0_02"): 3,
        ("other_ppo", "ppo-0_02"): 1,
        ("other_ppo", "ppo-ptx-0_02"): 1,
        ("half", "half-rloo"): 3,
        ("half", "half-grpo"): 3,
        **{("ppo", f"choice-ppo-{rate}"): 1 for rate in ("3e-05", "0_0001", "0_0003")},
    }
    taught = Counter((run.teacher, run.kl) for run in laptop.runs("taught") if run.teacher)
    teachers = [*(f"on_policy_{share}" for share in (0, 25, 50, 75, 100)), "squashed"]
    assert taught == {(teacher, kl): 3 if kl else 1 for teacher in teachers for kl in (0.05, 0.0)}


def test_learning_rates_are_the_study_s_chosen_on_a_seed_that_is_not_reported(laptop):
    study = laptop.pipeline.study
    tried = {run.method for run in laptop.runs("ppo", "taught") if run.method.startswith("choice")}
    assert len(tried) == len(study.starts["pretrained"].learning_rates) + 2 * len(study.groups.learning_rates)
    assert {run.seed for run in laptop.planned["start of RL"]} == {0, 1, 2, study.choice.seed}
    assert laptop.done.rates == {"ppo": 1e-4, "rloo": 1e-3, "grpo": 1e-3}
    assert laptop.config("continuation-ppo-0-s1").alg.args.learning_rate == 1e-4
    assert laptop.config("continuation-half-grpo-s2").alg.args.learning_rate == 1e-3


def test_tasks_are_read_from_the_study(laptop):
    task = laptop.pipeline.study.tasks["continuation"]
    for name in (
        "continuation-start-s0",
        "continuation-sft-s0",
        "continuation-ppo-0-s0",
        "continuation-half-rloo-s0",
    ):
        args = laptop.config(name).datapool.args
        assert args["form"] == task.datapool["form"] and args["num_val"] == 320
    ppo = laptop.config("continuation-ppo-0-s0")
    assert ppo.env.args.max_episode_length == task.max_new_tokens == ppo.alg.generation_kwargs.max_new_tokens
    metrics = [metric.id for metric in ppo.train_evaluation.metrics]
    assert metrics == ["reward_model", laptop.pipeline.study.rewards["style"].metric.id]


def test_ppo_is_the_paper_s_but_for_what_the_file_says(laptop):
    plain, ptx = (laptop.config(f"continuation-{name}-s2") for name in ("ppo-0_02", "ppo-ptx-0_02"))
    assert plain.alg.pretraining is None
    assert (ptx.alg.pretraining.coeff, ptx.alg.pretraining.examples_per_episode) == (2.0, 1)
    for config in (plain, ptx):
        assert config.alg.args.ema_decay is None and config.alg.args.episodes == 128
        assert config.alg.kl_div.coeff == 0.02 and config.train_evaluation.n_iters == 35
        reward = str(laptop.done.model("continuation-rm-s2"))
        assert dict(config.reward_fn.args)["model_name"] == reward == config.alg.policy.args.value_model_name
        assert config.alg.model_name == laptop.done.model("continuation-start-s2")
    other = laptop.config("sentence_from_words-ppo-ptx-0_02-s0")
    assert other.alg.model_name == "outputs/laptop_models/t5" and other.env.args.missing_eos_penalty == -1


def test_reward_models_start_where_rl_does_and_learn_their_own_rankings(laptop):
    for run in laptop.runs("reward_model", "grouped", "epochs", "shuffled"):
        config = laptop.config(run.name)
        assert config.alg.model_name == laptop.done.model(f"continuation-start-s{run.seed}")
        assert config.runtime.seed == run.seed
    data = {
        run.name: laptop.config(run.name).datapool.args["data_path"] for run in laptop.runs("reward_model")
    }
    rankings = laptop.done.folder("continuation-rankings-s1", "rankings")
    assert data["continuation-rm-s1"] == rankings
    assert data["continuation-rm-on_policy_25-s1"].endswith("mixes/on_policy_25")
    for arm in ("grouped", "epochs", "shuffled"):
        config = laptop.config(f"continuation-rm-{arm}-s1")
        assert config.datapool.args["data_path"] == rankings and config.alg.args.label_smoothing == 0
    assert laptop.config("continuation-rm-epochs-s0").alg.args.epochs == 4
    assert laptop.config("continuation-rm-grouped-s0").alg.args.epochs == 1


def test_shuffled_comparisons_have_as_many_texts_an_update(laptop, tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"completions": ["t"] * size}) + "\n" for size in (4, 9, 5, 6)))
    assert count_texts(file) == (4, 24, 6 + 36 + 10 + 15)
    shuffled = dict(arms(laptop.pipeline, tmp_path))["shuffled"]
    assert shuffled["alg.args.pairs_per_batch"] == 48  # 16 prompts of 6 texts, two texts a comparison
    assert shuffled["train_evaluation.eval_every"] == 1  # two updates
    assert shuffled["alg.args.batching"] == "pair"


def test_teachers_rewards_are_normalised_over_the_policy_s_texts(laptop):
    args = dict(laptop.config("continuation-taught-on_policy_50-0_05-s1").reward_fn.args)
    assert (args["mean"], args["std"]) == (0.5, 2.0)
    assert args["model_name"] == laptop.done.model("continuation-rm-on_policy_50-s1")
    config = laptop.config("continuation-taught-squashed-0_05-s1")
    assert dict(config.reward_fn.args)["table_path"].endswith("tables/squashed.json")
    assert config.train_evaluation.n_iters == 10 and config.alg.id == "rloo"
    half = laptop.config("continuation-half-grpo-s1")
    assert dict(half.reward_fn.args)["table_path"].endswith("tables/half.json")
    assert (half.alg.id, half.alg.args.std_epsilon, half.alg.kl_div.coeff) == ("grpo", 1e-6, 0.05)


def test_jobs_are_the_same_for_the_same_runs_and_others_for_others(laptop):
    jobs = laptop.jobs
    assert jobs["continuation-rankings-s0"] != jobs["continuation-rankings-s1"]
    assert jobs["continuation-scores-on_policy_0-s0"] != jobs["continuation-scores-on_policy_25-s0"]


def test_before_anything_is_made_every_run_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(link_clone(tmp_path))
    pretend(study_of_pipeline(pipeline_at("laptop")))
    rows = {row.name: row for row in stages("laptop", 3, 2)}
    assert [rows[name].runs for name in STAGES] == [4, 12, 26, 28, 62, 4] and rows["models"].runs == 0
    assert sum(row.minutes for row in rows.values()) < 75
    assert not (tmp_path / "outputs" / "laptop_instructgpt").exists(), "a dry run writes nothing"


def test_what_is_finished_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(link_clone(tmp_path))
    pipeline = pipeline_at("smoke")
    pretend(study_of_pipeline(pipeline))
    (run,) = planned = start_runs(pipeline, 1, Done())
    _, ((_, job),) = stage_jobs(pipeline, tmp_path / "plan.yml", planned, Done(), 1)
    path = pretend_run(pipeline, run, tmp_path / pipeline.config.output_path)
    manifest = json.loads((path / "manifest.json").read_text()) | {"identity": job.identity}
    (path / "manifest.json").write_text(json.dumps(manifest))
    rows = {row.name: row.runs for row in stages("smoke", 1, 2)}
    assert (rows["start of RL"], rows["rankings"]) == (0, 3)


def test_mistakes_are_named(tmp_path):
    text = open(FILES["laptop"]).read()
    text = text.replace("case: continuation_style", "case: continuation_styl")
    (tmp_path / "pipeline.yml").write_text(text)
    with pytest.raises(ConfigError, match="did you mean 'continuation_style'"):
        load_pipeline(tmp_path / "pipeline.yml")
    overrides = ["ptx.kl_coeff=0.5", "main.files.supervised=null", "teachers.on_policy=[0.0]"]
    with pytest.raises(ConfigError) as error:
        load_pipeline(FILES["laptop"], overrides)
    words = " ".join(str(error.value).split())
    assert "must be one of kl_coeffs, 0, 0.02, 0.1, to be compared; is 0.5" in words
    assert "main.files.supervised missing: all stages are of this task" in words
    assert "teachers.on_policy 1 is missing, the task's reward model" in words


def test_squashing_keeps_the_order_and_the_centre(tmp_path):
    assert squash(3.0, None, 0.1) == 3.0 and squash(3.0, 1.0, 0.1) == pytest.approx(1.2)
    table = {"centres": {"a": 2.0}, "factor": 0.1, "mean": 1.0, "std": 2.0}
    (tmp_path / "table.json").write_text(json.dumps(table))
    texts = ["1 2 3 4", "1 x x x", "1 2 3 4"]
    batch = TextBatch(["a", "a", "b"], texts, [[]] * 3, [{}] * 3)
    gold = [4 / 4, 1 / 4, 4 / 4]  # numbers that rise, per word
    rewards = squashed(
        batch,
        reward="increasing_numbers",
        reward_args={"min_tokens": 1},
        log_odds=False,
        table_path=str(tmp_path / "table.json"),
    )
    expected = [(2 + 0.1 * (gold[0] - 2) - 1) / 2, (2 + 0.1 * (gold[1] - 2) - 1) / 2, (gold[2] - 1) / 2]
    assert rewards == pytest.approx(expected)
    assert to_log_odds([0.5, 1.0]) == pytest.approx([0, np.log((1 - 1e-6) / 1e-6)])


def test_the_paper_s_scale_lists_configs_and_hours(capsys):
    assert main(["--scale", "paper", "--only", "instructgpt", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    for name in (
        "gpt_neo_1.3b_supervised",
        "gptj_6b_reward_model",
        "gpt_neo_1.3b_rl_start",
        "gpt_neo_1.3b_ppo_ptx",
    ):
        assert f"rl4lms_scripts/instructgpt/{name}.yml: " in printed
    assert "256,000 episodes, about" in printed and "h of a GPU" in printed
    with pytest.raises(SystemExit):
        main(["--scale", "paper", "--only", "instructgpt"])
    assert "instructgpt at the paper's scale take days of a GPU" in capsys.readouterr().err


def test_an_epoch_of_sft_by_hand():
    """13,000 texts of 2,048 tokens through 1.31 billion weights, 6 operations each."""
    plan = paper_scale.plans()[0]
    assert plan.operations == pytest.approx(16 * 13_000 * 2_048 * 1.31e9 * 6)


def test_it_finds_its_own_runs(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "instructgpt", "--runs", "outputs"])
    assert "argument --only: instructgpt finds its own runs; leave --runs out" in capsys.readouterr().err

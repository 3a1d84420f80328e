"""Sweeps: expansion, names, which model an experiment starts from, overrides, mistakes with their lines."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import ConfigError
from rl4lms.config import ExtractConfig, SupervisedConfig
from rl4lms.metrics import METRICS, TextBatch, build_metric
from rl4lms.metrics.names import RESULTS
from rl4lms.plan import Experiment, LoadedPlan, load_plan

REPO = Path(__file__).parents[2]
NARRATIVE_QA = "rl4lms_scripts/training/narrative_qa/t5_"
SFT = {"name": "sft", "config_path": f"{NARRATIVE_QA}supervised.yml"}
PPO = {"name": "ppo", "config_path": f"{NARRATIVE_QA}ppo.yml"}
THEN_PPO = {
    "name": "then_ppo",
    "config_path": f"{NARRATIVE_QA}ppo_on_supervised.yml",
    "model_from": "sft",
}
EXTRACT = {
    "name": "rewards",
    "config_path": "rl4lms_scripts/extract_samples/t5_narrative_qa_extract_samples.yml",
}
LR, STEPS = "alg.args.learning_rate", "alg.training_args.max_steps"
SHARE, SAMPLES_SEED = "datapool.frac_train_samples", "datapool.train_samples_rnd_seed"


@pytest.fixture(autouse=True)
def in_repo(monkeypatch):
    """Where the config files' paths begin."""
    monkeypatch.chdir(REPO)


def write(folder: Path, *configurations: dict[str, Any], **plan: Any) -> Path:
    """A plan file, each field on a line of its own."""
    path = folder / "plan.yml"
    path.write_text(yaml.safe_dump({**plan, "configurations": list(configurations)}, sort_keys=False))
    return path


def load(folder: Path, *configurations: dict[str, Any], **plan: Any) -> LoadedPlan:
    return load_plan(write(folder, *configurations, **plan))


def starts(loaded: LoadedPlan) -> dict[str, str | None]:
    """Name of each experiment -> name of what it starts from."""
    return {e.name: e.start.name if e.start else None for e in loaded.experiments}


def problems(path: Path, *overrides: str) -> list[tuple[Any, str, str]]:
    """(text of the line, path within the configuration, message) of each problem of a plan file."""
    with pytest.raises(ConfigError) as caught:
        load_plan(path, overrides)
    lines = path.read_text().splitlines()
    return [
        (
            lines[p.line - 1].strip("- ") if isinstance(p.line, int) else p.line,
            p.path.split(".", 1)[-1],
            p.message,
        )
        for p in caught.value.problems
    ]


def learning_rate(experiment: Experiment) -> float:
    alg = getattr(experiment.config, "alg")  # noqa: B009  # of whatever kind it is
    assert not isinstance(alg, SupervisedConfig)
    return alg.args.learning_rate


# Expansion


def test_options_multiply_over_the_config_file(tmp_path):
    options = {LR: [1e-5, 1e-6], "alg.args.ent_coef": [0.0, 0.1]}
    loaded = load(tmp_path, PPO | {"base_config": {LR: 1.0, "alg.args.batch_size": 32}, "options": options})
    assert [(learning_rate(e), e.config.alg.args.ent_coef) for e in loaded.experiments] == [
        (1e-5, 0.0),
        (1e-5, 0.1),
        (1e-6, 0.0),
        (1e-6, 0.1),
    ]
    assert {e.config.alg.args.batch_size for e in loaded.experiments} == {32}
    assert {e.config.alg.args.n_epochs for e in loaded.experiments} == {5}, "of the config file"
    assert next(e.name for e in loaded.experiments) == "ppo_learning_rate_1e-05_ent_coef_0-0_seed_0"


def test_repetitions_are_seeds_from_the_configs_own_on(tmp_path):
    base = {"runtime.seed": 7}
    loaded = load(tmp_path, PPO | {"base_config": base}, EXTRACT | {"repetitions": 1}, repetitions=3)
    assert [(e.name, e.config.runtime.seed, e.repetition) for e in loaded.experiments] == [
        ("ppo_seed_7", 7, 0),
        ("ppo_seed_8", 8, 1),
        ("ppo_seed_9", 9, 2),
        ("rewards_seed_0", 0, 0),
    ]


def test_a_plan_may_be_json(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"configurations": [{"name": "a", "config_path": "%sppo.yml"}]}' % NARRATIVE_QA)  # noqa: UP031
    assert [e.name for e in load_plan(path).experiments] == ["a_seed_0"]


# What an experiment starts from


def test_each_experiment_starts_from_each_model_of_its_own_repetition(tmp_path):
    loaded = load(tmp_path, SFT | {"options": {STEPS: [10, 20]}}, THEN_PPO, repetitions=2)
    assert starts(loaded) == {
        "sft_max_steps_10_seed_0": None,
        "sft_max_steps_10_seed_1": None,
        "sft_max_steps_20_seed_0": None,
        "sft_max_steps_20_seed_1": None,
        "sft_max_steps_10_then_ppo_seed_0": "sft_max_steps_10_seed_0",
        "sft_max_steps_10_then_ppo_seed_1": "sft_max_steps_10_seed_1",
        "sft_max_steps_20_then_ppo_seed_0": "sft_max_steps_20_seed_0",
        "sft_max_steps_20_then_ppo_seed_1": "sft_max_steps_20_seed_1",
    }


def test_a_single_model_is_the_start_of_all_seeds(tmp_path):
    loaded = load(tmp_path, SFT | {"repetitions": 1}, THEN_PPO, repetitions=2)
    assert starts(loaded) == {
        "sft_seed_0": None,
        "sft_then_ppo_seed_0": "sft_seed_0",
        "sft_then_ppo_seed_1": "sft_seed_0",
    }


def test_fewer_seeds_start_from_the_first_models(tmp_path):
    loaded = load(tmp_path, SFT, THEN_PPO | {"repetitions": 1}, repetitions=2)
    assert starts(loaded)["sft_then_ppo_seed_0"] == "sft_seed_0" and len(loaded.experiments) == 3
    path = write(tmp_path, SFT | {"repetitions": 2}, THEN_PPO, repetitions=3)
    message = "3 repetitions cannot start from the 2 of sft"
    assert problems(path) == [("model_from: sft", "model_from", message)]


def test_models_of_several_configurations_and_of_models_that_started_from_models(tmp_path):
    loaded = load(tmp_path, SFT, PPO, THEN_PPO, EXTRACT | {"model_from": ["ppo", "then_ppo"]})
    assert starts(loaded) == {
        "sft_seed_0": None,
        "ppo_seed_0": None,
        "sft_then_ppo_seed_0": "sft_seed_0",
        "ppo_rewards_seed_0": "ppo_seed_0",
        "sft_then_ppo_rewards_seed_0": "sft_then_ppo_seed_0",
    }
    *_, last = loaded.experiments
    assert isinstance(last.config, ExtractConfig) and last.config.alg.model_name == "t5-base"


# Names and text in braces


def test_text_in_braces_is_filled_in_by_fields_of_the_config(tmp_path):
    base = {SAMPLES_SEED: "{runtime.seed}", SHARE: 0.5}
    template = "{name}_{max_steps}_of_{alg.training_args.per_device_train_batch_size}_{alg.model_name}"
    sft = SFT | {"base_config": base, "options": {STEPS: [10]}, "experiment_name": template}
    loaded = load(tmp_path, sft, THEN_PPO | {"experiment_name": "{model}, then"}, repetitions=2)
    assert [e.name for e in loaded.experiments] == [
        "sft_10_of_64_t5-base_seed_0",
        "sft_10_of_64_t5-base_seed_1",
        "sft_10_of_64_t5-base-then_seed_0",
        "sft_10_of_64_t5-base-then_seed_1",
    ]
    assert [e.config.datapool.train_samples_rnd_seed for e in loaded.experiments[:2]] == [0, 1]


def test_options_of_one_last_part_are_told_apart_by_more_of_it(tmp_path):
    options = {
        "alg.generation_kwargs.top_k": [5],
        "train_evaluation.generation_kwargs.top_k": [6],
        STEPS: [1],
    }
    (experiment,) = load(tmp_path, SFT | {"options": options}).experiments
    assert experiment.setting == (
        "sft_alg_generation_kwargs_top_k_5_train_evaluation_generation_kwargs_top_k_6_max_steps_1"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{alg.args.learnin_rate}", "no field 'learnin_rate'"),
        ("{lr}", "no field 'lr'"),
        ("{alg.id", "expected '}' before end of string"),
    ],
)
def test_braces_that_cannot_be_filled_in(tmp_path, template, reason):
    path = write(tmp_path, PPO | {"experiment_name": template, "options": {LR: [1e-5, 1e-6]}})
    ((line, place, message),) = problems(path)
    assert line.startswith("experiment_name:") and place == "experiment_name"
    assert message == f"cannot fill in the braces of {template!r}: {reason}"


def test_names_must_differ_and_fit_a_folder(tmp_path):
    path = write(tmp_path, PPO | {"experiment_name": "same", "options": {LR: [1e-5, 1e-6]}})
    message = "several experiments are called same_seed_0: tell them apart by experiment_name"
    assert [p[2] for p in problems(path)] == [message]
    path = write(tmp_path, PPO | {"experiment_name": "x" * 121})
    message = "makes a folder's name of 121 characters: give a shorter experiment_name"
    assert problems(path)[0][1:] == ("name", message)


# Overrides


def lrs(path: Path, *overrides: str) -> list[float]:
    return [learning_rate(e) for e in load_plan(path, overrides).experiments if e.configuration != "sft"]


def test_set_a_field_of_the_plan(tmp_path):
    path = write(tmp_path, PPO, repetitions=3)
    loaded = load_plan(path, ["repetitions=2", "num_parallel=4", "output_path=elsewhere"])
    assert len(loaded.experiments) == 2
    assert (loaded.plan.num_parallel, loaded.plan.output_path) == (4, "elsewhere")


def test_set_a_field_of_the_configurations_that_have_its_block(tmp_path):
    path = write(tmp_path, SFT, PPO | {"base_config": {LR: 1.0}}, THEN_PPO | {"options": {LR: [1e-3, 1e-4]}})
    assert lrs(path, f"{LR}=0.5") == [0.5, 0.5]
    assert lrs(path, f"{LR}=[0.5, 0.25]") == [0.5, 0.25] * 2
    assert lrs(path, f"{LR}=[0.5, 0.25]", f"{LR}=1e-9") == [1e-9, 1e-9], "the later one counts"
    assert {e.config.runtime.device for e in load_plan(path, ["runtime.device=cpu"]).experiments} == {"cpu"}
    on_policy_only = load_plan(path, ["train_evaluation.n_iters=3", "env.n_envs=2"]).experiments
    assert [e.config.env is None for e in on_policy_only] == [True, False, False, False]


def test_set_a_field_of_one_configuration(tmp_path):
    path = write(tmp_path, SFT, PPO, THEN_PPO)
    assert lrs(path, f"ppo.{LR}=0.5") == [0.5, 5e-7]
    assert lrs(path, f"then_ppo.{LR}=[0.5, 0.25]") == [2e-6, 0.5, 0.25]
    assert lrs(path, f'configurations[1].base_config["{LR}"]=0.125') == [0.125, 5e-7]


def test_set_a_list_that_is_a_value(tmp_path):
    path = write(tmp_path, PPO)
    (experiment,) = load_plan(path, ["train_evaluation.metrics=[{id: chrf}]"]).experiments
    assert [metric.id for metric in experiment.config.train_evaluation.metrics] == ["chrf"]


def test_set_something_unknown(tmp_path):
    path = write(tmp_path, SFT, PPO)
    found = problems(path, "alg.arg.learning_rate=1", "repetition=2", "sft.max_steps=1", "ppo=1", "x")
    assert [(line, place) for line, place, _ in found] == [
        ("--set", ""),
        ("--set", "arg.learning_rate"),
        ("--set", "repetition"),
        ("--set", "max_steps"),
        ("--set", "ppo"),
    ]
    messages = [message for _, _, message in found]
    assert messages[1] == (
        "no config file of the plan has its block; for one configuration: NAME.alg.arg.learning_rate=..."
    )
    assert messages[2] == "unknown key; did you mean 'repetitions'?"
    assert messages[3].startswith("unknown key; known: name, description")


def test_a_wrong_override_is_located_there(tmp_path):
    ((line, place, message),) = problems(write(tmp_path, PPO), f"{LR}=-1")
    assert (line, place) == ("--set", f'base_config["{LR}"]')
    assert message == "must be greater than 0, got -1"


# Mistakes


def test_all_problems_of_all_configurations_at_once_with_their_lines(tmp_path):
    path = write(
        tmp_path,
        SFT | {"base_config": {"alg.training_args.max_step": 3}, "options": {SHARE: [0.1, 1.5]}},
        PPO | {"options": {LR: [1e-5, "fast"], "alg.args.n_epoch": [1, 2]}},
        THEN_PPO | {"base_config": {"env.args.max_prompt_length": 0}},
        {"name": "gone", "config_path": f"{NARRATIVE_QA}pppo.yml"},
    )
    assert problems(path) == [
        (
            "alg.training_args.max_step: 3",
            'base_config["alg.training_args.max_step"]',
            "unknown key; did you mean 'max_steps'?",
        ),
        ("1.5", f'options["{SHARE}"][1]', "must be at most 1, got 1.5"),
        ("fast", f'options["{LR}"][1]', "expected a number > 0, got 'fast' (a string)"),
        (
            "alg.args.n_epoch:",
            'options["alg.args.n_epoch"]',
            "unknown key; did you mean 'n_epochs'?",
        ),
        (
            "env.args.max_prompt_length: 0",
            'base_config["env.args.max_prompt_length"]',
            "must be at least 1, got 0",
        ),
        (
            f"config_path: {NARRATIVE_QA}pppo.yml",
            "config_path",
            f"{NARRATIVE_QA}pppo.yml: no such file; did you mean 't5_ppo.yml'?",
        ),
    ]


def test_a_problem_of_the_config_file_names_its_line(tmp_path):
    text = Path(f"{NARRATIVE_QA}ppo.yml").read_text()
    (tmp_path / "ppo.yml").write_text(text.replace("n_epochs:", "n_epoch:"))
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "n_epochs:" in row)
    path = write(tmp_path, PPO | {"config_path": str(tmp_path / "ppo.yml"), "options": {LR: [1e-5, 1e-6]}})
    ((where, place, message),) = problems(path)
    assert where.startswith("config_path:") and place == "config_path"
    assert message == (
        f"{tmp_path / 'ppo.yml'} line {line}, alg.args.n_epoch: unknown key; did you mean 'n_epochs'?"
    )


@pytest.mark.parametrize(
    ("configurations", "line", "place", "message"),
    [
        pytest.param(
            [THEN_PPO, SFT],
            "model_from: sft",
            "model_from",
            "'sft' must stand above the configurations that start from it",
            id="order",
        ),
        pytest.param(
            [SFT, THEN_PPO | {"model_from": "stf"}],
            "model_from: stf",
            "model_from",
            "unknown configuration 'stf'; did you mean 'sft'? known: sft",
            id="unknown start",
        ),
        pytest.param(
            [EXTRACT, THEN_PPO | {"model_from": "rewards"}],
            "model_from: rewards",
            "model_from",
            "'rewards' is an extraction, which leaves no model",
            id="start from an extraction",
        ),
        pytest.param(
            [SFT, THEN_PPO | {"base_config": {"alg.policy.args.model_name": "t5-base"}}],
            "alg.policy.args.model_name: t5-base",
            'base_config["alg.policy.args.model_name"]',
            "is given by model_from: sft",
            id="two starts",
        ),
        pytest.param(
            [PPO | {"options": {"runtime.seed": [0, 1, 2]}}],
            "runtime.seed:",
            'options["runtime.seed"]',
            "use repetitions: 3, for runtime.seed 0, 1, 2 in all configurations, each starting from the "
            "model of its own seed",
            id="seeds as options",
        ),
        pytest.param(
            [PPO | {"name": "alg"}],
            "name: alg",
            "name",
            "must be letters, digits, '_', '-', and no field's name, got 'alg'",
            id="a field's name",
        ),
        pytest.param(
            [PPO, PPO],
            "name: ppo",
            "name",
            "'ppo' is the name of another one above",
            id="a name twice",
        ),
        pytest.param(
            [PPO | {"options": {LR: []}}],
            f"{LR}: []",
            f'options["{LR}"]',
            "an empty list of values leaves no experiment to run",
            id="no values",
        ),
        pytest.param(
            [PPO | {"base_config": {"alg..args": 1}}],
            "alg..args: 1",
            'base_config["alg..args"]',
            "not a path: 'alg..args'",
            id="no path",
        ),
        pytest.param(
            [PPO | {"base_config": {"alg.polcy.args.model_name": "t5-base"}}],
            "alg.polcy.args.model_name: t5-base",
            'base_config["alg.polcy.args.model_name"]',
            "unknown key; did you mean 'policy'?",
            id="a misspelt block",
        ),
        pytest.param(
            [PPO | {"base_config": {"alg.kl_dvi.coeff": 1, "alg.kl_dvi.target_kl": 2}}],
            "alg.kl_dvi.coeff: 1",
            'base_config["alg.kl_dvi.coeff"]',
            "unknown key; did you mean 'kl_div'?",
            id="a misspelt block of two fields",
        ),
        pytest.param(
            [PPO | {"base_config": {LR: "abc"}, "options": {LR: [1e-5]}}],
            f"{LR}: abc",
            f'base_config["{LR}"]',
            "expected a number > 0, got 'abc' (a string)",
            id="a wrong type that options replace",
        ),
        pytest.param(
            [PPO | {"options": {"alg..args": [1]}}],
            "alg..args:",
            'options["alg..args"]',
            "not a path: 'alg..args'",
            id="an option that is no path",
        ),
        pytest.param(
            [PPO | {"repetitions": 10**9}],
            "repetitions: 1000000000",
            "repetitions",
            "stands for 1,000,000,000 experiments; a plan has at most 100,000",
            id="too many repetitions",
        ),
        pytest.param(
            [PPO | {"options": {f"alg.args.x{i}": [*range(9)] for i in range(9)}}],
            "options:",
            "options",
            "stands for 387,420,489 experiments; a plan has at most 100,000",
            id="too many options",
        ),
        pytest.param(
            [PPO | {"base_config": {"alg.id.x": 1}}],
            "alg.id.x: 1",
            'base_config["alg.id.x"]',
            "'alg.id' is a single value, 'x' cannot be set in it",
            id="through a value",
        ),
    ],
)
def test_mistakes(tmp_path, configurations, line, place, message):
    assert problems(write(tmp_path, *configurations)) == [(line, place, message)]


def test_a_start_of_another_kind_is_found_before_anything_runs(tmp_path):
    """As far as the model at the root of the chain tells: that it is a folder's."""
    model = tmp_path / "t5"
    model.mkdir()
    (model / "config.json").write_text('{"is_encoder_decoder": true, "model_type": "t5"}')
    for file in ("model.safetensors", "tokenizer.json"):
        (model / file).touch()
    gpt2 = {"name": "gpt2", "config_path": "rl4lms_scripts/training/imdb/gpt2_ppo.yml", "model_from": "sft"}
    path = write(tmp_path, SFT | {"base_config": {"alg.model_name": str(model)}}, gpt2)
    ((line, place, message),) = problems(path)
    assert (line, place) == ("model_from: sft", "model_from")
    assert "is an encoder-decoder model, the config wants a decoder-only one" in message


def test_a_missing_model_is_one_problem_however_many_start_from_it(tmp_path):
    path = write(tmp_path, SFT | {"base_config": {"alg.model_name": "./gone"}}, THEN_PPO, repetitions=2)
    ((line, place, _),) = problems(path)
    assert (line, place) == ("alg.model_name: ./gone", 'base_config["alg.model_name"]')


def test_the_metric_of_the_table_is_checked_before_anything_runs(tmp_path):
    assert load(tmp_path, PPO, score_metric_name="lexical/rouge_l_max").experiments
    path = write(tmp_path, PPO, EXTRACT, score_metric_name="lexical/rouge_l")
    ((line, place, message),) = problems(path)
    assert (line, place) == ("score_metric_name: lexical/rouge_l", "score_metric_name")
    assert message.startswith("unknown metric 'lexical/rouge_l'; did you mean 'lexical/rouge_l_max'? known: ")
    assert load(tmp_path, EXTRACT, score_metric_name="anything").experiments, "no training, no table of it"


def test_names_of_metrics_values_are_those_that_metrics_give():
    assert RESULTS.keys() == METRICS.entries.keys()
    batch = TextBatch(["who?"] * 2, ["the cat sat", "a dog"], [["a cat"], ["the dog", "dogs"]], [{}, {}])
    args = {"diversity": {"window_size": 2}, "meteor": {"wordnet": False}}
    for name in ("rouge_l_max", "rouge", "bleu", "sacre_bleu", "ter", "chrf", "diversity", "meteor"):
        for key in build_metric(name, args.get(name))(batch):
            assert any(fnmatchcase(key, pattern) for pattern in RESULTS[name]), key

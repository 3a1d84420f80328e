"""Plan files: expansion, names, overrides, the mistakes that are found before any data is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError
from common.run_dir import RunDir, checkpoint_name
from sft_vs_rft.plan import LoadedPlan, describe_steps, load_plan
from sft_vs_rft.schedule import identify

REPO = Path(__file__).parents[2]
PLANS = REPO / "sft_vs_rft" / "experiment_plans"
SHIPPED = sorted(PLANS.rglob("*.json"))
PRETRAIN = [path for path in SHIPPED if "pretrain" in path.name]
PAPER_FINETUNE = [path for path in SHIPPED if "finetune" in path.name and path.parent == PLANS]
LAPTOP_FINETUNE = [path for path in SHIPPED if "finetune" in path.name and path.parent != PLANS]

BASE: dict[str, Any] = {
    "experiment_name": "test",
    "dataset": "digits",
    "model_type": "mlp",
    "epochs": 3,
    "samples_rnd_seed": 192,
    "init_rnd_seed": 111,
    "random_seed": 0,
}


def write(folder: Path, *configurations: dict[str, Any], **plan: Any) -> Path:
    """A plan file, each field and option on a line of its own; base_config is written over BASE."""
    full = [
        {"base_config": BASE | c.get("base_config", {}), "options": c.get("options", {})}
        for c in configurations
    ]
    path = folder / "plan.json"
    path.write_text(json.dumps(plan | {"configurations": full}, indent=1))
    return path


def load(
    folder: Path, base: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **plan: Any
) -> LoadedPlan:
    return load_plan(write(folder, {"base_config": base or {}, "options": options or {}}, **plan))


def problems(path: Path, *overrides: str) -> list[tuple[Any, str, str]]:
    """(text of the line, last part of the path, message) of each problem of a plan file."""
    with pytest.raises(ConfigError) as caught:
        load_plan(path, overrides)
    lines = path.read_text().splitlines()
    return [
        (
            lines[p.line - 1].strip().rstrip(",") if isinstance(p.line, int) else p.line,
            p.path.split(".", 1)[-1],
            p.message,
        )
        for p in caught.value.problems
    ]


# Expansion


def test_last_option_varies_fastest_and_configurations_follow_each_other(tmp_path):
    first = {"options": {"lr": [0.1, 0.2], "opt_method": ["supervised", "expected_reinforce"]}}
    second = {"base_config": {"lr": 0.5}, "options": {"batch_size": [8, 16]}}
    experiments = load_plan(write(tmp_path, first, second)).experiments
    assert [(e.config.lr, e.config.opt_method, e.config.batch_size) for e in experiments] == [
        (0.1, "supervised", 512),
        (0.1, "expected_reinforce", 512),
        (0.2, "supervised", 512),
        (0.2, "expected_reinforce", 512),
        (0.5, "supervised", 8),
        (0.5, "supervised", 16),
    ]
    assert len({e.setting for e in experiments}) == 6


def test_options_win_over_base_config(tmp_path):
    (experiment,) = load(tmp_path, {"lr": 0.1}, {"lr": [0.2]}).experiments
    assert experiment.config.lr == 0.2


def test_skip_counts_configurations_and_repetitions_repeat_each(tmp_path):
    loaded = load(tmp_path, {"random_seed": -1}, {"lr": [0.1, 0.2, 0.3]}, skip=1, repetitions=2)
    assert [(e.config.lr, e.repetition) for e in loaded.experiments] == [
        (0.2, 0),
        (0.2, 1),
        (0.3, 0),
        (0.3, 1),
    ]
    settings = [e.setting for e in loaded.experiments]
    assert settings[0] == settings[1] != settings[2] == settings[3]
    assert [e.name for e in loaded.experiments[:2]] == ["test", "test (repetition 2)"]
    assert loaded.notices == []


def test_repetitions_of_a_seeded_experiment_are_pointed_out(tmp_path):
    (notice,) = load(tmp_path, {"random_seed": 5}, repetitions=2).notices
    assert notice == (
        "repetitions with a fixed random_seed give the same numbers: use -1, or options over random_seed"
    )


def test_skipping_everything_is_a_mistake(tmp_path):
    path = write(tmp_path, {"options": {"lr": [0.1, 0.2]}}, skip=2)
    assert problems(path) == [('"skip": 2', "skip", "skips all 2 configurations of the plan")]


def test_duplicates_are_a_mistake(tmp_path):
    path = write(tmp_path, {"options": {"lr": [0.1, 0.2, 0.1]}})
    assert [p[1:] for p in problems(path)] == [("configurations", "experiments 0 and 2 are the same")]
    path = write(tmp_path, {}, {})
    assert [p[1:] for p in problems(path)] == [("configurations", "experiments 0 and 1 are the same")]


def test_an_empty_list_of_values_is_a_mistake(tmp_path):
    path = write(tmp_path, {"options": {"lr": []}})
    message = "an empty list of values leaves no experiment to run"
    assert problems(path) == [('"lr": []', "options.lr", message)]


def test_a_plan_without_configurations_is_a_mistake(tmp_path):
    assert [p[2] for p in problems(write(tmp_path))] == ["must not be empty"]


def test_fields_of_real_plans_that_mean_nothing_are_accepted_with_one_notice(tmp_path):
    options = {"change_label_per_class": [False], "lr": [0.1, 0.2]}
    loaded = load(tmp_path, {"change_label_per_class": True}, options)
    assert len(loaded.experiments) == 2
    assert loaded.notices == [
        "change_label_per_class is ignored: labels are always modified per input, never per class"
    ]


# Strings


@pytest.mark.parametrize(
    ("template", "fields", "name"),
    [
        ("{dataset}_{model_type}_{opt_method}", {}, "digits_mlp_supervised"),
        ("lr_{lr}", {"lr": 0.001}, "lr_0-001"),
        ("lr_{lr}", {"lr": 1e-5}, "lr_1e-05"),
        ("wd_{weight_decay}_{optimizer}", {}, "wd_0-0_adam"),  # defaults
        ("{mlp_hidden_layer_sizes}", {"mlp_hidden_layer_sizes": [30, 20]}, "30-20"),
        ("a, b. c [d]", {}, "a-b-cd"),
        ("{lr:.0e}", {"lr": 0.01}, "1e-02"),
        ("{{braces}}", {}, "{braces}"),
    ],
)
def test_experiment_names(tmp_path, template, fields, name):
    (experiment,) = load(tmp_path, {"experiment_name": template, **fields}).experiments
    assert experiment.config.experiment_name == name


def test_strings_are_formatted_with_the_options_of_their_own_experiment(tmp_path):
    base = {"experiment_name": "{dataset}_{lr}", "outputs_dir": "out/{model_type}, v.1 [{lr}]"}
    loaded = load(tmp_path, base, {"lr": [0.1, 0.2]})
    assert [e.config.experiment_name for e in loaded.experiments] == ["digits_0-1", "digits_0-2"]
    # Only the name loses its dots, commas, brackets and spaces.
    assert [e.config.outputs_dir for e in loaded.experiments] == [
        "out/mlp, v.1 [0.1]",
        "out/mlp, v.1 [0.2]",
    ]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{dataste}", "no field 'dataste'"),
        ("{0}", "Replacement index 0 out of range for positional args tuple"),
        ("{dataset.nothing}", "'str' object has no attribute 'nothing'"),
        ("{lr:d}", "Unknown format code 'd' for object of type 'float'"),
        ("{dataset", "expected '}' before end of string"),
    ],
)
def test_braces_that_cannot_be_filled_in(tmp_path, template, reason):
    path = write(tmp_path, {"base_config": {"experiment_name": template}, "options": {"lr": [0.1, 0.2]}})
    ((line, place, message),) = problems(path)
    assert line == f'"experiment_name": "{template}"'
    assert place == "base_config.experiment_name"
    assert message == f"cannot fill in the braces of {template!r}: {reason}"


def test_a_name_that_cannot_name_a_folder(tmp_path):
    path = write(tmp_path, {"base_config": {"experiment_name": "{dataset}/mlp"}})
    message = "names a folder, so it must not hold '/': 'digits/mlp'"
    assert [p[1:] for p in problems(path)] == [("base_config.experiment_name", message)]


# Overrides


def values(path: Path, field: str, *overrides: str) -> list[Any]:
    return [getattr(e.config, field) for e in load_plan(path, overrides).experiments]


def test_set_a_field_of_the_plan(tmp_path):
    path = write(tmp_path, {"options": {"lr": [0.1, 0.2]}})
    loaded = load_plan(path, ["skip=1", "multiprocess=true", "gpu_ids_pool=[0, 1]", "name=other"])
    assert (loaded.plan.multiprocess, loaded.plan.gpu_ids_pool, loaded.plan.name) == (True, [0, 1], "other")
    assert [e.config.lr for e in loaded.experiments] == [0.2]


def test_set_a_field_of_all_experiments(tmp_path):
    path = write(tmp_path, {"base_config": {"lr": 0.1}}, {"options": {"batch_size": [8, 16]}})
    assert values(path, "lr", "lr=1e-3") == [1e-3] * 3
    assert values(path, "epochs", "epochs=7", "epochs=8") == [8] * 3
    assert (
        values(path, "data_dir", "dataset=npz", f"data_dir={write_npz(tmp_path)}")
        == [str(tmp_path / "a,b.npz")] * 3
    )


def write_npz(folder: Path) -> Path:
    """A file whose name a list would split; the config check looks at names only."""
    path = folder / "a,b.npz"
    path.touch()
    return path


def test_set_replaces_options(tmp_path):
    path = write(tmp_path, {"options": {"lr": [0.1, 0.2], "batch_size": [8, 16]}}, {"base_config": {"lr": 1}})
    assert values(path, "lr", "lr=0.3") == [0.3] * 3
    name = "{dataset}_{batch_size}, x"
    path = write(tmp_path, {"options": {"experiment_name": ["a", "b"], "batch_size": [8, 16]}})
    assert values(path, "experiment_name", f"experiment_name={name}") == ["digits_8-x", "digits_16-x"]


def test_set_a_list_makes_options(tmp_path):
    path = write(tmp_path, {"options": {"batch_size": [8, 16]}}, {"base_config": {"batch_size": 32}})
    experiments = load_plan(path, ["lr=[0.1, 0.2]"]).experiments
    assert [(e.config.batch_size, e.config.lr) for e in experiments] == [
        (8, 0.1),
        (8, 0.2),
        (16, 0.1),
        (16, 0.2),
        (32, 0.1),
        (32, 0.2),
    ]
    assert values(path, "lr", "lr=[0.1, 0.2]", "lr=0.3") == [0.3] * 3  # the later one wins
    assert values(path, "lr", "lr=0.3", "lr=[0.1, 0.2]") == [0.1, 0.2] * 3
    # A field that is a list is one value.
    assert values(path, "mlp_hidden_layer_sizes", "mlp_hidden_layer_sizes=[9, 8]") == [[9, 8]] * 3


def test_set_by_full_path(tmp_path):
    path = write(tmp_path, {"options": {"lr": [0.1, 0.2]}}, {})
    edits = ["configurations[1].base_config.lr=0.5", "configurations[0].options.lr[1]=0.3"]
    assert values(path, "lr", *edits) == [0.1, 0.3, 0.5]


def test_set_something_unknown(tmp_path):
    path = write(tmp_path, {})
    assert problems(path, "batchsize=3", "num_paralel=2", "qqq=1", "lr") == [
        ("--set", "", "cannot read 'lr'; expected FIELD=VALUE, such as optimizer.lr=1e-3"),
        ("--set", "batchsize", "unknown key; did you mean 'batch_size'?"),
        ("--set", "num_paralel", "unknown key; did you mean 'num_parallel'?"),
        (
            "--set",
            "qqq",
            "unknown key; known: name, description, repetitions, multiprocess, num_parallel, gpu_ids_pool, "
            "executor, skip, largest, configurations, dataset, data_dir, ...",
        ),
    ]


def test_set_a_wrong_value_is_located_there(tmp_path):
    path = write(tmp_path, {"base_config": {"lr": 0.1}})
    ((line, place, message),) = problems(path, "lr=-1")
    assert (line, place, message) == ("--set", "base_config.lr", "must be greater than 0, got -1")


# Mistakes


HINT = "then give its checkpoint here, or 'auto' for the newest matching one"
RUNNER = "python sft_vs_rft_controlled_experiments_plan_runner.py --plan_config_path"
K_SETS = {"use_multiple_labels_per_sample": True, "num_labels_per_sample": 5}


@pytest.mark.parametrize(
    ("base", "options", "line", "place", "message"),
    [
        pytest.param(
            K_SETS,
            {"opt_method": ["supervised", "expected_reinforce"]},
            '"expected_reinforce"',
            "options.opt_method[1]",
            "label sets (use_multiple_labels_per_sample) need 'supervised', got 'expected_reinforce'",
            id="K-sets with a method other than supervised",
        ),
        pytest.param(
            K_SETS | {"num_labels_per_sample": 1},
            {},
            '"num_labels_per_sample": 1',
            "base_config.num_labels_per_sample",
            "a label set needs at least 2 labels, got 1",
            id="K-sets with K <= 1",
        ),
        pytest.param(
            {"dataset": "stsb"},
            {},
            '"model_type": "mlp"',
            "base_config.model_type",
            "'mlp' cannot read dataset 'stsb': sentence pairs need 'bert-mini'",
            id="stsb without a bert model",
        ),
        pytest.param(
            {},
            {"model_type": ["mlp", "bert-mini"]},
            '"bert-mini"',
            "options.model_type[1]",
            "'bert-mini' cannot read dataset 'digits': 'bert-mini' needs one of stsb, docstring_pairs",
            id="a bert model without stsb",
        ),
        pytest.param(
            K_SETS | {"frac_samples_to_modify_labels": 0.1},
            {},
            '"frac_samples_to_modify_labels": 0.1',
            "base_config.frac_samples_to_modify_labels",
            "must be 0 while pretraining: modified labels mean nothing to use_multiple_labels_per_sample",
            id="K-sets with modified inputs",
        ),
        pytest.param(
            {"samples_rnd_seed": -1, "num_labels_per_sample": 5},
            {},
            '"samples_rnd_seed": -1',
            "base_config.samples_rnd_seed",
            "finetuning needs the seed of its pretraining: -1 would draw other inputs and label sets",
            id="finetuning without a samples seed",
        ),
        pytest.param(
            {"load_model_from_checkpoint": "ADD PATH TO CHECKPOINT"},
            {},
            '"load_model_from_checkpoint": "ADD PATH TO CHECKPOINT"',
            "base_config.load_model_from_checkpoint",
            "still the placeholder 'ADD PATH TO CHECKPOINT': run the pretraining plan first "
            f"({RUNNER} sft_vs_rft/experiment_plans/laptop/"
            f"sft_vs_rft_mlp_digits_pretrain_experiments_plan.json), {HINT}",
            id="the placeholder",
        ),
        pytest.param(
            {"load_model_from_checkpoint": "nowhere/epoch_1.pt", "dataset": "svhn"},
            {},
            '"load_model_from_checkpoint": "nowhere/epoch_1.pt"',
            "base_config.load_model_from_checkpoint",
            f"no such file or folder: 'nowhere/epoch_1.pt'; run the pretraining plan first, {HINT}",
            id="a missing checkpoint",
        ),
        pytest.param(
            {"trainer_checkpoint": "nowhere.pt"},
            {},
            '"trainer_checkpoint": "nowhere.pt"',
            "base_config.trainer_checkpoint",
            "no such file: 'nowhere.pt'",
            id="a missing trainer checkpoint",
        ),
        pytest.param(
            {"dataset": "npz"},
            {},
            "",
            "base_config.data_dir",
            "dataset 'npz' needs data_dir; give a .npz file with x_train, y_train, x_test, y_test: "
            "--set data_dir=FILE.npz",
            id="npz without a file",
        ),
        pytest.param(
            {"gpu_ids": [0, 1]},
            {},
            '"gpu_ids": [',
            "base_config.gpu_ids",
            "one experiment uses one GPU; list several in gpu_ids_pool",
            id="several GPUs",
        ),
        pytest.param(
            {"num_checkpoints": 0},
            {},
            '"num_checkpoints": 0',
            "base_config.num_checkpoints",
            "must be at least 1, or -1, got 0",
            id="no checkpoints to keep",
        ),
        pytest.param(
            {"early_stop_restore_best_weights": True},
            {},
            '"early_stop_restore_best_weights": true',
            "base_config.early_stop_restore_best_weights",
            "needs early_stop",
            id="best weights without early stopping",
        ),
        pytest.param(
            {"save_checkpoints": False, "save_checkpoints_by_score": True},
            {},
            '"save_checkpoints_by_score": true',
            "base_config.save_checkpoints_by_score",
            "needs save_checkpoints",
            id="best checkpoints without checkpoints",
        ),
        pytest.param(
            {"score_metric_name": "test accuracy"},
            {},
            '"score_metric_name": "test accuracy"',
            "base_config.score_metric_name",
            "no train metric 'test accuracy' in this experiment; known: train loss, reg objective value, "
            "kl reg, params_norm, grad norm, normalized grad norm, train accuracy, reward",
            id="an unknown score",
        ),
        pytest.param(
            {"learning_rate": 0.1},
            {},
            '"learning_rate": 0.1',
            "base_config.learning_rate",
            None,
            id="an unknown field",
        ),
        pytest.param(
            {},
            {"lr": [0.1, "fast"]},
            '"fast"',
            "options.lr[1]",
            "expected a number > 0, got 'fast' (a string)",
            id="a wrong type",
        ),
    ],
)
def test_impossible_combinations(tmp_path, base, options, line, place, message):
    path = write(tmp_path, {"base_config": base, "options": options})
    ((found_line, found_place, found_message),) = problems(path)
    assert found_place == place
    assert found_message == message if message else found_message.startswith("unknown key")
    # A field that is missing is reported at its base_config.
    assert found_line == (line or '"base_config": {')


def test_all_problems_of_all_configurations_at_once(tmp_path):
    path = write(
        tmp_path,
        {"base_config": K_SETS | {"opt_method": "reinforce"}, "options": {"lr": [0.1, 0.2, -1]}},
        {"base_config": {"dataset": "digit"}},
    )
    assert [(line, place) for line, place, _ in problems(path, "epochz=1")] == [
        ('"opt_method": "reinforce"', "base_config.opt_method"),
        ("-1", "options.lr[2]"),
        ('"dataset": "digit"', "base_config.dataset"),
        ("--set", "epochz"),
    ]


# Shipped plans


def test_shipped_plans_are_found():
    assert [path.parent == PLANS for path in PRETRAIN].count(True) == 3 and len(PAPER_FINETUNE) == 9
    assert len(PRETRAIN) > 3 and len(LAPTOP_FINETUNE) >= 3
    assert len(PRETRAIN) + len(PAPER_FINETUNE) + len(LAPTOP_FINETUNE) == len(SHIPPED)


def names(paths: list[Path]) -> dict[str, Any]:
    return {"argvalues": paths, "ids": [path.stem.removeprefix("sft_vs_rft_") for path in paths]}


@pytest.mark.parametrize("path", **names(PRETRAIN))
def test_pretraining_plans_load(path):
    for experiment in load_plan(path).experiments:
        config = experiment.config
        assert config.use_multiple_labels_per_sample and config.opt_method == "supervised"
        assert "steps" in describe_steps(config)


@pytest.mark.parametrize("path", **names(PAPER_FINETUNE))
def test_finetuning_plans_of_the_paper_ask_for_a_checkpoint(path):
    ((line, place, message),) = problems(path)
    assert line == '"load_model_from_checkpoint": "ADD PATH TO CHECKPOINT"'
    assert place == "base_config.load_model_from_checkpoint"
    environment = path.name.partition("_finetune")[0]
    pretrain = f"sft_vs_rft/experiment_plans/{environment}_pretrain_experiments_plan.json"
    assert message == (
        "still the placeholder 'ADD PATH TO CHECKPOINT': run the pretraining plan first "
        f"({RUNNER} {pretrain}), {HINT}"
    )
    assert (REPO / pretrain).is_file()


@pytest.mark.parametrize("path", **names(LAPTOP_FINETUNE))
def test_finetuning_plans_for_the_laptop_look_for_their_pretraining(path, tmp_path):
    told = problems(path, f"outputs_dir={tmp_path}")
    # Once for each configuration; plans with groups have another one for these.
    assert len(told) == (2 if "_group_" in path.name else 1)
    ((place, message),) = {(place, message) for _, place, message in told}
    assert place == "base_config.load_model_from_checkpoint"
    environment = path.name.partition("_finetune")[0]
    pretrain = f"sft_vs_rft/experiment_plans/laptop/{environment}_pretrain_experiments_plan.json"
    assert message == (
        f"'auto' found no finished matching pretraining run under {str(tmp_path)!r}: "
        f"run the pretraining plan first ({RUNNER} {pretrain}), {HINT}"
    )
    assert (REPO / pretrain).is_file()


@pytest.mark.parametrize("path", **names(PAPER_FINETUNE + LAPTOP_FINETUNE))
def test_finetuning_plans_load_without_a_checkpoint(path):
    experiments = load_plan(path, ["load_model_from_checkpoint=''"]).experiments
    groups = [("expected_group", size) for size in (8, 64, 0)] if "_group_" in path.name else []
    methods = [(e.config.opt_method, e.config.group_size) for e in experiments]
    assert methods == [("expected_reinforce", 8), ("supervised", 8), *groups]
    assert len({e.name for e in experiments}) == len(experiments)


@pytest.mark.parametrize("path", [path for path in LAPTOP_FINETUNE if "_group_" in path.name])
def test_plans_with_groups_share_the_runs_of_figure_3(path):
    overrides = ["load_model_from_checkpoint=''"]
    grouped = load_plan(path, overrides).experiments
    plain = load_plan(path.with_name(path.name.replace("_group_", "_")), overrides).experiments
    assert [identify(e) for e in grouped[:2]] == [identify(e) for e in plain]


# auto


PRETRAINED = {"num_labels_per_sample": 5, "use_multiple_labels_per_sample": True}
FINETUNED = {
    "num_labels_per_sample": 5,
    "frac_samples_to_modify_labels": 0.1,
    "load_model_from_checkpoint": "auto",
}


@pytest.fixture
def pretrained(tmp_path):
    """Makes a pretraining run of the given config fields; returns its checkpoint."""

    def make(status: str = "finished", **fields: Any) -> Path:
        loaded = load(tmp_path, PRETRAINED | {"outputs_dir": str(tmp_path / "runs")} | fields)
        config = loaded.experiments[0].config.model_dump()
        checkpoint = f"checkpoints/{checkpoint_name(2)}"
        manifest = {"status": status, "checkpoint": checkpoint}
        with RunDir.create(tmp_path / "runs", "pretrain", config, manifest) as run:
            (run.path / "checkpoints").mkdir()
            (run.path / checkpoint).touch()
            return run.path / checkpoint

    return make


def finetune(folder: Path, **fields: Any) -> LoadedPlan:
    return load(folder, FINETUNED | {"outputs_dir": str(folder / "runs")} | fields)


def not_found(folder: Path, **fields: Any) -> bool:
    with pytest.raises(ConfigError, match="'auto' found no finished matching pretraining run"):
        finetune(folder, **fields)
    return True


def test_auto_takes_the_newest_finished_run_and_says_so(tmp_path, pretrained):
    assert not_found(tmp_path)
    pretrained("running")
    pretrained("interrupted")
    assert not_found(tmp_path)
    first = pretrained()
    assert finetune(tmp_path).experiments[0].config.load_model_from_checkpoint == str(first)
    newest = pretrained()
    pretrained("failed")
    loaded = finetune(tmp_path)
    assert loaded.experiments[0].config.load_model_from_checkpoint == str(newest)
    assert loaded.notices == [f"load_model_from_checkpoint 'auto' of digits mlp: {newest}"]


@pytest.mark.parametrize(
    "other",
    [
        {"samples_rnd_seed": 1},
        {"init_rnd_seed": 1},
        {"num_labels_per_sample": 3},
        {"num_train_samples": 50},
        {"mlp_hidden_layer_sizes": [7]},
        {"model_type": "resnet18"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_auto_takes_no_run_of_other_data_or_weights(tmp_path, pretrained, other):
    pretrained(**other)
    assert not_found(tmp_path)
    if other != {"model_type": "resnet18"}:
        assert finetune(tmp_path, **other).experiments
    pretrained()
    assert finetune(tmp_path).experiments


def test_auto_takes_no_run_without_its_checkpoint(tmp_path, pretrained):
    pretrained().unlink()
    assert not_found(tmp_path)


def test_auto_takes_no_finetuning_run(tmp_path, pretrained):
    pretrained(use_multiple_labels_per_sample=False)
    assert not_found(tmp_path)


def test_an_explicit_checkpoint_of_other_data_is_a_mistake(tmp_path, pretrained):
    checkpoint = pretrained(samples_rnd_seed=1)
    for start in (checkpoint, checkpoint.parents[1]):  # the file, or its run
        fields = FINETUNED | {"load_model_from_checkpoint": str(start)}
        ((line, _, message),) = problems(write(tmp_path, {"base_config": fields}))
        assert line == f'"load_model_from_checkpoint": "{start}"'
        assert message == (
            "was pretrained with samples_rnd_seed 1, this experiment has 192: "
            "inputs and label sets, or the model, would not be those that were pretrained"
        )


def test_a_folder_without_a_checkpoint_is_a_mistake(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    fields = FINETUNED | {"load_model_from_checkpoint": str(tmp_path / "run")}
    ((_, place, message),) = problems(write(tmp_path, {"base_config": fields}))
    assert place == "base_config.load_model_from_checkpoint"
    assert message.startswith(f"no checkpoint (*.pt) in {tmp_path / 'run'}; run the pretraining plan first (")


def test_a_wrong_type_that_options_replace_is_told(tmp_path):
    path = write(tmp_path, {"base_config": {"lr": "abc"}, "options": {"lr": [0.1, 0.2]}})
    ((line, place, message),) = problems(path)
    assert (line, place) == ('"lr": "abc"', "base_config.lr")
    assert message == "expected a number > 0, got 'abc' (a string)"


def test_a_plan_of_more_experiments_than_anybody_runs(tmp_path):
    path = write(tmp_path, {"base_config": {}, "options": {"lr": [0.1, 0.2]}}, repetitions=10**9)
    with pytest.raises(ConfigError, match="stands for 2,000,000,000 experiments; a plan has at most 100,000"):
        load_plan(path)

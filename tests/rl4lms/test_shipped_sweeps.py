"""The sweeps that ship, and the runner's flags that start nothing."""

from pathlib import Path

import pytest

from rl4lms_plan_runner import main

REPO = Path(__file__).parents[2]
SWEEPS = sorted((REPO / "rl4lms_scripts" / "sweeps").glob("*.yml"))


@pytest.fixture(autouse=True)
def in_repo(monkeypatch):
    """Where the config files' paths begin."""
    monkeypatch.chdir(REPO)


COMPARISONS = {
    "cnn": "CNN/DailyMail",
    "common_gen": "CommonGen",
    "dialog": "DailyDialog",
    "imdb": "IMDB",
    "iwslt2017": "IWSLT 2017",
    "narrative_qa": "NarrativeQA",
    "totto": "ToTTo",
}


def test_sweeps_that_are_shipped():
    names = [f"{name}_comparison" for name in COMPARISONS]
    names += ["laptop", "narrative_qa_section_5_1", "narrative_qa_section_5_2"]
    assert [path.stem for path in SWEEPS] == sorted(names)


@pytest.mark.parametrize("path", [p for p in SWEEPS if p.stem != "laptop"], ids=lambda path: path.stem)
def test_check_of_a_shipped_sweep(path, capsys):
    assert main(["--plan_config_path", str(path), "--check"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    header = next(line for line in output.out.splitlines() if not line.startswith("note:"))
    headers = {
        f"{name}_comparison": (f"{title}, main comparison", 32, 8) for name, title in COMPARISONS.items()
    }
    headers["narrative_qa_section_5_1"] = ("NarrativeQA, Section 5.1", 27, 9)
    headers["narrative_qa_section_5_2"] = ("NarrativeQA, Section 5.2", 57, 19)
    name, experiments, settings = headers[path.stem]
    assert header == f"{name}: {experiments} experiments of {settings} settings, in outputs/rl4lms_sweeps"


def test_check_shows_seeds_starts_changes_and_sizes(capsys):
    assert (
        main(
            [
                "--plan_config_path",
                str(REPO / "rl4lms_scripts/sweeps/narrative_qa_section_5_2.yml"),
                "--check",
            ]
        )
        == 0
    )
    blocks = capsys.readouterr().out.split("\n\n")
    sft = next(block for block in blocks if block.startswith("sft_2048_steps_0-01_labels:"))
    assert sft.splitlines()[:2] == ["sft_2048_steps_0-01_labels: runtime.seed 0, 1, 2", "  from: t5-base"]
    assert "  alg.training_args.max_steps: 2048" in sft
    assert "  training: 0.01 of the train samples, 2,048 updates of 64 texts each" in sft
    then = next(block for block in blocks if block.startswith("sft_2048_steps_0-01_labels_then_ppo:"))
    assert then.splitlines()[1] == "  from: sft_2048_steps_0-01_labels"


def test_the_laptop_sweep_asks_for_its_model(tmp_path, monkeypatch, capsys):
    """The one thing that is to be made first, said once for each config that names it."""
    (tmp_path / "rl4lms_scripts").symlink_to(REPO / "rl4lms_scripts")
    monkeypatch.chdir(tmp_path)
    sweep = "rl4lms_scripts/sweeps/laptop.yml"
    assert main(["--plan_config_path", sweep, "--check"]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"{sweep}: {len(lines)} problems"
    made_by = (
        "no such folder: 'outputs/laptop_models/t5'; made by: python pretrain_small_language_model.py "
        "--config_path rl4lms_scripts/laptop/pretrain_t5.yml"
    )
    assert lines and all(made_by in line or "no such folder" in line for line in lines)
    assert sum(made_by in line for line in lines) >= 3


def test_list_fields_names_those_of_plan_training_and_extraction(capsys):
    assert main(["--list_fields"]) == 0
    printed = capsys.readouterr().out
    for field in (
        "configurations[].model_from",
        "alg.policy.args.model_name",
        "evaluation.num_samples_per_input",
    ):
        assert field in printed


def test_a_plan_is_needed(capsys):
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "the following arguments are required: --plan_config_path" in capsys.readouterr().err

"""The scale "real": what it needs, what it would run, what it claims."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from clones import REPO, link_clone
from tiny_models import save_tiny_gpt2

import rl4lms_extract_samples_from_model_runner
import rl4lms_train_text_generation
from figures.claims import Results
from figures.criteria import criteria_markdown
from figures.real_criteria import DEAD_TASK, LIVE_TASK, MEASURES, REAL_CRITERIA, evaluate_real
from figures.study import INPUTS
from paper.real_data.fetch import SOURCE, describe_source
from paper.real_data.packages import DATA, FOLDER
from paper.study import load_study
from paper.study_plans import after_sft, comparison, selection
from paper.study_run import any_rates, write_plan
from paper.text_study import REAL_ITEMS, STUDIES, stages
from reproduce_paper import main
from rl4lms.plan import load_plan
from rl4lms.plan.runs import make_jobs

CONFIGS = sorted((REPO / "rl4lms_scripts" / "real").glob("smollm2_*.yml"))


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A clone without outputs; what is called puts a small stand-in where real data would be fetched to."""
    monkeypatch.chdir(link_clone(tmp_path / "clone"))

    def put(*names: str) -> None:
        for name in names:
            folder = FOLDER / name
            if name == "smollm2":
                save_tiny_gpt2(folder)
            elif name == "wordnet":
                for task in ("categories", "sentences"):
                    (folder / task).mkdir(parents=True)
                    for split in ("train", "val", "test"):
                        rows = [{"prompt": f"{split} {i}", "references": " x"} for i in range(70)]
                        (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
            else:
                files = [f"src/digits/{digit}.json" for digit in range(10)] if name == "mnist" else IDX
                for file in files:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).touch()
            (folder / SOURCE).write_text(json.dumps(describe_source(DATA[name])))

    return put


IDX = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def test_what_is_not_fetched_is_named_with_its_command(
    fetched: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    assert main(["--scale", "real", "--dry_run"]) == 2
    command = "python fetch_real_data.py mnist fashion_mnist wordnet smollm2"
    missing = "mnist, fashion_mnist, wordnet, smollm2"
    assert capsys.readouterr().err == f"{FOLDER} lacks {missing}; fetched by: {command}\n"
    fetched("mnist")
    assert main(["--scale", "real", "--dry_run", "--only", "figure3", "--environments", "mnist"]) == 0
    capsys.readouterr()
    assert main(["--scale", "real", "--dry_run", "--only", "figure1"]) == 2
    assert capsys.readouterr().err.endswith(
        "lacks wordnet, smollm2; fetched by: python fetch_real_data.py wordnet smollm2\n"
    )


def test_stages_are_the_papers_plans_on_both_datasets(
    fetched: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    fetched("mnist", "fashion_mnist")
    only = ["figure3", "figure3_sgd", "figure3_high_init_reward"]
    assert main(["--scale", "real", "--dry_run", "--only", *only]) == 0
    lines = capsys.readouterr().out.splitlines()
    for data in ("mnist", "fashion_mnist"):
        for plan in ("pretrain", "finetune", "finetune_sgd", "finetune_high_init_reward"):
            name = (
                f"sft_vs_rft_mlp_mnist_{plan}_experiments_plan.json on {data}: 1,000 inputs, 2 steps an epoch"
            )
            assert sum(name in line for line in lines) == 1
    assert lines[-1].split()[:4] == ["in", "all", "14", "runs"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--only", "figure2"],
            "figure2 is not drawn at --scale real: choose from figure1, table_rewards, figure5",
        ),
        (["--only", "figure3_group"], "figure3_group is not drawn at --scale real"),
        (["--environments", "bert"], "bert is not of --scale real: choose from mnist, fashion_mnist, all"),
    ],
)
def test_what_the_scale_does_not_have(flags: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--scale", "real", *flags])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_environments_of_the_real_scale_are_of_no_other(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--environments", "mnist", "--dry_run"])
    assert "mnist is not of --scale laptop: choose from mlp, resnet, bert, all" in capsys.readouterr().err


def test_plans_of_the_study_are_valid(fetched: Callable[..., None]) -> None:
    fetched("wordnet", "smollm2")
    study = load_study(STUDIES["real"])
    rates = any_rates(study)
    assert selection(study).runs == []  # one rate is not chosen
    part = comparison(study, rates) + after_sft(study, rates)
    loaded = load_plan(write_plan(study, "all", part, 1, 1))
    keys = {job.key for job in make_jobs(loaded.plan, loaded.experiments)}
    assert sum(stage.runs for stage in stages("real", REAL_ITEMS, seeds=1, jobs=1)) == len(keys)
    tasks = {
        name: [e for e in loaded.experiments if e.configuration.startswith(name)] for name in study.tasks
    }
    assert {case.name for case in study.cases()} == {DEAD_TASK, LIVE_TASK}
    # RFT, SFT, RFT after it; five extractions of train inputs and four of test inputs.
    assert {name: len(experiments) for name, experiments in tasks.items()} == dict.fromkeys(tasks, 3 + 5 + 4)
    # As many inputs as the config files say: the study does not.
    extraction = next(e for e in loaded.experiments if e.configuration == "category-pretrained-train-1")
    assert study.measured_inputs is None and extraction.config.datapool.train_samples == 48
    training = next(e for e in loaded.experiments if e.configuration == "category_rouge-rft")
    assert training.config.train_evaluation.max_eval_samples == 50
    tasks_of = {run.configuration: study.tasks[run.task] for run in part.runs}
    for experiment in loaded.experiments:
        assert experiment.config.datapool.id == "paper.real_data.wordnet_tasks:load_part"
        if experiment.configuration.endswith("-rft"):
            config = experiment.config
            assert (config.alg.id, config.alg.kl_div.coeff) == ("grpo", 0)
            limits = (config.alg.generation_kwargs.max_new_tokens, config.env.args.max_episode_length)
            assert limits[0] == limits[1] == tasks_of[experiment.configuration].max_new_tokens


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_each_config_checks(path: Path, fetched: Callable[..., None], capsys: pytest.CaptureFixture) -> None:
    extracts = path.stem.endswith("extract_samples")
    runner = rl4lms_extract_samples_from_model_runner if extracts else rl4lms_train_text_generation
    argv = ["--config_path", str(path), "--check"]
    assert runner.main(argv) == 2
    message = "no such folder: 'outputs/real_data/smollm2'; fetched by: python fetch_real_data.py smollm2"
    assert message in capsys.readouterr().err
    fetched("wordnet", "smollm2")
    assert runner.main(argv) == (2 if path.stem.endswith("_on_supervised") else 0)


def test_criteria_are_those_of_the_page() -> None:
    assert len(CONFIGS) == 4
    assert criteria_markdown(REAL_CRITERIA) in (REPO / "docs" / "real_data.md").read_text()
    assert [criterion.name for criterion in REAL_CRITERIA] == list(MEASURES)


def inputs(rewards: dict[tuple[str, str, str], list[tuple[float, float]]]) -> Results:
    """(task, method, split) -> mean and std of each input."""
    rows = [
        dict.fromkeys(INPUTS)
        | {"task": task, "seed": 0, "method": method, "sample": 1, "split": split}
        | {"input": i, "id": str(i), "mean": mean, "std": std, "run": "run"}
        for (task, method, split), values in rewards.items()
        for i, (mean, std) in enumerate(values)
    ]
    return Results(inputs=pd.DataFrame(rows))


def test_claims_are_judged() -> None:
    dead, alive, solved = (0.0, 0.0), (0.5, 0.3), (1.0, 0.0)
    results = inputs(
        {
            (DEAD_TASK, "pretrained", "train"): [dead, dead, dead, alive],
            (DEAD_TASK, "rft", "train"): [dead, dead, (0.2, 0.1), alive],
            (DEAD_TASK, "sft", "train"): [alive, alive, dead, alive],
            (DEAD_TASK, "sft_rft", "train"): [solved, solved, alive, (0.99, 0)],
            (DEAD_TASK, "rft", "test"): [dead, dead, alive],
            (DEAD_TASK, "pretrained", "test"): [dead, dead, alive],
            (DEAD_TASK, "sft_rft", "test"): [(0.5, 0), (0.6, 0), solved],
            (LIVE_TASK, "pretrained", "train"): [alive, alive, solved],
            (LIVE_TASK, "rft", "train"): [(0.4, 0.1), (0.6, 0.1), (0.9, 0)],
        }
    )
    verdicts = {verdict.criterion.name: verdict for verdict in evaluate_real(results)}
    assert [verdicts[name].value for name in ("real_dead", "real_live")] == [0.75, 0.0]
    assert (verdicts["real_rft"].value, verdicts["real_rft"].detail) == (1 / 3, "1 of 3 inputs")
    assert verdicts["real_sft"].value == 2 / 3
    outcomes = {name: verdicts[name].outcome for name in MEASURES}
    assert outcomes == {
        "real_dead": "holds",
        "real_live": "holds",
        "real_rft": "fails",
        "real_sft": "holds",
        "real_live_rft": "fails",
        "real_over_rft": "holds",
        "real_over_sft": "holds",
    }
    assert verdicts["real_over_rft"].detail.startswith("0.167 to 0.700: difference 0.533 [")
    figure3 = [name for name in verdicts if name not in MEASURES]
    assert len(figure3) == 6 and all(math.isnan(verdicts[name].value) for name in figure3)


def test_what_was_not_run_is_not_judged() -> None:
    verdicts = evaluate_real(Results())
    assert {verdict.outcome for verdict in verdicts} == {"not tested"} and len(verdicts) == 13

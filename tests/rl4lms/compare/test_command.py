"""The command from end to end on tiny models."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from extraction_settings import write_extraction
from tiny_models import save_tiny_t5
from training_runs import save_data, supervised_config

import rl4lms_train_text_generation as training_runner
from common.run_dir import find_runs
from rl4lms.extract import ExtractionInterrupted
from rl4lms.model.reward_model import RewardModel
from rl4lms_compare import main

TEXTS_EACH, PROMPTS = 3, 7


def prefers_many_words(batch: Any, *, power: float = 1.0) -> list[float]:
    return [len(text.split()) ** power for text in batch.generated]


def says_the_rank(prompts: list[str], completions: list[str], rank: list[int]) -> list[float]:
    """Higher for the completion that names the column of its prompt."""
    return [float(str(number) in text) for number, text in zip(rank, completions, strict=True)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of an extraction of the test split."""
    folder = tmp_path_factory.mktemp("setting")
    path = write_extraction(folder)
    rows = [
        {"prompt": f"the dog {i} looks at", "references": ["the teacher"], "rank": i} for i in range(PROMPTS)
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields: dict[str, Any] = yaml.safe_load(path.read_text())
    fields["datapool"] = {"id": "jsonl", "args": {"data_path": str(folder)}, "split": "test"}
    fields["evaluation"] |= {"num_samples_per_input": TEXTS_EACH, "metrics": [{"id": "chrf"}]}
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of two models that write different texts, and of a third: the second one with another file."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("sft", 1), ("ppo", 2)):
        save_tiny_t5(folder / name, seed=seed, initializer_factor=2.0)
    shutil.copytree(folder / "ppo", folder / "ppo_again")
    (folder / "ppo_again" / "README.md").touch()
    return [str(folder / name) for name in ("sft", "ppo", "ppo_again")]


@pytest.fixture(scope="module")
def compared(models: list[str], config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a comparison of all three by two judges."""
    folder = tmp_path_factory.mktemp("results") / "out"
    judges = ["--judge", "chrf", "--judge", f"{__name__.rpartition('.')[2]}:prefers_many_words"]
    sys.path.append(str(Path(__file__).parent))
    try:
        assert main([*models, "--config_path", str(config), *judges, "--output_path", str(folder)]) == 0
    finally:
        sys.path.pop()
    return folder


def longer(a: str, b: str) -> str:
    """The choice of a person who takes the text with more letters."""
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def extractions(folder: Path) -> list[str]:
    """The files of texts that a comparison made, in the order of the models."""
    files = {path.name.partition("_20")[0]: str(path) for path in (folder / "texts").glob("*.pt")}
    return [files[name] for name in ("sft", "ppo", "ppo_again")]


def test_what_is_left_of_a_comparison(compared: Path) -> None:
    names = {path.name for path in compared.iterdir()}
    tables = {"win_rates.csv", "strengths.csv", "agreement.csv", "summary.json"}
    assert names == {*tables, "comparison.png", "comparison.pdf", "pairs.html", "texts"}
    rates = rows_of(compared / "win_rates.csv")
    pairs = [("ppo", "sft"), ("ppo_again", "sft"), ("ppo_again", "ppo")]
    assert [(row["model"], row["against"]) for row in rates] == pairs * 2
    assert {row["judge"] for row in rates} == {"chrf", "test_command:prefers_many_words"}
    assert {row["comparisons"] for row in rates} == {str(PROMPTS * TEXTS_EACH**2)}
    (agreement,) = rows_of(compared / "agreement.csv")
    assert 0 <= float(agreement["agreement"]) <= 1
    summary = json.loads((compared / "summary.json").read_text())
    assert [model["model"] for model in summary["models"]] == ["sft", "ppo", "ppo_again"]
    assert summary["notes"] == [] and summary["prompts"] == PROMPTS


def test_win_rates_are_those_of_the_texts_and_their_scores(compared: Path) -> None:
    contents = [torch.load(file, weights_only=True) for file in extractions(compared)]
    scores = [content["all_metric_values"]["lexical/chrf"].double().numpy() for content in contents]
    outcomes = (1 + np.sign(scores[1][:, :, None] - scores[0][:, None, :])) / 2
    row = rows_of(compared / "win_rates.csv")[0]
    assert float(row["win_rate"]) == pytest.approx(outcomes.mean())
    assert float(row["ties"]) == pytest.approx((outcomes == 0.5).mean())
    lengths = [
        np.mean([len(t) for row in content["all_generated_texts"] for t in row]) for content in contents
    ]
    strengths = rows_of(compared / "strengths.csv")[:3]
    assert [float(row["mean_length"]) for row in strengths] == pytest.approx(lengths)
    assert float(strengths[0]["elo"]) == 0


def test_models_draw_independent_texts(compared: Path) -> None:
    """The third model is the second one, so that equal random numbers would make equal texts."""
    _, ppo, again = (
        torch.load(file, weights_only=True)["all_generated_texts"] for file in extractions(compared)
    )
    same = sum(a == b for row, other in zip(ppo, again, strict=True) for a, b in zip(row, other, strict=True))
    assert same < PROMPTS * TEXTS_EACH / 2


def test_saved_texts_need_no_config_and_their_metric_is_a_judge(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = extractions(compared)
    run = second.removesuffix(".pt")  # the folder of a run that was an extraction
    assert main([first, run, "--output_path", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "sft: 7 prompts x 3 texts" in output and "lexical/chrf" in output
    (row,) = rows_of(tmp_path / "win_rates.csv")
    expected = rows_of(compared / "win_rates.csv")[0]
    assert row | {"judge": "chrf"} == expected
    assert not (tmp_path / "agreement.csv").exists()


def test_texts_are_made_once(
    models: list[str], compared: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise AssertionError("texts were made anew")

    monkeypatch.setattr("rl4lms.extract.generate_batch", fail)
    before = {path: path.read_bytes() for path in compared.glob("*.csv")}
    arguments = [*models, "--config_path", str(config), "--output_path", str(compared)]
    assert main([*arguments, "--judge", "increasing_numbers"]) == 0
    assert {row["judge"] for row in rows_of(compared / "win_rates.csv")} == {"increasing_numbers"}
    for path, content in before.items():
        path.write_bytes(content)
    assert main([*arguments, "--set", "runtime.seed=1"]) == 1


def test_an_interrupted_comparison_goes_on(
    models: list[str], config: Path, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rl4lms.extract as module

    original, calls = module.generate_batch, 0

    def generate(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ExtractionInterrupted
        return original(*args)

    monkeypatch.setattr(module, "generate_batch", generate)
    arguments = [*models[:2], "--config_path", str(config), "--output_path", str(tmp_path), "--judge", "chrf"]
    assert main(arguments) == 130
    assert main(arguments) == 0
    # 7 prompts of 3 texts, at most 4 texts at a time: 7 batches a model, one of them begun twice.
    assert calls == 2 * 7 + 1
    assert rows_of(tmp_path / "win_rates.csv") == rows_of(compared / "win_rates.csv")[:1]


def test_people_s_choices_are_a_judge(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (compared / "pairs.html").read_text()
    data = page.partition('<script type="application/json" id=data>')[2].partition("</script>")[0]
    pairs = json.loads(data)
    assert 10 < len(pairs) <= 50
    choices = [pair | {"choice": longer(pair["a"], pair["b"])} for pair in pairs]
    (tmp_path / "me.json").write_text(json.dumps(choices))
    (tmp_path / "out").mkdir()
    arguments = [*extractions(compared), "--output_path", str(tmp_path / "out")]
    assert main([*arguments, "--judge", str(tmp_path / "me.json"), "--judge", "chrf"]) == 0
    rows = [row for row in rows_of(tmp_path / "out" / "win_rates.csv") if row["judge"] == "me.json"]
    assert len(rows) == 3 and {row["longer_won"] for row in rows} == {"1.0"}
    assert all(int(row["prompts"]) <= PROMPTS and int(row["comparisons"]) > 0 for row in rows)
    (agreement,) = rows_of(tmp_path / "out" / "agreement.csv")
    assert (agreement["judge"], agreement["other"]) == ("me.json", "chrf")
    strange = [choice | {"prompt": "another"} for choice in choices]
    (tmp_path / "me.json").write_text(json.dumps(strange))
    capsys.readouterr()
    assert main([*arguments, "--judge", str(tmp_path / "me.json")]) == 2
    assert capsys.readouterr().err == (
        f"--judge me.json: none of its {len(choices)} choices is between two texts of these models for "
        "the same prompt; judge the page that was made of them\n"
    )


def test_a_reward_model_s_scores_are_kept(
    compared: Path, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "my_reward"
    RewardModel.start(str(tiny_gpt2), "causal", tokenizer_name=str(tiny_gpt2)).save(model)
    arguments = [*extractions(compared), "--judge", str(model), "--output_path", str(tmp_path / "out")]
    assert main(arguments) == 0
    rates = rows_of(tmp_path / "out" / "win_rates.csv")
    assert {row["judge"] for row in rates} == {"my_reward"}
    scores = [json.loads(line) for line in (tmp_path / "out" / "reward_model_scores.jsonl").open()]
    content = torch.load(extractions(compared)[0], weights_only=True)
    own = RewardModel.load(str(model), torch.device("cpu"))
    expected = own.score(content["prompts"][:1], content["all_generated_texts"][0][:1], 1)
    assert scores[0]["rewards"] == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(RewardModel, "score", None)
    assert main(arguments) == 0
    assert rows_of(tmp_path / "out" / "win_rates.csv") == rates
    # The folder of the run that trained it is the same judge.
    run = tmp_path / "trained_2026-01-02_03-04-05"
    run.mkdir()
    model.rename(run / "mine_model")
    (run / "manifest.json").write_text(json.dumps({"prefix": "mine_", "algorithm": "reward_model"}))
    (run / "mine_config.json").write_text("{}")
    arguments[arguments.index(str(model))] = str(run)
    assert main(arguments) == 0
    assert [row | {"judge": "my_reward"} for row in rows_of(tmp_path / "out" / "win_rates.csv")] == rates
    assert main([str(run), *arguments]) == 2


def test_columns_of_the_dataset_reach_a_reward(
    models: list[str], compared: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    judge = ["--judge", "test_command:says_the_rank"]
    arguments = [*models[:2], "--config_path", str(config), "--output_path", str(compared)]
    kept = {path: path.read_bytes() for path in compared.glob("*.*")}
    assert main([*arguments, *judge]) == 0
    for path, content in kept.items():
        path.write_bytes(content)
    capsys.readouterr()
    assert main([*extractions(compared), *judge, "--output_path", str(tmp_path)]) == 2
    assert "no column 'rank'; the samples have completions, prompts, references" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supervised training that saved the texts of its evaluations."""
    folder = tmp_path_factory.mktemp("training")
    config = supervised_config(tiny_t5, save_data(folder / "data"))
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    flags = [
        "--config_path",
        str(folder / "config.yml"),
        "--base_path_to_store_results",
        str(folder / "runs"),
    ]
    assert training_runner.main([*flags, "--experiment_name", "mine", "--log_entire_predictions"]) == 0
    (info,) = find_runs(folder / "runs")
    return info.path


def test_a_run_s_folder_is_its_last_predictions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, last = (run / f"mine_epoch_{epoch}_test_split_predictions.json" for epoch in ("0.0", "2.0"))
    assert main([str(before), str(run), "--ridge", "1", "--output_path", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "mine_epoch_0.0: 5 prompts x 1 text of " in output and "\nmine: 5 prompts" in output
    values = [
        [row["metrics"]["lexical/chrf"] for row in json.loads(path.read_text())] for path in (before, last)
    ]
    texts = [[row["generated_text"] for row in json.loads(path.read_text())] for path in (before, last)]
    outcomes = [
        0.5 if a == b else (1 + np.sign(y - x)) / 2
        for x, y, a, b in zip(*values, *texts, strict=True)
    ]  # fmt: skip
    (row,) = rows_of(tmp_path / "win_rates.csv")
    assert float(row["win_rate"]) == pytest.approx(np.mean(outcomes))
    # The epoch's number, not its name, says which is the last.
    (run / "mine_epoch_10_val_split_predictions.json").write_text(last.read_text())
    assert main([str(before), str(run), "--split", "val", "--check"]) == 0
    assert (
        f"mine: saved predictions {run / 'mine_epoch_10_val_split_predictions.json'}"
        in capsys.readouterr().out
    )


def test_a_run_s_model_writes_texts_now(
    run: Path, models: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [models[0], str(run), "--config_path", str(config), "--output_path", str(tmp_path / "out")]
    assert main([*arguments, "--check"]) == 0
    output = capsys.readouterr().out
    assert f"mine: texts made now by {run / 'mine_model'}" in output and "judged by: saved metric" in output
    assert list(tmp_path.iterdir()) == []
    assert main(arguments) == 0
    (row,) = rows_of(tmp_path / "out" / "win_rates.csv")
    assert (row["judge"], row["model"], row["prompts"]) == ("lexical/chrf", "mine", str(PROMPTS))


def test_the_config_s_own_model_need_not_be_there(
    models: list[str], config: Path, tiny_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = yaml.safe_load(config.read_text())
    fields["alg"]["model_name"] = fields["tokenizer"]["model_name"] = "no/such/model"
    (tmp_path / "config.yml").write_text(yaml.safe_dump(fields))
    arguments = ["--config_path", str(tmp_path / "config.yml"), "--judge", "chrf", "--check"]
    assert main([*models[:2], *arguments]) == 0
    assert f"texts made now by {models[1]}" in capsys.readouterr().out
    assert main([models[0], "nobody/has-this", *arguments[:-1], "--output_path", str(tmp_path / "out")]) == 2
    assert "'nobody/has-this' is not in this machine's cache" in capsys.readouterr().err
    # A model of another kind, one without a tokenizer, one that is not there.
    assert main([models[0], str(tiny_gpt2), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"model '{tiny_gpt2}' (gpt2) is a decoder-only model, the config wants an encoder-decoder"
    )
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((Path(models[1]) / name).read_bytes())
    assert main([models[0], str(bare), "no/such/folder", *arguments]) == 2
    error = capsys.readouterr().err
    assert f"folder '{bare}' has no tokenizer (tokenizer.json)" in error
    assert "no such folder: 'no/such/folder'" in error


def test_different_prompts_are_refused(
    run: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft, _, _ = extractions(compared)
    assert main([sft, str(run), "--output_path", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "sft and mine have texts for different prompts: 2 of 7 only of sft (such as 'the dog 5 looks at'); "
        "compare texts for the same split and number of prompts\n"
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_prompts_in_another_order_are_the_same(compared: Path, tmp_path: Path) -> None:
    content = torch.load(extractions(compared)[1], weights_only=True)
    rows = [
        {"prompt": prompt, "generated_text": texts[0], "metrics": {"lexical/chrf": float(values[0])}}
        for prompt, texts, values in zip(
            content["prompts"], content["all_generated_texts"], content["all_metric_values"]["lexical/chrf"],
            strict=True,
        )
    ]  # fmt: skip
    for name, order in (("plain", rows), ("turned", rows[::-1])):
        (tmp_path / f"{name}.json").write_text(json.dumps(order))
        arguments = [extractions(compared)[0], str(tmp_path / f"{name}.json")]
        assert main([*arguments, "--ridge", "1", "--output_path", str(tmp_path / name)]) == 0
    first, second = (rows_of(tmp_path / name / "win_rates.csv") for name in ("plain", "turned"))
    assert first[0] | {"model": ""} == second[0] | {"model": ""}

"""A reward model judged by the texts of an extraction: from the command line, and for a training's log."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from extraction_settings import write_extraction
from reward_runs import reward_config, start_reward_run

from common.config import validate
from common.run_dir import CheckpointError, RunDir
from diagnose_vanishing_gradients import main
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.extractions import find_extraction
from rft_diagnose.teacher import judge_teacher
from rl4lms import teacher
from rl4lms.config import TrainConfig, load_extract_config, resolved
from rl4lms.extract import extract
from rl4lms.model.reward_model import RewardModel
from rl4lms.teacher import TeacherError, identify, read_texts, score_once, teacher_report

INPUTS, EACH = 6, 5


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .pt of 5 texts for each of 6 prompts."""
    folder = tmp_path_factory.mktemp("extraction")
    path = write_extraction(folder, INPUTS)
    fields: dict[str, Any] = yaml.safe_load(path.read_text())
    fields["evaluation"] |= {"num_samples_per_input": EACH, "metrics": [{"id": "chrf"}, {"id": "ter"}]}
    path.write_text(yaml.safe_dump(fields))
    config = load_extract_config(path)
    with RunDir.create(folder / "out", "mine", resolved(config), {}) as run:
        return extract(config, run).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "my_reward"
    RewardModel.start(str(tiny_gpt2), "causal", tokenizer_name=str(tiny_gpt2)).save(folder)
    return folder


def test_a_reward_model_is_diagnosed_and_judged(
    tmp_path: Path,
    extraction: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    command = [str(extraction), "--reward_model", str(folder), "--output_path", str(output)]
    assert main(command) == 0
    content = torch.load(extraction, weights_only=True)
    model = RewardModel.load(str(folder))
    expected = np.array(
        [
            model.score([prompt] * EACH, texts)
            for prompt, texts in zip(content["prompts"], content["all_generated_texts"], strict=True)
        ]
    )
    summary = json.loads((output / "summary.json").read_text())
    assert summary["diagnosed"] == "reward model my_reward"
    assert summary["rewards"]["reward model my_reward"]["mean"] == pytest.approx(expected.mean(), abs=1e-5)
    gold = content["all_metric_values"]["lexical/chrf"].double().numpy()
    judged = judge_teacher(expected, gold, "lexical/chrf")
    for name, value in summary["teacher"].items():
        if name != "best_of_n":
            assert value == pytest.approx(judged.summary[name], abs=1e-4), name
    assert summary["teacher"]["best_of_n"][-1] == pytest.approx(judged.summary["best_of_n"][-1], abs=1e-4)
    rows = list(csv.DictReader((output / "inputs.csv").open()))
    assert [float(row["normalised_std"]) for row in rows] == pytest.approx(judged.std.tolist(), abs=1e-4)
    for stem in ("teacher_std", "best_of_n"):
        assert {path.suffix for path in output.glob(f"{stem}.*")} == {".png", ".pdf", ".csv", ".json"}
    page, printed = (output / "report.html").read_text(), " ".join(capsys.readouterr().out.split())
    for text in (page, printed):
        assert "pairs of texts that lexical/chrf tells apart" in text
        assert "gold, which it is compared with, is the extraction" in text
    assert "As a teacher" in page and page.count("<img") == 5

    # Gold is whatever --reward names; without a reward model nothing is said of a teacher.
    monkeypatch.setattr(RewardModel, "load", None)  # the scores are there
    assert main([*command, "--reward", "lexical/ter"]) == 0
    assert json.loads((output / "summary.json").read_text())["teacher"]["gold"] == "lexical/ter"
    assert main([str(extraction), "--output_path", str(output)]) == 0
    assert json.loads((output / "summary.json").read_text())["teacher"] is None
    assert not (output / "best_of_n.png").exists() and (output / "reward_model_scores.jsonl").exists()


def test_a_second_call_reads_the_scores_of_the_first(
    tmp_path: Path, extraction: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "PROMPTS_AT_A_TIME", 2)
    sampled, file, loads, seen = read_texts(extraction), tmp_path / "scores.jsonl", [], []

    def load() -> RewardModel:
        loads.append(1)
        return RewardModel.load(str(folder))

    first = score_once(load, identify(str(folder)), sampled, file, seen.append)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert first.shape == (INPUTS, EACH) and seen == [2, 4, 6]
    assert [row["input"] for row in rows] == sampled.ids
    assert [row["rewards"] for row in rows] == first.tolist()
    # A killed process leaves a torn line, and what it lacked is computed again.
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert (score_once(load, identify(str(folder)), sampled, file, seen.append) == first).all()
    assert len(loads) == 2 and len(file.read_text().splitlines()) == INPUTS
    assert (score_once(load, identify(str(folder)), sampled, file) == first).all() and len(loads) == 2
    # Another model, whatever it is called, has scores of its own.
    model = RewardModel.load(str(folder))
    model.bias = 3.0
    before = identify(str(folder))
    model.save(tmp_path / "other")
    assert identify(str(tmp_path / "other")) != before
    other = score_once(lambda: model, identify(str(tmp_path / "other")), sampled, file)
    assert other == pytest.approx(first + 3, abs=1e-5)
    assert len(file.read_text().splitlines()) == 2 * INPUTS


def test_a_model_of_the_hub_goes_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "load_config", lambda name: {})
    path = "/cache/models--a--b/snapshots/0123abcd/config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: path)
    assert identify("a/b") == "a/b@0123abcd"


def test_the_report_for_a_training_s_log(extraction: Path, folder: Path) -> None:
    model = RewardModel.load(str(folder))
    run = extraction.with_suffix("")
    assert run.is_dir() and find_extraction(run) == find_extraction(run.parent) == extraction
    summary, lines = teacher_report(model, run, batch_size=7)
    assert json.loads(json.dumps(summary)) == summary and summary["gold"] == "lexical/chrf"
    assert lines[0] == f"as a teacher of the policy of {extraction.name} (6 prompts, 5 texts each):"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "reward std within prompts",
        "variance within prompts",
        "dead prompts",
        "accuracy on the policy's texts",
        "best of 5 by it",
    ]


def test_a_training_ends_with_it(tmp_path: Path, extraction: Path, tiny_gpt2: Path) -> None:
    data = reward_config(tiny_gpt2, epochs=1)
    data["alg"]["policy_samples"] = str(extraction)
    path = start_reward_run(tmp_path, data)
    (file,), (model,) = path.glob("*teacher.json"), path.glob("*model")
    summary, _ = teacher_report(RewardModel.load(str(model)), extraction)
    written = json.loads(file.read_text())
    assert written.keys() == summary.keys() and written["texts_per_prompt"] == EACH
    assert written["std"] == pytest.approx(summary["std"], rel=1e-3)
    data["alg"]["policy_samples"] = str(tmp_path / "nothing")
    _, problems = validate(TrainConfig, data)
    assert [problem.path for problem in problems] == ["alg.policy_samples"]


def test_a_report_without_texts_is_one_clear_error(tmp_path: Path, extraction: Path, folder: Path) -> None:
    model = RewardModel.load(str(folder))
    with pytest.raises(TeacherError, match=r"nothing: no such file"):
        teacher_report(model, tmp_path / "nothing")
    content = torch.load(extraction, weights_only=True)
    texts = [row[:1] for row in content["all_generated_texts"]]
    metrics = {name: values[:, :1] for name, values in content["all_metric_values"].items()}
    torch.save(content | {"all_generated_texts": texts, "all_metric_values": metrics}, tmp_path / "one.pt")
    with pytest.raises(TeacherError, match=r"one.pt: a reward model is judged by two texts or more of each"):
        teacher_report(model, tmp_path)


def test_a_config_s_texts_are_sampled_and_penalised(tmp_path: Path, folder: Path) -> None:
    """The KL of the policy to itself is 0, so that what is optimised is the reward model's reward."""
    output, config = tmp_path / "out", write_extraction(tmp_path, 3)
    command = ["--config_path", str(config), "--reward_model", str(folder), "--output_path", str(output)]
    assert main([*command, "--kl_coef", "0.5", "--reference", str(tmp_path / "model")]) == 0
    summary = json.loads((output / "summary.json").read_text())
    name = "reward model my_reward"
    assert list(summary["rewards"]) == [f"{name} - 0.5 KL", name]
    means = [row["mean"] for row in summary["rewards"].values()]
    assert means[0] == pytest.approx(means[1], abs=1e-4)
    assert summary["teacher"]["gold"] == "lexical/rouge_l_max"


def test_texts_before_and_after_are_scored_by_one_model(
    tmp_path: Path, extraction: Path, folder: Path
) -> None:
    output = tmp_path / "out"
    command = [str(extraction.with_suffix("")), "--before", str(extraction), "--reward_model", str(folder)]
    assert main([*command, "--output_path", str(output)]) == 0
    comparison = json.loads((output / "summary.json").read_text())["comparison"]
    assert comparison["inputs"] == INPUTS and comparison["mean_before"] == comparison["mean_after"]
    assert len((output / "reward_model_scores.jsonl").read_text().splitlines()) == INPUTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{pt}", "--reward_model", "{gpt2}"], "--reward_model: model '{gpt2}' is no reward model"),
        (["{pt}", "--reward_model", "<model of a/b.yml>"], "still the placeholder"),
        (["{csv}", "--reward_model", "{model}"], "{csv} is no extraction's .pt file, which has the texts"),
        (
            ["{empty}", "--reward_model", "{model}"],
            "{empty}: name the .pt file of one extraction; in this fol",
        ),
        (["nothing.pt", "--reward_model", "{model}"], "nothing.pt: no such file"),
        (
            ["{pt}", "--reward_model", "{model}", "--reward", "chrF"],
            "no column 'chrF' (--reward); there are: lexical/chrf, l",
        ),
        (
            ["{pt}", "--reward_model", "{model}", "--reward", "lexical/chrf", "lexical/ter"],
            "--reward: a reward model is judged by one other reward, got lexical/chrf, lexical/ter",
        ),
    ],
)
def test_mistakes_exit_2_with_one_line(
    tmp_path: Path, extraction: Path, folder: Path, tiny_gpt2: Path,
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str,
) -> None:  # fmt: skip
    (tmp_path / "t.csv").write_text("prompt,reward\na,1\na,0\n")
    (tmp_path / "empty").mkdir()
    places = {
        "pt": extraction, "model": folder, "gpt2": tiny_gpt2,
        "csv": tmp_path / "t.csv", "empty": tmp_path / "empty",
    }  # fmt: skip
    filled = [text.format(**places) for text in arguments]
    assert main([*filled, "--output_path", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message.format(**places) in printed and len(printed.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_gradients_go_without_a_reward_model(extraction: Path, folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(extraction), "--reward_model", str(folder), "--gradients", "4"])
    assert stop.value.code == 2


def test_files_that_are_no_extraction_s(tmp_path: Path, extraction: Path) -> None:
    content = torch.load(extraction, weights_only=True)
    for changes, message in (
        ({"prompts": content["prompts"][:2]}, "its texts are not as many for each prompt"),
        ({"all_metric_values": {"a": torch.zeros(6, 2)}}, "its rewards are not those of its texts"),
    ):
        torch.save(content | changes, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=message):
            read_texts(tmp_path / "x.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="is no extraction's file: it lacks ids, prompts"):
        read_texts(tmp_path / "x.pt")
    torch.save({}, tmp_path / "y.pt")
    with pytest.raises(DiagnosisError, match=r"there are several: x.pt, y.pt"):
        find_extraction(tmp_path)

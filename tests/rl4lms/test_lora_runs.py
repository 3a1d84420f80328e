"""Trainings with LoRA: what each algorithm leaves, cut and resumed, and on the folder of an adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import save_adapter_of
from extraction_settings import write_extraction
from on_policy_jobs import PREFIX, all_rows, checkpoint, job, resume, rows, start
from reward_runs import reward_config, start_reward_run, train_reward_model
from tiny_models import edit_json
from torch.testing import assert_close
from training_runs import config_of, new_run, rows_of, save_data, setup_of, supervised_config

import rl4lms_extract_samples_from_model_runner as runner
from common.run_dir import CheckpointError, RunDir, load_checkpoint
from rl4lms.compare.sources import find_sources, load_sampling_config
from rl4lms.config import load_extract_config, resolved
from rl4lms.errors import TrainingInterrupted
from rl4lms.extract import extract
from rl4lms.model.load import load_model, load_tokenizer, save_model_folder
from rl4lms.model.lora import load_trained_state
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.reward_model import RewardModel
from rl4lms.sft.checkpoints import checkpoints_in
from rl4lms.sft.train import train as train_supervised

pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("no_plots_and_no_fsync")

LORA = "alg__policy__args__lora"
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("alg", "model", "changes"),
    [
        ("ppo", "tiny_gpt2", {LORA: {"r": 4}, "alg__args__ema_decay": 0.9}),
        ("nlpo", "tiny_t5", {LORA: {"r": 2, "value_model": "shared"}}),
        ("grpo", "tiny_gpt2", {LORA: {"r": 4}, "alg__kl_div__coeff": 0.1}),
    ],
    ids=["ppo", "nlpo", "grpo"],
)
def test_a_run_that_is_cut_ends_as_one_that_is_not(
    alg: str, model: str, changes: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    config = job(tmp_path, folder, alg, train_evaluation__n_iters=3, **changes)
    whole = start(tmp_path, config)
    first = rows(whole, "rollout_info")[0]
    assert first["rollout_info/kl_div_mean"] == 0, "the reference is the start"
    stops = iter([False, True])
    with pytest.raises(TrainingInterrupted):
        start(tmp_path / "cut", config, should_stop=lambda: next(stops, False))
    (path,) = (tmp_path / "cut" / "runs").iterdir()
    run = resume(path, config)
    found, expected = checkpoint(run), checkpoint(whole)
    assert found["iteration"] == 3 and all("lora_" in n or n.startswith("value_head") for n in found["model"])
    assert any(weight.any() for name, weight in found["model"].items() if "lora_B" in name)
    assert_close(found, expected, rtol=0, atol=0)
    assert all_rows(run) == all_rows(whole)
    assert (run.path / f"{PREFIX}model" / WEIGHTS).read_bytes() == (
        whole.path / f"{PREFIX}model" / WEIGHTS
    ).read_bytes()


def test_ppo_after_lora_starts_from_the_adapter_and_its_copy_is_the_reference(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    sft = save_adapter_of(tiny_gpt2, "causal", tmp_path / "sft")
    config = job(tmp_path, sft, **{LORA: {"r": 16}}, train_evaluation__n_iters=2)
    assert config.notices()[0] == (
        f"alg.policy.args.model_name: training goes on with the adapter in {str(sft)!r}, whose rank, alpha "
        "and layers hold"
    )
    run = start(tmp_path, config)
    kl = [row["rollout_info/kl_div_mean"] for row in rows(run, "rollout_info")]
    assert kl[0] == 0 and kl[1] != 0
    model = run.path / f"{PREFIX}model"
    settings = json.loads((model / "adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["base_model_name_or_path"] == str(tiny_gpt2)
    start_model, end = (
        load_model(str(folder), "causal", torch.float32, "cpu", LoraSettings()) for folder in (sft, model)
    )
    pairs = zip(start_model.named_parameters(), end.named_parameters(), strict=True)
    changed = {name for (name, a), (_, b) in pairs if not torch.equal(a, b)}
    assert changed == {name for name, _ in end.named_parameters() if "lora_" in name}


def test_an_adapter_without_lora_is_merged_and_all_weights_are_trained(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    sft = save_adapter_of(tiny_gpt2, "causal", tmp_path / "sft")
    config = job(tmp_path, sft, "grpo", train_evaluation__n_iters=1)
    assert "is merged, and all weights are trained" in config.notices()[0]
    run = start(tmp_path, config)
    assert (run.path / f"{PREFIX}model" / "model.safetensors").is_file()


def test_merge_leaves_a_whole_model(tiny_t5: Path, tmp_path: Path) -> None:
    config = job(tmp_path, tiny_t5, **{LORA: {"r": 4, "merge": True}}, train_evaluation__n_iters=1)
    run = start(tmp_path, config)
    folder = run.path / f"{PREFIX}model"
    assert not (folder / "adapter_config.json").exists()
    model = load_model(str(folder), "seq2seq", torch.float32, "cpu")
    assert not any("lora_" in name for name, _ in model.named_parameters())
    before = load_model(str(tiny_t5), "seq2seq", torch.float32, "cpu")
    pairs = zip(model.named_parameters(), before.named_parameters(), strict=True)
    changed = {name.split(".")[-2] for (name, a), (_, b) in pairs if not torch.equal(a, b)}
    assert changed and changed <= {"q", "k", "v", "o", "wi", "wo"}


# Supervised finetuning


def sft_config(model: Path, data: Path, **lora: Any) -> Any:
    raw = supervised_config(model, data, "causal", num_train_epochs=1)
    raw["alg"]["lora"] = {"r": 4, "dropout": 0.2, **lora}
    return config_of(raw)


@pytest.mark.parametrize("cut_after", [3, 4])
def test_supervised_finetuning_that_is_cut_ends_as_one_that_is_not(
    cut_after: int, tiny_gpt2: Path, tmp_path: Path
) -> None:
    config = sft_config(tiny_gpt2, save_data(tmp_path / "data"))
    with new_run(tmp_path / "whole", config) as whole:
        train_supervised(setup_of(config, whole))
    with new_run(tmp_path / "cut", config) as run:
        done = lambda: len(rows_of(run.path, "training_info")) >= cut_after - 1  # noqa: E731
        with pytest.raises(TrainingInterrupted):
            train_supervised(setup_of(config, run, should_stop=done))
        newest = checkpoints_in(run.checkpoints_path)[-1]
    assert (newest / WEIGHTS).is_file() and not list(newest.glob("model*"))
    with RunDir.open(run.path) as again:
        train_supervised(setup_of(config, again))
    files = [path / "mine_model" / WEIGHTS for path in (run.path, whole.path)]
    assert files[0].read_bytes() == files[1].read_bytes()
    for name in ("training_info", "val_split_metrics", "test_split_metrics"):
        assert rows_of(run.path, name) == rows_of(whole.path, name)


def test_a_checkpoint_of_another_rank_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    data = save_data(tmp_path / "data")
    with new_run(tmp_path, sft_config(tiny_gpt2, data)) as run:
        done = lambda: len(rows_of(run.path, "training_info")) >= 1  # noqa: E731
        with pytest.raises(TrainingInterrupted):
            train_supervised(setup_of(sft_config(tiny_gpt2, data), run, should_stop=done))
    with RunDir.open(run.path) as again, pytest.raises(CheckpointError, match=r"must be \[8, 32\]"):
        train_supervised(setup_of(sft_config(tiny_gpt2, data, r=8), again))


# Reward models


@pytest.mark.parametrize(("model", "kind"), [("tiny_gpt2", "causal"), ("tiny_t5", "seq2seq")])
def test_a_reward_model_is_trained_cut_resumed_and_read_again(
    model: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("record", "train"):
        monkeypatch.setattr(f"rl4lms.reward_model.{name}.draw_training", lambda *_: None)
    folder = request.getfixturevalue(model)
    config = reward_config(folder, kind, dropout=True, epochs=1, learning_rate=1e-2)
    config["alg"]["lora"] = {"r": 4, "dropout": 0.1}
    whole = start_reward_run(tmp_path / "whole", config)
    stops = iter([False, True])
    with pytest.raises(TrainingInterrupted):
        start_reward_run(tmp_path / "cut", config, should_stop=lambda: next(stops, False))
    (path,) = (tmp_path / "cut").iterdir()
    train_reward_model(path, config_of(config))
    newest = [sorted((p / "mine_checkpoints").glob("*.pt"))[-1] for p in (path, whole)]
    found, expected = map(load_checkpoint, newest)
    assert_close(found, expected, rtol=0, atol=0)
    assert all("lora_" in name or name == "model.score.weight" for name in found["model"])
    saved = whole / "mine_model"
    assert (saved / WEIGHTS).is_file() and not (saved / "model.safetensors").exists()
    loaded = RewardModel.load(str(saved))
    with torch.no_grad():
        start_model = RewardModel.start(
            str(folder),
            kind,
            tokenizer_name=str(folder),
            lora=LoraSettings(r=4),  # type: ignore[arg-type]
        )
    load_trained_state(start_model, expected["model"])
    start_model.bias, start_model.scale = loaded.bias, loaded.scale
    assert loaded.bias != 0
    texts = (["the dog"] * 3, [" looks", " sings about us", " the river"])
    scores = loaded.score(*texts)
    assert scores == pytest.approx(start_model.score(*texts), rel=1e-4, abs=1e-4)
    assert len(set(scores)) == 3


# Adapters' folders in the other jobs


@pytest.fixture
def extraction(tmp_path: Path) -> tuple[Path, Path]:
    """The config of an extraction with a tiny T5, and the folder of an adapter of it."""
    config = write_extraction(tmp_path)
    return config, save_adapter_of(tmp_path / "model", "seq2seq", tmp_path / "adapter", r=8)


def test_an_extraction_samples_the_merged_model(
    extraction: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, adapter = extraction
    tokenizer = load_tokenizer(str(adapter))
    whole = tmp_path / "whole"
    save_model_folder(whole, load_model(str(adapter), "seq2seq", torch.float32, "cpu"), tokenizer)
    monkeypatch.chdir(tmp_path)
    texts = []
    for name in (adapter, whole, tmp_path / "model"):
        loaded = load_extract_config(config, [f"alg.model_name={name}", f"tokenizer.model_name={name}"])
        with RunDir.create(tmp_path / "runs", name.name, resolved(loaded), {}) as run:
            extract(loaded, run)
        texts.append((run.path / "texts.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_comparison_takes_an_adapter_for_a_model(extraction: tuple[Path, Path], tmp_path: Path) -> None:
    config, adapter = extraction
    sources = find_sources([str(adapter), str(tmp_path / "model")], "test", makes=True)
    assert [(source.kind, source.name) for source in sources] == [
        ("model", str(adapter)), ("model", str(tmp_path / "model"))
    ]  # fmt: skip
    assert load_sampling_config(config, [], sources).alg.model_name == str(adapter)


def test_a_missing_base_ends_with_status_2_and_one_line(
    extraction: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, adapter = extraction
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    flags = ["--config_path", str(config), "--set", f"alg.model_name={adapter}"]
    for more in ([], ["--check"]):
        assert runner.main([*flags, *more]) == 2
        first, problem = capsys.readouterr().err.splitlines()
        assert first == f"{config}: 1 problem" and problem.split(maxsplit=2)[1:] == [
            "alg.model_name",
            f"folder {str(adapter)!r} holds an adapter (LoRA) of {str(tmp_path / 'gone')!r}, which cannot be "
            f"used: no such folder: {str(tmp_path / 'gone')!r}; a model folder holds config.json, "
            "model.safetensors and tokenizer.json",
        ]

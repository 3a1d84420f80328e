"""`runtime.weights: bfloat16`: what is loaded, trained, compared with, saved and counted in it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import needs_peft
from on_policy_jobs import PREFIX, job, rows, start
from safetensors.torch import load_file
from training_runs import config_of, new_run, save_data, setup_of, supervised_config

from common.config import parse_path, set_value, validate
from rl4lms.config import TrainConfig
from rl4lms.errors import TrainingInterrupted
from rl4lms.memory import Sizes, count_weights, memory_lines
from rl4lms.model.load import load_model
from rl4lms.model.policy import PolicyModel
from rl4lms.model.reward_model import RewardModel
from rl4lms.sft.train import train as train_supervised

pytestmark = pytest.mark.usefixtures("no_plots_and_no_fsync")
BFLOAT16 = {"runtime__weights": "bfloat16"}


def types_in(folder: Path, name: str = "model.safetensors") -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(folder / name).values()}


@pytest.mark.parametrize(("alg", "model"), [("ppo", "tiny_gpt2"), ("grpo", "tiny_t5")])
def test_the_start_is_the_reference_and_the_model_is_saved_in_bfloat16(
    alg: str, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    changes = {"alg__kl_div__coeff": 0.1, "train_evaluation__n_iters": 2} | BFLOAT16
    folder = request.getfixturevalue(model)
    run = start(tmp_path, job(tmp_path, folder, alg, **changes))
    kl = [row["rollout_info/kl_div_mean"] for row in rows(run, "rollout_info")]
    assert kl[0] == 0 and kl[1] != 0
    saved = run.path / f"{PREFIX}model"
    assert types_in(saved) == {torch.bfloat16} and types_in(folder) == {torch.float32}


@needs_peft
def test_adapters_beside_bfloat16_weights_are_float32(tiny_gpt2: Path, tmp_path: Path) -> None:
    changes = {"alg__policy__args__lora": {"r": 4}, "alg__args__ema_decay": 0.9, **BFLOAT16}
    run = start(tmp_path, job(tmp_path, tiny_gpt2, train_evaluation__n_iters=2, **changes))
    kl = [row["rollout_info/kl_div_mean"] for row in rows(run, "rollout_info")]
    assert kl[0] == 0 and kl[1] != 0
    assert types_in(run.path / f"{PREFIX}model", "adapter_model.safetensors") == {torch.float32}


def test_new_heads_are_float32(tiny_gpt2: Path) -> None:
    policy = PolicyModel.load(str(tiny_gpt2), "causal", dtype=torch.bfloat16)
    assert policy.value_head is not None and policy.value_head.weight.dtype == torch.float32
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.bfloat16}
    reward = RewardModel.start(str(tiny_gpt2), "causal", tokenizer_name=str(tiny_gpt2), dtype=torch.bfloat16)
    float32 = {name for name, weight in reward.named_parameters() if weight.dtype == torch.float32}
    assert float32 == {"model.score.weight"}
    scores = reward.score(["the dog"] * 2, [" looks at us", " sings"])
    plain = RewardModel.start(str(tiny_gpt2), "causal", tokenizer_name=str(tiny_gpt2))
    assert scores == pytest.approx(plain.score(["the dog"] * 2, [" looks at us", " sings"]), abs=0.1)


def test_supervised_finetuning_cut_and_resumed_is_the_same_in_bfloat16(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    raw = supervised_config(tiny_gpt2, save_data(tmp_path / "data"), "causal", num_train_epochs=1)
    config = config_of(raw | {"runtime": {"weights": "bfloat16"}})
    with new_run(tmp_path / "whole", config) as whole:
        train_supervised(setup_of(config, whole))
    with new_run(tmp_path / "cut", config) as run:
        asked = iter([False, True])
        with pytest.raises(TrainingInterrupted):
            train_supervised(setup_of(config, run, should_stop=lambda: bool(run.rows(
                f"{run.prefix}training_info.jsonl", "epoch").read()) and next(asked, False)))  # fmt: skip
        train_supervised(setup_of(config, run))
    files = [path / "mine_model" / "model.safetensors" for path in (run.path, whole.path)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert types_in(files[0].parent) == {torch.bfloat16}
    model = load_model(str(files[0].parent), "causal", torch.bfloat16, "cpu")
    before = load_model(str(tiny_gpt2), "causal", torch.bfloat16, "cpu")
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def problems(data: dict[str, Any], **values: Any) -> dict[str, str]:
    for path, value in values.items():
        set_value(data, parse_path(path.replace("__", ".")), value)
    return {problem.path: problem.message for problem in validate(TrainConfig, data)[1]}


def test_an_average_that_could_not_move_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    data = job(tmp_path, tiny_gpt2).model_dump()
    assert problems(data, alg__args__ema_decay=0.9) == {}
    assert problems(data, runtime__weights="bfloat16") == {
        "alg.args.ema_decay": "must be null with runtime.weights: bfloat16, too coarse for an average to move"
    }


def test_what_bfloat16_loses_is_said(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl4lms.model.lora_config.peft_problem", lambda: None)
    notice = (
        "runtime.weights: bfloat16 loses steps of less than about 1/256 of a weight, most of them at low "
        "learning rates; with lora the adapters are float32"
    )
    assert notice in job(tmp_path, tiny_gpt2, **BFLOAT16).notices()
    assert notice not in job(tmp_path, tiny_gpt2).notices()
    config = job(tmp_path, tiny_gpt2, alg__policy__args__lora={"r": 4}, **BFLOAT16)
    assert notice not in config.notices()


def test_memory_is_counted_by_type_and_by_what_is_shared(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 million weights and adapters of one million: 4 bytes a number, or 2."""
    monkeypatch.setattr("rl4lms.model.lora_config.peft_problem", lambda: None)
    plain, adapted = Sizes(10_000_000), Sizes(10_000_000, 1_000_000)
    lora = {"alg__policy__args__lora": {"r": 4}}
    shared = {"alg__policy__args__lora": {"r": 4, "value_model": "shared"}}

    def lines(sizes: Sizes, **changes: Any) -> list[str]:
        return [line.partition(";")[0] for line in memory_lines(job(tmp_path, tiny_gpt2, **changes), sizes)]

    both = "policy (weights, gradients, AdamW), value model (weights, gradients, AdamW), reference"
    start = "a process without activations, of"
    assert lines(plain) == [
        f"memory: 0.4 GB {start} 10,000,000 weights each: {both}", "a checkpoint: 0.2 GB"
    ]  # fmt: skip
    assert lines(plain, **BFLOAT16) == [
        f"memory: 0.2 GB {start} 10,000,000 weights each, bfloat16: {both}", "a checkpoint: 0.1 GB"
    ]  # fmt: skip
    each = "10,000,000 weights, frozen and shared, and adapters of 1,000,000 each"
    assert lines(adapted, **lora) == [
        f"memory: 76.0 MB {start} {each}: {both}", "a checkpoint: 24.0 MB"
    ]  # fmt: skip
    assert lines(adapted, **lora, **BFLOAT16) == [
        f"memory: 56.0 MB {start} {each}, the frozen ones bfloat16, adapters float32: {both}",
        "a checkpoint: 24.0 MB",
    ]
    assert lines(adapted, **shared) == [
        f"memory: 60.0 MB {start} {each}: policy with value head (weights, gradients, AdamW), reference",
        "a checkpoint: 12.0 MB",
    ]


def test_weights_are_counted_without_loading_them(tiny_gpt2: Path, tmp_path: Path) -> None:
    from rl4lms.model.lora_config import LoraSettings

    model = load_model(str(tiny_gpt2), "causal", torch.float32, "cpu")
    weights = sum(weight.numel() for weight in model.parameters())
    assert count_weights(str(tiny_gpt2), "causal") == Sizes(weights)
    settings = LoraSettings.model_construct(r=2, target_modules=["c_attn"])
    assert count_weights(str(tiny_gpt2), "causal", settings) == Sizes(weights, 2 * 2 * (32 + 96))

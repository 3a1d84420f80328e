"""Supervised finetuning: rows, learning, checkpoints, resuming, what it leaves."""

import json
import math
import shutil

import pytest
import torch
from tiny_models import TEXTS, save_tiny_gpt2, save_tiny_t5
from training_runs import config_of, new_run, rows_of, save_data, setup_of, supervised_config

from common.run_dir import CheckpointError, RunDir
from rl4lms.model.generation import Decoding, generate
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.run_setup import DivergenceError, TrainingDataError, TrainingInterrupted
from rl4lms.samples import Sample
from rl4lms.sft.checkpoints import checkpoints_in, delete_older, newest_checkpoint
from rl4lms.sft.train import train
from rl4lms.sft.trainer import Rows, collate, trainer_arguments

SAMPLES = [
    Sample(0, "the old dog", ["runs after us.", "looks at water."]),
    Sample(1, "nobody knows the teacher, the river, his friends or some children,", ["my sister"]),
    Sample(2, "without references", []),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_data(tmp_path_factory.mktemp("data"))


# Rows


def test_rows_of_seq2seq_are_prompt_and_reference(tiny_t5):
    tokenizer = load_tokenizer(str(tiny_t5))
    rows = Rows(SAMPLES, "seq2seq", tokenizer, "right", None)
    assert len(rows) == 3
    for row, (prompt, reference) in zip(
        [rows[i] for i in range(3)],
        [(s.prompt_or_input_text, text) for s in SAMPLES for text in s.references],
        strict=True,
    ):
        end = tokenizer.eos_token_id
        assert row["input_ids"] == [*tokenizer(prompt, add_special_tokens=False)["input_ids"], end]
        assert row["labels"] == [*tokenizer(reference, add_special_tokens=False)["input_ids"], end]


def test_rows_of_causal_models_are_the_joined_text_all_of_it_with_loss(tiny_gpt2):
    tokenizer = load_tokenizer(str(tiny_gpt2))
    row = Rows(SAMPLES, "causal", tokenizer, "right", None)[0]
    assert row["input_ids"] == row["labels"] == tokenizer("the old dogruns after us.")["input_ids"]
    ended = Rows(SAMPLES, "causal", tokenizer, "right", None, add_eos=True)[0]
    assert ended["input_ids"] == [*row["input_ids"], tokenizer.eos_token_id] == ended["labels"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_cut_on_the_given_side(tiny_gpt2, tiny_t5, side):
    for model, kind in ((tiny_gpt2, "causal"), (tiny_t5, "seq2seq")):
        tokenizer = load_tokenizer(str(model), truncation_side="left" if side == "right" else "right")
        whole = Rows(SAMPLES, kind, tokenizer, side, None)[2]["input_ids"]
        cut = Rows(SAMPLES, kind, tokenizer, side, 8)[2]["input_ids"]
        assert len(whole) > len(cut) == 8
        kept = cut[:-1] if kind == "seq2seq" else cut  # its end token stays
        of = whole[:-1] if kind == "seq2seq" else whole
        assert kept == (of[: len(kept)] if side == "right" else of[-len(kept) :])


def test_padding_is_masked_and_without_loss():
    batch = collate(0)(
        [{"input_ids": [5, 0, 7], "labels": [5, 0, 7]}, {"input_ids": [8], "labels": [8, 9, 4, 3]}]
    )
    assert batch["input_ids"].tolist() == [[5, 0, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    # Token 0 is padding here, as GPT-2's end token is, but in the text it counts.
    assert batch["labels"].tolist() == [[5, 0, 7, -100], [8, 9, 4, 3]]


def test_rows_are_cut_to_the_tokenizers_own_limit_and_not_to_max_length(tiny_gpt2, data, tmp_path):
    from rl4lms.sft.trainer import training_rows

    config = config_of(supervised_config(tiny_gpt2, data, "causal"))
    with new_run(tmp_path, config) as run:
        setup = setup_of(config, run)
        setup.train[0] = Sample("long", "water " * 200, ["us"])
        model = load_model(str(tiny_gpt2), "causal", torch.float32, "cpu")
        assert setup.tokenizer.model_max_length == 64
        assert len(training_rows(setup, model)[0]["input_ids"]) == 64
        setup.train[:] = SAMPLES[2:]
        with pytest.raises(TrainingDataError, match=r"no train sample has a reference to learn from$"):
            training_rows(setup, model)


# Arguments


def test_runtime_decides_seed_device_precision_and_checkpointing(tiny_t5, data, tmp_path):
    raw = supervised_config(tiny_t5, data, evaluation_strategy="epoch", weight_decay=0.1, save_total_limit=1)
    raw["runtime"] = {"seed": 7, "device": "cpu", "dtype": "bfloat16", "gradient_checkpointing": True}
    config = config_of(raw)
    arguments = trainer_arguments(config.alg, config.runtime, tmp_path / "trainer")
    assert (arguments.seed, arguments.data_seed, arguments.use_cpu, arguments.bf16) == (7, 7, True, True)
    assert arguments.activation_checkpointing
    assert arguments.device == torch.device("cpu")
    assert (arguments.weight_decay, arguments.per_device_train_batch_size) == (0.1, 8)
    assert arguments.eval_strategy == "no" and arguments.report_to == []


# Learning


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_it_learns_eight_rows_by_heart(kind, tmp_path):
    answers = ["water", "us", "some children", "the red house", "his friends", "a tree", "the nest", "nobody"]
    rows = [{"prompt": TEXTS[6 * i], "references": [f" {text}"]} for i, text in enumerate(answers)]
    data = save_data(tmp_path / "data")
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if kind == "seq2seq":
        model, rate, epochs = save_tiny_t5(tmp_path / "model", dropout_rate=0.0), 0.02, 80
    else:
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model, rate, epochs = save_tiny_gpt2(tmp_path / "model", **dropout), 0.01, 40
    arguments = {"num_train_epochs": epochs, "learning_rate": rate, "lr_scheduler_type": "constant"}
    raw = supervised_config(model, data, kind, save_strategy="no", logging_steps=1000, **arguments)
    raw["alg"]["add_eos"] = True
    raw["train_evaluation"]["metrics"] = []
    config = config_of(raw)
    with new_run(tmp_path, config) as run:
        setup = setup_of(config, run)
        train(setup)
        losses = [row["loss"] for row in rows_of(run.path, "training_info")]
        assert len(losses) == epochs and losses[-1] < 0.05 * losses[0]
        finetuned = load_model(str(setup.model_path), kind, torch.float32, "cpu")
        tokenizer = load_tokenizer(str(setup.model_path))
        decoding = Decoding(
            settings=GenerationSettings(max_new_tokens=20),
            max_prompt_length=None,
            truncation_side="right",
            batch_size=8,
        )
        prompts = [row["prompt"] for row in rows]
        texts = [text.strip() for (text,) in generate(finetuned, tokenizer, prompts, decoding)]
    assert texts == answers


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory):
    """A T5 and a GPT-2 without dropout, by kind."""
    folder = tmp_path_factory.mktemp("without_dropout")
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {
        "seq2seq": save_tiny_t5(folder / "t5", dropout_rate=0.0),
        "causal": save_tiny_gpt2(folder / "gpt2", **dropout),
    }


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_the_loss_is_the_mean_over_predicted_tokens_however_the_batch_is_cut(
    kind, without_dropout, data, tmp_path
):
    """Gradient accumulation changes neither loss nor gradient nor weights."""
    model, norms = without_dropout[kind], {}
    tokenizer = load_tokenizer(str(model))
    for accumulation in (1, 4):
        arguments = {"per_device_train_batch_size": 8 // accumulation, "max_steps": 3}
        arguments |= {"gradient_accumulation_steps": accumulation, "train_sampling_strategy": "sequential"}
        raw = supervised_config(model, data, kind, optim="sgd", **arguments)
        raw["train_evaluation"]["metrics"] = []
        config = config_of(raw)
        with new_run(tmp_path / str(accumulation), config) as run:
            setup = setup_of(config, run)
            train(setup)
            norms[accumulation] = rows_of(run.path, "training_info")
    first = norms[1][0]
    before = load_model(str(model), kind, torch.float32, "cpu")
    rows = [Rows(setup.train, kind, tokenizer, "right", None)[i] for i in range(8)]
    assert len({len(row["labels"]) for row in rows}) > 1
    losses = [before(**collate(tokenizer.pad_token_id)([row])).loss for row in rows]
    counts = [len(row["labels"]) - (kind == "causal") for row in rows]
    expected = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    assert first["loss"] == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    gradient = torch.nn.utils.get_total_norm([p.grad for p in before.parameters()])
    assert first["grad_norm"] == pytest.approx(gradient.item(), rel=1e-4)
    for name in ("loss", "grad_norm"):
        one, cut = ([row[name] for row in norms[accumulation]] for accumulation in (1, 4))
        assert cut == pytest.approx(one, rel=1e-4)


# Checkpoints and resuming


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_t5, data):
    """The folder of an uninterrupted run of eight updates."""
    config = config_of(supervised_config(tiny_t5, data))
    with new_run(tmp_path_factory.mktemp("whole"), config) as run:
        train(setup_of(config, run, save_predictions=True))
    return run.path


FILES = ("training_info", "train_split_metrics", "val_split_metrics", "test_split_metrics")


def assert_same(path, whole):
    """The same weights, bit for bit, and the same rows."""
    first, second = (
        load_model(str(p / "mine_model"), "seq2seq", torch.float32, "cpu").state_dict() for p in (path, whole)
    )
    assert all(torch.equal(first[name], second[name]) for name in second)
    for name in FILES:
        assert rows_of(path, name) == rows_of(whole, name)


def test_what_a_run_leaves_behind(whole):
    rows = rows_of(whole, "training_info")
    assert [(row["epoch"], row["step"]) for row in rows] == [(step / 4, step) for step in range(1, 9)]
    assert all(math.isfinite(row[name]) for row in rows for name in ("loss", "learning_rate", "grad_norm"))
    # Before and after on all splits, on val at every third update.
    assert [row["epoch"] for row in rows_of(whole, "val_split_metrics")] == [0.0, 0.75, 1.5, 2.0]
    for split in ("train", "test"):
        assert [row["epoch"] for row in rows_of(whole, f"{split}_split_metrics")] == [0.0, 2.0]
    folders = [path.name for path in checkpoints_in(whole / "mine_checkpoints")]
    # At every save_steps, before each evaluation, at the end; save_total_limit is not given.
    assert folders == [f"checkpoint-{step}" for step in (2, 3, 4, 6, 8)]
    assert not (whole / "mine_checkpoints" / "unfinished").exists()
    config = json.loads((whole / "mine_model" / "config.json").read_text())
    assert config["use_cache"] is not False
    assert (whole / "mine_epoch_0.75_val_split_predictions.json").is_file()


@pytest.mark.parametrize("cut_after", [5, 8])
def test_stopped_and_resumed_equals_uninterrupted(cut_after, whole, tiny_t5, data, tmp_path):
    config = config_of(supervised_config(tiny_t5, data))
    with new_run(tmp_path, config) as run:
        done = lambda: len(rows_of(run.path, "training_info")) >= cut_after - 1  # noqa: E731
        with pytest.raises(TrainingInterrupted):
            train(setup_of(config, run, should_stop=done))
        assert checkpoints_in(run.checkpoints_path)[-1].name == f"checkpoint-{cut_after}"
    with RunDir.open(run.path) as again:
        train(setup_of(config, again))
    assert_same(run.path, whole)


@pytest.mark.parametrize("step", [3, 4])
def test_resumed_after_a_kill_equals_uninterrupted(step, whole, tiny_t5, data, tmp_path):
    """A kill while the next checkpoint is written: what came after the last whole one is done again."""
    path = tmp_path / "killed"
    shutil.copytree(whole, path, ignore=shutil.ignore_patterns(".lock", "mine_model"))
    for checkpoint in checkpoints_in(path / "mine_checkpoints"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    (path / "mine_checkpoints" / "unfinished" / "checkpoint-8").mkdir(parents=True)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["trained"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    config = config_of(supervised_config(tiny_t5, data))
    with RunDir.open(path) as run:
        train(setup_of(config, run))
    assert_same(path, whole)


def test_a_run_killed_between_training_and_its_model_needs_no_further_update(whole, tiny_t5, data, tmp_path):
    path = tmp_path / "killed"
    shutil.copytree(whole, path, ignore=shutil.ignore_patterns(".lock", "mine_model"))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["trained"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    config = config_of(supervised_config(tiny_t5, data))
    with RunDir.open(path) as run:
        train(setup_of(config, run))
    assert_same(path, whole)


def test_an_interrupted_last_evaluation_trains_nothing_again(whole, tiny_t5, data, tmp_path, monkeypatch):
    path = tmp_path / "evaluating"
    shutil.copytree(whole, path, ignore=shutil.ignore_patterns(".lock"))
    (path / "mine_test_split_metrics.jsonl").unlink()
    monkeypatch.setattr("rl4lms.sft.train.build_trainer", None)
    config = config_of(supervised_config(tiny_t5, data))
    with RunDir.open(path) as run:
        train(setup_of(config, run))
    assert rows_of(path, "test_split_metrics") == rows_of(whole, "test_split_metrics")[-1:]


def test_without_checkpoints_a_cut_run_begins_again(whole, tiny_t5, data, tmp_path):
    """save_strategy: no leaves none but that of a stop; after a kill there is nothing to go on from."""
    config = config_of(supervised_config(tiny_t5, data, save_strategy="no"))
    path = tmp_path / "killed"
    shutil.copytree(whole, path, ignore=shutil.ignore_patterns(".lock", "mine_model", "checkpoint-*"))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["trained"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with RunDir.open(path) as run:
        train(setup_of(config, run))
        assert checkpoints_in(run.checkpoints_path) == []
    assert_same(path, whole)


def test_old_checkpoints_are_deleted_as_the_config_says(tmp_path):
    for step in (500, 1000, 1500):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    for keep, left in ((None, [500, 1000, 1500]), (2, [1000, 1500]), (1, [1500]), (0, [1500])):
        delete_older(tmp_path, keep)
        assert [int(path.name[11:]) for path in checkpoints_in(tmp_path)] == left


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("trainer_state.json", lambda data: data[:100], "trainer_state.json cannot be read: "),
        ("optimizer.pt", lambda data: data[:-500], "optimizer.pt: cut off, overwritten"),
        ("model.safetensors", lambda data: data[:-500], "model.safetensors: "),
        ("scheduler.pt", None, "scheduler.pt is missing"),
        ("rng_state.pth", lambda data: b"", "rng_state.pth: the file is empty"),
    ],
)
def test_a_corrupt_checkpoint_is_named_and_so_is_the_older_one_to_use(whole, tmp_path, file, damage, reason):
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole / "mine_checkpoints", folder)
    newest = folder / "checkpoint-8"
    assert newest_checkpoint(folder) == newest
    content = (newest / file).read_bytes()
    (newest / file).unlink()
    if damage is not None:
        (newest / file).write_bytes(damage(content))
    with pytest.raises(CheckpointError) as error:
        newest_checkpoint(folder)
    assert str(error.value).startswith(f"corrupt checkpoint {newest}: {reason}")
    older = folder / "checkpoint-6"
    assert str(error.value).endswith(
        f". {older} is older and intact: delete the corrupt folder to continue from there"
    )
    shutil.rmtree(newest)
    assert newest_checkpoint(folder) == older


# Divergence


@pytest.fixture
def diverging(monkeypatch):
    """The third update's gradient is not finite."""
    from transformers import Trainer

    steps, original = [], Trainer.training_step

    def training_step(self, model, *args, **kwargs):
        loss = original(self, model, *args, **kwargs)
        steps.append(1)
        if len(steps) == 3:
            next(model.parameters()).grad[0] = math.inf
        return loss

    monkeypatch.setattr(Trainer, "training_step", training_step)


def test_divergence_stops_the_run_and_the_checkpoint_from_before_stays(diverging, tiny_t5, data, tmp_path):
    config = config_of(supervised_config(tiny_t5, data))
    with new_run(tmp_path, config) as run:
        with pytest.raises(DivergenceError) as error:
            train(setup_of(config, run))
        assert str(error.value) == (
            "the gradient of update 3 is not finite: lower alg.training_args.learning_rate, or set "
            "runtime.on_divergence: continue to leave such updates out"
        )
        assert newest_checkpoint(run.checkpoints_path).name == "checkpoint-2"
        assert len(rows_of(run.path, "training_info")) == 2
        assert not (run.path / "mine_model").exists()


def test_divergence_is_said_and_left_out_if_the_config_says_so(diverging, tiny_t5, data, tmp_path, caplog):
    raw = supervised_config(tiny_t5, data)
    raw["runtime"] = {"on_divergence": "continue"}
    config = config_of(raw)
    with new_run(tmp_path, config) as run:
        setup = setup_of(config, run)
        train(setup)
        assert "the gradient of update 3 is not finite: the update is left out" in caplog.text
        rows = rows_of(run.path, "training_info")
        assert len(rows) == 8 and all(math.isfinite(row["loss"]) for row in rows)
        weights = load_model(str(setup.model_path), "seq2seq", torch.float32, "cpu").parameters()
        assert all(weight.isfinite().all() for weight in weights)


# What comes after


def test_the_model_can_be_extracted_from(whole, data, tmp_path):
    from rl4lms.config import ExtractConfig, resolved
    from rl4lms.extract import extract

    raw = {
        "tokenizer": {"model_name": str(whole / "mine_model")},
        "datapool": {"id": "jsonl", "args": {"data_path": str(data)}, "num_train_samples": 4},
        "alg": {
            "model_type": "seq2seq",
            "model_name": str(whole / "mine_model"),
            "generation_kwargs": {"do_sample": True, "max_new_tokens": 4},
        },
        "evaluation": {"eval_batch_size": 8, "num_samples_per_input": 2, "metrics": [{"id": "chrf"}]},
    }
    config = ExtractConfig.model_validate(raw)
    with RunDir.create(tmp_path, "run", resolved(config), {}) as run:
        assert extract(config, run).rewards.shape == (4, 2)

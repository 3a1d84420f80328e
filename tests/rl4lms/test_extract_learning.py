"""From docstrings to reward statistics: a small T5 is trained, and its texts are better than before."""

import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import save_tiny_t5

from figures.runs import load_extraction
from rft_diagnose.statistics import RewardSummary, summarise
from rl4lms.datapools import load_datapool
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.samples import Sample
from rl4lms_extract_samples_from_model_runner import main

pytestmark = pytest.mark.usefixtures("docstring_cache")

DATA = {
    "form": "sentence_from_words",
    # Small packages with a few hundred docstrings between them.
    "packages": [
        "argparse",
        "asyncio",
        "email",
        "http",
        "importlib",
        "logging",
        "tkinter",
        "unittest",
        "xml",
    ],
}
INPUTS, GENERATIONS = 200, 10
STEPS, BATCH = 150, 32


def train(untrained: Path, samples: list[Sample], trained: Path) -> None:
    """Supervised finetuning in a few seconds."""
    tokenizer, model = (
        load_tokenizer(str(untrained)),
        load_model(str(untrained), "seq2seq", torch.float32, "cpu"),
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, STEPS)
    torch.manual_seed(0)
    order = torch.cat([torch.randperm(len(samples)) for _ in range(STEPS * BATCH // len(samples) + 1)])
    for batch in order[: STEPS * BATCH].split(BATCH):
        chosen = [samples[i] for i in batch.tolist()]
        inputs = tokenizer([s.prompt_or_input_text for s in chosen], padding=True, return_tensors="pt")
        labels = tokenizer([s.references[0] for s in chosen], padding=True, return_tensors="pt")["input_ids"]
        labels = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
        loss = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.save_pretrained(trained)
    tokenizer.save_pretrained(trained)


def statistics_of(model: Path, folder: Path) -> tuple[RewardSummary, float]:
    """The statistics that the runner leaves for a model, and the seconds that it took."""
    sampling = {"do_sample": True, "top_k": 50, "max_new_tokens": 24}
    config = {
        "tokenizer": {"model_name": str(model), "max_length": 512},
        "datapool": {
            "id": "python_docs",
            "args": DATA,
            "num_train_samples": INPUTS,
            "train_samples_rnd_seed": 7,
        },
        "alg": {"model_type": "seq2seq", "model_name": str(model), "generation_kwargs": sampling},
        "evaluation": {
            "eval_batch_size": 250,
            "num_samples_per_input": GENERATIONS,
            "metrics": [{"id": "rouge_l_max"}],
        },
        "runtime": {"device": "cpu"},
    }
    path = folder / f"{model.name}.yml"
    path.write_text(yaml.safe_dump(config))
    start = time.monotonic()
    output = folder / f"of_{model.name}"
    assert main(["--config_path", str(path), "--output_path", str(output)]) == 0
    seconds = time.monotonic() - start
    (result,) = output.glob("*.pt")
    rewards = load_extraction(result)["all_metric_values"]["lexical/rouge_l_max"]
    assert rewards.shape == (INPUTS, GENERATIONS)
    return summarise(rewards.double().numpy()), seconds


@pytest.mark.slow
def test_statistics_of_a_small_t5_trained_on_docstrings(tmp_path: Path) -> None:
    samples = load_datapool("python_docs", "train", DATA)
    texts = [text for sample in samples for text in (sample.prompt_or_input_text, *sample.references)]
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128}
    untrained = save_tiny_t5(tmp_path / "untrained", texts, vocab_size=600, **sizes)
    train(untrained, samples, tmp_path / "trained")
    (before, _), (after, seconds) = (
        statistics_of(tmp_path / name, tmp_path) for name in ("untrained", "trained")
    )
    assert seconds < 60  # measured: 2
    assert (after.inputs, after.generations) == (INPUTS, GENERATIONS)
    assert 0 <= before.mean and 3 * before.mean < after.mean < 0.9
    assert after.std > before.std > 0
    # Fewer inputs are left whose ten texts are all equally bad.
    assert after.small_low < before.small_low / 2

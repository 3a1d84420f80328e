"""How good a model is on text that it was not trained on: losses, what it writes, and their curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.plots import Curve, Panel, save_panels
from common.seeding import derive_seed
from paper.small_models.config import PretrainConfig
from paper.small_models.corpus import Corpus, collate, draw, encode
from paper.small_models.models import target_logits
from rft_diagnose.style import CURVE_COLORS, house_style
from rl4lms.metrics.learned import learned_reward
from rl4lms.model.generation import Decoding, generate
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import autocast, load_model, load_tokenizer
from rl4lms.text import TextBatch
from rl4lms.text_tasks import Example

EXAMPLES = {"seq2seq": 512, "causal": 512, "classifier": 4096}
SAMPLES, SAMPLE_TOKENS = 2, 40  # of each task


def evaluate(
    config: PretrainConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: Corpus
) -> dict[str, float]:
    """Loss per token (nats) of held-out examples, and each task's loss and accuracy of tokens.

    The examples are the same each time, with the mixture of training.
    """
    examples = held_out_examples(config, held_out)
    rows = measure_examples(config, model, tokenizer, [example for _, example in examples])
    # Task -> summed loss, right tokens, tokens.
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
    for (task, _), row in zip(examples, rows, strict=True):
        sums[task] += row
    loss, _, tokens = torch.stack(list(sums.values())).sum(0)
    result = {"loss": (loss / tokens).item()}
    for task, (loss, right, tokens) in sorted(sums.items()):
        result[f"{task} loss"] = (loss / tokens).item()
        result[f"{task} accuracy"] = (right / tokens).item()
    return result


@torch.no_grad()
def measure_examples(
    config: PretrainConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
) -> Tensor:
    """Sum over each example's target the loss (nats), the tokens that are right, and all: [N, 3]."""
    model.eval()
    rows = encode(examples, tokenizer, config)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    sums = torch.zeros(len(rows), 3, dtype=torch.float64)
    for start in range(0, len(order), config.alg.batch_size):
        part = order[start : start + config.alg.batch_size]
        batch = collate([rows[i] for i in part]).to(model.device)
        with autocast(model.device, config.runtime.dtype):
            logits, labels, positions = target_logits(model, batch)
        losses = cross_entropy(logits.float(), labels, reduction="none")
        right = logits.argmax(-1) == labels
        values = torch.stack([losses, right, torch.ones_like(losses)], dim=-1).double().cpu()
        of_part = torch.zeros(len(part), 3, dtype=torch.float64).index_add_(0, positions.cpu(), values)
        sums[part] = of_part
    return sums


def held_out_examples(config: PretrainConfig, held_out: Corpus) -> list[tuple[str, Example]]:
    """Draw the examples to evaluate on, with their tasks: the same for the same seed."""
    rng = Random(derive_seed(config.runtime.seed, "pretraining", "held-out"))
    return draw(config, held_out, EXAMPLES[config.model_type], rng)


def describe(row: dict[str, Any]) -> str:
    """Write a row of the log in words."""
    accuracies = [f"{name} {value:.2f}" for name, value in row["val"].items() if name.endswith("accuracy")]
    return (
        f"loss {row['train']['loss']:.3f}, held-out {row['val']['loss']:.3f} "
        f"({', '.join(accuracies)}), {row['train']['tokens/s']:,.0f} tokens/s"
    )


def sample_texts(
    config: PretrainConfig, folder: Path, held_out: Corpus, device: torch.device
) -> Iterator[str]:
    """Show in lines what a saved model writes (its likeliest text) for held-out inputs of each task.

    A classifier's lines show how likely it finds the right class of held-out texts of each class.
    """
    if config.model_type == "classifier":
        yield from _judge_texts(config, folder, held_out, device)
        return
    model = load_model(str(folder), config.model_type, torch.float32, device)
    tokenizer = load_tokenizer(str(folder))
    decoding = Decoding(
        settings=GenerationSettings(max_new_tokens=min(SAMPLE_TOKENS, config.data.max_length // 2)),
        max_prompt_length=None,
        truncation_side="right",
        batch_size=SAMPLES,
    )
    by_task: dict[str, list[Example]] = defaultdict(list)
    for task, example in held_out_examples(config, held_out):
        by_task[task].append(example if example[0] else _split_in_halves(example[1]))
    for task, examples in sorted(by_task.items()):
        shown = examples[:SAMPLES]
        texts = generate(model, tokenizer, [source for source, _ in shown], decoding)
        for (source, target), (text,) in zip(shown, texts, strict=True):
            yield f"{task}: {source!r} -> {text!r} (expected: {target!r})"


def _judge_texts(
    config: PretrainConfig, folder: Path, held_out: Corpus, device: torch.device
) -> Iterator[str]:
    by_class: dict[str, list[str]] = defaultdict(list)
    for label, (text, _) in held_out_examples(config, held_out):
        by_class[label].append(text)
    for number, label in enumerate(config.data.classes):
        texts = by_class[label][: 2 * SAMPLES]
        empty: list[Any] = [[] for _ in texts]
        scores = learned_reward(
            TextBatch([""] * len(texts), texts, empty, empty),
            model_name=str(folder),
            label_ix=number,
            batch_size=len(texts),
            include_prompt_for_eval=False,
            device=str(device),
        )
        (score,) = scores.values()
        for text, value in zip(texts, score.per_sample or [], strict=True):
            yield f"{label}, found so with probability {value:.2f}: {text!r}"


def _split_in_halves(text: str) -> Example:
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def save_loss_plot(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw two panels over updates: train and held-out loss; each task's accuracy on held-out targets.

    rows: [{"step": s, "train": {"loss": l}, "val": {"loss": l, "<task> accuracy": a, ...}}], `val` optional.
    """
    evaluated = [row for row in rows if "val" in row]
    losses = [Curve("train", [(row["step"], row["train"]["loss"]) for row in rows])]
    if evaluated:
        losses.append(Curve("held-out", [(row["step"], row["val"]["loss"]) for row in evaluated], look=1))
    panels = [Panel(title, losses, y_label="loss (nats)")]
    names = [name for name in (evaluated[0]["val"] if evaluated else ()) if name.endswith(" accuracy")]
    tasks = [
        Curve(name.removesuffix(" accuracy"), [(row["step"], row["val"][name]) for row in evaluated], look)
        for look, name in enumerate(names)
    ]
    if tasks:
        panels.append(Panel("Held-out", tasks, y_label="accuracy"))
    path.parent.mkdir(exist_ok=True)
    with house_style():
        save_panels(path, panels, "updates", CURVE_COLORS)

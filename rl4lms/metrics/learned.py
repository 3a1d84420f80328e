"""Metrics that are the output of a model: classifiers of the texts, and the language model itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from rl4lms.metrics.models import load_classifier, load_reward_model, run_by_length, token_rows
from rl4lms.model.reward_model import ChatTemplate
from rl4lms.requirements import require, tokenizer_problem
from rl4lms.text import Score, TextBatch, averaged

_END_OF_UTTERANCE = "<EOU>"


def learned_reward(
    batch: TextBatch,
    *,
    model_name: str,
    label_ix: int,
    batch_size: int,
    include_prompt_for_eval: bool,
    device: str,
) -> dict[str, Score]:
    """The probability of class `label_ix`; what is too long for the classifier loses its beginning.

    include_prompt_for_eval: classify prompt and text as they follow each other, else the text alone.
    """
    prompts = batch.prompts if include_prompt_for_eval else [""] * len(batch)
    texts = [prompt + text for prompt, text in zip(prompts, batch.generated, strict=True)]
    logits = _class_logits(texts, model_name, batch_size, device)
    classes = logits.shape[1]
    if not 2 <= classes or not label_ix < classes:
        raise ValueError(
            f"label_ix {label_ix} names no class of {model_name!r}, which tells {classes} apart (from 0)"
        )
    return {"semantic/learned_automodel_metric": averaged(logits.softmax(dim=1)[:, label_ix].tolist())}


def reward_model(
    batch: TextBatch, *, model_name: str, batch_size: int, device: str, chat_template: ChatTemplate
) -> dict[str, Score]:
    """The normalised reward of each prompt with its text under a reward model."""
    model = load_reward_model(model_name, device, chat_template)
    return {"semantic/reward_model": averaged(model.score(batch.prompts, batch.generated, batch_size))}


def intent_accuracy(batch: TextBatch, *, model_name: str, batch_size: int, device: str) -> dict[str, Score]:
    """Whether the classified intent of the last utterance of the prompt and the text is DailyDialog's.

    meta["intent"][0]: DailyDialog's act from 1 on; the classifier's labels begin at 0.
    """
    texts = [
        _last_utterance(prompt) + text for prompt, text in zip(batch.prompts, batch.generated, strict=True)
    ]
    predicted = _class_logits(texts, model_name, batch_size, device).argmax(dim=1).tolist()
    expected = [intent - 1 for intent in _intents(batch)]
    return {"intent/accuracy": averaged([float(p == w) for p, w in zip(predicted, expected, strict=True)])}


def _intents(batch: TextBatch) -> list[int]:
    for i, meta in enumerate(batch.meta):
        if "intent" not in meta:
            raise ValueError(
                f"text {i} has no intent to be compared with: its meta data have no 'intent'; "
                "intent_accuracy goes with datapool daily_dialog"
            )
    return [meta["intent"][0] for meta in batch.meta]


def _last_utterance(prompt: str) -> str:
    return next((part for part in reversed(prompt.split(_END_OF_UTTERANCE)) if part), "")


def _class_logits(texts: list[str], model_name: str, batch_size: int, device: str) -> Tensor:
    """Classify texts: logits [N, C]. Raises RequirementError if the classifier cannot be had."""
    model, tokenizer = load_classifier(model_name, device)
    rows = token_rows(texts, model, tokenizer)
    logits = run_by_length(rows, model, tokenizer, batch_size, lambda padded: model(**padded).logits)
    return torch.stack(logits).float() if logits else torch.empty(0, model.config.num_labels)


def causal_perplexity(
    batch: TextBatch, *, tokenizer_id: str, stride: int, use_text_from_meta_data: bool
) -> dict[str, Score]:
    """Perplexity of the model `batch.model` on all references as one text; none on the train split.

    Windows of the model's length move on by `stride` tokens, and only their last `stride` tokens count.
    use_text_from_meta_data: take the texts meta["reference"] instead.
    """
    if batch.split == "train":
        return {}
    if batch.model is None:
        raise ValueError("causal_perplexity needs the model that is evaluated: TextBatch(..., model=...)")
    if use_text_from_meta_data:
        if any("reference" not in meta for meta in batch.meta):
            raise ValueError("a sample has no meta_data['reference']: set use_text_from_meta_data: false")
        texts = [meta["reference"] for meta in batch.meta]
    else:
        texts = [reference for references in batch.references for reference in references]
    require(tokenizer_problem(tokenizer_id))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_id)
    # Not verbose: the text is longer than the model on purpose, and cut into windows below.
    tokens = tokenizer("\n\n".join(texts), verbose=False)["input_ids"]
    return {"fluency_metrics/perplexity": Score(None, perplexity(batch.model, torch.tensor(tokens), stride))}


def perplexity(model: Any, tokens: Tensor, stride: int) -> float:
    """exp of the mean loss over tokens [T]; NaN for fewer than two.

    Each block of `stride` tokens adds its mean loss times its length. A token that the window begins with has
    no prediction, and is taken to cost what the others do (as in the transformers documentation of 2022).
    """
    if len(tokens) < 2:
        return math.nan
    window = model.config.max_position_embeddings
    stride = min(stride, window)
    total = 0.0
    was_training = model.training
    model.eval()
    for start in range(0, len(tokens), stride):
        end = min(start + stride, len(tokens))
        seen = tokens[max(start + stride - window, 0) : end].to(model.device)
        targets = seen[max(len(seen) - (end - start), 1) :]
        if len(targets):
            with torch.inference_mode():
                logits = model(input_ids=seen[None], logits_to_keep=len(targets) + 1).logits[0, :-1]
            total += cross_entropy(logits.float(), targets).item() * (end - start)
    model.train(was_training)
    return math.exp(total / len(tokens))

"""What extracting texts and rewards costs, against a straightforward re-creation of the old way.

On random models, real prompts (`python_docs`), 10 texts of 20 tokens per input, `rouge_l_max` and `sacre_bleu`:
  ours    `rl4lms.extract.extract` itself: data, model, texts on disk batch by batch, scores, result files;
  old     one `generate` call per generation index, prompts padded to 512 tokens; each text scored alone: by
          py-rouge (or, where it is not installed, a plain quadratic ROUGE-L), and by a SacreBLEU metric object
          built for that text, as the Hugging Face metrics of then: text and references go through an Arrow
          file. Reading, hashing and importing the metric's script, which they did besides, is left out;
  bare    the same, but only sacrebleu's own `BLEU` object is built for each text.
The turns of both are short and alternate, so that a busy machine slows both. The old way makes the texts of one
of the ten generation indices for one batch of prompts; its time is given per text.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sacrebleu
import torch
import transformers
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from nltk.stem.porter import PorterStemmer
from sacrebleu.metrics import BLEU
from text_pairs import import_py_rouge  # type: ignore[import-not-found]
from tiny_models import save_tiny_gpt2, save_tiny_t5  # type: ignore[import-not-found]

from common.config import validate
from common.run_dir import RunDir
from rl4lms.config import ExtractConfig, resolved
from rl4lms.datapools import load_datapool
from rl4lms.extract import INPUTS_PER_SCORING, extract, score_inputs
from rl4lms.language_model import load_model, load_tokenizer
from rl4lms.metrics import TextBatch, build_metric
from rl4lms.samples import Sample

GENERATIONS, NEW_TOKENS, MAX_LENGTH = 10, 20, 512
TEXTS_AT_A_TIME = 250  # ours; the paper's files say 100 to 256
MANY_INPUTS = 5000  # the paper's number
LEAST_TOTAL, LEAST_SCORING, MOST_SECONDS = 5, 30, 2.0
Scorer = Callable[[str, list[str]], float]


@dataclass(frozen=True)
class Case:
    """A random model. old_prompts: how many the old way reads at a time."""

    name: str
    kind: Literal["causal", "seq2seq"]
    width: int
    layers: int
    old_prompts: int


CASES = [
    Case("t5-tiny", "seq2seq", 64, 2, 100),
    Case("gpt2-tiny", "causal", 64, 2, 100),
    Case("t5-medium", "seq2seq", 256, 6, 32),
    Case("gpt2-medium", "causal", 256, 6, 32),
]


@dataclass(frozen=True)
class Timing:
    """Seconds per text, turn by turn. ours_scoring includes the result files, ours_rest data and model."""

    ours_generation: list[float] = field(default_factory=list)
    ours_scoring: list[float] = field(default_factory=list)
    ours_rest: list[float] = field(default_factory=list)
    old_generation: list[float] = field(default_factory=list)
    old_scoring: list[float] = field(default_factory=list)
    bare_scoring: list[float] = field(default_factory=list)


def save_model(case: Case, folder: Path, texts: Sequence[str]) -> Path:
    """The case's model and a tokenizer trained on the texts, in a folder."""
    path, heads = folder / case.name, 4
    if case.kind == "causal":
        sizes = {"n_positions": 1024, "n_embd": case.width, "n_layer": case.layers, "n_head": heads}
        return save_tiny_gpt2(path, texts, 700, initializer_range=0.1, **sizes)
    sizes = {"d_model": case.width, "d_kv": case.width // heads, "d_ff": 4 * case.width}
    return save_tiny_t5(path, texts, 600, num_layers=case.layers, num_heads=heads, **sizes)


def write_inputs(samples: Sequence[Sample], count: int, folder: Path) -> Path:
    """So many inputs as a file, the samples again and again."""
    chosen = [samples[i % len(samples)] for i in range(count)]
    rows = [{"prompt": sample.prompt_or_input_text, "references": sample.references} for sample in chosen]
    path = folder / f"inputs_{count}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_config(kind: str, model: Path, data: Path, seed: int) -> ExtractConfig:
    """An extraction of all inputs in `data`."""
    sampling = {"do_sample": True, "top_k": 50, "max_new_tokens": NEW_TOKENS}
    config, problems = validate(
        ExtractConfig,
        {
            "tokenizer": {"model_name": str(model), "max_length": MAX_LENGTH},
            "datapool": {"id": "jsonl", "args": {"data_path": str(data)}},
            "alg": {"model_type": kind, "model_name": str(model), "generation_kwargs": sampling},
            "evaluation": {
                "eval_batch_size": TEXTS_AT_A_TIME,
                "num_samples_per_input": GENERATIONS,
                "metrics": [{"id": "rouge_l_max"}, {"id": "sacre_bleu"}],
            },
            "runtime": {"seed": seed, "device": "cpu"},
        },
    )
    if config is None:
        raise ValueError(problems)
    return config


def run_ours(config: ExtractConfig, folder: Path) -> tuple[Path, list[float]]:
    """Extract; the result file, and the times of start, first and last text, and end."""
    moments = [time.perf_counter()]
    generated: list[float] = []
    with RunDir.create(folder, "benchmark", resolved(config), {}) as run:
        path = extract(config, run, lambda texts: generated.append(time.perf_counter())).path
    return path, [*moments, generated[0], generated[-1], time.perf_counter()]


def generate_the_old_way(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """One text for each prompt: of the ten passes over all prompts, a batch of one."""
    encoded = tokenizer(
        prompts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    )
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=True, top_k=50, max_new_tokens=NEW_TOKENS)
    start = 0 if model.config.is_encoder_decoder else MAX_LENGTH
    return list(tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True))


def old_rouge_l() -> Scorer:
    """The best ROUGE-L of one text by py-rouge, built anew; without py-rouge, a plain one."""
    try:
        version("py-rouge")
    except PackageNotFoundError:
        return lambda text, references: max(plain_rouge_l(text, reference) for reference in references)
    rouge = import_py_rouge().Rouge
    args = {"metrics": ["rouge-l"], "max_n": 4, "limit_length": True, "length_limit": 100}
    args |= {"length_limit_type": "words", "apply_avg": True, "apply_best": True}
    args |= {"alpha": 0.5, "weight_factor": 1.2, "stemming": True}

    def score(text: str, references: list[str]) -> float:
        evaluator = rouge(**args)
        return max(
            float(evaluator.get_scores([text], [reference])["rouge-l"]["f"]) for reference in references
        )

    return score


def plain_rouge_l(text: str, reference: str) -> float:
    """ROUGE-L with a stemmer and a table of text length times reference length."""
    stemmer = PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)
    a, b = ([stemmer.stem(word) for word in line.lower().split()[:100]] for line in (text, reference))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    if not table[-1][-1]:
        return 0.0
    precision, recall = ((table[-1][-1] / len(words)) ** (1 / 1.2) for words in (a, b))
    return precision * recall / (0.5 * precision + 0.5 * recall)


def bare_sacre_bleu(text: str, references: list[str]) -> float:
    """SacreBLEU of one text by a metric object of its own."""
    return BLEU(tokenize="13a").corpus_score([text], [[r] for r in references]).score / 100


def old_sacre_bleu(folder: Path) -> Scorer:
    """SacreBLEU of one text by a metric object of its own that reads its input back from an Arrow file."""

    def score(text: str, references: list[str]) -> float:
        features = Features({"predictions": Value("string"), "references": List(Value("string"))})
        path = folder / "metric.arrow"
        writer = ArrowWriter(features=features, path=str(path))
        writer.write_batch({"predictions": [text], "references": [references]})
        writer.finalize()
        read = Dataset.from_file(str(path))
        streams = [list(stream) for stream in zip(*read["references"][:], strict=True)]
        value = sacrebleu.corpus_bleu(read["predictions"][:], streams).score / 100
        path.unlink()
        return value

    return score


def seconds_per_text(scorers: Sequence[Scorer], texts: Sequence[str], references: list[list[str]]) -> float:
    start = time.perf_counter()
    for text, of_text in zip(texts, references, strict=True):
        for scorer in scorers:
            scorer(text, of_text)
    return (time.perf_counter() - start) / len(texts)


def measure(case: Case, samples: Sequence[Sample], inputs: int, turns: int, folder: Path) -> Timing:
    """`turns` turns of each, after an unmeasured one of ours."""
    words = [text for sample in samples for text in (sample.prompt_or_input_text, *sample.references)]
    path, data = save_model(case, folder, words), write_inputs(samples, inputs, folder)
    model = load_model(str(path), case.kind, torch.float32, "cpu")
    tokenizer = load_tokenizer(str(path))
    batch = [samples[i % len(samples)] for i in range(case.old_prompts)]
    references = [sample.references for sample in batch]
    rouge, bleu = old_rouge_l(), old_sacre_bleu(folder)
    timing = Timing()
    for turn in range(turns + 1):
        result, (start, first, last, end) = run_ours(make_config(case.kind, path, data, turn), folder)
        if turn == 0:
            check_rewards(result, rouge)
            continue
        texts_of_ours = inputs * GENERATIONS
        timing.ours_rest.append((first - start) / texts_of_ours)
        timing.ours_generation.append((last - first) / texts_of_ours)
        timing.ours_scoring.append((end - last) / texts_of_ours)
        start = time.perf_counter()
        texts = generate_the_old_way(model, tokenizer, [sample.prompt_or_input_text for sample in batch])
        timing.old_generation.append((time.perf_counter() - start) / len(batch))
        timing.old_scoring.append(seconds_per_text((rouge, bleu), texts, references))
        timing.bare_scoring.append(seconds_per_text((rouge, bare_sacre_bleu), texts, references))
    return timing


def check_rewards(result: Path, rouge: Scorer) -> None:
    """Raises AssertionError if our rewards are not what the old way computes for the same texts."""
    content = torch.load(result, weights_only=True)
    scorers = {"lexical/sacrebleu": bare_sacre_bleu}
    if "plain" not in rouge.__qualname__ and rouge.__name__ != "<lambda>":
        scorers["lexical/rouge_l_max"] = rouge
    for key, scorer in scorers.items():
        for i, (texts, references) in enumerate(
            zip(content["all_generated_texts"], content["references"], strict=True)
        ):
            if i < 20:
                value = content["all_metric_values"][key][i, 0].item()
                assert math.isclose(value, scorer(texts[0], references), abs_tol=1e-6), (key, texts[0])

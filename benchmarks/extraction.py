"""What extracting texts and rewards costs, against a straightforward re-creation of the old way.

Random models, real prompts (`python_docs`), 10 texts of 20 tokens for each, `rouge_l_max` and `sacre_bleu`:
  ours  `rl4lms.extract.extract` itself: data, model, texts on disk batch by batch, scores, result files;
  old   one `generate` call per generation index, prompts padded to 512 tokens; each text is scored alone, by
        py-rouge and by a SacreBLEU metric object built for it, as the Hugging Face metrics of then: text and
        references go through an Arrow file. (Left out: reading and importing the metric's script each time.)
  bare  scores likewise, but the object that is built for each text is sacrebleu's own.
They take short turns, so that a busy machine slows all. Without py-rouge a plain quadratic ROUGE-L stands in.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import old_extraction
import torch
from text_pairs import import_py_rouge  # type: ignore[import-not-found]
from tiny_models import save_tiny_gpt2, save_tiny_t5  # type: ignore[import-not-found]

from common import process
from common.config import validate
from common.run_dir import RunDir
from rl4lms.config import ExtractConfig, resolved
from rl4lms.datapools import load_datapool
from rl4lms.extract import extract, score
from rl4lms.metrics import TextBatch, build_metric
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.samples import Sample

GENERATIONS, NEW_TOKENS, MAX_LENGTH, HEADS = 10, 20, 512, 4
TEXTS_AT_A_TIME = 250  # the paper's files: 100 to 256
MANY_INPUTS = 5000  # the paper's number
FEW, MANY = 200, 2000  # inputs between which memory is compared
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
class Ours:
    """An extraction: result file, seconds, and the most memory held (MiB) before scoring and in all."""

    path: Path
    generation: float
    scoring: float
    total: float
    peak_before_scoring: float
    peak: float


@dataclass(frozen=True)
class Old:
    """Seconds a text."""

    generation: float
    rouge: float
    sacre_bleu: float
    bare_sacre_bleu: float


def save_model(case: Case, folder: Path, samples: Sequence[Sample]) -> Path:
    """The case's model with a tokenizer trained on the samples."""
    texts = [text for sample in samples for text in (sample.prompt_or_input_text, *sample.references)]
    if case.kind == "causal":
        gpt2 = {"n_positions": 1024, "n_embd": case.width, "n_layer": case.layers, "n_head": HEADS}
        return Path(save_tiny_gpt2(folder / case.name, texts, 700, initializer_range=0.1, **gpt2))
    t5 = {"d_model": case.width, "d_ff": 4 * case.width, "d_kv": case.width // HEADS, "num_heads": HEADS}
    return Path(save_tiny_t5(folder / case.name, texts, 600, num_layers=case.layers, **t5))


def make_config(case: Case, model: Path, samples: Sequence[Sample], inputs: int, seed: int) -> ExtractConfig:
    """An extraction of so many inputs: the samples, again and again, in a file beside the model."""
    data = model.with_name(f"inputs_{inputs}.jsonl")
    chosen = [samples[i % len(samples)] for i in range(inputs)]
    rows = [{"prompt": sample.prompt_or_input_text, "references": sample.references} for sample in chosen]
    data.write_text("\n".join(map(json.dumps, rows)))
    sampling = {"do_sample": True, "top_k": 50, "max_new_tokens": NEW_TOKENS}
    config, problems = validate(
        ExtractConfig,
        {
            "tokenizer": {"model_name": str(model), "max_length": MAX_LENGTH},
            "datapool": {"id": "jsonl", "args": {"data_path": str(data)}},
            "alg": {"model_type": case.kind, "model_name": str(model), "generation_kwargs": sampling},
            "evaluation": {
                "eval_batch_size": TEXTS_AT_A_TIME,
                "num_samples_per_input": GENERATIONS,
                "metrics": [{"id": "rouge_l_max"}, {"id": "sacre_bleu"}],
            },
            "runtime": {"seed": seed, "device": "cpu"},
        },
    )
    if config is None:
        raise ValueError(f"the benchmark's config is wrong: {problems}")
    return config


def run_ours(config: ExtractConfig, folder: Path) -> Ours:
    """Extract, with a look at the clock before the first and after the last text, and around scoring."""
    of_texts: list[float] = []
    of_scoring: list[float] = []
    peaks: list[float] = []

    def timed_score(*args: Any) -> Any:
        peaks.append(peak_memory())
        start = time.perf_counter()
        values = score(*args)
        of_scoring.append(time.perf_counter() - start)
        return values

    start = time.perf_counter()
    with (
        RunDir.create(folder, "run", resolved(config), {}) as run,
        patch("rl4lms.extract.score", timed_score),
    ):
        path = extract(config, run, lambda *_: of_texts.append(time.perf_counter())).path
    total = time.perf_counter() - start
    return Ours(path, of_texts[-1] - of_texts[0], of_scoring[0], total, peaks[0], peak_memory())


def peak_memory() -> float:
    """MiB that this process held at most. (getrusage would count its parent's.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else math.nan


def seconds_alone(scorer: Scorer, texts: Sequence[str], samples: Sequence[Sample]) -> float:
    """Of one text."""
    start = time.perf_counter()
    for text, sample in zip(texts, samples, strict=True):
        scorer(text, sample.references)
    return (time.perf_counter() - start) / len(texts)


def measure(
    case: Case, samples: Sequence[Sample], inputs: int, repeats: int, folder: Path
) -> list[tuple[Ours, Old]]:
    """The turns of a model, after one of ours that warms up the libraries."""
    path = save_model(case, folder, samples)
    model, tokenizer = load_model(str(path), case.kind, torch.float32, "cpu"), load_tokenizer(str(path))
    batch = [samples[i % len(samples)] for i in range(case.old_prompts)]
    prompts = [sample.prompt_or_input_text for sample in batch]
    rouge: Scorer = old_extraction.plain_rouge_l
    if old_extraction.has_py_rouge():
        rouge = partial(old_extraction.py_rouge_l, import_py_rouge().Rouge)
    bleu = partial(old_extraction.arrow_sacre_bleu, folder / "metric.arrow")
    warm_up = run_ours(make_config(case, path, samples, inputs, 0), folder)
    check_rewards(warm_up, "lexical/sacrebleu", bleu)
    if old_extraction.has_py_rouge():
        check_rewards(warm_up, "lexical/rouge_l_max", rouge)
    turns = []
    for seed in range(1, repeats + 1):
        ours = run_ours(make_config(case, path, samples, inputs, seed), folder)
        start = time.perf_counter()
        texts = old_extraction.generate(model, tokenizer, prompts, MAX_LENGTH, NEW_TOKENS)
        generation = (time.perf_counter() - start) / len(prompts)
        scorers = (rouge, bleu, old_extraction.bare_sacre_bleu)
        turns.append((ours, Old(generation, *(seconds_alone(scorer, texts, batch) for scorer in scorers))))
    return turns


def check_rewards(ours: Ours, key: str, scorer: Scorer) -> None:
    """Raises ValueError if a scorer of the old way gives one of the first texts another reward."""
    content = torch.load(ours.path, weights_only=True)
    for i, references in enumerate(content["references"][:30]):
        text, value = content["all_generated_texts"][i][0], content["all_metric_values"][key][i, 0].item()
        if not math.isclose(value, scorer(text, references), abs_tol=1e-6):
            raise ValueError(f"{key} of {text!r} is {value}, by the old way {scorer(text, references)}")


def score_many(samples: Sequence[Sample]) -> float:
    """Seconds of `rouge_l_max` of 50,000 texts: sentences in which every second word was replaced."""
    rng = random.Random(0)
    words = [word for sample in samples for word in sample.references[0].split()]

    def changed(sentence: str) -> str:
        return " ".join(word if rng.random() < 0.5 else rng.choice(words) for word in sentence.split())

    references = [changed(samples[i % len(samples)].references[0]) for i in range(MANY_INPUTS)]
    texts = [changed(reference) for reference in references for _ in range(GENERATIONS)]
    against = [[reference] for reference in references for _ in range(GENERATIONS)]
    batch = TextBatch([""] * len(texts), texts, against, [{} for _ in texts])
    start = time.perf_counter()
    build_metric("rouge_l_max")(batch)
    return time.perf_counter() - start


def memory_of(config: ExtractConfig, folder: Path) -> tuple[float, float, float]:
    """MiB: peaks before scoring and in all, and the texts. To be called in a process of its own."""
    torch.set_num_threads(1)
    ours = run_ours(config, folder)
    content = torch.load(ours.path, weights_only=True)
    lists = [content["prompts"], *content["references"], *content["all_generated_texts"]]
    texts = sum(sys.getsizeof(text) for texts in lists for text in texts)
    return ours.peak_before_scoring, ours.peak, texts / 2**20


def memory_report(case: Case, samples: Sequence[Sample], folder: Path) -> str:
    """How much more memory an extraction of ten times as many inputs takes: the same, ten times."""
    found = []
    for inputs in (FEW, MANY):
        config = make_config(case, folder / case.name, samples[:FEW], inputs, 0)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(memory_of, (config, folder)))
    before, peak, texts = (many - few for few, many in zip(*found, strict=True))
    return (
        f"{case.name}: {found[0][1]:,.0f} MiB with {FEW:,} inputs; with {MANY:,} {before:+.1f} MiB up to the "
        f"last text, {peak:+.1f} in all, of which the texts themselves {texts:.1f}"
    )


ROW = "{:<12}{:>7} |{:>7}{:>8}{:>6} |{:>7}{:>8}{:>8}{:>6}{:>6} |{:>7}{:>8}{:>6}{:>5}"
TITLES = (
    f"{'':19} |{'generation':^21} |{'scoring':^35} |{'all':^26}",
    ROW.format(*"model inputs ours old o/o ours bare old b/o o/o ours old o/o ok".split()),
)


def report(case: Case, inputs: int, turns: Sequence[tuple[Ours, Old]]) -> str:
    """A row of the table: medians of milliseconds a text and of the turns' ratios."""
    texts = inputs * GENERATIONS
    columns = [
        (
            ours.generation / texts,
            old.generation,
            ours.scoring / texts,
            old.rouge + old.bare_sacre_bleu,
            old.rouge + old.sacre_bleu,
            ours.total / texts,
            old.generation + old.rouge + old.sacre_bleu,
        )
        for ours, old in turns
    ]
    a, b, c, d, e, f, g = (f"{1000 * median(column):.3f}" for column in zip(*columns, strict=True))
    generation, bare, scoring, total = (
        median(row[old] / row[ours] for row in columns) for old, ours in ((1, 0), (3, 2), (4, 2), (6, 5))
    )
    ratios = [f"{ratio:.1f}" for ratio in (generation, bare, scoring, total)]
    met = "yes" if scoring >= LEAST_SCORING and total >= LEAST_TOTAL else "NO"
    return ROW.format(case.name, inputs, a, b, ratios[0], c, d, e, *ratios[1:3], f, g, ratios[3], met)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models asked for and print a row for each; returns the exit status."""
    process.prepare()
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--inputs", type=int, default=200, help="of ours (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.inputs < 1 or args.repeats < 1:
        parser.error("--inputs and --repeats must be at least 1")
    torch.set_num_threads(1)
    samples = load_datapool("python_docs", "train", {"form": "sentence_from_words", "packages": ["stdlib"]})
    print(f"torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}")
    seconds = score_many(samples)
    met = "yes" if seconds < MOST_SECONDS else "NO"
    many = MANY_INPUTS * GENERATIONS
    print(f"rouge_l_max of {many:,} texts, nothing cached: {seconds:.2f} s (< {MOST_SECONDS:g}: {met})\n")

    print(f"milliseconds a text and ratios, medians of {args.repeats} turns; o/o: old/ours, b/o: bare/ours")
    print(f"ok: all {LEAST_TOTAL} times and scoring {LEAST_SCORING} times faster than old")
    print(f"old generation: one of the {GENERATIONS} calls, for 100 inputs (medium: 32), given per text")
    if not old_extraction.has_py_rouge():
        print("py-rouge is not installed: old and bare use a plain ROUGE-L")
    print(*TITLES, sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if case.name in args.models:
                turns = measure(case, samples, args.inputs, args.repeats, Path(folder))
                print(report(case, args.inputs, turns), flush=True)
        print("\npeak memory")
        for case in CASES:
            if case.name in args.models and case.name.endswith("tiny"):
                print(memory_report(case, samples, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

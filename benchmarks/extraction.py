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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import sacrebleu
import torch
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
from rl4lms.extract import extract, score
from rl4lms.language_model import load_model, load_tokenizer
from rl4lms.metrics import TextBatch, build_metric
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
class Turn:
    """Milliseconds a text. ours_total: with everything."""

    ours_generation: float
    ours_scoring: float
    ours_total: float
    old_generation: float
    old_scoring: float
    bare_scoring: float


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
    fields = {
        "tokenizer": {"model_name": str(model), "max_length": MAX_LENGTH},
        "datapool": {"id": "jsonl", "args": {"data_path": str(data)}},
        "alg": {
            "model_type": case.kind,
            "model_name": str(model),
            "generation_kwargs": {"do_sample": True, "top_k": 50, "max_new_tokens": NEW_TOKENS},
        },
        "evaluation": {
            "eval_batch_size": TEXTS_AT_A_TIME,
            "num_samples_per_input": GENERATIONS,
            "metrics": [{"id": "rouge_l_max"}, {"id": "sacre_bleu"}],
        },
        "runtime": {"seed": seed, "device": "cpu"},
    }
    config, problems = validate(ExtractConfig, fields)
    if config is None:
        raise ValueError(f"the benchmark's config is wrong: {problems}")
    return config


def run_ours(config: ExtractConfig, folder: Path) -> tuple[Path, tuple[float, float, float]]:
    """Extract; the result file, and seconds of generation, of scoring, and in all."""
    generated: list[float] = []
    scoring = 0.0

    def timed_score(*args: Any) -> Any:
        nonlocal scoring
        start = time.perf_counter()
        values = score(*args)
        scoring = time.perf_counter() - start
        return values

    start = time.perf_counter()
    with (
        RunDir.create(folder, "run", resolved(config), {}) as run,
        patch("rl4lms.extract.score", timed_score),
    ):
        path = extract(config, run, lambda _: generated.append(time.perf_counter())).path
    return path, (generated[-1] - generated[0], scoring, time.perf_counter() - start)


def generate_the_old_way(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """A text of each prompt; for ten, it is called ten times."""
    encoded = tokenizer(prompts, padding="max_length", max_length=MAX_LENGTH, truncation=True)
    inputs = {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=True, top_k=50, max_new_tokens=NEW_TOKENS)
    start = 0 if model.config.is_encoder_decoder else MAX_LENGTH
    return list(tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True))


def has_py_rouge() -> bool:
    try:
        return version("py-rouge") == "1.1"
    except PackageNotFoundError:
        return False


def py_rouge(rouge: Any, text: str, references: list[str]) -> float:
    """The best ROUGE-L by an evaluator of NarrativeQA's arguments, built for this text."""
    evaluator = rouge(
        metrics=["rouge-l"], max_n=4, limit_length=True, length_limit=100, length_limit_type="words",
        apply_avg=True, apply_best=True, alpha=0.5, weight_factor=1.2, stemming=True,
    )  # fmt: skip
    return max(float(evaluator.get_scores([text], [one])["rouge-l"]["f"]) for one in references)


def plain_rouge_l(text: str, references: list[str]) -> float:
    """The best ROUGE-L, by a table of text length times reference length."""
    stemmer = PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)
    best = 0.0
    for reference in references:
        a, b = ([stemmer.stem(word) for word in line.lower().split()[:100]] for line in (text, reference))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        if common := table[-1][-1]:
            precision, recall = ((common / len(words)) ** (1 / 1.2) for words in (a, b))
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def bare_sacre_bleu(text: str, references: list[str]) -> float:
    return BLEU(tokenize="13a").corpus_score([text], [[one] for one in references]).score / 100


def old_sacre_bleu(file: Path, text: str, references: list[str]) -> float:
    """SacreBLEU of texts that go through an Arrow file."""
    features = Features({"predictions": Value("string"), "references": List(Value("string"))})
    writer = ArrowWriter(features=features, path=str(file))
    writer.write_batch({"predictions": [text], "references": [references]})
    writer.finalize()
    read = Dataset.from_file(str(file))
    streams = [list(stream) for stream in zip(*read["references"][:], strict=True)]
    value = sacrebleu.corpus_bleu(read["predictions"][:], streams).score / 100
    file.unlink()
    return value


def milliseconds(scorer: Scorer, texts: Sequence[str], samples: Sequence[Sample]) -> float:
    """Of one text, scored alone."""
    start = time.perf_counter()
    for text, sample in zip(texts, samples, strict=True):
        scorer(text, sample.references)
    return 1000 * (time.perf_counter() - start) / len(texts)


def measure(case: Case, samples: Sequence[Sample], inputs: int, repeats: int, folder: Path) -> list[Turn]:
    """The turns of a model, after an unmeasured one of ours that warms up the libraries."""
    path = save_model(case, folder, samples)
    model, tokenizer = load_model(str(path), case.kind, torch.float32, "cpu"), load_tokenizer(str(path))
    batch = [samples[i % len(samples)] for i in range(case.old_prompts)]
    prompts = [sample.prompt_or_input_text for sample in batch]
    rouge = partial(py_rouge, import_py_rouge().Rouge) if has_py_rouge() else plain_rouge_l
    through_arrow = partial(old_sacre_bleu, folder / "metric.arrow")
    turns = []
    for turn in range(repeats + 1):
        result, seconds = run_ours(make_config(case, path, samples, inputs, turn), folder)
        if turn == 0:
            check_rewards(result, {"lexical/rouge_l_max": rouge, "lexical/sacrebleu": through_arrow})
            continue
        start = time.perf_counter()
        texts = generate_the_old_way(model, tokenizer, prompts)
        generation = 1000 * (time.perf_counter() - start) / len(prompts)
        of_rouge, of_old, of_bare = (
            milliseconds(scorer, texts, batch) for scorer in (rouge, through_arrow, bare_sacre_bleu)
        )
        ours = (1000 * s / (inputs * GENERATIONS) for s in seconds)
        turns.append(Turn(*ours, generation, of_rouge + of_old, of_rouge + of_bare))
    return turns


def check_rewards(result: Path, scorers: dict[str, Scorer]) -> None:
    """Raises ValueError if the old way, the stand-in for py-rouge apart, gives a text another reward."""
    content = torch.load(result, weights_only=True)
    for key, scorer in scorers.items():
        values = content["all_metric_values"][key]
        for i, (texts, references) in enumerate(
            zip(content["all_generated_texts"], content["references"], strict=True)
        ):
            expected = scorer(texts[0], references) if i < 30 and scorer is not plain_rouge_l else None
            if expected is not None and not math.isclose(values[i, 0].item(), expected, abs_tol=1e-6):
                raise ValueError(f"{key} of {texts[0]!r}: {values[i, 0].item()}, by the old way {expected}")


def score_many(samples: Sequence[Sample]) -> float:
    """Seconds of `rouge_l_max` for 50,000 texts: sentences, and the same with half of the words changed."""
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


def peak_memory(config: ExtractConfig, folder: Path) -> tuple[float, float]:
    """MiB: the most this process ever held, after an extraction; and its texts. Call it in a fresh one."""
    torch.set_num_threads(1)
    path, _ = run_ours(config, folder)
    peak = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    content = torch.load(path, weights_only=True)
    lists = [content["prompts"], *content["references"], *content["all_generated_texts"]]
    return int(peak[0]) / 2**10, sum(sys.getsizeof(text) for texts in lists for text in texts) / 2**20


def memory_report(case: Case, samples: Sequence[Sample], folder: Path) -> str:
    """How much more memory an extraction of ten times as many inputs takes: the same, ten times."""
    peaks = []
    for inputs in (FEW, MANY):
        config = make_config(case, folder / case.name, samples[:FEW], inputs, 0)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(peak_memory, (config, folder)))
    (few, texts_of_few), (many, texts_of_many) = peaks
    return (
        f"{case.name}: peak memory {few:,.0f} MiB with {FEW:,} inputs, {many:,.0f} MiB with {MANY:,}: "
        f"{many - few:+.1f} MiB, of which the texts {texts_of_many - texts_of_few:.1f}"
    )


ROW = "{:<13}{:>6} |{:>7}{:>8} |{:>7}{:>8}{:>8} |{:>7}{:>8} |{:>9} |{:>10}{:>9}"
TITLES = [
    ["", "", "genera", "tion   ", "scori", "ng      ", "", "all", "", "all", "scoring", ""],
    "model inputs ours old ours bare old ours old old/ours bare/ours old/ours".split(),
    ["", "", "", "", "", "", "", "", "target:", f">= {LEAST_TOTAL}", "", f">= {LEAST_SCORING}"],
]


def report(case: Case, inputs: int, turns: list[Turn]) -> str:
    """A row of the table: median times, medians of the turns' ratios."""
    times = [
        [turn.ours_generation for turn in turns],
        [turn.old_generation for turn in turns],
        [turn.ours_scoring for turn in turns],
        [turn.bare_scoring for turn in turns],
        [turn.old_scoring for turn in turns],
        [turn.ours_total for turn in turns],
        [turn.old_generation + turn.old_scoring for turn in turns],
    ]
    _, _, ours, bare, old, all_ours, all_old = times
    ratios = [
        median(map(float.__truediv__, a, b)) for a, b in ((all_old, all_ours), (bare, ours), (old, ours))
    ]
    met = ratios[0] >= LEAST_TOTAL, True, ratios[2] >= LEAST_SCORING
    shown = [f"{ratio:.1f}{'' if good else ' NO'}" for ratio, good in zip(ratios, met, strict=True)]
    return ROW.format(case.name, inputs, *(f"{median(t):.3f}" for t in times), *shown)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models asked for and print a row for each; returns the exit status."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument(
        "--inputs", type=int, default=100, help="of ours, 10 texts each (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.inputs < 1 or args.repeats < 1:
        parser.error("--inputs and --repeats must be at least 1")
    torch.set_num_threads(1)
    samples = load_datapool("python_docs", "train", {"form": "sentence_from_words", "packages": ["stdlib"]})

    print(f"torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}")
    seconds = score_many(samples)
    met = "yes" if seconds < MOST_SECONDS else "NO"
    print(f"{MANY_INPUTS * GENERATIONS:,} rouge_l_max, nothing cached: {seconds:.2f} s")
    print(f"  target: < {MOST_SECONDS:g} s, met: {met}\n")
    print(f"milliseconds a text and ratios: medians of {args.repeats} turns; py-rouge: {has_py_rouge()}")
    for titles in TITLES:
        print(ROW.format(*titles))
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if case.name in args.models:
                turns = measure(case, samples, args.inputs, args.repeats, Path(folder))
                print(report(case, args.inputs, turns), flush=True)
                print(f"{'':<12}(old: one pass of the {GENERATIONS} over {case.old_prompts} inputs)")
        print()
        for case in CASES:
            if case.name in args.models and case.name.endswith("tiny"):
                print(memory_report(case, samples, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What sampling and scoring texts costs, against the floor: the same as a plain loop.

Random models, real prompts (`python_docs`), 10 texts of at most 20 tokens each, `sacre_bleu` and
`rouge_l_max`. The project is a whole extraction: texts on disk batch by batch, scores, result files. The
floor calls `generate` once for every 25 prompts in their order, and scores text by text with one object of
sacrebleu and one of py-rouge. Both take turns in one process, in CPU seconds of one thread; with --device
cuda, seconds. First the floor's scores of the project's texts must be the project's. At the end: how much
more memory ten times as many prompts take.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sacrebleu.metrics import BLEU
from setting import (
    MODELS,
    RandomModel,
    checked_config,
    compare_numbers,
    load_samples,
    median_ratio,
    now,
    save_model,
    write_data,
)
from text_pairs import import_py_rouge  # type: ignore[import-not-found]

from common import process
from common.run_dir import RunDir
from rl4lms.config import ExtractConfig, resolved
from rl4lms.extract import extract
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.samples import Sample

GENERATIONS, NEW_TOKENS, MAX_PROMPT, PROMPTS_AT_A_TIME = 10, 20, 512, 25
FEW, MANY = 200, 2000  # prompts between which memory is compared
TOLERANCE = 1e-6
Scorer = Callable[[str, list[str]], float]


@dataclass(frozen=True)
class Turn:
    """Seconds of generation, of scoring, and of all."""

    generation: float
    scoring: float
    total: float


def make_config(
    model: RandomModel, path: Path, samples: Sequence[Sample], seed: int, device: str
) -> ExtractConfig:
    """An extraction of texts for the samples."""
    content = {
        "tokenizer": {
            "model_name": str(path),
            "max_length": MAX_PROMPT,
            "clean_up_tokenization_spaces": True,
        },
        "datapool": write_data(path / f"{len(samples)}.jsonl", samples),
        "alg": {
            "model_type": model.kind,
            "model_name": str(path),
            "generation_kwargs": {"do_sample": True, "top_k": 50, "max_new_tokens": NEW_TOKENS},
        },
        "evaluation": {
            "eval_batch_size": PROMPTS_AT_A_TIME * GENERATIONS,
            "num_samples_per_input": GENERATIONS,
            "metrics": [{"id": "rouge_l_max"}, {"id": "sacre_bleu"}],
        },
        "runtime": {"seed": seed, "device": device},
    }
    return checked_config(ExtractConfig, content)


def run_project(config: ExtractConfig, folder: Path) -> tuple[Turn, Path]:
    """An extraction and its result file; generation: from when the model is loaded to the last text."""
    times: list[float] = []  # the first call is before the first text
    start = now()
    with RunDir.create(folder, "run", resolved(config), {}) as run:
        path = extract(config, run, lambda *_: times.append(now())).path
    end = now()
    # What follows the last text is scoring, and the result files.
    return Turn(times[-1] - times[0], end - times[-1], end - start), path


class Floor:
    """A model, its tokenizer, and the objects that score."""

    def __init__(self, model: RandomModel, path: Path, samples: Sequence[Sample], device: str) -> None:
        self.samples, self.is_seq2seq, self.device = samples, model.kind == "seq2seq", device
        self.model: Any = load_model(str(path), model.kind, torch.float32, device)
        self.tokenizer = load_tokenizer(str(path), truncation_side="left")
        self.tokenizer.padding_side = "right" if self.is_seq2seq else "left"
        bleu = BLEU(tokenize="13a")
        rouge = import_py_rouge().Rouge(
            metrics=["rouge-l"],
            max_n=4,
            limit_length=True,
            length_limit=100,
            length_limit_type="words",
            apply_avg=True,
            apply_best=True,
            alpha=0.5,
            weight_factor=1.2,
            stemming=True,
        )
        self.scorers: dict[str, Scorer] = {
            "lexical/sacrebleu": lambda text, refs: (
                bleu.corpus_score([text], [[reference] for reference in refs]).score / 100
            ),
            "lexical/rouge_l_max": lambda text, refs: max(
                rouge.get_scores([text], [reference])["rouge-l"]["f"] for reference in refs
            ),
        }

    def turn(self) -> Turn:
        """Texts for all samples, then their scores."""
        start = now()
        texts: list[str] = []
        for first in range(0, len(self.samples), PROMPTS_AT_A_TIME):
            chunk = self.samples[first : first + PROMPTS_AT_A_TIME]
            texts += self.generate([sample.prompt_or_input_text for sample in chunk])
        middle = now()
        owners = [sample for sample in self.samples for _ in range(GENERATIONS)]
        for scorer in self.scorers.values():
            for text, sample in zip(texts, owners, strict=True):
                scorer(text, sample.references)
        end = now()
        return Turn(middle - start, end - middle, end - start)

    def generate(self, prompts: list[str]) -> list[str]:
        """`GENERATIONS` texts of each prompt."""
        inputs = self.tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=MAX_PROMPT,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(self.device)
        with torch.no_grad():
            ids = self.model.generate(
                **inputs,
                do_sample=True,
                top_k=50,
                max_new_tokens=NEW_TOKENS,
                num_return_sequences=GENERATIONS,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        start = 1 if self.is_seq2seq else inputs.input_ids.shape[1]
        return list(self.tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True))

    def check(self, result: dict[str, Any]) -> float:
        """The largest difference of the scores of a result's texts. Raises ValueError: it is too large."""
        differences = []
        for key, scorer in self.scorers.items():
            values = result["all_metric_values"][key].flatten().tolist()
            scores = [
                scorer(text, references)
                for texts, references in zip(result["all_generated_texts"], result["references"], strict=True)
                for text in texts
            ]
            differences.append(compare_numbers(key, values, scores, TOLERANCE))
        return max(differences)


def measure(
    model: RandomModel, path: Path, samples: Sequence[Sample], device: str, turns: int, folder: Path
) -> tuple[list[Turn], list[Turn], float]:
    """The turns of project and floor, after one of each that is not counted, and the scores' difference."""
    floor = Floor(model, path, samples, device)
    project_turns, floor_turns, difference = [], [], 0.0
    for seed in range(turns + 1):
        turn, file = run_project(make_config(model, path, samples, seed, device), folder)
        if seed == 0:
            difference = floor.check(torch.load(file, weights_only=True))
        project_turns.append(turn)
        floor_turns.append(floor.turn())
    return project_turns[1:], floor_turns[1:], difference


def peak_memory() -> float:
    """MiB that this process held at most. (getrusage would count its parent's.)"""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else math.nan


def memory_of(config: ExtractConfig, folder: Path) -> tuple[float, float]:
    """MiB: the most that an extraction held, and its texts. To be called in a process of its own."""
    process.prepare()
    torch.set_num_threads(1)
    _, file = run_project(config, folder)
    peak, result = peak_memory(), torch.load(file, weights_only=True)
    lists = [result["prompts"], *result["references"], *result["all_generated_texts"]]
    return peak, sum(sys.getsizeof(text) for texts in lists for text in texts) / 2**20


def memory_report(model: RandomModel, path: Path, samples: Sequence[Sample], folder: Path) -> str:
    """How much more memory an extraction of the same prompts takes, ten times."""
    results = []
    for count in (FEW, MANY):
        repeated = [samples[i % FEW] for i in range(count)]
        config = make_config(model, path, repeated, 0, "cpu")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results.append(pool.apply(memory_of, (config, folder)))
    (few, few_texts), (many, many_texts) = results
    return (
        f"{model.name}: {few:,.0f} MiB with {FEW:,} prompts, {many - few:+.1f} MiB with {MANY:,}, of which "
        f"the texts themselves {many_texts - few_texts:.1f}"
    )


ROW = "{:<12}|{:>12}{:>10}{:>8} |{:>20}{:>20}{:>20}{:>12}"
TITLES = (
    f"{'':<12}|{'project, ms a text':>30} |{'project / floor, median (least-most)':>60}",
    ROW.format(*"model generation scoring all generation scoring all difference".split()),
)


def report(name: str, texts: int, project: Sequence[Turn], floor: Sequence[Turn], difference: float) -> str:
    """A row of the table."""
    parts = ("generation", "scoring", "total")
    columns = {part: [getattr(turn, part) for turn in project] for part in parts}
    times = [f"{1000 * median(column) / texts:.3f}" for column in columns.values()]
    ratios = [median_ratio(columns[part], [getattr(turn, part) for turn in floor]) for part in parts]
    return ROW.format(name, *times, *ratios, f"{difference:.0e}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models asked for and print a row for each; returns the exit status."""
    process.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    small = ["t5-tiny", "gpt2-tiny", "t5-medium", "gpt2-medium"]
    names = list(MODELS)
    parser.add_argument("--models", nargs="+", choices=names, default=small, help="default: %(default)s")
    parser.add_argument("--inputs", type=int, default=200, help="prompts (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.inputs < 1 or args.repeats < 1:
        parser.error("--inputs and --repeats must be at least 1")
    torch.set_num_threads(1)
    samples = load_samples()
    print(
        f"{args.device}, torch {torch.__version__}, 1 thread, cores: {os.cpu_count()}, {args.repeats} turns"
    )
    print(f"difference: of the scores of the same texts, relative (allowed: {TOLERANCE:.0e})")
    print(*TITLES, sep="\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in (MODELS[name] for name in args.models):
            path = save_model(model, folder, samples)
            chosen = [samples[i % len(samples)] for i in range(args.inputs)]
            turns = measure(model, path, chosen, args.device, args.repeats, folder)
            print(report(model.name, args.inputs * GENERATIONS, *turns), flush=True)
        print("\npeak memory")
        for model in (MODELS[name] for name in args.models if name.endswith("tiny")):
            print(memory_report(model, folder / model.name, samples, folder), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

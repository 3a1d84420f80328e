"""The old way to sample and score texts, re-created from its description for `benchmarks/extraction.py`.

One `generate` call per generation index with prompts padded to the longest that is allowed, and every text
scored alone, by metric objects built for it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from nltk.stem.porter import PorterStemmer
from sacrebleu.metrics import BLEU


def generate(model: Any, tokenizer: Any, prompts: list[str], max_length: int, new_tokens: int) -> list[str]:
    """One text of each prompt; the old way calls this once for every text of an input."""
    encoded = tokenizer(prompts, padding="max_length", max_length=max_length, truncation=True)
    inputs = {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=True, top_k=50, max_new_tokens=new_tokens)
    start = 0 if model.config.is_encoder_decoder else max_length
    return list(tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True))


def has_py_rouge() -> bool:
    """Whether the package whose values are NarrativeQA's reward is installed."""
    try:
        return version("py-rouge") == "1.1"
    except PackageNotFoundError:
        return False


def py_rouge_l(rouge: Any, text: str, references: list[str]) -> float:
    """The best ROUGE-L, by an evaluator with NarrativeQA's arguments. rouge: py-rouge's class."""
    evaluator = rouge(
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
    return max(float(evaluator.get_scores([text], [one])["rouge-l"]["f"]) for one in references)


def plain_rouge_l(text: str, references: list[str]) -> float:
    """The best ROUGE-L of stems, by a table of text length times reference length; nearly as py-rouge."""
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
    """SacreBLEU / 100 by an object of sacrebleu's."""
    return BLEU(tokenize="13a").corpus_score([text], [[one] for one in references]).score / 100


def arrow_sacre_bleu(file: Path, text: str, references: list[str]) -> float:
    """SacreBLEU / 100 as the Hugging Face metrics compute it: their input goes through an Arrow file."""
    features = Features({"predictions": Value("string"), "references": List(Value("string"))})
    writer = ArrowWriter(features=features, path=str(file))
    writer.write_batch({"predictions": [text], "references": [references]})
    writer.finalize()
    read = Dataset.from_file(str(file))
    streams = [list(stream) for stream in zip(*read["references"][:], strict=True)]
    value = sacrebleu.corpus_bleu(read["predictions"][:], streams).score / 100
    file.unlink()
    return value

"""What the jobs of InstructGPT's pipeline do in their folders (`paper.instructgpt.jobs`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.files import atomic_write_json, atomic_write_text, make_directory
from common.jobs import Report
from common.run_dir import RunDir, find_runs, read_run
from common.seeding import derive_seed
from paper.instructgpt.data import LOSSES, MIXES, SCORES, TABLES, mix_name, read_lines
from paper.instructgpt.rewards import gold_values, squash, to_log_odds
from paper.small_models.config import PretrainConfig
from paper.small_models.corpus import held_out_corpus
from paper.small_models.held_out import held_out_examples, measure_examples
from rft_diagnose.teacher import best_of_n, best_of_n_kl, judge_teacher, normalise
from rl4lms.config.rankings import MakeRankingsConfig
from rl4lms.datapools import load_rankings
from rl4lms.make_rankings import FOLDER, Texts, format_rows, make_rankings
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.reward_model import RewardModel
from rl4lms.plan.runs import find_model
from rl4lms.reward_model.measure import accuracy, accuracy_interval, gold_pairs
from rl4lms.teacher import SampledTexts, read_texts, score_texts
from rl4lms.text import TextBatch

Floats = NDArray[np.float64]
Stop = Callable[[], bool]


def work_on_rankings(run: RunDir, report: Report, stop: Stop) -> None:
    """Rank texts of a model, as rl4lms_make_rankings.py does."""
    config = MakeRankingsConfig.model_validate(run.config)
    total = sum(config.sizes().values()) * config.extraction.evaluation.num_samples_per_input
    make_rankings(config, run, lambda done: report(done, total), stop)


def work_on_mixes(run: RunDir, report: Report, stop: Stop) -> None:
    """Rankings with shares of on-policy texts, and what squashed gold rewards are computed with."""
    (rankings,) = _inputs(run, "rankings")
    config, rng = run.config, np.random.default_rng(derive_seed(run.config["seed"], "mixes"))
    scale = read_run(rankings).manifest["noise_scale"]
    rows = {
        split: list(read_lines(rankings / FOLDER / f"{split}.jsonl")) for split in ("train", "val", "test")
    }
    others = {split: rank_references(rows[split], scale, config["gold"], rng) for split in ("train", "test")}
    order = rng.permutation(len(rows["train"]))
    for share in config["on_policy"]:
        folder = run.path / MIXES / mix_name(share)
        make_directory(folder.parent)
        make_directory(folder)
        kept = set(order[: round(share * len(order))].tolist())
        train = [(rows if i in kept else others)["train"][i] for i in range(len(order))]
        for split, content in (("train", train), ("val", rows["val"]), ("test", others["test"])):
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            atomic_write_text(folder / f"{split}.jsonl", text)
    sampled = policy_texts(rankings, "train")
    gold = gold_of(sampled, config["gold"]["log_odds"])
    half = set(rng.permutation(len(gold))[: len(gold) // 2].tolist())
    make_directory(run.path / TABLES)
    everything = set(range(len(gold)))
    for name, chosen in (("perfect", set()), ("squashed", everything), ("half", half)):
        table = make_table(sampled.prompts, gold, chosen, config["squash"])
        atomic_write_json(run.path / TABLES / f"{name}.json", table)


def rank_references(
    rows: Sequence[dict[str, Any]], scale: float, gold: dict[str, Any], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """For each ranking one of as many texts that people wrote after other prompts, with the same noise.

    scale: of the Gumbel noise; gold: arguments of `gold_values`.
    """
    references = list(dict.fromkeys(text for row in rows for text in row["references"]))
    drawn = [
        [references[i] for i in rng.choice(len(references), len(row["completions"]), replace=False)]
        for row in rows
    ]
    owners = [row for row, texts in zip(rows, drawn, strict=True) for _ in texts]
    batch = TextBatch(
        [row["prompt"] for row in owners],
        [text for texts in drawn for text in texts],
        [row["references"] for row in owners],
        [{} for _ in owners],
    )
    values = iter(gold_values(batch, **gold))
    ranked = [
        Texts(
            row["id"],
            row["prompt"],
            row["references"],
            texts,
            np.array([next(values) for _ in texts]),
            rng.gumbel(size=len(texts)),
        )
        for row, texts in zip(rows, drawn, strict=True)
    ]
    return [json.loads(line) for line in format_rows(ranked, scale).splitlines()]


def make_table(prompts: Sequence[str], gold: Floats, chosen: set[int], factor: float) -> dict[str, Any]:
    """What `squashed` needs: the centres of the prompts at these positions, mean and std of all rewards.

    gold: [N, G], of a policy's texts.
    """
    centres = {prompts[i]: float(gold[i].mean()) for i in sorted(chosen)}
    rewards = [
        [squash(value, centres.get(prompt), factor) for value in row]
        for prompt, row in zip(prompts, gold.tolist(), strict=True)
    ]
    std = float(np.std(rewards))
    return {"centres": centres, "factor": factor, "mean": float(np.mean(rewards)), "std": std or 1.0}


def work_on_scores(run: RunDir, report: Report, stop: Stop) -> None:
    """What a reward model says of the policy's texts, how often it is right, and the best of n by it."""
    (trained,), (rankings,), (mixes,) = (_inputs(run, key) for key in ("model", "rankings", "mixes"))
    model = RewardModel.load(str(find_model(trained)))
    log_odds = run.config["log_odds"]
    sampled = policy_texts(rankings, "val")
    rewards = score_texts(model, sampled)
    summary = judge_teacher(rewards, gold_of(sampled, log_odds), "gold").summary
    scores: dict[str, Any] = {
        "variance": summary["variance"]["value"],
        "within_share": summary["within_share"],
        "accuracy": summary["accuracy"]["share"],
        "rankings": _accuracy(model, rankings / FOLDER),
        "off_policy": _accuracy(model, next((mixes / MIXES).glob("*"), rankings / FOLDER)),
    }
    for extraction in _inputs(run, "best_of"):
        many = read_texts(extraction.with_name(f"{extraction.name}.pt"))
        scores["best_of_n"] = best_of(score_texts(model, many), gold_of(many, log_odds))
        scores["squashed"] = squashed_scores(gold_of(sampled, log_odds), run.config["squash"])
    run.update_manifest(mean=float(rewards.mean()), std=float(rewards.std()) or 1.0)
    atomic_write_json(run.path / SCORES, scores)


def best_of(rewards: Floats, gold: Floats) -> list[dict[str, float]]:
    """For each n the root of the KL, and how far proxy and gold of the best of n by proxy rise, in std.

    rewards, gold: [N, G].
    """
    curves = {"proxy": rewards, "gold": gold}
    means = {name: best_of_n(rewards, normalise(values)).mean(0) for name, values in curves.items()}
    n = np.arange(1, rewards.shape[1] + 1)
    roots = np.sqrt(best_of_n_kl(n))
    return [
        {"n": float(n[i]), "kl_root": float(roots[i])} | {name: float(means[name][i]) for name in curves}
        for i in range(len(n))
    ]


def squashed_scores(gold: Floats, factor: float) -> dict[str, float]:
    """Variance and accuracy, as of a reward model, of gold [N, G] squashed within prompts."""
    centres = gold.mean(1, keepdims=True)
    summary = judge_teacher(centres + factor * (gold - centres), gold, "gold").summary
    return {"variance": summary["variance"]["value"], "accuracy": summary["accuracy"]["share"]}


def _accuracy(model: RewardModel, folder: Path) -> dict[str, float]:
    """The share of pairs of a folder's test rankings that are ordered as gold says, and its interval."""
    name = model.tokenizer.name_or_path
    rankings = load_rankings("preferences", "test", {"data_path": str(folder), "format": "ranking"}, name)
    owners = [(ranking.prompt, text) for ranking in rankings for text in ranking.completions]
    flat = iter(model.score([prompt for prompt, _ in owners], [text for _, text in owners]))
    pairs = gold_pairs(rankings, [[next(flat) for _ in ranking.completions] for ranking in rankings])
    low, high = accuracy_interval(pairs)
    return {"share": accuracy(pairs), "low": low, "high": high, "pairs": float(len(pairs.weight))}


def policy_texts(rankings: Path, split: str) -> SampledTexts:
    """The texts of a split that rankings were made of, all of them."""
    inner = [info.path for info in find_runs(rankings) if info.manifest.get("split") == split]
    return read_texts(inner[-1].with_name(f"{inner[-1].name}.pt"))


def gold_of(sampled: SampledTexts, log_odds: bool) -> Floats:
    """The gold rewards [N, G] of texts, or the log-odds of them."""
    gold = next(iter(sampled.gold.values()))
    return np.array([to_log_odds(row) for row in gold]) if log_odds else gold


def work_on_losses(run: RunDir, report: Report, stop: Stop) -> None:
    """Sums of losses and tokens of each held-out text of pretraining, under each model and the base model."""
    config = PretrainConfig.model_validate(run.config["pretraining"])
    examples = [example for _, example in held_out_examples(config, held_out_corpus(config))]
    base = run.config["base"]["model_name"]
    models = {"pretrained": base}
    models |= {name: str(find_model(Path(path))) for name, path in run.manifest["inputs"]["models"].items()}
    losses = {}
    for number, (name, folder) in enumerate(models.items()):
        report(number, len(models))
        model = load_model(
            folder, "causal" if config.model_type == "causal" else "seq2seq", torch.float32, "cpu"
        )
        sums = measure_examples(config, model, load_tokenizer(base), examples)
        losses[name] = {"loss": sums[:, 0].tolist(), "tokens": sums[:, 2].tolist()}
    atomic_write_json(run.path / LOSSES, losses)


def _inputs(run: RunDir, key: str) -> list[Path]:
    return [Path(path) for path in run.manifest["inputs"].get(key, {}).values()]


WORK: dict[str, Callable[[RunDir, Report, Stop], None]] = {
    "rankings": work_on_rankings,
    "mixes": work_on_mixes,
    "scores": work_on_scores,
    "losses": work_on_losses,
}

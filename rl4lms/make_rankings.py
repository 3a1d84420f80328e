"""Rankings of a model's own texts by a gold reward with noise: preference data that needs no people.

The texts and gold rewards are those of an extraction for each split. One noisy ranking a prompt stands for a
labeller, who disagrees with the gold reward on some pairs. The noise is Gumbel's, with which rankings are
those of the Plackett-Luce model, and the comparison of any two those of the Bradley-Terry model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from common import console
from common.errors import UserError
from common.files import atomic_write_text, make_directory
from common.jobs import ending, finish_inner, remove_if_refused
from common.links import publish
from common.run_dir import RunDir, find_runs
from common.seeding import derive_seed
from rl4lms.config import resolved
from rl4lms.config.rankings import MakeRankingsConfig, NoisyRankingConfig
from rl4lms.extract import INTERRUPT_MESSAGE, SCORES, TEXTS, ExtractionInterrupted, extract
from rl4lms.samples import Split

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]
FOLDER = "rankings"  # of the run, with a file for each split
CLIP = 1e-6  # a probability nearer to 0 or 1 counts as this near: float32 tells no nearer to 1
_HALVINGS = 100  # to the last bit of the noise's scale


class RankingsError(UserError):
    """Texts that cannot be ranked as asked; the message is for the user."""


@dataclass(frozen=True)
class Texts:
    """A prompt with K different completions of it. gold, noise: [K], noise of scale 1."""

    id: str | int
    prompt: str
    references: list[str]
    completions: list[str]
    gold: Floats
    noise: Floats


def choose_texts(content: dict[str, Any], settings: NoisyRankingConfig, split: Split) -> list[Texts]:
    """The first K different texts of each prompt of an extraction, K drawn from k_min to k_max.

    Fewer if there are no more; a prompt with one text only, or that was there before, is left out.
    Raises RankingsError: a gold reward that is to be a probability is none.
    """
    rng = np.random.default_rng(derive_seed(settings.seed, "rankings", split))
    count = len(content["prompts"])
    sizes = rng.integers(settings.k_min, settings.k_max, size=count, endpoint=True)
    noise = rng.gumbel(size=(count, settings.k_max))
    rewards = next(iter(content["all_metric_values"].values())).double().numpy()
    if settings.log_odds:
        rewards = log_odds(rewards)
    chosen: dict[str, Texts] = {}
    for i, (prompt, texts) in enumerate(zip(content["prompts"], content["all_generated_texts"], strict=True)):
        first = {text: number for number, text in reversed(list(enumerate(texts)))}
        positions = sorted(first.values())[: sizes[i]]
        if len(positions) > 1 and prompt not in chosen:
            completions = [texts[number] for number in positions]
            gold, its_noise = rewards[i, positions], noise[i, : len(positions)]
            chosen[prompt] = Texts(
                content["ids"][i], prompt, content["references"][i], completions, gold, its_noise
            )
    return list(chosen.values())


def log_odds(probabilities: Floats) -> Floats:
    """Log-odds of probabilities, clipped to CLIP and 1 - CLIP. Raises RankingsError: they are none."""
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise RankingsError(
            f"rankings.log_odds: the gold reward is no probability, it goes from {probabilities.min():g} to "
            f"{probabilities.max():g}; set it to false"
        )
    clipped = np.clip(probabilities, CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def find_scale(prompts: Sequence[Texts], agreement: float) -> float:
    """The scale of the noise with which this share of all pairs agrees with their gold rewards.

    By bisection: a pair that disagrees at a scale does so at every larger one. Raises RankingsError: no pair
    has different gold rewards, or more pairs agree whatever the scale.
    """
    if agreement == 1:
        return 0.0
    gold, noise = _differences(prompts)
    if not len(gold):
        raise RankingsError(
            "the gold reward is the same for all texts of every train prompt: nothing to rank"
        )
    if (least := float(np.mean(noise > 0))) > agreement:
        raise RankingsError(
            f"rankings.agreement: {agreement:g} cannot be reached, with noise alone {least:.3f} of the "
            f"{len(gold):,} pairs agree; take more train prompts"
        )
    low, high = 0.0, 1.0
    while _agreement(gold, noise, high) > agreement:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _agreement(gold, noise, middle) > agreement:
            low = middle
        else:
            high = middle
    return high


def measure_agreement(prompts: Sequence[Texts], scale: float) -> tuple[float, int]:
    """The share of pairs with different gold rewards that are ranked as these say, and their number."""
    gold, noise = _differences(prompts)
    return (_agreement(gold, noise, scale) if len(gold) else float("nan")), len(gold)


def _differences(prompts: Sequence[Texts]) -> tuple[Floats, Floats]:
    """Of all pairs with different gold rewards, better minus worse: gold and noise, each [pairs]."""
    gold: list[Floats] = []
    noise: list[Floats] = []
    for texts in prompts:
        i, j = np.nonzero(texts.gold[:, None] > texts.gold[None, :])
        gold.append(texts.gold[i] - texts.gold[j])
        noise.append(texts.noise[i] - texts.noise[j])
    return np.concatenate([np.empty(0), *gold]), np.concatenate([np.empty(0), *noise])


def _agreement(gold: Floats, noise: Floats, scale: float) -> float:
    return float(np.mean(gold + scale * noise > 0))


def format_rows(prompts: Sequence[Texts], scale: float) -> str:
    """JSON lines of format `ranking`: scores with noise, and gold."""
    rows = [
        {
            "id": texts.id,
            "prompt": texts.prompt,
            "completions": texts.completions,
            "scores": (texts.gold + scale * texts.noise).tolist(),
            "gold": texts.gold.tolist(),
            "references": texts.references,
        }
        for texts in prompts
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make_rankings(
    config: MakeRankingsConfig,
    run: RunDir,
    progress: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Extract, rank and write train.jsonl, val.jsonl, test.jsonl; returns their folder in the run.

    progress(texts sampled so far). The same config gives the same bytes, however often the run was cut.
    Raises ExtractionInterrupted, RankingsError and the errors of `rl4lms.extract.extract`.
    """
    # 1. Texts and gold rewards of each split, by extractions in the run's directory.
    prompts: dict[Split, list[Texts]] = {}
    before = 0
    for split in get_args(Split):
        content = _extract_split(config, split, run, progress, before, should_stop)
        before += sum(map(len, content["all_generated_texts"]))
        prompts[split] = choose_texts(content, config.rankings, split)
        logger.info("%s: %s", split, _describe(content, prompts[split], config.rankings))

    # 2. Noise of the same scale for all, by train's pairs.
    scale = find_scale(prompts["train"], config.rankings.agreement)
    folder = run.path / FOLDER
    make_directory(folder)
    agreements = {}
    for split, texts in prompts.items():
        agreements[split], pairs = measure_agreement(texts, scale)
        logger.info("%s: %.4f of %s pairs agree with gold", split, agreements[split], f"{pairs:,}")
        atomic_write_text(folder / f"{split}.jsonl", format_rows(texts, scale))
    sizes = {split: len(texts) for split, texts in prompts.items()}
    artefacts = [f"{FOLDER}/{split}.jsonl" for split in prompts]
    run.update_manifest(noise_scale=scale, agreement=agreements, rankings=sizes, artefacts=artefacts)
    return folder


def _extract_split(
    config: MakeRankingsConfig,
    split: Split,
    run: RunDir,
    progress: Callable[[int], None],
    before: int,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """What the extraction of a split leaves, run now or gone on with. before: texts of earlier splits."""
    extraction = config.extraction_of(split)
    earlier = [info for info in find_runs(run.path) if info.manifest.get("split") == split]
    if earlier:
        inner = RunDir.open(earlier[-1].path)
    else:
        inner = RunDir.create(run.path, split, resolved(extraction), {"job": "extraction", "split": split})
    with inner:
        file = inner.path.with_name(f"{inner.path.name}.pt")
        if inner.manifest["status"] != "finished":
            file = extract(extraction, inner, lambda done, _: progress(before + done), should_stop).path
            finish_inner(inner)
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def _describe(content: dict[str, Any], prompts: Sequence[Texts], settings: NoisyRankingConfig) -> str:
    completions = sum(len(texts.completions) for texts in prompts)
    line = f"{len(prompts):,} prompts, {completions:,} completions"
    if left_out := len(content["prompts"]) - len(prompts):
        line += f"; {left_out:,} left out, whose texts are all equal or that were there before"
    if few := sum(len(texts.completions) < settings.k_min for texts in prompts):
        line += f"; {few:,} with fewer than {settings.k_min} different texts"
    return line


def run_making(config: MakeRankingsConfig, run: RunDir, link: Path, resume_command: str) -> int:
    """Make rankings as a runner does, then let `link` lead to them; returns the exit status.

    resume_command: of a runner that goes on with it.
    """
    for notice in config.extraction.notices():
        logger.info("note: extraction.%s", notice)
    logger.info("run folder: %s", run.path)
    total = sum(config.sizes().values()) * config.extraction.evaluation.num_samples_per_input
    with (
        console.stop_request(INTERRUPT_MESSAGE) as stop,
        ending(run, resume_command, ExtractionInterrupted, kept=(f"*/{TEXTS}", f"*/{SCORES}")) as end,
        console.progress(total, f"rankings {config.name}", unit="text") as bar,
    ):
        publish(make_rankings(config, run, bar.move_to, stop), link, "dataset")
        logger.info("rankings: %s", link)
    remove_if_refused(run, end)
    return end.code

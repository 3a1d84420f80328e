"""The YAML schema of making rankings: texts and gold rewards of an extraction, ranked with noise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from common.config import Config, ConfigError, Located, Problem, load_config
from rl4lms.config.extract import ExtractConfig
from rl4lms.config.parts import Positive, Seed
from rl4lms.config.report import (
    extraction_sizes,
    local_problems,
    missing_components,
    models_missing,
    resolved,
)
from rl4lms.samples import Split


class NoisyRankingConfig(Config):
    k_min: Annotated[int, Field(ge=2)] = Field(4, description="fewest completions of a prompt (paper: 4)")
    k_max: Annotated[int, Field(ge=2)] = Field(
        9, description="most, each number from k_min is as likely (paper: 9)"
    )
    agreement: Annotated[float, Field(gt=0.5, le=1)] = Field(
        description="share of pairs with different gold rewards that are ranked as these say; 1: no noise"
    )
    log_odds: bool = Field(
        False,
        description="gold is a probability: its log-odds are what noise is added to, and written as gold",
    )
    n_train: Positive = Field(description="prompts of split train")
    n_val: Positive = Field(description="prompts of split val")
    n_test: Positive = Field(description="prompts of split test")
    seed: Seed = Field(0, description="fixes the choice of prompts, numbers of completions and noise")

    def check(self) -> list[Problem]:
        if self.k_min <= self.k_max:
            return []
        return [Problem("k_max", f"must be at least k_min, {self.k_min}; is {self.k_max}")]


# Fields of the extraction that follow from the rankings, with their defaults.
_DERIVED: dict[str, Any] = {
    "split": "train",
    "num_train_samples": -1,
    "train_samples_rnd_seed": -1,
    "used_indices_from": None,
}


class MakeRankingsConfig(Config):
    """Completions of a model, ranked by a gold reward with noise, as preference data of three splits."""

    name: str = Field(description="of the rankings' folder")
    extraction: ExtractConfig = Field(
        description="model, prompts, sampling and, as its only metric, the gold reward; as in the config of "
        "an extraction"
    )
    rankings: NoisyRankingConfig = Field(description="how many of them are ranked, and how well")

    def check(self) -> list[Problem]:
        problems = []
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.name):
            problems.append(Problem("name", f"becomes the name of a folder, got {self.name!r}"))
        datapool, evaluation = self.extraction.datapool, self.extraction.evaluation
        for field, default in _DERIVED.items():
            if getattr(datapool, field) != default:
                message = "leave it out: rankings.n_train, n_val, n_test and seed say which prompts are taken"
                problems.append(Problem(f"extraction.datapool.{field}", message))
        if len(evaluation.metrics) != 1:
            message = f"must be the gold reward alone, are {len(evaluation.metrics)}"
            problems.append(Problem("extraction.evaluation.metrics", message))
        if evaluation.num_samples_per_input < self.rankings.k_max:
            message = (
                f"must be at least rankings.k_max, {self.rankings.k_max}, of which only different texts are "
                f"ranked; is {evaluation.num_samples_per_input}"
            )
            problems.append(Problem("extraction.evaluation.num_samples_per_input", message))
        if not self.extraction.alg.generation_kwargs.do_sample:
            message = "must be true: without it all texts of a prompt are equal"
            problems.append(Problem("extraction.alg.generation_kwargs.do_sample", message))
        return problems

    def sizes(self) -> dict[Split, int]:
        """The number of prompts of each split."""
        return {"train": self.rankings.n_train, "val": self.rankings.n_val, "test": self.rankings.n_test}

    def extraction_of(self, split: Split) -> ExtractConfig:
        """The extraction of a split's texts."""
        chosen = {
            "split": split,
            "num_train_samples": self.sizes()[split],
            "train_samples_rnd_seed": self.rankings.seed,
        }
        return self.extraction.model_copy(
            update={"datapool": self.extraction.datapool.model_copy(update=chosen)}
        )


def load_rankings_config(path: str | Path, overrides: Iterable[str] = ()) -> MakeRankingsConfig:
    """The rankings that a file describes. Raises ConfigError with all problems."""
    return load_config(path, MakeRankingsConfig, overrides)


def resolved_rankings(config: MakeRankingsConfig) -> dict[str, Any]:
    """The config with all defaults; it loads as the same run."""
    return config.model_dump() | {"extraction": resolved(config.extraction)}


def check_rankings_locally(path: Path, config: MakeRankingsConfig) -> str:
    """What `--check` prints. Raises ConfigError with what a run would refuse in local data files."""
    extractions = [config.extraction_of(split) for split in get_args(Split)]
    problems = {problem: None for extraction in extractions for problem in local_problems(extraction)}
    _raise_problems(path, problems)
    notes = [f"note: extraction.{p.path}: {p.message}" for p in models_missing(config.extraction)]
    notes += [f"note: extraction.{notice}" for notice in config.extraction.notices()]
    rankings = config.rankings
    sizes = ", ".join(f"{split} {size:,}" for split, size in config.sizes().items())
    lines = [
        *notes,
        f"rankings: prompts of {sizes}; {rankings.k_min} to {rankings.k_max} completions each",
        extraction_sizes(extractions[0])[1],
        json.dumps(resolved_rankings(config), indent=2),
    ]
    return "\n".join(lines)


def check_rankings_components(path: Path, config: MakeRankingsConfig) -> None:
    """Raises ConfigError with all that the extractions need and this machine lacks."""
    _raise_problems(path, [*models_missing(config.extraction), *missing_components(config.extraction)])


def _raise_problems(path: Path, problems: Iterable[Problem]) -> None:
    located = [Located(None, f"extraction.{problem.path}", problem.message) for problem in problems]
    if located:
        raise ConfigError(path, located)

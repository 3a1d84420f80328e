"""The arguments of the preferences datapool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.config import Config, Problem
from rl4lms.datapools.sources import existing_path

FormatName = Literal[
    "ranking",
    "trl",
    "hh",
    "ultrafeedback",
    "helpsteer",
    "summarize",
    "webgpt",
    "shp",
    "nectar",
    "arena",
    "safe_rlhf",
    "lm_human_preferences",
    "rewardbench",
]
Attribute = Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
ScoreField = Literal[
    "fine-grained_score",
    "overall_score",
    "helpfulness",
    "honesty",
    "instruction_following",
    "truthfulness",
]
Ties = Literal["drop", "half"]
Share = Annotated[float | None, Field(gt=0, lt=1)]

# Where the project's own rankings lie, as its configs name them -> the config that makes them.
LAPTOP_RANKINGS = {
    "outputs/laptop_rankings/continuation": "rl4lms_scripts/instructgpt/laptop/continuation_rankings.yml",
    "outputs/laptop_rankings/content_words": "rl4lms_scripts/instructgpt/laptop/content_words_rankings.yml",
}


class PreferencesArgs(Config):
    data_path: str | None = Field(
        None,
        description="JSON lines (also .gz) or parquet: a file, or a folder with files of each split or of "
        "all; or what save_to_disk wrote",
    )
    hub_dataset: str | None = Field(None, description="hub dataset, instead of data_path")
    hub_config: str | None = Field(None, description="which of its configurations; null: its only one")
    hub_revision: str | None = Field(None, description="the commit to read, 40 hexadecimal digits")
    format: Literal["auto"] | FormatName = Field(
        "auto", description="what the rows look like; auto: as the columns of the first say"
    )
    ties: Ties = Field("drop", description="half: a tie counts half for either side; drop: not at all")
    attribute: Attribute = Field(
        "helpfulness", description="format helpsteer with a response a row: which of its ratings ranks them"
    )
    score_field: ScoreField = Field(
        "fine-grained_score",
        description="format ultrafeedback: which of its scores ranks the completions (overall_score is known "
        "to be wrong in places)",
    )
    chat_template: str = Field(
        "auto", description="renders messages; auto: the tokenizer's; plain: Human/Assistant; or a jinja file"
    )
    tokenizer_name: str | None = Field(None, description="whose chat template; null: the run's tokenizer")
    split_field: str | None = Field(
        "split", description="field that names a row's split, if there is one; null: none does"
    )
    val_share: Share = Field(
        None,
        description="share of train's prompts, by their hash, that is val; null: the data has a val split",
    )
    test_share: Share = Field(None, description="the same for test")

    def check(self) -> list[Problem]:
        problems = existing_path(self.data_path)
        if problems and (config := LAPTOP_RANKINGS.get(str(self.data_path))):
            command = f"python rl4lms_make_rankings.py --config_path {config}"
            problems = [Problem("data_path", f"{problems[0].message}; made by: {command}")]
        if (self.data_path is None) == (self.hub_dataset is None):
            problems.append(Problem("data_path", "give either data_path or hub_dataset"))
        if self.hub_dataset is not None and not re.fullmatch(r"[0-9a-f]{40}", self.hub_revision or ""):
            problems.append(
                Problem(
                    "hub_revision",
                    "must be the commit to read, 40 hexadecimal digits, so that every run reads the same "
                    f"rows; is {self.hub_revision!r}",
                )
            )
        if (
            self.chat_template not in ("auto", "plain")
            and not Path(self.chat_template).expanduser().is_file()
        ):
            problems.append(
                Problem(
                    "chat_template", f"must be auto, plain or a file, is {self.chat_template!r}: no such file"
                )
            )
        if (self.val_share or 0) + (self.test_share or 0) >= 1:
            problems.append(Problem("val_share", "val_share and test_share must leave something of train"))
        return problems

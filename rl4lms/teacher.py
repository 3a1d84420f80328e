"""A reward model's rewards of the texts that an extraction sampled, and what they say of it as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.files import RowLog
from common.identity import content_digest, hash_of
from common.run_dir import CheckpointError, load_checkpoint
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.extractions import find_extraction
from rft_diagnose.groups import Floats
from rft_diagnose.teacher import judge_teacher, teacher_rows
from rl4lms.model.load import load_config
from rl4lms.model.reward_model import RewardModel

PROMPTS_AT_A_TIME = 50  # what a crash in scoring costs at most


class TeacherError(UserError):
    """An extraction that a reward model cannot be judged by; the message is for the user."""


@dataclass(frozen=True)
class SampledTexts:
    """G texts of a policy for each of N prompts. gold: name -> [N, G], the extraction's own rewards.

    split: of the dataset, None = the file does not tell.
    """

    ids: list[str]
    prompts: list[str]
    texts: list[list[str]]
    gold: dict[str, Floats]
    references: list[list[str]]
    split: str | None = None


def read_texts(path: Path) -> SampledTexts:
    """Read the texts in an extraction's file. Raises CheckpointError: it is none."""
    content = load_checkpoint(path)
    fields = ("ids", "prompts", "all_generated_texts", "all_metric_values")
    if missing := [name for name in fields if name not in content]:
        raise CheckpointError(f"{path} is no extraction's file: it lacks {', '.join(missing)}")
    ids, prompts, texts, metrics = (content[name] for name in fields)
    sizes = {len(row) for row in texts}
    shape = [len(prompts), *sizes]
    known = all(isinstance(values, torch.Tensor) for values in metrics.values())
    if len(texts) != len(prompts) or len(sizes) != 1 or not known:
        raise CheckpointError(f"{path} is no extraction's file: its texts are not as many for each prompt")
    gold = {name: values.double().numpy() for name, values in metrics.items()}
    if any(list(values.shape) != shape for values in gold.values()):
        raise CheckpointError(f"{path} is no extraction's file: its rewards are not those of its texts")
    references = content.get("references") or [[] for _ in prompts]
    config = content.get("config")
    pool = config.get("datapool") if isinstance(config, dict) else None
    split = pool.get("split") if isinstance(pool, dict) else None
    return SampledTexts([str(i) for i in ids], prompts, texts, gold, references, split)


def score_texts(
    model: RewardModel,
    sampled: SampledTexts,
    batch_size: int = 64,
    report: Callable[[int], None] = lambda prompts: None,
) -> Floats:
    """Compute the rewards [N, G] of the texts; report(prompts done)."""
    rewards = []
    for start in range(0, len(sampled.prompts), PROMPTS_AT_A_TIME):
        rows = slice(start, start + PROMPTS_AT_A_TIME)
        rewards += _score(model, sampled.prompts[rows], sampled.texts[rows], batch_size)
        report(len(rewards))
    return np.array(rewards, dtype=np.float64)


def score_once(
    load: Callable[[], RewardModel],
    identity: str,
    sampled: SampledTexts,
    file: Path,
    report: Callable[[int], None] = lambda prompts: None,
    batch_size: int = 64,
) -> Floats:
    """Compute the rewards [N, G] of the texts, but of those in `file`, and keep them there.

    identity: of the model, which is loaded if a reward is missing. file: JSON lines, a row a prompt with what
    its rewards are of; rows of other models and texts stay. Raises OutputError, ModelSourceError.
    """
    pairs = zip(sampled.prompts, sampled.texts, strict=True)
    keys = [hash_of([identity, prompt, texts]) for prompt, texts in pairs]
    with closing(RowLog(file, "number")) as log:
        rewards = {row["key"]: row["rewards"] for row in log.read()}
        model: RewardModel | None = None
        for start in range(0, len(keys), PROMPTS_AT_A_TIME):
            rows = range(start, min(start + PROMPTS_AT_A_TIME, len(keys)))
            missing = [i for i in rows if keys[i] not in rewards]
            if missing:
                model = model or load()
                # All of them: in another batch a reward may differ by rounding.
                part = slice(rows.start, rows.stop)
                scores = _score(model, sampled.prompts[part], sampled.texts[part], batch_size)
                for i in missing:
                    rewards[keys[i]] = scores[i - start]
                    log.append(
                        {"number": i, "input": sampled.ids[i], "rewards": scores[i - start], "key": keys[i]}
                    )
                log.sync()
            report(rows.stop)
    return np.array([rewards[key] for key in keys], dtype=np.float64)


def identify(name: str) -> str:
    """Name a reward model by its content: the files of a folder, the commit of the hub's.

    Raises ModelSourceError: the hub has none, or cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return content_digest(folder)
    from huggingface_hub import try_to_load_from_cache

    load_config(name)  # after which its newest commit is in the cache
    cached = try_to_load_from_cache(name, "config.json")
    return f"{name}@{Path(cached).parent.name}" if isinstance(cached, str) else name


def teacher_report(
    model: RewardModel,
    extraction: Path,
    batch_size: int = 64,
    report: Callable[[int], None] = lambda prompts: None,
) -> tuple[dict[str, Any], list[str]]:
    """Judge a reward model as a teacher of the policy whose texts an extraction has; for a training's log.

    extraction: its .pt file, run directory or folder; gold is its first metric. Returns the summary (see
    rft_diagnose/teacher.py), as JSON values, and lines for a reader. Raises TeacherError, CheckpointError.
    """
    try:
        path = find_extraction(extraction)
    except DiagnosisError as error:
        raise TeacherError(str(error)) from error
    sampled = read_texts(path)
    name = next(iter(sampled.gold), None)
    rewards = score_texts(model, sampled, batch_size, report)
    try:
        summary = judge_teacher(rewards, None if name is None else sampled.gold[name], name).summary
    except DiagnosisError as error:
        raise TeacherError(f"{path}: {error}") from error
    prompts, each = rewards.shape
    head = f"as a teacher of the policy of {path.name} ({prompts:,} prompts, {each:,} texts each):"
    return summary, [head, *(f"  {what}: {number}" for what, number in teacher_rows(summary))]


def _score(
    model: RewardModel, prompts: Sequence[str], texts: Sequence[Sequence[str]], batch_size: int = 64
) -> list[list[float]]:
    """Score the texts of some prompts, all lists of one length."""
    each = len(texts[0])
    flat = model.score(
        [prompt for prompt in prompts for _ in range(each)],
        [text for row in texts for text in row],
        batch_size,
    )
    return [flat[i : i + each] for i in range(0, len(flat), each)]

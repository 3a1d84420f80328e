"""Sampling from an endpoint: every text on disk before it is scored, every score before the diagnosis."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rft_diagnose.ask_all import Progress, Task, ask_all, plan_tasks
from rft_diagnose.endpoint import Abilities, Completion, Endpoint, EndpointError, Sampling, check_endpoint
from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.prompt_files import PromptRow
from rft_diagnose.reading import RewardTable
from rft_diagnose.results import atomic_path, write_json
from rft_diagnose.reward_functions import RewardFunction, score

logger = logging.getLogger(__name__)
SETTINGS, TEXTS, SCORES, TABLE = "sampling.json", "texts.jsonl", "scores.jsonl", "generations.jsonl"
GIVE_UP = 3  # requests in a row that fail for good, each after all its tries
SAY_EVERY = 10.0  # seconds
MANY_CUT = 0.01  # of the texts, from which on it is said


@dataclass(frozen=True)
class Sampled:
    """The table of all generations, and what the reader of its diagnosis must know."""

    table: Path
    notes: list[str]

    def add_notes(self, path: Path, table: RewardTable) -> RewardTable:
        """Add the notes to the table that was read from the path, if it is this one."""
        return replace(table, notes=(*table.notes, *self.notes)) if path == self.table else table


class Texts:
    """The texts of N prompts in a folder; those that a killed run left are taken up."""

    def __init__(self, folder: Path, prompts: Sequence[PromptRow], sampling: Sampling) -> None:
        """Raises DiagnosisError: the folder has texts of other prompts or settings, or cannot be written."""
        self.folder = folder
        self.samples: list[dict[int, Completion]] = [{} for _ in prompts]
        settings = asdict(sampling) | {"prompts": _digest(prompts)}
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _check_settings(folder, settings)
            for row in _read_rows(folder / TEXTS):
                fields = {name: row[name] for name in ("text", "finish_reason", "logprob", "tokens")}
                self.samples[row["number"]][row["sample"]] = Completion(**fields)
            write_json(folder / SETTINGS, settings)

    @contextmanager
    def adding(self) -> Iterator[Callable[[int, int, Sequence[Completion]], None]]:
        """Give a function in the block that adds texts: the prompt's number, the first sample, the texts."""
        with _appending(self.folder / TEXTS) as append:

            def add(number: int, first: int, completions: Sequence[Completion]) -> None:
                for sample, completion in enumerate(completions, first):
                    append({"number": number, "sample": sample, **asdict(completion)})
                    self.samples[number][sample] = completion

            yield add


def sample(
    endpoint: Endpoint,
    prompts: Sequence[PromptRow],
    rewards: Sequence[RewardFunction],
    folder: Path,
    generations: int,
    concurrency: int,
    allow_equal: bool = False,
) -> Sampled:
    """Sample `generations` texts of each prompt, score them, and write the table; or go on with it.

    Texts are scored as soon as those of a prompt are there, so that a reward function that fails is noticed
    at once. Raises DiagnosisError; what was sampled is kept, and the same call asks for the rest.
    """
    texts = Texts(folder, prompts, endpoint.sampling)
    scores = _Scores(folder, prompts, rewards, generations)
    done = sum(min(len(samples), generations) for samples in texts.samples)
    total = len(prompts) * generations
    notes: list[str] = []
    for number, samples in enumerate(texts.samples):
        scores.add(number, samples)
    if done < total:
        if done:
            logger.info("going on: %s of %s texts are there", f"{done:,}", f"{total:,}")
        firsts = [row.prompt for row in prompts]
        abilities, notes = check_endpoint(endpoint, firsts, generations, allow_equal)
        tasks = [
            task
            for number, (row, samples) in enumerate(zip(prompts, texts.samples, strict=True))
            for task in plan_tasks(
                number, row.prompt, [i for i in range(generations) if i not in samples], abilities.several
            )
        ]
        progress = Progress(total, done, concurrency)
        refused = _ask(endpoint, abilities, tasks, concurrency, texts, scores, progress)
        notes += refused
    with _writing(folder):
        _write_table(folder / TABLE, prompts, texts, scores, generations)
    return Sampled(folder / TABLE, notes + _notes_on_texts(texts, generations))


def _ask(
    endpoint: Endpoint,
    abilities: Abilities,
    tasks: Sequence[Task],
    concurrency: int,
    texts: Texts,
    scores: _Scores,
    progress: Progress,
) -> list[str]:
    """Ask for the texts of all tasks; return notes on those that could not be had. Raises DiagnosisError."""
    failures: list[tuple[int, str]] = []
    in_a_row, said = 0, time.monotonic()
    with texts.adding() as add:
        for answer in ask_all(endpoint, abilities, tasks, concurrency, progress.tried_again):
            if answer is not None and answer.failure is None:
                in_a_row = 0
                add(answer.task.number, answer.task.first, answer.completions)
                progress.add(len(answer.completions))
                scores.add(answer.task.number, texts.samples[answer.task.number])
            elif answer is not None:
                failures.append((answer.task.number, answer.failure or ""))
                in_a_row = 0 if answer.is_refused else in_a_row + 1
                if in_a_row == GIVE_UP:
                    raise EndpointError(
                        f"{', '.join(endpoint.urls)}: {answer.failure}, after many tries; "
                        f"{progress.done:,} of {progress.total:,} texts are kept in {texts.folder}: the same "
                        "command goes on"
                    )
            if time.monotonic() - said >= SAY_EVERY or progress.done == progress.total:
                said = time.monotonic()
                logger.info("%s", progress.line())
    if not failures:
        return []
    if not any(texts.samples):
        raise EndpointError(f"{', '.join(endpoint.urls)}: {failures[0][1]}, for every prompt")
    numbers = sorted({number for number, _ in failures})
    return [
        f"{progress.total - progress.done:,} texts of {len(numbers):,} prompts could not be had (rows "
        f"{listed(number + 1 for number in numbers)}): {failures[0][1]}. The same command asks for them again"
    ]


class _Scores:
    """Rewards of the texts of N prompts, on disk as soon as a prompt has all; by the functions of now."""

    def __init__(
        self, folder: Path, prompts: Sequence[PromptRow], rewards: Sequence[RewardFunction], generations: int
    ) -> None:
        self.path, self.prompts, self.rewards, self.generations = (
            folder / SCORES,
            prompts,
            rewards,
            generations,
        )
        self.key = "-".join(reward.key for reward in rewards)
        with _writing(folder):
            rows = _read_rows(self.path)
        self.values: dict[int, dict[str, list[float | None]]] = {
            row["number"]: row["rewards"] for row in rows if row["key"] == self.key
        }

    def add(self, number: int, samples: dict[int, Completion]) -> None:
        """Score the texts of a prompt that has all of them, unless they are scored. Raises DiagnosisError."""
        known = self.values.get(number)
        if any(i not in samples for i in range(self.generations)):
            return
        if known is not None and all(len(values) >= self.generations for values in known.values()):
            return
        values = self.score(number, [samples[i].text for i in range(self.generations)])
        self.values[number] = values
        with _appending(self.path) as append:
            append({"number": number, "key": self.key, "rewards": values})

    def score(self, number: int, texts: Sequence[str]) -> dict[str, list[float | None]]:
        """Score texts of a prompt. Raises DiagnosisError: a function fails."""
        row = self.prompts[number]
        where = f"row {number + 1:,} of the prompts"
        return {reward.name: score(reward, row.prompt, texts, row.columns, where) for reward in self.rewards}


def _write_table(
    path: Path, prompts: Sequence[PromptRow], texts: Texts, scores: _Scores, generations: int
) -> None:
    """Write a row per generation: prompt_id, prompt, text, rewards, and what else is known of the text."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, (row, samples) in enumerate(zip(prompts, texts.samples, strict=True)):
            chosen = [i for i in range(generations) if i in samples]
            if not chosen:
                continue
            values = scores.values.get(number)
            if values is None or len(chosen) < generations:
                values = scores.score(number, [samples[i].text for i in chosen])
            for place, i in enumerate(chosen):
                rewards = {name: column[place] for name, column in values.items()}
                generation = {"prompt_id": row.id, "prompt": row.prompt, **asdict(samples[i]), **rewards}
                file.write(json.dumps(generation) + "\n")


def _notes_on_texts(texts: Texts, generations: int) -> list[str]:
    """Say how many texts were cut, and of how many prompts all are the same."""
    groups = [[samples[i] for i in range(generations) if i in samples] for samples in texts.samples]
    every = [text for group in groups for text in group]
    told = [text for text in every if text.finish_reason is not None]
    cut = sum(text.finish_reason == "length" for text in told)
    notes = []
    if told and cut / len(told) >= MANY_CUT:
        notes.append(
            f"{cut / len(told):.0%} of the texts are cut at max_tokens: they may be rewarded as half answers"
        )
    same = sum(len(group) > 1 and len({text.text for text in group}) == 1 for group in groups)
    if same:
        notes.append(
            f"all texts of {same:,} of {len(groups):,} prompts are the same: no reward has a spread there"
        )
    return notes


def _digest(prompts: Sequence[PromptRow]) -> str:
    return hashlib.sha256(json.dumps([row.prompt for row in prompts]).encode()).hexdigest()[:16]


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise DiagnosisError if the folder's texts are those of other prompts or settings."""
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise DiagnosisError(
            f"{folder / SETTINGS} is damaged ({error}): give another --output_path"
        ) from error
    changed = [
        f"{name} is {settings[name]!r}, and was {before.get(name)!r}"
        for name in settings
        if before.get(name) != settings[name]
    ]
    if changed:
        raise DiagnosisError(
            f"{folder} has texts that were sampled otherwise ({'; '.join(changed)}): give another "
            "--output_path, or delete it"
        )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what was appended; a last line that is not whole is taken out of the file. Raises OSError."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]


@contextmanager
def _appending(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function in the block that appends a row, written through. Raises DiagnosisError."""
    with _writing(path.parent), open(path, "a", encoding="utf-8") as file:
        yield lambda row: _append(file, row)


def _append(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiagnosisError(
            f"{folder} (--output_path) cannot be written: {error.strerror or error}"
        ) from error

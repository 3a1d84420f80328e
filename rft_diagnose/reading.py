"""Tables of all files as one: which input, step and reward each generation has."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.columns import EXACT, Encoded, as_text, encode, read_number, values_at
from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.excerpts import Texts, find_texts
from rft_diagnose.files import steps_in_names
from rft_diagnose.generations import drop_repeated, join_hashes
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.logs import Log
from rft_diagnose.names import IDS, POOLED_HERE, POSITIONS, Chosen, Columns, is_logged_here
from rft_diagnose.objective import Objective, make_objective, run_objective
from rft_diagnose.rows import ambiguous_id, are_of_visits, restart
from rft_diagnose.sources import (
    Source,
    broken_text,
    first_broken,
    join_first,
    join_numbers,
    join_whole_texts,
    place,
    read_sources,
)
from rft_diagnose.texts import warn_of_equal_texts
from rft_diagnose.trl_logs import trl_notes

NUMBERED = re.compile(r"[A-Za-z][A-Za-z_ .:-]*(\d+)")  # a step: "step_10", "checkpoint-500"
ROUNDED = re.compile(r"[+-]?\d+(\.\d+)?[eE]\+?\d+")  # how a large whole number is written once it is rounded
ARRAYS = re.compile(r"\s*(array|tensor)\(\s*[\[{]")  # as numpy and torch write prompts that are no texts
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class RewardTable:
    """M generations of N inputs.

    codes: [M], each one's input; labels, prompts, references: of the N inputs (None: not known); rewards:
    name -> [M], NaN = missing; steps, kl: [M] or None; notes: what was chosen without being asked;
    no_prompts, no_references: why these are not known, and what to do; gold: name -> [M], what the rewards of
    a reward model are judged by as a teacher (empty: not known), None: they are not a reward model's.
    texts: reads those of the generations; warnings: what stands before any verdict; log: whose log it is;
    objective: what it trains by, None: not known; pooled: how many last steps are to be taken together, None:
    each input's last visit.
    """

    codes: Ints
    labels: list[str]
    rewards: dict[str, Floats]
    prompts: list[str] | None = None
    references: list[list[str]] | None = None
    steps: Ints | None = None
    kl: Floats | None = None
    notes: tuple[str, ...] = ()
    no_prompts: str | None = None
    no_references: str | None = None
    gold: Mapping[str, Floats] | None = None
    texts: Texts = field(default_factory=Texts)
    warnings: tuple[str, ...] = ()
    log: Log = field(default_factory=Log)
    objective: Objective | None = None
    pooled: int | None = None


def read_tables(files: Sequence[Path], asked: Columns, from_folders: set[Path]) -> RewardTable:
    """Read the rewards in all files as one table.

    from_folders: files that may be left out, for standing beside the data. Raises DiagnosisError.
    """
    sources, notes = read_sources(files, asked, from_folders)
    chosen = sources[0].chosen
    if not any(source.size for source in sources):
        raise DiagnosisError(f"{sources[0].where}: no rows")
    notes += _notes_on_choice(chosen)
    steps, step_note = _read_steps(sources)
    name, inputs, text, input_note = _name_inputs(sources, asked, steps)
    notes += [note for note in (input_note, step_note) if note is not None]
    rewards = {name: join_numbers(sources, name) for name in chosen.rewards}
    kl = None if chosen.kl is None else join_numbers(sources, chosen.kl)
    prompts = _read_prompts(name, inputs, text)
    references = None
    if chosen.references is not None:
        references = _read_references(sources, chosen.references, inputs)
        notes += _note_on_references(sources, chosen.references, inputs)
    codes, logged = inputs.codes, steps
    texts = join_hashes(sources)
    kept, repeat_notes = drop_repeated(sources, codes, list(rewards.values()), steps)
    if kept is not None:
        texts = None if texts is None else texts[kept]
        codes, rewards = codes[kept], {name: values[kept] for name, values in rewards.items()}
        steps = None if steps is None else steps[kept]
        kl = None if kl is None else kl[kept]
    if steps is not None and logged is not None and chosen.log.library == "TRL":
        notes += trl_notes(logged, codes, steps)
    others = [name for name in chosen.names if name not in (chosen.prompt, *chosen.rewards)]
    return RewardTable(
        codes=codes,
        labels=inputs.texts,
        rewards=rewards,
        prompts=prompts,
        references=references,
        steps=steps,
        kl=kl,
        notes=(*notes, *repeat_notes),
        no_prompts=f"the table names its inputs by {name!r}, and their texts are not known: give these in a "
        "column `prompt`, or name it with --prompt",
        no_references="name the column that has them with --references (there are: "
        f"{listed(others) or 'no others'})",
        texts=find_texts(sources, asked, kept),
        warnings=() if (warning := warn_of_equal_texts(codes, texts, steps)) is None else (warning,),
        log=chosen.log,
        objective=_objective(sources[0]),
        pooled=POOLED_HERE if is_logged_here(chosen.names) else None,
    )


def _objective(source: Source) -> Objective | None:
    """Tell what a log trains by: that of a run here, or of a library that has one way."""
    if is_logged_here(source.chosen.names):
        return run_objective(source.path) or make_objective("ppo", source="a log of a run here")
    log = source.chosen.log
    return None if log.objective is None else make_objective(log.objective, source=f"a log of {log.library}")


def _notes_on_choice(chosen: Chosen) -> list[str]:
    """Say which columns were taken unasked, where others might have been meant."""
    notes = []
    if chosen.is_unasked:
        writer = (
            "completions logged by TRL" if chosen.log.library == "TRL" else f"a log of {chosen.log.library}"
        )
        plural = "s" if chosen.log.library == "TRL" or len(chosen.rewards) > 1 else ""
        notes.append(f"recognised as {writer}, with the reward{plural} {', '.join(chosen.rewards)}")
    if chosen.log.note is not None:
        notes.append(chosen.log.note)
    if chosen.left:
        notes.append(
            f"the reward is {' + '.join(chosen.rewards)}; numbers that are not taken unless --reward names "
            f"them: {listed(chosen.left)}"
        )
    return notes


# Steps


def _read_steps(sources: Sequence[Source]) -> tuple[Ints | None, str | None]:
    """Read the step of each row, from its column or the files' names; and a note. Raises DiagnosisError."""
    name = sources[0].chosen.step
    if name is None:
        is_timed = all(source.chosen.log.is_timed for source in sources)
        steps = steps_in_names([source.path for source in sources]) if is_timed else None
        if steps is None:
            return None, None
        sizes = [source.size for source in sources]
        return np.repeat(np.array(steps, dtype=np.int64), sizes), "steps are taken from the files' names"
    values = np.concatenate([_step_numbers(source, name) for source in sources])
    known = ~np.isnan(values)
    whole = known & (np.abs(values) < EXACT) & (np.round(values) == values)
    if not whole.all():
        row = int((~whole).argmax())
        where, number = place(row, sources)
        if not known[row]:
            raise DiagnosisError(f"{where}: no {name!r} in row {number:,}")
        raise DiagnosisError(
            f"{where}: {name!r} in row {number:,} is {values[row]:.17g}: steps are whole numbers below 2^53"
        )
    note = None if name.casefold() in ("step", "global_step") else f"steps are taken from {name!r}"
    return values.astype(np.int64), note


def _step_numbers(source: Source, name: str) -> Floats:
    """Read steps as numbers, also those with a word before them, NaN: missing. Raises DiagnosisError."""
    column = source.part.values[name]
    if isinstance(column, np.ndarray):
        return column
    if not isinstance(column, Encoded) and any(type(value) is bool for value in column):
        raise DiagnosisError(f"{source.where}: {name!r} must hold numbers, holds truth values")
    texts = encode(column)
    steps = [_step_number(text) for text in texts.texts]
    if None in steps:
        wrong = steps.index(None)
        row = int((texts.codes == wrong).argmax()) + 1
        raise DiagnosisError(
            f"{source.where}: {name!r} must hold numbers, row {row:,} holds {texts.texts[wrong]!r:.60}"
        )
    return np.array([*steps, np.nan], dtype=float)[texts.codes]


def _step_number(text: str) -> float | None:
    match = NUMBERED.fullmatch(text.strip())
    return float(match.group(1)) if match else read_number(text)


# Inputs


def _name_inputs(
    sources: Sequence[Source], asked: Columns, steps: Ints | None
) -> tuple[str, Encoded, Encoded | None, str | None]:
    """Tell which input each row is of, and by which column; also the texts beside ids, and a note.

    An id that stands for several texts is a place in a batch, perhaps: the texts then name the inputs.
    Raises DiagnosisError: a name is missing, or names several inputs.
    """
    name, text_name = sources[0].chosen.prompt, sources[0].chosen.text
    inputs = join_whole_texts(sources, name)
    texts, note = None, None
    if text_name is not None and all(text_name in source.part.texts for source in sources):
        texts = join_whole_texts(sources, text_name)
        several = ambiguous_id(inputs, texts)
        if several is not None:
            reason = f"{name!r} does not name the input: {several!r:.60} stands for several {text_name!r}"
            if asked.prompt is not None:
                raise DiagnosisError(f"{sources[0].where}: {reason}; give --prompt {text_name}")
            inputs, name, texts = texts, text_name, None
            note = f"{reason}. Inputs are told apart by {text_name!r}"
        elif asked.prompt is None and steps is not None and are_of_visits(inputs, texts, steps):
            note = (
                f"{name!r} does not name the input: it is another one at each step. Inputs are told apart by "
                f"{text_name!r}"
            )
            inputs, name, texts = texts, text_name, None
    if (inputs.codes < 0).any():
        where, row = place(int((inputs.codes < 0).argmax()), sources)
        raise DiagnosisError(f"{where}: no {name!r} in row {row:,}")
    if IDS.fullmatch(name):
        _check_ids(sources, name, inputs, texts, asked, steps)
    return name, inputs, texts, note


def _check_ids(
    sources: Sequence[Source],
    name: str,
    inputs: Encoded,
    texts: Encoded | None,
    asked: Columns,
    steps: Ints | None,
) -> None:
    """Raise DiagnosisError if ids were rounded, or seem to be places in a batch."""
    rounded = next((text for text in inputs.texts if ROUNDED.fullmatch(text)), None)
    if rounded is not None:
        raise DiagnosisError(
            f"{sources[0].where}: {name!r} holds {rounded}, a rounded number, which may stand for several "
            "inputs: write ids as whole numbers or texts"
        )
    is_asked = asked.prompt is not None and not POSITIONS.fullmatch(name)
    if texts is not None or is_asked or is_logged_here(sources[0].chosen.names):
        return
    blocks = np.repeat(np.arange(len(sources)), [source.size for source in sources])
    ends = restart(inputs.texts, inputs.codes, blocks if steps is None else steps)
    if ends is not None:
        confirm = "" if POSITIONS.fullmatch(name) else f"; if they are ids of the data, say --prompt {name}"
        raise DiagnosisError(
            f"{sources[0].where}: {name!r} counts from {ends[0]} to {ends[1]:,} anew in each "
            f"{'file' if steps is None else 'step'}, as places in a batch do, where different inputs have "
            f"one number: give a column with the inputs' texts, or ids of the data, with --prompt{confirm}"
        )


def _read_prompts(name: str, inputs: Encoded, texts: Encoded | None) -> list[str] | None:
    """Find each input's text: its name if that is one, else the text beside it; None: not known."""
    if texts is not None:
        _, first = np.unique(inputs.codes, return_index=True)
        codes = texts.codes[first]
        if (codes >= 0).all() and (len(codes) == 1 or len(np.unique(codes)) > 1):
            return [texts.texts[code] for code in codes]
        return None
    is_text = not IDS.fullmatch(name) and any(read_number(text) is None for text in inputs.texts)
    return inputs.texts if is_text or name.casefold() == "prompt" else None


def _read_references(sources: Sequence[Source], name: str, inputs: Encoded) -> list[list[str]]:
    """Read the expected texts of each input. Raises DiagnosisError: one is no whole text."""
    references = [_as_texts(value) for value in join_first(sources, name, inputs.codes)]
    for number, texts in enumerate(references):
        if (wrong := first_broken(texts)) is not None:
            raise DiagnosisError(
                f"{sources[0].where}: {name!r} of {inputs.texts[number]!r:.60} {broken_text(texts[wrong])}"
            )
    return references


def _note_on_references(sources: Sequence[Source], name: str, inputs: Encoded) -> list[str]:
    """Say of how many inputs the expected texts differ between rows, if there are any."""
    column = encode([value for s in sources for value in values_at(s.part.values[name], np.arange(s.size))])
    pairs = np.unique(np.stack([inputs.codes, column.codes]), axis=1)[0]
    several = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    if not several:
        return []
    return [f"{several:,} inputs have other expected texts ({name!r}) in some rows: those of the first count"]


def _as_texts(value: Any) -> list[str]:
    """List the expected texts in a field that holds one or several, or none."""
    if value is None or value != value:  # NaN is missing, too
        return []
    return [as_text(text) for text in value] if isinstance(value, list) else [as_text(value)]


def read_messages(prompt: str) -> Messages | None:
    """Read a conversation written as JSON or as Python writes it: messages with role and content, or None."""
    content = _read_data(prompt)
    is_conversation = (
        isinstance(content, list) and content and all(_is_message(message) for message in content)
    )
    return content if is_conversation else None


def is_data(prompt: str) -> bool:
    """Tell whether a prompt is a list or an object, as JSON or Python write them, and no text."""
    return bool(_read_data(prompt)) or ARRAYS.match(prompt) is not None


def _read_data(prompt: str) -> Any:
    """Read a list or an object written as JSON or as Python writes it; None if it is none."""
    if not prompt.lstrip().startswith(("[", "{")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(prompt)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value

"""The page of inputs: their generations and rewards, sorted and filtered in the browser, in one file.

It is under MOST_BYTES whatever the table: what has no room is left out, and the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rft_diagnose.classes import CLASSES
from rft_diagnose.columns import as_text
from rft_diagnose.diagnose import latest_visits
from rft_diagnose.errors import DiagnosisError, listed
from rft_diagnose.excerpts import Texts
from rft_diagnose.groups import Ints
from rft_diagnose.reading import RewardTable, read_messages
from rft_diagnose.report import input_key, load_templates
from rft_diagnose.results import Table
from rft_diagnose.rows import Bools
from rft_diagnose.style import CLASS_COLORS
from rft_diagnose.tables import Target

MOST_INPUTS = 500  # of a class
MOST_GENERATIONS = 64  # of an input
MOST_REWARDS = 20  # parts of what is diagnosed
MOST_BYTES = 20_000_000
FRAME_BYTES = 100_000  # of the page without its data
IN_MEMORY = 64_000_000  # characters of texts, from which on only some of each input are kept
# Characters of a text, and texts of an input, that are tried until the page is small enough.
SIZES = (
    *((2000, 64), (2000, 32), (2000, 16), (1000, 16), (1000, 8), (500, 8), (500, 4), (250, 4), (250, 2)),
    (100, 1),
)
LONGEST = SIZES[0][0]


@dataclass(frozen=True)
class Generations:
    """Generations of some inputs, from those that they were judged by.

    inputs: [K], their rows in inputs.csv; rows: of each input, those of the table, by reward; rewards: by
    name, of all of these rows one after the other, first what was diagnosed; left: rewards that are not here;
    texts: reads these.
    """

    inputs: Ints
    rows: list[Ints]
    rewards: dict[str, list[float]]
    left: list[str]
    texts: Texts


@dataclass
class Kept:
    """Texts that are read, cut, with their lengths; of each input those of the lowest ranks that have room.

    ranks: row -> its place in the order in which generations of its input are to be shown.
    """

    ranks: dict[int, int]
    texts: dict[int, tuple[str, int]] = field(default_factory=dict)
    each: int = MOST_GENERATIONS
    size: int = 0

    def add(self, row: int, text: str) -> None:
        """Take a text in, and the last ones of each input out, where there is no more room."""
        if self.ranks[row] >= self.each:
            return
        text = readable(text)
        self.texts[row] = (text[:LONGEST], len(text))
        self.size += min(len(text), LONGEST)
        while self.size > IN_MEMORY and self.each > 1:
            self.each //= 2
            self.texts = {row: kept for row, kept in self.texts.items() if self.ranks[row] < self.each}
            self.size = sum(len(kept) for kept, _ in self.texts.values())


def readable(text: str) -> str:
    """Write a text as a person reads it: a conversation as its messages, half characters as marks."""
    messages = read_messages(text) if text.lstrip().startswith("[{") else None
    if messages is not None:
        contents = [as_text(message["content"]) for message in messages]
        roles = [f"{message['role']}: " for message in messages] if len(messages) > 1 else [""]
        text = "\n\n".join(role + content for role, content in zip(roles, contents, strict=True))
    return text if text.isascii() else text.encode(errors="replace").decode()


def choose_inputs(columns: Table, named: Sequence[int], most: int = MOST_INPUTS) -> Ints:
    """Choose at most so many inputs of each class: those that the report names, others by chance."""
    rng, chosen = np.random.RandomState(0), []
    for name in CLASSES:
        inside = np.flatnonzero(columns["label"] == name)
        first = np.intersect1d(inside, np.array(named, dtype=np.int64))[:most]
        others = np.setdiff1d(inside, first)
        size = min(most - len(first), len(others))
        chosen.append(np.concatenate([first, rng.choice(others, size, replace=False)]))
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def gather(
    table: RewardTable,
    columns: Table,
    places: Ints,
    target: Target,
    last_steps: int | None,
    named: Sequence[int],
) -> Generations:
    """Choose inputs and their generations for the page.

    columns: those of inputs.csv; places: [N], of the inputs in the table; target: what was diagnosed;
    last_steps: see `diagnose`; named: inputs that the report names.
    """
    chosen = choose_inputs(columns, named)
    inside = np.zeros(len(table.labels), dtype=bool)
    inside[places[chosen]] = True
    rows = _judged_rows(table, target, last_steps, inside)
    total = next(iter(_shown_rewards(table, target, rows).values()))
    rows = rows[np.lexsort((rows, np.array(total), table.codes[rows]))]
    groups = np.split(rows, np.searchsorted(table.codes[rows], places[chosen][1:]))
    groups = [_thinned(group) for group in groups]
    rewards = _shown_rewards(table, target, np.concatenate(groups))
    return Generations(chosen, groups, rewards, list(table.rewards)[MOST_REWARDS:], table.texts)


def _judged_rows(table: RewardTable, target: Target, last_steps: int | None, inside: Bools) -> Ints:
    """Find the generations by which some inputs were judged; inside: [labels], which inputs."""
    known = ~np.isnan(target.values(table.rewards))
    if target.kl_coef is not None and table.kl is not None:
        known &= ~np.isnan(table.kl)
    if table.steps is None:
        return np.flatnonzero(known & inside[table.codes])
    rows = np.flatnonzero(known)
    rows = rows[latest_visits(table.codes[rows], table.steps[rows], last_steps)]
    return rows[inside[table.codes[rows]]]


def _shown_rewards(table: RewardTable, target: Target, rows: Ints) -> dict[str, list[float]]:
    """Give what was diagnosed of some generations, then its parts, if there are any."""
    values = {name: column[rows] for name, column in table.rewards.items()}
    total = target.values(values)
    parts = list(values.items())[:MOST_REWARDS] if len(values) > 1 else []
    if target.kl_coef is not None and table.kl is not None:
        total = total - target.kl_coef * table.kl[rows]
        parts = [*(parts or values.items()), ("KL", table.kl[rows])]
    return {name: column.tolist() for name, column in [(target.name, total), *parts]}


def spread_out(size: int) -> list[int]:
    """Order places 0 to size - 1 so that the first of them, whatever their number, lie far apart."""
    bits = max(1, (size - 1).bit_length())
    order = sorted(range(size), key=lambda place: f"{place:0{bits}b}"[::-1])
    return list(dict.fromkeys([0, size - 1, *order]))


class Page:
    """The data of the page: inputs with their generations, in as many bytes as there are.

    columns: those of inputs.csv; named: inputs that the report names.
    """

    def __init__(self, columns: Table, generations: Generations, named: Sequence[int]) -> None:
        self.columns, self.generations, self.named = columns, generations, named
        ranks: dict[int, int] = {}
        for rows in generations.rows:
            ranks |= {int(rows[place]): rank for rank, place in enumerate(spread_out(len(rows)))}
        self.kept, self.reason = Kept(ranks), generations.texts.reason
        if generations.texts.read is not None:
            try:
                generations.texts.read(np.sort(np.concatenate(generations.rows)), self.kept.add)
                self.reason = "" if self.kept.texts else "all of them are missing"
            except DiagnosisError as error:
                self.kept.texts.clear()
                self.reason = str(error)

    def fit(self) -> tuple[str, list[str]]:
        """Give the inputs as JSON that can stand in a page, and what is left out of it."""
        most = MOST_INPUTS
        while True:
            chosen = set(choose_inputs(self.columns, self.named, most).tolist())
            for characters, each in SIZES if most == MOST_INPUTS else SIZES[-1:]:
                parts, size = [], 0
                for part in self._inputs(chosen, characters, each):
                    parts.append(json.dumps(part, ensure_ascii=False, separators=(",", ":")))
                    parts[-1] = parts[-1].replace("<", "\\u003c")  # no text can end the script that holds it
                    size += len(parts[-1].encode()) + 1
                    if size > MOST_BYTES - FRAME_BYTES:
                        break
                else:
                    return f"[{','.join(parts)}]", self._left_out(most, characters, each)
            most //= 2

    def _inputs(self, chosen: set[int], characters: int, each: int) -> Iterator[dict[str, Any]]:
        start = 0
        for place, rows in zip(self.generations.inputs.tolist(), self.generations.rows, strict=True):
            end = start + len(rows)
            if place in chosen:
                rewards = [column[start:end] for column in self.generations.rewards.values()]
                yield self._input(place, rows.tolist(), rewards, characters, each)
            start = end

    def _input(
        self, place: int, rows: list[int], rewards: list[list[float]], characters: int, each: int
    ) -> dict[str, Any]:
        row = {name: self.columns[name][place] for name in ("label", "looks", "n", "mean", "std")}
        label = str(self.columns["input"][place])
        has_text = self.columns.get("prompt") is not None and self.columns["prompt"][place] is not None
        prompt = readable(str(self.columns["prompt"][place]) if has_text else label)
        content: dict[str, Any] = {"key": input_key(label)}
        if has_text:
            content["id"] = _cut(label, len(label), characters)
        texts: dict[Any, int] = {}
        generations: dict[tuple[Any, ...], int] = {}
        for number, generation in enumerate(rows):
            text = -1
            if generation in self.kept.texts and self.kept.ranks[generation] < each:
                known, length = self.kept.texts[generation]
                text = texts.setdefault((known, length), len(texts))
            entry = (text, *(_number(column[number]) for column in rewards))
            generations[entry] = generations.get(entry, 0) + 1
        return content | {
            "prompt": _cut(prompt, len(prompt), characters),
            "length": len(prompt),
            "class": CLASSES.index(str(row["label"])),
            "looks": str(row["looks"]).replace("_", ", "),
            "n": int(row["n"]),
            "mean": _number(row["mean"]),
            "std": _number(row["std"]),
            "texts": [_cut(text, length, characters) for text, length in texts],
            "generations": [[count, *entry] for entry, count in generations.items()],
        }

    def _left_out(self, most: int, characters: int, each: int) -> list[str]:
        """Say what the page has not."""
        notes = []
        labels = self.columns["label"]
        for name in CLASSES:
            count = int((labels == name).sum())
            if count > most:
                notes.append(
                    f"Of {count:,} {name.replace('_', '-')} inputs {most:,} are here: those that the report "
                    "names, the others drawn at random."
                )
        if self.reason:
            notes.append(f"There are no texts of the generations: {self.reason}.")
        if int(self.columns["n"][self.generations.inputs].max()) > MOST_GENERATIONS:
            notes.append(
                f"Of an input's generations at most {MOST_GENERATIONS} are here, from the lowest reward to "
                "the highest."
            )
        if self.kept.texts and (shown := min(each, self.kept.each)) < MOST_GENERATIONS:
            notes.append(
                f"At most {shown} generations of an input have their texts here, and texts are cut at "
                f"{characters:,} characters, for a file under {MOST_BYTES // 1_000_000} MB."
            )
        elif self._has_longer(characters):
            notes.append(f"Texts are cut at {characters:,} characters.")
        if left := self.generations.left:
            notes.append(f"Of the rewards the first {MOST_REWARDS} are here, without {listed(left)}.")
        return notes

    def _has_longer(self, characters: int) -> bool:
        texts = self.columns.get("prompt", self.columns["input"])
        if any(text is not None and len(text) > characters for text in texts[self.generations.inputs]):
            return True
        return any(length > characters for _, length in self.kept.texts.values())


def render_explorer(
    title: str, columns: Table, generations: Generations, named: Sequence[int], report: str
) -> str:
    """Make the page; the same diagnosis gives the same bytes. report: the page that it belongs to."""
    page = Page(columns, generations, named)
    data, notes = page.fit()
    facts = {
        "rewards": list(generations.rewards),
        "classes": [{"name": name.replace("_", "-"), "color": CLASS_COLORS[name]} for name in CLASSES],
    }
    return (
        load_templates()
        .get_template("explorer.html")
        .render(
            title=title,
            data=data,
            facts=json.dumps(facts).replace("<", "\\u003c"),
            notes=notes,
            report=report,
        )
    )


def _thinned(group: Ints) -> Ints:
    """Take at most MOST_GENERATIONS of an input's generations, first and last among them."""
    if len(group) <= MOST_GENERATIONS:
        return group
    return group[np.linspace(0, len(group) - 1, MOST_GENERATIONS).round().astype(np.int64)]


def _cut(text: str, length: int, characters: int) -> Any:
    """Cut a text; then its whole length stands beside it."""
    return text if length <= characters else [text[:characters], length]


def _number(value: float) -> float | int | None:
    """Round to six digits; NaN is missing."""
    if value != value:
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded

"""The user's own samples: JSON lines with a prompt, references and anything else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from common.config import Config, Problem, closest
from common.hub import SPLIT_NAMES, DataError
from rl4lms.datapools.sources import existing_path, json_lines
from rl4lms.samples import Sample, Split

logger = logging.getLogger(__name__)


class JsonlArgs(Config):
    data_path: str = Field(
        description="a folder with train.jsonl, val.jsonl and test.jsonl, or one file (whose rows serve as "
        "every split, unless they name theirs)"
    )
    prompt_field: str = Field("prompt", description="field of the input text")
    references_field: str = Field("references", description="field of the expected text, or a list of them")
    id_field: str = Field("id", description="field of the samples' ids, if there is one; else line numbers")
    split_field: str = Field("split", description="field that names a row's split, if there is one")

    def check(self) -> list[Problem]:
        return existing_path(self.data_path)


READ_WHOLE = 8 << 20  # bytes of a dataset that a quick look reads to its end: a tenth of a second
FIRST_ROWS = 2_000  # of each split of a larger one
_SOME_ROWS = 100


def find_problems(args: JsonlArgs, splits: Sequence[Split]) -> list[Problem]:
    """Looks quickly for what `load` refuses: in all rows of small files, else in the first of each split."""
    path = Path(args.data_path).expanduser()
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*.jsonl")))
    most = None if size <= READ_WHOLE else FIRST_ROWS
    messages: dict[str, None] = {}  # each once: splits may be of one file
    for split in splits:
        try:
            if not read_samples(split, args, most) and most is None:
                messages[f"{path} has no rows of split {split!r}"] = None
        except (DataError, OSError) as error:
            messages[str(error)] = None
    return [Problem("data_path", message) for message in messages]


def lacks_references(args: JsonlArgs) -> bool:
    """Tell whether no train sample has an expected text; False where that takes more than a quick look."""
    path = Path(args.data_path).expanduser()
    files = [path, *(path / f"{name}.jsonl" for name in SPLIT_NAMES["train"])]
    if sum(file.stat().st_size for file in files if file.is_file()) > READ_WHOLE:
        return False
    looks = (_SOME_ROWS, None)  # the first rows mostly tell
    return not any(any(sample.references) for most in looks for sample in read_samples("train", args, most))


def load(
    split: Split,
    *,
    data_path: str,
    prompt_field: str,
    references_field: str,
    id_field: str,
    split_field: str,
) -> list[Sample]:
    """Read a sample per line; fields that are neither prompt, references, id nor split are its meta_data.

    Raises DataError that names the line.
    """
    args = JsonlArgs(
        data_path=data_path,
        prompt_field=prompt_field,
        references_field=references_field,
        id_field=id_field,
        split_field=split_field,
    )
    return read_samples(split, args)


def read_samples(split: Split, args: JsonlArgs, most: int | None = None) -> list[Sample]:
    """Read the samples of a split, or of its so many first rows. Raises DataError."""
    prompt_field, references_field, id_field = args.prompt_field, args.references_field, args.id_field
    fields = (prompt_field, references_field, id_field, args.split_field)
    places: dict[str | int, str] = {}
    samples = []
    rows = _read_rows(split, Path(args.data_path).expanduser(), args.split_field, most)
    for number, (where, row) in enumerate(rows):
        sample = Sample(
            _read_id(row, id_field, where, f"{split}_{number}"),
            _read_prompt(row, prompt_field, where),
            _read_references(row, references_field, where),
            {name: value for name, value in row.items() if name not in fields},
        )
        if sample.id in places:
            raise DataError(f"{where}: id {sample.id!r} is also that of {places[sample.id]}")
        places[sample.id] = where
        samples.append(sample)
    return samples


def read_texts(path: Path, most: int | None = None) -> list[str]:
    """Read the field `text` of each line of a file, or of its so many first. Raises DataError."""
    try:
        with path.open("rb") as lines:
            rows = list(islice(json_lines(lines, str(path)), most))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for where, row in rows:
        if not isinstance(row.get("text"), str):
            raise DataError(f"{where}: no string in the field 'text'; there are: {', '.join(row) or 'none'}")
    return [row["text"] for _, row in rows]


def _read_rows(
    split: Split, path: Path, split_field: str, most: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a split's rows: its own file's in a folder, or those that name it, or all if none names any.

    most: only those among so many first rows.
    """
    if path.is_dir():
        names = [f"{name}.jsonl" for name in SPLIT_NAMES[split]]
        path = next((path / name for name in names if (path / name).is_file()), path)
        if path.is_dir():
            raise DataError(f"{str(path)!r} has no {' or '.join(names)}")
        with path.open("rb") as lines:
            yield from islice(json_lines(lines, str(path)), most)
        return
    try:
        with path.open("rb") as lines:
            rows = list(islice(json_lines(lines, str(path)), most))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    row_splits = [row.get(split_field) for _, row in rows]
    if not any(row_splits):
        if split != "train":
            logger.warning(
                "%s is one file without a field %r: its rows serve as split %r too", path, split_field, split
            )
        yield from rows
        return
    known = {name for names in SPLIT_NAMES.values() for name in names}
    for (where, row), name in zip(rows, row_splits, strict=True):
        if name not in known:
            raise DataError(f"{where}: {split_field!r} must be one of train, val, test, is {name!r}")
        if name in SPLIT_NAMES[split]:
            yield where, row


def _read_id(row: dict[str, Any], name: str, where: str, default: str) -> str | int:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}: {name!r} must be a string or a whole number, is {value!r:.60}")
    return value


def _read_prompt(row: dict[str, Any], name: str, where: str) -> str:
    value = _read_value(row, name, "prompt_field", where)
    if _is_chat(value):
        raise DataError(f"{where}: {name!r} {_CHAT}")
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be a string, is {value!r:.60}")
    return value


def _read_references(row: dict[str, Any], name: str, where: str) -> list[str]:
    value = _read_value(row, name, "references_field", where)
    if _is_chat(value):
        raise DataError(
            f"{where}: {name!r} holds messages; references are texts: write what the messages say, their "
            "content, into a field of its own"
        )
    references = [value] if isinstance(value, str) else value
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DataError(f"{where}: {name!r} must be a string or a list of strings, is {value!r:.60}")
    return references


def _read_value(row: dict[str, Any], name: str, argument: str, where: str) -> Any:
    if name not in row:
        suggestion = closest(name, row)
        hint = f"did you mean {suggestion!r}? " if suggestion else ""
        remedy = f"say which it is with --set datapool.args.{argument}=NAME"
        if argument == "references_field":
            remedy += f', or write "{name}": [] where there is none'
        chats = [column for column, value in row.items() if _is_chat(value)]
        if argument == "prompt_field" and chats:
            remedy = f"{chats[0]!r} {_CHAT}"
        raise DataError(f"{where}: no {name!r}; {hint}there are: {', '.join(row) or 'none'}; {remedy}")
    return row[name]


_CHAT = (
    "is a chat, a list of messages; a prompt is one text: write what the model is to see into a field of its "
    "own, such as tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
)


def _is_chat(value: Any) -> bool:
    """Whether a field holds messages, or one, with who says them, in either of the usual forms."""
    roles = ("role", "from")
    messages = value if isinstance(value, list) else [value]
    return any(isinstance(message, dict) and any(role in message for role in roles) for message in messages)

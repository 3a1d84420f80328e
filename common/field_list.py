"""What `--list_fields` prints: a field a line, in lines that fit the terminal where a person reads them."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from common.registry import Registry
from common.source import closest
from common.validation import bare_type, branch_names, field_type, is_model, members, show, type_words

INDENT = "    "  # of what does not fit into a field's first line


class Field(NamedTuple):
    """A line of the list.

    path: dotted, [] for any item of a list; branch: the one of several, or the component, that has the
    field, as "[ppo]".
    """

    path: str
    branch: str
    text: str

    def __str__(self) -> str:
        return f"{self.path} {self.branch}: {self.text}" if self.branch else f"{self.path}: {self.text}"


class Section(NamedTuple):
    """Fields under a title; "" is none."""

    title: str
    fields: Sequence[Field]


def config_section(model: type[BaseModel], title: str = "") -> Section:
    """All fields of a config, those of nested ones by their dotted path."""
    return Section(title, list(_fields(model)))


def component_section(registry: Registry, place: str, title: str) -> Section:
    """The built-in components that `place`.id names, each with its arguments.

    place: path of the mapping of `id` and `args`, such as "datapool".
    """
    fields = []
    for name, entry in registry.entries.items():
        fields.append(Field(f"{place}.id", f"[{name}]", f"{registry.kind} {name!r}"))
        fields += _fields(entry.args, f"{place}.args.", f"[{name}]")
    return Section(title, fields)


def print_fields(parser: argparse.ArgumentParser, part: str, sections: Sequence[Section]) -> None:
    """Print the fields of a part, all if it is ""; ends with status 2 if there are none.

    part: the path of a field, with those below it, or the name of a branch or component.
    """
    chosen = [Section(s.title, [f for f in s.fields if _is_part(f, part)]) for s in sections]
    chosen = [section for section in chosen if section.fields]
    if not chosen:
        parser.error(f"argument --list_fields: no field {part!r}{_nearest(part, sections)}")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n\n".join(format_section(section, width) for section in chosen))


def format_section(section: Section, width: int | None) -> str:
    """A field a line; with a width, in lines of at most so many letters where words allow it."""
    lines = [f"{section.title}:\n"] if section.title else []
    for field in section.fields:
        line = str(field)
        lines += [line] if width is None else _wrap(line, width)
    return "\n".join(lines)


def _wrap(line: str, width: int) -> list[str]:
    return textwrap.wrap(
        line, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )


def _is_part(field: Field, part: str) -> bool:
    is_below = field.path == part or field.path.startswith((f"{part}.", f"{part}["))
    return not part or is_below or part in _names(field.branch)


def _names(branch: str) -> list[str]:
    """The names in "[ppo][a, b]"."""
    return re.findall(r"[^][, ]+", branch)


def _nearest(part: str, sections: Sequence[Section]) -> str:
    """Name the fields that may have been meant: those that end so, else the one that is spelled alike."""
    fields = [field for section in sections for field in section.fields]
    paths = list(dict.fromkeys(field.path for field in fields))
    ends = [path for path in paths if path.endswith(f".{part}")]
    if ends:
        return f"; there is {', '.join(ends)}"
    near = closest(part, [*paths, *(name for field in fields for name in _names(field.branch))])
    return f"; did you mean {near!r}?" if near else ""


def _fields(
    model: type[BaseModel], prefix: str = "", branch: str = "", instance: BaseModel | None = None
) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        default = getattr(instance, name) if instance else info.get_default(call_default_factory=True)
        required = instance is None and info.is_required()
        kind = re.sub(r"^an? ", "", type_words(field_type(info)))
        parts = [kind, "required" if required else _default_text(default), info.description or ""]
        yield Field(f"{prefix}{name}", branch, "; ".join(filter(None, parts)))
        nested = list(_nested_models(field_type(info)))
        suffixes = [suffix for suffix, _, _ in nested]
        for suffix, inner, label in nested:
            inner_branch = f"{branch}[{label}]" if suffixes.count(suffix) > 1 else branch
            inner_default = default if isinstance(default, inner) else None
            yield from _fields(inner, f"{prefix}{name}{suffix}.", inner_branch, inner_default)


def _default_text(default: Any) -> str:
    if isinstance(default, BaseModel):
        return ""  # its fields have lines of their own
    return "default " + (show(default) if isinstance(default, str) else json.dumps(default, default=str))


def _nested_models(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """The models in a type, how a path goes on to them, and what to call each among the others."""
    for member in members(annotation):
        bare, _ = bare_type(member)
        if is_model(bare):
            yield suffix, bare, ", ".join(map(str, branch_names(bare, annotation)))
        elif get_origin(bare) in (list, dict):
            yield from _nested_models(
                get_args(bare)[-1], suffix + ("[]" if get_origin(bare) is list else ".<key>")
            )
        elif len(members(bare)) > 1:
            yield from _nested_models(bare, suffix)

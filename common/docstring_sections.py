"""What a docstring says beyond its first sentences: parameter descriptions, and every paragraph of prose.

Understands the styles of NumPy (underlined sections), Google (`Args:`) and Sphinx (`:param x:`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import dedent

from common.python_docs import without_markup

_UNDERLINED = re.compile(r"^[ \t]*(\S.*)\n[ \t]*([-=~^])\2{2,}[ \t]*$", re.MULTILINE)
_PARAMETER_SECTIONS = frozenset(("parameters", "other parameters"))
_GOOGLE_SECTION = re.compile(r"( *)(?:args|arguments|params|parameters|keyword arg\w*): *$", re.IGNORECASE)
_NAMES = r"(?P<name>\*{0,2}\w+(?:, *\*{0,2}\w+)*)"
_NUMPY_ENTRY = re.compile(_NAMES + r" *(?::(?P<type>.*))?$")
_GOOGLE_ENTRY = re.compile(_NAMES + r" *(?:\((?P<type>[^)]*)\))? *: *(?P<text>.*)$")
_SPHINX_ENTRY = re.compile(r"( *):param (?:(?P<type>[^:]*) )?" + _NAMES + r": *(?P<text>.*)$")
_ITEM = re.compile(r"^(?:[-*+]|\d+[.)]) ")
_CODE = re.compile(r">>>|```|::$|^\.\. |^:\w|[{}|\\]|[=+*/<>]{2,}|[\w)]\[|^(?:import|from|def|class|return) ")
_MIN_WORDS = 5
_MIN_SHARE_OF_PLAIN_WORDS = 0.75


@dataclass(frozen=True, slots=True)
class Parameter:
    """A documented parameter; type and first paragraph of the description on one line, without markup."""

    name: str
    type: str
    description: str


def parameters(docstring: str) -> list[Parameter]:
    """The parameters with a description, in order. docstring: dedented, as `ast.get_docstring` gives it."""
    found = [*_numpy(docstring), *_google_and_sphinx(docstring.splitlines())]
    return [parameter for parameter in found if parameter.description]


def paragraphs(docstring: str) -> list[str]:
    """Paragraphs of prose of all sections, a line each, without markup, once each.

    Left out: code, tables, headings, and whatever does not begin like a sentence and end like one.
    """
    found = [parameter.description for parameter in parameters(docstring)]
    found += [run for block in re.split(r"\n\s*\n", _UNDERLINED.sub("", docstring)) for run in _runs(block)]
    return list(dict.fromkeys(text for text in found if is_prose(text)))


def is_prose(text: str) -> bool:
    """Whether a text on one line begins and ends like a sentence and is mostly words, without code."""
    words = text.split()
    plain = sum(word.strip("'\"(),.;:!?").replace("-", "").isalpha() for word in words)
    return (
        len(words) >= _MIN_WORDS
        and words[0][0].isupper()
        and text.endswith((".", "!", "?", ":"))
        and plain >= _MIN_SHARE_OF_PLAIN_WORDS * len(words)
        and not _CODE.search(text)
    )


def _numpy(docstring: str) -> Iterator[Parameter]:
    headings = list(_UNDERLINED.finditer(docstring))
    for heading, following in zip_longest(headings, headings[1:]):
        if heading[1].strip().lower() in _PARAMETER_SECTIONS:
            end = following.start() if following else len(docstring)
            for head, body in _entries(docstring[heading.end() : end].splitlines()):
                if match := _NUMPY_ENTRY.match(head):
                    yield _parameter(match["name"], match["type"], body)


def _google_and_sphinx(lines: list[str]) -> Iterator[Parameter]:
    for start, line in enumerate(lines, start=1):
        if section := _GOOGLE_SECTION.match(line):
            for head, body in _entries(_indented(lines[start:], len(section[1]))):
                if match := _GOOGLE_ENTRY.match(head):
                    yield _parameter(match["name"], match["type"], [match["text"], *body])
        elif field := _SPHINX_ENTRY.match(line):
            body = _indented(lines[start:], len(field[1]))
            yield _parameter(field["name"], field["type"], [field["text"], *body])


def _indented(lines: list[str], indent: int) -> list[str]:
    """The first lines that are empty or indented by more than `indent`."""
    for number, line in enumerate(lines):
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            return lines[:number]
    return lines


def _entries(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Each of the least indented lines, with the lines below it."""
    entries: list[tuple[str, list[str]]] = []
    for line in dedent("\n".join(lines)).splitlines():
        if line and not line[0].isspace():
            entries.append((line.rstrip(), []))
        elif entries:
            entries[-1][1].append(line.strip())
    return entries


def _parameter(name: str, type_: str | None, body: list[str]) -> Parameter:
    paragraph = "\n".join(line.strip() for line in body).strip().partition("\n\n")[0]
    return Parameter(
        name.replace("*", ""),
        without_markup(" ".join((type_ or "").split())).strip(" ,"),
        without_markup(" ".join(paragraph.split())),
    )


def _runs(block: str) -> Iterator[str]:
    """The runs of equally indented lines in a block, list items apart, on one line and without markup."""
    runs: list[list[str]] = [[]]
    previous = 0
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        if runs[-1] and (indent != previous or _ITEM.match(line.lstrip())):
            runs.append([])
        runs[-1].append(line.strip())
        previous = indent
    for run in runs:
        yield without_markup(_ITEM.sub("", " ".join(" ".join(run).split())))

"""Docstrings of installed packages, read from their sources: real English that needs no download.

Sources are parsed, never imported or executed. What was read is cached on disk, one file per package. Beyond
first sentences, parameter descriptions in the styles of NumPy, Google and Sphinx are understood.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path
from textwrap import dedent

from common.files import atomic_write_text

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
    documented = [*_numpy_parameters(docstring), *_google_and_sphinx_parameters(docstring.splitlines())]
    return [parameter for parameter in documented if parameter.description]


def paragraphs(docstring: str) -> list[str]:
    """Paragraphs of prose of all sections, a line each, without markup, once each.

    Code, tables, headings, and whatever does not begin like a sentence and end like one are left out.
    """
    texts = [parameter.description for parameter in parameters(docstring)]
    for block in re.split(r"\n\s*\n", _UNDERLINED.sub("", docstring)):
        texts += _join_lines(block)
    return list(dict.fromkeys(text for text in texts if is_prose(text)))


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


def _numpy_parameters(docstring: str) -> Iterator[Parameter]:
    headings = list(_UNDERLINED.finditer(docstring))
    for heading, following in zip_longest(headings, headings[1:]):
        if heading[1].strip().lower() in _PARAMETER_SECTIONS:
            end = following.start() if following else len(docstring)
            for head, body in _entries(docstring[heading.end() : end].splitlines()):
                if match := _NUMPY_ENTRY.match(head):
                    yield _parameter(match["name"], match["type"], body)


def _google_and_sphinx_parameters(lines: list[str]) -> Iterator[Parameter]:
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
        strip_markup(" ".join((type_ or "").split())).strip(" ,"),
        strip_markup(" ".join(paragraph.split())),
    )


def _join_lines(block: str) -> Iterator[str]:
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
        yield strip_markup(_ITEM.sub("", " ".join(" ".join(run).split())))


logger = logging.getLogger(__name__)

STDLIB = "stdlib"
DEFAULT_PACKAGES = (
    STDLIB,
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "pandas",
    "pydantic",
    "tokenizers",
    "datasets",
    "transformers",
    "torch",
)
CACHE_VARIABLE = "VANISHING_GRADIENTS_RFT_CACHE"
# Part of every cache key: raise it when the same source gives other records.
_FORMAT = 2
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
# Test suites, bundled copies of other packages, tools that rewrite Python: not the package's documentation.
_SKIPPED_FOLDERS = frozenset(
    "__pycache__ _vendor dist-packages ensurepip externals extern idlelib lib2to3 site-packages "
    "test testing tests third_party turtledemo vendor".split()
)
_SKIPPED_FILES = ("test_", "conftest.")

_SECTION_START = re.compile(
    r"(>>>|\.\. |:\w+[^:`]*:(\s|$)|[-*] |\d+\. )"
    r"|(args?|arguments?|attributes|examples?|keyword arg\w*|methods|notes?|parameters|raises|references"
    r"|returns?|see also|usage|warnings?|yields?)\s*:",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"([-=~^*#])\1{2,}\s*$")
# :role:`text`, :role:`text <target>`, and :role:`~package.name`, which stands for the name.
_ROLE = re.compile(r":[\w:.+-]+:`(?:~[^`<]*\.|[~!])?([^`<]+?)(?:\s*<[^`>]*>)?`")
_QUOTED = re.compile(r"(`{1,2})(?:~(?:\w+\.)*(?=\w))?([^`]+?)\1_{0,2}")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})([^\s*](?:[^*]*[^\s*])?)\1(?![\w*])")
# A full stop ends a sentence before white space and a capital, but not after "e.g.", "vs." or an initial.
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\bal)(?<!\b[A-Z])[.!?](?=\s+[A-Z(\"'])"
)


@dataclass(frozen=True, slots=True)
class DocRecord:
    """One documented thing. Markup is removed from `sentence` and `text`.

    kind: "module", "class", "function" or "method"; signature: a class has that of its __init__, if it has
    one; text: the docstring's prose up to its first section, list or example, paragraphs as in the docstring;
    docstring: all of it as written, but dedented.
    """

    module: str
    name: str
    kind: str
    signature: str
    sentence: str
    text: str
    docstring: str


def harvest(packages: Sequence[str] = DEFAULT_PACKAGES, cache_dir: Path | None = None) -> list[DocRecord]:
    """Docstring records of `packages` (import names, or "stdlib"), in the order given, then by file and line.

    Names that begin with an underscore, and test folders, are left out.
    cache_dir: default is $VANISHING_GRADIENTS_RFT_CACHE, else vanishing-gradients-rft in the user's cache.
    Raises LookupError: a package is not installed.
    """
    cache_dir = default_cache_dir() if cache_dir is None else cache_dir
    return [record for package in packages for record in _harvest_package(package, cache_dir)]


def first_sentence(docstring: str) -> str:
    """First sentence of a docstring's prose, on one line and without markup; "" if it has no prose."""
    paragraph = prose(docstring).partition("\n\n")[0]
    end = _SENTENCE_END.search(paragraph)
    return paragraph[: end.end()] if end else paragraph


def prose(docstring: str) -> str:
    """Leading paragraphs of a docstring, a line each, without markup, up to a section, list or example."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = block.splitlines()
        if (
            block[:1].isspace()
            or _SECTION_START.match(block)
            or any(_UNDERLINE.match(line) for line in lines)
        ):
            break
        paragraphs.append(strip_markup(" ".join(block.split())))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph on one line, in order."""
    starts = [0, *(end.end() for end in _SENTENCE_END.finditer(paragraph))]
    return [paragraph[start:end].strip() for start, end in pairwise([*starts, len(paragraph)])]


def strip_markup(text: str) -> str:
    """Remove the marks of reStructuredText and Markdown for roles, code and emphasis."""
    return _EMPHASIS.sub(r"\2", _QUOTED.sub(r"\2", _ROLE.sub(r"\1", text)))


def content_hash(records: Sequence[DocRecord]) -> str:
    """SHA-256 of the records' content and order, hexadecimal: are two harvests the same text?"""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(astuple(record)).encode() + b"\n")
    return digest.hexdigest()


def default_cache_dir() -> Path:
    """Folder for what can be made again: named by the environment, else in the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vanishing-gradients-rft"


def source_key(packages: Sequence[str]) -> str:
    """What `harvest` of these depends on, hexadecimal: their files' sizes and versions, and Python's.

    Raises LookupError: a package is not installed.
    """
    names = [_cache_name(package, _source_files(package_root(package))) for package in packages]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _cache_name(package: str, files: Sequence[Path]) -> str:
    base = package_root(package).parent
    version = _version(package)
    sizes = [(file.relative_to(base).as_posix(), file.stat().st_size) for file in files]
    key = hashlib.sha256(json.dumps([_FORMAT, package, version, platform.python_version(), sizes]).encode())
    return f"{package}-{version}-{key.hexdigest()[:16]}.jsonl"


def _harvest_package(package: str, cache_dir: Path) -> list[DocRecord]:
    root = package_root(package)
    files = _source_files(root)
    cached = cache_dir / "docstrings" / _cache_name(package, files)
    try:
        return [DocRecord(**json.loads(line)) for line in cached.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        logger.info("reading the docstrings of %s (%d files)", package, len(files))
    except (OSError, ValueError, TypeError) as error:
        logger.warning("docstring cache %s is unreadable (%s): reading the sources again", cached, error)
    base = root if package == STDLIB else root.parent
    with _garbage_collection_paused():
        records = [record for file in files for record in _file_records(file, base)]
    write_cache(cached, "".join(json.dumps(asdict(record)) + "\n" for record in records))
    return records


def write_cache(path: Path, text: str) -> None:
    """Write a file below the cache's folder; that it cannot be is logged, once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
    except OSError as error:
        _say_uncached(path.parent.parent, error.strerror or str(error))


@cache  # once: of several packages, and each time that they are read
def _say_uncached(cache_dir: Path, reason: str) -> None:
    logger.warning(
        "docstrings are not cached, so that each run reads them anew: %s: %s; set %s to a folder that can be "
        "written to",
        cache_dir,
        reason,
        CACHE_VARIABLE,
    )


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Syntax trees are millions of objects without cycles: looking for cycles takes longer than parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def package_root(package: str) -> Path:
    """Folder (or single file) of a package, found without importing it. Raises LookupError: none here."""
    if package == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    # Only for a dotted name would find_spec import something (the parents).
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise LookupError(f"package {package!r} is not installed")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise LookupError(f"package {package!r} has no Python source")
    return Path(spec.origin)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _source_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name.isidentifier() and name not in _SKIPPED_FOLDERS]
        files += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith(_SKIPPED_FILES)
        ]
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def _file_records(file: Path, base: Path) -> Iterator[DocRecord]:
    """Records of one file; none if it does not parse (template, source for another Python, odd encoding)."""
    parts = file.relative_to(base).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    yield from _record(tree, module, "", "module")
    yield from _definitions(tree, module, "")


def _definitions(node: ast.AST, module: str, prefix: str) -> Iterator[DocRecord]:
    """Public functions and classes below `node`, also inside `if` and `try`, but not inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if child.name.startswith("_"):
                continue
            name = prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from _record(child, module, name, "class")
                yield from _definitions(child, module, f"{name}.")
            else:
                yield from _record(child, module, name, "method" if prefix else "function")
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(child, module, prefix)


def _record(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    module: str,
    name: str,
    kind: str,
) -> Iterator[DocRecord]:
    docstring = ast.get_docstring(node)
    if docstring and (sentence := first_sentence(docstring)):
        yield DocRecord(module, name, kind, _signature(node), sentence, prose(docstring), docstring)


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        inits = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        return next((_signature(init) for init in inits), "")
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"

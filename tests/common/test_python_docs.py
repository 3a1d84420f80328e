import json
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from common.python_docs import (
    DocRecord,
    content_hash,
    default_cache_dir,
    first_sentence,
    harvest,
    prose,
    sentences,
)

MODULE = '''"""A module. With two sentences."""
import does_not_exist
raise RuntimeError("must never run")


class Shape(object):
    """A *plain* shape.

    It has an :class:`~pkg.Area`, see ``area`` and `corners`.

    Parameters
    ----------
    corners : int
    """

    def __init__(self, corners: int = 3) -> None:
        """Private, left out."""

    def area(self, unit="cm"):
        """Return the area, e.g. in square metres. Never negative."""

        def inner():
            """Not public."""


if True:

    async def draw(*shapes) -> bool:
        """
        Draw all shapes
        on one page
        """


def _hidden():
    """Left out."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "sources" / "pkg_for_docs"
    (root / "sub").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "__init__.py").write_text('"""Top of the package"""\n')
    (root / "shapes.py").write_text(MODULE)
    (root / "sub" / "latin.py").write_bytes(
        '# -*- coding: latin-1 -*-\n"""Caf\xe9 au lait."""\n'.encode("latin-1")
    )
    (root / "sub" / "wrong_encoding.py").write_bytes(b'"""\xff\xfe broken"""\n')
    (root / "sub" / "python2.py").write_text('"""Old."""\nprint "hello"\n')
    (root / "sub" / "null.py").write_bytes(b'"""Null."""\n\0')
    (root / "sub" / "warns.py").write_text('"""Odd escape."""\nx = "\\d" is 3\n')
    (root / "tests" / "test_it.py").write_text('"""A test."""\n')
    (root / "conftest.py").write_text('"""Fixtures."""\n')
    monkeypatch.syspath_prepend(str(root.parent))
    return root


@pytest.mark.filterwarnings("error")
def test_harvest_reads_public_docstrings_in_order_and_runs_nothing(package: Path, tmp_path: Path) -> None:
    records = harvest(["pkg_for_docs"], tmp_path / "cache")
    assert [astuple(record)[:-1] for record in records] == [
        ("pkg_for_docs", "", "module", "", "Top of the package", "Top of the package"),
        ("pkg_for_docs.shapes", "", "module", "", "A module.", "A module. With two sentences."),
        (
            "pkg_for_docs.shapes",
            "Shape",
            "class",
            "(self, corners: int=3) -> None",
            "A plain shape.",
            "A plain shape.\n\nIt has an Area, see area and corners.",
        ),
        (
            "pkg_for_docs.shapes",
            "Shape.area",
            "method",
            "(self, unit='cm')",
            "Return the area, e.g. in square metres.",
            "Return the area, e.g. in square metres. Never negative.",
        ),
        (
            "pkg_for_docs.shapes",
            "draw",
            "function",
            "(*shapes) -> bool",
            "Draw all shapes on one page",
            "Draw all shapes on one page",
        ),
        ("pkg_for_docs.sub.latin", "", "module", "", "Café au lait.", "Café au lait."),
        ("pkg_for_docs.sub.warns", "", "module", "", "Odd escape.", "Odd escape."),
    ]
    assert records[2].docstring == (
        "A *plain* shape.\n\nIt has an :class:`~pkg.Area`, see ``area`` and `corners`.\n\n"
        "Parameters\n----------\ncorners : int"
    )
    assert "pkg_for_docs" not in sys.modules


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One line", "One line"),
        ("First. Second.", "First."),
        ("Use e.g. Python or cf. Knuth. Then stop.", "Use e.g. Python or cf. Knuth."),
        ("Is it? Yes.", "Is it?"),
        ("Version 3.11 of J. Smith is out. Rejoice.", "Version 3.11 of J. Smith is out."),
        ("\n    Spread over\n    two lines.\n\n    More.\n", "Spread over two lines."),
        ("Calls :meth:`the method <pkg.f>` **now**.", "Calls the method now."),
        ("Gives a `~datetime.timedelta` in ``~/.cache``.", "Gives a timedelta in ~/.cache."),
        ("Passes *args and **kwargs on.", "Passes *args and **kwargs on."),
        ("Title\n=====\n\nText.", ""),
        (">>> f(1)\n2", ""),
        (":param x: a number", ""),
        ("", ""),
    ],
)
def test_first_sentence(docstring: str, expected: str) -> None:
    assert first_sentence(docstring) == expected


def test_sentences() -> None:
    text = 'Use e.g. Python. Is it (the best) one? Yes! "Quite." (See Knuth 3.14.)'
    assert sentences(text) == [
        "Use e.g. Python.",
        "Is it (the best) one?",
        "Yes!",
        '"Quite." (See Knuth 3.14.)',
    ]
    assert sentences("no full stop") == ["no full stop"]


def test_prose_ends_at_the_first_section_list_or_example() -> None:
    for end in (
        "Args:\n    x: a",
        "Returns\n-------\nint",
        "- item",
        "    indented code",
        ".. note:: hm",
        ">>> 1",
    ):
        assert prose(f"One.\n\nTwo\nlines.\n\n{end}\n\nAfter.") == "One.\n\nTwo lines."


def test_second_harvest_comes_from_the_cache_until_a_source_changes(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = harvest(["pkg_for_docs"], cache)
    (file,) = (cache / "docstrings").iterdir()
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, json.dumps({**json.loads(lines[-1]), "name": "from the cache"})]))
    assert [record.name for record in harvest(["pkg_for_docs"], cache)] == [
        *(r.name for r in first),
        "from the cache",
    ]

    (package / "shapes.py").write_text('"""Rewritten."""\n')
    changed = harvest(["pkg_for_docs"], cache)
    assert [record.sentence for record in changed][:2] == ["Top of the package", "Rewritten."]
    assert content_hash(changed) != content_hash(first)


def test_damaged_or_unwritable_cache_does_not_stop_a_harvest(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = harvest(["pkg_for_docs"], cache)
    (file,) = (cache / "docstrings").iterdir()
    file.write_text('{"module": "torn')
    assert harvest(["pkg_for_docs"], cache) == first
    assert harvest(["pkg_for_docs"], cache) == first  # repaired
    blocked = tmp_path / "a file"
    blocked.write_text("")
    assert harvest(["pkg_for_docs"], blocked) == first


def test_packages_come_in_the_order_given_and_the_hash_tells_orders_apart(
    package: Path, tmp_path: Path
) -> None:
    def both(*packages: str) -> list[DocRecord]:
        return harvest(packages, tmp_path / "cache")

    there, back = both("pkg_for_docs", "json"), both("json", "pkg_for_docs")
    assert there[0].module == "pkg_for_docs" and back[0].module == "json"
    assert sorted(there, key=str) == sorted(back, key=str)
    assert content_hash(there) != content_hash(back)
    assert content_hash(there) == content_hash(both("pkg_for_docs", "json"))


def test_real_packages_give_real_sentences(tmp_path: Path) -> None:
    by_name = {f"{r.module}:{r.name}": r for r in harvest(["json", "argparse"], tmp_path)}
    dumps = by_name["json:dumps"]
    assert (dumps.kind, dumps.sentence) == ("function", "Serialize obj to a JSON formatted str.")
    assert dumps.signature.startswith("(obj, *, skipkeys=False")
    assert by_name["argparse:ArgumentParser"].kind == "class"


def test_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="package 'no_such_package' is not installed"):
        harvest(["no_such_package"], tmp_path)
    with pytest.raises(LookupError, match=r"package 'os\.path' is not installed"):
        harvest(["os.path"], tmp_path)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VANISHING_GRADIENTS_RFT_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "vanishing-gradients-rft"
    monkeypatch.setenv("VANISHING_GRADIENTS_RFT_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"

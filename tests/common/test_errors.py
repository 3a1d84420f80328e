"""Which exceptions are messages for the user: told by their type, wherever they are raised."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError

REPO = Path(__file__).parents[2]
# The wheel, which imports nothing of ours, has DiagnosisError and ConditionError of its own.
PACKAGES = ("common", "figures", "paper", "rl4lms", "sft_vs_rft")
# Between functions of ours, never shown: what they mean is said by whoever catches them.
SIGNALS = {
    "common.process.PrintError",
    "common.source.PathTooLongError",
    "common.yaml_nodes.TooLargeError",
    "figures.measured.NotTestedError",
    "rl4lms.datapools.preferences.judgement.RowError",
    "rl4lms.record.NonFiniteError",
}


def exceptions(package: str) -> Iterator[tuple[str, type[BaseException]]]:
    """Every exception class of a package, by its dotted name."""
    for path in sorted((REPO / package).rglob("*.py")):
        name = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            # A base that is spelt like an exception: only then is the module imported.
            if isinstance(node, ast.ClassDef) and any(
                ast.unparse(base).endswith(("Exception", "Error", "Interrupted", "Warning"))
                for base in node.bases
            ):
                yield f"{name}.{node.name}", getattr(importlib.import_module(name), node.name)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_written_for_the_user_is_a_user_error(package):
    """By the docstrings, and the other way round: what is no UserError is a request to stop, or a signal."""
    classes = dict(exceptions(package))
    said = {name for name, kind in classes.items() if "user" in (kind.__doc__ or "")}
    assert classes and {name for name in said if not issubclass(classes[name], UserError)} == set()
    others = {name for name, kind in classes.items() if not issubclass(kind, UserError)}
    assert {name for name in others if not name.endswith("Interrupted")} <= SIGNALS


def test_nobody_asks_for_the_module_of_an_exception():
    files = [*REPO.glob("*.py"), *(path for package in PACKAGES for path in (REPO / package).rglob("*.py"))]
    assert [path.name for path in files if "type(error).__module__" in path.read_text()] == []

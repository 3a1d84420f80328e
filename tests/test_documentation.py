"""Every file and module that the documents name is there."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
DOCUMENTS = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *REPO.glob("docs/*.md")])
PACKAGES = ("common", "figures", "paper", "rft_diagnose", "rl4lms", "sft_vs_rft")
FOLDERS = (*PACKAGES, "benchmarks", "docs", "examples", "rl4lms_scripts", "tests")
MOST_ROWS = 15


def short_name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def paths_in(text: str) -> set[str]:
    """Paths of files and folders in a text; not patterns, such as `t5_{ppo,nlpo}.yml`."""
    pattern = rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*(?![\w./{{*<-])"
    paths = {match.rstrip(".") for match in re.findall(pattern, text)}
    return {path for path in paths if path.endswith("/") or "." in path.rpartition("/")[2]}


def modules_in(text: str) -> set[str]:
    """Dotted names in a text that begin with a package, such as `common.plan` or `common.jobs.Job`."""
    return set(re.findall(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+", text))


def is_there(name: str) -> bool:
    """Whether a dotted name is a module's or that of something that a module or package defines."""
    *parent, last = name.split(".")
    if any(file.is_file() for file in files_of([*parent, last])):
        return True
    return any(last in top_level_names(file) for file in files_of(parent) if file.is_file())


def files_of(parts: list[str]) -> tuple[Path, Path]:
    """Where a module or package of this dotted name would be."""
    path = REPO.joinpath(*parts)
    return path.with_suffix(".py"), path / "__init__.py"


def top_level_names(file: Path) -> set[str]:
    """What a module's functions, classes, variables and imports are called."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_paths_and_modules_are_found_in_a_text() -> None:
    text = "See `common/plan.py`, (docs/sweeps.md), docs/a_{b,c}.md, outputs/docs/x.md, `common/` and paper/."
    assert paths_in(text) == {"common/plan.py", "docs/sweeps.md", "common/", "paper/"}
    assert modules_in("`from common.plan import X`, common.jobs.Job. my.common.x") == {
        "common.plan",
        "common.jobs.Job",
    }
    assert is_there("common.plan") and is_there("common.jobs.Job") and is_there("rft_diagnose.diagnose")
    assert not is_there("common.nothing") and not is_there("common.jobs.Nothing")


@pytest.mark.parametrize("path", DOCUMENTS, ids=short_name)
def test_files_and_modules_that_a_document_names_are_there(path: Path) -> None:
    text = path.read_text()
    missing = [name for name in sorted(paths_in(text)) if not (REPO / name).exists()]
    assert missing + [name for name in sorted(modules_in(text)) if not is_there(name)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=short_name)
def test_links_of_a_document_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)|<img src=\"([^\"]+)\"", path.read_text())
    files = [link or image for link, image in links if "://" not in link + image]
    assert [file for file in files if not (path.parent / file).exists()] == []


def test_table_of_where_things_are_names_files_that_exist() -> None:
    text = (REPO / "CONTRIBUTING.md").read_text()
    _, _, table = text.partition("| I want to ... | open ... |\n|---|---|\n")
    rows = [row.split("|")[1:-1] for row in table.partition("\n\n")[0].split("\n")]
    assert 0 < len(rows) <= MOST_ROWS
    named = {wish.strip(): re.findall("`([^`]+)`", files) for wish, files in rows}
    assert len(named) == len(rows) and all(named.values())
    assert [file for files in named.values() for file in files if not (REPO / file).is_file()] == []


def test_tests_that_the_page_of_policy_gradients_names_are_there() -> None:
    text = (REPO / "docs" / "policy_gradient.md").read_text()
    files = [REPO / name for name in paths_in(text) if name.startswith("tests/")]
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(files) == 10 and len(named) > 30
    assert named - set().union(*map(top_level_names, files)) == set()

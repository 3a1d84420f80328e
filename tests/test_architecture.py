"""Which module may import which, and what stays out of the way until there is work to do."""

import ast
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
RUNNERS = {path.stem for path in REPO.glob("*.py")}
# Package -> ours that it may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "rft_diagnose": set(),
    "common": set(),
    "rl4lms": {"common", "rft_diagnose"},
    "sft_vs_rft": {"common", "rft_diagnose"},
    "figures": {"common", "rft_diagnose"},
    "paper": {"common", "rft_diagnose", "rl4lms", "sft_vs_rft", "figures"},
}
# The floors of rl4lms, from the ground up: a room imports from its own file or folder and from floors below.
FLOORS = [
    {"model", "samples", "errors", "diagnosis", "wordnet"},
    {"requirements", "text", "rankings", "teacher"},
    {"datapools", "metrics", "reward_checks"},
    {"rewards", "text_tasks"},
    {"config", "plots", "blind_metrics"},
    {"evaluation", "memory", "task_reward", "served", "pretraining"},
    {"run_setup", "reward_log", "episodes"},
    {"record"},
    {"ppo", "sft", "group", "reward_model", "extract"},
    {"input_gradients", "prolong", "make_rankings", "compare"},
    {"train"},
    {"extraction_diagnosis", "plan"},
]
OURS = RUNNERS | MAY_IMPORT.keys() | {"benchmarks", "tests"}
# Names that say nothing of a value.
EMPTY_NAMES = {"found", "of", "own"}
HEAVY = {"torch", "transformers", "datasets", "sklearn", "scipy", "nltk", "pandas", "matplotlib"}


def sources(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of all that a module imports, anywhere in it; "." for a relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module).partition(".")[0]


def offences(paths: list[Path], allowed: set[str]) -> list[str]:
    """Imports of our own code, other than `allowed`, in the files."""
    return [
        f"{path.relative_to(REPO)} imports {name}"
        for path in paths
        for name in sorted(set(imported(ast.parse(path.read_text()))))
        if name in OURS - allowed or name == "."
    ]


def test_imports_are_found_wherever_they_stand():
    code = "import a.b, c\nfrom d.e import f\ndef g():\n    if h:\n        from . import i\n        import j"
    assert sorted(imported(ast.parse(code))) == [".", "a", "c", "d", "j"]


def test_runners_stand_at_the_top():
    assert {"sft_vs_rft_controlled_experiments_plan_runner", "reproduce_paper"} <= RUNNERS
    assert offences([REPO / f"{name}.py" for name in sorted(RUNNERS)], set(MAY_IMPORT)) == []


# Lines; four of them answer Ctrl-C while the others import.
LONGEST = {name: 95 for name in RUNNERS} | {"diagnose_vanishing_gradients": 154}


@pytest.mark.parametrize("runner", sorted(RUNNERS))
def test_a_runner_parses_loads_checks_opens_and_calls(runner):
    """And no more: what else there is to do has a room of its own."""
    lines = (REPO / f"{runner}.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= LONGEST[runner]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_what_the_table_says(package):
    assert sources(package) and offences(sources(package), {package, *MAY_IMPORT[package]}) == []


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    paths = [path for package in MAY_IMPORT for path in sources(package)]
    return {".".join(p.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imported_modules(path: Path, known: dict[str, Path], everywhere: bool = True) -> set[str]:
    """Modules of ours that a file imports; everywhere: inside functions and for type checkers too."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else str(node.module) for name in inside}
    return names & known.keys()


def test_rooms_of_text_generation_import_floors_below_them():
    known = modules()
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert {name.split(".")[1] for name in known if name.startswith("rl4lms.")} == floor.keys()
    wrong = []
    for name, path in known.items():
        if not name.startswith("rl4lms."):
            continue
        room = name.split(".")[1]
        for other in imported_modules(path, known):
            if other.startswith("rl4lms."):
                room_of_other = other.split(".")[1]
                if room_of_other != room and floor[room_of_other] >= floor[room]:
                    wrong.append(f"{name} imports {other}")
    assert sorted(wrong) == []


def test_no_module_is_imported_by_what_it_imports():
    """Circles of imports, also of those inside functions."""
    known = modules()
    needs = {name: imported_modules(path, known) for name, path in known.items()}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    # What is left is in a circle, or imports one.
    used = {other for others in needs.values() for other in others}
    assert sorted(needs.keys() & used) == []


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of variables, loop targets and arguments, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_bound_names_are_those_of_variables_loops_and_arguments():
    code = "a = b\nfor c in d: pass\ndef e(f, *g, h=1): return lambda i: [j for j in k]\nif (m := n): o.p = q"
    assert {name for name, _ in bound_names(ast.parse(code))} == set("acfghijm")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_names_say_what_their_values_are(package):
    paths = sources(package)
    assert paths
    assert [
        f"{path.relative_to(REPO)} line {line}: {name}"
        for path in paths
        for name, line in bound_names(ast.parse(path.read_text()))
        if name in EMPTY_NAMES
    ] == []


def light_modules() -> list[str]:
    """Modules that `-h`, `--check` and `--list_fields` import."""
    every = {path.relative_to(REPO) for package in MAY_IMPORT for path in sources(package)}
    light = {path for path in every if path.parts[0] == "common" or path.parts[1] in ("config", "config.py")}
    paths = [path.with_suffix("") for path in light]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [*sorted(RUNNERS), *sorted(names), "rft_diagnose.cli"]


def test_what_runners_need_to_start_imports_nothing_heavy():
    """Imported for real, so that it holds for whatever these modules import in their turn."""
    code = f"""
import importlib, json, sys
found = {{}}
for name in {light_modules()!r}:
    importlib.import_module(name)
    loaded = sorted({HEAVY!r} & sys.modules.keys())
    if loaded:
        found[name] = loaded
        break
print(json.dumps(found))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {}


def test_help_and_check_take_at_most_six_tenths_of_importing_torch():
    """Medians of three runs of each, taken in turns, so that a busy moment hits them all."""
    plan_runner = "sft_vs_rft_controlled_experiments_plan_runner.py"
    plan = "sft_vs_rft/experiment_plans/laptop/sft_vs_rft_mlp_digits_pretrain_experiments_plan.json"
    extraction = "rl4lms_extract_samples_from_model_runner.py"
    extraction_config = "rl4lms_scripts/extract_samples/t5_narrative_qa_extract_samples.yml"
    training = "rl4lms_train_text_generation.py"
    training_config = "rl4lms_scripts/training/narrative_qa/t5_ppo.yml"
    commands = {
        "import torch": ["-c", "import torch"],
        "plan runner -h": [plan_runner, "-h"],
        "plan runner --check": [plan_runner, "--plan_config_path", plan, "--check"],
        "reproduce_paper -h": ["reproduce_paper.py", "-h"],
        "extraction -h": [extraction, "-h"],
        "extraction --check": [extraction, "--config_path", extraction_config, "--check"],
        "training -h": [training, "-h"],
        "diagnosis -h": ["diagnose_vanishing_gradients.py", "-h"],
        "rft-diagnose -h": ["-m", "rft_diagnose.cli", "-h"],
        "training --check": [training, "--config_path", training_config, "--check"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3):
        for name, arguments in commands.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=REPO, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    limit = 0.6 * medians.pop("import torch")
    assert {name: taken for name, taken in medians.items() if taken > limit} == {}, f"limit {limit:.2f} s"

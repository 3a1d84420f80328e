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
JOBS = {"rl4lms", "sft_vs_rft", "figures"}
PACKAGES = {*JOBS, "common"}
FRONT = "paper"  # the stages of reproduce_paper
OURS = RUNNERS | PACKAGES | {FRONT, "benchmarks", "tests"}
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
    assert offences([REPO / f"{name}.py" for name in sorted(RUNNERS)], PACKAGES | {FRONT}) == []
    assert sources(FRONT) and offences(sources(FRONT), PACKAGES | {FRONT}) == []


@pytest.mark.parametrize("package", sorted(JOBS))
def test_packages_of_jobs_import_common_and_not_each_other(package):
    paths = sources(package)
    assert paths or package == "rl4lms"
    assert offences(paths, {package, "common"}) == []


def test_common_imports_nothing_of_ours():
    assert sources("common") and offences(sources("common"), {"common"}) == []


def light_modules() -> list[str]:
    """Modules that `-h`, `--check` and `--list_fields` import."""
    every = {path.relative_to(REPO) for package in PACKAGES for path in sources(package)}
    light = {path for path in every if path.parts[0] == "common" or path.parts[1] in ("config", "config.py")}
    paths = [path.with_suffix("") for path in light]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return sorted(RUNNERS) + sorted(names)


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

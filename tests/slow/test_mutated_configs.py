"""Shipped configs and plans with seeded mistakes: refused with file, field and line, or accepted.

pytest -m slow tests/slow/test_mutated_configs.py -s        (1,000 mutants; MUTANTS=100 SEED=7 for others)
"""

import io
import os
import random
import re
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import pretrain_small_language_model
import rl4lms_extract_samples_from_model_runner
import rl4lms_plan_runner
import rl4lms_train_text_generation
import sft_vs_rft_controlled_experiments_plan_runner

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
MUTANTS = int(os.environ.get("MUTANTS", "1000"))
SEED = int(os.environ.get("SEED", "0"))
# Problems of a file as a whole, or of its syntax, where there is no field yet.
NO_FIELD = re.compile(
    r"not valid (YAML|JSON)|the file is empty|not UTF-8|expected a mapping of fields at the top"
    r"|too large for a|nested too deeply|a value cannot be read|experiments \d+ and \d+ are the same"
    r"|[\w.]+: no such file"
)
NO_LINE = re.compile(r"the file is empty|nested too deeply|a value cannot be read|too large for a config: \d")
ODD = [
    "null", "true", "-1", "0", "1e999", ".nan", ".inf", "1" + "0" * 30, "0x" + "f" * 2000, "''", "[]", "{}",
    "[[[]]]", "{a: {b: 1}}", "012", "1:30", "2024-01-31", "'x\\0y'", '"\\ud800"', "x" * 300, "~", "<<", "1_0",
    "!!python/name:os.x", "*a", "&a [*a]", "'{x.__class__}'", "'{:>999999999}'", "../../x", "/dev/zero",
    "=1+1", "~nobody/x",
]  # fmt: skip


def shipped() -> list[Path]:
    scripts = sorted((REPO / "rl4lms_scripts").rglob("*.yml"))
    plans = sorted((REPO / "sft_vs_rft" / "experiment_plans").rglob("*.json"))
    return [path for path in scripts if "study" not in path.name and path.name != "smoke.yml"] + plans


def checker(path: Path) -> Callable[[Path], int]:
    """Runs `--check` of the runner that a shipped file is for."""
    if path.suffix == ".json":
        runner, flag = sft_vs_rft_controlled_experiments_plan_runner, "--plan_config_path"
    elif path.parent.name == "sweeps":
        runner, flag = rl4lms_plan_runner, "--plan_config_path"
    elif "extract" in path.name:
        runner, flag = rl4lms_extract_samples_from_model_runner, "--config_path"
    elif "train_" in path.read_text() and "train_evaluation" in path.read_text():
        runner, flag = rl4lms_train_text_generation, "--config_path"
    else:
        runner, flag = pretrain_small_language_model, "--config_path"
    return lambda mutant: runner.main([flag, str(mutant), "--check"])


def mutate(text: str, rng: random.Random, is_json: bool) -> tuple[str, bytes]:
    """A name for what was changed, and the content."""
    lines = text.split("\n")
    fields = [i for i, line in enumerate(lines) if re.match(r"\s*(- )?[\"\w.]+\"?: ?", line)]
    at = rng.choice(fields)
    key = re.match(r"(\s*(?:- )?\"?)([\w.]+)(\"?: ?)(.*)", lines[at])
    kind = rng.choice(
        [
            "misspell",
            "drop",
            "value",
            "value",
            "value",
            "twice",
            "character",
            "cut",
            "indent",
            "bytes",
            "swap",
        ]
    )
    if key is None:
        kind = "drop"
    elif kind == "misspell":
        name = list(key[2])
        name[rng.randrange(len(name))] = rng.choice("abcxyz_09")
        lines[at] = f"{key[1]}{''.join(name)}{key[3]}{key[4]}"
    elif kind == "value":
        end = "," if lines[at].rstrip().endswith(",") else ""
        value = rng.choice(ODD)
        lines[at] = f"{key[1]}{key[2]}{key[3].rstrip()} {value}{end}"
    elif kind == "twice":
        lines.insert(at, lines[at])
    elif kind == "swap":
        other = rng.choice(fields)
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "indent":
        lines[at] = rng.choice(["\t", "   ", " "]) + lines[at]
    if kind == "drop":
        del lines[at]
    content = "\n".join(lines).encode()
    if kind == "character":
        place = rng.randrange(len(content))
        content = (
            content[:place]
            + rng.choice([b"{", b"]", b":", b"'", b"&", b"*", b"\x07", b"#"])
            + content[place:]
        )
    elif kind == "cut":
        content = content[: rng.randrange(len(content))]
    elif kind == "bytes":
        place = rng.randrange(len(content))
        content = content[:place] + rng.randbytes(3) + content[place:]
    return kind, content


def complaints(path: Path, printed: str) -> list[str]:
    """What a refusal lacks: the file, a line, a field."""
    first, *problems = printed.strip().splitlines()
    lacking = [] if first.startswith(str(path)) else [f"no file: {first}"]
    for problem in problems:
        if not problem.startswith("  "):
            continue  # the rest of a message of several lines
        place = re.match(r"  (line \d+|--set) +(\S.*)", problem)
        message = place[2] if place else problem.strip()
        if place is None and not NO_LINE.search(problem):
            lacking.append(f"no line: {problem}")
        if not NO_FIELD.search(message) and not re.match(r"\S.*?  +\S", message):
            lacking.append(f"no field: {problem}")
    return lacking


def test_mutants_of_all_shipped_files(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    rng, files = random.Random(SEED), shipped()
    assert len(files) > 80
    outcomes, kinds, wrong = Counter[str](), Counter[str](), list[str]()
    for number in range(MUTANTS):
        source = files[number % len(files)]
        kind, content = mutate(source.read_text(), rng, source.suffix == ".json")
        path = tmp_path / f"{number}_{source.name}"
        path.write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code: object = checker(source)(path)
        except BaseException:
            wrong.append(f"{source.name} {kind} {path}: {traceback.format_exc()[-1500:]}")
            outcomes["traceback"] += 1
            continue
        outcomes[{0: "accepted", 2: "refused"}.get(code, str(code))] += 1
        kinds[f"{kind}: {'refused' if code else 'accepted'}"] += 1
        wrong += [
            f"{source.name} {kind}: {text}" for text in (complaints(path, err.getvalue()) if code else [])
        ]
        if not (code or "Traceback" in err.getvalue()):
            path.unlink()
    print(f"\nseed {SEED}: {dict(outcomes)} of {MUTANTS} mutants of {len(files)} files")
    print(*(f"{count:5}  {name}" for name, count in sorted(kinds.items())), sep="\n")
    assert wrong == [], "\n".join(wrong[:20])
    assert outcomes["refused"] > MUTANTS / 3

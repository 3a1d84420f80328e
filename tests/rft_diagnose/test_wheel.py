"""The distribution: what is in it, and that it diagnoses as the clone does with numpy and scipy alone."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from clones import REPO, link_clone

from diagnose_vanishing_gradients import main

# Imports of anything but the standard library, numpy, scipy and the package fail.
ALONE = """
import json, os, sys

ALLOWED = sys.stdlib_module_names | {"numpy", "scipy", "rft_diagnose"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        # The standard library has a module of the machine's name, which its list of names leaves out.
        if name.partition(".")[0] not in ALLOWED and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
environment, modules = dict(os.environ), set(sys.modules)
import rft_diagnose
assert dict(os.environ) == environment
loaded = {name.partition(".")[0] for name in sys.modules.keys() - modules}
assert loaded <= sys.stdlib_module_names | {"numpy", "rft_diagnose"}, sorted(loaded)
print("imported from", rft_diagnose.__file__)
from rft_diagnose.cli import main
for arguments in json.loads(sys.argv[1]):
    print("exit status", main(arguments))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network in a folder that looks like this one."""
    clone = link_clone(tmp_path_factory.mktemp("clone") / "repository")
    for left in ("build", "rft_diagnose.egg-info"):  # by the user's own `pip install .`
        (clone / left).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "dist"]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = (clone / "dist").glob("*.whl")
    return path


@pytest.fixture
def rewards(tmp_path):
    """The same rewards as CSV, as JSON lines and gzipped, and those of the same prompts before."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        low, high = (0.0, 0.0) if i < 10 else (0.0, 1.0) if i < 20 else (0.9, 1.0)
        for reward in rng.uniform(low, high, 40) if i < 25 else [1.0] * 40:
            text = f'what is "{i}", and\nwhy <{i}>? é'
            row = {"prompt": text, "reward": reward, "form": rng.random() * 1e-6, "answer": str(i)}
            rows.append(row | {"kl": rng.normal() * 1e-3, "moment": len(rows) % 4})
    write_csv(tmp_path / "now.csv", rows)
    (tmp_path / "now.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_csv(tmp_path / "before.csv", [row | {"reward": rng.random()} for row in rows[:1000]])
    (tmp_path / "rewards.parquet").write_bytes(b"PAR1")
    (tmp_path / "extraction.pt").write_bytes(b"?")
    return tmp_path


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_it_holds_the_diagnosis_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = file.read("rft_diagnose-0.1.0.dist-info/METADATA").decode()
        scripts = file.read("rft_diagnose-0.1.0.dist-info/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in names} == {"rft_diagnose", "rft_diagnose-0.1.0.dist-info"}
    sources = {
        path.relative_to(REPO).as_posix()
        for pattern in ("*.py", "py.typed", "templates/*")
        for path in (REPO / "rft_diagnose").glob(pattern)
    }
    assert {"rft_diagnose/py.typed", "rft_diagnose/templates/diagnosis.html"} <= sources
    assert {name for name in names if name.startswith("rft_diagnose/")} == sources
    needed = [
        line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line
    ]
    assert needed == ["Requires-Dist: numpy>=1.26", "Requires-Dist: scipy>=1.11"]
    assert "Requires-Python: >=3.11" in metadata and "rft-diagnose = rft_diagnose.cli:run" in scripts


def test_with_numpy_and_scipy_alone_it_writes_what_the_clone_writes(wheel, rewards, tmp_path):
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(unpacked)
    now, before = str(rewards / "now.csv"), str(rewards / "before.csv")
    checks = {
        "plain": [now, "--references", "answer", "--before", before, "--fail-if", "dead_low > 0.3"],
        "sum": [
            str(rewards / "now.jsonl"),
            "--reward",
            "reward",
            "form",
            "--kl",
            "kl",
            "--kl_coef",
            "0.1",
            "--step",
            "moment",
        ],
    }
    runs = [[*arguments, "--output_path", f"alone/{name}"] for name, arguments in checks.items()]
    refused = [[str(rewards / name)] for name in ("rewards.parquet", "extraction.pt")]
    result = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(runs + refused)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"imported from {unpacked}" in result.stdout
    statuses = [line.split()[-1] for line in result.stdout.splitlines() if line.startswith("exit status")]
    assert statuses == ["3", "0", "2", "2"]
    assert "the report with its pictures needs jinja2: pip install 'rft-diagnose[report]'" in result.stderr
    assert "rewards.parquet: parquet needs pyarrow: pip install 'rft-diagnose[tables]'" in result.stderr
    assert "extraction.pt: an extraction's .pt file needs torch: pip install torch" in result.stderr

    for (name, arguments), status in zip(checks.items(), (3, 0), strict=True):
        clone, alone = tmp_path / "clone" / name, tmp_path / "alone" / name
        assert main([*arguments, "--output_path", str(clone)]) == status
        for file in ("inputs.csv", "dead_low.jsonl"):
            assert (alone / file).read_bytes() == (clone / file).read_bytes()
        assert summary(alone) == summary(clone)
        assert (clone / "report.html").exists() and not (alone / "report.html").exists()


def summary(folder):
    content = json.loads((folder / "summary.json").read_text())
    return {key: value for key, value in content.items() if key not in ("created", "command")}


def runs(python):
    """Whether the Python of that name is at hand (a shim may be there without it)."""
    if shutil.which(python) is None:
        return False
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def install(folder, python, *requirements):
    """A fresh environment with the requirements; its folder of commands."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--only-binary", ":all:", *requirements]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "bin"


OLDEST, NEWEST = ("numpy==1.26.*", "scipy==1.11.*"), ("numpy>=2",)


@pytest.mark.network("packages")
@pytest.mark.parametrize(
    ("python", "versions"),
    [  # numpy 1.26 has no wheel for 3.13
        ("python3.11", OLDEST),
        ("python3.11", NEWEST),
        ("python3.12", OLDEST),
        ("python3.12", NEWEST),
        ("python3.13", NEWEST),
    ],
)
def test_installed_it_diagnoses_as_the_clone_does(wheel, rewards, tmp_path, python, versions):
    if not runs(python):
        pytest.skip(f"no {python} here")
    commands = install(tmp_path / "environment", python, str(wheel), *versions)
    arguments = [str(rewards / "now.csv"), "--references", "answer", "--fail-if", "dead_low > 0.3"]
    result = subprocess.run(
        [commands / "rft-diagnose", *arguments, "--output_path", "installed"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 3, result.stderr
    assert "the report with its pictures needs jinja2" in result.stderr
    assert main([*arguments, "--output_path", str(tmp_path / "clone")]) == 3
    assert (tmp_path / "installed" / "dead_low.jsonl").read_text() == (
        tmp_path / "clone" / "dead_low.jsonl"
    ).read_text()
    installed, clone = (
        list(csv.DictReader((tmp_path / name / "inputs.csv").open())) for name in ("installed", "clone")
    )
    for ours, theirs in zip(clone, installed, strict=True):
        for name, value in ours.items():
            if name in ("input", "label", "looks") or not value:
                assert theirs[name] == value
            else:  # scipy 1.11 inverts distributions to nine digits
                assert float(theirs[name]) == pytest.approx(float(value), rel=1e-7, abs=1e-9)


@pytest.mark.network("packages")
def test_installed_with_extras_it_reports(wheel, rewards, tmp_path):
    commands = install(tmp_path / "environment", sys.executable, f"{wheel}[tables,report]")
    command = [commands / "rft-diagnose", rewards / "now.csv", "--output_path", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    page = Path(tmp_path / "out" / "report.html").read_text()
    assert "<h2>Which groups carry signal</h2>" in page and "why &lt;1&gt;?" in page

"""Every file that the project reads, with a payload in it: nothing is executed, the refusal is one line.

pytest -m slow tests/slow/test_hostile_files.py -s
"""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from extraction_settings import write_extraction
from plan_runs import write_plan

from common.run_dir import find_runs

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
EXTRACT = "rl4lms_extract_samples_from_model_runner.py"
CONTROLLED = "sft_vs_rft_controlled_experiments_plan_runner.py"
DIAGNOSE = "diagnose_vanishing_gradients.py"


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def run(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPO, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def pickled_checkpoint(folder: Path, payload: Payload) -> tuple[int, str]:
    torch.save({"model": payload}, folder / "start.pt")
    plan = write_plan(folder, load_model_from_checkpoint=str(folder / "start.pt"))
    return run(CONTROLLED, "--plan_config_path", plan)


def bare_pickle_as_checkpoint(folder: Path, payload: Payload) -> tuple[int, str]:
    (folder / "start.pt").write_bytes(pickle.dumps({"model": payload}))
    plan = write_plan(folder, trainer_checkpoint=str(folder / "start.pt"))
    return run(CONTROLLED, "--plan_config_path", plan)


def pickle_in_npz(folder: Path, payload: Payload) -> tuple[int, str]:
    plan = write_plan(folder)
    arrays = dict(np.load(folder / "data.npz")) | {"y_train": np.array([payload] * 40, dtype=object)}
    np.savez(folder / "data.npz", **arrays)
    return run(CONTROLLED, "--plan_config_path", plan)


def pickle_beside_npz(folder: Path, payload: Payload) -> tuple[int, str]:
    plan = write_plan(folder)
    with zipfile.ZipFile(folder / "data.npz", "a") as archive:
        archive.writestr("modified_train.npy", pickle.dumps(payload))
    return run(CONTROLLED, "--plan_config_path", plan)


def pickled_cifar(folder: Path, payload: Payload) -> tuple[int, str]:
    data = folder / "cifar-10-batches-py"
    data.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (data / name).write_bytes(pickle.dumps(payload))
    plan = write_plan(folder, dataset="cifar10", data_dir=str(folder))
    return run(CONTROLLED, "--plan_config_path", plan)


def yaml_tags(folder: Path, payload: Payload) -> tuple[int, str]:
    path = folder / "config.yml"
    path.write_text(f"a: !!python/object/apply:os.system ['touch {payload.target}']\n")
    return run(EXTRACT, "--config_path", path, "--check")


def yaml_tags_in_set(folder: Path, payload: Payload) -> tuple[int, str]:
    config = write_extraction(folder)
    value = f"[!!python/object/apply:os.system ['touch {payload.target}']]"
    return run(EXTRACT, "--config_path", config, "--check", "--set", f"evaluation.metrics={value}")


def templates(folder: Path, payload: Payload) -> tuple[int, str]:
    plan = write_plan(folder, experiment_name="{lr.__class__.__init__.__globals__}")
    return run(CONTROLLED, "--plan_config_path", plan)


def remote_code(folder: Path, payload: Payload) -> tuple[int, str]:
    """A model folder that asks for code of its own."""
    config = write_extraction(folder)
    (folder / "model" / "evil.py").write_text(
        f"import os\nos.system('touch {payload.target}')\nclass Evil: pass\n"
    )
    settings = json.loads((folder / "model" / "config.json").read_text())
    settings |= {
        "model_type": "evil",
        "auto_map": {name: "evil.Evil" for name in ("AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM")},
    }
    (folder / "model" / "config.json").write_text(json.dumps(settings))
    return run(EXTRACT, "--config_path", config, "--output_path", folder / "out")


def remote_code_beside_a_known_type(folder: Path, payload: Payload) -> tuple[int, str]:
    config = write_extraction(folder)
    (folder / "model" / "evil.py").write_text(
        f"import os\nos.system('touch {payload.target}')\nclass Evil: pass\n"
    )
    for name, keys in (
        ("config.json", ["AutoConfig", "AutoModelForSeq2SeqLM"]),
        ("tokenizer_config.json", []),
    ):
        path = folder / "model" / name
        settings = json.loads(path.read_text())
        auto_map = {key: "evil.Evil" for key in keys} or {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        path.write_text(json.dumps(settings | {"auto_map": auto_map}))
    return run(EXTRACT, "--config_path", config, "--output_path", folder / "out")


def pickled_weights(folder: Path, payload: Payload) -> tuple[int, str]:
    config = write_extraction(folder)
    (folder / "model" / "model.safetensors").unlink()
    torch.save({"shared.weight": payload}, folder / "model" / "pytorch_model.bin")
    return run(EXTRACT, "--config_path", config, "--output_path", folder / "out")


def pickled_extraction(folder: Path, payload: Payload) -> tuple[int, str]:
    torch.save({"all_metric_values": payload}, folder / "extraction.pt")
    return run(DIAGNOSE, folder / "extraction.pt", "--output_path", folder / "out")


def pickled_indices(folder: Path, payload: Payload) -> tuple[int, str]:
    torch.save({"used_train_indices": payload}, folder / "earlier.pt")
    pool = yaml.safe_load(write_extraction(folder).read_text())["datapool"]
    config = write_extraction(folder, datapool=pool | {"used_indices_from": str(folder / "earlier.pt")})
    return run(EXTRACT, "--config_path", config, "--output_path", folder / "out")


def pickled_rewards(folder: Path, payload: Payload) -> tuple[int, str]:
    np.savez(folder / "rewards.npz", rewards=np.array([payload], dtype=object))
    return run(DIAGNOSE, folder / "rewards.npz", "--output_path", folder / "out")


def a_run_that_was_written_by_somebody_else(folder: Path, payload: Payload) -> tuple[int, str]:
    """A checkpoint that is swapped for one with code, in a run that is resumed."""
    plan = write_plan(folder, epochs=2)
    assert run(CONTROLLED, "--plan_config_path", plan)[0] == 0
    (found,) = find_runs(folder / "runs")
    (checkpoint,) = (found.path / "checkpoints").iterdir()
    torch.save({"model": payload}, checkpoint)
    manifest = found.manifest | {"status": "interrupted"}
    (found.path / "manifest.json").write_text(json.dumps(manifest))
    return run(CONTROLLED, "--plan_config_path", plan)


REFUSED = [
    pickled_checkpoint, bare_pickle_as_checkpoint, pickle_in_npz, pickle_beside_npz, pickled_cifar, yaml_tags,
    yaml_tags_in_set, remote_code, pickled_weights, pickled_extraction, pickled_indices,
    pickled_rewards, a_run_that_was_written_by_somebody_else,
]  # fmt: skip


@pytest.mark.parametrize("hostile", REFUSED, ids=lambda function: function.__name__)
def test_a_payload_is_refused_and_not_executed(tmp_path, hostile: Callable[[Path, Payload], tuple[int, str]]):
    code, printed = hostile(tmp_path, Payload(tmp_path / "executed"))
    assert not (tmp_path / "executed").exists()
    assert code in (1, 2), printed
    assert "Traceback" not in printed and "weights_only" not in printed, printed


def test_templates_show_nothing_of_the_program(tmp_path):
    code, printed = templates(tmp_path, Payload(tmp_path / "executed"))
    assert code == 2 and "__builtins__" not in printed and "cannot fill in the braces" in printed


def test_code_beside_a_known_type_of_model_is_left_alone(tmp_path):
    code, printed = remote_code_beside_a_known_type(tmp_path, Payload(tmp_path / "executed"))
    assert not (tmp_path / "executed").exists() and "Traceback" not in printed
    assert code == 0, printed


def test_the_payload_would_work(tmp_path):
    """Where it is unpickled without care, so that the tests above can fail."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()

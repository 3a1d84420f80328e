"""Tiny pretrainings on the docstrings of a few packages of the standard library."""

import json
from pathlib import Path

import yaml

from common.run_dir import RunDir
from paper.small_models.config import load_pretrain_config
from rl4lms.model.source import LAPTOP_MODELS

PACKAGES = ["json", "argparse", "email", "logging"]
CLASSES = {"mail": ["email"], "other": ["argparse", "logging"]}


def config_of(tmp_path, kind="seq2seq", **alg):
    """The file of a tiny pretraining."""
    data = {
        "name": "tiny",
        "model_type": kind,
        "data": {"packages": PACKAGES, "max_length": 24}
        | ({"classes": CLASSES} if kind == "classifier" else {}),
        "vocabulary": {"size": 400},
        "model": {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.1},
        "alg": {"steps": 12, "batch_size": 8, "learning_rate": 0.02, "log_every": 2, "eval_every": 6,
                "save_every": 4, "mixture": {"denoising": 1, "identifier": 2} if kind == "seq2seq" else {}}
        | alg,
    }  # fmt: skip
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def run_of(base, path):
    config = load_pretrain_config(path)
    return config, RunDir.create(base, config.name, config.model_dump(), {})


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def save_laptop_models(folder: Path) -> None:
    """What `--check` looks at of the models that pretraining makes, in this working directory."""
    repository = Path(__file__).parents[1]
    for name, config in LAPTOP_MODELS.items():
        made = load_pretrain_config(repository / config)
        architecture = {
            "seq2seq": {"model_type": "t5", "is_encoder_decoder": True},
            "causal": {"model_type": "gpt2", "n_positions": made.data.max_length},
            "classifier": {"model_type": "bert", "max_position_embeddings": made.data.max_length},
        }[made.model_type]
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(architecture))
        for file in ("model.safetensors", "tokenizer.json"):
            (folder / name / file).touch()

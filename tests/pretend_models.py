"""Folders that look like the models of a study."""

from __future__ import annotations

import json

from paper.study import StudyConfig, models_needed

ARCHITECTURES = {
    "seq2seq": {"model_type": "t5", "is_encoder_decoder": True},
    "causal": {"model_type": "gpt2", "n_positions": 128},
    "classifier": {"model_type": "bert", "max_position_embeddings": 64},
}


def pretend(study: StudyConfig) -> None:
    """Make what a check looks at of the models of a study, in the working directory."""
    for folder, config in models_needed(study).items():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(ARCHITECTURES[config.model_type]))
        for file in ("model.safetensors", "tokenizer.json"):
            (folder / file).touch()

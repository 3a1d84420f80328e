"""A small extraction of the runner: a random T5, a few prompts, ROUGE-L."""

import json
from pathlib import Path
from typing import Any

import yaml
from tiny_models import save_tiny_t5


def write_extraction(folder: Path, inputs: int = 6, **parts: Any) -> Path:
    """Write model, data and config into a folder; returns the config. parts: blocks in place of its own."""
    model = save_tiny_t5(folder / "model", seed=1, initializer_factor=2.0)
    rows = [{"prompt": f"the dog {i} looks at", "references": ["the teacher"]} for i in range(inputs)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        "tokenizer": {"model_name": str(model), "max_length": 20},
        "datapool": {
            "id": "jsonl",
            "args": {"data_path": str(folder / "train.jsonl")},
            "num_train_samples": inputs,
            "train_samples_rnd_seed": 7,
        },
        "alg": {
            "model_type": "seq2seq",
            "model_name": str(model),
            "generation_kwargs": {"do_sample": True, "max_new_tokens": 4},
        },
        "evaluation": {
            "eval_batch_size": 4,
            "num_samples_per_input": 2,
            "metrics": [{"id": "rouge_l_max"}],
        },
    }
    (folder / "config.yml").write_text(yaml.safe_dump(fields | parts))
    return folder / "config.yml"

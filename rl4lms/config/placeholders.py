"""Values of shipped configs that a user must replace, and the command that makes what belongs there."""

from __future__ import annotations

import re

_PLACEHOLDER = re.compile(r"<.*>")
_CONFIG_FILE = re.compile(r"[\w./-]+\.ya?ml")
_TRAINER = "python rl4lms_train_text_generation.py --config_path"

# Datapool -> the config that finetunes the paper's model on it before PPO and NLPO.
SUPERVISED_CONFIGS = {
    "narrative_qa": "rl4lms_scripts/training/narrative_qa/t5_supervised.yml",
    "totto": "rl4lms_scripts/training/totto/t5_supervised.yml",
    "commongen": "rl4lms_scripts/training/common_gen/t5_supervised.yml",
    "iwslt2017en_de": "rl4lms_scripts/training/iwslt2017/t5_supervised.yml",
    "cnn_daily_mail": "rl4lms_scripts/training/cnn/t5_supervised.yml",
    "daily_dialog": "rl4lms_scripts/training/dialog/gpt2_supervised.yml",
    "imdb": "rl4lms_scripts/training/imdb/gpt2_supervised.yml",
}


def is_placeholder(name: str) -> bool:
    return _PLACEHOLDER.fullmatch(name) is not None


def placeholder_problem(model_name: str, datapool: str) -> str | None:
    """What to put in place of a model's placeholder; None if the name is none.

    A placeholder may name the config that makes the model, such as `<model of rl4lms_scripts/laptop/x.yml>`.
    """
    if not is_placeholder(model_name):
        return None
    named = _CONFIG_FILE.search(model_name)
    config = named[0] if named else SUPERVISED_CONFIGS.get(datapool, "<config of supervised finetuning>")
    return (
        f"still the placeholder {model_name!r}; replace it by the model that this makes: {_TRAINER} {config}"
    )

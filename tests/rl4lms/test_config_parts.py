"""What the configs are made of: positions of models, placeholders, descriptions."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from common.validation import bare_type, members
from rl4lms.config import ExtractConfig, TrainConfig
from rl4lms.config.parts import max_positions, placeholder_problem, prompt_limit


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "t5", "n_positions": 64, "is_encoder_decoder": True}, None),
        ({"model_type": "bart", "max_position_embeddings": 32, "is_encoder_decoder": True}, 32),
    ],
)
def test_positions_of_a_model_folder(tmp_path: Path, config: dict[str, Any], positions: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert max_positions(str(tmp_path)) == positions


def test_prompt_limit() -> None:
    assert prompt_limit("gpt2", "causal", 64, 48) == 64
    assert prompt_limit("gpt2", "causal", 1000, 48) == 952  # less the new tokens, as the released code
    assert prompt_limit("gpt2", "causal", None, 48) == 976
    assert prompt_limit("t5-base", "seq2seq", 4096, 48) == 4096


def test_a_placeholder_may_name_its_config() -> None:
    message = placeholder_problem("<model of rl4lms_scripts/laptop/t5_supervised.yml>", "python_docs")
    assert message is not None
    assert message.endswith(" --config_path rl4lms_scripts/laptop/t5_supervised.yml")
    assert placeholder_problem("t5-base", "python_docs") is None


def described_models(
    model: type[BaseModel], seen: dict[type[BaseModel], None]
) -> dict[type[BaseModel], None]:
    """A model and all models in the types of its fields."""
    if model not in seen:
        seen[model] = None
        for info in model.model_fields.values():
            todo = list(members(info.annotation))
            while todo:
                bare, _ = bare_type(todo.pop())
                if isinstance(bare, type) and issubclass(bare, BaseModel):
                    described_models(bare, seen)
                todo += get_args(bare)
    return seen


def test_every_field_has_a_description() -> None:
    models = described_models(TrainConfig, {}) | described_models(ExtractConfig, {})
    assert len(models) > 20
    silent = [
        f"{model.__name__}.{name}"
        for model in models
        for name, info in model.model_fields.items()
        if not info.description
    ]
    assert silent == []

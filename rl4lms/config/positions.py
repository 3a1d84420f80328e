"""How long prompts may be for a model that is only known by its name."""

from __future__ import annotations

import json
from pathlib import Path

from rl4lms.model_source import Kind

# The causal models of the paper; a folder says it in its config.json.
_POSITIONS = {"gpt2": 1024, "lvwerra/gpt2-imdb": 1024}


def prompt_limit(model_name: str, kind: Kind, max_length: int | None, new_tokens: int) -> int | None:
    """Tokens that rl4lms.generation cuts a prompt to which is followed by up to so many new ones.

    Below 1: none fits. Where the positions of the model are not limited or not known: `max_length`.
    """
    positions = max_positions(model_name)
    if positions is None:
        return max_length
    limit = min(max_length or positions, positions)
    return limit - new_tokens if kind == "causal" and limit + new_tokens > positions else limit


def max_positions(model_name: str) -> int | None:
    """The most tokens that a model attends to; None if that is not limited (T5), or only its files tell."""
    try:
        config = json.loads((Path(model_name) / "config.json").read_text(encoding="utf-8"))
        found = config.get("n_positions" if config.get("model_type") == "gpt2" else "max_position_embeddings")
    except (OSError, ValueError, AttributeError):  # a hub name, or a folder that is reported elsewhere
        return _POSITIONS.get(model_name)
    return found if isinstance(found, int) else None

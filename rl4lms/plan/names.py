"""Names of experiments, and other text of a plan that is filled in from each experiment's config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from common.config import parse_path


class BraceError(Exception):
    """Text whose braces cannot be filled in; the message is for the user."""


def filled(text: str, config: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """`text` with its {braces} filled in by dotted fields of the config and by other names.

    Raises BraceError.
    """
    try:
        return text.format(**{**{key: _attributes(value) for key, value in config.items()}, **names})
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        absent = error.args[0] if isinstance(error, KeyError) else getattr(error, "name", None)
        reason = f"no field {absent!r}" if absent else str(error)
        raise BraceError(f"cannot fill in the braces of {text!r}: {reason}") from None


def _attributes(value: Any) -> Any:
    """A value whose mappings are read by attribute, as str.format does in {a.b}."""
    if isinstance(value, dict):
        return SimpleNamespace(**{str(key): _attributes(item) for key, item in value.items()})
    return [_attributes(item) for item in value] if isinstance(value, list) else value


def short_names(fields: Iterable[str]) -> dict[str, str]:
    """Dotted field -> its last part, or its last two, ..., as many as tell it from the others."""
    parts = {field: [str(key) for key in parse_path(field)] for field in fields}
    found = {}
    for field, own in parts.items():
        others = [other for name, other in parts.items() if name != field]
        length = 1
        while length < len(own) and any(other[-length:] == own[-length:] for other in others):
            length += 1
        found[field] = "_".join(own[-length:])
    return found


def folder_name(text: str) -> str:
    """Text that can name a folder: 0.1 becomes 0-1, brackets and spaces go."""
    return re.sub(r"[^\w+-]", "-", re.sub(r"[\[\]{}() '\"]", "", text))

"""Tables on the Hugging Face hub, by paths such as hf://datasets/USER/NAME/FILE."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rft_diagnose.errors import DiagnosisError, needed_for
from rft_diagnose.formats import FORMATS, file_format

HUB = re.compile(r"hf:/{1,2}(?!/)(.*)")  # pathlib makes one slash of two
KINDS = {"datasets": "dataset", "spaces": "space"}


def local_path(path: Path) -> Path:
    """Fetch what a path on the hub names, a file or a folder, into the hub's cache; other paths are kept.

    hf://datasets/USER/NAME[@REVISION][/PATH], spaces likewise, or models without `datasets`.
    Raises DiagnosisError: there is no such thing, or it cannot be had; MissingPackageError.
    """
    match = HUB.fullmatch(path.as_posix())
    if match is None:
        return path
    where = f"hf://{match.group(1)}"
    parts = match.group(1).strip("/").split("/")
    kind = KINDS.get(parts[0])
    owner, name, *inside = parts[kind is not None :] if len(parts) > 1 + (kind is not None) else ("", "")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise DiagnosisError(f"{where}: expected hf://datasets/USER/NAME, and perhaps a path in it")
    with needed_for(where, "hub"):
        import huggingface_hub
    repository: dict[str, Any] = {
        "repo_id": f"{owner}/{name}",
        "repo_type": kind or "model",
        "revision": revision or None,
    }
    target = "/".join(inside)
    try:
        if inside and file_format(Path(target)) in FORMATS:
            return Path(huggingface_hub.hf_hub_download(**repository, filename=target))
        wanted = f"{target}/*" if inside else None
        return Path(huggingface_hub.snapshot_download(**repository, allow_patterns=wanted)) / target
    except Exception as error:  # of the hub, its client, the network: each has its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DiagnosisError(f"{where} cannot be fetched: {reason}") from error

"""A log of all that was rewarded in training, a row per generation, as a run of TRL does not keep it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft_diagnose.errors import DiagnosisError
from rft_diagnose.results import atomic_path

logger = logging.getLogger(__name__)
NAME = "rollout_rewards.jsonl"  # `rft-diagnose FOLDER` takes a file of this name before others
RESERVED = ("step", "prompt", "completion", "reward")


class RolloutLog:
    """Appends batches to a file of JSON lines: step, prompt, completion, parts of the reward, the reward."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_broken = False

    def begin(self, global_step: int) -> None:
        """Take out what a run that is resumed at this step had written of later ones.

        Raises DiagnosisError: the run begins anew, and the file is that of another, or cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists() or not self.path.stat().st_size:
                return
            if global_step == 0:
                raise DiagnosisError(
                    f"{self.path} has the rollouts of another run: move it away, or give this run an "
                    "output_dir of its own (a run that is resumed goes on with its file)"
                )
            with atomic_path(self.path) as temporary, open(self.path, encoding="utf-8") as rows:
                with open(temporary, "w", encoding="utf-8") as kept:
                    kept.writelines(row for row in rows if _is_until(row, global_step))
        except OSError as error:
            raise DiagnosisError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def add(
        self,
        step: int,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        parts: dict[str, Sequence[float]],
        total: Sequence[float],
    ) -> None:
        """Append a batch; NaN, missing, becomes null. Training goes on without the log if that fails."""
        if self._is_broken:
            return
        names = [f"{name}_part" if name in RESERVED else name for name in parts]
        rows = [
            {
                "step": step,
                "prompt": prompts[i],
                "completion": completions[i],
                **{name: _number(values[i]) for name, values in zip(names, parts.values(), strict=True)},
                "reward": _number(total[i]),
            }
            for i in range(len(prompts))
        ]
        if len(names) == 1:  # the reward itself
            rows = [{name: value for name, value in row.items() if name not in names} for row in rows]
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, default=type_name) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._is_broken = True
            logger.warning(
                "%s cannot be written (%s): training goes on without it", self.path, error.strerror or error
            )


def type_name(value: Any) -> str:
    """Stand in for what JSON cannot hold, such as a prompt's image."""
    return f"<{type(value).__name__}>"


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _is_until(row: str, step: int) -> bool:
    """Tell whether a line is whole, and of a step up to this one."""
    if not row.endswith("\n"):
        return False
    try:
        return bool(json.loads(row)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False

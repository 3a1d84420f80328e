"""Where the rows of a run's metrics go: metrics.jsonl always, TensorBoard and Weights & Biases when asked."""

from __future__ import annotations

import importlib.util
import io
import netrc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from common.errors import UserError
from common.run_dir import RunDir

# W&B's own folder, SLURM's, the lock, temporary files.
_NEVER_UPLOADED = ("wandb/*", "slurm/*", ".*", "*/.*")


class TrackerError(UserError):
    """A tracker that could not start; the message is for the user."""

    is_refusal = True


@dataclass(frozen=True)
class WandbSettings:
    """What Weights & Biases is told.

    entity, resume_id: "" = the account's default, a new run. track_model: what `wandb.watch` logs.
    exclude_files: globs of files, relative to the run directory, that are not uploaded at the end of the run;
    `*` matches `/` too. opt_out: how the user does without, for the error where it does not start.
    """

    project: str
    entity: str = ""
    resume_id: str = ""
    track_model: Literal["gradients", "parameters", "all"] | None = None
    exclude_files: tuple[str, ...] = ()
    opt_out: str = "set use_wandb to false"


def check_trackers(tensorboard: bool, wandb: bool, asked_by: str = "use_") -> str | None:
    """What is missing for the trackers asked for, and how to get it; None if nothing. Imports neither.

    asked_by: what the names of their fields or flags begin with.
    """
    requested = {"tensorboard": tensorboard, "wandb": wandb}
    missing = [package for package, enabled in requested.items() if enabled and not _installed(package)]
    if not missing:
        return _login_problem(asked_by) if wandb else None
    if len(missing) == 1:
        return f"{asked_by}{missing[0]} needs a package that is not installed: pip install {missing[0]}"
    fields = " and ".join(f"{asked_by}{package}" for package in missing)
    return f"{fields} need packages that are not installed: pip install {' '.join(missing)}"


def _login_problem(asked_by: str) -> str | None:
    """Why Weights & Biases would not start: no login where it looks for one. None if there may be one."""
    environment = os.environ
    if environment.get("WANDB_MODE", "online") != "online" or sys.stdin.isatty():  # a terminal is asked
        return None
    if any(environment.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return None
    config = Path(environment.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    local = Path(environment.get("WANDB_DIR") or ".") / "wandb"
    if (config / "settings").is_file() or (local / "settings").is_file():  # a mode, a server, a key
        return None
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    names = [environment["NETRC"]] if environment.get("NETRC") else ["~/.netrc", "~/_netrc"]
    try:
        for file in (Path(name).expanduser() for name in names):
            if file.is_file() and netrc.netrc(str(file)).authenticators(host):
                return None
    except (OSError, netrc.NetrcParseError):
        return None  # wandb says what is wrong with it
    return (
        f"{asked_by}wandb: Weights & Biases has no login on this machine: log in (wandb login), work offline "
        f"(WANDB_MODE=offline), or do without {asked_by}wandb"
    )


class Tracker:
    """Fans the rows of one run out. Left as a context manager it is closed, as failed on an exception."""

    def __init__(
        self,
        run: RunDir,
        tensorboard: bool = False,
        wandb: WandbSettings | None = None,
        purge_step: int | None = None,
    ) -> None:
        """Start what is asked for. Raises TrackerError if Weights & Biases does not start.

        purge_step: on a resume, the first epoch logged again; TensorBoard drops what it had from there on.
        """
        self._run = run
        self._settings = wandb
        self._board: Any = None
        self._wandb: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge_step)
        if wandb is not None:
            self._wandb = _start_wandb(run, wandb)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close(failed=error is not None)

    def watch(self, model: Any) -> None:
        """Let Weights & Biases follow gradients or parameters of a torch module, if asked for."""
        if self._settings is not None and self._settings.track_model is not None:
            self._wandb.watch(model, log=self._settings.track_model)

    def log(self, row: dict[str, Any]) -> None:
        """Log {"epoch": e, "train": {name: value}, "val": {...}}, where `val` is optional.

        The trackers get `train/<name>` and `val/<name>` at step e.
        """
        self._run.append_metrics(row)
        splits = {split: row.get(split, {}) for split in ("train", "val")}
        self.send(
            {f"{split}/{name}": value for split, values in splits.items() for name, value in values.items()},
            row["epoch"],
        )

    def send(self, values: dict[str, float], step: int) -> None:
        """Give values to the trackers alone, for runs that write their rows themselves."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def close(self, failed: bool = False) -> None:
        """Write out what is pending and, with Weights & Biases, save the run's files; may be called twice."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._wandb is not None and self._settings is not None:
            with _without_link_notes():
                for path in files_to_upload(self._run.path, self._settings.exclude_files):
                    self._wandb.save(str(path), base_path=str(self._run.path), policy="now")
            self._wandb.finish(exit_code=int(failed))
            self._wandb = None


def files_to_upload(directory: Path, exclude: tuple[str, ...]) -> Iterator[Path]:
    """The files of a run directory that match none of the globs `exclude`; never W&B's own or hidden ones."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and not any(fnmatch(name, glob) for glob in (*_NEVER_UPLOADED, *exclude)):
            yield path


@contextmanager
def _without_link_notes() -> Iterator[None]:
    """Show what is written to stderr in the block when it ends, less a note of W&B's for each file."""
    written = io.StringIO()
    try:
        with redirect_stderr(written):
            yield
    finally:
        lines = written.getvalue().splitlines(keepends=True)
        sys.stderr.write("".join(line for line in lines if "into the W&B run directory" not in line))


def _start_wandb(run: RunDir, settings: WandbSettings) -> Any:
    import wandb

    # A run that is resumed goes on in the W&B run that it began.
    known_id = settings.resume_id or run.manifest.get("wandb_id")
    try:
        started = wandb.init(
            project=settings.project,
            entity=settings.entity or None,
            id=known_id,
            resume="allow" if known_id else None,
            name=run.path.name,
            config=run.config,
            dir=str(run.path),
        )
    except (wandb.Error, OSError) as error:
        raise TrackerError(
            f"Weights & Biases did not start: {str(error).rstrip('.')}. Log in (wandb login), work offline "
            f"(WANDB_MODE=offline), or {settings.opt_out}"
        ) from None
    run.update_manifest(wandb_id=started.id)
    return started


def _installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    # A mere folder of that name, such as the ./wandb that W&B leaves behind, has a spec without a file.
    return spec is not None and spec.origin is not None

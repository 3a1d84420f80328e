"""Folders of results that cannot be written: what is wrong in one line, whichever library came to it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REASONS = {
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENAMETOOLONG: "File name too long",
    errno.ELOOP: "a link on the way to it leads back to itself",
    errno.EFBIG: "the file would be larger than this user may write",
    errno.EIO: "the disk reports an error",
}
# Of libraries that write files without Python: safetensors, then torch's archives (which name no reason).
_IN_TEXT = re.compile(
    r"No space left on device|os error (?:28|122)\b|unexpected pos \d+|PytorchStreamWriter failed"
)


class OutputError(UserError, OSError):
    """A file or folder of results that cannot be written; the message is for the user."""


@contextmanager
def writing(path: Path, setting: str = "") -> Iterator[None]:
    """Turn an OSError of the block into an OutputError about `path`.

    setting: the field or flag that names the path, if this is one.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        # What a connection does while a download is written, or what is raised by hand, is not the disk's.
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        raise OutputError(f"{setting}{': ' if setting else ''}{explain(path, error)}") from error


def explain(path: Path, error: OSError) -> str:
    """Why a path cannot be written, and how much is free if that is why."""
    return f"{path} cannot be written: {_reason(path, error)}"


def output_error(error: BaseException, folder: Path) -> OutputError | None:
    """The same error as an OutputError, if it is one of writing into `folder`; else None."""
    if isinstance(error, OutputError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename
        is_inside = isinstance(name, str) and Path(name).absolute().is_relative_to(folder.absolute())
        if is_inside and error.errno != errno.ENOENT:
            return OutputError(explain(Path(name), error))
        if name is None and error.errno in (*_FULL, *_REASONS):
            return OutputError(explain(folder, error))
    elif isinstance(error, Exception) and _IN_TEXT.search(str(error)):
        return OutputError(explain(folder, OSError(errno.ENOSPC, "")))
    return None


def check_output_folder(path: Path, setting: str) -> None:
    """Make the folder of results that `setting` names, and try to write there. Raises OutputError."""
    with writing(path, setting):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".tmp-probe-{os.getpid()}"
        try:
            probe.write_bytes(b"x" * 512)
        finally:
            for file in path.glob(".tmp-probe-*"):  # a killed runner's too
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def _reason(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return f"no space left on its disk ({_free(path)} free)"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        for place in [path, *path.parents]:
            if place.is_symlink() and not place.exists():
                return f"{place} is a link to {os.readlink(place)}, which does not exist"
            if place.exists():
                if not place.is_dir():
                    return f"{place} is a file, not a folder"
                break
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def _free(path: Path) -> str:
    for place in [path, *path.absolute().parents]:
        with suppress(OSError):
            size = shutil.disk_usage(place).free
            return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
    return "nothing"

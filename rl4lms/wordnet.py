"""The synonyms of WordNet 3.0, as NLTK looks them up, read from the database's own files.

Needed are `index.*`, `data.*` and the lists of irregular forms `*.exc`, which Debian's wordnet-base installs;
NLTK's reader asks for more than METEOR uses. Their form: wndb(5WN).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VERSION = "3.0"
SHARED = Path("/usr/share/wordnet")  # Debian, Ubuntu
FETCHED = Path("outputs/real_data/wordnet")  # where fetch_real_data.py puts it
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
FILES = tuple(name for part in PARTS_OF_SPEECH for name in (f"index.{part}", f"data.{part}", f"{part}.exc"))
# Endings and what stands for them in the base form: WordNet's rules of detachment, morphy(7WN).
DETACHMENT: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
        *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", "")),
        *(("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
_PLACE = re.compile(rb"\d{8}")
_VERSION_LINE = re.compile(rb"WordNet (\d[\d.]*) Copyright")


@dataclass(frozen=True)
class WordNet:
    """The database in memory, by part of speech.

    synsets: lemma -> places of its synsets in `data`. data: the file, in which a line at that place begins
    with it. irregular: form -> its base forms.
    """

    synsets: dict[str, dict[str, list[bytes]]]
    data: dict[str, bytes]
    irregular: dict[str, dict[str, list[str]]]

    def synonyms(self, word: str) -> set[str]:
        """All lemmas of all synsets of a word and its base forms; "_" stands for a space."""
        word = word.lower()
        return {
            name
            for part in PARTS_OF_SPEECH
            for form in self._forms(word, part)
            for place in self.synsets[part].get(form, ())
            for name in self._lemmas(part, place)
        }

    def _forms(self, word: str, part: str) -> set[str]:
        irregular = self.irregular[part].get(word)
        if irregular is not None:
            return {word, *irregular}
        return {word, *(word.removesuffix(old) + new for old, new in DETACHMENT[part] if word.endswith(old))}

    def _lemmas(self, part: str, place: bytes) -> list[str]:
        data, start = self.data[part], int(place)
        fields = data[start : data.index(b"\n", start)].decode("utf-8").split()
        names = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        return [name.partition("(")[0] for name in names]  # "(a)": the place of an adjective


def find_places(nltk_folders: Iterable[Path]) -> list[Path]:
    """Folders and archives that could hold WordNet, in the order in which they are tried."""
    corpora = [folder / "corpora" / name for folder in nltk_folders for name in ("wordnet", "wordnet.zip")]
    return [place for place in (*corpora, SHARED, FETCHED) if place.exists()]


@cache
def read_wordnet(place: Path) -> WordNet:
    """Read all that METEOR needs from a folder or NLTK's archive.

    Raises ValueError with the reason if something is missing, damaged or of another version.
    """
    try:
        return _parse(_read_files(place))
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(f"{place} cannot be read ({error})") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _read_files(place: Path) -> dict[str, bytes]:
    if place.is_dir():
        files = {name: (place / name).read_bytes() for name in FILES if (place / name).is_file()}
    else:
        with zipfile.ZipFile(place) as archive:
            inside = set(archive.namelist())
            files = {name: archive.read(f"wordnet/{name}") for name in FILES if f"wordnet/{name}" in inside}
    if missing := [name for name in FILES if not files.get(name)]:
        raise ValueError(f"{', '.join(missing)} missing or empty")
    return files


def _parse(files: dict[str, bytes]) -> WordNet:
    synsets = {}
    for part in PARTS_OF_SPEECH:
        data = files[f"data.{part}"]
        version = _VERSION_LINE.search(data, 0, 5_000)
        if version and version[1].decode() != VERSION:
            raise ValueError(f"WordNet {version[1].decode()}; METEOR's values are those of {VERSION}")
        synsets[part] = _read_index(f"index.{part}", files[f"index.{part}"])
        places = {place for places in synsets[part].values() for place in places}
        lines = sum(not line.startswith(b" ") for line in data.splitlines())
        # Of files that were cut or do not belong together, some synset has no line or some line no lemma.
        whole = data.endswith(b"\n") and len(places) == lines
        if not whole or not all(data.startswith(place + b" ", int(place)) for place in places):
            raise ValueError(f"index.{part} and data.{part} do not fit together (cut short?)")
    irregular = {part: _read_exceptions(files[f"{part}.exc"]) for part in PARTS_OF_SPEECH}
    return WordNet(synsets, {part: files[f"data.{part}"] for part in PARTS_OF_SPEECH}, irregular)


def _read_index(name: str, content: bytes) -> dict[str, list[bytes]]:
    synsets = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if line.startswith(b" "):  # the licence
            continue
        fields = line.split()
        try:
            places = fields[-int(fields[2]) :]
            if len(fields) != 6 + int(fields[3]) + len(places) or not all(map(_PLACE.fullmatch, places)):
                raise ValueError(fields)
        except (ValueError, IndexError):
            raise ValueError(f"{name}, line {number} is no line of an index (cut short?)") from None
        synsets[fields[0].decode("utf-8")] = places
    return synsets


def _read_exceptions(content: bytes) -> dict[str, list[str]]:
    lines = (line.split() for line in content.decode("utf-8").splitlines())
    return {words[0]: words[1:] for words in lines if words}

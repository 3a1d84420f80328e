"""Generated texts with references, for comparing metrics with the libraries that define them."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType

from rl4lms.text import TextBatch

_ODD = [
    ("", [""]),
    ("", ["the cat"]),
    ("the cat", [""]),
    ("...", ["!!!"]),
    ("the cat", ["the cat"]),
    ("The Cat SAT.", ["the cat sat", "a cat sat on the mat"]),
    ("naïve café résumé", ["naive cafe resume", "naïve café résumé"]),
    ("Die Straße ist schön \u2013 im Frühling.", ["Im Frühling ist die Straße schön."]),
    ("日本語 のテスト", ["日本語 の テスト"]),
    ("İstanbul ÄÖÜ ß", ["istanbul aou ss"]),
    ("I cannot go, he cannots; scannot", ["I can not go", "cannot canned cannotation"]),
    ("gonna gimme what I wanna", ["I gotta lemme wanna", "going to give me"]),
    ("first line\nsecond line\n\nthird line", ["second line first line third", "third line\nfirst line"]),
    ("the cat the cat\nthe dog", ["the dog the cat\nthe the the cat cat"]),
    ("mice ran and geese flew", ["the mouse runs, the goose flies"]),
    ("running runner runs ran", ["run runner running runs"]),
    ("he said \"hello there\" to 'Kenobi'", ["he said 'hello there' to Kenobi"]),
    ("U.S. president's 3rd visit (2019-2020)", ["The US president made a third visit in 2019/2020."]),
    ("In 1998, the price rose by 3.5% to $1,234.56.", ["The price rose 3.5 % to $ 1,234.56 in 1998 ."]),
    ("a a a a a a", ["a a"]),
    ("b", ["b"]),
    ("one two three " * 60, ["three two one " * 50, "one two three " * 40]),
    ("word\ttab  spaces \n", [" word tab spaces"]),
]
_WORDS = (
    "the a of cat cats dog running runs happily children child mice went going taken better worst don't "
    "cannot gonna U.S. 3.5% café state-of-the-art under_score <EOU> . , ! \n"
).split(" ")


def text_pairs(count: int = 120, seed: int = 0) -> TextBatch:
    """A batch of odd texts and of random ones of 0 to 130 words, with 1 to 3 references, mostly similar."""
    rng = random.Random(seed)

    def text() -> list[str]:
        return rng.choices(_WORDS, k=rng.choice([0, 1, 3, 6, 12, 12, 20, 130]))

    def edited(words: list[str]) -> str:
        kept = [word if rng.random() < 0.9 else rng.choice(_WORDS) for word in words if rng.random() < 0.9]
        return " ".join(kept if rng.random() < 0.7 else text())

    def pair() -> tuple[str, list[str]]:
        words = text()
        return " ".join(words), [edited(words) for _ in range(rng.randint(1, 3))]

    return batch_of([*_ODD, *(pair() for _ in range(count - len(_ODD)))])


_PIECES = (
    "the the the a a cat cats The sat on mat , . ; ! - ' 1 22 3.5 1,234 1,2.3 1..2 ...5 a.b .5 5. -5 5-6 a-b "
    "a--b &quot; &amp;lt; &<> <skipped> <skip U.S. don't café ÄÖÜ ß \u0663,\u0664 « » \u2013 € 日本 語テ。 "
    "\U0001f600 é x\u0301"
).split(" ")
_GAPS = [" "] * 12 + ["", "", "  ", "\t", "\n", "-\n", "\u3000", "\xa0"]


def pieced_pairs(count: int, seed: int = 0) -> TextBatch:
    """A batch of what tokenisers treat in different ways: 0 to 600 pieces, 1 to 5 references."""
    rng = random.Random(seed)

    def text(pieces: list[str]) -> str:
        return "".join(piece + rng.choice(_GAPS) for piece in pieces)

    def pair() -> tuple[str, list[str]]:
        pieces = rng.choices(_PIECES, k=rng.choice([0, 1, 2, 3, 4, 5, 8, 8, 12, 12, 20, 20, 30]))
        if rng.random() < 0.01:
            pieces *= 20
        kept = [[piece for piece in pieces if rng.random() < 0.8] for _ in range(rng.randint(1, 5))]
        return text(pieces), [rng.choice([text(own), text(own), text(own + own), "", " \n"]) for own in kept]

    return batch_of([pair() for _ in range(count)])


def batch_of(pairs: list[tuple[str, list[str]]]) -> TextBatch:
    """The batch of these texts and references, without prompts and meta data."""
    generated = [text for text, _ in pairs]
    return TextBatch(
        [""] * len(pairs), generated, [references for _, references in pairs], [{} for _ in pairs]
    )


def import_py_rouge() -> ModuleType:
    """py-rouge 1.1, which wants pkg_resources (gone from setuptools) and a download of NLTK's.

    It only tokenises texts of letters, digits, spaces and underscores: there is no sentence end to split at.
    """
    from importlib.util import find_spec

    spec = find_spec("rouge")
    assert spec and spec.origin, "py-rouge is in requirements-dev.txt"
    shim = ModuleType("pkg_resources")
    shim.resource_filename = lambda package, name: str(Path(spec.origin).parent / name)  # type: ignore[attr-defined,arg-type]
    real = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = shim
    try:
        import rouge
    finally:
        if real is None:
            del sys.modules["pkg_resources"]
        else:
            sys.modules["pkg_resources"] = real
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    rouge.rouge.pkg_resources = shim
    rouge.Rouge.tokenize_text = staticmethod(lambda text, language="english": tokenizer.tokenize(text))
    return rouge

"""A WordNet of a few synsets, in the form of the database's own files."""

from pathlib import Path

# Part of speech -> its letter, its synsets, its irregular forms.
PARTS: dict[str, tuple[str, list[list[str]], str]] = {
    "noun": ("n", [["child", "kid"], ["kid", "young_goat"], ["cat", "true_cat"]], "children child\n"),
    "verb": ("v", [["better", "amend"], ["pity"], ["seem(a)", "look"]], "bettered better\n"),
    "adj": ("a", [["good", "well(p)"], ["fine", "good"], ["better"]], "better good well\n"),
    "adv": ("r", [["well", "good"]], "best well\n"),
}
LICENCE = "  1 WordNet 3.0 Copyright 2006 by Princeton University.  \n"


def write_wordnet(folder: Path) -> Path:
    """Write the files that METEOR reads, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (letter, synsets, irregular) in PARTS.items():
        data, places = LICENCE, {}
        for names in synsets:
            place = f"{len(data):08}"
            for name in names:
                places.setdefault(name.partition("(")[0], []).append(place)
            lemmas = " ".join(f"{name} 0" for name in names)
            data += f"{place} 03 {letter} {len(names):02x} {lemmas} 000 | a gloss  \n"
        lines = [
            f"{lemma} {letter} {len(own)} 1 @ {len(own)} 0 {' '.join(own)}  \n"
            for lemma, own in sorted(places.items())
        ]
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(LICENCE + "".join(lines))
        (folder / f"{part}.exc").write_text(irregular)
    return folder

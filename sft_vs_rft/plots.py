"""Pictures of a controlled experiment's metrics: which of them belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.plots import Curve, Panel, Point, save_panels
from rft_diagnose.style import CURVE_COLORS, house_style

# How a metric's name says which inputs it is about: the picture is named by the rest.
_GROUPS = re.compile(
    r"^(?P<split>train |test |)(?P<family>.+?)(?: value)?(?P<group> small reward std| large reward std|)$"
)
# What parts of metrics' names are called in a picture.
WORDS = {
    "params_norm": "parameter norm",
    "kl reg": "KL regularisation",
    "reg objective": "regularised objective",
    "normalized grad norm": "gradient norm over parameter norm",
    "grad norm": "gradient norm",
    "avg reward std": "mean reward std",
}
NOTHING_IF_ZERO = {"kl reg"}  # without a coefficient
_KINDS = ("all", "small", "large", "test")  # of curves, by their looks


def save_metric_plots(rows: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Draws the panels of `arrange_metrics` into `directory`, a PNG each, atomically. Returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with house_style():
        for family, panel in arrange_metrics(rows).items():
            path = directory / f"{_choose_stem(family, {p.stem for p in paths})}.png"
            save_panels(path, [panel], "epoch", CURVE_COLORS)
            paths.append(path)
    return paths


def arrange_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, Panel]:
    """Puts the metrics over the epochs that belong together into a panel, named by what they measure.

    rows: [{"epoch": e, "train": {name: value}, "val": {...}}], `val` optional. A regularisation that is 0 in
    all of them is left out. Names that differ in their
    group (" small reward std", " large reward std") or in "train" and "test" share a panel.
    """
    points: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        for split in ("train", "val"):
            for name, value in row.get(split, {}).items():
                points.setdefault((split, name), []).append((row["epoch"], float(value)))
    families: dict[str, list[Curve]] = {}
    zero = {name for (_, name), values in points.items() if all(y == 0 for _, y in values)}
    for (split, name), values in points.items():
        if name in NOTHING_IF_ZERO & zero:
            continue
        match = _GROUPS.match(name)
        family, group = (match["family"], match["group"].split()) if match else (name, [])
        kind = group[0] if group else "all" if split == "train" else "test"
        in_both = ("train", name) in points and ("val", name) in points
        label = _in_words(f"{name} ({split})" if in_both else name)
        families.setdefault(family, []).append(Curve(label, values, _KINDS.index(kind)))
    order = ("all", "test", "small", "large")
    return {
        family: Panel(
            _in_words(family)[:1].upper() + _in_words(family)[1:],
            sorted(curves, key=lambda curve: order.index(_KINDS[curve.look])),
            y_label=_in_words(family),
            log="norm" in family.split(),
        )
        for family, curves in families.items()
    }


def _in_words(name: str) -> str:
    """What a metric's name, or a part of it, is called."""
    for part, words in WORDS.items():
        if re.search(rf"\b{part}\b", name):
            return name.replace(part, words)
    return name.replace("_", " ")


def _choose_stem(family: str, taken: set[str]) -> str:
    """Makes a file name of lower-case letters, digits and underscores, unlike those `taken`."""
    stem = re.sub(r"[^a-z0-9]+", "_", family.lower()).strip("_")[:100] or "metric"
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}_{n}"
    return name

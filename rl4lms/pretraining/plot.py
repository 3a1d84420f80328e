"""The picture of a pretraining: losses over updates, drawn as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_loss_plot(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Write `loss_figure` as PNG, atomically."""
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        loss_figure(rows, title).savefig(temporary, format="png", dpi=120)


def loss_figure(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Two panels over updates: train and held-out loss; each task's share of held-out targets foreseen.

    rows: [{"step": s, "train": {"loss": l}, "val": {"loss": l, "<task> accuracy": a, ...}}], `val` optional.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    evaluated = [row for row in rows if "val" in row]
    steps = [row["step"] for row in evaluated]
    losses.plot([row["step"] for row in rows], [row["train"]["loss"] for row in rows], color="#0072b2",
                linewidth=1, label="train")  # fmt: skip
    losses.plot(steps, [row["val"]["loss"] for row in evaluated], "k--o", markersize=3, label="held-out")
    losses.set(title=title, xlabel="updates", ylabel="loss (nats)")
    names = [name for name in (evaluated[0]["val"] if evaluated else ()) if name.endswith(" accuracy")]
    for name, marker in zip(names, "os^vD*xP" * 2, strict=False):
        values = [row["val"][name] for row in evaluated]
        accuracies.plot(steps, values, marker=marker, markersize=4, label=name.removesuffix(" accuracy"))
    accuracies.set(title="Held-out", xlabel="updates", ylabel="share foreseen", ylim=(0, 1))
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure

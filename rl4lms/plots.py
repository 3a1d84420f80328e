"""Pictures of a training run, drawn from its files of rows as it goes: `plots/*.png`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.files import Row, read_rows
from common.plots import Curve, Panel, optional_drawing, save_panels
from rft_diagnose.style import CURVE_COLORS, house_style

REWARD_METRICS = "reward_metrics.json"  # a reward model's last measurements on val, with their tables
_LOOKS = {"train": 1, "val": 0, "test": 2}

# Picture -> its panels: (title, key in the rows, key of the band's half height, logarithmic).
_PANELS: dict[str, list[tuple[str, str, str | None, bool]]] = {
    "reward": [
        ("reward of a text: mean, band: std", "rollout_info/ep_rew", "rollout_info/ep_rew_std", False),
    ],
    "reward_std": [
        ("reward std of inputs drawn more than once", "rollout_info/input_reward_std", None, False),
        ("reward std of a rollout's texts", "rollout_info/ep_rew_std", None, False),
    ],
    "kl": [
        ("KL to the reference, per token", "rollout_info/kl_div_mean", None, False),
        ("KL coefficient", "rollout_info/kl_coeff", None, False),
        ("KL reward of a text", "rollout_info/ep_kl_rew", None, False),
        ("KL to the reference, per text", "rollout_info/ep_kl", None, False),
        ("its root", "rollout_info/ep_kl_root", None, False),
    ],
    "episode_length": [
        ("tokens of a text: mean, band: std", "rollout_info/ep_lens", "rollout_info/ep_lens_std", False),
    ],
    "losses": [
        ("policy loss", "ppo/policy_gradient_loss", None, False),
        ("value loss", "ppo/value_loss", None, False),
        ("entropy loss", "ppo/entropy_loss", None, False),
        ("loss", "loss", None, False),
        ("loss of pretraining text", "ppo/ptx_loss", None, False),
    ],
    "update": [
        ("approximate KL of the update", "ppo/approx_kl", None, False),
        ("share of clipped ratios", "ppo/clip_fraction", None, False),
        ("explained variance of the value", "ppo/explained_variance", None, False),
        ("learning rate", "learning_rate", None, False),
        ("cosine of PPO's and pretraining's gradient", "ppo/ptx_cosine", None, False),
    ],
    "gradient_norm": [
        ("gradient norm, before clipping", "ppo/grad_norm", None, True),
        ("gradient norm, before clipping", "grad_norm", None, True),
        ("of PPO, of the policy's weights", "ppo/policy_grad_norm", None, True),
        ("of pretraining text, times its weight", "ppo/ptx_grad_norm", None, True),
    ],
}
_KL_ROOT, _REWARD_MODEL_SCORE = "kl/episode_root", "semantic/reward_model"
_PART = re.compile(r"rollout_info/reward/[^/]+/mean")
NOTHING_IF_ZERO = ("kl",)  # pictures whose panels are left out where they are 0 all along
# Panels of several curves: title, label -> key and look. Of inputs with two texts or more in the last
# iterations; the classes have the colours that they have in a diagnosis.
_SIGNAL: list[tuple[str, dict[str, tuple[str, int]]]] = [
    (
        "share of inputs: are their rewards alike?",
        {
            "alike, low": ("signal/no_spread_low", 1),
            "spread": ("signal/spread", 0),
            "alike, near the best": ("signal/no_spread_high", 2),
        },
    ),
    (
        "share of inputs by class",
        {
            "dead-low": ("signal/dead_low", 1),
            "uncertain": ("signal/uncertain", 6),
            "dead-high": ("signal/dead_high", 2),
            "live": ("signal/live", 3),
        },
    ),
    (
        "reward std",
        {
            "between inputs": ("signal/between_std", 1),
            "within inputs": ("signal/within_std", 0),
            "within, less KL penalty": ("signal/penalised_within_std", 2),
        },
    ),
    ("inputs seen twice or more in 10 iterations", {"": ("signal/inputs", 0)}),
    ("texts of such an input", {"": ("signal/texts_per_input", 0)}),
]

# Of a reward model: title, label -> split whose rows have it (of train its updates'), key and look.
_REWARD_MODEL: list[tuple[str, dict[str, tuple[str, str, int]]]] = [
    ("loss", {"train": ("train", "loss", 1), "val": ("val", "loss", 0)}),
    (
        "share of comparisons that are right",
        {
            "train": ("train", "accuracy", 1),
            "val": ("val", "accuracy", 0),
            "val, gold": ("val", "gold_accuracy", 2),
        },
    ),
    (
        "calibration error on val",
        {"measured": ("val", "calibration_error", 0), "by chance": ("val", "calibration_error_by_chance", 6)},
    ),
    ("share of the reward's variance within prompts, val", {"": ("val", "within_share", 0)}),
    (
        "correlation with length, val",
        {
            "all completions": ("val", "length_correlation", 0),
            "within prompts": ("val", "length_correlation_within", 3),
        },
    ),
    ("std of the raw reward, val", {"": ("val", "reward_std", 0)}),
]


def draw_training(path: Path, prefix: str = "") -> list[Path]:
    """Draws what the run in `path` has recorded so far; returns the pictures, each written atomically.

    That they cannot be drawn is logged.
    prefix: what the names of its files begin with. Nothing is drawn of what has no row yet.
    """
    drawn, folder = [], path / "plots"
    with optional_drawing(folder), house_style():
        pictures = arrange_rows(path, prefix)
        if pictures:
            folder.mkdir(exist_ok=True)
        # Rows of supervised finetuning count epochs, the others iterations.
        supervised = any("step" in row for row in _read(path, f"{prefix}training_info.jsonl")[:1])
        for name, panels in pictures.items():
            x_label = "epoch" if supervised else "iteration"
            save_panels(folder / f"{name}.png", panels, x_label, CURVE_COLORS)
            drawn.append(folder / f"{name}.png")
        if panels := arrange_against_kl(path, prefix):
            x_label = "root of the KL to the reference per text, on val"
            save_panels(folder / "against_kl.png", panels, x_label, CURVE_COLORS)
            drawn.append(folder / "against_kl.png")
        if panel := arrange_calibration(path, prefix):
            save_panels(folder / "calibration.png", [panel], "predicted probability", CURVE_COLORS)
            drawn.append(folder / "calibration.png")
    return drawn


def arrange_rows(path: Path, prefix: str = "") -> dict[str, list[Panel]]:
    """Makes the panels of each picture: of rollouts and updates, and of each family of metrics."""
    rows = [row for name in ("rollout_info", "training_info") for row in _read(path, f"{prefix}{name}.jsonl")]
    pictures: dict[str, list[Panel]] = {}
    for name, wanted in _PANELS.items():
        for title, key, band, log in wanted:
            curve = _make_curve(rows, key, band=band)
            if name in NOTHING_IF_ZERO and all(y == 0 for _, y in curve.points):
                continue
            if curve.points:
                pictures.setdefault(name, []).append(Panel(title, [curve], log=log))
    if parts := _arrange_parts(rows):
        pictures.setdefault("reward", []).append(parts)
    for title, keys in _SIGNAL:
        curves = [_make_curve(rows, key, label, look) for label, (key, look) in keys.items()]
        if recorded := [curve for curve in curves if curve.points]:
            pictures.setdefault("signal", []).append(Panel(title, recorded))
    evaluations = {
        split: [row | row["metrics"] for row in _read(path, f"{prefix}{split}_split_metrics.jsonl")]
        for split in _LOOKS
    }
    if any("comparisons" in row for row in rows):
        del pictures["losses"]
        return pictures | {"reward_model": _arrange_reward_model(evaluations | {"train": rows})}
    names = {name for rows in evaluations.values() for row in rows for name in row["metrics"]}
    for name in sorted(n for n in names if not n.endswith("nopunct")):  # of diversity, 20 twins of others
        curves = [_make_curve(evaluations[split], name, split, look) for split, look in _LOOKS.items()]
        family, _, metric = name.rpartition("/")
        picture = f"evaluation_{re.sub(r'[^a-z0-9]+', '_', (family or 'metrics').lower()).strip('_')}"
        recorded = [curve for curve in curves if curve.points]
        pictures.setdefault(picture, []).append(Panel(metric, recorded))
    return pictures


def _arrange_parts(rows: Sequence[Row]) -> Panel | None:
    """Makes the panel of the rewards that the reward sums, in the order of the config; None of one alone."""
    keys = dict.fromkeys(key for row in rows for key in row if _PART.fullmatch(key))
    curves = [_make_curve(rows, key, key.split("/")[-2], look) for look, key in enumerate(keys)]
    return Panel("its parts, before weights: mean", curves) if curves else None


def _arrange_reward_model(rows: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """Makes the panels of a reward model. rows: its updates' as "train", and val's measurements."""
    panels = []
    for title, keys in _REWARD_MODEL:
        curves = [_make_curve(rows[split], key, label, look) for label, (split, key, look) in keys.items()]
        if recorded := [curve for curve in curves if curve.points]:
            panels.append(Panel(title, recorded))
    return panels


def arrange_against_kl(path: Path, prefix: str = "") -> list[Panel]:
    """Makes a panel for each metric on val over the root of the KL there, the reward model's score first.

    So a reward model's score stands beside gold (Gao et al. 2022): where the one rises and the other falls,
    the policy has learnt the reward model's mistakes. Of runs that measure the KL.
    """
    rows = [row["metrics"] for row in _read(path, f"{prefix}val_split_metrics.jsonl")]
    rows = [row for row in rows if _KL_ROOT in row]
    names = {name for row in rows for name in row if not name.startswith(("kl/", "diversity_metrics/"))}
    panels = []
    for name in sorted(names, key=lambda name: (name != _REWARD_MODEL_SCORE, name)):
        points = [(float(row[_KL_ROOT]), float(row[name])) for row in rows if name in row]
        panels.append(Panel(name.rpartition("/")[2], [Curve("", points)]))
    return panels


def arrange_calibration(path: Path, prefix: str = "") -> Panel | None:
    """Makes the panel of a reward model's last calibration on val; None if there is none."""
    file = path / f"{prefix}{REWARD_METRICS}"
    if not file.exists():
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    points = [(row["predicted"], row["frequency"]) for row in metrics["calibration"]]
    curves = [Curve(f"update {metrics['step']:,}", points), Curve("calibrated", [(0.0, 0.0), (1.0, 1.0)], 6)]
    return Panel("calibration on val, both orientations of each comparison", curves, "frequency")


def _make_curve(
    rows: Sequence[Row], key: str, label: str = "", look: int = 0, band: str | None = None
) -> Curve:
    """Makes the curve of a key over the rows that have it; band: the key of its band's half height."""
    rows = [row for row in rows if key in row]
    points = [(float(row["epoch"]), float(row[key])) for row in rows]
    return Curve(label, points, look, [float(row[band]) for row in rows] if band else None)


def _read(path: Path, name: str) -> list[Row]:
    return read_rows(path / name, "epoch")

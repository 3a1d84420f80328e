"""What is claimed of InstructGPT's pipeline, measured on its tables (`figures.instructgpt_tables`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from figures.instructgpt_criteria import MAIN_TASK, PPO, PPO_FREE, PTX, SFT, TAUGHT_KL, WHOLE_TEACHER
from figures.measured import Measured, NotTestedError
from figures.table_rewards import seeds_difference
from figures.tables import with_interval
from rft_diagnose.statistics import Difference, bootstrap_interval, spearman

Tables = Mapping[str, pd.DataFrame]
FEWEST_TEACHERS = 3


def rm_accuracy(tables: Tables) -> Measured:
    """The reward model's accuracy on held-out rankings, mean over seeds."""
    rows = _rows(tables, "scores", teacher=WHOLE_TEACHER)
    shown = f"worst {rows['rankings'].min():.3f}; {_by_seed(rows, 'rankings', '.3f')}"
    return Measured(float(rows["rankings"].mean()), shown)


def rm_grouped(tables: Tables) -> Measured:
    """The lower end of the shuffled reward model's val loss minus the grouped one's, over prompts."""
    losses = {
        arm: _rows(tables, "reward_losses", arm=arm).groupby(["prompt", "seed"])["loss"].mean()
        for arm in ("shuffled", "epochs")
    }
    both = (losses["shuffled"] - losses["epochs"]).dropna()
    if both.empty:
        raise NotTestedError("no prompt of val has losses of both reward models")
    values = both.groupby("prompt").mean().to_numpy()
    low, high = bootstrap_interval(lambda drawn: float(values[drawn].mean()), len(values))
    passes = {
        arm: _rows(tables, "reward_models", arm=arm).groupby("seed")["texts"].max().mean()
        for arm in ("shuffled", "grouped")
    }
    shown = with_interval(float(values.mean()), float(low[0]), float(high[0]), "{:+.3f}".format)
    ratio = passes["shuffled"] / passes["grouped"]
    detail = f"{shown} over {len(values)} prompts; {ratio:.1f} times the passes of one grouped epoch"
    return Measured(float(low[0]), detail)


def rm_epochs(tables: Tables) -> Measured:
    """Val loss at the last epoch minus the least one, in the seed where it is lowest."""
    return _worst(tables, min, lambda rows: _last(rows, "loss") - float(rows["loss"].min()), arm="epochs")


def rm_calibrated(tables: Tables) -> Measured:
    """The calibration error beyond chance after one epoch, in the seed where it is highest."""
    return _worst(tables, max, _miscalibration, arm="grouped")


def rm_calibrated_later(tables: Tables) -> Measured:
    """How much larger it is after several epochs, in the seed where that is lowest."""
    early, late = (
        {seed: _miscalibration(rows) for seed, rows in _trained(tables, arm)} for arm in ("grouped", "epochs")
    )
    differences = {seed: late[seed] - early[seed] for seed in late if seed in early}
    if not differences:
        raise NotTestedError("no seed has both reward models, of one epoch and of several")
    return Measured(min(differences.values()), _listed(differences))


def ppo_wins(tables: Tables) -> Measured:
    """The lower end of PPO's win rate against SFT."""
    rate = win_rate(tables, MAIN_TASK, PPO, SFT)
    return Measured(rate.low, _shown(rate, "prompts", "{:.3f}"))


def win_rate(tables: Tables, task: str, method: str, against: str) -> Difference:
    """A win rate: mean and Student's interval over seeds; of one seed, its own over prompts.

    Raises NotTestedError: no seed has both models' texts.
    """
    rows = _rows(tables, "wins", task=task, method=method, against=against)
    if len(rows) > 1:
        return seeds_difference([np.array([rate]) for rate in rows["rate"]])
    row = rows.iloc[0]
    return Difference(row["rate"], float("nan"), row["low"], row["high"], 1)


def ptx_keeps(tables: Tables) -> Measured:
    """The lower end of what PPO loses of pretraining and PPO-ptx does not."""
    loss = loss_difference(tables, MAIN_TASK, PPO, PTX)
    gold = seeds_difference(
        [
            np.array([_gold_at_end(tables, PTX, seed) - _gold_at_end(tables, PPO, seed)])
            for seed in _seeds(tables, "ppo", PTX)
        ]
    )
    shown = _shown(loss, "texts", "{:+.4f}")
    return Measured(
        loss.low, f"{shown} nats a token; gold of PPO-ptx minus PPO {_shown(gold, '', '{:+.3f}')}"
    )


def loss_difference(tables: Tables, task: str, method: str, other: str) -> Difference:
    """Loss per token on held-out pretraining text of a method minus another's.

    Student's interval over seeds; of one seed, normal over texts. Raises NotTestedError.
    """
    both = [
        _rows(tables, "losses", task=task, method=name).set_index(["seed", "text"])
        for name in (method, other)
    ]
    differences = []
    for seed in sorted(set(both[0].index.get_level_values(0)) & set(both[1].index.get_level_values(0))):
        first, second = (rows.loc[seed] for rows in both)
        tokens = first["tokens"].to_numpy()
        # Each text by its tokens, so that the mean is that of the loss per token.
        differences.append(((first["loss"] - second["loss"]) / tokens.mean()).to_numpy())
    if not differences:
        raise NotTestedError(f"no seed has held-out losses of {method} and {other}")
    return seeds_difference(differences)


def sft_epochs(tables: Tables) -> Measured:
    """By how many epochs the best score comes after the least loss, in the seed where it is lowest."""
    values, shown = [], []
    for seed, rows in _rows(tables, "sft").groupby("seed"):
        trained = rows[rows["epoch"] > 0]
        loss, score = (trained["epoch"].loc[getattr(trained[name], best)()] for name, best in _BEST)
        values.append(float(score - loss))
        shown.append(f"seed {seed}: loss {loss:g}, score {score:g}")
    return Measured(min(values), "; ".join(shown))


_BEST = (("loss", "idxmin"), ("score", "idxmax"))


def overoptimised(tables: Tables) -> Measured:
    """The lowest seed's rank correlation of proxy minus gold with the root of the KL, without a penalty."""
    correlations = {}
    for seed, rows in _rows(tables, "ppo", task=MAIN_TASK, method=PPO_FREE).groupby("seed"):
        correlations[seed] = spearman(rows["proxy"] - rows["gold"], rows["kl_root"])
    return Measured(min(correlations.values()), _listed(correlations))


def teacher_variance(tables: Tables) -> Measured:
    """Rank correlation of teachers' gains with variance minus that with accuracy; means over seeds."""
    means = teacher_means(tables, TAUGHT_KL)
    if len(means) < FEWEST_TEACHERS:
        raise NotTestedError(f"{len(means)} reward models taught, {FEWEST_TEACHERS} are needed")
    by = {name: spearman(means[name], means["gain"]) for name in ("variance", "accuracy", "off_policy")}
    shown = ", ".join(f"{name.replace('_', '-')} {value:+.2f}" for name, value in by.items())
    return Measured(by["variance"] - by["accuracy"], f"{shown} over {len(means)} reward models")


def teacher_means(tables: Tables, kl: float) -> pd.DataFrame:
    """The means over seeds of each teacher. Raises NotTestedError: none has taught."""
    rows = _rows(tables, "teachers", kl=kl)
    columns = ["variance", "accuracy", "off_policy", "gain"]
    return rows.groupby("teacher", sort=False)[columns].mean().reset_index()


def teacher_grpo(tables: Tables) -> Measured:
    """GRPO's gain on the squashed half over that on the other."""
    return Measured(*_share(tables, "grpo"))


def teacher_grpo_rloo(tables: Tables) -> Measured:
    """How much larger GRPO's share is than RLOO's."""
    (first, shown), (second, also) = (_share(tables, method) for method in ("grpo", "rloo"))
    return Measured(first - second, f"GRPO {first:.3f} ({shown}), RLOO {second:.3f} ({also})")


def _share(tables: Tables, method: str) -> tuple[float, str]:
    rows = _rows(tables, "halves", method=method)
    gains = rows.groupby("half")["gain"].mean()
    if not gains.get("full", 0) > 0:
        raise NotTestedError(f"{method.upper()} gains nothing on the half with the full reward")
    share = float(gains["squashed"] / gains["full"])
    return share, f"gains {gains['squashed']:+.3f} and {gains['full']:+.3f}"


def gao_fit(kl_root: Any, gold: Any, kind: str) -> tuple[float, float]:
    """The a and b of Gao et al. (2022), by least squares: best of n d(a - b d), RL d(a - b log d).

    kl_root: d, above 0; kind: best_of or rl. NaN for fewer than two points.
    """
    d, values = np.asarray(kl_root, dtype=float), np.asarray(gold, dtype=float)
    kept = d > 0
    d, values = d[kept], values[kept]
    if len(np.unique(d)) < 2:
        return float("nan"), float("nan")
    design = np.stack([d, -d * (d if kind == "best_of" else np.log(d))], axis=1)
    a, b = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(a), float(b)


def gao_curve(kl_root: Any, a: float, b: float, kind: str) -> np.ndarray:
    """What such a fit says at d above 0."""
    d = np.asarray(kl_root, dtype=float)
    return d * (a - b * (d if kind == "best_of" else np.log(d)))


def _rows(tables: Tables, name: str, **wanted: Any) -> pd.DataFrame:
    """The rows of a table with these values. Raises NotTestedError: there are none."""
    rows = tables.get(name, pd.DataFrame())
    for column, value in wanted.items():
        rows = rows[rows[column] == value] if len(rows) else rows
    if rows.empty:
        what = ", ".join(f"{column} {value}" for column, value in wanted.items())
        raise NotTestedError(f"no finished run of {ITEM_WORDS[name]}{f' ({what})' if what else ''}")
    return rows


ITEM_WORDS = {
    "scores": "reward models' scores",
    "reward_losses": "reward models that are compared",
    "reward_models": "reward models that are compared",
    "best_of": "best of n",
    "sft": "SFT of many epochs",
    "ppo": "PPO",
    "wins": "texts of the models that are compared",
    "losses": "held-out losses",
    "teachers": "RLOO by the teachers",
    "halves": "the squashed half",
}


def _trained(tables: Tables, arm: str) -> list[tuple[int, pd.DataFrame]]:
    """The evaluations after some training of an arm, of each seed."""
    rows = _rows(tables, "reward_models", arm=arm)
    rows = rows[rows["step"] > 0]
    return [(seed, rows[rows["seed"] == seed]) for seed in sorted(rows["seed"].unique().tolist())]


def _worst(
    tables: Tables, worst: Callable[[Any], float], measure: Callable[[pd.DataFrame], float], arm: str
) -> Measured:
    values = {seed: measure(rows) for seed, rows in _trained(tables, arm)}
    return Measured(worst(values.values()), _listed(values))


def _last(rows: pd.DataFrame, name: str) -> float:
    return float(rows.sort_values("step")[name].iloc[-1])


def _miscalibration(rows: pd.DataFrame) -> float:
    return _last(rows, "calibration_error") - _last(rows, "calibration_error_by_chance")


def _seeds(tables: Tables, name: str, method: str) -> Sequence[int]:
    rows = _rows(tables, name, task=MAIN_TASK, method=method)
    return sorted(int(seed) for seed in rows["seed"].unique())


def _gold_at_end(tables: Tables, method: str, seed: int) -> float:
    rows = _rows(tables, "ppo", task=MAIN_TASK, method=method, seed=seed)
    return float(rows.sort_values("iteration")["gold"].iloc[-1])


def _by_seed(rows: pd.DataFrame, column: str, form: str) -> str:
    return ", ".join(f"seed {row['seed']}: {row[column]:{form}}" for _, row in rows.iterrows())


def _listed(values: Mapping[Any, float]) -> str:
    return ", ".join(f"seed {seed}: {value:+.3f}" for seed, value in values.items())


def _shown(difference: Difference, inputs: str, form: str) -> str:
    over = f"over {difference.pairs} seeds" if difference.pairs > 1 else f"one seed, over {inputs}"
    return f"{with_interval(difference.mean, difference.low, difference.high, form.format)} ({over})"


INSTRUCTGPT_MEASURES: dict[str, Callable[[Tables], Measured]] = {
    "rm_accuracy": rm_accuracy,
    "rm_grouped": rm_grouped,
    "rm_epochs": rm_epochs,
    "rm_calibrated": rm_calibrated,
    "rm_calibrated_later": rm_calibrated_later,
    "ppo_wins": ppo_wins,
    "ptx_keeps": ptx_keeps,
    "sft_epochs": sft_epochs,
    "overoptimised": overoptimised,
    "teacher_variance": teacher_variance,
    "teacher_grpo": teacher_grpo,
    "teacher_grpo_rloo": teacher_grpo_rloo,
}

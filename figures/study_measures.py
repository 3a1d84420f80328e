"""Numbers that claims about RFT after SFT are judged by: of the table of rewards, Table 2 and Figure 4.

rewards: see `figures.table_rewards.rewards_numbers`; inputs, runs: see `figures.study`; base: see
`figures.figure4_table2.select_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from figures.criterion import LEAST_GAIN, SHORT_LABELS, SHORT_STEPS, SWEPT_TASK, TASK_HAS_DEAD
from figures.figure2_table1 import models_by_task
from figures.figure4_table2 import (
    NO_GAIN,
    NO_INTERVAL,
    add_steps,
    gained,
    keep_shared_seeds,
    reward_difference,
    reward_gain,
    select_settings,
)
from figures.measured import Measured, NotTestedError
from figures.tables import number, with_interval
from rft_diagnose.statistics import SMALL_STD, Difference, dead


def list_intervals(rows: pd.DataFrame, name: str, shown: Callable[[float], str]) -> str:
    """Write each task's value of a column with its interval."""
    return ", ".join(
        f"{row['task']} {with_interval(row[name], row[f'{name}_low'], row[f'{name}_high'], shown)}"
        for row in rows.to_dict("records")
    )


def rewards_share(rewards: pd.DataFrame, name: str, only_dead: bool = False) -> Measured:
    """Share of the tasks whose interval of a difference of test rewards lies above 0.

    only_dead: of those that have dead train inputs.
    """
    rows = rewards[(rewards["split"] == "test") & rewards[f"{name}_low"].notna()]
    if only_dead:
        train = rewards[rewards["split"] == "train"].set_index("task")["dead"]
        rows = rows[rows["task"].map(train) >= TASK_HAS_DEAD]
    if rows.empty:
        kind = f" that has {TASK_HAS_DEAD:.0%} of dead inputs" if only_dead else ""
        raise NotTestedError(f"no task{kind} has finished extractions of test inputs after all finetunings")
    shown = list_intervals(rows, name, "{:+.3f}".format)
    return Measured(float((rows[f"{name}_low"] > 0).mean()), shown)


def short_share(rewards: pd.DataFrame) -> Measured:
    """Median over tasks of the test reward of short SFT, then RFT, over that of full SFT, then RFT."""
    rows = rewards[(rewards["split"] == "test") & rewards["short_rft"].notna() & rewards["sft_rft"].notna()]
    kept = rows[rows["sft_rft"] - rows["pretrained"] >= LEAST_GAIN]
    if kept.empty:
        raise NotTestedError(
            "no task has finished extractions of test inputs of short SFT, then RFT, and of full SFT, then "
            f"RFT, the latter at least {LEAST_GAIN:g} above the pretrained model"
        )
    shares = kept["short_rft"] / kept["sft_rft"]
    shown = ", ".join(
        f"{row.task} {row.short_rft:.3f} of {row.sft_rft:.3f} ({share:.0%})"
        for row, share in zip(kept.itertuples(), shares, strict=True)
    )
    if left_out := [task for task in rows["task"] if task not in set(kept["task"])]:
        shown += f"; left out, since full SFT, then RFT hardly raises them: {', '.join(left_out)}"
    return Measured(float(shares.median()), shown)


def short_wakes(inputs: pd.DataFrame) -> Measured:
    """Share of the dead test inputs with a std of 0.01 or more after short SFT, mean over tasks; worst seed.

    Of the tasks that have dead test inputs.
    """
    by_seed: dict[int, dict[str, list[float]]] = {}
    tasks: dict[str, None] = {}
    for task, seed, models in models_by_task(inputs, ("pretrained", "short"), "test"):
        is_dead = dead(models["pretrained"]["mean"], models["pretrained"]["std"])
        if is_dead.mean() < TASK_HAS_DEAD:
            continue
        tasks[task] = None
        for method in ("short", "rft"):
            if method in models:
                awake = float((models[method]["std"][is_dead] >= SMALL_STD).mean())
                by_seed.setdefault(seed, {}).setdefault(method, []).append(awake)
    if not by_seed:
        raise NotTestedError(
            f"no task that has {TASK_HAS_DEAD:.0%} of dead test inputs has finished extractions of them "
            "after short SFT"
        )
    shares = {
        seed: {method: float(np.mean(values)) for method, values in methods.items()}
        for seed, methods in by_seed.items()
    }
    shown = [
        f"seed {seed}: {share['short']:.3f}" + (f" (RFT alone {share['rft']:.3f})" if "rft" in share else "")
        for seed, share in shares.items()
    ]
    worst = min(share["short"] for share in shares.values())
    return Measured(worst, f"{'; '.join(shown)}; tasks: {', '.join(tasks)}")


def short_against_rft(
    runs: pd.DataFrame, base: Mapping[str, float], split: str, every_setting: bool
) -> Measured:
    """Short SFT, then RFT, minus RFT alone: with its own settings, or with the best of all."""
    short, alone = _short_and_alone(runs, base if not every_setting else {}, split)
    keys = ["learning_rate", "temperature", "ent_coef"]
    settings = keep_shared_seeds(alone, keys).groupby(keys)
    if every_setting and len(settings) == 1:
        raise NotTestedError(f"RFT on {SWEPT_TASK} has finished with one setting alone")
    best = settings["reward"].mean().idxmax()
    return _lower_end(reward_difference(short, settings.get_group(best)))


def short_gain(runs: pd.DataFrame, base: Mapping[str, float], split: str) -> Measured:
    """What RFT gains after short SFT minus what it gains alone, with their ratio where RFT alone gains."""
    short, alone = _short_and_alone(runs, base, split)
    measured = _lower_end(reward_difference(gained(short), gained(alone)))
    shared = set(short["seed"]) & set(alone["seed"])
    gains = [reward_gain(rows[rows["seed"].isin(shared)]) for rows in (short, alone)]
    after, before = (with_interval(gain.mean, gain.low, gain.high, "{:+.3f}".format) for gain in gains)
    shown = f"after short SFT RFT gains {after}, alone {before}"
    if gains[1].low > 0:
        shown += f", ratio {gains[0].mean / gains[1].mean:.1f}"
    else:
        shown += f": {NO_INTERVAL if np.isnan(gains[1].low) else NO_GAIN}"
    return Measured(measured.value, f"{measured.detail}; {shown}")


def short_cell(figure4: pd.DataFrame, split: str, column: str) -> Measured:
    """A column of Figure 4 at the short SFT phase."""
    rows = _short(figure4[figure4["split"] == split])
    if rows.empty:
        raise NotTestedError(f"no finished run of short SFT, then RFT on {SWEPT_TASK}")
    row = rows.iloc[0]
    if np.isnan(row[column]):
        raise NotTestedError("no finished run of full SFT, then RFT to compare with")
    return Measured(float(row[column]), f"reward {row['reward']:.3f}, seeds: {row['seeds']}")


def _short(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of RFT after the short SFT phase."""
    near = np.isclose(rows["steps"].astype(float), SHORT_STEPS, atol=0.01)
    same = np.isclose(rows["labels" if "labels" in rows else "sft_labels"].astype(float), SHORT_LABELS)
    return rows[(rows["method"] == "sft_rft") & near & same]


def _short_and_alone(
    runs: pd.DataFrame, base: Mapping[str, float], split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The swept task's runs of short SFT, then RFT, and of RFT alone, on a split. Raises NotTestedError."""
    rows = add_steps(select_settings(runs[runs["task"] == SWEPT_TASK], base))
    rows = rows[rows["split"] == split]
    short, alone = _short(rows), rows[rows["method"] == "rft"]
    if short.empty or alone.empty:
        which = "short SFT, then RFT" if short.empty else "RFT alone"
        raise NotTestedError(f"no finished run of {which} on {SWEPT_TASK}")
    return short, alone


def _lower_end(difference: Difference | None) -> Measured:
    if difference is None:
        raise NotTestedError("no seed has finished both")
    interval = with_interval(difference.mean, difference.low, difference.high, number)
    over = f"over {difference.pairs} seeds" if difference.pairs > 1 else "one seed, over inputs"
    if np.isnan(difference.low):
        over = "one seed, whose texts were not kept: no interval"
    return Measured(difference.low, f"difference {interval} ({over})")

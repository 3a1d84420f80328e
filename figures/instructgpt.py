"""InstructGPT's pipeline: proxy and gold over the root of the KL, win rates, what ptx keeps, teachers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.instructgpt_criteria import ITEM, MAIN_TASK, SFT, START, TAUGHT_KL
from figures.instructgpt_measures import (
    Tables,
    gao_curve,
    gao_fit,
    loss_difference,
    teacher_means,
    win_rate,
)
from figures.measured import NotTestedError
from figures.report import Item
from figures.study import Source, describe_runs
from figures.style import save_figure
from figures.table_rewards import seeds_difference
from figures.tables import number, save_table, short, with_interval
from rft_diagnose.statistics import spearman
from rft_diagnose.style import BLUE, CURVE_COLORS, GREY, ORANGE, house_style

TITLE = "InstructGPT: SFT, a reward model, PPO and PPO-ptx"
CAPTION = (
    "Proxy: the reward model's reward, gold: what its labels are noisy copies of, both as gains in std of "
    "the texts of the model that RL starts from. Win rates by gold on held-out prompts against SFT of 16 "
    "epochs and against that start. Lost: nats a token on held-out pretraining text, minus the start. "
    "Intervals: 95%, Student's t over seeds, of one seed over prompts or texts. The weight of the "
    "pretraining loss is not the paper's 27.8 but one with which PPO's gradient is a good part of the sum "
    "(policy share)."
)
MARKERS = "os^Dv<>P"
WIDTH = 3.6


def method_name(method: str) -> str:
    """How a reader calls a method: ppo-ptx-0_02 is PPO-ptx, KL 0.02."""
    names = {START: "start of RL", SFT: "SFT, 16 epochs"}
    if method in names:
        return names[method]
    algorithm, _, coeff = method.rpartition("-")
    return f"{algorithm.upper().replace('PTX', 'ptx')}, KL {coeff.replace('_', '.')}"


def kl_figure(tables: Tables) -> Figure:
    """Proxy (dashed) and gold over the root of the KL: RL by coefficient, and best of n, with Gao's fits."""
    ppo, best = tables["ppo"][tables["ppo"]["task"] == MAIN_TASK], tables["best_of"]
    with house_style():
        figure = Figure(figsize=(2 * WIDTH + 0.6, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        methods = list(dict.fromkeys(ppo["method"]))
        for place, method in enumerate(methods):
            rows = ppo[ppo["method"] == method]
            means = rows.groupby("iteration")[["kl_root", "proxy", "gold"]].mean()
            look = {"color": CURVE_COLORS[place % len(CURVE_COLORS)], "marker": MARKERS[place]}
            left.plot(means["kl_root"], means["gold"], label=method_name(method), **look)
            left.plot(means["kl_root"], means["proxy"], linestyle="--", alpha=0.7, **look)
        _fit(left, ppo["kl_root"], ppo["gold"], "rl", "fit of gold, d (a - b log d)")
        left.set(xlabel="root of the KL", ylabel="gain, std of the start", title="RL (dashed: proxy)")
        means = best.groupby("n")[["kl_root", "proxy", "gold"]].mean()
        right.plot(means["kl_root"], means["gold"], color=BLUE, marker="o", label="gold")
        right.plot(means["kl_root"], means["proxy"], color=ORANGE, marker="s", linestyle="--", label="proxy")
        _fit(right, best["kl_root"], best["gold"], "best_of", "fit of gold, d (a - b d)")
        right.set(xlabel="root of the KL", title=f"best of n, to {int(best['n'].max())}")
        for axes in (left, right):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)  # curves may go anywhere
    return figure


def _fit(axes: Axes, kl_root: pd.Series[float], gold: pd.Series[float], kind: str, label: str) -> None:
    a, b = gao_fit(kl_root, gold, kind)
    if math.isnan(a):
        return
    known = kl_root[kl_root > 0]
    d = np.linspace(float(known.min()), float(known.max()), 100)
    axes.plot(d, gao_curve(d, a, b, kind), color=GREY, linestyle=":", label=f"{label}: {a:.2f}, {b:.2f}")


def wins_figure(wins: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """A bar of each win rate: mean over seeds, the seeds as points; a panel for each task and opponent."""
    panels = list(dict.fromkeys(zip(wins["task"], wins["against"], strict=True)))
    with house_style():
        figure = Figure(figsize=(0.6 + WIDTH * len(panels), 3.6), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False, sharex=True)
        for axes, (task, against) in zip(grid[0], panels, strict=True):
            rows = wins[(wins["task"] == task) & (wins["against"] == against)]
            methods = list(dict.fromkeys(rows["method"]))
            for place, method in enumerate(methods):
                rate = win_rate({"wins": wins}, task, method, against)
                ends = [[rate.mean - rate.low], [rate.high - rate.mean]]
                axes.errorbar([rate.mean], [place], xerr=ends, color=BLUE, marker="o", capsize=3)
                each = rows[rows["method"] == method]["rate"]
                axes.plot(each, [place] * len(each), color=GREY, marker="|", linestyle="", markersize=8)
            axes.axvline(0.5, color=GREY, linewidth=1)
            axes.set_yticks(range(len(methods)), [method_name(method) for method in methods])
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_xlim(0, 1)
            axes.set(
                xlabel="win rate by gold", title=f"{labels.get(task, task)}: against {method_name(against)}"
            )
    return figure


def ptx_figure(tables: Tables, labels: Mapping[str, str]) -> Figure:
    """What each model loses on held-out pretraining text, over the gold that it gains; a panel a task."""
    losses = tables["losses"]
    tasks = list(dict.fromkeys(losses["task"]))
    with house_style():
        figure = Figure(figsize=(0.6 + WIDTH * len(tasks), 3.8), layout="constrained")
        grid = figure.subplots(1, len(tasks), squeeze=False)
        for axes, task in zip(grid[0], tasks, strict=True):
            ppo = tables["ppo"][tables["ppo"]["task"] == task]
            for place, method in enumerate(dict.fromkeys(ppo["method"])):
                lost = loss_difference(tables, task, method, _base(tables, task))
                ends = ppo[ppo["method"] == method].sort_values("iteration").groupby("seed")["gold"].last()
                axes.errorbar(
                    [float(ends.mean())],
                    [lost.mean],
                    yerr=[[max(0.0, lost.mean - lost.low)], [max(0.0, lost.high - lost.mean)]],
                    color=CURVE_COLORS[place % len(CURVE_COLORS)],
                    marker=MARKERS[place],
                    linestyle="",
                    capsize=3,
                    label=method_name(method),
                )
            axes.axhline(0, color=GREY, linewidth=1)
            axes.set(xlabel="gold, std of the start", title=labels.get(task, task))
            axes.legend()
        grid[0][0].set_ylabel("lost on pretraining text, nats a token")
    return figure


def _base(tables: Tables, task: str) -> str:
    """The model that a task's RL starts from."""
    known = set(tables["losses"][tables["losses"]["task"] == task]["method"])
    return START if START in known else "pretrained"


def teachers_figure(tables: Tables) -> Figure:
    """Gold gain of RLOO by each teacher, over its variance and over its accuracy."""
    means, each = teacher_means(tables, TAUGHT_KL), tables["teachers"]
    each = each[each["kl"] == TAUGHT_KL]
    with house_style():
        figure = Figure(figsize=(2 * WIDTH + 0.6, 3.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        shown = (
            ("variance", "normalised variance within prompts"),
            ("accuracy", "accuracy on the policy's texts"),
        )
        for axes, (name, label) in zip(panels, shown, strict=True):
            for place, row in enumerate(means.to_dict("records")):
                look = {"color": CURVE_COLORS[place % len(CURVE_COLORS)], "marker": MARKERS[place]}
                axes.plot(
                    [row[name]], [row["gain"]], linestyle="", label=teacher_name(row["teacher"]), **look
                )
                seeds = each[each["teacher"] == row["teacher"]]
                axes.plot(seeds[name], seeds["gain"], linestyle="", alpha=0.35, markersize=3, **look)
            axes.set(xlabel=label, title=f"rank correlation {spearman(means[name], means['gain']):+.2f}")
        panels[0].set_ylabel("gold gain of RLOO, std of the start")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def teacher_name(teacher: str) -> str:
    """How a reader calls a teacher."""
    if not teacher.startswith("on_policy_"):
        return "gold's order, squashed"
    return f"{teacher.removeprefix('on_policy_')}% on-policy pairs"


def pipeline_numbers(tables: Tables) -> pd.DataFrame:
    """A row for each task and model: proxy, gold and KL at the end, win rates, what was lost; over seeds."""
    rows = []
    ppo = tables["ppo"]
    for task, method in dict.fromkeys(zip(ppo["task"], ppo["method"], strict=True)):
        part = ppo[(ppo["task"] == task) & (ppo["method"] == method)]
        ends = part.sort_values("iteration").groupby("seed").last()
        row: dict[str, Any] = {"task": task, "method": method, "seeds": len(ends)}
        for name in ("kl_root", "proxy", "gold", "policy_share"):
            row |= _parts(name, seeds_difference([np.array([value]) for value in ends[name]]))
        for against in (SFT, START):
            try:
                row |= _parts(f"over_{against}", win_rate(tables, task, method, against))
            except NotTestedError:
                row |= _parts(f"over_{against}", None)
        row |= _parts("lost", loss_difference(tables, task, method, _base(tables, task)))
        rows.append(row)
    return pd.DataFrame(rows)


def _parts(name: str, value: Any) -> dict[str, float]:
    parts = (math.nan,) * 3 if value is None else (value.mean, value.low, value.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))


def pipeline_shown(numbers: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Write `pipeline_numbers` as text."""

    def column(name: str, form: Any) -> list[str]:
        ends = zip(numbers[name], numbers[f"{name}_low"], numbers[f"{name}_high"], strict=True)
        return [with_interval(*values, form) for values in ends]

    return pd.DataFrame(
        {
            "task": [labels.get(task, task) for task in numbers["task"]],
            "model": [method_name(method) for method in numbers["method"]],
            "root of KL": column("kl_root", short),
            "proxy": column("proxy", short),
            "gold": column("gold", short),
            "wins against SFT": column(f"over_{SFT}", short),
            "against start": column(f"over_{START}", short),
            "lost": column("lost", number),
            "policy share": [short(value) for value in numbers["policy_share"]],
            "seeds": numbers["seeds"],
        }
    )


def control_note(tables: Tables) -> str:
    """Say how teachers' gains rank without a penalty, where Adam hides the rewards' scale; "" if not run."""
    try:
        means = teacher_means(tables, 0.0)
    except NotTestedError:
        return ""
    by = ", ".join(f"{name} {spearman(means[name], means['gain']):+.2f}" for name in ("variance", "accuracy"))
    return f" Control without a KL penalty, one seed: rank correlation of the teachers' gains with {by}."


def draw_instructgpt(
    tables: Tables, sources: Sequence[Source], labels: Mapping[str, str], folder: Path, command: str
) -> Item:
    """Save the table and the four figures into `folder`; returns the item. sources: finished runs, all."""
    runs = describe_runs(sources)
    meta: dict[str, Any] = {"command": command, "missing": []}
    pictures = {
        "instructgpt_kl": (kl_figure(tables), pd.concat([tables["ppo"], tables["best_of"]])),
        "instructgpt_wins": (wins_figure(tables["wins"], labels), tables["wins"]),
        "instructgpt_ptx": (ptx_figure(tables, labels), _token_losses(tables["losses"])),
        "instructgpt_teachers": (teachers_figure(tables), tables["teachers"]),
    }
    for stem, (figure, numbers) in pictures.items():
        save_figure(figure, folder / stem, numbers, runs, **meta)
    for name in ("reward_models", "scores", "sft", "halves"):
        tables[name].to_csv(folder / f"instructgpt_{name}.csv", index=False)
    numbers = pipeline_numbers(tables)
    shown = pipeline_shown(numbers, labels)
    caption = CAPTION + control_note(tables)
    save_table(shown, numbers, folder / ITEM, caption, runs, **meta)
    stems = [*(folder / stem for stem in pictures), folder / ITEM]
    return Item(ITEM, TITLE, caption, stems, shown, runs)


def _token_losses(losses: pd.DataFrame) -> pd.DataFrame:
    """The loss per token of each model."""
    sums = losses.groupby(["task", "seed", "method"], sort=False)[["loss", "tokens"]].sum().reset_index()
    return sums.assign(loss_per_token=sums["loss"] / sums["tokens"])

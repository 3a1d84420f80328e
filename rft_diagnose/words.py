"""A diagnosis in words: the terminal's one screen, and what the report and summary.json share with it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rft_diagnose.advice import Advice, dead_can_be_told, find_masked, share_text
from rft_diagnose.groups import inputs_text
from rft_diagnose.teacher import teacher_rows

WIDTH = 100
MEANING = {
    "dead_low": "no signal, reward far from the best",
    "dead_high": "no signal, solved",
    "live": "carries signal",
    "uncertain": "too few generations to tell",
}
BOUNDS = {
    "bound": "bound: std x root of the Fisher information's largest eigenvalue, estimated",
    "linear_bound": "bound: sqrt(L/2) gamma std, gamma estimated from below",
    "power_bound": "bound: 6 M^(1/3) L gamma std^(2/3) (Theorem 1), gamma estimated from below",
}
MAX_ADVICE = 3  # on the screen; the report has all


WIDE = 0.3  # an interval of a share, that says little
ALL_WELL = "Nothing here stands against RL as planned."


def answer_lines(findings: Findings) -> list[str]:
    """Say in two sentences and an advice what matters: which groups carry gradient, what is dead, what to do.

    Of several rewards the one that is dead where their sum is not comes first.
    """
    masked = find_masked(findings.summary, findings.others)
    lines = []
    if masked is not None:
        lines += [signal_sentence(f"{masked} alone", findings.others[masked])]
        lines += [dead_sentence(findings.others[masked])]
    lines += [signal_sentence(findings.name, findings.summary), dead_sentence(findings.summary)]
    advice = findings.advice[0].what if findings.advice else ALL_WELL
    return [*lines, f"-> {first_sentence(advice)}"]


def signal_sentence(name: str, summary: dict[str, Any]) -> str:
    """Say what share of the groups of the planned size carries gradient."""
    size = summary["group_size"]
    row = next(row for row in summary["signal"] if row["group_size"] == size)
    return f"{name}: {share_text(row)} of the groups of {size} carry gradient."


def dead_sentence(summary: dict[str, Any]) -> str:
    """Say what share of the inputs is dead at a low reward, by estimate and by proof."""
    estimate = summary["est_dead_low"]
    if estimate is None or estimate["share"] is None:
        reason = "" if estimate is None else f": {estimate['reason']}"
        text = f"Dead at a low reward: no estimate{reason}"
    else:
        interval = f"{estimate['low']:.0%} to {estimate['high']:.0%}"
        if estimate["high"] - estimate["low"] > WIDE:
            median = int(summary["generations_per_input"]["median"])
            interval += f"; {median} generations of {inputs_text(summary['inputs'])} tell no more"
        text = f"Dead at a low reward: {estimate['share']:.0%} of the inputs by estimate ({interval})"
    dead = summary["classes"]["dead_low"]
    if dead_can_be_told(summary):
        return f"{text}, {dead['share']:.0%} proven."
    at_least = summary["dead_low_at_least"]
    return f"{text}, {f'at least {at_least:.0%}' if at_least > 0 else 'none'} proven."


def first_sentence(text: str) -> str:
    """Cut a text behind its first sentence."""
    return re.split(r"(?<=[.:]) (?=[A-Z])", text, maxsplit=1)[0]


def headline(name: str, summary: dict[str, Any]) -> str:
    """Say what was diagnosed."""
    each = summary["generations_per_input"]
    number = (
        f"{each['min']:g} each"
        if each["min"] == each["max"]
        else f"{each['min']:g} to {each['max']:g} each, median {each['median']:g}"
    )
    return f"{name}: {inputs_text(summary['inputs'])}, {summary['generations']:,} generations ({number})"


def no_spread_line(summary: dict[str, Any]) -> str:
    """Say how many inputs showed no spread, and what it would take to call them dead, if they lack it."""
    flat, needs = summary["no_spread"], summary["dead_needs"]
    text = (
        f"No spread in the rewards of {flat['count']:,} inputs ({flat['share']:.1%}, {flat['low']:.1%} to "
        f"{flat['high']:.1%}): {summary['no_spread_low']['count']:,} at a low reward, "
        f"{summary['no_spread_high']['count']:,} near the best."
    )
    if flat["count"] and not dead_can_be_told(summary):
        seen = f"{summary['generations_per_input']['max']:g}"
        text += (
            f" None can be called dead from {seen} generations: that takes {needs} alike, for these "
            f"{summary['settling']['no_spread_generations']:,} more in all."
        )
    return text


def class_rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Write class, share, interval and meaning of each class; of one that cannot be told, the possible."""
    rows = []
    for name, row in summary["classes"].items():
        share, interval = f"{row['share']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"
        meaning = f"{inputs_text(row['count'])}: {MEANING[name]}"
        if name.startswith("dead") and not dead_can_be_told(summary):
            most = summary[name.replace("dead", "no_spread")]["high"]
            share, interval = "?", f"0.0% to {most:.1%}"
            meaning = f"takes {summary['dead_needs']} generations to tell: {MEANING[name]}"
        rows.append((name.replace("_", "-"), share, interval, meaning))
    return rows


def number_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Write the numbers over inputs, each with what it is."""
    percentile, variance = summary["std_percentile"], summary["variance"]
    rows = [
        ("mean reward", f"{summary['mean']:.4g} on a range of {_range(summary)}"),
        ("mean reward std", f"{summary['std']:.4g} (n - 1); {summary['std_ddof0']:.4g} (n, as in the paper)"),
        (
            "10th percentile of std",
            "undefined: every mean is above 0.9 of the range"
            if percentile["value"] is None
            else f"{percentile['value']:.4g} ({percentile['low']:.4g} to {percentile['high']:.4g}), over "
            f"{inputs_text(percentile['inputs'])} with a mean up to 0.9 of the range",
        ),
        ("low and not live", f"at least {summary['dead_low_at_least']:.1%} of the inputs (95%)"),
    ]
    if variance["within_share"] is not None:
        rows.append(
            (
                "variance",
                f"{variance['within_share']:.0%} within inputs (std {variance['within_std']:.3g}), the rest "
                f"between them ({variance['between_std']:.3g})",
            )
        )
    shares = ", ".join(f"{row['group_size']}: {share_text(row)}" for row in summary["signal"])
    rows.append(("groups with signal, by size", shares))
    return rows + _normalisation_rows(summary)


def _normalisation_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Write what the objective makes of groups, and what dividing by their std wakes and blows up."""
    numbers, size, rows = summary["group_normalisation"], summary["group_size"], objective_rows(summary)
    if summary["objective"]["scaling"] != "group":
        return rows
    if numbers["effective_std"] is not None:
        text = f"{numbers['effective_std']:.3g}"
        if numbers["amplification"] is not None:
            text += f", {numbers['amplification']:.3g} times the std (median where there is spread)"
        if numbers["per_kept_group"] is not None:
            text += f"; {numbers['per_kept_group']:,.3g} generations per group with spread (DAPO)"
        rows.append((f"effective std under GRPO, groups of {size}", text))
    parts = []
    if count := numbers["not_woken"]["count"]:
        parts.append(
            f"will not wake {inputs_text(count)} (rare rewards: at most {numbers['rare_at_most']:.3g} times)"
        )
    if count := numbers["blown_up"]["count"]:
        parts.append(f"blows up {inputs_text(count)} that {_differ(numbers)}")
    return rows + ([("dividing by the group's std", "; ".join(parts))] if parts else [])


SCALING = {
    "group": "advantages over their group's std",
    "batch": "advantages over the batch's std",
    "none": "advantages over no std",
}


def objective_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Write by what objective the groups are judged, and which of them are noise."""
    facts, noise = summary["objective"], summary["objective"]["noise"]
    unit = "inputs" if facts["counts_as"] == "ppo" else "groups"
    like = "" if facts["counts_as"] == facts["name"] else f", like {facts['counts_as']}"
    text = f"{facts['name']}{like} ({facts['source']}): {SCALING[facts['scaling']]}"
    if facts["aggregation"] == "normalize_then_sum":
        text += ", of each reward before they are added"
    if facts["groups"]:
        what = "are replaced" if facts["drops_equal"] else "give nothing"
        text += f"; {facts['equal']['share']:.0%} of {facts['groups']:,} {unit} have equal rewards and {what}"
    rows = [("objective", text)]
    if noise["groups"]:
        inputs = inputs_text(noise["inputs"])
        counted = inputs if unit == "inputs" else f"{noise['groups']:,} groups of {inputs}"
        median = "" if noise["live_std"] is None else f" ({noise['live_std']:.3g})"
        rows.append(
            (
                "noise",
                f"{counted} have a std above 0, but below "
                f"5% of the median of live {unit}{median}; their share of the squared advantages: "
                f"{noise['step_share']:.2g} (column `noise_groups` of inputs.csv)",
            )
        )
    return rows


def _differ(numbers: dict[str, Any]) -> str:
    times = numbers["blown_up_amplification"]
    amplified = "" if times is None else f" (median: {times:,.3g} times)"
    return f"differ by less than the tolerance{amplified}"


def _range(summary: dict[str, Any]) -> str:
    return f"{summary['range']['low']:g} to {summary['range']['high']:g} ({summary['range']['source']})"


def change_line(comparison: dict[str, Any]) -> str:
    """Say what woke up and what died between two diagnoses."""
    woke, died = comparison["woke_up"], comparison["died"]
    return (
        f"{inputs_text(comparison['inputs'])} before and after: {woke['count']:,} woke up "
        f"({woke['share']:.1%}), {died['count']:,} died ({died['share']:.1%}); mean reward "
        f"{comparison['mean_before']:.4g} -> {comparison['mean_after']:.4g}"
    )


def gradient_rows(gradients: dict[str, Any]) -> list[tuple[str, str]]:
    """Write what the gradients of some inputs say, each number with what it is."""
    correlation = gradients["rank_correlation"]
    rows = [
        (
            "gradient norm and reward std",
            f"rank correlation {'undefined' if correlation is None else f'{correlation:.2f}'} over "
            f"{inputs_text(gradients['inputs'])}, {gradients['generations_each']} generations each",
        )
    ]
    for row in gradients["shares"]:
        text = "undefined: no gradient can be told from 0"
        if row["share"] is not None:
            text = f"{_percent(row['share'])} of the total squared gradient"
            if row["low"] is not None:
                text += f" ({_percent(row['low'])} to {_percent(row['high'])})"
        rows.append((f"lowest {row['lowest']:.0%} by std", text))
    for name, what in BOUNDS.items():
        ratio = gradients["bounds"][name]
        if ratio["median"] is not None:
            rows.append(
                (what, f"norm is {ratio['median']:.2g} of it (median), {ratio['largest']:.2g} at most")
            )
    return rows


def _percent(share: float) -> str:
    """Write a share that noise may have made a little negative, without the sign of a rounded 0."""
    return f"{round(share, 3) + 0.0:.1%}"


def terminal_lines(findings: Findings) -> list[str]:
    """Write the summary of one screen."""
    summary = findings.summary
    lines = [
        *(line for warning in findings.warnings for line in textwrap.wrap(f"warning: {warning}", WIDTH)),
        *(
            line
            for text in answer_lines(findings)
            for line in textwrap.wrap(text, WIDTH, subsequent_indent="     ", break_long_words=False)
        ),
        headline(findings.name, summary),
        *textwrap.wrap(no_spread_line(summary), WIDTH),
        f"classes for groups of {summary['group_size']} generations (95%):",
        *(f"  {a:<10} {b:>6}  {c:<17} {d}" for a, b, c, d in class_rows(summary)),
    ]
    paragraphs = [f"{what}: {number}" for what, number in number_rows(summary)]
    for other, row in findings.others.items():
        classes = ", ".join(f"{cells[0]} {cells[1]}" for cells in class_rows(row))
        paragraphs.append(f"{other}: mean {row['mean']:.4g}, std {row['std']:.4g}; {classes}")
    if findings.comparison is not None:
        paragraphs.append(change_line(findings.comparison))
    if findings.gradients is not None:
        rows = gradient_rows(findings.gradients)  # of the bounds the report tells more
        paragraphs += [f"{what}: {number}" for what, number in rows if not what.startswith("bound")]
    if findings.teacher is not None:
        paragraphs += [f"{what}: {number}" for what, number in teacher_rows(findings.teacher)]
    paragraphs += [f"note: {note}" for note in findings.notes]
    paragraphs += [f"-> {piece.what}" for piece in findings.advice[:MAX_ADVICE]]
    for text in paragraphs:
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="     ", break_long_words=False)
    return lines


SCHEMA_VERSION = 1  # of summary.json, see docs/diagnosis.md


@dataclass(frozen=True, kw_only=True)
class Findings:
    """name, summary: what is optimised, and its diagnosis; others: name -> summary of each reward in it.

    warnings: what stands before any verdict.
    teacher: what its rewards say of a reward model (see rft_diagnose/teacher.py), None: they are of none.
    """

    name: str
    summary: dict[str, Any]
    others: dict[str, dict[str, Any]]
    comparison: dict[str, Any] | None
    gradients: dict[str, Any] | None
    teacher: dict[str, Any] | None
    advice: Sequence[Advice]
    notes: Sequence[str]
    warnings: Sequence[str] = ()

    def content(self) -> dict[str, Any]:
        """Give what summary.json holds of it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "diagnosed": self.name,
            "rewards": {self.name: self.summary, **self.others},
            "comparison": self.comparison,
            "gradients": self.gradients,
            "teacher": self.teacher,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "advice": [piece._asdict() for piece in self.advice],
        }

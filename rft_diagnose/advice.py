"""What to do about a diagnosis, and the conditions on it that make a pipeline stop (--fail-if)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rft_diagnose.classes import ERROR_RATE
from rft_diagnose.errors import hint
from rft_diagnose.groups import inputs_text
from rft_diagnose.statistics import NEAR_OPTIMAL_MEAN

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SHARES = ("dead_low", "dead_high", "live", "uncertain")
NAMES = (
    *SHARES,
    *("est_dead_low", "dead_low_at_least", "no_spread", "no_spread_low", "no_spread_high"),
    *("mean", "std", "std_percentile", "within_share"),
    *(f"signal_{size}" for size in (4, 8, 16, 32, 64)),
)


class ConditionError(Exception):
    """A condition that cannot be read; the message is for the user."""


@dataclass(frozen=True)
class Condition:
    """name operator number."""

    name: str
    sign: str
    number: float

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.number:g}"


def parse_condition(text: str) -> Condition:
    """Read one comparison. Raises ConditionError."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", text)
    if not match:
        raise ConditionError(f"{text!r}: expected NAME < NUMBER (or <=, >, >=), such as 'dead_low > 0.3'")
    name, sign, number = match.groups()
    if name not in NAMES:
        raise ConditionError(f"{text!r}: unknown name {name!r}; {hint(name, NAMES)}known: {', '.join(NAMES)}")
    return Condition(name, sign, float(number))


def dead_can_be_told(summary: dict[str, Any]) -> bool:
    """Tell whether any input has the generations that a dead verdict takes; else the dead are not known."""
    return bool(summary["generations_per_input"]["max"] >= summary["dead_needs"])


def read_value(name: str, summary: dict[str, Any]) -> float | None:
    """Look up the number that a name stands for in a diagnosis' summary; None: undefined there.

    signal_<size> is the lower bound where there are too few generations for an estimate.
    """
    if name.startswith("dead_") and name in SHARES and not dead_can_be_told(summary):
        return None
    if name in SHARES:
        return float(summary["classes"][name]["share"])
    if name == "est_dead_low":
        return None if summary[name] is None else _optional(summary[name]["share"])
    if name.startswith("no_spread"):
        return float(summary[name]["share"])
    if name.startswith("signal_"):
        row = next(row for row in summary["signal"] if row["group_size"] == int(name.removeprefix("signal_")))
        return float(row["low"] if row["share"] is None else row["share"])
    if name == "std_percentile":
        return _optional(summary[name]["value"])
    if name == "within_share":
        return _optional(summary["variance"][name])
    return _optional(summary[name])


def holds(condition: Condition, summary: dict[str, Any]) -> bool:
    """Tell whether the condition is met; what is undefined meets none."""
    value = read_value(condition.name, summary)
    return value is not None and OPERATORS[condition.sign](value, condition.number)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


WORTH_DOUBLING = 1.5  # growth of the share of groups with signal that nearly pays for twice the generations

MASKED = 0.1  # of the inputs, more than of the sum
MATTERS = 0.1  # of the inputs: fewer dead ones are no reason for a phase of their own


class Advice(NamedTuple):
    what: str
    ground: str


def advise(
    summary: dict[str, Any], parts: dict[str, dict[str, Any]], supervised_file: str | None
) -> list[Advice]:
    """Give advice for a diagnosis; parts: those of its rewards; supervised_file: of the dead-low inputs."""
    pieces = [
        _masked(summary, parts),
        _supervised(summary, supervised_file),
        _blown_up(summary),
        _settle(summary),
        _group_size(summary),
        _solved(summary),
        _batch_std(summary),
    ]
    return [piece for piece in pieces if piece is not None]


def shows_dead(summary: dict[str, Any]) -> bool:
    """Tell whether some inputs are surely dead at a low reward, though perhaps not which."""
    estimate = summary["est_dead_low"]
    if estimate is None or estimate["low"] is None:
        return bool(summary["dead_low_at_least"] > 0 or summary["classes"]["dead_low"]["low"] > ERROR_RATE)
    return bool(estimate["low"] > 0)


def dead_share(summary: dict[str, Any]) -> float:
    """Say what share of the inputs is dead at a low reward, as well as that can be told."""
    estimated = read_value("est_dead_low", summary)
    return float(summary["dead_low_at_least"]) if estimated is None else estimated


def is_solved(summary: dict[str, Any]) -> bool:
    """Tell whether the mean reward is next to the best: then little is left to learn (Figure 2)."""
    low, high = summary["range"]["low"], summary["range"]["high"]
    return bool(summary["mean"] >= low + NEAR_OPTIMAL_MEAN * (high - low))


def _supervised(summary: dict[str, Any], file: str | None) -> Advice | None:
    flat, dead = summary["no_spread_low"]["count"], summary["classes"]["dead_low"]["count"]
    if not flat and not dead:
        return None
    where = f" ({file})" if file else ""
    median = int(summary["generations_per_input"]["median"])
    if not shows_dead(summary):
        return Advice(
            f"Do not act on the {inputs_text(flat)} without spread at a low reward{where} yet: that may be "
            f"chance with {median} generations each, and nothing shows that any is dead.",
            "The 95% interval of the estimated share of dead inputs begins at 0. More generations of these "
            "inputs would tell.",
        )
    certain = f", {dead:,} of them dead-low (95%)" if dead_can_be_told(summary) else ""
    if is_solved(summary) or dead_share(summary) < MATTERS:
        return Advice(
            f"Look at the {inputs_text(flat)} without spread at a low reward{where}{certain}: can their "
            "rewards be right? They are too few for a phase of their own, and RL will hardly move those that "
            "are dead.",
            f"The mean reward is {summary['mean']:.3g}, and an estimated {dead_share(summary):.1%} of the "
            "inputs are dead at a low reward. Where most is learnt, what is never right often has a wrong "
            "answer to be compared with.",
        )
    return Advice(
        f"Begin with a short supervised phase: {inputs_text(flat)} without spread at a low reward{where}"
        f"{certain}. RL alone will hardly move those that are dead{_nor_grpo(summary)}.",
        "Theorem 1 of the paper bounds the gradient of an input by its reward std. A budget to start from: "
        "supervised finetuning on 1% of the labels for 40% of the steps, then RL, came to about 96% of the "
        "reward of full supervised finetuning and RL there. That is one dataset (NarrativeQA) and one model "
        "(T5-base): run this check again after the phase. Dividing by the group's std lengthens the "
        "gradient of a rare reward by a factor below (G - 1) / sqrt(G) however small the std, and groups of "
        "equal rewards have none to divide by; dropping these (DAPO) costs as many generations.",
    )


def _nor_grpo(summary: dict[str, Any]) -> str:
    """Add what normalising within groups does for inputs whose rewards are equal."""
    numbers = summary["group_normalisation"]
    if not numbers["not_woken"]["count"]:
        return ""
    return (
        f", GRPO neither: dividing by the group's std lengthens a rare reward's gradient at most "
        f"{numbers['rare_at_most']:.3g} times (G = {summary['group_size']})"
    )


def _blown_up(summary: dict[str, Any]) -> Advice | None:
    numbers = summary["group_normalisation"]
    count, times = numbers["blown_up"]["count"], numbers["blown_up_amplification"]
    if not count or summary["objective"]["scaling"] != "group":
        return None
    amplified = "" if times is None else f", {times:,.3g} times (median)"
    penalty = "" if summary["kl_coef"] is None else " The KL penalty inside the reward is such a difference."
    return Advice(
        f"Dividing by the group's std (GRPO, DAPO) wakes {inputs_text(count)} whose rewards differ by less "
        f"than the tolerance: it blows whatever makes them differ up to unit size{amplified}. If that is "
        f"noise, round the reward, or take RLOO or Dr. GRPO.{penalty}",
        "A small scale is cured by normalising, a rare reward is not. Where a rare success stands beside "
        "such differences, these get most of the gradient.",
    )


def find_masked(summary: dict[str, Any], parts: dict[str, dict[str, Any]]) -> str | None:
    """Name a reward that is dead on far more inputs than the sum it goes into, less the penalty."""
    low = {name: part["no_spread_low"]["share"] for name, part in parts.items() if shows_dead(part)}
    if not low:
        return None
    name = max(low, key=lambda name: low[name])
    return name if low[name] - summary["no_spread_low"]["share"] >= MASKED else None


def _masked(summary: dict[str, Any], parts: dict[str, dict[str, Any]]) -> Advice | None:
    """Warn of a reward that is dead where the sum is not."""
    name = find_masked(summary, parts)
    if name is None:
        return None
    share = parts[name]["no_spread_low"]["share"]
    rest = "the other rewards" if summary["kl_coef"] is None else "the KL penalty and what else is added"
    return Advice(
        f"{name} alone shows no spread at a low value on {share:.0%} of the inputs: there the signal of "
        f"the sum is that of {rest}, and the model learns from that alone.",
        "Each reward is diagnosed alone, too; inputs.csv has the classes.",
    )


def _settle(summary: dict[str, Any]) -> Advice | None:
    todo, uncertain = summary["settling"], summary["classes"]["uncertain"]["count"]
    if not todo["inputs"]:
        return None
    median = int(summary["generations_per_input"]["median"])
    return Advice(
        f"Before dropping any of the uncertain ones ({inputs_text(uncertain)}), sample more: about "
        f"{todo['generations']:,} generations for {inputs_text(todo['inputs'])} of them settle these, if "
        "they go on as they began (column `more` of inputs.csv).",
        f"{median} equal rewards leave another reward a probability of up to {1 - 0.05 ** (1 / median):.2f} "
        "(95%).",
    )


def _group_size(summary: dict[str, Any]) -> Advice | None:
    planned = summary["group_size"]
    rows = {row["group_size"]: row for row in summary["signal"]}
    here, double = rows.get(planned), rows.get(2 * planned)
    if here is None or double is None or here["share"] is None or not here["share"]:
        return None
    best = double["high"] if double["share"] is None else double["share"]
    if best / here["share"] < WORTH_DOUBLING:
        advice = "more inputs in a batch bring more signal for the same generations than larger groups"
    elif double["share"] is None:
        advice = "that may or may not pay: more generations per input would tell"
    else:
        advice = "the larger group nearly pays for itself, and reaches the harder inputs"
    return Advice(
        f"Group size: {share_text(here)} of a batch has signal at {planned}, {share_text(double)} at "
        f"{2 * planned}, for twice the generations; {advice}.",
        "Counted over all subsets of each input's generations, without a model of the rewards. With pass "
        "rate p, G rewards are equal with probability p^G + (1 - p)^G.",
    )


def _solved(summary: dict[str, Any]) -> Advice | None:
    flat, dead = summary["no_spread_high"], summary["classes"]["dead_high"]["count"]
    if not flat["count"]:
        return None
    certain = f" ({dead:,} are dead-high at 95%)" if dead_can_be_told(summary) else ""
    return Advice(
        f"Leave what shows no spread near the best reward ({inputs_text(flat['count'])}) out of most batches"
        f"{certain}, and keep some in the evaluation to notice forgetting.",
        f"{flat['share']:.0%} of the inputs take generations and give no gradient; they are solved, so "
        "nothing is lost for them. DAPO drops groups of equal rewards and refills the batch.",
    )


def _batch_std(summary: dict[str, Any]) -> Advice | None:
    variance = summary["variance"]
    share = variance["within_share"]
    if share is None or share >= 0.5:
        return None
    return Advice(
        f"Do not take the batch's reward std ({variance['batch_std']:.3g}) for a sign of health: within an "
        f"input it is {variance['within_std']:.3g}.",
        f"{1 - share:.0%} of the variance lies between inputs, which says nothing about their gradients.",
    )


def share_text(row: dict[str, Any]) -> str:
    """Write a share with its interval; only the interval where there is no estimate."""
    interval = f"{row['low']:.0%} to {row['high']:.0%}"
    return interval if row["share"] is None else f"{row['share']:.0%} ({interval})"

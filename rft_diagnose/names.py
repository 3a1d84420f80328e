"""Which column of a table is what, by its name: input, reward, step, the text that was rewarded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rft_diagnose.columns import Wanted
from rft_diagnose.errors import ColumnsError, DiagnosisError, all_of, hint
from rft_diagnose.logs import COMPLETIONS, TRL_COLUMNS, Log, NotThisLayout, recognise

PROMPTS = ("prompt_id", "prompt")
TEXTS = ("prompt", "question", "query", "problem", "instruction", "input")  # of an input, beside its id
STEPS = (
    *("step", "global_step", "steps", "global_steps", "train_step", "training_step", "trainer_step"),
    *("iteration", "iter", "epoch"),
)
LOGGED_HERE = {"step", "prompt_id", "reward", "kl_penalty"}  # by every training run here; ids of its data
# Steps that such a run's log of its signal pools: one alone seldom draws an input twice, and over more of
# them the policy is another.
POOLED_HERE = 10
METRICS = {"loss", "learning_rate", "grad_norm", "reward_std", "kl", "epoch", "clip_ratio"}  # of training
EXTRACTION = {"id", "prompt", "mean", "std"}  # the .csv that an extraction leaves
TOTALS = ("reward", "total_reward")  # what is optimised, where its parts stand beside it
REWARD = re.compile(r"reward|score|.*_reward", re.IGNORECASE)
# Not taken unasked, but a reward perhaps: then the others may be a part of what is optimised alone.
# Of a group or a whole log, and never of one generation; and sums, which their parts stand beside.
STATISTIC = re.compile(
    r"(.*[^a-z])?(mean|avg|average|median|std|var|min|max|group|batch|baseline|running|adv|advantage"
    r"|normali[sz]ed|standardi[sz]ed|centered|whitened)_reward",
    re.IGNORECASE,
)
SUM = re.compile(r"(.*[^a-z])?(sum|total|overall|combined|weighted|final)_reward", re.IGNORECASE)
PERHAPS = re.compile(r".*(reward|score)s?([^a-z].*)?", re.IGNORECASE)
NO_REWARD = re.compile(r".*(time|seconds|secs|duration|ms)", re.IGNORECASE)
IDS = re.compile(
    r"(?i:(.*[^a-z])?(id|ids|idx|index|uid|uuid|guid|hash|key|no|nr|num|number|position|pos|slot|place|rank))"
    r"|.*[a-z](Id|ID|Idx|Index|Hash|Uuid|UUID|Key)"
)
# Of these, what may count within a batch.
POSITIONS = re.compile(
    r"(?i:(.*[^a-z])?(idx|index|position|pos|slot|place|rank|no|nr|num|number))|.*[a-z](Idx|Index)"
)
# Columns that name the reward function or filter that a row is of, where each has a row of its own.
_JUDGES = (
    "filter|metric|func|function|scorer|grader|judge|criterion|criteria|component|aspect|variable|rubric|"
    "verifier|evaluator|measure|dimension|rater|annotator|reviewer|name|kind|type|category|check|test|rule|term|"
    "objective|signal"
)
KINDS = re.compile(
    rf"(.*[^a-z])?({_JUDGES})s?([^a-z](name|id|type|kind|key|fn))?"
    r"|(.*[^a-z])?(reward|score)[^a-z](name|id|type|kind|key|fn|model|source)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None or empty: found by itself, or not there."""

    prompt: str | None = None
    rewards: tuple[str, ...] = ()
    step: str | None = None
    kl: str | None = None
    references: str | None = None


@dataclass(frozen=True)
class Chosen:
    """The columns of a table that are read.

    prompt: names the input; text: its text where `prompt` is an id; completion: what was rewarded; shown: the
    same, or a column whose equal texts may be different generations; kinds: what tells apart rows that may be
    of one generation; left: numbers that are not taken; names: of all; log: whose it is; is_unasked: the
    rewards are those that the log's library is known for.
    """

    prompt: str
    rewards: tuple[str, ...]
    step: str | None
    kl: str | None
    references: str | None
    text: str | None
    completion: str | None
    shown: str | None
    kinds: tuple[str, ...]
    left: tuple[str, ...]
    names: tuple[str, ...]
    log: Log
    is_unasked: bool

    def wanted(self) -> Wanted:
        """Say what is needed of each of them."""
        values = [*self.rewards, self.step, self.kl, self.references]
        return Wanted(
            texts=(self.prompt,) if self.text is None else (self.prompt, self.text),
            values=tuple(dict.fromkeys(name for name in values if name is not None)),
            hashes=() if self.shown is None else (self.shown,),
            kinds=self.kinds,
        )


def is_logged_here(names: Iterable[str]) -> bool:
    """Tell whether columns are those of a training run here, which may log `kept` and parts of the reward."""
    more = set(names) - LOGGED_HERE
    return set(names) >= LOGGED_HERE and all(name == "kept" or name.startswith("reward/") for name in more)


def choose_columns(
    names: Sequence[str],
    holds_numbers: Callable[[str], bool],
    asked: Columns,
    where: str,
    log: Log | None = None,
) -> Chosen:
    """Choose columns: those asked for, else those of a known log, else by their usual names.

    Raises DiagnosisError that names what is missing, or may be meant, and what there is.
    """
    log = log or recognise(names)
    unstacked = {*log.rewards, *log.candidates}
    if log.library is None and unstacked and asked.rewards and not unstacked & set(asked.rewards):
        raise NotThisLayout
    lacking = ColumnsError if _stands_beside(names, asked, log) else DiagnosisError
    for what, name in [
        ("prompt", asked.prompt),
        *(("reward", name) for name in asked.rewards),
        ("step", asked.step),
        ("kl", asked.kl),
        ("references", asked.references),
    ]:
        if name is not None and name not in names:
            raise lacking(f"{where}: {unknown(what, name, names)}")
    prompt = asked.prompt or log.prompt or find_name(names, PROMPTS)
    if prompt is None:
        raise lacking(
            f"{where}: which column names the input? give it with --prompt; there are: {all_of(names)}"
        )
    step = asked.step or log.step or find_name(names, STEPS)
    taken = {prompt, step, asked.kl, asked.references}
    free = [name for name in names if name not in taken]
    if log.candidates and not asked.rewards and len(log.candidates) > 1:
        raise _several(where, log.candidates)
    rewards = asked.rewards or log.rewards
    rewards = rewards or choose_rewards(free, names, holds_numbers, log.library == "TRL", where)
    free = [name for name in free if name not in rewards]
    text = find_name(free, TEXTS) if IDS.fullmatch(prompt) else None
    free = [name for name in free if name != text]
    completion = log.completion if log.completion in free else find_name(free, COMPLETIONS)
    rest = [name for name in free if name != completion]
    shown = completion or find_name(rest, ("text",))
    kinds = [name for name in rest if KINDS.fullmatch(name) and not is_logged_here(names)]
    left = [name for name in rest if name not in TRL_COLUMNS and holds_numbers(name)]
    is_unasked = log.library is not None and not asked.rewards
    return Chosen(
        prompt, rewards, step, asked.kl, asked.references, text, completion, shown,
        tuple(kinds), tuple(left) if not asked.rewards else (), tuple(names), log, is_unasked,
    )  # fmt: skip


def _stands_beside(names: Sequence[str], asked: Columns, log: Log) -> bool:
    """Tell whether a table has no reward of a generation: it stands beside the data, as a log of metrics."""
    if asked.rewards:
        return not set(asked.rewards) & set(names)
    if log.rewards or log.candidates:
        return False
    is_of_training = len(set(names) & METRICS) > 1 and find_name(names, PROMPTS) is None
    return is_of_training or not any(REWARD.fullmatch(name) and "/" not in name for name in names)


def _several(where: str, names: Iterable[str]) -> DiagnosisError:
    return DiagnosisError(
        f"{where}: several columns may be the reward: {', '.join(names)}; name what is "
        "optimised with --reward (of several their sum, by --weights)"
    )


def choose_rewards(
    free: Sequence[str],
    names: Sequence[str],
    holds_numbers: Callable[[str], bool],
    is_trl: bool,
    where: str,
) -> tuple[str, ...]:
    """Choose the rewards among the free columns: one named so; several only in TRL's log, where they add up.

    Raises DiagnosisError: none is, or it is not clear which.
    """
    rewards = [name for name in free if REWARD.fullmatch(name) and not STATISTIC.fullmatch(name)]
    total = find_name(rewards, TOTALS)
    if total is not None and not (is_trl and len(rewards) > 1):
        return (total,)
    perhaps = [
        name
        for name in free
        if name not in rewards
        and PERHAPS.fullmatch(name)
        and not NO_REWARD.fullmatch(name)
        and holds_numbers(name)
    ]
    parts = [name for name in rewards if name.lower().endswith("_reward") and not SUM.fullmatch(name)]
    if rewards and not perhaps and (len(rewards) == 1 or (is_trl and parts == rewards)):
        return tuple(rewards)
    if rewards:
        raise _several(where, [*rewards, *perhaps])
    if set(names) >= EXTRACTION:
        raise ColumnsError(f"{where}: it has an extraction's means: give the .pt file beside it")
    if is_trl and (between := _between(names, "completion", "advantage")):
        numbers = [name for name in between if holds_numbers(name)]
        if len(numbers) == 1:
            return tuple(numbers)
    numeric = [name for name in free if name not in TRL_COLUMNS and holds_numbers(name)]
    advice = f"; with numbers: {all_of(numeric)}" if numeric else ""
    raise ColumnsError(
        f"{where}: which column is the reward? give it with --reward; there are: {all_of(names)}{advice}"
    )


def _between(names: Sequence[str], first: str, last: str) -> Sequence[str]:
    """Give the names between two, as TRL has its rewards."""
    return names[names.index(first) + 1 : names.index(last)]


def find_name(names: Iterable[str], usual: Sequence[str]) -> str | None:
    """Find the first usual name among the names, in whatever case if none is written as usual."""
    exact = set(names)
    folded = {name.casefold(): name for name in reversed(list(names))}
    return next(
        (name for name in usual if name in exact), next((folded[n] for n in usual if n in folded), None)
    )


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """Say that there is no such column, and which there are."""
    names = list(names)
    return f"no column {name!r} (--{what}); {hint(name, names)}there are: {all_of(names)}"

"""Records of libraries' logs that hold several generations, or hold them deep inside, as rows of one each."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rft_diagnose import layouts
from rft_diagnose.columns import Choose, Part, are_numbers, collect, shorten
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.layouts import RecordError, are_lists, as_list, as_long, each, is_number, unstack
from rft_diagnose.logs import Log, Record

LOOKED_AT = 20  # records, to tell whose log it is
SAMPLE = 1_000  # rows that are looked at before the columns are chosen
SESSION = re.compile(r"(.+_\d+)_\d+")
LM_EVAL = {"doc_id", "doc", "target", "arguments", "resps"}
LM_EVAL_ALL = LM_EVAL | {"filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"}
VERDICTS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}

BROKEN = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
)  # what a malformed record leads to
Places = Iterator[tuple[str, Record]]  # records, each with its place in the file


def find_log(head: Sequence[Record]) -> Log | None:
    """Tell whose log the first records are of, or in which layout; None: each is a row of a generation."""
    finders = (
        *(_verl, _skyrl, _swift, _open_instruct, _nemo, _traces, _lm_eval, _inspect),
        *(layouts.batches, layouts.lists, layouts.wide, layouts.objects),
    )
    return next((log for finder in finders if (log := _apply(finder, head)) is not None), None)


def _apply(finder: Callable[[Sequence[Record]], Log | None], head: Sequence[Record]) -> Log | None:
    """Let a finder look at the records that it can make sense of; the others are named when they are read."""

    def look(records: Sequence[Record]) -> Log | None:
        try:
            return finder(records) if records else None
        except BROKEN:
            return None

    try:
        return finder(head) if head else None
    except BROKEN:
        return look([record for record in head if look([record]) is not None])


def read_records(
    places: Places, log: Log, choose: Choose, holds_numbers: Callable[[Iterable[Any]], bool] = are_numbers
) -> Part:
    """Read the columns that are wanted out of records. Raises DiagnosisError; whatever `choose` raises."""
    rows = _expand(places, log)
    first = list(rows if log.is_sparse else itertools.islice(rows, SAMPLE))
    names = list(dict.fromkeys(name for row in first for name in row))
    if log.is_sparse:
        several = tuple(name for name in names if name not in ("prompt", "completion", "doc_id"))
        log = replace(log, rewards=several[:1] if len(several) == 1 else (), candidates=several)
    wanted = choose(names, lambda name: holds_numbers(row.get(name) for row in first), log)
    every: Iterable[Record] = itertools.chain(first, rows)
    if log.is_sparse:
        every = (row for row in every if not row.keys().isdisjoint(wanted.values))
    return collect(every, wanted, lambda name: lambda row: row.get(name))


def _expand(places: Places, log: Log) -> Iterator[Record]:
    """Make rows of records. Raises DiagnosisError that names the place of one that is not as it has to be."""
    where = ""

    def pulled() -> Iterator[Record]:
        nonlocal where
        for place, record in places:
            where = place
            yield record

    assert log.rows is not None
    try:
        yield from log.rows(pulled())
    except BROKEN as error:
        usual = f"{log.library} writes it" if log.library else "the first ones are"
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DiagnosisError(f"{where} is not as {usual}: {problem}") from error


def _verl(head: Sequence[Record]) -> Log | None:
    """A row for each output of a rollout (uid: prompt_rollout_output), of which the last has the score."""
    known = [record for record in head if {"input", "output", "score", "step", "uid"} <= record.keys()]
    if not any(_session(record) is not None for record in known):
        return None

    def rows(records: Iterator[Record]) -> Iterator[Record]:
        for _, outputs in itertools.groupby(records, _known_session):
            every = list(outputs)
            yield {**every[-1], "input": every[0]["input"]}

    return Log("verl", "input", "output", "step", ("score",), rows=rows)


def _session(record: Record) -> str | None:
    match = SESSION.fullmatch(str(record["uid"]))
    return None if match is None else match.group(1)


def _known_session(record: Record) -> str:
    if (session := _session(record)) is None:
        raise RecordError(f"'uid' is {shorten(record['uid'])}")
    return session


def _skyrl(head: Sequence[Record]) -> Log | None:
    """Rewards of a text's tokens, which add up to that of the text."""
    first = head[0]
    if not {"input_prompt", "output_response"} <= first.keys() or not isinstance(first.get("score"), list):
        return None

    def rows(record: Record) -> Iterator[Record]:
        score = record["score"]
        yield {**record, "score": sum(score) if isinstance(score, list) else score}

    return Log("SkyRL", "input_prompt", "output_response", rewards=("score",), rows=each(rows))


def _swift(head: Sequence[Record]) -> Log | None:
    """A batch a line, in which the rewards stand between text and advantage."""
    first = head[0]
    end = next((i for i, name in enumerate(first) if name in ("advantages", "advantage")), None)
    if end is None or not are_lists(first, ("step", "prompt", "completion")):
        return None
    names = list(first)
    rewards = tuple(name for name in names[names.index("completion") + 1 : end] if are_lists(first, [name]))

    def rows(record: Record) -> Iterator[Record]:
        return unstack(record, [*names[: end + 1], *as_long(record, record["prompt"])])

    return Log("ms-swift", "prompt", "completion", "step", rewards, rows=each(rows), objective="grpo")


def _open_instruct(head: Sequence[Record]) -> Log | None:
    """A batch a line, of versions before there were rollout files."""
    if not are_lists(head[0], ("scores", "queries", "responses")):
        return None

    def rows(record: Record) -> Iterator[Record]:
        return unstack(record, ["scores", "queries", "responses", *as_long(record, record["scores"])])

    step = "training_step" if "training_step" in head[0] else None
    log = Log("open-instruct", "queries", "responses", step, ("scores",), rows=each(rows))
    return replace(log, objective="grpo")


def _nemo(head: Sequence[Record]) -> Log | None:
    """Lists of one generation: the contents of its messages, its reward."""
    if not are_lists(head[0], ("content", "rewards")) or "idx" not in head[0]:
        return None
    known = [_contents(record) for record in head if are_lists(record, ["content"])]
    # A system prompt is the first message of all: then the input begins behind it.
    opening, shortest = 1, min(map(len, known))
    while opening < shortest - 1 and len({tuple(contents[:opening]) for contents in known}) == 1:
        opening += 1

    def rows(record: Record) -> Iterator[Record]:
        contents, rewards = _contents(record), as_list(record["rewards"], "rewards")
        if len(contents) <= opening or len(rewards) != 1:
            raise RecordError(f"it has {len(contents)} messages and {len(rewards)} rewards")
        prompt, completion = "\n".join(contents[:opening]), "\n".join(contents[opening:])
        yield {"prompt": prompt, "completion": completion, "rewards": rewards[0]}

    return Log("NeMo-RL", "prompt", "completion", rewards=("rewards",), rows=each(rows), objective="grpo")


def _contents(record: Record) -> list[str]:
    content = as_list(record["content"], "content")
    texts = content[0] if len(content) == 1 and isinstance(content[0], list) else content
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RecordError(f"'content' is no list of texts, but {shorten(content)}")
    return list(texts)


def _traces(head: Sequence[Record]) -> Log | None:
    """Traces of verifiers, one a line (prime-rl) or those of an episode."""
    if not isinstance(head[0].get("task"), dict) or not {"traces", "nodes"} & head[0].keys():
        return None
    are_episodes = "traces" in head[0]

    def rows(record: Record) -> Iterator[Record]:
        for trace in as_list(record["traces"], "traces") if are_episodes else [record]:
            if (trace.get("agent") or {}).get("trainable") is False:  # a judge, say
                continue
            task, data = trace["task"], trace["task"]["data"]
            names = [data.get("prompt"), task.get("key"), data.get("id"), data.get("idx")]
            rewards = {name: _weighted(reward) for name, reward in (trace.get("rewards") or {}).items()}
            known = [reward for reward in rewards.values() if reward is not None]
            nodes = [node for node in trace.get("nodes") or [] if node.get("sampled")]
            yield {
                "prompt": next((name for name in names if name is not None), None),
                "completion": json.dumps([node["message"].get("content") for node in nodes]),
                "reward": sum(known) if known else None,
                **{f"rewards.{name}": reward for name, reward in rewards.items()},
            }

    return Log("verifiers", "prompt", "completion", rewards=("reward",), rows=each(rows))


def _weighted(reward: Any) -> float | None:
    """Read a reward of a trace: a number, or an object of score and weight."""
    if isinstance(reward, dict):
        return float(reward["score"]) * float(reward.get("weight", 1.0))
    return None if reward is None else float(reward)


def _lm_eval(head: Sequence[Record]) -> Log | None:
    """A line for each document and filter, with metrics by name: a column of each metric and filter."""
    if not head[0].keys() >= LM_EVAL:
        return None

    def rows(record: Record) -> Iterator[Record]:
        filtered = record.get("filter", "none")
        yield {
            "prompt": _first_argument(record["arguments"]),
            "completion": json.dumps(record["resps"]),
            "doc_id": record["doc_id"],
            **{f"{name},{filtered}": record[name] for name in _metrics(record)},
        }

    log = Log("lm-eval", "prompt", "completion", rows=each(rows))
    return replace(log, is_sparse=True, is_timed=False)


def _metrics(record: Record) -> list[str]:
    """Name the metrics of a sample, which older versions do not list."""
    names = record.get("metrics")
    if isinstance(names, list):
        return [name for name in names if is_number(record.get(name))]
    return [name for name, value in record.items() if name not in LM_EVAL_ALL and is_number(value)]


def _first_argument(arguments: Any) -> str:
    first = arguments["gen_args_0"]["arg_0"] if isinstance(arguments, dict) else arguments[0][0]
    return first if isinstance(first, str) else json.dumps(first)


def _inspect(head: Sequence[Record]) -> Log | None:
    """Samples, with scores by scorer: a letter, a number, or an object of these each."""
    if not {"id", "epoch", "input", "scores", "output"} <= head[0].keys():
        return None

    def rows(record: Record) -> Iterator[Record]:
        attached = record.get("attachments") or {}
        choices = record["output"].get("choices") or []
        text = choices[0]["message"].get("content") if choices else None
        row = {"prompt": _attachment(record["input"], attached), "prompt_id": str(record["id"])}
        yield {**row, "completion": _attachment(text, attached), **dict(_verdicts(record))}

    model = head[0]["output"].get("model") if isinstance(head[0]["output"], dict) else None
    scorers = tuple(dict.fromkeys(name for record in head for name, _ in _verdicts(record)))
    log = Log("inspect-ai", "prompt", "completion", rows=each(rows), is_timed=False, model=model)
    return replace(log, candidates=scorers) if len(scorers) > 1 else replace(log, rewards=scorers)


def _attachment(value: Any, attached: dict[str, str]) -> Any:
    """Look up a long text, which is stored beside the sample."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attached.get(value.removeprefix("attachment://"), value)
    return value


def _verdicts(record: Record) -> Iterator[tuple[str, float | None]]:
    for scorer, score in (record["scores"] or {}).items():
        value = score["value"]
        if isinstance(value, dict):
            yield from ((f"{scorer}/{key}", _verdict(inner)) for key, inner in value.items())
        else:
            yield scorer, _verdict(value)


def _verdict(value: Any) -> float | None:
    """Read a score: C, I, P and N (correct, incorrect, partial, no answer), or a number."""
    if isinstance(value, str):
        letter = VERDICTS.get(value, VERDICTS.get(value.lower()))
        return float(value) if letter is None else letter
    if value is None or is_number(value):
        return None if value is None else float(value)
    raise RecordError(f"a score is {shorten(value)}")

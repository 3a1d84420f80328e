"""What the rows of each format of preference data say, and how a format is told by its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.hub import DataError
from rl4lms.datapools.preferences.args import FormatName, PreferencesArgs
from rl4lms.datapools.preferences.dialogues import read_chosen, read_conversations, read_dialogues
from rl4lms.datapools.preferences.judgement import (
    Judgement,
    Number,
    RowError,
    check_number,
    check_text,
    compare_scores,
    has,
    prefer_best,
    prefer_signed,
    read,
    read_choice,
    read_messages,
    read_number,
    read_numbers,
    read_references,
    read_text,
    read_texts,
)
from rl4lms.datapools.sources import Row

_ORDERS = ("ranks", "scores", "order", "best")
SUMMARIZE_QUERY = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
_HUMAN = "\n\nHuman:"


@dataclass(frozen=True)
class Format:
    """columns: what tells it, for the user; fits: whether a row has them; read: what a row says.

    evaluation_only: data to measure a reward model by, never to train on.
    """

    columns: str
    fits: Callable[[Row], bool]
    read: Callable[[Row, PreferencesArgs], Judgement]
    evaluation_only: bool = False


def _ranking(row: Row, args: PreferencesArgs) -> Judgement:
    completions = read_texts(row, "completions")
    count = len(completions)
    given = [name for name in _ORDERS if has(row, name)]
    if len(given) != 1:
        raise RowError(f"needs one of {', '.join(_ORDERS)}, has {', '.join(given) or 'none'}")
    if given == ["best"]:
        says = prefer_best(read_choice(row, "best", range(count)), count)
    elif given == ["order"]:
        order = read(row, "order")
        if not isinstance(order, list) or sorted(order, key=repr) != sorted(range(count), key=repr):
            raise RowError(f"'order' must be the indices 0 to {count - 1}, each once, is {order!r:.60}")
        says = compare_scores([-order.index(i) for i in range(count)])
    elif given == ["ranks"]:
        says = compare_scores([-rank for rank in read_numbers(row, "ranks", count)])
    else:
        says = compare_scores(read_numbers(row, "scores", count))
    gold = [float(value) for value in read_numbers(row, "gold", count)] if has(row, "gold") else None
    id_ = row.get("id")
    if isinstance(id_, bool) or not isinstance(id_, str | int | None):
        raise RowError(f"'id' must be a string or a whole number, is {id_!r:.60}")
    read_here = {"prompt", "completions", "gold", "id", "references", "demonstrations", "demonstration"}
    others = row.keys() - read_here - {args.split_field, *_ORDERS}
    meta_data = {name: row[name] for name in row if name in others and row[name] is not None}
    return _judge(row, read_text(row, "prompt"), completions, gold=gold, id=id_, meta_data=meta_data, **says)


def _ultrafeedback(row: Row, args: PreferencesArgs) -> Judgement:
    answers = read(row, "completions")
    if not isinstance(answers, list):
        raise RowError(f"'completions' must be a list of objects with 'response', is {answers!r:.60}")
    scores = [_ultrafeedback_score(answer, args.score_field) for answer in answers]
    texts = [read_text(answer, "response") for answer in answers]
    return _judge(row, read_text(row, "instruction"), texts, "source", **compare_scores(scores))


def _ultrafeedback_score(answer: Row, name: str) -> Number | None:
    """A completion's score, None where the annotator gave none ("N/A")."""
    if name in ("fine-grained_score", "overall_score"):
        return None if answer.get(name) is None else check_number(answer[name], repr(name))
    rating = read(read(read(answer, "annotations"), name), "Rating")
    if rating == "N/A":
        return None
    try:
        return check_number(float(rating), "Rating")
    except (TypeError, ValueError):
        raise RowError(f"annotations.{name}.Rating must be a number or 'N/A', is {rating!r:.60}") from None


def _helpsteer(row: Row, args: PreferencesArgs) -> Judgement:
    if "response" in row:
        rating = read_number(row, args.attribute)
        return _judge(row, read_text(row, "prompt"), [read_text(row, "response")], rating=rating)
    third = "context" in row
    names = ("response1", "response2") if third else ("response_1", "response_2")
    strength = read_number(row, "overall_preference" if third else "preference_strength")
    prompt = read_messages(row, "context") if third else read_text(row, "prompt")
    texts = [read_text(row, name) for name in names]
    return _judge(row, prompt, texts, "domain", "language", **prefer_signed(strength))


def _summarize(row: Row, args: PreferencesArgs) -> Judgement:
    info, summaries = read(row, "info"), read(row, "summaries")
    parts = {name: read_text(info, name) for name in ("subreddit", "title", "post")}
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise RowError(f"'summaries' must be two objects with 'text', is {summaries!r:.60}")
    texts = [read_text(summary, "text") for summary in summaries]
    written = [t for t, summary in zip(texts, summaries, strict=True) if summary.get("policy") == "ref"]
    return Judgement(
        SUMMARIZE_QUERY.format(**parts),
        list(texts),
        references=read_references(row) + written,  # "ref" is the post's own author
        id=read_text(info, "id"),
        meta_data={"subreddit": parts["subreddit"]},
        **prefer_best(read_choice(row, "choice", (0, 1)), 2),
    )


def _webgpt(row: Row, args: PreferencesArgs) -> Judgement:
    texts = [read_text(row, name) for name in ("answer_0", "answer_1")]
    scores = [read_number(row, name) for name in ("score_0", "score_1")]
    return _judge(row, read_text(read(row, "question"), "full_text"), texts, **compare_scores(scores))


def _shp(row: Row, args: PreferencesArgs) -> Judgement:
    texts = [read_text(row, name) for name in ("human_ref_A", "human_ref_B")]
    best = read_choice(row, "labels", (1, 0))  # 1: A is the better
    return _judge(row, read_text(row, "history"), texts, "domain", **prefer_best(best, 2))


def _nectar(row: Row, args: PreferencesArgs) -> Judgement:
    answers = read(row, "answers")
    if not isinstance(answers, list):
        raise RowError(f"'answers' must be a list of objects with 'answer' and 'rank', is {answers!r:.60}")
    texts = [read_text(answer, "answer") for answer in answers]
    ranks = [read_number(answer, "rank") for answer in answers]
    says = compare_scores([-rank for rank in ranks])
    return _judge(row, read_text(row, "prompt"), texts, "source", **says)


def _arena(row: Row, args: PreferencesArgs) -> Judgement:
    prompt, completions = read_conversations(row, "conversation_a", "conversation_b")
    choices = ("model_a", "model_b", "tie", "tie (bothbad)")
    winner = read_choice(row, "winner", choices)
    says: dict[str, Any] = {"ties": [(0, 1)]} if winner > 1 else prefer_best(winner, 2)
    return _judge(row, prompt, completions, "language", **says)


def _safe_rlhf(row: Row, args: PreferencesArgs) -> Judgement:
    texts = [read_text(row, name) for name in ("response_0", "response_1")]
    better = read_choice(row, "better_response_id", (0, 1))
    return _judge(row, read_text(row, "prompt"), texts, **prefer_best(better, 2))


def _lm_human_preferences(row: Row, args: PreferencesArgs) -> Judgement:
    names = [name for name in (f"sample{i}" for i in range(len(row))) if name in row]
    if any(isinstance(row.get(name), list) for name in ("query", *names)):
        raise RowError("'query' and samples are tokens; write them as texts: tokenizer.decode(tokens)")
    texts = [read_text(row, name) for name in names]
    best = read_choice(row, "best", range(len(texts)))
    return _judge(row, read_text(row, "query"), texts, **prefer_best(best, len(texts)))


def _rewardbench(row: Row, args: PreferencesArgs) -> Judgement:
    sides = [
        [check_text(text, name) for text in (value if isinstance(value, list) else [value])]
        for name, value in ((name, read(row, name)) for name in ("chosen", "rejected"))
    ]
    chosen, rejected = len(sides[0]), len(sides[1])
    better = [(i, chosen + j, 0.0) for i in range(chosen) for j in range(rejected)]
    return _judge(row, read_text(row, "prompt"), sides[0] + sides[1], "subset", better=better)


def _judge(row: Row, prompt: Any, completions: list[Any], *meta: str, **says: Any) -> Judgement:
    """A judgement with the row's references, and those of its fields that are kept as meta_data."""
    says.setdefault("meta_data", {name: row[name] for name in meta if has(row, name)})
    return Judgement(prompt, completions, references=read_references(row), **says)


def _trl(row: Row, args: PreferencesArgs) -> Judgement:
    prompt, completions = read_chosen(row)
    better, ties = [(0, 1, 0.0)], []
    if has(row, "score_chosen", "score_rejected"):
        chosen, rejected = (read_number(row, f"score_{side}") for side in ("chosen", "rejected"))
        if chosen < rejected:
            raise RowError(f"'score_chosen' {chosen:g} is below 'score_rejected' {rejected:g}")
        if chosen == rejected:
            better, ties = [], [(0, 1)]
        else:
            better = [(0, 1, float(chosen - rejected))]
    if has(row, "margin"):
        better = [(i, j, float(read_number(row, "margin"))) for i, j, _ in better]
    return _judge(row, prompt, completions, "source", "subset", better=better, ties=ties)


def _hh(row: Row, args: PreferencesArgs) -> Judgement:
    prompt, completions = read_dialogues(row)
    return _judge(row, prompt, completions, better=[(0, 1, 0.0)])


def _columns(*names: str) -> Callable[[Row], bool]:
    return lambda row: has(row, *names)


def _is_dialogues(row: Row) -> bool:
    """Whether a row is two dialogues as Anthropic writes them, without a prompt."""
    texts = [row.get(name) for name in ("chosen", "rejected")]
    return "prompt" not in row and all(isinstance(t, str) and t.startswith(_HUMAN) for t in texts)


def _is_rewardbench(row: Row) -> bool:
    return has(row, "prompt", "chosen", "rejected", "subset")


def _is_helpsteer(row: Row) -> bool:
    return (
        has(row, "prompt", "response", "helpfulness")
        or has(row, "prompt", "response_1", "response_2", "preference_strength")
        or has(row, "context", "response1", "response2", "overall_preference")
    )


def _is_trl(row: Row) -> bool:
    return has(row, "chosen", "rejected") and not _is_dialogues(row) and not _is_rewardbench(row)


FORMATS: Mapping[FormatName, Format] = {
    "ranking": Format(
        "prompt, completions and one of ranks, scores, order, best",
        lambda row: has(row, "prompt", "completions") and any(has(row, name) for name in _ORDERS),
        _ranking,
    ),
    "trl": Format("chosen, rejected and perhaps prompt", _is_trl, _trl),
    "hh": Format("chosen, rejected, dialogues that begin with '\\n\\nHuman:'", _is_dialogues, _hh),
    "ultrafeedback": Format(
        "instruction, completions", _columns("instruction", "completions"), _ultrafeedback
    ),
    "helpsteer": Format(
        "prompt, response, helpfulness; or prompt, response_1, response_2, preference_strength; or context, "
        "response1, response2, overall_preference",
        _is_helpsteer,
        _helpsteer,
    ),
    "summarize": Format("info, summaries, choice", _columns("info", "summaries", "choice"), _summarize),
    "webgpt": Format(
        "question, answer_0, answer_1, score_0, score_1",
        _columns("question", "answer_0", "answer_1", "score_0", "score_1"),
        _webgpt,
    ),
    "shp": Format(
        "history, human_ref_A, human_ref_B, labels",
        _columns("history", "human_ref_A", "human_ref_B", "labels"),
        _shp,
    ),
    "nectar": Format("prompt, answers", _columns("prompt", "answers"), _nectar),
    "arena": Format(
        "conversation_a, conversation_b, winner",
        _columns("conversation_a", "conversation_b", "winner"),
        _arena,
    ),
    "safe_rlhf": Format(
        "prompt, response_0, response_1, better_response_id",
        _columns("prompt", "response_0", "response_1", "better_response_id"),
        _safe_rlhf,
    ),
    "lm_human_preferences": Format(
        "query, sample0, sample1, ..., best", _columns("query", "sample0", "best"), _lm_human_preferences
    ),
    "rewardbench": Format(
        "prompt, chosen, rejected, subset", _is_rewardbench, _rewardbench, evaluation_only=True
    ),
}


def recognise(row: Row, where: str) -> FormatName:
    """The format that a row's columns are of. Raises DataError: none, or several."""
    fitting = [name for name, format_ in FORMATS.items() if format_.fits(row)]
    if len(fitting) == 1:
        return fitting[0]
    what = f"the formats {' and '.join(fitting)}" if fitting else "no format of preferences"
    known = "\n".join(f"  {name}: {format_.columns}" for name, format_ in FORMATS.items())
    raise DataError(
        f"{where}: its columns fit {what}: {', '.join(row) or 'none'}\n"
        f"Set datapool.args.format to one of these, or rename the columns:\n{known}"
    )

"""Small files of preference data as the published datasets write them, and what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def say(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def user(text: str) -> dict[str, str]:
    return say("user", text)


def assistant(text: str) -> dict[str, str]:
    return say("assistant", text)


@dataclass(frozen=True)
class Example:
    """rows: 4 good ones with a tie (where the format knows any), a repeated prompt and equal texts.

    rankings: (prompt, completions, (winner, loser, margin) of each pair); said: in the line of the log;
    malformed: the fifth row, and mistake: what is said of it.
    """

    rows: list[dict[str, Any]]
    rankings: list[tuple[str, list[str], list[tuple[int, int, float]]]]
    said: list[str]
    malformed: dict[str, Any]
    mistake: str
    args: dict[str, Any] = field(default_factory=dict)
    split: str = "train"


def _pairs(prompt: str, chosen: Any, rejected: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def _answer(text: str, score: Any, overall: Any, honesty: str = "3") -> dict[str, Any]:
    rating = {"Rating": honesty, "Rationale": "..."}
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {
        "model": "m",
        "response": text,
        "fine-grained_score": score,
        "overall_score": overall,
        "annotations": dict.fromkeys(aspects, rating),
    }


def _strength(prompt: str, first: str, second: str, strength: int) -> dict[str, Any]:
    texts = {"prompt": prompt, "response_1": first, "response_2": second}
    return texts | {"preference_strength": strength, "split": "train"}


def _summary(name: str, first: str, second: str, choice: Any, policy: str = "sup4") -> dict[str, Any]:
    return {
        "info": {"id": name, "title": f"T {name}", "post": f"P {name}", "subreddit": "tifu", "site": None},
        "summaries": [
            {"text": first, "policy": policy, "note": None},
            {"text": second, "policy": "sup2", "note": None},
        ],
        "choice": choice,
        "worker": "w",
        "extra": {"confidence": None},
    }


def _webgpt(question: str, first: str, second: str, score: Any) -> dict[str, Any]:
    return {
        "question": {"dataset": "eli5", "id": "1", "full_text": question},
        "quotes_0": {"title": [], "extract": []},
        "answer_0": first,
        "score_0": score,
        "answer_1": second,
        "score_1": -score if isinstance(score, float) else 0.0,
    }


def _shp(post: str, first: str, second: str, label: Any) -> dict[str, Any]:
    return {
        "post_id": "a", "domain": "askbaking", "history": post, "human_ref_A": first, "human_ref_B": second,
        "labels": label, "score_A": 5, "score_B": 3, "score_ratio": 1.7,
    }  # fmt: skip


def _nectar(prompt: str, *answers: tuple[str, Any]) -> dict[str, Any]:
    return {
        "prompt": f"\n\nHuman: {prompt}\n\nAssistant: ",
        "answers": [{"answer": text, "model": "m", "rank": rank} for text, rank in answers],
        "turns": 1,
        "source": ["sharegpt"],
    }


def _arena(question: str, first: str, second: str, winner: Any) -> dict[str, Any]:
    return {
        "question_id": "q", "model_a": "a", "model_b": "b", "winner": winner, "language": "English",
        "conversation_a": [user(question), assistant(first)],
        "conversation_b": [user(question), assistant(second)],
    }  # fmt: skip


def _safe(prompt: str, first: str, second: str, better: Any) -> dict[str, Any]:
    return {
        "prompt": prompt, "response_0": first, "response_1": second, "is_response_0_safe": True,
        "is_response_1_safe": True, "better_response_id": better, "safer_response_id": 0,
    }  # fmt: skip


def _samples(query: str, *samples: str, best: Any) -> dict[str, Any]:
    return {"query": query, "best": best} | {f"sample{i}": sample for i, sample in enumerate(samples)}


def _plain(text: str) -> str:
    return f"\n\nHuman: {text}\n\nAssistant:"


_Q1 = "SUBREDDIT: r/tifu\n\nTITLE: T 1\n\nPOST: P 1\n\nTL;DR:"
_PLAIN = {"chat_template": "plain"}

EXAMPLES: dict[str, Example] = {
    "ranking by scores": Example(
        [
            {"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, 3.5, 1], "gold": [0, 2, 1]},
            {"prompt": "p", "completions": ["d", "a"], "scores": [0, 1], "gold": [-1, 0]},
            {"prompt": "q", "completions": ["x", "x", "y"], "scores": [1, 2, 3]},
            {"prompt": "r", "completions": ["x", "y"], "scores": [2, 2]},
        ],
        [
            ("p", ["a", "b", "c", "d"], [(1, 0, 0), (1, 2, 0), (0, 3, 0)]),
            ("q", ["x", "y"], [(1, 0, 0), (1, 0, 0)]),
        ],
        [
            "4 rows, 2 prompts, 6 completions, 5 comparisons",
            "2 ties dropped",
            "1 comparison of equal texts dropped",
            "1 prompt without comparisons left out",
        ],
        {"prompt": "p", "completions": ["a", "b"], "scores": [1]},
        "'scores' must be a list of 2 numbers, one a completion, is [1]",
    ),
    "ranking in other ways": Example(
        [
            {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [2, 1, 2]},
            {"prompt": "p", "completions": ["c", "a"], "order": [1, 0]},
            {"prompt": "q", "completions": ["x", "y", "z"], "best": 2},
            {"prompt": "r", "completions": ["x", "x"], "best": 1},
        ],
        [
            ("p", ["a", "b", "c"], [(1, 0, 0), (1, 2, 0), (0, 2, 0)]),
            ("q", ["x", "y", "z"], [(2, 0, 0), (2, 1, 0)]),
        ],
        ["1 tie dropped", "1 comparison of equal texts dropped", "1 prompt without comparisons left out"],
        {"prompt": "p", "completions": ["a", "b"], "order": [0, 2]},
        "'order' must be the indices 0 to 1, each once, is [0, 2]",
    ),
    "trl": Example(
        [
            _pairs("p", "a", "b", margin=0.5),
            _pairs("p", "a", "c", score_chosen=4, score_rejected=1.5),
            _pairs("q", "x", "x"),
            _pairs("r", "x", "y", score_chosen=3, score_rejected=3),
        ],
        [("p", ["a", "b", "c"], [(0, 1, 0.5), (0, 2, 2.5)])],
        ["1 tie dropped", "1 comparison of equal texts dropped", "2 prompts without comparisons left out"],
        _pairs("p", "x", "y", score_chosen=1, score_rejected=2),
        "'score_chosen' 1 is below 'score_rejected' 2",
    ),
    "trl with implicit prompts": Example(
        [
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {"chosen": "The sky is blue.", "rejected": "The sky is red."},
            {"chosen": "Same", "rejected": "Same"},
            {"chosen": "Same", "rejected": "Same old"},
        ],
        [
            ("The sky is", [" blue.", " green.", " red."], [(0, 1, 0), (0, 2, 0)]),
            ("Same", ["", " old"], [(0, 1, 0)]),
        ],
        ["4 rows, 2 prompts, 5 completions, 3 comparisons; 1 comparison of equal texts dropped"],
        {"chosen": "Same", "rejected": 3},
        "'rejected' must be a string, is 3",
    ),
    "trl with messages": Example(
        [
            {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("a")]},
            # UltraFeedback binarized
            _pairs("p", [user("p"), assistant("d")], [user("p"), assistant("d")], source="evol"),
            {
                "chosen": [say("system", "s"), user("p"), assistant("a"), user("and?"), assistant("b")],
                "rejected": [say("system", "s"), user("p"), assistant("c"), user("and?"), assistant("d")],
            },
        ],
        [
            (_plain("p"), [" a", " b", " c", " d"], [(0, 1, 0), (2, 0, 0)]),
            (
                "\n\nSystem: s" + _plain("p"),
                [f" a{_plain('and?')} b", f" c{_plain('and?')} d"],
                [(0, 1, 0)],
            ),
        ],
        ["1 comparison of equal texts dropped", "1 row with several turns as completion"],
        {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("a")]},
        "'chosen' and 'rejected' have no message in common that is their prompt",
        _PLAIN,
    ),
    "hh": Example(
        [
            {"chosen": _plain("hi") + " a", "rejected": _plain("hi") + " b"},
            {"chosen": _plain("hi") + " a", "rejected": _plain("hi") + " c"},
            {"chosen": _plain("ho") + " a", "rejected": _plain("ho") + " a"},
            {
                "chosen": _plain("hu") + " a" + _plain("so") + " x",
                "rejected": _plain("hu") + " b" + _plain("no") + " y",
            },
        ],
        [
            (_plain("hi"), [" a", " b", " c"], [(0, 1, 0), (0, 2, 0)]),
            (_plain("hu"), [f" a{_plain('so')} x", f" b{_plain('no')} y"], [(0, 1, 0)]),
        ],
        ["1 comparison of equal texts dropped", "1 row with several turns as completion"],
        {"chosen": _plain("hi") + " a", "rejected": _plain("ho") + " a"},
        "'chosen' and 'rejected' have no common beginning up to an '\\n\\nAssistant:'",
    ),
    "ultrafeedback": Example(
        [
            {"source": "evol", "instruction": "p", "completions": [
                _answer("a", 4.0, 1), _answer("b", 3.5, 10), _answer("c", 4.0, 1), _answer("d", None, 1)]},
            {"instruction": "p", "completions": [_answer("a", 2.0, 1), _answer("b", 3.0, 1)]},
            {"source": "evol", "instruction": "q", "completions": [_answer("a", 1, 1), _answer("a", 2, 1)]},
            {"source": "evol", "instruction": "r", "completions": []},
        ],
        [("p", ["a", "b", "c", "d"], [(0, 1, 0), (2, 1, 0), (1, 0, 0)])],
        [
            "1 tie dropped", "1 comparison of equal texts dropped", "3 comparisons without a score dropped",
            "1 pair judged both ways, kept as disagreement", "2 prompts without comparisons left out",
        ],
        {"instruction": "p", "completions": [{"response": 3, "fine-grained_score": 3.0}]},
        "'response' must be a string, is 3",
    ),
    "ultrafeedback by honesty": Example(
        [
            {"instruction": "p", "completions": [_answer("a", 4.0, 1, "2"), _answer("b", 3.5, 10, "5"),
                                                 _answer("c", 3.5, 10, "N/A"), _answer("d", 3.5, 10, "2")]},
        ],
        [("p", ["a", "b", "c", "d"], [(1, 0, 0), (1, 3, 0)])],
        ["1 tie dropped", "3 comparisons without a score dropped"],
        {"instruction": "p", "completions": [_answer("a", 1.0, 1, "high")]},
        "annotations.honesty.Rating must be a number or 'N/A', is 'high'",
        {"score_field": "honesty"},
    ),
    "helpsteer": Example(
        [
            {"prompt": "p", "response": "a", "helpfulness": 3, "correctness": 1, "verbosity": 1},
            {"prompt": "p", "response": "b", "helpfulness": 1, "correctness": 2, "verbosity": 1},
            {"prompt": "p", "response": "c", "helpfulness": 3, "correctness": 2, "verbosity": 1},
            {"prompt": "p", "response": "c", "helpfulness": 2, "correctness": 2, "verbosity": 1},
        ],
        [("p", ["a", "b", "c"], [(0, 1, 0), (0, 2, 0), (2, 1, 0), (2, 1, 0)])],
        ["1 tie dropped", "1 comparison of equal texts dropped"],
        {"prompt": "q", "response": "a", "helpfulness": "high"},
        "'helpfulness' must be a finite number, is 'high'",
    ),
    "helpsteer by another attribute": Example(
        [
            {"prompt": "p", "response": "a", "helpfulness": 3, "correctness": 1},
            {"prompt": "p", "response": "b", "helpfulness": 1, "correctness": 2},
        ],
        [("p", ["a", "b"], [(1, 0, 0)])],
        [],
        {"prompt": "q", "response": "a", "helpfulness": 1},
        "no 'correctness'; there are: prompt, response, helpfulness",
        {"attribute": "correctness"},
    ),
    "helpsteer 2, preferences": Example(
        [_strength("p", "a", "b", -2), _strength("p", "a", "c", 1), _strength("q", "a", "b", 0),
         _strength("r", "a", "a", 3)],
        [("p", ["a", "b", "c"], [(0, 1, 2), (2, 0, 1)])],
        ["1 tie dropped", "1 comparison of equal texts dropped", "2 prompts without comparisons left out"],
        {"prompt": "p", "response_1": "a", "response_2": "b", "split": "train"},
        "no 'preference_strength'; there are: prompt, response_1, response_2, split",
    ),
    "helpsteer 3": Example(
        [
            {"domain": "code", "language": "python", "context": [user("p")], "response1": "a",
             "response2": "b", "overall_preference": 3},
            {"domain": "code", "language": "python", "context": [user("p")], "response1": "b",
             "response2": "c", "overall_preference": -1},
            {"domain": "code", "language": "python", "context": [user("p")], "response1": "a",
             "response2": "c", "overall_preference": 0},
            {"domain": "code", "language": "python", "context": [user("p")], "response1": "a",
             "response2": "a", "overall_preference": 1},
        ],
        [(_plain("p"), [" a", " b", " c"], [(1, 0, 3), (1, 2, 1)])],
        ["1 tie dropped", "1 comparison of equal texts dropped"],
        {"context": [{"from": "human", "value": "p"}], "response1": "a", "response2": "b",
         "overall_preference": 1},
        "context[0] must be a message with 'role' and 'content', is {'from': 'human', 'value': 'p'}",
        _PLAIN,
    ),
    "summarize": Example(
        [_summary("1", " a", " b", 1), _summary("1", " c", " a", 0, "ref"), _summary("2", " a", " a", 0),
         _summary("1", " a", " b", 0)],
        [(_Q1, [" a", " b", " c"], [(1, 0, 0), (2, 0, 0), (0, 1, 0)])],
        ["1 comparison of equal texts dropped", "1 pair judged both ways, kept as disagreement",
         "1 prompt without comparisons left out"],
        _summary("3", " a", " b", 2),
        "'choice' must be one of 0, 1, is 2",
    ),
    "webgpt": Example(
        [_webgpt("p", "a", "b", -0.5), _webgpt("p", "a", "c", 1.0), _webgpt("q", "a", "b", 0.0),
         _webgpt("r", "a", "a", 1.0)],
        [("p", ["a", "b", "c"], [(1, 0, 0), (0, 2, 0)])],
        ["1 tie dropped", "1 comparison of equal texts dropped", "2 prompts without comparisons left out"],
        _webgpt("p", "a", "b", "high"),
        "'score_0' must be a finite number, is 'high'",
    ),
    "shp": Example(
        [_shp("p", "a", "b", 1), _shp("p", "b", "c", 0), _shp("q", "a", "a", 1), _shp("r", "a", "b", 0)],
        [("p", ["a", "b", "c"], [(0, 1, 0), (2, 1, 0)]), ("r", ["a", "b"], [(1, 0, 0)])],
        ["1 comparison of equal texts dropped", "1 prompt without comparisons left out"],
        _shp("p", "a", "b", 2),
        "'labels' must be one of 1, 0, is 2",
    ),
    "nectar": Example(
        [_nectar("p", ("a", 1.0), ("b", 3.0), ("c", 3.0)), _nectar("p", ("d", 1), ("a", 2)),
         _nectar("q", ("a", 1), ("a", 2)), _nectar("r", ("a", 2), ("b", 1))],
        [(f"{_plain('p')} ", ["a", "b", "c", "d"], [(0, 1, 0), (0, 2, 0), (3, 0, 0)]),
         (f"{_plain('r')} ", ["a", "b"], [(1, 0, 0)])],
        ["1 tie dropped", "1 comparison of equal texts dropped"],
        _nectar("p", ("a", 1), ("b", None)),
        "no 'rank'; there are: answer, model, rank",
    ),
    "arena": Example(
        [_arena("p", "a", "b", "model_b"), _arena("p", "c", "a", "model_a"), _arena("q", "a", "b", "tie"),
         _arena("q", "a", "c", "tie (bothbad)"), _arena("r", "a", "a", "model_a")],
        [(_plain("p"), [" a", " b", " c"], [(1, 0, 0), (2, 0, 0)])],
        ["2 ties dropped", "1 comparison of equal texts dropped", "2 prompts without comparisons left out"],
        _arena("p", "a", "b", "both"),
        "'winner' must be one of model_a, model_b, tie, tie (bothbad), is 'both'",
        _PLAIN,
    ),
    "safe_rlhf": Example(
        [_safe("p", "a", "b", 1), _safe("p", "a", "c", 0), _safe("q", "a", "a", 0), _safe("r", "a", "b", 0)],
        [("p", ["a", "b", "c"], [(1, 0, 0), (0, 2, 0)]), ("r", ["a", "b"], [(0, 1, 0)])],
        ["1 comparison of equal texts dropped"],
        _safe("p", "a", "b", -1),
        "'better_response_id' must be one of 0, 1, is -1",
    ),
    "lm_human_preferences": Example(
        [_samples("p", "a", "b", "c", "d", best=2), _samples("p", "a", "e", "f", "g", best=0),
         _samples("q", "a", "a", "b", "c", best=0), _samples("r", "a", "a", "a", "a", best=3)],
        [("p", ["a", "b", "c", "d", "e", "f", "g"],
          [(2, 0, 0), (2, 1, 0), (2, 3, 0), (0, 4, 0), (0, 5, 0), (0, 6, 0)]),
         ("q", ["a", "b", "c"], [(0, 1, 0), (0, 2, 0)])],
        ["4 comparisons of equal texts dropped", "1 prompt without comparisons left out"],
        _samples("p", "a", "b", best=4),
        "'best' must be one of 0, 1, is 4",
    ),
    "rewardbench": Example(
        [_pairs("p", "a", "b", subset="chat"), _pairs("p", "a", "c", subset="chat"),
         _pairs("q", "a", "a", subset="chat"),
         {"prompt": "r", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Ties"}],
        [("p", ["a", "b", "c"], [(0, 1, 0), (0, 2, 0)]),
         ("r", ["a", "b", "c", "d"], [(0, 1, 0), (0, 2, 0), (0, 3, 0)])],
        ["1 comparison of equal texts dropped"],
        _pairs("p", "a", 7, subset="chat"),
        "rejected must be a string, is 7",
        split="test",
    ),
}  # fmt: skip

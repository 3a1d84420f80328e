"""Tasks made of docstrings: from records that share a first sentence to prompts and references."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from common.python_docs import DocRecord, is_prose, parameters, sentences

MIN_WORDS, MAX_WORDS = 4, 22
MAX_PROMPT_CHARACTERS = 200
MIN_TEXT_WORDS, MAX_TEXT_WORDS = 12, 80
MIN_CONCEPTS, MAX_CONCEPTS = 3, 8
MAX_IDENTIFIER_WORDS = 10
DROPPED = 0.2  # of the words, in `restore`
_FUNCTION_WORDS = frozenset(
    "a about after all also an and any are as at be been before being between both but by can do does "
    "during each either for from had has have if in into is it its may must no nor not of off on one only or "
    "other over should so some such than that the their them then there these they this those to under until "
    "up used using via was were when where whether which while who will with within without would you "
    "your".split()
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_NAME_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

Pair = tuple[str, list[str], dict[str, Any]]


FormName = Literal[
    "summary",
    "sentence_from_words",
    "continuation",
    "question",
    "hard_question",
    "parameter",
    "next_sentence",
    "first_sentence",
    "identifier",
    "dashes",
    "last_word",
    "keywords",
    "opening",
    "restore",
]


@dataclass(frozen=True)
class Form:
    """A task. pairs: yields input without prefix, references and meta_data for records that share a sentence.

    distinct_references: whether a reference that is repeated is a repeated sample (a sentence), or may well
    be right twice (a name).
    """

    pairs: Callable[[str, Sequence[DocRecord]], Iterator[Pair]]
    prefix: str
    distinct_references: bool = True


def is_plain(sentence: str) -> bool:
    """Whether a sentence is of 4 to 22 words, begins like one, and is nearly all words."""
    words = sentence.split()
    plain = sum(_WORD.fullmatch(word.strip("'\"(),.;:!?")) is not None for word in words)
    return (
        MIN_WORDS <= len(words) <= MAX_WORDS
        and sentence[0].isupper()
        and ": " not in sentence
        and plain >= 0.8 * len(words)
    )


def _summary(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    for record in records:
        prompt = _call(record)
        if prompt and len(prompt) <= MAX_PROMPT_CHARACTERS:
            yield prompt, [sentence], {}
            return


def _sentence_from_words(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    words = [word.strip("'-").lower() for word in _WORD.findall(sentence)]
    concepts = sorted({word for word in words if len(word) > 1} - _FUNCTION_WORDS)
    if MIN_CONCEPTS <= len(concepts) <= MAX_CONCEPTS:
        yield " ".join(concepts) + ".", [sentence], {"concepts": concepts}


def _continuation(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    for record in records:
        words = record.text.split()[:MAX_TEXT_WORDS]
        if len(words) >= MIN_TEXT_WORDS and is_prose(record.text):
            middle = len(words) // 2
            yield " ".join(words[:middle]), [" ".join(words[middle:])], {"reference": " ".join(words)}
            return


def _question(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    if names := _function_names(records):
        yield sentence, names, {}


def _hard_question(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    names = _function_names(records)
    if names and not any(_shares_a_stem(name, sentence) for name in names):
        yield sentence, names, {}


def _parameter(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    for record in records:
        for parameter in parameters(record.docstring):
            description = sentences(parameter.description)[0]
            type_ = f" ({parameter.type})" if parameter.type else ""
            prompt = f"{_function_name(record)}: {parameter.name}{type_}"
            if is_plain(description) and len(prompt) <= MAX_PROMPT_CHARACTERS:
                yield prompt, [description], {}


def _next_sentence(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    for record in records:
        following = sentences(record.text.replace("\n\n", " "))[1:2]
        if following and is_plain(following[0]):
            yield sentence, following, {}
            return


def _first_sentence(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    for record in records:
        rest = record.text[len(record.sentence) :].strip()
        words = rest.split()[:MAX_TEXT_WORDS]
        if len(words) >= MIN_TEXT_WORDS and is_prose(rest):
            yield " ".join(words), [sentence], {}
            return


def _identifier(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    if words := _few_words(sentence):
        yield sentence, ["_".join(words).lower().replace("'", "").replace("-", "_")], {}


def _dashes(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    if words := _few_words(sentence):
        yield sentence, ["-".join(words).lower().replace("'", "")], {}


def _last_word(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    if words := _few_words(sentence):
        yield sentence, [words[-1].lower()], {}


def _few_words(sentence: str) -> list[str]:
    """The words of a sentence of plain words alone, if they are few enough for a name."""
    words = sentence.rstrip(".!?").split()
    is_short = len(words) <= MAX_IDENTIFIER_WORDS and all(_WORD.fullmatch(word) for word in words)
    return words if is_short else []


def _keywords(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    words = [word.strip("'-").lower() for word in _WORD.findall(sentence)]
    kept = [word for word in words if len(word) > 1 and word not in _FUNCTION_WORDS]
    if MIN_CONCEPTS <= len(kept) <= MAX_CONCEPTS:
        yield sentence, [" ".join(kept)], {}


def _opening(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    for record in records:
        words = record.text.split()[:MAX_TEXT_WORDS]
        if len(words) >= len(sentence.split()) + MIN_WORDS and is_prose(record.text):
            yield " ".join(words), [sentence], {}
            return


def _restore(sentence: str, records: Sequence[DocRecord]) -> Iterator[Pair]:
    words = sentence.split()
    rng = Random(sentence)  # the same words each time
    dropped = set(rng.sample(range(len(words)), max(1, round(DROPPED * len(words)))))
    yield " ".join(word for i, word in enumerate(words) if i not in dropped), [sentence], {}


FORMS: dict[FormName, Form] = {
    "summary": Form(_summary, "summarize: "),
    "sentence_from_words": Form(_sentence_from_words, "generate a sentence with: "),
    "continuation": Form(_continuation, ""),
    "question": Form(_question, "which function does this: ", distinct_references=False),
    "hard_question": Form(_hard_question, "which function does this: ", distinct_references=False),
    "parameter": Form(_parameter, "describe the parameter of "),
    "next_sentence": Form(_next_sentence, "what comes next: "),
    "first_sentence": Form(_first_sentence, "what comes before: "),
    "identifier": Form(_identifier, "write as an identifier: "),
    "dashes": Form(_dashes, "write as an identifier: "),
    "last_word": Form(_last_word, "last word: ", distinct_references=False),
    "keywords": Form(_keywords, "list the keywords: "),
    "opening": Form(_opening, "first sentence: "),
    "restore": Form(_restore, "restore: "),
}


def _call(record: DocRecord) -> str:
    """`Class.method(arguments)`, the arguments without self; "" for a module."""
    if record.kind == "module":
        return ""
    return record.name + re.sub(r"^\((?:self|cls)(?:, )?", "(", record.signature or "()")


def _function_name(record: DocRecord) -> str:
    return record.name or record.module


def _function_names(records: Sequence[DocRecord]) -> list[str]:
    """The distinct names of the functions and methods among the records, without that of the class."""
    names = (record.name.rpartition(".")[2] for record in records if record.kind in ("function", "method"))
    return list(dict.fromkeys(names))


def _shares_a_stem(name: str, sentence: str) -> bool:
    """Whether a name holds the first four letters of a word of the sentence, or a part of it begins one."""
    words = {word.lower() for word in _WORD.findall(sentence)} - _FUNCTION_WORDS
    parts = {part.lower() for part in _NAME_PARTS.findall(name) if len(part) > 2}
    return any(
        (len(word) > 2 and word[:4] in name.lower()) or any(word.startswith(part) for part in parts)
        for word in words
    )

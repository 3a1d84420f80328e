"""Prompt and completions of two dialogues that begin alike: texts, Anthropic's dialogues, or messages."""

from __future__ import annotations

from rl4lms.datapools.preferences.judgement import (
    Message,
    RowError,
    Text,
    read_either,
    read_messages,
    read_text,
)
from rl4lms.datapools.sources import Row

ASSISTANT = "\n\nAssistant:"


def read_chosen(row: Row) -> tuple[Text, list[Text]]:
    """The prompt, and the chosen and the rejected completion, of a row with or without a prompt.

    Without one it is what both have in common. Lists of messages may begin with the prompt, be it a text.
    """
    chosen, rejected = read_either(row, "chosen"), read_either(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("'chosen' and 'rejected' must both be strings or both be lists of messages")
    prompt = read_either(row, "prompt") if row.get("prompt") is not None else None
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is not None:
            return prompt, [chosen, rejected]
        length = _common_characters(chosen, rejected)
        return chosen[:length], [chosen[length:], rejected[length:]]
    assert isinstance(chosen, list) and isinstance(rejected, list)
    if isinstance(prompt, str):
        asked = {"role": "user", "content": prompt}
        if chosen[0]["role"] != "assistant":
            # As in UltraFeedback binarized; a system message or more turns may be there too.
            common, completions = _split_messages(chosen, rejected, "chosen", "rejected")
            if asked not in common:
                raise RowError("'chosen' and 'rejected' begin with messages among which 'prompt' is not")
            return common, completions
        prompt = [asked]
    if prompt is None:
        return _split_messages(chosen, rejected, "chosen", "rejected")
    length = len(prompt)
    if chosen[:length] == prompt == rejected[:length] and min(len(chosen), len(rejected)) > length:
        chosen, rejected = chosen[length:], rejected[length:]
    return prompt, [chosen, rejected]


def read_dialogues(row: Row) -> tuple[str, list[Text]]:
    """Two dialogues "\\n\\nHuman: ... \\n\\nAssistant: ...", the prompt up to the last turn they share."""
    chosen, rejected = read_text(row, "chosen"), read_text(row, "rejected")
    end = chosen[: _common_length(chosen, rejected)].rfind(ASSISTANT)
    if end < 0:
        raise RowError(
            "'chosen' and 'rejected' have no common beginning up to an '\\n\\nAssistant:', as dialogues "
            f"must, but begin {chosen[:40]!r} and {rejected[:40]!r}"
        )
    end += len(ASSISTANT)
    return chosen[:end], [chosen[end:], rejected[end:]]


def read_conversations(row: Row, first: str, second: str) -> tuple[list[Message], list[Text]]:
    """Two lists of messages, the prompt those that they share."""
    return _split_messages(read_messages(row, first), read_messages(row, second), first, second)


def has_several_turns(completion: Text) -> bool:
    """Whether a completion holds more than what the model says next."""
    if isinstance(completion, str):
        return "\n\nHuman:" in completion and ASSISTANT in completion
    return len(completion) > 1


def _split_messages(
    first: list[Message], second: list[Message], first_name: str, second_name: str
) -> tuple[list[Message], list[Text]]:
    """Cut two conversations where they part, but leave a message to each."""
    most = min(len(first), len(second)) - 1
    length = next((i for i in range(most) if first[i] != second[i]), most)
    if length == 0:
        raise RowError(f"{first_name!r} and {second_name!r} have no message in common that is their prompt")
    return first[:length], [first[length:], second[length:]]


def _common_characters(first: str, second: str) -> int:
    """The length of the longest common prefix, without a last space, which begins the completions (TRL)."""
    length = _common_length(first, second)
    return length - 1 if length and first[length - 1] == " " and first != second else length


def _common_length(first: str, second: str) -> int:
    """By bisection: dialogues are long, and there are many."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low

"""Messages as the texts that a model reads and writes: by a chat template, or in Anthropic's plain form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.hub import DataError, first_line
from rl4lms.datapools.preferences.judgement import Message, Text

_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}
_REMEDY = "set datapool.args.chat_template to plain, or to a file with a jinja template"
# (messages of the prompt, messages of a completion) -> their texts
Render = Callable[[list[Message], list[Message]], tuple[str, str]]


def make_texts(prompt: Text, completion: Text, render: Render) -> tuple[str, str]:
    """The texts of a prompt and a completion; a completion without a role is the assistant's."""
    if isinstance(prompt, str):
        assert isinstance(completion, str)
        return prompt, completion
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    return render(prompt, completion)


def render_plain(prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
    """Anthropic's form: "\\n\\nHuman: ... \\n\\nAssistant:" and " ...", other roles under their own names."""
    text = "".join(map(_plain, prompt)) + "\n\nAssistant:"
    first, *more = completion
    begin = f" {first['content']}" if first["role"] == "assistant" else _plain(first)
    return text, begin + "".join(map(_plain, more))


def render_json(prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
    """For a look at the data without a template: texts that are equal where messages are."""
    return json.dumps(prompt), json.dumps(completion)


def _plain(message: Message) -> str:
    return f"\n\n{_NAMES.get(message['role'], message['role'].capitalize())}: {message['content']}"


def make_renderer(chat_template: str, tokenizer: str | None) -> Render:
    """What renders messages: plain; else the template of a file, or the tokenizer's own (auto).

    The tokenizer is loaded when the first messages are rendered. The renderer raises DataError: no tokenizer,
    no template, or one that refuses the messages.
    """
    if chat_template == "plain":
        return render_plain
    loaded: dict[str, Any] = {}

    def render(prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
        if not loaded:
            loaded.update(_load(chat_template, tokenizer))
        return _render_by_template(prompt, completion, loaded["tokenizer"], loaded["template"])

    return render


def _load(chat_template: str, name: str | None) -> dict[str, Any]:
    if name is None:
        raise DataError(
            "the rows hold messages, and there is no tokenizer whose chat template renders them: set "
            "datapool.args.tokenizer_name to one, or datapool.args.chat_template to plain"
        )
    from rl4lms.model.load import load_tokenizer

    tokenizer = load_tokenizer(name)
    if chat_template == "auto":
        if not tokenizer.chat_template:
            raise DataError(f"the rows hold messages, and tokenizer {name!r} has no chat template: {_REMEDY}")
        return {"tokenizer": tokenizer, "template": None}
    try:
        return {"tokenizer": tokenizer, "template": Path(chat_template).expanduser().read_text("utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"datapool.args.chat_template: {chat_template!r} cannot be read: {error}") from error


def _render_by_template(
    prompt: list[Message], completion: list[Message], tokenizer: Any, template: str | None
) -> tuple[str, str]:
    """Render prompt, and prompt and completion, of which the completion is the rest.

    A start token that the tokenizer adds by itself is left to it, and an end token at the end of the
    completion to the training, which appends one to every text.
    """
    options = {"tokenize": False, "chat_template": template}
    try:
        begin = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **options)
        whole = tokenizer.apply_chat_template([*prompt, *completion], **options)
    except Exception as error:  # jinja's own, and whatever a template raises
        roles = ", ".join(message["role"] for message in [*prompt, *completion])
        raise DataError(
            f"the chat template refuses messages with roles {roles} "
            f"({type(error).__name__}: {first_line(error)}): {_REMEDY}"
        ) from error
    if not whole.startswith(begin):
        there = whole[max(0, len(begin) - 40) :][:80]
        raise DataError(
            "the chat template renders a prompt in another way if a completion follows: it ends with "
            f"{begin[-40:]!r}, and with the completion there is {there!r}; {_REMEDY}"
        )
    text = whole[len(begin) :]
    end = tokenizer.eos_token
    if end and text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    start = tokenizer.bos_token
    if start and begin.startswith(start) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        begin = begin.removeprefix(start)
    return begin, text

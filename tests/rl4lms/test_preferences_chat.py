"""Preferences between messages, rendered by a tokenizer's chat template or in the plain form."""

from pathlib import Path
from typing import Any

import pytest
from preference_files import assistant, say, user, write
from tiny_models import CHAT_TEMPLATE, save_chat_tokenizer
from transformers import AutoTokenizer

from common.hub import DataError
from rl4lms.datapools import load_datapool, load_rankings
from rl4lms.rankings import Comparison

ROW = {
    "prompt": [say("system", "be kind"), user(" hi ")],
    "chosen": [assistant("good day")],
    "rejected": [assistant("what?")],
    "references": ["dear friend"],
}
PROMPT = "<system>be kind<|endoftext|>\n<user>hi<|endoftext|>\n<assistant>"


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Any]:
    return {"data_path": str(write(tmp_path / "rows.jsonl", ROW))}


def test_the_run_s_tokenizer_renders_messages(tiny_gpt2: Path, rows: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = save_chat_tokenizer(tiny_gpt2, tmp_path / "chat", CHAT_TEMPLATE)
    (ranking,) = load_rankings("preferences", "train", rows, tokenizer)
    # The end token is what training appends to every text.
    assert (ranking.prompt, ranking.completions) == (PROMPT, ["good day", "what?"])
    assert (ranking.pairs, ranking.references) == ([Comparison(0, 1)], ["dear friend"])
    (sample,) = load_datapool("preferences", "train", rows, tokenizer)
    assert (sample.prompt_or_input_text, sample.references) == (PROMPT, ["dear friend"])
    # A tokenizer that the arguments name goes first.
    assert load_rankings("preferences", "train", rows | {"tokenizer_name": tokenizer}, str(tiny_gpt2)) == [
        ranking
    ]


def test_several_turns_as_completion_keep_what_is_between_them(tiny_gpt2: Path, tmp_path: Path) -> None:
    turns = [assistant("a"), user("and?"), assistant("b")]
    file = write(
        tmp_path / "rows.jsonl", {"chosen": [user("p"), *turns], "rejected": [user("p"), assistant("c")]}
    )
    tokenizer = save_chat_tokenizer(tiny_gpt2, tmp_path / "chat", CHAT_TEMPLATE)
    (ranking,) = load_rankings("preferences", "train", {"data_path": str(file)}, tokenizer)
    assert ranking.completions == ["a<|endoftext|>\n<user>and?<|endoftext|>\n<assistant>b", "c"]


def test_a_start_token_that_the_tokenizer_adds_is_not_there_twice(
    tiny_gpt2: Path, rows: dict[str, Any], tmp_path: Path
) -> None:
    template = "{{ bos_token }}" + CHAT_TEMPLATE
    for adds_start, start in ((False, "<|endoftext|>"), (True, "")):
        tokenizer = save_chat_tokenizer(tiny_gpt2, tmp_path / f"{adds_start}", template, adds_start)
        (ranking,) = load_rankings("preferences", "train", rows, tokenizer)
        assert ranking.prompt == start + PROMPT
        ids = AutoTokenizer.from_pretrained(tokenizer)(ranking.prompt)["input_ids"]
        assert ids[0] == 0 and ids[1] != 0
        assert ranking.completions == ["good day", "what?"]


def test_templates_of_a_file_and_plain(tiny_gpt2: Path, rows: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(CHAT_TEMPLATE.replace("<|endoftext|>", "|").replace("<", "["))
    args = rows | {"chat_template": str(tmp_path / "mine.jinja")}
    (ranking,) = load_rankings("preferences", "train", args, str(tiny_gpt2))
    assert ranking.prompt == "[system>be kind|\n[user>hi|\n[assistant>"
    assert ranking.completions == ["good day|\n", "what?|\n"]
    for tokenizer in (None, str(tiny_gpt2)):
        (ranking,) = load_rankings("preferences", "train", rows | {"chat_template": "plain"}, tokenizer)
        assert ranking.prompt == "\n\nSystem: be kind\n\nHuman:  hi \n\nAssistant:"
        assert (ranking.completions, ranking.references) == ([" good day", " what?"], [" dear friend"])


def test_nothing_renders_messages(tiny_gpt2: Path, rows: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_rankings("preferences", "train", rows)
    assert str(caught.value) == (
        f"{rows['data_path']} line 1: the rows hold messages, and there is no tokenizer whose chat template "
        "renders them: set datapool.args.tokenizer_name to one, or datapool.args.chat_template to plain"
    )
    with pytest.raises(DataError) as caught:
        load_rankings("preferences", "train", rows, str(tiny_gpt2))
    assert str(caught.value) == (
        f"{rows['data_path']} line 1: the rows hold messages, and tokenizer {str(tiny_gpt2)!r} has no chat "
        "template: set datapool.args.chat_template to plain, or to a file with a jinja template"
    )
    # Texts need none.
    file = write(tmp_path / "texts.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    assert len(load_rankings("preferences", "train", {"data_path": str(file)})) == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('no system role') }}",
            "refuses messages with roles system, user, assistant .*no sys",
        ),
        (
            CHAT_TEMPLATE.replace("<assistant>{% endif", "<assistant><think>{% endif"),
            "renders a prompt in another way if a completion follows: it ends with .*<think>",
        ),
    ],
)
def test_templates_that_do_not_fit(
    template: str, message: str, tiny_gpt2: Path, rows: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = save_chat_tokenizer(tiny_gpt2, tmp_path / "chat", template)
    with pytest.raises(DataError, match=f"line 1: the chat template {message}"):
        load_rankings("preferences", "train", rows, tokenizer)


def test_splits_do_not_depend_on_the_template(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Policy and reward model may have tokenizers of their own."""
    rows = [
        {"prompt": [user(f"p{i} ")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
        for i in range(40)
    ]
    args = {"data_path": str(write(tmp_path / "rows.jsonl", *rows)), "val_share": 0.3}
    tokenizer = save_chat_tokenizer(tiny_gpt2, tmp_path / "chat", CHAT_TEMPLATE)
    plain = load_rankings("preferences", "val", args | {"chat_template": "plain"})
    chat = load_rankings("preferences", "val", args, tokenizer)
    assert [ranking.id for ranking in plain] == [ranking.id for ranking in chat]
    assert 5 < len(plain) < 20 and plain[0].prompt != chat[0].prompt

import re
from typing import get_args

import pytest

import rl4lms.datapools.python_docs as python_docs
from common.python_docs import DEFAULT_PACKAGES, DocRecord
from rl4lms.datapools import Split, load_datapool
from rl4lms.datapools.docstring_forms import FORMS, FormName, is_plain
from rl4lms.datapools.python_docs import pretraining_samples, pretraining_text
from rl4lms.samples import Sample, content_hash

pytestmark = pytest.mark.usefixtures("docstring_cache")

# Small packages with a few hundred docstrings between them.
PACKAGES = ["email", "argparse", "logging", "json", "http", "xml", "unittest", "importlib", "tkinter"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
ALL_FORMS: tuple[FormName, ...] = get_args(FormName)

RECORD = DocRecord(
    "package.module",
    "Grid.set_spacing",
    "method",
    "(self, width: float, height=None)",
    "Set the distance between two lines of the grid.",
    "Set the distance between two lines of the grid. A distance of zero removes all lines.\n\n"
    "The grid is drawn again the next time that the window is shown.",
    "Set the distance between two lines of the grid.\n\nParameters\n----------\nwidth : float\n"
    "    Distance of the vertical lines. Never negative.\nheight : float, optional\n    Short.",
)


def load(form: FormName, split: Split, **args: object) -> list[Sample]:
    return load_datapool("python_docs", split, {"form": form, "packages": PACKAGES, **args})


def padded(text: str) -> str:
    """The words of a text between single spaces, so that `in` finds whole words."""
    return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])


@pytest.mark.parametrize(
    ("form", "prompt", "references"),
    [
        ("summary", "Grid.set_spacing(width: float, height=None)", [RECORD.sentence]),
        ("sentence_from_words", "distance grid lines set two.", [RECORD.sentence]),
        (
            "continuation",
            "Set the distance between two lines of the grid. A distance of zero removes",
            ["all lines. The grid is drawn again the next time that the window is shown."],
        ),
        ("question", RECORD.sentence, ["set_spacing"]),
        ("parameter", "Grid.set_spacing: width (float)", ["Distance of the vertical lines."]),
        ("next_sentence", RECORD.sentence, ["A distance of zero removes all lines."]),
        (
            "first_sentence",
            "A distance of zero removes all lines. "
            "The grid is drawn again the next time that the window is shown.",
            [RECORD.sentence],
        ),
        ("identifier", RECORD.sentence, ["set_the_distance_between_two_lines_of_the_grid"]),
        ("dashes", RECORD.sentence, ["set-the-distance-between-two-lines-of-the-grid"]),
        ("last_word", RECORD.sentence, ["grid"]),
        ("keywords", RECORD.sentence, ["set distance two lines grid"]),
        (
            "opening",
            "Set the distance between two lines of the grid. A distance of zero removes all lines. "
            "The grid is drawn again the next time that the window is shown.",
            [RECORD.sentence],
        ),
    ],
)
def test_forms(form: FormName, prompt: str, references: list[str]) -> None:
    ((actual_prompt, actual_references, meta),) = FORMS[form].pairs(RECORD.sentence, [RECORD])
    assert (actual_prompt, actual_references) == (prompt, references)
    assert set(meta) == {"continuation": {"reference"}, "sentence_from_words": {"concepts"}}.get(form, set())


def test_a_form_passes_over_what_does_not_suit_it() -> None:
    short = DocRecord("m", "f", "function", "()", "Return it.", "Return it.", "Return it.")
    assert [form for form in ALL_FORMS if list(FORMS[form].pairs(short.sentence, [short]))] == [
        "summary",
        "question",
        "hard_question",
        "identifier",
        "dashes",
        "last_word",
        "restore",
    ]
    module = DocRecord("m", "", "module", "", "Tools for grids.", "Tools for grids.", "Tools for grids.")
    named: tuple[FormName, ...] = ("summary", "question", "hard_question")
    assert [form for form in named if list(FORMS[form].pairs(module.sentence, [module]))] == []


def test_restore_leaves_out_a_fifth_of_the_words_the_same_each_time() -> None:
    ((prompt, references, _),) = FORMS["restore"].pairs(RECORD.sentence, [RECORD])
    words, kept = RECORD.sentence.split(), prompt.split()
    assert references == [RECORD.sentence] and len(kept) == len(words) - round(0.2 * 9)
    rest = iter(words)
    assert all(word in rest for word in kept)  # in their order
    assert list(FORMS["restore"].pairs(RECORD.sentence, [])) == [(prompt, references, {})]
    # Any of the words: of another sentence other ones.
    dropped = set()
    for number in range(40):
        sentence = f"zero one two three four five six seven eight {number}"
        ((prompt, _, _),) = FORMS["restore"].pairs(sentence, [])
        assert len(prompt.split()) == 8
        dropped |= {*sentence.split()} - {*prompt.split()}
    assert len(dropped & set("zero one two three four five six seven eight".split())) == 9


@pytest.mark.parametrize("form", ["identifier", "dashes", "last_word"])
@pytest.mark.parametrize(
    "sentence",
    ["Return the 3 largest values of it.", "Set x[0] to the value.", " ".join(["Word"] * 11) + "."],
)
def test_what_becomes_a_name_is_a_few_plain_words(form: FormName, sentence: str) -> None:
    assert list(FORMS[form].pairs(sentence, [])) == []


def test_names_are_in_lower_case_without_the_marks_of_words() -> None:
    sentence = "Don't re-read the user's File!"
    answers = {
        form: references
        for form in ("identifier", "dashes", "last_word")
        for _, references, _ in FORMS[form].pairs(sentence, [])
    }
    assert answers == {
        "identifier": ["dont_re_read_the_users_file"],
        "dashes": ["dont-re-read-the-users-file"],
        "last_word": ["file"],
    }


def test_keywords_are_three_to_eight_words_of_content_in_their_order() -> None:
    def keywords(sentence: str) -> list[str]:
        return [references[0] for _, references, _ in FORMS["keywords"].pairs(sentence, [])]

    assert keywords("Write the zipped File, and close it.") == ["write zipped file close"]
    assert keywords("Close the file.") == []
    nine = "alpha beta gamma delta epsilon zeta eta theta iota"
    assert keywords(nine) == [] and keywords(nine.rpartition(" ")[0]) == [nine.rpartition(" ")[0]]


def test_an_opening_is_of_a_text_that_goes_on() -> None:
    sentence = "Close the file that was read."
    for more, expected in (("", 0), (" Now.", 0), (" It is not opened again by this.", 1)):
        record = DocRecord("m", "f", "function", "()", sentence, sentence + more, sentence + more)
        assert len(list(FORMS["opening"].pairs(sentence, [record]))) == expected
    long = f"{sentence} {' '.join(['Words'] * 100)}."
    record = DocRecord("m", "f", "function", "()", sentence, long, long)
    ((prompt, references, _),) = FORMS["opening"].pairs(sentence, [record])
    assert len(prompt.split()) == 80 and references == [sentence]


@pytest.mark.parametrize("form", ["identifier", "dashes", "restore", "next_sentence"])
def test_the_answer_is_not_to_be_read_off_the_prompt(form: FormName) -> None:
    samples = load(form, "train")
    assert len(samples) > 20
    for sample in samples:
        for reference in sample.references:
            assert reference.casefold() not in sample.prompt_or_input_text.casefold()


def test_a_question_has_all_names_as_references() -> None:
    names = ("Reader.close", "Writer.shut", "close", "Reader")
    kinds = ("method", "method", "function", "class")
    sentence = "Release the file that is read."
    records = [
        DocRecord("m", name, kind, "()", sentence, sentence, sentence)
        for name, kind in zip(names, kinds, strict=True)
    ]
    assert list(FORMS["question"].pairs(sentence, records)) == [(sentence, ["close", "shut"], {})]
    assert list(FORMS["hard_question"].pairs(sentence, records)) == [(sentence, ["close", "shut"], {})]


@pytest.mark.parametrize(
    ("name", "sentence", "easy"),
    [
        ("splitext", "Split the extension from a path.", True),
        ("get_value", "Return the values.", True),
        ("neg", "Negation of a number.", True),
        ("readline", "Take one line from the file.", True),
        ("HTTPServer", "Answers requests for http pages.", True),
        ("dump", "Serialize the object to a file.", False),
        ("map", "Apply a function to all elements.", False),
        ("is_it", "Tell whether it is so.", False),
    ],
)
def test_a_hard_name_shares_no_stem_with_its_sentence(name: str, sentence: str, easy: bool) -> None:
    record = DocRecord("m", name, "function", "()", sentence, sentence, sentence)
    assert (list(FORMS["hard_question"].pairs(sentence, [record])) == []) is easy


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Return the mean of the values.", True),
        ("Return it.", False),
        ("x (int, optional): The number of it all.", False),
        ("return the mean of the values.", False),
        ("Return x[0] + y[1] - z[2] now.", False),
        (" ".join(["Word"] * 23), False),
    ],
)
def test_plain_sentences(sentence: str, expected: bool) -> None:
    assert is_plain(sentence) is expected


@pytest.mark.parametrize("form", ALL_FORMS)
def test_no_prompt_and_no_sentence_asked_for_is_in_two_splits(form: FormName) -> None:
    splits = {split: load(form, split) for split in SPLITS}
    assert all(splits.values())
    assert len(splits["train"]) > len(splits["val"]) + len(splits["test"])
    everything = [sample for samples in splits.values() for sample in samples]
    prompts = [padded(sample.prompt_or_input_text) for sample in everything]
    assert len(set(prompts)) == len(prompts)
    if form not in ("question", "hard_question", "last_word"):
        references = [padded(text) for sample in everything for text in sample.references]
        assert len(set(references)) == len(references)
    # Whatever the form, the first sentences of a split are its own.
    parts = python_docs._sentences_by_part(tuple(PACKAGES))
    keys = [padded(sentence) for part in parts.values() for sentence, _ in part]
    assert len(set(keys)) == len(keys)


def test_the_same_samples_every_time_and_fewer_are_the_first_ones(caplog: pytest.LogCaptureFixture) -> None:
    everything = load("summary", "train")
    python_docs._sentences_by_part.cache_clear()
    python_docs._task_samples.cache_clear()
    again = load("summary", "train")
    assert again == everything and again[0] is not everything[0]
    assert content_hash(again) == content_hash(everything)
    assert load("summary", "train", num_train=5, num_val=1) == everything[:5]
    assert len(load("summary", "val", num_train=5, num_val=3)) == 3
    assert caplog.text == ""
    assert len(load("summary", "test", num_test=10_000)) < 10_000
    assert "10,000 test samples asked for, there are " in caplog.text


def test_another_package_moves_no_sentence_to_another_part() -> None:
    few, more = (
        {
            padded(sentence): part
            for part, groups in python_docs._sentences_by_part(packages).items()
            for sentence, _ in groups
        }
        for packages in (("json", "http"), ("argparse", "http", "json"))
    )
    assert few.items() < more.items()


def test_prefix_and_suffix() -> None:
    (plain,) = load("identifier", "val", num_val=1, prompt_prefix="")
    (default,) = load("identifier", "val", num_val=1)
    (own,) = load("identifier", "val", num_val=1, prompt_prefix="a ", prompt_suffix=" b")
    assert default.prompt_or_input_text == "write as an identifier: " + plain.prompt_or_input_text
    assert own.prompt_or_input_text == f"a {plain.prompt_or_input_text} b"
    assert plain.references == default.references == own.references
    (spaced,) = load("identifier", "val", num_val=1, reference_prefix=" ")
    assert spaced.references == [f" {text}" for text in default.references]


def test_pretraining_sees_no_sentence_of_a_task() -> None:
    text = pretraining_text(PACKAGES)
    assert len(text) > 100 and len(set(text)) == len(text)
    shown = {padded(text) for text in text}
    shown |= {
        padded(text)
        for form in ALL_FORMS
        for sample in pretraining_samples(form, PACKAGES, prompt_prefix="")
        for text in (sample.prompt_or_input_text, *sample.references)
    }
    asked = {
        padded(text)
        for form in ALL_FORMS
        for split in SPLITS
        for sample in load(form, split)
        for text in sample.references
    }
    asked |= {padded(sample.prompt_or_input_text) for sample in load("question", "test", prompt_prefix="")}
    corpus = "\n".join(shown)
    assert len(asked) > 500
    assert [sentence for sentence in asked if len(sentence.split()) >= 4 and sentence in corpus] == []


def test_pretraining_has_the_same_forms() -> None:
    samples = pretraining_samples("identifier", PACKAGES)
    assert len(samples) > 20
    assert all(sample.prompt_or_input_text.startswith("write as an identifier: ") for sample in samples)
    assert samples[0].id == "pretraining_0"


@pytest.mark.slow
def test_the_default_packages_have_enough_of_everything() -> None:
    for form in ALL_FORMS:
        sizes = {split: len(load_datapool("python_docs", split, {"form": form})) for split in SPLITS}
        assert sizes["train"] >= 1_000 and sizes["val"] >= 100 and sizes["test"] >= 100, (form, sizes)
    text = pretraining_text(DEFAULT_PACKAGES)
    assert len(text) > 25_000 and sum(len(paragraph.split()) for paragraph in text) > 500_000


def test_samples_are_kept_on_disk_and_made_anew_where_the_file_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("VANISHING_GRADIENTS_RFT_CACHE", str(tmp_path))
    packages = tuple(PACKAGES)

    def read(form="restore"):
        python_docs._task_samples.cache_clear()
        return python_docs._task_samples(form, packages)

    first = read()
    (file,) = (tmp_path / "docstring_tasks").iterdir()
    written = file.read_bytes()
    python_docs._sentences_by_part.cache_clear()
    monkeypatch.setattr(python_docs, "harvest", None)  # not needed any more
    assert read() == first and file.read_bytes() == written
    monkeypatch.undo()
    monkeypatch.setenv("VANISHING_GRADIENTS_RFT_CACHE", str(tmp_path))
    file.write_bytes(written[:1000])
    assert read() == first and file.read_bytes() == written
    monkeypatch.setattr(python_docs, "source_key", lambda packages: "other sources")
    python_docs._code_and_sources.cache_clear()
    assert read() == first and len(list(file.parent.iterdir())) == 2
    python_docs._code_and_sources.cache_clear()
    python_docs._task_samples.cache_clear()

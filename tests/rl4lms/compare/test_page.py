"""The page of pairs: what it draws, what it hides, and that a browser's clicks are read back as a judge."""

import itertools
import json
from pathlib import Path

import pytest
from chromium import Browser, Page, headless_chromium, wait_until

from rl4lms.compare.choices import Choice, read_choices
from rl4lms.compare.page import render_pairs, sample_pairs

HOSTILE = "</script><script>document.title = 'gone'</script> \U0001f600 \u2028 & \ud800"
PROMPTS = [f"prompt {n}" for n in range(12)]
TEXTS = [
    [[f"a{n} <b>bold</b>", "the same"] for n in range(12)],
    [[f"b{n}\nnext line" if n % 2 else "the same"] for n in range(12)],
    [[f"c{n} {HOSTILE}"] for n in range(12)],
]


def writers(pair):
    """Which models may have written the two texts of a pair, whatever their side."""
    n = PROMPTS.index(pair["prompt"])
    return [
        {i, j}
        for i, j in itertools.permutations(range(3), 2)
        if pair["a"] in TEXTS[i][n] and pair["b"] in TEXTS[j][n]
    ]


def test_pairs_are_of_all_models_with_different_texts_on_random_sides():
    pairs = sample_pairs(PROMPTS, TEXTS, 30)
    assert len(pairs) == 30 and all(pair["a"] != pair["b"] for pair in pairs)
    counts = [sum({i, j} in writers(pair) for pair in pairs) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(counts) >= 9
    assert len({(pair["prompt"], frozenset((pair["a"], pair["b"]))) for pair in pairs}) == 30
    left = sum(pair["a"].startswith("c") for pair in pairs if "c" in (pair["a"][0], pair["b"][0]))
    assert 4 <= left <= 16
    assert [pair["prompt"] for pair in pairs] != sorted(pair["prompt"] for pair in pairs)
    assert pairs == sample_pairs(PROMPTS, TEXTS, 30) != sample_pairs(PROMPTS, TEXTS, 30, seed=1)


def test_there_may_be_fewer_pairs_than_asked_for():
    assert len(sample_pairs(PROMPTS, TEXTS, 1000)) <= 3 * 12
    assert len(sample_pairs(["p"], [[["x"]], [["y"]]], 5)) == 1
    assert sample_pairs(["p"], [[["x"]], [["x"]]], 5) == []


def test_a_page_without_pairs_says_so():
    assert "0 pairs" not in (page := render_pairs([])) and "There is nothing to judge" in page


def test_the_page_names_no_model_and_loads_nothing():
    page = render_pairs(sample_pairs(PROMPTS, TEXTS, 10))
    assert "</script><script>document" not in page
    for loading in ("src=", "href=", "@import", "url(", "http"):
        assert loading not in page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with headless_chromium(folder) as browser:
        browser.downloads = folder / "downloads"
        yield browser


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.html"
    path.write_text(render_pairs(sample_pairs(PROMPTS, TEXTS, 8)))
    return path


def open_page(browser: Browser, file: Path, width: int = 1280) -> Page:
    return Page(browser, file.as_uri(), width)


def test_clicks_are_saved_and_read_back(browser, file):
    page, pairs = open_page(browser, file), sample_pairs(PROMPTS, TEXTS, 8)
    assert page.run("document.title") == "Which text is better?"
    assert page.run("document.getElementById('save').disabled") is True
    shown = page.run("[...document.querySelectorAll('.text')].map(e => e.textContent)")
    assert [shown[0], shown[1]] == [pairs[0]["a"], pairs[0]["b"]] and len(shown) == 16
    clicks = [(0, "a"), (2, "b"), (3, "tie"), (5, "a"), (5, "b"), (6, "tie"), (6, "tie")]
    for card, choice in clicks:
        page.run(
            f"document.querySelectorAll('.pair')[{card}].querySelector('button[value={choice}]').click()"
        )
    assert page.run("document.getElementById('count').textContent") == "4 of 8 judged"
    # What was chosen is there again when the page is opened anew.
    page = open_page(browser, file)
    assert page.run("document.getElementById('count').textContent") == "4 of 8 judged"
    assert page.run("document.querySelectorAll('.pair.done').length") == 4
    page.run("document.getElementById('save').click()")
    saved = browser.downloads / "choices.json"
    wait_until(saved.is_file, "choices.json is saved")
    expected = [(0, 1.0), (2, 0.0), (3, 0.5), (5, 0.0)]
    assert read_choices(saved) == [Choice(*pairs[i].values(), value) for i, value in expected]
    saved.unlink()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk(browser, file, width):
    page = open_page(browser, file, width)
    assert page.run("innerWidth") == width
    root = "document.documentElement"
    assert page.run(f"{root}.scrollWidth <= {root}.clientWidth") is True  # nothing to scroll sideways
    boxes = page.run(
        "[...document.querySelectorAll('.texts')[0].children].map(e => {"
        "const r = e.getBoundingClientRect(); return [r.left, r.top, r.width]})"
    )
    (left, top, wide), (other_left, other_top, _) = boxes
    side_by_side = other_left >= left + wide and other_top == top
    below = other_left == left and other_top > top
    assert side_by_side if width > 1000 else below
    heights = page.run("[...document.querySelectorAll('button')].map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= 44  # a finger's width
    assert page.run("document.getElementById('save').getBoundingClientRect().bottom <= innerHeight") is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no choice: judge some pairs on the page first"),
        ("3", "choice 1: expected an object with prompt, a, b, choice, got 3"),
        (
            '[{"prompt": "p", "a": "x", "b": "y"}]',
            "choice 1: lacks choice; a choice has prompt, a, b, choice",
        ),
        (
            '{"prompt": "p", "a": "x", "b": "y", "choice": "c"}',
            "choice 1: choice must be a, b or tie, is 'c'",
        ),
        ('{"prompt": "p", "a": 1, "b": "y", "choice": "a"}', "choice 1: a must be a text, is 1"),
        ('{"prompt": "p", "a": "x", "b": "y", "choice": "a"}\n{"promp', "line 2 is not JSON"),
    ],
)
def test_files_that_are_no_choices(content, message, tmp_path):
    path = tmp_path / "choices.json"
    path.write_text(content)
    with pytest.raises(Exception, match=message) as error:
        read_choices(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_choices_may_be_lines(tmp_path):
    path = tmp_path / "choices.jsonl"
    rows = [{"prompt": "p", "a": "x", "b": "y", "choice": choice} for choice in ("a", "tie", "b")]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert [choice.value for choice in read_choices(path)] == [1, 0.5, 0]

"""What a browser makes of the page of inputs, and of the report that leads to it."""

import json

import numpy as np
import pytest
from chromium import Page, headless_chromium
from explorer_tables import HOSTILE, ROWS, check

from rft_diagnose import explorer, write_report


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes nearly all of the time."""
    monkeypatch.setattr(write_report, "draw", lambda *arguments: [])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless_chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of ROWS, pictures included."""
    return check(tmp_path_factory.mktemp("results"), ROWS)


def open_page(browser, folder, name="explorer.html", width=1280):
    return Page(
        browser,
        f"{(folder / name.partition('#')[0]).as_uri()}{name[name.find('#') :] if '#' in name else ''}",
        width,
    )


def shown(page):
    """The ids in the list."""
    return page.run("[...document.querySelectorAll('#list .line')].map(e => e.textContent.slice(0, 3))")


def sort(page, name):
    page.run(f"chosen = document.getElementById('sort'); chosen.value = {name!r}")
    page.run("chosen.dispatchEvent(new Event('change'))")


def search(page, text):
    page.run(f"field = document.getElementById('query'); field.value = {text!r}")
    page.run("field.dispatchEvent(new Event('input'))")


def press(page, key):
    page.run(
        f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}}))"
    )


HEADING = "document.querySelector('#detail h2')?.textContent"


def test_inputs_are_sorted_filtered_and_searched(browser, results):
    page = open_page(browser, results)
    assert page.run("document.title") == "Inputs: t.jsonl"
    assert page.run("document.getElementById('count').textContent") == "40 of 40 inputs"
    assert shown(page)[:3] == ["p00", "p01", "p02"]

    sort(page, "length")
    assert shown(page)[:2] == ["p00", "p02"] and shown(page)[-1] == "p39"
    page.run("document.getElementById('direction').click()")
    assert shown(page)[0] == "p39"
    sort(page, "std")
    assert shown(page)[0] == "p10" and shown(page)[-1] == "p09"
    page.run("document.querySelector('#classes button[value=\"2\"]').click()")
    assert page.run("document.getElementById('count').textContent") == "10 of 40 inputs"
    page.run("document.querySelector('#classes button[value=\"2\"]').click()")
    search(page, "SAYS 17 ")
    page.wait("document.getElementById('count').textContent === '1 of 40 inputs'")
    assert shown(page) == ["p17"]


def test_an_input_is_opened_by_address_and_by_keys(browser, results):
    page = open_page(browser, results, "explorer.html#input=p12")
    page.wait(f"{HEADING} === 'p12'")
    texts = page.run("[...document.querySelectorAll('#detail pre')].map(e => e.textContent)")
    assert texts[0] == "question 12" + " and so on" * 12 and texts[1] == "says 12 39" and len(texts) == 41
    for key, heading in (("j", "p13"), ("k", "p12"), ("k", "p11")):
        press(page, key)
        page.wait(f"{HEADING} === {heading!r}")
    press(page, "Escape")
    page.wait("location.hash === '' && document.querySelector('#detail h2') === null")
    press(page, "/")
    assert page.run("document.activeElement.id") == "query"
    page.run("location.hash = '#input=nothing'")
    page.wait("document.querySelector('#detail')?.textContent.includes('is not among those on this page')")


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_a_phone_and_a_desk_and_texts_do_no_harm(browser, results, width):
    root = "document.documentElement"
    fits = f"{root}.scrollWidth <= {root}.clientWidth"
    for name in ("explorer.html", "explorer.html#input=p00", "explorer.html#input=p01", "report.html"):
        page = open_page(browser, results, name, width)
        assert page.run("innerWidth") == width
        assert page.run(fits) is True, name  # nothing to scroll sideways
        assert "gone" not in page.run("document.title")
        assert page.run("document.querySelectorAll('img[src=x]').length") == 0
    # In the report every picture is seen whole, and what is wider than the page scrolls in its own box.
    assert page.run(
        "[...document.querySelectorAll('img')].every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    assert page.run(
        "[...document.querySelectorAll('table')].every(e => e.parentElement.matches('.scroll') && "
        "e.parentElement.getBoundingClientRect().right <= innerWidth)"
    )
    page = open_page(browser, results, "explorer.html", width)
    heights = page.run("[...document.querySelectorAll('button, select, input')].map(e => e.offsetHeight)")
    assert min(heights) >= 44  # a finger's width
    page.run("document.querySelector('#list a').click()")
    page.wait(f"{HEADING} === 'p00'")
    is_seen = "document.getElementById('overview').offsetParent !== null"
    assert page.run(is_seen) is (width > 1000)
    assert page.run("document.querySelector('#detail pre').textContent").startswith("question 0")
    assert HOSTILE in page.run("[...document.querySelectorAll('#detail pre')].map(e => e.textContent)")


def test_the_report_leads_to_each_input_that_it_names(browser, results):
    page = open_page(browser, results, "report.html")
    links = page.run(
        "[...document.querySelectorAll('a[href*=\"#input=\"]')].map(e => e.getAttribute('href'))"
    )
    assert links == [f"explorer.html#input=p{i:02}" for i in range(10)]
    page.run("document.querySelectorAll('a[href*=\"#input=\"]')[3].click()")
    page.wait("location.pathname.endsWith('explorer.html') && document.readyState === 'complete'")
    page.wait(f"{HEADING} === 'p03'")


def test_labels_of_any_kind_are_found_by_their_address(browser, tmp_path, undrawn):
    names = [HOSTILE, "100% #1&a=b?", "é 字 \U0001f600", "x" * 300, "a\nb\tc", "%41"]
    folder = check(
        tmp_path, [{"prompt": name, "completion": f"{g}", "reward": 0.0} for name in names for g in range(40)]
    )
    page = open_page(browser, folder, "report.html")
    links = page.run(
        "[...document.querySelectorAll('a[href*=\"#input=\"]')].map(e => e.getAttribute('href'))"
    )
    assert len(links) == len(names)
    for link, name in zip(links, names, strict=True):
        page = open_page(browser, folder, link)
        page.wait("document.querySelector('#detail pre') !== null")
        assert page.run("document.querySelector('#detail pre').textContent") == name


def test_two_thousand_inputs_of_64_texts_are_drawn_on_demand(browser, tmp_path, undrawn):
    rng = np.random.default_rng(0)
    with (tmp_path / "t.jsonl").open("w") as file:
        for i in range(2000):
            p = (0.0, 1.0, 0.5, 0.03)[i % 4]
            for g in range(64):
                row = {
                    "prompt": f"prompt {i:04}",
                    "completion": f"text {i} {g} " + "w " * 20,
                    "reward": float(rng.random() < p),
                }
                file.write(json.dumps(row) + "\n")
    folder = check(tmp_path, tmp_path / "t.jsonl")
    assert (folder / "explorer.html").stat().st_size < explorer.MOST_BYTES
    page = open_page(browser, folder)
    count = int(page.run("document.getElementById('count').textContent").split()[2].replace(",", ""))
    assert count >= 1500 and len(shown(page)) <= 240  # not all: they come as the list is scrolled
    drawn = len(shown(page))
    page.run("document.getElementById('overview').scrollTo(0, 1e6)")
    page.wait(f"document.querySelectorAll('#list li').length > {drawn}")
    search(page, " 63 w")  # in a text of every input
    page.wait("document.getElementById('query').value === ' 63 w'")
    page.run("document.querySelector('#list a').click()")
    page.wait(f"{HEADING} === 'prompt 0000'")
    assert page.run("document.querySelectorAll('#detail pre').length") == 65
    assert len(shown(page)) <= 240

"""The page: what is on it, and that nothing has to be loaded from elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from common.run_dir import RunDir
from figures.claims import Results, Verdict, evaluate
from figures.criteria import CRITERIA
from figures.report import SECTIONS, Item, render, write_report
from figures.style import save_figure

ORIGIN = {"versions": {"torch": "9.9"}, "commit": 40 * "c", "dirty": False}
VOID = {"meta", "img", "input", "source", "br", "td", "th", "tr", "p", "li"}  # whose end tag may be left out


class Page(HTMLParser):
    """What a page holds, and that its elements are nested."""

    def __init__(self, text):
        super().__init__()
        self.text, self.links, self.sources, self.ids, self.open, self.tags = "", [], [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def item(tmp_path):
    with RunDir.create(tmp_path / "runs", "a", {}, ORIGIN) as run:
        run.update_manifest(status="finished")
    runs = [{"path": str(run.path), "seed": 3}]
    figure = Figure(figsize=(9, 2))
    figure.subplots()
    save_figure(figure, tmp_path / "figures" / "figure1", pd.DataFrame({"x": [1]}), runs)
    return Item(
        "figure1", "Figure 1: a & b", "What it <shows>.", [tmp_path / "figures" / "figure1"], runs=runs
    )


def page(items, verdicts, folder):
    return Page(render("Title <1>", "Intro.", items, verdicts, folder))


def test_page_is_whole_and_loads_nothing(item, tmp_path):
    found = page([item], evaluate(Results()), tmp_path)
    assert found.open == [] and "script" not in found.tags and "link" not in found.tags
    assert all(source.startswith("data:image/png;base64,") for source in found.sources) and found.sources
    assert not [link for link in found.links if re.match(r"\w+:|//", link)]
    assert "Title <1>" in found.text and "What it <shows>." in found.text
    assert "url(" not in render("", "", [item], [], tmp_path)


def test_links_lead_to_files_and_sections(item, tmp_path):
    write_report(tmp_path / "pages" / "report.html", "T", "I", [item], evaluate(Results()))
    found = Page((tmp_path / "pages" / "report.html").read_text())
    files = [link for link in found.links if not link.startswith("#")]
    assert sorted((tmp_path / "pages" / link).resolve().name for link in files) == [
        f"figure1.{suffix}" for suffix in ("csv", "json", "pdf", "png")
    ]
    assert all((tmp_path / "pages" / link).is_file() for link in files)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_claims_are_counted_and_shown_with_value_and_criterion(tmp_path):
    first, second, third, *_ = CRITERIA
    verdicts = [
        Verdict(first, "holds", 0.75, "seeds 0: 0.750"),
        Verdict(second, "fails", 0.5, "x < y"),
        Verdict(third, "not tested", float("nan"), "no run"),
    ]
    text = page([Item("figure1", "Figure 1: x", "")], verdicts, tmp_path).text
    assert "Of 3 claims 1 hold in this run, 1 fail, 1 were not tested." in text
    assert f"Measured: {first.measure}: 0.750; seeds 0: 0.750" in text
    assert f"Holds if at least 0.5: {first.why}." in text
    assert "x < y" in text and "nan" not in text
    for badge in ("\u2713 holds", "\u2717 fails", "\u2013 not tested"):
        assert text.count(badge) == 2  # in the overview and at the item
        assert f"{badge} 1" in text


def test_numbers_of_the_paper_say_how_sure_they_are(tmp_path):
    text = page([Item("table2", "Table 2: x", ""), Item("figure5", "Figure 5: y", "")], [], tmp_path).text
    assert "Paper: SFT, then RFT: 0.54 (quoted by a secondary source, not exact)" in text
    assert "no claim is tested" in text


def test_missing_runs_are_named_with_their_commands(item, tmp_path):
    missing = [
        {"run": "question, RFT, seed 0", "status": "interrupted", "command": "python x.py --resume 'a b'"}
    ]
    drawn = Item("figure1", "Figure 1", "", item.stems, missing=missing)
    text = page([drawn, Item("table1", "Table 1", "", missing=missing)], [], tmp_path).text
    assert "partial: 1 run missing" in text and "not drawn: 1 run missing" in text
    assert "question, RFT, seed 0 (interrupted)python x.py --resume 'a b'" in text


def test_items_come_in_sections_of_the_papers_order(tmp_path):
    names = ("figure4", "new", "theory", "figure1")
    found = page([Item(name, f"{name}: x", "") for name in names], [], tmp_path)
    assert [name for name in found.ids if name in names] == ["figure1", "theory", "figure4", "new"]
    assert [heading for heading, _ in SECTIONS if heading in found.text] == [
        "Where gradients vanish: text generation",
        "Theory",
        "What helps: a short SFT phase",
    ]
    assert found.text.index("More") < found.text.index("new: x"), "an item of no section stands last"


def test_an_item_says_from_which_runs_it_is_and_what_drew_it(tmp_path):
    runs = [{"path": path, "seed": seed} for path, seed in (("a", 0), ("a", 0), ("b", 2))]
    save_figure(
        Figure(figsize=(1, 1)), tmp_path / "figure1", pd.DataFrame({"x": [1]}), runs, command="make it"
    )
    save_figure(Figure(figsize=(1, 1)), tmp_path / "theory", pd.DataFrame({"x": [1]}), [])
    items = [
        Item("figure1", "Figure 1", "", [tmp_path / "figure1"], runs=runs),
        Item("theory", "Theory", "", [tmp_path / "theory"]),
    ]
    text = page(items, [], tmp_path).text
    assert "From 2 runs (seeds 0, 2); the CSV file holds the numbers" in text and "Drawn by: make it" in text
    assert "Computed, not from runs" in text


def test_linked_files_are_not_shown(item, tmp_path):
    folder = tmp_path / "figures"
    save_figure(Figure(figsize=(1, 1)), folder / "figure1_all", pd.DataFrame({"x": [1]}), [])
    found = page([replace(item, linked=[folder / "figure1_all"])], [], tmp_path)
    assert len(found.sources) == 1 and "figures/figure1_all.csv" in found.links


def test_tables_are_on_the_page(tmp_path):
    table = pd.DataFrame({"task": ["a<b"], "n": [3]})
    text = page([Item("table1", "Table 1", "", table=table)], [], tmp_path).text
    assert "taskna<b3" in text


def test_origin_names_versions_commits_seeds_and_folders(item, tmp_path):
    gone = Item("theory", "Theory", "", runs=[{"path": "gone"}])
    text = page([item, gone], [], tmp_path).text
    assert "2 runs; seeds: 3; commits: cccccccccccc, unknown" in text
    assert "torch 9.9" in text and item.runs[0]["path"] in text and "gone" in text


def test_a_phone_shows_whole_pictures_and_a_narrow_one_where_there_is_one(item, tmp_path):
    text = render("", "", [item], [], tmp_path)
    assert "@media(max-width:34rem){.zoom input:not(:checked)~.scroll img{min-width:0!important}" in text
    assert "<source" not in text
    stem = item.stems[0]
    stem.with_name(f"{stem.name}_narrow.png").write_bytes(stem.with_name(f"{stem.name}.png").read_bytes())
    text = render("", "", [item], [], tmp_path)
    assert "<picture><source media='(max-width:34rem)' srcset='data:image/png;base64," in text


def test_wide_pictures_scroll_rather_than_shrink_to_nothing(item, tmp_path):
    text = render("", "", [item], [], tmp_path)
    assert "max-width:864px;min-width:536px" in text  # 9 inches of 96 CSS pixels
    assert "prefers-color-scheme:dark" in text and "width=device-width" in text

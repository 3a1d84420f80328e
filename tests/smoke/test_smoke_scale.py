"""The whole study at its smallest, from nothing to the page: directions of rewards, and nothing run twice."""

import json
import re

import pandas as pd
import pytest
from clones import link_clone, run_smoke

ITEMS = ["figure1", "figure2", "table1", "table_rewards", "table2", "figure3", "figure3_sgd",
         "figure3_high_init_reward", "figure3_group", "figure4", "figure5_continuation_style",
         "figure5_hard_question_rouge", "figure5_identifier_bleu"]  # fmt: skip

pytestmark = pytest.mark.slow  # three minutes: the default suite is to stay under ten


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A clone without outputs, after the command."""
    folder = link_clone(tmp_path_factory.mktemp("clone"))
    run_smoke(folder)
    return folder


@pytest.fixture
def tasks(drawn):
    table = pd.read_csv(drawn / "outputs" / "figures" / "smoke" / "figure2.csv")
    return {row["task"]: row for row in table.to_dict("records")}


def test_a_learned_reward_is_raised_by_rft(tasks):
    row = tasks["continuation_style"]
    assert row["rft"] > row["pretrain_mean"] + 0.1
    assert row["dead"] <= 0.05


def test_on_hard_questions_sft_gains_and_rft_does_not(tasks):
    row = tasks["hard_question_rouge"]
    assert row["dead"] > 0.8
    assert row["sft"] > 0.4
    assert row["rft"] < 0.1


def test_every_item_has_its_files_and_runs(drawn):
    folder = drawn / "outputs" / "figures" / "smoke"
    for item in ITEMS:
        figure = item.startswith("figure")
        for suffix in (".pdf", ".png", ".csv") if figure else (".md", ".tex", ".csv"):
            assert (folder / f"{item}{suffix}").stat().st_size > 0
        described = json.loads((folder / f"{item}.json").read_text())
        assert described["runs"] and all((drawn / run["path"]).is_dir() for run in described["runs"])
    for stem in ("theory", "theory_group"):
        assert (folder.parent / f"{stem}.png").stat().st_size > 0


def test_the_page_and_what_it_links_exist(drawn):
    page = drawn / "outputs" / "figures" / "smoke" / "report.html"
    text = page.read_text()
    links = re.findall(r"(?:href|src)='([^']+)'", text)
    files = [link for link in links if not link.startswith(("#", "data:"))]
    assert len(files) > 20 and all((page.parent / file).is_file() for file in files)
    assert all(f"id='{link[1:]}'" in text for link in links if link.startswith("#"))
    assert "Its numbers are of no weight" in text


def test_group_algorithms_are_asked_for_by_name(drawn):
    """What a scaled reward does shows even here: GRPO learns as from the full one, RLOO does not."""
    folder = drawn / "outputs" / "groups" / "smoke"
    assert not list((drawn / "outputs" / "figures" / "smoke").glob("*groups*"))
    run_smoke(drawn, "--only", "table_groups", "--output_dir", "outputs/groups")
    table = pd.read_csv(folder / "table_groups.csv").set_index(["task", "method"])
    # PPO, GRPO, DAPO of each; RLOO; the short SFT, and GRPO after it; RLOO, and both with a scaled reward.
    counts = table.groupby("task").size().to_dict()
    assert counts == {"hard_question_rouge": 4, "identifier_bleu": 5, "continuation_style": 6}
    assert (table.loc["hard_question_rouge", "dead"] > 0.8).all()
    gains = (table["train"] - table["start"])["continuation_style"]
    assert gains["grpo_scaled"] > 0.8 * gains["grpo"] > 0.1
    assert gains["rloo_scaled"] < 0.5 * gains["rloo"]
    tokens = table["tokens"].dropna()
    assert ((tokens >= 5_120) & (tokens < 8_000)).all() and len(tokens) == 14
    assert (folder / "groups.png").stat().st_size > 5_000
    page = (folder / "report.html").read_text()
    assert "<section id='table_groups'>" in page and "too small to show it" in page


def test_instructgpt_s_pipeline_is_asked_for_by_name(drawn):
    folder = drawn / "outputs" / "instructgpt" / "smoke"
    assert not list((drawn / "outputs" / "figures" / "smoke").glob("instructgpt*"))
    flags = ("--only", "instructgpt", "--output_dir", "outputs/instructgpt")
    run_smoke(drawn, *flags)
    table = pd.read_csv(folder / "instructgpt.csv").set_index("method")
    assert list(table.index) == ["ppo-0", "ppo-0_02", "ppo-ptx-0_02"] and table["kl_root"].gt(0).all()
    assert 0 < table.loc["ppo-ptx-0_02", "policy_share"] < 1
    for stem in ("instructgpt_kl", "instructgpt_wins", "instructgpt_ptx", "instructgpt_teachers"):
        assert (folder / f"{stem}.png").stat().st_size > 5_000
        assert json.loads((folder / f"{stem}.json").read_text())["runs"]
    teachers = pd.read_csv(folder / "instructgpt_teachers.csv").set_index(["kl", "teacher"])
    perfect = teachers.loc[(0.05, "squashed")]
    assert (
        perfect["accuracy"] == 1 and perfect["variance"] < teachers.loc[(0.05, "on_policy_100"), "variance"]
    )
    page = (folder / "report.html").read_text()
    assert "<section id='instructgpt'>" in page and "too small to show it" in page
    assert re.search(r"^in all +0 runs", run_smoke(drawn, *flags), re.MULTILINE), "again it runs nothing"


def test_again_runs_nothing(drawn):
    """Last: it draws everything again."""

    def runs():
        manifests = (drawn / "outputs" / "smoke").glob("*/*/*manifest.json")
        return {path: path.stat().st_mtime_ns for path in manifests}

    before = runs()
    assert len(before) > 30
    printed = run_smoke(drawn)
    assert runs() == before
    assert re.search(r"^in all +0 runs", printed, re.MULTILINE)

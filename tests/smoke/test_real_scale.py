"""The scale "real" from fetched data to its page, with a tiny model and few rows in their place."""

import json
import re
import shutil

import pandas as pd
import pytest
from clones import REPO, link_clone
from tiny_models import save_tiny_gpt2
from tiny_wordnet import write_wordnet

from paper.real_data.fetch import SOURCE, describe_source
from paper.real_data.packages import DATA, FOLDER
from reproduce_paper import main

pytestmark = pytest.mark.slow  # 24 runs
SMALLER = {
    "n_iters: 24": "n_iters: 2",
    "eval_every: 12": "eval_every: 2",
    "save_every: 12": "save_every: 2",
    "max_eval_samples: 50": "max_eval_samples: 4",
    "num_train_samples: 48": "num_train_samples: 6",
    "num_samples_per_input: 10": "num_samples_per_input: 3",
    "sft_steps: 24": "sft_steps: 2",
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with smaller configs, in which the data was fetched."""
    folder = link_clone(tmp_path / "clone")
    (folder / "rl4lms_scripts").unlink()
    shutil.copytree(REPO / "rl4lms_scripts", folder / "rl4lms_scripts")
    replaced = set()
    for path in (folder / "rl4lms_scripts" / "real").iterdir():
        text = path.read_text()
        for old, new in SMALLER.items():
            if old in text:
                text = text.replace(old, new)
                replaced.add(old)
        path.write_text(text)
    assert replaced == set(SMALLER)
    monkeypatch.chdir(folder)
    save_tiny_gpt2(FOLDER / "smollm2")
    write_wordnet(FOLDER / "wordnet")
    for task in ("categories", "sentences"):
        (FOLDER / "wordnet" / task).mkdir()
        for split in ("train", "val", "test"):
            rows = [{"prompt": f"the {split} cat {i}:", "references": " a small cat"} for i in range(64)]
            (FOLDER / "wordnet" / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("wordnet", "smollm2"):
        (FOLDER / name / SOURCE).write_text(json.dumps(describe_source(DATA[name])))
    return folder


def test_from_fetched_data_to_the_page(clone, capsys):
    argv = ["--scale", "real", "--only", "figure1", "figure5", "table_rewards", "--jobs", "1", "--report"]
    assert main(argv) == 0
    folder = clone / "outputs" / "figures" / "real"
    for stem in ("figure1", "figure5_category_rouge", "figure5_sentence_from_words_meteor"):
        assert (folder / f"{stem}.png").stat().st_size > 5_000
    rewards = pd.read_csv(folder / "table_rewards.csv")
    assert set(zip(rewards["task"], rewards["split"], strict=True)) == {
        (task, split)
        for task in ("category_rouge", "sentence_from_words_meteor")
        for split in ("train", "test")
    }
    assert rewards[["pretrained", "rft", "sft", "sft_rft"]].notna().all(axis=None)
    for task in ("category", "sentence_from_words"):
        summary = json.loads((folder / f"preflight_{task}" / "summary.json").read_text())
        assert [reward["inputs"] for reward in summary["rewards"].values()] == [6]
    page = (folder / "report.html").read_text()
    assert "prompts before any training" in page
    assert re.search(r"Of 13 claims \d+ hold in this run, \d+ fail, 6 were not tested", page)
    runs = sorted((clone / "outputs" / "real_study").iterdir())
    capsys.readouterr()
    assert main(argv) == 0
    assert sorted((clone / "outputs" / "real_study").iterdir()) == runs, "nothing is run twice"
    assert re.search(r"^in all +0 runs", capsys.readouterr().out, re.MULTILINE)

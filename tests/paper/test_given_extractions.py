"""Figure 1 from extraction files, of this repository and of the paper's released code."""

import numpy as np
import pandas as pd
import pytest
import torch

import reproduce_paper
from rft_diagnose import style

METRIC = "lexical/rouge_l_max"
CONFIG = {"datapool": {"id": "narrative_qa", "num_train_samples": 5, "train_samples_rnd_seed": 1}}


def released(path, seed, inputs=5, **changes):
    """A file as the released code writes it: no ids, no prompts, no references."""
    rewards = np.random.default_rng(seed).random((inputs, 4))
    content = {
        "all_generated_texts": [[f"text {i} {k}" for k in range(4)] for i in range(inputs)],
        "all_metric_values": {METRIC: torch.tensor(rewards), "lexical/meteor": torch.zeros(inputs, 4)},
        "used_train_indices": torch.tensor([7, 3, 11, 0, 5][:inputs]),
        "num_train_samples": inputs,
        "config": CONFIG,
    } | changes
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path, rewards


@pytest.fixture
def draw(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "render_figure", lambda figure: (b"", b""))

    def run(*paths, only=("figure1",)):
        flags = ["--only", *only, "--runs", *map(str, paths), "--output_dir", str(tmp_path / "out")]
        return reproduce_paper.main(flags)

    return run


def test_figure1_is_drawn_from_files_of_the_released_code(tmp_path, draw, capsys):
    files = [released(tmp_path / f"{name}.pt", seed) for seed, name in enumerate("abc")]
    assert draw(*(path for path, _ in files)) == 0
    table = pd.read_csv(tmp_path / "out" / "runs" / "figure1.csv")
    assert list(dict.fromkeys(table["panel"])) == ["pretrained", "RFT", "SFT"]
    for panel, (_, rewards) in zip(("pretrained", "RFT", "SFT"), files, strict=True):
        rows = table[table["panel"] == panel]
        assert rows["id"].tolist() == [7, 3, 11, 0, 5]
        assert rows["mean"].to_numpy() == pytest.approx(rewards.mean(1))
        assert rows["std"].to_numpy() == pytest.approx(rewards.std(1))
    assert "figure1" in capsys.readouterr().out


def test_files_of_both_are_drawn_together(tmp_path, draw):
    path, _ = released(tmp_path / "a.pt", 0)
    texts = {"ids": list("vwxyz"), "prompts": list("12345"), "references": [["x"]] * 5}
    ours, _ = released(tmp_path / "b.pt", 1, used_train_indices=[7, 3, 11, 0, 5], **texts)
    assert draw(path, ours) == draw(ours, path) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"used_train_indices": torch.arange(5)}, "is not of the inputs of"),
        ({"config": {"datapool": {"id": "totto"}}}, "is not of the inputs of"),
        ({"all_metric_values": {"bleu": torch.zeros(5, 4)}}, "', which is drawn; it has bleu"),
        ({"all_metric_values": {METRIC: torch.zeros(5)}}, f"metric '{METRIC}' is not a tensor of [5 inputs,"),
        ({"all_metric_values": {METRIC: torch.zeros(4, 4)}}, "is not a tensor of [5 inputs, generations]"),
        ({"all_metric_values": None}, "is not an extraction file: it lacks rewards or indices of inputs"),
        ({"used_train_indices": None}, "is not an extraction file: it lacks rewards or indices of inputs"),
    ],
    ids=range(7),
)  # fmt: skip
def test_what_does_not_fit_is_one_line(tmp_path, draw, capsys, changes, message):
    first, _ = released(tmp_path / "a.pt", 0)
    second, _ = released(tmp_path / "b.pt", 1, **changes)
    assert draw(first, second) == 2
    error = capsys.readouterr().err
    assert message in error and str(second) in error and error.count("\n") == 1


def test_what_is_no_such_file_is_one_line(tmp_path, draw, capsys):
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("text")
    for name in ("list", "text", "nothing"):
        assert draw(tmp_path / f"{name}.pt") == 2
        error = capsys.readouterr().err
        assert f"{name}.pt" in error and error.count("\n") == 1 and "eights" not in error


def test_figure5_needs_prompts(tmp_path, draw, capsys):
    path, _ = released(tmp_path / "a.pt", 0)
    assert draw(path, only=("figure1", "figure5")) == 2
    assert "it lacks texts, rewards or prompts" in capsys.readouterr().err


def test_a_config_that_does_not_name_its_dataset_is_none_the_less_drawn(tmp_path, draw):
    assert draw(released(tmp_path / "a.pt", 0, config=None)[0]) == 0

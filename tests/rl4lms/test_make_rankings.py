"""Rankings of a model's texts by a noisy gold reward: the noise, what is written, resuming, mistakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pretraining_setting import save_laptop_models

import rl4lms_make_rankings as runner
from common.run_dir import find_runs
from rl4lms.config.rankings import NoisyRankingConfig
from rl4lms.datapools import load_rankings
from rl4lms.extract import ExtractionInterrupted
from rl4lms.make_rankings import (
    RankingsError,
    Texts,
    choose_texts,
    find_scale,
    format_rows,
    log_odds,
    measure_agreement,
)

REPO = Path(__file__).parents[2]
CONFIGS = sorted((REPO / "rl4lms_scripts" / "instructgpt" / "laptop").glob("*_rankings.yml"))


def settings(**changes: Any) -> NoisyRankingConfig:
    fields = {"agreement": 0.79, "n_train": 1, "n_val": 1, "n_test": 1} | changes
    return NoisyRankingConfig(**fields)


def simulated(prompts: int, draw: int, **changes: Any) -> list[Texts]:
    """Prompts whose gold rewards differ from each other as much as within each."""
    rng = np.random.default_rng(draw)
    gold = torch.tensor(rng.normal(size=(prompts, 10)) + rng.normal(size=(prompts, 1)), dtype=torch.float32)
    content = {
        "ids": list(range(prompts)),
        "prompts": [f"p{i}" for i in range(prompts)],
        "references": [["r"]] * prompts,
        "all_generated_texts": [[f"t{j}" for j in range(10)]] * prompts,
        "all_metric_values": {"gold": gold},
    }
    return choose_texts(content, settings(**changes), "train")


@pytest.mark.parametrize("agreement", [0.6, 0.79, 0.95])
def test_so_many_pairs_agree_with_gold(agreement: float) -> None:
    train, held_out = simulated(1000, 0), simulated(1000, 1, seed=1)
    scale = find_scale(train, agreement)
    reached, pairs = measure_agreement(train, scale)
    assert abs(reached - agreement) < 2 / pairs and pairs > 15_000
    # Other prompts and other noise: a matter of chance.
    assert abs(measure_agreement(held_out, scale)[0] - agreement) < 0.01
    rows = [json.loads(line) for line in format_rows(train, scale).splitlines()]
    agreeing = [
        (row["gold"][i] > row["gold"][j]) == (row["scores"][i] > row["scores"][j])
        for row in rows
        for i in range(len(row["gold"]))
        for j in range(i)
    ]
    assert np.mean(agreeing) == pytest.approx(reached)


def test_comparisons_are_those_of_bradley_and_terry() -> None:
    train = simulated(2000, 0)
    scale = find_scale(train, 0.79)
    first = [texts.gold[0] - texts.gold[1] for texts in train]
    won = [texts.gold[0] - texts.gold[1] + scale * (texts.noise[0] - texts.noise[1]) > 0 for texts in train]
    expected = 1 / (1 + np.exp(-np.array(first) / scale))
    for low in np.arange(0, 1, 0.25):
        bin_ = (expected >= low) & (expected < low + 0.25)
        error = np.mean(np.array(won)[bin_]) - expected[bin_].mean()
        assert bin_.sum() > 200 and abs(error) < 4 * 0.5 / np.sqrt(bin_.sum())


def test_without_noise_the_ranking_is_golds() -> None:
    train = simulated(20, 0)
    assert find_scale(train, 1) == 0 and measure_agreement(train, 0)[0] == 1
    assert all(row["scores"] == row["gold"] for row in map(json.loads, format_rows(train, 0).splitlines()))


def test_an_agreement_out_of_reach() -> None:
    texts = Texts(0, "p", [], ["a", "b"], np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    with pytest.raises(RankingsError, match=r"0.79 cannot be reached, with noise alone 1.000 of the 1 pairs"):
        find_scale([texts], 0.79)
    with pytest.raises(
        RankingsError, match="the gold reward is the same for all texts of every train prompt"
    ):
        find_scale([Texts(0, "p", [], ["a", "b"], np.zeros(2), np.zeros(2))], 0.79)


def test_numbers_of_completions_are_equally_likely() -> None:
    counts = np.bincount([len(texts.completions) for texts in simulated(3000, 0)])
    assert counts[:4].sum() == 0 and len(counts) == 10
    assert np.all(np.abs(counts[4:] - 500) < 5 * np.sqrt(500))


def test_equal_texts_and_prompts_are_taken_once() -> None:
    content = {
        "ids": ["a", "b", "c"],
        "prompts": ["p", "q", "p"],
        "references": [["r"], [], []],
        "all_generated_texts": [["x", "y", "x", "z", "w"], ["x"] * 5, ["x", "y", "z", "w", "v"]],
        "all_metric_values": {"gold": torch.arange(15.0).reshape(3, 5) / 15},
    }
    (texts,) = choose_texts(content, settings(k_min=3, k_max=3), "val")
    assert (texts.id, texts.prompt, texts.references) == ("a", "p", ["r"])
    assert texts.completions == ["x", "y", "z"]  # the first three different ones
    assert texts.gold == pytest.approx(np.array([0, 1, 3]) / 15)
    (odds,) = choose_texts(content, settings(k_min=3, k_max=3, log_odds=True), "val")
    assert odds.gold == pytest.approx(np.log(np.array([1e-6 / (1 - 1e-6), 1 / 14, 3 / 12])))
    assert odds.noise.tolist() == texts.noise.tolist()
    assert choose_texts(content, settings(k_min=3, k_max=3), "test")[0].noise.tolist() != texts.noise.tolist()


def test_log_odds_are_of_probabilities() -> None:
    assert log_odds(np.array([0.0, 0.5, 1.0])) == pytest.approx([-13.8155, 0, 13.8155], abs=1e-4)
    with pytest.raises(
        RankingsError, match=r"the gold reward is no probability, it goes from -1 to 0.5; set"
    ):
        log_odds(np.array([-1, 0.5]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path) -> Path:
    """The config of rankings of 8, 5 and 4 prompts."""
    folder = tmp_path_factory.mktemp("rankings")
    for split in ("train", "val", "test"):
        rows = [
            {"prompt": f"the {split} dog {i}", "references": ["the teacher", f"us {i}"]} for i in range(10)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "name": "mine",
        "rankings": {"k_min": 2, "k_max": 4, "agreement": 0.79, "n_train": 8, "n_val": 5, "n_test": 4},
        "extraction": {
            "tokenizer": {"model_name": str(tiny_t5), "truncation_side": "right", "max_length": 20},
            "datapool": {"id": "jsonl", "args": {"data_path": str(folder)}},
            "alg": {
                "model_type": "seq2seq",
                "model_name": str(tiny_t5),
                "generation_kwargs": {"do_sample": True, "max_new_tokens": 6},
            },
            "evaluation": {"eval_batch_size": 10, "num_samples_per_input": 5, "metrics": [{"id": "chrf"}]},
        },
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    return folder


def flags(files: Path, base: Path, *more: str) -> list[str]:
    return ["--config_path", str(files / "config.yml"), "--base_path_to_store_results", str(base), *more]


def bytes_of(base: Path) -> dict[str, bytes]:
    return {split: (base / "mine" / f"{split}.jsonl").read_bytes() for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("whole")
    assert runner.main(flags(files, base)) == 0
    return base


def test_the_pool_reads_what_is_written(whole: Path) -> None:
    args = {"data_path": str(whole / "mine")}
    rankings = {split: load_rankings("preferences", split, args) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert {split: len(rows) for split, rows in rankings.items()} == {"train": 8, "val": 5, "test": 4}
    for split, rows in rankings.items():
        for ranking in rows:
            count = len(ranking.completions)
            assert ranking.prompt.startswith(f"the {split} dog ") and ranking.references[0] == "the teacher"
            assert 2 <= count <= 4 and len(ranking.pairs) == count * (count - 1) / 2
            assert set(ranking.meta_data) == {"gold"} and len(ranking.meta_data["gold"]) == count
    (run,) = find_runs(whole)
    assert run.manifest["status"] == "finished" and run.manifest["job"] == "rankings"
    assert run.manifest["rankings"] == {"train": 8, "val": 5, "test": 4}
    pairs = [
        ranking.meta_data["gold"][pair.winner] - ranking.meta_data["gold"][pair.loser]
        for ranking in rankings["train"]
        for pair in ranking.pairs
    ]
    agreeing = np.mean([pair > 0 for pair in pairs if pair != 0])
    assert run.manifest["agreement"]["train"] == pytest.approx(agreeing)
    assert agreeing == pytest.approx(0.79, abs=1.5 / len(pairs))


def test_the_same_config_gives_the_same_bytes(whole: Path, files: Path, tmp_path: Path) -> None:
    assert runner.main(flags(files, tmp_path / "a")) == 0
    assert bytes_of(tmp_path / "a") == bytes_of(whole)
    assert runner.main(flags(files, tmp_path / "b", "--set", "rankings.seed=1")) == 0
    assert all(content != bytes_of(whole)[split] for split, content in bytes_of(tmp_path / "b").items())


@pytest.mark.parametrize("cut_after", [1, 6, 8])
def test_a_cut_run_goes_on_where_it_was(
    cut_after: int, whole: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rl4lms.extract as module

    generated: list[Any] = []
    original = module.generate_batch

    def generate(*args: Any) -> Any:
        if len(generated) == cut_after:
            raise ExtractionInterrupted
        generated.append(args[-1].id)
        return original(*args)

    monkeypatch.setattr(module, "generate_batch", generate)
    assert runner.main(flags(files, tmp_path)) == 130
    (run,) = find_runs(tmp_path)
    assert run.manifest["status"] == "interrupted" and not (tmp_path / "mine").exists()
    before, cut_after = cut_after, -1
    assert runner.main(["--resume", str(run.path)]) == 0
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert len(generated) == 9 > before  # 4, 3 and 2 batches of two prompts, and none twice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rankings.k_max=1", "rankings.k_max"),
        ("rankings.k_min=5", "must be at least k_min, 5; is 4"),
        ("rankings.agreement=0.5", "rankings.agreement"),
        (
            "extraction.evaluation.num_samples_per_input=3",
            "must be at least rankings.k_max, 4, of which only",
        ),
        (
            "extraction.alg.generation_kwargs.do_sample=false",
            "must be true: without it all texts of a prompt",
        ),
        ("extraction.datapool.split=val", "leave it out: rankings.n_train, n_val, n_test and seed say which"),
        ("extraction.datapool.num_train_samples=5", "leave it out: rankings.n_train, n_val, n_test and seed"),
        ("extraction.evaluation.metrics=[{id: chrf}, {id: ter}]", "must be the gold reward alone, are 2"),
        (
            "extraction.alg.model_name=no/such/model",
            "extraction.alg.model_name  no such folder: 'no/such/model'",
        ),
        ("name=a/b", "becomes the name of a folder, got 'a/b'"),
    ],
)
def test_mistakes_in_the_config(
    change: str, message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(flags(files, tmp_path, "--set", change)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_and_rows_that_are_wrong(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    assert runner.main(flags(files, tmp_path)) == 2
    assert "mine is in the way: it is no link to a dataset made here" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text('{"prompt": 3}\n')
    change = f"extraction.datapool.args.data_path={tmp_path / 'bad.jsonl'}"
    assert runner.main(flags(files, tmp_path, "--check", "--set", change)) == 2
    error = capsys.readouterr().err
    assert "extraction.datapool.args.data_path" in error and "bad.jsonl line 1: 'prompt' must be" in error


def test_gold_that_is_no_probability_is_said(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = "extraction.evaluation.metrics=[{id: ter}]"
    assert runner.main(flags(files, tmp_path, "--set", metric, "--set", "rankings.log_odds=true")) == 1
    assert "rankings.log_odds: the gold reward is no probability, it goes from" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [config.stem for config in CONFIGS] == ["content_words_rankings", "continuation_rankings"]
    monkeypatch.chdir(tmp_path)
    assert runner.main(["--config_path", str(path), "--check"]) == 2
    errors = capsys.readouterr().err
    needed = [line.split()[-1] for line in path.read_text().splitlines() if line.startswith("#   python")]
    assert needed[0] in errors  # the language model; the classifier is asked for when a run begins
    save_laptop_models(tmp_path)
    assert runner.main(["--config_path", str(path), "--check"]) == 0
    output = capsys.readouterr().out
    assert "rankings: prompts of train 1,020, val 320, test 320; 4 to 9 completions each" in output
    assert "note: " not in output

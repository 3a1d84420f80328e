"""The extraction job: what it leaves, resuming, and what stops it."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml

from common.run_dir import RunDir, find_runs
from rl4lms.config import load_extract_config, resolved
from rl4lms.extract import ExtractionError, ExtractionInterrupted, extract, remove_half_written
from rl4lms_extract_samples_from_model_runner import main

N, G = 23, 3


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_t5):
    """A dataset of 30 rows and the config of an extraction of 23 of them."""
    folder = tmp_path_factory.mktemp("extract")
    rows = [
        {"prompt": f"the dog {i} looks at " + "water " * (i % 7), "references": ["the teacher", f"us {i}"]}
        for i in range(30)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "tokenizer": {"model_name": str(tiny_t5), "truncation_side": "right", "max_length": 20},
        "datapool": {"id": "jsonl", "args": {"data_path": str(folder)}, "num_train_samples": N,
                     "train_samples_rnd_seed": 7},
        "alg": {"model_type": "seq2seq", "model_name": str(tiny_t5),
                "generation_kwargs": {"do_sample": True, "max_new_tokens": 6}},
        "evaluation": {"eval_batch_size": 12, "num_samples_per_input": G,
                       "metrics": [{"id": "rouge_l_max"}, {"id": "chrf"}]},
    }  # fmt: skip
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    return folder


def config_of(files, *overrides):
    return load_extract_config(files / "config.yml", overrides)


def new_run(base, config):
    return RunDir.create(base, "run", resolved(config), {})


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """An uninterrupted extraction through the runner; its output folder."""
    output = tmp_path_factory.mktemp("whole")
    assert main(["--config_path", str(files / "config.yml"), "--output_path", str(output)]) == 0
    return output


def content_of(folder):
    (path,) = Path(folder).glob("*.pt")
    return torch.load(path, weights_only=True)


def test_rewards_see_what_the_model_wrote_or_tidied_texts(files, whole, tmp_path, monkeypatch):
    """The same tokens either way: a model that writes " sees != us ." word by word."""
    words = " sees != us ."
    monkeypatch.setattr(
        "transformers.PreTrainedTokenizerBase.decode", lambda self, ids, **kwargs: f"{words}{len(ids)} ."
    )
    texts = {}
    for clean_up in ("false", "true"):
        config = config_of(files, f"tokenizer.clean_up_tokenization_spaces={clean_up}")
        with new_run(tmp_path / clean_up, config) as run:
            extract(config, run)
        texts[clean_up] = [
            text for row in content_of(tmp_path / clean_up)["all_generated_texts"] for text in row
        ]
    assert all(text.startswith(words) and text.endswith(" .") for text in texts["false"])
    assert all(text.startswith(" sees!= us.") and text.endswith("6.") for text in texts["true"])


def test_the_file_holds_texts_rewards_and_inputs(whole, tiny_t5):
    content = content_of(whole)
    assert len(content["all_generated_texts"]) == content["num_train_samples"] == N
    assert all(len(texts) == G for texts in content["all_generated_texts"])
    assert set(content["all_metric_values"]) == {"lexical/rouge_l_max", "lexical/chrf"}
    assert all(v.shape == (N, G) and v.dtype == torch.float32 for v in content["all_metric_values"].values())
    assert len(set(content["used_train_indices"])) == N and max(content["used_train_indices"]) < 30
    assert content["config"]["alg"]["model_name"] == str(tiny_t5)
    (path,) = Path(whole).glob("*.pt")
    assert path.name.startswith(f"train_reward_stats_jsonl_{tiny_t5.name}_num_train_{N}_rnd_7_20")


def test_rewards_are_the_metrics_of_each_text_alone(whole):
    from rl4lms.metrics import TextBatch, build_metric

    content = content_of(whole)
    for name, key in (("rouge_l_max", "lexical/rouge_l_max"), ("chrf", "lexical/chrf")):
        metric = build_metric(name)
        for i in (0, 7, N - 1):
            for g in range(G):
                one = TextBatch([content["prompts"][i]], [content["all_generated_texts"][i][g]],
                                [content["references"][i]], [{}])  # fmt: skip
                assert content["all_metric_values"][key][i, g] == pytest.approx(
                    metric(one)[key].corpus, abs=1e-6
                )


def test_the_csv_and_the_pictures(whole):
    (table,) = [path for path in Path(whole).glob("*.csv") if not path.stem.endswith("scatter")]
    rows = list(csv.DictReader(table.open()))
    content = content_of(whole)
    rewards = content["all_metric_values"]["lexical/rouge_l_max"].double()
    assert [row["prompt"] for row in rows] == content["prompts"]
    for row, values in zip(rows, rewards, strict=True):
        assert float(row["mean"]) == pytest.approx(values.mean().item())
        assert float(row["std"]) == pytest.approx(values.std(correction=0).item())
    assert len(list(Path(whole).glob("*_scatter.png"))) == 1
    (run,) = find_runs(whole)
    assert run.manifest["status"] == "finished"


def test_inputs_of_another_split(files, tmp_path):
    rows = [{"prompt": f"the bird {i}", "references": ["the teacher"]} for i in range(4)]
    (files / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--set", "datapool.split=test", "--set", "datapool.num_train_samples=-1"]
    assert main(["--config_path", str(files / "config.yml"), "--output_path", str(tmp_path), *flags]) == 0
    content = content_of(tmp_path)
    assert content["prompts"] == [row["prompt"] for row in rows] and content["used_train_indices"] == [
        0,
        1,
        2,
        3,
    ]
    (path,) = tmp_path.glob("*.pt")
    assert path.name.startswith("test_reward_stats_jsonl_") and "_num_test_-1_" in path.name


def test_same_config_same_file(whole, files, tmp_path):
    config = config_of(files)
    with new_run(tmp_path, config) as run:
        extract(config, run)
    first, second = content_of(whole), content_of(tmp_path)
    assert first["all_generated_texts"] == second["all_generated_texts"]
    assert all(torch.equal(v, second["all_metric_values"][k]) for k, v in first["all_metric_values"].items())


@pytest.mark.parametrize("cut_after", [0, 2, 5, 6])
def test_resume_gives_the_same_file_and_generates_nothing_twice(
    whole, files, tmp_path, cut_after, monkeypatch
):
    config, calls = config_of(files), []

    def stop():
        calls.append(1)
        return len(calls) > cut_after

    with new_run(tmp_path, config) as run, pytest.raises(ExtractionInterrupted):
        extract(config, run, should_stop=stop)
    (found,) = find_runs(tmp_path)
    with (found.path / "texts.jsonl").open("a") as file:
        file.write('{"batch": 99, "inp')  # a line that a kill has torn
    (tmp_path / f".tmp-{found.path.name}.pt-1").touch()
    import rl4lms.extract as module

    generated = []
    original = module.generate_batch
    monkeypatch.setattr(module, "generate_batch", lambda *a: generated.append(a[-1].id) or original(*a))
    with RunDir.open(found.path) as run:
        extract(config, run)
    batches = math.ceil(N / (12 // G))
    assert len(generated) == max(0, batches - cut_after)
    assert not list(tmp_path.glob(".tmp-*"))
    resumed, uninterrupted = content_of(tmp_path), content_of(whole)
    assert resumed["all_generated_texts"] == uninterrupted["all_generated_texts"]
    assert torch.equal(*(c["all_metric_values"]["lexical/chrf"] for c in (resumed, uninterrupted)))


def test_what_a_kill_left_half_written_goes_and_nothing_else(tmp_path):
    left = [".tmp-a_[1].pt-77", ".tmp-a_[1].csv-8", ".tmp-a_[1]_scatter.png-77", ".tmp-a_[1]_scatter.csv-9"]
    others = [".tmp-a_[1]_b.pt-77", ".tmp-a_1.pt-77", ".tmp-a_[1]", "a_[1].pt", "a_[1]_scatter.png"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    (tmp_path / "a_[1]").mkdir()
    (tmp_path / "a_[1]" / ".tmp-manifest.json-7").touch()  # the run directory has its own ways
    remove_half_written(tmp_path / "a_[1]")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "a_[1]"}
    assert list((tmp_path / "a_[1]").iterdir())


def test_later_extractions_can_take_the_same_inputs(whole, files, tmp_path):
    (earlier,) = Path(whole).glob("*.pt")
    overrides = [f"datapool.used_indices_from={earlier}", "datapool.num_train_samples=5", "runtime.seed=1"]
    config = config_of(files, *overrides)
    with new_run(tmp_path / "same", config) as run:
        extract(config, run)
    content = content_of(tmp_path / "same")
    assert content["prompts"] == content_of(whole)["prompts"]
    assert content["all_generated_texts"] != content_of(whole)["all_generated_texts"]

    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"other {i}", "references": ["x"]}) for i in range(30)))
    config = config_of(files, *overrides, f"datapool.args.data_path={other}")
    with (
        new_run(tmp_path / "other", config) as run,
        pytest.raises(ExtractionError, match="would not show the same"),
    ):
        extract(config, run)


def metric_module(folder, monkeypatch, body):
    (folder / "own_metric.py").write_text(
        f"import math\nfrom rl4lms.metrics import Score\ndef metric(batch):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("own_metric", None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "raise KeyError('oops')",
            r"metric 'own_metric:metric' raised KeyError for a text of input .*: 'oops'",
        ),
        ("return {'own': Score([math.nan] * len(batch), 0.0)}", r"own is nan for a text of input"),
        (
            "return {'own': Score([1e39] * len(batch), 0.0)}",
            r"own is 1e\+39 for a text of input .*; expected a number between -3\.4e\+38 and 3\.4e\+38$",
        ),
        (
            "return {'own': Score([None] * len(batch), 0.0)}",
            r"own is None for a text of .*; expected a number",
        ),
        (
            "return [1.0] * len(batch)",
            r"returned \[1\.0\]; expected a dict of name -> rl4lms\.metrics\.Score",
        ),
        (
            "return {'own': Score([1.0], 1.0)}",
            r"returned 1 values of own for 69 texts; expected one per text",
        ),
    ],
)
def test_a_failing_metric_is_named_and_no_text_is_lost(files, tmp_path, monkeypatch, body, message):
    metric_module(tmp_path, monkeypatch, body)
    config = config_of(files, "evaluation.metrics=[{id: 'own_metric:metric'}]")
    with new_run(tmp_path, config) as run, pytest.raises(ExtractionError, match=message):
        extract(config, run)
    (found,) = find_runs(tmp_path)
    lines = (found.path / "texts.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["inputs"]) for line in lines) == N

    metric_module(tmp_path, monkeypatch, "return {'own': Score(None, float(len(batch.generated[0])))}")
    monkeypatch.setattr("rl4lms.extract.generate_batch", None)  # all texts are there already
    with RunDir.open(found.path) as run:
        extract(config, run)
    content = content_of(tmp_path)
    lengths = [[float(len(text)) for text in texts] for texts in content["all_generated_texts"]]
    assert content["all_metric_values"]["own"].tolist() == lengths


def test_mistakes_exit_2_and_write_nothing(files, tmp_path, capsys):
    base = ["--config_path", str(files / "config.yml"), "--output_path", str(tmp_path / "out")]
    cases = {
        "evaluation.metrics=[{id: rouge_lmax}]": "unknown metric 'rouge_lmax'; did you mean 'rouge_l_max'?",
        "evaluation.metrics=[{id: rouge_l_max, args: {alpa: 1}}]": "did you mean 'alpha'?",
        "alg.model_name=/nowhere/at/all": "/nowhere/at/all",
        f"datapool.args.data_path={tmp_path / 'missing'}": "missing",
        "datapool.used_indices_from=nothing.pt": "no such file: 'nothing.pt'",
        "alg.generation_kwargs.num_beam_groups=2": "has no effect",
    }
    for override, message in cases.items():
        assert main([*base, "--set", override]) == 2
        assert message in capsys.readouterr().err
    assert main(["--resume", str(tmp_path / "nowhere")]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as stop:
        main(["--output_path", str(tmp_path)])
    assert stop.value.code == 2


def test_check_prints_sizes_and_config(files, capsys):
    assert main(["--config_path", str(files / "config.yml"), "--check"]) == 0
    output = capsys.readouterr().out
    assert "23 train inputs x 3 = 69 texts of at most 6 new tokens" in output
    assert '"max_new_tokens": 6' in output

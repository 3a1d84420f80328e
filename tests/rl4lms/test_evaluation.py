"""Evaluation during training: its inputs, settings, rows and predictions, and metrics that fail."""

import copy
import json
import math
import sys
import threading
from dataclasses import replace

import pytest
from training_runs import config_of, new_run, ppo_config, rows_of, save_data, setup_of, supervised_config

from rl4lms.config import resolved
from rl4lms.evaluation import EvaluationError, compute_scores, evaluation_inputs
from rl4lms.metrics import TextBatch, build_metric
from rl4lms.model.generation import generate
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import load_model
from rl4lms.model.parallel import World
from rl4lms.run_setup import TrainingDataError, TrainingInterrupted, decodings
from rl4lms.samples import Sample


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tiny_t5):
    return load_model(str(tiny_t5), "seq2seq", None, "cpu")


@pytest.fixture
def config(tiny_t5, data):
    """Of batches of four texts."""
    config = supervised_config(tiny_t5, data)
    config["train_evaluation"]["eval_batch_size"] = 4
    return config


@pytest.fixture
def run(tmp_path, config):
    with new_run(tmp_path, config_of(config)) as run:
        yield run


def test_the_row_is_the_metric_of_the_texts_that_generate_gives(model, config, run):
    setup = setup_of(config_of(config), run)
    evaluator = setup.evaluator
    for split in ("train", "val", "test"):
        values = evaluator(model, split, 0)
        samples = evaluator.samples[split]
        prompts = [sample.prompt_or_input_text for sample in samples]
        texts = [text for (text,) in generate(model, setup.tokenizer, prompts, evaluator.decodings[split])]
        references, meta = ([getattr(s, name) for s in samples] for name in ("references", "meta_data"))
        expected = build_metric("chrf")(TextBatch(prompts, texts, references, meta))["lexical/chrf"].corpus
        assert values == {"lexical/chrf": pytest.approx(expected)}
        assert rows_of(run.path, f"{split}_split_metrics") == [{"epoch": 0, "metrics": values}]


@pytest.mark.parametrize("clean_up", [False, True])
def test_metrics_see_what_the_model_wrote_or_tidied_texts(model, config, run, monkeypatch, clean_up):
    config["tokenizer"]["clean_up_tokenization_spaces"] = clean_up
    seen = []
    setup = setup_of(config_of(config), run)
    monkeypatch.setattr(type(setup.tokenizer), "decode", lambda self, ids, **kwargs: " sees != us .")
    setup.evaluator.metrics["chrf"] = lambda batch: seen.extend(batch.generated) or {}
    setup.evaluator(model, "val", 0)
    assert set(seen) == {" sees!= us." if clean_up else " sees != us ."}


def test_settings_of_supervised_finetuning(config):
    config["tokenizer"]["truncation_side"] = "left"
    of = decodings(config_of(config))
    for split in ("train", "val", "test"):
        assert (of[split].settings.do_sample, of[split].settings.max_new_tokens) == (False, 4)
    assert {(d.max_prompt_length, d.truncation_side, d.batch_size) for d in of.values()} == {(20, "left", 4)}
    assert len({d.seed for d in of.values()}) == 3


SAMPLING = {"do_sample": True, "top_k": 7, "max_new_tokens": 3}


@pytest.mark.parametrize("kind", ["ppo", "supervised"])
def test_without_settings_of_its_own_every_split_is_evaluated_at_temperature_1(
    kind, tiny_gpt2, tiny_t5, data
):
    config = ppo_config(tiny_gpt2, data) if kind == "ppo" else supervised_config(tiny_t5, data)
    del config["train_evaluation"]["generation_kwargs"]
    drawn = config["alg"]["policy"]["args"] if kind == "ppo" else config["alg"]
    drawn["generation_kwargs"] = {**SAMPLING, "temperature": 3.0}
    for of in decodings(config_of(config)).values():
        assert of.settings == GenerationSettings(**SAMPLING, temperature=1.0)
    # What is written into the run's directory says so, and gives the same run.
    written = resolved(config_of(config))["train_evaluation"]
    assert written["generation_kwargs"] == GenerationSettings(**SAMPLING).model_dump()
    assert written["generation_kwargs_on_train"] is None


def test_train_may_have_settings_of_its_own_beside_those_of_the_others(tiny_gpt2, data):
    config = ppo_config(tiny_gpt2, data)
    config["train_evaluation"]["generation_kwargs_on_train"] = {**SAMPLING, "temperature": 2.0}
    of = decodings(config_of(config))
    assert of["train"].settings == GenerationSettings(**SAMPLING, temperature=2.0)
    assert of["val"].settings == of["test"].settings == GenerationSettings(max_new_tokens=5)


def test_the_same_weights_score_the_same_however_rollouts_are_drawn(tiny_gpt2, data, tmp_path):
    values = []
    for temperature in (1.0, 3.0):
        config = ppo_config(tiny_gpt2, data)
        del config["train_evaluation"]["generation_kwargs"]
        config["alg"]["policy"]["args"]["generation_kwargs"]["temperature"] = temperature
        with new_run(tmp_path, config_of(config)) as run:
            evaluator = setup_of(config_of(config), run).evaluator
            model = load_model(str(tiny_gpt2), "causal", None, "cpu")
            values.append([evaluator(model, split, 0) for split in ("train", "val", "test")])
    assert values[0] == values[1]


def test_settings_of_ppo(tiny_gpt2, data):
    """Prompts are cut to the environment's length, on the policy's side; its default is left."""
    config = ppo_config(tiny_gpt2, data)
    config["alg"]["policy"]["args"]["prompt_truncation_side"] = "right"
    of = decodings(config_of(config))
    assert {(d.max_prompt_length, d.truncation_side) for d in of.values()} == {(10, "right")}
    del config["alg"]["policy"]["args"]["prompt_truncation_side"]
    assert {d.truncation_side for d in decodings(config_of(config)).values()} == {"left"}


def test_the_inputs_are_a_fixed_choice_spread_over_the_split():
    samples = [Sample(i, f"prompt {i}", ["text"]) for i in range(100)]
    chosen = [sample.id for sample in evaluation_inputs(samples, "val", 8)]
    assert chosen == [sample.id for sample in evaluation_inputs(samples, "val", 8)]
    assert [id * 8 // 100 for id in chosen] == list(range(8))
    assert chosen != [sample.id for sample in evaluation_inputs(samples, "test", 8)]
    for most in (None, 100, 200):
        assert evaluation_inputs(samples, "val", most) == samples


def test_at_most_max_eval_samples_are_evaluated(model, config, run):
    config["train_evaluation"]["max_eval_samples"] = 3
    setup = setup_of(config_of(config), run, save_predictions=True)
    setup.evaluator(model, "train", 0)
    assert len(json.loads((run.path / "mine_epoch_0_train_split_predictions.json").read_text())) == 3
    assert len(setup.train) == 16


def test_predictions_hold_each_input_with_its_values(model, config, run):
    setup = setup_of(config_of(config), run, save_predictions=True)
    setup.evaluator(model, "val", 0.5)
    rows = json.loads((run.path / "mine_epoch_0.5_val_split_predictions.json").read_text())
    assert [row["sample_id"] for row in rows] == [f"val_{i}" for i in range(6)]
    metric = build_metric("chrf")
    for row, sample in zip(rows, setup.evaluator.samples["val"], strict=True):
        assert (row["split"], row["prompt"]) == ("val", sample.prompt_or_input_text)
        assert row["references"] == sample.references
        one = metric(TextBatch([row["prompt"]], [row["generated_text"]], [row["references"]], [{}]))
        assert row["metrics"]["lexical/chrf"] == pytest.approx(one["lexical/chrf"].corpus)


def test_what_is_recorded_is_not_done_again(model, config, run, monkeypatch):
    evaluator = setup_of(config_of(config), run).evaluator
    first = evaluator(model, "val", 3)
    monkeypatch.setattr("rl4lms.evaluation.generate_batch", None)
    assert evaluator(model, "val", 3) == first
    with pytest.raises(TypeError):
        evaluator(model, "val", 4)
    assert [row["epoch"] for row in rows_of(run.path, "val_split_metrics")] == [3]


def test_what_came_after_the_resumed_point_is_dropped(model, config, run):
    evaluator = setup_of(config_of(config), run, save_predictions=True).evaluator
    for epoch in (0, 2, 10):
        evaluator(model, "val", epoch)
    evaluator(model, "test", 10)
    evaluator.drop_after(2)
    assert [row["epoch"] for row in rows_of(run.path, "val_split_metrics")] == [0, 2]
    assert rows_of(run.path, "test_split_metrics") == []
    found = {path.name for path in run.path.glob("*_predictions.json")}
    assert found == {f"mine_epoch_{epoch}_val_split_predictions.json" for epoch in (0, 2)}


def test_evaluation_leaves_model_and_generators_as_they_were(model, config, run, monkeypatch, tmp_path):
    import torch

    own_metric(monkeypatch, tmp_path, "import torch; return {'own': Score(None, float(torch.rand(())))}")
    config["train_evaluation"]["metrics"] = [{"id": "own_metric:metric"}]
    evaluator = setup_of(config_of(config), run).evaluator
    model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    values = [evaluator(model, split, 0) for split in ("train", "val")]
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    model.eval()
    assert values[0] != values[1]
    assert evaluator(model, "val", 1) == values[1]  # equal models have equal rows


def own_metric(monkeypatch, folder, body):
    (folder / "own_metric.py").write_text(
        f"import math\nfrom rl4lms.metrics import Score\ndef metric(batch):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("own_metric", None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "[1 / meta['n'] for meta in batch.meta]",
            r"^metric 'own_metric:metric' raised ZeroDivisionError on val for text 0 \('.*' after prompt "
            r"'the dog 0 looks at'\): division by zero, at /.*/own_metric.py:4$",
        ),
        (
            "assert len(batch) < 2",
            r"^metric 'own_metric:metric' raised AssertionError on val for 6 texts together: ",
        ),
        (
            "raise SystemExit(3)",
            r"raised SystemExit on val for text 0 \(.*\): 3, at /.*/own_metric.py:4",
        ),
        ("return [0.5]", r"returned \[0.5\]; expected a dict of name -> rl4lms.metrics.Score$"),
        (
            "return {'own': Score([1.0], 1.0)}",
            r"returned 1 values of own for 6 texts; expected one per text, or None$",
        ),
        (
            "return {'own': Score(None, 'n/a')}",
            r"returned 'n/a' as own; expected a number, NaN if undefined$",
        ),
    ],
)
def test_a_failing_metric_is_named(model, config, run, monkeypatch, tmp_path, body, message):
    own_metric(monkeypatch, tmp_path, body)
    config["train_evaluation"]["metrics"] = [{"id": "own_metric:metric"}]
    evaluator = setup_of(config_of(config), run, save_predictions=True).evaluator
    with pytest.raises(EvaluationError, match=message):
        evaluator(model, "val", 0)
    assert rows_of(run.path, "val_split_metrics") == []
    # The texts, which cost compute, are kept.
    assert len(json.loads((run.path / "mine_epoch_0_val_split_predictions.json").read_text())) == 6


def test_of_many_texts_the_first_failing_one_is_found_in_few_calls():
    batch = TextBatch(["p"] * 300, [str(i) for i in range(300)], [["r"]] * 300, [{}] * 300, None, "val")
    calls = []

    def metric(some):
        calls.append(len(some))
        if {"137", "250"} & set(some.generated):
            raise ValueError("bad")
        return {}

    with pytest.raises(EvaluationError, match=r"for text 137 \('137' after prompt 'p'\): bad"):
        compute_scores("own", metric, batch)
    assert len(calls) < 25 and sum(calls) < 4 * 300


def test_an_undefined_value_is_written_as_it_is(model, config, run, monkeypatch, tmp_path):
    own_metric(monkeypatch, tmp_path, "return {'own': Score([math.nan] * len(batch), math.nan)}")
    config["train_evaluation"]["metrics"] = [{"id": "own_metric:metric"}]
    setup_of(config_of(config), run).evaluator(model, "val", 0)
    (row,) = rows_of(run.path, "val_split_metrics")
    assert math.isnan(row["metrics"]["own"])


def test_perplexity_is_of_the_model_and_not_on_train(tiny_gpt2, data, tmp_path):
    config = ppo_config(tiny_gpt2, data)
    config["train_evaluation"]["metrics"] = [
        {"id": "causal_perplexity", "args": {"tokenizer_id": str(tiny_gpt2), "stride": 16}}
    ]
    model = load_model(str(tiny_gpt2), "causal", None, "cpu")
    with new_run(tmp_path, config_of(config)) as run:
        evaluator = setup_of(config_of(config), run).evaluator
        assert evaluator(model, "train", 0) == {}
        (value,) = evaluator(model, "val", 0).values()
        assert 1 < value < math.inf


@pytest.mark.parametrize(("alg", "unit"), [("ppo", "iteration"), ("supervised", "epoch")])
def test_log_lines_count_iterations_or_epochs(
    alg, unit, tiny_gpt2, tiny_t5, data, tmp_path, caplog, monkeypatch
):
    raw = ppo_config(tiny_gpt2, data) if alg == "ppo" else supervised_config(tiny_t5, data)
    monkeypatch.setattr("rl4lms.evaluation.generate_batch", lambda *args: [["text"]] * len(args[-1].indices))
    model = load_model(
        *((str(tiny_gpt2), "causal") if alg == "ppo" else (str(tiny_t5), "seq2seq")), None, "cpu"
    )
    with new_run(tmp_path, config_of(raw)) as run, caplog.at_level("INFO", "rl4lms.evaluation"):
        setup_of(config_of(raw), run).evaluator(model, "val", 2)
        assert rows_of(run.path, "val_split_metrics")[0]["epoch"] == 2
    assert f"val at {unit} 2 (6 texts in 0 s): lexical/chrf " in caplog.text


def test_without_metrics_nothing_is_generated(model, config, run, monkeypatch):
    config["train_evaluation"]["metrics"] = []
    monkeypatch.setattr("rl4lms.evaluation.generate_batch", None)
    assert setup_of(config_of(config), run).evaluator(model, "val", 0) == {}
    assert rows_of(run.path, "val_split_metrics") == []


def test_a_stop_ends_an_evaluation_between_batches(model, config, run):
    calls = []
    stop = lambda: len(calls) == 2 or calls.append(1)  # noqa: E731
    evaluator = setup_of(config_of(config), run, should_stop=stop).evaluator
    with pytest.raises(TrainingInterrupted):
        evaluator(model, "train", 0)
    assert len(calls) == 2
    assert rows_of(run.path, "train_split_metrics") == []


def test_changed_data_is_refused(config, run, tmp_path):
    changed = save_data(tmp_path / "changed")
    config["datapool"]["args"]["data_path"] = str(changed)
    setup_of(config_of(config), run)
    setup_of(config_of(config), run)
    save_data(changed, val=3)
    with pytest.raises(
        TrainingDataError, match=r"^datapool 'jsonl' no longer gives the samples of val that "
    ):
        setup_of(config_of(config), run)


class TwoProcesses(World):
    """A world of two threads."""

    def __init__(self, rank, boxes, barrier):
        super().__init__(rank, 2)
        self._boxes, self._barrier = boxes, barrier

    def _exchange(self, value):
        self._boxes[self.rank] = value
        self._barrier.wait(60)
        found = list(self._boxes)
        self._barrier.wait(60)
        return found

    def gather(self, part):
        parts = self._exchange(part)
        items = [None] * sum(map(len, parts))
        for rank, items_of_rank in enumerate(parts):
            items[rank::2] = items_of_rank
        return items

    def same(self, value):
        return self._exchange(value)[0]


def in_two_processes(evaluator, model, split):
    """What an evaluation gives, or raises, in each of two processes."""
    boxes, barrier, results = [None, None], threading.Barrier(2), {}

    def work(rank):
        world = TwoProcesses(rank, boxes, barrier)
        own = replace(evaluator, world=world, run=evaluator.run if rank == 0 else None)
        try:
            results[rank] = own(copy.deepcopy(model), split, 0)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [results[0], results[1]]


def test_two_processes_share_the_texts_and_one_writes(model, config, run, tmp_path):
    alone = setup_of(config_of(config), run).evaluator(model, "train", 0)
    with new_run(tmp_path, config_of(config)) as other:
        evaluator = setup_of(config_of(config), other).evaluator
        assert in_two_processes(evaluator, model, "train") == [alone, alone]
        assert rows_of(other.path, "train_split_metrics") == [{"epoch": 0, "metrics": alone}]


def test_a_metric_that_fails_fails_in_every_process(model, config, run, monkeypatch, tmp_path):
    own_metric(monkeypatch, tmp_path, "raise KeyError('oops')")
    config["train_evaluation"]["metrics"] = [{"id": "own_metric:metric"}]
    first, second = in_two_processes(setup_of(config_of(config), run).evaluator, model, "val")
    assert isinstance(first, EvaluationError) and str(first) == str(second)

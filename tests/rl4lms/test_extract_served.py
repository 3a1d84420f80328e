"""Extraction from a served model: the same results folder, resumed as one whose model is loaded."""

import json

import pytest
import torch
import yaml
from endpoint_double import Behaviour, served
from extraction_settings import write_extraction
from transformers import AutoTokenizer

from common.config import ConfigError
from rft_diagnose import endpoint
from rl4lms.config import load_extract_config, resolved
from rl4lms.served import cut_prompt
from rl4lms_extract_samples_from_model_runner import main

INPUTS, EACH = 6, 2
SETTINGS = {"do_sample": True, "max_new_tokens": 4, "top_k": 0, "temperature": 0.5}


def write_config(folder, server, **generator):
    """Write model, data and config; the texts come from the server."""
    config = write_extraction(
        folder, INPUTS, generator={"id": "endpoint", "urls": [server.url], "concurrency": 2, **generator}
    )
    fields = yaml.safe_load(config.read_text())
    fields["alg"]["generation_kwargs"] = SETTINGS
    config.write_text(yaml.safe_dump(fields))
    return config


def extract(config, output, *flags):
    return main(["--config_path", str(config), "--output_path", str(output), *flags])


def content(output):
    (path,) = output.glob("*.pt")
    return torch.load(path, weights_only=True)


def asked(server):
    """The requests that were for the run's texts, rather than to find out about the server."""
    return [body for body in server.requests if body.get("n") == EACH]


def test_texts_come_from_the_endpoint_and_are_scored_here(tmp_path):
    with served(Behaviour(texts=lambda prompt, seed, place: f"the teacher {(seed + place) % 7}")) as server:
        assert extract(write_config(tmp_path, server, model="served-name"), tmp_path / "out") == 0
    results = content(tmp_path / "out")
    texts = results["all_generated_texts"]
    assert len(texts) == INPUTS and all(len(row) == EACH for row in texts)
    assert (
        texts[0][0].startswith("the teacher ")
        and results["all_metric_values"]["lexical/rouge_l_max"].min() > 0
    )
    assert results["config"]["generator"]["urls"] == [server.url]
    assert sorted(results["used_train_indices"]) == list(range(INPUTS))
    bodies = server.requests
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in bodies} == {("served-name", 0.5, 4)}
    assert len({body["seed"] for body in asked(server)}) == INPUTS
    assert sorted({body["prompt"] for body in asked(server)}) == sorted(results["prompts"])


def test_an_extraction_that_failed_goes_on_with_the_inputs_that_are_missing(tmp_path, capfd):
    behaviour = Behaviour()
    answer = behaviour.answer

    def fails(path, body):
        if (
            sum(request["prompt"] == body["prompt"] for request in behaviour.requests)
            and len(asked(behaviour)) > 8
        ):
            return 400, {"error": {"message": "no more"}}
        return answer(path, body)

    behaviour.answer = fails
    with served(behaviour) as server:
        config = write_config(tmp_path, server)
        assert extract(config, tmp_path / "out") == 1
        (run,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
        kept = [json.loads(line) for line in (run / "texts.jsonl").read_text().splitlines()]
        assert 0 < len(kept) < INPUTS
        assert "generator: HTTP 400: no more, for input " in capfd.readouterr().err
        behaviour.answer = answer
        behaviour.requests.clear()
        assert main(["--resume", str(run)]) == 0
        prompts = {body["prompt"] for body in server.requests}
        whole = tmp_path / "whole"
        assert extract(config, whole) == 0
    assert len(prompts) == INPUTS - len(kept)
    assert content(tmp_path / "out")["all_generated_texts"] == content(whole)["all_generated_texts"]


def test_a_server_without_n_gives_the_same_texts(tmp_path):
    for name, behaviour in (("n", Behaviour()), ("each", Behaviour(takes_n=False))):
        with served(behaviour) as server:
            assert extract(write_config(tmp_path / name, server, api="chat"), tmp_path / name / "out") == 0
    texts = [content(tmp_path / name / "out")["all_generated_texts"] for name in ("n", "each")]
    assert texts[0] == texts[1]


def test_an_endpoint_that_always_says_the_same_stops_the_extraction(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with served(Behaviour(texts=lambda *place: "forty-two")) as server:
        assert extract(write_config(tmp_path, server), tmp_path / "out") == 1
        assert "are the same text ('forty-two')" in capfd.readouterr().err
        assert extract(write_config(tmp_path, server, allow_equal=True), tmp_path / "other") == 0


def one_line(error):
    return " ".join(str(error.value).split())


def test_what_an_endpoint_cannot_be_asked_for_is_refused(tmp_path):
    config = write_config(tmp_path, Behaviour(url="localhost:8000"))
    with pytest.raises(ConfigError) as error:
        load_extract_config(config)
    assert "generator.urls[0] expected http://... or https://..., got 'localhost:8000'" in one_line(error)
    config.write_text(config.read_text().replace("localhost:8000", "http://localhost:8000"))
    flags = ("do_sample=false", "top_k=5", "num_beams=2", "temperature=1.0")
    with pytest.raises(ConfigError) as error:
        load_extract_config(config, [f"alg.generation_kwargs.{flag}" for flag in flags])
    for problem in (
        "alg.generation_kwargs.do_sample an endpoint is asked for samples: set true",
        "alg.generation_kwargs.top_k an endpoint cannot be asked for it: set 0",
        "alg.generation_kwargs.num_beams an endpoint cannot be asked for it: set 1",
    ):
        assert problem in one_line(error)
    assert "generator" not in resolved(load_extract_config(write_extraction(tmp_path / "here")))


def test_long_prompts_are_cut_on_their_side(tiny_t5):
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    prompt = "the old dog runs after the red house"
    assert cut_prompt(tokenizer, prompt, None, "left") == prompt == cut_prompt(tokenizer, prompt, 99, "left")
    assert prompt.endswith(cut_prompt(tokenizer, prompt, 3, "left")) and "dog" not in (
        cut_prompt(tokenizer, prompt, 3, "left")
    )
    assert prompt.startswith(cut_prompt(tokenizer, prompt, 3, "right"))

"""What an extraction config may say, and what a user is told of each mistake."""

from pathlib import Path

import pytest

from common.config import ConfigError
from rl4lms.config import load_extract_config

EXTRACT = Path(__file__).parents[2] / "rl4lms_scripts" / "extract_samples"
GPT2 = EXTRACT / "gpt2_imdb_extract_samples.yml"


def problems_of(*overrides: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load_extract_config(GPT2, overrides)
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        (
            "datapool.num_train_samples=0",
            "datapool.num_train_samples",
            "must be at least 1, or -1 for all, got 0",
        ),
        (
            "datapool.num_train_samples=1e3",
            "datapool.num_train_samples",
            "expected a whole number >= -1, got 1000.0 (a decimal number); write 1000",
        ),
        ("datapool.used_indices_from=gone.pt", "datapool.used_indices_from", "no such file: 'gone.pt'"),
        (
            "datapool.frac_train_samples=1",
            "datapool.frac_train_samples",
            "unknown key; did you mean 'num_train_samples'?",
        ),
        ("evaluation.metrics=[]", "evaluation.metrics", "must not be empty"),
        (
            "alg.model_type=seq2sec",
            "alg.model_type",
            "unknown value 'seq2sec'; did you mean 'seq2seq'? allowed: 'causal', 'seq2seq'",
        ),
        (
            "alg.generation_kwargs.temperature=0",
            "alg.generation_kwargs.temperature",
            "must be greater than 0, got 0; for the likeliest token set do_sample: false",
        ),
        (
            "alg.generation_kwargs.max_new_tokens=1000",
            "alg.generation_kwargs.max_new_tokens",
            "1,000 leaves no room for a prompt in the 1,024 positions of 'lvwerra/gpt2-imdb'",
        ),
        (
            "evaluation.metrics[0]={id: causal_perplexity, args: {tokenizer_id: gpt2}}",
            "evaluation.metrics[0].id",
            "'causal_perplexity' is of the references, whatever a model writes: it is no reward",
        ),
        ("runtime.seed=-1", "runtime.seed", "must be at least 0, got -1"),
        (
            "runtime.dtype=float16",
            "runtime.dtype",
            "unknown value 'float16'; did you mean 'bfloat16'? allowed: 'float32', 'bfloat16'",
        ),
    ],
    ids=lambda value: value if "=" in value else "",
)
def test_one_mistake_is_one_problem(override: str, path: str, message: str) -> None:
    assert problems_of(override) == [(path, message)]


def test_model_folders_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    overrides = ["alg.model_name=outputs/model", "tokenizer.model_name=outputs/model"]
    assert [path for path, _ in problems_of(*overrides)] == ["tokenizer.model_name", "alg.model_name"]
    folder = tmp_path / "outputs" / "model"
    folder.mkdir()
    for file in ("model.safetensors", "tokenizer.json"):
        (folder / file).touch()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_positions": 100}')
    config = load_extract_config(GPT2, [*overrides, "tokenizer.max_length=53"])
    assert config.notices() == [
        "tokenizer.max_length: prompts are cut to 5 tokens, since 53 and 48 new ones exceed the 100 "
        "positions of 'outputs/model'"
    ]
    (folder / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    assert [path for path, _ in problems_of(*overrides)] == ["alg.model_name"]


def test_sentinels_become_none() -> None:
    datapool = load_extract_config(GPT2).datapool
    assert (datapool.train_samples, datapool.seed) == (5000, 7)
    overrides = ["datapool.num_train_samples=-1", "datapool.train_samples_rnd_seed=-1"]
    config = load_extract_config(GPT2, overrides)
    assert (config.datapool.train_samples, config.datapool.seed, config.generations) == (None, None, None)


def test_notices() -> None:
    assert load_extract_config(GPT2).notices() == []
    (notice,) = load_extract_config(GPT2, ["tokenizer={model_name: gpt2, max_length: 5}"]).notices()
    assert notice.startswith("tokenizer.clean_up_tokenization_spaces: not set, so false: metrics and rewards")
    overrides = ["runtime.gradient_checkpointing=true", "alg.generation_kwargs.do_sample=false"]
    assert load_extract_config(GPT2, overrides).notices() == [
        "alg.generation_kwargs.do_sample: false makes all texts of an input equal, and their std 0",
        "runtime.gradient_checkpointing: no effect, extraction computes no gradients",
    ]


def test_a_training_config_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_extract_config(EXTRACT.parent / "training" / "imdb" / "gpt2_supervised.yml")
    assert ("train_evaluation", "unknown key; did you mean 'evaluation'?") in [
        (problem.path, problem.message) for problem in caught.value.problems
    ]

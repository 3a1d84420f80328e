"""What is missing is told with the command that gets it, before anything heavy is imported."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_encoders import save_tiny_bert
from tiny_wordnet import write_wordnet

from rl4lms.metrics import METRICS
from rl4lms.requirements import (
    RequirementError,
    model_problem,
    nltk_folders,
    open_wordnet,
    tokenizer_problem,
    wordnet_problem,
)
from rl4lms.rewards import REWARDS
from rl4lms.wordnet import FILES, read_wordnet

GET_WORDNET = (
    "python -m nltk.downloader wordnet, or the package wordnet-base of Debian and Ubuntu, which python "
    "fetch_real_data.py wordnet takes without installing it; or match exact words and stems only, under a "
    "result key of its own: args: {wordnet: false}"
)
NO_WORDNET = f"METEOR needs the WordNet corpus, which is not on this machine: {GET_WORDNET}"


@pytest.fixture
def nltk_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only place where WordNet can lie, empty."""
    monkeypatch.setattr("rl4lms.requirements.nltk_folders", lambda: [tmp_path])
    monkeypatch.setattr("rl4lms.wordnet.SHARED", tmp_path / "shared")
    monkeypatch.setattr("rl4lms.wordnet.FETCHED", tmp_path / "fetched")
    return tmp_path


def test_no_wordnet(nltk_data: Path) -> None:
    for registry, name, args in (
        (METRICS, "meteor", {}),
        (METRICS, "meteor_common_gen_repeat_penalty", {}),
        (REWARDS, "meteor", {"as_released": True}),
    ):
        (problem,) = registry.missing(name, args)
        assert (problem.path, problem.message) == ("args.wordnet", NO_WORDNET)
        assert registry.missing(name, {"wordnet": False}) == []
    with pytest.raises(RequirementError, match="which is not on this machine"):
        open_wordnet()


def test_wordnet_in_a_folder_an_archive_or_where_debian_puts_it(nltk_data: Path) -> None:
    write_wordnet(nltk_data / "corpora" / "wordnet")
    assert METRICS.missing("meteor", {}) == []
    write_wordnet(nltk_data / "inside" / "wordnet")
    shutil.rmtree(nltk_data / "corpora" / "wordnet")
    shutil.make_archive(str(nltk_data / "corpora" / "wordnet"), "zip", nltk_data / "inside", "wordnet")
    assert wordnet_problem() is None
    # What is damaged in one place does not matter where another has it whole.
    read_wordnet.cache_clear()
    (nltk_data / "corpora" / "wordnet.zip").write_bytes(b"no archive")
    assert "wordnet.zip cannot be read (File is not a zip file)" in (wordnet_problem() or "")
    write_wordnet(nltk_data / "shared")
    assert wordnet_problem() is None and "kid" in open_wordnet().synonyms("children")
    shutil.rmtree(nltk_data / "shared")
    assert wordnet_problem() is not None
    write_wordnet(nltk_data / "fetched")
    assert wordnet_problem() is None


@pytest.mark.parametrize("name", FILES)
def test_each_file_that_scoring_reads_is_asked_for(nltk_data: Path, name: str) -> None:
    folder = write_wordnet(nltk_data / "corpora" / "wordnet")
    (folder / name).write_bytes(b"")
    assert wordnet_problem() == (
        f"METEOR needs the WordNet corpus, which cannot be used as it is on this machine ({folder}: {name} "
        f"missing or empty): {GET_WORDNET}"
    )
    (folder / name).unlink()
    assert f"({folder}: {name} missing or empty)" in (wordnet_problem() or "")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("data.noun", lambda data: data[:-5], "index.noun and data.noun do not fit together (cut short?)"),
        ("data.noun", lambda data: b" " + data, "index.noun and data.noun do not fit together (cut short?)"),
        ("index.noun", lambda data: data[: data.index(b"kid")], "do not fit together (cut short?)"),
        ("index.noun", lambda data: data[:-10], "index.noun, line 6 is no line of an index (cut short?)"),
        ("data.verb", lambda data: data.replace(b"3.0", b"3.1"), "WordNet 3.1; METEOR's values are those of"),
        ("verb.exc", lambda data: b"\xff", "'utf-8' codec can't decode"),
    ],
)
def test_damaged_wordnet(nltk_data: Path, name: str, change: Callable[[bytes], bytes], reason: str) -> None:
    folder = write_wordnet(nltk_data / "corpora" / "wordnet")
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    assert reason in (wordnet_problem() or "")


def test_folders_are_nltks() -> None:
    import nltk

    assert {str(folder) for folder in nltk_folders()} == set(nltk.data.path)


def test_model_folders(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "model", labels=2)
    args = {"model_name": str(folder), "label_ix": 0}
    assert REWARDS.missing("learned_reward", args) == METRICS.missing("learned_reward", args) == []
    (folder / "model.safetensors").rename(folder / "kept")
    (problem,) = REWARDS.missing("learned_reward", args)
    assert problem.path == "args.model_name"
    assert problem.message.startswith(f"folder {str(folder)!r} has no weights (model.safetensors)")
    assert tokenizer_problem(str(folder)) is None, "a tokenizer alone has no weights"
    (folder / "kept").rename(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    assert model_problem(str(folder)) == (
        f"folder {str(folder)!r} has no tokenizer (tokenizer.json): write it with "
        "tokenizer.save_pretrained(folder), or copy it from the model it was made from"
    )
    (folder / "vocab.txt").touch()
    assert model_problem(str(folder)) is None, "the classifiers of BERT's time come with a vocabulary alone"
    assert (tokenizer_problem(str(folder)) or "").startswith(f"folder {str(folder)!r} has no tokenizer")
    shutil.rmtree(folder)
    assert (model_problem(str(folder)) or "").startswith(f"no such folder: {str(folder)!r}")


@pytest.mark.parametrize(
    ("name", "args", "path", "model"),
    [
        (
            "learned_reward",
            {"model_name": "lvwerra/distilbert-imdb", "label_ix": 1},
            "model_name",
            "lvwerra/distilbert-imdb",
        ),
        ("bert_score", {"language": "en"}, "language", "roberta-large"),
        ("bert_score", {"language": "de"}, "language", "bert-base-multilingual-cased"),
        ("causal_perplexity", {"tokenizer_id": "gpt2"}, "tokenizer_id", "gpt2"),
        ("intent_accuracy", {}, "model_name", "rajkumarrrk/roberta-daily-dialog-intent-classifier"),
    ],
)
def test_models_of_the_hub(
    name: str, args: dict[str, object], path: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (problem,) = METRICS.missing(name, args)
    assert problem.path == f"args.{path}"
    assert problem.message == (
        f"model {model!r} is not in the local cache, and the hub cannot be reached (OfflineModeIsEnabled): "
        f"get it where there is a network with: hf download {model}; or name the folder of a copy"
    )


@pytest.mark.parametrize(
    ("problem", "files"),
    [
        (model_problem, "config.json pytorch_model.bin vocab.txt"),
        (model_problem, "config.json model.safetensors.index.json sentencepiece.bpe.model"),
        (model_problem, "config.json model.safetensors vocab.json merges.txt"),
        (tokenizer_problem, "tokenizer.json"),
        (tokenizer_problem, "config.json spiece.model"),
    ],
)
def test_a_model_in_the_cache_needs_no_hub(
    problem: Callable[[str], str | None], files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    present, asked = set(files.split()), []
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: "/path" if file in present else None
    )
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: asked.append(1))
    assert problem("lvwerra/distilbert-imdb") is None and not asked
    for file in files.split():
        present.remove(file)
        assert problem("lvwerra/distilbert-imdb") is None and asked.pop(), f"the hub has {file}"
        present.add(file)


def test_wrong_arguments_need_nothing() -> None:
    assert METRICS.missing("learned_reward", {}) == METRICS.missing("rouge_lmax", {}) == []

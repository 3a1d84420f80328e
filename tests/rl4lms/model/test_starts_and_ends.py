"""What starts a text (a language that generation is forced to begin with) and what ends it is not dropped."""

from pathlib import Path

import pytest
import torch
from on_policy_runs import actors_of, collect
from tiny_models import TEXTS, save_tiny_bart, save_tiny_nllb, save_tiny_t5
from training_runs import config_of, new_run, rows_of, save_data, setup_of, supervised_config
from transformers import AutoModelForSeq2SeqLM

from rl4lms.input_gradients import score_products
from rl4lms.model.forward import Sequences
from rl4lms.model.generation import encode_prompts, generate
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.sampling import end_tokens, forced_start, generate_ids
from rl4lms.ppo.mask import MaskRule
from rl4lms.run_setup import TrainingDataError
from rl4lms.samples import Sample
from rl4lms.sft.train import train
from rl4lms.sft.trainer import Rows, training_rows

PROMPTS = TEXTS[:6]


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_nllb(tmp_path_factory.mktemp("models") / "nllb_t5")  # the name says: seq2seq


def generated(folder: Path, **settings: object) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    """Ids and mask of two texts a prompt, and the token that they are forced to begin with."""
    model, tokenizer = load_model(str(folder), "seq2seq", torch.float32, "cpu"), load_tokenizer(str(folder))
    ids, mask = encode_prompts(model, tokenizer, PROMPTS, 64, "right")
    uniforms = torch.rand((len(PROMPTS), 2, 6), generator=torch.Generator().manual_seed(0))
    given = GenerationSettings.model_validate({"max_new_tokens": 6, **settings})
    return *generate_ids(model, ids, mask, given, uniforms), forced_start(model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_sample": True, "top_k": 5},
        {"num_beams": 3},
        {"num_beams": 2, "do_sample": True},
        {"min_length": 4},
        {"no_repeat_ngram_size": 1},
    ],
)
def test_texts_begin_with_the_forced_token(nllb: Path, settings: dict[str, object]) -> None:
    ids, mask, first = generated(nllb, **settings)
    assert first == load_tokenizer(str(nllb)).convert_tokens_to_ids("deu_Latn")
    assert (ids[:, 0] == first).all() and mask[:, 0].all()
    assert len(ids) == len(PROMPTS) * 2
    if "top_k" in settings:
        assert len(ids.unique(dim=0)) > 1, "and go on as chance has it"


def test_greedy_texts_are_the_librarys(nllb: Path) -> None:
    ids, mask, _ = generated(nllb)
    tokenizer, plain = load_tokenizer(str(nllb)), AutoModelForSeq2SeqLM.from_pretrained(nllb)
    for i, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt")
        (expected,) = plain.generate(**inputs, max_new_tokens=6, do_sample=False)
        row = ids[2 * i][mask[2 * i]]
        assert row.tolist() == expected[1 : 1 + len(row)].tolist()


def test_without_a_forced_token_the_start_is_free(tmp_path: Path) -> None:
    ids, _, first = generated(save_tiny_nllb(tmp_path / "free", language=None), do_sample=True, top_k=0)
    assert first is None and len(ids[:, 0].unique()) > 1


@pytest.mark.parametrize("rule", [None, MaskRule("learned_top_k", 2, 1, (0, 1, 2, 3))], ids=["ppo", "nlpo"])
def test_rollouts_begin_with_the_forced_token_which_texts_do_not_show(
    nllb: Path, rule: MaskRule | None
) -> None:
    """Whatever NLPO's mask allows. Its log-probability is the full softmax's, as if it had been free."""
    actors = actors_of(nllb, lambda batch: [0.0] * len(batch), n_steps=12, mask_rule=rule)
    rollouts = collect(actors, 0, 0.2, 4.0)
    first = forced_start(actors.policy.model)
    assert (rollouts.sequences.response_ids[:, 0] == first).all()
    assert torch.isfinite(rollouts.logprobs).all() and (rollouts.logprobs[rollouts.columns == 0] < 0).all()
    assert not any("deu_Latn" in text for text in rollouts.texts)


def test_the_forced_token_has_no_gradient_of_sampling(nllb: Path) -> None:
    model = load_model(str(nllb), "seq2seq", torch.float32, "cpu")
    ids, mask, first = generated(nllb, do_sample=True)
    prompts, prompt_mask = encode_prompts(model, load_tokenizer(str(nllb)), PROMPTS[:1], 64, "right")
    sequences = Sequences(prompts, prompt_mask, ids[:1, :1], mask[:1, :1])
    assert ids[0, 0] == first
    gram = score_products(model, sequences, GenerationSettings(max_new_tokens=1, do_sample=True))
    assert gram.tolist() == [[0.0]]


SAMPLES = [Sample(0, TEXTS[0], [TEXTS[1]]), Sample(1, TEXTS[2], [TEXTS[3], ""])]


def rows_for(folder: Path, data: Path, tmp_path: Path) -> Rows:
    config = config_of(supervised_config(folder, data))
    with new_run(tmp_path / "run", config) as run:
        setup = setup_of(config, run)
        setup.train[:] = SAMPLES
        return training_rows(setup, load_model(str(folder), "seq2seq", torch.float32, "cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def test_labels_are_in_the_language_that_texts_are_forced_to(nllb: Path, data: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(nllb))
    english, german, end = tokenizer.convert_tokens_to_ids(["eng_Latn", "deu_Latn", "</s>"])
    rows = rows_for(nllb, data, tmp_path)
    for i, text in enumerate([TEXTS[1], TEXTS[3], ""]):
        assert rows[i]["labels"] == [german, *tokenizer(text, add_special_tokens=False)["input_ids"], end]
        assert rows[i]["input_ids"][0] == english and rows[i]["input_ids"][-1] == end


def test_labels_of_another_language_than_texts_are_forced_to(data: Path, tmp_path: Path) -> None:
    folder = save_tiny_nllb(tmp_path / "model", tgt_lang="eng_Latn")
    with pytest.raises(TrainingDataError) as error:
        rows_for(folder, data, tmp_path)
    assert str(error.value) == (
        "the model is forced to begin its texts with 'deu_Latn' (forced_bos_token_id in its "
        "generation_config.json), but the tokenizer begins references with 'eng_Latn': set its target "
        "language (tgt_lang in tokenizer_config.json), or another forced_bos_token_id"
    )


def test_a_tokenizer_that_adds_nothing_gets_start_and_end(data: Path, tmp_path: Path) -> None:
    for forced in (None, 7):
        folder = save_tiny_bart(tmp_path / f"bart{forced}")
        model = load_model(str(folder), "seq2seq", torch.float32, "cpu")
        model.generation_config.forced_bos_token_id = forced
        model.save_pretrained(folder)
        tokenizer = load_tokenizer(str(folder))
        rows = rows_for(folder, data, tmp_path / str(forced))
        before = [] if forced is None else [forced]
        for i, text in enumerate([TEXTS[1], TEXTS[3], ""]):
            expected = [*before, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            assert rows[i]["labels"] == expected
        for side in ("left", "right"):
            cut = Rows(SAMPLES, "seq2seq", tokenizer, side, 6, start=forced, ends=end_tokens(model))[0][
                "labels"
            ]
            whole, kept = tokenizer(TEXTS[1])["input_ids"], 5 - len(before)
            assert cut == [
                *before,
                *(whole[:kept] if side == "right" else whole[-kept:]),
                tokenizer.eos_token_id,
            ]


def test_without_an_end_token_anywhere_finetuning_is_refused(data: Path, tmp_path: Path) -> None:
    folder = save_tiny_t5(tmp_path / "t5")
    config = config_of(supervised_config(folder, data))
    model = load_model(str(folder), "seq2seq", torch.float32, "cpu")
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    with new_run(tmp_path / "run", config) as run:
        setup = setup_of(config, run)
        setup.tokenizer.eos_token = None
        with pytest.raises(TrainingDataError, match=r"neither model .* nor its tokenizer has an end token"):
            training_rows(setup, model)


def test_a_model_learns_to_stop_though_its_tokenizer_ends_no_text(tmp_path: Path) -> None:
    """Of one short reference: after finetuning the model writes it and stops."""
    folder = save_tiny_bart(tmp_path / "bart", dropout=0.0)
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val", "test"):
        (data / f"{split}.jsonl").write_text(8 * '{"prompt": "the old dog", "references": "us"}\n')
    raw = supervised_config(folder, data, per_device_train_batch_size=8, max_steps=150, learning_rate=1e-2)
    raw["train_evaluation"]["metrics"] = []
    with new_run(tmp_path / "run", config_of(raw)) as run:
        setup = setup_of(config_of(raw), run)
        train(setup)
        assert rows_of(run.path, "training_info")[-1]["loss"] < 0.1
        model = load_model(str(setup.model_path), "seq2seq", torch.float32, "cpu")
    decoding = setup.evaluator.decodings["val"]
    assert decoding.settings.max_new_tokens == 4
    ids, mask = encode_prompts(model, setup.tokenizer, ["the old dog"], 20, "right")
    responses, real = generate_ids(model, ids, mask, decoding.settings, torch.zeros(1, 1, 4))
    assert responses[0, real[0]].tolist()[-1] in end_tokens(model)
    assert generate(model, setup.tokenizer, ["the old dog"], decoding) == [["us"]]

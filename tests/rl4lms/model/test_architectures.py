"""Architectures whose states are not where others have them, or of another length, work or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from on_policy_runs import actors_of, collect
from tiny_encoders import save_tiny_bert2bert
from tiny_models import edit_json, save_tiny_gpt2, save_tiny_t5
from torch.testing import assert_close
from training_runs import config_of, new_run, ppo_config, rows_of, save_data, setup_of, supervised_config
from transformers import AutoModelForCausalLM, AutoTokenizer, EncoderDecoderModel, OPTConfig, OPTForCausalLM

from rl4lms.model.forward import Sequences
from rl4lms.model.generation import encode_prompts
from rl4lms.model.load import load_model, load_tokenizer, max_positions
from rl4lms.model.policy import PolicyModel, try_states
from rl4lms.model.source import ModelSourceError
from rl4lms.ppo.train import train as train_by_ppo
from rl4lms.sft.train import train as finetune
from rl4lms_train_text_generation import main


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OPT whose embeddings are shorter than its hidden states, as OPT-350m's."""
    folder = tmp_path_factory.mktemp("models") / "opt"
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_gpt2(folder / "gpt2"))
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, word_embed_proj_dim=16, ffn_dim=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, init_std=0.3, bos_token_id=0, eos_token_id=0,
        pad_token_id=1, do_layer_norm_before=False,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(
    scope="module",
    params=[pytest.param(16, id="equal sizes", marks=pytest.mark.slow), pytest.param(8, id="projected")],
)
def bert2bert(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert2bert(tmp_path_factory.mktemp("models") / "bert_t5", decoder_size=request.param)


def sequences_of(folder: Path, kind: Any) -> Sequences:
    model, tokenizer = load_model(str(folder), kind, torch.float32, "cpu"), load_tokenizer(str(folder))
    ids, mask = encode_prompts(model, tokenizer, ["the cat sat", "a dog in the park"], 20, "right")
    responses = torch.tensor([[5, 6, 7], [9, 8, 0]])
    return Sequences(ids, mask, responses, torch.tensor([[True, True, True], [True, True, False]]))


def test_values_of_opt_are_of_its_projected_states(opt: Path) -> None:
    policy, sequences = PolicyModel.load(str(opt), "causal"), sequences_of(opt, "causal")
    values = policy.values(*vars(sequences).values())
    assert policy.value_head is not None and policy.value_head.in_features == 16
    plain = AutoModelForCausalLM.from_pretrained(opt)
    for i, length in enumerate((3, 2)):
        prompt = sequences.prompt_ids[i, sequences.prompt_mask[i]]
        ids = torch.cat([prompt, sequences.response_ids[i, : length - 1]])
        states = plain.model(ids[None]).last_hidden_state[0, len(prompt) - 1 :]
        assert_close(values[i, :length], policy.value_head(states)[:, 0])


def test_bert2bert_scores_as_the_library(bert2bert: Path) -> None:
    policy, sequences = PolicyModel.load(str(bert2bert), "seq2seq"), sequences_of(bert2bert, "seq2seq")
    logprobs, _, _ = policy.logprobs(*vars(sequences).values())
    values = policy.values(*vars(sequences).values())
    plain = EncoderDecoderModel.from_pretrained(bert2bert)
    assert policy.value_head is not None
    for i, length in enumerate((3, 2)):
        prompt = sequences.prompt_ids[i, sequences.prompt_mask[i]][None]
        response = sequences.response_ids[i, :length]
        output = plain(
            input_ids=prompt, decoder_input_ids=torch.cat([torch.tensor([2]), response[:-1]])[None],
            output_hidden_states=True,
        )  # fmt: skip
        expected = output.logits[0].log_softmax(1).gather(1, response[:, None])[:, 0]
        assert_close(logprobs[i, :length], expected)
        states = output.decoder_hidden_states[-1][0]
        assert_close(values[i, :length], policy.value_head(states)[:, 0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def test_ppo_of_both(opt: Path, bert2bert: Path, data: Path, tmp_path: Path) -> None:
    for folder, kind in ((opt, "causal"), (bert2bert, "seq2seq")):
        config = config_of(ppo_config(folder, data, kind))
        with new_run(tmp_path / kind, config) as run:
            train_by_ppo(setup_of(config, run))
            assert len(rows_of(run.path, "training_info")) == 2


def test_supervised_finetuning_of_both(opt: Path, bert2bert: Path, data: Path, tmp_path: Path) -> None:
    for folder, kind in ((opt, "causal"), (bert2bert, "seq2seq")):
        config = config_of(supervised_config(folder, data, kind, num_train_epochs=1))
        with new_run(tmp_path / kind, config) as run:
            setup = setup_of(config, run)
            finetune(setup)
            assert len(rows_of(run.path, "training_info")) == 4
            load_model(str(setup.model_path), kind, torch.float32, "cpu")


def test_nlpo_of_bert2bert(bert2bert: Path) -> None:
    from rl4lms.ppo.mask import MaskRule

    rule = MaskRule("learned_top_k", 4, 1, (0, 2, 3))
    actors = actors_of(bert2bert, lambda batch: [0.0] * len(batch), n_steps=8, mask_rule=rule)
    assert torch.isfinite(collect(actors, 0, 0.2, 4.0).logprobs).all()


def test_prompts_of_bert2bert_fit_its_positions(bert2bert: Path) -> None:
    model = load_model(str(bert2bert), "seq2seq", torch.float32, "cpu")
    assert max_positions(model) == 24


def test_a_decoder_without_start_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_bert2bert(tmp_path / "bert", start=False)
    message = (
        f"model {str(folder)!r} (encoder-decoder) does not say what its decoder starts with: set "
        "decoder_start_token_id in its config.json (for a BERT as decoder the id of [CLS], and eos_token_id "
        "to that of [SEP])"
    )
    for name, config in (
        ("ppo", ppo_config(folder, data, "seq2seq")),
        ("sft", supervised_config(folder, data)),
    ):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(config))
        out = tmp_path / f"{name}_out"
        assert main(["--config_path", str(file), "--base_path_to_store_results", str(out)]) != 0
        printed = capsys.readouterr().err
        assert message in printed.replace("\n", " ")
        assert "Traceback" not in printed and "--resume" not in printed


def test_the_decoder_starts_in_scoring_as_in_generation(tmp_path: Path) -> None:
    """With what the generation config says, where the model's own config says something else."""
    folder = save_tiny_t5(tmp_path / "t5")
    edit_json(folder / "generation_config.json", decoder_start_token_id=5)
    policy = PolicyModel.load(str(folder), "seq2seq")
    sequences = sequences_of(folder, "seq2seq")
    logprobs, _, _ = policy.logprobs(*vars(sequences).values())
    prompt, response = sequences.prompt_ids[:1], sequences.response_ids[:1]
    decoder_ids = torch.cat([torch.tensor([[5]]), response[:, :-1]], 1)
    logits = policy.model(
        input_ids=prompt, decoder_input_ids=decoder_ids, attention_mask=sequences.prompt_mask[:1].long()
    ).logits
    assert_close(logprobs[0], logits[0].log_softmax(1).gather(1, response[0, :, None])[:, 0])


def test_a_model_that_cannot_be_run_so_is_refused(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(tiny_gpt2), "causal", torch.float32, "cpu")
    assert try_states(model) == 32
    name = f"model {str(tiny_gpt2)!r} (gpt2) cannot be trained by PPO or NLPO: "
    monkeypatch.setattr(type(model.base_model), "forward", lambda self, **kwargs: None)
    with pytest.raises(ModelSourceError) as error:
        try_states(model)
    assert str(error.value).startswith(f"{name}its states could not be computed (TypeError: ")
    monkeypatch.undo()
    forward = type(model).forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * output.logits.shape[0]
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(ModelSourceError) as error:
        try_states(model)
    assert str(error.value) == f"{name}its logits depend on more than its last states"

"""Several texts in a row give the numbers of a text a row; models where they would not are left alone."""

from typing import Any

import pytest
import torch
from on_policy_runs import END, VOCABULARY, batch_of, random_rows, tiny_model
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
)

from rl4lms.model.forward import (
    ForwardPass,
    Sequences,
    can_share_rows,
    compute_logits,
    compute_states,
    packed,
    padded,
)
from rl4lms.model.load import autocast
from rl4lms.model.packing import arrange
from rl4lms.model.policy import checkpoint_activations

PROMPTS = (9, 1, 30, 4, 12, 2, 2, 17, 5, 8, 1, 3, 21, 6, 6, 11)
RESPONSES = (3, 7, 1, 12, 2, 9, 5, 1, 4, 11, 2, 8, 6, 3, 10, 5)
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
PACKED = ("gpt2", "t5", "llama", "mt5")
models = pytest.mark.parametrize("kind", PACKED)


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    if kind == "mt5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        start = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": END}
        return MT5ForConditionalGeneration(MT5Config(vocab_size=VOCABULARY, **sizes, **start)).eval()
    return tiny_model(kind)


def batch(side: str = "left", count: int = len(PROMPTS)) -> Sequences:
    return batch_of(random_rows(PROMPTS[:count], 1), random_rows(RESPONSES[:count], 2), side)


def some_tokens(sequences: Sequences, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Places of response tokens in random order, of most sequences not the last."""
    rows, columns = sequences.response_mask.nonzero(as_tuple=True)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    chosen = order[: max(1, int(share * len(rows)))]
    return rows[chosen], columns[chosen]


def gradients(model: PreTrainedModel, of: Tensor) -> list[Tensor]:
    model.zero_grad()
    weights = torch.randn(of.shape, generator=torch.Generator().manual_seed(0), dtype=of.dtype)
    (of * weights).sum().backward()
    return [w.grad.clone() for w in model.parameters() if w.grad is not None]


def rows_of_pass(forward: ForwardPass) -> int:
    return len(forward.arguments["input_ids"])


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["few", "all"])
@pytest.mark.parametrize("side", ["left", "right"])
@models
def test_packed_texts_have_the_states_logits_and_gradients_of_texts_of_their_own(kind, side, share):
    """Each text alone in a pass, without padding, is what both must give. In float64 (norms: 32)."""
    model, sequences = model_of(kind).double(), batch(side)
    rows, columns = some_tokens(sequences, share)
    alone = torch.stack([
        compute_states(model, padded(model, sequences.select(row[None]), torch.tensor([0]), column[None]))[0]
        for row, column in zip(rows, columns, strict=True)
    ])  # fmt: skip
    expected = gradients(model, alone)
    close = {"rtol": 1e-9, "atol": 1e-9} if kind == "gpt2" else {"rtol": 2e-5, "atol": 2e-6}
    for form in (padded, packed):
        forward = form(model, sequences, rows, columns)
        assert (rows_of_pass(forward) < len(PROMPTS) // 2) == (form is packed)
        states = compute_states(model, forward)
        assert_close(states, alone, **close)
        assert_close(gradients(model, states), expected, **close)
        logits = compute_logits(model, forward)
        assert_close(
            logits, compute_logits(model, padded(model, sequences, rows, columns)), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("share", [0.2, 1.0], ids=["few", "all"])
@models
def test_texts_that_share_a_prompt_have_the_numbers_of_texts_of_their_own(kind, share, monkeypatch):
    """Groups of several sizes in any order, prompts that begin alike, units of one and several texts."""
    model = model_of(kind).double()
    prompts = random_rows((9, 1, 12), 1)
    prompts.append([*prompts[2], 5])
    sequences = batch_of([prompts[i] for i in (0, 2, 3, 0, 1, 2, 2, 0, 1, 2, 0, 2, 0, 0, 2, 2)],
                         random_rows(RESPONSES, 2))  # fmt: skip
    rows, columns = some_tokens(sequences, share)
    states = compute_states(model, padded(model, sequences, rows, columns))
    expected = gradients(model, states)
    close = {"rtol": 1e-9, "atol": 1e-9} if kind == "gpt2" else {"rtol": 2e-5, "atol": 2e-6}
    read = []  # tokens, of all rows; padding is 0
    for most in (0, 24, 256):
        monkeypatch.setattr("rl4lms.model.packing._SHARED_ROW", most)
        forward = packed(model, sequences, rows, columns, share=most > 0)
        together = compute_states(model, forward)
        assert_close(together, states, **close)
        assert_close(gradients(model, together), expected, **close)
        read.append(int(((forward.encoder or forward.arguments)["input_ids"] > 0).sum()))
    assert read[0] > read[1] > read[2]


@models
def test_one_text_is_a_row_without_padding(kind):
    model, sequences = model_of(kind).double(), batch(count=1)
    rows, columns = torch.tensor([0, 0]), torch.tensor([1, 0])
    forward = packed(model, sequences, rows, columns)
    assert forward.arguments["input_ids"].shape == ((1, 2) if forward.encoder else (1, PROMPTS[0] + 1))
    expected = compute_states(model, padded(model, sequences, rows, columns))
    assert_close(compute_states(model, forward), expected, rtol=1e-9, atol=1e-9)


@models
@torch.no_grad()
def test_what_stands_in_the_padding_is_not_seen(kind):
    """Neither in that of the batch, nor in that of the rows."""
    model, sequences = model_of(kind), batch("right")
    rows, columns = some_tokens(sequences, 0.3)
    forward = packed(model, sequences, rows, columns)
    expected = compute_logits(model, forward)
    ids = sequences.prompt_ids.where(sequences.prompt_mask, torch.full_like(sequences.prompt_ids, 3))
    last = torch.zeros(len(ids), dtype=torch.long).scatter_reduce(0, rows, columns, "amax")
    unread = torch.arange(sequences.response_ids.shape[1]) >= last[:, None]
    responses = sequences.response_ids.masked_fill(unread, 11)
    other = Sequences(ids, sequences.prompt_mask, responses, sequences.response_mask)
    assert torch.equal(compute_logits(model, packed(model, other, rows, columns)), expected)
    for arguments in filter(None, (forward.arguments, forward.encoder)):
        mask = arguments.get("attention_mask")
        own = mask[:, 0].diagonal(dim1=1, dim2=2) == 0
        assert own.all(), "each token sees itself"
        padding = (mask[:, 0] == 0).sum(2) > 0
        assert padding.all(), "no row of attention is empty"


@models
def test_rows_of_several_texts_work_with_recomputed_activations_and_in_bfloat16(kind):
    model, sequences = model_of(kind), batch()
    rows, columns = some_tokens(sequences, 0.3)
    forward = packed(model, sequences, rows, columns)
    exact = compute_logits(model, forward)
    expected = gradients(model, exact)
    with autocast(torch.device("cpu"), "bfloat16"):
        rough = compute_logits(model, forward)
    assert_close(rough, exact, rtol=0.1, atol=0.3)
    assert not torch.equal(rough, exact) and all(g.isfinite().all() for g in gradients(model, rough))
    checkpoint_activations(model)
    assert_close(gradients(model, compute_logits(model, forward)), expected, rtol=1e-5, atol=1e-5)


def test_other_models_get_a_row_per_text():
    """BART counts positions itself, Mistral has a window of its own, flash attention takes no such masks."""
    bart = BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
            decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        )
    ).eval()  # fmt: skip
    mistral = MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=4)).eval()
    flash = model_of("gpt2")
    flash.config._attn_implementation = "flash_attention_2"
    for model in (bart, mistral, flash):
        assert not can_share_rows(model)
        assert rows_of_pass(packed(model, batch(), *some_tokens(batch(), 0.3))) == len(PROMPTS)
    assert all(can_share_rows(model_of(kind)) for kind in PACKED)


def test_a_prompt_without_tokens_gets_a_row():
    """A decoder would find no key of its own."""
    model, sequences = model_of("t5"), batch_of([[], [4, 5]], [[6], [7]], "right")
    both = torch.tensor([0, 1])
    assert rows_of_pass(packed(model, sequences, both, both * 0)) == 2


@pytest.mark.parametrize("seed", range(3))
def test_an_arrangement_gives_each_token_a_place_of_its_own(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(1, most, (40,), generator=generator) for most in (34, 21)]
    layouts = arrange(*lengths)
    assert torch.equal(layouts[0].rows, layouts[1].rows)
    for layout, own in zip(layouts, lengths, strict=True):
        counts = layout.owners().flatten().bincount(minlength=41)[1:]
        assert torch.equal(counts, own)
        assert layout.count * layout.width < 1.3 * own.sum()
        ids = torch.arange(int(own.sum())) + 1
        placed = layout.place(ids)
        for text, first in enumerate((own.cumsum(0) - own).tolist()):
            start = layout.starts[text]
            found = placed[layout.rows[text], start : start + own[text]]
            assert torch.equal(found, ids[first : first + int(own[text])])


def test_rows_are_no_shorter_than_the_longest_text():
    (layout,) = arrange(torch.tensor([200, 3, 100, 90]))
    assert (layout.count, layout.width) == (2, 200)

"""One forward pass over whole texts, which predicts some of their tokens, for causal and seq2seq models.

What only those tokens need runs on them alone: the language-model head and parts of the last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4lms.model.load import decoder_start, is_seq2seq
from rl4lms.model.packing import arrange, attention_mask, share_prompts, tokens_before

_MANY_SEQUENCES = 16


@dataclass(frozen=True)
class Sequences:
    """B prompts with their responses; ids of any value where the masks [B, P] and [B, T] are False."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor

    def select(self, rows: Tensor, length: int | None = None) -> Sequences:
        """The sequences `rows`, without the padding that all share; responses cut to `length`."""
        mask = self.prompt_mask[rows]
        used = mask.any(0)
        return Sequences(
            self.prompt_ids[rows][:, used],
            mask[:, used],
            self.response_ids[rows, :length],
            self.response_mask[rows, :length],
        )


@dataclass(frozen=True)
class ForwardPass:
    """What models of one kind are given, R rows, and where their states [R, L, d] predict the N tokens.

    arguments: of a causal model, or of a decoder. encoder: the arguments of a seq2seq model's encoder.
    """

    arguments: dict[str, Tensor]
    rows: Tensor
    positions: Tensor
    encoder: dict[str, Tensor] | None = None


def padded(model: PreTrainedModel, sequences: Sequences, rows: Tensor, columns: Tensor) -> ForwardPass:
    """The pass, a sequence a row, that predicts each of the N tokens `response_ids[rows, columns]`."""
    prompt_ids, prompt_mask = sequences.prompt_ids, sequences.prompt_mask.long()
    if is_seq2seq(model):
        encoder = {"input_ids": prompt_ids, "attention_mask": prompt_mask}
        arguments = {"input_ids": _decoder_ids(model, sequences), "encoder_attention_mask": prompt_mask}
        return ForwardPass(arguments, rows, columns, encoder)
    width = prompt_ids.shape[1]
    if width and not prompt_mask[:, -1].all():  # the first token is predicted by the last column
        prompt_ids, prompt_mask = _padded_left(prompt_ids, prompt_mask)
    ids = torch.cat([prompt_ids, sequences.response_ids[:, :-1]], 1)
    mask = torch.cat([prompt_mask, sequences.response_mask[:, :-1].long()], 1)
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    return ForwardPass(arguments, rows, width - 1 + columns)


def packed(
    model: PreTrainedModel, sequences: Sequences, rows: Tensor, columns: Tensor, share: bool = False
) -> ForwardPass:
    """The same with several sequences a row, each up to its last token asked for, if they can.

    share: read a prompt once for several of its responses.
    """
    if not can_share_rows(model) or not sequences.prompt_mask.any(1).all():
        return padded(model, sequences, rows, columns)
    prompts = sequences.prompt_mask.sum(1)
    asked = torch.ones_like(prompts).scatter_reduce(0, rows, columns + 1, "amax")
    order = units = torch.arange(len(prompts), device=prompts.device)
    if share:
        order, units = share_prompts(sequences.prompt_ids, sequences.prompt_mask, asked)
        sequences, prompts, asked = sequences.select(order), prompts[order], asked[order]
        rows = order.argsort()[rows]
    build = _packed_seq2seq if is_seq2seq(model) else _packed_causal
    return build(model, sequences, prompts, asked, units, rows, columns)


def _packed_seq2seq(
    model: PreTrainedModel,
    sequences: Sequences,
    prompts: Tensor,
    asked: Tensor,
    units: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> ForwardPass:
    """prompts, asked: the lengths [B] of what is read; units: [B], in order, texts that share a prompt."""
    first = tokens_before(torch.ones_like(units), units) == 0
    prompt_ids, prompt_mask = sequences.prompt_ids[first], sequences.prompt_mask[first]
    source, target = arrange(prompts[first], torch.zeros_like(prompts[first]).index_add(0, units, asked))
    real = torch.arange(sequences.response_ids.shape[1], device=asked.device) < asked[:, None]
    texts = target.place(torch.arange(1, len(asked) + 1, device=asked.device).repeat_interleave(asked))
    encoder = {
        "input_ids": source.place(prompt_ids[prompt_mask]),
        "attention_mask": attention_mask(source, source, model.dtype),
    }
    arguments = {
        "input_ids": target.place(_decoder_ids(model, sequences)[real]),
        "attention_mask": attention_mask(target, target, model.dtype, causal=True, texts=texts),
        "encoder_attention_mask": attention_mask(target, source, model.dtype),
    }
    starts = target.starts[units] + tokens_before(asked, units)
    return ForwardPass(arguments, target.rows[units][rows], starts[rows] + columns, encoder)


def _packed_causal(
    model: PreTrainedModel,
    sequences: Sequences,
    prompts: Tensor,
    asked: Tensor,
    units: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> ForwardPass:
    """As above. The last token asked for is not read, and the prompt's last token predicts the first."""
    first = tokens_before(torch.ones_like(units), units) == 0
    lengths = torch.zeros_like(prompts[first]).index_add(0, units, asked - 1) + prompts[first]
    (layout,) = arrange(lengths)
    steps = torch.arange(sequences.response_ids.shape[1], device=asked.device)
    read = sequences.prompt_mask & first[:, None], steps < asked[:, None] - 1
    numbers = torch.arange(1, len(asked) + 1, device=asked.device)[:, None]

    def place(of_prompts: Tensor, of_responses: Tensor) -> Tensor:
        return layout.place(torch.cat([of_prompts, of_responses], 1)[torch.cat(read, 1)])

    texts = place(torch.zeros_like(sequences.prompt_ids), numbers.expand(read[1].shape))
    arguments = {
        "input_ids": place(sequences.prompt_ids, sequences.response_ids),
        "attention_mask": attention_mask(layout, layout, model.dtype, causal=True, texts=texts),
        "position_ids": place(sequences.prompt_mask.cumsum(1) - 1, prompts[:, None] + steps),
    }
    before = tokens_before(asked - 1, units)[rows].where(columns > 0, torch.zeros_like(columns))
    positions = (layout.starts[units] + prompts)[rows] - 1 + before + columns
    return ForwardPass(arguments, layout.rows[units][rows], positions)


def shortest_pass(
    model: PreTrainedModel, sequences: Sequences, rows: Tensor, columns: Tensor, share: bool = False
) -> ForwardPass:
    """The same pass, `packed` where there are many sequences: of few, little is padding."""
    if len(sequences.response_ids) >= _MANY_SEQUENCES:
        return packed(model, sequences, rows, columns, share)
    return padded(model, sequences, rows, columns)


def can_share_rows(model: PreTrainedModel) -> bool:
    """Whether texts in one row are as in rows of their own, given masks and, of a causal model, positions.

    So it is if positions are relative to each other or given, and attention looks at the masks alone: known
    of some model types.
    """
    return model.config.model_type in _LAST_PARTS and model.config._attn_implementation in ("sdpa", "eager")


def token_logits(model: PreTrainedModel, sequences: Sequences, rows: Tensor, columns: Tensor) -> Tensor:
    """The logits [N, V] that predict each of the N tokens `response_ids[rows, columns]`."""
    return compute_logits(model, padded(model, sequences, rows, columns))


def compute_logits(model: PreTrainedModel, forward: ForwardPass) -> Tensor:
    """The logits [N, V] that predict the N tokens of a pass."""
    arguments: dict[str, object] = dict(forward.arguments)
    if forward.encoder is not None:
        decoder = forward.arguments
        arguments = {
            "encoder_outputs": (_encoded(model, forward.encoder),),
            "attention_mask": decoder["encoder_attention_mask"],
            "decoder_input_ids": decoder["input_ids"],
            "decoder_attention_mask": decoder.get("attention_mask"),
        }
    with _last_parts_on(model, forward), _head_on(model, forward):
        return model(**arguments, use_cache=False).logits.float()


def compute_states(model: PreTrainedModel, forward: ForwardPass) -> Tensor:
    """The last hidden states [N, d] at the positions that predict those tokens."""
    arguments, stack = dict(forward.arguments), model.base_model
    if forward.encoder is not None:
        encoded = _encoded(model, forward.encoder)
        if model.config.model_type == "encoder-decoder":  # two models put together, of sizes of their own
            encoded = getattr(model, "enc_to_dec_proj", nn.Identity())(encoded)
        arguments["encoder_hidden_states"] = encoded
        stack = model.get_decoder().base_model  # without the head, if it has one
    with _last_parts_on(model, forward):
        return stack(**arguments, use_cache=False).last_hidden_state[forward.rows, forward.positions]


def _encoded(model: PreTrainedModel, arguments: dict[str, Tensor]) -> Tensor:
    return model.get_encoder()(**arguments).last_hidden_state


def _decoder_ids(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """The decoder's input [B, T]: the responses, one to the right."""
    responses, start = sequences.response_ids, decoder_start(model)
    assert start is not None  # of a seq2seq model
    return torch.cat([responses.new_full((len(responses), 1), start), responses[:, :-1]], 1)


def _padded_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows with their padding in front."""
    order = mask.argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


@contextmanager
def _head_on(model: PreTrainedModel, forward: ForwardPass) -> Iterator[None]:
    """The language-model head sees these states alone, as [N, d]: over all of them it would cost the most."""
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda head, inputs: (inputs[0][forward.rows, forward.positions],)
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _last_parts_on(model: PreTrainedModel, forward: ForwardPass) -> Iterator[None]:
    """Parts of the last layer, too, see these states alone and give 0 elsewhere: nothing attends to the rest.

    Not if they are most of the states; nor where layers are computed again in the backward pass, when the
    hooks are gone.
    """
    shape, find = forward.arguments["input_ids"].shape, _LAST_PARTS.get(model.config.model_type)
    if find is None or 2 * len(forward.rows) > shape.numel() or model.is_activation_checkpointing:
        yield
        return
    places = (forward.rows * shape[1] + forward.positions).unique()

    def pick(part: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1)[places],)

    def put_back(part: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        zeros = output.new_zeros(shape.numel(), output.shape[1])
        return zeros.index_copy(0, places, output).view(*shape, -1)

    with ExitStack() as hooks:
        for part in find(model):
            hooks.enter_context(part.register_forward_pre_hook(pick))
            hooks.enter_context(part.register_forward_hook(put_back))
        yield


def _gpt2_parts(model: PreTrainedModel) -> list[nn.Module]:
    layer = model.base_model.h[-1]
    return [layer.attn.c_proj, layer.mlp]


def _llama_parts(model: PreTrainedModel) -> list[nn.Module]:
    layer = model.base_model.layers[-1]
    return [layer.self_attn.o_proj, layer.mlp]


def _t5_parts(model: PreTrainedModel) -> list[nn.Module]:
    self_attention, cross, feed_forward = model.get_decoder().block[-1].layer
    attentions = (self_attention.SelfAttention, cross.EncDecAttention)
    return [part for attention in attentions for part in (attention.q, attention.o)] + [feed_forward]


# By model type: what in the last layer works on each position by itself and makes no keys or values.
_LAST_PARTS: dict[str, Callable[[PreTrainedModel], list[nn.Module]]] = {
    "gpt2": _gpt2_parts,
    "llama": _llama_parts,
    "mt5": _t5_parts,
    "t5": _t5_parts,
}

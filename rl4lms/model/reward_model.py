"""RewardModel: the reward of a completion, learnt from comparisons (Ouyang et al. 2022, Section 3.5).

A language model without its unembedding, and a linear head on the state of the text's last token, which is
its end token. Causal ones read prompt and completion as one text; of encoder-decoders the encoder reads the
prompt and the decoder the completion. The baseline `bag_of_tokens` counts the completion's tokens. Other
people's sequence classifiers with one output are read, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.hub import first_line
from common.seeding import derive_seed, isolated_rng
from rl4lms.model.adapter_folder import adapter_base
from rl4lms.model.forward import Sequences, compute_states, shortest_pass
from rl4lms.model.load import (
    check_vocabulary,
    load_config,
    load_tokenizer,
    load_weights,
    max_positions,
    save_model_folder,
)
from rl4lms.model.lora import add_adapter, has_adapter, load_adapter, merge_adapter, to_save
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.source import (
    BAG_OF_TOKENS,
    REWARD_FIELD,
    Kind,
    ModelSourceError,
    check_reward_model_source,
    reward_model_problem,
)

logger = logging.getLogger(__name__)

RewardKind = Literal["causal", "seq2seq", "bag_of_tokens", "encoder"]
ChatTemplate = Literal["auto", "none"]
HEAD = "score.weight"
_PAD_TOKEN = "[PAD]"


@dataclass(frozen=True)
class Tokens:
    """What a reward model reads: a causal one all in `completion`, or the first token in `prompt`.

    completion: ends with the end token.
    """

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class BagConfig(PreTrainedConfig):
    """The config of a BagOfTokens."""

    model_type = BAG_OF_TOKENS


AutoConfig.register(BAG_OF_TOKENS, BagConfig)  # else tokenizers of its folders warn of an unknown type


class BagOfTokens(PreTrainedModel):
    """A weight for each token of the vocabulary, at first 0."""

    config_class = BagConfig

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.vocab_size, 1, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.data.zero_()


class RewardModel(nn.Module):
    """A model with a head `score`, the tokenizer that it reads texts by, and how its rewards are normalised.

    kind: "encoder" are classifiers that read a pair of texts in their own way (BERT); they cannot be trained
    here. The reward is scale * raw + bias. max_length: tokens of a text; an encoder-decoder's prompt has as
    many besides. conversations: it reads prompt and completion as two messages, rendered
    by its chat template.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kind: RewardKind,
        *,
        conversations: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.kind = model.eval(), tokenizer, kind
        self.conversations = conversations
        config = model.config
        self.bias: float = getattr(config, "reward_bias", 0.0)
        self.scale: float = getattr(config, "reward_scale", 1.0)
        self.max_length: int | None = getattr(config, "reward_max_length", None) or _longest(model, tokenizer)

    @classmethod
    def start(
        cls,
        model_name: str,
        kind: Kind,
        *,
        tokenizer_name: str,
        max_length: int | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        lora: LoraSettings | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Put a new head, float32, on the language model of a hub name or folder, with weights of `dtype`.

        model_name: "bag_of_tokens" needs the tokenizer alone. max_length: None = what model and tokenizer
        take. seed: of the head, whose weights have standard deviation 1 / sqrt(d + 1), and of a new adapter.
        lora: an adapter and the head are trained, that of the folder or a new one. Raises ModelSourceError.
        """
        tokenizer = _padding_tokenizer(tokenizer_name)
        if model_name == BAG_OF_TOKENS:
            bag = BagOfTokens(BagConfig(vocab_size=len(tokenizer), num_labels=1))
            bag.config.reward_max_length = max_length
            return cls(bag.to(device), tokenizer, BAG_OF_TOKENS)
        if kind == "causal":
            auto = AutoModelForSequenceClassification
            whole = lora is None
            model = load_weights(auto, model_name, kind, dtype, [HEAD], merge=whole, num_labels=1)
            if not isinstance(getattr(model, "score", None), nn.Linear):
                raise ModelSourceError(
                    f"model {model_name!r} ({model.config.model_type}) cannot become a reward model: "
                    f"{type(model).__name__} has no linear head 'score'"
                )
        else:
            model = load_weights(AutoModel, model_name, kind, dtype, merge=lora is None)
            model.score = nn.Linear(model.config.hidden_size, 1, bias=False)
            model.config.num_labels = 1
        model.score.float()
        width = model.score.in_features
        with isolated_rng(derive_seed(seed, "reward head")):
            nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5)
            is_new = len(tokenizer) == model.get_input_embeddings().num_embeddings + 1  # the padding token
            if is_new and lora is None:
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        if lora is not None and not has_adapter(model):
            add_adapter(model, lora, seed, "SEQ_CLS" if kind == "causal" else "FEATURE_EXTRACTION")
        if not is_new:
            check_vocabulary(model, tokenizer)
        # transformers' own class reads the state before the first padding token from the right.
        model.config.pad_token_id = None if is_new and lora is not None else tokenizer.pad_token_id
        model.config.reward_max_length = max_length
        return cls(model.to(device), tokenizer, kind)

    @classmethod
    def load(
        cls, name: str, device: torch.device | str = "cpu", chat_template: ChatTemplate = "auto"
    ) -> Self:
        """Load what `save` wrote, or another sequence classifier with one output: hub name or folder.

        chat_template: auto = others' models whose tokenizer has one read conversations, as they were trained.
        Raises ModelSourceError: not there, damaged, a language model, several outputs.
        """
        if problem := check_reward_model_source(name):
            raise ModelSourceError(problem)
        config = load_config(name)
        if problem := reward_model_problem(name, config):  # of the hub
            raise ModelSourceError(problem)
        tokenizer = _padding_tokenizer(name)
        if config.get("model_type") == BAG_OF_TOKENS:
            bag = load_weights(BagOfTokens, name, "causal", torch.float32)
            return cls(bag.to(device), tokenizer, BAG_OF_TOKENS)
        architecture = str((config.get("architectures") or [""])[0])
        kind: RewardKind = "causal"
        if (base := adapter_base(name)) is not None and config.get("is_encoder_decoder"):
            model, kind = load_weights(AutoModel, base, "seq2seq", torch.float32), "seq2seq"
            model.score = nn.Linear(model.config.hidden_size, 1, bias=False)
            load_adapter(model, name)
            model = merge_adapter(model)
        elif architecture.endswith("ForSequenceClassification"):
            source: Kind = "seq2seq" if config.get("is_encoder_decoder") else "causal"
            auto = AutoModelForSequenceClassification
            model = load_weights(auto, name, source, torch.float32, num_labels=1)
            kind = "causal" if hasattr(model, "score") else "encoder"
            if tokenizer.pad_token_id < model.get_input_embeddings().num_embeddings:
                model.config.pad_token_id = tokenizer.pad_token_id
            if REWARD_FIELD not in config and chat_template == "auto" and tokenizer.chat_template:
                _render(tokenizer, "prompt", "completion")  # refused now, not at the first text
                logger.info(
                    "reward model %r reads prompt and completion as a conversation, by its tokenizer's chat "
                    "template (chat_template: none = as one text)",
                    name,
                )
                return cls(model.to(device), tokenizer, kind, conversations=True)
        else:
            model, kind = load_weights(AutoModel, name, "seq2seq", torch.float32, head=[HEAD]), "seq2seq"
            model.score = nn.Linear(model.config.hidden_size, 1, bias=False)
            model.score.weight.data.copy_(_read_tensor(Path(name).expanduser(), HEAD))
        if base is not None:  # whose config is not that of the reward model
            model.config.update({name: value for name, value in config.items() if name.startswith("reward_")})
        return cls(model.to(device), tokenizer, kind)

    def save(self, folder: Path, lora: LoraSettings | None = None) -> None:
        """Write model (or adapter), tokenizer and normalisation into `folder`, whole or not at all.

        AutoModelForSequenceClassification reads causal ones, AutoModel the backbone of encoder-decoders.
        """
        self.model.config.reward_bias, self.model.config.reward_scale = self.bias, self.scale
        save_model_folder(folder, to_save(self.model, lora), self.tokenizer)

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Tokens]:
        """The tokens of N completions, each with its own prompt; the end token is added if it is missing.

        What is too long loses its beginning; a completion that an encoder-decoder's decoder reads, its end.
        """
        if self.conversations:
            texts = [
                _render(self.tokenizer, prompt, text)
                for prompt, text in zip(prompts, completions, strict=True)
            ]
            # The template has written the special tokens, and how a conversation ends.
            rows = [_cut_start(ids, self.max_length) for ids in self._tokenize(texts, special=False)]
            first = 1 if self.kind == "causal" else 0
            return [Tokens(ids[:first], ids[first:]) for ids in rows]
        if self.kind == "seq2seq":
            sources = self._tokenize(prompts)
            targets = [self._ended(ids) for ids in self._tokenize(completions, as_target=True)]
            longest = self.max_length
            return [
                Tokens(_cut_start(source, longest), _cut_end(target, longest))
                for source, target in zip(sources, targets, strict=True)
            ]
        if self.kind == "bag_of_tokens":
            rows = [self._ended(ids) for ids in self._tokenize(completions)]
            return [Tokens([], _cut_start(ids, self.max_length)) for ids in rows]
        if self.kind == "encoder":
            pairs = self.tokenizer(
                list(prompts), list(completions), truncation=True, max_length=self.max_length
            )
            return [Tokens([], ids) for ids in pairs["input_ids"]]
        texts = [prompt + text for prompt, text in zip(prompts, completions, strict=True)]
        rows = [_cut_start(self._ended(ids), self.max_length) for ids in self._tokenize(texts)]
        return [Tokens(ids[:1], ids[1:]) for ids in rows]

    def forward(self, rows: Sequence[Tokens]) -> Tensor:
        """The raw rewards [N] of texts, in one pass; float32."""
        device = self.model.device
        if self.kind == "encoder":
            ids, mask = _padded([row.completion for row in rows], self._filler, device)
            return self.model(input_ids=ids, attention_mask=mask.long()).logits[:, 0].float()
        states = self._states(rows, device)
        return self.model.score(states.to(self.model.score.weight.dtype))[:, 0].float()

    def _states(self, rows: Sequence[Tokens], device: torch.device) -> Tensor:
        """What the head looks at [N, d]: the last token's state, or the counts of the tokens."""
        if self.kind == "bag_of_tokens":
            counts = [
                torch.bincount(torch.tensor(row.completion), minlength=len(self.tokenizer)) for row in rows
            ]
            return torch.stack(counts).float().to(device)
        filler = self._filler
        prompts, prompt_mask = _padded([row.prompt for row in rows], filler, device)
        # The state behind a text is the one that would predict a token after it, which nothing reads.
        completions, mask = _padded([[*row.completion, filler] for row in rows], filler, device)
        sequences = Sequences(prompts, prompt_mask, completions, mask)
        last = torch.tensor([len(row.completion) for row in rows], device=device)
        places = torch.arange(len(rows), device=device)
        return compute_states(self.model, shortest_pass(self.model, sequences, places, last))

    @torch.no_grad()
    def score(self, prompts: Sequence[str], completions: Sequence[str], batch_size: int = 64) -> list[float]:
        """The normalised reward of each completion; texts of similar length are read together."""
        rows = self.encode(prompts, completions)
        raw = torch.empty(len(rows))
        for indices in by_length(rows, batch_size):
            raw[indices] = self([rows[i] for i in indices]).cpu()
        return (self.scale * raw + self.bias).tolist()

    @property
    def _filler(self) -> int:
        """The token that fills a batch up; another one if the padding token is new and has no embedding."""
        filler = self.tokenizer.pad_token_id
        return filler if filler < self.model.get_input_embeddings().num_embeddings else 0

    def _tokenize(
        self, texts: Sequence[str], as_target: bool = False, special: bool = True
    ) -> list[list[int]]:
        arguments: dict[str, Any] = {"text_target" if as_target else "text": list(texts)}
        if not special:
            arguments["add_special_tokens"] = False
        return self.tokenizer(**arguments, verbose=False)["input_ids"] if texts else []

    def _ended(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]


def by_length(rows: Sequence[Tokens], batch_size: int) -> Iterator[list[int]]:
    """Batches of indices of rows, the longest first."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _padding_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or folder; its padding token is not its end token, but new if need be."""
    tokenizer = load_tokenizer(name, padding_side="right", truncation_side="left")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": _PAD_TOKEN})
    return tokenizer


def _render(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> str:
    """Write the conversation of a prompt and its answer. Raises ModelSourceError: the template refuses."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program of somebody else's
        raise ModelSourceError(
            f"the chat template of {tokenizer.name_or_path!r} cannot write a prompt and its completion "
            f"({type(error).__name__}: {first_line(error)}): set chat_template: none"
        ) from error


def _longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that model and tokenizer take; None: any number."""
    limits = (max_positions(model), tokenizer.model_max_length)
    return min((limit for limit in limits if limit is not None and limit < 2**31), default=None)


def _cut_start(ids: list[int], longest: int | None) -> list[int]:
    return ids if longest is None else ids[-longest:]


def _cut_end(ids: list[int], longest: int | None) -> list[int]:
    return ids if longest is None or len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def _padded(rows: list[list[int]], filler: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows padded on the right, and the mask [N, L] of what is real."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]


def _read_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of a model folder. Raises ModelSourceError if no file has it."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():
                return tensors.get_tensor(name)
    raise ModelSourceError(
        f"folder {str(folder)!r} has no {name!r}: it is no reward model that was saved whole"
    )

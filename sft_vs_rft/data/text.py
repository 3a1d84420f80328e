"""Sentence pairs as BERT reads them: STS-B's own files, the tokenizer, tokenisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.hub import spare_retries_without_network
from sft_vs_rft.data.containers import TextPairs, TokenizedPairs
from sft_vs_rft.data_source import TOKENIZER_REPO, TOKENIZER_REVISION, DataError, find_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 512
MAX_VOCABULARY = 30_522
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_stsb(file: Path) -> tuple[TextPairs, list[float]]:
    """Sentence pairs and scores 0..5 of a GLUE STS-B file: tab-separated, with a header, quotes are text.

    Raises DataError that names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    header = lines[0].split("\t")
    lacking = [name for name in ("sentence1", "sentence2", "score") if name not in header]
    if lacking:
        raise DataError(f"{file} line 1: no column {', '.join(lacking)}; columns are: {', '.join(header)}")
    first, second, last = (header.index(name) for name in ("sentence1", "sentence2", "score"))
    pairs, scores = [], []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != len(header):
            raise DataError(f"{file} line {number}: {len(fields)} fields, the header has {len(header)}")
        try:
            score = float(fields[last])
        except ValueError as error:
            raise DataError(f"{file} line {number}: score {fields[last]!r} is not a number") from error
        if not 0 <= score <= 5:
            raise DataError(f"{file} line {number}: score {score} is not in 0..5")
        pairs.append((fields[first], fields[second]))
        scores.append(score)
    return pairs, scores


def load_tokenizer(tokenizer_path: str) -> Tokenizer:
    """The uncased BERT WordPiece, from a folder (tokenizer.json or vocab.txt) or, if "", from the hub.

    Raises DataError: not there, not readable, or more entries than BERT-mini's vocabulary.
    """
    import tokenizers

    if tokenizer_path:
        file = find_tokenizer(tokenizer_path)
    else:
        file = _hub_vocabulary()
    try:
        if file.name == "tokenizer.json":
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        else:
            tokenizer = word_piece(file.read_text(encoding="utf-8").splitlines())
    except Exception as error:  # the library raises plain Exception for whatever it cannot parse
        raise DataError(f"{file} is not a BERT tokenizer: {error}") from error
    if tokenizer.get_vocab_size() > MAX_VOCABULARY:
        raise DataError(
            f"{file} has {tokenizer.get_vocab_size():,} entries, bert-mini's vocabulary {MAX_VOCABULARY:,}"
        )
    return tokenizer


def word_piece(vocabulary: Sequence[str]) -> Tokenizer:
    """The uncased BERT tokenizer over `vocabulary`: an entry's position is its id."""
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    ids = {entry: i for i, entry in enumerate(vocabulary)}
    lacking = [token for token in SPECIAL_TOKENS if token not in ids]
    if lacking:
        raise ValueError(f"the vocabulary lacks {', '.join(lacking)}")
    return Tokenizer.from_str(BertWordPieceTokenizer(ids, lowercase=True).to_str())


def tokenise(tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]]) -> TokenizedPairs:
    """[CLS] first [SEP] second [SEP], cut to 512 tokens by shortening the longer sentence of a pair."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS, strategy="longest_first")
    encodings = tokenizer.encode_batch(list(pairs))
    lengths = torch.tensor([len(encoding.ids) for encoding in encodings])
    shape = (len(encodings), int(lengths.max()))
    input_ids, token_type_ids = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape, dtype=torch.int32)
    for i, encoding in enumerate(encodings):
        input_ids[i, : lengths[i]] = torch.tensor(encoding.ids)
        token_type_ids[i, : lengths[i]] = torch.tensor(encoding.type_ids)
    return TokenizedPairs(input_ids, token_type_ids, lengths)


def _hub_vocabulary() -> Path:
    spare_retries_without_network()
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(TOKENIZER_REPO, "vocab.txt", revision=TOKENIZER_REVISION))
    except Exception as error:  # network, hub, disk and cache errors share no base class
        raise DataError(
            f"the BERT tokenizer could not be read from hub model {TOKENIZER_REPO!r} "
            f"({type(error).__name__}). Without network, put that repository's vocab.txt (or any uncased "
            "BERT's: the same 30,522 entries) into a folder and name it with --set tokenizer_path=FOLDER"
        ) from error

"""Autoregressive models so small that all their outputs can be enumerated: exact probabilities and scores.

Letters: N models (each with its one input), K tokens in the vocabulary, L output length, Y = K**L outputs,
P = 1 + K + ... + K**(L-1) prefixes, F features of a prefix, D parameters. All tensors are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = 3  # units of the `network` kind


def _tabular(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    return params.view(len(features), num_tokens)


def _shared(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    return params.expand(len(features), num_tokens)


def _linear(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    return features @ params.view(-1, num_tokens)


def _network(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    size = features.shape[-1] * HIDDEN
    return torch.tanh(features @ params[:size].view(-1, HIDDEN)) @ params[size:].view(HIDDEN, num_tokens)


# kind -> logits [P, K] of parameters [D] and prefix features [P, F]: free logits of every prefix; the same
# logits whatever the prefix; linear in the features; one hidden layer.
MODELS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "tabular": _tabular,
    "shared": _shared,
    "linear": _linear,
    "network": _network,
}


def num_params(kind: str, num_tokens: int, length: int) -> int:
    """D of a kind of model."""
    num_prefixes, num_features = prefix_features(num_tokens, length).shape
    return {
        "tabular": num_prefixes * num_tokens,
        "shared": num_tokens,
        "linear": num_features * num_tokens,
        "network": (num_features + num_tokens) * HIDDEN,
    }[kind]


def enumerate_outputs(num_tokens: int, length: int) -> tuple[Tensor, Tensor]:
    """All outputs, in the order of counting. Returns int64 [Y, L]: (prefix before a token, token).

    Prefixes are numbered by length, then in the order of counting.
    """
    outputs = torch.arange(num_tokens**length)[:, None]
    place = num_tokens ** torch.arange(length - 1, -1, -1)
    lengths = torch.arange(length)
    first_of_length = (num_tokens**lengths - 1) // (num_tokens - 1)
    return first_of_length + outputs // (place * num_tokens), outputs // place % num_tokens


def prefix_features(num_tokens: int, length: int) -> Tensor:
    """What the tied models see of a prefix: one-hot position, one-hot last token, counts. Returns [P, F]."""
    prefixes, tokens = enumerate_outputs(num_tokens, length)
    features = torch.zeros(int(prefixes.max()) + 1, length + 2 * num_tokens, dtype=torch.float64)
    for position in range(length):
        index = prefixes[:, position]
        features[index, position] = 1
        if position > 0:
            features[index, length + tokens[:, position - 1]] = 1
            counts = F.one_hot(tokens[:, :position], num_tokens).sum(1)
            features[index, length + num_tokens :] = counts.double()
    return features


@dataclass(frozen=True)
class Outputs:
    """The distribution of N models over all their outputs, and its derivatives.

    logprobs: [N, Y], log p(y|x); scores: [N, Y, D], its gradient in the parameters; gamma: [N], the largest
    spectral norm over all prefixes (so over positions too) of the Jacobian of the logits in the parameters.
    """

    logprobs: Tensor
    scores: Tensor
    gamma: Tensor


def enumerate_models(kind: str, params: Tensor, num_tokens: int, length: int) -> Outputs:
    """Enumerate N models of one kind. params: [N, D] float64."""
    features = prefix_features(num_tokens, length)

    def logits_of(flat: Tensor) -> Tensor:
        return MODELS[kind](flat, features, num_tokens)

    logits = torch.func.vmap(logits_of)(params)  # [N, P, K]
    jacobian = torch.func.vmap(torch.func.jacrev(logits_of))(params)  # [N, P, K, D]
    gamma = torch.linalg.eigvalsh(jacobian @ jacobian.mT)[..., -1].amax(-1).sqrt()

    # e_y - p, with 1 - p_y as the sum of the others: as a difference it is lost when p_y is near 1.
    others = 1 - torch.eye(num_tokens, dtype=torch.float64)
    probs = logits.softmax(-1)
    token_scores = (torch.diag_embed(probs @ others) - probs[..., None, :] * others) @ jacobian
    token_logprobs = logits.log_softmax(-1)

    prefixes, tokens = enumerate_outputs(num_tokens, length)
    logprobs = token_logprobs[:, prefixes, tokens].sum(-1)
    scores = torch.zeros(len(params), len(tokens), params.shape[-1], dtype=torch.float64)
    for position in range(length):
        scores += token_scores[:, prefixes[:, position], tokens[:, position]]
    return Outputs(logprobs, scores, gamma)

"""Rollouts: texts of the policy for drawn prompts, and per token what PPO needs of them (Section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import pstdev

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rl4lms.model.policy import PolicyModel, Sequences
from rl4lms.ppo.mask import PackedMasks


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """E episodes, whose first N tokens make up the buffer; tensors [N] are in its order, episode by episode.

    mask: [E, T], the tokens of the buffer; rows, columns: where they are in it. logprobs: of the policy that
    sampled. rewards: with the KL penalty. last_values: [E], the value after the last token of the episode
    that was cut, else 0. allowed: packed action masks (NLPO). Of all episodes: task_rewards and samples (the
    inputs drawn), [E], texts, reward_parts (see LoggedRollouts), and scores, of all their tokens.
    """

    sequences: Sequences
    mask: Tensor
    rows: Tensor
    columns: Tensor
    logprobs: Tensor
    values: Tensor
    rewards: Tensor
    last_values: Tensor
    task_rewards: Tensor
    samples: Tensor
    texts: list[str]
    reward_parts: dict[str, list[float | None]]
    scores: Scores
    allowed: PackedMasks | None

    def padded(self, values: Tensor) -> Tensor:
        """Put values [N] of the buffer's tokens into [E, T], 0 elsewhere."""
        zeros = torch.zeros(self.mask.shape, device=values.device)
        return zeros.index_put((self.rows, self.columns), values)

    def action_mask(self, tokens: Tensor) -> Tensor | None:
        """Return the allowed next tokens [len(tokens), V] of buffer tokens; None = all."""
        if self.allowed is None:
            return None
        return self.allowed.select(tokens.cpu()).masks().to(tokens.device)

    @classmethod
    def build(
        cls,
        sequences: Sequences,
        mask: Tensor,
        scores: Scores,
        task_rewards: Tensor,
        samples: Tensor,
        texts: list[str],
        allowed: PackedMasks | None = None,
        reward_parts: dict[str, list[float | None]] | None = None,
    ) -> Rollouts:
        """Make the buffer of the tokens in `mask`: an episode cut there loses its reward."""
        rows, columns = mask.nonzero(as_tuple=True)
        lengths, kept = sequences.response_mask.sum(1), mask.sum(1)
        whole = kept == lengths
        rewards = scores.kl_rewards.clone()
        rewards[whole, lengths[whole] - 1] += task_rewards[whole]
        after = scores.values.gather(1, kept.clamp(max=mask.shape[1] - 1)[:, None])[:, 0]
        return cls(
            sequences=sequences,
            mask=mask,
            rows=rows,
            columns=columns,
            logprobs=scores.logprobs[rows, columns],
            values=scores.values[rows, columns],
            rewards=rewards[rows, columns],
            last_values=after.where(~whole & (kept > 0), torch.zeros_like(after)),
            task_rewards=task_rewards,
            samples=samples,
            texts=texts,
            reward_parts=reward_parts or {},
            scores=scores,
            allowed=allowed,
        )

    @property
    def kl_penalties(self) -> Tensor:
        """What the KL reward takes off the reward of each episode, [E]."""
        return -self.scores.kl_rewards.sum(1)

    @property
    def kept(self) -> None:
        """Every episode is trained on."""

    @property
    def response_tokens(self) -> int:
        """Counts the tokens of all episodes."""
        return int(self.sequences.response_mask.sum())

    @property
    def trained_tokens(self) -> int:
        """Counts the tokens of the buffer."""
        return len(self.rows)

    def statistics(self) -> dict[str, float]:
        """Compute what is logged of the rollouts, over all tokens, also those that do not fit the buffer.

        ep_...: of episodes, the others of tokens; stds are those of the population. input_reward_std: the
        mean over the inputs that were drawn more than once (repeated_inputs) of the std of their rewards.
        """
        real, scores = self.sequences.response_mask, self.scores
        per_token = {
            "kl_div_mean": scores.raw_logprobs - scores.ref_logprobs,
            "log_prob": scores.logprobs,
            "ref_log_prob": scores.ref_logprobs,
            "values": scores.values,
        }
        series = {
            "ep_rew": self.task_rewards,
            "ep_lens": real.sum(1).float(),
            "ep_kl_rew": scores.kl_rewards.sum(1),
            "ep_kl": (scores.raw_logprobs - scores.ref_logprobs).sum(1),
        }
        series |= {name: values[real] for name, values in per_token.items()}
        statistics = {}
        for name, values in series.items():
            statistics[f"rollout_info/{name}"] = values.mean().item()
            statistics[f"rollout_info/{name}_std"] = values.std(correction=0).item()
        # The scale on which rewards grow evenly (Gao et al. 2022); sampled, the mean may be below 0.
        statistics["rollout_info/ep_kl_root"] = max(0.0, statistics["rollout_info/ep_kl"]) ** 0.5
        stds = self.repeated_input_stds()
        statistics["rollout_info/repeated_inputs"] = float(len(stds))
        if stds:
            statistics["rollout_info/input_reward_std"] = sum(stds) / len(stds)
        return statistics

    def repeated_input_stds(self) -> list[float]:
        """Compute the reward std (ddof 0) of each input that was drawn more than once."""
        rewards: dict[int, list[float]] = {}
        for sample, reward in zip(self.samples.tolist(), self.task_rewards.tolist(), strict=True):
            rewards.setdefault(sample, []).append(reward)
        return [pstdev(group) for group in rewards.values() if len(group) > 1]


@dataclass(frozen=True)
class Scores:
    """Per response token, [B, T] (or [T] of one episode), 0 where there is none."""

    logprobs: Tensor  # of the policy as it samples, so under NLPO over the allowed tokens
    raw_logprobs: Tensor  # of the policy over all tokens
    ref_logprobs: Tensor
    values: Tensor
    kl_rewards: Tensor

    def select(self, row: int, length: int) -> Scores:
        """Return the scores [length] of one episode."""
        return Scores(**{name: values[row, :length] for name, values in vars(self).items()})

    def cpu(self) -> Scores:
        """Return the scores on the CPU."""
        return Scores(**{name: values.cpu() for name, values in vars(self).items()})

    @classmethod
    def join(cls, episodes: Sequence[Scores], device: torch.device) -> Scores:
        """Join the scores of B episodes to [B, T], padded with 0, on a device: one transfer for all."""
        names = [field.name for field in fields(cls)]
        rows = [torch.stack([getattr(scores, name) for name in names], 1) for scores in episodes]
        joined = pad_sequence(rows, batch_first=True).to(device)
        return cls(**dict(zip(names, joined.unbind(2), strict=True)))


def score_rollouts(
    policy: PolicyModel,
    reference: PolicyModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    *,
    kl_coeff: float,
    temperature: float = 1.0,
    action_mask: Tensor | None = None,
) -> Scores:
    """Compute log-probabilities, reference log-probabilities, values and KL rewards of responses [B, T].

    temperature: of the policy; the reference's is 1. KL reward: -kl_coeff (log pi - log pi_ref), of the
    policy without action mask. action_mask: see PolicyModel.logprobs.
    """
    given = (prompt_ids, prompt_mask, response_ids, response_mask)
    with torch.no_grad():
        logprobs, raw = policy.taken_logprobs(Sequences(*given), temperature, action_mask)
        ref, _ = reference.taken_logprobs(Sequences(*given))
        values = policy.values(*given)
    return Scores(logprobs, raw, ref, values, -kl_coeff * (raw - ref))


def fill_buffer(response_mask: Tensor, tokens: int) -> Tensor:
    """Mark the first `tokens` tokens of the responses [E, T], episode by episode, in a mask [E, T]."""
    counted = response_mask.flatten().cumsum(0).view(response_mask.shape)
    return response_mask & (counted <= tokens)

"""The `alg` block of the group algorithms: one set of fields, whose defaults the id fills.

Defaults of fields that the ids share are TRL's; those by id are of the algorithm's source, as in TRL 1.16.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.config import Config, Problem
from common.limits import TextsAtATime
from common.validation import say_why_refused
from rl4lms.config.algorithms import PolicyConfig, RolloutConfig
from rl4lms.config.parts import Positive
from rl4lms.model.generation_config import GenerationSettings

GroupId = Literal["rloo", "grpo", "dr_grpo", "dapo", "gspo", "reinforce_pp"]
Clip = Annotated[float | None, Field(gt=0)]

_TOKEN_CLIP: dict[str, Any] = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
_GRPO: dict[str, Any] = {
    "baseline": "group_mean",
    "scale": "group_std",
    "aggregate": "sequence_mean",
    **_TOKEN_CLIP,
}
_KL_IN_LOSS, _KL_IN_REWARD = {"where": "loss", "coeff": 0.0}, {"where": "reward", "coeff": 0.05}
# id -> defaults of alg.args, and of alg.kl_div.
DEFAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rloo": (
        _TOKEN_CLIP
        | {"baseline": "leave_one_out", "scale": "none", "ratio": "product", "aggregate": "sequence"},
        _KL_IN_REWARD,
    ),
    "grpo": (_GRPO, _KL_IN_LOSS),
    "dr_grpo": (_GRPO | {"scale": "none", "aggregate": "constant"}, _KL_IN_LOSS),
    "dapo": (
        _GRPO | {"clip_high": 0.28, "aggregate": "token_mean", "dynamic_sampling": {"enabled": True}},
        _KL_IN_LOSS,
    ),
    "gspo": (_GRPO | {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}, _KL_IN_LOSS),
    "reinforce_pp": (
        _TOKEN_CLIP | {"baseline": "none", "scale": "token_std", "aggregate": "token_mean"},
        _KL_IN_REWARD,
    ),
}
_NO_VALUES = "is of PPO's value model, which this algorithm has not; remove it"
# Fields of PPO -> what to do with them here.
REFUSED = {
    "n_steps": "is of PPO; write prompts_per_iteration, each with group_size texts",
    "minibatch_unit": "is of PPO; minibatches are of whole texts here; remove it",
    "clip_range": "is of PPO; write clip_low and clip_high",
    "episodes": "is of PPO; write prompts_per_iteration, each with group_size texts",
    "value_learning_rate": _NO_VALUES,
    "value_clip_range": _NO_VALUES,
    "vf_coef": _NO_VALUES,
    "gamma": _NO_VALUES,
    "gae_lambda": _NO_VALUES,
}
KL_REFUSED = {
    "norm_reward": "is of PPO; alg.args.scale says what advantages are divided by; remove it",
    "target_kl": "is of PPO; the weight of the penalty stays as it is here; remove it",
}
_COLDEST = 1e-3  # temperature: a token that is .02 behind the likeliest in its logit has e^-20


class DynamicSampling(Config):
    """Groups without spread are left out, and others generated in their place (DAPO)."""

    enabled: bool = Field(False, description="generate until prompts_per_iteration groups have spread")
    max_rounds: Positive = Field(10, description="rounds of generation an iteration, at most")
    when_short: Literal["train", "stop"] = Field(
        "train", description="after max_rounds: train on the groups there are, or end the run"
    )


class Overlong(Config):
    """DAPO's penalty of texts that come near max_episode_length."""

    buffer: Positive = Field(description="tokens before max_episode_length over which the penalty rises")
    penalty: float = Field(1.0, gt=0, description="what the longest texts lose")


class GroupArgs(Config):
    """Hyperparameters of the update."""

    group_size: Annotated[int, Field(ge=1)] = Field(8, description="G, texts of each prompt (TRL: 8)")
    prompts_per_iteration: TextsAtATime = Field(description="groups that an iteration trains on")
    baseline: Literal["group_mean", "leave_one_out", "none"] = Field(
        "group_mean", description="what is subtracted from a reward (leave_one_out: the others' mean)"
    )
    scale: Literal["group_std", "batch_std", "token_std", "none"] = Field(
        "group_std",
        description="what advantages are divided by: unbiased std of the group's rewards, of all rewards, "
        "or of all tokens' returns (which are shifted to mean 0 too)",
    )
    std_epsilon: float = Field(1e-4, ge=0, description="added to that std (TRL: 1e-4)")
    ratio: Literal["token", "sequence", "product"] = Field(
        "token", description="probability ratio of a token; of a text, as geometric mean, or as product"
    )
    clip_low: Clip = Field(0.2, description="the ratio is clipped to 1 - this; null = not at all")
    clip_high: Clip = Field(0.2, description="the ratio is clipped to 1 + this; null = not at all")
    aggregate: Literal["sequence_mean", "sequence", "token_mean", "constant"] = Field(
        "sequence_mean",
        description="mean over a text's tokens and then over texts; sum over them and mean over texts; mean "
        "over all tokens; sum over all, divided by texts x tokens of the longest text (the smaller of "
        "max_new_tokens and max_episode_length)",
    )
    n_epochs: Positive = Field(1, description="passes over an iteration's texts (TRL: 1)")
    batch_size: TextsAtATime | None = Field(None, description="texts of a minibatch; null = all")
    dynamic_sampling: DynamicSampling = Field(
        DynamicSampling(), description="groups without spread are replaced (dapo: enabled)"
    )
    overlong: Overlong | None = Field(None, description="penalty of texts near the longest; null = none")
    mask_truncated: bool = Field(False, description="leave texts that are cut out of the loss")
    learning_rate: float = Field(gt=0, description="of AdamW, constant")
    ent_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    target_kl: float | None = Field(
        None,
        gt=0,
        description="an iteration's epochs end early at 1.5 times this approximate KL; null = never",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is clipped to this norm (TRL: 1.0)")

    _say_why_refused = say_why_refused(REFUSED)


class GroupKlConfig(Config):
    """The penalty for leaving the starting policy."""

    coeff: float = Field(0.0, ge=0, description="its weight; 0 = no reference model is loaded")
    where: Literal["reward", "loss"] = Field(
        "loss", description="part of the reward, or of the loss: e^d - d - 1 of each token, d the log-ratio"
    )

    _say_why_refused = say_why_refused(KL_REFUSED)


class GroupConfig(RolloutConfig):
    """RLOO, GRPO, Dr. GRPO, DAPO, GSPO, REINFORCE++: the texts of a prompt are each other's baseline.

    The id fills the defaults of the other fields, each of which can be set.
    """

    id: GroupId = Field(description="the algorithm")
    args: GroupArgs = Field(description="hyperparameters of the update; defaults by the id")
    kl_div: GroupKlConfig = Field(GroupKlConfig(), description="the KL penalty; defaults by the id")
    policy: PolicyConfig = Field(description="the language model to train")

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        """Put the id's defaults where the file is silent."""
        if not isinstance(data, dict) or data.get("id") not in DEFAULTS:
            return data
        args, kl = DEFAULTS[data["id"]]
        filled = dict(data)
        for name, defaults in (("args", args), ("kl_div", kl)):
            given = data.get(name, {})
            if isinstance(given, dict):
                filled[name] = defaults | given
        return filled

    @property
    def texts(self) -> int:
        """Counts the texts that an iteration trains on."""
        return self.args.prompts_per_iteration * self.args.group_size

    @property
    def needs_reference(self) -> bool:
        """Whether the starting policy is kept."""
        return self.kl_div.coeff > 0

    def check(self) -> list[Problem]:
        args, problems = self.args, self.lora_problems()
        if self.lora is not None and self.lora.value_model != "own":
            problems.append(Problem("policy.args.lora.value_model", _NO_VALUES))
        if self.policy.args.value_model_name is not None:
            problems.append(Problem("policy.args.value_model_name", _NO_VALUES))
        if args.group_size == 1 and args.baseline != "none":
            message = "must be at least 2: a group of one text has no baseline and no std of its own"
            problems.append(Problem("args.group_size", message))
        if args.baseline == "none" and args.scale in ("group_std", "batch_std"):
            message = (
                f"must be token_std or none with baseline: none: {args.scale} is 0 where rewards are equal, "
                "and what is divided by it is not"
            )
            problems.append(Problem("args.scale", message))
        if args.batch_size is not None and args.batch_size > self.texts:
            message = (
                f"{args.batch_size:,} is more than the {self.texts:,} texts of an iteration "
                f"({args.prompts_per_iteration:,} prompts x {args.group_size:,})"
            )
            problems.append(Problem("args.batch_size", message))
        if args.scale == "token_std" and args.ratio != "token":
            message = "must be token: with scale: token_std every token has an advantage of its own"
            problems.append(Problem("args.ratio", message))
        if args.dynamic_sampling.enabled and args.group_size == 1:
            message = "needs groups of at least 2 texts: one text alone has no spread"
            problems.append(Problem("args.dynamic_sampling.enabled", message))
        if args.group_size > 1 and (remedy := _find_greedy_field(self.generation_kwargs)):
            field, must = remedy
            message = f"must be {must}: a group of equal texts has no spread, and teaches nothing"
            problems.append(Problem(f"policy.args.generation_kwargs.{field}", message))
        return problems

    def notices(self) -> list[str]:
        """What the user should know of a valid block."""
        if self.args.scale == "group_std" and self.kl_div.where == "reward" and self.needs_reference:
            return [
                "alg.kl_div.where: reward, and the advantages are divided by the group's std: where rewards "
                "are alike, the KL penalty's differences are blown up to unit size; set it to loss"
            ]
        return []


def _find_greedy_field(settings: GenerationSettings) -> tuple[str, str] | None:
    """The field that makes sampling deterministic, and what it must be; None: texts differ."""
    if not settings.do_sample:
        return "do_sample", "true"
    if settings.top_k == 1:
        return "top_k", "0 (all tokens) or at least 2"
    if settings.temperature < _COLDEST:
        return "temperature", f"at least {_COLDEST:g}"
    return None

"""The `alg` block of training: PPO, NLPO, A2C, supervised finetuning.

Defaults that no file of the paper needs are those of the paper's library.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from common import limits
from common.config import Config, Problem
from common.limits import at_most
from rl4lms.config.parts import Args, Positive, Side
from rl4lms.config.training_args import training_args_problems, translate_training_args
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.source import Kind

TokensAtATime = Annotated[Positive, at_most(limits.TOKENS, "tokens at a time")]


class OnPolicyArgs(Config):
    """Hyperparameters of the update."""

    n_steps: TokensAtATime = Field(description="tokens collected per environment and iteration")
    batch_size: TokensAtATime = Field(64, description="tokens of a minibatch (all 28 files: 64)")
    minibatch_unit: Literal["token", "sequence"] = Field(
        "token",
        description="what minibatches are drawn from: tokens, as in the paper, or whole sequences (fastest)",
    )
    n_epochs: Positive = Field(5, description="passes over an iteration's tokens (all 28 files: 5)")
    learning_rate: float = Field(gt=0, description="of AdamW, constant")
    ent_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    enforce_token_entropy_reg_estimate: bool = Field(
        False, description="estimate the entropy by -log-prob of the taken tokens, not over the vocabulary"
    )
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    target_kl: float | None = Field(
        None,
        gt=0,
        description="an iteration's epochs end early at 1.5 times this approximate KL; null = never",
    )
    gamma: float = Field(0.99, ge=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of the generalised advantage estimates")
    max_grad_norm: float = Field(
        0.5, gt=0, description="the gradient of policy and value together is clipped to this norm"
    )
    verbose: int = Field(0, description="no effect (kept for old files)")


class PpoArgs(OnPolicyArgs):
    clip_range: float = Field(0.2, gt=0, description="the probability ratio is clipped to 1 +- this")


class A2cArgs(OnPolicyArgs):
    n_epochs: Literal[1] = Field(1, description="passes over an iteration's tokens: they are of one policy")


class KlConfig(Config):
    """The penalty for leaving the starting policy, part of each token's reward."""

    coeff: float = Field(0.001, ge=0, description="its initial weight (14 of 28 files: 0.001)")
    target_kl: float | None = Field(
        None, gt=0, description="KL per token that the weight is steered to; null = the weight stays"
    )
    norm_reward: bool = Field(
        False, description="normalise an iteration's total rewards before advantages are estimated"
    )


class PolicyArgs(Config):
    model_name: str = Field(
        min_length=1, description="language model to start from: hub name or folder; also reference and value"
    )
    generation_kwargs: GenerationSettings = Field(description="how rollouts are sampled")
    prompt_truncation_side: Side = Field(
        "left", description="where too long prompts lose tokens in evaluation (in rollouts: env.args)"
    )
    weight_decay: float = Field(1e-6, ge=0, description="of AdamW, on all weights but biases")
    apply_model_parallel: bool = Field(False, description="no effect (kept for old files)")


class MaskedPolicyArgs(PolicyArgs):
    mask_type: Literal["learned_top_p", "learned_top_k", "topk"] = Field(
        "learned_top_p", description="how the mask model chooses the tokens to allow (all 14 files: top-p)"
    )
    top_mask: float = Field(gt=0, description="their probability mass (learned_top_p), or their number")
    min_tokens_to_keep: Positive = Field(100, description="tokens allowed at least, with learned_top_p")
    target_update_iterations: Positive = Field(
        description="iterations between refreshes of the mask model from the policy"
    )

    def check(self) -> list[Problem]:
        if self.mask_type == "learned_top_p":
            allowed = self.top_mask <= 1
            expected = "a probability mass in (0, 1]"
        else:
            allowed = self.top_mask.is_integer()
            expected = "a whole number of tokens"
        if allowed:
            return []
        return [Problem("top_mask", f"{self.mask_type!r} needs {expected}, got {self.top_mask:g}")]


class PolicyConfig(Config):
    id: Literal["causal_lm_actor_critic_policy", "seq2seq_lm_actor_critic_policy"] = Field(
        description="kind of the language model"
    )
    args: PolicyArgs = Field(description="the model and how it is sampled")


class MaskedPolicyConfig(Config):
    id: Literal["maskable_causal_lm_actor_critic_policy", "maskable_seq2seq_lm_actor_critic_policy"] = Field(
        description="kind of the language model"
    )
    args: MaskedPolicyArgs = Field(description="the model, how it is sampled, and the mask")


class OnPolicyConfig(Config):
    """What PPO, NLPO and A2C have in common."""

    id: str
    args: OnPolicyArgs = Field(description="hyperparameters of the update")
    kl_div: KlConfig = Field(KlConfig(), description="the KL penalty")
    policy: PolicyConfig | MaskedPolicyConfig

    @property
    def model_name(self) -> str:
        return self.policy.args.model_name

    @property
    def model_type(self) -> Kind:
        return "causal" if "causal" in self.policy.id else "seq2seq"

    @property
    def generation_kwargs(self) -> GenerationSettings:
        return self.policy.args.generation_kwargs

    @property
    def clip_range(self) -> float | None:
        """How far the probability ratio may move from 1; None = the plain policy gradient."""
        return self.args.clip_range if isinstance(self.args, PpoArgs) else None


class PpoConfig(OnPolicyConfig):
    """Proximal policy optimisation (Schulman et al. 2017) on tokens."""

    id: Literal["ppo"] = Field(description="the algorithm")
    args: PpoArgs = Field(description="hyperparameters of the update")
    policy: PolicyConfig = Field(description="the language model to train")


class NlpoConfig(OnPolicyConfig):
    """PPO with the policy masked to tokens that an older copy of it deems likely (Ramamurthy et al. 2023)."""

    id: Literal["nlpo"] = Field(description="the algorithm")
    args: PpoArgs = Field(description="hyperparameters of the update")
    policy: MaskedPolicyConfig = Field(description="the language model to train")


class A2cConfig(OnPolicyConfig):
    """Advantage actor critic (Mnih et al. 2016): the same with the plain policy gradient."""

    id: Literal["a2c"] = Field(description="the algorithm")
    args: A2cArgs = Field(description="hyperparameters of the update")
    policy: PolicyConfig = Field(description="the language model to train")


class SupervisedConfig(Config):
    """Supervised finetuning by transformers.Trainer."""

    id: Literal["supervised"] = Field(description="the algorithm")
    training_args: Args = Field(
        {},
        description="fields of transformers.TrainingArguments, whose defaults hold; old names are translated",
    )
    model_type: Kind = Field(description="kind of the language model")
    model_name: str = Field(min_length=1, description="language model to start from: hub name or folder")
    generation_kwargs: GenerationSettings = Field(
        description="how texts are generated in evaluation if train_evaluation does not say (temperature: 1)"
    )
    add_eos: bool = Field(
        False, description="causal: end each training text with the end-of-text token (the paper's do not)"
    )

    def check(self) -> list[Problem]:
        return [
            Problem(f"training_args.{problem.path}", problem.message)
            for problem in training_args_problems(self.training_args)
        ]

    def trainer_arguments(self) -> dict[str, Any]:
        """The keyword arguments for today's TrainingArguments."""
        return translate_training_args(self.training_args)[0]

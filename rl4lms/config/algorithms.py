"""The `alg` block of training: PPO, NLPO, A2C, reward models.

Defaults that no file of the paper needs are those of the paper's library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common import limits
from common.config import Config, Problem
from common.limits import TextsAtATime, at_most
from rl4lms.config.parts import Positive, Side
from rl4lms.config.pretraining import PtxConfig
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.lora_config import LoraSettings, PolicyLora
from rl4lms.model.source import BAG_OF_TOKENS, Kind, value_model_problem
from rl4lms.samples import Split

TokensAtATime = Annotated[Positive, at_most(limits.TOKENS, "tokens at a time")]
Beta = Annotated[float, Field(ge=0, lt=1)]


class OnPolicyArgs(Config):
    """Hyperparameters of the update."""

    n_steps: TokensAtATime | None = Field(
        None, description="tokens collected per environment and iteration; this or episodes"
    )
    episodes: TextsAtATime | None = Field(
        None, description="texts collected an iteration in place of n_steps; none is cut (InstructGPT: 512)"
    )
    batch_size: TokensAtATime = Field(
        64, description="tokens of a minibatch (all 28 files: 64); of minibatch_unit episode: texts"
    )
    minibatch_unit: Literal["token", "sequence", "episode"] = Field(
        "token",
        description="what minibatches are drawn from: tokens, as in the paper; whole sequences of about "
        "batch_size tokens (fastest); or exactly batch_size whole texts (InstructGPT: 64)",
    )
    n_epochs: Positive = Field(5, description="passes over an iteration's tokens (all 28 files: 5)")
    learning_rate: float = Field(gt=0, description="of AdamW, constant after warm-up")
    value_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="of the value model (InstructGPT: 9e-6); null = learning_rate"
    )
    warmup_iterations: Annotated[int, Field(ge=0)] = Field(
        0, description="iterations over which learning rates rise from a tenth (InstructGPT: 10)"
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="evaluate and save the policy's moving average of this decay per update (InstructGPT: "
        "0.992); rollouts are drawn from the weights themselves; null = no average",
    )
    ent_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    enforce_token_entropy_reg_estimate: bool = Field(
        False, description="estimate the entropy by -log-prob of the taken tokens, not over the vocabulary"
    )
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    value_clip_range: Annotated[float, Field(gt=0)] | None = Field(
        None, description="the value is clipped to +- this around that of the rollout; null = not at all"
    )
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

    def check(self) -> list[Problem]:
        if self.episodes is None:
            problems = []
            if self.n_steps is None:
                message = "missing; expected a whole number >= 1 (tokens of an iteration), or episodes"
                problems.append(Problem("n_steps", message))
            if self.minibatch_unit == "episode":
                message = "episode needs whole texts: write episodes in place of n_steps"
                problems.append(Problem("minibatch_unit", message))
            return problems
        problems = []
        if self.n_steps is not None:
            message = "is given beside n_steps: an iteration collects texts or tokens; remove one of them"
            problems.append(Problem("episodes", message))
        if self.minibatch_unit == "episode" and self.batch_size > self.episodes:
            message = f"{self.batch_size:,} is more than the {self.episodes:,} texts of an iteration"
            problems.append(Problem("batch_size", message))
        return problems


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
    value_model_name: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="reward model that the value model starts from, hub name or folder (InstructGPT); null = "
        "a copy of the policy with a new head",
    )
    lora: PolicyLora | None = Field(
        None,
        description="train an adapter beside frozen weights; null = train all weights",
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


class RolloutConfig(Config):
    """What all algorithms have in common that train on rollouts of the policy."""

    id: str
    policy: PolicyConfig | MaskedPolicyConfig

    @property
    def model_name(self) -> str:
        return self.policy.args.model_name

    @property
    def model_type(self) -> Kind:
        return "causal" if "causal" in self.policy.id else "seq2seq"

    @property
    def lora(self) -> PolicyLora | None:
        return self.policy.args.lora

    @property
    def generation_kwargs(self) -> GenerationSettings:
        return self.policy.args.generation_kwargs

    def lora_problems(self) -> list[Problem]:
        """Report settings of LoRA that have no meaning where policies are sampled and updated."""
        if self.lora is None or self.lora.dropout == 0:
            return []
        message = "must be 0: rollouts and updates are without dropout, so that they are of the same policy"
        return [Problem("policy.args.lora.dropout", message)]


class OnPolicyConfig(RolloutConfig):
    """What PPO, NLPO and A2C have in common."""

    args: OnPolicyArgs = Field(description="hyperparameters of the update")
    kl_div: KlConfig = Field(KlConfig(), description="the KL penalty")
    pretraining: PtxConfig | None = Field(
        None, description="PPO-ptx: the gradient of pretraining text is added to PPO's; null = not"
    )

    def check(self) -> list[Problem]:
        problems = self.lora_problems()
        name = self.policy.args.value_model_name
        if name is not None and self.lora is not None and self.lora.value_model == "shared":
            message = "must be own with value_model_name, which is another model than the policy"
            problems.append(Problem("policy.args.lora.value_model", message))
        if name is not None and (problem := value_model_problem(name, self.model_type)):
            problems.append(Problem("policy.args.value_model_name", problem))
        if self.pretraining is not None:
            problems += self.pretraining.problems_with(self.model_type)
            if self.args.minibatch_unit != "episode":
                message = "must be episode with alg.pretraining, whose examples are counted by text"
                problems.append(Problem("args.minibatch_unit", message))
        return problems

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


class RewardModelArgs(Config):
    """How a reward model is trained; defaults of the paper (Ouyang et al. 2022, Appendix C) where it says."""

    prompts_per_batch: Positive = Field(
        64, description="prompts of an update, each with all its completions (paper: 64)"
    )
    epochs: Positive = Field(1, description="passes over the train prompts (paper: 1; more overfit)")
    learning_rate: float = Field(gt=0, description="of AdamW at its peak (paper: 9e-6 for 6B)")
    lr_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine falls to min_lr_rate of the peak over all updates (paper)"
    )
    min_lr_rate: float = Field(0.1, ge=0, le=1, description="what cosine falls to, as a share (paper: 0.1)")
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.95], description="of AdamW (paper)"
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW, on all weights but biases")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is clipped to this norm")
    max_length: Positive | None = Field(
        None,
        description="tokens of a text, which loses its beginning; null = what model and tokenizer take",
    )
    normalize: Literal["demonstrations", "policy", "none"] = Field(
        "demonstrations",
        description="shift rewards so that train's references score 0 on average (paper), or shift and scale "
        "them so that its completions have mean 0, std 1 (policy), or not at all",
    )
    micro_batch_size: Positive = Field(
        32,
        description="texts of a forward pass at most, but never less than one prompt's; results do not "
        "depend on it",
    )
    loss: Literal["pairwise", "best_of", "plackett_luce"] = Field(
        "pairwise",
        description="pairwise = mean over a prompt's comparisons (paper); best_of = softmax of the best; "
        "plackett_luce = likelihood of the full order",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="probability that a label is wrong, of loss pairwise"
    )
    center_rewards_coefficient: float = Field(
        0.0, ge=0, description="weight of the mean of (r_w + r_l)^2, of loss pairwise (TRL recommends 0.01)"
    )
    use_margin: bool = Field(
        False, description="r_w - r_l is to exceed the comparison's margin, of loss pairwise"
    )
    batching: Literal["prompt", "pair"] = Field(
        "prompt",
        description="prompt = all comparisons of a prompt in one element, so that each completion is passed "
        "once (paper); pair = shuffled comparisons, to compare with",
    )
    pairs_per_batch: Positive | None = Field(None, description="comparisons of an update with batching pair")
    dropout: bool = Field(False, description="train with the dropout of the model's config")

    def check(self) -> list[Problem]:
        problems = []
        if (self.batching == "pair") != (self.pairs_per_batch is not None):
            needs = "missing; batching: pair needs it" if self.batching == "pair" else "is of batching: pair"
            problems.append(Problem("pairs_per_batch", needs))
        if self.loss == "pairwise":
            return problems
        if self.batching == "pair":
            problems.append(Problem("batching", f"must be prompt: {self.loss} needs all completions at once"))
        return problems + [
            Problem(name, f"has no meaning with loss: {self.loss}; it is of loss: pairwise")
            for name in ("label_smoothing", "center_rewards_coefficient", "use_margin")
            if getattr(self, name)
        ]


RANKED_SPLITS: tuple[Split, ...] = ("train", "val")  # what a reward model is trained and measured on


class RewardModelConfig(Config):
    """A reward model from rankings (Ouyang et al. 2022, Section 3.5)."""

    id: Literal["reward_model"] = Field(description="the algorithm")
    model_type: Kind = Field(description="kind of the language model (bag_of_tokens: no effect)")
    model_name: str = Field(
        min_length=1,
        description="language model to start from, hub name or folder; or bag_of_tokens, a weight for each "
        "token, which needs the tokenizer alone",
    )
    lora: LoraSettings | None = Field(
        None, description="train an adapter beside frozen weights, and the head; null = all weights"
    )
    args: RewardModelArgs = Field(description="hyperparameters of the update")
    policy_samples: str | None = Field(
        None,
        description="an extraction of a policy's texts (its file, run directory or folder): after training "
        "the log says how good a teacher the reward model is of that policy; null = nothing",
    )

    def check(self) -> list[Problem]:
        return self._lora_problems() + self._samples_problems()

    def _lora_problems(self) -> list[Problem]:
        if self.lora is None:
            return []
        problems = []
        if self.model_name == BAG_OF_TOKENS:
            problems.append(Problem("lora", "must be null: bag_of_tokens has no layers for adapters"))
        if self.lora.dropout and not self.args.dropout:
            message = "has no effect without args.dropout: true; set that, or leave this at 0"
            problems.append(Problem("lora.dropout", message))
        return problems

    def _samples_problems(self) -> list[Problem]:
        if self.policy_samples is None:
            return []
        from rft_diagnose.errors import DiagnosisError
        from rft_diagnose.extractions import find_extraction

        try:
            find_extraction(Path(self.policy_samples).expanduser())
        except DiagnosisError as error:
            return [Problem("policy_samples", str(error))]
        return []

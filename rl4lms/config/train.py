"""The YAML schema of training: supervised finetuning, PPO, NLPO, reward models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args

from pydantic import Field

from common import limits
from common.config import Config, Keys, Problem, path_text
from common.limits import excess
from rl4lms.config.algorithms import (
    A2cConfig,
    NlpoConfig,
    OnPolicyConfig,
    PpoConfig,
    RewardModelConfig,
    RolloutConfig,
)
from rl4lms.config.group import GroupConfig
from rl4lms.config.parts import (
    OnPolicySizes,
    TokenizerConfig,
    batch_problem,
    idle_args,
    max_positions,
    metric_notices,
    placeholder_problem,
    prompt_notices,
    prompt_problem,
    repeated_metrics,
    text_problem,
    tokenizer_notices,
)
from rl4lms.config.pretraining import PretrainingConfig
from rl4lms.config.supervised import SupervisedConfig
from rl4lms.config.training_args import translate_training_args
from rl4lms.config.training_blocks import (
    EnvArgs,
    EnvConfig,
    RewardConfig,
    TrainDatapoolConfig,
    TrainEvaluationConfig,
    TrainRuntimeConfig,
    WeightedRewardConfig,
)
from rl4lms.datapools import DATAPOOLS, rankings_problem
from rl4lms.metrics.names import metric_problem
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.lora_config import adapter_notice
from rl4lms.model.source import BAG_OF_TOKENS, check_model_source
from rl4lms.rewards import REWARDS
from rl4lms.samples import Split

Algorithm = Annotated[
    PpoConfig | NlpoConfig | A2cConfig | GroupConfig | SupervisedConfig | RewardModelConfig,
    Field(discriminator="id", description="what to train with"),
]

# Of train_evaluation.
ON_POLICY_ONLY = ("n_iters", "max_tokens", "eval_every", "save_every")
TEXTS_ONLY = ("metrics", "generation_kwargs", "generation_kwargs_on_train", "n_iters", "max_tokens")
# Datapools whose samples may hold the whole text in their meta_data.
_WHOLE_TEXTS = ("imdb_seq2seq", "python_docs", "jsonl", "preferences")


class TrainConfig(Config):
    """One training run."""

    tokenizer: TokenizerConfig = Field(description="from text to tokens")
    reward_fn: RewardConfig | Annotated[list[WeightedRewardConfig], Field(min_length=1)] | None = Field(
        None, description="what PPO and its kin maximise: a reward, or a list whose weighted sum it is"
    )
    datapool: TrainDatapoolConfig = Field(description="the dataset")
    env: EnvConfig | None = Field(None, description="rollouts of PPO and NLPO")
    alg: Algorithm
    train_evaluation: TrainEvaluationConfig = Field(description="what to measure, how often")
    runtime: TrainRuntimeConfig = Field(TrainRuntimeConfig(), description="how to run")

    @property
    def model_field(self) -> str:
        """The dotted field of the model to start from."""
        return "alg.policy.args.model_name" if isinstance(self.alg, RolloutConfig) else "alg.model_name"

    @property
    def rewards(self) -> dict[Keys, WeightedRewardConfig]:
        """What is maximised: place in the config -> a reward and its weight."""
        if isinstance(self.reward_fn, RewardConfig):
            return {("reward_fn",): WeightedRewardConfig(**dict(self.reward_fn))}
        return {("reward_fn", number): reward for number, reward in enumerate(self.reward_fn or [])}

    @property
    def sizes(self) -> OnPolicySizes | None:
        """The derived sizes of PPO and NLPO, None for what collects no rollouts."""
        if (
            not isinstance(self.alg, OnPolicyConfig)
            or self.env is None
            or self.train_evaluation.n_iters is None
        ):
            return None
        args = self.alg.args
        if args.episodes is not None:
            tokens = args.episodes * self.env.args.longest_text(self.alg.generation_kwargs)
        elif args.n_steps is not None:
            tokens = args.n_steps * self.env.n_envs
        else:  # OnPolicyArgs.check says so
            return None
        return OnPolicySizes(
            tokens=tokens,
            batch_size=args.batch_size,
            minibatch_unit=args.minibatch_unit,
            epochs=args.n_epochs,
            iterations=self.train_evaluation.n_iters,
            texts=args.episodes,
        )

    @property
    def _ema_decay(self) -> float | None:
        return self.alg.args.ema_decay if isinstance(self.alg, OnPolicyConfig) else None

    @property
    def pretraining(self) -> PretrainingConfig | None:
        """The pretraining text that is mixed in."""
        return self.alg.pretraining if isinstance(self.alg, OnPolicyConfig | SupervisedConfig) else None

    def evaluation_settings(self, split: Split) -> GenerationSettings:
        """How the texts of a split are generated in evaluation, which a reward model has none of."""
        assert not isinstance(self.alg, RewardModelConfig)
        evaluation = self.train_evaluation
        if split == "train" and evaluation.generation_kwargs_on_train is not None:
            return evaluation.generation_kwargs_on_train
        if evaluation.generation_kwargs is not None:
            return evaluation.generation_kwargs
        return self.alg.generation_kwargs.model_copy(update={"temperature": 1.0})

    def check(self) -> list[Problem]:
        """Problems between blocks, each at the field to change."""
        problems = repeated_metrics(self.train_evaluation.metrics, "train_evaluation.metrics")
        name = self.alg.model_name
        message = placeholder_problem(name, self.datapool.id)
        if message is None and name != BAG_OF_TOKENS:
            message = check_model_source(name, self.alg.model_type)
        if message:
            problems.append(Problem(self.model_field, message))
        if self.runtime.weights == "bfloat16" and self.alg.lora is None and self._ema_decay is not None:
            message = "must be null with runtime.weights: bfloat16, too coarse for an average to move"
            problems.append(Problem("alg.args.ema_decay", message))
        if isinstance(self.alg, RewardModelConfig):
            message = rankings_problem(self.datapool.id)
            return problems + ([Problem("datapool.id", message)] if message else [])
        if self.datapool.id in DATAPOOLS.entries and self.datapool.id not in _WHOLE_TEXTS:
            message = f"datapool {self.datapool.id!r} has no such texts; set it to false"
            problems += [
                Problem(f"train_evaluation.metrics[{number}].args.use_text_from_meta_data", message)
                for number, metric in enumerate(self.train_evaluation.metrics)
                if metric.id == "causal_perplexity" and metric.args.get("use_text_from_meta_data")
            ]
        if message := batch_problem(self.train_evaluation.eval_batch_size, self._longest_text()):
            problems.append(Problem("train_evaluation.eval_batch_size", message))
        if isinstance(self.alg, RolloutConfig):
            return problems + self._rollout_problems(self.alg)
        if ":" in self.runtime.device:
            number = self.runtime.device.partition(":")[2]
            remedy = f"set device: cuda, and start with CUDA_VISIBLE_DEVICES={number}"
            problems.append(Problem("runtime.device", f"the Trainer takes the first GPU it sees; {remedy}"))
        message = prompt_problem(self.tokenizer, name, self.alg.model_type, self._longest_text())
        if message:
            problems.append(Problem("alg.generation_kwargs.max_new_tokens", message))
        select = self.alg.select_by
        if select and (message := metric_problem(select.metric, self.train_evaluation.metrics)):
            problems.append(Problem("alg.select_by.metric", message))
        return problems

    def _rollout_problems(self, alg: RolloutConfig) -> list[Problem]:
        needed = {
            "reward_fn": (self.reward_fn, "a mapping (what PPO and NLPO maximise)"),
            "env": (self.env, "a mapping (rollouts of PPO and NLPO)"),
            "train_evaluation.n_iters": (self.train_evaluation.n_iters, "a whole number >= 1 (iterations)"),
        }
        problems = [
            Problem(field, f"missing; expected {what}")
            for field, (value, what) in needed.items()
            if value is None
        ]
        if self.rewards and not any(reward.weight for reward in self.rewards.values()):
            problems.append(Problem("reward_fn", "every weight is 0: there is nothing to maximise"))
        if alg.generation_kwargs.num_beams > 1:
            message = "must be 1: rollouts are drawn token by token, not by beam search"
            problems.append(Problem("alg.policy.args.generation_kwargs.num_beams", message))
        if too_long := text_problem(alg.model_name, alg.model_type, self._longest_text()):
            problems.append(Problem("alg.policy.args.generation_kwargs.max_new_tokens", too_long))
        if self.env is not None:
            limit, new = self.env.args.max_prompt_length, self._longest_text()
            for name in dict.fromkeys((alg.model_name, alg.policy.args.value_model_name or alg.model_name)):
                positions = max_positions(name)
                room = None if positions is None else positions - (new if alg.model_type == "causal" else 0)
                if room is not None and limit > room:
                    remedy = f"at most {room:,}" if room > 0 else "generate fewer"
                    message = f"{limit:,} tokens and {new:,} new ones are more than {name!r} takes; {remedy}"
                    problems.append(Problem("env.args.max_prompt_length", message))
        if isinstance(alg, OnPolicyConfig) and self.env is not None:
            problems += self._buffer_problems(alg, self.env)
        return problems

    def _buffer_problems(self, alg: OnPolicyConfig, env: EnvConfig) -> list[Problem]:
        problems, sizes = [], self.sizes
        if alg.args.n_steps is not None and (tokens := alg.args.n_steps * env.n_envs) > limits.TOKENS:
            what = f"tokens an iteration, with {env.n_envs:,} environments"
            problems.append(Problem("alg.args.n_steps", excess(tokens, what, limits.TOKENS)))
        if sizes is not None and sizes.texts is not None and sizes.tokens > limits.TOKENS:
            what = f"tokens an iteration, of {sizes.texts:,} texts"
            problems.append(Problem("alg.args.episodes", excess(sizes.tokens, what, limits.TOKENS)))
        is_by_token = sizes is not None and sizes.are_known and sizes.minibatch_unit == "token"
        if sizes is not None and is_by_token and sizes.last_minibatch == 1:
            message = (
                f"leaves a minibatch of one token of the {sizes.tokens:,} of an iteration: "
                "a single advantage cannot be normalised"
            )
            problems.append(Problem("alg.args.batch_size", message))
        return problems

    def _longest_text(self) -> int:
        """Counts the new tokens of the longest text that may be generated."""
        assert not isinstance(self.alg, RewardModelConfig)
        evaluated = [self.evaluation_settings(split) for split in get_args(Split)]
        return max(settings.max_new_tokens for settings in (self.alg.generation_kwargs, *evaluated))

    def notices(self) -> list[str]:
        """What the user should know of a valid config: fields without effect, and possible surprises."""
        notices = []
        if message := adapter_notice(self.alg.model_name, self.alg.lora):
            notices.append(f"{self.model_field}: {message}")
        if self.runtime.weights == "bfloat16" and self.alg.lora is None:
            notices.append(
                "runtime.weights: bfloat16 loses steps of less than about 1/256 of a weight, most of them at "
                "low learning rates; with lora the adapters are float32"
            )
        return notices + self._notices()

    def _notices(self) -> list[str]:
        if isinstance(self.alg, RewardModelConfig):
            return self._reward_model_notices(self.alg)
        notices = metric_notices(self.train_evaluation.metrics, "train_evaluation.metrics")
        if isinstance(self.alg, SupervisedConfig):
            return notices + self._supervised_notices(self.alg)
        return notices + self._rollout_notices(self.alg)

    def _supervised_notices(self, alg: SupervisedConfig) -> list[str]:
        ignored = [name for name in ("reward_fn", "env") if getattr(self, name) is not None]
        evaluation = self.train_evaluation
        ignored += [
            f"train_evaluation.{name}" for name in ON_POLICY_ONLY if name in evaluation.model_fields_set
        ]
        notices = [f"no effect on supervised finetuning: {', '.join(ignored)}"] if ignored else []
        notices += [f"alg.training_args.{notice}" for notice in translate_training_args(alg.training_args)[1]]
        if alg.add_eos and alg.model_type == "seq2seq":
            notices.append(
                "alg.add_eos: no effect, the labels of seq2seq models end with the end-of-text token"
            )
        if alg.dropout is not None and alg.model_type == "seq2seq":
            notices.append(
                "alg.dropout.residual: encoder-decoders have one rate for all places, which is set to it"
            )
        return notices + prompt_notices(self.tokenizer, alg.model_name, alg.model_type, self._longest_text())

    def _reward_model_notices(self, alg: RewardModelConfig) -> list[str]:
        blocks: dict[str, tuple[Config, Iterable[str]]] = {
            "": (self, ("reward_fn", "env")),
            "tokenizer.": (self.tokenizer, TokenizerConfig.model_fields.keys() - {"model_name"}),
            "train_evaluation.": (self.train_evaluation, TEXTS_ONLY),
            "alg.args.": (alg.args, ["prompts_per_batch"] if alg.args.batching == "pair" else []),
        }
        ignored = [
            f"{block}{name}"
            for block, (config, names) in blocks.items()
            for name in sorted(names)
            if (value := getattr(config, name)) != type(config).model_fields[name].default and value != []
        ]
        return [f"no effect on a reward model: {', '.join(ignored)}"] if ignored else []

    def _rollout_notices(self, alg: RolloutConfig) -> list[str]:
        notices = alg.notices() if isinstance(alg, GroupConfig) else []
        if idle := self._fields_without_effect(alg):
            notices.append(f"no effect (kept for old files): {', '.join(idle)}")
        for place, reward in self.rewards.items():
            notices += idle_args(REWARDS, reward.id, reward.args, f"{path_text(place)}.args")
        if self.env is not None:
            notices += _rollout_notices(self.env.args, alg, self.tokenizer)
        notices += tokenizer_notices(self.tokenizer)
        sizes = self.sizes
        is_idle = self.env is not None and self.env.n_envs != EnvConfig.model_fields["n_envs"].default
        if sizes is not None and sizes.texts is not None and is_idle:
            notices.append("env.n_envs: no effect, alg.args.episodes says how many texts an iteration has")
        if sizes is not None and sizes.are_known and sizes.last_minibatch < sizes.batch_size:
            unit = "tokens" if sizes.texts is None else "texts"
            notices.append(
                f"alg.args.batch_size: of {sizes.units:,} {unit} an iteration the last minibatch has "
                f"{sizes.last_minibatch:,} instead of {sizes.batch_size:,}"
            )
        return notices

    def _fields_without_effect(self, alg: RolloutConfig) -> list[str]:
        fields: dict[str, Any] = {
            "env.args.context_start_token": self.env is not None
            and self.env.args.context_start_token is not None,
            "alg.args.verbose": isinstance(alg, OnPolicyConfig) and alg.args.verbose,
            "alg.policy.args.apply_model_parallel": alg.policy.args.apply_model_parallel,
        }
        return [name for name, value in fields.items() if value]


def _rollout_notices(env: EnvArgs, alg: RolloutConfig, tokenizer: TokenizerConfig) -> list[str]:
    notices = []
    if tokenizer.max_length not in (None, env.max_prompt_length):
        notices.append(
            f"tokenizer.max_length: no effect on {alg.id}, prompts are cut to env.args.max_prompt_length "
            f"({env.max_prompt_length:,})"
        )
    new = alg.generation_kwargs.max_new_tokens
    if new > env.max_episode_length:
        notices.append(
            f"alg.policy.args.generation_kwargs.max_new_tokens: {new:,} exceeds env.args.max_episode_length, "
            f"which ends episodes after {env.max_episode_length:,} tokens"
        )
    if not env.reward_unfinished and new < env.max_episode_length:
        notices.append(
            f"env.args.reward_unfinished: texts cut at max_new_tokens ({new:,}) get no reward, since "
            f"max_episode_length is {env.max_episode_length:,}"
        )
    if not alg.generation_kwargs.do_sample:
        notices.append(
            "alg.policy.args.generation_kwargs.do_sample: false gives each prompt one and the same text"
        )
    return notices

"""Loads the configs of the two jobs, says what they need on this machine, and what `--check` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from common.config import ConfigError, Keys, Located, Problem, load_config, parse_path, path_text
from common.hub import DataError
from common.registry import Registry
from rl4lms.config.algorithms import (
    RANKED_SPLITS,
    OnPolicyConfig,
    RewardModelConfig,
    RolloutConfig,
)
from rl4lms.config.extract import ExtractConfig
from rl4lms.config.group import GroupConfig
from rl4lms.config.parts import Args, MetricConfig, resolved_args, unique_metrics
from rl4lms.config.pretraining import PYTHON_DOCS, PretrainingConfig, PtxConfig
from rl4lms.config.supervised import SupervisedConfig
from rl4lms.config.train import ON_POLICY_ONLY, TrainConfig
from rl4lms.config.training_blocks import TrainDatapoolConfig
from rl4lms.datapools import DATAPOOLS
from rl4lms.datapools import local_problems as datapool_problems
from rl4lms.datapools.jsonl import FIRST_ROWS, read_texts
from rl4lms.metrics import METRICS
from rl4lms.model.adapter_folder import adapter_base
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.source import BAG_OF_TOKENS
from rl4lms.requirements import offline_problem
from rl4lms.rewards import REWARDS
from rl4lms.samples import Split


def load_extract_config(path: str | Path, overrides: Iterable[str] = ()) -> ExtractConfig:
    """The extraction that a file describes. Raises ConfigError with all problems."""
    return load_config(path, ExtractConfig, overrides)


def load_train_config(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """The training that a file describes. Raises ConfigError with all problems."""
    return load_config(path, TrainConfig, overrides)


def missing_components(config: ExtractConfig | TrainConfig) -> list[Problem]:
    """What dataset, reward and metrics need and this machine lacks, each with the command that gets it.

    It is not part of `--check`, since it may ask the hub.
    """
    return [
        Problem(path_text((*place, *parse_path(problem.path))), problem.message)
        for place, registry, name, args in _components(config)
        for problem in registry.missing(name, args)
    ]


def models_missing(config: ExtractConfig | TrainConfig) -> list[Problem]:
    """The model and the tokenizer that cannot be had offline; the hub is not asked."""
    model = config.model_field if isinstance(config, TrainConfig) else "alg.model_name"
    names = {"tokenizer.model_name": config.tokenizer.model_name, model: config.alg.model_name}
    is_served = isinstance(config, ExtractConfig) and config.generator is not None
    if config.alg.model_name == BAG_OF_TOKENS or is_served:
        del names[model]
    if isinstance(config.alg, OnPolicyConfig) and (name := config.alg.policy.args.value_model_name):
        names["alg.policy.args.value_model_name"] = name
    problems = {field: offline_problem(adapter_base(name) or name) for field, name in names.items()}
    return [Problem(field, message) for field, message in problems.items() if message]


def check_components(path: Path, config: ExtractConfig | TrainConfig) -> None:
    """Raises ConfigError with all that the config at `path` needs and this machine lacks."""
    if missing := models_missing(config) + missing_components(config):
        raise ConfigError(path, [Located(None, problem.path, problem.message) for problem in missing])


def local_problems(config: ExtractConfig | TrainConfig) -> list[Problem]:
    """What a run would refuse in the data files that a config names, as far as a quick look tells.

    It is part of `--check`: it imports nothing heavy and asks nobody.
    """
    pool = config.datapool
    splits = get_args(Split) if isinstance(pool, TrainDatapoolConfig) else (pool.split,)
    if isinstance(config.alg, RewardModelConfig):
        splits = RANKED_SPLITS
    is_supervised = isinstance(config, TrainConfig) and isinstance(config.alg, SupervisedConfig)
    problems = datapool_problems(pool.id, pool.args, splits, needs_references=is_supervised)
    problems = [Problem(f"datapool.{problem.path}", problem.message) for problem in problems]
    pretraining = config.pretraining if isinstance(config, TrainConfig) else None
    return problems + (_text_problems(pretraining) if pretraining else [])


def _text_problems(pretraining: PretrainingConfig) -> list[Problem]:
    """What a run would refuse in the pretraining text."""
    if pretraining.datapool is not None:
        pool = pretraining.datapool
        return [
            Problem(f"alg.pretraining.datapool.{problem.path}", problem.message)
            for problem in datapool_problems(pool.id, pool.args, ["train"])
        ]
    if pretraining.texts in (None, PYTHON_DOCS):
        return []
    try:
        read_texts(Path(str(pretraining.texts)).expanduser(), FIRST_ROWS)
    except DataError as error:
        return [Problem("alg.pretraining.texts", str(error))]
    return []


def check_locally(path: Path, config: ExtractConfig | TrainConfig) -> str:
    """What `--check` prints. Raises ConfigError with the `local_problems` of the config at `path`."""
    if problems := local_problems(config):
        raise ConfigError(path, [Located(None, problem.path, problem.message) for problem in problems])
    # Of models not on this machine, which may not be the one that is to run it.
    notes = [f"note: {problem.path}: {problem.message}\n" for problem in models_missing(config)]
    return "".join(notes) + check_report(config)


def resolved(config: ExtractConfig | TrainConfig) -> dict[str, Any]:
    """The config with all defaults, those of dataset, reward and metrics too; it loads as the same run."""
    data = config.model_dump()
    if isinstance(config, ExtractConfig) and config.generator is None:
        del data["generator"]  # so that runs of before are found again
    if isinstance(config, ExtractConfig) and config.runtime.weights == "float32":
        del data["runtime"]["weights"]  # likewise
    for place, registry, name, args in _components(config):
        block: Any = data
        for key in place:
            block = block[key]
        block["args"] = resolved_args(registry, name, args)
    if not isinstance(config, TrainConfig) or isinstance(config.alg, RewardModelConfig):
        return data
    on_train, elsewhere = config.evaluation_settings("train"), config.evaluation_settings("val")
    data["train_evaluation"] |= {
        "generation_kwargs": elsewhere.model_dump(),
        "generation_kwargs_on_train": None if on_train == elsewhere else on_train.model_dump(),
    }
    if isinstance(config.alg, SupervisedConfig):
        data["alg"]["training_args"] = config.alg.trainer_arguments()
        for name in ON_POLICY_ONLY:
            del data["train_evaluation"][name]
    return data


def _components(config: ExtractConfig | TrainConfig) -> Iterator[tuple[Keys, Registry, str, Args]]:
    """Yield dataset, reward and metrics that a run uses, with their place in its config."""
    yield ("datapool",), DATAPOOLS, config.datapool.id, config.datapool.args
    pretraining = config.pretraining if isinstance(config, TrainConfig) else None
    if pretraining is not None and pretraining.datapool is not None:
        pool = pretraining.datapool
        yield ("alg", "pretraining", "datapool"), DATAPOOLS, pool.id, pool.args
    if isinstance(config, ExtractConfig):
        block, metrics = "evaluation", config.evaluation.metrics
    else:
        block, metrics = "train_evaluation", config.train_evaluation.metrics
        if isinstance(config.alg, RewardModelConfig):
            return
        if isinstance(config.alg, RolloutConfig):
            for place, reward in config.rewards.items():
                yield place, REWARDS, reward.id, reward.args
    for number, metric in enumerate(metrics):
        yield (block, "metrics", number), METRICS, metric.id, metric.args


def check_report(config: ExtractConfig | TrainConfig) -> str:
    """Notices, derived sizes and the resolved config, which as a file gives the same run."""
    sizes = extraction_sizes(config) if isinstance(config, ExtractConfig) else training_sizes(config)
    lines = [*(f"note: {notice}" for notice in config.notices()), *sizes]
    return "\n".join([*lines, json.dumps(resolved(config), indent=2)])


def extraction_sizes(config: ExtractConfig) -> list[str]:
    """What an extraction will do, as far as its config alone tells."""
    inputs, each = config.datapool.train_samples, config.evaluation.num_samples_per_input
    split = config.datapool.split
    share = f"all {split} inputs" if inputs is None else f"{inputs:,} {split} inputs"
    total = "" if config.generations is None else f" = {config.generations:,}"
    longest = config.alg.generation_kwargs.max_new_tokens
    return [
        f"generations: {share} x {each}{total} texts of at most {longest:,} new tokens",
        f"scored by: {_names(config.evaluation.metrics)}",
    ]


def training_sizes(config: TrainConfig) -> list[str]:
    """What a training will do, as far as its config alone tells."""
    evaluation, datapool = config.train_evaluation, config.datapool
    share = (
        "all train samples"
        if datapool.train_fraction is None
        else f"{datapool.train_fraction:.4g} of the train samples"
    )
    if isinstance(config.alg, RewardModelConfig):
        return _reward_model_sizes(config, config.alg)
    inputs = "all" if evaluation.max_eval_samples is None else f"at most {evaluation.max_eval_samples:,}"
    if isinstance(config.alg, SupervisedConfig):
        lines = [f"training: {share}, {_supervised_length(config.alg)}"]
        arguments = config.alg.trainer_arguments()
        often = f"on val every {arguments.get('logging_steps', 500):,} updates"
        if arguments.get("logging_strategy") == "epoch":
            often = "on val after each epoch"
        if config.alg.pretraining is not None:
            lines.append(f"pretraining text: {config.alg.pretraining.share:.4g} of the training texts")
        if config.alg.select_by is not None:
            lines.append(
                f"the model: that of the checkpoint with the best {config.alg.select_by.metric} on val"
            )
    else:
        rewards = config.rewards.values()
        terms = " + ".join(r.id if r.weight == 1 else f"{r.weight:g} x {r.id}" for r in rewards)
        lines = [f"training: {share}, rewarded by {terms.replace('+ -', '- ')}", *_rollout_sizes(config)]
        often = f"on val every {evaluation.eval_every:,} iterations"
        if isinstance(pretraining := config.pretraining, PtxConfig):
            each = f"{pretraining.examples_per_episode:,} pretraining examples for each text of a minibatch"
            lines.append(f"PPO-ptx: {each}, the gradient of their loss times {pretraining.coeff:g}")
        if (most := evaluation.max_tokens) is not None:
            lines.append(f"ends before that with the iteration that brings the tokens generated to {most:,}")
    return [
        *lines,
        *_lora_lines(config.alg.lora),
        f"evaluation: {inputs} inputs of each split before and after, {often}: {_names(evaluation.metrics)}",
        f"texts of evaluation: {_evaluation_sampling(config)}",
    ]


def _lora_lines(lora: LoraSettings | None) -> list[str]:
    """What is trained with LoRA, and saved."""
    if lora is None:
        return []
    layers = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    scale, saved = f"alpha {lora.alpha:g}", "merged" if lora.merge else "the adapter alone"
    return [f"LoRA: rank {lora.r:,}, {scale}, layers {layers}; all other weights are frozen; saved: {saved}"]


def _rollout_sizes(config: TrainConfig) -> list[str]:
    """How many texts or tokens an iteration collects, and how many updates it makes of them."""
    alg, iterations = config.alg, config.train_evaluation.n_iters
    if not isinstance(alg, GroupConfig):
        assert config.sizes is not None  # TrainConfig.check
        return config.sizes.lines()
    assert iterations is not None
    args, texts = alg.args, alg.texts
    batch = args.batch_size or texts
    updates = -(-texts // batch) * args.n_epochs
    kept = " with spread" if args.dynamic_sampling.enabled else ""
    epochs = "1 epoch" if args.n_epochs == 1 else f"{args.n_epochs:,} epochs"
    loss: str = args.aggregate
    if loss == "constant":
        assert config.env is not None  # TrainConfig.check
        loss += f", {config.env.args.longest_text(alg.generation_kwargs):,} tokens a text"
    return [
        f"an iteration: {args.prompts_per_iteration:,} prompts{kept} x {args.group_size:,} texts = "
        f"{texts:,}, "
        f"minibatches of {batch:,}, {epochs}: {updates:,} update{'s' * (updates > 1)}",
        f"the run: {iterations:,} iterations, {iterations * texts:,} texts, {iterations * updates:,} updates",
        f"advantages: {args.baseline}, {args.scale}; ratio of a {args.ratio}, loss by {loss}; KL "
        + (f"{alg.kl_div.coeff:g} in the {alg.kl_div.where}" if alg.needs_reference else "none"),
    ]


def _reward_model_sizes(config: TrainConfig, alg: RewardModelConfig) -> list[str]:
    """What a training of a reward model will do."""
    args, evaluation, fraction = alg.args, config.train_evaluation, config.datapool.train_fraction
    share = "all train prompts" if fraction is None else f"{fraction:.4g} of the train prompts"
    batch = f"{args.prompts_per_batch:,} prompts with all their completions"
    if args.batching == "pair":
        batch = f"{args.pairs_per_batch:,} comparisons"
    epochs = "1 epoch" if args.epochs == 1 else f"{args.epochs:,} epochs"
    inputs = "all" if evaluation.max_eval_samples is None else f"at most {evaluation.max_eval_samples:,}"
    return [
        f"training: {share}, {epochs}, {batch} an update, loss {args.loss}",
        f"a forward pass: at most {args.micro_batch_size:,} texts, but whole prompts",
        *_lora_lines(alg.lora),
        f"evaluation: {inputs} prompts of val before training, every {evaluation.eval_every:,} updates and "
        "after each epoch",
    ]


def _evaluation_sampling(config: TrainConfig) -> str:
    """How the texts of each split are generated, and whether rollouts are drawn at another temperature."""
    assert not isinstance(config.alg, RewardModelConfig)
    on_train, elsewhere = config.evaluation_settings("train"), config.evaluation_settings("val")
    line = f"all splits {_describe(elsewhere)}"
    if on_train != elsewhere:
        line = f"val and test {_describe(elsewhere)}; train {_describe(on_train)}"
    drawn = config.alg.generation_kwargs.temperature
    if isinstance(config.alg, SupervisedConfig) or drawn == on_train.temperature:
        return line
    return f"{line} (rollouts: temperature {drawn:g})"


def _describe(settings: GenerationSettings) -> str:
    """How texts are generated, in a few words: how they are drawn, and what is not the default."""
    words = []
    if settings.do_sample:
        top = f"top-k {settings.top_k}" if settings.top_k else "no top-k"
        words = [f"sampled at temperature {settings.temperature:g}, {top}"]
    if settings.num_beams > 1:
        words.append(f"by beam search with {settings.num_beams} beams")
    said = {"max_new_tokens", "do_sample", "temperature", "top_k", "num_beams", "post_processing_fn"}
    others = [
        f"{name} {value}"
        for name, value in settings
        if name not in said and value != type(settings).model_fields[name].default
    ]
    longest = f"at most {settings.max_new_tokens:,} new tokens"
    return ", ".join([*(words or ["the likeliest token each time"]), *others, longest])


def _supervised_length(alg: SupervisedConfig) -> str:
    """How long supervised finetuning goes on, by the Trainer's own defaults where nothing is given."""
    arguments = alg.trainer_arguments()
    batch = arguments.get("per_device_train_batch_size", 8) * arguments.get("gradient_accumulation_steps", 1)
    steps, epochs = arguments.get("max_steps", -1), arguments.get("num_train_epochs", 3)
    return (
        f"{steps:,} updates of {batch:,} texts each"
        if steps > 0
        else f"{epochs:g} epochs, {batch:,} texts an update"
    )


def _names(metrics: list[MetricConfig]) -> str:
    return ", ".join(metric.id for metric in unique_metrics(metrics)) or "no metric"

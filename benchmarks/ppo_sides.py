"""The two sides of `benchmarks/ppo.py`, on the same random model."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import old_extraction
import old_ppo
import torch
from old_ppo import OldModels, OldSettings
from text_pairs import import_py_rouge  # type: ignore[import-not-found]
from tiny_models import save_tiny_gpt2, save_tiny_t5  # type: ignore[import-not-found]
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from common.config import validate
from rl4lms.config import OnPolicyConfig, TrainConfig
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.policy import PolicyModel
from rl4lms.ppo.collect import Actors, collect
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.ppo.update import build_optimizer, update
from rl4lms.rewards import build_reward
from rl4lms.samples import Sample

ENVIRONMENTS, BATCH_SIZE, EPOCHS, KL_COEFF, LEARNING_RATE = 10, 64, 5, 0.001, 1e-5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A random model and the rollouts it is trained on.

    vocabulary: None = the tokenizer's. prompt_length, episode_length: tokens, at most. n_steps: tokens of an
    iteration, per environment. sentences: how many prompts of the data make up one.
    What a turn times, the rest being extrapolated: epochs of ours (of 5); tokens that the old way collects
    (None = all), and minibatches of its update.
    """

    name: str
    kind: Literal["causal", "seq2seq"]
    width: int
    layers: int
    heads: int = 4
    vocabulary: int | None = None
    prompt_length: int = 64
    episode_length: int = 20
    n_steps: int = 128
    sentences: int = 1
    epochs: int = EPOCHS
    old_tokens: int | None = None
    old_minibatches: int = 1

    @property
    def tokens(self) -> int:
        """Of an iteration."""
        return self.n_steps * ENVIRONMENTS


@dataclass(frozen=True)
class Turn:
    """CPU seconds of an iteration's rollouts and update (on a GPU: seconds)."""

    PARTS: ClassVar = ("rollout", "update", "total")

    rollout: float
    update: float

    @property
    def total(self) -> float:
        return self.rollout + self.update


def save_model(case: Case, folder: Path, samples: Sequence[Sample]) -> Path:
    """The case's model with a tokenizer trained on the samples."""
    texts = [text for sample in samples for text in (sample.prompt_or_input_text, *sample.references)]
    if case.kind == "causal":
        gpt2 = {"n_positions": 1024, "n_embd": case.width, "n_layer": case.layers, "n_head": case.heads}
        path = Path(save_tiny_gpt2(folder / case.name, texts, 700, initializer_range=0.1, **gpt2))
    else:
        t5 = {"d_model": case.width, "d_ff": 4 * case.width, "d_kv": case.width // case.heads}
        t5 |= {"num_heads": case.heads, "num_layers": case.layers}
        path = Path(save_tiny_t5(folder / case.name, texts, 600, **t5))
    if case.vocabulary is not None:
        auto = AutoModelForCausalLM if case.kind == "causal" else AutoModelForSeq2SeqLM
        model = auto.from_pretrained(path)
        model.resize_token_embeddings(case.vocabulary, mean_resizing=False)
        model.save_pretrained(path)
    return path


def make_config(case: Case, model: Path, samples: Sequence[Sample], unit: str, seed: int = 0) -> TrainConfig:
    """The training of a model on the samples. unit: of the minibatches."""
    data = write_data(model, samples)
    config, problems = validate(TrainConfig, config_data(case, model, data, unit, seed))
    if config is None:
        raise ValueError(f"the benchmark's config is wrong: {problems}")
    return config


def write_data(model: Path, samples: Sequence[Sample]) -> Path:
    """The samples in a file beside the model, for all splits."""
    file = model.with_name(f"{model.name}.jsonl")
    rows = [{"prompt": sample.prompt_or_input_text, "references": sample.references} for sample in samples]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def config_data(case: Case, model: Path, data: Path, unit: str, seed: int) -> dict[str, Any]:
    """The content of a config file."""
    sampling = {"do_sample": True, "top_k": 50, "max_new_tokens": case.episode_length}
    return {
        "tokenizer": {"model_name": str(model)},
        "reward_fn": {"id": "rouge_l_max"},
        "datapool": {"id": "jsonl", "args": {"data_path": str(data)}},
        "env": {
            "n_envs": ENVIRONMENTS,
            "args": {"max_prompt_length": case.prompt_length, "max_episode_length": case.episode_length},
        },
        "alg": {
            "id": "ppo",
            "args": {
                "n_steps": case.n_steps,
                "batch_size": BATCH_SIZE,
                "n_epochs": case.epochs,
                "minibatch_unit": unit,
                "learning_rate": LEARNING_RATE,
            },
            "kl_div": {"coeff": KL_COEFF},
            "policy": {
                "id": f"{case.kind}_lm_actor_critic_policy",
                "args": {"model_name": str(model), "generation_kwargs": sampling},
            },
        },
        "train_evaluation": {"eval_batch_size": 100, "n_iters": 1, "metrics": []},
        "runtime": {"seed": seed, "device": "cpu"},
    }


def long_samples(samples: Sequence[Sample], sentences: int) -> list[Sample]:
    """Samples whose prompts are those of so many, the references of the first."""
    count = len(samples)
    return [
        Sample(
            sample.id,
            " ".join(samples[(i + k) % count].prompt_or_input_text for k in range(sentences)),
            sample.references,
        )
        for i, sample in enumerate(samples)
    ]


class OurSide:
    """The project's own rollouts and update; iterations go on from one another."""

    def __init__(
        self, config: TrainConfig, samples: Sequence[Sample], device: str = "cpu", dtype: str = "float32"
    ) -> None:
        assert isinstance(config.alg, OnPolicyConfig) and config.env is not None and config.reward_fn
        self.alg, self.device, self.dtype = config.alg, torch.device(device), dtype
        name, kind = self.alg.model_name, self.alg.model_type
        policy = PolicyModel.load(name, kind, device)
        reference = PolicyModel(load_model(name, kind, torch.float32, device).requires_grad_(False))
        self.optimizer = build_optimizer(
            policy, self.alg.args.learning_rate, self.alg.policy.args.weight_decay
        )
        self.actors = Actors(
            policy=policy,
            reference=reference,
            mask_model=None,
            tokenizer=load_tokenizer(config.tokenizer.model_name),
            train=samples,
            reward=build_reward(config.reward_fn.id, config.reward_fn.args),
            env=config.env,
            alg=self.alg,
            seed=config.runtime.seed,
            dtype=dtype,
        )
        self.iteration, self.expected_length = 0, float(config.env.args.max_episode_length)

    def rollout(self) -> Rollouts:
        rollouts = collect(self.actors, self.iteration, self.alg.kl_div.coeff, self.expected_length)
        self.expected_length = float(rollouts.sequences.response_mask.sum(1).float().mean())
        return rollouts

    def update(self, rollouts: Rollouts) -> dict[str, float]:
        logged = update(
            self.actors.policy, self.optimizer, rollouts, self.alg, self.iteration, dtype=self.dtype
        )
        self.iteration += 1
        return logged

    def turn(self) -> Turn:
        """One iteration; epochs that are left out are extrapolated."""
        start = self._now()
        rollouts = self.rollout()
        middle = self._now()
        self.update(rollouts)
        return Turn(middle - start, (self._now() - middle) * EPOCHS / self.alg.args.n_epochs)

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class OldSide:
    """The old way's rollouts and update, on models of its own."""

    def __init__(self, case: Case, model: Path, samples: Sequence[Sample]) -> None:
        self.case, self.samples, self.rng = case, samples, random.Random(0)
        self.settings, self.tokenizer = old_settings(case), load_tokenizer(str(model))
        auto = AutoModelForCausalLM if case.kind == "causal" else AutoModelForSeq2SeqLM
        policy, reference, value = (auto.from_pretrained(model) for _ in range(3))
        head = nn.Linear(case.width, 1, bias=False)
        self.models = OldModels(policy, reference, value, head, self.settings)
        self.reward = old_reward()

    def draw(self, count: int) -> list[tuple[str, list[str]]]:
        return [(s.prompt_or_input_text, s.references) for s in self.rng.choices(self.samples, k=count)]

    def turn(self) -> Turn:
        """An iteration, extrapolated from what the case says: minibatches cost the same, and so do texts."""
        start = time.process_time()
        episodes, buffer = old_ppo.collect(self.models, self.tokenizer, self.draw, self.reward, self.settings)
        middle = time.process_time()
        rng = np.random.default_rng(self.rng.randrange(2**32))
        batches = old_ppo.minibatches(self.settings, EPOCHS, rng)
        for rows in itertools.islice(batches, self.case.old_minibatches):
            old_ppo.update(self.models, buffer, rows, self.settings)
        seconds = time.process_time() - middle
        collected = sum(len(episode.actions) for episode in episodes)
        count = EPOCHS * math.ceil(self.case.tokens / self.settings.batch_size)
        return Turn(
            (middle - start) * max(1.0, self.case.tokens / collected),
            seconds * count / self.case.old_minibatches,
        )


def old_settings(case: Case) -> OldSettings:
    """The case's, with the project's learning rate and KL coefficient."""
    return OldSettings(
        n_envs=ENVIRONMENTS,
        tokens=case.old_tokens or case.tokens,
        batch_size=BATCH_SIZE,
        max_prompt_length=case.prompt_length,
        max_episode_length=case.episode_length,
        learning_rate=LEARNING_RATE,
        kl_coeff=KL_COEFF,
    )


def old_reward() -> old_ppo.Reward:
    """py-rouge's, one text at a time; where it is not installed a plain ROUGE-L."""
    if old_extraction.has_py_rouge():
        return partial(old_extraction.py_rouge_l, import_py_rouge().Rouge)
    return old_extraction.plain_rouge_l


def memory() -> tuple[float, float]:
    """MiB that this process holds, and held at most. (getrusage would count its parent's.)"""
    status = Path("/proc/self/status").read_text()
    found = [re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmRSS", "VmHWM")]
    now, peak = (int(match[1]) / 1024 if match else math.nan for match in found)
    return now, peak

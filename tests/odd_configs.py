"""Shipped configs made tiny, and odd but well-typed values for their fields."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from plan_runs import write_data
from pydantic import BaseModel
from tiny_models import save_tiny_gpt2, save_tiny_t5

import pretrain_small_language_model
import rl4lms_extract_samples_from_model_runner
import rl4lms_train_text_generation
import sft_vs_rft_controlled_experiments_plan_runner
from common.config import Keys, validate
from common.validation import bare_type, field_type, members
from paper.small_models.config import PretrainConfig
from rl4lms.config import ExtractConfig, TrainConfig, resolved
from rl4lms.config.group import DEFAULTS as GROUP_DEFAULTS
from rl4lms.config.training_args import CHOICES
from sft_vs_rft.config import ExperimentConfig

REPO = Path(__file__).parents[1]
SCRIPTS, PLANS = REPO / "rl4lms_scripts", REPO / "sft_vs_rft" / "experiment_plans" / "laptop"
GRUE = (
    "common_gen/t5_ppo", "totto/t5_supervised", "iwslt2017/t5_nlpo", "dialog/gpt2_ppo", "narrative_qa/t5_ppo",
)  # fmt: skip
TOTTO = {"train": "totto_train_data", "validation": "totto_dev_data", "test": "unlabeled_totto_test_data"}
PACKAGES = ["json", "argparse", "email", "logging", "unittest", "http"]
_NEED_THE_HUB = ("bert_score", "intent_accuracy", "learned_reward")
# How long a run is: cut to this after the check, since large values are right but cannot be waited for.
_LENGTHS = {"n_iters": 1, "n_epochs": 2, "num_train_epochs": 1, "max_steps": 2, "steps": 2, "epochs": 2}
UNTOUCHED = ("use_wandb", "report_to")
INTEGERS = (0, 1, -1, 2, 3, 7, 100, 10**9, -(10**9), 10**18, 10**30)
FLOATS = (0.0, 1.0, -1.0, 0.5, 2.0, 1e9, -1e9, 1e-9, 1e38, 1e300, 1e-300)
STRINGS = ("", " ", "x" * 300, "日本語 ü", "a\nb", "../x", "é" * 200, "true", "0", "{lr}", "a/b")
UNSET = (0, 1, -1, 0.5, 10**9, "", False)


@dataclass(frozen=True)
class Tiny:
    """A shipped file that runs in a second. data: with all defaults; kind: the schema of `data`."""

    name: str
    kind: type[BaseModel]
    data: dict[str, Any]

    def write(self, data: dict[str, Any], path: Path) -> Path:
        """Write what the runner reads."""
        if self.kind is ExperimentConfig:
            path = path.with_suffix(".json")
            path.write_text(json.dumps({"configurations": [{"base_config": data, "options": {}}]}))
        else:
            path.write_text(yaml.safe_dump(data, allow_unicode=True))
        return path

    def command(self, path: Path, output: Path) -> tuple[Callable[[list[str]], int], list[str]]:
        """The runner's `main` and its flags."""
        if self.kind is ExperimentConfig:
            return sft_vs_rft_controlled_experiments_plan_runner.main, ["--plan_config_path", str(path)]
        flags = ["--config_path", str(path)]
        if self.kind is TrainConfig:
            return rl4lms_train_text_generation.main, [*flags, "--base_path_to_store_results", str(output)]
        extracts = self.kind is ExtractConfig
        runner = rl4lms_extract_samples_from_model_runner if extracts else pretrain_small_language_model
        return runner.main, [*flags, "--output_path", str(output)]


def tiny_configs(folder: Path) -> list[Tiny]:
    """Laptop configs, controlled plans, and five of the GRUE configs on data in their datasets' formats."""
    models = {"t5": save_tiny_t5(folder / "t5", seed=1), "gpt2": save_tiny_gpt2(folder / "gpt2")}
    laptop = [*SCRIPTS.glob("laptop/t5_*.yml"), *SCRIPTS.glob("laptop/gpt2_*.yml")]
    tiny = [_shrink_text(path, models, folder) for path in sorted(laptop)]
    tiny += [_shrink_text(SCRIPTS / "training" / f"{name}.yml", models, folder) for name in GRUE]
    tiny += [_shrink_pretraining(path) for path in sorted(SCRIPTS.glob("laptop/pretrain_*.yml"))]
    tiny += [_shrink_plan(path, folder) for path in sorted(PLANS.glob("sft_vs_rft_mlp_*.json"))]
    return tiny


def _shrink_text(path: Path, models: dict[str, Path], folder: Path) -> Tiny:
    data = yaml.safe_load(path.read_text())
    model = str(models["gpt2" if "gpt2" in path.name else "t5"])
    data["tokenizer"] |= {"model_name": model, "max_length": 20}
    pool = data["datapool"]
    if pool["id"] == "python_docs":
        pool["args"] |= {"packages": PACKAGES, "num_train": 8, "num_val": 4, "num_test": 4}
    else:
        pool["args"] = pool.get("args", {}) | {"data_path": str(_write_dataset(pool["id"], folder))}
    settings = {"max_new_tokens": 4, "min_length": 0}
    if "evaluation" in data:
        data["alg"]["model_name"] = model
        data["alg"]["generation_kwargs"] |= settings
        data["evaluation"] |= {"num_samples_per_input": 2}
        pool["num_train_samples"] = 3
        data["evaluation"]["metrics"] = _without_downloads(data["evaluation"]["metrics"], model)
    else:
        evaluation = data["train_evaluation"]
        evaluation["metrics"] = _without_downloads(evaluation["metrics"], model)
        evaluation |= {"generation_kwargs": settings, "generation_kwargs_on_train": settings}
        if data["alg"]["id"] == "supervised":
            data["alg"]["model_name"] = model
            data["alg"]["generation_kwargs"] |= settings
            arguments = data["alg"]["training_args"]
            arguments |= {"per_device_train_batch_size": 4, "num_train_epochs": 1}
            if "max_steps" in arguments:
                arguments["max_steps"] = 2
        else:
            if data["alg"]["id"] in GROUP_DEFAULTS:
                data["alg"]["args"] |= {"group_size": 2, "prompts_per_iteration": 3, "batch_size": 4}
            else:
                data["alg"]["args"] |= {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
            data["alg"]["policy"]["args"]["model_name"] = model
            data["alg"]["policy"]["args"]["generation_kwargs"] |= settings
            data["env"]["n_envs"] = 2
            data["env"]["args"] |= {"max_prompt_length": 20, "max_episode_length": 4}
            evaluation["n_iters"] = 1
            (data["reward_fn"],) = _without_downloads([data["reward_fn"]], model)
    kind = ExtractConfig if "evaluation" in data else TrainConfig
    config, problems = validate(kind, data)
    assert config is not None, (path, problems)
    return Tiny(f"{path.parent.name}/{path.name}", kind, resolved(config))


def _without_downloads(metrics: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    kept = [copy.deepcopy(metric) for metric in metrics if metric["id"] not in _NEED_THE_HUB]
    for metric in kept:
        if metric["id"].startswith("meteor"):
            metric["args"] = (metric.get("args") or {}) | {"wordnet": False}
        if "tokenizer_id" in (metric.get("args") or {}):
            metric["args"]["tokenizer_id"] = model
    return kept


def _shrink_pretraining(path: Path) -> Tiny:
    data = yaml.safe_load(path.read_text())
    data["data"] = data.get("data", {}) | {"packages": PACKAGES[:4], "max_length": 24}
    data["vocabulary"] = {"size": 400}
    data["model"] = {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    data["alg"] |= {"steps": 2, "batch_size": 4}
    config, problems = validate(PretrainConfig, data)
    assert config is not None, (path, problems)
    return Tiny(path.name, PretrainConfig, config.model_dump())


def _shrink_plan(path: Path, folder: Path) -> Tiny:
    """The plan's experiment without its options, on digits; of the finetuning ones on a file of its own."""
    data = json.loads(path.read_text())["configurations"][0]["base_config"]
    data |= {
        "epochs": 2,
        "batch_size": 16,
        "mlp_hidden_layer_sizes": [6],
        "outputs_dir": str(folder / "runs"),
    }
    data |= {"num_train_samples": 40, "num_test_samples": 12, "load_model_from_checkpoint": ""}
    if "finetune" in path.name:
        data |= {
            "dataset": "npz",
            "data_dir": str(write_data(folder / "data.npz")),
            "num_labels_per_sample": 2,
        }
    config, problems = validate(ExperimentConfig, data)
    assert config is not None, (path, problems)
    return Tiny(path.name, ExperimentConfig, config.model_dump())


def _write_dataset(name: str, folder: Path) -> Path:
    """A dataset of a few rows for each split, in its own format."""
    table = json.loads((REPO / "tests" / "golden" / "metrics.json").read_text())["totto"]["tables"][0]
    row: dict[str, Callable[[int], Any]] = {
        "commongen": lambda i: {"concepts": ["dog", f"c{i}"], "target": f"The dog sees c{i} every day."},
        "totto": lambda i: {key: value for key, value in table["raw_table"].items() if key != "id"},
        "iwslt2017en_de": lambda i: {
            "translation": {"en": f"The dog {i}.", "de": f"Der Hund sah {i} Katzen."}
        },
        "daily_dialog": lambda i: {
            "dialog": [f"I said {i} things to you ." for _ in range(7)],
            "act": [1] * 7,
            "emotion": [0] * 7,
        },
    }
    data = folder / name
    data.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        if name == "narrative_qa":
            lines = [f"Who is {i}? \\n  A man called {i}.\tthe old man number {i}" for i in range(4)]
            (data / f"{split.replace('validation', 'dev')}.tsv").write_text("".join(f"{x}\n" for x in lines))
            continue
        file = data / f"{TOTTO[split] if name == 'totto' else split}.jsonl"
        file.write_text("".join(json.dumps(row[name](i)) + "\n" for i in range(4)))
    return data


def leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every value of a config that holds no further fields, and lists and mappings as wholes."""
    if keys:
        yield keys, value
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*keys, key))


def literals(model: type[BaseModel], known: dict[str, set[Any]] | None = None) -> dict[str, set[Any]]:
    """Field name -> the values that a schema allows, of all fields with such."""
    known = {} if known is None else known
    for name, info in model.model_fields.items():
        todo = [field_type(info)]
        while todo:
            here, _ = bare_type(todo.pop())
            if get_origin(here) is Literal:
                known.setdefault(name, set()).update(get_args(here))
            elif isinstance(here, type) and issubclass(here, BaseModel):
                literals(here, known)
            elif len(members(here)) > 1 or get_args(here):
                todo += [part for part in get_args(here) if part is not Ellipsis]
    return known


def mutate(tiny: Tiny, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """What was changed, and the config with one or two odd values."""
    data = copy.deepcopy(tiny.data)
    choices = literals(tiny.kind) | {name: set(values) for name, values in CHOICES.items()}
    changes = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        keys, value = rng.choice([leaf for leaf in leaves(data) if str(leaf[0][-1]) not in UNTOUCHED])
        odd = odd_value(value, choices.get(str(keys[-1]), set()), rng)
        _replace(data, keys, odd)
        changes.append(f"{'.'.join(map(str, keys))}={odd!r:.40}")
    return ", ".join(changes), data


def odd_value(value: Any, allowed: set[Any], rng: random.Random) -> Any:
    """Another value of the same type."""
    if others := sorted(allowed - {value} if isinstance(value, str | int | float) else (), key=str):
        return rng.choice(others)
    match value:
        case bool():
            return not value
        case int():
            return rng.choice(INTEGERS)
        case float():
            return rng.choice(FLOATS)
        case str():
            return rng.choice(STRINGS)
        case list():
            return rng.choice([[], value[:1], value * 2])
        case dict():
            return {}
    return rng.choice(UNSET)


def shorten(data: dict[str, Any]) -> dict[str, Any]:
    """The same config with a run of one or two steps."""
    data = copy.deepcopy(data)
    for keys, value in list(leaves(data)):
        most = _LENGTHS.get(str(keys[-1]))
        if most is not None and isinstance(value, int | float) and value > most:
            _replace(data, keys, most)
    return data


def _replace(data: Any, keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        data = data[key]
    data[keys[-1]] = value

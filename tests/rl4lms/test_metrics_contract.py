"""What holds for every metric and reward: light imports, checked arguments, per-text scores."""

import csv
import inspect
import json
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from text_pairs import text_pairs

from common.config import ConfigError, Problem
from common.registry import Registry
from rl4lms.metrics import METRICS, TextBatch, build_metric
from rl4lms.rewards import REWARDS, build_reward

ROOT = Path(__file__).parents[2]
IDS = {
    "meteor", "rouge", "bleu", "bert_score", "diversity", "sacre_bleu", "causal_perplexity", "ter", "chrf",
    "learned_reward", "meteor_common_gen_repeat_penalty", "intent_accuracy", "rouge_l_max", "parent_totto",
    "bleu_totto", "reward_model",
}  # fmt: skip
OFFLINE_ARGS: dict[str, dict[str, Any]] = {
    "rouge_l_max": {},
    "rouge": {},
    "meteor": {"wordnet": False},
    "bleu": {},
    "sacre_bleu": {},
    "ter": {},
    "chrf": {},
    "diversity": {"window_size": 5},
    "meteor_common_gen_repeat_penalty": {"wordnet": False},
}


def test_all_metrics_are_there() -> None:
    assert set(METRICS.entries) == IDS


def fields_of_the_papers_configs() -> dict[str, dict[str, Any]]:
    """Every metric and reward of every config: "config:place" -> {"id": ..., "args.<name>": ...}."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    with (ROOT / "tests" / "golden" / "grue_hyperparameters.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place, dot, name = (
                row["field"].replace("].", "]|").replace("reward_fn.", "reward_fn|").partition("|")
            )
            if dot and ("metrics[" in place or place == "reward_fn"):
                found[f"{row['config']}:{place}"][name] = json.loads(row["value"])
    return found


def test_every_argument_in_the_papers_configs_is_accepted() -> None:
    fields = fields_of_the_papers_configs()
    assert sum(place.endswith("reward_fn") for place in fields) == 28
    assert len(fields) == 255
    for place, values in fields.items():
        args = {
            name.removeprefix("args."): value for name, value in values.items() if name.startswith("args.")
        }
        registry = REWARDS if place.endswith("reward_fn") else METRICS
        assert registry.check(values["id"], args) == [], place


@pytest.mark.parametrize("name", sorted(METRICS.entries))
def test_schema_and_signature_agree(name: str) -> None:
    first, *rest = inspect.signature(METRICS.function(name)).parameters.values()
    passed = {key for key, field in METRICS.entries[name].args.model_fields.items() if not field.exclude}
    assert first.name == "batch"
    assert {parameter.name for parameter in rest} == passed
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)


@pytest.mark.parametrize("name", sorted(OFFLINE_ARGS))
def test_a_text_scores_what_it_scores_alone(name: str) -> None:
    batch = text_pairs(40)
    if name == "ter":
        batch = batch.select(
            i for i in range(40) if len(batch.generated[i]) + len(batch.references[i][0]) < 200
        )
    metric = build_metric(name, OFFLINE_ARGS[name])
    together = metric(batch)
    for i in range(len(batch)):
        alone = metric(batch.select([i]))
        assert alone.keys() == together.keys()
        for key, score in together.items():
            if score.per_sample is not None:
                assert score.per_sample[i] == pytest.approx(alone[key].corpus, abs=1e-12)
                assert alone[key].per_sample == pytest.approx([alone[key].corpus], abs=1e-12)


@pytest.mark.parametrize("name", sorted(OFFLINE_ARGS))
def test_odd_batches_are_no_error(name: str) -> None:
    metric = build_metric(name, OFFLINE_ARGS[name])
    assert all(score.per_sample in ([], None) for score in metric(TextBatch([], [], [], [])).values())
    bare = metric(TextBatch(["", "p"], ["", "the cat"], [[], []], [{}, {}]))
    for score in bare.values():
        assert all(math.isfinite(value) for value in score.per_sample or [])


def test_a_text_batch_is_consistent() -> None:
    with pytest.raises(ValueError, match=r"differ in length: .*'references': 1"):
        TextBatch(["a", "b"], ["c", "d"], [["e"]], [{}, {}])


@pytest.mark.parametrize(
    ("registry", "name", "args", "problem"),
    [
        (
            METRICS,
            "rouge_lmax",
            {},
            ("id", "unknown metric 'rouge_lmax'; did you mean 'rouge_l_max'? known: "),
        ),
        (REWARDS, "meteors", {}, ("id", "unknown reward 'meteors'; did you mean 'meteor'? known: ")),
        (METRICS, "rouge_l_max", {"aplha": 0.5}, ("args.aplha", "unknown key; did you mean 'alpha'?")),
        (
            METRICS,
            "rouge_l_max",
            {"alpha": "half"},
            ("args.alpha", "expected a number >= 0 and <= 1, got 'half'"),
        ),
        (
            METRICS,
            "sacre_bleu",
            {"tokenize": "13b"},
            ("args.tokenize", "unknown value '13b'; did you mean '13a'?"),
        ),
        (METRICS, "bleu", {"n": 4}, ("args.n", "unknown key; known: none")),
        (
            METRICS,
            "learned_reward",
            {"model_name": "m"},
            ("args.label_ix", "missing; expected a whole number >= 0"),
        ),
        (
            METRICS,
            "bert_score",
            {"language": "en", "model_name": "m"},
            ("args.num_layers", "missing; a model_name of your own needs it"),
        ),
        (
            REWARDS,
            "rouge",
            {"rouge_type": "rouge3"},
            ("args.rouge_type", "unknown value 'rouge3'; did you mean"),
        ),
    ],
)
def test_problems_of_id_and_arguments(
    registry: Registry, name: str, args: dict[str, Any], problem: tuple[str, str]
) -> None:
    (found,) = registry.check(name, args)
    assert isinstance(found, Problem)
    assert found.path == problem[0]
    assert found.message.startswith(problem[1])


def test_building_with_wrong_arguments_tells_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_reward("rouge_l_max", {"aplha": 1, "length_limit": -1})
    assert str(caught.value) == (
        "reward 'rouge_l_max': 2 problems\n"
        "  args.length_limit    must be at least 0, got -1\n"
        "  args.aplha           unknown key; did you mean 'alpha'?"
    )


def test_checking_arguments_imports_nothing_heavy() -> None:
    code = """
import sys
from rl4lms.metrics import METRICS
from rl4lms.rewards import REWARDS
for registry in (METRICS, REWARDS):
    for name in registry.entries:
        registry.check(name, {"alpha": 1})
METRICS.missing("meteor", {})
METRICS.missing("learned_reward", {"model_name": "./no/folder", "label_ix": 0})
heavy = {"torch", "transformers", "datasets", "sklearn", "nltk", "pandas", "matplotlib", "sacrebleu", "numpy"}
print(*sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_every_metric_and_reward_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    metrics, rewards = text.split("## Rewards")
    for names, section in ((METRICS.entries, metrics), (REWARDS.entries, rewards)):
        for name, entry in names.items():
            assert f"`{name}`" in section
            assert all(f"`{field}`" in text for field in entry.args.model_fields)

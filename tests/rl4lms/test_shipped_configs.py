"""The shipped configs hold the paper's hyperparameters, field by field, and pass --check."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, read_source
from common.source import parse_value
from rl4lms.config import ExtractConfig, TrainConfig, load_extract_config, load_train_config
from rl4lms.config.parts import SUPERVISED_CONFIGS
from rl4lms.model.generation_config import GenerationSettings

REPO = Path(__file__).parents[2]
SCRIPTS = REPO / "rl4lms_scripts"
EXTRACTIONS = sorted(SCRIPTS.glob("extract_samples/*.yml"))
GROUPS = sorted(SCRIPTS.glob("training/*/*_grpo.yml"))  # which the paper has none of
TRAININGS = sorted(set(SCRIPTS.glob("training/*/*.yml")) - set(GROUPS))
ON_SUPERVISED = [path for path in TRAININGS if path.stem.endswith("_on_supervised")]
ON_POLICY = [path for path in TRAININGS if "_ppo" in path.stem or "_nlpo" in path.stem]
PLACEHOLDER = "<path of the supervised checkpoint>"
# What users sweep -> where it stands.
SWEPT = {
    "learning_rate": ("alg", "args"),
    "ent_coef": ("alg", "args"),
    "temperature": ("alg", "policy", "args", "generation_kwargs"),
}

# NarrativeQA's sampling blocks left the length to the paper's library, which generated 19 new tokens.
ADDED = {
    "extract_samples/t5_narrative_qa_extract_samples.yml": "alg.generation_kwargs.max_new_tokens",
    "training/narrative_qa/t5_supervised.yml": "alg.generation_kwargs.max_new_tokens",
    **{
        f"training/narrative_qa/t5_{alg}.yml": "alg.policy.args.generation_kwargs.max_new_tokens"
        for alg in ("ppo", "nlpo", "ppo_on_supervised", "nlpo_on_supervised")
    },
}


def golden_fields() -> dict[str, dict[str, str]]:
    """Config path -> dotted field -> value as JSON text, so that 1, 1.0 and true stay apart."""
    fields: dict[str, dict[str, str]] = {}
    with (REPO / "tests" / "golden" / "grue_hyperparameters.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["config"].removeprefix("rl4lms_scripts/")
            fields.setdefault(name, {})[row["field"]] = json.dumps(json.loads(row["value"]))
    return fields


GOLDEN = golden_fields()


def flat_fields(value: Any, path: str = "") -> dict[str, str]:
    """Fields of a config under the names that the CSV gives them, values as JSON text."""
    if isinstance(value, dict) and value:
        pairs = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(f"{path}[{number}]", item) for number, item in enumerate(value)]
    else:
        return {path: json.dumps(value)}
    return {name: text for key, item in pairs for name, text in flat_fields(item, key).items()}


def shipped_name(path: Path) -> str:
    return path.relative_to(SCRIPTS).as_posix()


def test_all_42_configs_are_shipped() -> None:
    assert (len(EXTRACTIONS), len(TRAININGS), len(ON_SUPERVISED)) == (7, 35, 14)
    assert {shipped_name(path) for path in EXTRACTIONS + TRAININGS} == set(GOLDEN)


@pytest.mark.parametrize("path", EXTRACTIONS + TRAININGS, ids=shipped_name)
def test_config_holds_the_papers_values_and_no_other_field(path: Path) -> None:
    # The paper's library removed spaces before punctuation without being asked.
    expected = GOLDEN[shipped_name(path)] | {"tokenizer.clean_up_tokenization_spaces": "true"}
    if field := ADDED.get(shipped_name(path)):
        assert field not in expected
        expected[field] = "19"
    assert flat_fields(read_source(path).data) == expected | train_as_released(expected)


def train_as_released(fields: dict[str, str]) -> dict[str, str]:
    """The paper's library evaluated train as rollouts are drawn: said where the others are done otherwise."""
    blocks = {
        "alg.generation_kwargs",
        "alg.policy.args.generation_kwargs",
        "train_evaluation.generation_kwargs",
    }
    settings: dict[str, dict[str, str]] = {block: {} for block in blocks}
    for field, value in fields.items():
        block, _, name = field.rpartition(".")
        if block in blocks and name != "post_processing_fn":
            settings[block][name] = value
    elsewhere = settings.pop("train_evaluation.generation_kwargs")
    (drawn,) = [block for block in settings.values() if block] or [{}]
    if not elsewhere or elsewhere == drawn:
        return {}
    return {f"train_evaluation.generation_kwargs_on_train.{name}": value for name, value in drawn.items()}


@pytest.mark.parametrize("path", TRAININGS, ids=shipped_name)
def test_evaluation_samples_as_the_papers_library_did(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    model = "gpt2" if "gpt2" in path.stem else "t5-base"
    start = [f"alg.policy.args.model_name={model}"] if path in ON_SUPERVISED else []
    config = load_train_config(path, start)
    stated = read_source(path).data["train_evaluation"].get("generation_kwargs")
    assert config.evaluation_settings("train") == config.alg.generation_kwargs
    for split in ("val", "test"):
        expected = config.alg.generation_kwargs if stated is None else GenerationSettings(**stated)
        assert config.evaluation_settings(split) == expected


@pytest.mark.parametrize("path", EXTRACTIONS + TRAININGS, ids=shipped_name)
def test_no_number_or_truth_value_is_text(path: Path) -> None:
    """The other correction: slips of hand-edited files, such as `True,`, which YAML reads as text."""
    texts = [json.loads(value) for value in flat_fields(read_source(path).data).values() if value[0] == '"']
    assert [text for text in texts if not isinstance(parse_value(text.strip(" ,") or "x", []), str)] == []


@pytest.mark.parametrize("path", EXTRACTIONS + TRAININGS, ids=shipped_name)
def test_header_says_what_comes_before(path: Path) -> None:
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("# ") for line in header.split("\n"))
    assert "Section" in header and "# Needs: " in header and "# Before it:" in header
    assert (supervised_command(path) in header) == (path in ON_SUPERVISED)


def supervised_command(path: Path) -> str:
    model = path.name.split("_")[0]
    supervised = path.with_name(f"{model}_supervised.yml").relative_to(REPO).as_posix()
    return f"python rl4lms_train_text_generation.py --config_path {supervised}"


def test_28_configs_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    extractions = [load_extract_config(path) for path in EXTRACTIONS]
    trainings = [load_train_config(path) for path in TRAININGS if path not in ON_SUPERVISED]
    assert len(extractions) + len(trainings) == 28
    assert all(isinstance(config, ExtractConfig) for config in extractions)
    assert all(isinstance(config, TrainConfig) for config in trainings)


@pytest.mark.parametrize("path", ON_SUPERVISED, ids=shipped_name)
def test_placeholder_is_the_one_problem_and_names_the_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    (problem,) = caught.value.problems
    assert problem.path == "alg.policy.args.model_name"
    assert PLACEHOLDER in path.read_text().split("\n")[int(problem.line or 0) - 1]
    assert problem.message == (
        f"still the placeholder {PLACEHOLDER!r}; replace it by the model that this makes: "
        + supervised_command(path)
    )


@pytest.mark.parametrize("path", ON_SUPERVISED, ids=shipped_name)
def test_config_is_valid_once_the_placeholder_is_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    name = "gpt2" if "gpt2" in path.name else "t5-base"
    assert load_train_config(path, [f"alg.policy.args.model_name={name}"]).alg.model_name == name


@pytest.mark.parametrize("path", ON_POLICY, ids=shipped_name)
def test_what_users_sweep_is_visible_at_its_place_with_its_default(path: Path, tmp_path: Path) -> None:
    """A field that a PPO or NLPO config does not set stands there as a comment, which may be uncommented."""
    text = path.read_text()
    uncommented = tmp_path / path.name
    uncommented.write_text(re.sub(r"^( +)# (\w+:)", r"\1\2", text, flags=re.MULTILINE))
    content = read_source(uncommented).data
    missing = []
    for field, keys in SWEPT.items():
        block = content
        for key in keys:
            block = block[key]
        if field not in block:
            missing.append(field)
    assert missing == []
    name = ["alg.policy.args.model_name=gpt2"] if path in ON_SUPERVISED else []
    assert load_train_config(uncommented, name) == load_train_config(path, name)


def test_what_users_sweep_was_looked_for_in_all_28_configs() -> None:
    assert len(ON_POLICY) == 28
    assert {read_source(path).data["alg"]["id"] for path in ON_POLICY} == {"ppo", "nlpo"}
    assert sum(len(re.findall(r"^ +# \w+:", path.read_text(), re.MULTILINE)) for path in ON_POLICY) == 26


def test_placeholders_of_all_datasets_lead_to_shipped_configs() -> None:
    assert all((REPO / config).is_file() for config in SUPERVISED_CONFIGS.values())
    assert len(set(SUPERVISED_CONFIGS.values())) == 7


def test_checking_all_configs_imports_nothing_heavy() -> None:
    code = f"""
import sys
from rl4lms.config import check_report, load_extract_config, load_train_config
for path in {[str(path) for path in EXTRACTIONS]}:
    check_report(load_extract_config(path))
for path in {[str(path) for path in TRAININGS if path not in ON_SUPERVISED]}:
    check_report(load_train_config(path))
heavy = {{"torch", "transformers", "datasets", "nltk", "matplotlib", "sklearn", "pandas", "sacrebleu"}}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_dataset_has_a_config_of_grpo_with_the_defaults_of_trl() -> None:
    assert len(GROUPS) == 7 and {path.parent.name for path in GROUPS} == {
        path.parent.name for path in TRAININGS
    }
    for path in GROUPS:
        config, ppo = (
            load_train_config(path.with_name(f"{path.stem[:-4]}{alg}.yml")) for alg in ("grpo", "ppo")
        )
        args, settings = config.alg.args, config.alg.generation_kwargs
        assert (args.group_size, args.learning_rate, args.n_epochs, args.max_grad_norm) == (8, 1e-6, 1, 1.0)
        assert (args.clip_low, args.clip_high, args.std_epsilon, config.alg.kl_div.coeff) == (
            0.2,
            0.2,
            1e-4,
            0,
        )
        assert (settings.temperature, settings.top_k, settings.do_sample) == (1.0, 0, True)
        same = ("tokenizer", "reward_fn", "datapool", "train_evaluation")
        assert [getattr(config, name) for name in same] == [getattr(ppo, name) for name in same]
        assert config.alg.model_name == ppo.alg.model_name

import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from common.config import ConfigError
from common.hub import DataError
from rl4lms.datapools import DATAPOOLS, load_datapool
from rl4lms.datapools.docstring_forms import FORMS, FormName

ROOT = Path(__file__).resolve().parents[2]


def shipped_arguments() -> dict[str, dict[str, Any]]:
    """Id and arguments of the datapool of each shipped config."""
    configs: dict[str, dict[str, Any]] = {}
    with (ROOT / "tests" / "golden" / "grue_hyperparameters.csv").open(newline="", encoding="utf-8") as file:
        for path, field, value in list(csv.reader(file))[1:]:
            if field == "datapool.id" or field.startswith("datapool.args."):
                configs.setdefault(path, {})[field] = json.loads(value)
    return configs


def test_every_datapool_takes_the_arguments_of_its_schema() -> None:
    assert len(DATAPOOLS.entries) == 11
    for name, entry in DATAPOOLS.entries.items():
        parameters = inspect.signature(DATAPOOLS.function(name)).parameters
        split, *arguments = parameters.values()
        assert split.name == "split", name
        assert {argument.name for argument in arguments} == set(entry.args.model_fields), name
        assert all(a.kind is a.KEYWORD_ONLY and a.default is a.empty for a in arguments), name
    assert set(FORMS) == set(get_args(FormName))


def test_the_shipped_configs_arguments_are_accepted() -> None:
    configs = shipped_arguments()
    assert len(configs) == 42
    for path, fields in configs.items():
        args = {name.rpartition(".")[2]: value for name, value in fields.items() if ".args." in name}
        assert DATAPOOLS.check(fields["datapool.id"], args) == [], path


def test_checking_arguments_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rl4lms.datapools import DATAPOOLS; "
        "print(DATAPOOLS.check('imdb', {'seed': 42}), "
        "[m for m in ('torch', 'transformers', 'datasets', 'nltk', 'pandas', 'numpy') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert output.stdout == "[] []\n"


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("imbd", {}, "did you mean 'imdb'?"),
        ("imdb", {"only_positive": True}, "unknown key; did you mean 'only_positive_samples'?"),
        ("imdb", {"seed": "42"}, "args.seed"),
        ("daily_dialog", {"context_size": 0}, "args.context_size"),
        ("totto", {"representation": "table"}, "args.representation"),
        ("imdb_seq2seq", {"positive_ratio": 0}, "args.positive_ratio"),
        ("cnn_daily_mail", {"data_path": "no/such"}, "no such file or folder: 'no/such'"),
        ("jsonl", {}, "args.data_path"),
        ("jsonl", {"data_path": "no/such.jsonl"}, "no such file or folder: 'no/such.jsonl'"),
        (
            "python_docs",
            {"packages": ["json", "no_such_package"]},
            "package 'no_such_package' is not installed",
        ),
        ("python_docs", {"form": "sumary"}, "did you mean 'summary'?"),
    ],
)
def test_wrong_arguments_are_a_config_error(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_datapool(name, "train", args)
    assert message in str(caught.value)


def test_splits_have_one_name_each() -> None:
    with pytest.raises(ValueError, match="unknown split 'validation'; known: train, val, test"):
        load_datapool("imdb", "validation")  # type: ignore[arg-type]


def test_users_own_datapool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_datapools_module.py").write_text(
        "from rl4lms.samples import Sample\n"
        "def load(split, size: int = 2):\n"
        "    return [Sample(i, f'{split} {i}', ['r']) for i in range(size)]\n"
        "def nothing(split):\n"
        "    return []\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    samples = load_datapool("own_datapools_module:load", "val", {"size": 3})
    assert [sample.prompt_or_input_text for sample in samples] == ["val 0", "val 1", "val 2"]
    with pytest.raises(ConfigError, match="unknown key; did you mean 'size'"):
        load_datapool("own_datapools_module:load", "val", {"sizes": 3})
    with pytest.raises(DataError, match="datapool 'own_datapools_module:nothing', split 'val': there are no"):
        load_datapool("own_datapools_module:nothing", "val")

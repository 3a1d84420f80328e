"""Extraction files that are none, or not whole: one line says what is wrong."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from rft_diagnose import DiagnosisError
from rft_diagnose.names import Columns
from rft_diagnose.tables import read_rewards

WHOLE = {
    "all_metric_values": {"rouge": torch.zeros(2, 3), "chrf": torch.ones(2, 3)},
    "ids": ["a", "b"],
    "prompts": ["p", "q"],
    "references": [["x"], ["y", "z"]],
}
ZIPPED = io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w") as archive:
    archive.writestr("data.pkl", b"nonsense")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([1, 2], "it holds list"),
        ({"ids": None}, "'ids' is not a list of a value for each of the 2 inputs"),
        ({"ids": ["a"]}, "'ids' is not a list of a value for each of the 2 inputs"),
        ({"ids": ["a", "a"]}, "its ids are not those of different inputs"),
        ({"prompts": "pq"}, "'prompts' is not a list of a value for each"),
        ({"references": [["x"]]}, "'references' is not a list of a value for each"),
        ({"all_metric_values": {}}, "'all_metric_values' holds no metric"),
        ({"all_metric_values": [1.0]}, "'all_metric_values' holds no metric"),
        ({"all_metric_values": {"rouge": torch.zeros(6)}}, "metric 'rouge' is no tensor of numbers [inputs,"),
        ({"all_metric_values": {"rouge": [[0.0]]}}, "metric 'rouge' is no tensor of numbers"),
        (
            {"all_metric_values": {"rouge": torch.zeros(2, 3, dtype=torch.complex64)}},
            "is no tensor of numbers",
        ),
        ({"all_metric_values": {"rouge": torch.full((2, 3), torch.inf)}}, "metric 'rouge' is infinite"),
        ({"all_metric_values": {"a": torch.zeros(2, 3), "b": torch.zeros(2, 4)}}, "are of different shapes"),
        ({"prompts": ["p", "\ud83d"]}, "a text has half of a character"),
        ({"ids": ..., "prompts": ...}, "it lacks ids, prompts"),
    ],
)
def test_malformed_extractions_are_one_line(tmp_path, changes, message):
    content = changes
    if isinstance(changes, dict):
        content = {name: value for name, value in (WHOLE | changes).items() if value is not ...}
    torch.save(content, tmp_path / "run.pt")
    with pytest.raises(DiagnosisError) as error:
        read_rewards([tmp_path / "run.pt"], Columns())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path / "run.pt") in str(error.value)


class Payload:
    def __reduce__(self):
        return (print, ("payload ran",))


@pytest.mark.parametrize(
    "content",
    [b"", b"x", pickle.dumps(WHOLE["ids"]), pickle.dumps(Payload()), ZIPPED.getvalue(), b"PK\x03\x04"],
    ids=range(6),
)
def test_files_of_others_are_one_line_and_run_nothing(tmp_path, content, capsys):
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(DiagnosisError) as error:
        read_rewards([tmp_path / "run.pt"], Columns())
    assert "cannot be read as an extraction file: " in str(error.value) and "\n" not in str(error.value)
    assert "weights_only" not in str(error.value) and "payload ran" not in capsys.readouterr().out


def test_arrays_and_objects_are_not_unpickled(tmp_path):
    torch.save(WHOLE | {"ids": np.array(["a", "b"], dtype=object)}, tmp_path / "run.pt")
    with pytest.raises(DiagnosisError, match="it holds more than numbers and texts, and could run code"):
        read_rewards([tmp_path / "run.pt"], Columns())


def test_numbers_may_be_references_and_ids(tmp_path):
    content = WHOLE | {"ids": [7, 2**70], "references": [[4, 2.5], "y"]}
    torch.save(content, tmp_path / "run.pt")
    table = read_rewards([tmp_path / "run.pt"], Columns())
    assert table.labels == ["7", str(2**70)] and table.references == [["4", "2.5"], ["y"]]

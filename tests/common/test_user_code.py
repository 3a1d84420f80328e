"""Where an error of the user's own code comes from."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from common.source import read_source
from common.user_code import describe_place, explain_failure

HELPER = "import json\n\ndef deep(text):\n    return json.loads(text)\n"
OWN = "from own_helper import deep\n\n\ndef shallow(value):\n    return 1 / value\n"


def error_of(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_helper.py").write_text(HELPER)
    (tmp_path / "own_code.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_helper", "own_code"):
        monkeypatch.delitem(importlib.sys.modules, name, raising=False)  # type: ignore[attr-defined]
    return importlib.import_module("own_code")


def test_the_innermost_line_of_the_user_s_code(own: Any, tmp_path: Path) -> None:
    assert describe_place(error_of(own.shallow, 0)) == f"{tmp_path / 'own_code.py'}:5"
    # Not that of the library that it calls, and that of the helper of its own.
    assert describe_place(error_of(own.deep, "{")) == f"{tmp_path / 'own_helper.py'}:4"
    assert explain_failure(error_of(own.shallow, 0)) == (
        f": division by zero, at {tmp_path / 'own_code.py'}:5"
    )


def test_an_installed_package_of_the_user_s_is_where_this_project_calls_it() -> None:
    place = describe_place(
        error_of(json.loads, "{").with_traceback(_without_this_file(error_of(json.loads, "{")))
    )
    assert place is not None and place.startswith(json.__file__ or "")


def _without_this_file(error: BaseException) -> Any:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def test_an_error_of_this_project_s_own_has_no_place_in_the_user_s_code(tmp_path: Path) -> None:
    error = error_of(read_source, tmp_path / "none.yml")
    error.__traceback__ = _without_this_file(error)
    assert describe_place(error) is None
    assert explain_failure(SystemExit()) == ""
    assert explain_failure(ValueError("no")) == ": no"

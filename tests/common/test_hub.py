import socket
import time
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from common.hub import (
    DataError,
    Published,
    damage_reported,
    load_from_hub,
    read_parquet,
    spare_retries_without_network,
)

REVISION = "0" * 40
DATASET = Published(name="mine", repo="some/repo", rows={}, revision=REVISION, config="part")


def unresolved(*args: Any) -> None:
    raise socket.gaierror("Name or service not known")


def test_a_dataset_is_asked_for_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: (args, kwargs))
    loaded = load_from_hub(DATASET, "do this", split="train")
    assert loaded == (("some/repo", "part"), {"revision": REVISION, "split": "train"})


def test_without_network_and_cache_the_error_comes_at_once_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_from_hub(DATASET, "put it there")
    assert time.monotonic() - start < 5  # 24 s with the client's retries
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    message = str(caught.value)
    assert message.startswith("dataset 'mine' could not be read from hub dataset 'some/repo' (")
    assert message.endswith("). Without network, put it there") and "\n" not in message


def test_behind_a_proxy_names_need_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_be_asked(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(socket, "getaddrinfo", must_not_be_asked)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "proxy"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    spare_retries_without_network()
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_parquet_files_are_read_in_the_order_given_and_damage_is_named(tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file, values in zip(files, ([1, 2], [3]), strict=True):
        pyarrow.parquet.write_table(pyarrow.table({"x": values}), file)
    assert list(read_parquet(files)["x"]) == [1, 2, 3]
    files[1].write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"^the copy in b\.parquet is damaged: .+"):
        with damage_reported("the copy in b.parquet"):
            read_parquet(files)

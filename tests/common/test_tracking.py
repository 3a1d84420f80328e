"""Where rows of metrics go."""

import importlib.util
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.run_dir import RunDir, read_metrics
from common.tracking import Tracker, TrackerError, WandbSettings, check_trackers, files_to_upload


def row(epoch: int, loss: float = 0.5) -> dict[str, Any]:
    values: dict[str, Any] = {
        "epoch": epoch,
        "train": {"train loss": loss, "grad norm small reward std": 0.25},
    }
    return values | ({"val": {"test loss": 2 * loss}} if epoch % 2 else {})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.create(tmp_path, "digits", {"lr": 0.1, "epochs": 4}, {}) as run:
        yield run


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


def scalars(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: per tag, its steps and values."""
    EventAccumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    board = EventAccumulator(str(run.path / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_rows_always_go_to_the_metrics_file_and_nowhere_else(run: RunDir) -> None:
    before = set(sys.modules)
    with Tracker(run) as tracker:
        tracker.watch(object())
        for epoch in range(3):
            tracker.log(row(epoch))
        assert read_metrics(run.path) == [row(0), row(1), row(2)]
    assert {p.name for p in run.path.iterdir()} == {".lock", "config.json", "manifest.json", "metrics.jsonl"}
    assert not {name for name in set(sys.modules) - before if name.startswith(("tensorboard", "wandb"))}


def test_tensorboard_gets_every_value_at_its_epoch(run: RunDir) -> None:
    with Tracker(run, tensorboard=True) as tracker:
        for epoch in range(3):
            tracker.log(row(epoch, 2.0**-epoch))
    assert scalars(run) == {
        "train/train loss": [(0, 1.0), (1, 0.5), (2, 0.25)],
        "train/grad norm small reward std": [(0, 0.25), (1, 0.25), (2, 0.25)],
        "val/test loss": [(1, 1.0)],
    }
    assert len(read_metrics(run.path)) == 3


def test_tensorboard_shows_no_epoch_twice_after_a_resume(run: RunDir) -> None:
    with Tracker(run, tensorboard=True) as tracker:
        for epoch in range(5):
            tracker.log(row(epoch, 1.0))
    run.truncate_metrics(2)
    with Tracker(run, tensorboard=True, purge_step=3) as tracker:
        for epoch in range(3, 6):
            tracker.log(row(epoch, 0.5))
    assert scalars(run)["train/train loss"] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5), (4, 0.5), (5, 0.5)]
    assert [r["epoch"] for r in read_metrics(run.path)] == list(range(6))


def test_values_can_be_sent_without_a_row(run: RunDir, wandb: "FakeWandb") -> None:
    with Tracker(run, tensorboard=True, wandb=WandbSettings("p")) as tracker:
        tracker.send({"rollout_info/ep_rew": 0.5}, 3)
    assert scalars(run) == {"rollout_info/ep_rew": [(3, 0.5)]}
    assert wandb.of("log") == [(({"rollout_info/ep_rew": 0.5},), {"step": 3})]
    assert read_metrics(run.path) == []


def test_a_purge_step_drops_nothing_of_a_fresh_run(run: RunDir) -> None:
    with Tracker(run, tensorboard=True, purge_step=1) as tracker:
        for step in range(3):
            tracker.send({"loss": 0.5}, step)
    assert scalars(run) == {"loss": [(0, 0.5), (1, 0.5), (2, 0.5)]}


def test_wandb_runs_offline_in_the_run_directory(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (run.path / "plots").mkdir()
    (run.path / "plots" / "loss.png").touch()
    settings = WandbSettings("a project", track_model="gradients", exclude_files=("plots/**",))
    model = torch.nn.Linear(2, 1)
    with Tracker(run, wandb=settings) as tracker:
        tracker.watch(model)
        for epoch in range(2):
            model(torch.ones(2)).sum().backward()
            tracker.log(row(epoch))
    shown = capsys.readouterr().err
    assert "wandb" in shown and "Symlinked" not in shown, "W&B's own lines, but none for each file"
    assert len(read_metrics(run.path)) == 2
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run.manifest["wandb_id"])
    records, files = folder / f"run-{run.manifest['wandb_id']}.wandb", folder / "files"

    def uploaded() -> set[str]:
        return {p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_symlink()}

    wanted = {"config.json", "manifest.json", "metrics.jsonl"}
    deadline = time.monotonic() + 60  # W&B's own process writes, on a busy machine after `finish` is back
    while time.monotonic() < deadline:
        if b"train/train loss" in records.read_bytes() and uploaded() == wanted:
            break
        time.sleep(0.1)
    assert b"train/train loss" in records.read_bytes()
    assert uploaded() == wanted


class FakeWandb:
    """The part of wandb that is used, recording the calls."""

    Error = type("Error", (Exception,), {})

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []
        self.error: Exception | None = None

    def init(self, **kwargs: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.calls.append(("init", (), kwargs))
        record = {name: self._recorder(name) for name in ("log", "watch", "save", "finish")}
        return SimpleNamespace(id=kwargs["id"] or "fresh-id", **record)

    def _recorder(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def of(self, name: str) -> list[tuple[Any, Any]]:
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_is_told_what_the_settings_say(run: RunDir, wandb: FakeWandb) -> None:
    model = object()
    with Tracker(run, wandb=WandbSettings("p", "team", "given-id", "all", ("*.jsonl",))) as tracker:
        tracker.watch(model)
        tracker.log(row(1))
    expected = dict(project="p", entity="team", id="given-id", resume="allow", name=run.path.name)
    assert wandb.of("init") == [((), {**expected, "config": run.config, "dir": str(run.path)})]
    assert wandb.of("watch") == [((model,), {"log": "all"})]
    values = {"train/train loss": 0.5, "train/grad norm small reward std": 0.25, "val/test loss": 1.0}
    assert wandb.of("log") == [((values,), {"step": 1})]
    assert [Path(args[0]).name for args, _ in wandb.of("save")] == ["config.json", "manifest.json"]
    assert wandb.of("finish") == [((), {"exit_code": 0})]


def test_wandb_watches_nothing_unless_told(run: RunDir, wandb: FakeWandb) -> None:
    with Tracker(run, wandb=WandbSettings("p")) as tracker:
        tracker.watch(object())
    assert wandb.of("watch") == []


def test_a_resumed_run_goes_on_in_its_wandb_run(run: RunDir, wandb: FakeWandb) -> None:
    Tracker(run, wandb=WandbSettings("p")).close()
    assert json.loads((run.path / "manifest.json").read_text())["wandb_id"] == "fresh-id"
    Tracker(run, wandb=WandbSettings("p")).close()
    Tracker(run, wandb=WandbSettings("p", resume_id="other")).close()
    inits = [kwargs for _, kwargs in wandb.of("init")]
    assert [(i["id"], i["resume"]) for i in inits] == [
        (None, None),
        ("fresh-id", "allow"),
        ("other", "allow"),
    ]
    assert all(i["entity"] is None for i in inits)


def test_a_failed_run_is_failed_for_wandb_too(run: RunDir, wandb: FakeWandb) -> None:
    with pytest.raises(KeyError), Tracker(run, wandb=WandbSettings("p")) as tracker:
        raise KeyError
    tracker.close()
    assert wandb.of("finish") == [((), {"exit_code": 1})]


def test_wandb_that_does_not_start_is_one_clear_error(run: RunDir, wandb: FakeWandb) -> None:
    wandb.error = wandb.Error("No API key configured.")
    with pytest.raises(TrackerError) as error:
        Tracker(run, wandb=WandbSettings("p"))
    assert str(error.value) == (
        "Weights & Biases did not start: No API key configured. Log in (wandb login), work offline "
        "(WANDB_MODE=offline), or set use_wandb to false"
    )
    with pytest.raises(TrackerError, match=r"\(WANDB_MODE=offline\), or leave out --log_to_wandb$"):
        Tracker(run, wandb=WandbSettings("p", opt_out="leave out --log_to_wandb"))


def test_files_to_upload(tmp_path: Path) -> None:
    names = [
        "config.json",
        "plots/a.png",
        "plots/deep/b.png",
        "checkpoints/epoch_000001.pt",
        "tensorboard/events",
    ]
    hidden = [
        ".lock",
        ".tmp-manifest.json-12",
        "checkpoints/.tmp-epoch_000002.pt-12",
        "wandb/run-1/logs/debug.log",
    ]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def uploaded(*exclude: str) -> set[str]:
        return {p.relative_to(tmp_path).as_posix() for p in files_to_upload(tmp_path, exclude)}

    assert uploaded() == set(names)
    assert uploaded("plots/**") == set(names) - {"plots/a.png", "plots/deep/b.png"}
    assert uploaded("*.pt", "tensorboard/*") == {"config.json", "plots/a.png", "plots/deep/b.png"}


def test_missing_packages_are_named_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_trackers(True, True) is None  # both are in requirements-dev.txt
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert check_trackers(False, False) is None
    message = "use_wandb needs a package that is not installed: pip install wandb"
    assert check_trackers(False, True) == message
    assert check_trackers(True, True) == (
        "use_tensorboard and use_wandb need packages that are not installed: pip install tensorboard wandb"
    )
    message = "--log_to_wandb needs a package that is not installed: pip install wandb"
    assert check_trackers(False, True, "--log_to_") == message


def test_the_folder_that_wandb_leaves_behind_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert importlib.util.find_spec("wandb") is not None
    assert check_trackers(False, True) == "use_wandb needs a package that is not installed: pip install wandb"


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home and a working directory without a login, and no terminal."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("common.tracking._installed", lambda package: True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    return tmp_path


def test_weights_and_biases_without_a_login_is_said_before_the_run(no_login: Path, monkeypatch: Any) -> None:
    message = (
        "--log_to_wandb: Weights & Biases has no login on this machine: log in (wandb login), work offline "
        "(WANDB_MODE=offline), or do without --log_to_wandb"
    )
    assert check_trackers(False, True, "--log_to_") == message
    assert check_trackers(True, False, "--log_to_") is None
    (no_login / ".netrc").write_text("machine example.org login user password secret\n")
    assert check_trackers(False, True, "--log_to_") == message
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert check_trackers(False, True) is None, "wandb asks the user"


@pytest.mark.parametrize(
    "login",
    [
        {"WANDB_API_KEY": "k" * 40},
        {"WANDB_MODE": "offline"},
        {"WANDB_MODE": "disabled"},
        {"file": ".netrc", "text": "machine api.wandb.ai login user password secret\n"},
        {
            "file": "_netrc",
            "text": "machine here.example login user password s\n",
            "WANDB_BASE_URL": "https://here.example",
        },
        {"file": "settings", "text": "[default]\nmode = offline\n"},
        {"file": ".netrc", "text": "what is this"},
    ],
    ids=str,
)
def test_where_there_may_be_a_login_the_run_may_start(
    no_login: Path, monkeypatch: pytest.MonkeyPatch, login: dict[str, str]
) -> None:
    for name, value in login.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
    if "file" in login:
        (no_login / login["file"]).write_text(login["text"])
    assert check_trackers(False, True, "--log_to_") is None

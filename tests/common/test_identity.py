"""Runs found by what decides their numbers; folders that no run will ever claim."""

import multiprocessing
import os
import shutil
import time

import pytest
from processes import snapshot
from toy_jobs import counting

from common import identity, run_dir
from common.identity import (
    RunIndex,
    content_digest,
    earlier_runs,
    hash_of,
    open_or_create,
    remove_incomplete_runs,
)
from common.plan import PlanSettings
from common.run_dir import RunBusyError, RunDir, read_run
from common.schedule import run_jobs


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def make_run(folder, name, of, status):
    with RunDir.create(folder, name, {}, {"identity": of, "status": status}) as run:
        return run.path


def test_the_newest_run_is_taken_and_a_finished_one_before_any(tmp_path):
    make_run(tmp_path, "a", "x", "running")
    finished = make_run(tmp_path, "b", "x", "finished")
    newest = make_run(tmp_path, "c", "x", "finished")
    make_run(tmp_path, "d", "x", "interrupted")
    other = make_run(tmp_path, "e", "y", "failed")
    last = make_run(tmp_path, "f", "y", "interrupted")
    with RunDir.create(tmp_path, "g", {}, {}):  # a run of no plan
        assert {key: run.path for key, run in earlier_runs(tmp_path).items()} == {"x": newest, "y": last}
    assert finished != newest and other != last
    assert earlier_runs(tmp_path / "nowhere") == {}


def test_an_index_reads_each_manifest_once_and_knows_what_comes_and_goes(tmp_path, monkeypatch):
    reads = []

    def counted(path):
        reads.append(path.name)
        return read_run(path)

    monkeypatch.setattr(identity, "read_run", counted)
    first = make_run(tmp_path, "a", "x", "running")
    make_run(tmp_path, "b", "y", "finished")
    (tmp_path / "no_run").mkdir()
    index = RunIndex(tmp_path)
    assert index.find("x").path == first and index.find("z") is None
    reads.clear()
    for _ in range(10):
        assert index.find("x").path == first
    assert reads.count(first.name) == 10 and len(reads) == 20, (
        "the run asked for, and the folder that is none"
    )

    finished = make_run(tmp_path, "c", "x", "finished")
    make_run(tmp_path, "d", "x", "failed")
    assert index.find("x").path == finished, "a finished one before a newer one"
    shutil.rmtree(finished)
    assert index.find("x").path.name.startswith("d_")
    with RunDir.open(first) as run:
        run.update_manifest(status="finished")
    assert index.find("x").path == first, "statuses are those of now"


def test_a_plan_reads_its_folder_once(tmp_path, monkeypatch):
    """And not once for each of its jobs."""
    reads = []

    def counting_reads(path, name):
        reads.append(path)
        return read_object(path, name)

    read_object = run_dir._read_object
    for i in range(30):
        make_run(tmp_path, f"old_{i}", f"identity {i}", "finished")
    monkeypatch.setattr(run_dir, "_read_object", counting_reads)
    jobs = [counting(tmp_path, f"job_{i}", 1, seed=i) for i in range(20)]
    assert all(outcome.is_done for outcome in run_jobs(PlanSettings(), jobs, console=False))
    old = [path for path in reads if path.name.startswith("old_")]
    assert len(old) <= 30 * 2 * 2, "manifest and config, by the plan and by its index"


def create(folder, name, of):
    return lambda: RunDir.create(folder, name, {}, {"identity": of})


def test_a_run_is_opened_by_its_identity_or_created_and_a_held_one_is_waited_for(tmp_path, monkeypatch):
    path = make_run(tmp_path, "a", "x", "running")
    opened, is_earlier = open_or_create(tmp_path, "x", create(tmp_path, "b", "x"))
    assert is_earlier and opened.path == path
    other, is_earlier = open_or_create(tmp_path / "new", "z", create(tmp_path / "new", "b", "z"))
    assert not is_earlier and other.path.parent == tmp_path / "new"
    fresh, is_earlier = open_or_create(tmp_path, "x", create(tmp_path, "c", "x"), fresh=True)
    assert not is_earlier and fresh.path != path
    fresh.close()
    monkeypatch.setattr(identity, "LOCK_PATIENCE", 0.05)
    with pytest.raises(RunBusyError):
        open_or_create(tmp_path / "new", "z", create(tmp_path / "new", "b", "z"))
    for run in (opened, other):
        run.close()


def test_of_processes_that_come_at_once_one_creates_the_run(tmp_path, monkeypatch):
    """The others find it, and that it is taken."""
    monkeypatch.setattr(identity, "LOCK_PATIENCE", 0.0)
    meet = multiprocessing.get_context("fork").Barrier(4)

    def come() -> None:
        meet.wait(10)
        try:
            run, _ = open_or_create(tmp_path, "x", create(tmp_path, "a", "x"))
        except RunBusyError:
            os._exit(3)
        time.sleep(1)
        run.close()
        os._exit(0)

    processes = [multiprocessing.get_context("fork").Process(target=come) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert sorted(process.exitcode for process in processes) == [0, 3, 3, 3]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_order_of_mappings_makes_no_other_hash():
    assert hash_of({"a": 1, "b": [2.5]}) == hash_of({"b": [2.5], "a": 1}) != hash_of({"a": 1, "b": [2]})


def test_a_digest_is_of_content_and_names(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "folder" / "sub" / "a.txt"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    of_file, of_folder = content_digest(file), content_digest(folder)
    file.write_text("two")
    assert content_digest(file) != of_file and content_digest(folder) != of_folder
    file.write_text("one")
    assert (content_digest(file), content_digest(folder)) == (of_file, of_folder)
    moved = folder.rename(tmp_path / "moved")
    assert content_digest(moved) == of_folder
    (moved / "sub" / "a.txt").rename(moved / "sub" / "b.txt")
    assert content_digest(moved) != of_folder


def test_folders_of_runs_killed_at_birth_are_removed_unless_their_maker_lives(tmp_path):
    base = tmp_path / "runs"
    alive = RunDir.create(base, "alive", {}, {})
    (alive.path / "manifest.json").unlink()  # as if it had not been written yet
    RunDir.create(base, "whole", {}, {}).close()
    for name, files in {
        "dead": {".lock": "1\n"},
        "dead_2": {".lock": "1\n", "config.json": "{}", ".tmp-manifest.json-1": "{"},
        "dead_3": {".lock": "1\n", "name_config.json": "{}"},
        "empty": {},
        "unlocked": {".lock": ""},  # its maker may be about to lock it
        "users": {".lock": "1\n", "notes.txt": "mine"},
    }.items():
        (base / name).mkdir()
        for file, text in files.items():
            (base / name / file).write_text(text)
    before = snapshot(base / "users")
    remove_incomplete_runs(base)
    remove_incomplete_runs(tmp_path / "nowhere")
    left = {path.name.partition("_20")[0] for path in base.iterdir()}
    assert left == {"alive", "whole", "empty", "unlocked", "users"}
    assert snapshot(base / "users") == before

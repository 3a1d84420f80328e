"""Mutated logs of libraries: each is diagnosed, or refused in one line; none ends in a traceback."""

import json
import random
import shutil
import warnings
from collections import Counter

import pytest
from hostile_values import NAMES, VALUES
from library_logs import LIBRARIES, inspect_archive, trl

from rft_diagnose import cli

LOGS = 400


def mutate(value, rng):
    """Change a value somewhere inside, leave one out, or put one in."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name, kind = rng.choice(list(value)), rng.random()
        if kind < 0.15:
            return {key: inside for key, inside in value.items() if key != name}
        if kind < 0.25:
            return value | {
                rng.choice([*NAMES, "rewards", "scores", "r0", "traces", "uid"]): rng.choice(VALUES)
            }
        return value | {name: mutate(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place, kind = rng.randrange(len(value)), rng.random()
        if kind < 0.2:
            return value[:place] + value[place + 1 :]
        if kind < 0.3:
            return [*value[:place], rng.choice(VALUES), *value[place:]]
        return [*value[:place], mutate(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def spoil(path, rng):
    """Mutate some records of a file of JSON or JSON lines; now and then it is cut, too."""
    if path.suffix == ".json":
        text = json.dumps(mutate(json.loads(path.read_text()), rng))
    else:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.choice([0, rng.randrange(len(records))])
            records[place] = mutate(records[place], rng)
        text = "".join(json.dumps(record) + "\n" for record in records)
    end = rng.randrange(len(text)) if rng.random() < 0.2 and text else len(text)
    path.write_bytes(text[:end].encode("utf-8", "surrogatepass"))


@pytest.mark.slow
def test_hostile_logs(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)
    rng, statuses = random.Random(0), Counter()
    logs = [log for log in LIBRARIES if log not in (trl, inspect_archive)]
    for number in range(LOGS):
        folder = tmp_path / str(number)
        folder.mkdir()
        rng.choice(logs)(folder)
        path = rng.choice([p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".jsonl")])
        spoil(path, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            given = [str(rng.choice([folder, path])), "--output_path", str(tmp_path / "out")]
            status = cli.main(given)
        errors = [line for line in capsys.readouterr().err.splitlines() if line not in caplog.messages]
        assert len(errors) == (status == 2), errors
        caplog.clear()
        statuses[status] += 1
        shutil.rmtree(folder)
    assert set(statuses) == {0, 2} and min(statuses.values()) > LOGS // 5

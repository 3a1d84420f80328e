"""1,000 mutated tables: each is diagnosed, or refused in one line; none ends in a traceback."""

import gzip
import json
import random
import warnings
from collections import Counter

import pytest
from diagnosis_logs import make_log
from hostile_values import NAMES, VALUES

from rft_diagnose import cli

TABLES = 1_000


def mutate(rows, rng):
    """Change values, columns or the number of rows."""
    if not rows:
        return rows
    kind = rng.choice(["values", "column", "rename", "drop", "cut"])
    name, value = rng.choice(NAMES), rng.choice(VALUES)
    old = rng.choice(list(rows[0]) or NAMES)
    if kind == "values":
        return [row | {old: rng.choice(VALUES)} if rng.random() < 0.05 else row for row in rows]
    if kind == "column":
        return [row | {name: value if rng.random() < 0.9 else rng.choice(VALUES)} for row in rows]
    if kind == "rename":
        return [{name if key == old else key: content for key, content in row.items()} for row in rows]
    if kind == "drop":
        return [{key: content for key, content in row.items() if key != old} for row in rows]
    return rows[: rng.choice([0, 1, 2, 10, 97])]


def as_bytes(rows, suffix, rng):
    """Write the rows; now and then some bytes are changed, lost or put in."""
    if suffix in (".csv", ".tsv"):
        separator = "\t" if suffix == ".tsv" else rng.choice(",;\t")
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[as_cell(row.get(name)) for name in names] for row in rows]
        text = "\n".join(map(separator.join, [names, *cells])) + "\n"
    elif suffix == ".json":
        text = json.dumps(rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice([0, 0, 0, 1, 5]) if content else 0):
        place, size = rng.randrange(len(content)), rng.choice([0, 1, 10, 1_000])
        content[place : place + size] = rng.choice([b"", b'"', b"\n", b"[", b"{", b",", b"\0", b"\xff"])
        content = content or bytearray(b" ")
    return gzip.compress(bytes(content)) if suffix.endswith(".gz") else bytes(content)


def as_cell(value):
    return f'"{value}"' if not isinstance(value, int) or value < 10**300 else '"1e999"'


@pytest.mark.slow
def test_hostile_tables(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)
    rng, statuses = random.Random(0), Counter()
    for _ in range(TABLES):
        rows = make_log(1) + make_log(2) * rng.choice([0, 1])
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            rows = mutate(rows, rng)
        path = tmp_path / f"t{rng.choice(['.jsonl', '.csv', '.tsv', '.json', '.jsonl.gz'])}"
        path.write_bytes(as_bytes(rows, path.suffix if path.suffix != ".gz" else ".jsonl.gz", rng))
        arguments = [str(path), "--output_path", str(tmp_path / "out")]
        for flag in ("--reward", "--prompt", "--step", "--references"):
            if rng.random() < 0.1:
                arguments += [flag, rng.choice(NAMES)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            status = cli.main(arguments)
        errors = [line for line in capsys.readouterr().err.splitlines() if line not in caplog.messages]
        assert len(errors) == (status == 2), errors
        caplog.clear()
        statuses[status] += 1
        if status == 0:
            text = (tmp_path / "out" / "summary.json").read_text()
            json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in summary.json"))
    assert set(statuses) == {0, 2} and min(statuses.values()) > TABLES // 5

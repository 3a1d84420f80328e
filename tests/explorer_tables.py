"""A table of 40 inputs x 40 generations with texts for tests: 10 never right, 30 half the time."""

from pathlib import Path

from diagnosis_logs import write

from rft_diagnose import cli

HOSTILE = (
    "</script><script>document.title = 'gone'</script><img src=x onerror=\"document.title='gone'\"> \u2028 &"
)
ROWS = [
    {"prompt_id": f"p{i:02}", "prompt": f"question {i}" + " and so on" * i, "completion": text, "reward": r}
    for i in range(40)
    for text, r in (
        [(f"wrong {i}", 0.0)] * 20 + [(f"wrong, at length {i} {g}", 0.0) for g in range(20)]
        if i < 10
        else [(f"says {i} {g}", float(g % 2)) for g in range(40)]
    )
]
ROWS[0]["completion"], ROWS[1]["completion"] = HOSTILE, "long " * 1000
for row in ROWS[40:80]:
    row["prompt"] = HOSTILE


def check(folder, rows, *flags, name="t.jsonl"):
    """The folder of a diagnosis' results."""
    path = rows if isinstance(rows, Path) else write(folder / name, rows)
    assert cli.main([str(path), *map(str, flags), "--output_path", str(folder / "out")]) == 0
    return folder / "out"

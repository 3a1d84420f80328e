"""A log of 12 inputs x 8 generations for tests: 4 never right, 4 always, 4 half the time."""

import json

import pandas as pd

from rft_diagnose.names import Columns
from rft_diagnose.tables import diagnose_table, read_rewards

PROMPTS = [f"q{i}" for i in range(12) for _ in range(8)]
REWARDS = [0.0] * 32 + [1.0] * 32 + [0.0, 1.0] * 16
PLANTED = (4, 4, 4)


def make_log(step=1, prompts=PROMPTS, rewards=REWARDS, **columns):
    """Rows of a step, every completion another one."""
    rows = [
        {"step": step, "prompt": prompt, "completion": f"text {step} {i}", "accuracy_reward": reward}
        for i, (prompt, reward) in enumerate(zip(prompts, rewards, strict=True))
    ]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


def verdict(*paths, weights=None, **asked):
    """Inputs without spread at a low and at a high reward, and those with spread; and what was noted."""
    table = read_rewards(paths, Columns(**asked))
    summary = next(iter(diagnose_table(table, weights).values())).summary
    low, high = summary["no_spread_low"]["count"], summary["no_spread_high"]["count"]
    return (low, high, summary["inputs"] - low - high), table.notes


def generations(*paths, **asked):
    """How many generations are counted."""
    return len(read_rewards(paths, Columns(**asked)).codes)


def write(path, rows):
    """Write rows as the path's format has them; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

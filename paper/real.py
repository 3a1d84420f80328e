"""The scale "real": real data and a pretrained language model that need no hub, what is drawn and claimed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.outlook import Series
from paper import text_study
from paper.controlled import FIGURE3_ITEMS, LAPTOP_ALONE
from paper.real_data.fetch import is_fetched
from paper.real_data.packages import FOLDER
from paper.study_plans import comparison
from paper.study_run import any_rates, run_phase

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.report import Item

INTRO = (
    "Real data and a real model from packages of the registries (docs/real_data.md): the paper's MLP plans "
    "on MNIST and Fashion-MNIST, and SmolLM2-135M-Instruct on two tasks of WordNet, one seed."
)
ITEMS = (*text_study.REAL_ITEMS, *(item for item in FIGURE3_ITEMS if item not in LAPTOP_ALONE))
STUDY_NEEDS = ("wordnet", "smollm2")
_SHARES = {"no_spread_low": "no spread, low", "live": "live", "no_spread_high": "no spread, near best"}


class NotFetchedError(UserError):
    """Real data that is not there; the message says which command fetches it."""


def check_fetched(
    environments: Sequence[str], controlled_items: Sequence[str], study_items: Sequence[str]
) -> None:
    """Raises NotFetchedError unless all the data that these items need is there."""
    needed = [*(environments if controlled_items else ()), *(STUDY_NEEDS if study_items else ())]
    if missing := [name for name in needed if not is_fetched(name, FOLDER)]:
        raise NotFetchedError(
            f"{FOLDER} lacks {', '.join(missing)}; fetched by: python fetch_real_data.py {' '.join(missing)}"
        )


def preflight(folder: Path, jobs: int) -> Item:
    """Diagnose the pretrained model's prompts of each task, before anything is trained.

    Writes what `rft-diagnose` does into `folder`/preflight_TASK. Raises as `run_study` does.
    """
    import pandas as pd

    from figures.report import Item
    from figures.study import describe_runs, extraction_file
    from rft_diagnose import cli

    study = text_study.study_for("real", text_study.REAL_ITEMS)
    part = comparison(study, any_rates(study))
    part = part.select(lambda run: run.method == "pretrained" and run.sample == 1)
    done = run_phase(study, "preflight", part, seeds=1, jobs=jobs, console=True, series=Series())
    rows = []
    for item in done:
        output = folder / f"preflight_{item.run.task}"
        cli.main([str(extraction_file(item.path)), "--output_path", str(output)])
        (reward,) = json.loads((output / "summary.json").read_bytes())["rewards"].values()
        label = study.tasks[item.run.task].label.replace("\n", ", ")
        row = {"task": label, "inputs": str(reward["inputs"]), "mean reward": f"{reward['mean']:.3f}"}
        for name, shown in _SHARES.items():
            share = reward["classes"][name] if name in reward["classes"] else reward[name]
            row[shown] = f"{share['share']:.0%} [{share['low']:.0%}, {share['high']:.0%}]"
        rows.append(row)
    sources = text_study.figures_study(study, done).extractions
    return Item(
        "preflight",
        "Pre-flight: the pretrained model's prompts before any training",
        "Shares of the train inputs, with 95% intervals, by the diagnosis of rft-diagnose: no spread among "
        "the generations at a low reward (such inputs carry no gradient, or hardly any), live, and no spread "
        "near the best reward; the rest has too few generations to tell.",
        table=pd.DataFrame(rows),
        runs=describe_runs(sources),
    )


def write_page(folder: Path, intro: str, items: Sequence[Item], results: Results) -> Path:
    """Write the page with the items and the claims of this scale; returns its path."""
    from figures.real_criteria import evaluate_real
    from figures.report import write_report

    path = folder / "report.html"
    write_report(path, "The paper in miniature: real data", intro, items, evaluate_real(results))
    return path

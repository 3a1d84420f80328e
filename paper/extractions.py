"""Figures 1 and 5 from given extraction files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from paper.controlled import show

EXTRACTION_ITEMS, EXTRACTION_SUFFIX = ("figure1", "figure5"), ".pt"
PANELS = ("pretrained", "RFT", "SFT")
EXTRACT_RUNNER = "python rl4lms_extract_samples_from_model_runner.py"


def draw_extractions(args: argparse.Namespace, items: Sequence[str]) -> int:
    """Figures 1 and 5 from extraction files, pretrained / RFT / SFT in this order."""
    if set(items) - set(EXTRACTION_ITEMS) or len(args.runs) > len(PANELS):
        print(
            f"{' and '.join(EXTRACTION_ITEMS)} alone are drawn from extraction files, others from folders of "
            f"runs: --only {' '.join(EXTRACTION_ITEMS)} --runs PRETRAINED.pt [RFT.pt [SFT.pt]]; such a file "
            f"comes from: {EXTRACT_RUNNER} --config_path CONFIG",
            file=sys.stderr,
        )
        return 2
    from figures.grue import example_inputs, figure1, figure5
    from figures.runs import NoRunsError, extraction_table, load_extraction
    from figures.style import save_figure

    panels = dict(zip(PANELS, args.runs, strict=False))
    try:
        table = extraction_table(panels)
        first = load_extraction(args.runs[0])
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    reward, values = next(iter(first["all_metric_values"].items()))
    if "figure1" in items:
        title = f"{first['config']['datapool']['id']}: {len(values):,} train inputs"
        runs = [{"panel": panel, "path": str(path)} for panel, path in panels.items()]
        show(save_figure(figure1(table, reward, title), args.output_dir / "runs" / "figure1", table, runs))
    if "figure5" in items:
        for title, i in zip(
            ("small std", "large std"), example_inputs(table[table["panel"] == PANELS[0]]), strict=True
        ):
            texts, rewards = first["all_generated_texts"][i], values[i].tolist()
            print(figure5(first["prompts"][i], first["references"][i], texts, rewards, f"{title}, input {i}"))
    return 0

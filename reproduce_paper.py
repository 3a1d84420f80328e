"""Job 4: the figures of the paper, from saved runs, or from nothing at laptop scale."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import ConfigError, add_config_arguments, describe_fields
from common.console import setup_logging
from common.interrupts import INTERRUPTED_EXIT_CODE
from common.run_dir import RunError
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.plan import Plan, load_plan, steps_of
from sft_vs_rft.schedule import run_plan

logger = logging.getLogger(__name__)

FIGURE3_ITEMS = {
    "figure3": "finetune",
    "figure3_sgd": "finetune_sgd",
    "figure3_high_init_reward": "finetune_high_init_reward",
}
EXTRACTION_ITEMS = ["figure1", "figure5"]
ITEMS = [*EXTRACTION_ITEMS, *FIGURE3_ITEMS, "theory"]
DEFAULT_ITEMS = [*FIGURE3_ITEMS, "theory"]
PANELS = ("pretrained", "RFT", "SFT")
PLANS = Path("sft_vs_rft/experiment_plans")
ENVIRONMENTS = {
    "laptop": {
        "mlp": "laptop/sft_vs_rft_mlp_digits",
        "resnet": "laptop/sft_vs_rft_resnet_digits",
        "bert": "laptop/sft_vs_rft_bert_docstrings",
    },
    "paper": {
        "mlp": "sft_vs_rft_mlp_mnist",
        "resnet": "sft_vs_rft_resnet_cifar",
        "bert": "sft_vs_rft_bert_stsb",
    },
}
TITLES = {
    "figure3": "RFT and SFT in controlled environments, with exact expected gradients",
    "figure3_sgd": "RFT and SFT with stochastic gradient descent",
    "figure3_high_init_reward": "RFT and SFT from a high initial reward (0.5 for wrong labels, small std)",
}
THEORY_MODELS, THEORY_SEED = 2_800, 0
PLAN_RUNNER = "python sft_vs_rft_controlled_experiments_plan_runner.py"
EXTRACT_RUNNER = "python rl4lms_extract_samples_from_model_runner.py"


@dataclass(frozen=True)
class Stage:
    """A plan to run for an item, after those before it in its list."""

    item: str
    plan: Path
    overrides: list[str]


def build_parser() -> argparse.ArgumentParser:
    """Flags of the front door."""
    parser = argparse.ArgumentParser(
        description="Draws the figures of the paper, running the experiments they need: finished ones are "
        "used as they are, cut ones resumed. Exit status: 0 drawn, 1 an experiment failed, 2 a mistake in "
        "the arguments, 130 interrupted."
    )
    parser.add_argument("--only", nargs="+", choices=ITEMS, metavar="ITEM", help=f"of {', '.join(ITEMS)}")
    parser.add_argument(
        "--scale",
        choices=list(ENVIRONMENTS),
        default="laptop",
        help="laptop (default): data that needs no download; paper: the plans of the paper",
    )
    parser.add_argument(
        "--environments",
        nargs="+",
        default=["mlp"],
        choices=["mlp", "resnet", "bert", "all"],
        help="columns of figure 3: mlp (default; minutes), resnet, bert, or all",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="draw from these runs (or folders of runs), train nothing",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/figures"), help="of figures (%(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="at a time (%(default)s)"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the stages and stop")
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check everything, run what is missing, draw; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"argument --jobs: must be at least 1, got {args.jobs}")
    if args.list_fields:
        print(describe_fields(Plan), describe_fields(ExperimentConfig), sep="\n\n")
        return 0
    try:
        extraction_items = [item for item in EXTRACTION_ITEMS if item in (args.only or ())]
        if extraction_items:
            return draw_extractions(args, extraction_items)
        if args.runs:
            return draw_runs(args)
        stages = plan_stages(args)
        print_stages(stages)
        if args.check or args.dry_run:
            return 0
        with setup_logging(console=True):
            return run_and_draw(args, stages)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except (ConfigError, RunError) as error:
        print(error, file=sys.stderr)
        return 2


def plan_stages(args: argparse.Namespace) -> list[Stage]:
    """The plans of the asked items in the order in which they must run: pretraining before finetuning."""
    names = ENVIRONMENTS[args.scale]
    chosen = list(names) if "all" in args.environments else list(dict.fromkeys(args.environments))
    parallel = [f"multiprocess={str(args.jobs > 1).lower()}", f"num_parallel={args.jobs}"]
    stages = []
    for item in [item for item in FIGURE3_ITEMS if not args.only or item in args.only]:
        for environment in chosen:
            plan = f"{names[environment]}_{{}}_experiments_plan.json"
            stages.append(Stage(item, PLANS / plan.format("pretrain"), args.overrides))
            finetune = [*parallel, "load_model_from_checkpoint=auto", *args.overrides]
            stages.append(Stage(item, PLANS / plan.format(FIGURE3_ITEMS[item]), finetune))
    return stages


def print_stages(stages: Sequence[Stage]) -> None:
    """Every stage with its size; a mistake in any of them is found here, before the first one runs."""
    for stage in stages:
        # Its start weights may not exist yet: whether they do is checked when its turn comes.
        loaded = load_plan(stage.plan, [*stage.overrides, "load_model_from_checkpoint=''"])
        for experiment in loaded.experiments:
            sizes = f"{experiment.config.opt_method:<19} {steps_of(experiment.config)}"
            print(f"{stage.item:<25} {sizes}  ({stage.plan.name})")


def run_and_draw(args: argparse.Namespace, stages: Sequence[Stage]) -> int:
    """Run the stages, skipping what is finished, and draw each asked item as soon as its runs are there."""
    for item in args.only or DEFAULT_ITEMS:
        if item == "theory":
            draw_theory(args)
            continue
        runs: list[Path] = []
        for stage in [stage for stage in stages if stage.item == item]:
            loaded = load_plan(stage.plan, stage.overrides)
            for notice in loaded.notices:
                logger.info("%s", notice)
            outcomes = run_plan(loaded.plan, loaded.experiments)
            unfinished = [outcome for outcome in outcomes if outcome.status in ("failed", "interrupted")]
            for outcome in unfinished:
                logger.error("%s: %s %s", outcome.experiment.label, outcome.status, outcome.error or "")
            if unfinished:
                logger.error("to go on: %s", shlex.join(["python", *sys.argv]))
                interrupted = all(outcome.status == "interrupted" for outcome in unfinished)
                return INTERRUPTED_EXIT_CODE if interrupted else 1
            runs += [outcome.run for outcome in outcomes if outcome.run is not None]
        draw_figure3(args, item, runs)
    return 0


def draw_runs(args: argparse.Namespace) -> int:
    """Draw figure-3 items from given runs: those asked for, or all that the runs are of."""
    from figures.runs import NoRunsError, runs_in

    try:
        runs_in(args.runs)
    except NoRunsError as error:
        print(error, file=sys.stderr)
        return 2
    missing = []
    for item in FIGURE3_ITEMS:
        if args.only and item not in args.only:
            continue
        try:
            draw_figure3(args, item, args.runs)
        except NoRunsError as error:
            missing.append((item, str(error)))
    if missing and (args.only or len(missing) == len(FIGURE3_ITEMS)):
        for item, reason in missing:
            plan = PLANS / f"{ENVIRONMENTS[args.scale]['mlp']}_{FIGURE3_ITEMS[item]}_experiments_plan.json"
            print(
                f"{item}: {reason}; such runs come from: {PLAN_RUNNER} --plan_config_path {plan}",
                file=sys.stderr,
            )
        return 2
    return 0


def draw_extractions(args: argparse.Namespace, items: Sequence[str]) -> int:
    """Figures 1 and 5 from extraction files, pretrained / RFT / SFT in this order."""
    if set(args.only) - set(items) or not args.runs or len(args.runs) > len(PANELS):
        print(
            f"{' and '.join(items)} are drawn from extraction files, alone: --only {' '.join(items)} --runs "
            f"PRETRAINED.pt [RFT.pt [SFT.pt]]; such a file comes from: {EXTRACT_RUNNER} --config_path CONFIG",
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


def draw_figure3(args: argparse.Namespace, item: str, folders: Sequence[Path]) -> None:
    """Write the figure of `item` from the runs in `folders` and say where it is. Raises NoRunsError."""
    from figures.controlled import figure3
    from figures.runs import controlled_table, figure3_item, finetuning_runs, runs_in
    from figures.style import save_figure

    runs = [run for run in finetuning_runs(runs_in(folders)) if figure3_item(run.config) == item]
    table = controlled_table(runs)
    used = [
        {"path": str(run.path), "status": run.manifest.get("status"), "config": run.config} for run in runs
    ]
    stem = args.output_dir / ("runs" if args.runs else args.scale) / item
    show(
        save_figure(
            figure3(table, TITLES[item]), stem, table, used, command=shlex.join(["python", *sys.argv])
        )
    )


def draw_theory(args: argparse.Namespace) -> None:
    """Enumerate small models, integrate the gradient flows, and draw both against theory (seconds)."""
    import numpy as np
    import pandas as pd

    from figures.style import save_figure
    from figures.theory import fitted_slopes, plotted_numbers, theory_figure
    from sft_vs_rft.theory import campaign, rates

    bounds = pd.DataFrame(campaign(THEORY_SEED, THEORY_MODELS))
    times = pd.DataFrame(rates(np.geomspace(0.002, 0.2, 13).tolist()))
    largest = {
        bound: float((bounds[norm] / bounds[bound]).max())
        for bound, norm in (
            ("power_bound", "grad_norm"),
            ("kl_bound", "kl_grad_norm"),
            ("linear_bound", "grad_norm"),
            ("fisher_bound", "grad_norm"),
        )
    }
    slopes = fitted_slopes(times)
    for name, ratio in largest.items():
        logger.info("largest gradient / %s over %d models: %.4f", name, THEORY_MODELS, ratio)
    logger.info("time to reward 0: RFT ~ std^%.3f, SFT ~ %.3f ln(1/std)", slopes["RFT"], slopes["SFT"])
    meta = {"seed": THEORY_SEED, "num_models": THEORY_MODELS, "largest_ratios": largest, "slopes": slopes}
    figure, numbers = theory_figure(bounds, times), plotted_numbers(bounds, times)
    show(save_figure(figure, args.output_dir / "theory", numbers, [], **meta))


def show(paths: Sequence[Path]) -> None:
    """Say where a figure is."""
    print(f"figure: {paths[0]} (also {', '.join(path.suffix for path in paths[1:])})")


if __name__ == "__main__":
    sys.exit(main())

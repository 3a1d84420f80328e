"""Figure 3, its twins, and the theory figure: plans of controlled experiments, run and drawn."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.arguments import this_command
from common.config import ConfigError
from common.identity import finished_runs
from common.jobs import JobKey
from common.outlook import Series
from common.plan_jobs import exit_code
from common.run_dir import RunInfo, read_run
from common.schedule import run_jobs
from paper.gpu_hours import Stage
from paper.real_data.packages import FOLDER as REAL_DATA
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.plan import Experiment, describe_steps, load_plan, train_size
from sft_vs_rft.schedule import INTERRUPT_MESSAGE, make_jobs

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.report import Item

logger = logging.getLogger(__name__)

FIGURE3_ITEMS = {
    "figure3": "finetune",
    "figure3_sgd": "finetune_sgd",
    "figure3_high_init_reward": "finetune_high_init_reward",
    "figure3_group": "finetune_group",
}
LAPTOP_ALONE = ("figure3_group",)  # not of the paper, and without plans of its scale, which "real" runs too
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
    "real": {"mnist": "sft_vs_rft_mlp_mnist", "fashion_mnist": "sft_vs_rft_mlp_mnist"},
}
# What makes a plan one of an environment, where the file is of another.
OF_ENVIRONMENT = {
    "mnist": (f"data_dir={REAL_DATA / 'mnist'}",),
    "fashion_mnist": ("dataset=fmnist", f"data_dir={REAL_DATA / 'fashion_mnist'}"),
}
DEFAULT_ENVIRONMENTS = {"laptop": ("mlp",), "smoke": ("mlp",), "paper": ("mlp",), "real": ("all",)}
TITLES = {
    "figure3": "RFT and SFT in controlled environments, with exact expected gradients",
    "figure3_sgd": "RFT and SFT with stochastic gradient descent",
    "figure3_high_init_reward": "RFT and SFT from a high initial reward (0.5 for wrong labels, small std)",
    "figure3_group": "RFT, GRPO and SFT with exact expected gradients",
}
FIGURE_NAMES = {
    "figure3": "Figure 3",
    "figure3_sgd": "Figure 3 with SGD",
    "figure3_high_init_reward": "Figure 3 from a high initial reward",
    "figure3_group": "Figure 3 with groups",
}
CAPTION = (
    "Train reward, reward std and gradient norm over the epochs, of the inputs whose reward std was small "
    "under the pretrained model and of the others; exact expected policy gradient (RFT), cross entropy (SFT)."
)
GROUP_CAPTION = (
    " GRPO: the exact expected gradient of groups of G labels, each reward less the mean of its group, over "
    "its std."
)
THEORY_CAPTION = (
    "Gradient norms of small enumerated models against three bounds, and the time to a reward of 0 against "
    "the initial std, by integrating the gradient flow of one input."
)
GROUP_THEORY = "theory_group"  # the second figure of the item "theory"
GROUP_THEORY_CAPTION = (
    "One input with two reward levels, exactly: the expected gradient's norm against the reward std, its "
    "local power, its length over that of RLOO, the time to a reward of 0, and the generations for each "
    "group that has spread."
)
THEORY_MODELS, THEORY_SEED = 2_800, 0
# Over the laptop's plans: no more than that they run.
SMOKE = ("epochs=20", "save_metric_plots=false", "outputs_dir=outputs/smoke/controlled")
IMPORTS = ("sft_vs_rft.experiment",)
# An epoch's seconds for each train input, by model, measured; for the table of stages alone.
SECONDS = {"mlp": 12e-6, "resnet18": 3e-3, "bert-mini": 12e-3}
PIXELS = {"mnist": 2, "fmnist": 2}  # how much longer an MLP takes where inputs are larger than digits'
THEORY_MINUTES = 0.2
PLAN_RUNNER = "python sft_vs_rft_controlled_experiments_plan_runner.py"


@dataclass(frozen=True)
class PlanOfItem:
    """A plan to run for an item, after those before it in its list."""

    item: str
    environment: str
    path: Path
    overrides: list[str]


def choose_plans(args: argparse.Namespace) -> list[PlanOfItem]:
    """The plans of the asked items in the order in which they must run: pretraining before finetuning."""
    names = environments(args.scale)
    chosen = chosen_environments(args)
    parallel = [f"multiprocess={str(args.jobs > 1).lower()}", f"num_parallel={args.jobs}"]
    for_all = [*(SMOKE if args.scale == "smoke" else ()), *args.overrides]
    plans = []
    for item in [item for item in items_at(args.scale) if not args.only or item in args.only]:
        for environment in chosen:
            overrides = [*OF_ENVIRONMENT.get(environment, ()), *for_all]
            name = f"{names[environment]}_{{}}_experiments_plan.json"
            plans.append(PlanOfItem(item, environment, PLANS / name.format("pretrain"), overrides))
            finetune = [*parallel, "load_model_from_checkpoint=auto", *overrides]
            plans.append(PlanOfItem(item, environment, PLANS / name.format(FIGURE3_ITEMS[item]), finetune))
    return plans


def chosen_environments(args: argparse.Namespace) -> list[str]:
    """The columns of Figure 3 that are asked for."""
    names = environments(args.scale)
    return list(names) if "all" in args.environments else list(dict.fromkeys(args.environments))


def items_at(scale: str) -> list[str]:
    """The versions of Figure 3 that have plans of a scale."""
    return [item for item in FIGURE3_ITEMS if scale not in ("paper", "real") or item not in LAPTOP_ALONE]


def environments(scale: str) -> dict[str, str]:
    """Environment -> how the names of its plans begin."""
    return ENVIRONMENTS.get(scale, ENVIRONMENTS["laptop"])


def stages(items: Sequence[str], plans: Sequence[PlanOfItem]) -> list[Stage]:
    """What is left of each plan; a mistake in any of them is found here, before the first one runs.

    Raises ConfigError.
    """
    by_plan: dict[tuple[Path, str], Stage] = {}
    for plan in plans:
        # Its start weights may not exist yet: whether they do is checked when its turn comes.
        loaded = load_plan(plan.path, [*plan.overrides, "load_model_from_checkpoint=''"])
        left = [experiment.config for experiment in _unfinished(plan, loaded.experiments)]
        side_by_side = min(loaded.plan.num_parallel, len(left)) if loaded.plan.multiprocess else 1
        sizes = "; ".join(
            dict.fromkeys(describe_steps(experiment.config) for experiment in loaded.experiments)
        )
        data = plan.environment if plan.environment in OF_ENVIRONMENT else ""
        # Items that start from the same pretraining share it.
        minutes = sum(map(estimate_minutes, left)) / max(1, side_by_side)
        name = f"{plan.path.name}{' on ' * bool(data)}{data}"
        by_plan.setdefault((plan.path, data), Stage(plan.item, len(left), minutes, f"{name}: {sizes}"))
    theory = Stage("theory", 0, THEORY_MINUTES, f"{THEORY_MODELS:,} enumerated models")
    return [*by_plan.values(), theory] if "theory" in items else list(by_plan.values())


def _unfinished(plan: PlanOfItem, experiments: Sequence[Experiment]) -> list[Experiment]:
    """Those that are not finished: all of them, if the weights they start from are not there."""
    try:
        started = load_plan(plan.path, plan.overrides).experiments
    except ConfigError:
        return list(experiments)
    jobs = make_jobs(started)
    finished = {folder: finished_runs(folder) for folder in {job.folder for job in jobs}}
    pairs = zip(started, jobs, strict=True)
    return [experiment for experiment, job in pairs if job.identity not in finished[job.folder]]


def estimate_minutes(config: ExperimentConfig) -> float:
    """About how long an experiment takes on one of two cores; NaN where only the data tells its size."""
    size = train_size(config)
    seconds = SECONDS[config.model_type] * PIXELS.get(config.dataset, 1)
    return math.nan if size is None else seconds * size * config.epochs / 60


def run_and_draw(args: argparse.Namespace, items: Sequence[str], plans: Sequence[PlanOfItem]) -> int:
    """Run the plans, skipping what is finished, and draw each asked item as soon as its runs are there."""
    here: set[JobKey] = set()  # the items share their pretraining
    for item in items:
        if item == "theory":
            draw_theory(args)
            continue
        runs: list[Path] = []
        for plan in [plan for plan in plans if plan.item == item]:
            loaded = load_plan(plan.path, plan.overrides)
            for notice in loaded.notices:
                logger.info("%s", notice)
            outcomes = run_jobs(
                loaded.plan,
                make_jobs(loaded.experiments),
                interrupt_message=INTERRUPT_MESSAGE,
                series=Series(here=here),
            )
            for experiment, outcome in zip(loaded.experiments, outcomes, strict=True):
                if not outcome.is_done:
                    logger.error("%s: %s %s", experiment.name, outcome.status, outcome.error or "")
            if status := exit_code(outcomes):
                logger.error("to go on: %s", this_command())
                return status
            runs += [outcome.run for outcome in outcomes if outcome.run is not None]
        show(draw_figure3(args, item, [read_run(run) for run in runs]))
    return 0


def figure_stem(args: argparse.Namespace, item: str) -> Path:
    """Where an item's files lie, without their endings."""
    if item not in FIGURE3_ITEMS:
        return args.output_dir / item
    return args.output_dir / ("runs" if args.runs else args.scale) / item


def draw_figure3(args: argparse.Namespace, item: str, runs: Sequence[RunInfo]) -> list[Path]:
    """Write the figure of `item` from those runs that are of it; returns its files. Raises NoRunsError."""
    from figures.figure3 import figure3
    from figures.runs import controlled_table, runs_of_item
    from figures.style import save_figure

    runs = runs_of_item(runs, item)
    table = controlled_table(runs)
    used = [
        {"path": str(run.path), "status": run.manifest.get("status"), "config": run.config} for run in runs
    ]
    figure = figure3(table, TITLES[item])
    return save_figure(figure, figure_stem(args, item), table, used, command=this_command())


def draw_theory(args: argparse.Namespace) -> None:
    """Enumerate small models, integrate gradient flows, draw both against theory; then groups (seconds)."""
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
    show(save_figure(figure, args.output_dir / "theory", numbers, [], command=this_command(), **meta))
    draw_group_theory(args)


def draw_group_theory(args: argparse.Namespace) -> None:
    """Compute what group algorithms make of a small reward std, and draw it (a second)."""
    import pandas as pd

    from figures.group_theory import group_theory_figure
    from figures.style import save_figure
    from sft_vs_rft.group_theory import FLOW_STDS, group_rows

    numbers = pd.DataFrame(group_rows(flow_stds=FLOW_STDS))
    figure = group_theory_figure(numbers)
    show(save_figure(figure, args.output_dir / GROUP_THEORY, numbers, [], command=this_command()))


def caption(item: str) -> str:
    """What is under a version of Figure 3 on the page."""
    return CAPTION + (GROUP_CAPTION if item == "figure3_group" else "")


def show(paths: Sequence[Path]) -> None:
    """Say where a figure is."""
    print(f"figure: {paths[0]} (also {', '.join(path.suffix for path in paths[1:])})")


def report_items(args: argparse.Namespace, items: Sequence[str], results: Results) -> list[Item]:
    """The drawn items for the page; their tables go into `results`, on which claims are measured."""
    import json

    import pandas as pd

    from figures.items import saved_item

    drawn = []
    tables = dict(results.controlled)
    for item in items:
        stem = figure_stem(args, item)
        if item in FIGURE3_ITEMS:
            tables[item] = pd.read_csv(stem.with_suffix(".csv"))
            drawn.append(saved_item(item, f"{FIGURE_NAMES[item]}: {TITLES[item]}", caption(item), stem))
        else:
            results.theory = json.loads(stem.with_suffix(".json").read_bytes())
            results.theory_numbers = pd.read_csv(stem.with_suffix(".csv"))
            drawn.append(saved_item(item, "Theory: bounds and times to reward", THEORY_CAPTION, stem))
            stem = figure_stem(args, GROUP_THEORY)
            results.group_theory_numbers = pd.read_csv(stem.with_suffix(".csv"))
            title = "Theory of groups: does GRPO cure it?"
            drawn.append(saved_item(GROUP_THEORY, title, GROUP_THEORY_CAPTION, stem))
    results.controlled = tables
    return drawn

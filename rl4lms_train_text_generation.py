"""Job 2: finetunes a language model by supervised learning, PPO or NLPO (Sections 4.1 and 5)."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import ConfigError, Located, add_config_arguments, describe_fields, validate
from common.console import INTERRUPTED_EXIT_CODE, setup_logging, stop_request
from common.errors import UserError
from common.run_dir import RunDir, RunError, read_run
from common.tracking import Tracker, WandbSettings, check_trackers
from rl4lms.config import (
    SupervisedConfig,
    TrainConfig,
    check_report,
    load_train_config,
    missing_components,
)
from rl4lms.train import OPTIONS, create_training_run, run_algorithm

if TYPE_CHECKING:
    from rl4lms.model.parallel import World
    from rl4lms.run_setup import TrainingSetup

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = "stopping after the step under way; press Ctrl-C again to stop at once"


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner; the training is described by the config file."""
    parser = argparse.ArgumentParser(
        description="Finetunes a language model by supervised learning, PPO or NLPO, and evaluates it "
        "before, during and after. Exit status: 0 done, 1 failed (what was computed is kept), 2 a mistake in "
        "the config, 130 interrupted. Several processes: torchrun --nproc_per_node N FILE ..."
    )
    parser.add_argument("--config_path", type=Path, help="YAML file, see rl4lms_scripts/training")
    parser.add_argument(
        "--base_path_to_store_results",
        type=Path,
        default=Path("outputs/rl4lms_training"),
        help="folder of the run folders (%(default)s)",
    )
    parser.add_argument("--experiment_name", help="begins the names of the run's folder and files")
    parser.add_argument("--project_name", help="Weights & Biases project (rl4lms_training)")
    parser.add_argument("--entity_name", help="Weights & Biases account or team")
    parser.add_argument("--log_to_wandb", action="store_true", help="send metrics to Weights & Biases")
    parser.add_argument("--log_to_tensorboard", action="store_true", help="write metrics for TensorBoard")
    parser.add_argument(
        "--log_entire_predictions", action="store_true", help="write the texts of every evaluation"
    )
    parser.add_argument("--no_eval_on_train_set", action="store_true", help="evaluate on val and test alone")
    parser.add_argument(
        "--upload_model_to_wandb", action="store_true", help="with --log_to_wandb: the finetuned model too"
    )
    parser.add_argument("--seed", type=int, help="short for --set runtime.seed=SEED")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a cut run, by its folder")
    add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load and check the config, then train; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_fields:
        print(describe_fields(TrainConfig))
        return 0
    check_flags(parser, args)
    try:
        config, options = read_resumed(args.resume) if args.resume else read_config(args)
        if args.check:
            print(check_report(config))
            return 0
        trackers = check_trackers(options["log_to_tensorboard"], options["log_to_wandb"], "--log_to_")
        if trackers is not None:
            raise RunError(trackers)
        lacking = [Located(None, problem.path, problem.message) for problem in missing_components(config)]
        if lacking:
            raise ConfigError(args.config_path or args.resume, lacking)
        return train(args, config, options)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(error, file=sys.stderr)
        return 2


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with status 2 if the flags do not go together."""
    if (args.config_path is None) == (args.resume is None):
        parser.error("give one of --config_path and --resume")
    if args.resume is not None:
        fixed = ["experiment_name", "seed", *OPTIONS]
        given = [f"--{name}" for name in fixed if getattr(args, name) not in (None, False)]
        given += ["--set"] if args.overrides else []
        if given:
            parser.error(f"{', '.join(given)} cannot change a run that is resumed")
    if args.experiment_name is not None and not re.fullmatch(r"\w[\w.+-]*", args.experiment_name):
        parser.error(f"--experiment_name becomes part of file names, got {args.experiment_name!r}")
    if args.upload_model_to_wandb and not args.log_to_wandb:
        parser.error("--upload_model_to_wandb needs --log_to_wandb")


def read_config(args: argparse.Namespace) -> tuple[TrainConfig, dict[str, Any]]:
    """Config and options of a new run. Raises ConfigError."""
    overrides = [*args.overrides, *([] if args.seed is None else [f"runtime.seed={args.seed}"])]
    config = load_train_config(args.config_path, overrides)
    return config, {name: getattr(args, name) for name in OPTIONS}


def read_resumed(path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Config and options of a run that is resumed. Raises RunError, or ConfigError: not a training's."""
    run = read_run(path)
    config = recorded_config(path, run.config, run.manifest)
    if run.manifest.get("job") != "training":
        raise RunError(f"{path} is no run of {Path(__file__).name}")
    if run.manifest.get("status") == "finished":
        raise RunError(f"{path} is finished: there is nothing to resume")
    return config, run.manifest["options"]


def recorded_config(path: Path, data: dict[str, Any], manifest: dict[str, Any]) -> TrainConfig:
    """The config in a run's directory. Raises ConfigError: it is not a training's."""
    config, problems = validate(TrainConfig, data)
    if config is None:
        file = path / f"{manifest.get('prefix', '')}config.json"
        raise ConfigError(file, [Located(None, problem.path, problem.message) for problem in problems])
    return config


def train(args: argparse.Namespace, config: TrainConfig, options: dict[str, Any]) -> int:
    """Open the run's directory and train in it. Raises RunError."""
    # Seconds of imports, only now that the config is known to be good.
    from rl4lms.model.parallel import WorldError, join_world

    try:
        world = join_world(config.runtime.device)
    except WorldError as error:
        raise RunError(str(error)) from error
    run = None
    if world.is_main:
        run = RunDir.open(args.resume) if args.resume else create_run(args, config, options)
    path, prefix, config = world.same(  # with the seed that was drawn
        (run.path, run.prefix, recorded_config(run.path, run.config, run.manifest))
        if run
        else (Path(), "", config)
    )
    if run is None:
        with setup_logging(console=True, level=logging.ERROR):
            return train_in(path, prefix, None, world, config, options)
    with run, setup_logging(console=True, log_file=path / f"{prefix}log.txt"):
        return train_in(path, prefix, run, world, config, options)


def create_run(args: argparse.Namespace, config: TrainConfig, options: dict[str, Any]) -> RunDir:
    """A new run directory under --base_path_to_store_results."""
    name = args.experiment_name or default_name(args.config_path, config)
    return create_training_run(args.base_path_to_store_results, name, config, {"options": options})


def default_name(config_path: Path, config: TrainConfig) -> str:
    """`narrative_qa_t5_ppo`: the dataset, if the file's name does not begin with it, and that name."""
    dataset, stem = config.datapool.id.replace(":", "-"), re.sub(r"[^\w.+-]", "_", config_path.stem)
    return stem if stem.startswith(dataset) else f"{dataset}_{stem}"


def train_in(
    path: Path, prefix: str, run: RunDir | None, world: World, config: TrainConfig, options: dict[str, Any]
) -> int:
    """Train in a run directory, which is open in the main process; returns the exit status."""
    from rl4lms.run_setup import TrainingInterrupted, prepare

    resume = f"python {Path(__file__).name} --resume {shlex.quote(str(path))}"
    logger.info("run folder: %s", path)
    tracker = None
    status = "failed"
    try:
        with stop_request(INTERRUPT_MESSAGE) as stop:
            if run is not None:
                run.update_manifest(status="running", error=None)
                tracker = start_tracker(run, config, options)
            setup = prepare(
                config,
                path,
                run,
                world,
                prefix=prefix,
                tracker=tracker,
                eval_on_train=not options["no_eval_on_train_set"],
                save_predictions=options["log_entire_predictions"],
                should_stop=stop,
            )
            if world.is_main:
                say_what_happens(setup)
            run_algorithm(setup)
        if run is not None:
            run.update_manifest(status="finished", artefacts=[setup.model_path.name])
        status = "finished"
    except (TrainingInterrupted, KeyboardInterrupt):
        status = "interrupted"
        if run is not None:
            run.update_manifest(status=status)
        logger.warning("interrupted; to go on: %s", resume)
    except Exception as error:
        expected = isinstance(error, UserError)
        if run is not None:
            run.update_manifest(status=status, error=f"{type(error).__name__}: {error}")
        if run is not None or not expected:  # what all processes find, one says
            logger.error("%s", error, exc_info=not expected)
            logger.error("what was computed is kept; to go on: %s", resume)
    finally:
        if tracker is not None:
            tracker.close(failed=status == "failed")
    return {"finished": 0, "failed": 1, "interrupted": INTERRUPTED_EXIT_CODE}[status]


def start_tracker(run: RunDir, config: TrainConfig, options: dict[str, Any]) -> Tracker:
    """TensorBoard and Weights & Biases, if asked for. Raises TrackerError."""
    wandb = None
    if options["log_to_wandb"]:
        model = () if options["upload_model_to_wandb"] else (f"{run.prefix}model/*",)
        wandb = WandbSettings(
            project=options["project_name"] or "rl4lms_training",
            entity=options["entity_name"] or "",
            exclude_files=(f"{run.prefix}checkpoints/*", "tensorboard/*", *model),
            opt_out="leave out --log_to_wandb",
        )
    return Tracker(run, options["log_to_tensorboard"], wandb, purge_step=resumed_step(run, config) + 1)


def resumed_step(run: RunDir, config: TrainConfig) -> int:
    """The iteration or update of the newest checkpoint, 0 without one."""
    if isinstance(config.alg, SupervisedConfig):
        from rl4lms.sft.checkpoints import checkpoints_in

        found = checkpoints_in(run.checkpoints_path)
    else:
        found = run.checkpoints()
    return int(re.split(r"[-_]", found[-1].stem)[-1]) if found else 0


def say_what_happens(setup: TrainingSetup) -> None:
    """Log notices, sizes, samples and the memory that is needed."""
    from rl4lms.config import training_sizes
    from rl4lms.run_setup import count_parameters, memory_lines

    config = setup.config
    for notice in config.notices():
        logger.info("note: %s", notice)
    for line in training_sizes(config):
        logger.info("%s", line)
    sizes = {split: len(samples) for split, samples in setup.evaluator.samples.items()}
    evaluated = ", ".join(f"{split} {sizes[split]:,}" for split in setup.splits)
    logger.info("samples: %s to train on; evaluated: %s", f"{len(setup.train):,}", evaluated)
    if setup.world.size > 1 and isinstance(config.alg, SupervisedConfig):
        logger.info("%d processes: an update has that many times the texts", setup.world.size)
    for line in memory_lines(config, count_parameters(config.alg.model_name, config.alg.model_type)):
        logger.info("%s", line)


if __name__ == "__main__":
    sys.exit(main())

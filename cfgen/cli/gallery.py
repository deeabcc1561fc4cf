"""``cfgen gallery``: the page of a finished run, written again."""

from __future__ import annotations

import argparse

from cfgen.cli.options import Usage


def add(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The command and its options."""
    told = "write the page of a finished run again"
    p: argparse.ArgumentParser = commands.add_parser("gallery", help=told, description=told)
    p.add_argument("run", metavar="RUN", help="run folder")
    p.add_argument(
        "--single-file",
        action="store_true",
        help="put all pictures into index.html, one file to hand on",
    )
    return p


def run(args: argparse.Namespace) -> int:
    """Write index.html.

    Raises:
        Usage: The folder is no run.
    """
    from cfgen.gallery import write_gallery

    try:
        print(f"Open {write_gallery(args.run, args.single_file)}")
    except OSError as error:
        raise Usage(f"expected a run folder, got '{args.run}' ({error.strerror})") from error
    return 0

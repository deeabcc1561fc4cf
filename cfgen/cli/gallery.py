"""``cfgen gallery``: the page of a finished run, written again."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    """Write index.html; of a run that is not finished, with the table of what is done.

    Raises:
        Usage: The folder is no run.
    """
    from cfgen.engine.run_folder import read_record
    from cfgen.engine.units import write_results
    from cfgen.gallery import write_gallery

    try:
        if (read_record(Path(args.run)) or {}).get("finished") is False:
            write_results(Path(args.run))
        print(f"Open {write_gallery(args.run, args.single_file)}")
    except ValueError as error:
        raise Usage(f"expected a run folder, got '{args.run}'") from error
    except OSError as error:
        raise Usage(f"expected a run folder, got '{args.run}' ({error.strerror})") from error
    return 0

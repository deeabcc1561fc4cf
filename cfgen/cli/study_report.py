"""``cfgen study-report``: the answers of a reader study, read and reported."""

from __future__ import annotations

import argparse

from cfgen.cli.options import usage


def add(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The command and its options."""
    told = "read the answers of a study and write the report"
    p: argparse.ArgumentParser = commands.add_parser("study-report", help=told, description=told)
    p.add_argument("study", metavar="STUDY", help="folder that cfgen study wrote")
    p.add_argument("answers", metavar="CSV", nargs="+", help="answers as the readers saved them")
    p.add_argument("--out", metavar="FOLDER", required=True, help="folder for the report")
    return p


def run(args: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        Usage: A file is wrong, or a package is missing.
    """
    with usage("study"):
        from cfgen.study.report import write_report

        print(f"Open {write_report(args.study, args.answers, args.out)}")
    return 0

"""The command line: what run_cf.py, ``cfgen`` and ``python -m cfgen`` call. One file a command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cfgen.cli import explain, gallery, study, study_report
from cfgen.cli.options import OneLineParser, Usage, never_fail_to_print, program

COMMANDS = {
    "explain": explain,
    "gallery": gallery,
    "study": study,
    "study-report": study_report,
}
EPILOG = """\
without a command, as run_cf.py is mostly called, it is explain: cfgen --images FOLDER

exit status: 0 done, 1 some images could not be explained (see results.csv), 2 wrong usage
"""


def parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The program's options, and those of each command."""
    whole = OneLineParser(
        prog=program(),
        description="Counterfactuals: the smallest plausible change that changes a model's mind.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parts = {name: module.add(commands) for name, module in COMMANDS.items()}
    return whole, parts


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; without one, ``explain``. Returns the exit status.

    Raises:
        SystemExit: The usage is wrong (2), or help was asked for (0).
    """
    never_fail_to_print()
    argv = list(sys.argv[1:] if argv is None else argv)
    helps = ("-h", "--help") if program() == "cfgen" else ()  # run_cf.py shows that of its job
    if not argv or argv[0] not in (*COMMANDS, *helps):
        argv.insert(0, "explain")
    whole, parts = parser()
    args = whole.parse_args(argv)
    command = vars(args).pop("command")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever fetched from a hub
    try:
        return COMMANDS[command].run(args)
    except Usage as error:
        parts[command].error(str(error))

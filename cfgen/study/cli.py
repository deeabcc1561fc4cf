"""``cfgen study`` and ``cfgen study-report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfgen.arguments import OneLineParser

EPILOG = """\
The questions file is YAML; cfgen/study/example.yaml explains it and suits the demo run. Give each
reader his reader-N.html; keep the folder key, which alone knows the truth and the arms. Collect the
answers-reader-N.csv that the readers download, then: cfgen study-report STUDY answers*.csv
"""


def study_parser() -> argparse.ArgumentParser:
    """The options of ``cfgen study``."""
    p = OneLineParser(
        prog="cfgen study",
        description="Write a blinded reader study of a run: one page a reader, and a key.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", metavar="RUN", help="run folder")
    p.add_argument("--questions", metavar="YAML", required=True, help="questions file")
    p.add_argument("--readers", metavar="N", type=int, default=3, help="(default: %(default)s)")
    p.add_argument("--out", metavar="STUDY", required=True, help="new or empty folder")
    p.add_argument(
        "--seed",
        metavar="N",
        type=int,
        help="seed of order, arms and repeats (default: drawn, and kept in the key)",
    )
    return p


def report_parser() -> argparse.ArgumentParser:
    """The options of ``cfgen study-report``."""
    p = OneLineParser(
        prog="cfgen study-report",
        description="Read the answers of a study and write the report.",
    )
    p.add_argument("study", metavar="STUDY", help="folder that cfgen study wrote")
    p.add_argument("answers", metavar="CSV", nargs="+", help="answers as the readers saved them")
    p.add_argument("--out", metavar="FOLDER", required=True, help="folder for the report")
    return p


def main(argv: Sequence[str]) -> int:
    """Run ``study ...`` or ``study-report ...``; returns the exit status.

    Raises:
        SystemExit: The usage or a file is wrong (2), or help was asked for (0).
    """
    options = study_parser() if argv[0] == "study" else report_parser()
    args = options.parse_args(argv[1:])
    try:
        print(_study(args) if argv[0] == "study" else _report(args))
    except ModuleNotFoundError as error:
        options.error(
            f"expected the package {error.name}; install it with pip install 'cfgen[study]'"
        )
    except (ValueError, OSError) as error:
        options.error(str(error))
    return 0


def _study(args: argparse.Namespace) -> str:
    from cfgen.study.parse import read_questions
    from cfgen.study.write import write_study

    study = write_study(args.run, read_questions(args.questions), args.readers, args.out, args.seed)
    record, lines = study.record, []
    if record["left_out"]:
        others = ", ".join(f"{n} {status}" for status, n in record["left_out"].items())
        lines.append(f"Left out, because they have no counterfactual: {others}.")
    if record["labelled"] < record["cases"]:
        lines.append(
            f"{record['labelled']} of {record['cases']} cases have a label; the answers to the "
            "others are not scored, for the model's answer is not the truth."
        )
    if record["cues"]:
        cues = ", ".join(f"{name} {area:.2f}" for name, area in record["cues"].items())
        lines.append(f"Real and synthetic images differ in (area under the ROC curve): {cues}.")
    lines.append(f"{record['cases']} cases, {record['pages']} pages a reader.")
    lines.append(f"Hand out {', '.join(str(page) for page in study.pages)}")
    lines.append(f"Keep {Path(args.out) / 'key'}: it holds the truth and the arms.")
    return "\n".join(lines)


def _report(args: argparse.Namespace) -> str:
    from cfgen.study.report import write_report

    return f"Open {write_report(args.study, args.answers, args.out)}"

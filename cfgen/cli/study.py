"""``cfgen study``: a blinded reader study of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from cfgen.cli.options import usage

EPILOG = """\
The questions file is YAML; cfgen/study/example.yaml explains it and suits the demo run. Give each
reader his reader-N.html; keep the folder key, which alone knows the truth and the arms. Collect the
answers-reader-N.csv that the readers download, then: cfgen study-report STUDY answers*.csv
"""


def add(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The command and its options."""
    told = "write a blinded reader study of a run: one page a reader, and a key"
    p: argparse.ArgumentParser = commands.add_parser(
        "study",
        help=told,
        description=told,
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


def run(args: argparse.Namespace) -> int:
    """Write the study.

    Raises:
        Usage: The run or the questions are wrong, or a package is missing.
    """
    with usage("study"):
        print(_study(args))
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

"""What the commands share: options, and errors of one line."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


class Usage(Exception):
    """Something the user can put right."""


@contextmanager
def usage(extra: str) -> Iterator[None]:
    """Turn what a user can put right into :class:`Usage`, packages of an extra included."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Usage(
            f"expected the package {error.name}; install it with pip install 'cfgen[{extra}]'"
        ) from error
    except (ValueError, OSError) as error:
        raise Usage(str(error)) from error


def program() -> str:
    """The name that the program was called by."""
    return Path(sys.argv[0]).name if sys.argv[0].endswith("run_cf.py") else "cfgen"


def never_fail_to_print() -> None:
    """Let a terminal that lacks a character show its code instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose values may begin with a minus.

    argparse itself takes -1500 for a value, but -600,1500 for an option.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's; an option and the value after it that begins with -1 are joined by =."""
        joined: list[str] = []
        for arg in sys.argv[1:] if args is None else args:
            if joined and re.match(r"-\.?\d", arg) and re.fullmatch(r"--[a-z-]+", joined[-1]):
                joined[-1] += f"={arg}"
            else:
                joined.append(arg)
        return super().parse_known_args(joined, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage around it."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def add_images(p: argparse.ArgumentParser) -> None:
    """Which images."""
    data = p.add_argument_group("what is explained")
    data.add_argument(
        "--images",
        metavar="FOLDER",
        help="tree of PNG, JPEG, TIFF, BMP, NPY, DICOM or NIfTI files, or one of the last two "
        "(without it: synthetic patients drawn from the checkpoint's prior)",
    )
    data.add_argument(
        "--labels",
        metavar="CSV",
        help="columns file, label, mask, patient, split; files relative to FOLDER (default: "
        "FOLDER/labels.csv if it is there)",
    )
    data.add_argument("--split", metavar="NAME", help="only the rows of this split")
    data.add_argument(
        "--limit",
        metavar="N",
        type=int,
        help="only the first N images (default of synthetic patients: 8)",
    )
    data.add_argument(
        "--stretch",
        action="store_true",
        help="resize without keeping the aspect (default: pad, then resize)",
    )
    data.add_argument(
        "--max-pixels",
        metavar="N",
        type=int,
        default=100_000_000,
        help="refuse an image, frame or slice that has more (default: %(default)s)",
    )


def add_medical(p: argparse.ArgumentParser) -> None:
    """How DICOM and NIfTI files are read."""
    medical = p.add_argument_group("DICOM and NIfTI")
    medical.add_argument(
        "--window",
        metavar="CENTER,WIDTH",
        help="values shown from black to white (default: the file's own window; without one the "
        "full scale of 8 bit, else the 0.5th to 99.5th percentile of the file)",
    )
    medical.add_argument(
        "--axis",
        choices=("axial", "coronal", "sagittal", "0", "1", "2"),
        default="axial",
        help="how NIfTI volumes are cut, by anatomy or by axis of the array (default: %(default)s)",
    )
    medical.add_argument(
        "--volume",
        metavar="N",
        type=int,
        help="which volume of 4-D NIfTI files, counted from 0",
    )
    medical.add_argument(
        "--slices",
        metavar="RANGE",
        help="12 or 10:20, counted from 0, of each volume or multi-frame file (default: all "
        "frames, and the slices that hold more than one value)",
    )
    medical.add_argument(
        "--dicom",
        action="store_true",
        help="write each counterfactual in its source's format too, x_cf.dcm or x_cf.nii.gz, and "
        "classify that again (column dicom_flips)",
    )
    medical.add_argument(
        "--keep-ids",
        action="store_true",
        help="keep file names, and in x_cf.dcm the patient's data",
    )


def add_where(p: argparse.ArgumentParser) -> None:
    """Where a run computes, and what it leaves there."""
    where = p.add_argument_group("where")
    where.add_argument(
        "--out",
        metavar="OUT",
        help="run folder; the same command goes on with the run in it (default: out, or out-2, ... "
        "where another run is in it)",
    )
    where.add_argument("--fresh", action="store_true", help="start over, whatever run is in OUT")
    where.add_argument(
        "--keep",
        choices=("rows", "pictures", "all"),
        default="all",
        help="what stays of each case: its row only, its pictures too, or arrays and sweep as well "
        "(default: %(default)s)",
    )
    where.add_argument(
        "--on",
        choices=("here", "ray"),
        default="here",
        help="compute in this process (with accelerate launch: in all of them), or on a Ray "
        "cluster (default: %(default)s)",
    )
    where.add_argument(
        "--actors",
        metavar="N",
        type=int,
        help="of Ray, each with the models (default: as many as there is room for)",
    )
    where.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="(default: %(default)s)",
    )
    where.add_argument(
        "--precision",
        choices=("no", "bf16", "fp16"),
        default="no",
        help="mixed precision of the direction; what is handed over is always computed in full "
        "(default: %(default)s)",
    )
    where.add_argument(
        "--batch-size",
        metavar="N",
        default="auto",
        help="images at once (default: auto: 4 on a CPU, else 32, fewer when memory runs out)",
    )
    where.add_argument(
        "--sweep",
        metavar="N",
        type=int,
        default=11,
        help="images along lambda for the page's slider, 0 for none (default: %(default)s)",
    )
    where.add_argument(
        "--single-file",
        action="store_true",
        help="put all pictures into index.html, one file to hand on",
    )

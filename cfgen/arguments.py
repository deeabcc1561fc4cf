"""The options of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

EPILOG = """\
examples:
  %(prog)s
      explain eight synthetic patients of the checkpoint brain-flair
  %(prog)s --images scans --target healthy --out runs/scans
      explain every image of a folder towards one class
  %(prog)s --images scans --split test --confidence 0.9
      the rows of scans/labels.csv with split test, until the target is 90 %% probable
  %(prog)s --images scans --window 40,400 --dicom
      DICOM files, or NIfTI volumes slice by slice; counterfactuals in their format as well
  accelerate launch --num_processes 2 run_cf.py --images scans
      the same in two processes (without GPUs: accelerate launch --multi_gpu ...)
  %(prog)s study --help
      ask readers: write a blinded reader study of a run, and report its answers

patient data: DICOM and NIfTI files are shown as case-0001, ... in reading order; nothing of their
names, headers and paths reaches OUT or the screen (--keep-ids shows them). PNG, JPEG, TIFF, BMP and
NPY files keep the names that their owner gave them.

exit status: 0 all images read, 1 some could not be read (see results.csv), 2 wrong usage
"""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage around it."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The options of the program."""
    p = OneLineParser(
        prog=Path(sys.argv[0]).name if sys.argv[0].endswith("run_cf.py") else "cfgen",
        description="Find the smallest plausible change to an image that changes a model's mind.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    how = p.add_argument_group("how")
    how.add_argument(
        "--checkpoint",
        metavar="NAME_OR_FOLDER",
        default="brain-flair",
        help="the models (default: %(default)s)",
    )
    how.add_argument(
        "--target",
        metavar="CLASS",
        help="class to explain towards (default: the most likely other class of each image)",
    )
    how.add_argument(
        "--direction",
        metavar="NAME",
        help="gradient, natural_gradient, minimal_norm (the smallest step), translation or guided "
        "(believable ones, by the prior); default: guided where the checkpoint has a prior, else "
        "minimal_norm",
    )
    how.add_argument(
        "--diverse",
        metavar="K",
        type=int,
        default=1,
        help="counterfactuals of each image, at right angles to each other in latent space; one "
        "row and one case each, column alternative (default: %(default)s)",
    )
    how.add_argument(
        "--region",
        choices=("lesion", "outside"),
        help="change the lesion of the mask in labels.csv only, or the rest only; an image without "
        "a mask is not changed, and its row says so (default: everywhere)",
    )
    how.add_argument(
        "--region-margin",
        metavar="N",
        type=int,
        default=0,
        help="make the lesion larger by N pixels of the model's image (default: %(default)s)",
    )
    how.add_argument(
        "--hold",
        metavar="NAME[,NAME]",
        help="findings of a multi-label classifier whose probability must not move by 0.1 or more",
    )
    how.add_argument(
        "--detail",
        choices=("keep", "drop"),
        default="keep",
        help="keep what the autoencoder cannot reconstruct, or drop it (default: %(default)s)",
    )
    how.add_argument(
        "--confidence",
        metavar="P",
        type=float,
        help="probability that the target must reach (default: the flip itself, which is 0.5 with "
        "two classes)",
    )
    how.add_argument(
        "--lpips",
        choices=("st-alex", "alex", "vgg", "squeeze"),
        default="st-alex",
        help="trunk of the perceptual distance; st-alex needs no download (default: %(default)s)",
    )
    how.add_argument("--seed", type=int, default=0, help="seed of what is random (default: 0)")
    where = p.add_argument_group("where")
    where.add_argument(
        "--out", metavar="OUT", default="out", help="run folder (default: %(default)s)"
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
    return p

"""What kind of image a file is, and how many images it holds."""

from __future__ import annotations

import os
from pathlib import Path

from cfgen.data import dicom, nifti
from cfgen.data.decode import pages
from cfgen.data.series import outline

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
PAGED = (".tif", ".tiff")
KNOWN = (*SUFFIXES, *dicom.SUFFIXES, *nifti.SUFFIXES)
OTHER = tuple(
    ".gif .webp .jp2 .j2k .jxl .avif .heic .svs .ndpi .mrxs .czi .npz .mha .mhd .nrrd .img .mgz "
    ".mnc .h5".split()
)


def kind_of(path: str | Path) -> str:
    """What a file is: "nifti" and "picture" by suffix, "dicom" by suffix, content or name.

    A name without a suffix, or with that of a UID, is that of a DICOM file, there or not: it must
    not be shown.
    """
    name = os.path.basename(path).lower()  # text, for pathlib takes minutes for millions of files
    suffix = os.path.splitext(name)[1]
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    if suffix in SUFFIXES:
        return "picture"
    if suffix in (*dicom.SUFFIXES, "", ".") or suffix[1:].isdigit() or dicom.is_dicom(Path(path)):
        return "dicom"
    return "picture"


def why_not(path: str) -> str | None:
    """Why a file of a tree is not read; None where it is."""
    name = os.path.basename(path).lower()
    if name == "dicomdir":  # an index of the files beside it
        return "DICOMDIR"
    if name.endswith(KNOWN) or dicom.is_dicom(Path(path)):
        return None
    return "image of another kind" if name.endswith(OTHER) else "not an image"


def count(path: str | Path, kind: str, axis: str, volume: int | None, max_pixels: int) -> int:
    """Number of frames, slices or pages of a file; 1 of one that cannot be read."""
    if kind == "nifti":
        return nifti.depth(Path(path), axis, volume, max_pixels)
    if kind == "dicom":
        return outline(Path(path)).frames
    return 1 if page_of(path, 0) is None else pages(Path(path))


def page_of(path: str | Path, index: int) -> int | None:
    """Which page of a file an item is; None where it must be a single image."""
    return index if str(path).lower().endswith(PAGED) else None

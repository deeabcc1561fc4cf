"""DICOM: single and multi-frame grey images, read as the physical values that they mean."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut
from pydicom.uid import UID, ImplicitVRLittleEndian

from cfgen.data.decode import MAX_PIXELS, UnreadableImage, file_bytes
from cfgen.data.frames import decodable, decode_frame
from cfgen.data.quiet import quiet
from cfgen.data.window import Plane, Window, robust_range

SUFFIXES = (".dcm", ".dicom", ".ima")
KEPT = 3  # data sets in memory: a source, its mask, and what is written of it
MAX_FRAMES = 100_000  # more is damage, and would fill the memory with items
SAMPLED = 16  # frames that the default window of a multi-frame image is taken from
# Text in a file is its owner's. Only these terms of RescaleType and Units are ever shown.
RESCALE_TYPES = ("HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
COLOURS = "RGB,PALETTE COLOR,YBR_FULL,YBR_FULL_422,YBR_PARTIAL_420,YBR_RCT,YBR_ICT".split(",")
UNKNOWN = "unknown kind"
PET_UNITS = ("BQML", "CNTS", "GML", "PROPCNTS", "CPS")

# pydicom quotes values of the data set in its log. The log is off for the user too: no handler.
logging.getLogger("pydicom").propagate = False


def is_dicom(path: Path) -> bool:
    """Whether a file has the signature DICM after its preamble of 128 bytes."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False


def outline(path: Path) -> tuple[tuple[str, int], int]:
    """Where a file belongs in reading order, (series, instance number), and how many frames it has.

    A file that cannot be read belongs first and has one frame: reading it says what is wrong.
    """
    names = ["SeriesInstanceUID", "InstanceNumber", "NumberOfFrames"]
    try:
        with quiet():
            ds = dcmread(path, force=True, stop_before_pixels=True, specific_tags=names)
            order = str(ds.get("SeriesInstanceUID", "")), int(ds.get("InstanceNumber") or 0)
            frames = int(ds.get("NumberOfFrames") or 1)
            return order, frames if 0 < frames <= MAX_FRAMES else 1
    except Exception:  # damaged bytes are answered with any type of exception
        return ("", 0), 1


def read(
    path: Path,
    frame: int,
    *,
    limits: tuple[float, float] | None = None,
    annotated: bool = True,
) -> Plane:
    """Read one frame.

    Args:
        path: The file.
        frame: Which frame, from 0.
        limits: Lowest and highest value of the window; None takes the (first) VOI window of the
            file; without one the full scale of 8 bit and less, else the percentiles 0.5 and 99.5
            of the pixels (of the frames, up to 16 of them) that are not padding.
        annotated: Accept an image that says that identifying text is burned in.

    Returns:
        The frame after the modality LUT, in Hounsfield units for a CT; MONOCHROME1 turns the
        window round.

    Raises:
        UnreadableImage: It is no grey image that can be decoded; the message quotes nothing of the
            file.
    """
    ds = load(path)
    if not annotated and ds.get("BurnedInAnnotation") == "YES":
        raise UnreadableImage(
            "expected no identifying text burned into the image, got BurnedInAnnotation YES"
        )
    values = frame_values(ds, frame)
    if not np.isfinite(values).all():
        raise UnreadableImage("expected finite pixels after rescaling, found NaN or inf")
    with refusing("damaged DICOM header"):
        limits = limits or _voi(ds, frame) or _default(path, _stamp(path))
        low, high = limits[::-1] if ds.PhotometricInterpretation == "MONOCHROME1" else limits
        return Plane(values, Window(low, high, _unit(ds)))


def load(path: Path) -> Dataset:
    """The data set of a grey image, checked; those read last are kept.

    Raises:
        UnreadableImage: It is none.
    """
    return _load(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=KEPT)
def _load(path: Path, stamp: tuple[int, int]) -> Dataset:
    data = file_bytes(path)
    if not data:
        raise UnreadableImage("file is empty")
    with refusing("not a DICOM file"):
        ds = dcmread(io.BytesIO(data), force=True)
        kind = UID(str(ds.get("SOPClassUID", "")))
        signed = data[128:132] == b"DICM"
        if not signed and "Rows" not in ds and not kind.is_valid:
            raise UnreadableImage("not a DICOM file")
        if not len(ds):
            raise UnreadableImage("truncated")
    with refusing("damaged DICOM header"):
        name = _name(kind)
        if name != UNKNOWN and "Image Storage" not in name:
            raise UnreadableImage(f"expected an image, got {name}")
        if "Rows" not in ds or "PixelData" not in ds:
            raise UnreadableImage(f"expected pixel data, got none ({name}, or truncated)")
        if ds.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            colour = ds.PhotometricInterpretation in COLOURS
            found = ds.PhotometricInterpretation if colour else "another interpretation"
            raise UnreadableImage(f"expected a grey image (MONOCHROME1 or 2), got {found}")
        h, w = int(ds.Rows), int(ds.Columns)
        if h < 1 or w < 1:
            raise UnreadableImage(f"expected an image with pixels, got {h} x {w}")
        if h * w > MAX_PIXELS:
            raise UnreadableImage(f"expected at most {MAX_PIXELS} pixels, got {h} x {w}")
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        syntax = ds.file_meta.TransferSyntaxUID
        if not decodable(syntax):
            raise UnreadableImage(f"transfer syntax is not supported ({_name(syntax)})")
    return ds


def frame_values(ds: Dataset, frame: int) -> np.ndarray:
    """The values of a frame after the modality LUT, float64 (H, W).

    Raises:
        UnreadableImage: The pixel data cannot be decoded.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        with quiet():
            stored = decode_frame(ds, frame)
    except Exception as error:
        if not syntax.is_compressed and "less than expected" in str(error):
            raise UnreadableImage("truncated") from error
        raise UnreadableImage(f"pixel data cannot be decoded ({_name(syntax)})") from error
    with refusing("damaged DICOM header"):
        if stored.ndim != 2:
            raise ValueError(f"expected a frame (H, W), got {stored.shape}")
        if "ModalityLUTSequence" in ds:
            return np.asarray(apply_modality_lut(stored, ds), np.float64)
        slope, intercept = rescale(ds, frame)
        return stored * slope + intercept


def _frames(ds: Dataset) -> int:
    return int(ds.get("NumberOfFrames") or 1)


def rescale(ds: Dataset, frame: int) -> tuple[float, float]:
    """Rescale slope and intercept of a frame, (1, 0) where there are none."""
    slope = find(ds, frame, "RescaleSlope", "PixelValueTransformationSequence")
    intercept = find(ds, frame, "RescaleIntercept", "PixelValueTransformationSequence")
    slope, intercept = (1.0 if slope is None else float(slope)), float(intercept or 0)
    if slope == 0:
        raise UnreadableImage("expected a rescale slope other than 0, got 0")
    return slope, intercept


def find(ds: Dataset, frame: int, keyword: str, group: str) -> Any:
    """A value that may stand with the frame, with all frames or (as ever) at the top; else None."""
    places = [ds]
    for name, item in (("SharedFunctionalGroupsSequence", 0), ("PerFrame" + GROUPS, frame)):
        sequence = ds.get(name) or []
        if item < len(sequence) and sequence[item].get(group):
            places.insert(0, sequence[item][group][0])
    return next((p.get(keyword) for p in places if p.get(keyword) is not None), None)


GROUPS = "FunctionalGroupsSequence"


def _voi(ds: Dataset, frame: int) -> tuple[float, float] | None:
    """Ends of the first VOI window, by the formula of its function; a sigmoid's as if exact."""
    center, width, function = (
        find(ds, frame, keyword, "FrameVOILUTSequence")
        for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    if center is None or width is None:
        return None
    c, w = (float(np.atleast_1d(np.asarray(v, float))[0]) for v in (center, width))
    if (function or "LINEAR") == "LINEAR":
        c, w = c - 0.5, w - 1  # PS3.3 C.11.2.1.2
    return (c - w / 2, c + w / 2) if np.isfinite([c, w]).all() and w > 0 else None


@lru_cache(maxsize=KEPT)
def _default(path: Path, stamp: tuple[int, int]) -> tuple[float, float]:
    """The window of an image that brings none."""
    ds = load(path)
    frames = _frames(ds)
    if int(ds.BitsStored) <= 8 and "ModalityLUTSequence" not in ds and not ds.PixelRepresentation:
        slope, intercept = rescale(ds, 0)
        ends = intercept, intercept + slope * (2 ** int(ds.BitsStored) - 1)
        return min(ends), max(ends)
    chosen = sorted(set(np.linspace(0, frames - 1, SAMPLED).round().astype(int).tolist()))
    values = np.stack([frame_values(ds, frame) for frame in chosen])
    padding = ds.get("PixelPaddingValue")
    if padding is not None and "ModalityLUTSequence" not in ds:
        slope, intercept = rescale(ds, 0)
        inside = values[values != padding * slope + intercept]
        values = inside if inside.size else values
    return robust_range(values)


def _unit(ds: Dataset) -> str:
    kind = find(ds, 0, "RescaleType", "PixelValueTransformationSequence")
    if kind in RESCALE_TYPES:
        return str(kind)
    if ds.get("Modality") == "CT":
        return "HU"
    units = ds.get("Units")
    return str(units) if ds.get("Modality") == "PT" and units in PET_UNITS else ""


def _name(uid: UID) -> str:
    """What the standard calls a UID; those that it does not know stay here."""
    return UNKNOWN if uid.name == uid else uid.name


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Any exception, which may quote what a file says, becomes UnreadableImage with this reason."""
    try:
        with quiet():
            yield
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(reason) from error

"""DICOM: single and multi-frame images, read as the physical values or colours that they mean."""

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
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cfgen.data import colour, modality
from cfgen.data.decode import file_bytes
from cfgen.data.frames import decodable, decode_frame
from cfgen.data.grid import Grid, grid_of_dicom
from cfgen.data.modality import GROUPS
from cfgen.data.quiet import quiet
from cfgen.data.raster import MAX_PIXELS, UnreadableImage, check_pixels
from cfgen.data.voi import Shown, shown
from cfgen.data.window import Plane, Window, robust_range
from cfgen.data.written import FULL

SUFFIXES = (".dcm", ".dicom", ".ima")
KEPT = 3  # data sets in memory: a source, its mask, and what is written of it
SAMPLED = 16  # frames that the default window of a multi-frame image is taken from
GREYS = ("MONOCHROME1", "MONOCHROME2")
BITS = (1, 8, 16, 32)  # of a pixel in memory
UNKNOWN = "unknown kind"

# pydicom quotes values of the data set in its log. The log is off for the user too: no handler.
logging.getLogger("pydicom").propagate = False


def is_dicom(path: Path) -> bool:
    """Whether a file has the signature DICM after its preamble of 128 bytes, or is an image alone.

    A data set alone begins with group 2 or 8 in either byte order, and says how many rows it has.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
        if start[128:] == b"DICM" or start[:2] not in (b"\2\0", b"\0\2", b"\10\0", b"\0\10"):
            return start[128:] == b"DICM"
        with quiet():
            ds = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["Rows"])
            return "Rows" in ds
    except Exception:  # damaged bytes are answered with any type of exception
        return False


def read(
    path: Path,
    frame: int,
    *,
    limits: tuple[float, float] | None = None,
    annotated: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Plane:
    """Read one frame.

    Args:
        path: The file.
        frame: Which frame, from 0.
        limits: Lowest and highest value of a grey image's window; None takes the (first) VOI
            window or table of the file; without one the full scale of 8 bit and less, else the
            percentiles 0.5 and 99.5 of the pixels that are not padding (of the frames in the same
            unit, up to 16 of them).
        annotated: Accept an image that says that identifying text is burned in.
        max_pixels: A frame that has more is refused.

    Returns:
        The frame after the modality LUT, in Hounsfield units where the file says or implies so; or
        the levels that its VOI table, sigmoid or step gives out; MONOCHROME1 turns the window
        round. Colours as red, green and blue over their full scale.

    Raises:
        UnreadableImage: It is no image that can be decoded; the message quotes nothing of the file.
    """
    ds = load(path)
    check_pixels((int(ds.Rows), int(ds.Columns)), max_pixels)
    with refusing("damaged DICOM header"):
        if not annotated:
            _without_names(ds)
    stored = stored_values(ds, frame)
    with refusing("damaged DICOM header"):
        if is_colour(ds):
            values, white = colour.levels(ds, stored)
            return Plane(values, Window(0.0, float(white)), True, grid(ds, frame))
        values = _meaning(ds, frame, stored)
        if limits is None:
            view = shown(ds, frame, values) or Shown(values, *_default(path, ds, frame))
        else:
            view = Shown(values, *limits)
        ends = (view.low, view.high)
        low, high = ends[::-1] if ds.PhotometricInterpretation == "MONOCHROME1" else ends
        unit = "" if view.levels else modality.unit(ds, frame)
        return Plane(view.values, Window(low, high, unit), view.levels, grid(ds, frame))


def grid(ds: Dataset, frame: int) -> Grid:
    """The grid of a frame; what cannot be parsed of it counts as not said.

    Raises:
        UnreadableImage: A pixel is far too long.
    """

    def get(keyword: str, group: str) -> Any:
        try:
            found = (place.get(keyword) for place in modality.places(ds, frame, group))
            return next((value for value in found if value is not None), None)
        except Exception:  # damaged bytes are answered with any type of exception
            return None

    with quiet():
        return grid_of_dicom(get)


def _without_names(ds: Dataset) -> None:
    """Refuse what may have identifying text in its pixels."""
    said = ds.get("BurnedInAnnotation") or "NO"
    if said == "YES":
        raise UnreadableImage(
            "expected no identifying text burned into the image, got BurnedInAnnotation YES"
        )
    if said != "NO":
        raise UnreadableImage("expected BurnedInAnnotation of YES or NO, got another value")


def load(path: Path) -> Dataset:
    """The data set of an image, checked; those read last are kept.

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
        _check(ds, _name(kind))
    return ds


def _check(ds: Dataset, name: str) -> None:
    """Whether a data set is an image that can be decoded; it gets the syntax that it lacks."""
    if name != UNKNOWN and "Image Storage" not in name:
        raise UnreadableImage(f"expected an image, got {name}")
    if "Rows" not in ds or "PixelData" not in ds:
        raise UnreadableImage(f"expected pixel data, got none ({name}, or truncated)")
    if ds.PhotometricInterpretation not in (*GREYS, *colour.COLOURS):
        raise UnreadableImage("expected a grey, RGB, YBR or palette image, got another")
    h, w, bits = int(ds.Rows), int(ds.Columns), int(ds.BitsAllocated)
    if h < 1 or w < 1:
        raise UnreadableImage(f"expected an image with pixels, got {h} x {w}")
    if bits not in BITS:
        raise UnreadableImage(f"expected pixels of 1, 8, 16 or 32 bits, got {bits}")
    if "TransferSyntaxUID" not in ds.file_meta:
        if ds["PixelData"].is_undefined_length:
            raise UnreadableImage("expected a transfer syntax for compressed pixels, got none")
        implicit, little = ds.original_encoding  # what pydicom found it to be
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    syntax = ds.file_meta.TransferSyntaxUID
    if not decodable(syntax):
        raise UnreadableImage(f"transfer syntax is not supported ({_name(syntax)})")


def is_colour(ds: Dataset) -> bool:
    """Whether an image has three channels."""
    return ds.PhotometricInterpretation in colour.COLOURS


def stored_values(ds: Dataset, frame: int) -> np.ndarray:
    """The stored values of a frame (H, W); samples (H, W, 3) of red, green and blue.

    Raises:
        UnreadableImage: The pixel data cannot be decoded.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        with quiet():
            stored = decode_frame(ds, frame)
    except UnreadableImage:
        raise
    except Exception as error:
        if not syntax.is_compressed and "less than expected" in str(error):
            raise UnreadableImage("truncated") from error
        raise UnreadableImage(f"pixel data cannot be decoded ({_name(syntax)})") from error
    if stored.ndim != 2 and not (stored.ndim == 3 and is_colour(ds)):
        raise UnreadableImage("damaged DICOM header")
    return stored


def _meaning(ds: Dataset, frame: int, stored: np.ndarray) -> np.ndarray:
    """The values of a grey frame after the modality LUT, float64 (H, W)."""
    values = modality.apply(ds, frame, stored)
    if not np.isfinite(values).all():
        raise UnreadableImage("expected finite pixels after rescaling, found NaN or inf")
    return values


def _default(path: Path, ds: Dataset, frame: int) -> tuple[float, float]:
    """The ends of the window of a frame that brings none."""
    plain = not ds.PixelRepresentation and not ds.get("ModalityLUTSequence")
    if int(ds.BitsStored) <= 8 and plain:
        return modality.bounds(ds, frame)
    return _robust(path, _stamp(path), modality.unit(ds, frame))


@lru_cache(maxsize=1000)
def _robust(path: Path, stamp: tuple[int, int], unit: str) -> tuple[float, float]:
    """The percentiles of the frames in a unit, without padding."""
    ds = load(path)
    frames = range(int(ds.get("NumberOfFrames") or 1))
    if ds.get("PerFrame" + GROUPS):
        frames = [k for k in frames if modality.unit(ds, k) == unit]
    chosen = sorted(set(np.linspace(0, len(frames) - 1, SAMPLED).round().astype(int).tolist()))
    every, inside = [], []
    for k in chosen:
        stored = stored_values(ds, frames[k])
        every.append(_meaning(ds, frames[k], stored).ravel())
        inside.append(every[-1][~modality.padding(ds, stored).ravel()])
    values = np.concatenate(inside)
    return robust_range(values if values.size else np.concatenate(every))


def _name(uid: UID) -> str:
    """What the standard calls a UID; those that it does not know stay here."""
    return UNKNOWN if uid.name == uid else uid.name


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Any exception, which may quote what a file says, becomes UnreadableImage with this reason.

    A disk that is full is no fault of the file.
    """
    try:
        with quiet():
            yield
    except UnreadableImage:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise UnreadableImage(reason) from error

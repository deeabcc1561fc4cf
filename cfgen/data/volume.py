"""A NIfTI file as a grey volume in memory, checked, its values exactly those of the file."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from cfgen.data.quiet import quiet
from cfgen.data.raster import UnreadableImage, check_pixels
from cfgen.data.window import robust_range

KEPT = 3  # volumes in memory: a source, its mask, and what is written of it
WHOLE = 2**53  # float64 holds the integers up to it

# nibabel repairs headers and says so on a handler of its own.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


class Volume(NamedTuple):
    """A volume in memory: the image, its values (I, J, K) and the ends of its window.

    The values are float32 where that holds those of the file exactly, else float64.
    """

    image: Any
    values: np.ndarray
    limits: tuple[float, float]


def load(path: Path, part: int | None = None, max_pixels: int | None = None) -> Volume:
    """The volume of a file, checked; those read last are kept.

    Args:
        path: The file.
        part: Which of the volumes of a 4-D file; a 3-D file is the same for all.
        max_pixels: A volume with more in its largest slice is refused.

    Raises:
        UnreadableImage: It is no grey volume, or it is 4-D and no part is named.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise UnreadableImage("no such file") from error
    if max_pixels is not None:
        check_pixels(_largest(path), max_pixels)
    return _load(path, part, (stat.st_mtime_ns, stat.st_size))


def _largest(path: Path) -> tuple[int, int]:
    """The size of the largest slice, from the header; (0, 0) where it cannot be read."""
    try:
        with quiet():
            image: Any = nib.load(path)
            small, large = sorted(image.shape[:3])[-2:]
    except Exception:  # reading it says what is wrong
        return 0, 0
    return small, large


@lru_cache(maxsize=KEPT)
def _load(path: Path, part: int | None, stamp: tuple[int, int]) -> Volume:
    if not stamp[1]:
        raise UnreadableImage("file is empty")
    try:
        with quiet():
            image = nib.load(path)
    except Exception as error:  # nibabel quotes the path
        raise UnreadableImage("not a NIfTI file, or its header is damaged") from error
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 is one as well; CIFTI is not
        raise UnreadableImage("expected a NIfTI volume, got another kind of file")
    shape, kind = image.shape, np.dtype(image.header.get_data_dtype())
    stored: Any = image.dataobj
    if 0 in shape:
        raise UnreadableImage(f"expected a volume with voxels, got {shape}")
    further = [n for n in shape[3:] if n > 1]
    if len(further) > 1:
        raise UnreadableImage(f"expected a volume of 3 or 4 dimensions, got {shape}")
    if further and (part is None or part >= further[0]):
        found = "none" if part is None else part
        raise UnreadableImage(
            f"expected --volume 0 to {further[0] - 1} for a 4-D file of {shape}, got {found}"
        )
    chosen = (..., *(part if n > 1 else 0 for n in shape[3:]))
    shape = (*shape[:3], *(1,) * (3 - len(shape)))
    if kind.kind not in "uif":
        raise UnreadableImage(f"expected grey voxels, got {'colour' if kind.names else kind}")
    affine: Any = image.affine
    if not np.isfinite(affine).all():
        raise UnreadableImage("expected a finite affine, found NaN or inf")
    try:
        with quiet():
            values = _exact(stored[chosen], kind).reshape(shape)
            full = kind == np.uint8 and (stored.slope, stored.inter) == (1, 0)
            image = type(image)(values, affine, image.header)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage("truncated or damaged") from error
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if not (np.isfinite([low, high]).all() and low < high):
        finite = values[np.isfinite(values)]
        low, high = (0.0, 255.0) if full or not finite.size else robust_range(finite)
    return Volume(image, values, (low, high))


def _exact(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Values of a stored kind as float32 where that holds them, else as float64.

    Raises:
        UnreadableImage: Float64 does not hold them.
    """
    if kind.itemsize < 4 or kind == np.float32:
        return values.astype(np.float32)
    wide = values.astype(np.float64)
    if values.dtype.kind in "ui" and (values.min() < -WHOLE or values.max() > WHOLE):
        raise UnreadableImage("expected whole numbers up to 2^53, got larger ones")
    narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow, wide, equal_nan=True) else wide


def check_grid(mask: Path, path: Path, part: int | None = None) -> None:
    """Check that a mask lies on the grid of its volume.

    Raises:
        UnreadableImage: Its shape or affine is another, or one of them cannot be read.
    """
    grid, image = load(mask, part).image, load(path, part).image
    same = grid.shape == image.shape and np.allclose(grid.affine, image.affine, atol=1e-2)
    if not same:
        raise UnreadableImage("expected a mask on the grid of its volume, got another grid")

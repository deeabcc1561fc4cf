"""NIfTI volumes: slices by axis and index, upright as radiologists hang them, and back."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from cfgen.data.quiet import quiet
from cfgen.data.raster import MAX_PIXELS, UnreadableImage, check_pixels
from cfgen.data.window import Plane, Window, robust_range

SUFFIXES = (".nii", ".nii.gz")
KEPT = 3  # volumes in memory: a source, its mask, and what is written of it
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the world axis that a slice is cut across

# nibabel repairs headers and says so on a handler of its own.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


class View(NamedTuple):
    """How slices are hung: superior or anterior up, the patient's right or front on the left.

    Attributes:
        axis: Axis of the array that the slices are cut across.
        transpose: Whether the two others change places.
        flip: Which of the two, then, run backwards.
    """

    axis: int
    transpose: bool
    flip: tuple[int, ...]

    def hang(self, plane: np.ndarray) -> np.ndarray:
        """A slice of the array as it is shown."""
        return np.flip(plane.T if self.transpose else plane, self.flip)

    def take_down(self, plane: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`hang`."""
        plane = np.flip(plane, self.flip)
        return plane.T if self.transpose else plane


class Volume(NamedTuple):
    """A volume in memory: the image, its values (I, J, K) and the ends of its window."""

    image: Any
    values: np.ndarray
    limits: tuple[float, float]


def slices(path: Path, axis: str, max_pixels: int = MAX_PIXELS) -> list[int]:
    """Indices of the slices across an axis that hold more than one value; [0] if unreadable.

    Args:
        path: The file.
        axis: axial, coronal, sagittal, or the axis 0, 1, 2 of the array.
        max_pixels: A volume with more in a slice counts as unreadable.
    """
    try:
        volume = load(path, max_pixels)
        across = np.moveaxis(volume.values, view(volume.image.affine, axis).axis, 0)
        flat = across.reshape(len(across), -1)
        return np.flatnonzero(flat.min(1) != flat.max(1)).tolist() or [0]
    except UnreadableImage:
        return [0]


def depth(path: Path, axis: str, max_pixels: int = MAX_PIXELS) -> int:
    """Number of slices across an axis; 1 if unreadable."""
    try:
        volume = load(path, max_pixels)
        return volume.values.shape[view(volume.image.affine, axis).axis]
    except UnreadableImage:
        return 1


def read(
    path: Path,
    index: int,
    axis: str,
    *,
    limits: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Plane:
    """Read one slice.

    Args:
        path: The file.
        index: Index along the axis, from 0.
        axis: axial, coronal, sagittal (the axis of the array closest to it), or 0, 1, 2.
        limits: Lowest and highest value of the window; None takes cal_min and cal_max of the file
            where they are set; else the full scale of unsigned 8 bit, or the percentiles 0.5 and
            99.5 of the volume.
        max_pixels: A volume with more in its largest slice is refused.

    Returns:
        The slice, upright, in the values of the file (its scaling applied), voxel by voxel: where
        voxels are no cubes its aspect is not that of the body.

    Raises:
        UnreadableImage: It is no grey volume that can be read; the message quotes nothing of the
            file.
    """
    volume = load(path, max_pixels)
    plane = view(volume.image.affine, axis)
    if not 0 <= index < volume.values.shape[plane.axis]:
        raise UnreadableImage(
            f"expected a slice below {volume.values.shape[plane.axis]}, got {index}"
        )
    values = plane.hang(volume.values.take(index, plane.axis)).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("expected finite voxels, found NaN or inf")
    return Plane(values, Window(*(limits or volume.limits)))


def write(
    out: Path, source: Path, index: int, axis: str, plane: Plane, *, keep_ids: bool = False
) -> None:
    """Write a slice as a volume of one slice in the place of its source, float32.

    Args:
        out: The file, .nii or .nii.gz.
        source: Where the geometry comes from: the slice keeps its forms, each with its code.
        index: Index of the slice in the source.
        axis: As it was read.
        plane: Its values and window, which becomes cal_min and cal_max.
        keep_ids: Keep the header's text and extensions.
    """
    image = load(source).image
    hung = view(image.affine, axis)
    header = image.header.copy()
    _move(header, image.affine, hung.axis, index)
    values = np.expand_dims(hung.take_down(plane.values), hung.axis).astype(np.float32)
    header.set_data_dtype(np.float32)
    header["cal_min"], header["cal_max"] = plane.window.low, plane.window.high
    if not keep_ids:
        header.extensions.clear()
        fields = header.structarr.dtype
        for name in fields.names or ():
            if fields[name].kind == "S" and name != "magic":
                header[name] = b""
    header["descrip"] = b"synthetic counterfactual, not for diagnosis"
    with quiet():
        nib.save(type(image)(values, None, header), out)


def _move(header: Any, affine: np.ndarray, axis: int, index: int) -> None:
    """Multiply each form of a header by the translation to a slice, in place; codes stay.

    A header without a form gets ``affine``, aligned: a slice alone would be put at its own centre.
    """
    step = np.eye(4)
    step[axis, 3] = index
    sform, _ = header.get_sform(coded=True)
    try:
        qform, _ = header.get_qform(coded=True)
    except ValueError:  # no unit quaternion, beside an sform
        qform, header["qform_code"] = None, 0
    if sform is None and qform is None:
        sform = affine
    if sform is not None:
        header.set_sform(sform @ step)
    if qform is not None:
        header.set_qform(qform @ step)


def check_grid(mask: Path, path: Path) -> None:
    """Check that a mask lies on the grid of its volume.

    Raises:
        UnreadableImage: Its shape or affine is another, or one of them cannot be read.
    """
    grid, image = load(mask).image, load(path).image
    same = grid.shape == image.shape and np.allclose(grid.affine, image.affine, atol=1e-2)
    if not same:
        raise UnreadableImage("expected a mask on the grid of its volume, got another grid")


def view(affine: np.ndarray, axis: str) -> View:
    """How to cut and hang the slices of a volume with this affine.

    Raises:
        UnreadableImage: The affine is singular.
    """
    world, direction = io_orientation(affine).T
    if np.isnan(world).any():
        raise UnreadableImage("expected an affine of full rank, got a singular one")
    across = int(axis) if axis in ("0", "1", "2") else world.tolist().index(AXES[axis])
    first, second = (a for a in range(3) if a != across)
    # World axes point right, anterior, superior. Rows run along the later of the two, and both
    # start at its far end: superior or anterior above, the patient's right or front left.
    transpose = bool(world[first] < world[second])
    shown = (second, first) if transpose else (first, second)
    return View(across, transpose, tuple(i for i, a in enumerate(shown) if direction[a] > 0))


def load(path: Path, max_pixels: int | None = None) -> Volume:
    """The volume of a file, checked; those read last are kept.

    Raises:
        UnreadableImage: It is no grey volume, or has more than ``max_pixels`` in a slice.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise UnreadableImage("no such file") from error
    if max_pixels is not None:
        check_pixels(_largest(path), max_pixels)
    return _load(path, (stat.st_mtime_ns, stat.st_size))


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
def _load(path: Path, stamp: tuple[int, int]) -> Volume:
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
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape += (1,) * (3 - len(shape))
    if len(shape) != 3:
        raise UnreadableImage(f"expected a volume of 3 dimensions, got {len(shape)}: {shape}")
    if kind.kind not in "uif":
        raise UnreadableImage(f"expected grey voxels, got {'colour' if kind.names else kind}")
    if min(shape) < 1:
        raise UnreadableImage(f"expected a volume with voxels, got {shape}")
    try:
        with quiet():
            values = np.asarray(stored, np.float32).reshape(shape)
            full = kind == np.uint8 and (stored.slope, stored.inter) == (1, 0)
            image = type(image)(values, image.affine, image.header)
    except Exception as error:
        raise UnreadableImage("truncated or damaged") from error
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if not (np.isfinite([low, high]).all() and low < high):
        finite = values[np.isfinite(values)]
        low, high = (0.0, 255.0) if full or not finite.size else robust_range(finite)
    return Volume(image, values, (low, high))

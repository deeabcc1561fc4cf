"""NIfTI volumes: slices by axis and index, upright as radiologists hang them, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from cfgen.data.grid import Grid, sides_of
from cfgen.data.quiet import quiet
from cfgen.data.raster import MAX_PIXELS, UnreadableImage
from cfgen.data.volume import load
from cfgen.data.window import Plane, Window

SUFFIXES = (".nii", ".nii.gz")
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the world axis that a slice is cut across
MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}


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

    @property
    def shown(self) -> tuple[int, int]:
        """Axes of the array that run along the columns and along the rows of a slice."""
        first, second = (a for a in range(3) if a != self.axis)
        return (second, first) if self.transpose else (first, second)

    def hang(self, plane: np.ndarray) -> np.ndarray:
        """A slice of the array as it is shown."""
        return np.flip(plane.T if self.transpose else plane, self.flip)

    def take_down(self, plane: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`hang`."""
        plane = np.flip(plane, self.flip)
        return plane.T if self.transpose else plane


def slices(
    path: Path, axis: str, part: int | None = None, max_pixels: int = MAX_PIXELS
) -> list[int]:
    """Indices of the slices across an axis that hold more than one value; [0] if unreadable.

    Args:
        path: The file.
        axis: axial, coronal, sagittal, or the axis 0, 1, 2 of the array.
        part: Which of the volumes of a 4-D file.
        max_pixels: A volume with more in a slice counts as unreadable.
    """
    try:
        volume = load(path, part, max_pixels)
        across = np.moveaxis(volume.values, view(volume.image.affine, axis).axis, 0)
        flat = across.reshape(len(across), -1)
        return np.flatnonzero(flat.min(1) != flat.max(1)).tolist() or [0]
    except UnreadableImage:
        return [0]


def depth(path: Path, axis: str, part: int | None = None, max_pixels: int = MAX_PIXELS) -> int:
    """Number of slices across an axis; 1 if unreadable."""
    try:
        volume = load(path, part, max_pixels)
        return volume.values.shape[view(volume.image.affine, axis).axis]
    except UnreadableImage:
        return 1


def read(
    path: Path,
    index: int,
    axis: str,
    *,
    part: int | None = None,
    limits: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Plane:
    """Read one slice.

    Args:
        path: The file.
        index: Index along the axis, from 0.
        axis: axial, coronal, sagittal (the axis of the array closest to it), or 0, 1, 2.
        part: Which of the volumes of a 4-D file, from 0.
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
    volume = load(path, part, max_pixels)
    plane = view(volume.image.affine, axis)
    if not 0 <= index < volume.values.shape[plane.axis]:
        raise UnreadableImage(
            f"expected a slice below {volume.values.shape[plane.axis]}, got {index}"
        )
    values = plane.hang(volume.values.take(index, plane.axis)).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("expected finite voxels, found NaN or inf")
    low, high = limits or volume.limits
    if not 0 < high - low < np.inf:
        raise UnreadableImage("expected voxels that a window can hold, got one huge value or range")
    return Plane(values, Window(low, high), grid=_grid(volume.image, plane))


def _grid(image: Any, hung: View) -> Grid:
    """The grid of a slice as it is hung.

    Without an sform and a qform no one said which side is which, nor that lengths are in mm where
    the unit is unknown, too.
    """
    rows, columns = hung.shown
    sizes = voxel_sizes(image.affine)
    height, width = float(sizes[rows]), float(sizes[columns])
    header = image.header
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:  # a code that stands for none
        unit = "unknown"
    placed = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
    if not placed:
        known = unit != "unknown"
        spacing = (height * MILLIMETRES[unit], width * MILLIMETRES[unit]) if known else None
        return Grid(height / width, spacing)
    across, down = (
        image.affine[:3, a] * [-1, -1, 1] * (-1 if i in hung.flip else 1)
        for a, i in ((columns, 1), (rows, 0))
    )
    scale = MILLIMETRES[unit]
    return Grid(height / width, (height * scale, width * scale), sides=sides_of(across, down))


def write(
    out: Path,
    source: Path,
    index: int,
    axis: str,
    plane: Plane,
    *,
    part: int | None = None,
    keep_ids: bool = False,
) -> None:
    """Write a slice as a volume of one slice in the place of its source, in floating point.

    Args:
        out: The file, .nii or .nii.gz.
        source: Where the geometry comes from: the slice keeps its forms, each with its code.
        index: Index of the slice in the source.
        axis: As it was read.
        plane: Its values and window, which becomes cal_min and cal_max.
        part: Which of the volumes of a 4-D source.
        keep_ids: Keep the header's text and extensions.
    """
    image, read, _ = load(source, part)
    hung = view(image.affine, axis)
    header = image.header.copy()
    _move(header, image.affine, hung.axis, index)
    values = np.expand_dims(hung.take_down(plane.values), hung.axis).astype(read.dtype)
    header.set_data_dtype(read.dtype)
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
    hung = View(across, bool(world[first] < world[second]), ())
    return hung._replace(flip=tuple(i for i, a in enumerate(hung.shown) if direction[a] > 0))

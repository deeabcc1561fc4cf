"""The mask of an item, on the very grid of its image or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom import Dataset
from torch import Tensor

from cfgen.data import dicom
from cfgen.data.decode import file_bytes, upright
from cfgen.data.folder import Item
from cfgen.data.kinds import count, kind_of, page_of
from cfgen.data.modality import places
from cfgen.data.picture import read_plane, square
from cfgen.data.raster import UnreadableImage, check_pixels
from cfgen.data.read import fit_mask, read_mask
from cfgen.data.volume import check_grid, load

CLOSE = 0.1  # pixels by which a voxel of a mask may miss the pixel of its image


def read_item_mask(
    item: Item, size: tuple[int, int] | None = None, *, keep_aspect: bool = True
) -> Tensor | None:
    """Read the mask of an item: a picture, or the same slice or frame of a medical file.

    A mask is never fitted to another grid. It has the size of its image, as it is shown, and as
    many frames, slices or pages; of a NIfTI mask those voxels are taken that lie on the pixels of a
    DICOM image. What DICOM files store is taken as it is, without rescaling.

    Args:
        item: Whose mask.
        size: (H, W) in pixels; None keeps the size of the file.
        keep_aspect: As for the image.

    Returns:
        bool (H, W), True where it is not 0; None where the item has no mask.

    Raises:
        UnreadableImage: The file cannot be read, or lies on another grid than its image.
    """
    if item.mask is None:
        return None
    kind = kind_of(item.mask)
    if kind == "nifti":
        return _fitted(item, _nifti(item, item.mask), size, keep_aspect)
    own, found = (
        count(path, k, item.axis, item.volume, item.max_pixels)
        for path, k in ((item.path, item.kind), (item.mask, kind))
    )
    if own != found or (item.kind == "nifti" and own > 1):
        raise UnreadableImage(
            "expected a mask with the frames or slices of its image, "
            f"{own} of {item.kind}, got {found} of {kind}"
        )
    mask = _dicom(item, item.mask) if kind == "dicom" else _picture(item, item.mask)
    return _fitted(item, mask, size, keep_aspect)


def _fitted(item: Item, mask: Tensor, size: tuple[int, int] | None, keep_aspect: bool) -> Tensor:
    """Make a mask square, pad and resize it as its image is, to the nearest pixel."""
    if item.kind != "picture" and keep_aspect and size is not None:
        aspect = read_plane(item).grid.aspect
        mask = square(mask[None].byte(), aspect, mode="nearest-exact")[0] > 0
    return fit_mask(mask, size, keep_aspect=keep_aspect)


def _picture(item: Item, path: Path) -> Tensor:
    page = page_of(path, item.index)
    shape, turn = upright(file_bytes(path), page)
    own = _shape(item)
    _check_shape(own, shape)
    if item.kind == "picture":
        turned = upright(file_bytes(item.path), page_of(item.path, item.index))[1]
        # Drawn on the picture as it is stored, or as it is shown? Only its sides can tell.
        told = (turn > 4) != (turned > 4) and own[0] != own[1]
        if turn != turned and not told:
            raise UnreadableImage(
                f"expected a mask with the EXIF orientation of its image, {turned}, got {turn}"
            )
    return read_mask(path, page=page, max_pixels=item.max_pixels)


def _dicom(item: Item, path: Path) -> Tensor:
    ds = dicom.load(path)
    shape = int(ds.Rows), int(ds.Columns)
    check_pixels(shape, item.max_pixels)
    _check_shape(_shape(item), shape)
    if dicom.is_colour(ds):
        raise UnreadableImage("expected a grey mask, got colours")
    if item.kind == "dicom":
        own, found = (_affine(d, item.index) for d in (dicom.load(item.path), ds))
        if own is not None and found is not None:
            corners = np.array([[0, 0, 1], [0, shape[1], 1], [shape[0], 0, 1]])
            apart = np.abs((own - found) @ corners.T).max()
            if apart > CLOSE * np.linalg.norm(own[:, :2], axis=0).min():
                raise UnreadableImage(
                    "expected a mask in the plane of its image, got another plane"
                )
    return torch.from_numpy(dicom.stored_values(ds, item.index) != 0)


def _nifti(item: Item, path: Path) -> Tensor:
    if item.kind == "nifti":
        check_grid(path, item.path, item.volume)
        return torch.from_numpy(read_plane(replace(item, path=path)).values != 0)
    if item.kind == "picture":
        raise UnreadableImage("expected a picture as the mask of a picture, got a NIfTI volume")
    ds = dicom.load(item.path)
    pixels = _affine(ds, item.index)
    if pixels is None:
        raise UnreadableImage("expected an image that says where it lies, for a NIfTI mask")
    volume = load(path, item.volume, item.max_pixels)
    h, w = int(ds.Rows), int(ds.Columns)
    rows, columns = np.mgrid[:h, :w].reshape(2, -1)
    try:
        inverse = np.linalg.inv(volume.image.affine)
    except np.linalg.LinAlgError as error:
        raise UnreadableImage("expected an affine of full rank, got a singular one") from error
    found = inverse[:3, :3] @ (pixels @ np.stack([rows, columns, np.ones_like(rows)]))
    found += inverse[:3, 3:]
    voxels = found.round().astype(int)
    inside = (voxels >= 0).all() and (voxels.max(1) < volume.values.shape).all()
    if not inside or np.abs(found - voxels).max() > CLOSE:
        raise UnreadableImage("expected a mask on the grid of its image, got another grid")
    return torch.from_numpy(volume.values[tuple(voxels)].reshape(h, w) != 0)


def _shape(item: Item) -> tuple[int, int]:
    """The size (H, W) of an item's image."""
    if item.kind == "picture":
        return upright(file_bytes(item.path), page_of(item.path, item.index))[0]
    if item.kind == "dicom":
        ds = dicom.load(item.path)
        return int(ds.Rows), int(ds.Columns)
    h, w = read_plane(item).values.shape
    return h, w


def _check_shape(own: tuple[int, int], found: tuple[int, int]) -> None:
    if own != found:
        raise UnreadableImage(
            f"expected a mask of the size of its image, {own[0]} x {own[1]}, "
            f"got {found[0]} x {found[1]}"
        )


def _affine(ds: Dataset, frame: int) -> np.ndarray | None:
    """A frame's (row, column, 1) to millimetres right, anterior, superior; None if it is not said.

    Reference:
        DICOM PS3.3 C.7.6.2.1.1.
    """
    try:
        position, orientation, spacing = (
            np.asarray(_said(ds, frame, keyword, group), float)
            for keyword, group in (
                ("ImagePositionPatient", "PlanePositionSequence"),
                ("ImageOrientationPatient", "PlaneOrientationSequence"),
                ("PixelSpacing", "PixelMeasuresSequence"),
            )
        )
        across, down = orientation.reshape(2, 3)
        affine = np.stack([down * spacing[0], across * spacing[1], position], 1)
    except Exception:  # nothing is there, or damaged bytes
        return None
    return affine * [[-1], [-1], [1]] if np.isfinite(affine).all() else None


def _said(ds: Dataset, frame: int, keyword: str, group: str) -> Any:
    """A value that may stand with the frame, with all frames or at the top; else None."""
    return next((p[keyword].value for p in places(ds, frame, group) if keyword in p), None)

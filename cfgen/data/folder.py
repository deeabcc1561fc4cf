"""An images folder: a tree of image files, with an optional labels.csv beside them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from cfgen.data import nifti
from cfgen.data.kinds import count, kind_of
from cfgen.data.labels import read_labels
from cfgen.data.names import case_names, page_name, printable
from cfgen.data.raster import MAX_PIXELS
from cfgen.data.tree import image_files, skipped_line

KINDS = ("picture", "dicom", "nifti")


@dataclass(frozen=True)
class Item:
    """One image of a folder.

    Attributes:
        file: The path as results.csv shows it, POSIX, relative to the folder; of a medical file
            the stem again, unless names are kept.
        path: Where the file is, or should be.
        stem: Name of its case folder, unique in the folder, also where case does not count.
        label: What labels.csv says.
        mask: Where the mask is.
        patient: Whose image it is.
        split: The part of the data it belongs to.
        kind: "picture", "dicom" or "nifti".
        index: Frame or slice of a medical file, or page of a TIFF, from 0.
        axis: Axis of a NIfTI slice.
        volume: Which volume of a 4-D NIfTI file, from 0.
        opaque: Whether the names above hide those of the file.
        max_pixels: An image, slice or frame that has more is refused.
    """

    file: str
    path: Path
    stem: str
    label: str | None = None
    mask: Path | None = None
    patient: str | None = None
    split: str | None = None
    kind: str = "picture"
    index: int = 0
    axis: str = "axial"
    volume: int | None = None
    opaque: bool = False
    max_pixels: int = MAX_PIXELS


class ImageFolder(Sequence[Item]):
    """The images to explain: the rows of labels.csv, or else every image file of the tree, sorted.

    A file of several frames, slices or pages is as many items. A row whose file is missing stays an
    item: reading it says "no such file". Without a labels.csv hidden files and folders (a leading
    dot) are skipped, and so are run folders in it (``run.json`` beside ``cases``); DICOM files are
    known by their suffix or their content, and those of one series in a folder follow each other
    by instance number, or by position where that is missing. Items are made when they are asked
    for: millions of files fit into memory.

    Args:
        root: The folder, or a single DICOM or NIfTI file.
        labels: The labels file; None takes ``root/labels.csv`` if there is one. Its paths are
            relative to ``root``, its columns are file and, each optional, label, mask, patient and
            split.
        split: Keep the rows of this split.
        limit: Keep the first items only.
        axis: How NIfTI volumes are cut: axial, coronal, sagittal, or axis 0, 1, 2 of the array.
        volume: Which volume of a 4-D NIfTI file, from 0.
        slices: Which slices of a volume, frames of a DICOM file and pages of a TIFF; None takes all
            frames and pages, and the slices that hold more than one value.
        keep_ids: Show the names of DICOM and NIfTI files; else they are case-0001, ...
        max_pixels: An image, slice or frame that has more is refused when it is read.

    Attributes:
        skipped: How many files and folders of the tree were passed over, by reason.

    Raises:
        ValueError: The folder, the labels file, a column or the split is not there, labels.csv is
            damaged, there are no images, limit or max_pixels is less than 1 or volume less than 0.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | Path | None = None,
        split: str | None = None,
        limit: int | None = None,
        axis: str = "axial",
        volume: int | None = None,
        slices: slice | None = None,
        keep_ids: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        root = Path(root)
        single = root.is_file() and kind_of(root) != "picture"
        if not root.is_dir() and not single:
            found = "a file" if root.exists() else "no such folder"
            raise ValueError(f"expected a folder of images at '{root}', got {found}")
        if limit is not None and limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {limit}")
        if volume is not None and volume < 0:
            raise ValueError(f"expected a volume of at least 0, got {volume}")
        if max_pixels < 1:
            raise ValueError(f"expected max_pixels of at least 1, got {max_pixels}")
        if labels is None and (root / "labels.csv").is_file():
            labels = root / "labels.csv"
        self.skipped: dict[str, int] = {}
        if labels is not None:
            needed = ("file",) if split is None else ("file", "split")
            self._columns = read_labels(Path(labels), needed)
        elif split is not None:
            raise ValueError(f"expected a labels.csv in '{root}' for split '{split}', got none")
        elif single:
            self._columns = {"file": [root.name]}
        else:
            files, self.skipped = image_files(root)
            self._columns = {"file": files}
        if split is not None:
            given = self._columns["split"]
            names = list(dict.fromkeys(filter(None, given)))
            if split not in names:
                raise ValueError(f"expected a split of {', '.join(names)}, got '{split}'")
            kept = [row for row, name in enumerate(given) if name == split]
            self._columns = {k: [v[row] for row in kept] for k, v in self._columns.items()}
        self._root = root.parent if single else root
        self._axis, self._volume = axis, volume
        self._keep_ids, self._max_pixels = keep_ids, max_pixels
        self._kinds = bytearray()  # of each file
        self._rows, self._indices = array("I"), array("I")  # of each item: its file and its slice
        for row, file in enumerate(self._columns["file"]):
            path = os.path.join(self._root, file)
            kind = kind_of(path)
            indices = _indices(path, kind, axis, volume, slices, max_pixels)
            self._kinds.append(KINDS.index(kind))
            self._rows.extend([row] * len(indices))
            self._indices.extend(indices)
        if not self._rows:
            raise ValueError("expected slices that are in the volumes, got none")
        # Named before the limit, so that a longer run finds the case folders of a shorter one.
        self._stems = self._names()
        self._length = min(limit or len(self._rows), len(self._rows))

    def __len__(self) -> int:
        """Number of items."""
        return self._length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        """The item at an index, or the items of a slice."""
        if isinstance(index, slice):
            return tuple(self[at] for at in range(self._length)[index])
        at = range(self._length)[index]
        row, stem = self._rows[at], self._stems[at]
        cell = {name: cells[row] or None for name, cells in self._columns.items()}
        file, mask, kind = self._columns["file"][row], cell.get("mask"), KINDS[self._kinds[row]]
        shown = printable(file)
        if self._is_opaque(row):
            shown = stem
        elif self._is_one_of_many(at):
            shown = f"{shown}#{self._indices[at]}"
        return Item(
            file=shown,
            path=self._root / file,
            stem=stem,
            label=cell.get("label"),
            mask=self._root / mask if mask else None,
            patient=cell.get("patient"),
            split=cell.get("split"),
            kind=kind,
            index=self._indices[at],
            axis=self._axis,
            volume=self._volume,
            opaque=self._is_opaque(row),
            max_pixels=self._max_pixels,
        )

    def skipped_line(self) -> str:
        """One line that says what was skipped; empty where nothing was."""
        return skipped_line(self.skipped)

    def _is_opaque(self, row: int) -> bool:
        return KINDS[self._kinds[row]] != "picture" and not self._keep_ids

    def _is_one_of_many(self, at: int) -> bool:
        """Whether the file of an item has other items, which stand beside it."""
        return self._rows[at] in (*self._rows[max(at - 1, 0) : at], *self._rows[at + 1 : at + 2])

    def _names(self) -> list[str]:
        """The name of each item's case folder."""
        hidden: list[str] = []
        files: list[str] = []
        for at, row in enumerate(self._rows):
            file = self._columns["file"][row]
            if self._is_opaque(row):
                hidden.append(f"case-{len(hidden) + 1:04d}")
            elif self._is_one_of_many(at):
                files.append(page_name(file, self._indices[at]))
            else:
                files.append(file.removesuffix(".gz"))
        opaque, shown = iter(hidden), iter(case_names(files, hidden))
        return [next(opaque if self._is_opaque(row) else shown) for row in self._rows]


def parse_slices(text: str) -> slice:
    """One index "12", or "START:STOP" and "START:STOP:STEP" as in Python.

    Raises:
        ValueError: The text is none of these.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None and parts[0] >= 0:
            return slice(parts[0], parts[0] + 1)
        if 2 <= len(parts) <= 3 and (len(parts) < 3 or parts[2] is None or parts[2] > 0):
            return slice(*parts)
    except ValueError:
        pass
    raise ValueError(f"expected slices such as 12 or 10:20, got '{text}'")


def _indices(
    path: str,
    kind: str,
    axis: str,
    volume: int | None,
    slices: slice | None,
    max_pixels: int,
) -> Sequence[int]:
    """The frames, slices or pages of a file; one that cannot be read has one."""
    if kind == "nifti" and slices is None:
        return nifti.slices(Path(path), axis, volume, max_pixels)
    number = count(path, kind, axis, volume, max_pixels)
    return range(number) if slices is None or number == 1 else range(number)[slices]

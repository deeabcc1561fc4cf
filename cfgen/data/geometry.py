"""What a case page shows of the place of a slice: its sides, its size, the slices beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from cfgen.data import nifti
from cfgen.data.folder import Item, kind_of
from cfgen.data.series import Outline, in_order, outline
from cfgen.data.window import Picture, Window
from cfgen.data.written import to_image

REACH = 3  # slices on either side
SIDE = 256  # longest side of the picture of a neighbour, in pixels
QUALITY = 80


Reader = Callable[[Item], Picture]


def write_geometry(item: Item, picture: Picture, folder: Path, read: Reader | None) -> None:
    """Write geometry.json of a case, and the pictures of the slices beside it.

    It has what there is of these: ``mm_per_pixel``, from row to row and from column to column, and
    where that is ``measured`` ("detector" or "film"; "" in the patient); the letters of the
    ``sides``; and the ``neighbours``, of ``offset`` -3 to 3 slices in reading order, each a
    ``file`` in the case folder.

    Args:
        item: The slice.
        picture: As it was read.
        folder: The case folder.
        read: How the images of the run are read; None leaves the neighbours out.
    """
    told: dict[str, Any] = {}
    grid = picture.grid
    if grid.spacing is not None:
        told |= {"mm_per_pixel": list(grid.spacing), "measured": grid.measured}
    if grid.sides is not None:
        told["sides"] = grid.sides._asdict()
    near = []
    for offset, neighbour in neighbours(item) if read is not None else ():
        other = _beside(read, neighbour)
        # A series may hold slices of other orientations, a scout for example.
        if other is not None and other.grid == grid and other.x.shape == picture.x.shape:
            near.append({"offset": offset, "file": _save(other, picture, offset, folder)})
    if near:
        told["neighbours"] = near
    if told:
        (folder / "geometry.json").write_text(json.dumps(told) + "\n")


@lru_cache(maxsize=2 * REACH + 2)  # the next slice of a series has most of them in common
def _beside(read: Reader, item: Item) -> Picture | None:
    try:
        return read(item)
    except Exception:  # whatever is wrong with it must not cost the case
        return None


def neighbours(item: Item) -> Iterator[tuple[int, Item]]:
    """Slices beside an item, with their distance in reading order: of its volume or its series.

    They are found on the disk, whether they are explained or not.
    """
    own = outline(item.path) if item.kind == "dicom" else Outline()
    places: list[tuple[Path, int]] = []
    if item.kind == "nifti":
        depth = nifti.depth(item.path, item.axis, item.volume)
        places = [(item.path, index) for index in range(depth)]
    elif own.frames > 1:
        places = [(item.path, index) for index in range(own.frames)]
    elif own.series:
        folder = item.path.parent
        files = _series(folder, folder.stat().st_mtime_ns).get(own.series, [])
        places = [(folder / file, 0) for file in files]
    here = (item.path, item.index)
    if here not in places:
        return
    at = places.index(here)
    for offset in range(-REACH, REACH + 1):
        if offset and 0 <= at + offset < len(places):
            path, index = places[at + offset]
            same = {"kind": item.kind, "axis": item.axis, "volume": item.volume}
            yield offset, Item("", path, "", index=index, opaque=item.opaque, **same)


@lru_cache(maxsize=2)
def _series(folder: Path, stamp: int) -> dict[str, list[str]]:
    """The single-frame files of each series in a folder, in reading order."""
    found: dict[str, dict[str, Outline]] = {}
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith(".") and kind_of(path) == "dicom":
            place = outline(path)
            if place.frames == 1:
                found.setdefault(place.series, {})[path.name] = place
    return {series: in_order(outlines) for series, outlines in found.items()}


def _save(other: Picture, picture: Picture, offset: int, folder: Path) -> str:
    """Write a neighbour in the window of the case; returns its name there."""
    side = "before" if offset < 0 else "after"
    name = f"neighbours/{side}-{abs(offset)}.webp"
    (folder / "neighbours").mkdir(parents=True, exist_ok=True)
    image = to_image(_seen(other, picture.window))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(folder / name, quality=QUALITY)
    return name


def _seen(other: Picture, window: Window | None) -> Tensor:
    """A picture as another window shows it, as far as its own kept the values."""
    if window is None or other.window is None or other.window == window:
        return other.x
    values = other.window.low + other.x * (other.window.high - other.window.low)
    return ((values - window.low) / (window.high - window.low)).clamp(0, 1)

"""The slices of a series in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydicom import dcmread

from cfgen.data.grid import along_normal
from cfgen.data.quiet import quiet

MAX_FRAMES = 100_000  # more is damage, and would fill the memory with items
PLACE = "ImageOrientationPatient", "ImagePositionPatient"
ORDER = ["SeriesInstanceUID", "InstanceNumber", "NumberOfFrames", *PLACE]


class Outline(NamedTuple):
    """What a file says of its place in reading order.

    Attributes:
        series: SeriesInstanceUID, "" if it has none or cannot be read: reading says what is wrong.
        number: InstanceNumber, None if it has none that is a number.
        along: Millimetres along the normal of the slice, None if it has no place.
        frames: How many frames it has.
    """

    series: str = ""
    number: int | None = None
    along: float | None = None
    frames: int = 1


def outline(path: Path) -> Outline:
    """Where a file belongs, and how many frames it has."""
    try:
        with quiet():
            ds = dcmread(path, force=True, stop_before_pixels=True, specific_tags=ORDER)
    except Exception:  # damaged bytes are answered with any type of exception
        return Outline()

    def get(keyword: str, kind: Callable[[Any], Any]) -> Any:
        try:
            with quiet():
                value = ds.get(keyword)
                return None if value is None else kind(value)
        except Exception:
            return None

    frames = get("NumberOfFrames", int) or 1
    return Outline(
        series=get("SeriesInstanceUID", str) or "",
        number=get("InstanceNumber", int),
        along=along_normal(*(get(keyword, list) for keyword in PLACE)),
        frames=frames if 0 < frames <= MAX_FRAMES else 1,
    )


def in_order(outlines: Mapping[str, Outline]) -> list[str]:
    """The files of one series by instance number.

    Where a number is missing or there twice they go by their place along the normal of the slices,
    from the feet to the head, the right to the left or the front to the back; where that is not
    known of all, by number and name.

    Args:
        outlines: What each file says of its place.
    """
    numbers = [outline.number for outline in outlines.values()]
    counted = None not in numbers and len(set(numbers)) == len(numbers)
    placed = all(outline.along is not None for outline in outlines.values())

    def key(file: str) -> tuple[float, float, str]:
        _, number, along, _ = outlines[file]
        # Positions of one place differ by what a decimal string rounds off.
        return round(along or 0, 3) if placed and not counted else 0, number or 0, file

    return sorted(outlines, key=key)

"""Pixels as a file stores them, before they are scaled, and what is wrong with a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_PIXELS = 100_000_000  # 10,000 x 10,000; as 8-bit colour 400 MB while it is read


class UnreadableImage(ValueError):
    """A file is no image that can be read; the message is the reason, one line, without a path."""


@dataclass(frozen=True)
class Raster:
    """The pixels of a file as it stores them, upright.

    Attributes:
        shape: (H, W).
        rows: Pixels (n, W, C) of the rows from one to before another, so that a large picture never
            stands in memory twice; C is 1 for grey, 3 for RGB, one more with straight alpha.
        full: What 1 is stored as; None where the type has no scale.
        found: What the type is, where it has no scale.
        span: Lowest and highest pixel of a type that is not in use as a whole.
        lossy: Whether black need not be exactly 0.
    """

    shape: tuple[int, int]
    rows: Callable[[int, int], np.ndarray]
    full: float | None
    found: str = ""
    span: tuple[float, float] | None = None
    lossy: bool = False

    def check_scale(self) -> None:
        """Check that the pixels are an image over their full scale.

        Raises:
            UnreadableImage: They have no scale, or are off it.
        """
        if self.full is None:
            raise UnreadableImage(f"expected bool, uint8, uint16 or float pixels, got {self.found}")
        if self.span and not 0 <= self.span[0] <= self.span[1] <= self.full:
            kind = "float pixels" if self.full == 1 else "integers"
            low, high = self.span
            raise UnreadableImage(f"expected {kind} in [0, {self.full:g}], got [{low:g}, {high:g}]")


def check_pixels(shape: tuple[int, int], max_pixels: int) -> None:
    """Check the size of an image (h, w).

    Raises:
        UnreadableImage: It has more than ``max_pixels``.
    """
    if shape[0] * shape[1] > max_pixels:
        raise UnreadableImage(
            f"expected at most {max_pixels} pixels (--max-pixels), got {shape[0]} x {shape[1]}"
        )


def whole(array: np.ndarray, full: float | None) -> Raster:
    """The raster of an array (H, W, C) and its full scale.

    Raises:
        UnreadableImage: It holds NaN or inf.
    """
    span = None
    if array.dtype.kind in "if":
        span = float(array.min()), float(array.max())
        if not np.isfinite(span).all():
            found = "NaN" if np.isnan(span).any() else "inf"
            raise UnreadableImage(f"expected finite pixels, found {found}")
    shape = array.shape[:2]
    return Raster(shape, lambda a, b: array[a:b], full, str(array.dtype), span)

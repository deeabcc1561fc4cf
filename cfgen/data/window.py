"""The window: which physical values the 0 and the 1 of an image stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cfgen.data.grid import Grid

TAIL = 0.5  # percent of the pixels that the default window leaves out at either end


@dataclass(frozen=True)
class Window:
    """Values low + x (high - low) for an image x in [0, 1].

    Attributes:
        low: What 0 stands for.
        high: What 1 stands for; below ``low`` where the file shows large values dark.
        unit: Of both, "HU" for example; "" where it has none.
    """

    low: float
    high: float
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the range."""
        if not (np.isfinite([self.low, self.high]).all() and self.low != self.high):
            raise ValueError(f"expected two finite values, got {self.low:g} and {self.high:g}")

    def fraction(self, values: np.ndarray) -> np.ndarray:
        """Values as float64 x, not clamped: outside of [0, 1] where they are off the window."""
        return (np.asarray(values, np.float64) - self.low) / (self.high - self.low)

    def values(self, x: np.ndarray) -> np.ndarray:
        """The values of an image, float64."""
        return self.low + np.asarray(x, np.float64) * (self.high - self.low)


@dataclass(frozen=True)
class Plane:
    """One slice or frame of a medical file.

    Attributes:
        values: Physical values (H, W), or red, green and blue (3, H, W); float64, finite.
        window: What is shown of them.
        levels: Whether the values are the levels that are shown, not what they were measured as.
        grid: Its pixels in the patient.
    """

    values: np.ndarray
    window: Window
    levels: bool = False
    grid: Grid = Grid()

    @property
    def colour(self) -> bool:
        """Whether it has three channels."""
        return self.values.ndim == 3


@dataclass(frozen=True)
class Picture:
    """An image that can be explained.

    Attributes:
        x: Image (C, H, W) in [0, 1].
        window: What 0 and 1 stand for; None for a picture file, whose levels have no unit.
        grid: Its pixels in the patient, as far as the file says.
    """

    x: Tensor
    window: Window | None = None
    grid: Grid = Grid()


def parse_window(text: str) -> tuple[float, float]:
    """Low and high end of "CENTER,WIDTH".

    Raises:
        ValueError: These are not two numbers, or the width is not positive.
    """
    try:
        center, width = (float(part) for part in text.split(","))
    except ValueError:
        center, width = np.nan, np.nan
    if not (np.isfinite([center, width]).all() and width > 0):
        raise ValueError(f"expected a window CENTER,WIDTH such as 40,400, got '{text}'")
    return center - width / 2, center + width / 2


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """The values at the 0.5th and 99.5th percentile; the whole range, or 1, where they meet.

    Args:
        values: Finite values of any shape.
    """
    low, high = np.percentile(values, [TAIL, 100 - TAIL], method="nearest").tolist()
    if low == high:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1

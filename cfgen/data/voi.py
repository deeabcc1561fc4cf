"""Which values of a DICOM frame the file wants to see, and how: windows, tables and curves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset

from cfgen.data.decode import UnreadableImage
from cfgen.data.modality import bounds, is_little, places, table

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class Shown(NamedTuple):
    """Values as a file shows them: on a straight line from black at ``low`` to white at ``high``.

    Attributes:
        values: Float64 (H, W).
        low: The value that is black.
        high: The value that is white.
        levels: Whether the values are levels, those that a table, a sigmoid or a step gives out.
    """

    values: np.ndarray
    low: float
    high: float
    levels: bool = False


def shown(ds: Dataset, frame: int, values: np.ndarray) -> Shown | None:
    """Values through the first window of a file or, where there is none, its first table.

    What stands with the frame goes before what stands with all frames, and that before the top.

    Args:
        ds: The data set.
        frame: Which frame.
        values: What its pixels mean, float64 (H, W).

    Returns:
        The values and the ends of their window; None where the file says nothing (usable).

    Raises:
        UnreadableImage: The function is none of the standard.

    Reference:
        PS3.3 C.11.2 and C.7.6.16.2.10.
    """
    for place in places(ds, frame, "FrameVOILUTSequence"):
        center, width = (_first(place.get(k)) for k in ("WindowCenter", "WindowWidth"))
        if np.isfinite([center, width]).all() and width > 0:
            return _window(str(place.get("VOILUTFunction") or "LINEAR"), center, width, values)
        if place.get("VOILUTSequence"):
            item = place.VOILUTSequence[0]
            signed = bounds(ds, frame)[0] < 0
            lut = table(item.LUTDescriptor, item.LUTData, little=is_little(ds), signed=signed)
            return Shown(lut(values), 0.0, float(lut.full), True)
    return None


def _first(value: Any) -> float:
    """The first of one or several numbers; NaN for none."""
    numbers = np.atleast_1d(np.asarray([] if value is None else value, float))
    return float(numbers[0]) if numbers.size else np.nan


def _window(function: str, c: float, w: float, values: np.ndarray) -> Shown:
    function = function.strip().upper()
    if function not in FUNCTIONS:
        known = f"{', '.join(FUNCTIONS[:-1])} or {FUNCTIONS[-1]}"
        raise UnreadableImage(f"expected a VOI LUT function of {known}, got another")
    if function == "SIGMOID":  # C.11.2.1.3.1; past 700 an exponential is no number
        return Shown(1 / (1 + np.exp(np.clip(-4 * (values - c) / w, -700, 700))), 0.0, 1.0, True)
    if function == "LINEAR" and w == 1:
        return Shown((values > c - 0.5).astype(np.float64), 0.0, 1.0, True)
    if function == "LINEAR" and w > 1:  # C.11.2.1.2.1; below 1 it is no such window, but exact
        c, w = c - 0.5, w - 1
    return Shown(values, c - w / 2, c + w / 2)

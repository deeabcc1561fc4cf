"""How the values of a derived DICOM object are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from cfgen.data.modality import rescale
from cfgen.data.window import Plane

BETWEEN = 64  # steps from one grey level to the next that an image takes that reading resizes


@dataclass(frozen=True)
class Storage:
    """How values are stored: value = stored * slope + intercept.

    Attributes:
        slope: Step between values.
        intercept: Value of a stored 0.
        allocated: Bits of a pixel, 8, 16 or 32.
        stored: Bits of them in use.
        signed: Whether stored values may be negative.
    """

    slope: float
    intercept: float
    allocated: int = 16
    stored: int = 16
    signed: bool = False

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Stored values, little endian."""
        low = -(2 ** (self.stored - 1)) if self.signed else 0
        stored = ((values - self.intercept) / self.slope).round()
        kind = f"<{'i' if self.signed else 'u'}{self.allocated // 8}"
        return stored.clip(low, low + 2**self.stored - 1).astype(kind)

    def round(self, values: np.ndarray) -> np.ndarray:
        """The closest values that can be stored."""
        return self.encode(values) * self.slope + self.intercept


def storage(ds: Dataset, frame: int, plane: Plane, *, resized: bool) -> Storage:
    """The source's own storage where it can hold every grey level, else 16 bit in finer steps.

    Levels that are shown are whole numbers of 16 bit, colours of 8.

    Args:
        ds: The source.
        frame: Which of its frames.
        plane: Its values and window.
        resized: Whether reading resizes it: then values between the source's are needed.
    """
    size = abs(plane.window.high - plane.window.low)
    if plane.colour:
        return Storage(size / 255, 0.0, 8, 8)
    ends = np.array([plane.window.low, plane.window.high, plane.values.min(), plane.values.max()])
    own = Storage(1.0, 0.0)
    if not plane.levels:
        if ds.get("ModalityLUTSequence"):
            return _spread(ends)
        signed, bits = bool(ds.PixelRepresentation), (int(ds.BitsAllocated), int(ds.BitsStored))
        own = Storage(*rescale(ds, frame), *bits, signed)
    step = abs(own.slope)
    fits = own.allocated in (8, 16, 32) and np.allclose(own.round(ends), ends, atol=step / 2)
    if fits and step * (BETWEEN if resized else 1) <= size / 255 * (1 + 1e-9):
        return own
    # Steps of the source divided by a power of two: its own values stay exactly what they are.
    low = own.intercept + math.floor((ends.min() - own.intercept) / step) * step
    finer = 65535 // (math.ceil((ends.max() - low) / step) + 1)
    if finer:
        return _storable(step / 2 ** int(math.log2(finer)), low)
    return _spread(ends)


def _spread(ends: np.ndarray) -> Storage:
    """All of 16 bit from the lowest to the highest of some values."""
    return _storable(float(np.ptp(ends)) / 65534, float(ends.min()))


def _storable(slope: float, intercept: float) -> Storage:
    """As the decimal strings of at most 16 characters that a file holds."""
    return Storage(float(format_number_as_ds(slope)), float(format_number_as_ds(intercept)))

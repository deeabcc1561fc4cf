"""What the stored values of a DICOM frame mean: rescaling or a table, unit and padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset

from cfgen.data.decode import UnreadableImage

GROUPS = "FunctionalGroupsSequence"
TRANSFORMATION = "PixelValueTransformationSequence"
RESCALE = ("RescaleSlope", "RescaleIntercept", "RescaleType")
# Text in a file is its owner's. Only these terms of RescaleType and Units are ever shown.
RESCALE_TYPES = ("HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
PET_UNITS = ("BQML", "CNTS", "GML", "PROPCNTS", "CPS")


class Table(NamedTuple):
    """A look-up table of DICOM.

    Attributes:
        first: The value that the first entry is for; those below it get that entry too.
        entries: Float64 (N,); values above the last one get that.
        full: The largest number that an entry can be.
    """

    first: int
    entries: np.ndarray
    full: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The entries of values, float64; those between two whole numbers on a straight line."""
        return np.interp(values, self.first + np.arange(len(self.entries)), self.entries)


def table(descriptor: Any, data: Any, *, little: bool, signed: bool) -> Table:
    """A table from its descriptor (entries, first value, bits) and its data.

    Args:
        descriptor: Three numbers of 16 bit; 0 entries are 65536.
        data: Entries of 8 or 16 bit, as bytes or as numbers.
        little: The byte order of the file.
        signed: Whether the values that are looked up may be negative: a first value that the file
            gives as unsigned is then one of them.

    Raises:
        ValueError: There are fewer entries than the descriptor says.

    Reference:
        PS3.3 C.11.1.1 and C.7.6.3.1.5.
    """
    count, first, bits = (int(v) for v in descriptor)
    count = count % 65536 or 65536
    if first >= 32768 and signed:
        first -= 65536
    if isinstance(data, bytes):
        order = "<u2" if little else ">u2"
        if len(data) < 2 * count:  # two entries of 8 bit in a word
            words = np.frombuffer(data + b"\0" * (len(data) % 2), order)
            entries = words.astype("<u2").view(np.uint8)
        else:
            entries = np.frombuffer(data[: 2 * count], order)
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) % 65536
    if len(entries) < count or not 1 <= bits <= 16:
        raise ValueError(f"expected {count} entries of 1 to 16 bit, got {len(entries)} of {bits}")
    return Table(first, entries[:count].astype(np.float64), 2**bits - 1)


def is_little(ds: Dataset) -> bool:
    """The byte order of a file that was read."""
    return bool(ds.file_meta.TransferSyntaxUID.is_little_endian)


def places(ds: Dataset, frame: int, group: str) -> list[Dataset]:
    """Where the attributes of a group may stand, the closest first: frame, all frames, top."""
    found = [ds]
    for name, item in (("Shared" + GROUPS, 0), ("PerFrame" + GROUPS, frame)):
        sequence = ds.get(name) or []
        if item < len(sequence) and sequence[item].get(group):
            found.insert(0, sequence[item].get(group)[0])
    return found


def _place(ds: Dataset, frame: int) -> Dataset:
    """The closest place that says something of rescaling: what it leaves out is the default."""
    said = (
        p for p in places(ds, frame, TRANSFORMATION) if any(p.get(k) is not None for k in RESCALE)
    )
    return next(said, Dataset())


def rescale(ds: Dataset, frame: int) -> tuple[float, float]:
    """Rescale slope and intercept of a frame, (1, 0) where there are none."""
    place = _place(ds, frame)
    slope = place.get("RescaleSlope")
    slope = 1.0 if slope is None else float(slope)
    intercept = float(place.get("RescaleIntercept") or 0)
    if slope == 0:
        raise UnreadableImage("expected a rescale slope other than 0, got 0")
    return slope, intercept


def apply(ds: Dataset, frame: int, stored: np.ndarray) -> np.ndarray:
    """What stored values mean, float64."""
    if ds.get("ModalityLUTSequence"):
        return _lut(ds)(stored)
    slope, intercept = rescale(ds, frame)
    return stored * slope + intercept


def _lut(ds: Dataset) -> Table:
    item = ds.ModalityLUTSequence[0]
    signed = bool(ds.PixelRepresentation)
    return table(item.LUTDescriptor, item.LUTData, little=is_little(ds), signed=signed)


def bounds(ds: Dataset, frame: int) -> tuple[float, float]:
    """The lowest and the highest value that a frame of this kind can hold."""
    if ds.get("ModalityLUTSequence"):
        return 0.0, float(_lut(ds).full)
    slope, intercept = rescale(ds, frame)
    low = -(2 ** (int(ds.BitsStored) - 1)) if ds.PixelRepresentation else 0
    ends = intercept + slope * low, intercept + slope * (low + 2 ** int(ds.BitsStored) - 1)
    return min(ends), max(ends)


def unit(ds: Dataset, frame: int) -> str:
    """The unit of a frame's values, "" where it has none that is known.

    A CT that names none is in Hounsfield units, but for a localizer, a multi-energy image, and one
    whose values are those stored.

    Reference:
        PS3.3 C.8.2.1.1.2 and C.11.1.1.2.
    """
    place = _place(ds, frame)
    lut = ds.get("ModalityLUTSequence")
    kind = lut[0].get("ModalityLUTType") if lut else place.get("RescaleType")
    if kind in RESCALE_TYPES:
        return str(kind)
    modality = ds.get("Modality")
    if modality == "CT" and not kind and not lut and len(place):
        types = [
            ds.get("ImageType"),
            places(ds, frame, "CTImageFrameTypeSequence")[0].get("FrameType"),
        ]
        localizer = any("LOCALIZER" in np.atleast_1d(t) for t in types if t)
        return "" if localizer or ds.get("MultienergyCTAcquisition") == "YES" else "HU"
    units = ds.get("Units")
    return str(units) if modality == "PT" and units in PET_UNITS else ""


def padding(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    """Which stored values are padding, bool, as the pixels' own type has the numbers.

    Reference:
        PS3.3 C.7.5.1.1.2.
    """
    value = ds.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    bits, signed = int(ds.BitsStored), bool(ds.PixelRepresentation)

    def own(value: Any) -> int:
        value = int(value) % 2**bits
        return value - 2**bits if signed and value >= 2 ** (bits - 1) else value

    limit = ds.get("PixelPaddingRangeLimit")
    ends = own(value), own(value if limit is None else limit)
    return (stored >= min(ends)) & (stored <= max(ends))

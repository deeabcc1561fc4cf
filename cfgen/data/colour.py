"""Colour of DICOM: red, green and blue, whatever a file stores for them."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut

from cfgen.data.decode import UnreadableImage
from cfgen.data.frames import WAVELETS
from cfgen.data.modality import is_little, table

PALETTE = "PALETTE COLOR"
TURNED = ("YBR_RCT", "YBR_ICT")  # by the decoder of JPEG 2000
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", *TURNED, PALETTE)  # of all but the last it gives RGB
LUT = "PaletteColorLookupTable"


def levels(ds: Dataset, stored: np.ndarray) -> tuple[np.ndarray, int]:
    """The colours of a decoded frame.

    Args:
        ds: The data set.
        stored: Samples (H, W, 3), or indices (H, W) of a palette.

    Returns:
        Red, green and blue, float64 (3, H, W), and the level of white.

    Raises:
        UnreadableImage: The samples are no colours.

    Reference:
        PS3.3 C.7.6.3.1.2 and C.7.9.
    """
    kind, samples = ds.PhotometricInterpretation, 1 if stored.ndim == 2 else stored.shape[-1]
    wanted = 1 if kind == PALETTE else 3
    if samples != wanted:
        raise UnreadableImage(f"expected {wanted} samples a pixel for {kind}, got {samples}")
    if kind == PALETTE:
        return _palette(ds, stored)
    if kind in TURNED and ds.file_meta.TransferSyntaxUID not in WAVELETS:
        raise UnreadableImage(f"expected {kind} in JPEG 2000, got another transfer syntax")
    if stored.min() < 0:
        raise UnreadableImage("expected colours from 0, got negative ones")
    return np.moveaxis(stored.astype(np.float64), -1, 0), 2 ** int(ds.BitsStored) - 1


def _palette(ds: Dataset, stored: np.ndarray) -> tuple[np.ndarray, int]:
    if f"Red{LUT}Data" not in ds:  # in segments
        count, _, bits = (int(v) for v in ds[f"Red{LUT}Descriptor"].value)
        if bits == 8 and not 0 < count <= 256:  # pydicom counts entries in their own bits
            raise UnreadableImage(f"expected 1 to 256 colours of 8 bit in segments, got {count}")
        colours = apply_color_lut(stored, ds)
        return np.moveaxis(colours[..., :3].astype(np.float64), -1, 0), np.iinfo(colours.dtype).max
    tables = [
        table(
            ds[f"{name}{LUT}Descriptor"].value,
            ds[f"{name}{LUT}Data"].value,
            little=is_little(ds),
            signed=bool(ds.PixelRepresentation),
        )
        for name in ("Red", "Green", "Blue")
    ]
    return np.stack([lut(stored) for lut in tables]), tables[0].full

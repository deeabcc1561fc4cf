"""The stored values of a DICOM frame, by decoders that a damaged file cannot take along."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cfgen.data.decode import UnreadableImage

# Decoders that answer damaged data with an exception. GDCM, the only one for lossless JPEG, can end
# the process instead, so it has one of its own; pylibjpeg-rle panics past any "except Exception".
WAVELETS = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
SAFE = {
    RLELossless: "pydicom",
    JPEGBaseline8Bit: "pillow",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(WAVELETS, "pylibjpeg"),
}
APART = """
import io, sys, numpy, pydicom
from pydicom.pixels import pixel_array
ds = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()), force=True)
numpy.save(sys.stdout.buffer, pixel_array(ds))
"""
ATTRIBUTES = (
    "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel "
    "PhotometricInterpretation PlanarConfiguration"
).split()


def decodable(syntax: UID) -> bool:
    """Whether there is a decoder for a transfer syntax."""
    if not syntax.is_transfer_syntax:
        return False
    if not syntax.is_compressed:
        return True
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:  # a syntax that pydicom knows no decoder for
        return False


def decode_frame(ds: Dataset, frame: int) -> np.ndarray:
    """The stored values of a frame, (H, W) or (H, W, 3); YBR colours as RGB.

    Raises:
        UnreadableImage: Its bits are not where a decoder finds them.
        Exception: Anything else that a decoder says.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    if int(ds.BitsAllocated) == 1 and not syntax.is_compressed and syntax.is_little_endian:
        return _bits(ds, frame)
    allocated, bits = int(ds.BitsAllocated), int(ds.BitsStored)
    high = bits - 1 if ds.get("HighBit") is None else int(ds.HighBit)
    below = high + 1 - bits  # PS3.5 8.1.1: bits under those of the value
    holds_cells = not syntax.is_compressed or syntax == RLELossless
    if not 0 <= below <= (allocated - bits if holds_cells else 0):
        raise UnreadableImage(
            f"expected the highest of {bits} bits in {allocated} at {bits - 1}, got HighBit {high}"
        )
    if not syntax.is_compressed or syntax in SAFE:
        plugin = SAFE.get(syntax, "")
        values = pixel_array(ds, index=frame, decoding_plugin=plugin, bits_stored=high + 1)
        return values >> below if below else values
    one = Dataset()
    for keyword in ATTRIBUTES:
        if keyword in ds:
            one[keyword] = ds[keyword]
    frames = int(ds.get("NumberOfFrames") or 1)
    one.PixelData = encapsulate([get_frame(ds.PixelData, frame, number_of_frames=frames)])
    one["PixelData"].VR = "OB"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    one.save_as(stream)
    done = subprocess.run(
        [sys.executable, "-c", APART],
        input=stream.getvalue(),
        capture_output=True,
        check=True,
        timeout=300,
    )
    return np.load(io.BytesIO(done.stdout))


def _bits(ds: Dataset, frame: int) -> np.ndarray:
    """A frame of single bits (H, W); it may begin inside of a byte (PS3.5 8.1.1)."""
    h, w = int(ds.Rows), int(ds.Columns)
    if not 0 <= frame < int(ds.get("NumberOfFrames") or 1):
        raise IndexError(f"no frame {frame}")
    first = frame * h * w
    packed = np.frombuffer(ds.PixelData, np.uint8)[first // 8 : -(-(first + h * w) // 8)]
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: h * w]
    if len(bits) < h * w:
        raise ValueError(f"{len(bits)} bits are less than expected")
    return bits.reshape(h, w)

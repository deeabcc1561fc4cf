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

# Decoders that answer damaged data with an exception. GDCM, the only one for lossless JPEG, can end
# the process instead, so it has one of its own; pylibjpeg-rle panics past any "except Exception".
SAFE = {
    RLELossless: "pydicom",
    JPEGBaseline8Bit: "pillow",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
}
APART = """
import io, sys, numpy, pydicom
from pydicom.pixels import pixel_array
ds = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()), force=True)
numpy.save(sys.stdout.buffer, pixel_array(ds))
"""
ATTRIBUTES = (
    "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel "
    "PhotometricInterpretation"
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
    """The stored values of a frame (H, W)."""
    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax in SAFE:
        return pixel_array(ds, index=frame, decoding_plugin=SAFE.get(syntax, ""))
    one = Dataset()
    for keyword in ATTRIBUTES:
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

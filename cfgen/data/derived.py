"""Derived DICOM objects: a counterfactual in the place of its source, without its patient."""

from __future__ import annotations

import hashlib
import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from cfgen._version import __version__
from cfgen.data.colour import LUT
from cfgen.data.identity import EMPTY, Identity, picture_only
from cfgen.data.modality import GROUPS, RESCALE_TYPES, TRANSFORMATION
from cfgen.data.quiet import quiet
from cfgen.data.storage import Storage
from cfgen.data.window import Plane

# Stale in the derived image: what stands for the pixels of the source, or for its signature.
STALE = (
    "PixelData VOILUTSequence ModalityLUTSequence WindowCenterWidthExplanation "
    "SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit "
    "ExtendedOffsetTable ExtendedOffsetTableLengths IconImageSequence MACParametersSequence "
    "DigitalSignaturesSequence WindowCenter WindowWidth VOILUTFunction RescaleSlope "
    "RescaleIntercept RescaleType"
).split() + [
    f"{segmented}{name}{LUT}{part}"
    for name in ("Red", "Green", "Blue", "Alpha")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
RECONSTRUCTED = ("CT", "MR", "PT")  # their pixels come from no camera that sees a name plate


def write(
    out: Path,
    source: Dataset,
    frame: int,
    plane: Plane,
    stored: Storage,
    note: str,
    identity: Identity,
) -> None:
    """Write a frame of the source with other values.

    Args:
        out: The file.
        source: The data set of the source.
        frame: Which of its frames.
        plane: Values, which ``stored`` can hold, and the window that becomes the VOI window.
        stored: How they are stored.
        note: How it was derived; goes to DerivationDescription.
        identity: The UIDs, and whether the patient's data is kept.
    """
    with quiet():
        ds = _derive(source, frame, plane, stored, note, identity)
        dcmwrite(out, ds, enforce_file_format=True)


def _derive(
    source: Dataset, frame: int, plane: Plane, stored: Storage, note: str, identity: Identity
) -> Dataset:
    """The data set of :func:`write`."""
    frames = int(source.get("NumberOfFrames") or 1)
    ds = _copy(source) if identity.keep else picture_only(source, identity)
    for keyword in STALE:
        if keyword in ds:
            del ds[keyword]
    if not identity.keep:
        for keyword in EMPTY:
            setattr(ds, keyword, None)
        if "FrameOfReferenceUID" in ds:
            ds.PositionReferenceIndicator = None
        ds.Manufacturer, ds.SoftwareVersions = "cfgen", __version__
        ds.PatientIdentityRemoved = "YES"
        ds.DeidentificationMethod = "Allow-list: numbers and codes of the picture, new UIDs"
        ds.LongitudinalTemporalInformationModified = "REMOVED"
    instance, study = source.get("SOPInstanceUID"), source.get("StudyInstanceUID")
    origin = source.get("SeriesInstanceUID") or instance or _digest(source.PixelData)
    ds.SOPClassUID = source.get("SOPClassUID") or SecondaryCaptureImageStorage
    ds.StudyInstanceUID = identity.replace(study) if study else identity.new("study", origin)
    ds.SeriesInstanceUID = identity.new("derived", origin)
    ds.SeriesDescription = "Synthetic counterfactual, not for diagnosis"
    kind = list(np.atleast_1d(source.get("ImageType") or []))[2:]
    ds.ImageType = ["DERIVED", "SECONDARY", *map(str, kind)]
    ds.SyntheticData = "YES"
    ds.BurnedInAnnotation = source.get("BurnedInAnnotation") or (
        "NO" if source.get("Modality") in RECONSTRUCTED else None
    )
    if ds.BurnedInAnnotation is None:  # neither the source nor its kind says so
        del ds.BurnedInAnnotation
    ds.DerivationDescription = note.encode("ascii", "replace").decode()[:1024]
    ds.DerivationCodeSequence = [_code(codes.cid7203.PixelByPixelAddition)]
    if "SourceImageSequence" in ds:
        del ds.SourceImageSequence
    if instance:
        ds.SourceImageSequence = [
            _source_image(instance, ds, frame if frames > 1 else None, identity)
        ]
    if source.file_meta.TransferSyntaxUID in LOSSY:
        ds.LossyImageCompression = "01"
    if frames > 1:
        _keep_frame(ds, frame, frames)
    for group in [*ds.get("Shared" + GROUPS, []), *ds.get("PerFrame" + GROUPS, [])]:
        for element in group.iterall():
            if element.keyword == "FrameType":
                # Value 2 has to stay PRIMARY, and the image is of the type of its one frame
                # (PS3.3 C.8.16.1).
                element.value = ["DERIVED", *map(str, np.atleast_1d(element.value)[1:])]
                ds.ImageType = element.value
    _store(ds, source, plane, stored)
    # One UID for each object (PS3.5 9): whatever differs, pixels or a word, makes it another.
    ds.SOPInstanceUID = ""
    ds.SOPInstanceUID = identity.new("object", _digest(_encoded(ds)))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(str(ds.SOPClassUID))
    ds.file_meta.MediaStorageSOPInstanceUID = UID(str(ds.SOPInstanceUID))
    return ds


def _encoded(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return stream.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _copy(source: Dataset) -> Dataset:
    """Everything but the pixels, which would be the larger part of the copy."""
    ds = Dataset()
    for element in source:
        if element.keyword not in STALE:
            ds.add(deepcopy(element))
    return ds


def _source_image(
    instance: object, derived: Dataset, frame: int | None, identity: Identity
) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = derived.SOPClassUID
    item.ReferencedSOPInstanceUID = identity.replace(instance)
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [
        _code(codes.cid7202.SourceImageForImageProcessingOperation)
    ]
    return item


def _code(code: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _keep_frame(ds: Dataset, frame: int, frames: int) -> None:
    """Make a multi-frame data set one of a single frame, in place."""
    ds.NumberOfFrames, ds.InstanceNumber = 1, frame + 1
    per_frame = ds.get("PerFrame" + GROUPS)
    if per_frame:
        ds["PerFrame" + GROUPS].value = [per_frame[frame]]
    for element in ds:
        if element.keyword.endswith("Vector") and element.VM == frames:
            element.value = [element.value[frame]]


def _store(ds: Dataset, source: Dataset, plane: Plane, stored: Storage) -> None:
    """Set the pixels, what they mean and how they are shown, in place."""
    groups = [*ds.get("Shared" + GROUPS, []), *ds.get("PerFrame" + GROUPS, [])]
    for item in groups:
        item.pop(TRANSFORMATION, None)
        item.pop("FrameVOILUTSequence", None)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.allocated, stored.stored, stored.stored - 1
    ds.PixelRepresentation = int(stored.signed)
    pixels = stored.encode(plane.values)
    if plane.colour:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        pixels = np.moveaxis(pixels, 0, -1)
    else:
        meaning, shown = ds, ds
        if groups:
            meaning, shown = Dataset(), Dataset()
            groups[-1].PixelValueTransformationSequence = [meaning]
            groups[-1].FrameVOILUTSequence = [shown]
        if groups or "RescaleSlope" in source or (stored.slope, stored.intercept) != (1, 0):
            meaning.RescaleSlope = format_number_as_ds(stored.slope)
            meaning.RescaleIntercept = format_number_as_ds(stored.intercept)
            meaning.RescaleType = unit if (unit := plane.window.unit) in RESCALE_TYPES else "US"
        if plane.levels and "Units" in ds:
            ds.Units = "NONE"
        low, high = sorted((plane.window.low, plane.window.high))
        shown.WindowCenter = format_number_as_ds((low + high) / 2)
        shown.WindowWidth = format_number_as_ds(high - low)
        shown.VOILUTFunction = "LINEAR_EXACT"
    body = pixels.tobytes()
    ds.add_new("PixelData", "OW", body + b"\0" * (len(body) % 2))

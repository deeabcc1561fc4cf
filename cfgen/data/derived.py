"""Derived DICOM objects: a counterfactual in the place of its source, without its patient."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset, dcmwrite
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
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from cfgen._version import __version__
from cfgen.data.dicom import GROUPS, RESCALE_TYPES, find, quiet, rescale
from cfgen.data.window import Plane

# What describes the picture: numbers and coded words of these groups. Text, names, dates and times
# may describe the patient; UIDs are replaced.
KEPT_GROUPS = (0x0008, 0x0018, 0x0020, 0x0028, 0x0054, 0x2050, 0x5200)
KEPT_VRS = ("CS", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "AT")
NEVER_KEPT = ("SpecificCharacterSet", "OtherStudyNumbers")
EMPTY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID "
    "ReferringPhysicianName AccessionNumber SeriesNumber"
).split()
# Stale in the derived image: what stands for the pixels of the source, or for its signature.
STALE = (
    "PixelData VOILUTSequence ModalityLUTSequence WindowCenterWidthExplanation "
    "SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit "
    "ExtendedOffsetTable ExtendedOffsetTableLengths IconImageSequence MACParametersSequence "
    "DigitalSignaturesSequence WindowCenter WindowWidth VOILUTFunction RescaleSlope "
    "RescaleIntercept RescaleType"
).split()
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
RECONSTRUCTED = ("CT", "MR", "PT")  # their pixels come from no camera that sees a name plate


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

    Args:
        ds: The source.
        frame: Which of its frames.
        plane: Its values and window.
        resized: Whether reading resizes it: then values between the source's are needed.
    """
    ends = np.array([plane.window.low, plane.window.high, plane.values.min(), plane.values.max()])
    slope, intercept, size = (*rescale(ds, frame), abs(plane.window.high - plane.window.low))
    if "ModalityLUTSequence" not in ds:
        allocated, stored = int(ds.BitsAllocated), int(ds.BitsStored)
        own = Storage(slope, intercept, allocated, stored, bool(ds.PixelRepresentation))
        fits = allocated in (8, 16, 32) and np.allclose(own.round(ends), ends, atol=abs(slope) / 2)
        if fits and not resized and abs(slope) <= size / 255 * (1 + 1e-9):
            return own
        # Steps of the source divided by a power of two: its own values stay exactly what they are.
        low = intercept + math.floor((ends.min() - intercept) / abs(slope)) * abs(slope)
        finer = 65535 // (math.ceil((ends.max() - low) / abs(slope)) + 1)
        if finer:
            return _storable(abs(slope) / 2 ** int(math.log2(finer)), low)
    return _storable(float(np.ptp(ends)) / 65534, float(ends.min()))


def _storable(slope: float, intercept: float) -> Storage:
    """As the decimal strings of at most 16 characters that a file holds."""
    return Storage(float(format_number_as_ds(slope)), float(format_number_as_ds(intercept)))


@dataclass(frozen=True)
class Identity:
    """New UIDs, the same for the same UID all through a run; references to the source get them too.

    Attributes:
        secret: What keeps the old UIDs from being found by trial; the same in all processes.
        keep: Keep the source's identity; only the object and its series are new then.
    """

    secret: str
    keep: bool = False

    def replace(self, uid: object) -> str:
        """What stands for a UID of the source."""
        return str(uid) if self.keep else self.new(uid)

    def new(self, *parts: object) -> str:
        """A UID that is new in any case."""
        return generate_uid(entropy_srcs=[self.secret, *map(str, parts)])


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
    ds = _copy(source) if identity.keep else _picture_only(source, identity)
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
    series, instance = source.get("SeriesInstanceUID", ""), source.get("SOPInstanceUID", "")
    ds.SOPClassUID = source.get("SOPClassUID") or SecondaryCaptureImageStorage
    ds.SOPInstanceUID = identity.new("derived", instance, frame)
    ds.StudyInstanceUID = identity.replace(source.get("StudyInstanceUID", ""))
    ds.SeriesInstanceUID = identity.new("derived", series)
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
    ds.SourceImageSequence = [_source_image(source, ds, frame if frames > 1 else None, identity)]
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
    _store(ds, source, frame, plane, stored)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(str(ds.SOPClassUID))
    ds.file_meta.MediaStorageSOPInstanceUID = UID(str(ds.SOPInstanceUID))
    return ds


def _copy(source: Dataset) -> Dataset:
    """Everything but the pixels, which would be the larger part of the copy."""
    ds = Dataset()
    for element in source:
        if element.keyword not in STALE:
            ds.add(deepcopy(element))
    return ds


def _picture_only(source: Dataset, identity: Identity) -> Dataset:
    """Numbers and coded words that describe the picture, in sequences as well."""
    ds = Dataset()
    for element in source:
        group, keyword = element.tag.group, element.keyword
        if group not in KEPT_GROUPS or not keyword or keyword in NEVER_KEPT:
            continue
        if element.VR == "SQ":
            items = [_picture_only(item, identity) for item in element.value]
            if any(items):
                ds.add(DataElement(element.tag, "SQ", items))
        elif element.VR == "UI" and group == 0x0020 and element.value:
            ds.add(DataElement(element.tag, "UI", identity.replace(element.value)))
        elif element.VR in KEPT_VRS:
            ds.add(deepcopy(element))
    return ds


def _source_image(
    source: Dataset, derived: Dataset, frame: int | None, identity: Identity
) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = derived.SOPClassUID
    item.ReferencedSOPInstanceUID = identity.replace(source.get("SOPInstanceUID", ""))
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


def _store(ds: Dataset, source: Dataset, frame: int, plane: Plane, stored: Storage) -> None:
    """Set the pixels, what they mean and how they are shown, in place."""
    low, high = sorted((plane.window.low, plane.window.high))
    meaning, shown = ds, ds
    groups = [*ds.get("Shared" + GROUPS, []), *ds.get("PerFrame" + GROUPS, [])]
    if groups:
        meaning, shown = Dataset(), Dataset()
        for item in groups:
            item.pop("PixelValueTransformationSequence", None)
            item.pop("FrameVOILUTSequence", None)
        groups[-1].PixelValueTransformationSequence = [meaning]
        groups[-1].FrameVOILUTSequence = [shown]
    if meaning is not ds or "RescaleSlope" in source or (stored.slope, stored.intercept) != (1, 0):
        term = find(source, frame, "RescaleType", "PixelValueTransformationSequence")
        known = "HU" if plane.window.unit == "HU" else "US"
        meaning.RescaleSlope = format_number_as_ds(stored.slope)
        meaning.RescaleIntercept = format_number_as_ds(stored.intercept)
        meaning.RescaleType = term if term in RESCALE_TYPES else known
    shown.WindowCenter = format_number_as_ds((low + high) / 2)
    shown.WindowWidth = format_number_as_ds(high - low)
    shown.VOILUTFunction = "LINEAR_EXACT"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.allocated, stored.stored, stored.stored - 1
    ds.PixelRepresentation = int(stored.signed)
    pixels = stored.encode(plane.values).tobytes()
    ds.add_new("PixelData", "OW", pixels + b"\0" * (len(pixels) % 2))

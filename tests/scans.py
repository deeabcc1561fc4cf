"""DICOM files made for the tests; every text, date and UID of a patient in them is a marker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

# What must not be found in a run folder or on the screen.
MARKERS = {
    "PatientName": "Zuckmayer^Karoline",
    "PatientID": "PID-4711-Q",
    "PatientBirthDate": "19390428",
    "PatientAddress": "Kraehwinkel 12",
    "PatientComments": "Comment about Karoline",
    "OtherPatientIDs": "OTHER-4712",
    "EthnicGroup": "Friesian",
    "Occupation": "Glassblower",
    "StudyDate": "20170313",
    "SeriesDate": "20170314",
    "AcquisitionDate": "20170315",
    "ContentDate": "20170316",
    "StudyTime": "101112.13",
    "AcquisitionDateTime": "20170315101113.5",
    "StudyID": "STUDY-99X",
    "AccessionNumber": "ACC-881-Q",
    "InstitutionName": "Klinikum Seldwyla",
    "InstitutionAddress": "Seldwyla 7",
    "InstitutionalDepartmentName": "Dep. of Seldwyla",
    "ReferringPhysicianName": "Doktor^Bovary",
    "PerformingPhysicianName": "Doktor^Homais",
    "OperatorsName": "Operator^Lheureux",
    "StationName": "STATION-QX",
    "DeviceSerialNumber": "SERIAL-90210",
    "StudyDescription": "Study of Karoline Z",
    "SeriesDescription": "Series of Karoline Z",
    "ProtocolName": "Protocol Seldwyla",
    "ImageComments": "Karoline moved",
    "RequestedProcedureDescription": "Requested by Bovary",
    "Manufacturer": "Maschinen AG",
    "ManufacturerModelName": "Modell Seldwyla",
    "StudyInstanceUID": "1.2.3.4711.1",
    "SeriesInstanceUID": "1.2.3.4711.2",
    "SOPInstanceUID": "1.2.3.4711.3",
    "FrameOfReferenceUID": "1.2.3.4711.4",
    "ContentCreatorName": "Creator^Rouault",
}
GEOMETRY = {
    "PixelSpacing": [0.75, 0.75],
    "ImagePositionPatient": [-10.5, 20.25, 30],
    "ImageOrientationPatient": [0.96, 0.28, 0, 0, 0, -1],
    "SliceThickness": 3,
    "SpacingBetweenSlices": 3.5,
}
NAME = "KAROLINE_ZUCKMAYER_1939"  # of the file and its folder


def markers() -> list[str]:
    """All strings that belong to the patient, also those of nested, private and file parts."""
    parts = [word for value in MARKERS.values() for word in value.split("^")]
    return [*parts, NAME, "PRIVATE-SELDWYLA", "AETITLE-Q", "NESTED-ZUCK", "PREAMBLE-Q"]


def scan(pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **attributes: Any) -> Dataset:
    """A data set of grey pixels (H, W) or (frames, H, W); attributes replace those of the markers.

    Integers are stored in their own type; ``None`` leaves an attribute out.
    """
    ds = Dataset()
    for keyword, value in (MARKERS | GEOMETRY).items():
        setattr(ds, keyword, value)
    ct = attributes.get("Modality") == "CT"
    ds.SOPClassUID = CTImageStorage if ct else MRImageStorage
    ds.Modality, ds.ImageType = "MR", ["ORIGINAL", "PRIMARY", "AXIAL", "HFS"]
    ds.ScanningSequence, ds.EchoTime, ds.InstanceNumber = "SE", 90, 5
    nested = Dataset()
    nested.ReferencedSOPInstanceUID = "1.2.3.4711.5"
    nested.CodeMeaning = "NESTED-ZUCK"
    ds.ReferencedImageSequence = [nested]
    block = ds.private_block(0x0029, "PRIVATE-SELDWYLA", create=True)
    block.add_new(0x01, "LO", "PRIVATE-SELDWYLA value")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.add_new("PixelData", "OW" if bits > 8 else "OB", body + b"\0" * (len(body) % 2))
    for keyword, value in attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    ds.file_meta.SourceApplicationEntityTitle = "AETITLE-Q"
    ds.preamble = b"PREAMBLE-Q".ljust(128, b"\0")
    return ds


def write_scan(path: Path, pixels: np.ndarray, **attributes: Any) -> Path:
    """Write a scan; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, scan(pixels, **attributes), enforce_file_format=True)
    return path


def write_colours(path: Path, pixels: np.ndarray, **attributes: Any) -> Path:
    """Write a scan of colours (H, W, 3) or (frames, H, W, 3), red, green and blue by turns."""
    colour = {
        "Columns": pixels.shape[-2],
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
    }
    flat = pixels.reshape(*pixels.shape[:-2], -1)
    return write_scan(path, flat, **(colour | attributes))

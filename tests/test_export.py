"""Counterfactuals of medical files: on the grid of their source, without its patient."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pydicom import DataElement, Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    MRImageStorage,
)
from scans import GEOMETRY, markers, write_scan

from cfgen.data import Item, Picture, Window, derived, dicom, read_picture
from cfgen.data.folder import parse_slices
from cfgen.data.identity import Identity
from cfgen.data.picture import resize
from cfgen.data.put_back import put_back
from cfgen.data.storage import storage
from cfgen.data.window import Plane, parse_window

RNG = np.random.default_rng(0)
SIZE = (32, 32)
GRID = 255


def smooth(shape, seed=0):
    """Blobs with a black border and a saturated middle, in [0, 1]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 6, 6, generator=rng)
    coarse[..., [0, -1], :] = coarse[..., [0, -1]] = 0
    coarse[..., 2, 3] = 1.2
    big = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")
    return big[0].clamp(0, 1)


def changed(picture, amount=0.1):
    """X' on the 8-bit grid: brighter on one side, darker on the other, the rest as it was."""
    x = (picture.x * GRID).round() / GRID
    side = torch.linspace(-1, 1, SIZE[1]).expand_as(x).clone()
    side[side.abs() < 0.3] = 0
    return x, ((x + amount * side * x.gt(0)).clamp(0, 1) * GRID).round() / GRID


def fit(keep_aspect=True):
    return partial(resize, size=SIZE, keep_aspect=keep_aspect)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (60, 50), (128, 96), (33, 47)])
@pytest.mark.parametrize("window", [Window(-160, 240), Window(240, -160)])
@pytest.mark.parametrize("room", [0.15, 0])
def test_reading_what_was_put_back_gives_the_counterfactual(shape, window, room):
    picture = smooth(shape).numpy()[0] * (1 - 2 * room) + room
    values = window.values(picture)
    middle = np.s_[:4, shape[1] // 2 - 1 : shape[1] // 2 + 1]  # nothing will change there
    values[middle] = [[900, -700]] * 4  # off the window on both sides
    plane = Plane(values.round(), window)

    def read(values):
        return fit()(torch.from_numpy(window.fraction(values)).clamp(0, 1)[None])

    x, x_cf = changed(Picture(read(plane.values)))
    out = put_back(plane, x, x_cf, fit(), lambda v: (v * 16).round() / 16, 1 / 16 / 400)
    assert np.array_equal(out, (out * 16).round() / 16)
    assert np.array_equal(out[middle], plane.values[middle])
    wrong = ((read(out) * GRID).round() != (x_cf * GRID).round()).double().mean()
    # Black and white leave no room for what a sharp edge there would take, and the source has no
    # pixels for a column that is half padding.
    exact = shape == SIZE or room and shape == (64, 64)
    assert wrong <= (0 if exact else 0.035)


def test_detail_finer_than_the_model_stays():
    window, shape = Window(0, 1000), (128, 128)
    detail = 20.0 * (np.indices(shape).sum(0) % 2)
    plane = Plane(window.values(smooth(shape).numpy()[0]).clip(200, 800).round() + detail, window)
    x, x_cf = changed(Picture(fit()(torch.from_numpy(window.fraction(plane.values))[None])))
    out = put_back(plane, x, x_cf, fit(), lambda v: v.round(2), 1e-5)
    step = out - plane.values
    assert np.abs(step).max() > 80
    # The change is smooth: the checkerboard of the source is in it with none of its 20 units.
    board = (np.indices(shape).sum(0) % 2) - 0.5
    assert abs((step * board).mean() / (board * board).mean()) < 0.05


def test_a_source_smaller_than_the_model_comes_as_close_as_it_can():
    window = Window(0, 255)
    plane = Plane((255 * smooth((16, 16)).numpy()[0]).round(), window)
    x, x_cf = changed(Picture(fit()(torch.from_numpy(window.fraction(plane.values))[None])))
    out = put_back(plane, x, x_cf, fit(), lambda v: v.round(3), 1e-6)
    before, after = (
        (fit()(torch.from_numpy(window.fraction(v)).clamp(0, 1)[None]) - x_cf).square().sum()
        for v in (plane.values, out)
    )
    assert after < 0.1 * before


def written(tmp_path, pixels, *, keep=False, frame=0, amount=0.1, **attributes):
    """Write a changed frame; returns source, derived and what reading both gives."""
    path = write_scan(tmp_path / "source", pixels, **attributes)
    item = Item(file="a", path=path, stem="a", kind="dicom", index=frame)
    picture = read_picture(item, channels=1, size=SIZE)
    x, x_cf = changed(picture, amount)
    source, plane = dicom.load(path), dicom.read(path, frame)
    stored = storage(source, frame, plane, resized=plane.values.shape != SIZE)
    step = abs(stored.slope / (plane.window.high - plane.window.low))
    values = put_back(plane, x, x_cf, fit(), stored.round, step)
    out = tmp_path / "x_cf.dcm"
    derived.write(
        out, source, frame, replace(plane, values=values), stored, "Note", Identity("s", keep)
    )
    again = read_picture(replace(item, path=out, index=0), channels=1, size=SIZE)
    return dcmread(path), dcmread(out), plane, dicom.read(out, 0), x_cf, again


def assert_flips(x_cf, again):
    assert torch.equal((again.x * GRID).round(), (x_cf * GRID).round())


def pixels_of(kind, shape=(32, 32), low=0, high=255):
    return (low + smooth(shape).numpy()[0] * (high - low)).round().astype(kind)


WAYS = {
    "8 bit": (pixels_of(np.uint8), {}),
    "MONOCHROME1": (pixels_of(np.uint8), {"PhotometricInterpretation": "MONOCHROME1"}),
    "12 bit": (pixels_of(np.uint16, high=4095), {"BitsStored": 12, "HighBit": 11}),
    "CT": (
        pixels_of(np.int16, low=700, high=1500),
        {
            "Modality": "CT",
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "RescaleType": "HU",
            "WindowCenter": 40,
            "WindowWidth": 400,
        },
    ),
    "coarse steps": (
        pixels_of(np.uint8, high=40),
        {"WindowCenter": 20, "WindowWidth": 40, "VOILUTFunction": "LINEAR_EXACT"},
    ),
    "negative slope": (
        pixels_of(np.uint16, high=1000),
        {"RescaleSlope": -0.5, "RescaleIntercept": 7},
    ),
    "big endian": (pixels_of(np.uint16, high=1000), {"syntax": ExplicitVRBigEndian}),
    "window beyond the bits": (
        pixels_of(np.uint8),
        {"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", [False, True])
def test_at_the_size_of_the_model_the_file_holds_the_very_counterfactual(tmp_path, way, keep):
    pixels, attributes = WAYS[way]
    _, ds, before, after, x_cf, again = written(tmp_path, pixels, keep=keep, **attributes)
    assert_flips(x_cf, again)
    assert after.window == before.window
    unit = torch.from_numpy(before.window.fraction(before.values)).clamp(0, 1)
    still = ((unit * GRID).round() == (x_cf[0] * GRID).round()).numpy()
    assert still.any() and not still.all()
    assert np.array_equal(after.values[still], before.values[still])
    interpretation = attributes.get("PhotometricInterpretation", "MONOCHROME2")
    assert ds.PhotometricInterpretation == interpretation


@pytest.mark.parametrize("way", WAYS)
def test_at_another_size_finer_steps_hold_it_and_keep_the_values_of_the_source(tmp_path, way):
    pixels, attributes = WAYS[way]
    pixels = np.kron(pixels, np.ones((2, 2), pixels.dtype))
    _, ds, before, after, x_cf, again = written(tmp_path, pixels, amount=0.05, **attributes)
    wrong = ((again.x * GRID).round() != (x_cf * GRID).round()).float().mean()
    assert wrong < 0.01
    assert (ds.BitsAllocated, ds.Rows, ds.Columns) == (16, 64, 64)
    middle = slice(31, 33)  # nothing was changed there
    assert np.array_equal(after.values[:, middle], before.values[:, middle])


def test_storage_of_the_source_where_it_is_fine_enough(tmp_path):
    pixels = pixels_of(np.int16, low=700, high=1500)
    ct = WAYS["CT"][1]
    _, ds, *_ = written(tmp_path, pixels, **ct)
    kept = "BitsAllocated BitsStored HighBit PixelRepresentation RescaleSlope RescaleIntercept"
    assert [ds[k].value for k in kept.split()] == [16, 16, 15, 1, 1, -1024]
    assert (ds.RescaleType, ds.WindowCenter, ds.WindowWidth) == ("HU", 39.5, 399)
    assert ds.VOILUTFunction == "LINEAR_EXACT"
    _, ds, *_ = written(tmp_path, pixels_of(np.uint8))
    assert "RescaleSlope" not in ds and ds.BitsAllocated == 8
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.add_new("LUTData", "OW", (np.arange(256, dtype="<u2") ** 2 // 3).tobytes())
    _, ds, before, after, x_cf, again = written(
        tmp_path, pixels_of(np.uint8), ModalityLUTSequence=[table]
    )
    assert_flips(x_cf, again)
    assert "ModalityLUTSequence" not in ds
    assert np.abs(after.values[0] - before.values[0]).max() <= ds.RescaleSlope


def test_a_derived_object_says_what_it_is(tmp_path):
    source, ds, *_ = written(tmp_path, pixels_of(np.uint8))
    assert ds.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "HFS"]
    assert (ds.SyntheticData, ds.BurnedInAnnotation, ds.Modality) == ("YES", "NO", "MR")
    assert (ds.DerivationDescription, ds.InstanceNumber) == ("Note", 5)
    (code,) = ds.DerivationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113042", "DCM")
    (image,) = ds.SourceImageSequence
    assert image.ReferencedSOPClassUID == MRImageStorage
    assert image.SpatialLocationsPreserved == "YES"
    assert "ReferencedFrameNumber" not in image
    assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == MRImageStorage
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    for keyword, value in GEOMETRY.items():
        assert ds[keyword].value == value
    assert (ds.ScanningSequence, ds.EchoTime) == ("SE", 90)
    assert source.SOPInstanceUID != ds.SOPInstanceUID != image.ReferencedSOPInstanceUID


def test_nothing_of_the_patient_is_left_unless_it_is_kept(tmp_path):
    _, ds, *_ = written(tmp_path, pixels_of(np.uint8))
    body = (tmp_path / "x_cf.dcm").read_bytes()
    assert [m for m in markers() if m.encode() in body] == []
    assert ds.PatientIdentityRemoved == "YES"
    assert (ds.PatientName, ds.PatientID, ds.StudyDate, ds.AccessionNumber) == ("", "", "", "")
    assert ds.preamble == b"\0" * 128
    source, ds, *_ = written(tmp_path, pixels_of(np.uint8), keep=True)
    for keyword in ("PatientName", "StudyDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert ds[keyword].value == source[keyword].value
    assert ds[0x0029, 0x1001].value == "PRIVATE-SELDWYLA value"
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID
    assert "PatientIdentityRemoved" not in ds


def test_uids_are_new_and_the_same_all_through_a_run(tmp_path):
    files = []
    for name, instance, secret in (("a", "1.1", "s"), ("b", "1.2", "s"), ("c", "1.1", "t")):
        path = write_scan(tmp_path / name, pixels_of(np.uint8), SOPInstanceUID=instance)
        source, plane = dicom.load(path), dicom.read(path, 0)
        stored = storage(source, 0, plane, resized=False)
        derived.write(tmp_path / "o", source, 0, plane, stored, "", Identity(secret))
        files.append(dcmread(tmp_path / "o"))
    a, b, c = files
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert a[keyword].value == b[keyword].value != c[keyword].value
    assert len({f.SOPInstanceUID for f in files}) == 3
    assert len({f.SourceImageSequence[0].ReferencedSOPInstanceUID for f in files}) == 3
    assert a.StudyInstanceUID != a.SeriesInstanceUID


def test_a_frame_of_many_is_an_object_of_one(tmp_path):
    pixels = np.stack([pixels_of(np.uint8), pixels_of(np.uint8)[::-1], pixels_of(np.uint8).T])
    attributes = {"FrameTimeVector": [0, 10, 30], "BurnedInAnnotation": "NO"}
    _, ds, before, after, x_cf, again = written(tmp_path, pixels, frame=2, **attributes)
    assert_flips(x_cf, again)
    assert (ds.NumberOfFrames, ds.InstanceNumber, ds.FrameTimeVector) == (1, 3, 30)
    assert ds.SourceImageSequence[0].ReferencedFrameNumber == 3


def test_an_enhanced_frame_keeps_its_functional_groups(tmp_path):
    def groups(slope, z):
        item, meaning, shown, place = Dataset(), Dataset(), Dataset(), Dataset()
        content = Dataset()
        meaning.RescaleSlope, meaning.RescaleIntercept, meaning.RescaleType = slope, -5, "US"
        shown.WindowCenter, shown.WindowWidth = 250, 500
        place.ImagePositionPatient = [0, 0, z]
        content.FrameComments, content.StackID = "Karoline moved", "STUDY-99X"
        content.InStackPositionNumber = z
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [meaning], [shown]
        item.PlanePositionSequence, item.FrameContentSequence = [place], [content]
        return item

    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    pixels = np.stack([pixels_of(np.uint8), pixels_of(np.uint8).T])
    for keep in (False, True):
        _, ds, before, after, x_cf, again = written(
            tmp_path,
            pixels,
            frame=1,
            keep=keep,
            SOPClassUID=EnhancedMRImageStorage,
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=[groups(2, 1), groups(3, 2)],
        )
        assert_flips(x_cf, again)
        assert before.window == after.window == Window(0, 499)
        (item,) = ds.PerFrameFunctionalGroupsSequence
        assert item.PlanePositionSequence[0].ImagePositionPatient == [0, 0, 2]
        assert item.PixelValueTransformationSequence[0].RescaleType == "US"
        assert "RescaleSlope" not in ds and "WindowCenter" not in ds
        assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2
        body = (tmp_path / "x_cf.dcm").read_bytes()
        assert (b"Karoline moved" in body) == keep


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "sequence",
    [
        "MRImageFrameTypeSequence",
        "CTImageFrameTypeSequence",
        "PETFrameTypeSequence",
        "XRay3DFrameTypeSequence",
        "USImageDescriptionSequence",
    ],
)
def test_the_frame_of_an_enhanced_object_says_that_it_is_derived(tmp_path, sequence, shared, keep):
    """As PS3.3 C.8.16.1 has it: value 2 is PRIMARY, and MIXED is no type of a single frame."""

    def group(*kind):
        item, types = Dataset(), Dataset()
        types.FrameType = list(kind)
        item[sequence] = DataElement(sequence, "SQ", [types])
        return item

    first, second = ("DERIVED", "PRIMARY", "M", "MEAN"), ("ORIGINAL", "PRIMARY", "M", "NONE")
    kinds = [second] if shared else [first, second]
    name = f"{'Shared' if shared else 'PerFrame'}FunctionalGroupsSequence"
    attributes = {"ImageType": ["MIXED", "PRIMARY", "M", "MIXED"], name: [group(*k) for k in kinds]}
    pixels = np.stack([pixels_of(np.uint8), pixels_of(np.uint8).T])
    source, ds, *_ = written(
        tmp_path, pixels, frame=1, keep=keep, SOPClassUID=EnhancedMRImageStorage, **attributes
    )
    (item,) = ds[name].value
    assert item[sequence].value[0].FrameType == ["DERIVED", "PRIMARY", "M", "NONE"]
    assert ds.ImageType == ["DERIVED", "PRIMARY", "M", "NONE"]
    # Neither the file nor the data set in memory is another than before.
    for before in (source, dicom.load(tmp_path / "source")):
        assert before.ImageType == ["MIXED", "PRIMARY", "M", "MIXED"]
        assert [tuple(i[sequence].value[0].FrameType) for i in before[name].value] == kinds


def test_a_meaning_that_all_frames_share_is_replaced(tmp_path):
    shared, meaning = Dataset(), Dataset()
    meaning.RescaleSlope, meaning.RescaleIntercept, meaning.RescaleType = 4, 3, "US"
    shared.PixelValueTransformationSequence = [meaning]
    pixels = np.kron(pixels_of(np.uint8), np.ones((2, 2), np.uint8))
    _, ds, before, after, *_ = written(
        tmp_path,
        np.stack([pixels, pixels]),
        frame=1,
        SOPClassUID=EnhancedMRImageStorage,
        SharedFunctionalGroupsSequence=[shared],
    )
    assert before.window == after.window == Window(3, 1023)
    assert ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0] != meaning
    assert np.array_equal(after.values[:, 31:33], before.values[:, 31:33])


def test_what_was_compressed_is_written_plain_and_says_if_it_was_lossy(tmp_path):
    _, ds, _, _, x_cf, again = written(tmp_path, pixels_of(np.uint8))
    assert "LossyImageCompression" not in ds
    path = tmp_path / "source"
    lossless = dcmread(path)
    lossless.compress(JPEG2000Lossless, generate_instance_uid=False)
    lossless.save_as(path)
    source, plane = dicom.load(path), dicom.read(path, 0)
    stored = storage(source, 0, plane, resized=False)
    derived.write(tmp_path / "o", source, 0, plane, stored, "", Identity(""))
    assert dcmread(tmp_path / "o").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(dicom.read(tmp_path / "o", 0).values, plane.values)
    assert "LossyImageCompression" not in dcmread(tmp_path / "o")


def test_burned_in_text_is_never_denied(tmp_path):
    for modality, said, expected in (
        ("CT", None, "NO"),
        ("US", None, None),
        ("US", "NO", "NO"),
        ("US", "YES", "YES"),
    ):
        _, ds, *_ = written(
            tmp_path,
            pixels_of(np.uint8),
            Modality=modality,
            SOPClassUID=CTImageStorage,
            BurnedInAnnotation=said,
        )
        assert ds.get("BurnedInAnnotation") == expected


@pytest.mark.parametrize("text", ["", "40", "40,0", "40,-3", "a,b", "1,2,3", "nan,3", "4,inf"])
def test_windows_that_are_none(text):
    message = f"^expected a window CENTER,WIDTH such as 40,400, got '{text}'$"
    with pytest.raises(ValueError, match=message):
        parse_window(text)
    assert parse_window("40,400") == (-160, 240)


@pytest.mark.parametrize("text", ["", "a", "-3", "1:2:0", "1:2:3:4", "1:b", "3:1:-1"])
def test_slices_that_are_none(text):
    with pytest.raises(ValueError, match=f"^expected slices such as 12 or 10:20, got '{text}'$"):
        parse_slices(text)


def test_slices():
    ten = range(10)
    for text, expected in (("3", [3]), ("2:4", [2, 3]), (":2", [0, 1]), ("1::4", [1, 5, 9])):
        assert list(ten[parse_slices(text)]) == expected

"""Reading DICOM: values, windows, frames and codecs, and every refusal in full."""

import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    RTStructureSetStorage,
)
from scans import scan, write_scan

from cfgen.data import ImageFolder, Item, UnreadableImage, Window, dicom, read_picture
from cfgen.data.series import outline

RNG = np.random.default_rng(0)
CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def levels(high=4096, shape: tuple[int, ...] = (6, 5), kind: Any = np.uint16):
    return RNG.integers(0, high, shape).astype(kind)


def of_pydicom(name):
    """A test file that is in pydicom's wheel; nothing is downloaded."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


def reason(path, frame=0, **options):
    with pytest.raises(UnreadableImage) as caught:
        dicom.read(path, frame, **options)
    return str(caught.value)


def assert_reads(path, values, window, **options):
    plane = dicom.read(path, 0, **options)
    assert plane.values.dtype == np.float64
    assert np.array_equal(plane.values, values)
    assert plane.window == window


def test_values_are_rescaled_and_shown_through_the_window(tmp_path):
    pixels = levels()
    path = write_scan(tmp_path / "a", pixels, **CT, WindowCenter=40, WindowWidth=400)
    # PS3.3 C.11.2.1.2: black at and below 40 - 0.5 - 399 / 2, white above 40 - 0.5 + 399 / 2
    assert_reads(path, pixels - 1024.0, Window(-160, 239, "HU"))
    item = Item(file="a", path=path, stem="a", kind="dicom")
    picture = read_picture(item, channels=3)
    assert picture.window == Window(-160, 239, "HU")
    expected = torch.from_numpy(((pixels - 1024.0) + 160) / 399).clamp(0, 1).float()
    assert torch.equal(picture.x, expected.expand(3, -1, -1))


@pytest.mark.parametrize(
    ("attributes", "window"),
    [
        ({"VOILUTFunction": "LINEAR"}, Window(-9.5, 88.5)),
        ({"VOILUTFunction": "LINEAR_EXACT"}, Window(-10, 90)),
        ({"WindowCenter": [40, 600], "WindowWidth": [100, 2000]}, Window(-10, 89)),
        ({"PhotometricInterpretation": "MONOCHROME1"}, Window(88.5, -9.5)),
        ({"RescaleType": "OD"}, Window(-9.5, 88.5, "OD")),
        ({"RescaleType": "of Karoline"}, Window(-9.5, 88.5)),
        ({"Modality": "PT", "Units": "BQML"}, Window(-9.5, 88.5, "BQML")),
    ],
)
def test_windows(tmp_path, attributes, window):
    shown = {"WindowCenter": 40, "WindowWidth": 99, "VOILUTFunction": "LINEAR"}
    if attributes.get("VOILUTFunction", "LINEAR") != "LINEAR":
        shown["WindowWidth"] = 100
    pixels = levels()
    assert_reads(write_scan(tmp_path / "a", pixels, **(shown | attributes)), pixels, window)


def test_the_window_that_is_asked_for_goes_first(tmp_path):
    pixels = levels()
    path = write_scan(tmp_path / "a", pixels, WindowCenter=40, WindowWidth=400)
    assert_reads(path, pixels, Window(0, 80), limits=(0, 80))
    inverted = write_scan(tmp_path / "b", pixels, PhotometricInterpretation="MONOCHROME1")
    assert_reads(inverted, pixels, Window(80, 0), limits=(0, 80))


def test_without_a_window_8_bit_is_shown_in_full(tmp_path):
    pixels = levels(256, (16, 16), np.uint8)
    path = write_scan(tmp_path / "a", pixels)
    assert_reads(path, pixels, Window(0, 255))
    item = Item(file="a", path=path, stem="a", kind="dicom")
    assert torch.equal(read_picture(item, channels=1).x[0] * 255, torch.from_numpy(pixels).float())
    few = write_scan(tmp_path / "b", pixels // 4, BitsStored=6, HighBit=5)
    assert_reads(few, pixels // 4, Window(0, 63))
    scaled = write_scan(tmp_path / "c", pixels, RescaleSlope=-2, RescaleIntercept=10)
    assert_reads(scaled, 10 - 2.0 * pixels, Window(-500, 10))


def test_without_a_window_percentiles_leave_out_padding_and_outliers(tmp_path):
    pixels = np.arange(1000, 3000, dtype=np.uint16).reshape(40, 50)
    pixels[0, :2], pixels[20:] = 60000, 7
    path = write_scan(tmp_path / "a", pixels, PixelPaddingValue=7)
    inside = np.sort(pixels[pixels != 7].ravel())
    low, high = inside[round(0.005 * 999)], inside[round(0.995 * 999)]
    assert_reads(path, pixels, Window(float(low), float(high)))
    flat = write_scan(tmp_path / "b", np.full((4, 4), 9, dtype=np.uint16))
    assert_reads(flat, np.full((4, 4), 9), Window(9, 10))
    bad = write_scan(tmp_path / "c", pixels[:2], WindowCenter=5, WindowWidth=0)
    assert dicom.read(bad, 0).window.low == 1002


def test_a_modality_table_is_applied(tmp_path):
    pixels = levels(4)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.add_new("LUTData", "OW", struct.pack("<4H", 3, 10, 500, 2000))
    path = write_scan(tmp_path / "a", pixels, ModalityLUTSequence=[table], RescaleSlope=None)
    expected = np.array([3, 10, 500, 2000])[pixels]
    assert_reads(path, expected, Window(0, 80), limits=(0, 80))


def test_frames_are_items_with_one_window(tmp_path):
    pixels = levels(shape=(3, 6, 5))
    path = write_scan(tmp_path / "study" / "IM1", pixels)
    items = ImageFolder(tmp_path / "study")[:]
    assert [(i.kind, i.index, i.file, i.stem) for i in items] == [
        ("dicom", k, f"case-000{k + 1}", f"case-000{k + 1}") for k in range(3)
    ]
    planes = [dicom.read(path, k) for k in range(3)]
    for k, plane in enumerate(planes):
        assert np.array_equal(plane.values, pixels[k])
    assert len({(p.window.low, p.window.high) for p in planes}) == 1
    assert [i.index for i in ImageFolder(path, slices=slice(1, 3))] == [1, 2]
    assert reason(path, 3) == "pixel data cannot be decoded (Explicit VR Little Endian)"


def functional(slope, width, z):
    """The functional groups of a frame."""
    meaning, shown, place, item = Dataset(), Dataset(), Dataset(), Dataset()
    meaning.RescaleSlope, meaning.RescaleIntercept, meaning.RescaleType = slope, -5, "US"
    shown.WindowCenter, shown.WindowWidth, shown.VOILUTFunction = 100, width, "LINEAR_EXACT"
    place.ImagePositionPatient = [0, 0, z]
    item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [meaning], [shown]
    item.PlanePositionSequence = [place]
    return item


def test_each_frame_of_an_enhanced_image_has_its_own_meaning(tmp_path):
    pixels = levels(shape=(2, 6, 5))
    groups = [functional(2, 50, 0), functional(3, 80, 3)]
    path = write_scan(
        tmp_path / "a",
        pixels,
        SOPClassUID=EnhancedMRImageStorage,
        PerFrameFunctionalGroupsSequence=groups,
    )
    for k, (slope, window) in enumerate([(2, Window(75, 125)), (3, Window(60, 140))]):
        plane = dicom.read(path, k)
        assert np.array_equal(plane.values, pixels[k] * slope - 5.0)
        assert plane.window == window
    shared = write_scan(tmp_path / "b", pixels, SharedFunctionalGroupsSequence=groups[:1])
    assert dicom.read(shared, 1).window == Window(75, 125)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16])
def test_uncompressed_syntaxes(tmp_path, syntax, kind):
    pixels = levels(256, kind=kind) - (100 if kind == np.int16 else 0)
    path = write_scan(tmp_path / "a", pixels.astype(kind), syntax=syntax)
    assert np.array_equal(dicom.read(path, 0).values, pixels)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("shape", [(48, 37), (3, 48, 37)])
def test_compressed_syntaxes(tmp_path, syntax, shape):
    pixels = levels(4096, shape)
    ds = scan(pixels, BitsStored=12, HighBit=11)
    ds.compress(syntax, generate_instance_uid=False)
    dcmwrite(tmp_path / "a", ds, enforce_file_format=True)
    frames = pixels.reshape(-1, 48, 37)
    for k, frame in enumerate(frames):
        assert np.array_equal(dicom.read(tmp_path / "a", k).values, frame)


@pytest.mark.parametrize("pixels", [levels(256, (24, 17), np.uint8), levels(65536, (24, 17))])
def test_lossless_jpeg_and_what_damages_its_decoder(tmp_path, pixels):
    gdcm = pytest.importorskip("gdcm", reason="no GDCM, the only decoder of lossless JPEG")
    source = write_scan(tmp_path / "plain", pixels)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "jpeg"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert np.array_equal(dicom.read(tmp_path / "jpeg", 0).values, pixels)
    # A precision of 212 bit ends the process that decodes it, which must not be this one.
    data = (tmp_path / "jpeg").read_bytes()
    at = data.index(b"\xff\xc3") + 4
    (tmp_path / "jpeg").write_bytes(data[:at] + b"\xd4" + data[at + 1 :])
    assert reason(tmp_path / "jpeg") == (
        "pixel data cannot be decoded (JPEG Lossless, Non-Hierarchical, First-Order Prediction "
        "(Process 14 [Selection Value 1]))"
    )


MR = (127, 2145, Window(-200, 1399))
READ = {
    "MR_small.dcm": MR,
    "MR_small_RLE.dcm": MR,
    "MR_small_bigendian.dcm": MR,
    "MR_small_expb.dcm": MR,
    "MR_small_implicit.dcm": MR,
    "MR_small_jp2klossless.dcm": MR,
    "MR_small_jpeg_ls_lossless.dcm": MR,
    "MR_small_padded.dcm": MR,
    "CT_small.dcm": (-896, 1167, Window(-861, 785, "HU")),
    "693_J2KI.dcm": (-3995, 1812, Window(-10, 89, "HU")),
    "J2K_pixelrep_mismatch.dcm": (-2000, 1896, Window(-10, 89, "HU")),
    "JPEGLSNearLossless_08.dcm": (0, 255, Window(0, 255)),
    "JPEGLSNearLossless_16.dcm": (0, 65535, Window(0, 65535)),
    "examples_overlay.dcm": (0, 1123, Window(55, 844)),
    "image_dfl.dcm": (0, 255, Window(0, 255)),
}


@pytest.mark.parametrize("name", READ)
def test_test_files_of_pydicom_are_read(name):
    low, high, window = READ[name]
    plane = dicom.read(of_pydicom(name), 0)
    assert (plane.values.min(), plane.values.max(), plane.window) == (low, high, window)


REFUSED = {
    "MR_truncated.dcm": "truncated",
    "JPGExtended.dcm": "pixel data cannot be decoded (JPEG Extended (Process 2 and 4))",
    "JPEG2000-embedded-sequence-delimiter.dcm": (
        "pixel data cannot be decoded (JPEG 2000 Image Compression)"
    ),
    "rtstruct.dcm": "expected an image, got RT Structure Set Storage",
    "rtplan.dcm": "expected an image, got RT Plan Storage",
    "rtdose.dcm": "expected an image, got RT Dose Storage",
    "test-SR.dcm": "expected an image, got Comprehensive SR Storage",
    "waveform_ecg.dcm": "expected an image, got 12-lead ECG Waveform Storage",
    "liver_1frame.dcm": "expected an image, got Segmentation Storage",
    "no_meta.dcm": "not a DICOM file",
    "README.txt": "not a DICOM file",
}


@pytest.mark.parametrize("name", REFUSED)
def test_test_files_of_pydicom_are_refused(name):
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    assert reason(root / name) == REFUSED[name]


def saved(**attributes):
    def save(path):
        write_scan(path, levels(), **attributes)

    return save


def cut(keep):
    """The file without the end of its pixels, which are its last 60 bytes."""

    def save(path):
        write_scan(path, levels())
        path.write_bytes(path.read_bytes()[:-keep])

    return save


def cut_jpeg(path):
    ds = scan(levels(shape=(48, 37)))
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    dcmwrite(path, ds, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-500])


def unknown(path):
    ds = scan(levels(), SOPClassUID="1.2.3.4711.9", PixelData=None)
    dcmwrite(path, ds, enforce_file_format=True)


def movie(path):
    ds = dcmread(write_scan(path, levels()))
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    ds.PixelData = encapsulate([b"abcd"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)


def private_syntax(path):
    write_scan(path, levels())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.4711.8.1.23\0"))


MADE = {
    "empty": (lambda path: path.write_bytes(b""), "file is empty"),
    "text": (lambda path: path.write_text("Karoline Zuckmayer"), "not a DICOM file"),
    "cut pixels": (cut(4), "truncated"),
    "cut stream": (cut_jpeg, "truncated"),
    "no pixels": (
        saved(PixelData=None),
        "expected pixel data, got none (MR Image Storage, or truncated)",
    ),
    "unknown": (unknown, "expected pixel data, got none (unknown kind, or truncated)"),
    "structures": (
        saved(SOPClassUID=RTStructureSetStorage),
        "expected an image, got RT Structure Set Storage",
    ),
    "other colours": (
        saved(PhotometricInterpretation="KAROLINE"),
        "expected a grey, RGB, YBR or palette image, got another",
    ),
    "no rows": (saved(Rows=0), "expected an image with pixels, got 0 x 5"),
    "large": (
        saved(Rows=60000, Columns=60000),
        "expected at most 100000000 pixels (--max-pixels), got 60000 x 60000",
    ),
    "slope": (saved(RescaleSlope=0), "expected a rescale slope other than 0, got 0"),
    "no colours": (saved(PhotometricInterpretation=None), "damaged DICOM header"),
    "movie": (
        movie,
        "transfer syntax is not supported (MPEG2 Main Profile / Main Level)",
    ),
    "private syntax": (private_syntax, "transfer syntax is not supported (unknown kind)"),
}


@pytest.mark.parametrize("name", MADE)
def test_refused(tmp_path, name):
    make, expected = MADE[name]
    make(tmp_path / "scan.dcm")
    assert reason(tmp_path / "scan.dcm") == expected


def test_refused_without_content(tmp_path):
    assert reason(tmp_path / "none.dcm") == "no such file"
    assert reason(tmp_path) == "is a directory"


def test_burned_in_names_are_refused_unless_names_are_kept(tmp_path):
    write_scan(tmp_path / "a.dcm", levels(), BurnedInAnnotation="YES")
    message = "expected no identifying text burned into the image, got BurnedInAnnotation YES"
    for keep_ids in (False, True):
        (item,) = ImageFolder(tmp_path, keep_ids=keep_ids)
        if keep_ids:
            assert read_picture(item, channels=1).x.shape == (1, 6, 5)
            continue
        with pytest.raises(UnreadableImage, match=f"^{message}$"):
            read_picture(item, channels=1)


def test_a_damaged_number_of_frames_is_one(tmp_path):
    for number, expected in ((0, 1), (-3, 1), (2_000_000_000, 1), (3, 3)):
        path = write_scan(tmp_path / "a", levels(), NumberOfFrames=number)
        assert outline(path).frames == expected


def test_a_changed_file_is_read_again(tmp_path):
    for shape in ((6, 5), (7, 5)):
        pixels = levels(shape=shape)
        path = write_scan(tmp_path / "a", pixels)
        assert np.array_equal(dicom.read(path, 0).values, pixels)


def test_a_study_is_read_in_its_order(tmp_path):
    for name, series, number in [("x", "2.1", 3), ("1.2.840.7", "2.1", 1), ("b.dcm", "2.2", 1)]:
        write_scan(tmp_path / "s" / name, levels(), SeriesInstanceUID=series, InstanceNumber=number)
    write_scan(tmp_path / "s" / "a", levels(), SeriesInstanceUID="2.1", InstanceNumber=2)
    (tmp_path / "s" / "DICOMDIR").write_bytes((tmp_path / "s" / "x").read_bytes())
    (tmp_path / "s" / "notes").write_text("no image")
    (tmp_path / "s" / "broken.DCM").write_text("no image")
    nib.save(nib.Nifti1Image(np.eye(3)[..., None], np.eye(4)), tmp_path / "s" / "v.nii.gz")
    items = ImageFolder(tmp_path)[:]
    assert [i.path.name for i in items] == [
        *("1.2.840.7", "a", "x"),
        *("b.dcm", "broken.DCM", "v.nii.gz"),
    ]
    assert [i.file for i in items] == [f"case-000{k}" for k in range(1, 7)]
    kept = ImageFolder(tmp_path, keep_ids=True, limit=3)[:]
    assert [(i.file, i.stem) for i in kept] == [
        ("s/1.2.840.7", "1.2.840"),
        ("s/a", "a"),
        ("s/x", "x"),
    ]


def test_pictures_keep_their_names_beside_scans(tmp_path):
    write_scan(tmp_path / "a" / "IM1", levels())
    write_scan(tmp_path / "b.dcm", levels(shape=(2, 4, 4)))
    (tmp_path / "case-0001.png").write_bytes(b"")
    items = ImageFolder(tmp_path)[:]
    assert [(i.file, i.stem, i.kind, i.opaque) for i in items] == [
        ("case-0001", "case-0001", "dicom", True),
        ("case-0002", "case-0002", "dicom", True),
        ("case-0003", "case-0003", "dicom", True),
        ("case-0001.png", "case-0001-2", "picture", False),
    ]
    kept = ImageFolder(tmp_path, keep_ids=True)[:]
    assert [(i.file, i.stem) for i in kept] == [
        ("a/IM1", "IM1"),
        ("b.dcm#0", "b_000"),
        ("b.dcm#1", "b_001"),
        ("case-0001.png", "case-0001"),
    ]


def test_labels_hide_the_names_of_scans(tmp_path):
    write_scan(tmp_path / "zuck.dcm", levels())
    table = "file,label,split\nzuck.dcm,dark,test\ngone,bright,test\nIM.7,dark,train\nx.png,,test\n"
    (tmp_path / "labels.csv").write_text(table)
    items = ImageFolder(tmp_path, split="test")[:]
    assert [(i.file, i.label, i.kind) for i in items] == [
        ("case-0001", "dark", "dicom"),
        ("case-0002", "bright", "dicom"),
        ("x.png", None, "picture"),
    ]
    (tmp_path / "labels.csv").write_text("file\nzuck.dcm\nzuck.dcm\n")
    with pytest.raises(ValueError, match=r"^expected each file once in labels.csv, got one 2x$"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="^expected slices that are in the volumes, got none$"):
        write_scan(tmp_path / "many", levels(shape=(3, 4, 4)))
        ImageFolder(tmp_path / "many", slices=slice(7, 9))

"""What the stored values of DICOM mean, and how the file wants them shown, against the standard."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from scans import markers, scan, write_scan

from cfgen.data import Item, UnreadableImage, Window, dicom, read_picture
from cfgen.data.quiet import quiet

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 4096, (16, 12)).astype(np.uint16)
PIXELS[0, :5] = [1998, 1999, 2000, 2001, 2002]  # where windows of the tests end
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
CT: dict[str, Any] = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def shown(path, frame=0, **options):
    """What a file shows, in [0, 1]."""
    plane = dicom.read(path, frame, **options)
    return plane.window.fraction(plane.values).clip(0, 1)


def reason(path, frame=0, **options):
    with pytest.raises(UnreadableImage) as caught:
        dicom.read(path, frame, **options)
    return str(caught.value)


def record(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def lut(entries, first=0, bits=16, vr="OW", order="<", **attributes: Any) -> Dataset:
    """An item of a sequence of tables; as numbers (US), or as bytes, two to a word for 8 bit."""
    ds = record(**attributes)
    ds.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    words: Any = [int(v) for v in entries]
    if vr == "OW":
        words = np.asarray(entries, f"{order}u{1 if bits == 8 else 2}").tobytes()
    ds.add_new("LUTData", vr, words)
    return ds


def per_frame(name: str, *items: Dataset) -> dict[str, Any]:
    return {
        "SOPClassUID": EnhancedMRImageStorage,
        "PerFrameFunctionalGroupsSequence": [record(**{name: [item]}) for item in items],
    }


CURVE = np.round(65535 / (1 + np.exp(-4 * (np.arange(4096) - 2048) / 1000)))


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # PS3.3 C.11.2.1.2.1: black at and below c - 0.5 - (w - 1) / 2, white above
        ((2000, 1, "LINEAR"), lambda v: v > 1999.5),
        ((2000, 2, "LINEAR"), lambda v: ((v - 1999.5) / 1 + 0.5).clip(0, 1)),
        ((2000, 1, "LINEAR_EXACT"), lambda v: ((v - 2000) / 1 + 0.5).clip(0, 1)),
        ((2000, 0.5, None), lambda v: ((v - 2000) / 0.5 + 0.5).clip(0, 1)),
        ((2000, 500, "SIGMOID"), lambda v: 1 / (1 + np.exp(-4 * (v - 2000) / 500))),
        ((2000, 0.001, "SIGMOID"), lambda v: np.where(v == 2000, 0.5, v > 2000)),
        ((2000, 500, "sigmoid"), lambda v: 1 / (1 + np.exp(-4 * (v - 2000) / 500))),
    ],
)
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_windows_of_every_function_and_width(tmp_path, window, expected, interpretation):
    center, width, function = window
    how = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    with quiet():  # pydicom does not like small letters
        path = write_scan(tmp_path / "a", PIXELS, PhotometricInterpretation=interpretation, **how)
    right = expected(PIXELS.astype(float)) * 1.0
    right = 1 - right if interpretation == "MONOCHROME1" else right
    np.testing.assert_allclose(shown(path), right, atol=1e-12)


def test_a_width_below_one_is_that_of_small_steps(tmp_path):
    """As fo-dicom#1999, dicom-rs#826 and cornerstone3D#1717 settled it."""
    path = write_scan(
        tmp_path / "a",
        PIXELS,
        RescaleSlope=0.0002442002587,
        RescaleIntercept=-0.0002442002587,
        WindowCenter="0.4565323565",
        WindowWidth="0.9130647131",
    )
    window = dicom.read(path, 0).window
    np.testing.assert_allclose([window.low, window.high], [0, 0.91306471305], atol=1e-9)


def test_a_function_that_is_none_is_refused_unless_a_window_is_asked_for(tmp_path):
    how = {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "KAROLINE"}
    path = write_scan(tmp_path / "a", PIXELS, **how)
    assert reason(path) == (
        "expected a VOI LUT function of LINEAR, LINEAR_EXACT or SIGMOID, got another"
    )
    assert dicom.read(path, 0, limits=(0, 9)).window == Window(0, 9)


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_table_is_applied_level_by_level(tmp_path, vr, falling, syntax):
    entries = CURVE[::-1] if falling else CURVE
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    table = lut(entries, vr=vr, order=order)
    path = write_scan(tmp_path / "a", PIXELS, syntax=syntax, VOILUTSequence=[table], **TWELVE)
    assert np.array_equal(shown(path), entries[PIXELS] / 65535)
    assert dicom.read(path, 0).window == Window(0, 65535)
    item = Item(file="a", path=path, stem="a", kind="dicom")
    expected = torch.from_numpy(entries[PIXELS] / 65535).float()
    assert torch.equal(read_picture(item, channels=1).x[0], expected)
    assert np.array_equal(shown(path, limits=(0, 4095)), PIXELS / 4095)


def test_tables_of_8_bit_from_a_first_value_with_their_ends_held(tmp_path):
    entries = RNG.integers(0, 256, 101)  # an odd number of bytes
    expected = entries[(PIXELS.astype(int) - 2000).clip(0, 100)] / 255
    for name, order in (("little", "<"), ("big", ">")):
        table = lut(entries, 2000, 8)
        data = np.asarray([*entries, 0], np.uint8)
        swapped = data.view("<u2").astype(f"{order}u2").tobytes()
        table.add_new("LUTData", "OW", swapped)
        syntax = ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian
        path = write_scan(tmp_path / name, PIXELS, syntax=syntax, VOILUTSequence=[table])
        assert np.array_equal(shown(path), expected)
    words = lut(entries, 2000, 8, vr="US")
    path = write_scan(tmp_path / "words", PIXELS, VOILUTSequence=[words])
    assert np.array_equal(shown(path), expected)


@pytest.mark.parametrize("first", [-1024, 64512])
def test_a_first_value_below_zero_is_read_in_both_spellings(tmp_path, first):
    entries = np.arange(4096) * 16
    path = write_scan(tmp_path / "a", PIXELS, VOILUTSequence=[lut(entries, first)], **CT, **TWELVE)
    assert np.array_equal(shown(path), entries[PIXELS] / 65535)
    assert dicom.read(path, 0).window == Window(0, 65535, "")  # levels are no Hounsfield units
    assert dicom.read(path, 0, limits=(0, 80)).window == Window(0, 80, "HU")


def test_a_table_of_65536_entries_and_one_that_is_cut(tmp_path):
    entries = np.arange(65536)[::-1]
    pixels = RNG.integers(0, 65536, (6, 5)).astype(np.uint16)
    path = write_scan(tmp_path / "a", pixels, VOILUTSequence=[lut(entries)])
    assert np.array_equal(shown(path), entries[pixels] / 65535)
    cut = lut(CURVE)
    cut.LUTData = cut.LUTData[:100]
    path = write_scan(tmp_path / "b", PIXELS, VOILUTSequence=[cut])
    assert reason(path) == "damaged DICOM header"


def test_the_closest_place_that_says_how_to_show_a_frame_is_taken_whole(tmp_path):
    pixels = np.stack([PIXELS, PIXELS])
    falling = lut(CURVE[::-1])
    top = {"WindowCenter": 100, "WindowWidth": 50}
    groups = per_frame(
        "FrameVOILUTSequence",
        record(VOILUTSequence=[falling]),
        record(WindowCenter=1500, WindowWidth=101),
    )
    path = write_scan(tmp_path / "a", pixels, **groups, **top)
    assert np.array_equal(shown(path), CURVE[::-1][PIXELS] / 65535)
    assert dicom.read(path, 1).window == Window(1449.5, 1549.5)
    # A centre alone is no window: nothing of it is mixed with what stands at the top.
    groups = per_frame("FrameVOILUTSequence", record(WindowCenter=1500), record(WindowWidth=9))
    path = write_scan(tmp_path / "b", pixels, **groups, **top)
    assert [dicom.read(path, k).window for k in (0, 1)] == [Window(75, 124)] * 2
    shared = record(FrameVOILUTSequence=[record(WindowCenter=7, WindowWidth=5)])
    path = write_scan(
        tmp_path / "c", pixels, SharedFunctionalGroupsSequence=[shared], VOILUTSequence=[falling]
    )
    assert dicom.read(path, 1).window == Window(4.5, 8.5)
    both = write_scan(tmp_path / "d", PIXELS, VOILUTSequence=[falling], **top)
    assert dicom.read(both, 0).window == Window(75, 124)


def test_slope_and_intercept_come_from_one_place(tmp_path):
    pixels = np.stack([PIXELS, PIXELS])
    groups = per_frame(
        "PixelValueTransformationSequence",
        record(RescaleSlope=2),
        record(RescaleIntercept=10, RescaleType="OD"),
    )
    top = {"RescaleSlope": 5, "RescaleIntercept": -1000, "RescaleType": "HU"}
    path = write_scan(tmp_path / "a", pixels, **groups, **top)
    assert np.array_equal(dicom.read(path, 0).values, PIXELS * 2.0)
    assert np.array_equal(dicom.read(path, 1).values, PIXELS + 10.0)
    assert [dicom.read(path, k).window.unit for k in (0, 1)] == ["", "OD"]


def meaning(slope, intercept, kind):
    return record(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=kind)


def test_the_full_scale_of_8_bit_is_that_of_the_frame(tmp_path):
    pixels = RNG.integers(0, 256, (3, 8, 8)).astype(np.uint8)
    how = [(1, 0), (2, 100), (4, -50)]
    groups = per_frame("PixelValueTransformationSequence", *(meaning(*h, "US") for h in how))
    path = write_scan(tmp_path / "a", pixels, **groups)
    for k, (slope, intercept) in enumerate(how):
        plane = dicom.read(path, k)
        assert np.array_equal(plane.values, pixels[k] * float(slope) + intercept)
        assert plane.window == Window(intercept, 255 * slope + intercept)


def test_the_default_window_is_that_of_the_frames_in_the_same_unit(tmp_path):
    """Percentiles after rescaling, of all frames of the unit, padding left out in each."""
    pixels = RNG.integers(0, 1000, (4, 20, 20)).astype(np.uint16)
    pixels[1] //= 4
    pixels[:, :5] = 5000
    how = [(1, 0, "HU"), (3, 10, "US"), (2, -7, "HU"), (3, 10, "US")]
    groups = per_frame("PixelValueTransformationSequence", *(meaning(*h) for h in how))
    groups["SOPClassUID"] = EnhancedCTImageStorage
    path = write_scan(tmp_path / "a", pixels, Modality="CT", PixelPaddingValue=5000, **groups)
    for unit, frames in (("HU", (0, 2)), ("", (1, 3))):
        values = np.concatenate(
            [pixels[k][5:].ravel() * float(how[k][0]) + how[k][1] for k in frames]
        )
        ends = np.percentile(values, [0.5, 99.5], method="nearest")
        for k in frames:
            assert dicom.read(path, k).window == Window(float(ends[0]), float(ends[1]), unit)


SIGNED = (PIXELS.astype(np.int16) // 4) - 1024  # -1024 to -1


@pytest.mark.parametrize(
    ("padding", "limit", "left_out"),
    [
        (("SS", -2000), None, {-2000}),
        (("US", 63536), None, {-2000}),
        (("US", 63536), ("US", 64036), {-2000, -1500}),
        (("SS", -1500), ("SS", -2000), {-2000, -1500}),
        (("SS", -1500), None, {-1500}),
        (None, ("SS", -2000), set()),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_padding_is_meant_in_the_type_of_the_pixels(tmp_path, padding, limit, left_out, syntax):
    pixels = SIGNED.copy()
    pixels[:2], pixels[2:4] = -2000, -1500
    ds = scan(pixels, syntax=syntax, RescaleSlope=2, RescaleIntercept=5)
    for keyword, value in (("PixelPaddingValue", padding), ("PixelPaddingRangeLimit", limit)):
        if value:
            ds.add_new(keyword, *value)
    path = tmp_path / "a"
    dcmwrite(path, ds, enforce_file_format=True)
    values = 2 * pixels[~np.isin(pixels, list(left_out))] + 5.0
    low, high = np.percentile(values, [0.5, 99.5], method="nearest")
    assert dicom.read(path, 0).window == Window(low, high)


def test_padding_below_the_stored_bits_and_nothing_but_padding(tmp_path):
    pixels = PIXELS.astype(np.int16) // 4
    pixels[:5] = -2000
    path = write_scan(tmp_path / "a", pixels, **TWELVE)
    ds = dcmread(path)
    ds.add_new("PixelPaddingValue", "US", 2096)  # -2000 in 12 bit
    ds.save_as(path)
    low, high = np.percentile(pixels[5:], [0.5, 99.5], method="nearest")
    assert dicom.read(path, 0).window == Window(low, high)
    path = write_scan(tmp_path / "b", np.full((4, 4), 7, np.uint16), PixelPaddingValue=7)
    assert dicom.read(path, 0).window == Window(7, 8)


NOTHING = {"RescaleSlope": None, "RescaleIntercept": None}


@pytest.mark.parametrize(
    ("attributes", "unit"),
    [
        ({}, "HU"),
        ({"RescaleType": "HU"}, "HU"),
        ({"RescaleType": "US"}, ""),
        ({"RescaleType": "SEC"}, ""),
        ({"RescaleType": "HU_MOD"}, "HU_MOD"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "RescaleType": "HU"}, "HU"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "HU"),
        ({"ImageType": None}, "HU"),
        ({"MultienergyCTAcquisition": "YES"}, ""),
        ({"MultienergyCTAcquisition": "NO"}, "HU"),
        (NOTHING, ""),
        (NOTHING | {"ModalityLUTSequence": [lut([0, 9], ModalityLUTType="OD")]}, "OD"),
        (NOTHING | {"ModalityLUTSequence": [lut([0, 9], ModalityLUTType="US")]}, ""),
        (NOTHING | {"ModalityLUTSequence": [lut([0, 9])]}, ""),
        ({"Modality": "MR"}, ""),
        ({"Modality": "MR", "RescaleType": "HU"}, "HU"),
    ],
)
def test_hounsfield_units_only_where_the_file_says_or_implies_them(tmp_path, attributes, unit):
    path = write_scan(tmp_path / "a", PIXELS, **(CT | attributes))
    assert dicom.read(path, 0, limits=(0, 80)).window == Window(0, 80, unit)


def test_a_frame_may_be_a_localizer(tmp_path):
    kinds = [record(FrameType=["ORIGINAL", "PRIMARY", k, "NONE"]) for k in ("LOCALIZER", "VOLUME")]
    groups = per_frame("CTImageFrameTypeSequence", *kinds)
    path = write_scan(tmp_path / "a", np.stack([PIXELS, PIXELS]), **CT, **groups)
    assert [dicom.read(path, k).window.unit for k in (0, 1)] == ["", "HU"]


@pytest.mark.parametrize(
    ("bits", "vr", "order"), [(12, "OW", "<"), (16, "OW", ">"), (16, "US", "<"), (8, "OW", "<")]
)
def test_modality_tables_of_every_kind(tmp_path, bits, vr, order):
    pixels = np.array([[-3, -2, -1, 0, 1, 2]] * 4, np.int16)
    entries = np.array([1, 2**bits - 1, 9, 200])
    path = write_scan(
        tmp_path / "a",
        pixels,
        syntax=ExplicitVRBigEndian if order == ">" else ExplicitVRLittleEndian,
        ModalityLUTSequence=[lut(entries, -2, bits, vr, order, ModalityLUTType="OD")],
    )
    plane = dicom.read(path, 0)
    assert np.array_equal(plane.values, entries[(pixels + 2).clip(0, 3)])
    assert plane.window.unit == "OD"


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.uint8])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless]
)
@pytest.mark.parametrize("shift", [4, 2])
def test_values_that_do_not_stand_at_the_lowest_bit(tmp_path, kind, syntax, shift):
    bits = 8 * np.dtype(kind).itemsize
    stored = bits - 4
    low = -(2 ** (stored - 1)) if kind == np.int16 else 0
    values = RNG.integers(low, low + 2**stored, (6, 5))
    noise = RNG.integers(0, 2**shift, values.shape)  # an overlay in the bits below
    above = RNG.integers(0, 2 ** (4 - shift), values.shape) << (stored + shift)
    cells = ((values & (2**stored - 1)) << shift | noise | above).astype(f"u{bits // 8}").view(kind)
    ds = scan(cells, syntax=ExplicitVRLittleEndian if syntax.is_compressed else syntax)
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = stored, stored + shift - 1
    dcmwrite(tmp_path / "a", ds, enforce_file_format=True)
    assert np.array_equal(dicom.read(tmp_path / "a", 0).values, values)


@pytest.mark.parametrize(
    ("stored", "high", "compressed"), [(12, 10, False), (12, 16, False), (12, 15, True)]
)
def test_bits_that_are_nowhere_are_refused(tmp_path, stored, high, compressed):
    ds = scan(PIXELS, BitsStored=12, HighBit=11)
    if compressed:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = stored, high
    dcmwrite(tmp_path / "a", ds, enforce_file_format=True)
    assert reason(tmp_path / "a") == (
        f"expected the highest of 12 bits in 16 at 11, got HighBit {high}"
    )


def test_cells_of_12_bits_are_refused_and_no_highest_bit_is_the_usual_one(tmp_path):
    path = write_scan(tmp_path / "a", PIXELS, BitsAllocated=12, **TWELVE)
    assert reason(path) == "expected pixels of 1, 8, 16 or 32 bits, got 12"
    path = write_scan(tmp_path / "b", PIXELS, BitsStored=12, HighBit=None)
    assert np.array_equal(dicom.read(path, 0).values, PIXELS)


def test_frames_of_single_bits_begin_inside_of_a_byte(tmp_path):
    bits = RNG.integers(0, 2, (3, 5, 7)).astype(np.uint8)
    body = np.packbits(bits.ravel(), bitorder="little").tobytes()
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    path = write_scan(tmp_path / "a", bits, PixelData=body, **one)
    for k in range(3):
        plane = dicom.read(path, k)
        assert np.array_equal(plane.values, bits[k])
        assert plane.window == Window(0, 1)
    assert reason(path, 3) == "pixel data cannot be decoded (Explicit VR Little Endian)"
    path = write_scan(tmp_path / "b", bits, PixelData=body[:-4], **one)
    assert reason(path, 2) == "truncated"


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_without_file_meta_the_data_set_shows_its_syntax(tmp_path, implicit, little):
    syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    ds = scan(PIXELS, syntax=ImplicitVRLittleEndian if implicit else syntax, **TWELVE)
    del ds.file_meta
    stream = io.BytesIO()
    ds.save_as(stream, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    (tmp_path / "a").write_bytes(stream.getvalue())
    assert np.array_equal(dicom.read(tmp_path / "a", 0).values, PIXELS)


def test_compressed_pixels_without_a_syntax_are_refused(tmp_path):
    ds = scan(PIXELS)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    dcmwrite(tmp_path / "a", ds, enforce_file_format=True)
    data = (tmp_path / "a").read_bytes()
    length = struct.unpack("<I", data[140:144])[0]  # of the file meta group
    (tmp_path / "a").write_bytes(data[144 + length :])
    assert reason(tmp_path / "a") == "expected a transfer syntax for compressed pixels, got none"


def outcome(path):
    """Read as a run does it; a refusal in one line that says nothing of the patient, or None."""
    item = Item(file="case", path=path, stem="case", kind="dicom", opaque=True)
    try:
        read_picture(item, channels=1, size=(8, 8))
    except UnreadableImage as error:
        said = str(error)
        assert "\n" not in said and [word for word in markers() if word in said] == []
        return said
    return None


@pytest.mark.parametrize("vr", [b"US", b"FD", b"DS", b"IS", b"AT", b"UI", b"CS", b"DA", b"??"])
def test_a_wrong_type_of_any_element_costs_one_line(tmp_path, vr):
    """A header that lies about the type of what it holds: the image is read, or refused."""
    ds = scan(PIXELS, BurnedInAnnotation="NO", WindowCenter=40, WindowWidth=400, **CT, **TWELVE)
    ds.add_new("PixelPaddingValue", "US", 7)
    dcmwrite(tmp_path / "a", ds, enforce_file_format=True)
    data, refused = (tmp_path / "a").read_bytes(), 0
    for element in ds:
        if element.VR in ("SQ", "OW", "OB", "UN") or element.VR.encode() == vr:
            continue
        head = struct.pack("<HH", element.tag.group, element.tag.element)
        at = data.index(head + element.VR.encode())
        (tmp_path / "b").write_bytes(data[: at + 4] + vr + data[at + 6 :])
        refused += outcome(tmp_path / "b") is not None
    assert 0 < refused < len(ds)


BURNED = "expected BurnedInAnnotation of YES or NO, got another value"


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("CS", "NO", None),
        ("CS", "", None),
        ("CS", "yes", BURNED),
        ("CS", ["NO", "YES"], BURNED),
        ("LO", "Karoline", BURNED),
        ("US", 20052, BURNED),
        ("FD", b"Karoline", BURNED),
        ("DS", b"Karoline", BURNED),
        ("IS", b"Karoline", BURNED),
        ("US", b"Karolin", "damaged DICOM header"),
    ],
)
def test_what_is_burned_in_has_to_be_clear(tmp_path, vr, value, expected):
    ds = scan(PIXELS)
    with quiet():  # pydicom knows these values to be wrong
        written = value.decode() if isinstance(value, bytes) else value
        ds[0x0028, 0x0301] = DataElement(0x00280301, "LO" if written != value else vr, written)
        dcmwrite(tmp_path / "a", ds, enforce_file_format=True)
    if isinstance(value, bytes):
        data, tag = (tmp_path / "a").read_bytes(), struct.pack("<HH", 0x0028, 0x0301)
        old = tag + struct.pack("<2sH", b"LO", 8) + value.ljust(8)
        assert data.count(old) == 1
        new = tag + struct.pack("<2sH", vr.encode(), len(value)) + value
        (tmp_path / "a").write_bytes(data.replace(old, new))
    assert outcome(tmp_path / "a") == expected

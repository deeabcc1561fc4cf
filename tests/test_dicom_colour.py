"""Colour DICOM: read as red, green and blue, and written as RGB that flips when read again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import SIDE, exported
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)
from scans import markers, write_colours, write_scan

from cfgen.data import Item, UnreadableImage, dicom, read_item_mask, read_picture

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])


def of(path, **options):
    item = Item(file="a", path=Path(path), stem="a", kind="dicom", **options)
    return item


def rgb(path, frame=0):
    """What a pair of three channels sees, (H, W, 3)."""
    return np.moveaxis(read_picture(of(path, index=frame), channels=3).x.numpy(), 0, -1)


def reason(path):
    with pytest.raises(UnreadableImage) as caught:
        dicom.read(path, 0)
    return str(caught.value)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("kind", "white"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("planes", [0, 1])
def test_samples_are_shown_over_their_full_scale(tmp_path, syntax, kind, white, planes):
    pixels = RNG.integers(0, white + 1, (2, 6, 5, 3)).astype(kind)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    laid = np.moveaxis(pixels, -1, 1) if planes else pixels
    path = write_colours(
        tmp_path / "a",
        pixels,
        syntax=syntax,
        PlanarConfiguration=planes,
        PixelData=laid.astype(np.dtype(kind).newbyteorder(order)).tobytes(),
    )
    for k in range(2):
        assert np.array_equal(rgb(path, k), (pixels[k] / white).astype(np.float32))
    assert dicom.read(path, 1, limits=(0, 5)).window.high == white  # a window is one of greys
    assert read_picture(of(path), channels=3).window is None


def test_a_pair_of_one_channel_reads_the_luma_as_of_pictures(tmp_path):
    path = write_colours(tmp_path / "a", COLOURS)
    seen = read_picture(of(path), channels=1).x
    np.testing.assert_allclose(seen[0], COLOURS / 255 @ LUMA, atol=1e-7)
    grey = np.repeat(COLOURS[..., :1], 3, -1)
    seen = read_picture(of(write_colours(tmp_path / "b", grey)), channels=1).x[0]
    assert torch.equal((seen * 255).round(), torch.from_numpy(grey[..., 0]).float())


def test_luma_and_colour_differences_are_converted(tmp_path):
    # PS3.3 C.7.6.3.1.2, turned round
    y, cb, cr = np.moveaxis(COLOURS.astype(float), -1, 0)
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.714136 * (cr - 128) - 0.344136 * (cb - 128)
    expected = np.stack([red, green, blue], -1).clip(0, 255)
    path = write_colours(tmp_path / "a", COLOURS, PhotometricInterpretation="YBR_FULL")
    assert np.abs(rgb(path) * 255 - expected).max() <= 1


def palette(entries, first=0, bits=8, order="<", **more):
    """Attributes of a palette (N, 3), its tables as words or, of 8 bit, two to a word."""
    out: dict = {"PhotometricInterpretation": "PALETTE COLOR"} | more
    for name, column in zip(("Red", "Green", "Blue"), entries.T, strict=True):
        out[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries) % 65536, first, bits]
        data = column.astype(f"{order}u{bits // 8}").tobytes()
        out[f"{name}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    return out


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (16, 65535)])
@pytest.mark.parametrize("first", [0, 100])
@pytest.mark.parametrize("indices", [np.uint8, np.uint16])
def test_palettes(tmp_path, bits, white, first, indices):
    entries = RNG.integers(0, white + 1, (600 if indices is np.uint16 else 150, 3))
    stored = RNG.integers(0, 256 if indices is np.uint8 else 900, (6, 5)).astype(indices)
    path = write_scan(tmp_path / "a", stored, **palette(entries, first, bits))
    expected = entries[(stored.astype(int) - first).clip(0, len(entries) - 1)] / white
    assert np.array_equal(rgb(path), expected.astype(np.float32))


def test_a_palette_in_segments(tmp_path):
    stored = RNG.integers(0, 256, (6, 5)).astype(np.uint8)
    attributes = palette(np.zeros((256, 3)))
    for k, name in enumerate(("Red", "Green", "Blue")):
        del attributes[f"{name}PaletteColorLookupTableData"]
        # PS3.3 C.7.9.2: one entry of 10 k, then a straight line over 255 entries to 255
        segments = bytes([0, 1, 10 * k, 1, 255, 255])
        attributes[f"Segmented{name}PaletteColorLookupTableData"] = segments
    path = write_scan(tmp_path / "a", stored, **attributes)
    large = attributes | {"RedPaletteColorLookupTableDescriptor": [300, 0, 8]}
    assert reason(write_scan(tmp_path / "b", stored, **large)) == (
        "expected 1 to 256 colours of 8 bit in segments, got 300"
    )
    expected = np.stack([10 * k + (255 - 10 * k) * (stored / 255) for k in range(3)], -1)
    assert np.abs(rgb(path) * 255 - expected).max() <= 1


def of_pydicom(name):
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


# The mean of red, green and blue, and one pixel. Those of the bars are close to what all files of
# that picture hold, whatever their colour space and codec.
BARS = ([127.7, 127.7, 127.7], [255, 0, 0])
READ = {
    "SC_rgb_rle_2frame.dcm": BARS,
    "SC_rgb_rle_16bit.dcm": ([32818.9 / 257] * 3, [255, 0, 0]),
    "SC_rgb_rle_32bit.dcm": ([127.7] * 3, [255, 0, 0]),
    "SC_rgb_gdcm_KY.dcm": BARS,
    "SC_rgb_jls_lossy_line.dcm": BARS,
    "SC_rgb_dcmtk_+eb+cr.dcm": BARS,
    "SC_rgb_dcmtk_+eb+cy+np.dcm": BARS,
    "SC_rgb_jpeg_dcmtk.dcm": BARS,
    "SC_ybr_full_422_uncompressed.dcm": BARS,
    "ExplVR_BigEnd.dcm": ([251.0, 248.1, 15.7], [255, 255, 0]),
    "examples_jpeg2k.dcm": ([40.4, 34.5, 28.7], [0, 0, 0]),
    "examples_palette.dcm": ([15.9, 20.0, 25.3], [36.9, 61.8, 93.6]),
    "examples_ybr_color.dcm": ([9.2, 9.5, 9.7], [1, 1, 0]),
}


@pytest.mark.parametrize("name", READ)
def test_colour_files_of_pydicom_are_read(name):
    mean, pixel = READ[name]
    seen = rgb(of_pydicom(name)) * 255
    np.testing.assert_allclose(seen.mean((0, 1)), mean, atol=0.5)
    np.testing.assert_allclose(seen[5, 50], pixel, atol=2.5)


def test_lossless_jpeg_in_colour():
    pytest.importorskip("gdcm", reason="no GDCM, the only decoder of lossless JPEG")
    seen = rgb(of_pydicom("SC_rgb_jpeg_gdcm.dcm"))
    assert np.array_equal(seen, rgb(of_pydicom("SC_rgb_rle.dcm")))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"SamplesPerPixel": 1, "Columns": 15},
            "expected 3 samples a pixel for RGB, got 1",
        ),
        (
            palette(np.zeros((4, 3)), SamplesPerPixel=3),
            "expected 1 samples a pixel for PALETTE COLOR, got 3",
        ),
        ({"PixelRepresentation": 1}, "expected colours from 0, got negative ones"),
        (
            {"PhotometricInterpretation": "YBR_RCT"},
            "expected YBR_RCT in JPEG 2000, got another transfer syntax",
        ),
        (
            {"PhotometricInterpretation": "YBR_PARTIAL_422"},
            "expected a grey, RGB, YBR or palette image, got another",
        ),
        (
            {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1, "Columns": 15},
            "damaged DICOM header",
        ),
    ],
)
def test_colours_that_are_none_are_refused(tmp_path, attributes, expected):
    assert reason(write_colours(tmp_path / "a", COLOURS, **attributes)) == expected


def test_a_mask_in_colour_is_refused(tmp_path):
    path = write_colours(tmp_path / "a", COLOURS)
    with pytest.raises(UnreadableImage, match="^expected a grey mask, got colours$"):
        read_item_mask(replace(of(path), mask=path))


def blobs(shape, low=40, high=215):
    """Smooth colours with room at both ends, uint8 (H, W, 3)."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")[0]
    return (low + smooth * (high - low)).round().byte().permute(1, 2, 0).numpy()


WEIGHTS = (0.5, 1.0, -0.25)
RAMP = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 90)], 1)
TEXTS = {"PixelSpacing": None, "Modality": "US", "SOPClassUID": UltrasoundImageStorage}


def source(path, way, shape):
    """A file of colours in one of the ways that files hold them."""
    pixels = blobs(shape)
    if way == "palette":
        grey, more = pixels[..., 0], palette(RAMP.astype(np.uint8))
        return write_scan(path, grey, **(TEXTS | more))
    if way == "frames":
        how = {"SOPClassUID": UltrasoundMultiFrameImageStorage}
        return write_colours(path, np.stack([pixels[::-1], pixels]), **(TEXTS | how))
    if way == "16 bit":
        return write_colours(path, pixels.astype(np.uint16) * 257, **TEXTS)
    kind = {"PhotometricInterpretation": "YBR_FULL"} if way == "ybr" else {}
    return write_colours(path, pixels, **(TEXTS | kind))


@pytest.mark.parametrize("way", ["rgb", "ybr", "palette", "frames", "16 bit"])
@pytest.mark.parametrize(
    ("shape", "keep"), [((16, 16), False), ((32, 32), True), ((40, 28), False)]
)
def test_a_counterfactual_in_colour_is_rgb_on_the_grid_of_its_source(tmp_path, way, shape, keep):
    path = source(tmp_path / "a", way, shape)
    item = of(path, index=int(way == "frames"))
    said, out, cf = exported(item, weights=WEIGHTS, keep_ids=keep)
    assert said == {"dicom_flips": 1, "dicom_lam": said["dicom_lam"]}
    again = read_picture(of(out), channels=3, size=(SIDE, SIDE)).x
    if shape == (16, 16):
        assert said["dicom_lam"] == float(cf.lam)
        assert torch.equal((again * 255).round(), (cf.x_cf[0] * 255).round().float())
    ds, before = dcmread(out), dcmread(path)
    layout = "SamplesPerPixel PlanarConfiguration BitsAllocated BitsStored HighBit Rows Columns"
    assert [ds[k].value for k in layout.split()] == [3, 0, 8, 8, 7, *shape]
    assert (ds.PhotometricInterpretation, ds.PixelRepresentation) == ("RGB", 0)
    assert [e.keyword for e in ds if "Palette" in e.keyword or "Window" in e.keyword] == []
    assert "RescaleSlope" not in ds
    assert (ds.SOPClassUID, ds.ImageType[0]) == (before.SOPClassUID, "DERIVED")
    assert ds.get("NumberOfFrames") == (1 if way == "frames" else None)
    body = out.read_bytes()
    assert any(m.encode() in body for m in markers()) == keep
    # The step is small, and each channel goes its own way.
    step = np.moveaxis(dicom.read(out, 0).values, 0, -1) - 255 * rgb(path, item.index)
    assert np.abs(step).max() < 60
    assert (np.sign(step.mean((0, 1))) == np.sign(WEIGHTS)).all()


@pytest.mark.parametrize("shape", [(16, 16), (40, 28)])
def test_a_pair_of_one_channel_moves_the_three_alike(tmp_path, shape):
    path = source(tmp_path / "a", "rgb", shape)
    said, out, _ = exported(of(path))
    assert said["dicom_flips"] == 1
    step = np.moveaxis(dicom.read(out, 0).values, 0, -1) - 255 * rgb(path)
    assert step.mean() > 5
    assert np.ptp(step, -1).max() <= 2  # rounding apart


def test_colour_that_was_lossy_says_so(tmp_path):
    """Of each way to know: the codec, and what the source says of its past."""
    for name, expected in (
        ("SC_rgb_jls_lossy_line.dcm", "01"),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "01"),
        ("SC_rgb_rle.dcm", None),
    ):
        path = tmp_path / name
        path.write_bytes(of_pydicom(name).read_bytes())
        said, out, _ = exported(of(path), weights=(0.2, 0.5, 0.2), rise=0.01)
        assert said["dicom_flips"] == 1
        assert dcmread(out).get("LossyImageCompression") == expected


def test_detail_and_pixels_that_do_not_change_stay(tmp_path):
    pixels = blobs((16, 16))
    pixels[:, :, 2] = RNG.integers(0, 256, (16, 16))
    path = write_colours(tmp_path / "a", pixels, **TEXTS)
    _, out, _ = exported(of(path), weights=(1.0, 0.5, 0.0))
    assert np.array_equal(dicom.read(out, 0).values[2], pixels[..., 2])

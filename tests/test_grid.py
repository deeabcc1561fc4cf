"""Pixels in the patient: square ones, their size, which side is which, and the order of slices."""

from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage
from scans import write_scan

from cfgen.data import (
    ImageFolder,
    Item,
    UnreadableImage,
    dicom,
    nifti,
    read_item_mask,
    read_picture,
)
from cfgen.data.grid import Grid, Sides
from cfgen.data.series import Outline, outline

RNG = np.random.default_rng(0)
AXIAL = [1, 0, 0, 0, 1, 0]


def grid(tmp_path, pixels=None, frame=0, **attributes) -> Grid:
    pixels = np.zeros((8, 8), np.uint8) if pixels is None else pixels
    return dicom.read(write_scan(tmp_path / "a.dcm", pixels, **attributes), frame).grid


def item(path, kind="dicom", **more) -> Item:
    return Item(file="a", path=path, stem="a", kind=kind, **more)


# Row direction and column direction as the standard has them, and what radiologists expect.
@pytest.mark.parametrize(
    ("cosines", "sides"),
    [
        (AXIAL, ("R", "L", "A", "P")),
        ([-1, 0, 0, 0, 1, 0], ("L", "R", "A", "P")),  # mirrored
        ([1, 0, 0, 0, -1, 0], ("R", "L", "P", "A")),  # upside down
        ([0, 1, 0, 1, 0, 0], ("A", "P", "R", "L")),  # turned by a quarter
        ([1, 0, 0, 0, 0, -1], ("R", "L", "H", "F")),  # coronal
        ([0, 1, 0, 0, 0, -1], ("A", "P", "H", "F")),  # sagittal
        ([0.995, 0.0998, 0, -0.0998, 0.995, 0], ("R", "L", "A", "P")),  # by 6 degrees
        ([0.8, 0.6, 0, 0, 0, -1], ("RA", "LP", "H", "F")),
        ([0.6, 0.8, 0, 0, 0, -1], ("AR", "PL", "H", "F")),
    ],
)
def test_sides_of_dicom(tmp_path, cosines, sides):
    assert grid(tmp_path, ImageOrientationPatient=cosines).sides == Sides(*sides)


def test_sides_of_a_projection(tmp_path):
    chest: dict[str, Any] = {"ImageOrientationPatient": None, "ImagePositionPatient": None}
    assert grid(tmp_path, **chest, PatientOrientation=["L", "F"]).sides == Sides("R", "L", "H", "F")
    oblique = grid(tmp_path, **chest, PatientOrientation=["AR", "FP"]).sides
    assert oblique == Sides("PL", "AR", "HA", "FP")
    for text in (None, ["L"], ["ZUCK", "F"], ["", ""], ["LE", "V"]):
        assert grid(tmp_path, **chest, PatientOrientation=text).sides is None


def test_sides_that_no_one_said(tmp_path):
    assert grid(tmp_path, ImageOrientationPatient=None).sides is None
    for wrong in ([0] * 6, [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 5, 0]):
        assert grid(tmp_path, ImageOrientationPatient=wrong).sides is None
    animal = {"ImageOrientationPatient": AXIAL, "AnatomicalOrientationType": "QUADRUPED"}
    assert grid(tmp_path, **animal).sides is None


@pytest.mark.parametrize(
    ("attributes", "aspect", "spacing", "measured"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, 2, (0.5, 0.25), ""),
        ({"PixelSpacing": None}, 1, None, ""),
        ({"PixelSpacing": [0, 0]}, 1, None, ""),
        ({"PixelSpacing": None, "PixelAspectRatio": [4, 3]}, 4 / 3, None, ""),
        ({"PixelSpacing": [1, 1], "PixelAspectRatio": [4, 3]}, 1, (1, 1), ""),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.2, 0.1]}, 2, (0.2, 0.1), "detector"),
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}, 2, (0.2, 0.1), "detector"),
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.2]}, 1, (0.1, 0.1), ""),
        ({"PixelSpacing": None, "NominalScannedPixelSpacing": [0.3, 0.1]}, 3, (0.3, 0.1), "film"),
    ],
)
def test_sizes_of_dicom_pixels(tmp_path, attributes, aspect, spacing, measured):
    found = grid(tmp_path, **attributes)
    assert found.aspect == pytest.approx(aspect)
    assert (found.spacing, found.measured) == (spacing, measured)


def test_a_frame_has_a_grid_of_its_own(tmp_path):
    def groups(spacing, cosines):
        group, measures, turn = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, turn.ImageOrientationPatient = spacing, cosines
        group.PixelMeasuresSequence, group.PlaneOrientationSequence = [measures], [turn]
        return group

    frames = [groups([1, 2], AXIAL), groups([3, 3], [0, 1, 0, 0, 0, -1])]
    enhanced = {
        "SOPClassUID": EnhancedMRImageStorage,
        "PerFrameFunctionalGroupsSequence": frames,
        "pixels": np.zeros((2, 8, 8), np.uint8),
    }
    first, second = (grid(tmp_path, frame=k, **enhanced) for k in range(2))
    assert (first.spacing, first.sides) == ((1, 2), Sides("R", "L", "A", "P"))
    assert (second.spacing, second.sides) == ((3, 3), Sides("A", "P", "H", "F"))


def test_damaged_spacing_counts_as_none_and_a_needle_is_refused(tmp_path):
    path = write_scan(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), PixelSpacing=[1.25, 1.25])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1.25\\1.25", b"1.2x\\1.25"))
    assert dicom.read(path, 0).grid.spacing is None
    with pytest.raises(
        UnreadableImage, match="^expected pixels at most 100 times as long as wide$"
    ):
        grid(tmp_path, PixelSpacing=[1, 200])


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product([1, -1], repeat=3)))
def test_sides_and_sizes_of_volumes(tmp_path, order, signs):
    """As nibabel names the axes of the array, followed through the way a slice is hung."""
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(signs) * [2, 3, 5])[:, order]
    image: Any = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine)
    nib.save(image, tmp_path / "v.nii")
    names = [code.translate(str.maketrans("SI", "HF")) for code in nib.aff2axcodes(affine)]
    opposite = dict(zip("LRAPHF", "RLPAFH", strict=True))
    expected = {
        "axial": (Sides("R", "L", "A", "P"), (3, 2)),
        "coronal": (Sides("R", "L", "H", "F"), (5, 2)),
        "sagittal": (Sides("A", "P", "H", "F"), (5, 3)),
    }
    for axis, (sides, spacing) in expected.items():
        found = nifti.read(tmp_path / "v.nii", 1, axis).grid
        assert (found.sides, found.spacing) == (sides, spacing)
        hung = nifti.view(affine, axis)
        for side, a in (("bottom", 0), ("right", 1)):
            code = names[hung.shown[a]]
            code = opposite[code] if a in hung.flip else code
            assert getattr(found.sides, side) == code


def test_what_a_volume_does_not_say(tmp_path):
    def read(codes, unit):
        image: Any = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None)
        image.header.set_zooms((0.5, 2, 3))
        image.header.set_xyzt_units(unit)
        image.header["sform_code"], image.header["qform_code"] = codes
        image.header.set_sform(np.diag([0.5, 2, 3, 1]), codes[0])
        nib.save(image, tmp_path / "v.nii")
        return nifti.read(tmp_path / "v.nii", 1, "2").grid

    for codes in ((1, 0), (0, 1)):
        assert read(codes, "mm").sides == Sides("R", "L", "A", "P")
        assert read(codes, "unknown").spacing == (2, 0.5)
    assert read((0, 0), "mm") == Grid(4, (2, 0.5))
    assert read((0, 0), "unknown") == Grid(4)
    assert read((1, 0), "meter").spacing == (2000, 500)
    assert read((1, 0), "micron").spacing == pytest.approx((0.002, 0.0005))


def disc(shape, spacing, radius=20.0):
    """A disc of some millimetres in the middle of a slice."""
    places = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return (200 * (np.hypot(*np.meshgrid(*places, indexing="ij")) < radius)).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((64, 64), (1, 1)), ((32, 64), (2, 1)), ((64, 20), (1, 3.2))]
)
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (40, 60)])
def test_a_disc_is_round_and_as_large_as_its_file_says(tmp_path, shape, spacing, size):
    path = write_scan(tmp_path / "a.dcm", disc(shape, spacing), PixelSpacing=list(spacing))
    picture = read_picture(item(path), channels=1, size=size)
    seen = picture.x[0] > 0.4
    rows, columns = (int(seen.any(d).sum()) for d in (1, 0))
    assert picture.grid.spacing is not None and picture.grid.aspect == 1
    assert picture.grid.spacing[0] == pytest.approx(picture.grid.spacing[1], rel=0.02)
    for count, mm in zip((rows, columns), picture.grid.spacing, strict=True):
        assert count * mm == pytest.approx(40, abs=2 * mm + 1.6)
    stretched = read_picture(item(path), channels=1, size=size, keep_aspect=False).grid.spacing
    assert stretched == tuple(n * s / m for n, s, m in zip(shape, spacing, size, strict=True))


def test_square_pixels_of_the_size_of_the_model_are_not_touched(tmp_path):
    pixels = RNG.integers(0, 256, (32, 32)).astype(np.uint8)
    path = write_scan(tmp_path / "a.dcm", pixels, PixelSpacing=[0.488281, 0.48828125])
    picture = read_picture(item(path), channels=1, size=(32, 32))
    assert np.array_equal((picture.x[0] * 255).round().numpy(), pixels)
    assert picture.grid.spacing == (0.488281, 0.48828125)
    twice = read_picture(item(path), channels=1, size=(16, 64), keep_aspect=False)
    assert twice.grid.spacing == (2 * 0.488281, 0.48828125 / 2)
    padded = write_scan(tmp_path / "b.dcm", pixels[:16], PixelSpacing=[2, 2])
    assert read_picture(item(padded), channels=1, size=(64, 64)).grid.spacing == (1, 1)


def test_pictures_have_no_grid(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8), np.float32))
    picture = read_picture(item(tmp_path / "a.npy", "picture"), channels=1, size=(8, 8))
    assert picture.grid == Grid()


def test_a_mask_is_made_square_as_its_image_is(tmp_path):
    shape, spacing = (64, 20), [1, 3.2]
    path = write_scan(tmp_path / "a.dcm", disc(shape, spacing), PixelSpacing=spacing)
    marked = write_scan(tmp_path / "m.dcm", disc(shape, spacing), PixelSpacing=None)
    seen = read_picture(item(path), channels=1, size=(64, 64)).x[0] > 0.4
    mask = read_item_mask(item(path, mask=marked), (64, 64))
    assert mask is not None and int(mask.sum()) == pytest.approx(int(seen.sum()), rel=0.1)
    assert int((mask & seen).sum()) > 0.9 * int(seen.sum())


def series(folder, places, numbers, names=None, **more):
    """A series of slices at places in mm; each says its place in its pixels."""
    names = names or [f"{k}.dcm" for k in range(len(places))]
    for name, place, number in zip(names, places, numbers, strict=True):
        position = {"ImagePositionPatient": place, "ImageOrientationPatient": AXIAL}
        write_scan(
            folder / name, np.zeros((4, 4), np.uint8), InstanceNumber=number, **position | more
        )


def order(folder):
    return [item.path.name for item in ImageFolder(folder)]


@pytest.mark.parametrize("numbers", [(None,) * 4, (0,) * 4, (1, 2, 2, 3), (1, None, 2, 3)])
def test_slices_without_a_usable_number_go_by_their_position(tmp_path, numbers):
    places = [[-10, 5, z] for z in (30, -7.5, 12, 4)]
    series(tmp_path, places, numbers)
    assert order(tmp_path) == ["1.dcm", "3.dcm", "2.dcm", "0.dcm"]


def test_a_number_that_is_none_costs_the_series_nothing(tmp_path):
    places = [[0, 0, z] for z in (30, -7.5, 12)]
    series(tmp_path, places, [1, 2, 3])
    data = (tmp_path / "1.dcm").read_bytes()
    number = b"\x20\x00\x13\x00IS\x02\x00"
    assert number + b"2 " in data
    (tmp_path / "1.dcm").write_bytes(data.replace(number + b"2 ", number + b"x "))
    assert outline(tmp_path / "1.dcm") == Outline("1.2.3.4711.2", None, -7.5, 1)
    assert order(tmp_path) == ["1.dcm", "2.dcm", "0.dcm"]


def test_slices_with_numbers_go_by_these_and_slices_with_nothing_by_name(tmp_path):
    places = [[0, 0, z] for z in (30, -7.5, 12)]
    series(tmp_path / "a", places, [3, 1, 2])
    assert order(tmp_path / "a") == ["1.dcm", "2.dcm", "0.dcm"]
    series(tmp_path / "b", places, [10, 2, 1])
    assert order(tmp_path / "b") == ["2.dcm", "1.dcm", "0.dcm"]
    series(tmp_path / "c", [None, *places[1:]], [None] * 3)
    assert order(tmp_path / "c") == ["0.dcm", "1.dcm", "2.dcm"]
    # The position counts along the normal of the slices, here from the front to the back.
    coronal = [[50, y, -3 * y] for y in (9, -2, 5)]
    series(tmp_path / "d", coronal, [None] * 3, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert order(tmp_path / "d") == ["1.dcm", "2.dcm", "0.dcm"]
    # Files of two series each go their own way.
    series(tmp_path / "e", places[:2], [None] * 2, ["0", "2"], SeriesInstanceUID="1.2")
    series(tmp_path / "e", places[:2], [1, 2], ["1", "3"], SeriesInstanceUID="1.3")
    assert order(tmp_path / "e") == ["2", "0", "1", "3"]

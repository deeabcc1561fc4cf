"""NIfTI volumes: slices that hang upright, windows, what is written and what is refused."""

import gzip
import struct
from itertools import permutations, product
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec
from nibabel.nifti1 import Nifti1Extension
from scans import write_scan

from cfgen.data import ImageFolder, Item, UnreadableImage, Window, nifti, read_item_mask
from cfgen.data.window import Plane
from cfgen.engine.images import Images

RNG = np.random.default_rng(0)
OBLIQUE = from_matvec(
    np.array([[0.96, 0.28, 0], [-0.27, 0.94, 0.2], [0.05, -0.19, 0.98]]) * [0.9, 1.1, 3],
    [-90, 7, 5],
)


def save(path, values, affine=None, **header):
    affine = np.eye(4) if affine is None else affine
    image: Any = nib.Nifti1Image(values, affine, dtype=values.dtype)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def load(path) -> Any:
    return nib.load(path)


def noise(shape=(5, 6, 7), kind: Any = np.int16):
    return RNG.integers(0, 200, shape).astype(kind)


def reason(path, index=0, axis="axial"):
    with pytest.raises(UnreadableImage) as caught:
        nifti.read(path, index, axis)
    return str(caught.value)


# For each axis: the corner that is shown at the top left, and at the ends of that column and row,
# in directions right, anterior, superior of the patient.
CORNERS = {
    "axial": [(1, 1, None), (1, 0, None), (0, 1, None)],
    "coronal": [(1, None, 1), (1, None, 0), (0, None, 1)],
    "sagittal": [(None, 1, 1), (None, 1, 0), (None, 0, 1)],
}


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product([1, -1], repeat=3)))
def test_slices_hang_upright_whatever_the_order_of_the_array(tmp_path, order, signs):
    """A volume whose voxels hold their own place in the world."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs)[:, order]
    affine[:3, 3] = [3, -8, 11]
    shape = np.array([4, 5, 6])[list(order)]
    places = apply_affine(affine, np.stack(np.indices(shape.tolist()), -1))
    for axis, corners in CORNERS.items():
        shown = []
        for world in range(3):
            path = save(tmp_path / "v.nii", places[..., world].astype(np.float32), affine)
            shown.append(nifti.read(path, 1, axis).values)
        low, high = places.min((0, 1, 2)), places.max((0, 1, 2))
        seen = np.stack(shown, -1)
        ends = [seen[0, 0], seen[-1, 0], seen[0, -1]]
        for corner, end in zip(corners, ends, strict=True):
            for world, side in enumerate(corner):
                if side is not None:
                    assert end[world] == (high if side else low)[world]
        across = {"sagittal": 0, "coronal": 1, "axial": 2}[axis]
        assert np.ptp(seen[..., across]) == 0


def test_an_axis_may_be_that_of_the_array(tmp_path):
    values = noise()
    path = save(tmp_path / "v.nii.gz", values, OBLIQUE)
    for axis in range(3):
        plane = nifti.read(path, 2, str(axis)).values
        assert np.array_equal(np.sort(plane.ravel()), np.sort(values.take(2, axis).ravel()))
    for number, name in (("2", "axial"), ("1", "coronal"), ("0", "sagittal")):
        same = nifti.read(path, 2, name).values
        assert np.array_equal(nifti.read(path, 2, number).values, same)


def test_windows(tmp_path):
    values = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    path = save(tmp_path / "v.nii", values)
    assert nifti.read(path, 0, "axial").window == Window(5, 994)
    assert nifti.read(path, 0, "axial", limits=(-1, 3)).window == Window(-1, 3)
    path = save(tmp_path / "v.nii", values, cal_min=100, cal_max=300)
    assert nifti.read(path, 0, "axial").window == Window(100, 300)
    assert nifti.read(save(tmp_path / "v.nii", noise(kind=np.uint8)), 0, "axial").window == Window(
        0, 255
    )


def test_scaling_of_the_file_is_applied(tmp_path):
    image: Any = nib.Nifti1Image(noise(), np.eye(4))
    expected = np.asarray(image.dataobj) * 0.5 - 20
    image = nib.Nifti1Image(expected, np.eye(4))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "v.nii.gz")
    assert np.asanyarray(load(tmp_path / "v.nii.gz").dataobj.get_unscaled()).dtype == np.int16
    shown = nifti.read(tmp_path / "v.nii.gz", 3, "axial").values
    stored = load(tmp_path / "v.nii.gz").get_fdata(dtype=np.float32)[..., 3]
    assert np.array_equal(shown, stored[::-1, ::-1].T)


def test_volumes_are_cut_into_slices_that_show_something(tmp_path):
    values = noise((4, 5, 6))
    values[..., 0], values[..., 4] = 0, 7
    save(tmp_path / "v.nii.gz", values)
    assert [i.index for i in ImageFolder(tmp_path)] == [1, 2, 3, 5]
    assert [i.index for i in ImageFolder(tmp_path, axis="coronal")] == [0, 1, 2, 3, 4]
    assert [i.index for i in ImageFolder(tmp_path, slices=slice(0, 3))] == [0, 1, 2]
    assert [i.file for i in ImageFolder(tmp_path / "v.nii.gz", limit=2)] == [
        "case-0001",
        "case-0002",
    ]
    kept = ImageFolder(tmp_path, keep_ids=True, slices=slice(2, 4))[:]
    assert [(i.file, i.stem) for i in kept] == [("v.nii.gz#2", "v_002"), ("v.nii.gz#3", "v_003")]


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal", "0", "1", "2"])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_what_is_written_lies_where_its_source_lies(tmp_path, axis, name):
    values = noise().astype(np.float32)
    source = save(tmp_path / name, values, OBLIQUE, sform_code=4, qform_code=1)
    plane = nifti.read(source, 3, axis)
    changed = Plane(plane.values + 0.25, Window(-3.5, 180))
    nifti.write(tmp_path / "out.nii.gz", source, 3, axis, changed)
    again = nifti.read(tmp_path / "out.nii.gz", 0, axis)
    assert np.array_equal(again.values, changed.values)
    assert again.window == changed.window
    out, across = load(tmp_path / "out.nii.gz"), nifti.view(OBLIQUE, axis).axis
    assert out.shape[across] == 1
    # Each voxel of the slice is where the same voxel of the volume is.
    here = np.argwhere(np.ones(out.shape))
    there = here.copy()
    there[:, across] += 3
    np.testing.assert_allclose(
        apply_affine(out.affine, here), apply_affine(OBLIQUE, there), atol=1e-4
    )
    assert np.array_equal(np.asarray(out.dataobj)[tuple(here.T)], values[tuple(there.T)] + 0.25)
    assert (out.header["sform_code"], out.header["qform_code"]) == (4, 1)


@pytest.mark.parametrize("codes", [(4, 1), (1, 4), (3, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("extra", [(), (1,)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_form_of_a_volume_is_moved_to_its_slices_with_its_own_code(
    tmp_path, codes, extra, axis
):
    """Forms that place the volume differently: the qform is turned and lies elsewhere."""
    turned = from_matvec(np.array([[0, -1, 0], [1, 0, 0], [0, 0, -1]]) * [1.5, 2, 2.5], [9, 8, -7])
    image: Any = nib.Nifti1Image(noise((5, 5, 5, *extra)), None)
    image.header.set_zooms((1.5, 2, 2.5, *extra))
    image.header.set_sform(OBLIQUE, codes[0])
    image.header.set_qform(turned, codes[1])
    nib.save(image, tmp_path / "v.nii")
    source = load(tmp_path / "v.nii")
    assert (source.header["sform_code"], source.header["qform_code"]) == codes
    for index in (0, 2, 3):  # 2 is the middle: where a slice without a form is put
        plane = nifti.read(tmp_path / "v.nii", index, str(axis))
        nifti.write(tmp_path / "o.nii", tmp_path / "v.nii", index, str(axis), plane)
        out = load(tmp_path / "o.nii")
        written = int(out.header["sform_code"]), int(out.header["qform_code"])
        assert written == (codes if any(codes) else (2, 0))
        step = from_matvec(np.eye(3), index * np.eye(3)[axis])
        np.testing.assert_allclose(out.affine, source.affine @ step, atol=1e-4)
        if codes[0]:
            np.testing.assert_allclose(out.get_sform(), OBLIQUE @ step, atol=1e-4)
        if codes[1]:
            np.testing.assert_allclose(out.get_qform(), turned @ step, atol=1e-4)
        assert np.array_equal(out.header["pixdim"][:4], source.header["pixdim"][:4])


def test_a_qform_that_is_no_rotation_is_left_out_beside_an_sform(tmp_path):
    header = {"sform_code": 4, "qform_code": 1, "quatern_b": 1.01}
    source = save(tmp_path / "v.nii", noise(), OBLIQUE, **header)
    nifti.write(tmp_path / "o.nii", source, 3, "2", nifti.read(source, 3, "2"))
    out = load(tmp_path / "o.nii")
    assert (out.header["sform_code"], out.header["qform_code"]) == (4, 0)


def test_text_of_the_header_is_left_out_unless_names_are_kept(tmp_path):
    image: Any = nib.Nifti1Image(noise(), OBLIQUE)
    for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        image.header[field] = b"zuckmayer"
    image.header.extensions.append(Nifti1Extension("comment", b"zuckmayer"))
    nib.save(image, tmp_path / "v.nii.gz")
    plane = nifti.read(tmp_path / "v.nii.gz", 1, "axial")
    for keep in (False, True):
        nifti.write(tmp_path / "o.nii.gz", tmp_path / "v.nii.gz", 1, "axial", plane, keep_ids=keep)
        body = gzip.decompress((tmp_path / "o.nii.gz").read_bytes())
        assert (b"zuckmayer" in body) == keep
        header = load(tmp_path / "o.nii.gz").header
        assert (
            bytes(header["descrip"]).rstrip(b"\0") == b"synthetic counterfactual, not for diagnosis"
        )


def test_volumes_of_one_more_dimension_or_one_less(tmp_path):
    values = noise((4, 5, 6))
    expected = nifti.read(save(tmp_path / "a.nii", values), 2, "axial").values
    path = save(tmp_path / "b.nii", values[..., None])
    assert np.array_equal(nifti.read(path, 2, "axial").values, expected)
    nifti.write(tmp_path / "o.nii", path, 2, "axial", Plane(expected, Window(0, 9)))
    assert load(tmp_path / "o.nii").shape == (4, 5, 1)
    flat = save(tmp_path / "c.nii", values[..., 2])
    assert np.array_equal(nifti.read(flat, 0, "axial").values, expected)


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.float64])
def test_values_that_float32_cannot_hold_stay_what_they_are(tmp_path, kind):
    values = noise(kind=kind) + kind(2**24)
    values[0, 0, 2], values[1, 0, 2] = 2**24 + 1, 2**31 - 1
    path = save(tmp_path / "v.nii.gz", values, np.diag([-1, -1, 1, 1]))
    plane = nifti.read(path, 2, "axial")
    assert np.array_equal(plane.values, values[..., 2].T)
    nifti.write(tmp_path / "o.nii.gz", path, 2, "axial", plane)
    assert np.array_equal(load(tmp_path / "o.nii.gz").get_fdata()[..., 0], values[..., 2])
    assert nifti.load(save(tmp_path / "w.nii", noise(kind=kind))).values.dtype == np.float32


def test_whole_numbers_that_no_float_holds_are_refused(tmp_path):
    for extreme in (2**53 + 1, -(2**53) - 1):
        values = noise(kind=np.int64)
        values[0, 0, 0] = extreme
        said = reason(save(tmp_path / "v.nii", values))
        assert said == "expected whole numbers up to 2^53, got larger ones"
    values[0, 0, 0] = 2**53
    assert nifti.read(save(tmp_path / "v.nii", values), 0, "axial").values.max() == 2**53


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (5, 6, 7, 1, 3)])
def test_a_volume_of_a_4d_file(tmp_path, name, shape):
    """Each volume reads as the 3-D file of the same voxels, window included, and is put back."""
    values = RNG.integers(0, 200, shape).astype(np.int16) * np.arange(1, 4, dtype=np.int16)
    values[:, :, 4, ..., 1] = 0
    path = save(tmp_path / name, values, OBLIQUE)
    for part in range(3):
        alone = save(tmp_path / "alone.nii", values[..., part].reshape(5, 6, 7), OBLIQUE)
        plane, expected = (
            nifti.read(file, 2, "coronal", part=number)
            for file, number in ((path, part), (alone, None))
        )
        assert np.array_equal(plane.values, expected.values)
        assert plane.window == expected.window and plane.grid == expected.grid
        nifti.write(tmp_path / "o.nii.gz", path, 2, "coronal", plane, part=part)
        assert load(tmp_path / "o.nii.gz").shape == (5, 1, 7)
        # A 3-D file is the same for all: what is written of a 4-D one, or its mask.
        again = nifti.read(tmp_path / "o.nii.gz", 0, "coronal", part=part)
        assert np.array_equal(again.values, plane.values)
        np.testing.assert_allclose(
            load(tmp_path / "o.nii.gz").affine, OBLIQUE @ from_matvec(np.eye(3), [0, 2, 0])
        )
    said = "expected --volume 0 to 2 for a 4-D file of {}, got {}"
    assert reason(path) == said.format(shape, "none")
    with pytest.raises(UnreadableImage) as caught:
        nifti.read(path, 2, "axial", part=3)
    assert str(caught.value) == said.format(shape, 3)
    alone = tmp_path / "alone.nii"
    alone.unlink()
    (tmp_path / "o.nii.gz").unlink()
    items = ImageFolder(tmp_path, volume=1)[:]
    assert [item.index for item in items] == [0, 1, 2, 3, 5, 6]
    assert {item.volume for item in items} == {1}
    with pytest.raises(ValueError, match="^expected a volume of at least 0, got -1$"):
        ImageFolder(tmp_path, volume=-1)


def test_one_huge_value_has_no_window(tmp_path):
    message = "expected voxels that a window can hold, got one huge value or range"
    assert reason(save(tmp_path / "v.nii", np.full((4, 4, 4), 1e20, np.float32))) == message
    values = noise(kind=np.float64)
    values[0], values[1] = -1.7e308, 1.7e308
    assert reason(save(tmp_path / "v.nii", values, cal_min=0, cal_max=0)) == message


def singular(path):
    header = nib.Nifti1Header()
    header.set_sform(np.diag([1, 0, 1, 1]), code=1)
    nib.save(nib.Nifti1Image(noise(), None, header), path)


def infinite(path):
    data = bytearray(save(path, noise()).read_bytes())
    struct.pack_into("<f", data, 280, float("inf"))  # srow_x
    path.write_bytes(bytes(data))


def test_masks_are_cut_as_their_volumes_are(tmp_path):
    values, marked = noise(), RNG.random((5, 6, 7)) > 0.7
    save(tmp_path / "v.nii.gz", values, OBLIQUE)
    save(tmp_path / "m.nii.gz", marked.astype(np.uint8), OBLIQUE)
    (tmp_path / "labels.csv").write_text("file,mask\nv.nii.gz,m.nii.gz\n")
    for axis in ("axial", "coronal", "sagittal"):
        item = ImageFolder(tmp_path, axis=axis)[3]
        mask = read_item_mask(item)
        assert mask is not None
        assert np.array_equal(mask.numpy(), nifti.read(tmp_path / "m.nii.gz", 3, axis).values != 0)
        fitted = read_item_mask(item, (12, 12))
        assert fitted is not None and fitted.shape == (12, 12) and fitted.dtype == torch.bool
    save(tmp_path / "m.nii.gz", marked.astype(np.uint8))
    message = "^expected a mask on the grid of its volume, got another grid$"
    with pytest.raises(UnreadableImage, match=message):
        read_item_mask(item)
    pixels = np.zeros((6, 5), np.uint8)
    pixels[2:4] = 1
    mask = write_scan(tmp_path / "m.dcm", pixels)
    dicom = Item(file="", path=mask, stem="", kind="dicom", mask=mask)
    seen = read_item_mask(dicom)
    assert seen is not None and np.array_equal(seen.numpy(), pixels > 0)
    assert read_item_mask(Item(file="", path=mask, stem="", kind="dicom")) is None


COLOUR = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
REFUSED = {
    "empty": (lambda p: p.write_bytes(b""), "file is empty"),
    "text": (
        lambda p: p.write_text("zuckmayer" * 99),
        "not a NIfTI file, or its header is damaged",
    ),
    "cut": (
        lambda p: p.write_bytes(save(p, noise()).read_bytes()[:-9]),
        "truncated or damaged",
    ),
    "4-D": (
        lambda p: save(p, noise((4, 4, 4, 3))),
        "expected --volume 0 to 2 for a 4-D file of (4, 4, 4, 3), got none",
    ),
    "colour": (lambda p: save(p, COLOUR), "expected grey voxels, got colour"),
    "complex": (
        lambda p: save(p, np.zeros((4, 4, 4), np.complex64)),
        "expected grey voxels, got complex64",
    ),
    "nan": (
        lambda p: save(p, np.full((4, 4, 4), np.nan, np.float32)),
        "expected finite voxels, found NaN or inf",
    ),
    "singular": (
        singular,
        "expected an affine of full rank, got a singular one",
    ),
    "infinite": (infinite, "expected a finite affine, found NaN or inf"),
    "5-D": (
        lambda p: save(p, noise((4, 4, 4, 2, 3))),
        "expected a volume of 3 or 4 dimensions, got (4, 4, 4, 2, 3)",
    ),
    "outside": (
        lambda p: save(p, noise((4, 4, 0))),
        "expected a volume with voxels, got (4, 4, 0)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    make, expected = REFUSED[name]
    make(tmp_path / "zuckmayer.nii")
    assert reason(tmp_path / "zuckmayer.nii") == expected
    if name != "nan":  # that may be another slice
        assert [i.index for i in ImageFolder(tmp_path)] == [0]
        assert [i.index for i in ImageFolder(tmp_path, slices=slice(5, 9))] == [0]


def test_refused_without_content(tmp_path):
    assert reason(tmp_path / "none.nii") == "no such file"
    assert reason(save(tmp_path / "v.nii", noise()), 7) == "expected a slice below 7, got 7"


def test_a_cut_archive_is_refused(tmp_path):
    path = save(tmp_path / "v.nii.gz", noise((40, 40, 40)))
    path.write_bytes(path.read_bytes()[:-3000])
    assert reason(path) == "truncated or damaged"


def test_the_volume_that_was_asked_for_is_the_one_that_is_read(tmp_path):
    values = noise((5, 6, 7, 2))
    save(tmp_path / "v.nii", values)
    models: Any = SimpleNamespace(channels=1, size=None)
    for part in range(2):
        images = Images(folder=str(tmp_path), volume=part, window="100,200")
        opened = images.open(models, 0)
        seen = opened.load(opened.items[3]).x[0].numpy() * 200
        np.testing.assert_allclose(seen, values[..., 3, part][::-1, ::-1].T, atol=1e-3)
        assert images.reading()["volume"] == part

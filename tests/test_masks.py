"""Masks lie on the grid of their image, or they are refused."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scans import GEOMETRY, write_scan

from cfgen.data import ImageFolder, UnreadableImage, nifti, read_item_mask, read_picture

RNG = np.random.default_rng(0)
MARKED = np.zeros((8, 12), bool)
MARKED[1:3, 7:11] = True
LPS = np.diag([-1.0, -1, 1])  # millimetres left, posterior, head to right, anterior, superior
ORIENTED: dict[str, Any] = {
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PixelSpacing": [0.5, 0.75],
}


def items(folder, *rows):
    """Items of a folder by rows of file and mask."""
    table = "\n".join(["file,mask", *(f"{file},{mask}" for file, mask in rows)])
    (folder / "labels.csv").write_text(table)
    return ImageFolder(folder)


def pixels_of(item, *args, **options):
    mask = read_item_mask(item, *args, **options)
    assert mask is not None and mask.dtype == torch.bool
    return mask.numpy()


def mask_of(folder, file, mask):
    (item,) = items(folder, (file, mask))
    return pixels_of(item)


def reason(item):
    with pytest.raises(UnreadableImage) as caught:
        read_item_mask(item)
    return str(caught.value)


def picture(path, pixels, turn=1):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.asarray(pixels, np.uint8) * 255).save(path, exif=exif)


def test_a_picture_of_another_size_or_aspect_is_refused(tmp_path):
    picture(tmp_path / "x.png", MARKED)
    np.save(tmp_path / "x.npy", MARKED)
    for name, shape in {"half": (4, 6), "square": (8, 8), "turned": (12, 8)}.items():
        picture(tmp_path / f"{name}.png", np.ones(shape))
        for image in ("x.png", "x.npy"):
            (item,) = items(tmp_path, (image, f"{name}.png"))
            assert reason(item) == (
                f"expected a mask of the size of its image, 8 x 12, got {shape[0]} x {shape[1]}"
            )
    assert np.array_equal(mask_of(tmp_path, "x.png", "x.npy"), MARKED)
    assert np.array_equal(mask_of(tmp_path, "x.npy", "x.png"), MARKED)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg"])
def test_a_mask_is_turned_as_its_image_is(tmp_path, name):
    """EXIF says how a picture is shown; a mask that may be drawn on either grid is refused."""
    mask = f"m{name[1:]}"
    for turn in range(1, 9):
        picture(tmp_path / name, MARKED, turn)
        picture(tmp_path / mask, MARKED, turn)
        (item,) = items(tmp_path, (name, mask))
        shown = read_picture(item, channels=1).x[0].numpy() > 0.5
        assert np.array_equal(mask_of(tmp_path, name, mask), shown)
        picture(tmp_path / "as-stored.png", MARKED)
        (item,) = items(tmp_path, (name, "as-stored.png"))
        if turn == 1:
            assert np.array_equal(pixels_of(item), MARKED)
        elif turn > 4:
            assert reason(item) == ("expected a mask of the size of its image, 12 x 8, got 8 x 12")
            picture(tmp_path / "as-shown.png", shown)
            assert np.array_equal(mask_of(tmp_path, name, "as-shown.png"), shown)
        else:
            assert reason(item) == (
                f"expected a mask with the EXIF orientation of its image, {turn}, got 1"
            )
    picture(tmp_path / name, MARKED[:, :8], 6)
    picture(tmp_path / mask, MARKED[:, :8])
    (item,) = items(tmp_path, (name, mask))
    assert reason(item) == "expected a mask with the EXIF orientation of its image, 6, got 1"


def test_masks_are_padded_or_stretched_as_images_are(tmp_path):
    picture(tmp_path / "x.png", MARKED)
    (item,) = items(tmp_path, ("x.png", "x.png"))
    padded = np.pad(MARKED, ((2, 2), (0, 0))).repeat(2, 0).repeat(2, 1)
    stretched = MARKED.repeat(3, 0).repeat(2, 1)
    for keep, expected in ((True, padded), (False, stretched)):
        assert np.array_equal(pixels_of(item, (24, 24), keep_aspect=keep), expected)
        image = read_picture(item, channels=1, size=(24, 24), keep_aspect=keep).x[0].numpy()
        assert expected[image > 0.5].all() and not (expected & (image < 0.4)).any()


def test_pages_of_a_tiff(tmp_path):
    stack = RNG.integers(0, 2, (3, 4, 5)).astype(bool)
    first, *others = (Image.fromarray(plane) for plane in stack)
    first.save(tmp_path / "x.tif", save_all=True, append_images=others)
    first.save(tmp_path / "one.png")
    for item, plane in zip(items(tmp_path, ("x.tif", "x.tif")), stack, strict=True):
        assert np.array_equal(pixels_of(item), plane)
    for item in items(tmp_path, ("x.tif", "one.png")):
        assert reason(item) == (
            "expected a mask with the frames or slices of its image, 3 of picture, got 1 of picture"
        )


def test_stored_values_of_dicom(tmp_path):
    """Rescaling moves 0; signed values below it are marked as well."""
    write_scan(tmp_path / "x.dcm", MARKED.astype(np.uint16))
    for sign in (1, -1):
        stored = (MARKED * sign).astype(np.int16)
        write_scan(tmp_path / "m.dcm", stored, RescaleSlope=2, RescaleIntercept=-1024)
        assert np.array_equal(mask_of(tmp_path, "x.dcm", "m.dcm"), MARKED)
    picture(tmp_path / "m.png", MARKED)
    assert np.array_equal(mask_of(tmp_path, "x.dcm", "m.png"), MARKED)
    assert np.array_equal(mask_of(tmp_path, "m.png", "m.dcm"), MARKED)


def test_a_dicom_mask_of_another_plane_is_refused(tmp_path):
    frames = np.stack([MARKED, ~MARKED]).astype(np.uint16)
    write_scan(tmp_path / "x.dcm", frames[0])
    write_scan(tmp_path / "small.dcm", frames[0, :4])
    write_scan(tmp_path / "two.dcm", frames)
    write_scan(tmp_path / "next.dcm", frames[0], ImagePositionPatient=[-10.5, 22, 30])
    write_scan(tmp_path / "fine.dcm", frames[0], PixelSpacing=[0.5, 0.7])
    write_scan(tmp_path / "bare.dcm", frames[0], **dict.fromkeys(GEOMETRY))
    plane = "expected a mask in the plane of its image, got another plane"
    for name, message in {
        "small.dcm": "expected a mask of the size of its image, 8 x 12, got 4 x 12",
        "two.dcm": "expected a mask with the frames or slices of its image, 1 of dicom, got 2 of "
        "dicom",
        "next.dcm": plane,
        "fine.dcm": plane,
    }.items():
        (item,) = items(tmp_path, ("x.dcm", name))
        assert reason(item) == message
    assert np.array_equal(mask_of(tmp_path, "x.dcm", "bare.dcm"), MARKED)
    for item, frame in zip(items(tmp_path, ("two.dcm", "two.dcm")), frames, strict=True):
        assert np.array_equal(pixels_of(item), frame > 0)


def series(folder, volume, affine, **attributes):
    """DICOM slices where a volume (I, J, K) has them: rows along j, columns along i."""
    for k in range(volume.shape[2]):
        across, down = (LPS @ affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)).T
        spacing = np.linalg.norm(affine[:3, :2], axis=0)[::-1].tolist()
        place = {
            "ImagePositionPatient": (LPS @ (affine @ [0, 0, k, 1])[:3]).round(6).tolist(),
            "ImageOrientationPatient": [*across.round(8).tolist(), *down.round(8).tolist()],
            "PixelSpacing": [round(s, 8) for s in spacing],
            "InstanceNumber": k + 1,
        }
        write_scan(folder / f"{k}.dcm", volume[:, :, k].T.astype(np.uint16), **place | attributes)


@pytest.mark.parametrize("tilt", [0, 0.2])
def test_each_slice_of_a_series_has_its_own_of_a_nifti_mask(tmp_path, tilt):
    """Stored in any order of the axes, a voxel lies where its affine says."""
    marked = RNG.random((5, 6, 4)) > 0.5
    c, s = np.cos(tilt), np.sin(tilt)
    affine = np.eye(4)
    affine[:3] = np.array([[-0.8, 0, 0, 40], [0, -0.5 * c, 3 * s, 7], [0, 0.5 * s, 3 * c, -20]])
    series(tmp_path, marked, affine)
    mask: Any = nib.Nifti1Image(marked.astype(np.int8) * -1, affine)
    rows = [(f"{k}.dcm", "m.nii") for k in range(4)]
    for axes in ("LPS", "RAS", "PIR"):
        start, end = nib.io_orientation(mask.affine), nib.orientations.axcodes2ornt(tuple(axes))
        turned = mask.as_reoriented(nib.orientations.ornt_transform(start, end))
        nib.save(turned, tmp_path / "m.nii")
        for k, item in enumerate(items(tmp_path, *rows)):
            assert np.array_equal(pixels_of(item), marked[:, :, k].T)
    assert pixels_of(items(tmp_path, rows[2])[0], (12, 12)).shape == (12, 12)


def test_a_nifti_mask_elsewhere_is_refused(tmp_path):
    marked = RNG.random((5, 6, 4)) > 0.5
    affine = np.diag([-0.8, -0.5, 3, 1.0])
    series(tmp_path, marked, affine)
    grid = "expected a mask on the grid of its image, got another grid"
    near, coarse, short, flat = (affine.copy() for _ in range(4))
    near[:3, 3] = [0.3, 0, 0]
    coarse[2, 2] = 2
    flat[2, 2] = 0
    for changed, voxels in ((near, marked), (coarse, marked), (short, marked[:4])):
        nib.save(nib.Nifti1Image(voxels.astype(np.uint8), changed), tmp_path / "m.nii")
        assert reason(items(tmp_path, ("3.dcm", "m.nii"))[0]) == grid
    nib.save(nib.Nifti1Image(marked.astype(np.uint8), affine), tmp_path / "m.nii")
    write_scan(tmp_path / "bare.dcm", marked[..., 0].T.astype(np.uint16), PixelSpacing=None)
    picture(tmp_path / "x.png", marked[..., 0].T)
    assert reason(items(tmp_path, ("bare.dcm", "m.nii"))[0]) == (
        "expected an image that says where it lies, for a NIfTI mask"
    )
    assert reason(items(tmp_path, ("x.png", "m.nii"))[0]) == (
        "expected a picture as the mask of a picture, got a NIfTI volume"
    )


def test_one_picture_is_not_the_mask_of_a_whole_volume(tmp_path):
    volume = RNG.random((5, 6, 4))
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    nib.save(nib.Nifti1Image(volume[..., :1], np.eye(4)), tmp_path / "one.nii")
    picture(tmp_path / "m.png", np.ones((6, 5)))
    write_scan(tmp_path / "m.dcm", np.ones((4, 6, 5), np.uint16))
    for mask, found in (("m.png", "1 of picture"), ("m.dcm", "4 of dicom")):
        for item in items(tmp_path, ("v.nii", mask)):
            assert reason(item) == (
                f"expected a mask with the frames or slices of its image, 4 of nifti, got {found}"
            )
    assert mask_of(tmp_path, "one.nii", "m.png").all()


def test_values_below_0_are_marked(tmp_path):
    values = RNG.integers(-2, 3, (5, 6, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    for item in items(tmp_path, ("v.nii", "v.nii")):
        plane = nifti.read(tmp_path / "v.nii", item.index, "axial").values
        assert np.array_equal(pixels_of(item), plane != 0)


def test_limit_on_pixels_of_a_mask(tmp_path):
    picture(tmp_path / "m.png", MARKED)
    write_scan(tmp_path / "m.dcm", MARKED.astype(np.uint16))
    for name in ("m.png", "m.dcm"):
        items(tmp_path, (name, name))
        (item,) = ImageFolder(tmp_path, max_pixels=95)
        assert reason(item) == "expected at most 95 pixels (--max-pixels), got 8 x 12"

"""Medical files of a folder: which are seen, and how large they may be."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scans import scan, write_scan

from cfgen.data import ImageFolder, UnreadableImage, dicom, nifti, read_picture

PIXELS = np.random.default_rng(0).integers(0, 4096, (6, 5)).astype(np.uint16)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian],
    ids=lambda uid: uid.name,
)
def test_dicom_without_preamble_and_suffix(tmp_path, syntax):
    """Old archives: the data set alone, in a file of any name."""
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    for name in ("IM1", "im.xyz", "notes"):
        ds = scan(PIXELS, syntax)
        ds.preamble = None
        del ds.file_meta
        if name == "notes":  # a report, say
            del ds.Rows
        ds.save_as(tmp_path / name, implicit_vr=implicit, little_endian=little)
    (tmp_path / "noise").write_bytes(b"\x08\x00" * 300)
    (tmp_path / "short").write_bytes(b"\x08\x00")
    assert (tmp_path / "IM1").read_bytes()[128:132] != b"DICM"
    folder = ImageFolder(tmp_path)
    assert [item.path.name for item in folder] == ["IM1", "im.xyz"]
    assert {(item.kind, item.opaque) for item in folder} == {("dicom", True)}
    assert folder.skipped == {"not an image": 3}


def test_limit_on_pixels(tmp_path):
    write_scan(tmp_path / "a.dcm", PIXELS)
    nib.save(nib.Nifti1Image(np.arange(84.0).reshape(2, 6, 7), np.eye(4)), tmp_path / "b.nii")
    for most in (30, 29):
        items = ImageFolder(tmp_path, max_pixels=most)
        if most == 30:
            assert read_picture(items[0], channels=1).x.shape == (1, 6, 5)
            with pytest.raises(UnreadableImage) as caught:
                read_picture(items[0], channels=1, size=(99, 1))
            assert str(caught.value) == (
                "expected at most 30 pixels after padding (--max-pixels), got 495 x 5"
            )
            continue
        with pytest.raises(UnreadableImage) as caught:
            read_picture(items[0], channels=1)
        assert str(caught.value) == "expected at most 29 pixels (--max-pixels), got 6 x 5"
    for most, slices in ((42, 7), (41, 1)):  # the largest slice has 6 x 7
        items = ImageFolder(tmp_path, max_pixels=most)[1:]
        assert len(items) == slices
        assert len(ImageFolder(tmp_path / "b.nii", max_pixels=most, slices=slice(5))) == min(
            slices, 5
        )
    with pytest.raises(UnreadableImage) as caught:
        read_picture(items[0], channels=1)
    assert str(caught.value) == "expected at most 41 pixels (--max-pixels), got 6 x 7"
    wide = replace(items[0], max_pixels=42)
    assert read_picture(wide, channels=1).x.shape == (1, 6, 2)
    assert dicom.load(tmp_path / "a.dcm").Rows == 6
    assert nifti.load(tmp_path / "b.nii").values.shape == (2, 6, 7)


def test_names_of_one_medical_file(tmp_path):
    """A name that ends in a dot has no suffix: it is a scan's, and hidden."""
    write_scan(tmp_path / "zuck.", PIXELS)
    (item,) = ImageFolder(tmp_path)
    assert (item.file, item.kind) == ("case-0001", "dicom")

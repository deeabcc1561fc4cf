"""Damaged medical files: they read, or one line says why and quotes nothing of the patient."""

import random

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from scans import markers, scan

from cfgen.data import ImageFolder, UnreadableImage, read_picture

PIXELS = np.random.default_rng(0).integers(0, 4096, (48, 37)).astype(np.uint16)
DICOM = [ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The file cut somewhere, or with some bytes changed anywhere or in its header."""
    out = bytearray(data)
    if chance.random() < 0.3:
        del out[chance.randrange(len(out)) :]
    spread = chance.choice([len(out), min(len(out), 1500)])
    for _ in range(chance.choice([1, 4, 16]) if spread else 0):
        out[chance.randrange(spread)] = chance.randrange(256)
    return bytes(out)


def reads(folder) -> int:
    """How many items of a folder read; the others are refused in one line without a marker."""
    good = 0
    for item in ImageFolder(folder, limit=3):
        assert item.file.startswith("case-")
        try:
            image = read_picture(item, channels=1, size=(16, 16)).x
        except UnreadableImage as error:
            said = str(error)
            assert said and "\n" not in said and str(folder) not in said
            assert [word for word in markers() if word in said] == []
        else:
            assert image.shape == (1, 16, 16)
            assert 0 <= image.min() and image.max() <= 1
            good += 1
    return good


@pytest.mark.parametrize("syntax", DICOM, ids=lambda uid: uid.name)
def test_damaged_dicom(tmp_path, syntax):
    ds = scan(PIXELS, RescaleSlope=2, WindowCenter=40, WindowWidth=400)
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    path, chance = tmp_path / "scan.dcm", random.Random(0)
    dcmwrite(path, ds, enforce_file_format=True)
    data = path.read_bytes()
    assert reads(tmp_path) == 1
    good = 0
    for _ in range(120):
        path.write_bytes(damaged(data, chance))
        good += reads(tmp_path) > 0
    assert 5 < good < 115  # the damage is neither harmless nor always fatal


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_damaged_nifti(tmp_path, name):
    path, chance = tmp_path / name, random.Random(0)
    image: nib.Nifti1Image = nib.Nifti1Image(np.stack([PIXELS, PIXELS[::-1]], -1), np.eye(4))
    nib.save(image, path)
    data = path.read_bytes()
    assert reads(tmp_path) == 2
    good = 0
    for _ in range(60):
        path.write_bytes(damaged(data, chance))
        good += reads(tmp_path) > 0
    assert good < 55

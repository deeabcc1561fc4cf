"""What a derived object promises: it flips as written, has its own UID, and says what it is."""

from typing import Any

import numpy as np
import pytest
import torch
from exports import SIDE, exported
from pydicom import Dataset, dcmread
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from scans import write_scan

from cfgen.data import Item, dicom, export, read_picture
from cfgen.data.identity import Identity
from cfgen.data.storage import storage

ONE = {"SOPInstanceUID": "1.2.3.4711.3"}
CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def blobs(shape=(SIDE, SIDE), low=40, high=215, seed=0):
    """Smooth greys with room at both ends, uint8 (H, W)."""
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")[0, 0]
    return (low + smooth * (high - low)).round().byte().numpy()


def of(path, frame=0):
    return Item(file="a", path=path, stem="a", kind="dicom", index=frame)


def seen(path):
    """What a file of full scale shows, by pydicom alone, in [0, 1]."""
    ds = dcmread(path)
    values = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(
        ds.get("RescaleIntercept", 0)
    )
    return ((values - ds.WindowCenter) / ds.WindowWidth + 0.5).clip(0, 1)


def flips(path, cf):
    """Whether a file of the size of the model flips, read without cfgen."""
    x = torch.from_numpy((seen(path) * 255).round() / 255)[None, None]
    return bool(cf.problem.criterion(cf.problem.classifier(x)) > 0)


def test_what_was_written_is_what_is_classified(tmp_path, monkeypatch):
    """A writer that loses the change, all of it or half: the file says so, not what was meant."""
    path = write_scan(tmp_path / "a", blobs())
    said, out, cf = exported(of(path))
    assert (said["dicom_flips"], flips(out, cf)) == (1, True)
    original = export.derived.write
    for kept in (0.0, 0.5):

        def lossy(out, source, frame, plane, stored, *rest, kept=kept):
            before = dicom.read(path, 0).values
            values = stored.round(before + kept * (plane.values - before))
            original(out, source, frame, export.replace(plane, values=values), stored, *rest)

        monkeypatch.setattr(export.derived, "write", lossy)
        said, out, cf = exported(of(path))
        assert not flips(out, cf)
        assert said == {
            "dicom_flips": 0,
            "dicom_lam": float(cf.lam),
            "message": "x_cf.dcm does not flip when it is read again.",
        }


def test_the_first_step_that_flips_as_written_is_kept(tmp_path, monkeypatch):
    """Where the writer keeps 90 % of the change, the steps before 1.1 are too little."""
    path = write_scan(tmp_path / "a", blobs())
    original = export.derived.write
    tried = []

    def lossy(out, source, frame, plane, stored, *rest):
        before = dicom.read(path, 0).values
        values = stored.round(before + 0.9 * (plane.values - before))
        original(out, source, frame, export.replace(plane, values=values), stored, *rest)
        tried.append(seen(out).mean())

    monkeypatch.setattr(export.derived, "write", lossy)
    said, out, cf = exported(of(path), rise=0.1)
    times = said["dicom_lam"] / float(cf.lam)
    assert said["dicom_flips"] == 1 and flips(out, cf)
    assert times == pytest.approx(export.FURTHER[len(tried) - 1])
    assert len(tried) > 2 and tried == sorted(tried)  # all that was smaller did not do
    note = dcmread(out).DerivationDescription
    assert f"lambda {said['dicom_lam']:.6g}." in note


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_a_file_is_read_again_as_its_source_was(tmp_path, keep_aspect):
    path = write_scan(tmp_path / "a", blobs((32, 24)))
    said, out, cf = exported(of(path), keep_aspect=keep_aspect)
    assert said["dicom_flips"] == 1
    assert cf.problem is not None
    wanted = cf.problem.image(cf.alpha, torch.full_like(cf.lam, said["dicom_lam"]))[0]
    x, other = (
        read_picture(of(out), channels=1, size=(SIDE, SIDE), keep_aspect=k).x
        for k in (keep_aspect, not keep_aspect)
    )
    inside = np.s_[:, :, 3:13]  # black is padded around the rest, and cannot be made bright
    assert (x - wanted)[inside].abs().max() < 1.5 / 255 < (other - wanted)[inside].abs().max()
    assert cf.problem.criterion(cf.problem.logits(cf.problem.to_grid(x.double()[None]))) > 0


def uids(out):
    ds = dcmread(out)
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    return ds.SOPInstanceUID


@pytest.mark.parametrize("keep_ids", [False, True])
def test_every_object_has_a_uid_of_its_own(tmp_path, keep_ids):
    def one(name, pixels, frame=0, **how):
        attributes = how.pop("attributes", {})
        path = write_scan(tmp_path / name, pixels, **attributes)
        case = f"case-{name}-{len(found)}"
        return uids(exported(of(path, frame), case=case, keep_ids=keep_ids, **how).path)

    found: dict[str, str] = {}
    found["alternative 1"] = first = one("a", blobs(), attributes=ONE)
    found["alternative 2"] = one("a", blobs(), rise=0.08, attributes=ONE)
    found["the same UID at other pixels"] = one("b", blobs(seed=1), attributes=ONE)
    found["its own UID at the same pixels"] = one(
        "c", blobs(), attributes={"SOPInstanceUID": "1.9"}
    )
    for k in (0, 1):
        found[f"no UID, {k}"] = one(f"n{k}", blobs(seed=k), attributes={"SOPInstanceUID": None})
        # Two frames that are alike, pixel by pixel.
        twice = np.stack([blobs(), blobs()])
        found[f"frame {k}"] = one("f", twice, frame=k, attributes=ONE)
    found["another place"] = one("p", blobs(), attributes=ONE | {"ImagePositionPatient": [0, 0, 9]})
    found["another secret"] = one("a", blobs(), secret="t", attributes=ONE)
    assert len(set(found.values())) == len(found)
    assert one("a", blobs(), attributes=ONE) == first  # a run that goes on writes the same again
    assert "1.2.3.4711.3" not in found.values()


def test_parts_of_what_a_uid_is_made_from_do_not_run_together():
    identity = Identity("s")
    assert identity.new("1.2", "3") != identity.new("1.23", "") != identity.new("1.2", "", "3")


def test_what_the_source_lacks_is_neither_shared_nor_pointed_at(tmp_path):
    none: dict[str, Any] = dict.fromkeys(
        ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    )
    made = []
    for k in (0, 1):
        path = write_scan(tmp_path / str(k), blobs(seed=k), **none)
        for keep_ids in (False, True):
            out = exported(of(path), case=f"case-{k}", keep_ids=keep_ids).path
            made.append(dcmread(out))
            assert "SourceImageSequence" not in made[-1]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert made[0][keyword].value != made[2][keyword].value
        assert all(ds[keyword].value.is_valid and ds[keyword].value for ds in made)
    assert made[0].StudyInstanceUID != made[0].SeriesInstanceUID
    # Those that say their series only, but not their study, are of one study.
    series = none | {"SeriesInstanceUID": "1.7"}
    paths = [write_scan(tmp_path / f"s{k}", blobs(seed=k), **series) for k in (0, 1)]
    a, b = (dcmread(exported(of(p), case=p.name + "c").path) for p in paths)
    assert a.StudyInstanceUID == b.StudyInstanceUID != a.SeriesInstanceUID == b.SeriesInstanceUID


LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
EXACT = (JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, JPEGLosslessSV1, RLELossless)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("said", [None, "00", "01"])
@pytest.mark.parametrize("syntax", [*LOSSY, *EXACT, ExplicitVRLittleEndian], ids=lambda u: u.name)
def test_what_was_once_lossy_stays_so(tmp_path, syntax, said, keep):
    """PS3.3 C.7.6.1.1.5: once lossy is always lossy, by the codec or by what the source says."""
    more: dict[str, Any] = {"LossyImageCompressionRatio": 9} if said == "01" else {}
    path = write_scan(tmp_path / "a", blobs(), LossyImageCompression=said, **more)
    source, plane = dicom.load(path), dicom.read(path, 0)
    source.file_meta.TransferSyntaxUID = syntax
    stored = storage(source, 0, plane, resized=False)
    export.derived.write(tmp_path / "o", source, 0, plane, stored, "", Identity("s", keep))
    ds = dcmread(tmp_path / "o")
    assert ds.get("LossyImageCompression") == ("01" if syntax in LOSSY else said)
    assert ds.get("LossyImageCompressionRatio") == more.get("LossyImageCompressionRatio")


def table(entries, **attributes):
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.LUTDescriptor = [len(entries), 0, 16]
    ds.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return ds


CURVE = np.round(65535 / (1 + np.exp((np.arange(256) - 128) / 30)))
SHOWN = {
    "table that falls": {"VOILUTSequence": [table(CURVE)]},
    "table that rises": {"VOILUTSequence": [table(CURVE[::-1])]},
    "table that does both": {"VOILUTSequence": [table(np.abs(np.arange(256) - 90) * 390)]},
    "sigmoid": {"WindowCenter": 120, "WindowWidth": 150, "VOILUTFunction": "SIGMOID"},
    "step": {"WindowCenter": 128, "WindowWidth": 1},
}


@pytest.mark.parametrize("way", SHOWN)
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [(16, 16), (32, 32)])
def test_levels_that_are_shown_are_what_is_written(tmp_path, way, interpretation, shape):
    how = {"PhotometricInterpretation": interpretation, "SOPClassUID": CTImageStorage}
    path = write_scan(
        tmp_path / "a", blobs(shape), **how, **SHOWN[way], Modality="CT", Units="BQML"
    )
    rise = 0.02 if way == "step" else 0.05
    said, out, cf = exported(of(path), rise=rise)
    assert said["dicom_flips"] == 1
    before, after, ds = dicom.read(path, 0), dicom.read(out, 0), dcmread(out)
    assert after.window == before.window
    if shape == (16, 16):
        shown = torch.from_numpy(after.window.fraction(after.values)).clamp(0, 1)
        assert torch.equal((shown * 255).round(), (cf.x_cf[0, 0] * 255).round())
    assert "VOILUTSequence" not in ds and ds.VOILUTFunction == "LINEAR_EXACT"
    assert (ds.get("RescaleType") or "US", ds.Units) == ("US", "NONE")
    assert ds.PhotometricInterpretation == interpretation


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"RescaleType": "HU"}, "HU"),
        ({}, "HU"),
        ({"RescaleType": "US"}, "US"),
        ({"RescaleType": "SEC"}, "US"),
        ({"RescaleType": "HU_MOD"}, "HU_MOD"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "US"),
        ({"ModalityLUTSequence": [table(range(256), ModalityLUTType="OD")]}, "OD"),
    ],
)
def test_a_derived_object_is_stamped_with_the_unit_of_its_values(tmp_path, attributes, expected):
    path = write_scan(tmp_path / "a", blobs((32, 32)), **(CT | attributes))
    ds = dcmread(exported(of(path)).path)
    assert ds.RescaleType == expected
    assert "ModalityLUTSequence" not in ds


@pytest.mark.parametrize("frame", [0, 1])
def test_a_derived_frame_has_the_unit_of_that_frame(tmp_path, frame):
    groups = []
    for slope, kind in ((1, "HU"), (2, "US")):
        item, meaning = Dataset(), Dataset()
        meaning.RescaleSlope, meaning.RescaleIntercept, meaning.RescaleType = slope, 0, kind
        item.PixelValueTransformationSequence = [meaning]
        groups.append(item)
    pixels = np.stack([blobs(), blobs(seed=1)]).astype(np.uint16)
    how = {"SOPClassUID": EnhancedCTImageStorage, "Modality": "CT"}
    path = write_scan(tmp_path / "a", pixels, **how, PerFrameFunctionalGroupsSequence=groups)
    said, out, _ = exported(of(path, frame))
    assert said["dicom_flips"] == 1
    (item,) = dcmread(out).PerFrameFunctionalGroupsSequence
    assert item.PixelValueTransformationSequence[0].RescaleType == ("HU", "US")[frame]
    assert dicom.read(out, 0).window == dicom.read(path, frame).window


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_bits_that_stand_higher_are_written_where_all_look_for_them(tmp_path, kind):
    values = (blobs().astype(kind) * 8) - (1000 if kind is np.int16 else 0)
    cells = (values << 4).astype(kind)
    path = write_scan(tmp_path / "a", cells, BitsStored=12, HighBit=15)
    said, out, _ = exported(of(path))
    ds = dcmread(out)
    assert said["dicom_flips"] == 1
    assert (ds.BitsStored, ds.HighBit) == (12, 11)
    assert np.abs(ds.pixel_array - values.astype(int)).max() < 300

"""The program on DICOM and NIfTI files: what it writes, and that nothing of a patient is in it."""

import contextlib
import csv
import errno
import gzip
import io
import json
import logging
import re
import shutil
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from pydicom import dcmread
from scans import MARKERS, NAME, markers, write_colours, write_scan

from cfgen import load_checkpoint
from cfgen.cli import main
from cfgen.data import Item, derived, read_image, read_picture

checkpoint_folder = tiny.checkpoint_folder
images = tiny.images
SHARED = Path(__file__).parents[2] / "shared" / "data" / "lgg-flair-128"
MISSING = not (Path(__file__).parents[1] / "checkpoints" / "brain-flair" / "config.json").is_file()


@pytest.fixture(scope="module")
def run(checkpoint_folder):
    """Run the program in this process; returns its exit status."""

    def run(*argv):
        AcceleratorState._reset_state(reset_partial_state=True)
        fixed = ("--device", "cpu", "--sweep", 0)
        chosen = () if "--checkpoint" in argv else ("--checkpoint", checkpoint_folder)
        return main([str(a) for a in (*argv, *fixed, *chosen)])

    return run


@pytest.fixture(scope="module")
def levels(checkpoint_folder):
    """Six images as 8-bit levels (6, 32, 32)."""
    checkpoint = load_checkpoint(str(checkpoint_folder))
    assert checkpoint.prior is not None
    with torch.no_grad():
        x = checkpoint.generator.decode(checkpoint.prior.sample(torch.arange(6) % 2, seed=7))
    return (x[:, 0].clamp(0, 1) * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def study(levels, tmp_path_factory):
    """A study of a patient: three readable files, a volume, and one of each refusal."""
    root = tmp_path_factory.mktemp("study") / NAME
    write_scan(root / f"{NAME}.dcm", levels[0])
    larger = np.kron(levels[1], np.ones((2, 3), np.uint8)).astype(np.int16) * 4 - 1024
    ct = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -100}
    window = {"WindowCenter": -614, "WindowWidth": 1020, "VOILUTFunction": "LINEAR_EXACT"}
    spacing = {"PixelSpacing": [0.75, 0.5]}  # of 64 x 96 pixels: a square
    write_scan(root / "s" / "1.2.3.4711.8", larger, **ct, **window, **spacing)
    write_scan(root / "s" / f"{NAME}_frames", levels[2:4])
    # Voxels run to the right and to the front, pictures to the left and to the back.
    upright = np.stack([levels[4], np.zeros((32, 32), np.uint8)], -1)
    affine = np.array([[1.5, 0, 0, 4], [0, 1.5, 0, 5], [0, 0, 2, 9], [0, 0, 0, 1]])
    image = nib.Nifti1Image(upright[::-1, ::-1].transpose(1, 0, 2), affine)
    image.header["descrip"] = b"Zuckmayer"
    nib.save(image, root / f"{NAME}.nii.gz")

    bad = root / "z"
    write_scan(bad / f"{NAME}_colour", levels[0], PhotometricInterpretation="RGB")
    write_scan(bad / f"{NAME}_none.dcm", levels[0], PixelData=None)
    cut = write_scan(bad / f"{NAME}_cut", levels[0])
    cut.write_bytes(cut.read_bytes()[:-100])
    # Values that pydicom warns about, with the values in the warning.
    write_scan(bad / f"{NAME}_odd.dcm", levels[0], Rows=None)
    odd = dcmread(bad / f"{NAME}_odd.dcm")
    odd.add_new("Rows", "US", 32)
    odd.save_as(bad / f"{NAME}_odd.dcm")
    data = (bad / f"{NAME}_odd.dcm").read_bytes()
    data = data.replace(b"19390428", b"Karoline").replace(b"MONOCHROME2 ", b"Karoline    ")
    (bad / f"{NAME}_odd.dcm").write_bytes(data)
    write_scan(bad / f"{NAME}_report.dcm", levels[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    write_scan(bad / f"{NAME}_burned", levels[0], BurnedInAnnotation="YES")
    (bad / f"{NAME}.dcm").write_bytes(b"")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), bad / f"{NAME}_4d.nii")
    (bad / f"{NAME}_text.nii.gz").write_text("Karoline Zuckmayer")
    return root


REFUSED = {
    "",
    "expected 3 samples a pixel for RGB, got 1",
    "expected pixel data, got none (MR Image Storage, or truncated)",
    "truncated",
    "expected a grey, RGB, YBR or palette image, got another",
    "expected an image, got Basic Text SR Storage",
    "expected no identifying text burned into the image, got BurnedInAnnotation YES",
    "file is empty",
    "expected --volume 0 to 1 for a 4-D file of (4, 4, 4, 2), got none",
    "not a NIfTI file, or its header is damaged",
}


def rows_of(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(run, study, tmp_path_factory):
    """A run of the study: its folder, its exit status and all that was shown or logged."""
    out = tmp_path_factory.mktemp("run") / "out"
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            status = run("--images", study, "--dicom", "--out", out)
    finally:
        logging.getLogger().removeHandler(handler)
    return out, status, shown.getvalue()


def test_refusals_cost_no_other_case(done):
    out, status, _ = done
    assert status == 1
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [f"case-{k:04d}" for k in range(1, 15)]
    assert [row["case"] for row in rows] == [row["file"] for row in rows]
    assert {row["message"] for row in rows} == REFUSED
    fine = [row for row in rows if row["status"] != "UNREADABLE"]
    assert [row["status"] for row in fine].count("FLIPPED") >= 4
    assert len(fine) == 5


def everything(folder):
    """Name and content of each file, decompressed where it is packed."""
    for path in sorted(folder.rglob("*")):
        yield path.name.encode()
        if path.is_dir():
            continue
        data = path.read_bytes()
        yield data
        if path.suffix == ".gz":
            yield gzip.decompress(data)
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield name.encode()
                    yield archive.read(name)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                yield repr(picture.info).encode()
            for chunk in re.findall(rb"IDAT(.*?)....(?:IDAT|IEND)", data, re.DOTALL):
                with contextlib.suppress(zlib.error):
                    yield zlib.decompress(chunk)


def test_nothing_of_the_patient_is_in_the_run_folder_or_on_the_screen(done, study):
    out, _, shown = done
    forbidden = [*markers(), "Zuckmayer", "Karoline", "Seldwyla", study.parent.name]
    for data in [*everything(out), shown.encode()]:
        for word in forbidden:
            for code in ("utf-8", "utf-16-le"):
                assert word.encode(code) not in data, word
    # The same search does find what is there.
    assert any(b"synthetic counterfactual" in data for data in everything(out))
    assert any(MARKERS["PatientID"].encode() in data for data in everything(study))


def test_the_window_is_recorded(done):
    out, _, _ = done
    windows = [
        json.loads((out / "cases" / row["case"] / "window.json").read_text())
        for row in rows_of(out)
        if row["status"] != "UNREADABLE"
    ]
    full = {"low": 0.0, "high": 255.0, "unit": ""}
    assert windows == [full, full, {"low": -1124.0, "high": -104.0, "unit": "HU"}, full, full]


def test_written_files_flip_when_they_are_read_again(done, checkpoint_folder):
    out, _, shown = done
    f = load_checkpoint(str(checkpoint_folder)).classifier
    flipped = [row for row in rows_of(out) if row["status"] == "FLIPPED"]
    assert f"{len(flipped)} of {len(flipped)} DICOM or NIfTI files flip when read again" in shown
    kinds = set()
    for row in flipped:
        folder = out / "cases" / row["case"]
        (path,) = folder.glob("x_cf.[dn]*")
        kinds.add(path.suffix)
        kind = "dicom" if path.suffix == ".dcm" else "nifti"
        item = Item(file="", path=path, stem="", kind=kind)
        x = read_picture(item, channels=1, size=(32, 32)).x
        x = (x * 255).round() / 255  # as every image that is explained
        with torch.no_grad():
            assert f.classes[f(x[None]).argmax()] == row["target"]
        assert (row["dicom_flips"], row["message"]) == ("1", "")
        assert float(row["dicom_lam"]) >= float(row["lam"])
        if kind == "dicom":
            note = dcmread(path).DerivationDescription
            way = f"{row['source']} to {row['target']}, direction {row['direction']}"
            assert f"model tiny: {way}, lambda" in note
            lam = re.search("lambda ([^ ]+)[.] Synthetic", note)
            assert lam and float(lam[1]) == pytest.approx(float(row["dicom_lam"]), rel=1e-5)
        if dicom_size(path) == (32, 32) and row["dicom_lam"] == row["lam"]:
            png = read_image(folder / "x_cf.png", channels=1)
            assert torch.equal(x, png)
    assert kinds == {".dcm", ".gz"}


def dicom_size(path):
    return (dcmread(path).Rows, dcmread(path).Columns) if path.suffix == ".dcm" else None


def test_a_volume_is_put_back_where_it_was(done, study, levels):
    out, _, _ = done
    (path,) = out.glob("cases/*/x_cf.nii.gz")
    source: object = nib.load(study / f"{NAME}.nii.gz")
    derived: object = nib.load(path)
    assert isinstance(source, nib.Nifti1Image) and isinstance(derived, nib.Nifti1Image)
    assert derived.affine is not None and source.affine is not None
    np.testing.assert_allclose(derived.affine, source.affine)
    assert derived.shape == (32, 32, 1)
    shown = (read_image(path.parent / "x.png", channels=1)[0] * 255).round().numpy()
    assert np.array_equal(shown, levels[4])
    assert np.array_equal(shown[::-1, ::-1].T, np.asarray(source.dataobj)[..., 0])
    after = read_image(path.parent / "x_cf.png", channels=1)[0].numpy() * 255
    np.testing.assert_allclose(np.asarray(derived.dataobj)[..., 0], after[::-1, ::-1].T, atol=1e-3)


def test_pixels_that_are_not_square_are_put_back_on_their_own_grid(done, levels):
    """64 x 96 pixels of 0.75 x 0.5 mm are read as the square that they are."""
    out, _, _ = done
    grids = {}
    for path in out.glob("cases/*/x_cf.dcm"):
        ds = dcmread(path)
        grids[ds.Rows, ds.Columns] = ds, read_image(path.parent / "x.png", channels=1)[0]
    ds, x = grids[64, 96]
    assert ds.PixelSpacing == [0.75, 0.5]
    seen, whole = (255 * x).numpy(), levels[1].astype(float)
    assert np.corrcoef(seen.ravel(), whole.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(seen.mean(1), whole.mean(1), atol=12)  # no black above or below


def test_sides_sizes_and_neighbours_are_recorded(done):
    out, _, _ = done
    said = {}
    for path in out.glob("cases/*/geometry.json"):
        said[path.parent.name] = json.loads(path.read_text())
        for one in said[path.parent.name].get("neighbours", []):
            assert (path.parent / one["file"]).is_file()
    one, volume, two, three, four = (said[name] for name in sorted(said))
    coronal = {"left": "RA", "right": "LP", "top": "H", "bottom": "F"}
    assert [case["sides"] for case in (one, two, three, four)] == [coronal] * 4
    assert volume["sides"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    mm = [case["mm_per_pixel"] for case in (one, two, three, four, volume)]
    assert mm == [[0.75, 0.75], [1.5, 1.5], [0.75, 0.75], [0.75, 0.75], [1.5, 1.5]]
    offsets = [[n["offset"] for n in case.get("neighbours", [])] for case in (three, four, volume)]
    assert offsets == [[1], [-1], [1]]


def test_names_are_kept_where_that_is_asked_for(run, study, tmp_path):
    out = tmp_path / "out"
    assert run("--images", study, "--keep-ids", "--dicom", "--out", out) == 1
    rows = {row["file"]: row for row in rows_of(out)}
    assert f"{NAME}.dcm" in rows and f"s/{NAME}_frames#1" in rows
    burned = rows[f"z/{NAME}_burned"]
    assert burned["status"] != "UNREADABLE"
    ds = dcmread(out / "cases" / rows[f"{NAME}.dcm"]["case"] / "x_cf.dcm")
    assert (ds.PatientID, ds.StudyInstanceUID) == (MARKERS["PatientID"], "1.2.3.4711.1")
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4711.3"


def test_pictures_and_scans_side_by_side(run, study, images, tmp_path):
    shutil.copy(images / "one.png", tmp_path / "scans.png")
    (tmp_path / "in").mkdir()
    shutil.copy(images / "one.png", tmp_path / "in" / "mine.png")
    shutil.copy(study / f"{NAME}.dcm", tmp_path / "in")
    out = tmp_path / "out"
    assert run("--images", tmp_path / "in", "--out", out, "--window", "100,300") == 0
    hidden, mine = rows_of(out)
    assert (hidden["file"], mine["file"]) == ("case-0001", "mine.png")
    assert (hidden["dicom_flips"], hidden["dicom_lam"]) == ("", "")
    assert not list(out.rglob("x_cf.dcm")) and not (out / "cases" / "mine" / "window.json").exists()
    window = json.loads((out / "cases" / "case-0001" / "window.json").read_text())
    assert window == {"low": -50.0, "high": 250.0, "unit": ""}


def test_colour_goes_through_a_pair_of_greys(run, levels, tmp_path):
    grey = levels[0]
    path = write_colours(tmp_path / "colour.dcm", np.stack([grey, grey, grey // 2], -1))
    out = tmp_path / "out"
    assert run("--images", path, "--dicom", "--out", out) == 0
    (row,) = rows_of(out)
    assert (row["status"], row["dicom_flips"]) == ("FLIPPED", "1")
    ds = dcmread(out / "cases" / "case-0001" / "x_cf.dcm")
    assert (ds.PhotometricInterpretation, ds.Rows, ds.Columns) == ("RGB", 32, 32)
    assert not (out / "cases" / "case-0001" / "window.json").exists()


def test_the_window_that_was_asked_for_is_the_files_own_afterwards(run, study, tmp_path):
    scan, out = study / f"{NAME}.dcm", tmp_path / "out"
    assert run("--images", scan, "--out", out, "--window", "120,200", "--dicom") == 0
    (row,) = rows_of(out)
    assert (row["status"], row["dicom_flips"]) == ("FLIPPED", "1")
    ds = dcmread(out / "cases" / "case-0001" / "x_cf.dcm")
    assert (ds.WindowCenter, ds.WindowWidth) == (120, 200)


def test_a_file_that_does_not_flip_says_so(run, study, tmp_path, capsys, monkeypatch):
    """Where nothing that is put back flips: the source itself is written."""
    monkeypatch.setattr("cfgen.data.export.put_back", lambda plane, *rest: plane.values)
    out = tmp_path / "out"
    assert run("--images", study / f"{NAME}.dcm", "--dicom", "--out", out) == 0
    (row,) = rows_of(out)
    assert row["message"] == "x_cf.dcm does not flip when it is read again."
    assert (row["status"], row["dicom_flips"]) == ("FLIPPED", "0")
    assert row["dicom_lam"] == row["lam"]
    assert "0 of 1 DICOM or NIfTI files flip when read again" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_costs_no_other_case(run, study, tmp_path, monkeypatch):
    def broken(*rest):
        raise ValueError("Karoline Zuckmayer")

    monkeypatch.setattr("cfgen.data.derived.write", broken)
    out = tmp_path / "out"
    assert run("--images", study / "s", "--dicom", "--out", out) == 0
    written = [row for row in rows_of(out) if row["status"] == "FLIPPED"]
    assert {row["message"] for row in written} == {"x_cf.dcm cannot be written."}
    assert {(row["dicom_flips"], row["dicom_lam"]) for row in written} == {("0", "")}


def test_a_disk_that_is_full_when_a_file_is_written_stops_the_run(
    run, study, tmp_path, monkeypatch, capsys
):
    write = derived.write

    def full(*rest):
        write(*rest)
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("cfgen.data.derived.write", full)
        assert run("--images", study / "s", "--dicom", "--out", out) == 1
    line = f"The disk of '{out}' is full. What is done is whole; the same command goes on."
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert rows_of(out) == [] and not [*(out / "cases").iterdir()]
    assert run("--images", study / "s", "--dicom", "--out", out) == 0
    assert {row["dicom_flips"] for row in rows_of(out) if row["status"] == "FLIPPED"} == {"1"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--images {images} --dicom", "expected DICOM or NIfTI files with --dicom, got none"),
        ("--window 40", "expected a window CENTER,WIDTH such as 40,400, got '40'"),
        ("--images {study} --slices x", "expected slices such as 12 or 10:20, got 'x'"),
        (
            "--axis up",
            "argument --axis: invalid choice: 'up' (choose from axial, coronal, sagittal, 0, 1, 2)",
        ),
    ],
)
def test_wrong_usage(argv, message, run, images, study, tmp_path, capsys):
    arguments = argv.format(images=images, study=study).split(" ")
    with pytest.raises(SystemExit) as stop:
        run(*arguments, "--out", tmp_path / "out")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    said = re.sub(r"\(choose.*\)", lambda m: m[0].replace("'", ""), said)
    assert said == f"cfgen: error: {message}\n"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED.name} beside the repository")
@pytest.mark.skipif(MISSING, reason="checkpoints/brain-flair is not there")
@pytest.mark.parametrize("size", [(128, 128), (256, 256), (240, 200)])
def test_real_slices_written_as_dicom_flip_when_they_are_read_again(run, size, tmp_path):
    with open(SHARED / "labels.csv", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["split"] == "test"][::120]
    for k, row in enumerate(table):
        with Image.open(SHARED / row["file"]) as picture:
            pixels = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
        write_scan(tmp_path / "in" / f"{k}.dcm", pixels, InstanceNumber=k)
    out = tmp_path / "out"
    argv = ("--images", tmp_path / "in", "--dicom", "--out", out)
    assert run(*argv, "--checkpoint", "brain-flair") == 0
    flipped = [row for row in rows_of(out) if row["status"] == "FLIPPED"]
    assert len(flipped) >= 2
    assert {row["dicom_flips"] for row in flipped} == {"1"}

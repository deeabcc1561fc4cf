"""geometry.json of a case, and the slices beside it: the patient's own, and nothing but these."""

import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scans import markers, write_scan

from cfgen.data import Item, Picture, UnreadableImage, read_picture
from cfgen.data.geometry import neighbours, write_geometry

AXIAL = [1, 0, 0, 0, 1, 0]
FULL = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}


def flat(level, side=16):
    """A grey slice with a black and a white corner."""
    pixels = np.full((side, side), level, np.uint8)
    pixels[0, 0], pixels[-1, -1] = 0, 255
    return pixels


def series(folder, count=9, **more):
    """A series whose names are not in the order of its positions; slice k is as bright as 20 k."""
    for k in range(count):
        place = {"ImagePositionPatient": [0, 0, 3 * k], "ImageOrientationPatient": AXIAL}
        name = f"{(4 * k) % count}.dcm"
        write_scan(folder / name, flat(20 * k), InstanceNumber=None, **FULL | place | more)
    return [folder / f"{(4 * k) % count}.dcm" for k in range(count)]


def read(item, size=(16, 16)) -> Picture:
    return read_picture(item, channels=1, size=size)


def item(path, kind="dicom", **more) -> Item:
    return Item(file="a", path=path, stem="a", kind=kind, **more)


def written(one, folder, read=read) -> dict[str, Any]:
    write_geometry(one, read(one), folder, read)
    path = folder / "geometry.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def level(path):
    with Image.open(path) as image:
        return float(np.asarray(image.convert("L"))[4:-4, 4:-4].mean())


def test_what_a_case_says_of_its_place(tmp_path):
    paths = series(tmp_path / "in")
    (tmp_path / "out").mkdir()
    said = written(item(paths[4]), tmp_path / "out")
    near = said.pop("neighbours")
    assert said == {
        "mm_per_pixel": [0.75, 0.75],
        "measured": "",
        "sides": {"left": "R", "right": "L", "top": "A", "bottom": "P"},
    }
    assert [one["offset"] for one in near] == [-3, -2, -1, 1, 2, 3]
    for one in near:
        shown = level(tmp_path / "out" / one["file"])
        assert shown == pytest.approx(20 * (4 + one["offset"]), abs=3)
    names = {path.name for path in (tmp_path / "out" / "neighbours").iterdir()}
    assert names == {f"{side}-{k}.webp" for side in ("before", "after") for k in (1, 2, 3)}
    for path in (tmp_path / "out").rglob("*.*"):
        assert [m for m in markers() if m.encode() in path.read_bytes()] == []


def test_at_the_ends_of_a_series_there_are_fewer(tmp_path):
    paths = series(tmp_path / "in", 5)
    write_scan(tmp_path / "in" / "9.dcm", flat(9), SeriesInstanceUID="1.2")
    write_scan(tmp_path / "in" / "10.dcm", flat(9), SeriesInstanceUID="")
    for k, offsets in ((0, [1, 2, 3]), (1, [-1, 1, 2, 3]), (4, [-3, -2, -1])):
        found = list(neighbours(item(paths[k])))
        assert [offset for offset, _ in found] == offsets
        assert [near.path for _, near in found] == [paths[k + offset] for offset in offsets]
    for name in ("9.dcm", "10.dcm"):
        assert list(neighbours(item(tmp_path / "in" / name))) == []


def test_slices_of_a_volume_and_frames_of_a_file(tmp_path):
    image: Any = nib.Nifti1Image(np.arange(6 * 6 * 6, dtype=np.int16).reshape(6, 6, 6), np.eye(4))
    nib.save(image, tmp_path / "v.nii")
    one = item(tmp_path / "v.nii", "nifti", index=1, axis="coronal", opaque=True)
    found = dict(neighbours(one))
    assert {offset: near.index for offset, near in found.items()} == {-1: 0, 1: 2, 2: 3, 3: 4}
    assert {(near.kind, near.axis, near.opaque) for near in found.values()} == {
        ("nifti", "coronal", True)
    }
    path = write_scan(tmp_path / "a.dcm", np.stack([flat(k) for k in range(3)]))
    found = dict(neighbours(item(path, index=1)))
    assert {offset: near.index for offset, near in found.items()} == {-1: 0, 1: 2}


def test_pictures_and_what_no_file_says_leave_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((8, 8), np.float32))
    assert written(item(tmp_path / "a.npy", "picture"), tmp_path) == {}
    nothing = {"ImageOrientationPatient": None, "PixelSpacing": None, "SeriesInstanceUID": None}
    assert written(item(write_scan(tmp_path / "c.dcm", flat(9), **nothing)), tmp_path) == {}
    assert not (tmp_path / "neighbours").exists()


def test_neighbours_are_seen_in_the_window_of_the_case(tmp_path):
    one, two, _ = series(tmp_path / "in", 3)
    wide = FULL | {"WindowCenter": 255, "WindowWidth": 510, "InstanceNumber": None}
    place = {"ImagePositionPatient": [0, 0, 3], "ImageOrientationPatient": AXIAL}
    write_scan(two, flat(80), **wide | place)
    assert float(read(item(two)).x[0, 8, 8]) == pytest.approx(80 / 510, abs=0.01)
    near = written(item(one), tmp_path)["neighbours"]
    assert level(tmp_path / near[0]["file"]) == pytest.approx(80, abs=3)


def test_what_is_no_neighbour_or_cannot_be_read_costs_nothing(tmp_path):
    paths = series(tmp_path / "in", 5)
    scout = {"ImagePositionPatient": [0, 0, 3], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    write_scan(paths[1], flat(99), **FULL | scout, InstanceNumber=None)
    write_scan(paths[3], flat(99), PixelData=None, InstanceNumber=None, ImagePositionPatient=None)

    def broken(one):
        if one.path == paths[4]:
            raise RuntimeError("Karoline")
        return read(one)

    with pytest.raises(UnreadableImage):
        read(item(paths[3]))
    near = written(item(paths[2]), tmp_path, broken).get("neighbours", [])
    shown = {round(level(tmp_path / one["file"])) for one in near}
    assert len(near) == 1 and shown == {0}


def test_slices_are_read_once_for_all_their_neighbours(tmp_path):
    paths = series(tmp_path / "in")
    seen = []

    def counted(one):
        seen.append(one.path)
        return read(one)

    for k, path in enumerate(paths):
        write_geometry(item(path, label=str(k)), read(item(path)), tmp_path / str(k), counted)
    assert sorted(seen) == sorted(paths)
    (tmp_path / "alone").mkdir()
    write_geometry(item(paths[4]), read(item(paths[4])), tmp_path / "alone", None)
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["geometry.json"]
    assert len(seen) == len(paths)


def test_pictures_of_neighbours_are_small(tmp_path):
    paths = series(tmp_path / "in", 3)

    def large(one):
        return read(one, (512, 400))

    near = written(item(paths[1]), tmp_path, large)["neighbours"]
    with Image.open(tmp_path / near[0]["file"]) as image:
        assert (image.format, image.size) == ("WEBP", (200, 256))
        assert not image.info.get("exif")

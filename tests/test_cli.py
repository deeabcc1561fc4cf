"""The program as a user meets it: arguments in, files and an exit status out."""

import csv
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from importlib.metadata import entry_points, version
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from PIL import Image

import cfgen
from cfgen import DIRECTIONS, Counterfactual, Flip, Problem, checkpoints, load_checkpoint
from cfgen.cli import main, parser
from cfgen.cli.terminal import table
from cfgen.data import read_image, read_mask
from cfgen.data.raster import MAX_PIXELS
from cfgen.engine import where
from cfgen.engine.where import accelerator_of

ROOT = Path(__file__).parents[1]
CONTRACT = (
    "file label source target status lam lam_lower latent_l2 prob_before prob_after lpips l1 ssim "
    "plausibility evals seconds direction seed"
).split()
NEEDS_IMAGES = "expected --images with --labels, --split, --dicom or --region, got none"
checkpoint_folder = tiny.checkpoint_folder
images = tiny.images


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(str(checkpoint_folder))


@pytest.fixture(scope="module")
def run(checkpoint_folder):
    """Run the program in this process; returns its exit status."""

    def run(*argv):
        AcceleratorState._reset_state(reset_partial_state=True)
        options = {"--checkpoint": checkpoint_folder, "--device": "cpu", "--sweep": 0}
        options["--direction"] = "minimal_norm"
        for name, value in options.items():
            if name not in argv:
                argv += (name, value)
        return main([str(a) for a in argv])

    return run


@pytest.fixture(scope="module")
def out(run, images, tmp_path_factory):
    """The run folder of all images, with the default settings and a short sweep."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run("--images", images, "--out", out, "--sweep", 3) == 0
    return out


def rows_of(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def but_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def replayed(checkpoint, out, row, **settings):
    """The saved case of a row with its models."""
    saved = Counterfactual.load(out / "cases" / row["case"] / "case.npz")
    criterion = Flip(saved.target)
    problem = Problem(checkpoint.generator, checkpoint.classifier, criterion, saved.x, **settings)
    return saved.attach(problem)


def class_of(checkpoint, path):
    """What the classifier says of a picture, and how sure it is of each class."""
    with torch.no_grad():
        p = checkpoint.classifier(read_image(path, channels=1)[None]).softmax(1)[0]
    return checkpoint.classifier.classes[p.argmax()], p.tolist()


def test_a_run_leaves_behind_what_is_promised(out, checkpoint):
    rows = rows_of(out)
    assert set(CONTRACT) <= set(rows[0])
    assert [row["file"] for row in rows] == [
        "one.png",
        "b/two.png",
        "b/three.npy",
        "b/tall.png",
        "five.tif",
    ]
    assert [row["label"] for row in rows] == ["dark", "bright", "dark", "bright", ""]
    assert {row["direction"] for row in rows} == {"minimal_norm"}
    assert {row["seed"] for row in rows} == {"0"}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "http://" not in page and "https://" not in page
    assert sorted(p.name for p in (out / "cases").iterdir()) == sorted(row["case"] for row in rows)
    for row in rows:
        folder = out / "cases" / row["case"]
        for name in ("x.png", "x_cf.png", "difference.png"):
            with Image.open(folder / name) as picture:
                assert picture.size == (32, 32)
        for name in ("thumb.webp", "case.js"):
            assert (folder / name).is_file()
        assert f"cases/{row['case']}/thumb.webp" in page
        assert f'"{row["case"]}"' in page  # the page brings its case.js by this name
        with np.load(folder / "case.npz", allow_pickle=False) as case:
            for name in ("x", "x_rec", "x_cf"):
                assert case[name].dtype == np.float32
                assert case[name].shape == (1, 32, 32)
                assert case[name].min() >= 0 and case[name].max() <= 1
        with Image.open(folder / "x_cf.png") as picture:
            assert picture.info == {"Comment": "synthetic counterfactual, not for diagnosis"}


def test_run_json_says_what_was_done_with_what(out, images, checkpoint, checkpoint_folder):
    said = json.loads((out / "run.json").read_text())
    assert said["settings"] == {
        "target": None,
        "direction": "minimal_norm",
        "detail": True,
        "confidence": None,
        "batch_size": 4,
        "sweep": 3,
        "seed": 0,
        "diverse": 1,
        "region": None,
        "region_margin": 0,
        "hold": [],
        "keep": "all",
    }
    assert said["arguments"] == {
        "split": None,
        "limit": None,
        "stretch": False,
        "window": None,
        "axis": "axial",
        "slices": None,
        "volume": None,
        "max_pixels": 100_000_000,
        "dicom": False,
        "keep_ids": False,
        "target": None,
        "direction": "minimal_norm",
        "diverse": 1,
        "region": None,
        "region_margin": 0,
        "hold": None,
        "detail": "keep",
        "confidence": None,
        "lpips": "st-alex",
        "seed": 0,
        "device": "cpu",
        "precision": "no",
        "batch_size": "auto",
        "sweep": 3,
        "single_file": False,
        "fresh": False,
        "keep": "all",
        "on": "here",
        "actors": None,
    }
    assert said["checkpoint"] == {"name": "tiny", "sha256": checkpoint.hashes}
    assert said["lpips"]["trunk"] == "st-alex"
    assert re.fullmatch("[0-9a-f]{64}", said["lpips"]["sha256"])
    assert said["versions"]["torch"] == version("torch")
    assert said["versions"]["cfgen"] == cfgen.__version__
    assert said["versions"]["python"] == platform.python_version()
    assert (said["device"], said["precision"], said["processes"]) == ("cpu", "no", 1)
    assert sum(said["statuses"].values()) == 5
    assert said["synthetic"] is False


def test_the_written_picture_is_the_one_that_was_classified(out, checkpoint):
    rows = rows_of(out)
    assert [row["status"] for row in rows].count("FLIPPED") >= 4
    for row in rows:
        folder = out / "cases" / row["case"]
        with np.load(folder / "case.npz", allow_pickle=False) as case:
            for name in ("x", "x_cf"):
                assert torch.equal(
                    read_image(folder / f"{name}.png", channels=1), torch.from_numpy(case[name])
                )
        assert class_of(checkpoint, folder / "x.png")[0] == row["source"]
        shown, p = class_of(checkpoint, folder / "x_cf.png")
        assert (shown == row["target"]) == (row["status"] == "FLIPPED")
        if row["status"] == "FLIPPED":
            p = p[checkpoint.classifier.index(row["target"])]
            assert p == pytest.approx(float(row["prob_after"]), abs=1e-5)


def test_a_saved_case_replays_bit_by_bit(out, checkpoint):
    for row in rows_of(out):
        cf = replayed(checkpoint, out, row)
        assert cf.status[0].name == row["status"]
        assert torch.equal(cf.redecode(), cf.x_cf)
        assert torch.equal(
            cf.redecode()[0],
            read_image(out / "cases" / row["case"] / "x_cf.png", channels=1),
        )


def test_a_sweep_is_written_for_the_slider(out, checkpoint):
    for row in rows_of(out):
        folder = out / "cases" / row["case"]
        assert (folder / "sweep.json").is_file() == (row["status"] == "FLIPPED")
        if row["status"] != "FLIPPED":
            continue
        sweep = json.loads((folder / "sweep.json").read_text())
        assert sweep["flip"] == pytest.approx(float(row["lam"]), rel=1e-5)
        assert sweep["lam"] == pytest.approx([0, 0.75 * sweep["flip"], 1.5 * sweep["flip"]])
        target = checkpoint.classifier.index(row["target"])
        for i, p in enumerate(sweep["prob_target"]):
            shown = class_of(checkpoint, folder / "sweep" / f"{i:02d}.png")[1]
            assert shown[target] == pytest.approx(p, abs=1e-5)
            assert sweep["met"][i] is (p > 0.5)  # of two classes
        assert len(list((folder / "sweep").iterdir())) == 3


def test_the_user_sees_a_bar_a_table_and_where_the_page_is(run, images, tmp_path, capfd):
    assert run("--images", images, "--limit", 2, "--out", tmp_path / "out") == 0
    shown = capfd.readouterr()
    assert "2/2" in shown.err and "image" in shown.err
    lines = shown.out.splitlines()
    assert lines[-1] == f"Open {tmp_path / 'out' / 'index.html'}"
    assert len(lines) == 1 + 2 + 1 + 1  # head, images, statuses, page
    assert lines[0].split()[:2] == ["image", "source"]
    assert [line.split()[0] for line in lines[1:3]] == ["one", "two"]


@pytest.mark.parametrize(
    ("before", "agrees", "told"),
    [(0.4, 1, "agrees"), (0.6, 1, "did before"), (0.6, 0, "differs"), ("", "", "-")],
)
def test_the_oracle_agrees_only_with_what_it_did_not_say_before(before, agrees, told):
    row = dict.fromkeys(("case", "source", "target", "status", "dicom_flips"), "")
    row |= dict.fromkeys(("lam", "prob_before", "prob_after", "lpips"), 0.5)
    line = table([row | {"oracle_before": before, "oracle_agrees": agrees}]).splitlines()[1]
    assert line.endswith(f"0.500 {told:>10}")


def test_files_that_cannot_be_read_do_not_stop_the_others(run, images, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    good = (images / "one.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "fine.png").write_bytes(good)
    shutil.copy(images / "b" / "three.npy", folder / "grey.npy")
    np.save(folder / "nan.npy", np.full((32, 32), np.nan, dtype=np.float32))
    np.save(folder / "none.npy", np.zeros((0, 0), dtype=np.uint8))
    (folder / "text.png").write_text("this is no image")
    (folder / "torn.png").write_bytes(good[: len(good) // 2])
    out = tmp_path / "out"
    assert run("--images", folder, "--out", out) == 1
    rows = rows_of(out)
    assert {row["file"]: row["message"] for row in rows if row["status"] == "UNREADABLE"} == {
        "empty.png": "file is empty",
        "nan.npy": "expected finite pixels, found NaN",
        "none.npy": "expected an image with pixels, got 0 x 0",
        "text.png": "not an image",
        "torn.png": "truncated",
    }
    assert {row["file"]: row["status"] for row in rows if row["message"] == ""} == {
        "fine.png": "FLIPPED",
        "grey.npy": "FLIPPED",
    }
    assert sorted(p.name for p in (out / "cases").iterdir()) == ["fine", "grey"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(row["file"] in page for row in rows)
    assert json.loads((out / "run.json").read_text())["statuses"] == {"UNREADABLE": 5, "FLIPPED": 2}


def test_no_file_can_be_read(run, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "empty.png").write_bytes(b"")
    assert run("--images", tmp_path / "scans", "--out", tmp_path / "out") == 1
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["UNREADABLE"]
    assert (tmp_path / "out" / "index.html").is_file()


def test_split_and_limit_choose_rows(run, images, out, tmp_path):
    assert run("--images", images, "--split", "test", "--limit", 2, "--out", tmp_path / "o") == 0
    rows = rows_of(tmp_path / "o")
    assert [row["file"] for row in rows] == ["b/two.png", "b/three.npy"]
    assert [row["status"] for row in rows] == [row["status"] for row in rows_of(out)[1:3]]


def test_labels_may_lie_elsewhere(run, images, tmp_path):
    labels = tmp_path / "mine.csv"
    labels.write_text("file,label\nfive.tif,bright\n")
    assert run("--images", images, "--labels", labels, "--out", tmp_path / "out") == 0
    assert [(row["file"], row["label"]) for row in rows_of(tmp_path / "out")] == [
        ("five.tif", "bright")
    ]


def test_an_image_of_the_target_class_stays_as_it_is(run, images, out, tmp_path):
    assert run("--images", images, "--target", "bright", "--out", tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert {row["source"] for row in rows} == {"dark", "bright"}
    for row, free in zip(rows, rows_of(out), strict=True):
        assert (row["source"], row["target"]) == (free["source"], "bright")
        folder = tmp_path / "out" / "cases" / row["case"]
        if row["source"] == "dark":
            assert row["status"] == free["status"]
            continue
        assert (row["status"], float(row["lam"])) == ("ALREADY", 0)
        assert row["message"] == (
            "The image meets the criterion without a change; ask for the other class."
        )
        x, x_cf = (read_image(folder / f"{n}.png", channels=1) for n in ("x", "x_cf"))
        assert torch.equal(x, x_cf)


def test_confidence_is_reached_on_the_written_picture(run, images, checkpoint, tmp_path):
    out = tmp_path / "out"
    assert run("--images", images, "--confidence", 0.9, "--out", out) == 0
    flipped = [row for row in rows_of(out) if row["status"] == "FLIPPED"]
    assert len(flipped) >= 3
    for row in flipped:
        assert float(row["prob_after"]) >= 0.9
        shown, p = class_of(checkpoint, out / "cases" / row["case"] / "x_cf.png")
        assert shown == row["target"] and max(p) >= 0.9


def test_dropped_detail_leaves_what_the_pair_makes(run, images, checkpoint, tmp_path):
    out = tmp_path / "out"
    assert run("--images", images, "--detail", "drop", "--out", out) == 0
    rows = rows_of(out)
    moved = [row for row in rows if row["status"] in ("FLIPPED", "RECONSTRUCTION_FLIPS")]
    assert moved
    for row in moved:
        cf = replayed(checkpoint, out, row, detail=False)
        assert torch.equal(cf.redecode(), cf.x_cf)
        assert torch.equal(cf.x_cf, cf.x_rec) == (row["status"] == "RECONSTRUCTION_FLIPS")
        assert class_of(checkpoint, out / "cases" / row["case"] / "x_cf.png")[0] == row["target"]


def test_the_gradient_is_another_direction(run, images, out, tmp_path):
    assert run("--images", images, "--direction", "gradient", "--out", tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert {row["direction"] for row in rows} == {"gradient"}
    flipped = [
        (float(row["lam"]), float(other["lam"]))
        for row, other in zip(rows, rows_of(out), strict=True)
        if row["status"] == other["status"] == "FLIPPED"
    ]
    assert len(flipped) >= 3
    # The chord is the shorter way, and the search costs the gradient a single backward pass
    # (each to the search's tolerance of half a percent, and a ray may stop 2 % before the nearest).
    assert all(smallest <= gradient * 1.005 / 0.98 for gradient, smallest in flipped)
    assert sum(gradient for gradient, _ in flipped) > sum(smallest for _, smallest in flipped)
    assert {row["backward"] for row in rows} == {"1"}


def test_a_picture_of_another_shape_is_padded_or_stretched(run, images, out, tmp_path):
    assert run("--images", images, "--stretch", "--out", tmp_path / "out") == 0
    tall = images / "b" / "tall.png"
    for folder, keep in ((out, True), (tmp_path / "out", False)):
        seen = read_image(folder / "cases" / "tall" / "x.png", channels=1)
        wanted = read_image(tall, channels=1, size=(32, 32), keep_aspect=keep)
        assert torch.equal(seen, (wanted * 255).round() / 255)


def test_a_mask_is_padded_or_stretched_as_its_image_is(run, images, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(images / "b" / "tall.png", folder / "tall.png")
    pixels = np.zeros((48, 32), np.uint8)
    pixels[:20, 12:20] = 255
    Image.fromarray(pixels).save(folder / "mask.png")
    (folder / "labels.csv").write_text("file,mask\ntall.png,mask.png\n")
    for keep, more in ((True, ()), (False, ("--stretch",))):
        assert run("--images", folder, "--out", tmp_path / str(keep), *more) == 0
        seen = read_image(tmp_path / str(keep) / "cases" / "tall" / "mask.png", channels=1)[0]
        assert torch.equal(seen > 0, read_mask(folder / "mask.png", (32, 32), keep_aspect=keep))
    assert not torch.equal(seen > 0, read_mask(folder / "mask.png", (32, 32)))


def test_names_that_no_one_can_print(run, images, tmp_path, monkeypatch):
    """No UTF-8, too long with its folder, or not on this terminal: the run and its page go on."""
    folder, long = tmp_path / "in", "x" * 200
    data = (images / "one.png").read_bytes()
    for name in (
        b"f\xfcr.png",
        "左.png".encode(),
        f"a/{long}.png".encode(),
        f"b/{long}.png".encode(),
    ):
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    assert run("--images", folder, "--out", tmp_path / "out") == 0
    sys.stdout.flush()
    said = screen.getvalue().decode("ascii")
    assert "\nf_r  " in said and "\n\\u5de6  " in said
    rows = rows_of(tmp_path / "out")
    assert sorted(row["file"] for row in rows) == sorted(
        [f"a/{long}.png", f"b/{long}.png", "f\\xfcr.png", "左.png"]
    )
    for row in rows:
        assert (tmp_path / "out" / "cases" / row["case"] / "x_cf.png").is_file()
    assert "f\\\\xfcr.png" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_limit_on_pixels(run, images, tmp_path):
    assert parser()[0].parse_args(["explain"]).max_pixels == MAX_PIXELS
    assert run("--images", images, "--max-pixels", 32 * 32, "--out", tmp_path / "out") == 1
    unreadable = [row for row in rows_of(tmp_path / "out") if row["status"] == "UNREADABLE"]
    assert [(row["case"], row["message"]) for row in unreadable] == [
        ("tall", "expected at most 1024 pixels (--max-pixels), got 48 x 32")
    ]


def test_no_sweep_is_written_where_none_is_asked_for(run, images, tmp_path):
    assert run("--images", images, "--limit", 1, "--sweep", 0, "--out", tmp_path / "out") == 0
    (folder,) = (tmp_path / "out" / "cases").iterdir()
    names = ["case.js", "case.npz", "difference.png", "thumb.webp", "x.png", "x_cf.png"]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_masks_go_along_and_the_page_may_be_one_file(run, images, tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[3:9, 5:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    labels = tmp_path / "masks.csv"
    labels.write_text(f"file,mask\none.png,{tmp_path / 'm.png'}\n")
    out = tmp_path / "out"
    options = ("--sweep", 0, "--single-file", "--out", out)
    assert run("--images", images, "--labels", labels, *options) == 0
    names = ["case.npz", "difference.png", "mask.png", "x.png", "x_cf.png"]
    assert sorted(p.name for p in (out / "cases" / "one").iterdir()) == names
    with Image.open(out / "cases" / "one" / "mask.png") as written:
        assert np.array_equal(np.array(written), mask)
    for name in ("index.html", "run.json", "results.csv"):
        assert str(tmp_path) not in (out / name).read_text(encoding="utf-8")


def test_a_seed_is_a_set_of_patients(run, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run("--limit", 3, "--seed", seed, "--out", tmp_path / name) == 0
    a, b, c = (tmp_path / name for name in "abc")
    assert but_seconds(rows_of(a)) == but_seconds(rows_of(b))
    assert [row["label"] for row in rows_of(c)] == ["dark", "bright", "dark"]
    assert {row["seed"] for row in rows_of(c)} == {"4"}
    for row in rows_of(a):
        x, again, other = (f / "cases" / row["case"] / "x.png" for f in (a, b, c))
        assert x.read_bytes() == again.read_bytes() != other.read_bytes()
    assert json.loads((a / "run.json").read_text())["synthetic"] is True


WRONG = [
    (
        "--checkpoint nowhere",
        "expected a checkpoint folder or one of brain-a, brain-b, got 'nowhere'",
    ),
    ("--target cat", "expected a class of dark, bright, got 'cat'"),
    ("--images {images} --split tset", "expected a split of train, test, got 'tset'"),
    (
        "--images {images} --labels {labels} --split test",
        "expected column 'split' in mine.csv, got columns file, label",
    ),
    (
        "--images {images} --labels {images}/none.csv",
        "expected a labels file at '{images}/none.csv', got none",
    ),
    (
        "--images {empty} --split test",
        "expected a labels.csv in '{empty}' for split 'test', got none",
    ),
    (
        "--images {empty}",
        "expected image files (.png .jpg .jpeg .tif .tiff .bmp .npy .dcm .dicom .ima .nii "
        ".nii.gz) in '{empty}', got none",
    ),
    ("--images {empty}/no", "expected a folder of images at '{empty}/no', got no such folder"),
    (
        "--direction up",
        f"expected a direction of {', '.join(DIRECTIONS)}, got 'up'",
    ),
    ("--labels {labels}", NEEDS_IMAGES),
    ("--split test", NEEDS_IMAGES),
    ("--confidence 1.5", "expected a confidence between 0 and 1, got 1.5"),
    ("--limit 0", "expected a limit of at least 1, got 0"),
    ("--sweep 1", "expected a sweep of 0 or of 2 and more images, got 1"),
    ("--batch-size many", "expected a batch size of auto or a number, got 'many'"),
    ("--batch-size 0", "expected a batch size of 1 or more, got 0"),
    ("--device cuda", "expected a device of cpu, auto, got 'cuda'"),
    ("--out {mine}", "expected an empty folder or a former run for the output, got '{mine}'"),
    (
        "--out {mine}/file.txt",
        "expected a folder for the output, got the file '{mine}/file.txt'",
    ),
    (
        "--lpips vgg",
        "expected vgg16-397923af.pth in {empty}/checkpoints, got none "
        "(download=True fetches it, LPIPS('st-alex') works offline)",
    ),
    ("--limit two", "argument --limit: invalid int value: 'two'"),
    ("--detail some", "argument --detail: invalid choice: 'some' (choose from keep, drop)"),
    ("--device tpu", "argument --device: invalid choice: 'tpu' (choose from auto, cpu, cuda, mps)"),
    ("--colour red", "unrecognized arguments: --colour red"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=[argv for argv, _ in WRONG])
def test_wrong_usage_is_one_line_that_names_what_exists(
    argv, message, run, images, tmp_path, monkeypatch, capfd
):
    for name in ("brain-a", "brain-b"):
        (tmp_path / "roots" / name).mkdir(parents=True)
        (tmp_path / "roots" / name / "config.json").write_text("{}")
    monkeypatch.setattr(checkpoints, "ROOTS", (tmp_path / "roots",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("mine")
    (tmp_path / "mine.csv").write_text("file,label\none.png,dark\n")
    places = {
        "images": images,
        "labels": tmp_path / "mine.csv",
        "empty": tmp_path / "empty",
        "mine": tmp_path / "mine",
    }
    arguments = argv.format(**places).split(" ")
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    said = shown.err
    if "invalid choice" in said:  # Python 3.12 and later leave out the quotes of the choices
        said = re.sub(r"\(.*\)", lambda m: m[0].replace("'", ""), said)
    assert said == f"cfgen: error: {message.format(**places)}\n"
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "mine" / "file.txt").read_text() == "mine"


@pytest.mark.parametrize("gpu", [True, False])
def test_processes_on_a_cpu_know_that_it_is_one(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(where, "Accelerator", lambda **options: options)
    assert accelerator_of("auto", "bf16") == {"cpu": not gpu, "mixed_precision": "bf16"}
    assert accelerator_of("cpu", "no") == {"cpu": True, "mixed_precision": "no"}


def test_a_checkpoint_without_a_prior_needs_images(run, checkpoint_folder, images, tmp_path, capfd):
    copy = tmp_path / "no-prior"
    shutil.copytree(checkpoint_folder, copy)
    config = json.loads((copy / "config.json").read_text())
    del config["prior"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stop:
        run("--checkpoint", copy, "--out", tmp_path / "out")
    assert stop.value.code == 2
    expected = "cfgen: error: expected --images: checkpoint 'no-prior' has no prior\n"
    assert capfd.readouterr().err == expected
    argv = ("--checkpoint", copy, "--images", images, "--limit", 1, "--out", tmp_path / "out")
    assert run(*argv) == 0


def test_the_program_has_three_names(monkeypatch):
    helps = {}
    for name, path in (
        ("run_cf.py", "run_cf.py"),
        ("cfgen", "/usr/local/bin/cfgen"),
        ("module", str(ROOT / "cfgen" / "__main__.py")),
    ):
        monkeypatch.setattr(sys, "argv", [path])
        helps[name] = parser()[1]["explain"].format_help()
    assert helps["cfgen"] == helps["module"]
    # The name's length moves the line breaks of the usage.
    first, second = (" ".join(helps[name].split()) for name in ("run_cf.py", "cfgen"))
    assert first.replace("run_cf.py", "cfgen") == second.replace("run_cf.py", "cfgen")
    assert "usage: run_cf.py [-h] [--images FOLDER]" in helps["run_cf.py"]
    for script in entry_points(group="console_scripts", name="cfgen"):
        assert script.load() is main


def process(*command, cwd):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_run_cf_py_needs_no_arguments_but_these(run, checkpoint_folder, tmp_path):
    done = process(
        ROOT / "run_cf.py", "--checkpoint", checkpoint_folder, "--out", "mine", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Open {Path('mine') / 'index.html'}"
    assert "8/8" in done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    rows = rows_of(tmp_path / "mine")
    assert len(rows) == 8
    assert [row["status"] for row in rows].count("FLIPPED") >= 6
    assert {row["direction"] for row in rows} == {"guided"}
    assert run("--out", tmp_path / "again", "--sweep", 11, "--direction", "guided") == 0
    assert but_seconds(rows_of(tmp_path / "again")) == but_seconds(rows)


@pytest.mark.parametrize("said, expected", [(None, "passive"), ("active", "active")])
def test_threads_wait_without_spinning_unless_the_environment_says_so(said, expected, monkeypatch):
    """Before torch is there, for OpenMP reads it once."""
    if said is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", said)
    code = (
        "import builtins, os, sys\n"
        "load = builtins.__import__\n"
        "def seen(name, *a, **k):\n"
        "    if name == 'torch':\n"
        "        sys.exit(os.environ.get('OMP_WAIT_POLICY'))\n"
        "    return load(name, *a, **k)\n"
        "builtins.__import__ = seen\n"
        "import cfgen\n"
    )
    assert process("-c", code, cwd=ROOT).stderr.strip() == expected


@pytest.mark.slow
def test_the_module_is_the_program(tmp_path, monkeypatch):
    done = process("-m", "cfgen", "--help", cwd=tmp_path)
    monkeypatch.setattr(sys, "argv", ["cfgen"])
    monkeypatch.setenv("COLUMNS", "80")
    assert (done.returncode, done.stdout, done.stderr) == (0, parser()[0].format_help(), "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [5, 1])
def test_two_processes_write_the_rows_of_one(number, run, images, checkpoint_folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = f"--multi_gpu --num_processes 2 --num_machines 1 --main_process_port {port}"
    launch += " --mixed_precision no --dynamo_backend no"
    arguments = ["--images", images, "--limit", number, "--batch-size", 2, "--device", "cpu"]
    arguments += ["--sweep", 0, "--direction", "guided"]
    done = process(
        *("-m", "accelerate.commands.launch", *launch.split(), ROOT / "run_cf.py", *arguments),
        *("--checkpoint", checkpoint_folder, "--out", "two"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Open {Path('two') / 'index.html'}"
    assert done.stdout.count("Open ") == 1
    assert run(*arguments, "--out", tmp_path / "one") == 0
    assert but_seconds(rows_of(tmp_path / "two")) == but_seconds(rows_of(tmp_path / "one"))
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    for row in rows_of(tmp_path / "one"):
        for name in ("x.png", "x_cf.png", "difference.png"):
            one, two = (tmp_path / n / "cases" / row["case"] / name for n in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("value", ["-600,1500", "-.5,1", "40,400"])
@pytest.mark.parametrize("command", ["explain", None])
def test_a_value_may_begin_with_a_minus(value, command, monkeypatch):
    argv = ["explain", "--window", value, "--dicom", "--limit", "-3", "--split", "-1,a"]
    asked = []
    monkeypatch.setattr("cfgen.cli.explain.run", lambda args: asked.append(args) or 0)
    assert main(argv if command else argv[1:]) == 0
    assert (asked[0].window, asked[0].limit, asked[0].split) == (value, -3, "-1,a")
    assert asked[0].dicom is True


@pytest.mark.parametrize("argv", ["--window --dicom", "--window -x,1", "--window"])
def test_an_option_is_no_value(argv, capsys):
    with pytest.raises(SystemExit):
        main(argv.split())
    assert capsys.readouterr().err.endswith("error: argument --window: expected one argument\n")


def test_a_classifier_whose_flips_would_be_wrong_is_refused_before_the_run(
    run, checkpoint_folder, images, tmp_path, capfd
):
    class Guess(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.dropout(x, 0.5, True).flatten(1)[:, :2]

    copy, out = tmp_path / "guess", tmp_path / "out"
    shutil.copytree(checkpoint_folder, copy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Guess()), str(copy / "classifier" / "model.pt"))
    with pytest.raises(SystemExit) as stop:
        run("--checkpoint", copy, "--images", images, "--out", out)
    assert stop.value.code == 2
    assert capfd.readouterr().err == (
        "cfgen: error: expected a classifier that says the same of the same images, got other "
        "logits in a second call (dropout? save it in eval mode)\n"
    )
    assert not out.exists()


def test_probabilities_in_the_place_of_logits_are_said_in_one_line(
    run, checkpoint_folder, images, tmp_path, capsys
):
    class Sure(torch.nn.Module):
        def forward(self, x):
            score = 5 * (x.mean((1, 2, 3)) - 0.5)
            return torch.stack([-score, score], 1).softmax(1)

    copy, out = tmp_path / "sure", tmp_path / "out"
    shutil.copytree(checkpoint_folder, copy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Sure()), str(copy / "classifier" / "model.pt"))
    assert run("--checkpoint", copy, "--images", images, "--limit", 1, "--out", out) == 0
    line = (
        "classifier: expected logits, got what looks like probabilities (does the classifier end "
        "in a softmax? leave it out, or confidence and probabilities are wrong)"
    )
    assert capsys.readouterr().out.splitlines()[0] == line
    assert json.loads((out / "run.json").read_text())["warnings"] == [line]


def test_a_run_without_a_place_takes_the_next_free_one(run, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = "--images", images, "--limit", 1
    assert run(*asked) == run(*asked) == 0
    told = capsys.readouterr().out
    assert told.count("Open out/index.html") == 2
    assert told.count("Going on: 1 of 1 images are done.") == 1
    assert run(*asked, "--confidence", 0.6) == 0
    assert capsys.readouterr().out.startswith("Another run is in out, so this one goes to out-2.\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out-2"]
    with pytest.raises(SystemExit):
        run(*asked, "--confidence", 0.7, "--out", "out")
    assert "got confidence None there and 0.7 now; --fresh starts over" in capsys.readouterr().err
    assert run(*asked, "--confidence", 0.7, "--fresh") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["confidence"] == 0.7


def test_what_was_skipped_is_said(run, images, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    shutil.copy(images / "one.png", folder)
    (folder / "notes.txt").write_text("no image")
    assert run("--images", folder, "--out", out) == 0
    line = "skipped: 1 not an image"
    assert capsys.readouterr().out.splitlines()[0] == line
    assert json.loads((out / "run.json").read_text())["skipped"] == line


def test_the_page_of_a_finished_run_can_be_written_again(run, out, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    (copy / "index.html").unlink()
    assert main(["gallery", str(copy)]) == 0
    assert capsys.readouterr().out == f"Open {copy / 'index.html'}\n"
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert main(["gallery", str(copy), "--single-file"]) == 0
    assert len((copy / "index.html").read_bytes()) > 2 * len(before[copy / "index.html"])
    with pytest.raises(SystemExit) as stop:
        main(["gallery", str(tmp_path / "none")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"cfgen gallery: error: expected a run folder, got '{tmp_path / 'none'}' "
        "(No such file or directory)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_got_a_signal_goes_on(how, run, images, checkpoint_folder, tmp_path):
    folder, two = tmp_path / "images", tmp_path / "two"
    folder.mkdir()
    for i in range(40):
        shutil.copy(images / "one.png", folder / f"{i:02d}.png")
    asked = ["--images", folder, "--batch-size", 1, "--device", "cpu", "--sweep", 3]
    asked += ["--direction", "minimal_norm", "--checkpoint", checkpoint_folder, "--out", two]
    started = subprocess.Popen(
        [sys.executable, "-m", "cfgen", *map(str, asked)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while started.poll() is None and len([*two.glob("units/*.jsonl")]) < 2:
        time.sleep(0.01)
    started.send_signal(how)
    told, _ = started.communicate()
    done = len([*two.glob("units/*.jsonl")])
    assert 2 <= done < 40
    if how == signal.SIGKILL:
        assert started.returncode == -how and not (two / "results.csv").exists()
        # Table and page of what is there are had without going on.
        assert main(["gallery", str(two)]) == 0
    else:
        assert started.returncode == 130
        last = f"Stopped after {done} of 40 images; the same command goes on."
        assert told.splitlines()[-1] == last
    assert len(rows_of(two)) == done and (two / "index.html").is_file()
    assert run(*asked) == 0
    assert run(*asked[:-1], tmp_path / "one") == 0
    assert but_seconds(rows_of(two)) == but_seconds(rows_of(tmp_path / "one"))
    for row in rows_of(two):
        one, other = (
            {p.relative_to(d): p.read_bytes() for p in sorted(d.rglob("*")) if p.is_file()}
            for d in (tmp_path / n / "cases" / row["case"] for n in ("one", "two"))
        )
        assert one == other

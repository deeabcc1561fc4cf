"""Runs with what clinicians ask for: several ways, a region, findings that must not move."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from scans import write_scan
from torch import nn

from cfgen import Classifier, Counterfactual, load_checkpoint
from cfgen.cli import main
from cfgen.data import ImageFolder, read_image, read_picture
from cfgen.engine import Engine, Settings
from cfgen.engine.constraints import region_of
from cfgen.engine.run_folder import alternative_case
from cfgen.plausibility import LPIPS

checkpoint_folder = tiny.checkpoint_folder
images = tiny.images


@pytest.fixture(scope="module")
def run(checkpoint_folder):
    """Run the program in this process; returns its exit status."""

    def run(*argv):
        AcceleratorState._reset_state(reset_partial_state=True)
        argv += ("--checkpoint", checkpoint_folder, "--device", "cpu")
        argv += ("--direction", "minimal_norm")
        return main([str(a) for a in argv])

    return run


@pytest.fixture(scope="module")
def masked(images, tmp_path_factory):
    """The images with a mask of the middle for two of them, and a file named as an alternative."""
    folder = tmp_path_factory.mktemp("masked") / "images"
    shutil.copytree(images, folder)
    shutil.copy(folder / "one.png", folder / "one-2.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[10:22, 12:20] = 255
    Image.fromarray(mask).save(folder / "m.png")
    Image.fromarray(0 * mask).save(folder / "none.png")
    (folder / "labels.csv").write_text(
        "file,label,mask\none.png,dark,m.png\none-2.png,dark,m.png\nb/two.png,bright,\n"
        "five.tif,,none.png\nb/three.npy,dark,gone.png\n"
    )
    return folder, torch.from_numpy(mask > 0)


def rows_of(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_several_counterfactuals_are_rows_and_cases_of_their_own(run, masked, tmp_path):
    folder, _ = masked
    out = tmp_path / "out"
    argv = ("--images", folder, "--limit", 2, "--sweep", 3, "--batch-size", 1)
    assert run(*argv, "--diverse", 3, "--out", out) == 0
    rows = rows_of(out)
    assert [(row["case"], row["alternative"]) for row in rows] == [
        ("one", "1"),
        ("one-2_", "2"),
        ("one-3", "3"),
        ("one-2", "1"),
        ("one-2-2", "2"),
        ("one-2-3", "3"),
    ]
    assert [row["file"] for row in rows] == ["one.png"] * 3 + ["one-2.png"] * 3
    cases = [Counterfactual.load(out / "cases" / row["case"] / "case.npz") for row in rows[:3]]
    for row, cf in zip(rows, cases, strict=False):
        assert cf.status[0].name == row["status"]
        assert (out / "cases" / row["case"] / "sweep.json").is_file() == bool(cf.flipped)
        if bool(cf.flipped):
            assert float(cf.logits_after[0].argmax()) == int(cf.target)
    assert bool(cases[0].flipped) and bool(cases[1].flipped)
    alpha = torch.cat([cf.alpha.flatten(1) for cf in cases])
    assert (alpha @ alpha.T - torch.diag(alpha.square().sum(1))).abs().max() < 1e-3
    page = (out / "index.html").read_text(encoding="utf-8")
    for place in ("1 of 3", "2 of 3", "3 of 3"):
        assert page.count(f'<span class="place">{place}</span>') == 2
    assert re.search(r'id="found"[^>]*>2 images<', page)
    # The first is the one that a plain run finds.
    assert run(*argv, "--out", tmp_path / "plain") == 0
    plain = rows_of(tmp_path / "plain")
    run_wide = {"seconds": "", "plausibility_q": ""}  # a rate of false discoveries is of a run
    for row, first in zip(plain, (rows[0], rows[3]), strict=True):
        assert row | run_wide == first | run_wide
    assert '<span class="place">' not in (tmp_path / "plain" / "index.html").read_text()


@pytest.mark.parametrize("where, margin", [("lesion", 0), ("lesion", 3), ("outside", 2)])
def test_what_is_outside_the_region_stays_bit_for_bit(where, margin, run, masked, tmp_path):
    folder, mask = masked
    out, options = tmp_path / "out", ("--region", where, "--region-margin", margin, "--sweep", 0)
    assert run("--images", folder, "--out", out, *options) == 0
    rows = rows_of(out)
    grown = torch.zeros_like(mask)
    for y, x in mask.nonzero().tolist():
        grown[y - margin : y + margin + 1, x - margin : x + margin + 1] = True
    free = grown if where == "lesion" else ~grown
    assert [row["status"] for row in rows[:2]] == ["FLIPPED"] * 2
    for row in rows:
        x, x_cf = (
            read_image(out / "cases" / row["case"] / f"{name}.png", channels=1)[0]
            for name in ("x", "x_cf")
        )
        if row in rows[:2]:
            assert torch.equal(x[~free], x_cf[~free]) and not torch.equal(x[free], x_cf[free])
        else:
            assert torch.equal(x, x_cf)
            assert row["status"] in ("NO_DIRECTION", "ALREADY")
    ends = [f"With --region nothing may change: the mask is {s}." for s in ("missing", "empty")]
    assert [row["message"].endswith(end) for row, end in zip(rows[2:4], ends, strict=True)] == [
        True,
        True,
    ]
    assert "The mask could not be read: " in rows[4]["message"]
    assert rows[4]["message"].endswith("With --region nothing may change: the mask is unreadable.")
    page = (out / "index.html").read_text(encoding="utf-8")
    told = "the outlined lesion" + (f" and {margin} pixels around it" if margin else "")
    assert f"<dd>{told if where == 'lesion' else 'what is outside ' + told}</dd>" in page


def test_the_margin_is_of_pixels_and_everything_else_is_outside():
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[0, 1] = True
    grown = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]] + [[0] * 6] * 3).float()[None]
    assert torch.equal(region_of(mask, "lesion"), mask[None].float())
    assert torch.equal(region_of(mask, "lesion", 1), grown)
    assert torch.equal(region_of(mask, "outside", 1), 1 - grown)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--region", "lesion"), "expected masks in labels.csv with --region, got none"),
        (("--hold", "dark"), "expected a multilabel classifier to hold findings, got softmax"),
        (("--diverse", 0), "expected 1 diverse counterfactual or more, got 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message, run, images, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--images", images, "--out", tmp_path / "out", *options)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().endswith(f"error: {message}")


def test_a_region_needs_images(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "out", "--region", "lesion")
    message = "expected --images with --labels, --split, --dicom or --region, got none"
    assert capsys.readouterr().err.strip().endswith(f"error: {message}")


class Halves(nn.Module):
    """Two findings: how bright the middle is, and how bright the upper part of it is."""

    def forward(self, x):
        middle = x[:, :, 8:24, 8:24].mean((1, 2, 3))
        upper = x[:, :, 8:16, 8:24].mean((1, 2, 3))
        return 50 * torch.stack([middle, upper], 1)


def test_a_finding_that_is_held_does_not_move(checkpoint_folder, images, tmp_path):
    checkpoint = load_checkpoint(str(checkpoint_folder))
    mean = float(checkpoint.classifier.mean)
    f = Classifier(Halves(), ["bright", "upper"], mean=mean, channels=1, head="multilabel")
    checkpoint = replace(checkpoint, classifier=f, calibration={})
    accelerator, lpips = Accelerator(cpu=True), LPIPS()

    def load(item):
        return read_picture(item, channels=1, size=(32, 32))

    def reaches(p, q, target, held):
        """Whether what was asked is reached by the probabilities q, p before."""
        sure = q[0] > 0.9 if target == "bright" else q[0] < 0.1
        return bool(sure and (not held or (p - q)[1].abs() < 0.1))

    broken = []  # steps of sweeps that are sure enough, but move what is held

    def rows(name, items, **more):
        engine = Engine(checkpoint, Settings(sweep=3, confidence=0.9, **more), accelerator, lpips)
        found = engine.run(items, load, tmp_path / name)
        move = []
        for row in found:
            x, x_cf = (
                read_image(tmp_path / name / "cases" / row["case"] / f"{p}.png", channels=1)[None]
                for p in ("x", "x_cf")
            )
            p, q = f.probabilities(x)[0], f.probabilities(x_cf)[0]
            if row["status"] == "FLIPPED":
                assert reaches(p, q, row["target"], "hold" in more)
                assert row["prob_after"] == pytest.approx(max(float(q[0]), 1 - float(q[0])))
                folder = tmp_path / name / "cases" / row["case"]
                sweep = json.loads((folder / "sweep.json").read_text())
                steps = zip(sweep["met"], sweep["prob_target"], strict=True)
                for i, (met, sure) in enumerate(steps):
                    step = read_image(folder / f"sweep/{i:02d}.png", channels=1)[None]
                    now = f.probabilities(step)[0]
                    assert met is reaches(p, now, row["target"], "hold" in more)
                    broken.append(sure > 0.9 and not met)
            move.append(float((p - q)[1].abs()))
        return found, move

    items = list(ImageFolder(images))
    for target in ("bright", "no bright"):
        free, moved = rows(f"{target} free", items, target=target)
        held, kept = rows(f"{target} held", items, target=target, hold=("upper",))
        both = [r["status"] == s["status"] == "FLIPPED" for r, s in zip(free, held, strict=True)]
        assert any(both) and any(m > 0.1 for m in moved)
        assert max(kept) < 0.1
        for row, other, flips in zip(free, held, both, strict=True):
            if flips:  # less is allowed, so the way is longer
                assert other["lam"] > 0.99 * row["lam"]
    assert any(broken)
    # The prior's way is confined, too.
    prior = tiny.tiny_prior(classes=("no bright", "bright"))
    known, plain = replace(checkpoint, prior=prior), checkpoint
    checkpoint = known
    found, kept = rows("guided", items, target="bright", hold=("upper",), direction="guided")
    assert [r["status"] for r in found].count("FLIPPED") > 0 and max(kept) < 0.1
    checkpoint = plain
    for hold, direction, message in (
        (("bright",), "minimal_norm", "expected findings other than the target to hold, got 'bri"),
        (("cat",), "minimal_norm", "expected a class of bright, upper, got 'cat'"),
        (("upper",), "guided", "expected a prior of the classes no bright, bright for 'guided'"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            settings = Settings(target="bright", hold=hold, direction=direction)
            Engine(checkpoint, settings, accelerator, lpips)


def test_the_name_of_an_alternative_is_free():
    assert alternative_case("scan", 2, {"scan", "other"}) == "scan-2"
    assert alternative_case("Scan", 2, {"scan", "scan-2", "scan-2_"}) == "Scan-2__"


def test_each_alternative_is_written_in_its_sources_format(
    run, checkpoint_folder, images, tmp_path
):
    levels = (read_image(images / "one.png", channels=1)[0] * 255).round().byte().numpy()
    write_scan(tmp_path / "in" / "a.dcm", levels)
    out, options = tmp_path / "out", ("--dicom", "--diverse", 2, "--sweep", 0)
    assert run("--images", tmp_path / "in", "--out", out, *options) == 0
    rows, f = rows_of(out), load_checkpoint(str(checkpoint_folder)).classifier
    assert [row["case"] for row in rows] == ["case-0001", "case-0001-2"]
    written = []
    for row in rows:
        path = out / "cases" / row["case"] / "x_cf.dcm"
        item = replace(list(ImageFolder(tmp_path / "in"))[0], path=path)
        x = read_picture(item, channels=1, size=(32, 32)).x[None]
        assert (row["status"], row["dicom_flips"]) == ("FLIPPED", "1")
        assert f.classes[int(f((x * 255).round() / 255).argmax())] == row["target"]
        written.append(x)
    assert not torch.equal(*written)

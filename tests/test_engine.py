"""The engine: rows that say what the written files show, whatever the batches and processes."""

import csv
import re
from dataclasses import replace

import pytest
import tiny
import torch
from accelerate import Accelerator

from cfgen import DIRECTIONS, Classifier, load_checkpoint, metrics
from cfgen.data import ImageFolder, Picture, UnreadableImage, read_image, read_picture
from cfgen.data.written import to_image
from cfgen.engine import Engine, Settings
from cfgen.plausibility import LPIPS

checkpoint_folder = tiny.checkpoint_folder
images = tiny.images


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(str(checkpoint_folder))


@pytest.fixture(scope="module")
def make(checkpoint):
    """An engine on the CPU with some settings, and with parts of the checkpoint replaced."""
    lpips, accelerator = LPIPS(), Accelerator(cpu=True)
    return lambda settings=None, **parts: Engine(
        replace(checkpoint, **parts), settings or Settings(sweep=3), accelerator, lpips
    )


@pytest.fixture(scope="module")
def items(images):
    return list(ImageFolder(images))


def load(item):
    return read_picture(item, channels=1, size=(32, 32))


@pytest.fixture(scope="module")
def whole(make, items, tmp_path_factory):
    """A whole run: its folder and its rows."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, list(make().run(items, load, out))


def raises(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def assert_alike(rows, expected):
    """The same rows up to the last bits of the models, which depend on the batch."""
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        # A last bit may cost or save a pass.
        for name in row.keys() - {"seconds", "forward", "backward", "evals", "batch"}:
            wanted = other[name]
            if isinstance(wanted, float):
                wanted = pytest.approx(wanted, rel=1e-2, abs=2e-3, nan_ok=True)
            assert row[name] == wanted, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"direction": "up"},
            f"expected a direction of {', '.join(DIRECTIONS)}, got 'up'",
        ),
        ({"confidence": 1.5}, "expected a confidence between 0 and 1, got 1.5"),
        ({"confidence": 0.0}, "expected a confidence between 0 and 1, got 0.0"),
        ({"batch_size": 0}, "expected a batch size of 1 or more, got 0"),
        ({"sweep": 1}, "expected a sweep of 0 or of 2 and more images, got 1"),
        ({"sweep": -1}, "expected a sweep of 0 or of 2 and more images, got -1"),
        ({"diverse": 0}, "expected 1 diverse counterfactual or more, got 0"),
        (
            {"diverse": 3, "direction": "gradient"},
            "expected a direction other than 'gradient' for diverse counterfactuals (nothing at "
            "right angles to it has a slope), got 3 of 'gradient'",
        ),
        ({"region": "left"}, "expected a region of lesion, outside, got 'left'"),
        (
            {"region": "lesion", "region_margin": -1},
            "expected a region margin of 0 or more, got -1",
        ),
        ({"region_margin": 2}, "expected a region for the region margin, got none"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with raises(message):
        Settings(**settings)


def test_rows_are_what_the_written_pictures_show(make, checkpoint, whole):
    out, rows = whole
    engine, names = make(), checkpoint.classifier.classes
    assert [row["status"] for row in rows].count("FLIPPED") >= 4
    for row in rows:
        x, x_cf = (
            read_image(out / "cases" / row["case"] / f"{name}.png", channels=1)[None]
            for name in ("x", "x_cf")
        )
        target = names.index(row["target"])
        with torch.no_grad():
            before, after = (checkpoint.classifier(i).softmax(1)[0] for i in (x, x_cf))
            judged = checkpoint.oracle(x_cf).softmax(1)[0]
            again = checkpoint.generator.decode(checkpoint.generator.encode(x_cf)).clamp(0, 1)
        assert names[before.argmax()] == row["source"] != row["target"]
        assert row["prob_before"] == pytest.approx(float(before[target]), abs=1e-5)
        assert (row["status"] == "FLIPPED") == (names[after.argmax()] == row["target"])
        assert row["evals"] == row["forward"] + row["backward"]
        if row["status"] != "FLIPPED":
            continue
        assert row["prob_after"] == pytest.approx(float(after[target]), abs=1e-5)
        assert row["prob_after"] > 0.5
        assert 0 <= row["lam_lower"] < row["lam"]
        assert row["latent_l2"] == pytest.approx(row["lam"], rel=1e-4)
        assert row["l1"] == pytest.approx(float(metrics.l1(x, x_cf)), abs=1e-6)
        assert row["ssim"] == pytest.approx(float(metrics.ssim(x, x_cf)), abs=1e-5)
        assert row["lpips"] == pytest.approx(float(engine.lpips(x, x_cf)), abs=1e-5)
        score = float(engine.lpips(x_cf, again))
        stranger = sum(c >= score for c in checkpoint.calibration[row["target"]].tolist())
        assert row["plausibility"] == pytest.approx((1 + stranger) / 20)
        assert row["oracle_after"] == pytest.approx(float(judged[target]), abs=1e-5)
        assert row["oracle_agrees"] == int(judged.argmax() == target)


def test_results_csv_is_the_rows_with_six_digits(whole):
    out, rows = whole
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    for row, cells in zip(rows, written, strict=True):
        assert list(row) == list(cells)
        for name, value in row.items():
            if isinstance(value, float):
                assert cells[name] == ("" if value != value else f"{value:.6g}")
            else:
                assert cells[name] == str(value)


def test_masks_are_written_beside_their_images(make, items, tmp_path):
    def load_mask(item):
        if item is items[1]:
            raise UnreadableImage("no such file")
        return mask if item is items[0] else None

    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:9, 6:20] = True
    out = tmp_path / "out"
    rows = make(Settings(sweep=0)).run(items[:3], load, out, load_mask=load_mask)
    written = read_image(out / "cases" / rows[0]["case"] / "mask.png", channels=1)
    assert torch.equal(written[0] > 0, mask) and set(written.unique().tolist()) == {0.0, 1.0}
    assert [row["status"] for row in rows] == ["FLIPPED"] * 3
    assert [row["message"] for row in rows] == [
        "",
        "The mask could not be read: no such file.",
        "",
    ]
    assert len([*out.rglob("mask.png")]) == 1


def test_a_step_that_was_not_found_has_no_distances(make, items, tmp_path):
    engine = make(Settings(confidence=1 - 1e-7, sweep=3))
    (row,) = engine.run(items[:1], load, tmp_path / "out")
    assert row["status"] == "NOT_FOUND"
    assert row["message"] == (
        "No step up to the limit of the search meets the criterion; try another direction, a "
        "lower confidence or a larger limit."
    )
    for name in "lam latent_l2 prob_after lpips l1 ssim plausibility oracle_after".split():
        assert row[name] != row[name]
    folder = tmp_path / "out" / "cases" / row["case"]
    assert (folder / "x.png").is_file()
    assert not (folder / "sweep").exists()


def test_the_size_of_a_batch_does_not_count(make, items, whole, tmp_path):
    rows = make(Settings(sweep=0, batch_size=2)).run(items, load, tmp_path / "out")
    assert_alike(rows, whole[1])


def test_without_oracle_and_calibration_their_columns_are_empty(make, items, whole, tmp_path):
    engine = make(Settings(sweep=0), oracle=None, calibration={})
    rows = engine.run(items, load, tmp_path / "out")
    for row, other in zip(rows, whole[1], strict=True):
        assert (row["oracle_before"], row["oracle_after"], row["oracle_agrees"]) == ("", "", "")
        assert row["plausibility"] != row["plausibility"]
        assert row["status"] == other["status"]


def test_images_too_small_for_lpips_are_explained_without_it(make, items, tmp_path):
    def small(item):
        return Picture(load(item).x[:, 4:28, 4:28])

    rows = make(Settings(sweep=0)).run(items[:2], small, tmp_path / "o")
    assert [row["lpips"] for row in rows] == ["", ""]
    assert all(row["status"] == "FLIPPED" and row["ssim"] > 0 for row in rows)


@pytest.mark.parametrize("target", ["bright", "no bright"])
def test_findings_that_exclude_nothing_are_explained_one_at_a_time(
    target, make, checkpoint, items, tmp_path
):
    f = checkpoint.classifier
    multilabel = Classifier(f.model, f.classes, mean=float(f.mean), channels=1, head="multilabel")
    engine = make(Settings(target=target, sweep=0), classifier=multilabel)
    for row in engine.run(items[:2], load, tmp_path / "out"):
        assert row["target"] == target
        assert row["source"] in ("bright", "no bright")
        assert row["status"] == ("ALREADY" if row["source"] == target else "FLIPPED")


def test_a_target_that_does_not_exist(make, checkpoint):
    f = checkpoint.classifier
    multilabel = Classifier(f.model, f.classes, channels=1, head="multilabel")
    with raises("expected a class of dark, bright, got 'cat'"):
        make(Settings(target="cat"))
    with raises("expected a class of dark, bright, got 'cat'"):
        make(Settings(target="no cat"), classifier=multilabel)
    with raises("expected a target, '{name}' or 'no {name}', of dark, bright"):
        make(classifier=multilabel)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_keeps_every_level(channels, tmp_path):
    x = (torch.arange(256 * channels).view(channels, 16, 16) % 256) / 255
    to_image(x).save(tmp_path / "x.png")
    assert torch.equal(read_image(tmp_path / "x.png", channels=channels), x)

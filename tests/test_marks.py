"""Sides, scale bar and neighbouring slices of the case page, in a browser."""

import io
import json
import shutil

import numpy as np
import pytest
import test_page
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect
from run_folders import row, write_run
from test_page import SIDE, download, middle, pixels

from cfgen.gallery import write_gallery
from cfgen.result import Status

browser, visit, pytestmark = test_page.browser, test_page.visit, test_page.pytestmark
SIDES = {"left": "R", "right": "L", "top": "A", "bottom": "PL"}


def flat(path, level, kind="PNG"):
    Image.new("L", (SIDE, SIDE), level).save(path, kind)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Black cases: all marks and neighbours, sides only, a bar at the detector, and nothing."""
    rows = [row(k, Status.FLIPPED, case=case) for k, case in enumerate("abcd")]
    out = write_run(tmp_path_factory.mktemp("marks") / "run", rows)
    said = {
        "a": {"mm_per_pixel": [2.0, 2.0], "measured": "", "sides": SIDES},
        "b": {"sides": SIDES},
        "c": {"mm_per_pixel": [0.1, 0.2], "measured": "detector"},
    }
    near = {-2: 40, -1: 80, 1: 160}
    said["a"]["neighbours"] = [{"offset": k, "file": f"neighbours/{k}.webp"} for k in (1, -2, -1)]
    for case in "abcd":
        folder = out / "cases" / case
        for name in ("x", "x_cf"):
            flat(folder / f"{name}.png", 0)
        (folder / "window.json").write_text(json.dumps({"low": 0, "high": 255, "unit": ""}))
        if case in said:
            (folder / "geometry.json").write_text(json.dumps(said[case]))
    (out / "cases" / "a" / "neighbours").mkdir()
    for k, level in near.items():
        flat(out / "cases" / "a" / "neighbours" / f"{k}.webp", level, "WEBP")
    write_gallery(out)
    return out


def bar(image):
    """Length of the bar, as a share of the width of a pane that is black but for it."""
    lower = image[image.shape[0] * 3 // 4 :, : image.shape[1] // 2, 0] > 200
    text = "".join("1" if lit else "0" for line in lower for lit in (*line, False))
    return max(len(run) for run in text.split("0")) / image.shape[1]


def lit(image):
    """At which edges there is a letter."""
    h, w, _ = image.shape
    grey = image[..., 0] > 200
    across, down = slice(w // 2 - 20, w // 2 + 20), slice(h // 2 - 20, h // 2 + 20)
    edges = {
        "left": grey[down, : w // 8],
        "right": grey[down, -w // 8 :],
        "top": grey[: h // 8, across],
        "bottom": grey[-h // 8 :, across],
    }
    return {edge for edge, part in edges.items() if part.any()}


def test_the_bar_follows_the_zoom(visit):
    """64 pixels of 2 mm are 128 mm, of which three tenths hold 2 cm; of a quarter, 5 mm."""
    page = visit("#case-0")
    assert bar(pixels(page, "#pane-x")) == pytest.approx(20 / 128, abs=0.012)
    for _ in range(2):
        page.keyboard.press("+")
    assert bar(pixels(page, "#pane-x")) == pytest.approx(2 * 10 / 128, abs=0.012)
    for _ in range(2):
        page.keyboard.press("+")
    assert bar(pixels(page, "#pane-x")) == pytest.approx(4 * 5 / 128, abs=0.012)


def test_lengths_in_words(visit):
    page = visit("#case-0")
    code = """async () => {
        const source = document.scripts[document.scripts.length - 1].textContent;
        const part = source.slice(source.indexOf("function roundLength"));
        const body = part.slice(0, part.indexOf("function outlined"));
        const { round, text } = new Function(
            body + "return { round: roundLength, text: barText }")();
        const of = (mm, more) => text(mm, { mm_per_pixel: [1, 1], measured: "", ...more });
        return [
            [0.49, 0.5, 0.99, 1, 2.1, 5, 9.9, 38, 60, 0.019].map(round),
            [0.005, 0.5, 1, 5, 10, 50, 200].map((mm) => of(mm)),
            of(5, { measured: "detector" }),
            of(5, { measured: "film" }),
            of(5, { mm_per_pixel: [1, 2] }),
        ];
    }"""
    lengths, texts, *more = page.evaluate(code)
    assert lengths == pytest.approx([0.2, 0.5, 0.5, 1, 2, 5, 5, 20, 50, 0.01])
    assert texts == ["5 µm", "0.5 mm", "1 mm", "5 mm", "1 cm", "5 cm", "20 cm"]
    assert more == ["5 mm at the detector", "5 mm on the film", "5 mm across"]


def test_the_sides_stand_at_the_edges_at_any_zoom(visit):
    page = visit("#case-0")
    for pane in ("#pane-x", "#pane-cf", "#pane-d"):
        assert lit(pixels(page, pane)) >= {"left", "right", "top"}
        label = page.locator(f"{pane} .stage canvas").get_attribute("aria-label")
        assert label.endswith("; sides of the patient: left R, right L, top A, bottom PL")
    assert lit(pixels(page, "#pane-x")) == {*SIDES}
    for _ in range(6):
        page.keyboard.press("+")
    assert lit(pixels(page, "#pane-x")) == {*SIDES}
    # Above the mark of the counterfactual, which stays where it is.
    foot = pixels(page, "#pane-cf")
    assert test_page.has_mark(foot[..., 0])
    middle = foot[:, foot.shape[1] // 2 - 14 : foot.shape[1] // 2 + 14, 0]
    lines = np.flatnonzero((middle > 200).any(1))
    assert lines[0] < 30 and (np.diff(lines) > 60).sum() == 1  # the top, a gap, all of the foot


def test_what_the_file_does_not_say_is_not_shown(visit):
    page = visit("#case-1")
    image = pixels(page, "#pane-x")
    assert lit(image) == {*SIDES} and bar(image) < 0.06
    page = visit("#case-2")
    image = pixels(page, "#pane-x")
    assert lit(image) <= {"bottom"} and bar(image) == pytest.approx(2 / 12.8, abs=0.012)
    page = visit("#case-3")
    assert pixels(page, "#pane-x").max() == 0
    assert "sides" not in page.locator("#pane-x canvas").get_attribute("aria-label")
    for place in ("#case-1", "#case-2", "#case-3"):
        page.goto(page.url.split("#")[0] + place)
        expect(page.locator("#slices")).to_be_hidden()


def test_slices_beside_the_original_are_scrolled_through(visit):
    page = visit("#case-0")
    caption = page.locator("#pane-x figcaption")
    slider = page.locator("#slice")
    expect(slider).to_have_attribute("aria-valuetext", "the original")
    assert (slider.input_value(), slider.get_attribute("max")) == ("2", "3")
    seen = {}
    for key in "kkjjjj":
        page.keyboard.press(key)
        seen[slider.get_attribute("aria-valuetext")] = middle(page, "#pane-x")[0]
    assert seen == pytest.approx(
        {"1 after": 160, "the original": 0, "1 before": 80, "2 before": 40}, abs=3
    )
    expect(caption).to_have_text("Neighbouring slice 2 before the original")
    assert middle(page, "#pane-cf") == [0] * 3
    page.keyboard.press(" ")
    expect(caption.locator("b")).to_have_text("Original")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(caption).to_have_text("Neighbouring slice 1 before the original")
    assert middle(page, "#pane-x") == pytest.approx([80] * 3, abs=3)
    page.keyboard.press("i")
    assert middle(page, "#pane-x") == pytest.approx([175] * 3, abs=3)
    page.check("[value=fade]")
    expect(slider).to_be_hidden()
    page.locator("#case-name").focus()
    page.keyboard.press("k")  # back to where it can be seen
    expect(caption.locator("b")).to_have_text("Original")
    expect(page.locator("[value=side]")).to_be_checked()


def test_what_is_saved_has_the_marks_and_the_original(visit):
    page = visit("#case-0")
    page.keyboard.press("k")
    _, content = download(page, "#save-png")
    picture = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    for left in (0, 392, 784):
        tile = picture[:384, left : left + 384]
        assert lit(tile) >= {"left", "right", "top"}
        assert bar(tile[:340] if left else tile) == pytest.approx(20 / 128, abs=0.015)
    assert picture[192, 192].tolist() == [0, 0, 0]


def test_axe_finds_nothing_serious_in_one_file_alone(visit, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    write_gallery(tmp_path / "run", single_file=True)
    shutil.rmtree(tmp_path / "run" / "cases")
    page = visit("#case-0", folder=tmp_path / "run")
    page.keyboard.press("j")
    assert middle(page, "#pane-x") == pytest.approx([80] * 3, abs=3)
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))

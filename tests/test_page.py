"""The page in a browser: what a reader does with it, by mouse and by keyboard, from the disk."""

import base64
import csv
import io
import json
import shutil

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw, ImageSequence
from playwright.sync_api import expect, sync_playwright
from run_folders import row, write_run

from cfgen.engine.table import SCHEMA, write_table
from cfgen.gallery import write_gallery
from cfgen.result import Status

BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), "")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()
MARK = "synthetic counterfactual, not for diagnosis"
SIDE = 64

pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium and no google-chrome here")


def draw(path, brightness):
    """A grey square whose middle has a brightness."""
    image = Image.new("L", (SIDE, SIDE), 60)
    ImageDraw.Draw(image).rectangle((24, 24, 39, 39), fill=brightness)
    image.save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six cases: two flipped ones with all there is to show, and every failure but one."""
    rows = [
        row(0, Status.FLIPPED, case="a", plausibility=0.5),
        row(1, Status.FLIPPED, case="b", source="healthy", target="tumour", lam=3.0),
        row(2, Status.ALREADY, case="c"),
        row(3, Status.NOT_FOUND, case="d"),
        row(4, Status.RECONSTRUCTION_FLIPS, case="e", lam=0.0),
        row(5, Status.UNREADABLE, case="", message="no such file"),
    ]
    out = write_run(tmp_path_factory.mktemp("page") / "run ä#%", rows, sweep=True)
    for r in rows[:5]:
        folder = out / "cases" / r["case"]
        draw(folder / "x.png", 100)
        draw(folder / "x_cf.png", 160)
        for i, file in enumerate(sorted((folder / "sweep").iterdir())):
            draw(file, 100 + 40 * i)
    folder = out / "cases" / "a"
    (folder / "window.json").write_text(json.dumps({"low": -160, "high": 350, "unit": "HU"}))
    (folder / "concepts.json").write_text(json.dumps({"volume": [3.5, 1.25]}))
    (folder / "attribution").mkdir()
    draw(folder / "attribution" / "grad_cam.png", 255)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((24, 24, 39, 39), fill=255)
    mask.save(folder / "mask.png")
    write_gallery(out)
    return out


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, run):
    """Opens the page; afterwards nothing may have gone wrong or left the disk."""
    contexts, trouble, requests = [], [], []

    def visit(place="", folder=run, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / "index.html").as_uri() + place)
        if place:
            expect(page.locator("#case-facts")).not_to_be_empty()
            settle(page)
        return page

    visit.trouble = trouble
    yield visit
    for context in contexts:
        context.close()
    assert trouble == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def settle(page):
    """Wait until what was asked for is drawn."""
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def pixels(page, pane):
    """What a pane shows (h, w, 3)."""
    settle(page)
    url = page.evaluate("(id) => document.querySelector(id + ' canvas').toDataURL()", pane)
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as image:
        return np.array(image.convert("RGB"))


def middle(page, pane):
    image = pixels(page, pane)
    return image[image.shape[0] // 2, image.shape[1] // 2].tolist()


def shown(page):
    """Names of the cards that are seen, in their order."""
    return [text.split("/")[-1] for text in page.locator(".card:visible h2").all_text_contents()]


def watch(page, selector):
    """Write down the moments at which an element changes, and its text."""
    page.evaluate(
        """(selector) => {
            const element = document.querySelector(selector);
            window.changes = [];
            let last = element.textContent;
            new MutationObserver(() => {
                if (element.textContent === last) return;
                last = element.textContent;
                window.changes.push([performance.now(), last]);
            }).observe(element, { childList: true });
        }""",
        selector,
    )


def wait_for(page, enough):
    for _ in range(100):
        changes = page.evaluate("window.changes")
        if enough(changes):
            return changes
        page.wait_for_timeout(100)
    raise AssertionError(f"expected more changes, got {changes}")


def download(page, selector):
    with page.expect_download() as waiting:
        page.click(selector)
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def test_overview_shows_every_case_and_why_one_failed(visit):
    page = visit()
    assert shown(page) == [f"b{i}.png" for i in range(6)]
    card = page.locator(".card", has_text="Not readable")
    assert "no such file" in card.inner_text() and card.locator("a").count() == 0
    widths = page.evaluate(
        """async () => {
            const images = [...document.querySelectorAll(".card img")];
            images.forEach((image) => { image.loading = "eager"; });
            await Promise.all(images.map((image) => image.decode()));
            return images.map((image) => image.naturalWidth);
        }"""
    )
    assert widths == [388, 388, 192, 192, 388]


def test_filters(visit):
    page = visit()
    found = page.locator("#found")
    page.uncheck("input[name=status][value=FLIPPED]")
    assert shown(page) == ["b2.png", "b3.png", "b4.png", "b5.png"]
    expect(found).to_have_text("4 of 6 images")
    page.click("text=Show all")
    expect(found).to_have_text("6 images")
    page.select_option("[name=prediction]", label="healthy → tumour")
    assert shown(page) == ["b1.png"]
    page.click("text=Show all")
    page.fill("[name=lam-from]", "1")
    assert shown(page) == ["b0.png", "b1.png"]
    page.fill("[name=lam-to]", "2")
    assert shown(page) == ["b0.png"]
    page.click("text=Show all")
    page.fill("[name=plausibility-to]", "0.05")
    assert shown(page) == ["b1.png", "b4.png"]
    page.fill("[name=text]", "B4")
    assert shown(page) == ["b4.png"]


@pytest.mark.parametrize(
    ("column", "ascending", "descending"),
    [
        ("lam", "401", "104"),
        ("plausibility", "140", "014"),
        ("prob_after", "014", "014"),
        ("status", "201345", "543012"),
        ("file", "012345", "543210"),
        ("", "012345", "543210"),
    ],
)
def test_sorting_puts_what_has_no_value_last(visit, column, ascending, descending):
    page = visit()
    page.select_option("[name=sort]", column)
    names = "".join(name[1] for name in shown(page))
    assert names.startswith(ascending) and len(names) == 6
    page.check("[name=descending]")
    assert "".join(name[1] for name in shown(page)).startswith(descending)


def test_the_table_is_saved_as_it_is_shown(visit, run):
    page = visit()
    name, content = download(page, "#csv")
    assert name == "results.csv"
    assert content == (run / "results.csv").read_bytes()
    page.uncheck("input[name=status][value=FLIPPED]")
    _, content = download(page, "#csv")
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [r["file"] for r in rows] == [f"a/b{i}.png" for i in range(2, 6)]


def test_a_saved_table_runs_nothing_in_a_spreadsheet(visit, tmp_path):
    texts = ["=cmd|' /C calc'!A0", "'@a", "-1+1", "-1.5", "\t=1", "'a'", 'say "x", é']
    rows = [row(i, Status.ALREADY, case=f"c{i}", label=t) for i, t in enumerate(texts)]
    out = write_run(tmp_path / "run", rows)
    write_table(out / "results.csv", [*rows[0], "schema"], [r | {"schema": SCHEMA} for r in rows])
    write_gallery(out)
    page = visit(folder=out)
    assert download(page, "#csv")[1] == (out / "results.csv").read_bytes()


def test_the_slider_moves_image_difference_and_numbers(visit):
    page = visit("#case-0")
    assert middle(page, "#pane-x") == [100] * 3
    assert middle(page, "#pane-cf") == [160] * 3  # opens at the counterfactual
    red, _, blue = middle(page, "#pane-d")
    assert red > blue
    assert "from 0 to +120 HU" in page.locator("#pane-d figcaption").inner_text()
    expect(page.locator("#now")).to_have_text("λ 1.5: “healthy” > 99.9 %, answer changed")
    page.locator("#lambda").fill("0.1")  # the nearest step
    assert middle(page, "#pane-cf") == [100] * 3
    assert middle(page, "#pane-d") == [100] * 3
    expect(page.locator("#now")).to_have_text("λ 0: “healthy” 1.2 %")
    expect(page.locator("#lambda")).to_have_attribute("aria-valuetext", "λ 0: “healthy” 1.2 %")
    page.keyboard.press("ArrowRight")
    assert middle(page, "#pane-cf") == [140] * 3
    caption = page.locator("#pane-cf figcaption")
    expect(caption).to_have_text("Not yet the counterfactual λ 1; “healthy” 30 %")
    expect(page.locator("#pane-x figcaption")).to_have_text(
        "Original model says “tumour”; “healthy” 1.2 %"
    )
    page.click("#to-flip")
    assert middle(page, "#pane-cf") == [160] * 3
    expect(caption).to_have_text("Counterfactual λ 1.5; “healthy” > 99.9 %")
    assert "answer changes at λ 1.5" in page.locator("#flip-label").inner_text()


def test_a_step_past_the_counterfactual_may_miss_what_was_asked(visit, tmp_path):
    rows = [row(0, Status.FLIPPED, case="c", lam=1.0, prob_after=0.91)]
    out = write_run(tmp_path / "run", rows, sweep=True, confidence=0.9)
    path = {"lam": [0, 0.5, 2], "prob_target": [0.1, 0.3, 0.4], "flip": 1.0}
    (out / "cases" / "c" / "sweep.json").write_text(json.dumps(path))
    write_gallery(out)
    page = visit("#case-0", folder=out)
    expect(page.locator("#now")).to_have_text("λ 1: “healthy” 91 %, 90 % reached")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#now")).to_have_text("λ 2: “healthy” 40 %")
    expect(page.locator("#pane-cf figcaption b")).to_have_text("Past the counterfactual")


def test_keys(visit):
    page = visit("#case-0")
    press = page.keyboard.press
    press("ArrowLeft")
    assert middle(page, "#pane-cf") == [140] * 3
    press("f")
    press("t")
    assert middle(page, "#pane-cf") == [100] * 3
    assert page.locator("#pane-cf figcaption").inner_text().startswith("Original")
    press("t")
    press("i")
    assert middle(page, "#pane-cf") == [95] * 3
    press("1")  # soft tissue, 40 +- 200 HU of -160 ... 350 HU
    press("i")
    assert middle(page, "#pane-x") == [round(100 * 510 / 400)] * 3
    assert page.input_value("#level") == "40" and page.input_value("#width") == "400"
    press("+")
    settle(page)
    assert page.locator("#zoom").inner_text() == "141 %"
    press(" ")
    assert middle(page, "#pane-x") == [100] * 3
    assert page.locator("#zoom").inner_text() == "100 %"
    page.locator("#case-name").focus()
    press("Shift+ArrowRight")
    expect(page.locator("#probe")).to_have_text(
        "Pixel 33, 32: original 40, counterfactual 160, difference +120 HU"
    )
    press("ArrowDown")
    expect(page.locator("#case-name")).to_have_text("a/b1.png")
    press("ArrowUp")
    expect(page.locator("#case-name")).to_have_text("a/b0.png")
    press("?")
    expect(page.locator("#help")).to_be_visible()
    press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    press("Escape")
    expect(page.locator("#overview")).to_be_visible()
    assert page.evaluate("document.activeElement.textContent") == "a/b0.png"


def test_arrows_belong_to_the_slider_after_a_click_and_to_a_control_reached_by_tab(visit):
    page = visit("#case-0")
    page.check("[value=fade]")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#now")).to_contain_text("λ 1:")
    expect(page.locator("[value=fade]")).to_be_checked()
    page.click("#invert")
    page.keyboard.press(" ")  # resets; it does not invert again
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#now")).to_contain_text("λ 1.5:")
    page.locator("#next").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[value=curtain]")).to_be_checked()
    expect(page.locator("#now")).to_contain_text("λ 1.5:")
    page.locator("#zoom-out").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#zoom")).to_have_text("141 %")


def test_shortcuts_can_be_turned_off(visit):
    page = visit("#case-0")
    page.keyboard.press("?")
    page.uncheck("#shortcuts")
    page.click("#help-close")
    page.locator("#case-name").focus()
    page.keyboard.press("i")
    assert middle(page, "#pane-x") == [100] * 3
    page.keyboard.press("ArrowLeft")  # not a single character
    assert middle(page, "#pane-cf") == [140] * 3


def test_ways_to_compare(visit):
    page = visit("#case-0")
    page.uncheck("#outline")
    page.check("[value=fade]")
    expect(page.locator("#pane-x")).to_be_hidden()
    assert middle(page, "#pane-cf") == [130] * 3
    page.locator("#mix").fill("100")
    assert middle(page, "#pane-cf") == [160] * 3
    page.check("[value=curtain]")
    page.locator("#mix").fill("50")
    image = pixels(page, "#pane-cf")
    height, width, _ = image.shape
    left, right = (image[height // 4 * 2 + 30, width // 2 + d, 0] for d in (-30, 30))
    assert (left, right) == (100, 160)
    box = page.locator("#pane-cf .stage").bounding_box()
    y = box["y"] + box["height"] / 3
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, y)
    page.mouse.up()
    settle(page)
    assert 75 < float(page.input_value("#mix")) < 100
    assert page.input_value("#width") == "510"  # the window stays
    page.keyboard.press("m")
    expect(page.locator("[value=flicker]")).to_be_checked()
    assert middle(page, "#pane-cf") == [160] * 3


def test_flicker_is_off_at_first_slow_and_can_be_stopped(visit):
    page = visit("#case-0")
    page.check("[value=flicker]")
    assert page.locator("#flicker-rate option").all_inner_texts() == ["1", "2", "3"]
    watch(page, "#pane-cf figcaption")
    page.wait_for_timeout(700)
    assert page.evaluate("window.changes") == []
    page.select_option("#flicker-rate", "3")
    page.click("#flicker")
    changes = wait_for(page, lambda changes: len(changes) >= 4)
    page.click("#flicker")
    settle(page)
    assert {text.split(" ")[0] for _, text in changes} == {"Original", "Counterfactual"}
    assert changes[3][0] - changes[0][0] > 900  # milliseconds for three changes
    expect(page.locator("#pane-cf figcaption b")).to_have_text("Counterfactual")
    count = page.evaluate("window.changes.length")
    page.wait_for_timeout(500)
    assert page.evaluate("window.changes.length") == count


def test_playing_walks_to_the_end_and_back(visit):
    page = visit("#case-0")
    page.select_option("#speed", "4")
    watch(page, "#now")
    page.click("#play")
    steps = wait_for(page, lambda changes: len(changes) >= 6)
    assert [text.split(":")[0] for _, text in steps[:5]] == ["λ 2", "λ 1.5", "λ 1", "λ 0", "λ 1"]
    page.click("#play")
    expect(page.locator("#play")).to_contain_text("Play")
    now = page.locator("#now").inner_text()
    page.wait_for_timeout(500)
    assert page.locator("#now").inner_text() == now


def test_mouse(visit):
    page = visit("#case-0")
    box = page.locator("#pane-x .stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    expect(page.locator("#probe")).to_contain_text("Pixel 32, 32: original 40")
    page.mouse.wheel(0, -100)
    expect(page.locator("#zoom")).to_have_text("119 %")
    page.mouse.down()
    page.mouse.move(x + box["width"] / 5, y + box["height"] / 10)
    page.mouse.up()
    settle(page)
    assert float(page.input_value("#width")) == pytest.approx(510 * 1.2, rel=0.02)
    assert float(page.input_value("#level")) == pytest.approx(95 + 51, rel=0.05)
    page.keyboard.press("1")
    before = pixels(page, "#pane-cf")
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(x, y)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert not np.array_equal(before, pixels(page, "#pane-cf"))  # panes move together
    page.mouse.dblclick(x - 100, y)
    settle(page)
    assert float(page.input_value("#width")) == 400


def yellow(image):
    """How many pixels belong to an outline."""
    return int(((image[..., 1] > 150) & (image[..., 2] < 80)).sum())


def test_difference_has_opacity_outline_and_scale(visit):
    page = visit("#case-0")
    full = middle(page, "#pane-d")
    assert yellow(pixels(page, "#pane-d")) > 300
    page.uncheck("#outline")
    assert yellow(pixels(page, "#pane-d")) == 0
    page.locator("#opacity").fill("50")
    half = middle(page, "#pane-d")
    page.locator("#opacity").fill("0")
    assert middle(page, "#pane-d") == [100] * 3
    assert full[0] > half[0] > 100
    page.uncheck("#under")
    assert middle(page, "#pane-d") == [72] * 3
    assert page.locator("#scale-ends").inner_text().split("\n") == [
        "−120 HU darker",
        "+120 HU brighter",
    ]


def test_the_difference_is_the_one_that_was_written(visit, run):
    from cfgen.data import read_image
    from cfgen.gallery import difference_overlay

    page = visit("#case-1")
    page.keyboard.press("1")
    x, x_cf = (read_image(run / f"cases/b/{name}.png", channels=1) for name in ("x", "x_cf"))
    painted, _ = difference_overlay(x, x_cf)
    expected = painted[:, SIDE // 2, SIDE // 2].tolist()
    assert middle(page, "#pane-d") == pytest.approx(expected, abs=1)


def test_an_image_without_a_window_opens_fitted_and_one_with_a_doubt_says_so(visit):
    page = visit("#case-1")
    assert middle(page, "#pane-x") == [255] * 3  # 60 ... 100 of the original
    assert (page.input_value("#level"), page.input_value("#width")) == ("80", "40")
    page.keyboard.press("1")
    assert middle(page, "#pane-x") == [100] * 3
    page.keyboard.press(" ")
    assert middle(page, "#pane-x") == [255] * 3
    expect(page.locator("#case-cautions")).to_have_text("Read with care: unusual image.")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#case-cautions")).to_have_text(
        "Read with care: second model does not agree."
    )


def test_panels(visit):
    page = visit("#case-0")
    assert page.locator("#concepts tbody").inner_text().split("\t") == [
        "volume", "3.5", "1.25", "−2.25"
    ]  # fmt: skip
    assert middle(page, "#pane-map-0") == [255] * 3
    page = visit("#case-1")
    for panel in ("#concepts", "#attribution", "#outline-label"):
        expect(page.locator(panel)).to_be_hidden()


def test_a_failure_shows_what_there_is_and_why(visit):
    page = visit("#case-3")
    expect(page.locator("#pane-cf")).to_be_hidden()
    expect(page.locator("#walk")).to_be_hidden()
    assert "No change that the program tried" in page.locator("#case-text").inner_text()
    assert middle(page, "#pane-x") == [255] * 3  # fitted
    for key in ("ArrowRight", "m", "f", "p", "t"):
        page.keyboard.press(key)
    expect(page.locator("#pane-cf")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#case-chip")).to_have_text("Changed by redrawing alone")
    expect(page.locator("#walk")).to_be_hidden()
    page.keyboard.press("ArrowDown")  # the last one cannot be opened
    page.wait_for_timeout(200)
    expect(page.locator("#case-chip")).to_have_text("Changed by redrawing alone")


def test_cases_are_gone_through_in_the_order_of_the_overview(visit):
    page = visit()
    page.uncheck("input[name=status][value=FLIPPED]")
    page.check("[name=descending]")
    page.locator(".card:visible a").first.click()
    expect(page.locator("#case-name")).to_have_text("a/b4.png")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#case-name")).to_have_text("a/b3.png")
    expect(page.locator("#place")).to_have_text("3 of 4")


def has_mark(image):
    """Whether white letters stand on black at the foot of a picture (h, w)."""
    foot = image[-int(0.12 * image.shape[0]) :]
    return bool((foot > 240).mean() > 0.01 and (foot < 60).mean() > 0.3)


def test_the_mark_is_in_the_pixels(visit):
    page = visit("#case-0")
    page.uncheck("#outline")
    for pane, made in (("#pane-x", False), ("#pane-cf", True), ("#pane-d", True)):
        assert has_mark(pixels(page, pane)[..., 0]) is made
    for _ in range(6):
        page.keyboard.press("+")
    assert has_mark(pixels(page, "#pane-cf")[..., 0])  # at any zoom
    page.keyboard.press(" ")
    page.check("[value=fade]")
    page.locator("#mix").fill("0")
    assert has_mark(pixels(page, "#pane-cf")[..., 0])


def test_export_as_picture(visit):
    page = visit("#case-0")
    page.uncheck("#outline")
    name, content = download(page, "#save-png")
    assert name == "a_b0-counterfactual.png"
    picture = np.array(Image.open(io.BytesIO(content)).convert("L"))
    tiles = [picture[:384, left : left + 384] for left in (0, 392, 784)]
    assert [has_mark(tile) for tile in tiles] == [False, True, True]
    assert [int(tile[192, 192]) for tile in tiles[:2]] == [100, 160]


@pytest.mark.parametrize("outline", [True, False])
def test_export_as_animation(visit, outline):
    page = visit("#case-0")
    page.set_checked("#outline", outline)
    name, content = download(page, "#save-gif")
    assert name == "a_b0-counterfactual.gif"
    with Image.open(io.BytesIO(content)) as animation:
        assert animation.info["comment"] == MARK.encode()
        assert animation.info["loop"] == 0
        levels, delays = [], []
        for _ in ImageSequence.Iterator(animation):
            picture = np.array(animation.convert("RGB"))
            levels.append(int(picture[192, 192, 0]))
            delays.append(animation.info["duration"])
            assert has_mark(picture[:384, :, 0])
            assert ((picture[:384] == picture[:384, :, :1]).all()) != outline
    tolerance = 2 if outline else 0  # 128 greys beside the colours
    assert levels == pytest.approx([100, 140, 160, 180, 160, 140], abs=tolerance)
    assert delays == [500, 500, 1500, 500, 1500, 500]


def test_prints_one_page_a_case(visit):
    def pages(page):
        return page.pdf(format="A4").count(b"/Type /Page\n")

    page = visit("#case-0")
    assert pages(page) == 1
    page = visit()
    page.evaluate(
        """() => new Promise((printed) => {
            window.print = printed;
            document.querySelector("#print-all").click();
        })"""
    )
    assert page.locator("#sheets article").count() == 5
    assert pages(page) == 5
    expect(page.locator("#overview")).to_be_visible()


def test_a_pile_of_paper_is_refused(visit, tmp_path):
    rows = [row(i, Status.ALREADY, case=f"{i:03d}") for i in range(201)]
    write_gallery(write_run(tmp_path / "run", rows))
    page = visit(folder=tmp_path / "run")
    page.click("#print-all")
    message = "201 images. Filter first: at most 200 cases are printed at once."
    expect(page.locator("#found")).to_have_text(message)
    assert page.locator("#sheets article").count() == 0


@pytest.mark.parametrize("place", ["", "#case-0", "#case-3", "help"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, place, colours):
    page = visit("" if place == "help" else place, color_scheme=colours)
    assert page.evaluate("document.documentElement.dataset.theme") == colours
    if place == "help":
        page.click("#help-open")
    found = Axe().run(page).response["violations"]
    serious = [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_everything_fits_at_four_hundred_percent(visit):
    for place in ("", "#case-0"):
        page = visit(place, viewport={"width": 320, "height": 256})
        assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_theme_can_be_chosen(visit):
    page = visit(color_scheme="light")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 17, 20)"


def test_a_missing_case_file_is_said(visit, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "cases" / "a" / "case.js").unlink()
    page = visit(folder=copy)
    page.goto((copy / "index.html").as_uri() + "#case-0")
    expect(page.locator("#case-name")).to_have_text("The file cases/a/case.js is missing.")
    expect(page.locator("#reader")).to_be_hidden()
    page.goto((copy / "index.html").as_uri() + "#case-1")
    expect(page.locator("#case-name")).to_have_text("a/b1.png")
    expect(page.locator("#reader")).to_be_visible()
    page.keyboard.press("ArrowUp")  # no picture of one case under the name of another
    expect(page.locator("#case-name")).to_have_text("The file cases/a/case.js is missing.")
    expect(page.locator("#reader")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#overview")).to_be_visible()
    assert all("ERR_FILE_NOT_FOUND" in said for said in visit.trouble)
    visit.trouble.clear()


def test_one_file_alone(visit, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    write_gallery(copy, single_file=True)
    (tmp_path / "alone").mkdir()
    shutil.move(copy / "index.html", tmp_path / "alone" / "index.html")
    page = visit("#case-0", folder=tmp_path / "alone")
    assert middle(page, "#pane-cf") == [160] * 3
    page.keyboard.press("Escape")
    assert shown(page) == [f"b{i}.png" for i in range(6)]


def test_several_counterfactuals_of_an_image_say_which_they_are(visit, tmp_path):
    rows = [
        row(0, Status.FLIPPED, case=case, alternative=i + 1)
        for i, case in enumerate(("a", "a-2", "a-3"))
    ]
    rows.append(row(1, Status.FLIPPED, case="b", alternative=1))
    write_gallery(write_run(tmp_path / "run", rows, sweep=True))
    page = visit(folder=tmp_path / "run")
    expect(page.locator("#found")).to_have_text("2 images")
    assert page.locator(".card .place").all_text_contents() == ["1 of 3", "2 of 3", "3 of 3"]
    page.locator(".card a").nth(1).click()
    expect(page.locator("#case-place")).to_have_text("counterfactual 2 of 3")
    with page.expect_download() as saved:
        page.locator("#save-png").click()
    assert saved.value.suggested_filename == "a_b0-counterfactual-2.png"
    page.keyboard.press("ArrowDown")
    expect(page.locator("#case-place")).to_have_text("counterfactual 3 of 3")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#case-name")).to_have_text("a/b1.png")
    expect(page.locator("#case-place")).to_have_text("")
    page.keyboard.press("Escape")
    page.locator("input[type=search]").fill("a-2")
    expect(page.locator("#found")).to_have_text("1 of 2 images")

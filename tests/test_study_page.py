"""Readers answer in a browser: autosave, no way back, download, report."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
from reader_study import ORIGIN, QUESTIONS, answer, make_run, read_key, write_questions

from cfgen.study.parse import read_questions
from cfgen.study.report import write_report
from cfgen.study.write import write_study

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new browser's window that fails on any error of a page and any request but its own."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, wrong = context.new_page(), []

    def seen(request: Request) -> None:
        if not re.search(r"reader-\d\.html$|^blob:", request.url):
            wrong.append(request.url)

    context.on("console", lambda message: wrong.append(message.text))
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("request", seen)
    yield page
    context.close()
    assert wrong == []


def written(folder: Path, text: str = QUESTIONS, cases: int = 6, readers: int = 1) -> Path:
    questions = read_questions(write_questions(folder, text))
    write_study(make_run(folder / "run", cases), questions, readers, folder / "out", seed=3)
    return folder / "out"


def start(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    page.get_by_role("button", name="Start").click()
    at(page, 1)


def at(page: Page, number: int) -> None:
    """Wait until this image is shown."""
    heading = page.get_by_role("heading", name=re.compile(f"^Image {number} of"))
    expect(heading).to_be_visible()


def pick(page: Page, question: str, option: str, confidence: str = "") -> None:
    page.locator(f'input[name="q-{question}"][value="{option}"]').check()
    if confidence:
        page.locator(f'input[name="c-{question}"][value="{confidence}"]').check()


def next_image(page: Page) -> None:
    page.locator("form button.next").click()


def saved(page: Page, folder: Path, button: str) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def opinion(row: dict[str, str]) -> tuple[str, int, int]:
    """What a simulated reader says: finding, confidence, likelihood. Reader 3 is often wrong."""
    case, reader = int(row["case"].split("-")[1]), int(row["reader"])
    wrong = (case + reader) % (2 if reader == 3 else 4) == 0 and row["arm"] == "unaided"
    if row["repeat"] == "1" and reader == 2:
        wrong = not wrong
    finding = {"healthy": "tumour", "tumour": "healthy"}[row["truth"]] if wrong else row["truth"]
    return finding, 1 + (case + 2 * reader) % 5, (4 if finding == "tumour" else 1) + case % 2


def test_three_readers_answer_and_the_report_counts_them_right(browser, tmp_path):
    study = written(tmp_path, readers=3)
    key, files = read_key(study), []
    for reader in "123":
        context = browser.new_context()
        page = context.new_page()
        start(page, study / f"reader-{reader}.html")
        mine = [row for row in key if row["reader"] == reader]
        for number, row in enumerate(mine, 1):
            if number > 1 and row["part"] != mine[number - 2]["part"]:
                page.get_by_role("button", name="Go on").click()
            at(page, number)
            finding, confidence, likelihood = opinion(row)
            pick(page, "finding", finding, str(confidence))
            pick(page, "likelihood", str(likelihood))
            if number == 2:
                page.get_by_label("What did you see?").fill('a "ring",\nleft; é')
            next_image(page)
        expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
        files.append(saved(page, tmp_path, "Download the answers"))
        context.close()
    assert [file.name for file in files] == [f"answers-reader-{r}.csv" for r in "123"]

    write_report(study, files, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [r["finished"] for r in report["readers"]] == [15, 15, 15]
    first = [row for row in key if row["repeat"] == "0"]
    for arm in ("unaided", "counterfactual"):
        for reader in ("1", "2", "3", "all"):
            right = [
                opinion(row)[0] == row["truth"]
                for row in first
                if row["arm"] == arm and reader in (row["reader"], "all")
            ]
            found = [
                row["value"]
                for row in report["summary"]
                if (row["question"], row["measure"], row["arm"]) == ("finding", "accuracy", arm)
                and row["reader"] == reader
                and not row["against"]
            ]
            assert found == [pytest.approx(sum(right) / len(right), abs=1e-6)]

    # Cohen's kappa of readers 1 and 3 from its four counts.
    said = {(r["reader"], r["case"], r["arm"]): opinion(r)[0] == "tumour" for r in first}
    pairs = [(t, said[("3", *what[1:])]) for what, t in said.items() if what[0] == "1"]
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    one = both + pairs.count((True, False)), both + pairs.count((False, True))
    n = len(pairs)
    chance = (one[0] * one[1] + (n - one[0]) * (n - one[1])) / n**2
    expected = ((both + neither) / n - chance) / (1 - chance)
    kappas = {
        (row["question"], row["readers"]): (row["n"], row["kappa"]) for row in report["agreement"]
    }
    assert kappas["finding", "1 and 3"] == (12, pytest.approx(expected, abs=1e-6))
    assert 0 < expected < 1
    assert kappas["finding", "1, repeated"] == (3, 1)  # reader 2 contradicts himself each time
    assert kappas["finding", "2, repeated"][1] < 0

    texts = {
        r["answer"].replace("\r", "")
        for f in files
        for r in rows_of(f)
        if r["question"] == "remarks"
    }
    assert texts == {'a "ring",\nleft; é'}
    with (tmp_path / "report" / "readings.csv").open(newline="") as stream:
        times = [float(r["page_seconds"]) for r in csv.DictReader(stream)]
    assert all(0 < seconds < 60 for seconds in times)


def test_autosave_survives_a_reload_and_a_new_window(page, tmp_path):
    file = written(tmp_path) / "reader-1.html"
    start(page, file)
    pick(page, "finding", "tumour", "2")
    pick(page, "likelihood", "4")
    next_image(page)
    at(page, 2)
    pick(page, "finding", "healthy")
    page.get_by_label("What did you see?").fill("half a rem")
    page.reload()
    for _ in range(2):
        at(page, 2)
        expect(page.locator('input[name="q-finding"][value="healthy"]')).to_be_checked()
        expect(page.locator('input[name="c-finding"]:checked')).to_have_count(0)
        expect(page.get_by_label("What did you see?")).to_have_value("half a rem")
        other = page.context.new_page()  # closed and opened again
        other.goto(file.as_uri())
        page.close()
        page = other
    answers = rows_of(saved(page, tmp_path, "Download the answers so far"))
    assert [(r["position"], r["question"], r["answer"], r["confidence"]) for r in answers] == [
        ("1", "finding", "tumour", "2"),
        ("1", "likelihood", "4", ""),
    ]


def test_no_way_back_unless_allowed(page, tmp_path):
    file = written(tmp_path) / "reader-1.html"
    page.goto("about:blank")
    start(page, file)
    pick(page, "finding", "tumour", "2")
    pick(page, "likelihood", "4")
    next_image(page)
    at(page, 2)
    assert page.get_by_role("button", name="Back").count() == 0
    page.go_back()
    assert page.url == "about:blank"
    page.go_forward()
    at(page, 2)
    page.keyboard.press("Alt+ArrowLeft")
    page.goto(file.as_uri() + "#1")
    at(page, 2)


def test_the_way_back_where_it_is_allowed(page, tmp_path):
    file = written(tmp_path, QUESTIONS + "allow_back: true\n") / "reader-1.html"
    start(page, file)
    assert page.get_by_role("button", name="Back").count() == 0
    pick(page, "finding", "tumour", "2")
    pick(page, "likelihood", "4")
    next_image(page)
    at(page, 2)
    page.get_by_role("button", name="Back").click()
    at(page, 1)
    expect(page.locator('input[name="q-finding"][value="tumour"]')).to_be_checked()
    pick(page, "finding", "healthy")
    next_image(page)
    at(page, 2)
    answers = rows_of(saved(page, tmp_path, "Download the answers so far"))
    assert [(r["question"], r["answer"]) for r in answers] == [
        ("finding", "healthy"),
        ("likelihood", "4"),
    ]


def test_the_page_may_not_reach_the_network(browser, tmp_path):
    page = browser.new_page()
    page.goto((written(tmp_path) / "reader-1.html").as_uri())
    refused = page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (e) => resolve(e.violatedDirective));
          fetch("https://example.invalid/").catch(() => {});
        })"""
    )
    assert refused == "connect-src"
    page.close()


def test_an_open_question_is_asked_for(page, tmp_path):
    start(page, written(tmp_path) / "reader-1.html")
    alert = page.locator("[role=alert]")
    next_image(page)
    expect(alert).to_have_text("Please answer: What is it?")
    pick(page, "finding", "tumour")
    expect(alert).to_have_text("")
    next_image(page)
    expect(alert).to_have_text("Please answer: What is it? – how sure are you?")
    pick(page, "finding", "tumour", "5")
    next_image(page)
    expect(alert).to_have_text("Please answer: How likely is it?")
    pick(page, "likelihood", "5")
    next_image(page)
    at(page, 2)


def test_a_second_window_stops_the_first(page, tmp_path):
    file = written(tmp_path) / "reader-1.html"
    start(page, file)
    other = page.context.new_page()
    other.goto(file.as_uri())
    at(other, 1)
    # At once, or at its next autosave.
    heading = page.get_by_role("heading", name="Open in another window")
    expect(heading).to_be_visible(timeout=15_000)


def test_time_counts_while_the_page_is_seen(page, tmp_path):
    page.clock.install()
    start(page, written(tmp_path) / "reader-1.html")
    page.clock.run_for(7000)
    pick(page, "finding", "tumour", "2")
    page.clock.run_for(2000)
    page.evaluate(
        "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.clock.run_for(60_000)
    page.evaluate(
        "Object.defineProperty(document, 'visibilityState', {value: 'visible'});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.clock.run_for(1000)
    pick(page, "likelihood", "4")
    next_image(page)
    at(page, 2)
    one, two = rows_of(saved(page, tmp_path, "Download the answers so far"))
    # The clock of the test goes on by itself for some milliseconds.
    assert float(one["seconds"]) == pytest.approx(7, abs=0.5)
    assert float(two["seconds"]) == pytest.approx(10, abs=0.5)
    assert one["page_seconds"] == two["page_seconds"]
    assert float(one["page_seconds"]) == pytest.approx(10, abs=0.5)


def pixels(page: Page, n: int) -> list[int]:
    """Brightness of the last rows of a picture, where the mark is burned in."""
    return (
        page.locator("canvas")
        .nth(n)
        .evaluate("c => [...c.getContext('2d').getImageData(0, c.height - 20, c.width, 16).data]")
    )


def test_pictures_are_marked_and_as_large_in_every_arm(page, tmp_path):
    study = written(tmp_path)
    key = [row for row in read_key(study) if row["reader"] == "1"]
    start(page, study / "reader-1.html")
    widths, seen = set(), set()
    for number, row in enumerate(key, 1):
        if len(seen) == 2:
            break
        at(page, number)
        seen.add(row["arm"])
        canvas = page.locator("canvas")
        expect(canvas).to_have_count(3 if row["arm"] == "counterfactual" else 1)
        box = canvas.first.bounding_box()
        assert box is not None
        widths.add(round(box["width"]))
        if row["arm"] == "counterfactual":
            for n in (1, 2):
                assert max(pixels(page, n)[::4]) > 200  # letters on black
                label = canvas.nth(n).get_attribute("aria-label") or ""
                assert label.endswith("(synthetic counterfactual, not for diagnosis)")
        pick(page, "finding", "tumour", "2")
        pick(page, "likelihood", "4")
        next_image(page)
    assert seen == {"unaided", "counterfactual"}
    assert len(widths) == 1


def test_real_and_synthetic_pages_look_the_same_but_for_the_pixels(page, tmp_path):
    study = written(tmp_path, ORIGIN)
    key = [row for row in read_key(study) if row["reader"] == "1"]
    start(page, study / "reader-1.html")
    seen: dict[str, set[str]] = {"real": set(), "synthetic": set()}
    for number, row in enumerate(key, 1):
        at(page, number)
        html = page.locator("main").inner_html()
        seen[row["truth"]].add(
            re.sub(r"Image \d of", "Image of", html).replace("Finish", "Next image")
        )
        assert max(pixels(page, 0)[::4]) > 200
        pick(page, "origin", "real", "3")
        next_image(page)
    assert seen["real"] == seen["synthetic"] and len(seen["real"]) == 1
    assert "some images are synthetic; not for diagnosis" in seen["real"].pop()


def test_view_is_the_same_for_all_pictures_and_new_on_each_page(page, tmp_path):
    study = written(tmp_path, QUESTIONS.replace("[unaided, counterfactual]", "[counterfactual]"))
    start(page, study / "reader-1.html")
    canvas = page.locator("canvas")

    def filters() -> set[str]:
        return {canvas.nth(n).evaluate("c => c.style.filter") for n in range(3)}

    def views() -> list[str]:
        return [canvas.nth(n).evaluate("c => c.toDataURL()") for n in range(3)]

    plain = views()
    box = canvas.nth(1).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 40)
    page.mouse.up()
    assert filters() == {"brightness(1.1) contrast(1.3)"}
    assert views() == plain
    page.mouse.wheel(0, -100)
    expect(page.get_by_label("Zoom")).to_have_value("1.25")
    zoomed = views()
    assert zoomed[0] != plain[0] and zoomed[2] != plain[2]
    assert max(pixels(page, 1)[::4]) > 200  # the mark stays in view
    page.get_by_role("group", name="Pictures").press("ArrowRight")
    moved = views()
    assert moved[0] != zoomed[0] and moved[2] != zoomed[2]
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 50)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert views()[0] != moved[0]
    assert filters() == {"brightness(1.1) contrast(1.3)"}
    page.get_by_role("button", name="Reset the view").click()
    assert views() == plain and filters() == {"brightness(1) contrast(1)"}
    page.get_by_label("Zoom").fill("2")
    assert views()[0] != plain[0]
    pick(page, "finding", "tumour", "2")
    pick(page, "likelihood", "4")
    next_image(page)
    at(page, 2)
    expect(page.get_by_label("Zoom")).to_have_value("1")
    assert filters() == {"brightness(1) contrast(1)"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, tmp_path, scheme):
    study = written(tmp_path, QUESTIONS + "allow_back: true\n")
    page = browser.new_context(color_scheme=scheme, bypass_csp=True).new_page()

    def check() -> None:
        found = Axe().run(page).response
        assert found["passes"]
        serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        assert serious == []

    page.goto((study / "reader-1.html").as_uri())
    check()
    page.get_by_role("button", name="Start").click()
    at(page, 1)
    next_image(page)  # with the alert
    check()
    files = answer(study, tmp_path, lambda row: {"finding": (row["truth"], "3")})
    page.goto(write_report(study, files, tmp_path / "report").as_uri())
    check()
    page.context.close()

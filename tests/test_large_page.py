"""The page of a large run: cards in chunks, of which only those near the screen are there."""

# ruff: noqa: F401, F811 (fixtures)

import json
import tracemalloc

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from run_folders import picture, row
from test_page import browser, download, pytestmark, settle, shown, visit

from cfgen.engine.table import SCHEMA, write_table
from cfgen.gallery import write_gallery
from cfgen.gallery.write import CHUNK
from cfgen.result import Status

NUMBER = 2000
OPENS = (0, 1, 1000, NUMBER - 1)  # the cases with pictures


def rows(number):
    """Rows whose λ falls from the first to the last; every tenth has none."""
    for i in range(number):
        if i % 10 == 9 and i not in OPENS:
            yield row(i, Status.ALREADY, case=f"case-{i}", schema=SCHEMA)
        else:
            yield row(i, Status.FLIPPED, case=f"case-{i}", lam=float(number - i), schema=SCHEMA)


def write_large(out, number=NUMBER, **record):
    """A run folder, with the pictures of some cases."""
    out.mkdir()
    write_table(out / "results.csv", list(next(rows(1))), rows(number))
    (out / "run.json").write_text(json.dumps({"settings": {}} | record))
    for i in OPENS:
        folder = out / "cases" / f"case-{i}"
        folder.mkdir(parents=True)
        for name, level in (("x", 100), ("x_cf", 130)):
            picture(folder / f"{name}.png", level)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 2,000 cases, with its page."""
    out = write_large(tmp_path_factory.mktemp("large") / "run ä#%")
    write_gallery(out)
    return out


def near(page, name):
    """Wait until the card of an image is there."""
    expect(page.locator(".card h2", has_text=name)).to_be_visible()
    settle(page)


def test_few_cards_are_there_at_a_time_and_the_last_one_opens(visit):
    page = visit()
    expect(page.locator("#found")).to_have_text("2000 images")
    assert shown(page)[0] == "b0.png" and 12 <= page.locator(".card").count() <= 96
    first = page.locator(".card").first
    assert first.get_attribute("aria-posinset") == "1"
    assert first.get_attribute("aria-setsize") == "2000"
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    near(page, "b1000.png")
    assert page.locator(".card").count() <= 96 and "b0.png" not in shown(page)
    page.locator("body").press("End")
    near(page, "b1999.png")
    page.locator(".card a", has_text="b1999.png").click()
    expect(page.locator("#case-name")).to_have_text("a/b1999.png")
    expect(page.locator("#place")).to_have_text("2000 of 2000")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#case-name")).to_have_text("a/b1000.png")
    page.keyboard.press("Escape")  # to a card that is not there yet
    expect(page.locator("#card-1000 a")).to_be_focused()
    expect(page.locator("#card-1000")).to_be_in_viewport()


def test_all_rows_are_filtered_and_sorted(visit, run):
    page = visit()
    page.select_option("[name=sort]", "lam")
    near(page, "b1998.png")
    assert shown(page)[:3] == ["b1999.png", "b1998.png", "b1997.png"]
    page.locator("body").press("End")  # what has no value comes last
    near(page, "b1989.png")
    page.evaluate("scrollTo(0, 0)")
    page.fill("[name=lam-to]", "1500")
    expect(page.locator("#found")).to_have_text("1351 of 2000 images")
    page.uncheck("input[name=status][value=FLIPPED]")
    expect(page.locator("#found")).to_have_text("0 of 2000 images")
    page.click("text=Show all")
    page.fill("[name=text]", "CASE-1234")
    near(page, "b1234.png")
    assert shown(page) == ["b1234.png"]
    page.fill("[name=text]", "b19")
    near(page, "b1999.png")
    assert (
        len(shown(page)) == 111
    )  # no more than a chunk: whole, for the browser's search and paper
    assert page.evaluate("document.querySelector('#paper').hidden")


def test_the_whole_table_is_saved_in_the_order_that_is_shown(visit, run):
    page = visit()
    head, *lines = (run / "results.csv").read_bytes().splitlines(keepends=True)
    assert download(page, "#csv")[1] == b"".join([head, *lines])
    page.check("[name=descending]")
    assert download(page, "#csv")[1] == b"".join([head, *lines[::-1]])


def test_a_link_to_a_case_of_a_chunk_that_is_not_there(visit):
    page = visit(f"#case-{NUMBER - 1}")
    expect(page.locator("#case-name")).to_have_text("a/b1999.png")
    page.keyboard.press("Escape")
    expect(page.locator("#card-1999 a")).to_be_focused()


def test_a_card_that_has_the_focus_stays(visit):
    page = visit()
    page.locator("#card-0 a").focus()
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    near(page, "b1000.png")
    expect(page.locator("#card-0 a")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#card-1 a")).to_be_focused()


@pytest.mark.parametrize("file", ["rows-0006.js", "index.js"])
def test_a_missing_file_is_said(visit, tmp_path, file):
    out = write_large(tmp_path / "run")
    write_gallery(out)
    (out / "page" / file).unlink()
    page = visit(folder=out)
    if file == "index.js":
        expect(page.locator("#found")).to_have_text("The file page/index.js is missing.")
    else:
        page.fill("[name=text]", "b1000")
        card = page.locator("#card-1000")
        expect(card).to_have_text("a/b1000.pngThe file page/rows-0006.js is missing.")
        page.click("#csv")
        expect(page.locator("#found")).to_have_text("The file page/rows-0006.js is missing.")
        card.locator("a").click()
        expect(page.locator("#case-name")).to_have_text("a/b1000.png")
    assert all("ERR_FILE_NOT_FOUND" in said for said in visit.trouble)
    visit.trouble.clear()


def test_axe_finds_nothing_serious(visit):
    page = visit()
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_paper_says_that_it_does_not_hold_all(visit):
    page = visit()
    page.emulate_media(media="print")
    told = "Of more than 200 cases only those on the screen are printed."
    expect(page.locator("#paper")).to_have_text(told)
    expect(page.locator("#paper")).to_be_visible()
    assert page.pdf(format="A4").count(b"/Type /Page\n") < 40


def test_one_file_holds_all_chunks(visit, tmp_path):
    out = write_large(tmp_path / "run")
    index = write_gallery(out, single_file=True)
    assert not (out / "page").exists()
    (tmp_path / "alone").mkdir()
    index.rename(tmp_path / "alone" / "index.html")
    page = visit(folder=tmp_path / "alone")
    page.locator("body").press("End")
    near(page, "b1999.png")
    page.locator(".card a", has_text="b1999.png").click()
    expect(page.locator("#case-name")).to_have_text("a/b1999.png")


def test_the_page_is_the_same_when_it_is_written_again(tmp_path):
    out = write_large(tmp_path / "run", CHUNK + 1)

    def files():
        return {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    write_gallery(out)
    once = files()
    assert {p.name for p in once} >= {"index.js", "rows-0001.js", "rows-0002.js", "case.js"}
    write_gallery(out)
    assert files() == once
    write_table(out / "results.csv", list(next(rows(1))), rows(CHUNK))
    write_gallery(out)  # all of it fits in the page
    assert not [*(out / "page").iterdir()]


def test_the_page_is_written_in_flat_memory(tmp_path):
    def peak(number):
        out = write_large(tmp_path / f"{number}", number)
        tracemalloc.start()
        write_gallery(out)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(CHUNK + 1)  # what is made once, as the templates
    assert peak(10 * CHUNK) < 1.1 * peak(3 * CHUNK)  # the first chunk, the last, the next

"""The page of a run: complete, escaped, offline; and the picture of the difference."""

import base64
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from run_folders import row, write_run

from cfgen.data.difference import BRIGHTER, CHROMA, DARKER, LIGHTNESS, oklab_to_srgb
from cfgen.gallery import difference_limit, difference_overlay, write_gallery
from cfgen.gallery.case import TILE, fitted
from cfgen.gallery.words import (
    DASH,
    STATUS_WORDS,
    agrees,
    number,
    percent,
    words_of,
)
from cfgen.result import Status

NASTY = """<script>alert("x")</script> & 'Ångström' 脳 50%#1?.png"""


class Page(HTMLParser):
    """Text, links, attributes and tags of a page."""

    def __init__(self, path):
        super().__init__()
        self.run = path.parent
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.texts, self.cards, self.parts, self.inside = [], [], [], {}, None
        self.feed(self.source)
        self.index = self.part("page/index.js")

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.inside = attrs if tag in ("script", "style") else None
        if attrs.get("class") == "card":
            self.cards.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is not None:
            if "data-part" in self.inside:
                address = self.inside["data-part"] or ""
                self.parts[address] = self.parts.get(address, "") + data
            elif self.inside.get("id") == "facts":
                self.facts = json.loads(data)
            return
        self.texts.append(data)
        if self.cards:
            self.cards[-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def part(self, address):
        """What the page is brought when it needs it."""
        if address in self.parts:
            return json.loads(self.parts[address])
        text = (self.run / address).read_text(encoding="utf-8")
        assert text.startswith("cfgen.give(") and text.endswith(")\n")
        return json.loads(text.removeprefix("cfgen.give(").removesuffix(")\n"))

    @property
    def opens(self):
        """Indices of the cases that can be opened."""
        return [i for i, keys in enumerate(self.index) if keys[-1]]

    def case(self, i):
        """What the case view is told."""
        return self.part(f"cases/{self.index[i][1]}/case.js")


def opened(data_url):
    head, content = data_url.split(",")
    assert re.fullmatch("data:image/(png|webp);base64", head)
    return Image.open(io.BytesIO(base64.b64decode(content)))


NOTHING = ("UNREADABLE", "FAILED")
"""Statuses of images that nothing was made of."""


@pytest.fixture
def full(tmp_path):
    """A run with every status."""
    rows = [row(i, status) for i, status in enumerate(Status)]
    for r in rows:
        if r["status"] in NOTHING:
            r |= {"case": "", "message": "expected a PNG file, got 0 bytes"}
    return rows, Page(write_gallery(write_run(tmp_path / "run", rows, sweep=True)))


def test_every_status_has_words():
    assert set(STATUS_WORDS) == {status.name for status in Status}


def test_every_case_status_and_reason_is_shown(full):
    rows, page = full
    assert len(page.cards) == len(rows)
    for i, (r, card) in enumerate(zip(rows, page.cards, strict=True)):
        words = words_of(r["status"])
        assert "{" not in words.text
        assert r["file"] in card and words.title in card
        assert f"{words.title}: 1" in page.text
        if r["status"] != "FLIPPED":
            assert words.text in card
        if r["status"] in NOTHING:
            assert r["message"] in card and i not in page.opens
            assert "asked for: “" not in card
        else:
            told = page.case(i)
            assert (told["name"], told["message"]) == (r["file"], "")
            assert told["words"] == words._asdict()
    assert f"{len(rows)} images" in page.text
    heading = "What is the smallest change to each image that makes the model say healthy ?"
    assert heading in page.text


def test_every_link_is_relative_and_exists(full, tmp_path):
    _, page = full
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    found = 0
    for link in links:
        parts = urlsplit(link)
        if link.startswith("#case-"):
            assert page.case(int(link.removeprefix("#case-")))
        elif link.startswith("#"):
            assert link == "#" or link[1:] in ids
        elif link != "data:,":
            assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
            assert not link.startswith("/")
            assert (tmp_path / "run" / unquote(link)).is_file()
            found += 1
    assert found == 8  # a thumbnail of each of six cases, two files of the run
    assert not re.search(
        r"https?:|\burl\(|@import|\bfetch\(|XMLHttp|WebSocket|sendBeacon", page.source
    )
    assert str(tmp_path) not in page.source


def test_the_page_forbids_itself_the_network(full):
    _, page = full
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    allowed = {word for part in policy.split("; ") for word in part.split(" ")[1:]}
    assert policy.startswith("default-src 'none'; ")
    assert allowed == {"'none'", "'self'", "'unsafe-inline'", "file:", "data:", "blob:"}


def test_thumbnails_are_lazy_and_carry_their_marks(full):
    rows, page = full
    images = page.all("img")
    assert len(images) == 6
    for attrs, r in zip(images, rows, strict=False):
        assert attrs["loading"] == "lazy" and r["file"] in attrs["alt"]
        made = r["status"] in ("FLIPPED", "RECONSTRUCTION_FLIPS")
        with Image.open(page.run / unquote(attrs["src"])) as thumbnail:
            assert thumbnail.size == (int(attrs["width"]), int(attrs["height"]))
            assert thumbnail.width == (2 * TILE + 4 if made else TILE)
            grey = np.array(thumbnail.convert("L"))
        last = grey[:, -TILE:]
        assert has_letters(last) is made
        # 103 between 100 and 105 in the middle of an original; 133 of a counterfactual is white.
        assert last[TILE // 2, TILE // 2] > 240 if made else 120 < last[TILE // 2, TILE // 2] < 190


def has_letters(tile):
    """Whether the foot of a tile, below the picture itself, has a mark."""
    return bool((tile[-30:] > 200).any())


def test_a_window_that_was_chosen_is_kept(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.ALREADY, case="c")])
    assert Page(write_gallery(run)).case(0)["fitted"]
    (run / "cases/c/window.json").write_text('{"low": 0, "high": 1, "unit": ""}')
    page = Page(write_gallery(run))
    assert not page.case(0)["fitted"]
    with Image.open(page.run / unquote(page.all("img")[0]["src"])) as thumbnail:
        assert 90 < np.array(thumbnail.convert("L"))[TILE // 2, TILE // 2] < 115


def test_fitted_leaves_out_one_in_a_hundred_at_each_end():
    levels = torch.arange(200).repeat(50).reshape(1, 100, 100) / 255
    table = fitted(levels)
    assert len(table) == 256 and table[:3] == [0, 0, 0] and table[197:] == [255] * 59
    # Two levels at each end, and no more; a straight line between them.
    assert table[3] == 1 and table[196] == 254 and table[51] == round(255 * 49 / 195)
    assert all(a <= b for a, b in zip(table, table[1:], strict=False))
    almost_one = torch.full((1, 100, 100), 50 / 255)
    almost_one[0, 0, 0] = 1
    assert fitted(almost_one)[50:52] == [0, 1] and fitted(almost_one)[255] == 255
    assert fitted(almost_one[:, 1:])[50:52] == [0, 255]
    # A range of ten levels has a window of its own, one of seven shows all there is.
    for levels, black in ((7, round(255 * 80 / 87)), (10, 0)):
        x = 100 + torch.arange(10000).reshape(1, 100, 100) % (levels + 1)
        x[0, 0, 0] = 20
        table = fitted(x / 255)
        assert (table[100], table[100 + levels]) == (black, 255)


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_patients_are_said_to_be_synthetic(tmp_path, synthetic):
    rows = [row(0, Status.FLIPPED)]
    page = Page(write_gallery(write_run(tmp_path / "run", rows, synthetic=synthetic)))
    assert ("Synthetic patients." in page.text) is synthetic
    mark = "synthetic counterfactual, not for diagnosis"
    original = "synthetic patient, not for diagnosis" if synthetic else ""
    assert page.case(0)["marks"] == [original, mark]
    with Image.open(page.run / unquote(page.all("img")[0]["src"])) as thumbnail:
        original = np.array(thumbnail.convert("L"))[:, :TILE]
    assert has_letters(original) is synthetic


def test_an_image_that_was_not_made_is_not_shown_as_one(full):
    rows, page = full
    for i, (r, card) in enumerate(zip(rows, page.cards, strict=True)):
        if r["status"] in ("ALREADY", "NO_DIRECTION", "NOT_FOUND", "NOT_FINITE"):
            assert "No counterfactual was made." in card
            assert page.case(i)["frames"] == []
        if r["status"] == "RECONSTRUCTION_FLIPS":
            (frame,) = page.case(i)["frames"]
            assert page.case(i)["words"]["made"] == "Redrawn image"
            assert frame["probability"] == "> 99.9 %"


def test_numbers_of_a_flipped_case(full):
    _, page = full
    card = " ".join(page.cards[0].split())
    for text in (
        "“tumour” → “healthy”",
        "1.2 % → > 99.9 %",
        "size of change λ 1.5, plausibility 0.0321",
    ):
        assert text in card
    assert "second model does not agree unusual image" in card
    told = page.case(0)
    assert told["cautions"] == ["second model does not agree", "unusual image"]
    assert told["facts"] == [
        ["Label given with the image", "“tumour”", ""],
        ["Model's answer", "“tumour”", "on the original"],
        ["Model, “healthy”", "1.2 % → > 99.9 %", ""],
        ["Size of change λ", "1.5", "no change of answer up to 1.25"],
        ["Plausibility", "0.0321", "unusual image"],
        ["Visible change (LPIPS)", "0.0456", "0: looks the same"],
        ["Second model, “healthy”", "11.1 % → 22.2 %", "does not agree"],
    ]
    assert told["limit"] == pytest.approx(30 / 255)
    assert told["window"] == {"low": 0.0, "high": 255.0, "unit": "grey levels"}
    assert "A second model, which had no part in the search, agrees with 0 of 1" in page.text


@pytest.mark.parametrize(
    ("judged", "told"),
    [
        (
            [(0.1, 1, "agrees"), (0.49, 0, "does not agree"), ("", 1, "agrees")],
            "agrees with 2 of 3 counterfactuals; the others are marked.",
        ),
        (
            [
                (0.1, 1, "agrees"),
                (0.5, 1, "agreed before, too"),
                (0.9, 0, "does not agree"),
                (0.2, 1, "agrees"),
            ],
            "agrees with 2 of 2 counterfactuals. Not counted: 2 where it gave the answer asked for "
            "already before the change.",
        ),
        (
            [(0.7, 1, "agreed before, too")] * 2,
            "gave the answer asked for already before the change, in every case.",
        ),
        ([(0.7, "", "")], None),
    ],
    ids=["not before", "before, too", "always before", "unknown"],
)
def test_a_second_model_that_agreed_before_is_not_counted(tmp_path, judged, told):
    """Its agreement is not the work of the change."""
    rows = [
        row(i, Status.FLIPPED, oracle_before=before, oracle_agrees=agree)
        for i, (before, agree, _) in enumerate(judged)
    ]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    start = "A second model, which had no part in the search, "
    assert (start in page.text) is (told is not None)
    assert told is None or f"{start}{told} " in page.text
    for i, (_, _, note) in enumerate(judged):
        facts = {name: note for name, _, note in page.case(i)["facts"]}
        assert facts["Second model, “healthy”"] == note


def test_doubts_are_told_and_their_absence_reassures_nobody(tmp_path):
    """A few images are never called: their smallest p-value is too large for it."""
    for name, rates, told in (
        ("some", (0.01, 0.2, 0.04), "Taken together, 2 of 3 counterfactuals look unlike real"),
        ("one", (0.01, 0.2, ""), "Taken together, 1 of 2 counterfactuals looks unlike real"),
        ("none", (0.5, 0.2, 0.9), None),
        ("former run", (), None),
    ):
        more = [{"plausibility_q": q} for q in rates] or [{}]
        rows = [row(i, Status.FLIPPED, **m) for i, m in enumerate(more)]
        page = write_gallery(write_run(tmp_path / name, rows)).read_text(encoding="utf-8")
        assert ("Taken together" in page) is (told is not None)
        assert told is None or told in page


def test_unusual_is_fewer_than_one_in_twenty(tmp_path):
    """0.05 itself is not; and 5 % of false discoveries is the rate of what is told of all."""
    values = (0.051, 0.05, 0.0499, 0.0)
    rows = [row(i, Status.FLIPPED, plausibility=v, oracle_agrees="") for i, v in enumerate(values)]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    usual = [not page.case(i)["cautions"] for i in range(4)]
    assert usual == [True, True, False, False]
    notes = [dict((f[0], f[2]) for f in page.case(i)["facts"])["Plausibility"] for i in range(4)]
    assert notes == ["", "", "unusual image", "unusual image"]
    for rates, told in (
        (values, "Taken together, 2 of 4 counterfactuals look unlike real"),
        ((0.05, 0.08, ""), None),
    ):
        rows = [row(i, Status.FLIPPED, plausibility_q=q) for i, q in enumerate(rates)]
        text = Page(write_gallery(write_run(tmp_path / str(len(rates)), rows))).text
        assert ("Taken together" in text) is (told is not None)
        assert told is None or told in text


def test_what_the_run_was_asked_is_listed(tmp_path):
    rows = [
        row(0, Status.FLIPPED),
        row(1, Status.NOT_FOUND, plausibility_q=0.01),
    ]
    more = {"region": "outside", "region_margin": 3, "hold": ["cyst", "bleed"], "seed": 7}
    page = Page(write_gallery(write_run(tmp_path / "run", rows, **more)))
    for told in (
        "Model brain",
        "Search method minimal_norm",
        "Random seed 7",
        "May change what is outside the outlined lesion and 3 pixels around it",
        "Must not move cyst, bleed",
    ):
        assert told in page.text
    plain = Page(write_gallery(write_run(tmp_path / "plain", rows)))
    assert "May change" not in plain.text and "Must not move" not in plain.text
    # Images that were not changed are no doubts about those that were.
    assert "Taken together" not in page.text


def test_only_the_flipped_are_judged_by_the_second_model(tmp_path):
    """A redrawn image is no counterfactual."""
    rows = [
        row(0, Status.FLIPPED, oracle_agrees=1),
        row(1, Status.RECONSTRUCTION_FLIPS, oracle_agrees=1, plausibility_q=0.01),
    ]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    assert "agrees with 1 of 1 counterfactuals." in page.text
    assert "Taken together" not in page.text


def test_each_of_several_counterfactuals_has_its_place(tmp_path):
    rows = [
        row(0, Status.FLIPPED, case=f"c{i}", file=file, alternative=i)
        for file, count in (("a.png", 3), ("b.png", 1))
        for i in range(1, count + 1)
    ]
    for i, r in enumerate(rows):
        r["case"] = f"c{i}"
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    assert [page.case(i)["place"] for i in range(4)] == ["1 of 3", "2 of 3", "3 of 3", ""]
    assert "2 images" in page.text


def test_each_row_has_its_own_target(tmp_path):
    rows = [row(0, Status.FLIPPED), row(1, Status.FLIPPED, target="tumour", source="healthy")]
    page = Page(write_gallery(write_run(tmp_path / "run", rows, target="stroke")))
    assert [page.case(i)["wanted"] for i in range(2)] == ["“healthy”", "“tumour”"]
    assert "makes the model say stroke ?" in page.text
    rows = [{"case": "a", "status": "FLIPPED"}]
    page = Page(write_gallery(write_run(tmp_path / "old", rows, target="stroke")))
    assert page.case(0)["wanted"] == "“stroke”"


def test_the_bracket_is_told_where_it_says_more_than_lambda(tmp_path):
    rows = [
        row(0, Status.FLIPPED, lam=1.5, lam_lower=1.499),
        row(1, Status.FLIPPED, lam=1.5, lam_lower=1.48),
        row(2, Status.FLIPPED, lam=1.5, lam_lower=""),
    ]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    notes = [
        dict((f[0], f[2]) for f in page.case(i)["facts"])["Size of change λ"] for i in range(3)
    ]
    assert notes == ["", "no change of answer up to 1.48", ""]


def test_a_confidence_changes_the_title_of_a_flip_alone():
    for status in STATUS_WORDS:
        title, plain = words_of(status, 0.9).title, words_of(status).title
        assert title == ("90 % reached" if status == "FLIPPED" else plain)


def test_a_step_near_the_flip_is_not_the_flip(tmp_path):
    """Six digits of λ are kept: what differs by a thousandth is a step of its own."""
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, lam=1.5, case="c")], sweep=True)
    path = {"lam": [0, 1.4985, 1.500001], "prob_target": [0.1, 0.4, 0.6], "flip": 1.5}
    (run / "cases/c/sweep.json").write_text(json.dumps(path))
    frames = Page(write_gallery(run)).case(0)["frames"]
    assert [(frame["lam"], frame["flip"]) for frame in frames] == [
        (0, False),
        (1.4985, False),
        (1.5, True),
    ]


def test_pictures_of_two_sizes_have_no_difference(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")])
    Image.new("L", (5, 5)).save(run / "cases/c/x_cf.png")
    assert Page(write_gallery(run)).case(0)["limit"] == 0


def test_a_thumbnail_keeps_the_aspect(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.ALREADY, case="c")])
    Image.new("L", (40, 20), 255).save(run / "cases/c/x.png")
    (run / "cases/c/window.json").write_text('{"low": 0, "high": 1, "unit": ""}')
    page = Page(write_gallery(run))
    with Image.open(page.run / unquote(page.all("img")[0]["src"])) as thumbnail:
        lit = np.array(thumbnail.convert("L")) > 128
    rows, columns = (np.flatnonzero(lit.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1]) == pytest.approx((TILE // 4, 3 * TILE // 4 - 1), abs=1)
    assert (columns[0], columns[-1]) == (0, TILE - 1)


def test_the_slider_walks_through_the_sweep_and_the_counterfactual(full):
    _, page = full
    told = page.case(0)
    names = ("lam", "step", "p", "probability", "flip", "past", "met")
    assert [tuple(frame[name] for name in names) for frame in told["frames"]] == [
        (0, "0", 0.0123, "1.2 %", False, False, False),
        (1, "1", 0.3, "30 %", False, False, False),
        (1.5, "1.5", 0.9996, "> 99.9 %", True, True, True),
        (2, "2", 0.8, "80 %", False, True, True),
    ]
    levels = [opened(frame["src"]).getpixel((0, 0)) for frame in told["frames"]]
    assert levels == [100, 120, 130, 140]
    assert opened(told["x"]).getpixel((5, 0)) == 105


@pytest.mark.parametrize(
    ("confidence", "more", "met"),
    [
        (0.9, {}, [False, False, True, False, False]),
        (None, {}, [False, False, True, False, True]),
        (None, {"met": [False, False, True, False]}, [False, False, True, True, False]),
    ],
    ids=["90 %", "the answer", "as the run says"],
)
def test_each_step_says_for_itself_whether_it_reaches_what_was_asked(
    tmp_path, confidence, more, met
):
    """Past the counterfactual the probability may fall, or a finding move that must not."""
    rows = [row(0, Status.FLIPPED, case="c", prob_after=0.91)]
    run = write_run(tmp_path / "run", rows, sweep=True, confidence=confidence)
    folder = run / "cases" / "c"
    shutil.copy(folder / "sweep/02.png", folder / "sweep/03.png")
    path = {"lam": [0, 1, 2, 3], "prob_target": [0.1, 0.3, 0.4, 0.6], "flip": 1.5}
    (folder / "sweep.json").write_text(json.dumps(path | more))
    assert [frame["met"] for frame in Page(write_gallery(run)).case(0)["frames"]] == met


def test_a_step_that_is_the_flip_is_shown_once(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, lam=1.00000, case="c")], sweep=True)
    frames = Page(write_gallery(run)).case(0)["frames"]
    assert [(frame["lam"], frame["flip"]) for frame in frames] == [
        (0, False),
        (1, True),
        (2, False),
    ]


def test_a_sweep_with_a_missing_picture_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")], sweep=True)
    (run / "cases/c/sweep/01.png").unlink()
    (frame,) = Page(write_gallery(run)).case(0)["frames"]
    assert frame["flip"]


def test_what_else_lies_in_a_case_folder_is_shown(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")])
    folder = run / "cases" / "c"
    window = {"low": -160.0, "high": 240.0, "unit": "HU"}
    (folder / "window.json").write_text(json.dumps(window))
    (folder / "concepts.json").write_text(
        json.dumps({"volume": [3.5, 1.25], "length": [math.nan, math.inf]})
    )
    (folder / "attribution").mkdir()
    Image.new("L", (6, 4), 255).save(folder / "mask.png")
    Image.new("RGB", (6, 4), (9, 8, 7)).save(folder / "attribution" / "grad_cam.png")
    told = Page(write_gallery(run)).case(0)
    assert told["window"] == window
    # JSON has no word for a number that is not finite.
    assert told["concepts"] == [["volume", 3.5, 1.25], ["length", None, None]]
    assert opened(told["mask"]).getpixel((0, 0)) == 255
    ((name, src),) = told["attribution"]
    assert name == "grad cam" and opened(src).getpixel((0, 0)) == (9, 8, 7)


def test_colour_pictures_have_their_scale(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")])
    for name, red in (("x", 0), ("x_cf", 120)):
        Image.new("RGB", (6, 4), (red, 0, 0)).save(run / f"cases/c/{name}.png")
    assert Page(write_gallery(run)).case(0)["limit"] == pytest.approx(40 / 255)


def test_a_confidence_is_what_had_to_be_reached(tmp_path):
    rows = [row(0, Status.FLIPPED, source="healthy", prob_before=0.6)]
    page = Page(write_gallery(write_run(tmp_path / "run", rows, confidence=0.9)))
    assert "90 % reached: 1" in page.text and "Answer changed" not in page.text
    assert "“healthy”, now more certain" in page.cards[0]
    told = page.case(0)
    assert told["words"]["text"] == (
        "With this change the model gives the answer that was asked for, "
        "with a probability of at least 90 %."
    )
    assert words_of("NOT_FOUND", 0.9).text == (
        "No change that the program tried, up to its limit, made the model give the answer that "
        "was asked for, with a probability of at least 90 %. So there is no second image to "
        "compare. The model held its answer against these changes; that does not make it right, "
        "and others may still turn it."
    )
    assert told["goal"] == ["90 % reached", "90 % reached"]
    assert ["Size of change λ", "1.5", "below 90 % up to 1.25"] in told["facts"]


def test_what_a_message_adds_is_shown(tmp_path):
    trouble = "The mask could not be read: no such file."
    rows = [
        row(0, Status.FLIPPED, message=trouble),
        row(1, Status.NOT_FOUND, message=f"{Status.NOT_FOUND.value} {trouble}"),
    ]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    assert [page.case(i)["message"] for i in range(2)] == [trouble, trouble]


def test_one_file_holds_everything(tmp_path):
    rows = [row(0, Status.FLIPPED, case="c"), row(1, Status.NOT_FOUND, case="d")]
    run = write_run(tmp_path / "run", rows, sweep=True)
    page = Page(write_gallery(run, single_file=True))
    assert [opened(a["src"]).height for a in page.all("img")] == [TILE, TILE]
    assert len(page.case(0)["frames"]) == 4 and "cases/c/case.js" in page.parts
    assert 'href="results.csv"' not in page.source
    assert not [*run.rglob("case.js"), *run.rglob("thumb.webp")]


def test_the_table_is_in_the_page(full):
    rows, page = full
    with open(page.run / "results.csv", encoding="utf-8", newline="") as stream:
        head, *lines = stream
    assert (page.facts["head"], page.part("page/rows-0001.js")["lines"]) == (head, lines)
    assert len(lines) == len(rows)


def test_names_are_escaped(tmp_path):
    nasty = dict.fromkeys(("file", "label", "source", "target", "message"), NASTY)
    rows = [row(0, Status.FLIPPED, **nasty), row(1, Status.UNREADABLE, **nasty)]
    page = Page(write_gallery(write_run(tmp_path / "run", rows, sweep=True, checkpoint=NASTY)))
    assert len(page.all("script")) == 4  # facts, keys, the table, the program
    assert "<script>alert" not in page.source
    for card in page.cards:
        assert card.count(NASTY) >= 2  # name and target or message, whole
    assert page.case(0)["wanted"] == f"“{NASTY}”"
    assert page.index[0][0] == NASTY


def test_unknown_status_and_missing_columns_are_shown(tmp_path):
    rows = [{"case": "a", "status": "FLIPPED"}, {"case": "b", "status": "LOST"}]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    assert f": {DASH}" in page.cards[0]
    assert "LOST" in page.cards[1]
    assert page.case(0)["facts"] == []
    assert page.case(0)["frames"][0]["p"] is None
    assert "makes the model give another answer?" in page.text


@pytest.mark.parametrize(
    ("region", "margin", "told"),
    [
        (None, 0, "The program did not know it."),
        (
            "lesion",
            0,
            "The program was told it: it was allowed to change only the outlined lesion.",
        ),
        (
            "outside",
            3,
            "The program was told it: it was allowed to change only what is outside the outlined "
            "lesion and 3 pixels around it.",
        ),
    ],
)
def test_the_help_says_what_the_program_knew(tmp_path, region, margin, told):
    """An outline that confines the change says nothing about where the model looks."""
    rows = [row(0, Status.FLIPPED)]
    run = write_run(tmp_path / "run", rows, region=region, region_margin=margin)
    text = Page(write_gallery(run)).text
    assert f"somebody drew on the original image. {told} Visible change" in text
    assert "images of other patients only, but the program may have learned from it" in text


def test_missing_pictures_are_said_to_be_missing(tmp_path):
    rows = [row(0, Status.FLIPPED, case="c"), row(1, Status.FLIPPED, case="d")]
    run = write_run(tmp_path / "run", rows)
    (run / "cases/c/x.png").unlink()
    (run / "cases/d/x_cf.png").unlink()
    page = Page(write_gallery(run))
    assert "No picture" in page.cards[0] and page.opens == [1]
    assert "The picture is missing." in page.cards[1]
    assert page.case(1)["frames"] == []


@pytest.mark.parametrize("place", ["settings", "arguments"])
def test_a_run_that_kept_its_rows_only_shows_numbers_and_says_so(tmp_path, place):
    rows = [row(0, Status.FLIPPED), row(1, Status.NOT_FOUND)]
    run = write_run(tmp_path / "run", rows)
    shutil.rmtree(run / "cases")
    (run / "run.json").write_text(json.dumps({place: {"keep": "rows"}}))
    page = Page(write_gallery(run))
    assert "This run kept the numbers of each image, and no pictures." in page.text
    assert "stands beside a computer-made version" not in page.text
    assert not page.all("img") and page.opens == [] and "No picture" not in page.text
    card = " ".join(page.cards[0].split())
    for text in (
        "“tumour” → “healthy”",
        "1.2 % → > 99.9 %",
        "size of change λ 1.5, plausibility 0.0321",
        "second model does not agree",
    ):
        assert text in card
    (button,) = (a for a in page.all("button") if a.get("id") == "print-all")
    assert "hidden" in button


def test_a_run_that_kept_its_pictures_says_what_it_has_not(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")], keep="pictures")
    page = Page(write_gallery(run))
    told = (
        "This run kept the pictures of each case, but not the steps between them, and no arrays "
        "(case.npz)."
    )
    assert told in page.text and len(page.all("img")) == 1
    (frame,) = page.case(0)["frames"]
    assert frame["flip"]
    for keep in ({}, {"keep": "all"}):
        (run / "run.json").write_text(json.dumps({"settings": keep}))
        assert "This run kept" not in Page(write_gallery(run)).text


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"finished": False, "done": 3, "images": 10}, "3 of 10 images are done"),
        ({"finished": False, "images": 10}, "1 of 10 images are done"),
        ({"finished": True, "done": 10, "images": 10}, None),
        ({}, None),
    ],
)
def test_a_run_that_has_not_finished_says_how_far_it_is(tmp_path, record, told):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED)])
    (run / "run.json").write_text(json.dumps(record))
    text = Page(write_gallery(run)).text
    assert ("The same command goes on" in text) is (told is not None)
    if told:
        assert f"{told}: this run has not finished. The same command goes on with it." in text


def test_a_failure_of_any_kind_is_a_card_with_its_reason(tmp_path):
    rows = [
        row(0, Status.NOT_FOUND, source="", target="") | {"status": "FAILED", "message": "no disk"},
        row(1, Status.NOT_FOUND) | {"status": "NOT_EVEN_KNOWN", "message": "why"},
    ]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    failed, other = (" ".join(card.split()) for card in page.cards)
    assert failed.endswith("Reason: no disk") and "asked for" not in failed
    assert "NOT_EVEN_KNOWN" in other and "Reason: why" in other
    assert page.facts["statuses"] == ["FAILED", "NOT_EVEN_KNOWN"]


def test_facts_outside_settings_are_read_too(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED)])
    record = {"settings": {"confidence": 0.9}, "checkpoint": {"name": "mine"}, "synthetic": True}
    (run / "run.json").write_text(json.dumps(record))
    page = Page(write_gallery(run))
    assert "Synthetic patients." in page.text
    assert "Model mine" in page.text
    assert "with a probability of at least 90 %" in page.text


def test_two_targets_are_asked_about_in_general(tmp_path):
    rows = [row(0, Status.FLIPPED), row(1, Status.FLIPPED, target="tumour", source="healthy")]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    assert "makes the model give another answer?" in page.text
    assert "all healthy → tumour tumour → healthy" in page.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9996, "> 99.9 %"),
        (1.0, "> 99.9 %"),
        (0.999, "99.9 %"),
        (0.0004, "< 0.1 %"),
        (0.0123, "1.2 %"),
        ("0.5", "50 %"),
        (0.00183, "0.2 %"),
        (0.001, "0.1 %"),
        (0.9991, "> 99.9 %"),
        (0, "< 0.1 %"),
        (-0.1, DASH),
        ("", DASH),
        ("nan", DASH),
        (1.2, DASH),
    ],
)
def test_percent(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00012, "< 0.001"),
        (0.001, "0.001"),
        (-0.5, "-0.5"),
        (0.012345, "0.0123"),
        (12.345, "12.3"),
        (1234.5, "1,230"),
        ("1e6", "1,000,000"),
        ("", DASH),
        ("inf", DASH),
        (None, DASH),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_agrees():
    assert [agrees(t) for t in ("1", "True", "0", "false", "", "nan")] == [
        *(True, True, False, False),
        *(None, None),
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_no_difference_leaves_the_grey_image(channels):
    levels = torch.arange(256, dtype=torch.float64).view(1, 16, 16)
    x = (levels / 255).expand(channels, -1, -1)
    painted, limit = difference_overlay(x, x.clone())
    assert painted.dtype == torch.uint8
    assert torch.equal(painted, levels.byte().expand(3, -1, -1))
    assert limit == 8 / 255


def srgb_to_oklab(rgb):
    """Slow and obvious: the published matrices, one pixel at a time."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return torch.tensor(
        [
            0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
            1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
            0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
        ]
    )


def test_oklab_goes_there_and_back():
    for rgb in ([0.2, 0.5, 0.9], [1.0, 0.5, 0.1], [0.3, 0.3, 0.3]):
        lab = srgb_to_oklab(rgb)
        assert oklab_to_srgb(lab.double()).tolist() == pytest.approx(rgb, abs=1e-4)


@pytest.mark.parametrize("grey", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sign", [-1, 1])
def test_equal_differences_are_equal_steps_for_the_eye(grey, sign):
    d = sign * torch.linspace(0, 0.4, 9, dtype=torch.float64).view(1, 1, 9)
    painted, _ = difference_overlay(torch.full_like(d, grey), grey + d)
    colours = torch.stack([srgb_to_oklab((painted[:, 0, k] / 255).tolist()) for k in range(9)])
    steps = colours.diff(dim=0).norm(dim=1)
    assert steps.std() / steps.mean() < 0.08  # 8 bits a channel
    end = torch.tensor(DARKER if sign < 0 else BRIGHTER)
    assert (colours[-1] - end).abs().max() < 0.005


def test_the_colours_stay_apart_with_every_common_colour_blindness():
    # Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color vision
    # deficiency, 2009: protanopia, deuteranopia and tritanopia, on linear RGB.
    blindness = torch.tensor(
        [
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
             [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
             [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
             [0.004733, 0.691367, 0.303900]],
        ]
    )  # fmt: skip
    ends = torch.stack([oklab_to_srgb(torch.tensor(e)) for e in (DARKER, BRIGHTER)], 1)
    linear = torch.where(ends > 0.04045, ((ends + 0.055) / 1.055) ** 2.4, ends / 12.92)
    for matrix in blindness:
        seen = (matrix @ linear).clamp(0, 1)
        seen = torch.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen)
        dark, bright = (srgb_to_oklab(colour.tolist()) for colour in seen.T)
        assert (dark - bright).norm() > 0.15  # 0.02 can just be told apart
    assert DARKER[0] == BRIGHTER[0] == LIGHTNESS
    for end in (DARKER, BRIGHTER):
        assert (end[1] ** 2 + end[2] ** 2) ** 0.5 == pytest.approx(CHROMA)


def test_darker_is_blue_and_brighter_is_orange():
    x = torch.full((1, 1, 3), 0.5, dtype=torch.float64)
    painted, limit = difference_overlay(x, x + torch.tensor([[[-0.4, 0.0, 0.4]]]))
    assert limit == pytest.approx(0.4)
    (r, g, b), middle, (red, green, blue) = painted[:, 0].T.tolist()
    assert b > g > r and red > green > blue
    assert middle == [128] * 3


def test_difference_scale():
    x = torch.zeros(1, 1, 2, dtype=torch.float64)
    x_cf = torch.tensor([[[0.1, 0.2]]], dtype=torch.float64)
    painted, limit = difference_overlay(x, x_cf, limit=0.4)
    assert limit == 0.4
    for k, share in enumerate((0.25, 0.5)):
        lab = srgb_to_oklab((painted[:, 0, k] / 255).tolist())
        assert (lab - share * torch.tensor(BRIGHTER)).abs().max() < 0.01
    assert difference_limit(x, x_cf) == difference_overlay(x, x_cf)[1] == pytest.approx(0.2)
    beyond, _ = difference_overlay(x, x_cf, limit=0.05)
    assert torch.equal(beyond[:, 0, 0], beyond[:, 0, 1])


def test_the_scale_is_the_largest_change_either_way_of_the_mean():
    x = torch.full((3, 1, 2), 0.5, dtype=torch.float64)
    change = torch.tensor([-0.3, 0.1]).expand(3, 1, 2)
    assert difference_limit(x, x + change) == pytest.approx(0.3)
    red = torch.zeros_like(x)
    red[0, 0, 0] = 0.3
    assert difference_limit(x, x + red) == pytest.approx(0.1)
    assert difference_limit(x, x + 0.032) == pytest.approx(0.032)  # a little more than 8 / 255


def test_the_ground_is_the_original_and_a_dark_colour_is_linear():
    x = torch.full((1, 1, 1), 0.2, dtype=torch.float64)
    painted, _ = difference_overlay(x, x + 0.4, limit=1e9)
    assert painted.flatten().tolist() == [51] * 3
    # Below 0.0031308 of linear light sRGB is a straight line, 12.92 times as steep.
    for light in (0.002, 0.0031, 0.0032, 0.01):
        lightness = light ** (1 / 3)
        got = oklab_to_srgb(torch.tensor([lightness, 0.0, 0.0], dtype=torch.float64))
        want = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
        assert got.tolist() == pytest.approx([want] * 3, abs=1e-6)
    for out in (
        oklab_to_srgb(torch.tensor([1.2, 0.0, 0.0])),
        oklab_to_srgb(torch.tensor(BRIGHTER)),
    ):
        assert out.min() >= 0 and out.max() <= 1


def test_noise_is_not_blown_up():
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    painted, limit = difference_overlay(x, x + 1 / 255)
    assert limit == 8 / 255
    lab = srgb_to_oklab((painted[:, 0, 0] / 255).tolist())
    assert float(lab.norm()) < 0.15


def test_difference_refuses_what_it_cannot_paint():
    x = torch.zeros(1, 2, 2)
    message = "expected two images of one shape (C, H, W), got (1, 2, 2) and (1, 2, 3)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        difference_overlay(x, torch.zeros(1, 2, 3))
    message = "expected two images of one shape (C, H, W), got (1, 1, 2, 2) and (1, 1, 2, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        difference_limit(x[None], x[None])
    with pytest.raises(ValueError, match="^expected limit > 0, got 0.0$"):
        difference_overlay(x, x, limit=0.0)

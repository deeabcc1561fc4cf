"""The page of a run: complete, escaped, offline; and the picture of the difference."""

import csv
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from cfgen.gallery import difference_limit, difference_overlay, write_gallery
from cfgen.gallery.difference import BRIGHTER, DARKER
from cfgen.gallery.write import DASH, STATUS_WORDS, agrees, number, percent
from cfgen.result import Status

MARK = "synthetic counterfactual - not for diagnosis"
NASTY = """<script>alert("x")</script> & 'Ångström' 脳 50%#1?.png"""
SETTINGS = {"checkpoint": "brain", "direction": "minimal_norm", "confidence": None, "seed": 0}


def row(i, status, **more):
    base = {
        "case": f"case {i} é#%",
        "file": f"a/b{i}.png",
        "label": "tumour",
        "source": "tumour",
        "target": "healthy",
        "status": status.name,
        "message": "" if status is Status.FLIPPED else status.value,
        "prob_before": 0.0123,
    }
    if status in (Status.FLIPPED, Status.RECONSTRUCTION_FLIPS):
        base |= {"lam": 1.5, "lam_lower": 1.25, "prob_after": 0.9996, "lpips": 0.0456}
        base |= {"plausibility": 0.0321, "oracle_before": 0.111, "oracle_after": 0.222}
        base |= {"oracle_agrees": i % 2}
    return base | more


def picture(path, value):
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)


def write_run(out, rows, sweep=False, **settings):
    out.mkdir()
    columns = dict.fromkeys(name for r in rows for name in r)
    with open(out / "results.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    (out / "run.json").write_text(json.dumps({"settings": SETTINGS | settings}))
    for r in rows:
        if r["status"] == "UNREADABLE":
            continue
        folder = out / "cases" / r["case"]
        (folder / "sweep").mkdir(parents=True)
        for name, value in (("x", 100), ("x_cf", 130), ("difference", 120)):
            picture(folder / f"{name}.png", value)
        if sweep and r["status"] == "FLIPPED":
            for k in range(3):
                picture(folder / "sweep" / f"{k:02d}.png", 100 + k)
            data = {"lam": [0, 1, 2], "prob_target": [0.0123, 0.3, 0.8], "flip": 2}
            (folder / "sweep.json").write_text(json.dumps(data))
    return out


class Page(HTMLParser):
    """Text, links, attributes and tags of a page."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.texts, self.cards = [], [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "article":
            self.cards.append("")

    def handle_data(self, data):
        self.texts.append(data)
        if self.cards:
            self.cards[-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def links(self):
        for _, attrs in self.tags:
            yield from (attrs[name] for name in ("src", "href") if name in attrs)
            if "data-frames" in attrs:
                yield from json.loads(attrs["data-frames"])["src"]


@pytest.fixture
def full(tmp_path):
    """A run with every status."""
    rows = [row(i, status) for i, status in enumerate(Status)]
    unreadable = next(r for r in rows if r["status"] == "UNREADABLE")
    unreadable |= {"case": "", "message": "expected a PNG file, got 0 bytes"}
    return rows, Page(write_gallery(write_run(tmp_path / "run", rows, sweep=True)))


def test_every_status_has_words():
    assert set(STATUS_WORDS) == {status.name for status in Status}


def test_every_case_status_and_reason_is_shown(full):
    rows, page = full
    assert len(page.cards) == len(rows)
    for r, card in zip(rows, page.cards, strict=True):
        words = STATUS_WORDS[r["status"]]
        for text in (r["file"], words.title, words.text, r["message"]):
            assert text in card
        assert f"{words.title}: 1" in page.text
    assert f"{len(rows)} images" in page.text
    heading = "What is the smallest change to each image that makes the model say healthy ?"
    assert heading in page.text


def test_every_link_is_relative_and_exists(full, tmp_path):
    _, page = full
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    found = 0
    for link in page.links():
        parts = urlsplit(link)
        if link.startswith("#"):
            assert link[1:] in ids
        elif link != "data:,":
            assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
            assert not link.startswith("/")
            assert (tmp_path / "run" / unquote(link)).is_file()
            found += 1
    assert found > 12
    assert not re.search("https?:|//[a-z]|url\\(|@import", page.source, re.IGNORECASE)


def test_every_synthetic_picture_is_marked(full):
    _, page = full
    made = [a for a in page.all("img") if not a["src"].endswith("/x.png")]
    assert page.text.count(MARK) == len(made) == 5
    for attrs in page.all("img"):
        assert attrs["alt"] and attrs["loading"] == "lazy"
        assert (attrs["width"], attrs["height"]) == ("12", "8")


def test_an_image_that_was_not_made_is_not_shown_as_one(full):
    rows, page = full
    for r, card in zip(rows, page.cards, strict=True):
        if r["status"] in ("ALREADY", "NO_DIRECTION", "NOT_FOUND"):
            assert "No counterfactual was made." in card
            assert MARK not in card
        if r["status"] == "RECONSTRUCTION_FLIPS":
            assert "Redrawn image" in card
            assert "Counterfactual" not in card


def test_numbers_of_a_flipped_case(full):
    _, page = full
    card = " ".join(page.cards[0].split())
    for text in ("1.23 % → > 99.9 %", "no change of answer up to 1.25", "0.0456", "0.0321"):
        assert text in card
    assert "an unusual image" in card
    assert "11.1 % → 22.2 % does not agree" in card
    assert "−30 darker" in card and "+30 brighter" in card
    assert "A second model, which had no part in the search, agrees with 0 of 1" in page.text


def test_colour_pictures_have_their_scale(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")])
    for name, red in (("x", 0), ("x_cf", 120)):
        Image.new("RGB", (6, 4), (red, 0, 0)).save(run / f"cases/c/{name}.png")
    assert "+40 brighter" in Page(write_gallery(run)).cards[0]


def test_slider_marks_the_flip(full):
    _, page = full
    (walk,) = (a for a in page.all("figure") if "data-frames" in a)
    frames = json.loads(walk["data-frames"])
    assert frames["prob"] == ["1.23 %", "30 %", "80 %"]
    assert frames["past"] == [False, False, True]
    (slider,) = page.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "0")
    (mark,) = page.all("i")
    assert "0.7500 *" in mark["style"]


def test_no_slider_without_a_sweep(tmp_path):
    page = Page(write_gallery(write_run(tmp_path / "run", [row(0, Status.FLIPPED)])))
    assert not page.all("input")


def test_a_sweep_with_a_missing_picture_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")], sweep=True)
    (run / "cases/c/sweep/01.png").unlink()
    assert not Page(write_gallery(run)).all("input")


def test_names_are_escaped(tmp_path):
    nasty = dict.fromkeys(("file", "label", "source", "target", "message"), NASTY)
    rows = [row(0, Status.FLIPPED, **nasty), row(1, Status.UNREADABLE, **nasty)]
    page = Page(write_gallery(write_run(tmp_path / "run", rows, sweep=True, checkpoint=NASTY)))
    assert len(page.all("script")) == 1
    assert NASTY not in page.source
    for card in page.cards:
        assert card.count(NASTY) >= 2  # name and message, whole
    (walk,) = (a for a in page.all("figure") if "data-wanted" in a)
    assert walk["data-wanted"] == f"“{NASTY}”"
    assert page.text.count("Ångström") >= 8


def test_unknown_status_and_missing_columns_are_shown(tmp_path):
    rows = [{"case": "a", "status": "FLIPPED"}, {"case": "b", "status": "LOST"}]
    page = Page(write_gallery(write_run(tmp_path / "run", rows)))
    assert f"{DASH} → {DASH}" in page.cards[0]
    assert "LOST" in page.cards[1]
    assert "makes the model change its answer?" in page.text


def test_missing_pictures_are_said_to_be_missing(tmp_path):
    run = write_run(tmp_path / "run", [row(0, Status.FLIPPED, case="c")])
    for name in ("x", "x_cf", "difference"):
        (run / f"cases/c/{name}.png").unlink()
    page = Page(write_gallery(run))
    assert page.cards[0].count("The picture is missing.") == 3
    assert not page.all("img")


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_patients_are_said_to_be_synthetic(tmp_path, synthetic):
    rows = [row(0, Status.FLIPPED)]
    page = Page(write_gallery(write_run(tmp_path / "run", rows, synthetic=synthetic)))
    assert ("Synthetic patients." in page.text) is synthetic
    assert ("synthetic patient" in page.cards[0]) is synthetic


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
    assert "makes the model change its answer?" in page.text


def test_five_hundred_cases(tmp_path):
    rows = [row(i, Status.NOT_FOUND, case="c", file=f"{i}.png") for i in range(500)]
    run = write_run(tmp_path / "run", rows[:1])
    with open(run / "results.csv", "a", newline="", encoding="utf-8") as stream:
        csv.DictWriter(stream, rows[0]).writerows(rows[1:])
    assert len(Page(write_gallery(run)).cards) == 500


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9996, "> 99.9 %"),
        (1.0, "> 99.9 %"),
        (0.999, "99.9 %"),
        (0.0004, "< 0.1 %"),
        (0.0123, "1.23 %"),
        ("0.5", "50 %"),
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
    picture, limit = difference_overlay(x, x.clone())
    assert picture.dtype == torch.uint8
    assert torch.equal(picture, levels.byte().expand(3, -1, -1))
    assert limit == 8 / 255


def test_difference_is_blue_where_darker_and_orange_where_brighter():
    x = torch.full((1, 1, 3), 0.5, dtype=torch.float64)
    picture, limit = difference_overlay(x, x + torch.tensor([[[-0.4, 0.0, 0.4]]]))
    assert limit == pytest.approx(0.4)
    assert picture[:, 0, 0].tolist() == list(DARKER)
    assert picture[:, 0, 1].tolist() == [128] * 3
    assert picture[:, 0, 2].tolist() == list(BRIGHTER)
    assert DARKER[2] > DARKER[0] and BRIGHTER[0] > BRIGHTER[2]


def test_difference_scale():
    x = torch.zeros(1, 1, 2, dtype=torch.float64)
    x_cf = torch.tensor([[[0.1, 0.2]]], dtype=torch.float64)
    picture, limit = difference_overlay(x, x_cf, limit=0.4)
    assert limit == 0.4
    expected = torch.tensor(BRIGHTER)[:, None] * torch.tensor([0.25, 0.5])
    assert (picture[:, 0].double() - expected).abs().max() <= 0.5
    assert difference_limit(x, x_cf) == difference_overlay(x, x_cf)[1] == pytest.approx(0.2)
    beyond, _ = difference_overlay(x, x_cf, limit=0.05)
    assert beyond[:, 0, 1].tolist() == list(BRIGHTER)


def test_noise_is_not_blown_up():
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    picture, limit = difference_overlay(x, x + 1 / 255)
    assert limit == 8 / 255
    assert picture[:, 0, 0].tolist() == [round(c / 8) for c in BRIGHTER]


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

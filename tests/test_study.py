"""The questions file, the plan, and what a reader's file gives away."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reader_study import ORIGIN, QUESTIONS, make_run, read_key, write_questions
from sklearn.metrics import roc_auc_score
from tiny import checkpoint_folder  # noqa: F401

import cfgen.study
from cfgen.cli import main
from cfgen.study.design import Page, chosen, plan
from cfgen.study.material import Material
from cfgen.study.parse import read_questions
from cfgen.study.questions import Question, Questionnaire
from cfgen.study.veil import keystream
from cfgen.study.write import write_study

EXAMPLES = Path(cfgen.study.__file__).parent
ARMS = ("unaided", "counterfactual", "attribution")
CHOICE = Question("f", "choice", "?", ("a", "b"), labelled=True)
BOTH = (CHOICE, Question("o", "real-or-synthetic", "?", ("real", "synthetic")))


def cases(n: int) -> dict[str, str]:
    return {f"c{i}": "ab"[i % 2] for i in range(n)}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    questions = read_questions(write_questions(folder))
    write_study(make_run(folder / "run", 40), questions, 3, folder / "out", seed=5)
    return folder / "out"


def data_of(page: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="study">(.*?)</script>', page.read_text()
    )
    assert found
    return json.loads(found[1])


# The questions file


def test_example_is_read_whole():
    questions = read_questions(EXAMPLES / "example.yaml")
    assert questions.arms == ("unaided", "counterfactual")
    assert [q.type for q in questions.questions] == ["choice", "scale", "yes-no", "text"]
    finding, likelihood, quality, remarks = questions.questions
    assert finding.options == ("healthy", "tumour")
    assert finding.labelled and finding.confidence and not finding.optional
    assert likelihood.options == ("1", "2", "3", "4", "5")
    assert likelihood.ends == ("surely not there", "surely there")
    assert not quality.confidence and remarks.optional
    assert not questions.allow_back
    assert Questionnaire.from_dict(json.loads(json.dumps(questions.as_dict()))) == questions


def test_example_suits_the_demo_run():
    config = EXAMPLES.parents[1] / "checkpoints" / "brain-flair" / "classifier" / "config.json"
    if not config.is_file():
        pytest.skip("checkpoints/brain-flair is not there")
    classes = json.loads(config.read_text())["classes"]
    questions = read_questions(EXAMPLES / "example.yaml")
    assert list(questions.classes) == classes
    assert plan({f"c{i}": classes[i % 2] for i in range(8)}, 3, questions, 0)


def test_example_of_origin_is_read():
    questions = read_questions(EXAMPLES / "real-or-synthetic.yaml")
    assert questions.asks_origin and not questions.asks_reading
    assert [q.id for q in questions.on("origin")] == ["origin", "remarks"]


def broken(old: str, new: str) -> str:
    assert old in QUESTIONS
    return QUESTIONS.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected YAML in 'q.yaml', got: expected the node content, "
         "but found '<stream end>' in line 1"),
        ("- a", "q.yaml: expected keys and values at the top, got ['a']"),
        ("", "q.yaml: expected keys and values at the top, got nothing"),
        (broken("title: Reading slices\n", ""), "q.yaml: expected 'title' at the top, got none"),
        (broken("Reading slices", "7"),
         "q.yaml: expected text for 'title' at the top, got 7 (put it in quotes)"),
        (broken("classes: [healthy, tumour]", "classes: [yes, no]"),
         "q.yaml: expected texts in 'classes' at the top, got True (put it in quotes)"),
        (broken("[unaided, counterfactual]", "[unaided, unaided]"),
         "q.yaml: expected 'arms' without repetition at the top, got ['unaided', 'unaided']"),
        (broken("[unaided, counterfactual]", "[unaided, magic]"),
         "q.yaml: expected arms of unaided, counterfactual, attribution, got 'magic'"),
        (broken("arms: [unaided, counterfactual]\n", ""),
         "q.yaml: expected 'arms' with a question about the image, got none"),
        (broken("repeats: 3", "repeats: some"),
         "q.yaml: expected a whole number for 'repeats' at the top, got 'some'"),
        (broken("repeats: 3", "repeats: -1"),
         "q.yaml: expected 'repeats' of at least 0 at the top, got -1"),
        (broken("repeats: 3", "repeats: yes"),
         "q.yaml: expected a whole number for 'repeats' at the top, got True"),
        (broken("repeats: 3", "repeat: 3"),
         "q.yaml: expected the keys title, introduction, classes, arms, attribution, design, "
         "cases, repeats, gap, allow_back, questions at the top, got 'repeat'"),
        (broken("repeats: 3", "design: latin"),
         "q.yaml: expected 'design' at the top to be one of crossed, split, got 'latin'"),
        (broken("repeats: 3", "attribution: gradcam"),
         "q.yaml: expected the arm attribution with 'attribution', got no such arm"),
        (broken("repeats: 3", "allow_back: 1"),
         "q.yaml: expected true or false for 'allow_back' at the top, got 1"),
        (broken("type: text", "type: essay"),
         "q.yaml: expected 'type' in question 'remarks' to be one of choice, yes-no, scale, "
         "real-or-synthetic, text, got 'essay'"),
        (broken("id: remarks", "id: finding"),
         "q.yaml: expected different ids of the questions, got 'finding' twice"),
        (broken("id: remarks", "id: Finding"),
         "q.yaml: expected different ids of the questions, got 'finding' twice"),
        (broken('it?", positive: tumour', 'it?", positive: cyst'),
         "q.yaml: expected a class of healthy, tumour with 'positive' in question 'finding', "
         "got 'cyst'"),
        (broken('it?", positive: tumour', 'it?", options: [a]'),
         "q.yaml: expected two 'options' or more in question 'finding', got 1"),
        (broken('likely is it?"', 'likely is it?", points: 12'),
         "q.yaml: expected 'points' from 2 to 11 in question 'likelihood', got 12"),
        (broken('likely is it?"', 'likely is it?", ends: [low]'),
         "q.yaml: expected two 'ends' in question 'likelihood', got 1"),
        ("title: t\nquestions:\n- {id: a, type: text, ask: why}\n",
         "q.yaml: expected 'arms' or a question of type real-or-synthetic, got neither"),
        ("title: t\n", "q.yaml: expected 'questions' at the top, got none"),
        (ORIGIN + "arms: [unaided]\n",
         "q.yaml: expected a question about the image with 'arms', got none"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_questions_is_one_line(tmp_path, text, message):
    with pytest.raises(ValueError) as error:
        read_questions(write_questions(tmp_path, text))
    assert str(error.value) == message


def test_every_key_of_the_questions_file_counts(tmp_path):
    """Each one at a value that is not its default."""
    text = """
title: T
introduction: Read this first.
classes: [a, b]
arms: [unaided, attribution]
attribution: gradcam
design: split
cases: 7
repeats: 2
gap: 1
allow_back: true
questions:
  - {id: own, type: choice, ask: "?", options: [x, y, z], confidence: false, optional: true}
  - {id: is, type: yes-no, ask: "?", positive: b}
  - {id: far, type: scale, ask: "?", points: 7, ends: [low, high], positive: a}
  - {id: say, type: text, ask: "?", optional: false}
"""
    assert read_questions(write_questions(tmp_path, text)) == Questionnaire(
        "T",
        (
            Question("own", "choice", "?", ("x", "y", "z"), optional=True),
            Question("is", "yes-no", "?", ("yes", "no"), positive="b", confidence=True),
            Question("far", "scale", "?", tuple("1234567"), ("low", "high"), positive="a"),
            Question("say", "text", "?"),
        ),
        "Read this first.",
        ("a", "b"),
        ("unaided", "attribution"),
        "gradcam",
        "split",
        7,
        2,
        1,
        True,
    )
    text = "title: T\nclasses: [a, b]\narms: [unaided]\nquestions:\n"
    least = text + '  - {id: q, type: choice, ask: "?"}\n  - {id: s, type: scale, ask: "?"}\n'
    found = read_questions(write_questions(tmp_path, least))
    choice = Question("q", "choice", "?", ("a", "b"), labelled=True, confidence=True)
    scale = Question("s", "scale", "?", tuple("12345"))
    assert found == Questionnaire("T", (choice, scale), "", ("a", "b"), ("unaided",))
    assert (found.design, found.cases, found.repeats, found.gap) == ("crossed", None, 0, None)


def test_a_study_is_as_its_questions_file_says(tmp_path):
    run = make_run(tmp_path / "run", 10)
    text = QUESTIONS.replace("repeats: 3", "repeats: 1\ncases: 6\nallow_back: true\ngap: 1")
    text = text.replace("title: ", "introduction: Please read.\ntitle: ")
    questions = read_questions(write_questions(tmp_path, text))
    study = write_study(run, questions, 2, tmp_path / "out", seed=1)
    data = data_of(study.pages[0])
    assert (data["introduction"], data["allow_back"]) == ("Please read.", True)
    assert (data["title"], data["reader"], data["columns"]) == ("Reading slices", 1, 3)
    assert data_of(study.pages[1])["reader"] == 2
    key = read_key(tmp_path / "out")
    assert len({row["case"] for row in key}) == study.record["cases"] == 6
    assert (
        Counter(row["truth"] for row in key if row["arm"] == "unaided" and row["repeat"] == "0")[
            "tumour"
        ]
        == 6
    )  # three of each class, of two readers
    assert sum(row["repeat"] == "1" for row in key) == 2
    assert study.record["pages"] == 13
    shown = {q["id"]: q for q in data["questions"]["reading"]}
    assert set(shown) == {"finding", "likelihood", "remarks"}
    names = {"id", "type", "ask", "options", "ends", "confidence", "optional"}
    assert set(shown["finding"]) == names  # nothing that helps to answer it
    assert shown["finding"]["confidence"] and not shown["likelihood"]["confidence"]
    assert shown["remarks"]["optional"] and not shown["finding"]["optional"]
    once = Questionnaire("t", (CHOICE,), arms=("unaided",))
    alone = write_study(run, once, 1, tmp_path / "alone", seed=1)
    assert data_of(alone.pages[0])["columns"] == 1
    assert not data_of(alone.pages[0])["allow_back"]


def test_a_gap_of_the_questions_file_is_kept():
    least = {7: 99, 1: 99}
    for gap in least:
        questions = Questionnaire("t", (CHOICE,), arms=ARMS[:2], gap=gap, repeats=5)
        for seed in range(6):
            seen: dict[str, int] = {}
            for page in plan(cases(12), 1, questions, seed)[0]:
                if page.case in seen:
                    least[gap] = min(least[gap], page.position - seen[page.case])
                seen[page.case] = page.position
    assert least[7] > 7 and 1 < least[1] < 7


def test_right_answers_and_ratings():
    yes_no = Question("y", "yes-no", "?", ("yes", "no"), positive="a", confidence=True)
    assert [yes_no.right(t) for t in ("a", "b", "")] == ["yes", "no", None]
    assert [yes_no.rating("yes", 4), yes_no.rating("no", 4)] == [4, -4]
    assert yes_no.ratings() == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    opinion = Question("n", "yes-no", "?", ("yes", "no"))
    assert opinion.right("a") is None and opinion.diseased("a") is None
    choice = Question("c", "choice", "?", ("a", "b", "c"), positive="b", labelled=True)
    assert [choice.right(t) for t in ("a", "b", "")] == ["a", "b", None]
    assert [choice.rating(o, None) for o in "abc"] == [-1, 1, -1]
    assert [choice.diseased(t) for t in ("a", "b", "")] == [False, True, None]
    unordered = Question("u", "choice", "?", ("a", "b", "c"), labelled=True)
    assert unordered.rating("a", 5) is None
    scale = Question("s", "scale", "?", ("1", "2", "3"))
    assert [scale.rating("3", None), scale.ratings(), scale.right("a")] == [3, [1, 2, 3], None]


# The plan


@pytest.mark.parametrize("design", ["crossed", "split"])
@pytest.mark.parametrize("arms", [ARMS[:1], ARMS[:2], ARMS])
@pytest.mark.parametrize(("n", "repeats"), [(6, 3), (20, 0), (41, 9)])
def test_plan_is_balanced_and_keeps_the_gap(design, arms, n, repeats):
    labels, readers = cases(n), 3
    questions = Questionnaire("t", BOTH, arms=arms, design=design, repeats=repeats)
    plans = plan(labels, readers, questions, seed=0)
    for pages in plans:
        assert [page.position for page in pages] == list(range(1, len(pages) + 1))
        assert [page.kind for page in pages] == sorted(p.kind for p in pages)  # origin first
        for kind in ("origin", "reading"):
            seen: dict[str, int] = {}
            for i, page in enumerate(page for page in pages if page.kind == kind):
                assert page.case not in seen or i - seen[page.case] > n // 2
                seen[page.case] = i
            assert sum(page.repeat for page in pages if page.kind == kind) == repeats
        origin = [page for page in pages if page.kind == "origin" and not page.repeat]
        assert sorted(page.case for page in origin) == sorted(labels)
        counts = Counter(page.truth for page in origin)
        assert abs(counts["real"] - counts["synthetic"]) <= 1
        reading = [page for page in pages if page.kind == "reading" and not page.repeat]
        assert all(page.truth == labels[page.case] for page in reading)
        shown = Counter((page.case, page.arm) for page in reading)
        assert set(shown.values()) == {1}
        if design == "crossed":
            assert set(shown) == {(case, arm) for case in labels for arm in arms}
        else:
            assert sorted(case for case, _ in shown) == sorted(labels)
        # In each part the arms are dealt evenly, and within a class too.
        for part in {page.part for page in reading}:
            for truth in "ab":
                dealt = Counter(p.arm for p in reading if (p.part, p.truth) == (part, truth))
                assert max(dealt.values()) - min(dealt[arm] for arm in arms) <= 1
        for page in pages:  # a repeat shows what was shown before
            if page.repeat:
                same = (page.kind, page.case, page.arm, page.truth)
                assert any(
                    (p.kind, p.case, p.arm, p.truth) == same and p.position < page.position
                    for p in pages
                )
    if design == "split":  # three readers see a case in as many arms as there are
        for case in labels:
            seen_in = {p.arm for ps in plans for p in ps if p.kind == "reading" and p.case == case}
            assert seen_in == set(arms)
    names = [page.page for pages in plans for page in pages]
    assert len(set(names)) == len(names) and all(re.fullmatch("[0-9a-f]{8}", n) for n in names)


def test_plan_depends_on_the_seed_alone():
    questions = Questionnaire("t", BOTH, arms=ARMS[:2], repeats=2)
    assert plan(cases(9), 3, questions, 1) == plan(cases(9), 3, questions, 1)
    one, two = plan(cases(9), 2, questions, 1)
    assert [page.case for page in one] != [page.case for page in two]
    assert plan(cases(9), 2, questions, 2)[0] != one


def test_readers_and_parts_take_the_arms_and_truths_in_turns():
    """A Latin square: what one reader sees first in one arm the next one sees in another."""
    questions = Questionnaire("t", BOTH, arms=ARMS, design="split")
    plans = plan(cases(12), 3, questions, 0)
    arm = [{p.case: p.arm for p in pages if p.kind == "reading"} for pages in plans]
    truth = [{p.case: p.truth for p in pages if p.kind == "origin"} for pages in plans]
    for case in cases(12):
        assert len({a[case] for a in arm}) == 3
        assert truth[0][case] != truth[1][case] == truth[1][case] != truth[2][case]
    crossed = plan(cases(12), 1, Questionnaire("t", (CHOICE,), arms=ARMS), 0)[0]
    for case in cases(12):
        assert len({(p.part, p.arm) for p in crossed if p.case == case}) == 3


def test_repeats_come_at_any_place_and_of_every_arm_and_truth():
    questions = Questionnaire("t", BOTH, arms=ARMS[:2], repeats=4)
    places, origin = set(), []
    for seed in range(12):
        (pages,) = plan(cases(20), 1, questions, seed)
        again = [p for p in pages if p.repeat and p.kind == "reading"]
        last = [p for p in pages if p.kind == "reading" and p.part == pages[-1].part]
        places |= {last.index(p) for p in again}
        assert Counter(p.arm for p in again) == {arm: 2 for arm in ARMS[:2]}
        shown = [p.truth for p in pages if p.repeat and p.kind == "origin"]
        origin.append(Counter(shown) == {"real": 2, "synthetic": 2})
    assert all(origin)
    assert len(places) > 6 and min(places) < 17


def test_the_order_is_drawn_from_the_cases_that_may_come():
    """Every case comes first for some reader, and orders differ from reader to reader."""
    questions = Questionnaire("t", (CHOICE,), arms=ARMS[:1])
    plans = plan(cases(6), 60, questions, 0)
    assert {pages[0].case for pages in plans} == set(cases(6))
    assert len({tuple(p.case for p in pages) for pages in plans}) > 40


def test_order_and_names_do_not_tell_truth_or_arm():
    questions = Questionnaire("t", (CHOICE,), arms=ARMS[:2])
    # Sorted by class, as folders often are.
    labels = {f"c{i:03d}": "ab"[i // 100] for i in range(200)}
    pages = [page for pages in plan(labels, 3, questions, 0) for page in pages]
    names = [int(page.page, 16) for page in pages]
    places = [page.position for page in pages]
    for secret in ([p.truth == "a" for p in pages], [p.arm == "unaided" for p in pages]):
        for seen in (names, places):
            # 1,200 pages: three standard deviations of the area are 0.05.
            assert abs(roc_auc_score(secret, seen) - 0.5) < 0.05
    after = [(a.truth == b.truth) for a, b in zip(pages, pages[1:], strict=False)]
    assert abs(np.mean(after) - 0.5) < 0.05


def test_impossible_plans_are_refused():
    questions = Questionnaire("t", (CHOICE,), arms=ARMS[:1], repeats=4)
    message = "expected at most 3 'repeats' with 6 cases and a gap of 3, got 4"
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(cases(6), 1, questions, 0)
    questions = Questionnaire("t", (CHOICE,), arms=ARMS[:1], gap=6)
    with pytest.raises(ValueError, match="expected 'gap' below the number of cases, 6, got 6"):
        plan(cases(6), 1, questions, 0)


def test_cases_are_drawn_with_the_classes_in_turns():
    labels = {f"c{i}": "a" if i < 30 else "b" for i in range(40)}
    drawn = chosen(labels, 12, seed=0)
    assert Counter(drawn.values()) == {"a": 6, "b": 6}
    assert drawn == chosen(labels, 12, seed=0) != chosen(labels, 12, seed=1)
    assert Counter(chosen(labels, 25, seed=0).values()) == {"a": 15, "b": 10}
    assert list(drawn) == [case for case in labels if case in drawn]
    assert chosen(labels, None, 0) == chosen(labels, 40, 0) == labels


# What a reader's file gives away


def test_readers_files_hold_no_name_of_a_case_a_file_an_arm_or_a_truth(study):
    assert sorted(p.name for p in study.iterdir()) == [
        "key",
        "reader-1.html",
        "reader-2.html",
        "reader-3.html",
    ]
    key = read_key(study)
    for reader in "123":
        text = (study / f"reader-{reader}.html").read_text().lower()
        for word in ("patient-", "x_cf", ".png", "difference", "unaided", "counterfactual"):
            assert word not in text
        # The classes stand there as options and nowhere else.
        assert text.count("tumour") == text.count("healthy") == 1
        data = data_of(study / f"reader-{reader}.html")
        for page in data["pages"]:  # noise may spell a short word
            text = text.replace(page["data"].lower(), "")
        for word in ("arm", "truth", "repeat", "attribution", "comment"):
            assert not re.search(rf"\b{word}", text), word
        assert {name for page in data["pages"] for name in page} == {"page", "part", "kind", "data"}
        mine = [row["page"] for row in key if row["reader"] == reader]
        assert [page["page"] for page in data["pages"]] == mine
        assert not {row["page"] for row in key if row["reader"] != reader} & set(mine)


def test_no_size_tells_an_arm_or_a_truth(study, tmp_path):
    run = make_run(tmp_path / "run", 40)
    questions = read_questions(write_questions(tmp_path, ORIGIN))
    write_study(run, questions, 3, tmp_path / "origin", seed=5)
    for folder, secrets in ((study, ("truth", "arm")), (tmp_path / "origin", ("truth",))):
        key = read_key(folder)
        files = [folder / f"reader-{reader}.html" for reader in (1, 2, 3)]
        assert len({len(data_of(file)["pages"]) for file in files}) == 1
        assert len({file.stat().st_size for file in files}) == 1
        data = {page["page"]: page["data"] for file in files for page in data_of(file)["pages"]}
        packed = {name: base64.b64decode(text) for name, text in data.items()}
        assert len({len(content) for content in packed.values()}) == 1
        for secret in secrets:
            known = [row[secret] == key[0][secret] for row in key]
            for measure in (
                lambda b: len(zlib.compress(b)),
                lambda b: sum(b),
                lambda b: b.count(0),
            ):
                seen = [measure(packed[row["page"]]) for row in key]
                assert abs(roc_auc_score(known, seen) - 0.5) < 0.2  # 3 sigma with 120 pages


def unveiled(page: dict) -> tuple[dict, list[bytes]]:
    packed = np.frombuffer(base64.b64decode(page["data"]), dtype=np.uint8)
    head, rest = (packed ^ keystream(int(page["page"], 16), len(packed))).tobytes().split(b"\n", 1)
    words = json.loads(head)
    ends = np.cumsum([0, *words["sizes"]])
    return words, [rest[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def test_pictures_carry_no_metadata_and_the_pixels_of_the_run(study):
    key = {row["page"]: row for row in read_key(study)}
    run = study.parent / "run" / "cases"
    for page in data_of(study / "reader-1.html")["pages"]:
        row = key[page["page"]]
        words, pictures = unveiled(page)
        names = ["x", "x_cf", "difference"] if row["arm"] == "counterfactual" else ["x"]
        assert len(pictures) == len(names) == len(words["figures"])
        for name, picture in zip(names, pictures, strict=True):
            assert {picture[at : at + 4] for at in chunks(picture)} == {b"IHDR", b"IDAT", b"IEND"}
            with (
                Image.open(io.BytesIO(picture)) as image,
                Image.open(run / row["case"] / f"{name}.png") as source,
            ):
                assert np.array_equal(np.asarray(image), np.asarray(source.convert("RGB")))


def chunks(picture: bytes) -> list[int]:
    """Where the types of the chunks of a PNG stand."""
    at, places = 8, []
    while at < len(picture):
        places.append(at + 4)
        at += 12 + int.from_bytes(picture[at : at + 4], "big")
    return places


def test_words_of_an_arm(tmp_path):
    run = make_run(tmp_path / "run", 4, synthetic=True, maps="gradcam")
    text = QUESTIONS.replace("counterfactual]", "counterfactual, attribution]").replace("3", "0")
    write_study(run, read_questions(write_questions(tmp_path, text)), 1, tmp_path / "out", 0)
    key = {row["page"]: row for row in read_key(tmp_path / "out")}
    seen = set()
    for page in data_of(tmp_path / "out" / "reader-1.html")["pages"]:
        row = key[page["page"]]
        figures = unveiled(page)[0]["figures"]
        marks = [figure["mark"] for figure in figures]
        captions = " ".join(figure["caption"] for figure in figures)
        seen.add(row["arm"])
        assert marks[0] == "synthetic patient, not for diagnosis"
        other = {"healthy": "tumour", "tumour": "healthy"}[row["truth"]]
        says = f"Image. The model’s answer to this image: “{row['truth']}”."
        assert figures[0]["caption"] == ("Image" if row["arm"] == "unaided" else says)
        if row["arm"] == "counterfactual":
            assert figures[1]["caption"] == (
                "Counterfactual: the smallest change found after which the model answers "
                f"“{other}”."
            )
        assert (row["truth"] in captions) == (row["arm"] != "unaided")  # the model's answer
        if row["arm"] == "counterfactual":
            assert marks[1:] == ["synthetic counterfactual, not for diagnosis"] * 2
        if row["arm"] == "attribution":
            assert marks[1:] == ["not for diagnosis"]
    assert seen == set(ARMS)


def test_real_and_synthetic_images_carry_the_same_words(tmp_path):
    run = make_run(tmp_path / "run", 6)
    questions = read_questions(write_questions(tmp_path, ORIGIN))
    study = write_study(run, questions, 2, tmp_path / "out", seed=0)
    words, truths = set(), set()
    key = {row["page"]: row for row in read_key(tmp_path / "out")}
    for page in data_of(tmp_path / "out" / "reader-1.html")["pages"]:
        truths.add(key[page["page"]]["truth"])
        words.add(json.dumps(unveiled(page)[0]["figures"]))
    assert truths == {"real", "synthetic"}
    assert len(words) == 1
    assert '"mark": "some images are synthetic; not for diagnosis"' in words.pop()
    # Noise against a flat grey: the organiser is told that no reader is needed for that.
    assert study.record["cues"] == {"sharpness": 1, "grey levels": 1, "compressed size": 1}


def test_no_seed_draws_one_and_keeps_it(tmp_path):
    run = make_run(tmp_path / "run", 4)
    questions = read_questions(write_questions(tmp_path, QUESTIONS.replace("3", "0")))
    seeds = [write_study(run, questions, 1, tmp_path / f"{i}").record["seed"] for i in range(2)]
    assert seeds[0] != seeds[1]
    again = write_study(run, questions, 1, tmp_path / "again", seeds[0])
    assert again.pages[0].read_bytes() == (tmp_path / "0" / "reader-1.html").read_bytes()


# The command


def test_study_of_a_real_run(tmp_path, checkpoint_folder, capsys):  # noqa: F811
    run, out = tmp_path / "run", tmp_path / "study"
    assert main(["--checkpoint", str(checkpoint_folder), "--limit", "4", "--out", str(run)]) == 0
    text = QUESTIONS.replace("healthy, tumour", "dark, bright").replace("tumour", "bright")
    questions = write_questions(tmp_path, text.replace("repeats: 3", "repeats: 1"))
    capsys.readouterr()
    argv = ["study", str(run), "--questions", str(questions), "--readers", "2", "--out", str(out)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "pages a reader." in said
    assert f"Hand out {out / 'reader-1.html'}, {out / 'reader-2.html'}" in said
    assert {row["arm"] for row in read_key(out)} == {"unaided", "counterfactual"}
    with pytest.raises(SystemExit) as stop:  # never over a study that readers may have
        main(argv)
    assert stop.value.code == 2
    message = f"cfgen study: error: expected a new or empty folder for the study, got '{out}'\n"
    assert capsys.readouterr().err == message


def test_the_command_says_what_a_study_lacks(tmp_path, capsys):
    run, out = make_run(tmp_path / "run", 8), tmp_path / "study"
    table = (run / "results.csv").read_text()
    table = table.replace("patient-00-healthy.png,healthy", "patient-00-healthy.png,")
    table += "a,a.png,tumour,tumour,healthy,ALREADY\nb,b.png,tumour,tumour,healthy,ALREADY\n"
    (run / "results.csv").write_text(table)
    both = QUESTIONS.replace("repeats: 3", "repeats: 0") + ORIGIN.split("questions:\n")[1]
    questions = str(write_questions(tmp_path, both))
    argv = ["study", str(run), "--questions", questions, "--out", str(out), "--seed", "5"]
    assert main(argv) == 0
    assert capsys.readouterr().out == (
        "Left out, because they have no counterfactual: 1 NOT_FOUND, 2 ALREADY.\n"
        "7 of 8 cases have a label; the answers to the others are not scored, for the model's "
        "answer is not the truth.\n"
        "Real and synthetic images differ in (area under the ROC curve): sharpness 1.00, "
        "grey levels 1.00, compressed size 1.00.\n"
        "8 cases, 24 pages a reader.\n"
        f"Hand out {out / 'reader-1.html'}, {out / 'reader-2.html'}, {out / 'reader-3.html'}\n"
        f"Keep {out / 'key'}: it holds the truth and the arms.\n"
    )
    record = json.loads((out / "key" / "study.json").read_text())
    assert (record["seed"], record["readers"], record["labelled"]) == (5, 3, 7)
    assert record["left_out"] == {"NOT_FOUND": 1, "ALREADY": 2}
    # Nothing of it where nothing is to be said.
    (run / "results.csv").write_text(
        "\n".join(
            line for line in table.splitlines() if "ALREADY" not in line and "lost" not in line
        ).replace("patient-00-healthy.png,,", "patient-00-healthy.png,healthy,")
        + "\n"
    )
    argv = ["study", str(run), "--questions", str(write_questions(tmp_path)), "--readers", "1"]
    assert main([*argv, "--out", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.startswith("8 cases, 19 pages a reader.\nHand out ")


def test_cues_are_areas_that_tell_either_way(tmp_path):
    """A counterfactual that is smoother in three of four cases: 0.75, as if it were sharper."""
    run = make_run(tmp_path / "run", 4)
    questions = read_questions(write_questions(tmp_path, ORIGIN))
    for name in ("x", "x_cf"):
        shutil.copy(
            run / "cases" / "patient-00-healthy" / "x.png",
            run / "cases" / "patient-03-tumour" / f"{name}.png",
        )
    material = Material.read(run, questions)
    cues = material.cues(sorted(material.labels))
    assert cues["grey levels"] == pytest.approx(14 / 16, abs=0.07)
    assert all(0.5 <= area <= 1 for area in cues.values())


def test_the_name_of_an_attribution_map_is_asked_for(tmp_path):
    run = make_run(make_run(tmp_path / "run", 4, maps="b"), 4, maps="a")
    text = QUESTIONS.replace("[unaided, counterfactual]", "[unaided, attribution]\nattribution: b")
    questions = read_questions(write_questions(tmp_path, text))
    material = Material.read(run, questions)
    assert material.attribution == "b"
    figures = material.reading("patient-00-healthy", "attribution")
    assert [f.path.name for f in figures] == ["x.png", "b.png"]


def test_a_study_is_named_by_its_seed_so_that_answers_to_another_are_refused(tmp_path):
    run = make_run(tmp_path / "run", 4)
    questions = read_questions(write_questions(tmp_path, QUESTIONS.replace("3", "0")))
    names = []
    for i, seed in enumerate((1, 1, 2)):
        study = write_study(run, questions, 1, tmp_path / str(i), seed)
        names.append(data_of(study.pages[0])["study"])
        assert names[-1] == study.record["study"]
    assert names[0] == names[1] != names[2]


def test_a_missing_package_is_named(tmp_path):
    code = (
        "import sys; sys.modules['yaml'] = None; from cfgen.cli import main;"
        f"main(['study', {str(tmp_path)!r}, '--questions', 'q.yaml', '--out', 'study'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "cfgen study: error: expected the package yaml; "
        "install it with pip install 'cfgen[study]'\n"
    )


def test_what_a_run_lacks_is_named(tmp_path):
    run = make_run(tmp_path / "run", 4)
    text = QUESTIONS.replace("[unaided, counterfactual]", "[unaided, attribution]")
    maps = read_questions(write_questions(tmp_path, text))

    def refused(run: Path, questions: Questionnaire, **more) -> str:
        with pytest.raises(ValueError) as error:
            write_study(run, questions, **{"readers": 1, "out": tmp_path / "out"} | more)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert refused(run, maps) == (
        "expected cases/<case>/attribution/<name>.png for the arm attribution, "
        "got none in 4 of 4 cases (first: patient-00-healthy)"
    )
    two = make_run(make_run(tmp_path / "two", 4, maps="a"), 4, maps="b")
    assert refused(two, maps) == "expected 'attribution' to name one of a, b, got none"
    assert refused(tmp_path, maps) == (f"expected a run folder with results.csv, got '{tmp_path}'")
    assert refused(make_run(tmp_path / "one", 1), maps) == (
        "expected two cases with status FLIPPED or more, got 1"
    )
    origin = read_questions(write_questions(tmp_path, ORIGIN))
    assert refused(make_run(tmp_path / "syn", 4, synthetic=True), origin) == (
        "expected a run on real images for a question of type real-or-synthetic, "
        "got synthetic patients"
    )
    other = read_questions(write_questions(tmp_path, QUESTIONS.replace("healthy", "sound")))
    assert refused(run, other) == "expected labels of 'classes' sound, tumour, got 'healthy'"
    assert refused(run, origin, readers=0) == "expected one reader or more, got 0"
    assert refused(run, origin, seed=-1) == "expected a seed of 0 or more, got -1"
    gone = run / "cases" / "patient-01-healthy" / "x.png"
    gone.unlink()
    assert refused(run, origin) == f"expected a picture at '{gone}', got none that can be read"


def test_keystream_in_slow_and_obvious_code():
    def word(seed: int, i: int) -> int:
        h = (seed + i * 0x9E3779B9) % 2**32
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    expected = b"".join(word(0xFEDCBA98, i).to_bytes(4, "little") for i in range(5))
    assert keystream(0xFEDCBA98, 18).tobytes() == expected[:18]


def test_key_is_what_was_planned(study):
    labels = {
        case.name: case.name.split("-")[-1] for case in (study.parent / "run" / "cases").iterdir()
    }
    questions = read_questions(study.parent / "q.yaml")
    planned = [page for pages in plan(labels, 3, questions, 5) for page in pages]
    for row, page in zip(read_key(study), planned, strict=True):
        assert isinstance(page, Page)
        assert row == {
            name: str(int(v) if name == "repeat" else v) for name, v in vars(page).items()
        }


def test_a_reader_sees_an_image_once_whatever_its_counterfactuals(tmp_path):
    run = make_run(tmp_path / "run")
    questions = read_questions(write_questions(tmp_path))
    plain = Material.read(run, questions)
    head, *rows = (run / "results.csv").read_text().splitlines()
    several = [f"{line},{i}" for line in rows for i in (1, 2)]
    several = [line.replace("-healthy,", "-healthy-2,", line.endswith(",2")) for line in several]
    (run / "results.csv").write_text("\n".join([f"{head},alternative", *several]) + "\n")
    material = Material.read(run, questions)
    assert (material.labels, material.left_out) == (plain.labels, plain.left_out)
    assert len(material.labels) == 8

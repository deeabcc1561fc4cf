"""Answers, estimates, agreement, iMRMC, and the report of them."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reader_study import ORIGIN, answer, make_run, read_key, write_questions
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from cfgen.cli import main
from cfgen.study import plots
from cfgen.study.analyse import Row, agreement, summary
from cfgen.study.answers import Answers, Reading
from cfgen.study.design import Page
from cfgen.study.imrmc import imrmc
from cfgen.study.parse import read_questions
from cfgen.study.questions import Question, Questionnaire
from cfgen.study.report import _number, _plain, write_report
from cfgen.study.statistics import Bootstrap, area, difference, kappa, mean, share, wilson
from cfgen.study.write import write_study

OTHER = {"healthy": "tumour", "tumour": "healthy", "real": "synthetic", "synthetic": "real"}
THREE = ("healthy", "tumour", "stroke")


def think(row: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Wrong about every third case without aid, about every sixth with it; readers differ."""
    place = int(row["case"].split("-")[1]) + int(row["reader"])
    wrong = place % (3 if row["arm"] == "unaided" else 6) == 0
    seen = OTHER[row["truth"]] if wrong else row["truth"]
    again = seen if row["repeat"] == "0" or place % 2 else OTHER[seen]
    likely = {"healthy": 1, "tumour": 4}[seen] + place % 2
    sure = str(1 + place % 5)
    return {
        "finding": (again, sure),
        "likelihood": (str(likely), ""),
        "remarks": ('a "b", c\nd', ""),
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    questions = read_questions(write_questions(folder))
    write_study(make_run(folder / "run", 12), questions, 3, folder / "out", seed=1)
    return folder / "out"


@pytest.fixture(scope="module")
def files(study) -> list[Path]:
    return answer(study, study.parent, think)


# Estimates


def test_wilson_is_that_of_scipy():
    for k, n in ((0, 5), (3, 10), (40, 41)):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_independent_answers_has_wilsons_interval():
    # One reader and a case for each answer: nothing is clustered.
    values = [1.0] * 30 + [0.0] * 20
    readers, cases = [1] * 50, list(range(50))
    estimate = share(values, Bootstrap(readers, cases).weights(readers, cases), cases)
    assert estimate[0] == 0.6 and estimate.n == 50
    assert estimate[1:3] == pytest.approx(wilson(0.6, 50), abs=0.01)


def test_a_share_of_answers_alike_is_as_wide_as_that_of_the_cases():
    # Ten readers who all say the same of 20 cases know no more than one.
    readers = [r for r in range(10) for _ in range(20)]
    cases = list(range(20)) * 10
    values = [float(case < 12) for case in cases]
    weights = Bootstrap(readers, cases).weights(readers, cases)
    low, high = share(values, weights, cases)[1:3]
    assert (low, high) == pytest.approx(wilson(0.6, 20), abs=0.02)
    low, high = share([1.0] * 200, weights, cases)[1:3]  # the bootstrap sees no variance
    assert (low, high) == pytest.approx(wilson(1.0, 20))


def test_intervals_lie_between_the_percentiles_of_the_draws():
    """2.5 and 97.5 %, of draws of readers times cases, counted out one by one."""
    rng = np.random.default_rng(0)
    readers, cases = (t.ravel().tolist() for t in np.indices((4, 25)))
    values, others = rng.random(100), rng.random(100)
    bootstrap = Bootstrap(readers, cases, seed=3)
    weights = bootstrap.weights(readers, cases)
    assert weights.shape == (2000, 100)
    assert weights[7, 30] == bootstrap.readers[7, 1] * bootstrap.cases[7, 5]
    assert np.all(bootstrap.readers.sum(1) == 4) and np.all(bootstrap.cases.sum(1) == 25)
    draws = [[np.average(v, weights=w) for w in weights] for v in (values, others)]
    expected = np.mean(values), *np.percentile(draws[0], [2.5, 97.5])
    assert mean(values.tolist(), weights)[:3] == pytest.approx(expected)
    gap = np.array(draws[0]) - np.array(draws[1])
    expected = np.mean(values) - np.mean(others), *np.percentile(gap, [2.5, 97.5])
    found = difference(values.tolist(), weights, others.tolist(), weights)
    assert found[:3] == pytest.approx(expected)
    assert not np.array_equal(Bootstrap(readers, cases).weights(readers, cases), weights)


def test_a_draw_without_an_answer_does_not_count():
    """Of two cases one is not drawn in a quarter of the draws; of one alone there is no other."""
    bootstrap = Bootstrap([1, 1], ["a", "b"])
    weights = bootstrap.weights([1], ["a"])
    assert 0.2 < np.mean(weights == 0) < 0.3
    assert mean([0.7], weights)[:3] == pytest.approx((0.7, 0.7, 0.7))
    low, high = share([1.0], weights, ["a"])[1:3]
    assert (low, high) == pytest.approx(wilson(1.0, 1))


def test_an_interval_of_a_share_is_never_narrower_than_of_so_many_independent_answers():
    readers, cases = [1] * 30, list(range(30))
    values = [1.0] * 12 + [0.0] * 18
    narrow = wilson(0.4, 30)
    for seed in range(8):
        low, high = share(values, Bootstrap(readers, cases, seed).weights(readers, cases), cases)[
            1:3
        ]
        assert low <= narrow[0] + 1e-12 and high >= narrow[1] - 1e-12
    for n in range(1, 40):
        assert 0 <= wilson(0.0, n)[0] and wilson(1.0, n)[1] <= 1


def test_readers_who_differ_widen_the_interval():
    readers = [r for r in range(6) for _ in range(50)]
    cases = list(range(50)) * 6
    weights = Bootstrap(readers, cases).weights(readers, cases)
    values = [float(r < 3) for r in readers]  # three readers always right, three never
    low, high = share(values, weights, cases)[1:3]
    assert (low, high) == pytest.approx(wilson(0.5, 6), abs=0.05)
    estimate = mean(values, weights)
    assert estimate.value == 0.5 and estimate.low < 0.2 and estimate.high > 0.8


def test_a_difference_pairs_readers_and_cases():
    # A hard and an easy half: the shares vary a lot, their difference does not.
    readers, cases = [1] * 40 + [2] * 40, list(range(40)) * 2
    weights = Bootstrap(readers, cases).weights(readers, cases)
    values = [float(case % 2) for case in cases]
    estimate = difference([v + 0.25 for v in values], weights, values, weights)
    assert estimate[:3] == pytest.approx((0.25, 0.25, 0.25))
    assert estimate.n == 80


def test_area_is_that_of_sklearn_averaged_over_readers():
    rng = np.random.default_rng(0)
    truth = rng.random(30) < 0.5
    scored, expected = [], []
    for reader in range(3):
        ratings = rng.integers(1, 6, 30) + truth
        expected.append(roc_auc_score(truth, ratings))
        scored += [(reader, c, bool(truth[c]), float(ratings[c])) for c in range(30)]
    scored += [(9, c, True, 1.0) for c in range(5)]  # saw one kind only
    bootstrap = Bootstrap([s[0] for s in scored], [s[1] for s in scored])
    estimate = area(scored, bootstrap)
    assert estimate.value == pytest.approx(np.mean(expected))
    assert estimate.low < estimate.value < estimate.high
    # The draws, in slow and obvious code, for one of them.
    draw = next(i for i in range(100) if bootstrap.readers[i, 1] > 0)
    weights = bootstrap.cases[draw, [bootstrap.case[c] for c in range(30)]]
    alone = [s for s in scored if s[0] == 1]
    slow = roc_auc_score(truth, [s[3] for s in alone], sample_weight=weights)
    from cfgen.study.statistics import _areas

    assert _areas(alone, bootstrap)[1][draw] == pytest.approx(slow)
    assert area(scored, bootstrap, scored)[:3] == (0, 0, 0)
    # And of all readers: each as often as it was drawn, where both kinds of cases were.
    draws = _areas(scored, bootstrap)[1]
    for draw in range(5):
        weights = bootstrap.cases[draw, [bootstrap.case[c] for c in range(30)]]
        each = [
            roc_auc_score(truth, [s[3] for s in scored if s[0] == r], sample_weight=weights)
            for r in range(3)
        ]
        often = bootstrap.readers[draw, :3]
        if often.any():
            assert draws[draw] == pytest.approx(np.average(each, weights=often))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    assert estimate[1:3] == pytest.approx((low, high))
    assert math.isnan(area(scored[-5:], bootstrap).value)


def slow_kappa(first: list[int], second: list[int], k: int, weighted: bool) -> float:
    """1 minus the disagreement seen over the disagreement by chance."""
    n = len(first)
    cost = [[(i - j) ** 2 if weighted else float(i != j) for j in range(k)] for i in range(k)]
    seen = sum(cost[a][b] for a, b in zip(first, second, strict=True)) / n
    chance = sum(cost[a][b] for a in first for b in second) / n**2
    return 1 - seen / chance


@pytest.mark.parametrize("weighted", [False, True])
def test_kappa_in_slow_and_obvious_code(weighted):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 40)
    second = np.clip(first + rng.integers(-1, 2, 40), 0, 4)
    a, b = first.tolist(), second.tolist()
    assert kappa(a, b, range(5), weighted) == pytest.approx(slow_kappa(a, b, 5, weighted))
    # A category that nobody uses keeps its place between the others.
    a, b = ([4 if v == 3 else v for v in side] for side in (a, b))
    assert kappa(a, b, range(5), weighted) == pytest.approx(slow_kappa(a, b, 5, weighted))
    assert math.isnan(kappa([1, 1], [1, 1], range(5), weighted))
    assert math.isnan(kappa([1], [2], range(5), weighted))


# From answers to numbers


def test_accuracy_by_arm_is_counted_right(study, files):
    answers = Answers.read(study, files)
    rows = {r[:5]: r for r in summary(answers)}
    key = [row for row in read_key(study) if row["repeat"] == "0"]
    for arm in ("unaided", "counterfactual"):
        for reader in ("1", "2", "3", "all"):
            mine = [r for r in key if r["arm"] == arm and reader in (r["reader"], "all")]
            right = [think(row)["finding"][0] == row["truth"] for row in mine]
            row = rows["finding", "accuracy", arm, "", reader]
            assert row.value == pytest.approx(np.mean(right)) and row.n == len(mine)
            assert row.low < row.value < row.high or row.value in (0, 1)
            sick = [ok for ok, r in zip(right, mine, strict=True) if r["truth"] == "tumour"]
            assert rows["finding", "sensitivity", arm, "", reader].value == pytest.approx(
                np.mean(sick)
            )
            sure = [int(think(row)["finding"][1]) for row in mine]
            assert rows["finding", "confidence", arm, "", reader].value == pytest.approx(
                np.mean(sure)
            )
            if reader != "all":
                truth = [r["truth"] == "tumour" for r in mine]
                ratings = [int(think(r)["likelihood"][0]) for r in mine]
                assert rows["likelihood", "AUC", arm, "", reader].value == pytest.approx(
                    roc_auc_score(truth, ratings)
                )
    both = [
        rows["finding", "accuracy", arm, "", "all"].value for arm in ("counterfactual", "unaided")
    ]
    gain = rows["finding", "accuracy", "counterfactual", "unaided", "all"]
    assert gain.value == pytest.approx(both[0] - both[1])
    assert rows["", "seconds a page", "unaided", "", "all"].value == 2.0
    assert rows["", "seconds a page", "unaided", "", "all"].n == 36  # a page, not an answer
    assert rows["finding", "seconds", "unaided", "", "all"].value == 1.5
    for name in ("accuracy", "confidence", "seconds"):
        for reader in ("all", "1"):
            assert rows["finding", name, "unaided", "", reader].n == (36 if reader == "all" else 12)
    # Without aid first: the others are told against it.
    assert {r.against for r in rows.values()} == {"", "unaided"}
    assert {r.arm for r in rows.values() if r.against} == {"counterfactual"}
    # A share has Wilson's interval, which is not that of the draws.
    low, high = rows["finding", "sensitivity", "unaided", "", "1"][6:8]
    p = rows["finding", "sensitivity", "unaided", "", "1"].value
    mine = [r for r in key if (r["arm"], r["reader"], r["truth"]) == ("unaided", "1", "tumour")]
    assert (low, high) == pytest.approx(wilson(p, len(mine)), abs=0.02)
    assert (
        "likelihood",
        "accuracy",
        "unaided",
        "",
        "all",
    ) not in rows  # a scale has no right point


def test_with_three_classes_specificity_counts_what_is_called_positive():
    """A stroke called healthy is a wrong answer, but nobody called it a tumour."""
    finding = Question(
        "finding", "choice", "?", THREE, positive="tumour", labelled=True, confidence=True
    )
    asked = Questionnaire("three", (finding,), classes=THREE, arms=("unaided",))
    said = [
        *(("tumour", "tumour"), ("tumour", "tumour"), ("tumour", "healthy"), ("tumour", "stroke")),
        *(("healthy", "healthy"), ("healthy", "stroke"), ("healthy", "tumour")),
        *(("stroke", "healthy"), ("stroke", "stroke")),
    ]
    pages = [
        Page(1, f"{i:08x}", i, 1, "reading", f"case {i}", "unaided", truth)
        for i, (truth, _) in enumerate(said, 1)
    ]
    readings = [
        Reading(page, finding, answer, 1, 1.0, 2.0)
        for page, (_, answer) in zip(pages, said, strict=True)
    ]
    rows = {(r.measure, r.reader): r for r in summary(Answers({}, asked, pages, readings))}
    for reader in ("1", "all"):
        found = [rows[name, reader] for name in ("accuracy", "sensitivity", "specificity", "AUC")]
        assert [row.n for row in found] == [9, 4, 5, 9]
        # The same confidence everywhere: the ROC curve has one point, and an area of their mean.
        assert [row.value for row in found] == pytest.approx([4 / 9, 2 / 4, 4 / 5, 0.65])


def test_what_an_answer_calls_positive():
    yes_no = Question("q", "yes-no", "?", ("yes", "no"), positive="tumour")
    assert [yes_no.calls(a) for a in ("yes", "no")] == [True, False]
    origin = Question("q", "real-or-synthetic", "?", ("real", "synthetic"), positive="synthetic")
    assert [origin.calls(a) for a in ("synthetic", "real")] == [True, False]
    scale = Question("q", "scale", "?", ("1", "2"), positive="tumour")
    assert scale.calls("2") is None
    assert Question("q", "choice", "?", THREE, labelled=True).calls("tumour") is None


def test_agreement_is_counted_right(study, files):
    rows = {(r.question, r.readers): r for r in agreement(Answers.read(study, files))}
    key = read_key(study)
    first = {(r["reader"], r["case"], r["arm"]): think(r) for r in key if r["repeat"] == "0"}

    def numbers(pairs: list[tuple[dict, dict]]) -> tuple[float, float, float]:
        place = {"healthy": 0, "tumour": 1}
        a, b = ([place[side[i]["finding"][0]] for side in pairs] for i in (0, 1))
        rating = [
            [(1 if t["finding"][0] == "tumour" else -1) * int(t["finding"][1]) for t in side]
            for side in zip(*pairs, strict=True)
        ]
        # -5 ... -1, 1 ... 5 are ten places.
        ten = [[r + 5 if r < 0 else r + 4 for r in side] for side in rating]
        same = np.mean([x == y for x, y in zip(a, b, strict=True)])
        return float(same), slow_kappa(a, b, 2, False), slow_kappa(ten[0], ten[1], 10, True)

    for a, b in (("1", "2"), ("1", "3"), ("2", "3")):
        pairs = [(t, first[(b, *what[1:])]) for what, t in first.items() if what[0] == a]
        row = rows["finding", f"{a} and {b}"]
        assert row.n == len(pairs) == 24
        assert row[3:] == pytest.approx(numbers(pairs))
    again = [(first[r["reader"], r["case"], r["arm"]], think(r)) for r in key if r["repeat"] == "1"]
    row = rows["finding", "all, repeated"]
    assert row.n == len(again) == 9
    assert row[3:] == pytest.approx(numbers(again))
    repeated = {f"{reader}, repeated" for reader in (1, 2, 3, "all")}
    expected = {"1 and 2", "1 and 3", "2 and 3"} | repeated
    assert {readers for question, readers in rows if question == "finding"} == expected


def test_a_repeat_whose_first_answer_is_missing_agrees_with_nothing(study, files):
    whole = Answers.read(study, files)
    kept = [r for r in whole.readings if r.page.reader != 1 or r.page.repeat]
    rows = {(r.question, r.readers): r for r in agreement(replace(whole, readings=kept))}
    assert ("finding", "1, repeated") not in rows
    assert rows["finding", "all, repeated"].n == 6


def test_imrmc_has_a_row_for_each_truth_and_each_first_answer(study, files):
    answers = Answers.read(study, files)
    finding = [r for r in answers.readings if r.question.id == "finding"]
    head, data = imrmc(finding, "two\nlines").split("BEGIN DATA:\n")
    assert head == "two lines\nNR: 3\nN0: 6\nN1: 6\nNM: 2\n"
    rows = [line.split(",") for line in data.splitlines()]
    assert all(len(row) == 4 and " " not in "".join(row) for row in rows)
    truths = {row[1]: row[3] for row in rows if row[0] == "-1"}
    assert sorted(truths, key=int) == [str(i) for i in range(1, 13)]
    assert {row[2] for row in rows if row[0] == "-1"} == {"truth"}
    scores = {tuple(row[:3]): float(row[3]) for row in rows if row[0] != "-1"}
    assert len(scores) == len(rows) - 12 == 3 * 12 * 2  # repeats are refused there
    cases = {case: str(i) for i, case in enumerate(sorted({r.page.case for r in finding}), 1)}
    for row in read_key(study):
        assert truths[cases[row["case"]]] == str(int(row["truth"] == "tumour"))
        if row["repeat"] == "0":
            answer, sure = think(row)["finding"]
            score = scores[row["reader"], cases[row["case"]], row["arm"]]
            assert score == int(sure) * (1 if answer == "tumour" else -1)


def test_report_of_real_or_synthetic(tmp_path):
    questions = read_questions(write_questions(tmp_path, ORIGIN))
    write_study(make_run(tmp_path / "run", 8), questions, 2, tmp_path / "out", seed=1)

    def guess(row: dict[str, str]) -> dict[str, tuple[str, str]]:
        right = int(row["case"].split("-")[1]) < 6
        return {"origin": (row["truth"] if right else OTHER[row["truth"]], "3")}

    files = answer(tmp_path / "out", tmp_path, guess)
    page = write_report(tmp_path / "out", files, tmp_path / "report").read_text()
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["summary"]
    found = {(r["measure"], r["reader"]): r["value"] for r in rows if r["question"] == "origin"}
    assert found["accuracy", "all"] == 0.75
    assert found["sensitivity", "all"] == found["specificity", "all"] == 0.75
    assert {"AUC", "confidence"} <= {name for name, _ in found}
    # A case gives two images, and each has one truth.
    head, data = (tmp_path / "report" / "origin.imrmc").read_text().split("BEGIN DATA:\n")
    assert "N0: 8\nN1: 8\nNM: 1\n" in head
    assert sum(line.startswith("-1,") for line in data.splitlines()) == 16
    assert "sharpness 1.00" in re.sub(r"\s+", " ", page)


def test_answers_without_a_label_are_not_scored(tmp_path):
    run = make_run(tmp_path / "run", 6)
    text = (run / "results.csv").read_text()
    (run / "results.csv").write_text(text.replace(".png,healthy,", ".png,,"))
    questions = read_questions(write_questions(tmp_path))
    write_study(run, questions, 1, tmp_path / "out", seed=1)

    def tumour(row: dict[str, str]) -> dict[str, tuple[str, str]]:
        return {"finding": ("tumour", "5"), "likelihood": ("5", "")}

    files = answer(tmp_path / "out", tmp_path, tumour)
    page = write_report(tmp_path / "out", files, tmp_path / "report").read_text()
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["summary"]
    accuracy = next(r for r in rows if (r["measure"], r["arm"]) == ("accuracy", "unaided"))
    assert (accuracy["value"], accuracy["n"]) == (
        1,
        3,
    )  # not the three that the model calls healthy
    assert not [r for r in rows if r["measure"] == "AUC"]
    words = re.sub(r"\s+", " ", page)
    assert "3 of 6 cases have a label. Answers to the others are not scored" in words


# Files


def test_report_folder(study, files, tmp_path, capsys):
    out = tmp_path / "report"
    argv = ["study-report", str(study), *map(str, files), "--out", str(out)]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"Open {out / 'index.html'}\n"
    names = "agreement.csv finding.imrmc index.html likelihood.imrmc readings.csv report.json"
    assert sorted(path.name for path in out.iterdir()) == [*names.split(), "summary.csv"]
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 7  # three means and an ROC; one and an ROC; the time
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    assert "a &#34;b&#34;, c\nd" in page
    with (out / "readings.csv").open(newline="") as stream:
        readings = list(csv.DictReader(stream))
    assert len(readings) == 3 * len(read_key(study))
    assert {r["answer"] for r in readings if r["question"] == "remarks"} == {'a "b", c\nd'}
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(argv) == 0  # the same bytes again
    assert first == {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_report_holds_no_text_for_what_there_is_not(study, files, tmp_path):
    """A number that is not there is nothing in a table, null in JSON, a dash for people."""
    text = files[0].read_text().splitlines(keepends=True)
    first = [line for line in text[1:] if ",finding," in line][:1]
    one = tmp_path / "one.csv"
    one.write_text(text[0] + "".join(first))
    page = write_report(study, [one], tmp_path / "report").read_text()
    report = (tmp_path / "report" / "report.json").read_text()
    json.loads(report, parse_constant=lambda name: pytest.fail(name))
    for name in ("summary.csv", "agreement.csv", "readings.csv"):
        cells = (tmp_path / "report" / name).read_text().replace("\n", ",").split(",")
        assert not {"nan", "NaN", "None", "inf"} & set(cells)
    words = re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    assert not re.search(r"\bnan\b|\bNone\b", words)


def test_numbers_are_written_for_people_and_for_programs():
    assert [_number(v) for v in (math.nan, 0.125, -1.5, 2)] == ["–", "0.12", "−1.50", "2.00"]
    assert [_number(v, signed=True) for v in (0.25, -0.25)] == ["+0.25", "−0.25"]
    row = Row("q", "accuracy", "unaided", "", "all", 1 / 3, math.nan, 0.123456789, 5)
    told = _plain(row)
    assert (told["value"], told["low"], told["high"], told["n"]) == (0.333333, None, 0.123457, 5)


def test_the_report_says_what_it_counts(study, files, tmp_path):
    page = write_report(study, files, tmp_path / "report").read_text()
    words = " ".join(
        re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.S)).split()
    )
    assert "12 cases, 3 readers." in words
    assert "Left out of the study, because they have no counterfactual: 1 NOT_FOUND." in words
    assert "With 3 readers the intervals say little about other readers." in words
    assert "have a label" not in words and "synthetic" not in words
    # The answers to each option, repeats left out: 12 cases of three readers an arm.
    key = [row for row in read_key(study) if row["repeat"] == "0"]
    for arm, name in (("unaided", "without aid"), ("counterfactual", "with counterfactual")):
        said = [think(r)["finding"][0] for r in key if r["arm"] == arm]
        assert f"{name} {said.count('healthy')} {said.count('tumour')}" in words
    # And what each arm is better by, with its sign.
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["summary"]
    gain = next(r for r in rows if r["against"] and r["measure"] == "accuracy")
    assert f"{gain['value']:+.2f}" in words
    with (tmp_path / "report" / "readings.csv").open(newline="") as stream:
        readings = list(csv.DictReader(stream))
    again = [r["repeat"] for r in readings if r["question"] == "finding"]
    assert again.count("1") == 9 and again.count("0") == 72
    right = [r for r in readings if r["question"] == "finding" and r["repeat"] == "0"]
    assert all(r["correct"] == str(int(r["answer"] == r["truth"])) for r in right)
    assert {(r["seconds"], r["page_seconds"]) for r in readings} == {("1.5", "2.0")}


def test_pictures_show_the_numbers():
    """The bars and points of a figure, read back from matplotlib's axes."""
    seen: list[Any] = []
    rows = [
        Row("q", "accuracy", "unaided", "", "all", 0.5, 0.2, 0.9, 9),
        Row("q", "accuracy", "unaided", "", "2", 0.4, 0.3, 0.6, 9),
        Row("q", "confidence", "unaided", "", "all", 3.0, 2.0, 4.0, 9),
        Row("q", "accuracy", "counterfactual", "unaided", "all", 0.1, 0.0, 0.2, 9),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_svg", lambda figure: seen.append(figure.axes[0]) or "")
        plots.by_arm(rows, "q", "accuracy", "Accuracy")
        page = Page(1, "p", 1, 1, "reading", "c", "unaided", "tumour")
        asked = Question("q", "scale", "?", ("1", "2"), positive="tumour")
        readings = [Reading(page, asked, "1", None, 1.0, s) for s in (4.0, 5.0, 9.0)]
        plots.times(readings, ("unaided",))
    bars, times = seen
    (bar,) = bars.collections
    assert bar.get_segments()[0][:, 1].tolist() == [0.2, 0.9]
    assert [line.get_ydata().tolist() for line in bars.lines if line.get_marker() == "D"] == [[0.5]]
    points = [list(line.get_ydata()) for line in bars.lines if line.get_marker() == "o"]
    assert points[0] == [0.4]
    assert bars.get_ylim() == (0, 1.03)
    assert [5.0, 5.0] in [list(line.get_xdata()) for line in times.lines]  # the median


def test_an_unfinished_reader_is_shown(study, files, tmp_path):
    text = files[0].read_text().splitlines(keepends=True)
    (tmp_path / "some.csv").write_text("".join(text[:9]))
    page = write_report(study, [tmp_path / "some.csv"], tmp_path / "report").read_text()
    pages = len(read_key(study)) // 3
    assert f"reader 1: 2 of {pages}, reader 2: 0 of {pages}" in re.sub(r"\s+", " ", page)


def test_an_answer_twice_counts_once_and_a_contradiction_is_refused(study, files, tmp_path):
    once = Answers.read(study, files)
    assert Answers.read(study, [*files, files[0]]) == once
    other = tmp_path / "other.csv"
    other.write_text(files[0].read_text().replace("tumour,", "healthy,"))
    with pytest.raises(ValueError) as error:
        Answers.read(study, [files[0], other])
    message = (
        r"other\.csv, answer \d+: expected the answer that another file gives, 'tumour', "
        r"got 'healthy' \(give only the last file of reader 1\)"
    )
    assert re.fullmatch(message, str(error.value))


def test_answers_that_are_none_of_the_study_are_refused(study, files, tmp_path, capsys):
    key = read_key(study)
    name = json.loads((study / "key" / "study.json").read_text())["study"]
    head = "study,reader,page,position,question,answer,confidence,seconds,page_seconds\n"
    page, other = key[0]["page"], next(row["page"] for row in key if row["reader"] == "2")
    good = f"{name},1,{page},1,finding,tumour,3,1.0,2.0\n"

    def refused(text: str | bytes) -> str:
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(SystemExit) as stop:
            main(["study-report", str(study), str(path), "--out", str(tmp_path / "r")])
        assert stop.value.code == 2
        return capsys.readouterr().err.removeprefix("cfgen study-report: error: ")

    here = "a.csv, answer 1: expected"
    assert refused(head) == "expected answers, got none\n"
    assert refused("study,reader\n") == "a.csv: expected the column page, got none\n"
    assert refused(b"\xff") == "expected text in UTF-8 in 'a.csv', got other bytes\n"
    assert refused(head + good.replace(name, "0")) == f"{here} answers of study {name}, got '0'\n"
    assert refused(head + good.replace(page, other)) == (
        f"{here} a page and a question of reader 1, got '{other}' and 'finding'\n"
    )
    assert refused(head + good.replace("tumour", "cyst")) == (
        f"{here} an answer of healthy, tumour, got 'cyst'\n"
    )
    assert refused(head + good.replace(",3,", ",6,")) == (
        f"{here} a confidence of 1 to 5, got '6'\n"
    )
    assert refused(head + good.replace("1.0", "soon")) == (
        f"{here} seconds, got 'soon' and '2.0'\n"
    )
    with pytest.raises(ValueError) as error:
        Answers.read(tmp_path, files)
    path = tmp_path / "key" / "study.json"
    assert str(error.value) == f"expected a study with '{path}', got none"
    (tmp_path / "a.csv").write_text("\ufeff" + head + good, encoding="utf-8")  # saved by Excel
    assert len(Answers.read(study, [tmp_path / "a.csv"]).readings) == 1


@pytest.mark.slow
def test_intervals_hold_the_truth_at_least_as_often_as_they_say():
    rng = np.random.default_rng(0)

    def chance(shift: float, reader: np.ndarray, case: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-shift - reader - case))

    many = rng.normal(0, 0.5, 100_000), rng.normal(0, 1, 100_000)
    truth, gain = chance(1, *many).mean(), (chance(1.5, *many) - chance(1, *many)).mean()
    readers, cases = np.indices((3, 40)).reshape(2, -1).tolist()
    held = np.zeros(2)
    for seed in range(100):
        reader, case = rng.normal(0, 0.5, (3, 1)), rng.normal(0, 1, 40)
        a, b = ((rng.random((3, 40)) < chance(s, reader, case)).ravel() * 1.0 for s in (1, 1.5))
        weights = Bootstrap(readers, cases, seed).weights(readers, cases)
        alone = share(a.tolist(), weights, cases)
        both = difference(b.tolist(), weights, a.tolist(), weights)
        held += [alone.low <= truth <= alone.high, both.low <= gain <= both.high]
    # The pigeonhole bootstrap errs on the wide side, where readers and cases are few.
    assert np.all(held >= 95)

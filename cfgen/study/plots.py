"""The pictures of the report, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from cfgen.study.analyse import ALL, AUC, Row, arms_of
from cfgen.study.answers import Reading
from cfgen.study.questions import ARMS

# Okabe and Ito's colours: apart with every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cfgen",
    "font.size": 10,
    "font.family": "sans-serif",
}


def by_arm(rows: Sequence[Row], question: str, measure: str, label: str) -> str:
    """The estimate of each arm with its interval, and each reader as a point."""
    mine = [r for r in rows if (r.question, r.measure, r.against) == (question, measure, "")]
    arms = list(dict.fromkeys(row.arm for row in mine))
    readers = sorted({row.reader for row in mine} - {ALL}, key=int)
    figure, (axes,) = _figure(1, 1.2 + 1.2 * max(2, len(arms)), 3.2)
    for row in mine:
        x = arms.index(row.arm)
        if row.reader == ALL:
            bar = [[row.value - row.low], [row.high - row.value]]
            axes.errorbar([x], [row.value], bar, fmt="D", color="#333", capsize=6, ms=6)
        else:
            i = readers.index(row.reader)
            x += 0.16 + 0.3 * (i + 1) / (len(readers) + 1)
            axes.plot([x], [row.value], "o", color=COLOURS[i % len(COLOURS)], ms=5)
    axes.set_xticks(range(len(arms)), [arm_words(arm).replace(" ", "\n", 1) for arm in arms])
    axes.set_xlim(-0.5, len(arms) - 0.3)
    if measure in (AUC, "accuracy"):
        axes.set_ylim(0, 1.03)
    elif measure == "confidence":
        axes.set_ylim(0.9, 5.1)
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    for i, reader in enumerate(readers):
        axes.plot([], [], "o", color=COLOURS[i % len(COLOURS)], ms=5, label=f"reader {reader}")
    _legend(axes)
    return _svg(figure)


def roc(readings: Sequence[Reading], order: Sequence[str]) -> str:
    """A panel for each arm with the ROC curve of each reader."""
    arms = arms_of(readings, order)
    figure, panels = _figure(len(arms), 3.1 * len(arms) + 1.0, 3.4)
    for axes, arm in zip(panels, arms, strict=True):
        here = [r for r in readings if r.page.arm == arm]
        for i, reader in enumerate(sorted({r.page.reader for r in readings})):
            mine = [r for r in here if r.page.reader == reader]
            truth = [bool(r.question.diseased(r.page.truth)) for r in mine]
            if len(set(truth)) == 2:
                false, true, _ = roc_curve(truth, [r.rating for r in mine])
                axes.plot(
                    false,
                    true,
                    "o-",
                    color=COLOURS[i % len(COLOURS)],
                    ms=3,
                    label=f"reader {reader}",
                )
        axes.plot([0, 1], [0, 1], ":", color="#999", lw=0.8)
        axes.set(
            title=arm_words(arm), xlabel="1 − specificity", ylabel="sensitivity", aspect="equal"
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _legend(panels[-1])
    return _svg(figure)


def times(readings: Sequence[Reading], order: Sequence[str]) -> str:
    """The seconds a page of each arm as a box: median, quartiles, and what lies far off."""
    arms = arms_of(readings, order)
    figure, (axes,) = _figure(1, 5.2, 0.8 + 0.5 * len(arms))
    series = [[r.page_seconds for r in readings if r.page.arm == arm] for arm in arms]
    axes.boxplot(series, orientation="horizontal", medianprops={"color": COLOURS[1], "lw": 2})
    axes.set_yticks(range(1, len(arms) + 1), [arm_words(arm) for arm in arms])
    axes.set(xlabel="seconds a page")
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    return _svg(figure)


def arm_words(arm: str) -> str:
    """An arm as people read it."""
    return ARMS.get(arm, "real or synthetic")


def _figure(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0].tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _svg(figure: Figure) -> str:
    """The picture as an element for a page, without a date."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]

"""What the page says: statuses as a clinician reads them, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

DASH = "–"
UNUSUAL = 0.05

# What a run did not keep, by --keep.
KEPT = {
    "rows": "This run kept the numbers of each image, and no pictures.",
    "pictures": "This run kept the pictures of each case, but not the steps between them, and no "
    "arrays (case.npz).",
}


class Words(NamedTuple):
    """A status as a clinician reads it.

    Attributes:
        title: Two or three words.
        text: What happened, and what follows from it; "{sure}" is filled by :func:`words_of`.
        tone: "good", "note" or "bad".
        made: What the second picture of the case is; empty when none was made.
    """

    title: str
    text: str
    tone: str
    made: str = ""


STATUS_WORDS = {
    "FLIPPED": Words(
        "Answer changed",
        "With this change the model gives the answer that was asked for{sure}.",
        "good",
        "Counterfactual",
    ),
    "ALREADY": Words(
        "No change needed",
        "On the original image the model already gives the answer that was asked for{sure}.",
        "note",
    ),
    "RECONSTRUCTION_FLIPS": Words(
        "Changed by redrawing alone",
        "Redrawing the image without any deliberate change is enough to change the model's answer. "
        "What you see is an error of the redrawing, not an explanation of the model.",
        "bad",
        "Redrawn image",
    ),
    "NO_DIRECTION": Words(
        "Model does not react",
        "The model's answer does not depend on anything this method can change in the image.",
        "bad",
    ),
    "NOT_FOUND": Words(
        "No counterfactual found",
        "No change that the program tried, up to its limit, made the model give the answer that "
        "was asked for{sure}. So there is no second image to compare. The model held its answer "
        "against these changes; that does not make it right, and others may still turn it.",
        "bad",
    ),
    "NOT_FINITE": Words(
        "No number from the model",
        "At this image the model's answer, or how it reacts to a change, is not a finite number. "
        "That is a fault of the model's arithmetic and says nothing about the image, so there is "
        "no second image to compare.",
        "bad",
    ),
    "UNREADABLE": Words("Not readable", "The file could not be read.", "bad"),
    "FAILED": Words(
        "Not explained",
        "Something went wrong while this image was explained, so there is no answer for it. The "
        "others are not affected.",
        "bad",
    ),
}


def words_of(status: str, confidence: float | None = None) -> Words:
    """The words of a status; one that this page does not know is shown as it is.

    Args:
        status: Its name.
        confidence: The probability that was asked for. With it an image may be FLIPPED whose answer
            was the one asked for from the start, only less certain.
    """
    words = STATUS_WORDS.get(status) or Words(status or "No status", "", "bad")
    if status == "FLIPPED" and confidence:
        words = words._replace(title=f"{percent(confidence)} reached")
    sure = f", with a probability of at least {percent(confidence)}" if confidence else ""
    return words._replace(text=words.text.replace("{sure}", sure))


def to_float(value: object) -> float:
    """A number of results.csv; nan where there is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def number(value: object) -> str:
    """Three significant digits without an exponent, or a dash."""
    v = to_float(value)
    if not math.isfinite(v):
        return DASH
    if 0 < v < 0.001:
        return "< 0.001"
    text = f"{v:.3g}"
    return f"{float(text):,.0f}" if "e" in text else text


def percent(value: object) -> str:
    """A probability in percent, one decimal, that never claims certainty, or a dash."""
    p = to_float(value)
    if not 0 <= p <= 1:
        return DASH
    if p > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if p < 0.001 else f"{round(p * 100, 1):g} %"


def change(before: object, after: object) -> str:
    """A probability before and, where there is one, after."""
    p, q = percent(before), percent(after)
    return p if q == DASH else f"{p} → {q}"


def agrees(text: str) -> bool | None:
    """A yes or no of results.csv, None where there is neither."""
    return {"1": True, "true": True, "0": False, "false": False}.get(text.strip().lower())


def agreed_before(row: Mapping[str, object]) -> bool:
    """Whether the second model gave the original the answer asked for, by more than half."""
    return to_float(row["oracle_before"]) >= 0.5


def limits(about: Mapping[str, Any]) -> dict[str, str]:
    """What a run was not allowed to change, by its settings: name and value."""
    told = {}
    if region := about.get("region"):
        margin = about.get("region_margin")
        wider = f" and {margin} pixels around it" if margin else ""
        lesion = f"the outlined lesion{wider}"
        told["May change"] = lesion if region == "lesion" else f"what is outside {lesion}"
    if held := about.get("hold"):
        told["Must not move"] = ", ".join(held)
    return told


def unusual(row: Mapping[str, str]) -> bool:
    """Whether fewer than one in twenty real images look as unusual as the counterfactual."""
    return to_float(row["plausibility"]) < UNUSUAL


def cautions(row: Mapping[str, str]) -> list[str]:
    """What speaks against a counterfactual, for the eye to meet before the numbers."""
    found = []
    if agrees(row["oracle_agrees"]) is False:
        found.append("second model does not agree")
    if unusual(row):
        found.append("unusual image")
    return found


def facts(
    row: Mapping[str, str], wanted: str, confidence: float | None
) -> list[tuple[str, str, str]]:
    """What the case view lists of a row: name, value and a remark.

    Args:
        row: The row of results.csv; a missing column is "".
        wanted: The answer asked for, in quotation marks.
        confidence: The probability that was asked for.
    """
    lower, lam = number(row["lam_lower"]), number(row["lam"])
    before = f"below {percent(confidence)}" if confidence else "no change of answer"
    told = [
        ("Label given with the image", f"“{row['label']}”" if row["label"] else "", ""),
        ("Model's answer", f"“{row['source']}”" if row["source"] else "", "on the original"),
        (f"Model, {wanted}", change(row["prob_before"], row["prob_after"]), ""),
        ("Size of change λ", lam, "" if lower in (DASH, lam) else f"{before} up to {lower}"),
    ]
    if words_of(row["status"]).made:
        opinion = agrees(row["oracle_agrees"])
        agreed = "agreed before, too" if agreed_before(row) else "agrees"
        told += [
            ("Plausibility", number(row["plausibility"]), "unusual image" if unusual(row) else ""),
            ("Visible change (LPIPS)", number(row["lpips"]), "0: looks the same"),
            (
                f"Second model, {wanted}",
                change(row["oracle_before"], row["oracle_after"]),
                "" if opinion is None else agreed if opinion else "does not agree",
            ),
        ]
    return [(name, value, note) for name, value, note in told if value not in ("", DASH)]

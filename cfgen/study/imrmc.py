"""Answers in the input format of iMRMC, the FDA's program for multi-reader multi-case studies."""

from __future__ import annotations

from collections.abc import Sequence

from cfgen.study.answers import Reading


def imrmc(readings: Sequence[Reading], title: str) -> str:
    """The answers to one question.

    One row ``reader,case,modality,score`` for each answer and one row ``-1,case,truth,0 or 1`` for
    each case. iMRMC refuses a second answer to the same case in the same modality, so repeats
    are left out; so are answers to cases without a label.

    Args:
        readings: Answers to a question with a positive class.
        title: First line of the description.

    Reference: iMRMC user manual, 4.1.1 Study raw data, https://didsr.github.io/iMRMC.
    """
    scored = [
        reading
        for reading in readings
        if not reading.page.repeat and reading.question.diseased(reading.page.truth) is not None
    ]
    truth = {r.image: int(bool(r.question.diseased(r.page.truth))) for r in scored}
    number = {image: i for i, image in enumerate(sorted(truth), 1)}  # some programs want integers
    arms = sorted({reading.page.arm or "image" for reading in scored})
    head = {
        "NR": len({reading.page.reader for reading in scored}),
        "N0": sum(not t for t in truth.values()),
        "N1": sum(truth.values()),
        "NM": len(arms),
    }
    lines = [" ".join(title.split()), *(f"{name}: {n}" for name, n in head.items()), "BEGIN DATA:"]
    lines += [f"-1,{number[image]},truth,{t}" for image, t in sorted(truth.items())]
    lines += [
        f"{r.page.reader},{number[r.image]},{r.page.arm or 'image'},{r.rating:g}" for r in scored
    ]
    return "\n".join(lines) + "\n"

"""Write index.html: every case of a run on one page that needs no network."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cfgen.data.difference import BRIGHTER, DARKER
from cfgen.data.written import MARK
from cfgen.engine.table import read_table, table_line
from cfgen.gallery.case import TILE, Asked, Case, data_url
from cfgen.gallery.survey import Survey, numbered
from cfgen.gallery.templates import templates
from cfgen.gallery.words import (
    DASH,
    KEPT,
    STATUS_WORDS,
    change,
    limits,
    number,
    percent,
    to_float,
    words_of,
)

SCRIPTS = "pixels marks panes load cards overview case draw curve export gif keys".split()
CHUNK = 200  # cards that the page brings at once; a run of no more is all in the page
SORTED_BY = ("lam", "plausibility", "prob_before", "prob_after")


def write_gallery(run: Path, single_file: bool = False) -> Path:
    """Render the page of a run, with no more than a chunk of its rows in memory.

    Beside the page each case folder gets ``case.js``, its pictures as the page reads them when the
    case is opened, and ``thumb.webp``. A large run gets ``page/`` with the cards in chunks, and an
    index of what the page filters and sorts by.

    Args:
        run: A run folder with results.csv, run.json and the case folders.
        single_file: Put the pictures of all cases into the page itself.

    Returns:
        The path of the page, ``run/index.html``.

    Raises:
        FileNotFoundError: results.csv or run.json is not there.
    """
    run = Path(run)
    table = run / "results.csv"
    survey = Survey.of(read_table(table))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    about = record | record.get("settings", {})
    target = next(iter(survey.targets)) if len(survey.targets) == 1 else about.get("target")
    asked = Asked(target, about.get("confidence"), bool(about.get("synthetic")))
    checkpoint = about.get("checkpoint")
    keep = about.get("keep") or record.get("arguments", {}).get("keep", "all")
    done = record.get("done", survey.images)  # a run that was killed did not say
    counts = survey.statuses.most_common()
    predictions = sorted(survey.predictions)

    environment = templates("cfgen.gallery")
    environment.filters |= {"number": number, "percent": percent, "change": change}
    environment.filters |= {"as_json": as_json}
    card = environment.get_template("card.html.jinja")

    def cases() -> Iterator[tuple[Case, str]]:
        """Each case, and its line of results.csv."""
        for row, several in numbered(read_table(table)):
            yield Case(run, defaultdict(str, row), asked, several), table_line(row)

    def shown(i: int, case: Case) -> Markup:
        """A card; what it and the case view need is written now or comes with it."""
        thumbnail = ""
        if case.folder is not None:
            thumbnail = _thumbnail(case, single_file)
            if not single_file:
                _write(case.folder / "case.js", as_json(case.data()))
        return Markup(card.render(i=i, case=case, thumbnail=thumbnail, tile=TILE, keep=keep))

    chunks = _chunks(cases())
    opening = next(chunks, [])  # its cards stand in the page itself
    cards = [shown(i, case) for i, (case, _) in enumerate(opening)]

    def parts() -> Iterator[tuple[str, Iterable[str]]]:
        """What the page reads when it is needed: the address of each part, and its JSON."""
        statuses = [status for status, _ in counts]
        index = (as_json(_keys(case, statuses, predictions)) for case, _ in cases())
        yield "page/index.js", chain("[", _joined(index), "]")
        yield "page/rows-0001.js", [as_json({"lines": [line for _, line in opening]})]
        for k, chunk in enumerate(chunks, 1):
            told = [shown(CHUNK * k + i, case) for i, (case, _) in enumerate(chunk)]
            content = {"cards": told, "lines": [line for _, line in chunk]}
            yield f"page/rows-{k + 1:04d}.js", [as_json(content)]
        if single_file:
            for case, _ in cases():
                if case.folder is not None:
                    yield f"cases/{case.row['case']}/case.js", [as_json(case.data())]

    for former in (run / "page").glob("*.js"):
        former.unlink()
    inline = single_file or survey.rows <= CHUNK
    if not inline:
        (run / "page").mkdir(exist_ok=True)
        for address, content in parts():
            _write(run / address, *content)
    with table.open(encoding="utf-8", newline="") as stream:
        head = stream.readline()
    stream = environment.get_template("page.html.jinja").stream(
        cards=cards,
        parts=parts() if inline else (),
        survey=survey,
        single_file=single_file,
        facts={
            "head": head,
            "chunk": CHUNK,
            "statuses": [status for status, _ in counts],
            "ends": [DARKER, BRIGHTER],
            "mark": MARK,
        },
        counts=[(status, words_of(status, asked.confidence), n) for status, n in counts],
        predictions=predictions,
        asked=asked,
        keep=keep,
        kept=KEPT.get(keep, ""),
        unfinished=None if record.get("finished", True) else (done, record["images"]),
        settings={
            "Model": checkpoint.get("name") if isinstance(checkpoint, dict) else checkpoint,
            "Search method": about.get("direction"),
            "Random seed": about.get("seed"),
        }
        | limits(about),
        statuses=[words_of(status, asked.confidence) for status in STATUS_WORDS],
        dash=DASH,
        style=_source("page.css"),
        code=Markup("\n").join(_source(f"js/{name}.js") for name in SCRIPTS),
    )
    out = run / "index.html"
    with out.open("w", encoding="utf-8") as file:
        file.writelines(stream)
    return out


def as_json(value: Any) -> Markup:
    """JSON that may stand in a script element; a number that is not finite is null."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _finite(value: Any) -> Any:
    """The value with None for each number that is not finite: JSON has no word for those."""
    if isinstance(value, dict):
        return {name: _finite(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keys(case: Case, statuses: list[str], predictions: list[tuple[str, str]]) -> list[Any]:
    """What the page filters and sorts a case by: see ``keyed`` in overview.js."""
    row = case.row
    prediction = (row["source"], row["target"])
    return [
        row["file"],
        row["case"],
        statuses.index(row["status"]),
        predictions.index(prediction) if row["source"] else -1,
        *(to_float(row[name]) for name in SORTED_BY),
        int(case.folder is not None),
    ]


def _chunks(cases: Iterator[tuple[Case, str]]) -> Iterator[list[tuple[Case, str]]]:
    while chunk := list(islice(cases, CHUNK)):
        yield chunk


def _joined(texts: Iterable[Markup]) -> Iterator[Markup]:
    """Texts with commas between them."""
    for i, text in enumerate(texts):
        yield Markup(",") + text if i else text


def _write(path: Path, *content: str) -> None:
    """Write a script that gives its data to the page, which may read no other file of a disk."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(("cfgen.give(", *content, ")\n"))


def _source(name: str) -> Markup:
    """A file of this package, as it is."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _thumbnail(case: Case, single_file: bool) -> str:
    """The address of a thumbnail."""
    assert case.folder is not None
    picture = case.thumbnail()
    if single_file:
        return data_url(picture, "webp")
    (case.folder / "thumb.webp").write_bytes(picture)
    return f"{case.link}/thumb.webp"

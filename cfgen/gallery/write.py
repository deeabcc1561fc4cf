"""Write index.html: every case of a run on one page that needs no network."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cfgen.data.difference import BRIGHTER, DARKER
from cfgen.data.written import MARK
from cfgen.engine.table import read_table
from cfgen.gallery.case import TILE, Asked, Case, data_url
from cfgen.gallery.templates import templates
from cfgen.gallery.words import (
    DASH,
    STATUS_WORDS,
    change,
    doubted,
    limits,
    number,
    opinions,
    percent,
    words_of,
)

SCRIPTS = "pixels panes overview load case draw curve export gif keys".split()


def write_gallery(run: Path, single_file: bool = False) -> Path:
    """Render the page of a run.

    Beside the page each case folder gets ``case.js``, its pictures as the page reads them when the
    case is opened, and ``thumb.webp``.

    Args:
        run: A run folder with results.csv, run.json and the case folders.
        single_file: Put the pictures of all cases into the page itself.

    Returns:
        The path of the page, ``run/index.html``.

    Raises:
        FileNotFoundError: results.csv or run.json is not there.
    """
    run = Path(run)
    rows = [defaultdict(str, row) for row in read_table(run / "results.csv")]
    columns = list(rows[0]) if rows else []
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    about = record | record.get("settings", {})
    checkpoint = about.get("checkpoint")
    synthetic = bool(about.get("synthetic"))
    asked = Asked(_one_target(rows, about), about.get("confidence"), synthetic)
    several = Counter(row["file"] for row in rows if row["alternative"])
    cases = [Case(run, row, asked, several[row["file"]]) for row in rows]
    flipped = [row for row in rows if row["status"] == "FLIPPED"]

    environment = templates("cfgen.gallery")
    environment.filters |= {
        "number": number,
        "percent": percent,
        "change": change,
        "as_json": as_json,
    }
    out = run / "index.html"
    stream = environment.get_template("page.html.jinja").stream(
        cases=cases,
        images=sum(row["alternative"] in ("", "1") for row in rows),
        thumbnail=lambda case: _thumbnail(case, single_file),
        script=lambda case: _script(case, single_file),
        single_file=single_file,
        columns=columns,
        rows=[[row[name] for name in columns] for row in rows],
        counts=[
            (status, words_of(status, asked.confidence), count)
            for status, count in Counter(row["status"] for row in rows).most_common()
        ],
        predictions=sorted({(r["source"], r["target"]) for r in rows if r["source"]}),
        asked=asked,
        tile=TILE,
        settings={
            "Model": checkpoint.get("name") if isinstance(checkpoint, dict) else checkpoint,
            "Search method": about.get("direction"),
            "Random seed": about.get("seed"),
        }
        | limits(about),
        statuses=[words_of(status, asked.confidence) for status in STATUS_WORDS],
        opinions=opinions(flipped),
        doubts=doubted(flipped),
        ends=[DARKER, BRIGHTER],
        mark=MARK,
        dash=DASH,
        style=_source("page.css"),
        code=Markup("\n").join(_source(f"js/{name}.js") for name in SCRIPTS),
    )
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


def _source(name: str) -> Markup:
    """A file of this package, as it is."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _one_target(rows: list[defaultdict[str, str]], about: dict[str, Any]) -> str | None:
    """The answer asked for, if it is the same for all images."""
    targets = {row["target"] for row in rows} - {""}
    return targets.pop() if len(targets) == 1 else about.get("target")


def _thumbnail(case: Case, single_file: bool) -> str:
    """The address of a thumbnail."""
    assert case.folder is not None
    picture = case.thumbnail()
    if single_file:
        return data_url(picture, "webp")
    (case.folder / "thumb.webp").write_bytes(picture)
    return f"{case.link}/thumb.webp"


def _script(case: Case, single_file: bool) -> Markup:
    """The data of a case, or the address of the script that brings them, as JSON."""
    assert case.folder is not None
    data = as_json(case.data())
    if single_file:
        return data
    (case.folder / "case.js").write_text(f"cfgen.give({data})\n", encoding="utf-8")
    return as_json(f"{case.link}/case.js")

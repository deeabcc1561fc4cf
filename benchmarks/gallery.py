"""The page with many cases: size, first paint, memory, and how long a reader waits.

    python run_cf.py --limit 24 --confidence 0.9 --out runs/gallery
    python benchmarks/gallery.py --run runs/gallery
    python benchmarks/gallery.py --large 20000

Repeats the cases of a run under new names until there are enough, or makes a run of so many small
pictures, writes the page and opens it in Chromium from the disk, a fresh browser each time. Writes
its part of benchmarks/results/gallery.json. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contract import RESULTS, about, keep, spread
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from scipy.ndimage import gaussian_filter

import cfgen
from cfgen.engine.run_folder import COLUMNS
from cfgen.engine.table import SCHEMA, read_table, write_table
from cfgen.gallery import case, write_gallery
from cfgen.gallery.case import Case

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --enable-precise-memory-info"
).split()


def many(run: Path, out: Path, number: int) -> None:
    """Repeat the cases of a run under new names, with their files."""
    rows = list(read_table(run / "results.csv"))
    shutil.copy(run / "run.json", out)

    def repeated(i: int) -> dict[str, str]:
        row = rows[i % len(rows)]
        name = f"{row['case']}-{i:04d}"
        if (run / "cases" / row["case"]).is_dir():
            shutil.copytree(run / "cases" / row["case"], out / "cases" / name)
        return row | {"case": name, "file": f"{name}.png"}

    columns = list(dict.fromkeys((*rows[0], "schema")))
    write_table(out / "results.csv", columns, (repeated(i) for i in range(number)))


def generated(out: Path, number: int, pictures: int = 24, side: int = 64) -> None:
    """A run of so many cases that kept its pictures, without any model; cases share files.

    Args:
        out: An empty folder.
        number: How many cases.
        pictures: How many of them differ.
        side: Side of a picture in pixels.
    """
    rng = np.random.default_rng(0)
    there = out / "pictures"
    for k in range(pictures):
        (there / f"{k}").mkdir(parents=True)
        x, more = (gaussian_filter(rng.random((side, side)), s) for s in (2, 6))
        grey = np.stack([x, x + 4 * (more - more.mean()), x])
        grey = (255 * (grey - grey.min()) / np.ptp(grey)).astype(np.uint8)
        for name, image in zip(("x", "x_cf", "difference"), grey, strict=True):
            Image.fromarray(image).save(there / f"{k}" / f"{name}.png")

    def row(i: int) -> dict[str, Any]:
        status = str(rng.choice(["FLIPPED", "ALREADY", "NOT_FOUND"], p=[0.8, 0.15, 0.05]))
        before, after, lam, usual = rng.random(4).tolist()
        name = f"scan-{i:05d}"
        (out / "cases" / name).mkdir(parents=True)
        for picture in (there / f"{i % pictures}").iterdir():
            os.link(picture, out / "cases" / name / picture.name)
        told: dict[str, Any] = {
            "case": name,
            "file": f"clinic-{i % 7}/{name}.png",
            "source": "tumour",
        }
        told |= {"target": "healthy", "status": status, "prob_before": before / 2, "schema": SCHEMA}
        told |= {"direction": "minimal_norm", "seed": 0, "alternative": 1}
        if status == "FLIPPED":
            told |= {"lam": 9 * lam, "lam_lower": 8.9 * lam, "prob_after": 0.5 + after / 2}
            told |= {"plausibility": usual, "plausibility_q": usual, "lpips": lam / 9}
        return told

    write_table(out / "results.csv", COLUMNS, (row(i) for i in range(number)))
    settings = {"direction": "minimal_norm", "seed": 0, "keep": "pictures"}
    (out / "run.json").write_text(json.dumps({"schema": SCHEMA, "settings": settings}))


@contextmanager
def remembered() -> Iterator[None]:
    """Paint and read the pictures that cases share only once: the browser is measured here."""
    thumbnail, read, address = Case.thumbnail, case._read, case._data_url
    painted: dict[tuple[int, bool], bytes] = {}

    def once(self: Case) -> bytes:
        assert self.folder is not None
        key = (self.folder / "x.png").stat().st_ino, self.made
        if key not in painted:
            painted[key] = thumbnail(self)
        return painted[key]

    def shared(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        known: dict[int, Any] = {}

        def of(path: Path) -> Any:
            key = path.stat().st_ino
            if key not in known:
                known[key] = function(path)
            return known[key]

        return of

    Case.thumbnail, case._read, case._data_url = once, shared(read), shared(address)
    try:
        yield
    finally:
        Case.thumbnail, case._read, case._data_url = thumbnail, read, address


def memory(browser: Browser) -> tuple[float, float]:
    """Memory in MB: resident of the page's process, and of the whole browser, counted once.

    The processes of a browser share pages; each has its share of them (PSS).
    """
    session = browser.new_browser_cdp_session()
    pages, shares = [], 0.0
    for process in session.send("SystemInfo.getProcessInfo")["processInfo"]:
        text = Path(f"/proc/{process['id']}/smaps_rollup").read_text()
        kilobytes = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
        shares += int(kilobytes["Pss"]) * 1024 / 1e6
        if process["type"] == "renderer":
            pages.append(int(kilobytes["Rss"]) * 1024 / 1e6)
    return max(pages), shares


def wait(page: Page, action: str) -> float:
    """Seconds from an action to the frame after it is painted."""
    return page.evaluate(
        f"""async () => {{
            const start = performance.now();
            {action};
            await new Promise((r) => requestAnimationFrame(() => setTimeout(r)));
            return (performance.now() - start) / 1000;
        }}"""
    )


def visit(index: Path, last: str) -> dict[str, float]:
    """Open the page in a fresh browser; filter, sort, open a case and scroll to the end.

    Args:
        index: The page.
        last: Name of the case that is found and opened in the end.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        told: dict[str, float] = {"browser_empty_mb": memory(browser)[1]}
        page.goto(index.as_uri())
        page.wait_for_timeout(500)
        told |= page.evaluate(
            """() => {
                const paint = performance.getEntriesByType("paint");
                const [page] = performance.getEntriesByType("navigation");
                return Object.fromEntries([
                    ["loaded_s", page.loadEventEnd / 1000],
                    ...paint.map((e) => [e.name.replaceAll("-", "_") + "_s", e.startTime / 1000]),
                ]);
            }"""
        )

        def weigh(when: str) -> None:
            told[f"heap_{when}_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
            metrics = session.send("Performance.getMetrics")["metrics"]
            told[f"nodes_{when}"] = next(m["value"] for m in metrics if m["name"] == "Nodes")
            told[f"resident_{when}_mb"], told[f"browser_{when}_mb"] = memory(browser)

        weigh("opened")
        box = "document.querySelector('input[name=status]')"
        told["filter_s"] = wait(page, f"{box}.click()")
        wait(page, f"{box}.click()")
        told["sort_s"] = wait(
            page,
            "const by = document.querySelector('[name=sort]'); by.value = 'lam';"
            "by.dispatchEvent(new Event('input', { bubbles: true }))",
        )
        start = time.perf_counter()
        page.locator(".card a").first.click()
        page.locator("#case-facts dd").first.wait_for()
        told["open_case_s"] = time.perf_counter() - start
        page.keyboard.press("Escape")
        for _ in range(60):
            page.mouse.wheel(0, 5000)
            page.wait_for_timeout(20)
        page.keyboard.press("End")
        page.wait_for_timeout(500)
        weigh("scrolled")
        start = time.perf_counter()
        page.fill("[name=text]", last)
        page.locator(".card a").first.click()
        page.locator("#case-facts dd").first.wait_for()
        told["find_last_case_s"] = time.perf_counter() - start
        weigh("last")
        browser.close()
    return told


def measure(fill: partial[None], number: int, single_file: bool, repeats: int) -> dict[str, Any]:
    """Write a page of so many cases and visit it; the median of the visits and their extremes.

    Args:
        fill: Makes the run in an empty folder.
        number: How many cases it has.
        single_file: Put everything into one file.
        repeats: Visits.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        fill(out)
        start = time.perf_counter()
        with remembered() if fill.func is generated else nullcontext():
            index = write_gallery(out, single_file)
        seconds = time.perf_counter() - start
        last = [
            row["case"] for row in read_table(out / "results.csv") if row["status"] == "FLIPPED"
        ]
        visits = [visit(index, last[-1]) for _ in range(repeats)]
        files = [path for path in out.rglob("*") if path.is_file()]
        brought = [path for path in files if path.name in ("case.js", "thumb.webp")]
        told: dict[str, Any] = {
            "cases": number,
            "single_file": single_file,
            "write_s": round(seconds, 2),
            "index_html_mb": round(index.stat().st_size / 1e6, 3),
            "index_and_chunks_mb": _megabytes((out / "page").glob("*.js")),
            "case_js_and_thumbnails_mb": _megabytes(brought),
            "run_folder_mb": _megabytes(files),
        }
    for name in visits[0]:
        told[name] = spread([v[name] for v in visits], 3)
    return told


def _megabytes(files: Iterable[Path]) -> float:
    return round(sum(path.stat().st_size for path in files) / 1e6, 1)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="a run folder, repeated")
    what.add_argument("--large", type=int, metavar="CASES", help="a generated run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "gallery.json")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        version = browser.version
        browser.close()
    summary = about("playwright") | {"cfgen": cfgen.__version__, "browser": f"Chromium {version}"}
    if args.large:
        fill = partial(generated, number=args.large)
        told = measure(fill, args.large, False, args.repeats)
        summary = {"large": summary | told}
    else:
        record = json.loads((args.run / "run.json").read_text())
        summary |= {
            "checkpoint": record["checkpoint"]["sha256"],
            "results": [
                measure(partial(many, args.run, number=number), number, single_file, args.repeats)
                for number, single_file in ((24, False), (2000, False), (200, True))
            ],
        }
    keep(args.out, summary)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()

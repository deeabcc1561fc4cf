"""The page with many cases: size, first paint, memory, and how long a reader waits.

    python run_cf.py --limit 24 --confidence 0.9 --out runs/gallery
    python benchmarks/gallery.py --run runs/gallery

Repeats the cases of a run under new names until there are enough, writes the page and opens it in
Chromium from the disk, a fresh browser each time. Writes benchmarks/results/gallery.json. Linux.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from contract import RESULTS, about
from playwright.sync_api import Browser, Page, sync_playwright

import cfgen
from cfgen.gallery import write_gallery

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --enable-precise-memory-info"
).split()


def many(run: Path, out: Path, number: int) -> None:
    """Repeat the cases of a run under new names, with their files."""
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shutil.copy(run / "run.json", out)
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for i in range(number):
            row = rows[i % len(rows)]
            name = f"{row['case']}-{i:04d}"
            writer.writerow(row | {"case": name, "file": f"{name}.png"})
            if (run / "cases" / row["case"]).is_dir():
                shutil.copytree(run / "cases" / row["case"], out / "cases" / name)


def resident(browser: Browser) -> float:
    """Resident memory of the page's process in MB."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    pages = [
        int(Path(f"/proc/{process['id']}/statm").read_text().split()[1])
        for process in processes
        if process["type"] == "renderer"
    ]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


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


def visit(index: Path) -> dict[str, float]:
    """Open the page in a fresh browser; filter, sort, open a case and scroll to the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(index.as_uri())
        page.wait_for_timeout(500)
        told: dict[str, float] = page.evaluate(
            """() => {
                const paint = performance.getEntriesByType("paint");
                const [page] = performance.getEntriesByType("navigation");
                return Object.fromEntries([
                    ["loaded_s", page.loadEventEnd / 1000],
                    ...paint.map((e) => [e.name.replaceAll("-", "_") + "_s", e.startTime / 1000]),
                ]);
            }"""
        )

        def memory(when: str) -> None:
            told[f"heap_{when}_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
            told[f"resident_{when}_mb"] = resident(browser)

        memory("opened")
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
        memory("scrolled")
        browser.close()
    return told


def measure(run: Path, number: int, single_file: bool, repeats: int) -> dict[str, Any]:
    """Write a page of so many cases and visit it; the median of the visits and their extremes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        many(run, out, number)
        start = time.perf_counter()
        index = write_gallery(out, single_file)
        seconds = time.perf_counter() - start
        visits = [visit(index) for _ in range(repeats)]
        files = [path for path in out.rglob("*") if path.is_file()]
        brought = [path for path in files if path.name in ("case.js", "thumb.webp")]
        told: dict[str, Any] = {
            "cases": number,
            "single_file": single_file,
            "write_s": round(seconds, 2),
            "index_html_mb": round(index.stat().st_size / 1e6, 3),
            "case_js_and_thumbnails_mb": round(sum(p.stat().st_size for p in brought) / 1e6, 1),
            "run_folder_mb": round(sum(p.stat().st_size for p in files) / 1e6, 1),
        }
    for name in visits[0]:
        values = [v[name] for v in visits]
        told[name] = {
            "median": round(statistics.median(values), 3),
            "least": round(min(values), 3),
            "most": round(max(values), 3),
        }
    return told


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, required=True, help="a run folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "gallery.json")
    args = parser.parse_args()
    results = [
        measure(args.run, number, single_file, args.repeats)
        for number, single_file in ((24, False), (2000, False), (200, True))
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        version = browser.version
        browser.close()
    summary = about("playwright") | {
        "cfgen": cfgen.__version__,
        "browser": f"Chromium {version}",
        "checkpoint": json.loads((args.run / "run.json").read_text())["checkpoint"]["sha256"],
        "results": results,
    }
    args.out.write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()

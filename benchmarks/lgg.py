"""Smallest flips on the real test split: share flipped, lambda, passes, speed, oracle agreement.

    pip install -e ".[bench]"
    python benchmarks/lgg.py --images ../shared/data/lgg-flair-128

Each setting is a whole run of the engine. Flips are counted on the PNG files that it wrote, read
back and classified again. Writes benchmarks/results/lgg.json and prints the table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from contract import about
from render import table

from cfgen import load_checkpoint
from cfgen.data import ImageFolder, read_image, read_picture
from cfgen.engine import Engine, Settings
from cfgen.plausibility import LPIPS

SETTINGS = [
    Settings(direction="gradient", sweep=0),
    Settings(direction="minimal_norm", sweep=0),
    Settings(direction="gradient", confidence=0.9, sweep=0),
    Settings(direction="minimal_norm", confidence=0.9, sweep=0),
]


def peak_megabytes() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def flips_on_disk(engine: Engine, out: Path, row: dict[str, Any]) -> bool:
    """Whether the written image reaches what was asked for."""
    checkpoint, f = engine.checkpoint, engine.classifier
    path = out / "cases" / row["case"] / "x_cf.png"
    x = read_image(path, channels=checkpoint.channels, size=checkpoint.size)[None]
    with torch.no_grad():
        probability = f(x.to(engine.accelerator.device)).softmax(1)[0, f.index(row["target"])]
    return float(probability) > (engine.settings.confidence or 0.5)


def measure(engine: Engine, items: ImageFolder) -> tuple[dict[str, Any], dict[str, float]]:
    """Run one setting over the items: its summary, and lambda of each slice that it flipped."""
    checkpoint = engine.checkpoint
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        start = time.perf_counter()
        rows = engine.run(
            items,
            lambda i: read_picture(i, channels=checkpoint.channels, size=checkpoint.size),
            out,
        )
        seconds = time.perf_counter() - start
        right = [r for r in rows if r["source"] == r["label"]]
        flipped = [r for r in right if r["status"] == "FLIPPED" and flips_on_disk(engine, out, r)]
    # An oracle that was wrong before cannot be asked about the change.
    judged = [r for r in flipped if r["oracle_before"] < 0.5]

    def agreement(rows: list[dict[str, Any]]) -> float:
        agrees = [r["oracle_agrees"] for r in rows]
        return round(statistics.fmean(agrees), 4) if agrees else float("nan")

    def median(name: str) -> float:
        return round(statistics.median(r[name] for r in flipped), 4)

    summary = {
        "direction": engine.settings.direction,
        "confidence": engine.settings.confidence or 0.5,
        "slices": len(rows),
        "rightly classified": len(right),
        "flipped": round(len(flipped) / len(right), 4),
        "lam": median("lam"),
        "lpips": median("lpips"),
        "l1 of 255": round(255 * median("l1"), 3),
        "forward": median("forward"),
        "backward": median("backward"),
        "oracle agrees": agreement(judged),
        "to healthy": agreement([r for r in judged if r["target"] == "healthy"]),
        "to tumour": agreement([r for r in judged if r["target"] == "tumour"]),
        "plausible (p >= 0.05)": round(
            statistics.fmean(float(r["plausibility"] >= 0.05) for r in flipped), 4
        ),
        "images per second": round(len(rows) / seconds, 3),
        "peak MB": round(peak_megabytes()),
    }
    return summary, {r["file"]: r["lam"] for r in flipped}


def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--images", required=True, help="folder with labels.csv")
    p.add_argument("--split", default="test")
    p.add_argument("--limit", type=int, help="only the first N slices")
    p.add_argument("--checkpoint", default="brain-flair")
    p.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lgg.json")
    args = p.parse_args()
    accelerator = Accelerator(mixed_precision=args.precision)
    checkpoint = load_checkpoint(args.checkpoint, accelerator.device)
    lpips = LPIPS("st-alex").to(accelerator.device)
    items = ImageFolder(args.images, split=args.split, limit=args.limit)
    rows: list[dict[str, Any]] = []
    by_gradient: dict[float | None, dict[str, float]] = {}
    for settings in SETTINGS:
        row, lam = measure(Engine(checkpoint, settings, accelerator, lpips), items)
        first = by_gradient.setdefault(settings.confidence, lam)
        # Each slice against itself: a method that flips fewer keeps the easy ones.
        ratio = statistics.median(lam[file] / first[file] for file in lam.keys() & first.keys())
        rows.append(row | {"lam / gradient's": round(ratio, 4)})
        print(json.dumps(rows[-1]), flush=True)
        record = about("accelerate", device=accelerator.device.type) | {
            "split": args.split,
            "checkpoint": checkpoint.hashes,
            "precision": args.precision,
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

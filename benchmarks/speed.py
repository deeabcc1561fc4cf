"""How fast: against latentshift, against the floor, in bf16, and with batch, image and processes.

    pip install -e ".[bench]" && pip install --no-deps latentshift
    python benchmarks/speed.py --images ../shared/data/lgg-flair-128 --parts peers floor

Slices that f classifies rightly, towards the other class, without files; without --images synthetic
ones. Each part is merged into benchmarks/results/speed.json, which benchmarks/render.py shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract import RESULTS, about, clock, keep, spread
from floor import breakdown
from latent_shift import INSTALL, latent_shift, slopes
from runs import directions, run, slices, statuses, steps
from scaling import batches, processes, sizes
from torch import Tensor

from cfgen.checkpoints import Checkpoint, load_checkpoint

PARTS = ("peers", "floor", "bf16", "batches", "sizes", "processes")
# The defaults, and the search that stops at the flip itself, as near as its API can ask.
ASKED = {"latentshift": {}, "latentshift, to the flip": {"search_pred_diff": 0.5}}


def theirs(
    checkpoint: Checkpoint, x: Tensor, source: Tensor, runs: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Step lengths |lambda grad| of latentshift, nan where f does not leave the source class.

    Returns:
        Those of the images that it hands over (N,), and of the nearest of its frames that flips
        (N,); the images are clamped and rounded to 8 bit, as cfgen's are.
    """
    size = slopes(checkpoint.generator, checkpoint.classifier, x, source)
    handed, nearest = [], []
    for one, k, slope in zip(runs, source.tolist(), size.tolist(), strict=True):
        frames = torch.as_tensor(one["generated_images"]).to(x).clamp(0, 1)
        with torch.no_grad():
            said = checkpoint.classifier((frames * 255).round() / 255).argmax(1).numpy()
        length = np.where(said != k, np.abs(one["lambdas"]) * slope, np.nan)
        length[length == 0] = np.nan  # the reconstruction alone flips
        handed.append(length[0])
        nearest.append(np.nanmin(length) if np.isfinite(length).any() else np.nan)
    return np.array(handed), np.array(nearest)


def peers(args: argparse.Namespace, checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """Cfgen in one batch against latentshift in its loop, each with its own step."""
    with torch.no_grad():
        source = checkpoint.classifier(x).argmax(1)
    rows: list[dict[str, Any]] = []
    lengths: dict[str, np.ndarray] = {}
    missing = ""
    for name, options in ASKED.items():
        try:
            latent_shift(checkpoint.generator, checkpoint.classifier, x[:1], source[:1])  # warm-up
        except ImportError:
            missing = INSTALL
            break
        seconds, runs = clock(
            lambda options=options: latent_shift(
                checkpoint.generator, checkpoint.classifier, x, source, **options
            ),
            1,
        )
        lengths[name], nearest = theirs(checkpoint, x, source, runs)
        lengths[f"{name}, nearest frame"] = nearest
        rows.append({"method": name, "detail": "drop", "seconds": spread(seconds)})
        rows.append(rows[-1] | {"method": f"{name}, nearest frame"})
    for name, direction in directions(checkpoint).items():
        # latentshift hands over reconstructions, without the detail.
        for detail in ("keep", "drop") if name == "gradient" else ("keep",):
            run(checkpoint, direction, x[:2], 2)  # warm-up
            seconds, results = clock(
                lambda direction=direction, detail=detail: run(
                    checkpoint, direction, x, args.batch, detail=detail == "keep"
                ),
                args.repeats,
            )
            label = name if detail == "keep" else f"{name}, dropped"
            lengths[label] = steps(results)
            rows.append({"method": label, "detail": detail, "seconds": spread(seconds)})
    base = {} if missing else {"latentshift": rows[0]["seconds"]["median"]}
    for row in rows:
        lam, seconds = lengths[row["method"]], row["seconds"]["median"]
        row |= {
            "flipped": round(float(np.isfinite(lam).mean()), 4),
            "lam": round(float(np.nanmedian(lam)), 4),
            "counterfactuals a second": round(float(np.isfinite(lam).sum()) / seconds, 4),
        }
        for peer, peer_seconds in base.items():
            both = np.isfinite(lam) & np.isfinite(lengths[peer])
            if not both.any():
                continue
            ratio = lam[both] / lengths[peer][both]
            row[f"lam / {peer}'s"] = round(float(np.median(ratio)), 4)
            row["smaller on"] = round(float((ratio < 1).mean()), 4)
            row["times as fast"] = round(peer_seconds / seconds, 3)
    return {"rows": rows, "missing": {"latentshift": missing} if missing else {}}


def floor(args: argparse.Namespace, checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """Seconds over the floor, its passes times the time of one in the full batch, by direction."""
    rows = []
    for name, direction in directions(checkpoint).items():
        run(checkpoint, direction, x[:2], 2)  # warm-up
        rows.append({"method": name, **breakdown(checkpoint, direction, x, args.repeats)})
    return {"rows": rows}


def bf16(args: argparse.Namespace, checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """Gradients under autocast to bfloat16: statuses, time and lambda against float32."""
    rows = []

    def cast() -> Any:
        return torch.autocast(x.device.type, torch.bfloat16)

    for name, direction in directions(checkpoint).items():
        results, seconds = {}, {}
        for precision, context in (("float32", nullcontext), ("bf16", cast)):
            run(checkpoint, direction, x[:2], 2, autocast=context)  # warm-up
            seconds[precision], results[precision] = clock(
                lambda direction=direction, context=context: run(
                    checkpoint, direction, x, args.batch, autocast=context
                ),
                args.repeats,
            )
        full, half = (statuses(results[p]) for p in ("float32", "bf16"))
        ratio = steps(results["bf16"]) / steps(results["float32"])
        rows.append(
            {
                "method": name,
                "same status": round(
                    float(np.mean([a == b for a, b in zip(full, half, strict=True)])), 4
                ),
                "lam / float32's": round(float(np.nanmedian(ratio)), 4),
                "time / float32's": round(
                    float(np.median(seconds["bf16"]) / np.median(seconds["float32"])), 4
                ),
                "seconds": spread(seconds["bf16"]),
            }
        )
    return {"rows": rows}


def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--images", type=Path, help="folder with labels.csv; synthetic slices if none")
    p.add_argument("--split", default="test")
    p.add_argument("--limit", type=int, default=32, help="slices")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    p.add_argument("--scaled", nargs="+", default=["gradient"], help="directions of the scaling")
    p.add_argument("--threads", type=int, help="torch's, by default as it likes")
    p.add_argument("--checkpoint", default="brain-flair")
    p.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoint = load_checkpoint(args.checkpoint)
    x = slices(args, checkpoint)
    parts: dict[str, Callable[..., dict[str, Any]]] = {
        "peers": peers,
        "floor": floor,
        "bf16": bf16,
        "batches": batches,
        "sizes": sizes,
        "processes": processes,
    }
    about_run = about("latentshift", "accelerate") | {
        "checkpoint": checkpoint.hashes,
        "data": "synthetic" if args.images is None else args.split,
        "slices": len(x),
        "batch": args.batch,
        "warm-up": "one run of two slices, or of one batch, before each timing",
    }
    for name in args.parts:
        part = about_run | parts[name](args, checkpoint, x)
        keep(args.out, {name: part})
        print(json.dumps({name: part["rows"]}), flush=True)


if __name__ == "__main__":
    main()

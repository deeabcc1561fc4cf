"""Counterfactuals a second with the batch, the size of the image and the number of processes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from contract import clock, spread
from runs import column, directions, run
from torch import Tensor
from torch.nn.functional import interpolate

from cfgen.checkpoints import Checkpoint


def rate(checkpoint: Checkpoint, name: str, x: Tensor, batch: int, repeats: int) -> dict[str, Any]:
    """Counterfactuals a second of a direction in batches of a size."""
    direction = directions(checkpoint)[name]
    run(checkpoint, direction, x[:batch], batch)  # warm-up
    seconds, results = clock(lambda: run(checkpoint, direction, x, batch), repeats)
    flips = int(column(results, "flipped").sum())
    return {
        "method": name,
        "slices": len(x),
        "flipped": round(flips / len(x), 4),
        "seconds": spread(seconds),
        "counterfactuals a second": round(flips / float(np.median(seconds)), 4),
    }


def batches(args: argparse.Namespace, checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """Scaling with the batch: the same slices in batches of 1 to 32."""
    sizes = [b for b in (1, 2, 4, 8, 16, 32) if b <= len(x)]
    return {
        "rows": [
            {"batch": b, **rate(checkpoint, name, x, b, args.repeats)}
            for name in args.scaled
            for b in sizes
        ]
    }


def sizes(args: argparse.Namespace, checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """Scaling with the image: the slices resized; the prior's directions know one size only."""
    x, rows = x[: args.batch // 4], []
    for side in (64, 128, 256):
        resized = interpolate(x, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
        for name in args.scaled:
            if name != "guided":
                rows.append({"side": side, **rate(checkpoint, name, resized, len(x), args.repeats)})
    return {"rows": rows}


def processes(args: argparse.Namespace, checkpoint: Checkpoint, x: Tensor) -> dict[str, Any]:
    """Scaling with processes of one thread: whole runs with files, as Accelerate launches them."""
    rows, root = [], Path(__file__).parents[1]
    data = [] if args.images is None else ["--images", str(args.images), "--split", args.split]
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            several = ["--multi_gpu", "--num_processes", str(count)] if count > 1 else []
            command = [sys.executable, "-m", "accelerate.commands.launch", *several]
            command += [] if several else ["--num_processes", "1"]
            command += [str(root / "run_cf.py"), "--checkpoint", args.checkpoint, *data]
            command += ["--limit", str(len(x)), "--direction", "gradient", "--sweep", "0"]
            command += ["--batch-size", "4", "--device", "cpu", "--out", folder]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"expected a run, got {done.stderr[-2000:]}")
            record = json.loads((Path(folder) / "run.json").read_text())
        flips = record["statuses"].get("FLIPPED", 0)
        rows.append(
            {
                "processes": count,
                "method": "gradient",
                "slices": len(x),
                "seconds": spread([record["seconds"]]),
                "counterfactuals a second": round(flips / record["seconds"], 4),
            }
        )
    return {"rows": rows}

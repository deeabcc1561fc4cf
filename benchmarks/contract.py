"""What every benchmark says about itself: seed, versions, device; warm-up, median and spread."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

SEED = 0
RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")


def about(*packages: str, device: str = "cpu") -> dict[str, Any]:
    """Seed, versions of the packages that are there, device and threads, for a JSON file."""
    versions = {}
    for name in ("torch", "numpy", *packages):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {
        "seed": SEED,
        "python": platform.python_version(),
        "versions": versions,
        "device": f"{device}, {name}",
        "threads": torch.get_num_threads(),
    }


def spread(values: list[float], digits: int = 4) -> dict[str, float | int]:
    """Median, smallest and largest of some measurements, and how many they are."""
    median, least, most = (round(float(f(values)), digits) for f in (np.median, np.min, np.max))
    return {"median": median, "least": least, "most": most, "repeats": len(values)}


def clock(f: Callable[[], T], repeats: int) -> tuple[list[float], T]:
    """Seconds of each of some calls, which the caller has warmed up, and what the last returned."""
    seconds = []
    for _ in range(repeats - 1):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    result = f()
    return [*seconds, time.perf_counter() - start], result


def keep(path: Path, part: dict[str, Any]) -> None:
    """Merge the entries of ``part`` into a JSON file, so that a script can be run part by part."""
    record = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | part, indent=2) + "\n")

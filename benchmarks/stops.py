"""A run that is stopped, killed, or short of disk; where units run; and memory, flat or not.

    python benchmarks/stops.py --images FOLDER --split test
    python benchmarks/stops.py --parts memory

Each stopped run is continued by the same command until it is whole, and then held byte for byte
against one that nobody stopped. Writes its parts of benchmarks/results/stops.json. Linux; the full
disk needs root, the cluster the extra ``ray``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract import SEED, about, keep

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "stops.json"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONPATH": str(ROOT),
    "RAY_worker_niceness": "0",
}
MEMORY = """
import resource, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from torch import nn
from cfgen.checkpoints import Checkpoint
from cfgen.classifiers import Classifier
from cfgen.data import ImageFolder, read_picture
from cfgen.engine import Engine, Settings
from cfgen.gallery import write_gallery
from cfgen.generators import Identity
from cfgen.plausibility import LPIPS

class Brightness(nn.Module):
    def forward(self, x):
        score = 20 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-score, score], 1)

torch.set_num_threads(1)
f = Classifier(Brightness(), ("dark", "bright"), channels=1)
models = Checkpoint("free", Identity(), f, None, None, 1, (8, 8))
settings = Settings(direction="gradient", batch_size=64, sweep=0, keep="rows")
items = ImageFolder(sys.argv[1], limit=int(sys.argv[2]))
engine = Engine(models, settings, Accelerator(cpu=True), LPIPS())
rows = engine.run(items, lambda i: read_picture(i, channels=1, size=(8, 8)), Path(sys.argv[3]))
write_gallery(Path(sys.argv[3]))
print(rows.images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def command(args: argparse.Namespace, out: Path, *more: object) -> list[str]:
    """The run that is stopped and continued."""
    asked = ["--images", args.images, "--limit", args.limit, "--checkpoint", args.checkpoint]
    asked += ["--split", args.split] if args.split else []
    asked += ["--direction", args.direction, "--sweep", 3, "--batch-size", 4, "--device", "cpu"]
    return [str(a) for a in (ROOT / "run_cf.py", *asked, "--out", out, *more)]


def run(args: argparse.Namespace, out: Path, *more: object, launch: tuple[str, ...] = ()) -> float:
    """Run to the end; returns the seconds that run.json tells."""
    whole = [sys.executable, *launch, *command(args, out, *more)]
    done = subprocess.run(whole, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"expected a run, got {done.stdout[-500:]}{done.stderr[-2000:]}")
    return json.loads((out / "run.json").read_text())["seconds"]


def left(out: Path) -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """The rows but for their seconds, and every byte of the cases but the page's part of them."""
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    files = (p for p in sorted((out / "cases").rglob("*")) if p.is_file())
    return rows, {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def marks(out: Path) -> int:
    """How many units are whole."""
    return len([*(out / "units").glob("*.jsonl")])


def stopped(args: argparse.Namespace, out: Path, seconds: float, how: int) -> int:
    """Begin a run or go on with it, and send it a signal after some seconds; its exit status."""
    process = subprocess.Popen(
        [sys.executable, *command(args, out)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
        return process.wait()


def kills(args: argparse.Namespace, folder: Path, whole: Path, seconds: float) -> dict[str, Any]:
    """Kill -9 at random moments, until there were so many; then every run to its end."""
    chance, runs, killed, at = random.Random(SEED), [], 0, []
    while killed < args.kills:
        out = folder / f"killed-{len(runs)}"
        runs.append(out)
        while killed < args.kills:
            code = stopped(args, out, chance.uniform(2, seconds), signal.SIGKILL)
            if code == 0:
                break
            killed += 1
            at.append(marks(out))
        run(args, out)
    equal = [left(out) == left(whole) for out in runs]
    return {"kills": killed, "units whole at each": at, "runs": len(runs), "equal": sum(equal)}


def interrupts(args: argparse.Namespace, folder: Path, whole: Path) -> dict[str, Any]:
    """Ctrl-C in the middle: exit status, table and page of what is done; then to the end."""
    out = folder / "interrupted"
    process = subprocess.Popen(
        [sys.executable, *command(args, out)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and marks(out) < marks(whole) // 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code = process.wait()
    table, page = len(left(out)[0]), (out / "index.html").is_file()
    run(args, out)
    return {"exit": code, "rows": table, "page": page, "equal": left(out) == left(whole)}


def full_disk(args: argparse.Namespace, folder: Path, whole: Path) -> dict[str, Any]:
    """A disk of a third of the run's size, made larger for the second run."""
    disk, size = folder / "disk", sum(p.stat().st_size for p in whole.rglob("*") if p.is_file())
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 3}", "tmpfs", disk], check=True)
    try:
        first = [sys.executable, *command(args, disk / "out")]
        done = subprocess.run(first, env=ENVIRONMENT, capture_output=True, text=True)
        told = done.stdout.strip().splitlines()[-1].replace(str(disk), "DISK")
        units = marks(disk / "out")
        subprocess.run(["mount", "-o", f"remount,size={10 * size}", disk], check=True)
        run(args, disk / "out")
        equal = left(disk / "out") == left(whole)
    finally:
        subprocess.run(["umount", disk], check=True)
    return {"exit": done.returncode, "line": told, "units whole": units, "equal": equal}


def actors(args: argparse.Namespace, folder: Path, whole: Path) -> dict[str, Any]:
    """One of two actors of a Ray cluster killed in the middle."""
    out = folder / "actors"
    on_ray = [sys.executable, *command(args, out, "--on", "ray", "--actors", 2)]
    process = subprocess.Popen(on_ray, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while process.poll() is None and marks(out) < 3:
        time.sleep(0.2)
    found = subprocess.run(["pgrep", "-f", "ray::Actor"], capture_output=True, text=True)
    victims = found.stdout.split()
    os.kill(int(victims[0]), signal.SIGKILL)
    units = marks(out)
    return {
        "actors": len(victims),
        "units whole when one was killed": units,
        "exit": process.wait(),
        "equal": left(out) == left(whole),
    }


def places(args: argparse.Namespace, folder: Path, whole: Path, alone: float) -> dict[str, Any]:
    """The same run in two processes, as on two machines, and by two actors, all of one thread."""
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    more = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    seconds = {"one process": alone}
    seconds["two processes"] = run(args, folder / "two", launch=(*launch, *more))
    seconds["two machines"] = two_machines(args, folder / "machines")
    seconds["two actors"] = run(args, folder / "ray", "--on", "ray", "--actors", 2)
    names = {"two processes": "two", "two machines": "machines", "two actors": "ray"}
    rows = {
        name: {
            "seconds": round(value, 1),
            "times one process": round(alone / value, 2),
            "equal": name not in names or left(folder / names[name]) == left(whole),
        }
        for name, value in seconds.items()
    }
    events = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    units = [e for e in events if e["event"] == "unit"]
    reading, waited = (round(sum(e[n] for e in units), 2) for n in ("reading", "waited"))
    return {"rows": rows, "seconds of reading": reading, "of these not hidden": waited}


def two_machines(args: argparse.Namespace, out: Path) -> float:
    """As ``accelerate launch`` is started on two machines, both of them this one."""
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 2"
    launch += " --main_process_ip 127.0.0.1 --main_process_port 29573 --mixed_precision no"
    launch += " --dynamo_backend no --machine_rank"
    started = [
        subprocess.Popen(
            [sys.executable, *launch.split(), str(rank), *command(args, out)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in (0, 1)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError(f"expected two machines to end well, got {codes}")
    return json.loads((out / "run.json").read_text())["seconds"]


def memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of a run and its page with a generator that costs nothing, in megabytes."""
    import numpy as np
    from PIL import Image

    images, rng = folder / "images", np.random.default_rng(SEED)
    for i in range(args.many):
        place = images / f"{i // 1000:03d}" / f"image-{i:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(place)
    rows = []
    for number in (100, args.many):
        out = folder / f"out-{number}"
        start = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "-c", MEMORY, images, str(number), out],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        seconds = time.perf_counter() - start
        rows.append(
            {
                "images": int(told[-2]),
                "peak MB": round(int(told[-1]) / 1e3, 1),
                "seconds": round(seconds, 1),
                "files": sum(len(files) for _, _, files in os.walk(out)),
                "MB on disk": round(
                    sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6, 1
                ),
            }
        )
    return {"rows": rows, "ratio": round(rows[1]["peak MB"] / rows[0]["peak MB"], 3)}


def main() -> None:
    """Command line of this script."""
    names = "kills interrupts full_disk actors places memory".split()
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--parts", nargs="+", choices=names, default=names)
    p.add_argument("--images", help="folder with images, for all parts but memory")
    p.add_argument("--split", help="rows of its labels.csv")
    p.add_argument("--limit", type=int, default=200)
    p.add_argument("--checkpoint", default="brain-flair")
    p.add_argument("--direction", default="gradient")
    p.add_argument("--kills", type=int, default=20)
    p.add_argument("--many", type=int, default=100_000)
    args = p.parse_args()
    if args.images is None and args.parts != ["memory"]:
        p.error("expected --images, got none")
    with tempfile.TemporaryDirectory() as name:
        folder, parts = Path(name), list(args.parts)
        told = {"about": about("accelerate", "ray"), "arguments": vars(args) | {"images": None}}
        if parts != ["memory"]:
            start = time.perf_counter()
            alone = run(args, folder / "whole")
            wall = time.perf_counter() - start
            whole = folder / "whole"
            work: dict[str, Callable[[], dict[str, Any]]] = {
                "kills": lambda: kills(args, folder, whole, wall / 3),
                "interrupts": lambda: interrupts(args, folder, whole),
                "full_disk": lambda: full_disk(args, folder, whole),
                "actors": lambda: actors(args, folder, whole),
                "places": lambda: places(args, folder, whole, alone),
            }
        else:
            work = {}
        work["memory"] = lambda: memory(args, folder)
        for part in parts:
            keep(RESULT, {part: work[part]() | told})
            for old in folder.iterdir():
                if old.name != "whole":
                    shutil.rmtree(old)


if __name__ == "__main__":
    main()

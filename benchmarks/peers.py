"""The smallest step against other libraries: same latents, same E, G, f, same images, same margin.

    pip install -e ".[bench]" && pip install --no-deps adv-lib
    python benchmarks/peers.py --images ../shared/data/lgg-flair-128

Many processes share the slices where ``accelerate launch --multi_gpu --num_processes N`` starts it;
``--again minimal_norm`` measures that row anew and keeps what the file has of all others.
Peers attack z -> margin of f(G(z) + r), one slice at a time, as cfgen does here. What they return
gives a chord from z, and cfgen measures every chord by the same search on the 8-bit image, so that
all lambda compare. Without --images only the world of a plane, where the truth is known. Writes
benchmarks/results/peers.json and prints its tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from attacks import PEERS, Attack, Attacked
from contract import RESULTS, SEED, about
from render import table
from runs import Counter
from torch import Tensor, nn
from tqdm import tqdm

from cfgen import (
    Direction,
    Flip,
    Gradient,
    MinimalNorm,
    Problem,
    decision,
    explain,
    load_checkpoint,
)
from cfgen.explain import likely_other
from cfgen.generators import Linear
from cfgen.problem import unit
from cfgen.training.common import load_split

INSTALL = {"adv-lib": "--no-deps adv-lib", "foolbox": "foolbox"}
OURS: dict[str, Direction] = {
    "gradient": Gradient(),
    "minimal_norm": MinimalNorm(),
    "minimal_norm, look=0": MinimalNorm(look=0),
}
Figures = dict[str, dict[str, list[float | None]]]
"""Of each method, each number of each slice; None for nan, which JSON does not know."""


@dataclass
class Chord(Direction):
    """A direction (B, *L) that is known already."""

    alpha: Tensor

    def __call__(self, problem: Problem) -> Tensor:
        """Return the direction."""
        return self.alpha


def measure(problem: Problem, counter: Counter, method: Direction | Attack) -> dict[str, float]:
    """One method on one slice: lambda (nan: no flip), norm it claims, its own passes and seconds.

    For cfgen passes and seconds are those of a whole counterfactual, bracket and verdict included;
    for a peer those of the attack alone.
    """
    model = None if isinstance(method, Direction) else Attacked(problem)
    forward, backward, start = counter.forward, counter.backward, time.perf_counter()
    result: Any = explain(problem, method) if isinstance(method, Direction) else method(model)
    cost = {
        "forward": counter.forward - forward,
        "backward": counter.backward - backward,
        "seconds": round(time.perf_counter() - start, 4),
    }
    if model is None:
        return {"lam": float(result.lam), "claimed": float("nan"), **cost}
    shift = model.shift(result.detach())
    with torch.no_grad():
        met = bool(model(result)[0, 1] > 0)
    # What is no flip by the peer's own word is no direction.
    alpha = unit(shift) if met else torch.zeros_like(shift)
    claimed = float(shift.norm()) if met else float("nan")
    return {"lam": float(explain(problem, Chord(alpha)).lam), "claimed": claimed, **cost}


def percentile(values: np.ndarray, q: float) -> float | str:
    """The q-th percentile of the finite values (n,), or nothing where there are none."""
    finite = values[np.isfinite(values)]
    return round(float(np.percentile(finite, q)), 4) if len(finite) else ""


def world(
    problems: list[Problem], f: nn.Module, optimum: list[float] | None, kept: Figures
) -> dict[str, Any]:
    """Every method on every problem of one slice: the rows of a table, and each figure in them.

    Args:
        problems: The slices.
        f: The classifier.
        optimum: The smallest steps where they are known, else None.
        kept: Figures of methods that are not measured.
    """
    counter = Counter(f)
    todo: dict[str, Direction | Attack] = {k: v for k, v in OURS.items() if k not in kept}
    missing = {}
    for name, (package, make) in PEERS.items():
        try:
            todo |= {} if name in kept else {name: make()}
        except ImportError:
            missing[name] = package
    explain(problems[0].rows(slice(None)), Gradient())  # warm-up
    runs: list[dict[str, dict[str, float]]] = []
    # Slice by slice, so that what else the machine does hits all methods alike.
    with PartialState().split_between_processes(problems) as share:
        for problem in tqdm(cast("list[Problem]", share)):
            runs.append({})
            for name, method in todo.items():
                torch.manual_seed(SEED)
                runs[-1][name] = measure(problem.rows(slice(None)), counter, method)
                ratio = runs[-1][name]["seconds"] / runs[-1]["gradient"]["seconds"]
                runs[-1][name]["time"] = round(ratio, 4)
    runs = gather_object(runs)
    measured = {
        name: {key: np.array([run[name][key] for run in runs]) for key in runs[0][name]}
        for name in todo
    }
    known = {name: {k: np.array(v, float) for k, v in c.items()} for name, c in kept.items()}
    names = [name for name in (*OURS, *PEERS) if name not in missing]
    figures = {name: (known | measured)[name] for name in names}
    lams = {name: c["lam"] for name, c in figures.items()}
    theirs = np.full(len(problems), np.nan)
    for name in lams.keys() - OURS.keys():
        theirs = np.fmin(theirs, lams[name])
    best = np.fmin.reduce([theirs, *lams.values()])
    truth = best if optimum is None else np.array(optimum)
    rows: list[dict[str, Any]] = [
        {
            "method": name,
            "package": "cfgen" if name in OURS else PEERS[name][0],
            "flipped": round(float(np.isfinite(c["lam"]).mean()), 4),
            "lam / best": percentile(c["lam"] / truth, 50),
            "95th percentile": percentile(c["lam"] / truth, 95),
            "lam / peers' best": percentile(c["lam"] / theirs, 50),
            "its 95th percentile": percentile(c["lam"] / theirs, 95),
            "norm it claims / best": percentile(c["claimed"] / truth, 50),
            "forward": percentile(c["forward"], 50),
            "backward": percentile(c["backward"], 50),
            "time / gradient's": percentile(c["time"], 50),
        }
        for name, c in figures.items()
    ]
    blank = dict.fromkeys(rows[0], "")
    rows += [
        blank | {"method": name, "package": package, "flipped": f"pip install {INSTALL[package]}"}
        for name, package in missing.items()
    ]
    each: Figures = {
        name: {k: [v if np.isfinite(v) else None for v in c[k].tolist()] for k in c}
        for name, c in figures.items()
    }
    return {"slices": len(problems), "rows": rows, "best": truth.tolist(), "each": each}


def plane(count: int) -> tuple[list[Problem], nn.Module, list[float]]:
    """A linear generator and a plane: problems, f, and the smallest steps in closed form."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (1, 10, 10)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    basis = torch.linalg.qr(randn(100, 8))[0].T.reshape(8, *shape)
    linear = Linear(basis, torch.full(shape, 0.5, dtype=torch.float64))
    w = randn(100)
    x = 0.5 + 0.03 * randn(count, *shape)
    head = nn.Linear(100, 2, dtype=torch.float64).requires_grad_(False)
    head.weight.copy_(torch.stack([torch.zeros(100), w]))
    head.bias.copy_(torch.tensor([0.0, -float((x.flatten(1) @ w).max() + 0.05 * w.norm())]))
    f = nn.Sequential(nn.Flatten(), head)
    # No grid: rounding would move the crossing from where the formula has it.
    problems = [Problem(linear, f, Flip(torch.tensor([1])), i, levels=None) for i in x.split(1)]
    steepest = (basis.flatten(1) @ w).norm()
    optimum = [float(-p.criterion(p.logits(p.x)) / steepest) for p in problems]
    return problems, f, optimum


def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--images", type=Path, help="folder with labels.csv")
    p.add_argument("--split", default="test")
    p.add_argument("--limit", type=int, default=12, help="slices, drawn with seed 0")
    p.add_argument("--checkpoint", default="brain-flair")
    p.add_argument(
        "--again",
        nargs="+",
        choices=[*OURS, *PEERS],
        metavar="METHOD",
        help="measure these and keep the rest",
    )
    p.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    args = p.parse_args()
    former = json.loads(args.out.read_text()) if args.again else {}
    processes = PartialState(cpu=True).num_processes
    record: dict[str, Any] = about(*INSTALL) | {"processes": processes, "worlds": {}}
    record |= {"measured again": "; ".join(args.again)} if args.again else {}
    worlds: dict[str, tuple[list[Problem], nn.Module, list[float] | None]] = {
        "plane": plane(args.limit)
    }
    if args.images:
        checkpoint = load_checkpoint(args.checkpoint)
        f, pair = checkpoint.classifier, checkpoint.generator
        images, labels, _ = load_split(args.images, args.split)
        with torch.no_grad():
            said = torch.cat([f(b.float() / 255).argmax(1) for b in images.split(32)])
        right = (said == labels).nonzero()[:, 0]
        order = torch.randperm(len(right), generator=torch.Generator().manual_seed(SEED))
        rows = right[order[: args.limit]]
        x = (images[rows].float() / 255).split(1)
        with torch.no_grad():
            problems = [Problem(pair, *decision(f, Flip(likely_other(f(i)))), i) for i in x]
        worlds["lgg"] = (problems, f, None)
        record |= {"checkpoint": checkpoint.hashes, "split": args.split, "rows": rows.tolist()}
    for key in ("rows", "checkpoint") if args.again else ():
        if former.get(key) != record.get(key):
            raise ValueError(f"expected the {key} of {args.out.name}, got others")
    for name, (problems, f, optimum) in worlds.items():
        each: Figures = former["worlds"][name]["each"] if args.again else {}
        kept = {k: v for k, v in each.items() if k not in ("gradient", *args.again)}
        record["worlds"][name] = world(problems, f, optimum, kept)
        if not PartialState().is_main_process:
            continue
        print(f"{name}, {len(problems)} slices\n\n{table(record['worlds'][name]['rows'])}\n")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

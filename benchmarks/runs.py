"""What the benchmarks of speed share: the slices, the directions, and how they are run."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from contract import SEED
from torch import Tensor, nn

from cfgen import (
    Counterfactual,
    Direction,
    Flip,
    Gradient,
    Guided,
    MinimalNorm,
    Problem,
    decision,
    explain,
)
from cfgen.checkpoints import Checkpoint
from cfgen.explain import likely_other
from cfgen.problem import BLOCK
from cfgen.training.common import load_split


def needed(rows: Tensor) -> int:
    """How many rows of a pass (n, ...) are of samples: copies only fill up a block."""
    return len(rows.unique(dim=0)) if len(rows) == BLOCK else len(rows)


class Counter:
    """Passes of rows through a network by hooks: forward, and every gradient that comes back.

    The copies by which cfgen fills up a block are not counted.
    """

    def __init__(self, network: nn.Module) -> None:
        self.forward = self.backward = 0
        network.register_forward_hook(self._seen)

    def _seen(self, network: nn.Module, args: tuple, output: Any) -> None:
        self.forward += needed(args[0])
        output = output if isinstance(output, Tensor) else output.sample  # as diffusers has it
        if output.requires_grad:
            output.register_hook(self._back)

    def _back(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


def directions(checkpoint: Checkpoint) -> dict[str, Direction]:
    """The directions that are timed, by name."""
    guided = {} if checkpoint.prior is None else {"guided": Guided(checkpoint.prior)}
    return {"gradient": Gradient(), "minimal_norm": MinimalNorm(), **guided}


def slices(args: argparse.Namespace, checkpoint: Checkpoint) -> Tensor:
    """Images (N, 1, H, W) that f classifies rightly, drawn with the seed."""
    f, batch = checkpoint.classifier, args.batch
    with torch.no_grad():
        if args.images is None:
            if checkpoint.prior is None:
                raise ValueError("expected --images for a checkpoint without a prior, got none")
            labels = torch.arange(args.limit) % len(checkpoint.prior.classes)
            z = checkpoint.prior.sample(labels, SEED)
            return torch.cat([checkpoint.generator.decode(p) for p in z.split(batch)]).clamp(0, 1)
        images, labels, _ = load_split(args.images, args.split)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
        found = []
        for rows in order.split(batch):
            x = images[rows].float() / 255
            found.append(x[f(x).argmax(1) == labels[rows]])
            if sum(map(len, found)) >= args.limit:
                break
    return torch.cat(found)[: args.limit]


def posed(
    checkpoint: Checkpoint, direction: Direction, target: Tensor, x: Tensor, **options: Any
) -> Problem:
    """The problem of flipping images x (B, C, H, W) to target (B,), as the engine poses it."""
    asked = checkpoint.classifier, Flip(target)
    asked = asked if isinstance(direction, Guided) else decision(*asked)
    return Problem(checkpoint.generator, *asked, x, **options)


def run(
    checkpoint: Checkpoint, direction: Direction, x: Tensor, batch: int, **options: Any
) -> list[Counterfactual]:
    """Counterfactuals of images x (N, C, H, W) towards the other class, batch by batch."""
    f, results = checkpoint.classifier, []
    for part in x.split(batch):
        with torch.no_grad():
            target = likely_other(f(part))
        results.append(explain(posed(checkpoint, direction, target, part, **options), direction))
    return results


def column(results: list[Counterfactual], name: str) -> Tensor:
    """A tensor (N, ...) of all counterfactuals."""
    return torch.cat([getattr(r, name) for r in results])


def statuses(results: list[Counterfactual]) -> list[str]:
    """The status of every slice."""
    return [s.name for r in results for s in r.status]


def steps(results: list[Counterfactual]) -> np.ndarray:
    """Lambda of each slice, nan where none was found or none was needed."""
    lam = column(results, "lam")
    return torch.where(column(results, "flipped") & (lam > 0), lam, torch.nan).numpy()

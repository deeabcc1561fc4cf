"""Where an image may change and which findings must not move, as a user asks for it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfgen.classifiers.adapter import Classifier
from cfgen.criterion import Criterion
from cfgen.directions.confined import Projection, away_from
from cfgen.problem import Problem

REGIONS = ("lesion", "outside")


def region_of(mask: Tensor, where: str, margin: int = 0) -> Tensor:
    """Where an image may change, by its lesion mask.

    Args:
        mask: Lesion (H, W) of bool.
        where: "lesion" for the lesion and its margin, "outside" for the rest.
        margin: Pixels by which the lesion is made larger on each side, diagonals included.

    Returns:
        1 where it may change, else 0: (1, H, W) in float32.
    """
    wide = F.max_pool2d(mask[None].float(), 2 * margin + 1, stride=1, padding=margin)
    return wide if where == "lesion" else 1 - wide


class Findings(nn.Module):
    """The two classes of one finding, and after them all findings, for a :class:`Hold` to see.

    Args:
        f: A multi-label classifier of K findings.
        index: The finding that is explained.
    """

    def __init__(self, f: Classifier, index: int) -> None:
        super().__init__()
        self.f, self.index = f, index

    def forward(self, x: Tensor) -> Tensor:
        """Return (0, l, all logits) (B, 2 + K) of images (B, C, H, W) in [0, 1]."""
        logits = self.f(x)
        return torch.cat([F.pad(logits[:, [self.index]], (1, 0)), logits], 1)


@dataclass(frozen=True)
class _Output(Criterion):
    """One output of the model as it is."""

    target: Tensor
    column: int

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, self.column]

    def rows(self, index: Tensor) -> _Output:
        return _Output(self.target[index], self.column)


def level(outputs: tuple[int, ...]) -> Callable[[Problem], Projection]:
    """Confine a direction to where the given outputs do not move, to first order at z.

    Args:
        outputs: Columns of the model's outputs.

    Returns:
        What :class:`Confined` takes; costs one forward and one backward pass an output.
    """

    def allow(problem: Problem) -> Projection:
        view, gradients = copy(problem), []
        for column in outputs:
            view.criterion = _Output(problem.criterion.target, column)
            gradients.append(Problem.grad(view, problem.z)[1])
        return away_from(torch.stack(gradients, 1))

    return allow

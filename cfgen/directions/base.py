"""The abstract direction."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cfgen.problem import Problem


class Direction(ABC):
    """A source of alpha. It never sees a step length that a search chose."""

    @abstractmethod
    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions alpha (B, *L) towards the target; a zero row is no direction."""

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return the directions (B, *L), and where each may first cross (B,); nan for no idea."""
        alpha = self(problem)
        return alpha, torch.full_like(alpha.flatten(1)[:, 0], torch.nan)

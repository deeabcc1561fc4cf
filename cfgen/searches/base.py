"""The abstract search: a scalar function of the step, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Phi = Callable[[Tensor, Tensor], Tensor]
"""``phi(lam (n,), rows (n,) int64) -> margin (n,)``, positive where flipped."""


@dataclass(frozen=True)
class Root:
    """The first crossing that a search saw.

    Attributes:
        lam: Smallest step seen to flip (B,); nan where none was found.
        lower: Largest step below ``lam`` seen not to flip (B,); the end of the walk where none
            was found.
        found: Whether a crossing was found (B,) bool.
        evals: Evaluations of phi for each sample (B,) int64.
    """

    lam: Tensor
    lower: Tensor
    found: Tensor
    evals: Tensor


class Search(ABC):
    """Finds the smallest lam with phi(lam) > 0, for each sample of a batch."""

    @abstractmethod
    def __call__(self, phi: Phi, start: Tensor, guess: Tensor | None = None) -> Root:
        """Search along each direction.

        Args:
            phi: The margin as a function of the step.
            start: phi(0) of each sample (B,), known and not positive.
            guess: Where each may first cross (B,), to save evaluations; not finite for no idea.
        """

"""Criteria: logits to one signed margin, positive exactly when the model has changed its mind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Criterion(ABC):
    """A signed margin of logits; gradient, search and verdict all use this one number.

    Attributes:
        target: The class that each sample is moved towards (B,) int64.
    """

    target: Tensor

    @abstractmethod
    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits (B, K) to margins (B,), > 0 exactly when the criterion is met."""

    @abstractmethod
    def rows(self, index: Tensor) -> Criterion:
        """The criterion of the samples ``index`` (n,) of the batch."""

    def classes(self, logits: Tensor) -> Tensor:
        """The logits of the classes that the target is one of, (B, C) of all (B, K)."""
        return logits

    def since(self, before: Callable[[], Tensor]) -> Criterion:
        """The same criterion where the model says ``before()`` (B, K) of the image itself.

        It is asked only by a criterion that compares with it.
        """
        return self

    def __and__(self, other: Criterion) -> Criterion:
        """Both at once: the minimum of the margins."""
        return Both(self, other)


@dataclass(frozen=True)
class Flip(Criterion):
    """Margin of the target class: met when the target is what the model says.

    Without ``confidence`` the margin is the target's logit minus the largest other logit, minus
    ``kappa``. With ``confidence`` p it is the target's log-odds minus log(p / (1 - p)), so it is
    met when the target's softmax probability exceeds p; with two classes and p = 0.5 both are the
    same number.

    Args:
        target: Class index of each sample (B,), int64.
        kappa: Logits by which the target must lead.
        confidence: Probability in (0, 1) that the target must reach, or None.

    Raises:
        ValueError: The target is not (B,) int64, kappa not finite, or the confidence not inside
            (0, 1).
    """

    target: Tensor
    kappa: float = 0.0
    confidence: float | None = None
    offset: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.target, Tensor):
            kind = type(self.target).__name__
            raise ValueError(f"expected target of shape (B,) int64, got {kind}")
        if self.target.ndim != 1 or self.target.dtype != torch.int64:
            got = f"{tuple(self.target.shape)} {str(self.target.dtype).removeprefix('torch.')}"
            raise ValueError(f"expected target of shape (B,) int64, got {got}")
        p = self.confidence
        if p is not None and not 0 < p < 1:
            raise ValueError(f"expected a confidence between 0 and 1, got {p}")
        if not math.isfinite(self.kappa):
            raise ValueError(f"expected a finite kappa, got {self.kappa}")
        log_odds = 0.0 if p is None else math.log(p / (1 - p))
        object.__setattr__(self, "offset", log_odds + self.kappa)

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits (B, K) to margins (B,).

        Raises:
            ValueError: The logits are not (B, K), or a target is none of their K classes.
        """
        size = len(self.target)
        if logits.ndim != 2 or len(logits) != size or logits.shape[1] < 2:
            raise ValueError(
                f"expected logits of shape ({size}, K) with K >= 2, got {tuple(logits.shape)}"
            )
        if bool(((self.target < 0) | (self.target >= logits.shape[1])).any()):
            raise ValueError(
                f"expected targets from 0 to {logits.shape[1] - 1}, got {self.target.tolist()}"
            )
        column = self.target[:, None]
        others = logits.scatter(1, column, -torch.inf)
        rival = others.amax(1) if self.confidence is None else others.logsumexp(1)
        return logits.gather(1, column)[:, 0] - rival - self.offset

    def rows(self, index: Tensor) -> Flip:
        """The criterion of the samples ``index`` (n,) of the batch."""
        return Flip(self.target[index], self.kappa, self.confidence)


@dataclass(frozen=True)
class Hold(Criterion):
    """Margin of what must not move: met while other outputs stay as they were.

    To be joined with another criterion: ``Flip(target) & Hold(before, (2, 3), 0.1)``. The margin is
    the tolerance minus the largest change of the probabilities sigmoid(logit) of ``others``.

    Args:
        before: Logits at the image itself (B, K).
        others: Outputs that must not move, as positions in 0..K-1.
        tolerance: Largest change of a probability, in (0, 1).

    Raises:
        ValueError: The logits are not (B, K), there is no such output, or the tolerance is not
            inside (0, 1).
    """

    before: Tensor
    others: tuple[int, ...]
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.before.ndim != 2:
            raise ValueError(
                f"expected logits of shape (B, K) before, got {tuple(self.before.shape)}"
            )
        outputs = self.before.shape[1]
        if not self.others or not all(0 <= k < outputs for k in self.others):
            raise ValueError(f"expected outputs from 0 to {outputs - 1}, got {self.others}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"expected a tolerance between 0 and 1, got {self.tolerance}")

    @property
    def target(self) -> Tensor:  # type: ignore[override]
        """What the model says of the image itself (B,)."""
        return self.before.argmax(1)

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits (B, K) to margins (B,)."""
        columns = list(self.others)
        change = logits[:, columns].sigmoid() - self.before[:, columns].sigmoid()
        return self.tolerance - change.abs().amax(1)

    def rows(self, index: Tensor) -> Hold:
        """The criterion of the samples ``index`` (n,) of the batch."""
        return Hold(self.before[index], self.others, self.tolerance)

    def since(self, before: Callable[[], Tensor]) -> Hold:
        """The same criterion where the model says ``before()`` (B, K) of the image itself."""
        return Hold(before(), self.others, self.tolerance)


@dataclass(frozen=True)
class Both(Criterion):
    """The minimum of two margins: met when both criteria are.

    Raises:
        ValueError: They are of batches of different sizes.
    """

    first: Criterion
    second: Criterion

    def __post_init__(self) -> None:
        """Check the arguments."""
        sizes = len(self.first.target), len(self.second.target)
        if sizes[0] != sizes[1]:
            raise ValueError(f"expected criteria of one batch, got {sizes[0]} and {sizes[1]} rows")

    @property
    def target(self) -> Tensor:  # type: ignore[override]
        """The class that the first criterion asks for."""
        return self.first.target

    def classes(self, logits: Tensor) -> Tensor:
        """Those of the first criterion."""
        return self.first.classes(logits)

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits (B, K) to margins (B,)."""
        return torch.minimum(self.first(logits), self.second(logits))

    def rows(self, index: Tensor) -> Both:
        """The criterion of the samples ``index`` (n,) of the batch."""
        return Both(self.first.rows(index), self.second.rows(index))

    def since(self, before: Callable[[], Tensor]) -> Both:
        """Both where the model says ``before()`` (B, K) of the image itself."""
        return Both(self.first.since(before), self.second.since(before))


@dataclass(frozen=True)
class Among(Criterion):
    """A criterion of some of the outputs.

    Args:
        criterion: What is asked of ``size`` outputs from ``first`` on.
        size: Number of classes; their logits are the first outputs, whatever the criterion reads.
        first: First output that the criterion reads.
    """

    criterion: Criterion
    size: int
    first: int = 0

    @property
    def target(self) -> Tensor:  # type: ignore[override]
        """The class that the criterion asks for."""
        return self.criterion.target

    def classes(self, logits: Tensor) -> Tensor:
        """The first ``size`` logits."""
        return logits[:, : self.size]

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits (B, K) to margins (B,)."""
        return self.criterion(self.read(logits))

    def read(self, logits: Tensor) -> Tensor:
        """The outputs (B, size) that the criterion reads."""
        return logits[:, self.first : self.first + self.size]

    def rows(self, index: Tensor) -> Among:
        """The criterion of the samples ``index`` (n,) of the batch."""
        return Among(self.criterion.rows(index), self.size, self.first)

    def since(self, before: Callable[[], Tensor]) -> Among:
        """The same where the model says ``before()`` (B, K), all outputs, of the image itself."""
        return Among(self.criterion.since(lambda: self.read(before())), self.size, self.first)

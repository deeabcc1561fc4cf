"""What an explanation is: the counterfactuals of a batch, frozen, with their evidence and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfgen.problem import Passes, Problem


class Status(Enum):
    """How an explanation ended; the value is a sentence with cause and cure."""

    FLIPPED = "The counterfactual image meets the criterion."
    ALREADY = "The image meets the criterion without a change; ask for the other class."
    RECONSTRUCTION_FLIPS = (
        "The reconstruction G(E(x)) alone meets the criterion; keep the detail (--detail keep)."
    )
    NO_DIRECTION = (
        "The direction is zero: the margin does not depend on the latent here; try another one."
    )
    NOT_FOUND = (
        "No step up to the limit of the search meets the criterion; try another direction, a "
        "lower confidence or a larger limit."
    )
    NOT_FINITE = (
        "The margin or its gradient is not finite here, as those of a root, a power or a logarithm "
        "are at 0; add a small number inside of it, or try another direction."
    )
    UNREADABLE = "The file could not be read."
    FAILED = "The image could not be explained; the others of the run are not affected."


@dataclass(frozen=True)
class Counterfactual:
    """Counterfactuals of a batch of images. Index, slice or iterate to get single ones.

    Attributes:
        x: Images as they were explained (B, C, H, W) in [0, 1].
        x_rec: Reconstructions G(z) (B, C, H, W).
        x_cf: The images handed over, X' (B, C, H, W); x where no step was found.
        z: Latents (B, *L).
        alpha: Unit directions (B, *L), or zero rows.
        lam: Steps (B,), |z' - z|; 0 for ALREADY and RECONSTRUCTION_FLIPS, nan where none is found.
        lam_lower: Largest smaller step seen not to flip (B,).
        target: Class asked for (B,) int64.
        logits_before: f(x) (B, K).
        logits_after: f(x_cf) (B, K).
        status: One status a sample.
        passes: Cost of each sample.
        meta: Settings, the same for the whole batch.
        problem: What it was computed with; None after loading until :meth:`attach`.
    """

    x: Tensor
    x_rec: Tensor
    x_cf: Tensor
    z: Tensor
    alpha: Tensor
    lam: Tensor
    lam_lower: Tensor
    target: Tensor
    logits_before: Tensor
    logits_after: Tensor
    status: tuple[Status, ...]
    passes: Passes
    meta: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.x)

    def __iter__(self) -> Iterator[Counterfactual]:
        """The samples one by one, each a batch of one."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Counterfactual:
        """Sample ``i`` as a batch of one."""
        i = range(len(self))[i]
        rows = slice(i, i + 1)
        values: dict[str, Any] = {
            f.name: v[rows] for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        values["status"] = self.status[rows]
        values["passes"] = self.passes[rows]
        values["problem"] = None if self.problem is None else self.problem.rows(rows)
        return replace(self, **values)

    @property
    def flipped(self) -> Tensor:
        """Which samples are FLIPPED (B,) bool."""
        return torch.tensor([s is Status.FLIPPED for s in self.status], dtype=torch.bool)

    @property
    def moved(self) -> Tensor:
        """Which samples hand over a generated image, not x (B,) bool."""
        generated = (Status.FLIPPED, Status.RECONSTRUCTION_FLIPS)
        return torch.tensor([s in generated for s in self.status], dtype=torch.bool)

    @property
    def prob_before(self) -> Tensor:
        """Softmax probability of the target at x (B,)."""
        return self.logits_before.softmax(1).gather(1, self.target[:, None])[:, 0]

    @property
    def prob_after(self) -> Tensor:
        """Softmax probability of the target at x_cf (B,)."""
        return self.logits_after.softmax(1).gather(1, self.target[:, None])[:, 0]

    def _models(self) -> Problem:
        if self.problem is None:
            raise ValueError(
                "expected a counterfactual with its models, call attach(problem) first"
            )
        return self.problem

    def redecode(self) -> Tensor:
        """Compute x_cf again from z, alpha and lam: the same bits (B, C, H, W)."""
        image = self._models().image(self.alpha, self.lam)
        return torch.where(self.moved.to(image.device).view(-1, 1, 1, 1), image, self.x)

    def sweep(self, n: int = 21, past: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
        """Walk along alpha from 0 past the flip.

        Args:
            n: Number of steps, at least 2.
            past: End of the sweep as a multiple of lam; where nothing was found the sweep ends at
                lam_lower.

        Returns:
            Steps (n, B), images (n, B, C, H, W) and probabilities (n, B, K) of all classes.
        """
        return self.walk(n, past)[:3]

    def walk(self, n: int = 21, past: float = 1.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`sweep`, and fourth which steps meet the criterion (n, B) bool."""
        if n < 2:
            raise ValueError(f"expected n >= 2, got {n}")
        problem = self._models()
        end = torch.where(self.lam.isfinite(), self.lam * past, self.lam_lower)
        steps = torch.linspace(0, 1, n, dtype=end.dtype, device=end.device)[:, None] * end
        rows = torch.arange(len(self), device=end.device).repeat(n)
        images = problem.image(self.alpha[rows], steps.flatten(), rows)
        logits = problem.logits(images)
        probabilities = problem.criterion.classes(logits).softmax(1)
        met = problem.criterion.rows(rows)(logits) > 0
        told = (images, probabilities, met)
        images, probabilities, met = (t.unflatten(0, (n, len(self))) for t in told)
        return steps, images, probabilities, met

    def attach(self, problem: Problem) -> Counterfactual:
        """Give a loaded counterfactual its models back."""
        if problem.x.shape != self.x.shape or not torch.equal(problem.x.cpu(), self.x.cpu()):
            raise ValueError("expected a problem on the same images x, got other images")
        return replace(self, problem=problem)

    def save(self, path: str | Path) -> None:
        """Write a single sample to one npz file, arrays without the batch axis, no pickle."""
        if len(self) != 1:
            raise ValueError(f"expected a single counterfactual, got {len(self)}")
        arrays: dict[str, Any] = {
            f.name: v[0].detach().cpu().numpy()
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), Tensor)
        }
        arrays |= {f"passes_{f.name}": getattr(self.passes, f.name)[0] for f in fields(Passes)}
        status, meta = np.array(self.status[0].name), np.array(json.dumps(self.meta))
        arrays |= {"status": status, "meta": meta}
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Counterfactual:
        """Read a file that :meth:`save` wrote, as a batch of one."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        status = (Status[str(arrays.pop("status"))],)
        meta = json.loads(str(arrays.pop("meta")))
        tensors: dict[str, Any] = {
            name: torch.from_numpy(np.asarray(a))[None] for name, a in arrays.items()
        }
        passes = Passes(*(tensors.pop(f"passes_{f.name}") for f in fields(Passes)))
        return cls(**tensors, status=status, passes=passes, meta=meta)

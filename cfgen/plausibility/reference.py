"""What real images look like to LPIPS: a sketch of each, and the law of two distances.

Two distances say how strange an image is: a, the round trip LPIPS(X, G(E(X))), and b, the LPIPS to
the nearest real image of any class. LPIPS sees where a slice lies long before its class: most real
slices are far from all slices of the other class, so with references of one class alone an image
that may not change its place could not pass. The class enters by the calibration.

Both distances are about log-normal on real images. With whitened logs u = L^-1 (log (a, b) - mean),
L the Cholesky factor of their covariance, u0 is a standardised and u1 what b says beyond a. The
non-conformity is u0^2 + max(u1, 0)^2: half a Mahalanobis distance. a counts both ways, since what
the pair remakes too well is smoother than any real image; to lie near a real one is no reproach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SMALLEST = 1e-6  # an LPIPS below it is rounding


def nearest(sketches: Tensor, reference: Tensor, apart: Tensor | None = None) -> Tensor:
    """Return the smallest squared distance from each sketch to the reference.

    Args:
        sketches: (B, width).
        reference: (n, width), float16 allowed.
        apart: which pairs may meet (B, n) bool; all if None.

    Returns:
        Estimates of LPIPS (B,), at least 1e-6; inf where no pair may meet.

    Raises:
        ValueError: The widths differ, or the reference is empty.
    """
    if sketches.ndim != 2 or reference.ndim != 2 or sketches.shape[1] != reference.shape[1]:
        raise ValueError(
            "expected sketches of shapes (B, width) and (n, width), "
            f"got {tuple(sketches.shape)} and {tuple(reference.shape)}"
        )
    if len(reference) == 0:
        raise ValueError("expected a reference of at least one sketch, got none")
    r = reference.to(sketches)
    squared = sketches.square().sum(1)[:, None] + r.square().sum(1) - 2 * sketches @ r.T
    if apart is not None:
        squared = squared.masked_fill(~apart, torch.inf)
    return squared.min(1).values.clamp(min=SMALLEST)


@dataclass(frozen=True)
class Reference:
    """Sketches of real images, and the law of their two distances.

    Args:
        sketches: Those of the real images (n, width), float16.
        mean: The mean of log (a, b) of real images (2,).
        whiten: The inverse Cholesky factor of their covariance (2, 2).
        size: Height and width of the images.
        seed: Of the projection.
    """

    sketches: Tensor
    mean: Tensor
    whiten: Tensor
    size: tuple[int, int]
    seed: int = 0

    @classmethod
    def fit(
        cls,
        sketches: Tensor,
        trips: Tensor,
        patients: Sequence[str],
        size: tuple[int, int],
        seed: int = 0,
    ) -> Reference:
        """Learn the reference from real images.

        They may serve for calibration too, where each is scored apart from its own patient.

        Args:
            sketches: Of the images (N, width).
            trips: Their round trips (N,).
            patients: Whose they are: an image's nearest neighbour is sought in other patients.
            size: Height and width of the images.
            seed: Of the projection.

        Raises:
            ValueError: There are fewer than three images or a single patient.
        """
        whose = np.array(patients)
        if len(whose) < 3 or len(set(patients)) < 2:
            raise ValueError(
                f"expected at least 3 images of 2 patients, got {len(whose)} of "
                f"{len(set(patients))}"
            )
        stored = sketches.half().contiguous()
        apart = torch.from_numpy(whose[:, None] != whose).to(sketches.device)
        logs = _logs(trips, nearest(sketches, stored, apart))
        factor = torch.linalg.cholesky(torch.cov(logs.T))
        return cls(stored, logs.mean(0), torch.linalg.inv(factor), size, seed)

    def score(self, trips: Tensor, sketches: Tensor, apart: Tensor | None = None) -> Tensor:
        """Return the non-conformity (B,): u0^2 + max(u1, 0)^2, larger is stranger.

        Args:
            trips: Round trips of the images (B,).
            sketches: Their sketches (B, width).
            apart: Which images may meet which of the reference (B, n) bool; all if None.
        """
        logs = _logs(trips, nearest(sketches, self.sketches, apart))
        u = (logs - self.mean.to(logs)) @ self.whiten.to(logs).T
        return u[:, 0].square() + u[:, 1].clamp(min=0).square()

    def save(
        self, folder: Path, calibration: Mapping[str, Tensor], generator: Mapping[str, str]
    ) -> None:
        """Write config.json and model.safetensors.

        Args:
            folder: Where.
            calibration: For each class, scores of real images of it (n,).
            generator: SHA-256 of each weights file that the round trips were measured with.
        """
        folder.mkdir(parents=True, exist_ok=True)
        named = {"sketches": self.sketches, "mean": self.mean, "whiten": self.whiten}
        named |= {f"calibration.{name}": scores for name, scores in calibration.items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in named.items()}
        save_file(tensors, folder / "model.safetensors")
        config = {"size": list(self.size), "seed": self.seed, "generator": dict(generator)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(
        cls, folder: Path, generator: Mapping[str, str]
    ) -> tuple[Reference, dict[str, Tensor]]:
        """Read what :meth:`save` wrote: the reference and the calibration.

        Args:
            folder: Where.
            generator: SHA-256 of the weights files that are there now.

        Raises:
            ValueError: The generator is another one than was measured, or it is not said which was.
        """
        config = json.loads((folder / "config.json").read_text())
        if not config["generator"] or not all(config["generator"].values()):
            raise ValueError(
                f"expected the sha256 of the generator's weights in {folder.name}/config.json, "
                "got none (python -m cfgen.training.plausibility renews it)"
            )
        for file, digest in config["generator"].items():
            if generator.get(file) != digest:
                raise ValueError(
                    f"expected {file} with sha256 {digest}, for which {folder.name} was measured, "
                    f"got {generator.get(file)} (python -m cfgen.training.plausibility renews it)"
                )
        tensors = load_file(folder / "model.safetensors")
        prefix = "calibration."
        calibration = {
            name.removeprefix(prefix): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(prefix)
        }
        return cls(**tensors, size=tuple(config["size"]), seed=config["seed"]), calibration


def _logs(trips: Tensor, distances: Tensor) -> Tensor:
    return torch.stack([trips.clamp(min=SMALLEST), distances], 1).log()

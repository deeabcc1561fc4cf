"""How strange an image is among real ones of its class, as a conformal p-value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from cfgen.generators.base import Generator
from cfgen.plausibility.lpips import LPIPS
from cfgen.plausibility.reference import Reference
from cfgen.plausibility.sketch import project


def round_trip(lpips: LPIPS, generator: Generator, x: Tensor) -> Tensor:
    """Return LPIPS(x, clamp(G(E(x)))): how little an image conforms to what the pair can make.

    Args:
        lpips: the distance.
        generator: the pair E, G.
        x: images (B, C, H, W) in [0, 1].

    Returns:
        Scores (B,), larger for stranger images.
    """
    return lpips(x, generator.decode(generator.encode(x)).clamp(0, 1))


def measure(
    lpips: LPIPS, generator: Generator, x: Tensor, width: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return round trips (B,) and sketches (B, width) of images x, with two passes of the trunk."""
    phi = lpips.features(x)
    again = lpips.features(generator.decode(generator.encode(x)).clamp(0, 1))
    layers = [(a - b).square().sum(1) for a, b in zip(phi, again, strict=True)]
    return torch.stack(layers).sum(0), project(phi, width, seed)


@dataclass(frozen=True)
class Plausibility:
    """The p-value of "this is a real image of the class", from LPIPS.

    Args:
        lpips: The distance.
        generator: The pair E, G.
        calibration: For each class, scores of real images of it (n,), none of which met its own
            patient in the reference.
        reference: What the score compares with; the score is the round trip alone if None.
    """

    lpips: LPIPS
    generator: Generator
    calibration: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Reference | None = None

    def score(self, x: Tensor, classes: Sequence[str]) -> Tensor:
        """Return the non-conformity (B,) of images to their classes, larger is stranger.

        Args:
            x: Images (B, C, H, W) in [0, 1].
            classes: Name of the class of each image.

        Returns:
            Scores (B,); NaN for a class without calibration.

        Raises:
            ValueError: One class too many or too few, or images of another size than measured.
        """
        if len(classes) != len(x):
            raise ValueError(f"expected {len(x)} classes, got {len(classes)}")
        known = torch.tensor([c in self.calibration for c in classes], device=x.device)
        if not known.any():
            return x.new_full((len(x),), torch.nan)
        if self.reference is None:
            score = round_trip(self.lpips, self.generator, x)
        else:
            height, width = self.reference.size
            if x.shape[-2:] != (height, width):
                raise ValueError(
                    f"expected images of {height} x {width} px, got {x.shape[-2]} x {x.shape[-1]}"
                )
            count = self.reference.sketches.shape[1]
            trips, sketches = measure(self.lpips, self.generator, x, count, self.reference.seed)
            score = self.reference.score(trips, sketches)
        return torch.where(known, score.to(x), torch.nan)

    def __call__(self, x: Tensor, classes: Sequence[str]) -> Tensor:
        """Return the p-values (B,) of images (B, C, H, W) of the named classes.

        Uniform for a real image of a new patient, up to ties and to how alike the slices of one
        patient are; NaN for a class without calibration.
        """
        p = self.score(x, classes)
        for name in sorted(set(classes) & set(self.calibration)):
            rows = torch.tensor([c == name for c in classes], device=x.device)
            p[rows] = conformal_p_value(p[rows], self.calibration[name].to(p))
        return p


def conformal_p_value(score: Tensor, calibration: Tensor) -> Tensor:
    """Return (1 + #{calibration >= score}) / (n + 1), valid when the scores are exchangeable.

    Args:
        score: non-conformity scores (B,), larger is stranger; NaN is allowed.
        calibration: scores (n,) of real images, got as that of a new patient would be.

    Returns:
        p-values (B,) in [1 / (n + 1), 1], small for strange images; NaN where the score is NaN.

    Raises:
        ValueError: wrong shapes, no calibration score, or a NaN among them.

    Reference:
        Vovk, Gammerman, Shafer (2005). Algorithmic Learning in a Random World.
    """
    if score.ndim != 1 or calibration.ndim != 1 or len(calibration) == 0:
        raise ValueError(
            "expected score of shape (B,) and calibration of shape (n,) with n > 0, "
            f"got {tuple(score.shape)} and {tuple(calibration.shape)}"
        )
    if calibration.isnan().any():
        raise ValueError(
            f"expected calibration without NaN, got {int(calibration.isnan().sum())} NaN"
        )
    stranger = (calibration >= score[:, None]).sum(1).to(score.dtype)
    return torch.where(score.isnan(), score, (1 + stranger) / (len(calibration) + 1))


def false_discovery_rate(p: Sequence[float]) -> list[float]:
    """Return Benjamini-Hochberg q-values, the lowest rate at which each p-value is a discovery.

    Valid for conformal p-values of one calibration set, whose dependence is positive, and of
    several sets that are independent. A p-value from n calibration scores is 1 / (n + 1) or more:
    where k of m images are stranger than all of these, their rate is m / (k (n + 1)).

    Args:
        p: p-values in (0, 1]; NaN stays NaN and does not count.

    Returns:
        One q-value for each p-value.

    Raises:
        ValueError: A value outside [0, 1].

    Reference:
        Benjamini, Hochberg (1995). Controlling the False Discovery Rate.
        Bates, Candès, Lei, Romano, Sesia (2023). Testing for Outliers with Conformal p-values.
        arXiv:2104.08279.
    """
    values = np.array(p, dtype=float)
    there = ~np.isnan(values)
    wrong = values[there & ~((values >= 0) & (values <= 1))]
    if len(wrong):
        raise ValueError(f"expected p-values in [0, 1], got {wrong[0]:.4g}")
    if there.any():
        values[there] = false_discovery_control(values[there])
    return values.tolist()

"""Is the plausibility a p-value, and what does it tell apart? On real slices of the test patients.

    pip install -e ".[bench]"
    python benchmarks/plausibility.py --images ../shared/data/lgg-flair-128

How far the p-values of real slices are from uniform, by patient; how well each score tells real
slices from spoiled ones (AUROC, 0.5 is chance); and the error of the sketch. The scores: cfgen's,
its two parts alone (round trip, LPIPS to the nearest real slice), the Mahalanobis distance of the
latent, and LPIPS to the mean slice. Writes benchmarks/results/plausibility.json.

Reference: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks, 2018, arXiv:1807.03888, for the Mahalanobis distance.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract import RESULTS, SEED, about, keep
from frontier import BATCH
from kornia.filters import gaussian_blur2d
from render import table
from scipy.stats import kstest, spearmanr
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cfgen import Flip, Gradient, Problem, explain, load_checkpoint
from cfgen.checkpoints import Checkpoint
from cfgen.explain import likely_other
from cfgen.generators import Identity
from cfgen.plausibility import LPIPS, Reference, conformal_p_value, nearest, sketch
from cfgen.plausibility.conformal import measure
from cfgen.training.common import load_split

PATCH = 32  # side of a patch that is swapped, in pixels


def noise(x: Tensor) -> Tensor:
    """Standard normal numbers in the shape of x, drawn with the seed."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED)).to(x)


def on_grid(x: Tensor) -> Tensor:
    """Images as they would be written: clamped and rounded to 8 bit."""
    return (x.clamp(0, 1) * 255).round() / 255


def adversarial(checkpoint: Checkpoint, x: Tensor) -> Tensor:
    """The smallest steps in pixel space along the gradient that flip f at 0.9; x where none do."""
    parts = []
    for b in x.split(BATCH):
        target = likely_other(checkpoint.classifier(b))
        problem = Problem(Identity(), checkpoint.classifier, Flip(target, confidence=0.9), b)
        parts.append(explain(problem, Gradient()).x_cf)
    return torch.cat(parts)


def drawn(checkpoint: Checkpoint, x: Tensor, train: Tensor) -> Tensor:
    """Decoded latents, normal with the mean and standard deviation of each latent number."""
    z = encode(checkpoint, train)
    u = torch.randn((len(x), *z.shape[1:]), generator=torch.Generator().manual_seed(SEED))
    return torch.cat(
        [checkpoint.generator.decode(p) for p in (z.mean(0) + z.std(0) * u).split(BATCH)]
    )


def swapped(x: Tensor) -> Tensor:
    """Two patches of each slice, left and right of its middle, change places, upside down."""
    y, middle = x.clone(), x.shape[-1] // 2
    top = x.shape[-2] // 2 - PATCH // 2
    left, right = middle - PATCH - 4, middle + 4
    rows = slice(top, top + PATCH)
    a, b = (x[..., rows, c : c + PATCH].flip(2) for c in (left, right))
    y[..., rows, left : left + PATCH], y[..., rows, right : right + PATCH] = b, a
    return y


def mirrored(x: Tensor) -> Tensor:
    """The left half of each slice, and its mirror image as the right one."""
    half = x[..., : x.shape[-1] // 2]
    return torch.cat([half, half.flip(3)], 3)


def encode(checkpoint: Checkpoint, x: Tensor) -> Tensor:
    """Latents (N, *L) of images."""
    return torch.cat([checkpoint.generator.encode(b) for b in x.split(BATCH)])


def mahalanobis(checkpoint: Checkpoint, train: Tensor, labels: Tensor) -> Callable[..., Tensor]:
    """Distance of latents, averaged over their places, to the mean of a class (shared covariance).

    Averages, for a covariance of all latent numbers asks for more slices than there are.
    """

    def features(x: Tensor) -> Tensor:
        return encode(checkpoint, x).flatten(2).mean(2)

    v = features(train)
    means = torch.stack([v[labels == k].mean(0) for k in labels.unique()])
    centred = (v - means[labels]).double().numpy()
    precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(centred).precision_)

    def score(x: Tensor, y: Tensor) -> Tensor:
        d = (features(x) - means[y]).double()
        return torch.einsum("bi,ij,bj->b", d, precision, d)

    return score


def uniformity(p: Tensor, patients: list[str]) -> dict[str, Any]:
    """Kolmogorov-Smirnov distance of p-values from uniform, with its law over drawn patients.

    Slices of one patient are alike, so the test of independent slices would be wrong: the interval
    is a bootstrap over patients, and one slice a patient is drawn many times for the test.
    """
    rng = np.random.default_rng(SEED)
    names = np.array(patients)
    groups = [np.flatnonzero(names == n) for n in sorted(set(patients))]
    values = p.double().numpy()
    tests = [
        float(kstest(values[[rng.choice(g) for g in groups]], "uniform").pvalue) for _ in range(500)
    ]
    share = [
        float((values[np.concatenate([groups[i] for i in draw])] < 0.05).mean())
        for draw in rng.integers(len(groups), size=(1000, len(groups)))
    ]
    return {
        "slices": len(p),
        "patients": len(groups),
        "KS distance": round(float(kstest(values, "uniform").statistic), 4),
        "KS p, one slice a patient (median)": round(float(np.median(tests)), 4),
        "p < 0.05": round(float((p < 0.05).float().mean()), 4),
        "lower": round(float(np.percentile(share, 2.5)), 4),
        "upper": round(float(np.percentile(share, 97.5)), 4),
        "p < 0.2": round(float((p < 0.2).float().mean()), 4),
        "p < 0.5": round(float((p < 0.5).float().mean()), 4),
    }


def sketch_error(lpips: LPIPS, x: Tensor, reference: Reference) -> dict[str, Any]:
    """Estimates of LPIPS by sketches against LPIPS, on all pairs of 24 slices."""
    x = x[:24]
    i, j = torch.triu_indices(len(x), len(x), 1)
    pairs = zip(i.split(BATCH), j.split(BATCH), strict=True)
    exact = torch.cat([lpips(x[a], x[b]) for a, b in pairs])
    s = sketch(lpips, x, reference.sketches.shape[1], reference.seed)
    found = (s[i] - s[j].half().float()).square().sum(1)
    error = found / exact - 1
    ranks: Any = spearmanr(exact, found)
    return {
        "pairs": len(exact),
        "numbers a slice": s.shape[1],
        "mean relative error": round(float(error.mean()), 4),
        "standard deviation": round(float(error.std()), 4),
        "bound": round((2 / s.shape[1]) ** 0.5, 4),
        "rank correlation": round(float(ranks.statistic), 4),
    }


@torch.no_grad()
def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--images", type=Path, required=True, help="folder with labels.csv")
    p.add_argument("--split", default="test")
    p.add_argument("--limit", type=int, help="only N slices, drawn with seed 0")
    p.add_argument("--checkpoint", default="brain-flair")
    p.add_argument("--out", type=Path, default=RESULTS / "plausibility.json")
    args = p.parse_args()
    checkpoint, lpips = load_checkpoint(args.checkpoint), LPIPS("st-alex")
    reference, pair, f = checkpoint.reference, checkpoint.generator, checkpoint.classifier
    if reference is None:
        raise ValueError(f"expected a checkpoint with sketches, got '{args.checkpoint}'")
    images, labels, _ = load_split(args.images, "train")
    train = images[::2].float() / 255
    latent = mahalanobis(checkpoint, train, labels[::2])
    images, labels, patients = load_split(args.images, args.split)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    rows = rows[: args.limit].sort().values
    x, labels = images[rows].float() / 255, labels[rows]
    patients = [patients[i] for i in rows.tolist()]
    average = train.mean(0, keepdim=True)

    def scores(batch: Tensor) -> dict[str, Tensor]:
        parts = [
            measure(lpips, pair, b, reference.sketches.shape[1], reference.seed)
            for b in batch.split(BATCH)
        ]
        trips, sketches = (torch.cat(part) for part in zip(*parts, strict=True))
        return {
            "cfgen": reference.score(trips, sketches),
            "round trip": trips,
            "nearest real slice": nearest(sketches, reference.sketches),
            "latent Mahalanobis": latent(batch, labels),
            "LPIPS to the mean slice": torch.cat(
                [lpips(b, average.expand_as(b)) for b in batch.split(BATCH)]
            ),
        }

    real = scores(x)
    calibration = [checkpoint.calibration[name] for name in f.classes]
    told = torch.stack([conformal_p_value(real["cfgen"], c) for c in calibration], 1)
    told = told.gather(1, labels[:, None])[:, 0]
    groups: dict[str, Tensor] = {"all": torch.ones_like(labels, dtype=torch.bool)}
    groups |= {name: labels == k for k, name in enumerate(f.classes)}
    uniform = [
        {"real slices": name}
        | uniformity(told[g], [w for w, yes in zip(patients, g.tolist(), strict=True) if yes])
        for name, g in groups.items()
    ]
    attacked = adversarial(checkpoint, x)
    spoilt = {
        "pixel-space adversarial, 0.9": attacked,
        "adversarial, ten times as long": x + 10 * (attacked - x),
        "decoded random latents": drawn(checkpoint, x, train),
        "reconstructions": torch.cat([pair.decode(pair.encode(b)) for b in x.split(BATCH)]),
        "blurred, 1 px": gaussian_blur2d(x, (7, 7), (1.0, 1.0)),
        "blurred, 2 px": gaussian_blur2d(x, (13, 13), (2.0, 2.0)),
        "noise of 0.02": x + 0.02 * noise(x),
        "noise of 0.05": x + 0.05 * noise(x),
        "patches swapped": swapped(x),
        "mirrored half": mirrored(x),
    }
    rows_of_power = []
    for name, images_of in spoilt.items():
        bad = scores(on_grid(images_of))
        truth = np.repeat([0, 1], len(x))
        row: dict[str, Any] = {"against": name}
        for kind, values in bad.items():
            both = torch.cat([real[kind], values]).double().nan_to_num()
            row[kind] = round(float(roc_auc_score(truth, both.numpy())), 4)
        p_bad = torch.stack([conformal_p_value(bad["cfgen"], c) for c in calibration], 1)
        row["share with p < 0.05"] = round(
            float((p_bad.gather(1, labels[:, None]) < 0.05).float().mean()), 4
        )
        rows_of_power.append(row)
        print(row, flush=True)
    record = about("scikit-learn", "scipy") | {
        "checkpoint": checkpoint.hashes,
        "split": args.split,
        "slices": len(x),
        "uniformity": {"rows": uniform},
        "separating power (AUROC)": {"rows": rows_of_power},
        "sketch against LPIPS": {
            "rows": [sketch_error(lpips, x[:: max(1, len(x) // 24)], reference)]
        },
    }
    keep(args.out, record)
    for part in ("uniformity", "separating power (AUROC)", "sketch against LPIPS"):
        print(f"{table(record[part]['rows'])}\n")


if __name__ == "__main__":
    main()
